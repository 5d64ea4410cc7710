//! Requests through gateways when the link, the asker or the holder fails or is slow.

use crate::hops::{fetch_by, put_by};
use crate::support::caller::End;
use crate::support::liar::Lie;
use crate::support::{Setup, World, gateway_v4, joined, payload, route};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::RELAY_WINDOW_BYTES;
use stoq::nic::simulated::LinkConfig;
use stoq::queue::Credit;
use stoq::quic::transport::QuicConfig;
use stoq::record::ErrorCode;
use stoq::token::{Ranges, Token};

/// A link with some of every fault.
fn rough(seed: u64) -> LinkConfig {
    LinkConfig {
        seed,
        loss: 0.01,
        duplication: 0.02,
        reordering: 0.05,
        reordering_delay: Duration::from_millis(3),
        corruption: 0.005,
        delay: Duration::from_millis(1),
        ..LinkConfig::default()
    }
}

/// A link on which a megabyte takes a tenth of a second.
pub(crate) fn slow() -> LinkConfig {
    let delay = Duration::from_millis(1);
    LinkConfig { bandwidth_bits_per_s: Some(100_000_000), delay, ..LinkConfig::default() }
}

#[test]
fn a_line_of_four_carries_payloads_over_a_rough_link() {
    for seed in 0..2 {
        let mut world = World::new(Setup { link: rough(seed), ..Setup::line(4) });
        let peer = world.connect(0, gateway_v4());
        let bytes = payload(2_500_000 + seed as usize);
        let token = put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
        let request = fetch_by(&mut world, &peer, route(&[0, 1, 2, 3]).hop(), token);
        world.finish(&peer, request);
        let request = world.caller(&peer).request(request);
        assert_eq!(request.end(), End::Complete);
        assert!(joined(&request.pieces) == bytes);
        let stats = world.link.stats();
        assert!(stats.lost > 0 && stats.duplicated > 0 && stats.reordered > 0 && stats.corrupted > 0);
        world.assert_free();
    }
}

#[test]
fn a_ring_carries_payloads_over_a_rough_link_from_both_sides_at_once() {
    let mut world = World::new(Setup { link: rough(7), ..Setup::ring(4) });
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(1_000_000);
    let token = put_by(&mut world, &peer, &[0, 1, 2], &bytes);
    let requests = [[0, 1, 2], [0, 3, 2]].map(|way| fetch_by(&mut world, &peer, route(&way).hop(), token));
    for request in requests {
        world.finish(&peer, request);
        assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
        assert!(joined(&world.caller(&peer).request(request).pieces) == bytes);
    }
    world.assert_free();
}

#[test]
fn an_asker_that_gives_up_frees_every_gateway() {
    let mut world = World::new(Setup { link: slow(), ..Setup::line(4) });
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(8_000_000);
    let token = put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
    let request = fetch_by(&mut world, &peer, route(&[0, 1, 2, 3]).hop(), token);
    world.run(Duration::from_secs(20), "some of it", |world| {
        world.caller(&peer).request(request).bytes() > 500_000
    });
    world.caller(&peer).cancel(request);
    let put = world.caller(&peer).put_by(&peer, route(&[0, 1, 2, 3]).hop(), &payload(8_000_001), 0);
    world.run(Duration::from_secs(20), "a put is taken", |world| {
        world.caller(&peer).request(put).accepted.is_some()
    });
    world.caller(&peer).cancel(put);
    world.pass(Duration::from_secs(1));
    assert!(world.caller(&peer).request(request).bytes() < bytes.len());
    world.echo(&peer, b"still here");
    world.assert_free();
}

#[test]
fn an_asker_that_vanishes_frees_every_gateway() {
    let mut world = World::new(Setup { link: slow(), clients: 2, ..Setup::line(4) });
    let (stays, goes) = (world.connect(0, gateway_v4()), world.connect(1, gateway_v4()));
    let token = put_by(&mut world, &stays, &[0, 1, 2, 3], &payload(8_000_000));
    let request = fetch_by(&mut world, &goes, route(&[0, 1, 2, 3]).hop(), token);
    world.run(Duration::from_secs(20), "some of it", |world| {
        world.caller(&goes).request(request).bytes() > 500_000
    });
    world.clients[1].dead = true;
    world.pass(Duration::from_secs(40));
    world.assert_free();
}

#[test]
fn a_gateway_that_dies_while_it_answers_is_upstream_failed_for_the_asker() {
    for dies in [1, 2, 3] {
        let mut world = World::new(Setup { link: slow(), ..Setup::line(4) });
        let peer = world.connect(0, gateway_v4());
        let bytes = payload(6_000_000);
        let token = put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
        let request = fetch_by(&mut world, &peer, route(&[0, 1, 2, 3]).hop(), token);
        world.run(Duration::from_secs(20), "some of it", |world| {
            world.caller(&peer).request(request).bytes() > 500_000
        });
        world.gateway(dies).dead = true;
        world.finish(&peer, request);
        let request = world.caller(&peer).request(request);
        assert_eq!(request.end(), End::Failed(ErrorCode::UpstreamFailed), "gateway {dies}");
        let got = joined(&request.pieces);
        assert!(got.len() < bytes.len() && got == bytes[..got.len()]);
        world.echo(&peer, b"still here");
        world.assert_free();
    }
}

/// Windows that are small enough to show which node holds bytes.
fn narrow() -> QuicConfig {
    QuicConfig {
        stream_receive_window_bytes: 256 << 10,
        receive_window_bytes: 1 << 20,
        send_window_bytes: 256 << 10,
        ..QuicConfig::default()
    }
}

#[test]
fn a_slow_asker_stops_the_sender_at_the_other_end() {
    let setup = Setup { gateway_quic: narrow(), client_quic: narrow(), ..Setup::line(3) };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(16_000_000);
    let token = put_by(&mut world, &peer, &[0, 1, 2], &bytes);
    let before = world.counts(Counter::TxBytes);
    let pace = Credit::default();
    world.caller(&peer).pace = Some(pace.clone());
    let request = fetch_by(&mut world, &peer, route(&[0, 1, 2]).hop(), token);
    world.pass(Duration::from_secs(4));
    let stopped = world.counts(Counter::TxBytes);
    world.pass(Duration::from_secs(5));
    let later = world.counts(Counter::TxBytes);
    // Bytes that can be on the way beside those that the asker took: for each of the two gateways between, its window, the bytes that QUIC
    // holds for sending, and those that QUIC has received unread; and the same for the asker. A tenth is headers.
    let taken = world.caller(&peer).request(request).bytes() as u64;
    let sent = (later[2] - before[2]) * 10 / 11;
    let bound = 2 * (RELAY_WINDOW_BYTES as u64 + (512 << 10) + (512 << 10)) + (512 << 10);
    assert!(taken > 8_000_000 && taken < 9_000_000, "{taken} bytes were taken");
    assert!(sent < taken + bound, "of {sent} bytes {taken} were taken: more than {bound} are held");
    assert!(later[2] - stopped[2] < 50_000, "the holder still sends");
    pace.give_back(1 << 40);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
    assert!(joined(&world.caller(&peer).request(request).pieces) == bytes);
    world.assert_free();
}

#[test]
fn a_slow_receiver_stops_a_put_at_its_source() {
    let setup = Setup { gateway_quic: narrow(), client_quic: narrow(), ..Setup::line(2) };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(12_000_000);
    let request = world.caller(&peer).put_by(&peer, route(&[0, 1]).hop(), &bytes, 0);
    world.run(Duration::from_secs(20), "it is taken", |world| {
        world.caller(&peer).request(request).accepted.is_some()
    });
    // The way on is cut; its connection lives for a while.
    world.gateway(1).dead = true;
    let before = world.counts(Counter::RxBytes)[0];
    world.pass(Duration::from_secs(10));
    let taken = world.counts(Counter::RxBytes)[0] - before;
    let bound = RELAY_WINDOW_BYTES as u64 + (1 << 20) + (512 << 10);
    assert!(taken < bound, "{taken} bytes were taken of what cannot go on, more than {bound}");
    world.gateway(1).dead = false;
    world.finish(&peer, request);
    let token = Token::of(&bytes);
    let done = End::Done { bytes: bytes.len() as u64, token: token.into() };
    assert_eq!(world.caller(&peer).request(request).end(), done);
    world.assert_free();
}

#[test]
fn lies_of_a_far_holder_are_found_by_the_asker_and_no_peer_gateway_is_charged() {
    let bytes = payload(400_000);
    let cases = [
        (Lie::FlippedBit, ErrorCode::BadProof),
        (Lie::Longer, ErrorCode::BadProof),
        (Lie::Empty, ErrorCode::BadProof),
        (Lie::Endless, ErrorCode::None),
        (Lie::CutShort, ErrorCode::Malformed),
    ];
    for (lie, code) in cases {
        let liars = vec![(2, lie, Bytes::from(bytes.clone()))];
        let mut world = World::new(Setup { liars, ..Setup::line(3) });
        let peer = world.connect(0, gateway_v4());
        // More often than a connection may err.
        for _ in 0..5 {
            let request = fetch_by(&mut world, &peer, route(&[0, 1, 2]).hop(), Token::of(&bytes));
            world.finish(&peer, request);
            let request = world.caller(&peer).request(request);
            let got = joined(&request.pieces);
            assert!(got == bytes[..got.len()], "{lie:?}: bytes that are not the payload's");
            match lie {
                // The asker has every byte; the rest is refused.
                Lie::Endless => assert_eq!((request.end(), got.len()), (End::Complete, bytes.len())),
                _ => assert_eq!(request.end(), End::Failed(code), "{lie:?}"),
            }
        }
        world.echo(&peer, b"still here");
        world.assert_free();
    }
}

#[test]
fn requests_that_wait_for_a_stream_keep_their_later_commands() {
    let mut world = World::new(Setup { clients: 2, ..Setup::line(2) });
    let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v4())];
    let token = put_by(&mut world, &peers[0], &[0, 1], &payload(16_384 * 400));
    // Together more than the gateways allow each other at once: each is answered, or refused as busy.
    let mut requests = Vec::new();
    for group in 0..400 {
        let peer = &peers[group % 2];
        let mut ranges = Ranges::all();
        ranges.push_run(group as u64, 1).unwrap();
        let hop = Some(route(&[0, 1]).hop());
        let request = world.caller(peer).fetch_by(peer, hop, token.into(), None, ranges);
        requests.push((peer.clone(), request));
    }
    let mut complete = 0;
    for (peer, request) in requests {
        world.finish(&peer, request);
        match world.caller(&peer).request(request).end() {
            End::Complete => complete += 1,
            other => assert_eq!(other, End::Failed(ErrorCode::Busy)),
        }
    }
    assert!(complete >= 200, "{complete} were answered");
    world.assert_free();
}

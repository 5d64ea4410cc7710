//! Verify threads that end their checks in any order, late, or never.

use crate::support::caller::{End, Peer};
use crate::support::{DISCARD, SEED, Setup, World, encoding, gateway_v4, joined, payload};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{GROUP_BYTES, GROUP_CHECK_LATE_MS, GROUP_CHECKS_LEN_MAX};
use stoq::quic::transport::QuicConfig;
use stoq::record::ErrorCode;
use stoq::token::{Ranges, Token};

/// A world in which both sides have a verify thread that takes up to this long for a piece.
fn verified(seed: u64, delay_max: Duration) -> (World, Peer) {
    let (mut world, peer) = World::connected();
    world.gateway.verify(seed, delay_max);
    world.clients[0].verify(seed + 1, delay_max);
    (world, peer)
}

fn put_and_get(world: &mut World, peer: &Peer, bytes: &[u8]) {
    let token = world.put(peer, bytes);
    assert!(joined(&world.get(peer, token, Ranges::all())) == bytes, "{} bytes", bytes.len());
}

/// A counter of the gateway, and of the client.
fn counts(world: &World, counter: Counter) -> [u64; 2] {
    [world.gateway.count(counter), world.clients[0].count(counter)]
}

#[test]
fn payloads_are_whole_and_in_order_however_their_checks_end() {
    let early = Duration::from_millis(GROUP_CHECK_LATE_MS - 1);
    for (seed, delay_max) in [(1, Duration::ZERO), (2, Duration::from_micros(300)), (3, early)] {
        let (mut world, peer) = verified(seed, delay_max);
        let group = GROUP_BYTES;
        for len in [0, 1, group - 1, group, group + 1, 2 * group, 3 * group + 7, (4 << 20) + 5] {
            put_and_get(&mut world, &peer, &payload(len));
        }
        let [gateway, client] = counts(&world, Counter::GroupChecksBytes);
        assert!(gateway > 1 << 20 && client > 1 << 20, "{gateway} and {client} bytes");
        assert_eq!(counts(&world, Counter::VerifiedBytes)[1], counts(&world, Counter::VerifiedBytes)[0]);
        assert_eq!(counts(&world, Counter::GroupChecksLate), [0, 0]);
        assert_eq!(counts(&world, Counter::BadProofs), [0, 0]);
        assert!(world.gateway.verifier.as_ref().unwrap().held_max <= GROUP_CHECKS_LEN_MAX);
        world.assert_free();
    }
}

#[test]
fn a_bad_link_and_slow_checks_cost_time_and_no_byte() {
    let (mut world, peer) = verified(7, Duration::from_millis(3));
    world.link.reconfigure(|link| {
        link.loss = 0.02;
        link.reordering = 0.05;
        link.reordering_delay = Duration::from_millis(4);
    });
    put_and_get(&mut world, &peer, &payload(3_000_000));
    assert!(counts(&world, Counter::GroupChecksBytes).iter().all(|bytes| *bytes > 0));
    world.assert_free();
}

#[test]
fn workers_check_in_the_place_of_a_thread_that_is_late() {
    // Half of the pieces take longer than a worker waits.
    let (mut world, peer) = verified(5, Duration::from_millis(2 * GROUP_CHECK_LATE_MS));
    put_and_get(&mut world, &peer, &payload(6_000_000));
    for late in counts(&world, Counter::GroupChecksLate) {
        assert!(late > 0, "{}", world.report());
    }
    // The thread is used again once it has caught up.
    let before = counts(&world, Counter::GroupChecksBytes);
    world.gateway.verify(5, Duration::ZERO);
    world.put(&peer, &payload(1_000_000));
    assert!(counts(&world, Counter::GroupChecksBytes)[0] > before[0]);
    world.assert_free();
}

#[test]
fn workers_check_all_that_a_thread_had_when_it_ended() {
    let (mut world, peer) = verified(9, Duration::from_millis(GROUP_CHECK_LATE_MS - 1));
    let data = payload(4 << 20);
    let running = world.caller(&peer).put(&peer, SEED, &data);
    world.run(Duration::from_secs(5), "pieces are at the thread", |world| {
        world.gateway.verifier.as_ref().unwrap().held.len() > 2
    });
    world.gateway.verifier.as_mut().unwrap().die();
    world.finish(&peer, running);
    let whole = End::Done { bytes: data.len() as u64, token: Token::of(&data).into() };
    assert_eq!(world.caller(&peer).request(running).end(), whole);
    assert!(world.gateway.count(Counter::GroupChecksLate) > 2);
    let full = world.gateway.count(Counter::GroupChecksFull);
    world.put(&peer, &payload(500_000));
    assert!(world.gateway.count(Counter::GroupChecksFull) > full, "it gets nothing any more");
    world.assert_free();
}

/// An encoding with a bit inverted in this group.
fn wrong(data: &[u8], group: usize) -> Vec<Bytes> {
    let mut encoded = encoding(data, &Ranges::all());
    let mut left = group * GROUP_BYTES + 9000;
    // Hash pairs are shorter than a group.
    for chunk in encoded.iter_mut().filter(|chunk| chunk.len() >= GROUP_BYTES) {
        if left < chunk.len() {
            let mut bytes = chunk.to_vec();
            bytes[left] ^= 4;
            *chunk = bytes.into();
            return encoded;
        }
        left -= chunk.len();
    }
    panic!("no such group")
}

#[test]
fn a_wrong_group_ends_its_put_as_without_a_verify_thread() {
    let data = payload(8 * GROUP_BYTES);
    for group in [0, 3, 7] {
        let late = Duration::from_millis(5 * GROUP_CHECK_LATE_MS);
        let ends =
            [None, Some(Duration::ZERO), Some(Duration::from_millis(5)), Some(late), Some(Duration::MAX)];
        let ends = ends.map(|delay_max| {
            let (mut world, peer) = World::connected();
            delay_max.into_iter().for_each(|delay_max| world.gateway.verify(group as u64, delay_max));
            if delay_max == Some(Duration::MAX) {
                // The worker checks all itself, as where no thread has room.
                world.gateway.verifier.as_mut().unwrap().die();
            }
            let encoded = wrong(&data, group);
            let request =
                world.caller(&peer).put_as(&peer, SEED, Token::of(&data), data.len() as u64, encoded);
            world.finish(&peer, request);
            let end = world.caller(&peer).request(request).end();
            let failure = world.caller(&peer).request(request).failure.clone().unwrap();
            let counted = [Counter::BadProofs, Counter::ProtocolErrors, Counter::RequestsPutRefused];
            let counted = counted.map(|counter| world.gateway.count(counter));
            // The connection is there, and the payload may be put.
            world.put(&peer, &data);
            world.assert_free();
            (end, failure, counted)
        });
        assert_eq!(ends[0].0, End::Failed(ErrorCode::BadProof));
        assert_eq!(ends[0].2, [1, 1, 1]);
        assert!(ends.iter().all(|end| *end == ends[0]), "group {group}: {ends:#?}");
    }
}

#[test]
fn a_wrong_group_of_an_answer_ends_its_get_and_gives_its_credit_back() {
    use crate::support::liar::Lie;
    use stoq::queue::Credit;
    let data = payload(3 << 20);
    let token = Token::of(&data);
    let setup = Setup { liars: vec![(0, Lie::FlippedBit, data.clone().into())], ..Setup::default() };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    world.clients[0].verify(3, Duration::from_millis(8));
    let pace = Credit::default();
    world.caller(&peer).pace = Some(pace.clone());
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::BadProof));
    assert_eq!(world.clients[0].count(Counter::BadProofs), 1);
    world.pass(Duration::from_millis(100));
    // What the application has is all that is outstanding.
    pace.give_back(world.caller(&peer).request(request).bytes());
    assert_eq!(format!("{pace:?}"), format!("{:?}", Credit::default()));
}

#[test]
fn checks_of_connections_and_requests_that_have_ended_change_nothing() {
    let (mut world, peer) = verified(11, Duration::from_millis(GROUP_CHECK_LATE_MS - 1));
    let data = payload(4 << 20);
    let token = world.put(&peer, &data);
    for ends in [false, true] {
        let peer = world.connect(0, gateway_v4());
        let gets = world.caller(&peer).fetch(&peer, token, Ranges::all());
        let puts = world.caller(&peer).put(&peer, DISCARD, &payload((4 << 20) + 1));
        world.run(Duration::from_secs(5), "pieces are at both threads", |world| {
            let held = |host: &crate::support::ApplicationHost| host.verifier.as_ref().unwrap().held.len();
            held(&world.gateway) > 2 && held(&world.clients[0]) > 2
        });
        if ends {
            world.caller(&peer).disconnect(&peer);
        } else {
            world.caller(&peer).cancel(gets);
            world.caller(&peer).cancel(puts);
        }
        world.pass(Duration::from_millis(1));
        let bytes = world.caller(&peer).request(gets).bytes();
        world.pass(Duration::from_millis(100));
        assert_eq!(world.caller(&peer).request(gets).bytes(), bytes, "nothing is delivered any more");
        assert_eq!(counts(&world, Counter::BadProofs), [0, 0]);
    }
    put_and_get(&mut world, &peer, &payload(2_000_001));
    world.assert_free();
}

#[test]
fn pieces_at_a_verify_thread_are_charged_to_the_windows_of_their_connection() {
    let window_bytes = 256 * 1024_u32;
    let quic = QuicConfig {
        stream_receive_window_bytes: window_bytes,
        receive_window_bytes: window_bytes,
        receive_window_max_bytes: window_bytes,
        ..QuicConfig::default()
    };
    let mut world = World::new(Setup { gateway_quic: quic, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    // No check ends before the worker does it.
    world.gateway.verify(1, Duration::from_secs(3600));
    let request = world.caller(&peer).put(&peer, DISCARD, &payload(2 << 20));
    world.run(Duration::from_secs(1), "pieces are at the thread", |world| {
        !world.gateway.verifier.as_ref().unwrap().held.is_empty()
    });
    let begun = world.gateway.count(Counter::RxBytes);
    world.pass(Duration::from_millis(GROUP_CHECK_LATE_MS - 1));
    let come = world.gateway.count(Counter::RxBytes) - begun;
    assert!(come < 2 * u64::from(window_bytes), "{come} bytes arrived while none was checked");
    world.finish(&peer, request);
    assert_eq!(world.gateway.count(Counter::BadProofs), 0);
}

//! Equal FETCHes, and payloads that gateways on the way keep.

use crate::hops::{fetch_by, put_by};
use crate::passing::slow;
use crate::support::caller::End;
use crate::support::caller::Peer;
use crate::support::liar::Lie;
use crate::support::{Setup, World, gateway_v4, joined, payload, route};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::queue::{Credit, RequestId};
use stoq::quic::transport::QuicConfig;
use stoq::record::{ErrorCode, Hop};
use stoq::token::{Ranges, Token};

/// Clients of the first of two gateways, and a payload at the second.
fn crowd(clients: usize, bytes: &[u8], client_quic: QuicConfig) -> (World, Vec<Peer>, Token) {
    crowd_of(Setup { link: slow(), clients, client_quic, ..Setup::line(2) }, bytes)
}

fn crowd_of(setup: Setup, bytes: &[u8]) -> (World, Vec<Peer>, Token) {
    let clients = setup.clients;
    let mut world = World::new(setup);
    let peers: Vec<_> = (0..clients).map(|client| world.connect(client, gateway_v4())).collect();
    let token = put_by(&mut world, &peers[0], &[0, 1], bytes);
    (world, peers, token)
}

fn ask_all(world: &mut World, peers: &[Peer], token: Token) -> Vec<RequestId> {
    peers.iter().map(|peer| fetch_by(world, peer, route(&[0, 1]).hop(), token)).collect()
}

#[track_caller]
fn assert_complete(world: &mut World, peer: &Peer, request: RequestId, bytes: &[u8]) {
    world.finish(peer, request);
    let request = world.caller(peer).request(request);
    assert_eq!(request.end(), End::Complete);
    assert!(joined(&request.pieces) == bytes);
}

#[test]
fn an_equal_fetch_of_several_clients_crosses_once() {
    let bytes = payload(300_000);
    let (mut world, peers, token) = crowd(5, &bytes, QuicConfig::default());
    let before = world.gateway(1).count(Counter::TxBytes);
    let requests = ask_all(&mut world, &peers, token);
    for (peer, request) in peers.iter().zip(requests) {
        assert_complete(&mut world, peer, request, &bytes);
    }
    assert_eq!(world.gateway.count(Counter::HopsMerged), 4);
    let crossed = world.gateway(1).count(Counter::TxBytes) - before;
    assert!(crossed < 400_000, "{crossed} bytes crossed for one answer of 300,000");
    world.assert_free();
}

#[test]
fn fetches_that_differ_are_not_merged() {
    let bytes = payload(100_000);
    let (mut world, peers, token) = crowd(4, &bytes, QuicConfig::default());
    let mut some = Ranges::all();
    some.push_run(0, 2).unwrap();
    let cached = route(&[0, 1]).with_cache(true);
    let requests = [
        fetch_by(&mut world, &peers[0], route(&[0, 1]).hop(), token),
        fetch_by(&mut world, &peers[1], cached.hop(), token),
        world.caller(&peers[2]).fetch_by(&peers[2], Some(route(&[0, 1]).hop()), token.into(), None, some),
        fetch_by(&mut world, &peers[3], route(&[0, 1]).hop(), Token::of(b"other")),
    ];
    for (peer, request) in peers.iter().zip(requests) {
        world.finish(peer, request);
    }
    assert_eq!(world.gateway.count(Counter::HopsMerged), 0);
    assert_eq!(world.caller(&peers[1]).request(requests[1]).end(), End::Complete);
    assert_eq!(world.caller(&peers[2]).request(requests[2]).bytes(), 32_768);
    assert_eq!(world.caller(&peers[3]).request(requests[3]).end(), End::Failed(ErrorCode::NotFound));
    world.assert_free();
}

#[test]
fn an_error_reaches_every_asker_that_waits_for_the_answer() {
    let (mut world, peers, _) = crowd(3, b"abc", QuicConfig::default());
    let requests = ask_all(&mut world, &peers, Token::of(b"nothing of the kind"));
    for (peer, request) in peers.iter().zip(requests) {
        world.finish(peer, request);
        assert_eq!(world.caller(peer).request(request).end(), End::Failed(ErrorCode::NotFound));
    }
    assert_eq!(world.gateway.count(Counter::HopsMerged), 2);
    world.assert_free();
}

#[test]
fn each_asker_that_shares_an_answer_has_its_own_budget() {
    let bytes = payload(300_000);
    let (mut world, peers, token) = crowd(3, &bytes, QuicConfig::default());
    let small = Hop { budget_bytes: 100_000, ..route(&[0, 1]).hop() };
    let poor = fetch_by(&mut world, &peers[1], small, token);
    let rich = [0, 2].map(|at: usize| (at, fetch_by(&mut world, &peers[at], route(&[0, 1]).hop(), token)));
    world.finish(&peers[1], poor);
    assert_eq!(world.caller(&peers[1]).request(poor).end(), End::Failed(ErrorCode::Budget));
    for (at, request) in rich {
        assert_complete(&mut world, &peers[at], request, &bytes);
    }
    world.assert_free();
}

/// Windows of a client that soon receives no more.
fn narrow() -> QuicConfig {
    QuicConfig {
        stream_receive_window_bytes: 256 << 10,
        receive_window_bytes: 256 << 10,
        send_window_bytes: 256 << 10,
        ..QuicConfig::default()
    }
}

#[test]
fn askers_that_the_first_one_holds_back_are_refused_as_busy_and_may_ask_again() {
    let bytes = payload(12_000_000);
    // The bytes that wait for the first asker take a part of the window between the gateways, not all of it.
    let gateway_quic = QuicConfig { receive_window_bytes: 4 << 20, ..narrow() };
    let setup = Setup { gateway_quic, client_quic: narrow(), link: slow(), clients: 2, ..Setup::line(2) };
    let (mut world, peers, token) = crowd_of(setup, &bytes);
    // The first asker reads 8 MiB and no more: the rest waits in the gateway.
    let pace = Credit::default();
    world.caller(&peers[0]).pace = Some(pace.clone());
    let before = world.gateway.count(Counter::HopsForwarded);
    let first = fetch_by(&mut world, &peers[0], route(&[0, 1]).hop(), token);
    // The order of two packets of one moment is not defined.
    world.run(Duration::from_secs(5), "the first has asked", |world| {
        world.gateway.count(Counter::HopsForwarded) > before
    });
    let second = fetch_by(&mut world, &peers[1], route(&[0, 1]).hop(), token);
    world.finish(&peers[1], second);
    assert_eq!(world.gateway.count(Counter::HopsMerged), 1);
    assert_eq!(world.caller(&peers[1]).request(second).end(), End::Failed(ErrorCode::Busy));
    let again = fetch_by(&mut world, &peers[1], route(&[0, 1]).hop(), token);
    assert_complete(&mut world, &peers[1], again, &bytes);
    pace.give_back(1 << 40);
    assert_complete(&mut world, &peers[0], first, &bytes);
    world.assert_free();
}

#[test]
fn when_the_first_asker_leaves_the_others_go_on() {
    let bytes = payload(6_000_000);
    // Before the answer, in its middle, and by the loss of its connection.
    for (begun, vanishes) in [(false, false), (true, false), (true, true)] {
        let (mut world, peers, token) = crowd(3, &bytes, QuicConfig::default());
        let requests = ask_all(&mut world, &peers, token);
        if begun {
            world.run(Duration::from_secs(20), "some of it", |world| {
                world.caller(&peers[0]).request(requests[0]).bytes() > 200_000
            });
        } else {
            world.run(Duration::from_secs(1), "they are merged", |world| {
                world.gateway.count(Counter::HopsMerged) == 2
            });
        }
        if vanishes {
            world.caller(&peers[0]).disconnect(&peers[0]);
        } else {
            world.caller(&peers[0]).cancel(requests[0]);
        }
        for at in [1, 2] {
            assert_complete(&mut world, &peers[at], requests[at], &bytes);
        }
        world.assert_free();
    }
}

#[test]
fn when_the_last_asker_leaves_the_request_is_canceled() {
    let bytes = payload(6_000_000);
    let setup = Setup { gateway_quic: narrow(), link: slow(), clients: 2, ..Setup::line(2) };
    let (mut world, peers, token) = crowd_of(setup, &bytes);
    let before = world.gateway(1).count(Counter::TxBytes);
    let requests = ask_all(&mut world, &peers, token);
    world.run(Duration::from_secs(20), "some of it", |world| {
        world.caller(&peers[0]).request(requests[0]).bytes() > 200_000
    });
    for (peer, request) in peers.iter().zip(requests) {
        world.caller(peer).cancel(request);
    }
    world.pass(Duration::from_secs(1));
    assert!(world.gateway(1).count(Counter::TxBytes) - before < 5_000_000);
    world.assert_free();
}

#[test]
fn the_nearest_holder_answers_if_the_route_allows_it() {
    let mut world = World::new(Setup { cache: true, ..Setup::line(3) });
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(700_000);
    let token = put_by(&mut world, &peer, &[0, 1, 2], &bytes);
    let cached = || route(&[0, 1, 2]).with_cache(true).hop();
    let request = fetch_by(&mut world, &peer, cached(), token);
    assert_complete(&mut world, &peer, request, &bytes);
    for gateway in [0, 1] {
        world.wait("it is kept on the way", |world| world.stores[gateway].holding(&token.into()).is_some());
    }
    let before = world.counts(Counter::HopsForwarded);
    let request = fetch_by(&mut world, &peer, cached(), token);
    assert_complete(&mut world, &peer, request, &bytes);
    assert_eq!(world.counts(Counter::HopsForwarded)[1], before[1], "the first gateway answered");
    // The same holds for a range of the payload.
    let mut some = Ranges::all();
    some.push_run(3, 2).unwrap();
    let request = world.caller(&peer).fetch_by(&peer, Some(cached()), token.into(), None, some);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).bytes(), 32_768);
    assert_eq!(world.counts(Counter::HopsForwarded)[1], before[1]);
    // Without the flag the request goes to the end of its route.
    let request = fetch_by(&mut world, &peer, route(&[0, 1, 2]).hop(), token);
    assert_complete(&mut world, &peer, request, &bytes);
    assert_eq!(world.counts(Counter::HopsForwarded)[1], before[1] + 1);
    world.assert_free();
}

#[test]
fn a_gateway_keeps_nothing_without_the_flag_nor_a_part_of_a_payload() {
    let mut world = World::new(Setup { cache: true, ..Setup::line(2) });
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(100_000);
    let token = put_by(&mut world, &peer, &[0, 1], &bytes);
    let request = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    assert_complete(&mut world, &peer, request, &bytes);
    let mut some = Ranges::all();
    some.push_run(0, 2).unwrap();
    let hop = route(&[0, 1]).with_cache(true).hop();
    let request = world.caller(&peer).fetch_by(&peer, Some(hop), token.into(), None, some);
    world.finish(&peer, request);
    // A payload that is kept after them shows that the cache has handled them.
    let other = put_by(&mut world, &peer, &[0, 1], b"another");
    let request = fetch_by(&mut world, &peer, route(&[0, 1]).with_cache(true).hop(), other);
    assert_complete(&mut world, &peer, request, b"another");
    world.wait("it is kept on the way", |world| world.stores[0].holding(&other.into()).is_some());
    assert!(world.stores[0].get(&token).unwrap().is_none());
    world.assert_free();
}

#[test]
fn a_false_answer_is_not_kept() {
    let bytes = payload(200_000);
    for lie in [Lie::FlippedBit, Lie::Longer, Lie::Empty, Lie::CutShort, Lie::Endless] {
        let liars = vec![(2, lie, Bytes::from(bytes.clone()))];
        let mut world = World::new(Setup { cache: true, liars, ..Setup::line(3) });
        let peer = world.connect(0, gateway_v4());
        let token = Token::of(&bytes);
        let request = fetch_by(&mut world, &peer, route(&[0, 1, 2]).with_cache(true).hop(), token);
        world.finish(&peer, request);
        let other = put_by(&mut world, &peer, &[0, 1], b"another");
        let request = fetch_by(&mut world, &peer, route(&[0, 1]).with_cache(true).hop(), other);
        assert_complete(&mut world, &peer, request, b"another");
        world.wait("it is kept on the way", |world| world.stores[0].holding(&other.into()).is_some());
        assert!(world.stores[0].get(&token).unwrap().is_none(), "{lie:?}");
        assert!(world.stores[1].get(&token).unwrap().is_none(), "{lie:?}");
        world.assert_free();
    }
}

#[test]
fn an_asker_that_reads_nothing_is_refused_as_busy_and_holds_up_no_other() {
    let bytes = payload(16_000_000);
    let setup = Setup {
        link: slow(),
        client_quic: narrow(),
        gateway_quic: QuicConfig { send_window_bytes: 256 << 10, ..QuicConfig::default() },
        ..Setup::line(2)
    };
    let (mut world, peers, token) = crowd_of(setup, &bytes);
    let pace = Credit::default();
    world.caller(&peers[0]).pace = Some(pace.clone());
    let stalled = fetch_by(&mut world, &peers[0], route(&[0, 1]).hop(), token);
    world.pass(Duration::from_secs(20));
    // It learns of the refusal when it reads again.
    pace.give_back(1 << 40);
    world.finish(&peers[0], stalled);
    assert_eq!(world.caller(&peers[0]).request(stalled).end(), End::Failed(ErrorCode::Busy));
    let again = fetch_by(&mut world, &peers[0], route(&[0, 1]).hop(), token);
    assert_complete(&mut world, &peers[0], again, &bytes);
    world.assert_free();
}

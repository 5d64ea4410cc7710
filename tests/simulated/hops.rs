//! Requests that go through other gateways.

use crate::support::caller::{End, Peer};
use crate::support::{Setup, World, gateway_node, gateway_v4, identities, joined, payload, route};
use quinn_proto::Dir;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::hop::Transit;
use stoq::queue::RequestId;
use stoq::record::{ErrorCode, Fetch, Hop, Record};
use stoq::token::{Ranges, Token};

/// Puts a payload at the last gateway of a route.
#[track_caller]
pub(crate) fn put_by(world: &mut World, peer: &Peer, gateways: &[usize], bytes: &[u8]) -> Token {
    let request = world.caller(peer).put_by(peer, route(gateways).hop(), bytes, 0);
    world.finish(peer, request);
    let token = Token::of(bytes);
    let done = End::Done { bytes: bytes.len() as u64, token: token.into() };
    assert_eq!(world.caller(peer).request(request).end(), done);
    token
}

pub(crate) fn fetch_by(world: &mut World, peer: &Peer, hop: Hop, token: Token) -> RequestId {
    world.caller(peer).fetch_by(peer, Some(hop), token.into(), None, Ranges::all())
}

#[test]
fn a_payload_goes_to_the_end_of_a_line_of_four_and_back() {
    let mut world = World::new(Setup::line(4));
    let peer = world.connect(0, gateway_v4());
    for len in [0, 5, 16_384, 3_000_000] {
        let bytes = payload(len);
        let token = put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
        assert!(world.stores[3].get(&token).unwrap().is_some());
        assert!(world.stores[..3].iter().all(|store| store.get(&token).unwrap().is_none()));
        let request = fetch_by(&mut world, &peer, route(&[0, 1, 2, 3]).hop(), token);
        world.finish(&peer, request);
        let request = world.caller(&peer).request(request);
        assert_eq!(request.end(), End::Complete);
        assert!(joined(&request.pieces) == bytes);
    }
    assert_eq!(world.gateway.count(Counter::HopsForwarded), 8);
    world.assert_free();
}

#[test]
fn a_route_of_the_peer_alone_is_like_no_route() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0], b"here");
    assert!(world.store.get(&token).unwrap().is_some());
    assert_eq!(world.gateway.count(Counter::HopsForwarded), 0);
}

#[test]
fn a_route_that_breaks_a_rule_is_refused_by_name_and_the_connection_goes_on() {
    let mut world = World::new(Setup::line(3));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0, 1], b"abc");
    let good = || route(&[0, 1]).hop();
    let used = good();
    let first = fetch_by(&mut world, &peer, used.clone(), token);
    world.finish(&peer, first);
    let twice =
        |a: usize, b: usize| Hop { route: [a, b, a].map(gateway_node).into_iter().collect(), ..good() };
    let cases = [
        (Hop { cursor: 1, ..good() }, ErrorCode::NotMyHop),
        (twice(0, 1), ErrorCode::Loop),
        (Hop { hop_limit: 0, ..good() }, ErrorCode::HopLimit),
        (Hop { hop_limit: 1, ..good() }, ErrorCode::HopLimit),
        (Hop { budget_bytes: 0, ..good() }, ErrorCode::Budget),
        (used, ErrorCode::Loop),
        (route(&[0, 2]).hop(), ErrorCode::NoRoute),
        (route(&[0, 1, 2]).hop(), ErrorCode::NotFound),
    ];
    for (hop, code) in cases {
        let text = format!("{hop:?}");
        let request = fetch_by(&mut world, &peer, hop, token);
        world.finish(&peer, request);
        assert_eq!(world.caller(&peer).request(request).end(), End::Failed(code), "{text}");
    }
    world.echo(&peer, b"still here");
}

#[test]
fn a_spent_budget_ends_the_answer() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(1_000_000);
    let token = put_by(&mut world, &peer, &[0, 1], &bytes);
    let hop = Hop { budget_bytes: 500_000, ..route(&[0, 1]).hop() };
    let request = fetch_by(&mut world, &peer, hop, token);
    world.finish(&peer, request);
    let request = world.caller(&peer).request(request);
    assert_eq!(request.end(), End::Failed(ErrorCode::Budget));
    assert!(request.bytes() < 500_000);
    world.echo(&peer, b"still here");
}

#[test]
fn a_peer_gateway_that_is_away_is_upstream_failed_and_found_again_when_it_is_back() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0, 1], b"abc");
    world.others[0].dead = true;
    world.pass(Duration::from_secs(40));
    let peer = world.connect(0, gateway_v4());
    let request = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::UpstreamFailed));
    world.others[0].dead = false;
    world.pass(Duration::from_secs(40));
    let request = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
}

#[test]
fn a_ring_carries_both_ways() {
    let mut world = World::new(Setup::ring(4));
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(200_000);
    let token = put_by(&mut world, &peer, &[0, 1, 2], &bytes);
    for way in [[0, 1, 2], [0, 3, 2]] {
        let request = fetch_by(&mut world, &peer, route(&way).hop(), token);
        world.finish(&peer, request);
        let request = world.caller(&peer).request(request);
        assert_eq!(request.end(), End::Complete, "{way:?}");
        assert!(joined(&request.pieces) == bytes);
    }
    assert_eq!(world.counts(Counter::HopsForwarded), [3, 2, 0, 1]);
    world.assert_free();
}

#[test]
fn a_closed_way_around_a_ring_is_a_loop() {
    let mut world = World::new(Setup::ring(4));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0, 1], b"abc");
    let before = world.counts(Counter::HopsForwarded);
    let around = [0, 1, 2, 3, 0].map(gateway_node).into_iter().collect();
    let hop = Hop { route: around, ..route(&[0]).hop() };
    let request = fetch_by(&mut world, &peer, hop, token);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::Loop));
    assert_eq!(world.counts(Counter::HopsForwarded), before, "the first gateway refuses it");
    assert_eq!(world.gateway.count(Counter::HopsRefused), 1);
    world.assert_free();
}

#[test]
fn a_nonce_is_recognized_from_any_peer_and_after_any_outcome() {
    let mut world = World::new(Setup { clients: 2, ..Setup::line(2) });
    let (one, two) = (world.connect(0, gateway_v4()), world.connect(1, gateway_v4()));
    let token = put_by(&mut world, &one, &[0, 1], b"abc");
    let hop = route(&[0, 1]).hop();
    let refused = Hop { hop_limit: 0, ..hop.clone() };
    for (peer, hop, code) in [
        (&one, refused, ErrorCode::HopLimit),
        (&one, hop.clone(), ErrorCode::Loop),
        (&two, hop, ErrorCode::Loop),
    ] {
        let request = fetch_by(&mut world, peer, hop, token);
        world.finish(peer, request);
        assert_eq!(world.caller(peer).request(request).end(), End::Failed(code));
    }
    assert_eq!(world.gateway.count(Counter::HopsRefused), 3);
}

#[test]
fn a_gateway_forwards_for_the_peers_that_its_transit_allows() {
    let client = identities()[1].node_id();
    for (transit, allowed) in [
        (Transit::Nobody, false),
        (Transit::Gateways, false),
        (Transit::Listed([gateway_node(1)].into_iter().collect()), false),
        (Transit::Listed([client].into_iter().collect()), true),
        (Transit::Authenticated, true),
        (Transit::Anyone, true),
    ] {
        let text = format!("{transit:?}");
        let mut world = World::new(Setup { transit, ..Setup::line(2) });
        let peer = world.connect(0, gateway_v4());
        // A request that ends here needs no right of transit.
        put_by(&mut world, &peer, &[0], b"abc");
        let request = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), Token::of(b"abc"));
        world.finish(&peer, request);
        let code = if allowed { ErrorCode::NotFound } else { ErrorCode::NotAuthorized };
        assert_eq!(world.caller(&peer).request(request).end(), End::Failed(code), "{text}");
        world.assert_free();
    }
}

#[test]
fn a_budget_counts_the_request_and_is_each_gateways_own() {
    let mut world = World::new(Setup::line(3));
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(300_000);
    let hop = Hop { budget_bytes: 100_000, ..route(&[0, 1, 2]).hop() };
    let request = world.caller(&peer).put_by(&peer, hop, &bytes, 0);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::Budget));
    let token = put_by(&mut world, &peer, &[0, 1, 2], &bytes);
    // The OK record, four pairs of hashes on the way to each leaf at the most, and the bytes.
    let hop = Hop { budget_bytes: 310_000, ..route(&[0, 1, 2]).hop() };
    let request = fetch_by(&mut world, &peer, hop, token);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
    world.assert_free();
}

#[test]
fn a_payload_held_at_the_end_of_a_route_is_not_sent_again() {
    let mut world = World::new(Setup::line(4));
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(6_000_000);
    put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
    let before = world.counts(Counter::TxBytes);
    put_by(&mut world, &peer, &[0, 1, 2, 3], &bytes);
    let sent = world.counts(Counter::TxBytes);
    assert!(sent[0] - before[0] < 100_000, "{} bytes were sent on", sent[0] - before[0]);
    world.assert_free();
}

#[test]
fn a_request_that_its_asker_never_ends_holds_no_stream_between_gateways() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0, 1], b"abc");
    // More streams than the gateways allow each other at once.
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    for _ in 0..300 {
        let mut request = Vec::new();
        route(&[0, 1]).hop().emit_record(&mut request);
        let fetch =
            Fetch { token: token.into(), bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false };
        fetch.emit_record(&mut request);
        let id = world.raw_mut(raw).send(Dir::Bi, &request, false);
        world.run(Duration::from_secs(5), "an answer", |world| world.raw_mut(raw).finished.contains(&id));
        // STOP_SENDING says that the rest is of no use; a peer answers it with RESET_STREAM.
        assert_eq!(world.stop_code(raw, id), 0);
        world.raw_mut(raw).quic.send_stream(id).reset(0u32.into()).unwrap();
    }
    let request = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
    world.assert_free();
}

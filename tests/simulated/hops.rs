//! Requests that go through other gateways.

use crate::support::caller::{End, Peer};
use crate::support::{Setup, World, gateway_node, gateway_v4, joined, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::hop::Route;
use stoq::queue::RequestId;
use stoq::record::{ErrorCode, Hop};
use stoq::token::{Ranges, Token};

fn route(gateways: &[usize]) -> Route {
    Route::new(gateways.iter().map(|&gateway| gateway_node(gateway))).unwrap()
}

/// Puts a payload at the last gateway of a route.
#[track_caller]
fn put_by(world: &mut World, peer: &Peer, gateways: &[usize], bytes: &[u8]) -> Token {
    let request = world.caller(peer).put_by(peer, route(gateways).hop(), bytes, 0);
    world.finish(peer, request);
    let token = Token::of(bytes);
    let done = End::Done { bytes: bytes.len() as u64, token: token.into() };
    assert_eq!(world.caller(peer).request(request).end(), done);
    token
}

fn fetch_by(world: &mut World, peer: &Peer, hop: Hop, token: Token) -> RequestId {
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
    assert_eq!(world.gateway.requests(), 0);
}

#[test]
fn a_route_of_the_peer_alone_is_as_no_route() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0], b"here");
    assert!(world.store.get(&token).unwrap().is_some());
    assert_eq!(world.gateway.count(Counter::HopsForwarded), 0);
}

#[test]
fn what_a_route_breaks_is_refused_by_name_and_the_connection_goes_on() {
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
fn a_spent_budget_ends_the_answer_where_it_is_spent() {
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
fn a_neighbour_that_is_away_is_upstream_failed_and_found_again_when_it_is_back() {
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

//! Peers that would make a gateway forward what it should not, or work for what goes nowhere.

use crate::hops::{fetch_by, put_by};
use crate::support::caller::End;
use crate::support::identities::gateway_identity;
use crate::support::raw::Raw;
use crate::support::{Setup, World, gateway_node, gateway_v4, identities, route};
use quinn_proto::{Dir, StreamId};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::hop::Route;
use stoq::limits::{NODE_MIRRORS_LEN_MAX, RELAY_REACH_MS, ROUTED_ERRORS_MAX};
use stoq::quic::transport::QuicConfig;
use stoq::record::{ErrorCode, Hop, Mirror, Record};
use stoq::seed::StoreBound;
use stoq::shard::Lanes;
use stoq::token::Token;

/// A request that breaks a rule, behind a HOP.
fn broken(world: &mut World, raw: Raw, hop: &Hop) -> StreamId {
    let mut bytes = Vec::new();
    hop.emit_record(&mut bytes);
    bytes.extend([0x21, 0]);
    world.raw_mut(raw).send(Dir::Bi, &bytes, false)
}

#[test]
fn errors_behind_a_hop_of_the_asker_close_its_connection_like_any_others() {
    for gateways in [&[0][..], &[0, 1]] {
        let mut world = World::new(Setup::line(2));
        let peer = world.connect(0, gateway_v4());
        let raw = world.raw(gateway_v4());
        world.say_settings(raw);
        for _ in 0..2 {
            let id = broken(&mut world, raw, &route(gateways).hop());
            assert_eq!(world.error_on(raw, id).code, ErrorCode::UnknownRecord);
            assert!(world.raw_mut(raw).lost.is_none());
        }
        broken(&mut world, raw, &route(gateways).hop());
        assert_eq!(world.close_code(raw), ErrorCode::UnknownRecord.number());
        put_by(&mut world, &peer, &[0, 1], b"an honest payload");
    }
}

#[test]
fn a_peer_in_front_of_a_route_that_is_not_the_one_named_there_is_charged() {
    let mut world = World::new(Setup::line(2));
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    for _ in 0..3 {
        // It pretends that gateway 1 forwards through it.
        let hop = Hop { cursor: 1, ..route(&[1, 0]).hop() };
        broken(&mut world, raw, &hop);
    }
    assert_eq!(world.close_code(raw), ErrorCode::UnknownRecord.number());
}

#[test]
fn errors_of_requests_that_a_peer_forwards_are_bounded_and_its_connection_stays() {
    let mut world = World::new(Setup::default());
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let forwarder = identities()[1].node_id();
    let hop = || Hop { cursor: 1, ..Route::new([forwarder, gateway_node(0)]).unwrap().hop() };
    for _ in 0..ROUTED_ERRORS_MAX {
        let id = broken(&mut world, raw, &hop());
        assert_eq!(world.error_on(raw, id).code, ErrorCode::UnknownRecord);
    }
    let errors = world.gateway.count(Counter::ProtocolErrors);
    let refused = world.gateway.count(Counter::HopsRefused);
    for _ in 0..10 {
        let id = broken(&mut world, raw, &hop());
        assert_eq!(world.error_on(raw, id).code, ErrorCode::Busy);
    }
    assert_eq!(world.gateway.count(Counter::HopsRefused), refused + 10);
    assert!(world.gateway.count(Counter::ProtocolErrors) <= errors + 10);
    assert!(world.raw_mut(raw).lost.is_none(), "others' requests do not end its connection");
    // A minute later it may forward again.
    world.pass(Duration::from_secs(61));
    let id = broken(&mut world, raw, &hop());
    assert_eq!(world.error_on(raw, id).code, ErrorCode::UnknownRecord);
}

#[test]
fn requests_through_a_gateway_that_is_dialed_later_are_refused_at_once() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    put_by(&mut world, &peer, &[0, 1], b"abc");
    world.others[0].dead = true;
    let ask = |world: &mut World| {
        let asked = world.now;
        let request = fetch_by(world, &peer, route(&[0, 1]).hop(), Token::of(b"abc"));
        world.finish(&peer, request);
        assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::UpstreamFailed));
        let failure = world.caller(&peer).request(request).failure.clone().unwrap();
        (world.now - asked, failure.reason().to_owned())
    };
    // The wait before the next attempt grows with each failure.
    let mut tries = 0;
    let reason = loop {
        let (took, reason) = ask(&mut world);
        assert!(took <= Duration::from_millis(60_000), "{took:?}: {reason}");
        if reason.contains("is not dialed again within") {
            assert!(took < Duration::from_millis(100), "{took:?}: at once");
            break reason;
        }
        tries += 1;
        assert!(tries < 200, "never refused at once: {reason}");
        world.pass(Duration::from_millis(500));
    };
    assert!(reason.contains(&RELAY_REACH_MS.to_string()), "{reason}");
    let begun = world.now;
    for _ in 0..1000 {
        let (_, reason) = ask(&mut world);
        if !reason.contains("is not dialed again within") {
            break;
        }
    }
    assert!(world.now - begun < Duration::from_secs(60));
    assert_eq!(world.caller(&peer).closed(&peer), None);
}

#[test]
fn the_mirrors_of_one_node_leave_slots_for_others() {
    let mut world = World::new(Setup::line(2));
    let peer = world.connect(0, gateway_v4());
    let token = put_by(&mut world, &peer, &[0, 1], b"mirrored");
    let silent = gateway_identity(3);
    let raw = world.raw_of(gateway_v4(), &QuicConfig::default(), silent);
    world.say_settings(raw);
    let mut last = None;
    for number in 0..=NODE_MIRRORS_LEN_MAX as u8 {
        // It is its own source, and never answers.
        let mirror = Mirror {
            token: Token::of(&[number]).into(),
            lanes: Lanes::NONE,
            lease_s: 0,
            sources: vec![silent.node_id()],
        };
        let mut bytes = Vec::new();
        mirror.emit_record(&mut bytes);
        last = Some(world.raw_mut(raw).send(Dir::Bi, &bytes, true));
    }
    let error = world.error_on(raw, last.unwrap());
    assert_eq!(error.code, ErrorCode::Busy);
    assert_eq!(world.store.refused(StoreBound::Mirrors), 1);
    let end = crate::mirror::mirror(&mut world, &peer, token, Lanes::NONE, &[1]);
    assert!(matches!(end, End::Done { .. }), "{end:?}");
}

//! Peers that say nothing after the handshake, or stop in the middle: every wait of this side for them has its bound.

use crate::support::caller::{End, Peer, Request};
use crate::support::liar::Lie;
use crate::support::raw::Raw;
use crate::support::{HELD, SEED, Setup, World, encoding, gateway_node, gateway_v4, payload};
use quinn_proto::{Dir, Side, StreamId};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{HANDSHAKE_MS_MAX, REQUEST_TURN_MS_MAX};
use stoq::queue::{Credit, PeerSilence, PeerWait, RequestId};
use stoq::record::{Mirror, OkRecord, Record};
use stoq::session::SilenceLimits;
use stoq::shard::Lanes;
use stoq::token::{Ranges, Token};

/// The bound of the clients here.
const LIMIT: Duration = Duration::from_secs(20);
/// What a look once a second may add to a bound.
const LOOKS: Duration = Duration::from_secs(3);

fn patient() -> Setup {
    Setup { silence: SilenceLimits { settings: Some(LIMIT), requests: Some(LIMIT) }, ..Setup::default() }
}

/// Waits until the request has ended by silence, which takes the bound and no more.
#[track_caller]
fn silent(world: &mut World, peer: &Peer, request: RequestId, limit: Duration) -> PeerSilence {
    let begun = world.now;
    let of = peer.clone();
    world.run(limit + LOOKS, "silence ends the request", |world| {
        world.caller(&of).request(request).end.is_some()
    });
    assert!(world.now >= begun + limit - LOOKS, "after {:?}", world.now - begun);
    match world.caller(peer).request(request).end() {
        End::Silent(silence) => silence,
        other => panic!("{other:?}"),
    }
}

fn ok(length_bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    OkRecord { length_bytes, descriptor: None }.emit_record(&mut out);
    out
}

/// The stream of the client's first request.
fn first() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

type Ask = fn(&mut World, &Peer, &[u8]) -> RequestId;

fn put(world: &mut World, peer: &Peer, bytes: &[u8]) -> RequestId {
    world.caller(peer).put(peer, SEED, bytes)
}

fn fetch(world: &mut World, peer: &Peer, bytes: &[u8]) -> RequestId {
    world.caller(peer).fetch(peer, Token::of(bytes), Ranges::all())
}

fn locate(world: &mut World, peer: &Peer, bytes: &[u8]) -> RequestId {
    world.caller(peer).locate(peer, Token::of(bytes).into())
}

fn mirror(world: &mut World, peer: &Peer, bytes: &[u8]) -> RequestId {
    let token = Token::of(bytes).into();
    world.caller(peer).mirror(peer, Mirror { token, lanes: Lanes::NONE, lease_s: 60, sources: vec![] })
}

/// A gateway that sends SETTINGS, and then only `answer` on the first request. If it is deaf, it reads no byte of the request.
fn mute(requests: u64, answer: &[u8], deaf: bool) -> (World, Raw, Peer) {
    let mut world = World::new(patient());
    let (raw, peer) = world.raw_server(0, requests);
    world.say_settings(raw);
    world.raw_mut(raw).deaf = deaf;
    if !answer.is_empty() {
        world.raw_mut(raw).answer = Some((first(), answer.to_vec()));
    }
    (world, raw, peer)
}

#[test]
fn a_gateway_that_stops_anywhere_ends_each_request_by_its_bound_and_the_error_says_where() {
    let bytes = payload(4_000_000);
    let length = bytes.len() as u64;
    let half = [ok(length), encoding(&bytes, &Ranges::all()).concat()[..1_000_000].to_vec()].concat();
    let rows: [(Ask, u64, &[u8], bool, PeerWait); 9] = [
        (put, 256, &[], false, PeerWait::Answer),
        (fetch, 256, &[], false, PeerWait::Answer),
        (locate, 256, &[], false, PeerWait::Answer),
        (mirror, 256, &[], false, PeerWait::Answer),
        (fetch, 256, &ok(length), false, PeerWait::Rest),
        (fetch, 256, &half, false, PeerWait::Rest),
        (put, 256, &ok(0), true, PeerWait::Room),
        (put, 256, &ok(0), false, PeerWait::Done),
        (locate, 0, &[], false, PeerWait::Place),
    ];
    for (at, (ask, requests, answer, deaf, wait)) in rows.into_iter().enumerate() {
        let (mut world, raw, peer) = mute(requests, answer, deaf);
        let request = ask(&mut world, &peer, &bytes);
        let silence = silent(&mut world, &peer, request, LIMIT);
        assert_eq!(silence, PeerSilence { remote: peer.remote, wait, limit: LIMIT }, "row {at}");
        // The connection stays, and the gateway is told that no one waits.
        world.pass(Duration::from_secs(1));
        assert_eq!(world.caller(&peer).closed(&peer), None, "row {at}");
        assert!(world.raw_mut(raw).lost.is_none() && world.clients[0].connections() == 1);
        assert!(requests == 0 || world.raw_mut(raw).stopped.contains_key(&first()), "row {at}");
    }
}

#[test]
fn a_gateway_without_settings_is_left() {
    let mut world = World::new(patient());
    let (raw, peer) = world.raw_server(0, 256);
    let begun = world.now;
    let of = peer.clone();
    world.run(LIMIT + LOOKS, "the connection is closed", |world| world.caller(&of).closed(&of).is_some());
    assert!(world.now >= begun + LIMIT - LOOKS);
    let reason = world.caller(&peer).closed(&peer).unwrap().to_owned();
    assert!(reason.contains("has sent no SETTINGS within 20 s"), "{reason}");
    assert_eq!(world.close_code(raw), stoq::record::ErrorCode::Malformed.number());
}

#[test]
fn a_consumer_that_takes_nothing_is_no_silence_of_the_gateway() {
    let mut world = World::new(patient());
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(20_000_000);
    let token = world.put(&peer, &bytes);
    let credit = Credit::default();
    world.caller(&peer).pace = Some(credit.clone());
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.pass(10 * LIMIT);
    let got = world.caller(&peer).request(request).bytes();
    assert!(got > 0 && got < bytes.len() && world.caller(&peer).request(request).end.is_none(), "{got}");
    // The consumer goes on, slower than the bound allows a silent gateway.
    let (mut given, of) = (0, peer.clone());
    while world.caller(&peer).request(request).end.is_none() {
        world.pass(LIMIT + LOOKS);
        let got = world.caller(&of).request(request).bytes();
        credit.give_back(got - given);
        given = got;
    }
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
}

#[test]
fn a_put_whose_bytes_are_not_at_hand_is_no_silence_of_the_gateway() {
    let mut world = World::new(patient());
    let peer = world.connect(0, gateway_v4());
    let request = world.caller(&peer).put_without_bytes(&peer, HELD, &payload(100_000));
    world.pass(10 * LIMIT);
    let Request { accepted, end, .. } = world.caller(&peer).request(request);
    assert!(accepted.is_some() && end.is_none(), "{accepted:?} {end:?}");
}

#[test]
fn a_request_may_wait_while_others_of_its_connection_go_on_and_for_an_hour_at_most() {
    let bytes = payload(100_000);
    let setup = Setup { liars: vec![(0, Lie::Silent, bytes.clone().into())], ..patient() };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let waits = fetch(&mut world, &peer, &bytes);
    let begun = world.now;
    while world.caller(&peer).request(waits).end.is_none() {
        assert!(world.now < begun + Duration::from_millis(REQUEST_TURN_MS_MAX) + 2 * LIMIT, "it waits on");
        let other = locate(&mut world, &peer, &bytes);
        world.finish(&peer, other);
        world.pass(LIMIT - LOOKS);
    }
    let End::Silent(silence) = world.caller(&peer).request(waits).end() else { panic!("another end") };
    assert_eq!(silence.limit, Duration::from_millis(REQUEST_TURN_MS_MAX));
    assert!(world.now >= begun + silence.limit - LOOKS);
}

#[test]
fn a_gateway_that_works_on_a_request_is_waited_for() {
    let bytes = payload(100_000);
    let limit = Duration::from_secs(4);
    let silence = SilenceLimits { settings: Some(limit), requests: Some(limit) };
    let setup = Setup { silence, liars: vec![(1, Lie::Silent, bytes.clone().into())], ..Setup::line(2) };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let sources = vec![gateway_node(1)];
    let token = Token::of(&bytes).into();
    let mirror = Mirror { token, lanes: Lanes::NONE, lease_s: 60, sources };
    let request = world.caller(&peer).mirror(&peer, mirror);
    let begun = world.now;
    world.finish(&peer, request);
    // The source stalls twice, for 5 s each, and the client learns what came of it.
    assert!(world.now > begun + 2 * limit, "{:?}", world.now - begun);
    let end = world.caller(&peer).request(request).end();
    assert_eq!(end, End::Failed(stoq::record::ErrorCode::UpstreamFailed));
}

#[test]
fn a_peer_gateway_whose_handshake_takes_too_long_is_dialed_anew() {
    let setup = Setup::line(2);
    let mut world = World::new(setup);
    world.others[0].dead = true;
    let begun = world.now;
    world.run(Duration::from_secs(25), "the handshake is given up", |world| {
        world.gateway.count(Counter::HandshakesClientFailed) > 0
    });
    assert!(world.now >= begun + Duration::from_millis(HANDSHAKE_MS_MAX));
    assert!(world.now <= begun + Duration::from_millis(HANDSHAKE_MS_MAX) + LOOKS, "{:?}", world.now - begun);
    world.others[0].dead = false;
    world.run(Duration::from_secs(5), "the peer gateways are connected", |world| {
        world.gateway.count(Counter::PeerGatewaysConnected) > 0
    });
}

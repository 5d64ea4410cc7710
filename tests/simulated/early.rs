//! Requests before the handshake is over (protocol §7).

use crate::support::caller::{End, Peer};
use crate::support::tap::{Tap, replay};
use crate::support::{
    DISCARD, ECHO, GATEWAY_MAC, HELD, SEED, Setup, World, gateway_node, gateway_v4, identities, joined,
    payload, route,
};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::HANDSHAKE_MS_MAX;
use stoq::nic::simulated::LinkConfig;
use stoq::queue::RequestId;
use stoq::record::{Coverage, ErrorCode, Holder, Mirror};
use stoq::shard::Lanes;
use stoq::token::{Ranges, Token};

/// A world whose client has a session, and payloads of these lengths at the gateway.
fn met(lengths: &[usize]) -> (World, Vec<(Token, Vec<u8>)>) {
    let (mut world, peer) = World::connected();
    let payloads: Vec<_> = lengths.iter().map(|&len| payload(len)).collect();
    let payloads = payloads.into_iter().map(|bytes| (world.put(&peer, &bytes), bytes)).collect();
    // The session's tickets arrive after the handshake.
    world.echo(&peer, b"met");
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    (world, payloads)
}

/// How a request on this connection ended.
#[track_caller]
fn end(world: &mut World, peer: &Peer, request: RequestId) -> End {
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

fn mirror(token: Token) -> Mirror {
    Mirror { token: token.into(), lanes: Lanes::NONE, lease_s: 0, sources: vec![gateway_node(1)] }
}

#[test]
fn small_requests_are_answered_a_round_trip_early() {
    let link = LinkConfig { delay: Duration::from_millis(50), ..LinkConfig::default() };
    let mut world = World::new(Setup { link, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(60_000);
    let token = world.put(&peer, &bytes);
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    let begun = world.now;
    let peer = world.connect_early(0, gateway_v4());
    assert_eq!(world.now, begun, "the client waits for nothing");
    let locate = world.caller(&peer).locate(&peer, token.into());
    let fetch = world.caller(&peer).fetch(&peer, token, Ranges::all());
    let here = Holder { node: gateway_node(0), coverage: Coverage::All, expires_s: 60 };
    let End::Located(holders) = end(&mut world, &peer, locate) else { panic!("no holders") };
    assert_eq!(holders.len(), 1);
    assert_eq!((holders[0].node, holders[0].coverage), (here.node, here.coverage));
    assert!(world.now - begun < Duration::from_millis(150), "one round trip is 100 ms");
    assert_eq!(end(&mut world, &peer, fetch), End::Complete);
    assert!(joined(&world.caller(&peer).request(fetch).pieces) == bytes);
    // With an acknowledgment for each second packet the window grows a little sooner; a round trip later it would be over 500 ms.
    let took = world.now - begun;
    assert!(took < Duration::from_millis(450), "{took:?}");
    assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 1);
    // From here on it is a connection like any other.
    world.put(&peer, b"and more");
    world.echo(&peer, b"and more");
}

#[test]
fn requests_whose_replay_would_do_harm_are_too_early() {
    let (mut world, payloads) = met(&[70_000, 100]);
    let (large, small) = (payloads[0].0, payloads[1].0);
    let peer = world.connect_early(0, gateway_v4());
    let caller = world.caller(&peer);
    let mut some = Ranges::all();
    some.push_run(0, 4).unwrap();
    let refused = [
        caller.fetch(&peer, large, Ranges::all()),
        caller.put(&peer, SEED, b"a payload"),
        caller.mirror(&peer, mirror(Token::of(b"elsewhere"))),
        caller.fetch_by(&peer, Some(route(&[0]).hop()), small.into(), None, Ranges::all()),
        caller.fetch_by(&peer, Some(route(&[0, 1]).hop()), small.into(), None, Ranges::all()),
    ];
    let allowed = [caller.fetch(&peer, large, some), caller.fetch(&peer, small, Ranges::all())];
    for (at, request) in refused.into_iter().enumerate() {
        assert_eq!(end(&mut world, &peer, request), End::Failed(ErrorCode::TooEarly), "request {at}");
    }
    for request in allowed {
        assert_eq!(end(&mut world, &peer, request), End::Complete);
    }
    assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 1);
    // The same requests may be sent after the handshake.
    let again = world.caller(&peer).fetch(&peer, large, Ranges::all());
    assert_eq!(end(&mut world, &peer, again), End::Complete);
    world.put(&peer, b"a payload");
    world.assert_free();
}

#[test]
fn early_messages_reach_only_queues_that_allow_a_replay() {
    let (mut world, _) = met(&[]);
    let peer = world.connect_early(0, gateway_v4());
    let before = world.gateway.count(Counter::RecordsIn);
    world.caller(&peer).message(&peer, DISCARD, b"harmless");
    world.caller(&peer).datagram(&peer, DISCARD, b"harmless");
    world.caller(&peer).message(&peer, ECHO, b"not so");
    world.caller(&peer).datagram(&peer, ECHO, b"not so");
    world.caller(&peer).message(&peer, SEED, b"not so");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 1);
    assert!(world.gateway.count(Counter::RecordsIn) >= before + 6, "SETTINGS and five messages");
    let echoed = world.caller(&peer).messages.iter().any(|(connection, ..)| *connection == peer.connection);
    assert!(!echoed, "the early message is not echoed");
    assert_eq!(world.gateway.count(Counter::DropDatagramRefused), 1);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 2);
    // It broke no rule that closes connections: the client could not know the queue's setting.
    world.echo(&peer, b"now");
}

#[test]
fn early_messages_reach_each_application_that_takes_them_a_round_trip_early() {
    let link = LinkConfig { delay: Duration::from_millis(50), ..LinkConfig::default() };
    let replay_safe = vec![ECHO, DISCARD, SEED, HELD];
    let mut world = World::new(Setup { link, replay_safe, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"met");
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    let (begun, known, heard) = (world.now, world.held().peers.len(), world.caller(&peer).messages.len());
    let peer = world.connect_early(0, gateway_v4());
    let caller = world.caller(&peer);
    caller.message(&peer, ECHO, b"early");
    caller.datagram(&peer, ECHO, b"early too");
    caller.message(&peer, DISCARD, b"12345");
    caller.message(&peer, DISCARD, b"");
    caller.message(&peer, SEED, b"the seed has no use for messages");
    caller.message(&peer, HELD, b"held");
    let waiting = peer.clone();
    world.run(Duration::from_secs(1), "the answers", |world| {
        world.caller(&waiting).messages.len() == heard + 3
    });
    assert!(world.now - begun < Duration::from_millis(150), "one round trip is 100 ms");
    let mut answers: Vec<_> =
        world.caller(&peer).messages[heard..].iter().map(|(_, _, answer)| answer.to_vec()).collect();
    answers.sort();
    assert_eq!(
        answers,
        [[5_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat(), b"early".to_vec(), b"early too".to_vec()]
    );
    // Each application learns of the connection once, and then of its end.
    world.echo(&peer, b"and on");
    world.put(&peer, b"a payload");
    let held = world.held();
    assert_eq!(held.messages.len(), 1);
    assert_eq!(held.peers.len(), known + 1);
    assert_eq!(held.peers[known].connection, held.messages[0].0);
    assert_eq!(held.peers[known].node, Some(identities()[1].node_id()));
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
    world.caller(&peer).disconnect(&peer);
    world.run(Duration::from_secs(1), "the end", |world| world.held().closed.len() == known + 1);
    world.assert_free();
}

#[test]
fn a_replayed_message_is_delivered_and_its_connection_ends_with_the_time_of_its_handshake() {
    let mut world = World::new(Setup { replay_safe: vec![HELD], ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"met");
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    let tap = Tap::on(&world, GATEWAY_MAC);
    let peer = world.connect_early(0, gateway_v4());
    world.caller(&peer).message(&peer, HELD, b"harmless");
    world.run(Duration::from_secs(1), "the first flight arrives", |world| world.held().messages.len() == 1);
    let flight = tap.take();
    world.run(Duration::from_secs(1), "the handshake", |world| {
        world.clients[0].count(Counter::QuicEarlyDataAccepted) == 1
    });
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(60));
    let (closed, opened) = (world.held().closed.len(), world.gateway.count(Counter::ConnectionsOpened));
    replay(&world, &flight);
    world.pass(Duration::from_millis(HANDSHAKE_MS_MAX + 100));
    // The session is used up after one replay at the most (RFC 8446 §8.1), and no replay ends a handshake.
    assert!(world.held().messages.len() <= 2);
    assert_eq!(world.held().closed.len(), closed + world.held().messages.len() - 1, "its end is told");
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), opened);
    assert_eq!(world.gateway.connections(), 0);
    world.assert_free();
}

#[test]
fn a_gateway_that_forgot_the_session_answers_too_early_and_requests_may_be_sent_again() {
    let (mut world, peer) = World::connected();
    let (token, bytes) = (&Token::of(&payload(30_000)), &payload(30_000));
    let put = world.caller(&peer).put_by(&peer, route(&[0]).hop(), bytes, 0);
    world.finish(&peer, put);
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(1));
    // Another process with the same identity keeps no sessions of the first one.
    world.restart_gateway();
    let peer = world.connect_early(0, gateway_v4());
    let caller = world.caller(&peer);
    let fetch = caller.fetch(&peer, *token, Ranges::all());
    let locate = caller.locate(&peer, (*token).into());
    let put = caller.put(&peer, SEED, b"a payload");
    for request in [fetch, locate, put] {
        assert_eq!(end(&mut world, &peer, request), End::Failed(ErrorCode::TooEarly));
    }
    assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 0);
    let whole = world.get(&peer, *token, Ranges::all());
    assert!(joined(&whole) == *bytes);
    world.put(&peer, b"a payload");
    world.echo(&peer, b"and so on");
    world.assert_free();
}

#[test]
fn without_a_session_an_early_connection_is_like_any_other() {
    let mut world = World::new(Setup::default());
    let peer = world.connect_early(0, gateway_v4());
    world.put(&peer, b"a payload");
    assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 0);
}

#[test]
fn a_replayed_flight_causes_no_more_than_an_answer_to_its_first_sender() {
    let (mut world, payloads) = met(&[1000]);
    let tap = Tap::on(&world, GATEWAY_MAC);
    let peer = world.connect_early(0, gateway_v4());
    let fetch = world.caller(&peer).fetch(&peer, payloads[0].0, Ranges::all());
    let put = world.caller(&peer).put(&peer, SEED, b"a payload");
    world.caller(&peer).message(&peer, ECHO, b"not so");
    // The packets that leave before the first answer.
    world.run(Duration::from_secs(1), "the first flight arrives", |world| {
        world.gateway.count(Counter::RecordsIn) > 0
    });
    let flight = tap.take();
    assert_eq!(end(&mut world, &peer, fetch), End::Complete);
    assert_eq!(end(&mut world, &peer, put), End::Failed(ErrorCode::TooEarly));
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(60));
    let (opened, kept) = (world.gateway.count(Counter::ConnectionsOpened), world.kept());
    for _ in 0..3 {
        replay(&world, &flight);
        world.pass(Duration::from_secs(1));
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), opened, "no replay ends a handshake");
    assert_eq!(world.kept(), kept);
    assert!(world.temporary().is_empty());
    assert_eq!(world.gateway.connections(), 0);
    assert!(world.held().peers.len() as u64 <= opened, "no application sees a connection of a replay");
    let peer = world.connect(0, gateway_v4());
    world.echo(&peer, b"and so on");
    world.assert_free();
}

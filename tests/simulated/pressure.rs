//! Slow applications, slow peers and peers that vanish: senders wait, memory stays bounded, nothing is lost or left behind.

use crate::support::caller::End;
use crate::support::{HELD, SEED, Setup, World, gateway_v4, joined, payload};
use quinn_proto::Dir;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{DELIVERY_RING_LEN, GROUP_BYTES, MESSAGES_UNTAKEN_BYTES_MAX, OUTSTANDING_BYTES_MAX};
use stoq::quic::transport::QuicConfig;
use stoq::record::MessageHeader;
use stoq::token::Token;

#[test]
fn an_application_that_stops_taking_deliveries_stops_its_sender_and_loses_nothing() {
    let (mut world, peer) = World::connected();
    let bytes = payload(40 << 20);
    let put = world.caller(&peer).put(&peer, HELD, &bytes);
    let waiting = peer.clone();
    world.run(Duration::from_secs(5), "the put is accepted", |world| {
        world.caller(&waiting).request(put).accepted.is_some()
    });
    world.held().deaf = true;
    const MESSAGES: u32 = 30_000;
    let filler = payload(8000);
    for n in 0..MESSAGES {
        let message = [&n.to_be_bytes()[..], &filler].concat();
        world.caller(&peer).message(&peer, HELD, &message);
    }
    world.pass(Duration::from_secs(1));
    let received = world.gateway.count(Counter::RxBytes);
    world.pass(Duration::from_secs(4));
    // Only keep-alives move while the application sleeps.
    let trickle = world.gateway.count(Counter::RxBytes) - received;
    assert!(trickle < 100_000, "{trickle} bytes came in while no application took any");
    assert!(world.gateway.count(Counter::RingStalls) > 0);
    let quic = QuicConfig::default();
    let taken = world.gateway.count(Counter::RxBytes);
    // QUIC updates its window in parts, and the session charges the bytes that it holds in parts. A delivery brings a message of 8 KB or a
    // group.
    let bound = u64::from(quic.receive_window_bytes) * 5 / 4 + (DELIVERY_RING_LEN * GROUP_BYTES) as u64;
    assert!(taken < bound, "the gateway holds {taken} bytes, more than its windows and its ring");
    let unsent = world.caller(&peer).unsent() * filler.len() + world.caller(&peer).unsent_bytes();
    assert!(unsent > OUTSTANDING_BYTES_MAX, "the sender was stopped with {unsent} bytes to go");
    assert!(world.held().messages.is_empty());

    world.held().deaf = false;
    let waiting = peer.clone();
    world.run(Duration::from_secs(60), "everything arrives", |world| {
        world.held().messages.len() == MESSAGES as usize && world.caller(&waiting).request(put).end.is_some()
    });
    let numbers: Vec<u32> = world
        .held()
        .messages
        .iter()
        .map(|(_, _, message)| u32::from_be_bytes(message[..4].try_into().unwrap()))
        .collect();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<u32>>(), "in order, none lost, none twice");
    assert!(world.held().messages.iter().all(|(_, _, message)| message[4..] == filler));
    let done = End::Done { bytes: bytes.len() as u64, token: Token::of(&bytes).into() };
    assert_eq!(world.caller(&peer).request(put).end(), done);
    let kept = world.held().requests.values().next().unwrap();
    assert!(joined(&kept.pieces) == bytes);
}

#[test]
fn a_deaf_application_does_not_stop_the_others() {
    let (mut world, peer) = World::connected();
    world.held().deaf = true;
    for _ in 0..3000 {
        world.caller(&peer).message(&peer, HELD, b"not taken yet");
    }
    world.pass(Duration::from_secs(1));
    world.echo(&peer, b"the echo listens");
    world.put(&peer, &payload(500_000));
    world.held().deaf = false;
    world.run(Duration::from_secs(5), "the messages", |world| world.held().messages.len() == 3000);
}

#[test]
fn a_client_that_reads_nothing_stops_the_seed_only_for_itself() {
    let mut world = World::new(Setup { clients: 2, ..Setup::default() });
    let (slow, quick) = (world.connect(0, gateway_v4()), world.connect(1, gateway_v4()));
    let bytes = payload(40 << 20);
    let token = world.put(&quick, &bytes);
    let request = world.caller(&slow).fetch(&slow, token, stoq::token::Ranges::all());
    world.caller(&slow).deaf = true;
    world.pass(Duration::from_secs(2));
    let sent = world.gateway.count(Counter::TxBytes);
    assert!(joined(&world.get(&quick, token, stoq::token::Ranges::all())) == bytes);
    assert!(world.gateway.count(Counter::TxBytes) - sent > bytes.len() as u64);
    world.caller(&slow).deaf = false;
    world.finish(&slow, request);
    assert!(joined(&world.caller(&slow).request(request).pieces) == bytes);
}

/// A client in the middle of a put.
fn half_way() -> World {
    let gateway_quic = QuicConfig { idle_timeout_ms: 8_000, ..QuicConfig::default() };
    let mut world = World::new(Setup { gateway_quic, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    // More than the credit and QUIC's send window take at once.
    world.caller(&peer).put(&peer, SEED, &payload(40 << 20));
    world.run(Duration::from_secs(10), "half of it", |world| {
        world.gateway.count(Counter::VerifiedBytes) > 2 << 20
    });
    assert_eq!(world.temporary().len(), 2, "a payload and its outboard are being written");
    let usage_bytes = world.store.usage_bytes();
    assert!((2 << 20..40 << 20).contains(&usage_bytes), "room is taken for what has arrived: {usage_bytes}");
    world
}

fn assert_forgotten(world: &mut World) {
    assert_eq!(world.gateway.connections(), 1, "the gateway does not know of the end yet");
    // The idle timeout is counted from the PING that keeps the connection alive.
    world.run(Duration::from_secs(14), "the connection is forgotten", |world| {
        world.gateway.connections() == 0
    });
    world.pass(Duration::from_millis(10));
    assert_eq!((world.kept(), world.temporary()), (vec![], vec![]));
    assert_eq!(world.store.usage_bytes(), 0, "the room is given back");
    let gateway = &world.gateway;
    assert_eq!(gateway.count(Counter::ConnectionsOpened), 1);
    assert_eq!(gateway.count(Counter::ConnectionsClosed), 1);
    assert_eq!(gateway.count(Counter::ProtocolErrors), 0, "vanishing is no offense");
    let closed = &world.held().closed;
    assert_eq!(closed.len(), 1, "applications are told once");
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_put_leaves_nothing_behind() {
    let mut world = half_way();
    world.clients[0].dead = true;
    assert_forgotten(&mut world);
}

#[test]
fn a_cable_pulled_in_the_middle_of_a_put_leaves_nothing_behind() {
    let mut world = half_way();
    world.link.set_up(false);
    assert_forgotten(&mut world);
    world.run(Duration::from_secs(60), "the client notices", |world| {
        !world.clients[0].callers[0].closed.is_empty()
    });
    world.link.set_up(true);
    let peer = world.connect(0, gateway_v4());
    world.put(&peer, &payload(1 << 20));
}

#[test]
fn an_outage_shorter_than_the_idle_timeout_costs_time_only() {
    let mut world = half_way();
    let peer = world.clients[0].callers[0].peers[0].clone();
    world.link.set_up(false);
    world.pass(Duration::from_secs(3));
    world.link.set_up(true);
    let request = *world.caller(&peer).requests.keys().next().unwrap();
    world.finish(&peer, request);
    assert!(matches!(world.caller(&peer).request(request).end(), End::Done { .. }));
    assert_eq!(world.kept().len(), 2, "one payload and its outboard");
}

#[test]
fn a_peer_whose_bytes_are_not_read_gets_no_more_credit() {
    const WINDOW_BYTES: u32 = 1 << 20;
    const MESSAGE_BYTES: usize = 60_000;
    const STREAMS: usize = 8;
    let gateway_quic = QuicConfig {
        receive_window_bytes: WINDOW_BYTES,
        receive_window_max_bytes: WINDOW_BYTES,
        ..QuicConfig::default()
    };
    let mut world = World::new(Setup { gateway_quic, ..Setup::default() });
    world.held().deaf = true;
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let mut message = Vec::new();
    MessageHeader { queue: HELD, token: None }.emit_record_front(MESSAGE_BYTES, &mut message);
    message.resize(message.len() + MESSAGE_BYTES, b'm');
    let flood = message.repeat(2 * WINDOW_BYTES as usize / MESSAGE_BYTES);
    for _ in 0..STREAMS {
        world.raw_mut(raw).send(Dir::Uni, &flood, false);
    }
    world.pass(Duration::from_secs(5));
    assert!(world.raw_mut(raw).lost.is_none(), "{:?}", world.raw_mut(raw).lost);
    // One window, and what the application may have been given.
    let bound = WINDOW_BYTES as usize + MESSAGES_UNTAKEN_BYTES_MAX + MESSAGE_BYTES;
    let sent = world.raw_mut(raw).quic.stats().udp_tx.bytes as usize;
    assert!(sent > WINDOW_BYTES as usize, "{sent} bytes were sent");
    assert!(sent < bound * 11 / 10, "{sent} bytes were sent; the bound is {bound}");
}

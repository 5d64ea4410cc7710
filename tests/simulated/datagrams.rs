//! Messages in QUIC datagrams.

use crate::support::{DISCARD, ECHO, HELD, NOBODY, Setup, World, gateway_v4, payload};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::record::{MessageHeader, Record, Settings};

/// A MESSAGE record for this queue.
fn message(queue: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    MessageHeader { queue, token: None }.emit_record_front(payload.len(), &mut record);
    record.extend_from_slice(payload);
    record
}

#[test]
fn a_datagram_goes_either_way() {
    let (mut world, peer) = World::connected();
    world.pass(Duration::from_millis(10));
    let held = world.held().peers[0].clone();
    world.caller(&peer).datagram(&peer, HELD, b"to the gateway");
    world.held().datagram(&held, 7, b"to the client");
    world.pass(Duration::from_millis(100));
    let there = (held.connection, HELD, Bytes::from_static(b"to the gateway"));
    assert_eq!(world.held().messages, [there]);
    let back = (peer.connection, 7, Bytes::from_static(b"to the client"));
    assert_eq!(world.caller(&peer).messages, [back]);
}

#[test]
fn a_message_larger_than_a_datagram_is_dropped_by_its_sender() {
    let (mut world, peer) = World::connected();
    world.caller(&peer).datagram(&peer, HELD, &payload(2000));
    world.caller(&peer).datagram(&peer, HELD, &payload(1000));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.clients[0].count(Counter::DropDatagramTooBig), 1);
    assert_eq!(world.held().messages.len(), 1);
    assert_eq!(world.held().messages[0].2, payload(1000));
}

#[test]
fn a_datagram_that_is_no_message_is_dropped_and_the_connection_goes_on() {
    let (mut world, peer) = World::connected();
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let good = message(HELD, b"good");
    let mut settings = Vec::new();
    Settings::default().emit_record(&mut settings);
    let malformed = [
        Vec::new(),
        vec![0xff],
        settings,
        good[..good.len() - 1].to_vec(),
        [good.clone(), good.clone()].concat(),
        [good.clone(), vec![0]].concat(),
    ];
    for datagram in &malformed {
        world.raw_mut(raw).quic.datagrams().send(datagram.clone().into(), false).unwrap();
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.gateway.count(Counter::DropDatagramMalformed), malformed.len() as u64);
    world.raw_mut(raw).quic.datagrams().send(good.into(), false).unwrap();
    world.pass(Duration::from_millis(10));
    assert_eq!(world.held().messages.len(), 1);
    assert!(world.raw_mut(raw).lost.is_none());
    world.echo(&peer, b"still here");
}

#[test]
fn a_datagram_for_no_queue_or_with_a_false_token_is_dropped() {
    let (mut world, peer) = World::connected();
    world.caller(&peer).datagram(&peer, NOBODY, b"to no queue");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.gateway.count(Counter::DropDatagramRefused), 1);
    let raw = world.raw(gateway_v4());
    let mut record = Vec::new();
    let token = Some(stoq::token::Token::of(b"something else"));
    MessageHeader { queue: HELD, token }.emit_record_front(4, &mut record);
    record.extend_from_slice(b"this");
    for _ in 0..5 {
        world.raw_mut(raw).quic.datagrams().send(record.clone().into(), false).unwrap();
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.gateway.count(Counter::DropDatagramRefused), 6);
    assert_eq!(world.gateway.count(Counter::BadProofs), 5);
    assert!(world.held().messages.is_empty());
    assert!(world.raw_mut(raw).lost.is_none(), "a wrong datagram is dropped and has no other effect");
    world.echo(&peer, b"still here");
}

#[test]
fn a_full_ring_drops_datagrams_and_nothing_else() {
    let (mut world, peer) = World::connected();
    world.held().deaf = true;
    for n in 0..1500u32 {
        world.caller(&peer).datagram(&peer, HELD, &n.to_le_bytes());
        if n % 100 == 99 {
            world.pass(Duration::from_millis(20));
        }
    }
    let dropped = world.gateway.count(Counter::DropDatagramRingFull);
    assert!(dropped > 300, "{dropped} were dropped");
    world.held().deaf = false;
    world.pass(Duration::from_millis(100));
    assert_eq!(world.held().messages.len() as u64 + dropped, 1500);
    // Other applications have their own rings.
    world.echo(&peer, b"still here");
}

#[test]
fn datagrams_may_be_lost_and_those_that_arrive_are_whole() {
    let link = LinkConfig {
        seed: 3,
        loss: 0.1,
        duplication: 0.1,
        reordering: 0.2,
        corruption: 0.02,
        delay: Duration::from_millis(1),
        ..LinkConfig::default()
    };
    let mut world = World::new(Setup { link, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    for n in 0..400u32 {
        world.caller(&peer).datagram(&peer, HELD, &n.to_le_bytes());
        world.caller(&peer).datagram(&peer, DISCARD, b"gone");
        if n % 20 == 0 {
            world.pass(Duration::from_millis(10));
        }
    }
    world.pass(Duration::from_secs(1));
    let mut came: Vec<u32> = world
        .held()
        .messages
        .iter()
        .map(|(.., payload)| u32::from_le_bytes(payload[..].try_into().unwrap()))
        .collect();
    let count = came.len();
    came.sort_unstable();
    came.dedup();
    assert_eq!(came.len(), count, "no datagram comes twice");
    assert!((200..400).contains(&count), "{count} of 400 came");
    assert!(came.iter().all(|n| *n < 400));
}

#[test]
fn a_datagram_is_echoed_as_a_message() {
    let (mut world, peer) = World::connected();
    world.caller(&peer).datagram(&peer, ECHO, b"hallo");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.caller(&peer).messages, [(peer.connection, ECHO, Bytes::from_static(b"hallo"))]);
}

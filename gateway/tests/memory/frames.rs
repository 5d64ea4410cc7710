//! Peers that send frames of their own choice: the gateway serves on, and keeps no more than it has bounds for.

use super::forger::Addresses;
use super::{ALLOCATOR, Honest, alone};
use crate::forged::frames::{FLOODS, Used, numbers, random_frames};
use crate::forged::{Forger, Level, stranger};
use crate::support::{Setup, World, gateway_v4, identities, payload};
use quinn_proto::EcnCodepoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::time::Duration;
use stoq::quic::transport::QuicConfig;
use stoq::record::{Fetch, Record};
use stoq::token::{Ranges, Token};

/// The windows of a connection.
const WINDOW_BYTES: u32 = 64 << 10;
/// A connection with its TLS session and its streams, bytes.
const CONNECTION_BYTES: usize = 256 << 10;
/// What tables, timers and rings may grow by beside what is charged, bytes.
const SLACK_BYTES: usize = 1 << 20;

/// A gateway with the smallest windows, and an honest client.
fn besieged() -> (World, Honest) {
    let gateway_quic = QuicConfig {
        stream_receive_window_bytes: WINDOW_BYTES,
        receive_window_bytes: WINDOW_BYTES,
        receive_window_max_bytes: WINDOW_BYTES,
        ..QuicConfig::default()
    };
    let mut world = World::new(Setup { gateway_quic, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    (world, Honest::new(peer))
}

/// A packet of random frames; `wild` of a thousand break rules.
fn random_packet(random: &mut StdRng, forger: &mut Forger, used: &mut Used, wild: u32) -> Vec<u8> {
    let frames = random_frames(random, used, wild);
    // A gap in the packet numbers, which the gateway has to acknowledge around.
    forger.number += u64::from(random.random_ratio(1, 3));
    forger.packet(&frames)
}

fn any_mark(random: &mut StdRng) -> Option<EcnCodepoint> {
    [None, Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ect1), Some(EcnCodepoint::Ce)]
        [random.random_range(0..4)]
}

/// The seeds to try: `STOQ_FRAMES=1..2001` names others.
fn seeds() -> Range<u64> {
    let Ok(named) = std::env::var("STOQ_FRAMES") else { return 1..9 };
    let (from, to) = named.split_once("..").expect("STOQ_FRAMES=FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// A peer with a certificate of the gateway's trust, one without it, and one in the midst of its handshake send random frames from
/// addresses that change.
fn random_siege(seed: u64) {
    const ROUNDS: usize = 12;
    const PACKETS: usize = 60;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut world, honest) = besieged();
    let mut addresses = Addresses::new(&world, 3);
    let wild = [0, 1, 20][random.random_range(0..3)];
    let start = ALLOCATOR.allocated();
    let most = ROUNDS * (CONNECTION_BYTES + 2 * WINDOW_BYTES as usize) + SLACK_BYTES;
    let left = honest.growth(&mut world, ROUNDS, |world, round| {
        let (node, level) = match round % 4 {
            0 | 1 => (Some(&identities()[1]), Level::OneRtt),
            2 => (Some(stranger()), Level::OneRtt),
            _ => (None, Level::Handshake),
        };
        let mut forger = Forger::connect(world, &mut addresses, node, level);
        let mut used = Used::default();
        for packet in 0..PACKETS {
            let bytes = random_packet(&mut random, &mut forger, &mut used, wild);
            // A new address now and then: the connection moves there and back.
            let from = if random.random_ratio(1, 10) { random.random_range(0..3) } else { 0 };
            addresses.send(world, from, any_mark(&mut random), &bytes, None);
            if packet % 16 == 15 {
                addresses.pass(world, |_| {});
            }
        }
        addresses.pass(world, |_| {});
        let kept = ALLOCATOR.allocated().saturating_sub(start);
        assert!(kept <= most, "seed {seed}: {kept} bytes are kept in round {round}\n{}", world.report());
        if round + 1 == ROUNDS {
            world.echo(&honest.peer, b"an honest message");
            let ended = |world: &mut World| world.gateway.connections() == 1;
            world.run(Duration::from_secs(90), "the forged connections end", ended);
        }
    });
    assert!(left <= SLACK_BYTES, "seed {seed}: {left} bytes are left behind");
    assert_eq!(world.caller(&honest.peer).closed(&honest.peer), None, "seed {seed}");
}

#[test]
fn packets_of_random_frames_keep_bounded_memory_and_harm_no_other_peer() {
    let _alone = alone();
    for seed in seeds() {
        random_siege(seed);
    }
}

#[test]
fn floods_of_one_kind_of_frame_keep_bounded_memory_and_get_no_more_packets_than_they_have() {
    const ROUNDS: usize = 12;
    const PACKETS: u64 = 96;
    let _alone = alone();
    for (kind, frames) in FLOODS {
        let (mut world, honest) = besieged();
        let mut addresses = Addresses::new(&world, 1);
        let mut forger = Forger::connect(&mut world, &mut addresses, Some(&identities()[1]), Level::OneRtt);
        let before = addresses.received[0];
        let (mut sent, mut number) = ((0, 0), 0);
        let kept = honest.growth(&mut world, ROUNDS, |world, _| {
            for _ in 0..PACKETS {
                let mut body = Vec::new();
                frames(number, &mut body);
                number += 1;
                // Each second number is left out.
                forger.number += 1;
                let packet = forger.packet(&body);
                sent = (sent.0 + packet.len(), sent.1 + 1);
                addresses.send(world, 0, None, &packet, None);
                if number % 16 == 0 {
                    addresses.pass(world, |_| {});
                }
            }
        });
        let answers = (addresses.received[0].0 - before.0, addresses.received[0].1 - before.1);
        assert!(kept <= CONNECTION_BYTES + SLACK_BYTES, "{kind}: {kept} bytes are kept\n{}", world.report());
        assert!(answers.1 <= sent.1 + 200, "{kind}: {answers:?} answers to {sent:?}");
        world.echo(&honest.peer, b"an honest message");
        assert_eq!(world.caller(&honest.peer).closed(&honest.peer), None, "{kind}");
        drop(forger);
        world.run(Duration::from_secs(90), "it is forgotten", |world| world.gateway.connections() == 1);
    }
}

/// A gateway with a payload, and a forger that has sent a FETCH for it.
fn fetching(addresses: u8) -> (World, Honest, Addresses, Forger) {
    let mut world = World::new(Setup::default());
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(1 << 20);
    let token = world.put(&peer, &bytes);
    let mut addresses = Addresses::new(&world, addresses);
    let mut forger = Forger::connect(&mut world, &mut addresses, Some(&identities()[1]), Level::OneRtt);
    let packet = forger.packet(&fetch_frame(token));
    addresses.send(&world, 0, None, &packet, None);
    addresses.pass(&mut world, |_| {});
    (world, Honest::new(peer), addresses, forger)
}

/// A STREAM frame with a FETCH that ends its side.
fn fetch_frame(token: Token) -> Vec<u8> {
    let mut record = Vec::new();
    let ranges = Ranges::all();
    Fetch { token: token.into(), bytes_max: 0, lanes: None, ranges, describe: false }
        .emit_record(&mut record);
    let mut frame = Vec::new();
    numbers(&mut frame, &[0x0b, 0, record.len() as u64]);
    frame.extend_from_slice(&record);
    frame
}

#[test]
fn acknowledgments_of_packets_that_did_not_arrive_end_their_connection() {
    let _alone = alone();
    let (mut world, honest, mut addresses, mut forger) = fetching(1);
    let arrived = addresses.received[0].1;
    assert!(arrived > 5, "an answer is on its way");
    assert_eq!(world.gateway.connections(), 2);
    // RFC 9000 §21.4: every packet that may have been sent, and some that were not.
    for largest in (0..arrived + 100).step_by(8) {
        let mut frames = Vec::new();
        numbers(&mut frames, &[0x02, largest, 0, 0, largest]);
        frames.resize(20, 0);
        let packet = forger.packet(&frames);
        addresses.send(&world, 0, None, &packet, None);
    }
    for _ in 0..4 {
        addresses.pass(&mut world, |_| {});
    }
    let got = addresses.received[0].0;
    for _ in 0..20 {
        addresses.pass(&mut world, |_| {});
    }
    assert!(addresses.received[0].0 - got < 5000, "the answer ends with its connection");
    world.run(Duration::from_secs(10), "it is closed", |world| world.gateway.connections() == 1);
    world.echo(&honest.peer, b"an honest message");
}

#[test]
fn a_connection_that_moves_to_an_address_that_proves_nothing_sends_it_three_times_what_came_from_there() {
    let _alone = alone();
    let (mut world, honest, mut addresses, mut forger) = fetching(2);
    for bytes in [0, 1000, 1000, 1000] {
        let before = addresses.received[1].0;
        let packet = forger.packet(&[&[0x01][..], &vec![0; bytes]].concat());
        addresses.send(&world, 1, None, &packet, None);
        // No answer to PATH_CHALLENGE comes: the gateway gives the path up.
        for _ in 0..3000 {
            addresses.pass(&mut world, |_| {});
        }
        let got = addresses.received[1].0 - before;
        // RFC 9000 §8.1: quinn-proto ends with a whole datagram. It does not count the one probe for the path's MTU.
        let most = 3 * packet.len() + 1200 + 1472;
        assert!(got > 0 && got < most, "{got} bytes for {}", packet.len());
    }
    assert_eq!(world.caller(&honest.peer).closed(&honest.peer), None);
    world.echo(&honest.peer, b"an honest message");
}

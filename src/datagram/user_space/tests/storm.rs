//! Frames by seeds, valid and altered, from the Ethernet header to the UDP payload, beside honest datagrams.
//!
//! `STOQ_FRAMES=FROM..TO` draws other seeds than the fixed ones: thousands by hand, or the one that failed.

use super::*;
use crate::wire::arp::Arp;
use crate::wire::ethernet::BROADCAST;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;

/// The seeds of a run without `STOQ_FRAMES`.
const SEEDS: Range<u64> = 1..33;
const ROUNDS: usize = 20;
const FRAMES_A_ROUND: usize = 50;

fn arp_frame(random: &mut StdRng) -> Vec<u8> {
    let arp = Arp {
        reply: random.random(),
        source_mac: PROBE,
        source: [10, 77, 0, random.random()].into(),
        target_mac: [0; 6],
        target: [10, 77, 0, random.random_range(1..4)].into(),
    };
    let ethernet =
        Ethernet { destination: BROADCAST, source: PROBE, vlan: None, protocol: EthernetProtocol::Arp };
    let mut frame = vec![0; 60];
    ethernet.emit(&mut frame);
    arp.emit(&mut frame[14..]);
    frame
}

fn icmp_v4(random: &mut StdRng) -> Vec<u8> {
    let addresses =
        Addresses::V4 { source: [10, 77, 0, random.random()].into(), destination: [10, 77, 0, 2].into() };
    let data = vec![1; random.random_range(0..1400)];
    let echo = IcmpEcho { reply: random.random(), identifier: 0, sequence: 0, data: &data };
    let mut message = vec![0; echo.encoded_len()];
    echo.emit(&addresses, &mut message);
    frame(addresses, IpProtocol::Icmp, 64, &message)
}

fn ndp(random: &mut StdRng) -> Vec<u8> {
    let ours: Ipv6Addr = "fd00::2".parse().unwrap();
    let source = Ipv6Addr::from(u128::from(ours) + random.random_range(0..300u128));
    let addresses = Addresses::V6 { source, destination: ours };
    let ndp = if random.random() {
        Ndp::Solicit { target: ours, source_mac: Some(PROBE) }
    } else {
        Ndp::Advertise {
            target: source,
            target_mac: Some(PROBE),
            router: random.random(),
            solicited: random.random(),
            overrides: random.random(),
        }
    };
    let mut message = vec![0; ndp.encoded_len()];
    ndp.emit(&addresses, &mut message);
    frame(addresses, IpProtocol::Icmpv6, 255, &message)
}

fn draw(random: &mut StdRng) -> Vec<u8> {
    let mut frame = match random.random_range(0..5) {
        0 => udp_frame(&vec![random.random(); random.random_range(0..1400)]),
        1 => arp_frame(random),
        2 => icmp_v4(random),
        3 => ndp(random),
        _ => (0..random.random_range(14..200)).map(|_| random.random()).collect(),
    };
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..frame.len());
        frame[at] = random.random();
    }
    if random.random_range(0..4) == 0 {
        frame.truncate(random.random_range(14..=frame.len()));
    }
    frame
}

/// Sends `ROUNDS` bursts at B, which A sends to, and counts what became of each frame.
fn storm(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    pair.a.send(pair.now, "10.77.0.2:4433", b"honest", None);
    pair.settle_now();
    for _ in 0..ROUNDS {
        for _ in 0..FRAMES_A_ROUND {
            probe.send(pair.now, &draw(&mut random));
        }
        pair.a.send(pair.now, "10.77.0.2:4433", b"honest", None);
        pair.settle(Duration::from_millis(50));
        probe.frames(pair.now);
        pair.now += Duration::from_millis(50);
    }
    let honest = pair.b.received.iter().filter(|(_, _, _, payload)| payload[..] == *b"honest").count();
    assert_eq!(honest, ROUNDS + 1, "seed {seed}: honest datagrams arrive");
    let dropped = [
        Counter::DropMalformed,
        Counter::DropUnwanted,
        Counter::DropForeign,
        Counter::DropFragment,
        Counter::DropChecksum,
        Counter::DropPort,
        Counter::NeighborPackets,
    ];
    for host in [&pair.a, &pair.b] {
        let counted: u64 = dropped.iter().map(|&counter| host.count(counter)).sum();
        let received = host.received.len() as u64;
        assert_eq!(
            host.count(Counter::RxPackets),
            counted + received,
            "seed {seed}: each frame is counted once"
        );
    }
    assert!(pair.b.count(Counter::RxPackets) > (ROUNDS * FRAMES_A_ROUND / 2) as u64, "seed {seed}");
}

#[test]
fn every_frame_of_a_hostile_storm_is_delivered_or_counted_once() {
    let seeds = std::env::var("STOQ_FRAMES").map_or(SEEDS, |given| {
        let read =
            || given.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
        read().unwrap_or_else(|| panic!("STOQ_FRAMES={given} names no seeds: write STOQ_FRAMES=1..2001"))
    });
    seeds.for_each(storm);
}

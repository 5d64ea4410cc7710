//! Stations of the link that lie: claims to others' addresses, and echo requests that would multiply.

use super::*;
use crate::limits::{ECHO_REPLIES_BURST, ECHO_REPLIES_PER_S};
use crate::wire::arp::Arp;
use crate::wire::ethernet::BROADCAST;
use crate::wire::icmp::fill_checksum;

const TO_B: &str = "10.77.0.2:4433";

/// A host A that sends to B, and a third station.
fn pair_and_probe() -> (Pair, Probe) {
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    pair.a.send(pair.now, TO_B, b"before", None);
    pair.settle_now();
    probe.frames(pair.now);
    (pair, probe)
}

/// A gratuitous ARP by which the third station claims B's address.
fn claim() -> Vec<u8> {
    let arp = Arp {
        reply: true,
        source_mac: PROBE,
        source: [10, 77, 0, 2].into(),
        target_mac: BROADCAST,
        target: [10, 77, 0, 2].into(),
    };
    let ethernet =
        Ethernet { destination: BROADCAST, source: PROBE, vlan: None, protocol: EthernetProtocol::Arp };
    let mut frame = vec![0; 60];
    ethernet.emit(&mut frame);
    arp.emit(&mut frame[14..]);
    frame
}

#[test]
fn claims_of_another_station_silence_no_peer_that_answers() {
    let (mut pair, mut probe) = pair_and_probe();
    for round in 0..20 {
        for _ in 0..7 {
            probe.send(pair.now, &claim());
        }
        pair.settle(Duration::from_millis(300));
        pair.a.send(pair.now, TO_B, b"after", None);
        pair.settle_now();
        assert_eq!(pair.b.received.len(), 2 + round);
        assert!(probe.frames(pair.now).iter().all(|frame| !frame.ends_with(b"after")));
        pair.now += Duration::from_millis(300);
    }
    assert!(pair.a.count(Counter::NeighborClaimsRefuted) > 0);
    assert_eq!(pair.a.count(Counter::NeighborStationsChanged), 0);
}

#[test]
fn a_peer_that_moves_to_another_station_gets_its_packets_there_after_three_questions() {
    let (mut pair, mut probe) = pair_and_probe();
    probe.send(pair.now, &claim());
    // B is down: only A has turns.
    let claimed_at = pair.now;
    pair.a.turn(pair.now);
    while pair.a.count(Counter::NeighborStationsChanged) == 0 {
        pair.now = pair.a.network.poll_timeout().unwrap();
        pair.a.turn(pair.now);
    }
    assert_eq!(pair.now - claimed_at, Duration::from_millis(600));
    pair.a.send(pair.now, TO_B, b"after", None);
    let frames = probe.frames(pair.now);
    assert!(frames.iter().any(|frame| frame.ends_with(b"after") && frame[..6] == PROBE));
}

fn echo_frame(source: [u8; 4]) -> Vec<u8> {
    let addresses = Addresses::V4 { source: source.into(), destination: [10, 77, 0, 2].into() };
    let request = IcmpEcho { reply: false, identifier: 7, sequence: 1, data: &[0x5a; 100] };
    let mut message = vec![0; request.encoded_len()];
    request.emit(&addresses, &mut message);
    frame(addresses, IpProtocol::Icmp, 64, &message)
}

#[test]
fn an_echo_request_to_or_from_a_group_is_not_answered() {
    let (mut pair, mut probe) = pair_and_probe();
    let mut to_all = echo_frame([10, 77, 0, 3]);
    to_all[..6].copy_from_slice(&BROADCAST);
    let mut from_all = echo_frame([10, 77, 0, 3]);
    from_all[6..12].copy_from_slice(&BROADCAST);
    let sources = [[10, 77, 0, 255], [255; 4], [224, 0, 0, 1], [0; 4], [127, 0, 0, 1], [10, 77, 0, 2]];
    let frames: Vec<_> = sources.map(echo_frame).into_iter().chain([to_all, from_all]).collect();
    for frame in &frames {
        probe.send(pair.now, frame);
    }
    pair.settle_now();
    assert_eq!(pair.b.count(Counter::IcmpEchoReplies), 0);
    assert!(pair.b.count(Counter::DropEchoNotUnicast) >= 2);
    let dropped = [Counter::DropEchoNotUnicast, Counter::DropMalformed, Counter::DropForeign];
    assert_eq!(dropped.iter().map(|&counter| pair.b.count(counter)).sum::<u64>(), frames.len() as u64);
}

#[test]
fn echo_requests_are_answered_at_a_bounded_rate() {
    let (mut pair, mut probe) = pair_and_probe();
    for second in 0..2 {
        for _ in 0..100 {
            for _ in 0..50 {
                probe.send(pair.now, &echo_frame([10, 77, 0, 3]));
            }
            pair.settle(Duration::ZERO);
            probe.frames(pair.now);
        }
        let allowed = u64::from(ECHO_REPLIES_BURST * (second + 1));
        assert_eq!(pair.b.count(Counter::IcmpEchoReplies), allowed);
        assert_eq!(pair.b.count(Counter::DropReplyLimited), 5000 * u64::from(second + 1) - allowed);
        // The bucket is full again after this time.
        pair.now += Duration::from_secs(1) / ECHO_REPLIES_PER_S * ECHO_REPLIES_BURST;
    }
}

#[test]
fn forged_reports_of_a_smaller_path_are_dropped_and_the_largest_datagrams_pass() {
    let (mut pair, mut probe) = pair_and_probe();
    let v4 = Addresses::V4 { source: [10, 77, 0, 3].into(), destination: [10, 77, 0, 2].into() };
    let v6 = Addresses::V6 { source: "fd00::3".parse().unwrap(), destination: "fd00::2".parse().unwrap() };
    // RFC 792: fragmentation needed, of 68 bytes. RFC 4443 §3.2: Packet Too Big, of 1280. Then the packet that is reported.
    let quoted = [0x45; 48];
    for (addresses, protocol, front) in [
        (v4, IpProtocol::Icmp, [3, 4, 0, 0, 0, 0, 0, 68]),
        (v6, IpProtocol::Icmpv6, [2, 0, 0, 0, 0, 0, 5, 0]),
    ] {
        let mut message = [&front[..], &quoted].concat();
        fill_checksum(&addresses, &mut message);
        probe.send(pair.now, &frame(addresses, protocol, 64, &message));
    }
    pair.settle_now();
    assert_eq!((pair.b.count(Counter::DropUnwanted), pair.b.count(Counter::DropChecksum)), (2, 0));
    for to in ["10.77.0.1:4433", "[fd00::1]:4433"] {
        let before = pair.a.received.len();
        pair.b.send(pair.now, to, &[7; 1452], None);
        pair.settle_now();
        assert_eq!(pair.a.received.len(), before + 1, "a datagram to {to} that fills the port's packets");
    }
}

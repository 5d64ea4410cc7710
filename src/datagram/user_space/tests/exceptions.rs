//! The exception path: what the kernel is given, what it is not, and how its packets leave.

use super::*;
use crate::datagram::exception_path::ExceptionPath;
use crate::limits::{EXCEPTION_RING_LEN, EXCEPTIONS_BURST, EXCEPTIONS_PER_S};
use std::sync::Arc;

const NEIGHBOR: &str = "10.77.0.3";
const AFAR: &str = "198.51.100.7";
const OWN: &str = "10.77.0.2";

struct Scene {
    pair: Pair,
    probe: Probe,
    path: Arc<ExceptionPath>,
}

impl Scene {
    /// Two hosts, of which B has an exception path, and a station that writes frames of its own.
    fn new() -> Self {
        Self::with(&config_b())
    }

    fn with(config: &InterfaceConfig) -> Self {
        let Pair { link, a, b, now } = Pair::new(LinkConfig::default(), &config_a(), config);
        let path = Arc::new(ExceptionPath::new().unwrap());
        let b = Host { network: b.network.with_exceptions(path.clone(), KernelPackets::LeaveHere), ..b };
        let probe = Probe::new(&link);
        Self { pair: Pair { link, a, b, now }, probe, path }
    }

    fn reach_b(&mut self, frame: &[u8]) {
        self.probe.send(self.pair.now, frame);
        self.pair.settle_now();
    }

    fn given(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.path.receive()).map(Vec::from).collect()
    }

    /// The kernel writes a packet; these frames leave B for the probe, but for ARP and NDP.
    fn kernel_writes(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.path.send(packet);
        self.pair.settle_now();
        let frames = self.probe.frames(self.pair.now).into_iter();
        frames.filter(|frame| frame.ends_with(&packet[packet.len() - 8..])).collect()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.pair.b.count(counter)
    }
}

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap()
}

fn tcp(source: &str, destination: &str, hop_limit: u8) -> Vec<u8> {
    frame(addresses(source, destination), IpProtocol::Tcp, hop_limit, b"a segment of twenty-four")
}

fn udp(source: &str, port: u16, hop_limit: u8) -> Vec<u8> {
    let addresses = addresses(source, OWN);
    let template =
        UdpTemplate::new(PROBE, B, None, addresses, Udp { source_port: 49_152, destination_port: port });
    let mut bytes = vec![0; template.header_len() + 24];
    template.emit(0, &[7; 24], ChecksumBy::Software, &mut bytes);
    frame(addresses, IpProtocol::Udp, hop_limit, &bytes[34..])
}

#[test]
fn what_is_for_this_host_and_none_of_stoqs_goes_to_the_kernel_whole() {
    let mut scene = Scene::new();
    let mut fragment = tcp(NEIGHBOR, OWN, 64);
    // More fragments follow, and the header's checksum holds.
    fragment[20] = 0x20;
    fragment[24..26].fill(0);
    let checksum = Sum::default().bytes(&fragment[14..34]).checksum();
    fragment[24..26].copy_from_slice(&checksum.to_be_bytes());
    let router = addresses("fe80::3", "ff02::1");
    let mut advertisement = frame(router, IpProtocol::Icmpv6, 255, &[0; 16]);
    advertisement[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    advertisement[54] = 134;
    let mut group = tcp(NEIGHBOR, "224.0.0.5", 1);
    group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 5]);
    let frames = [
        tcp(NEIGHBOR, OWN, 255),
        tcp("fd00::3", "fd00::2", 64),
        udp(NEIGHBOR, 3784, 255),
        fragment,
        advertisement,
        group,
    ];
    for frame in &frames {
        scene.reach_b(frame);
        assert_eq!(scene.given(), [frame[14..].to_vec()]);
    }
    assert_eq!(scene.count(Counter::ExceptionsIn), frames.len() as u64);
    let drops = [Counter::DropUnwanted, Counter::DropPort, Counter::DropFragment, Counter::DropForeign];
    assert!(drops.iter().all(|&drop| scene.count(drop) == 0));
}

#[test]
fn stoqs_own_packets_and_those_of_other_hosts_stay_away_from_the_kernel() {
    let mut scene = Scene::new();
    scene.reach_b(&udp(NEIGHBOR, 4433, 64));
    let request = IcmpEcho { reply: false, identifier: 7, sequence: 1, data: &[1; 8] };
    let mut message = vec![0; request.encoded_len()];
    request.emit(&addresses(NEIGHBOR, OWN), &mut message);
    scene.reach_b(&frame(addresses(NEIGHBOR, OWN), IpProtocol::Icmp, 64, &message));
    scene.reach_b(&tcp(NEIGHBOR, "10.77.0.99", 64));
    let mut wrong = udp(NEIGHBOR, 3784, 255);
    *wrong.last_mut().unwrap() ^= 1;
    scene.reach_b(&wrong);
    assert!(scene.given().is_empty());
    assert_eq!((scene.pair.b.received.len(), scene.count(Counter::IcmpEchoReplies)), (1, 1));
    assert_eq!((scene.count(Counter::DropForeign), scene.count(Counter::DropChecksum)), (1, 1));
    assert_eq!(scene.count(Counter::ExceptionsIn), 0);
}

#[test]
fn a_flood_from_beyond_the_link_takes_no_room_of_a_neighbors_packets() {
    let mut scene = Scene::new();
    let flood = EXCEPTIONS_BURST + EXCEPTIONS_PER_S;
    for _ in 0..flood {
        scene.probe.send(scene.pair.now, &tcp(AFAR, OWN, 57));
        scene.pair.b.turn(scene.pair.now);
    }
    let others = [udp(NEIGHBOR, 3784, 255), tcp(NEIGHBOR, OWN, 1)];
    others.iter().for_each(|frame| scene.reach_b(frame));
    let given = scene.given();
    assert_eq!(given[given.len() - 2..], others.map(|frame| frame[14..].to_vec()));
    assert_eq!(given.len(), EXCEPTIONS_BURST as usize + 2);
    assert_eq!(scene.count(Counter::DropExceptionLimited), u64::from(flood - EXCEPTIONS_BURST));
}

#[test]
fn a_kernel_that_takes_nothing_has_room_left_for_neighbors() {
    let mut scene = Scene::new();
    let second = Duration::from_secs(1) / EXCEPTIONS_PER_S;
    // From beyond the link, of a neighbor's address, and what only a neighbor can send.
    let frames = [tcp(AFAR, OWN, 57), tcp(NEIGHBOR, OWN, 64), tcp(NEIGHBOR, OWN, 255)];
    for (frame, quarters) in frames.iter().zip([2, 3, 4]) {
        for _ in 0..EXCEPTION_RING_LEN {
            scene.probe.send(scene.pair.now, frame);
            scene.pair.settle_now();
            scene.pair.now += second;
        }
        assert_eq!(scene.count(Counter::ExceptionsIn), quarters * EXCEPTION_RING_LEN as u64 / 4);
    }
}

#[test]
fn packets_of_the_kernel_leave_to_the_neighbor_unchanged() {
    let mut scene =
        Scene::with(&InterfaceConfig { next_hop_v4: Some(NEIGHBOR.parse().unwrap()), ..config_b() });
    let packet = |source, destination| tcp(source, destination, 255)[14..].to_vec();
    // The next hop is asked for first, and the packet waits.
    let first = packet(OWN, AFAR);
    assert!(scene.kernel_writes(&first).is_empty());
    assert_eq!(scene.count(Counter::ExceptionsOut), 0);
    let arp = wire::arp::Arp {
        reply: true,
        source_mac: PROBE,
        source: NEIGHBOR.parse().unwrap(),
        target_mac: B,
        target: OWN.parse().unwrap(),
    };
    let mut answer = vec![0; 60];
    Ethernet { destination: B, source: PROBE, vlan: None, protocol: EthernetProtocol::Arp }.emit(&mut answer);
    arp.emit(&mut answer[14..]);
    scene.reach_b(&answer);
    let waited: Vec<_> = scene.probe.frames(scene.pair.now);
    assert!(waited.iter().any(|frame| frame[..6] == PROBE && frame[14..] == first));
    for destination in [AFAR, NEIGHBOR] {
        let packet = packet(OWN, destination);
        let frames = scene.kernel_writes(&packet);
        assert_eq!(frames.len(), 1);
        let (ethernet, payload) = Ethernet::parse(&frames[0]).unwrap();
        assert_eq!((ethernet.destination, ethernet.source), (PROBE, B));
        assert_eq!(payload, packet, "hop limit and checksum are the kernel's");
    }
    assert_eq!(scene.count(Counter::ExceptionsOut), 2);
}

#[test]
fn packets_of_the_kernel_to_a_group_leave_to_its_stations() {
    let mut scene = Scene::new();
    for (packet, mac) in [
        (tcp(OWN, "224.0.0.22", 1), [1, 0, 0x5e, 0, 0, 22]),
        (tcp("fe80::ff:fe00:b", "ff02::2", 255), [0x33, 0x33, 0, 0, 0, 2]),
    ] {
        let frames = scene.kernel_writes(&packet[14..]);
        assert_eq!((frames.len(), &frames[0][..6], &frames[0][14..]), (1, &mac[..], &packet[14..]));
    }
}

#[test]
fn the_kernel_may_send_from_the_ports_addresses_alone_and_where_a_route_leads() {
    let mut scene = Scene::new();
    let sent: Vec<_> = [
        tcp("10.77.0.99", NEIGHBOR, 64)[14..].to_vec(),
        tcp("fe80::9", "ff02::2", 255)[14..].to_vec(),
        vec![0x45; 8],
        tcp(OWN, AFAR, 64)[14..].to_vec(),
        frame(addresses(OWN, NEIGHBOR), IpProtocol::Tcp, 64, &[5; 1481])[14..].to_vec(),
    ]
    .iter()
    .flat_map(|packet| scene.kernel_writes(packet))
    .collect();
    assert!(sent.is_empty());
    assert_eq!(scene.count(Counter::DropExceptionSource), 3);
    assert_eq!((scene.count(Counter::DropNoRoute), scene.count(Counter::DropTooBig)), (1, 1));
}

#[test]
fn without_an_exception_path_such_frames_are_dropped_by_their_reasons() {
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    for frame in [tcp(NEIGHBOR, OWN, 255), udp(NEIGHBOR, 3784, 255)] {
        probe.send(pair.now, &frame);
        pair.settle_now();
    }
    assert_eq!((pair.b.count(Counter::DropUnwanted), pair.b.count(Counter::DropPort)), (1, 1));
}

//! Two hosts on a simulated link.

use super::*;
use crate::neighbor::exchange::exchange;
use crate::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use crate::wire::ChecksumBy;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::Ethernet;
use crate::wire::icmp::IcmpEcho;
use crate::wire::ip::Ip;
use crate::wire::ndp::{self, Ndp};
use proptest::prelude::*;
use smoltcp::wire::{EthernetProtocol, IpProtocol};
use std::net::Ipv6Addr;
use std::time::Duration;

mod exceptions;
mod hostile;
mod storm;

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const PROBE: Mac = [2, 0, 0, 0, 0, 0xc];

type Delivered = (SocketAddr, Option<IpAddr>, Option<EcnCodepoint>, Vec<u8>);

struct Host {
    network: UserSpace<SimulatedNic>,
    counters: Counters,
    received: Vec<Delivered>,
}

impl Host {
    fn new(nic: SimulatedNic, config: &InterfaceConfig) -> Self {
        let network = UserSpace::new(nic, config, NetworkKind::Simulated).unwrap();
        Self { network, counters: Counters::default(), received: Vec::new() }
    }

    fn turn(&mut self, now: Instant) {
        let Self { network, counters, received } = self;
        network.receive(now, counters, |datagram| {
            received.push((datagram.remote, datagram.local_ip, datagram.ecn, datagram.payload.to_vec()));
        });
        if network.poll_timeout().is_some_and(|at| at <= now) {
            network.handle_timeout(now, counters);
        }
        network.flush(now, counters);
    }

    fn send(&mut self, now: Instant, to: &str, contents: &[u8], segment_size: Option<usize>) {
        let transmit = Transmit {
            destination: to.parse().unwrap(),
            ecn: Some(EcnCodepoint::Ect0),
            size: contents.len(),
            segment_size,
            src_ip: None,
        };
        assert!(self.network.can_send());
        self.network.send(now, &self.counters, &transmit, contents);
        self.network.flush(now, &self.counters);
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }
}

fn config(v4: &str, v6: &str) -> InterfaceConfig {
    InterfaceConfig {
        addresses: vec![v4.parse().unwrap(), v6.parse().unwrap()],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: 4433,
        udp_checksum: true,
    }
}

fn config_a() -> InterfaceConfig {
    config("10.77.0.1/24", "fd00::1/64")
}

fn config_b() -> InterfaceConfig {
    config("10.77.0.2/24", "fd00::2/64")
}

struct Pair {
    link: SimulatedLink,
    a: Host,
    b: Host,
    now: Instant,
}

impl Pair {
    fn new(link: LinkConfig, a: &InterfaceConfig, b: &InterfaceConfig) -> Self {
        let link = SimulatedLink::new(link);
        let nic_a = link.add_station(A, 1).remove(0);
        let nic_b = link.add_station(B, 1).remove(0);
        Self { a: Host::new(nic_a, a), b: Host::new(nic_b, b), link, now: Instant::now() }
    }

    fn plain() -> Self {
        Self::new(LinkConfig::default(), &config_a(), &config_b())
    }

    /// Turns both hosts until no frame is in flight and no timer is due, at most `limit` later.
    fn settle(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            self.a.turn(self.now);
            self.b.turn(self.now);
            let timers = [self.a.network.poll_timeout(), self.b.network.poll_timeout()];
            let next = timers.into_iter().flatten().chain(self.link.next_delivery()).min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => return,
            }
        }
    }

    fn settle_now(&mut self) {
        self.settle(Duration::from_millis(10));
    }
}

/// A station that sends and sees raw frames.
struct Probe {
    nic: SimulatedNic,
}

impl Probe {
    fn new(link: &SimulatedLink) -> Self {
        Self { nic: link.add_station(PROBE, 1).remove(0) }
    }

    fn send(&mut self, now: Instant, frame: &[u8]) {
        assert!(self.nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(frame)));
        self.nic.tx_flush(now);
    }

    fn frames(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while self.nic.rx_burst(now, |frame, _| frames.push(frame.to_vec())) > 0 {}
        frames
    }
}

fn frame(addresses: Addresses, protocol: IpProtocol, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let ip = Ip { hop_limit, ..Ip::outgoing(addresses, protocol) };
    let ethernet =
        Ethernet { destination: B, source: PROBE, vlan: None, protocol: addresses.ethernet_protocol() };
    let mut frame = vec![0; 14 + ip.encoded_len() + message.len()];
    ethernet.emit(&mut frame);
    ip.emit(message.len(), &mut frame[14..]);
    frame[14 + ip.encoded_len()..].copy_from_slice(message);
    frame
}

fn udp_frame(payload: &[u8]) -> Vec<u8> {
    let addresses = Addresses::V4 { source: [10, 77, 0, 3].into(), destination: [10, 77, 0, 2].into() };
    let template =
        UdpTemplate::new(PROBE, B, None, addresses, Udp { source_port: 9, destination_port: 4433 });
    let mut frame = vec![0; template.header_len() + payload.len()];
    template.emit(0, payload, ChecksumBy::Software, &mut frame);
    frame
}

#[test]
fn datagrams_of_both_families_arrive_byte_exact_with_their_ecn_bits() {
    for (to, from, local) in [
        ("10.77.0.2:4433", "10.77.0.1:4433", "10.77.0.2"),
        ("[fd00::2]:4433", "[fd00::1]:4433", "fd00::2"),
        ("[fe80::ff:fe00:b]:4433", "[fe80::ff:fe00:a]:4433", "fe80::ff:fe00:b"),
    ] {
        for tx_checksum in [false, true] {
            let link = LinkConfig { tx_checksum, delay: Duration::from_micros(10), ..LinkConfig::default() };
            let mut pair = Pair::new(link, &config_a(), &config_b());
            let contents: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
            pair.a.send(pair.now, to, &contents, Some(1200));
            pair.settle_now();
            pair.a.send(pair.now, to, b"again", None);
            pair.settle_now();
            let meta = (from.parse().unwrap(), Some(local.parse().unwrap()), Some(EcnCodepoint::Ect0));
            let expected: Vec<_> = contents
                .chunks(1200)
                .chain([&b"again"[..]])
                .map(|payload| (meta.0, meta.1, meta.2, payload.to_vec()))
                .collect();
            assert_eq!(pair.b.received, expected, "{to}");
            assert_eq!(pair.a.count(Counter::TxBytes), 3005);
            assert_eq!(pair.b.count(Counter::RxBytes), 3005);
            // The answer needs no question: the sender's address is known.
            pair.b.send(pair.now, from, b"back", None);
            assert!(pair.b.network.poll_timeout().is_some(), "probed while used");
            pair.settle_now();
            assert_eq!(pair.a.received.len(), 1);
        }
    }
}

#[test]
fn a_vlan_separates_its_members_from_other_stations() {
    let member = |config: InterfaceConfig| InterfaceConfig { vlan: Some(7), ..config };
    let mut pair = Pair::new(LinkConfig::default(), &member(config_a()), &member(config_b()));
    pair.a.send(pair.now, "10.77.0.2:4433", &[1; 1472], None);
    pair.a.send(pair.now, "[fd00::2]:4433", &[2; 1452], None);
    pair.settle_now();
    assert_eq!(pair.b.received.len(), 2);

    let mut strangers = Pair::new(LinkConfig::default(), &member(config_a()), &config_b());
    strangers.a.send(strangers.now, "10.77.0.2:4433", b"x", None);
    strangers.settle_now();
    assert_eq!(strangers.b.count(Counter::DropForeign), 1);
}

#[test]
fn packets_to_a_silent_neighbor_are_counted_after_the_retries() {
    let mut pair = Pair::plain();
    pair.a.send(pair.now, "10.77.0.9:4433", &[0; 300], Some(100));
    pair.settle(Duration::from_millis(2999));
    assert_eq!(pair.a.count(Counter::DropNeighborUnreachable), 0);
    pair.settle(Duration::from_secs(1));
    assert_eq!(pair.a.count(Counter::DropNeighborUnreachable), 3);
    assert_eq!(pair.a.count(Counter::TxPackets), 3, "three questions");
    pair.a.send(pair.now, "10.77.0.9:4433", b"x", None);
    assert_eq!(pair.a.count(Counter::DropNeighborUnreachable), 4);
}

#[test]
fn datagrams_without_a_route_and_datagrams_that_are_too_big_are_dropped() {
    let mut pair = Pair::plain();
    pair.a.send(pair.now, "198.51.100.1:4433", b"x", None);
    pair.a.send(pair.now, "[2001:db8::1]:4433", b"x", None);
    assert_eq!(pair.a.count(Counter::DropNoRoute), 2);
    let told: Vec<_> = std::iter::from_fn(|| pair.a.network.poll_unreachable()).collect();
    assert!(told.iter().all(|told| told.obstacle == Obstacle::NoNextHop && told.obstacle.is_local()));
    let destinations: Vec<_> = told.iter().map(|told| told.destination.to_string()).collect();
    assert_eq!(destinations, ["198.51.100.1:4433", "[2001:db8::1]:4433"]);
    pair.a.send(pair.now, "10.77.0.2:4433", &[0; 1473], None);
    pair.a.send(pair.now, "[fd00::2]:4433", &[0; 1453], None);
    pair.settle_now();
    pair.a.send(pair.now, "10.77.0.2:4433", &[0; 1473], None);
    assert_eq!(pair.a.count(Counter::DropTooBig), 3);
    assert!(pair.b.received.is_empty());
}

#[test]
fn packets_to_other_networks_go_to_the_router() {
    let a = InterfaceConfig {
        next_hop_v4: Some([10, 77, 0, 2].into()),
        next_hop_v6: Some(ndp::link_local(B)),
        ..config_a()
    };
    let b = config("198.51.100.1/24", "2001:db8::1/64");
    let router = InterfaceConfig { addresses: [b.addresses, config_b().addresses].concat(), ..config_b() };
    let mut pair = Pair::new(LinkConfig::default(), &a, &router);
    pair.a.send(pair.now, "198.51.100.1:4433", b"v4", None);
    pair.a.send(pair.now, "[2001:db8::1]:4433", b"v6", None);
    pair.settle_now();
    let remotes: Vec<_> = pair.b.received.iter().map(|(remote, ..)| remote.to_string()).collect();
    assert_eq!(remotes, ["10.77.0.1:4433", "[fd00::1]:4433"]);
}

#[test]
fn a_chosen_source_address_of_the_destinations_family_is_used() {
    let mut config = config_a();
    config.addresses.push("10.77.0.11/24".parse().unwrap());
    let mut pair = Pair::new(LinkConfig::default(), &config, &config_b());
    let (v4, v6) = ("10.77.0.2:4433", "[fd00::2]:4433");
    let sources = ["10.77.0.11", "10.77.0.1", "10.77.0.99", "fd00::1"].map(|source| (v4, source));
    for (to, source) in sources.into_iter().chain([(v6, "10.77.0.11")]) {
        let (destination, src_ip) = (to.parse().unwrap(), Some(source.parse().unwrap()));
        let transmit = Transmit { destination, ecn: None, size: 1, segment_size: None, src_ip };
        pair.a.network.send(pair.now, &pair.a.counters, &transmit, b"x");
        pair.settle_now();
    }
    let remotes: Vec<_> = pair.b.received.iter().map(|(remote, ..)| remote.to_string()).collect();
    // One of the other family leaves the choice to the destination.
    assert_eq!(remotes, ["10.77.0.11:4433", "10.77.0.1:4433", "10.77.0.1:4433", "[fd00::1]:4433"]);
    assert_eq!(pair.b.received[0].2, None);
    assert_eq!(pair.a.count(Counter::DropNoRoute), 1);
}

#[test]
fn echo_requests_of_both_families_are_answered() {
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    for (addresses, protocol) in [
        (
            Addresses::V4 { source: [10, 77, 0, 3].into(), destination: [10, 77, 0, 2].into() },
            IpProtocol::Icmp,
        ),
        (
            Addresses::V6 { source: "fd00::3".parse().unwrap(), destination: "fd00::2".parse().unwrap() },
            IpProtocol::Icmpv6,
        ),
    ] {
        let request = IcmpEcho { reply: false, identifier: 7, sequence: 1, data: &[0x5a; 1000] };
        let mut message = vec![0; request.encoded_len()];
        request.emit(&addresses, &mut message);
        probe.send(pair.now, &frame(addresses, protocol, 64, &message));
        pair.settle_now();
        let frames = probe.frames(pair.now);
        let (ethernet, packet) = Ethernet::parse(&frames[0]).unwrap();
        assert_eq!((ethernet.destination, ethernet.source), (PROBE, B));
        let (ip, body) = match ethernet.protocol {
            EthernetProtocol::Ipv4 => Ip::parse_v4(packet, ChecksumBy::Software).unwrap(),
            _ => Ip::parse_v6(packet).unwrap(),
        };
        assert_eq!(ip.addresses.source(), addresses.destination());
        let reply = IcmpEcho::parse(&ip.addresses, body).unwrap();
        assert_eq!(reply, IcmpEcho { reply: true, ..request });
    }
    assert_eq!(pair.b.count(Counter::IcmpEchoReplies), 2);
}

#[test]
fn a_probe_for_duplicates_of_our_address_is_answered_to_all_nodes() {
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    let target = "fd00::2".parse().unwrap();
    let group = ndp::solicited_node(target);
    let addresses = Addresses::V6 { source: Ipv6Addr::UNSPECIFIED, destination: group };
    let solicit = Ndp::Solicit { target, source_mac: None };
    let mut message = vec![0; solicit.encoded_len()];
    solicit.emit(&addresses, &mut message);
    let mut frame = frame(addresses, IpProtocol::Icmpv6, 255, &message);
    frame[..6].copy_from_slice(&ndp::multicast_mac(group));
    probe.send(pair.now, &frame);
    pair.settle_now();
    let frames = probe.frames(pair.now);
    let (ethernet, packet) = Ethernet::parse(&frames[0]).unwrap();
    assert_eq!(ethernet.destination, ndp::multicast_mac(ndp::ALL_NODES));
    let (ip, body) = Ip::parse_v6(packet).unwrap();
    assert_eq!(
        Ndp::parse(&ip, body),
        Ok(Ndp::Advertise { target, target_mac: Some(B), router: false, solicited: false, overrides: true })
    );
    assert_eq!(frames.len(), 1);
}

#[test]
fn fragments_wrong_checksums_and_closed_ports_are_counted_each_under_its_own_counter() {
    let mut pair = Pair::plain();
    let mut probe = Probe::new(&pair.link);
    let mut fragment = udp_frame(b"x");
    fragment[20] = 0x20;
    fragment[24..26].fill(0);
    let checksum = Sum::default().bytes(&fragment[14..34]).checksum();
    fragment[24..26].copy_from_slice(&checksum.to_be_bytes());
    let mut wrong = udp_frame(b"x");
    wrong[42] ^= 1;
    let mut port = udp_frame(b"x");
    // One byte up in the port, one down in the checksum.
    port[37] += 1;
    let sum = u16::from_be_bytes([port[40], port[41]]) - 1;
    port[40..42].copy_from_slice(&sum.to_be_bytes());
    for frame in
        [&fragment, &wrong, &port, &udp_frame(b"right"), &vec![0xff; 20], &udp_frame(b"x")[..30].to_vec()]
    {
        probe.send(pair.now, frame);
    }
    pair.settle_now();
    for counter in [
        Counter::DropFragment,
        Counter::DropChecksum,
        Counter::DropPort,
        Counter::DropUnwanted,
        Counter::DropMalformed,
    ] {
        assert_eq!(pair.b.count(counter), 1, "{}", counter.name());
    }
    assert_eq!(pair.b.received.len(), 1);
    assert_eq!(pair.b.count(Counter::RxPackets), 6);
}

#[test]
fn a_corrupting_link_delivers_nothing_wrong() {
    let link = LinkConfig { corruption: 0.5, ..LinkConfig::default() };
    let mut pair = Pair::new(link, &config_a(), &config_b());
    pair.a.send(pair.now, "10.77.0.2:4433", b"warm up", None);
    pair.settle(Duration::from_secs(10));
    pair.b.received.clear();
    let contents = vec![0x5a; 64 * 1000];
    for _ in 0..20 {
        pair.a.send(pair.now, "10.77.0.2:4433", &contents, Some(1000));
        pair.settle_now();
    }
    assert!(pair.b.received.len() > 300);
    assert!(pair.b.received.iter().all(|(_, _, _, payload)| payload[..] == contents[..1000]));
    assert!(pair.b.count(Counter::DropChecksum) > 100);
}

#[test]
fn without_udp_checksums_a_corrupting_link_is_noticed_over_ipv6_alone() {
    let plain = |config: InterfaceConfig| InterfaceConfig { udp_checksum: false, ..config };
    let contents = vec![0x5a; 64 * 1000];
    for (to, is_noticed) in [("10.77.0.2:4433", false), ("[fd00::2]:4433", true)] {
        let mut pair = Pair::new(LinkConfig::default(), &plain(config_a()), &plain(config_b()));
        pair.a.send(pair.now, to, b"warm up", None);
        pair.settle_now();
        pair.b.received.clear();
        pair.link.reconfigure(|link| link.corruption = 0.5);
        for _ in 0..20 {
            pair.a.send(pair.now, to, &contents, Some(1000));
            pair.settle_now();
        }
        assert!(pair.b.received.len() > 300);
        let damaged =
            pair.b.received.iter().filter(|(_, _, _, payload)| payload[..] != contents[..1000]).count();
        assert_eq!(damaged == 0, is_noticed, "{damaged} over {to}");
    }
}

#[test]
fn a_worker_learns_of_a_neighbor_whose_answer_arrives_on_another_queue() {
    let link = SimulatedLink::new(LinkConfig::default());
    let nics = link.add_station(A, 2);
    let mut peer = Host::new(link.add_station(B, 1).remove(0), &config_b());
    let mut workers: Vec<Host> = nics
        .into_iter()
        .zip(exchange(2))
        .map(|(nic, port)| {
            let mut host = Host::new(nic, &config_a());
            host.network = host.network.with_exchange(port);
            host
        })
        .collect();
    let now = Instant::now();
    workers[1].send(now, "10.77.0.2:4433", b"hello", None);
    for _ in 0..4 {
        peer.turn(now);
        workers[0].turn(now);
        workers[1].turn(now);
    }
    assert_eq!(workers[0].count(Counter::NeighborPackets), 1, "the answer came to the first queue");
    assert_eq!(peer.received.len(), 1);
}

#[test]
fn a_network_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<UserSpace<SimulatedNic>>();
}

proptest! {
    #[test]
    fn hostile_frames_leave_the_host_working(
        frames in proptest::collection::vec(
            (0usize..4, proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4), any::<bool>()), 1..40,
        ),
    ) {
        let mut pair = Pair::plain();
        let mut probe = Probe::new(&pair.link);
        let target: Ipv6Addr = "fd00::2".parse().unwrap();
        let v4 = Addresses::V4 { source: [10, 77, 0, 3].into(), destination: [10, 77, 0, 2].into() };
        let v6 = Addresses::V6 { source: "fd00::3".parse().unwrap(), destination: target };
        let mut echo = [0; 40];
        IcmpEcho { reply: false, identifier: 0, sequence: 0, data: &[1; 32] }.emit(&v4, &mut echo);
        let mut solicit = [0; 32];
        Ndp::Solicit { target, source_mac: Some(PROBE) }.emit(&v6, &mut solicit);
        for (kind, changes, fix) in frames {
            let mut bytes = match kind {
                0 => udp_frame(b"payload"),
                1 => frame(v4, IpProtocol::Icmp, 64, &echo),
                2 => frame(v6, IpProtocol::Icmpv6, 255, &solicit),
                _ => (0..60).collect(),
            };
            for (at, to) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = to;
            }
            if fix && kind == 2 {
                bytes[56..58].fill(0);
                let len = (bytes.len() - 54) as u16;
                let sum = Sum::default().bytes(&bytes[22..]).word(58).word(len);
                bytes[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
            }
            probe.send(pair.now, &bytes);
        }
        pair.settle_now();
        pair.b.received.clear();
        pair.a.send(pair.now, "10.77.0.2:4433", b"still here", None);
        pair.settle(Duration::from_secs(5));
        prop_assert_eq!(pair.b.received.len(), 1);
    }
}

#[test]
fn the_error_of_a_wrong_interface_names_its_fault() {
    let link = SimulatedLink::new(LinkConfig::default());
    let refuse = |config: InterfaceConfig| {
        let nic = link.add_station(A, 1).remove(0);
        UserSpace::new(nic, &config, NetworkKind::Simulated).err().unwrap().to_string()
    };
    assert!(refuse(InterfaceConfig { vlan: Some(4095), ..config_a() }).contains("from 1 to 4094"));
    assert!(refuse(InterfaceConfig { udp_port: 0, ..config_a() }).contains("port 0"));
    assert!(refuse(InterfaceConfig { addresses: vec![], ..config_a() }).contains("no address"));
}

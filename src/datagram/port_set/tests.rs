//! A host with two ports on two switches, and its neighbors.

use super::*;
use crate::counters::Counter;
use crate::datagram::NetworkKind;
use crate::datagram::user_space::InterfaceConfig;
use crate::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use crate::wire::Mac;
use crate::wire::ip::{Addresses, Ip};
use crate::wire::ndp::link_local;
use smoltcp::wire::IpProtocol;
use std::time::Duration;

const HOST: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn station(link: &SimulatedLink, mac: Mac, address: &str, next_hop: &str) -> UserSpace<SimulatedNic> {
    let config = InterfaceConfig {
        addresses: vec![address.parse().unwrap()],
        next_hop_v4: Some(next_hop.parse().unwrap()),
        next_hop_v6: None,
        vlan: None,
        udp_port: 4433,
        udp_checksum: true,
    };
    UserSpace::new(link.add_station(mac, 1).remove(0), &config, NetworkKind::Simulated).unwrap()
}

fn host() -> (PortSet<SimulatedNic>, [SimulatedLink; 2]) {
    let links = [(); 2].map(|()| SimulatedLink::new(LinkConfig::default()));
    let first = station(&links[0], HOST[0], "10.77.0.1/24", "10.77.0.254");
    let second = station(&links[1], HOST[1], "10.78.0.1/24", "10.78.0.254");
    (PortSet::new(vec![first, second]), links)
}

#[test]
fn a_network_of_its_own_comes_before_a_router_and_the_port_of_the_source_before_the_others() {
    let (mut host, links) = host();
    let mut port = |destination: &str, source: Option<&str>| host.port(ip(destination), source.map(ip));
    assert_eq!((port("10.77.0.9", None), port("10.78.0.9", None)), (Some(0), Some(1)));
    assert_eq!(port("10.78.0.9", Some("10.77.0.1")), Some(1), "the destination's network decides");
    assert_eq!(port("::ffff:10.78.0.9", None), Some(1));
    let beyond = "198.51.100.1";
    assert_eq!((port(beyond, None), port(beyond, Some("10.78.0.1"))), (Some(0), Some(1)));
    let [first, second] = HOST.map(|mac| link_local(mac).to_string());
    assert_eq!((port("fe80::9", Some(&first)), port("fe80::9", Some(&second))), (Some(0), Some(1)));
    for own in ["10.77.0.1", "10.78.0.1", "10.78.0.255", "2001:db8::1"] {
        assert_eq!(port(own, None), None, "{own}");
    }
    assert_eq!(port(beyond, Some("10.79.0.1")), None, "no address of this host");
    drop(links);
}

#[test]
fn packets_of_the_kernel_leave_by_the_port_of_their_way_and_those_to_groups_by_the_first() {
    let (host, links) = host();
    let path = Arc::new(ExceptionPath::new().unwrap());
    let mut host = host.with_exceptions(path.clone());
    let (counters, now) = (Counters::default(), Instant::now());
    let packet = |source: &str, destination: &str| {
        let addresses = Addresses::new(ip(source), ip(destination)).unwrap();
        let header = Ip::outgoing(addresses, IpProtocol::Tcp);
        let mut packet = vec![0; header.encoded_len() + 20];
        header.emit(20, &mut packet);
        packet
    };
    // A neighbor that is not known yet is asked for at the port of its network.
    let mut asked = links.each_ref().map(|link| link.add_station([2, 0, 0, 0, 0, 9], 1).remove(0));
    let mut frames = |host: &mut PortSet<SimulatedNic>, packet: &[u8]| {
        path.send(packet);
        host.receive(now, &counters, |_| ());
        host.flush(now, &counters);
        asked.each_mut().map(|nic| nic.rx_burst(now, |_, _| ()))
    };
    assert_eq!(frames(&mut host, &packet("10.77.0.1", "10.78.0.9")), [0, 1]);
    assert_eq!(frames(&mut host, &packet("10.78.0.1", "10.77.0.9")), [1, 0]);
    assert_eq!(frames(&mut host, &packet("10.77.0.1", "224.0.0.22")), [1, 0]);
    assert_eq!(frames(&mut host, &packet("10.99.0.1", "10.77.0.9")), [0, 0], "no address of this host");
    assert_eq!(counters.get(Counter::DropExceptionSource), 1);
}

#[test]
fn a_port_whose_link_is_down_is_the_last_choice() {
    let (mut host, links) = host();
    let counters = Counters::default();
    let mut chosen = |up: [bool; 2]| {
        links.iter().zip(up).for_each(|(link, up)| link.set_up(up));
        host.receive(Instant::now(), &counters, |_| {});
        let down = [!up[0], !up[1]].map(u32::from);
        assert_eq!((host.links_down(), host.link_up()), (down[0] | down[1] << 1, up[0] || up[1]));
        let ways = [("10.77.0.9", None), ("198.51.100.1", Some("10.77.0.1"))];
        ways.map(|(destination, source)| host.port(ip(destination), source.map(ip)).unwrap())
    };
    assert_eq!(chosen([true, true]), [0, 0]);
    assert_eq!(chosen([false, true]), [1, 1], "by the other port's router");
    assert_eq!(chosen([false, false]), [0, 0]);
    assert_eq!(chosen([true, false]), [0, 0]);
}

#[test]
fn datagrams_for_any_address_arrive_by_any_port_and_neighbors_are_told_of_its_own_alone() {
    let (mut host, links) = host();
    // One neighbor has the host as its router; another takes the host's other address for one of its own network.
    let mut routed = station(&links[1], [2, 0, 0, 0, 0, 9], "10.78.0.9/24", "10.78.0.1");
    let mut strayed = station(&links[1], [2, 0, 0, 0, 0, 8], "10.77.0.8/24", "10.77.0.254");
    let counters = [(); 3].map(|()| Counters::default());
    let (mut now, mut got) = (Instant::now(), Vec::new());
    let transmit = |contents: &[u8]| Transmit {
        destination: "10.77.0.1:4433".parse().unwrap(),
        ecn: None,
        size: contents.len(),
        segment_size: None,
        src_ip: None,
    };
    routed.send(now, &counters[1], &transmit(b"routed"), b"routed");
    strayed.send(now, &counters[2], &transmit(b"strayed"), b"strayed");
    for _ in 0..50 {
        now += Duration::from_millis(100);
        for (at, neighbor) in [&mut routed, &mut strayed].into_iter().enumerate() {
            neighbor.receive(now, &counters[at + 1], |_| {});
            neighbor.handle_timeout(now, &counters[at + 1]);
            neighbor.flush(now, &counters[at + 1]);
        }
        host.receive(now, &counters[0], |datagram| {
            got.push((datagram.remote.ip(), datagram.local_ip, datagram.payload.to_vec()));
        });
        host.flush(now, &counters[0]);
    }
    assert_eq!(got, [(ip("10.78.0.9"), Some(ip("10.77.0.1")), b"routed".to_vec())]);
    assert_eq!(counters[2].get(Counter::DropNeighborUnreachable), 1);
}

#[test]
fn a_network_of_two_ports_names_both() {
    let (host, _links) = host();
    let info = host.info();
    assert_eq!(
        (info.device.as_str(), info.driver.as_str()),
        ("station0", "simulated"),
        "each is the first of its switch"
    );
    let devices: Vec<_> = info.ports().iter().map(|port| port.local.len()).collect();
    assert_eq!((devices, info.local.len()), (vec![2, 2], 4), "an address each, and a link-local one");
    assert_eq!(info.ports()[1].ports().len(), 1);
}

#[test]
fn packets_of_gue_leave_by_the_port_of_their_destination_and_arrive_at_each() {
    let (mut host, links) = host();
    host.open_gue().unwrap();
    let (counters, now) = (Counters::default(), Instant::now());
    let mut other = station(&links[1], [2, 0, 0, 0, 0, 3], "10.78.0.3/24", "10.78.0.254");
    let count = |other: &mut UserSpace<SimulatedNic>, host: &mut PortSet<SimulatedNic>| {
        let (mut seen, at) = (Vec::new(), now + Duration::from_millis(1));
        for _ in 0..4 {
            let mut see = |datagram: Datagram<'_>| {
                seen.push((datagram.is_gue, datagram.remote, datagram.payload.to_vec()));
            };
            host.receive(at, &counters, &mut see);
            other.receive(at, &counters, &mut see);
            host.flush(at, &counters);
            other.flush(at, &counters);
        }
        seen
    };
    let there =
        GueTransmit { destination: ip("10.78.0.3"), source: ip("10.78.0.1"), ecn: None, source_port: 49_999 };
    host.send_gue(now, &counters, &there, b"there");
    assert_eq!(count(&mut other, &mut host), [], "its port of GUE is closed");
    assert_eq!(counters.get(Counter::DropPort), 1);
    other.open_gue().unwrap();
    host.send_gue(now, &counters, &there, b"there");
    let from = SocketAddr::new(ip("10.78.0.1"), 49_999);
    assert_eq!(count(&mut other, &mut host), [(true, from, b"there".to_vec())]);
    let back = GueTransmit { destination: there.source, source: there.destination, ..there };
    other.send_gue(now, &counters, &back, b"back");
    let from = SocketAddr::new(ip("10.78.0.3"), 49_999);
    assert_eq!(count(&mut other, &mut host), [(true, from, b"back".to_vec())]);
    host.send_gue(now, &counters, &there, &[7; 1500]);
    assert_eq!(counters.get(Counter::DropTooBig), 1);
    let nowhere = GueTransmit { source: ip("10.79.0.1"), ..there };
    host.send_gue(now, &counters, &nowhere, b"nowhere");
    assert_eq!(counters.get(Counter::DropNoRoute), 1);
}

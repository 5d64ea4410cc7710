//! Packets on the exception path: those for this host that STOQ does not use, and those of its kernel.

use super::ethernet::Ethernet;
use super::{Mac, Station, ndp};
use smoltcp::wire::{EthernetProtocol, Ipv4Packet, Ipv6Packet};
use std::net::{IpAddr, Ipv4Addr};

/// What a router never forwards has this hop limit or time to live on arrival: only a neighbor can have sent it (RFC 5082).
const NEIGHBOR_HOP_LIMIT: u8 = 255;

/// An IP packet, of either family, as its headers describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionPacket<'a> {
    /// Its sender.
    pub source: IpAddr,
    /// Its receiver.
    pub destination: IpAddr,
    /// Whether its hop limit says that a neighbor on the link sent it.
    pub is_of_neighbor: bool,
    /// The whole packet, without padding.
    pub packet: &'a [u8],
}

impl<'a> ExceptionPacket<'a> {
    /// Reads a packet's header. `None`: it is no whole IP packet.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (source, destination, hop_limit, len) = match bytes.first()? >> 4 {
            4 => {
                let view = Ipv4Packet::new_checked(bytes).ok()?;
                let (source, destination) = (view.src_addr().into(), view.dst_addr().into());
                (source, destination, view.hop_limit(), usize::from(view.total_len()))
            }
            6 => {
                let view = Ipv6Packet::new_checked(bytes).ok()?;
                let (source, destination) = (view.src_addr().into(), view.dst_addr().into());
                (source, destination, view.hop_limit(), view.total_len())
            }
            _ => return None,
        };
        let is_of_neighbor = hop_limit == NEIGHBOR_HOP_LIMIT;
        Some(Self { source, destination, is_of_neighbor, packet: bytes.get(..len)? })
    }

    /// The protocol of a frame that carries it.
    pub fn ethernet_protocol(&self) -> EthernetProtocol {
        if self.destination.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 }
    }
}

impl Station {
    /// The packet of a frame that [`Station::parse`] refused, if it is for this host or for a group on its link. Groups are those that the
    /// device takes frames for.
    pub fn exception<'a>(&self, frame: &'a [u8]) -> Option<ExceptionPacket<'a>> {
        let (ethernet, payload) = Ethernet::parse(frame).ok()?;
        if ethernet.vlan != self.vlan {
            return None;
        }
        let packet = ExceptionPacket::parse(payload)?;
        if packet.ethernet_protocol() != ethernet.protocol {
            return None;
        }
        // RFC 1122 §3.3.6: what came to a group of stations is for a group.
        let takes = match group_mac(packet.destination) {
            Some(group) => ethernet.destination == group,
            None => ethernet.destination == self.mac && self.has(packet.destination),
        };
        takes.then_some(packet)
    }
}

/// The stations of a group (RFC 1112 §6.4, RFC 2464 §7); `None` for one host's address.
pub fn group_mac(address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(v4) if v4.is_multicast() => Some(group_mac_v4(v4)),
        IpAddr::V6(v6) if v6.is_multicast() => Some(ndp::multicast_mac(v6)),
        _ => None,
    }
}

fn group_mac_v4(group: Ipv4Addr) -> Mac {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet::BROADCAST;
    use crate::wire::ip::{Addresses, Ip};
    use smoltcp::wire::IpProtocol;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    fn station() -> Station {
        let addresses = ["10.77.0.1", "203.0.113.1", "fd00::1"].map(|text| text.parse().unwrap()).to_vec();
        Station { mac: OURS, vlan: None, addresses, udp_port: 4433, takes_gue: false }
    }

    /// A TCP packet without a valid content: nothing here looks into it.
    fn frame(to: Mac, source: &str, destination: &str, hop_limit: u8, padding: usize) -> Vec<u8> {
        let addresses = Addresses::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap();
        let ip = Ip { hop_limit, ..Ip::outgoing(addresses, IpProtocol::Tcp) };
        let protocol = addresses.ethernet_protocol();
        let ethernet = Ethernet { destination: to, source: THEIRS, vlan: None, protocol };
        let mut frame = vec![0; ethernet.encoded_len() + ip.encoded_len() + 20];
        ethernet.emit(&mut frame);
        ip.emit(20, &mut frame[14..]);
        frame.resize(frame.len() + padding, 0xee);
        frame
    }

    #[test]
    fn a_packet_for_one_of_our_addresses_is_shown_without_its_padding() {
        for (source, destination, len) in [("10.77.0.2", "203.0.113.1", 40), ("fd00::2", "fd00::1", 60)] {
            let frame = frame(OURS, source, destination, 255, 9);
            let packet = station().exception(&frame).unwrap();
            assert_eq!(
                (packet.source, packet.destination),
                (source.parse().unwrap(), destination.parse().unwrap())
            );
            assert!(packet.is_of_neighbor && packet.packet == &frame[14..14 + len]);
        }
    }

    #[test]
    fn a_packet_that_passed_a_router_is_of_no_neighbor() {
        let frame = frame(OURS, "198.51.100.7", "10.77.0.1", 254, 0);
        assert!(!station().exception(&frame).unwrap().is_of_neighbor);
    }

    #[test]
    fn groups_are_taken_at_their_own_stations_alone() {
        let to =
            |mac, destination| station().exception(&frame(mac, "fe80::2", destination, 255, 0)).is_some();
        assert!(to([0x33, 0x33, 0, 0, 0, 1], "ff02::1"));
        assert!(!to(OURS, "ff02::1") && !to([0x33, 0x33, 0, 0, 0, 1], "fd00::1"));
        let v4 = |mac, group| station().exception(&frame(mac, "10.77.0.2", group, 1, 0)).is_some();
        assert!(v4([1, 0, 0x5e, 0, 0, 5], "224.0.0.5") && v4([1, 0, 0x5e, 0x7f, 1, 2], "239.255.1.2"));
    }

    #[test]
    fn packets_for_other_hosts_stations_and_protocols_are_none() {
        let foreign = [
            frame(OURS, "10.77.0.2", "10.77.0.9", 64, 0),
            frame(THEIRS, "10.77.0.2", "10.77.0.1", 64, 0),
            frame(BROADCAST, "10.77.0.2", "10.77.0.1", 64, 0),
        ];
        assert!(foreign.iter().all(|frame| station().exception(frame).is_none()));
        let mut cut = frame(OURS, "10.77.0.2", "10.77.0.1", 64, 0);
        cut.pop();
        assert_eq!(station().exception(&cut), None);
        let mut mixed = frame(OURS, "10.77.0.2", "10.77.0.1", 64, 0);
        mixed[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(station().exception(&mixed), None, "IPv4 in a frame of IPv6");
        assert_eq!(ExceptionPacket::parse(&[]), None);
        assert_eq!(ExceptionPacket::parse(&[0x50; 40]), None);
    }
}

//! Frames: bytes in, fields out, and back.
//!
//! [`Station::parse`] classifies a received frame: a datagram, something for [`crate::neighbor`], an echo
//! request, or a reason to drop it. Formats are `smoltcp::wire`'s; the checksum and the UDP headers, which
//! every packet pays for, are our own.

use arp::Arp;
use ethernet::Ethernet;
use icmp::IcmpEcho;
use ip::{Addresses, Ip};
use ndp::Ndp;
use smoltcp::wire::{EthernetProtocol, Icmpv6Message, IpProtocol};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use udp::Udp;

pub mod arp;
pub mod checksum;
mod error;
pub mod ethernet;
pub mod exception;
pub mod gue;
pub mod icmp;
pub mod ip;
mod mac;
pub mod ndp;
mod offload;
pub mod prefix;
pub mod udp;

pub use error::WireError;
pub use ip::{HOP_LIMIT, IpFamily};
pub use mac::{Mac, StationAddress, StationAddressError, is_unicast};
pub use offload::{ChecksumBy, RxChecksum, TxKind};

#[cfg(test)]
mod tests;

/// The addresses that this host answers to on its link.
#[derive(Clone, Debug)]
pub struct Station {
    /// Its station address.
    pub mac: Mac,
    /// The one VLAN it takes part in; none: untagged frames only.
    pub vlan: Option<u16>,
    /// Every IP address it has, the IPv6 link-local one included.
    pub addresses: Vec<IpAddr>,
    /// The one UDP port that is open.
    pub udp_port: u16,
    /// Whether the port of GUE is open too: other gateways hand datagrams over.
    pub takes_gue: bool,
}

/// A frame for this host that is no datagram of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFrame<'a> {
    /// An ARP packet about any host: it teaches neighbors even when it is for another host.
    Arp {
        /// The frame's sender.
        source_mac: Mac,
        /// The packet.
        arp: Arp,
    },
    /// A neighbor discovery message.
    Ndp {
        /// The frame's sender.
        source_mac: Mac,
        /// The message's sender; unspecified in a probe for duplicates.
        source: Ipv6Addr,
        /// The message.
        ndp: Ndp,
    },
    /// A packet of GUE to one of our addresses.
    Gue {
        /// Its sender.
        source: SocketAddr,
        /// Our address that it is for.
        destination: IpAddr,
        /// The ECN bits of its IP header.
        ecn: u8,
        /// The packet.
        packet: &'a [u8],
    },
    /// An echo request to one of our addresses.
    EchoRequest {
        /// The frame's sender.
        source_mac: Mac,
        /// The station or group that the frame is for.
        destination_mac: Mac,
        /// Its sender, and our address that it is for.
        addresses: Addresses,
        /// The request.
        echo: IcmpEcho<'a>,
    },
}

impl Station {
    /// Shows a datagram's parts to `udp`: source, destination, ECN bits, payload. Returns any other kind of
    /// frame for this host, or the reason to drop it. `checksum` is the device's verdict: it vouches for the
    /// IPv4 header and UDP only, so other checksums are verified here in any case.
    ///
    /// Arguments stay in registers; a returned datagram would be written to memory and read back, for every
    /// packet.
    #[inline]
    pub fn parse<'a>(
        &self,
        frame: &'a [u8],
        checksum: RxChecksum,
        udp: impl FnOnce(SocketAddr, IpAddr, u8, &'a [u8]),
    ) -> Result<Option<ControlFrame<'a>>, WireError> {
        let (ethernet, payload) = Ethernet::parse(frame)?;
        if ethernet.vlan != self.vlan || !self.takes(ethernet.destination) {
            return Err(WireError::Foreign);
        }
        let checked = match checksum {
            RxChecksum::Unknown => ChecksumBy::Software,
            RxChecksum::Good => ChecksumBy::Device,
            RxChecksum::Bad => return Err(WireError::Checksum),
        };
        match ethernet.protocol {
            EthernetProtocol::Ipv4 => {
                let (ip, payload) = Ip::parse_v4(payload, checked)?;
                self.parse_packet(&ethernet, ip, payload, checked, udp)
            }
            EthernetProtocol::Ipv6 => {
                let (ip, payload) = Ip::parse_v6(payload)?;
                self.parse_packet(&ethernet, ip, payload, checked, udp)
            }
            EthernetProtocol::Arp => {
                Ok(Some(ControlFrame::Arp { source_mac: ethernet.source, arp: Arp::parse(payload)? }))
            }
            EthernetProtocol::Unknown(_) => Err(WireError::Unwanted),
        }
    }

    /// In each caller once, so that each caller knows its family.
    #[inline(always)]
    fn parse_packet<'a>(
        &self,
        ethernet: &Ethernet,
        ip: Ip,
        payload: &'a [u8],
        checked: ChecksumBy,
        udp: impl FnOnce(SocketAddr, IpAddr, u8, &'a [u8]),
    ) -> Result<Option<ControlFrame<'a>>, WireError> {
        if ip.protocol != IpProtocol::Udp {
            return self.parse_control(ethernet, &ip, payload).map(Some);
        }
        let destination = ip.addresses.destination();
        if !self.has(destination) {
            return Err(WireError::Foreign);
        }
        let (ports, payload) = Udp::parse(&ip.addresses, payload, checked)?;
        let source = ip.addresses.source();
        // The unspecified address (RFC 4291 §2.5.2) and port 0 (RFC 768) never send.
        if ports.source_port == 0 || source.is_unspecified() {
            return Err(WireError::Malformed);
        }
        let source = SocketAddr::new(source, ports.source_port);
        if ports.destination_port != self.udp_port {
            let takes = self.takes_gue && ports.destination_port == gue::GUE_PORT;
            let packet = ControlFrame::Gue { source, destination, ecn: ip.ecn, packet: payload };
            return if takes { Ok(Some(packet)) } else { Err(WireError::Port) };
        }
        udp(source, destination, ip.ecn, payload);
        Ok(None)
    }

    #[cold]
    fn parse_control<'a>(
        &self,
        ethernet: &Ethernet,
        ip: &Ip,
        payload: &'a [u8],
    ) -> Result<ControlFrame<'a>, WireError> {
        let addresses = ip.addresses;
        let to_us = self.has(addresses.destination());
        match (addresses, ip.protocol) {
            (Addresses::V4 { .. }, IpProtocol::Icmp) if !to_us => Err(WireError::Foreign),
            (Addresses::V4 { .. }, IpProtocol::Icmp) => echo_request(ethernet, addresses, payload),
            (Addresses::V6 { source, destination }, IpProtocol::Icmpv6) => {
                if !to_us && !self.listens_on(destination) {
                    return Err(WireError::Foreign);
                }
                match payload.first().copied().map(Icmpv6Message::from) {
                    // An echo request to a group would make every host answer at once: only our own addresses
                    // answer.
                    Some(Icmpv6Message::EchoRequest) if to_us && !source.is_unspecified() => {
                        echo_request(ethernet, addresses, payload)
                    }
                    Some(Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert) => {
                        Ok(ControlFrame::Ndp {
                            source_mac: ethernet.source,
                            source,
                            ndp: Ndp::parse(ip, payload)?,
                        })
                    }
                    Some(_) => Err(WireError::Unwanted),
                    None => Err(WireError::Malformed),
                }
            }
            _ if to_us => Err(WireError::Unwanted),
            _ => Err(WireError::Foreign),
        }
    }

    /// Whether `address` is one of this host's.
    #[inline]
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether this host takes frames for `mac`: its own address, broadcast, and the groups of its addresses.
    #[inline]
    fn takes(&self, mac: Mac) -> bool {
        mac == self.mac
            || mac == ethernet::BROADCAST
            || mac == ndp::multicast_mac(ndp::ALL_NODES)
            || (mac[..3] == [0x33, 0x33, 0xff]
                && self.v6().any(|ours| ndp::multicast_mac(ndp::solicited_node(ours)) == mac))
    }

    fn listens_on(&self, group: Ipv6Addr) -> bool {
        group == ndp::ALL_NODES || self.v6().any(|ours| ndp::solicited_node(ours) == group)
    }

    fn v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }
}

fn echo_request<'a>(
    ethernet: &Ethernet,
    addresses: Addresses,
    payload: &'a [u8],
) -> Result<ControlFrame<'a>, WireError> {
    let echo = IcmpEcho::parse(&addresses, payload)?;
    if echo.reply {
        return Err(WireError::Unwanted);
    }
    Ok(ControlFrame::EchoRequest {
        source_mac: ethernet.source,
        destination_mac: ethernet.destination,
        addresses,
        echo,
    })
}

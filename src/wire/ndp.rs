//! Neighbor solicitations and advertisements (RFC 4861).

use super::icmp::{fill_checksum, verify};
use super::ip::{Addresses, Ip};
use super::{Mac, WireError};
use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress};
use std::net::Ipv6Addr;

/// RFC 4861 §7.1: a hop limit of 255 proves that the packet was not forwarded by a router.
pub const NDP_HOP_LIMIT: u8 = 255;
/// Every IPv6 host on the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A neighbor discovery message of the two kinds that resolve addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// Which station has `target`? RFC 4861 §4.3.
    Solicit {
        /// The address asked for.
        target: Ipv6Addr,
        /// The sender's station address; none in a probe for duplicates (RFC 4862 §5.4.2).
        source_mac: Option<Mac>,
    },
    /// `target` is here. RFC 4861 §4.4.
    Advertise {
        /// The address in question.
        target: Ipv6Addr,
        /// Its station address.
        target_mac: Option<Mac>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces a known station address.
        overrides: bool,
    },
}

impl Ndp {
    /// Reads the payload of an ICMPv6 packet, under the rules of RFC 4861 §7.1. Fails with [`WireError::Malformed`],
    /// [`WireError::Checksum`], or [`WireError::Unwanted`] when it is neither solicitation nor advertisement.
    pub fn parse(ip: &Ip, bytes: &[u8]) -> Result<Self, WireError> {
        let Addresses::V6 { source, destination } = ip.addresses else { return Err(WireError::Unwanted) };
        verify(&ip.addresses, bytes)?;
        let view = Icmpv6Packet::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        if !matches!(view.msg_type(), Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert) {
            return Err(WireError::Unwanted);
        }
        if ip.hop_limit != NDP_HOP_LIMIT || view.msg_code() != 0 {
            return Err(WireError::Malformed);
        }
        let message = match NdiscRepr::parse(&view).map_err(|_| WireError::Malformed)? {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                Self::Solicit { target: target_addr, source_mac: lladdr.and_then(station) }
            }
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => Self::Advertise {
                target: target_addr,
                target_mac: lladdr.and_then(station),
                router: flags.contains(NdiscNeighborFlags::ROUTER),
                solicited: flags.contains(NdiscNeighborFlags::SOLICITED),
                overrides: flags.contains(NdiscNeighborFlags::OVERRIDE),
            },
            _ => return Err(WireError::Unwanted),
        };
        let broken = match message {
            // RFC 4861 §7.1.1: from the unspecified address, to a solicited-node group and without a link-layer address.
            Self::Solicit { target, source_mac } => {
                target.is_multicast()
                    || (source.is_unspecified()
                        && (source_mac.is_some() || destination != solicited_node(target)))
            }
            // RFC 4861 §7.1.2: an answer to one goes to one.
            Self::Advertise { target, solicited, .. } => {
                target.is_multicast() || source.is_unspecified() || (solicited && destination.is_multicast())
            }
        };
        if broken { Err(WireError::Malformed) } else { Ok(message) }
    }

    /// The message's length.
    pub fn encoded_len(&self) -> usize {
        self.repr().buffer_len()
    }

    /// Writes the message over the whole of `out`, which is [`Ndp::encoded_len`] bytes.
    pub fn emit(&self, addresses: &Addresses, out: &mut [u8]) {
        out.fill(0);
        // smoltcp finds the options by the type in the first byte.
        out[0] = match self {
            Self::Solicit { .. } => Icmpv6Message::NeighborSolicit,
            Self::Advertise { .. } => Icmpv6Message::NeighborAdvert,
        }
        .into();
        self.repr().emit(&mut Icmpv6Packet::new_unchecked(&mut *out));
        fill_checksum(addresses, out);
    }

    fn repr(&self) -> NdiscRepr<'static> {
        let raw = |mac: Option<Mac>| mac.map(|mac| RawHardwareAddress::from_bytes(&mac));
        match *self {
            Self::Solicit { target, source_mac } => {
                NdiscRepr::NeighborSolicit { target_addr: target, lladdr: raw(source_mac) }
            }
            Self::Advertise { target, target_mac, router, solicited, overrides } => {
                let mut flags = NdiscNeighborFlags::empty();
                flags.set(NdiscNeighborFlags::ROUTER, router);
                flags.set(NdiscNeighborFlags::SOLICITED, solicited);
                flags.set(NdiscNeighborFlags::OVERRIDE, overrides);
                NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: raw(target_mac) }
            }
        }
    }
}

fn station(raw: RawHardwareAddress) -> Option<Mac> {
    raw.as_bytes().try_into().ok()
}

/// The group that hosts with `address` listen on for solicitations (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The group of stations that carries an IPv6 multicast group (RFC 2464 §7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The link-local address that a station derives from its own (RFC 4291 appendix A: modified EUI-64).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let words = [[a ^ 0x02, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    Ipv6Addr::new(0xfe80, 0, 0, 0, words[0], words[1], words[2], words[3])
}

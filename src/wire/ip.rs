//! IPv4 and IPv6 headers.

use super::checksum::Sum;
use super::{ChecksumBy, WireError};
use smoltcp::wire::{EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hop limit or time to live of packets from this host (RFC 1700).
pub const HOP_LIMIT: u8 = 64;

/// An IPv4 header without options, bytes.
pub const V4_HEADER_BYTES: usize = 20;
/// An IPv6 header without extensions, bytes.
pub const V6_HEADER_BYTES: usize = 40;

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of `address` on the wire: an IPv4 address mapped into IPv6 is IPv4.
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Source and destination, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Both IPv4.
    V4 {
        /// The sender.
        source: Ipv4Addr,
        /// The receiver.
        destination: Ipv4Addr,
    },
    /// Both IPv6.
    V6 {
        /// The sender.
        source: Ipv6Addr,
        /// The receiver.
        destination: Ipv6Addr,
    },
}

impl Addresses {
    /// The pair; none when the families differ.
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            _ => None,
        }
    }

    /// The sender.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match *self {
            Self::V4 { source, .. } => IpAddr::V4(source),
            Self::V6 { source, .. } => IpAddr::V6(source),
        }
    }

    /// The receiver.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match *self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }

    /// The EtherType that carries this family.
    pub const fn ethernet_protocol(&self) -> EthernetProtocol {
        match self {
            Self::V4 { .. } => EthernetProtocol::Ipv4,
            Self::V6 { .. } => EthernetProtocol::Ipv6,
        }
    }

    /// The sum over the pseudo-header without the length (RFC 768, RFC 8200 §8.1): [`Sum::word`] adds the
    /// length.
    #[inline]
    pub fn pseudo_sum(&self, protocol: IpProtocol) -> Sum {
        let sum = match self {
            Self::V4 { source, destination } => {
                Sum::default().bytes(&source.octets()).bytes(&destination.octets())
            }
            Self::V6 { source, destination } => {
                Sum::default().bytes(&source.octets()).bytes(&destination.octets())
            }
        };
        sum.word(u16::from(u8::from(protocol)))
    }
}

/// The fields of an IP header that STOQ uses, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source and destination.
    pub addresses: Addresses,
    /// The payload's protocol.
    pub protocol: IpProtocol,
    /// Routers that may still forward it (IPv4: time to live).
    pub hop_limit: u8,
    /// The two ECN bits (RFC 3168 §5).
    pub ecn: u8,
}

/// RFC 1122 §3.2.1.3: multicast, broadcast, loopback, and 0.0.0.0, which only a host that has no address yet may use.
#[inline]
const fn is_never_a_source(address: u32) -> bool {
    address >> 28 == 0xe || address == u32::MAX || address >> 24 == 127 || address == 0
}

impl Ip {
    /// A header as this host sends it: hop limit 64, no ECN.
    pub const fn outgoing(addresses: Addresses, protocol: IpProtocol) -> Self {
        Self { addresses, protocol, hop_limit: HOP_LIMIT, ecn: 0 }
    }

    /// Splits an IPv4 packet into header and payload. Options are skipped, Ethernet padding is cut off.
    ///
    /// Fails with [`WireError::Malformed`], with [`WireError::Fragment`], or with [`WireError::Checksum`]
    /// when software checks the header checksum.
    #[inline]
    pub fn parse_v4(bytes: &[u8], checked: ChecksumBy) -> Result<(Self, &[u8]), WireError> {
        let view = Ipv4Packet::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        if view.version() != 4 {
            return Err(WireError::Malformed);
        }
        if checked == ChecksumBy::Software
            && !Sum::default().bytes(&bytes[..usize::from(view.header_len())]).holds()
        {
            return Err(WireError::Checksum);
        }
        if view.more_frags() || view.frag_offset() != 0 {
            return Err(WireError::Fragment);
        }
        // As one number: comparing octet by octet would put the address together in memory again, for every
        // packet.
        let source = view.src_addr().to_bits();
        if is_never_a_source(source) {
            return Err(WireError::Malformed);
        }
        let source = Ipv4Addr::from_bits(source);
        let header = Self {
            addresses: Addresses::V4 { source, destination: view.dst_addr() },
            protocol: view.next_header(),
            hop_limit: view.hop_limit(),
            ecn: view.ecn(),
        };
        Ok((header, view.payload()))
    }

    /// Splits an IPv6 packet into header and payload; Ethernet padding is cut off. The fragment header fails
    /// with [`WireError::Fragment`]. Other extension headers are left to the caller, as an unknown protocol.
    #[inline]
    pub fn parse_v6(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let view = Ipv6Packet::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        if view.version() != 6 {
            return Err(WireError::Malformed);
        }
        if view.next_header() == IpProtocol::Ipv6Frag {
            return Err(WireError::Fragment);
        }
        let source = view.src_addr();
        // RFC 4291 §2.5.3, §2.7: neither is ever a source on a link.
        if source.is_multicast() || source.is_loopback() {
            return Err(WireError::Malformed);
        }
        let header = Self {
            addresses: Addresses::V6 { source, destination: view.dst_addr() },
            protocol: view.next_header(),
            hop_limit: view.hop_limit(),
            ecn: view.traffic_class() & 0b11,
        };
        Ok((header, view.payload()))
    }

    /// The header's length: 20 or 40 bytes.
    pub const fn encoded_len(&self) -> usize {
        match self.addresses {
            Addresses::V4 { .. } => V4_HEADER_BYTES,
            Addresses::V6 { .. } => V6_HEADER_BYTES,
        }
    }

    /// Writes the header at the start of `out`, for a payload of `payload_len` bytes. IPv4: no options, not to be
    /// fragmented, checksum filled in. IPv6: flow label 0.
    pub fn emit(&self, payload_len: usize, out: &mut [u8]) {
        match self.addresses {
            Addresses::V4 { source, destination } => {
                let out = &mut out[..V4_HEADER_BYTES];
                out.fill(0);
                let mut view = Ipv4Packet::new_unchecked(&mut *out);
                view.set_version(4);
                view.set_header_len(V4_HEADER_BYTES as u8);
                view.set_ecn(self.ecn);
                view.set_total_len((V4_HEADER_BYTES + payload_len) as u16);
                // RFC 6864 §4.1: the identification of a packet that is never fragmented may be anything; 0 here.
                view.set_dont_frag(true);
                view.set_hop_limit(self.hop_limit);
                view.set_next_header(self.protocol);
                view.set_src_addr(source);
                view.set_dst_addr(destination);
                let checksum = Sum::default().bytes(out).checksum();
                Ipv4Packet::new_unchecked(out).set_checksum(checksum);
            }
            Addresses::V6 { source, destination } => {
                let out = &mut out[..V6_HEADER_BYTES];
                out.fill(0);
                let mut view = Ipv6Packet::new_unchecked(out);
                view.set_version(6);
                view.set_traffic_class(self.ecn);
                view.set_payload_len(payload_len as u16);
                view.set_next_header(self.protocol);
                view.set_hop_limit(self.hop_limit);
                view.set_src_addr(source);
                view.set_dst_addr(destination);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sources_are_judged_as_the_standard_library_does(bits: u32, first in 0u8..=255) {
            for bits in [bits, bits & 0x00ff_ffff | u32::from(first) << 24, 0, u32::MAX] {
                let address = Ipv4Addr::from_bits(bits);
                let never = address.is_multicast() || address.is_broadcast() || address.is_loopback();
                prop_assert_eq!(is_never_a_source(bits), never || address.is_unspecified());
            }
        }
    }
}

//! Generic UDP encapsulation (draft-ietf-intarea-gue-09), variant 0: a datagram that one gateway hands over to another, or a question whether
//! the other one is there.
//!
//! ```text
//! octet 0: variant (2 bits, 0), C (1 bit), length of further fields (5 bits, 0)    octet 1: C = 0: the IP protocol of the packet inside, 4 or 41
//! octets 2 and 3: flags, 0                                                                  C = 1: the kind of control message
//! ```
//!
//! After the header comes the IP packet of the datagram, or a control message. Headers with further fields are not read.

use super::ip::{Addresses, Ip};
use super::udp::{HEADER_BYTES as UDP_BYTES, Udp};
use super::{ChecksumBy, WireError};
use smoltcp::wire::IpProtocol;
use std::net::SocketAddr;

/// The UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;
/// The header, bytes.
const HEADER_BYTES: usize = 4;
/// What a packet of GUE has before the packet inside, at most: IPv6, UDP and its own header, bytes.
pub const GUE_OVERHEAD_BYTES: u16 = 40 + 8 + HEADER_BYTES as u16;

const CONTROL: u8 = 0x20;
/// IP protocol numbers of the packet inside.
const IN_IPV4: u8 = 4;
const IN_IPV6: u8 = 41;
/// Kinds of control messages from 128 on are their users' own.
const ASK: u8 = 0xf0;
const ANSWER: u8 = 0xf1;

/// A packet of GUE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gue<'a> {
    /// A datagram.
    Inner(InnerDatagram<'a>),
    /// A control message: a question, which has no further purpose than its answer.
    Ask(u64),
    /// The answer to the question with this number.
    Answer(u64),
}

/// The datagram inside a packet of GUE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerDatagram<'a> {
    /// Its sender.
    pub source: SocketAddr,
    /// Its receiver, of the same family.
    pub destination: SocketAddr,
    /// The ECN bits of its IP header.
    pub ecn: u8,
    /// The UDP payload.
    pub payload: &'a [u8],
}

impl<'a> Gue<'a> {
    /// Reads the UDP payload of a packet of GUE. The checksum of the UDP header inside is not looked at: that outside covers everything.
    ///
    /// # Errors
    /// [`WireError::Malformed`], [`WireError::Fragment`] or [`WireError::Checksum`] of the IP header inside.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(WireError::Malformed)?;
        let number = || rest.try_into().map(u64::from_be_bytes).map_err(|_| WireError::Malformed);
        let (ip, packet) = match *header {
            [0, IN_IPV4, 0, 0] => Ip::parse_v4(rest, ChecksumBy::Software)?,
            [0, IN_IPV6, 0, 0] => Ip::parse_v6(rest)?,
            [CONTROL, ASK, 0, 0] => return number().map(Self::Ask),
            [CONTROL, ANSWER, 0, 0] => return number().map(Self::Answer),
            _ => return Err(WireError::Malformed),
        };
        if ip.protocol != IpProtocol::Udp {
            return Err(WireError::Malformed);
        }
        let (ports, payload) = Udp::parse(&ip.addresses, packet, ChecksumBy::Device)?;
        let source = SocketAddr::new(ip.addresses.source(), ports.source_port);
        if ports.source_port == 0 || source.ip().is_unspecified() {
            return Err(WireError::Malformed);
        }
        let destination = SocketAddr::new(ip.addresses.destination(), ports.destination_port);
        Ok(Self::Inner(InnerDatagram { source, destination, ecn: ip.ecn, payload }))
    }

    /// The length of the packet, bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES
            + match self {
                Self::Inner(inner) => inner.encoded_len(),
                Self::Ask(_) | Self::Answer(_) => size_of::<u64>(),
            }
    }

    /// Writes the packet over the whole of `out`.
    ///
    /// # Panics
    /// If `out` has another length, or the addresses of the datagram are of two families.
    pub fn emit(&self, out: &mut [u8]) {
        let (header, rest) = out.split_at_mut(HEADER_BYTES);
        let (first, kind) = match self {
            Self::Inner(inner) => {
                inner.emit(rest);
                (0, if inner.source.is_ipv4() { IN_IPV4 } else { IN_IPV6 })
            }
            Self::Ask(number) => {
                rest.copy_from_slice(&number.to_be_bytes());
                (CONTROL, ASK)
            }
            Self::Answer(number) => {
                rest.copy_from_slice(&number.to_be_bytes());
                (CONTROL, ANSWER)
            }
        };
        header.copy_from_slice(&[first, kind, 0, 0]);
    }
}

impl InnerDatagram<'_> {
    fn ip(&self) -> Ip {
        let addresses = Addresses::new(self.source.ip(), self.destination.ip()).expect("one family");
        Ip { ecn: self.ecn, ..Ip::outgoing(addresses, IpProtocol::Udp) }
    }

    fn encoded_len(&self) -> usize {
        self.ip().encoded_len() + UDP_BYTES + self.payload.len()
    }

    fn emit(&self, out: &mut [u8]) {
        let ip = self.ip();
        let len = UDP_BYTES + self.payload.len();
        ip.emit(len, out);
        let (header, payload) = out[ip.encoded_len()..].split_at_mut(UDP_BYTES);
        payload.copy_from_slice(self.payload);
        header[..2].copy_from_slice(&self.source.port().to_be_bytes());
        header[2..4].copy_from_slice(&self.destination.port().to_be_bytes());
        header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        let sum = ip.addresses.pseudo_sum(IpProtocol::Udp).word(len as u16);
        let checksum = sum.bytes(&header[..6]).bytes(payload).udp_checksum();
        header[6..].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The ECN bits of a datagram that went through a tunnel, by its own and by those of the packet around it (RFC 6040 §4.2). `None`: it must be
/// dropped, since its sender does not know of ECN and the tunnel was congested.
pub fn combined_ecn(inner: u8, outer: u8) -> Option<u8> {
    const CE: u8 = 0b11;
    match (inner & CE, outer & CE) {
        (0, CE) => None,
        (_, CE) => Some(CE),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn encoded(gue: &Gue<'_>) -> Vec<u8> {
        let mut out = vec![0xaa; gue.encoded_len()];
        gue.emit(&mut out);
        out
    }

    proptest! {
        #[test]
        fn a_datagram_comes_out_as_it_went_in(
            v4: (u32, u32), v6: (u128, u128), ports in (1..=u16::MAX, 1..=u16::MAX), ecn in 0..4u8,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let v4 = (Ipv4Addr::from(v4.0 & 0x3fff_ffff | 0x0100_0000), Ipv4Addr::from(v4.1));
            let v6 = (Ipv6Addr::from(v6.0 & (u128::MAX >> 2) | 2 << 120), Ipv6Addr::from(v6.1));
            for (source, destination) in [(v4.0.into(), v4.1.into()), (v6.0.into(), v6.1.into())] {
                let source = SocketAddr::new(source, ports.0);
                let destination = SocketAddr::new(destination, ports.1);
                let gue = Gue::Inner(InnerDatagram { source, destination, ecn, payload: &payload });
                let bytes = encoded(&gue);
                prop_assert_eq!(Gue::parse(&bytes), Ok(gue));
                // As a host would check it.
                let inner = &bytes[HEADER_BYTES..];
                let (ip, packet) = match source {
                    SocketAddr::V4(_) => Ip::parse_v4(inner, ChecksumBy::Software).unwrap(),
                    SocketAddr::V6(_) => Ip::parse_v6(inner).unwrap(),
                };
                prop_assert!(Udp::parse(&ip.addresses, packet, ChecksumBy::Software).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0..4usize) {
            let _ = Gue::parse(&bytes);
            let begun = [[0, IN_IPV4, 0, 0], [0, IN_IPV6, 0, 0], [CONTROL, ASK, 0, 0], [CONTROL, ANSWER, 0, 0]][kind];
            let _ = Gue::parse(&[&begun[..], &bytes].concat());
        }
    }

    #[test]
    fn questions_and_answers_have_their_number_and_nothing_else() {
        for gue in [Gue::Ask(7), Gue::Answer(u64::MAX)] {
            let bytes = encoded(&gue);
            assert_eq!((bytes.len(), Gue::parse(&bytes)), (12, Ok(gue)));
            assert_eq!(Gue::parse(&[&bytes[..], &[0]].concat()), Err(WireError::Malformed));
        }
    }

    #[test]
    fn a_header_of_another_variant_or_with_further_fields_is_refused() {
        let good = encoded(&Gue::Inner(InnerDatagram {
            source: "192.0.2.1:5000".parse().unwrap(),
            destination: "203.0.113.1:4433".parse().unwrap(),
            ecn: 0,
            payload: b"hello",
        }));
        assert!(Gue::parse(&good).is_ok());
        for (at, value) in [(0, 0x40), (0, 0x80), (0, 0x01), (0, CONTROL), (1, 17), (2, 0x80), (3, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(Gue::parse(&bytes), Err(WireError::Malformed), "octet {at} is {value}");
        }
    }

    #[test]
    fn congestion_of_the_tunnel_shows_inside() {
        assert_eq!(combined_ecn(0, 0), Some(0));
        assert_eq!(combined_ecn(2, 2), Some(2));
        assert_eq!(combined_ecn(2, 0), Some(2));
        assert_eq!(combined_ecn(2, 3), Some(3));
        assert_eq!(combined_ecn(3, 2), Some(3));
        assert_eq!(combined_ecn(0, 3), None);
    }
}

//! UDP, and the prebuilt headers that carry it.

use super::checksum::Sum;
use super::ethernet::{Ethernet, HEADER_BYTES as ETHERNET_BYTES, VLAN_TAG_BYTES};
use super::ip::{Addresses, Ip, V6_HEADER_BYTES};
use super::{ChecksumBy, Mac, TxKind, WireError};
use smoltcp::wire::{IpProtocol, UdpPacket};

/// A UDP header, bytes.
pub const HEADER_BYTES: usize = 8;
/// The longest headers before a UDP payload: tagged Ethernet, IPv6, UDP.
const TEMPLATE_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_TAG_BYTES + V6_HEADER_BYTES + HEADER_BYTES;

/// The ports of a UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
}

impl Udp {
    /// Splits the payload of an IP packet into ports and UDP payload.
    ///
    /// Fails with [`WireError::Malformed`], or with [`WireError::Checksum`] when software checks the checksum. No
    /// checksum at all is fine over IPv4 (RFC 768) and malformed over IPv6 (RFC 8200 §8.1).
    // Inlined, because then the addresses need not be in memory.
    #[inline(always)]
    pub fn parse<'a>(
        addresses: &Addresses,
        bytes: &'a [u8],
        checked: ChecksumBy,
    ) -> Result<(Self, &'a [u8]), WireError> {
        let view = UdpPacket::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        if view.checksum() == 0 {
            if matches!(addresses, Addresses::V6 { .. }) {
                return Err(WireError::Malformed);
            }
        } else if checked == ChecksumBy::Software {
            let len = view.len();
            let sum = addresses.pseudo_sum(IpProtocol::Udp).word(len).bytes(&bytes[..usize::from(len)]);
            if !sum.holds() {
                return Err(WireError::Checksum);
            }
        }
        let ports = Self { source_port: view.src_port(), destination_port: view.dst_port() };
        Ok((ports, view.payload()))
    }
}

/// The headers of every datagram from one address and port to another, built once. Only lengths, ECN bits and
/// checksums change from datagram to datagram.
#[derive(Clone, Debug)]
pub struct UdpTemplate {
    bytes: [u8; TEMPLATE_BYTES_MAX],
    len: u8,
    l2_len: u8,
    v4: bool,
    /// Over the IPv4 header without its length and ECN bits.
    ip_sum: Sum,
    /// Over the pseudo-header and the ports, without both lengths.
    udp_sum: Sum,
    /// Whether datagrams get a UDP checksum by software.
    fills_udp: bool,
}

impl UdpTemplate {
    /// The headers from `source` to `destination` on one VLAN or none, between `addresses` and `ports`.
    pub fn new(source: Mac, destination: Mac, vlan: Option<u16>, addresses: Addresses, ports: Udp) -> Self {
        let ethernet = Ethernet { destination, source, vlan, protocol: addresses.ethernet_protocol() };
        let ip = Ip::outgoing(addresses, IpProtocol::Udp);
        let (l2_len, ip_len) = (ethernet.encoded_len(), ip.encoded_len());
        let udp_at = l2_len + ip_len;
        let v4 = matches!(addresses, Addresses::V4 { .. });
        let mut bytes = [0; TEMPLATE_BYTES_MAX];
        ethernet.emit(&mut bytes);
        ip.emit(0, &mut bytes[l2_len..]);
        if v4 {
            // Total length and checksum are each packet's own.
            bytes[l2_len + 2..l2_len + 4].fill(0);
            bytes[l2_len + 10..l2_len + 12].fill(0);
        }
        let mut udp = UdpPacket::new_unchecked(&mut bytes[udp_at..]);
        udp.set_src_port(ports.source_port);
        udp.set_dst_port(ports.destination_port);
        Self {
            len: (udp_at + HEADER_BYTES) as u8,
            l2_len: l2_len as u8,
            v4,
            ip_sum: Sum::default().bytes(&bytes[l2_len..udp_at]),
            udp_sum: addresses.pseudo_sum(IpProtocol::Udp).bytes(&bytes[udp_at..udp_at + 4]),
            fills_udp: true,
            bytes,
        }
    }

    /// Omits the UDP checksum where the device does not fill it in, which IPv4 allows (RFC 768). IPv6 does
    /// not (RFC 8200 §8.1): nothing changes there.
    #[must_use]
    pub fn without_udp_checksum(mut self) -> Self {
        self.fills_udp = !self.v4;
        self
    }

    /// The same headers from another port.
    #[must_use]
    pub fn from_port(&self, port: u16) -> Self {
        let mut from = self.clone();
        let at = self.header_len() - HEADER_BYTES;
        let before = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        from.bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
        from.udp_sum = self.udp_sum.word(!before).word(port);
        from
    }

    /// Bytes before the payload.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.len)
    }

    /// Bytes before the IP header.
    #[inline]
    pub fn l2_len(&self) -> usize {
        usize::from(self.l2_len)
    }

    /// The frame's kind for the device.
    #[inline]
    pub fn kind(&self, filled: ChecksumBy) -> TxKind {
        match (filled, self.v4) {
            (ChecksumBy::Software, _) => TxKind::Plain,
            (ChecksumBy::Device, true) => TxKind::UdpV4 { l2_len: self.l2_len },
            (ChecksumBy::Device, false) => TxKind::UdpV6 { l2_len: self.l2_len },
        }
    }

    /// Writes headers and `payload` over the whole of `frame`, whose length is [`UdpTemplate::header_len`] plus the
    /// payload's. Checksums that the device fills in are left as [`TxKind`] says the device wants them.
    #[inline]
    pub fn emit(&self, ecn: u8, payload: &[u8], filled: ChecksumBy, frame: &mut [u8]) {
        let offload = filled == ChecksumBy::Device;
        let (header, body) = frame.split_at_mut(self.header_len());
        header.copy_from_slice(&self.bytes[..header.len()]);
        body.copy_from_slice(payload);
        let (ip, udp) =
            header[self.l2_len()..].split_at_mut(self.header_len() - self.l2_len() - HEADER_BYTES);
        let udp_len = (HEADER_BYTES + payload.len()) as u16;
        if self.v4 {
            let total_len = ip.len() as u16 + udp_len;
            ip[1] = ecn;
            ip[2..4].copy_from_slice(&total_len.to_be_bytes());
            if !offload {
                let checksum = self.ip_sum.word(u16::from(ecn)).word(total_len).checksum();
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
        } else {
            // The traffic class straddles the first two bytes; its ECN bits are bits 4 and 5 of the second.
            ip[1] = ecn << 4;
            ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let checksum = if offload {
            self.pseudo_header_sum(udp_len)
        } else if !self.fills_udp {
            0
        } else {
            self.udp_sum.word(udp_len).word(udp_len).bytes(payload).udp_checksum()
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The folded pseudo-header sum with the length in it, as devices expect it in the checksum field.
    #[inline]
    fn pseudo_header_sum(&self, udp_len: u16) -> u16 {
        let ports = &self.bytes[self.header_len() - HEADER_BYTES..][..4];
        let (source, destination) =
            (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
        // One's-complement subtraction: the ports are in `udp_sum`, and the device adds them itself.
        self.udp_sum.word(!source).word(!destination).word(udp_len).fold()
    }
}

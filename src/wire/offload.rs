//! The checksum work that a device does, and the facts that it needs for it.

/// The device's judgment of a received frame's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// The device checked nothing: software must.
    Unknown,
    /// The device checked the IPv4 header and the UDP checksum, and both hold.
    Good,
    /// The device found one of them wrong.
    Bad,
}

/// The side that checks the IPv4 header checksum and the UDP checksum of a received packet, or fills them in for a sent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumBy {
    /// This code.
    Software,
    /// The device: it has checked a received packet, and fills in the checksums of a sent one.
    Device,
}

/// The facts of a frame that the device needs to fill in its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxKind {
    /// Complete as it is: ARP, ICMP, or checksums already filled in by software.
    Plain,
    /// UDP over IPv4 without options; `l2_len` bytes of Ethernet (and VLAN) header come first. The IPv4 header checksum
    /// field is zero and the UDP checksum field holds the pseudo-header sum.
    UdpV4 {
        /// Bytes before the IP header.
        l2_len: u8,
    },
    /// UDP over IPv6 without extension headers; the UDP checksum field holds the pseudo-header sum.
    UdpV6 {
        /// Bytes before the IP header.
        l2_len: u8,
    },
}

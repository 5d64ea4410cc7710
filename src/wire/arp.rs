//! ARP for IPv4 over Ethernet (RFC 826).

use super::{Mac, WireError};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};
use std::net::Ipv4Addr;

/// An ARP packet, bytes.
pub const PACKET_BYTES: usize = 28;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// An answer (operation 2), not a question.
    pub reply: bool,
    /// The sender's station address.
    pub source_mac: Mac,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227 §2.1).
    pub source: Ipv4Addr,
    /// The target's station address in answers; zero in questions.
    pub target_mac: Mac,
    /// The address in question; in an answer, the address of its receiver.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a packet. [`WireError::Malformed`] when it is too short, [`WireError::Unwanted`] when it is not about IPv4
    /// over Ethernet or neither question nor answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let view = ArpPacket::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        let repr = ArpRepr::parse(&view).map_err(|_| WireError::Unwanted)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } = repr
        else {
            return Err(WireError::Unwanted);
        };
        let reply = match operation {
            ArpOperation::Request => false,
            ArpOperation::Reply => true,
            ArpOperation::Unknown(_) => return Err(WireError::Unwanted),
        };
        Ok(Self {
            reply,
            source_mac: source_hardware_addr.0,
            source: source_protocol_addr,
            target_mac: target_hardware_addr.0,
            target: target_protocol_addr,
        })
    }

    /// The packet's length.
    pub const fn encoded_len(&self) -> usize {
        PACKET_BYTES
    }

    /// Writes the packet at the start of `out`, which has room for [`Arp::encoded_len`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let repr = ArpRepr::EthernetIpv4 {
            operation: if self.reply { ArpOperation::Reply } else { ArpOperation::Request },
            source_hardware_addr: EthernetAddress(self.source_mac),
            source_protocol_addr: self.source,
            target_hardware_addr: EthernetAddress(self.target_mac),
            target_protocol_addr: self.target,
        };
        repr.emit(&mut ArpPacket::new_unchecked(&mut out[..PACKET_BYTES]));
    }
}

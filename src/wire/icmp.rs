//! Echo requests and replies of ICMP (RFC 792) and ICMPv6 (RFC 4443).

use super::WireError;
use super::checksum::Sum;
use super::ip::Addresses;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol,
};

/// An echo's header, bytes.
pub const HEADER_BYTES: usize = 8;

/// An echo request or reply. Both families have the same layout, except for type and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpEcho<'a> {
    /// A reply, not a request.
    pub reply: bool,
    /// Names the asking program.
    pub identifier: u16,
    /// Counts its requests.
    pub sequence: u16,
    /// Bytes that the reply repeats.
    pub data: &'a [u8],
}

impl<'a> IcmpEcho<'a> {
    /// Reads the payload of an IP packet of protocol ICMP or ICMPv6. Fails with [`WireError::Malformed`],
    /// [`WireError::Checksum`], or [`WireError::Unwanted`] when it is no echo.
    pub fn parse(addresses: &Addresses, bytes: &'a [u8]) -> Result<Self, WireError> {
        verify(addresses, bytes)?;
        match addresses {
            Addresses::V4 { .. } => Self::parse_v4(bytes),
            Addresses::V6 { source, destination } => {
                let view = Icmpv6Packet::new_checked(bytes).map_err(|_| WireError::Malformed)?;
                if !matches!(view.msg_type(), Icmpv6Message::EchoRequest | Icmpv6Message::EchoReply) {
                    return Err(WireError::Unwanted);
                }
                match Icmpv6Repr::parse(source, destination, &view, &ChecksumCapabilities::ignored()) {
                    Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => {
                        Ok(Self { reply: false, identifier: ident, sequence: seq_no, data })
                    }
                    Ok(Icmpv6Repr::EchoReply { ident, seq_no, data }) => {
                        Ok(Self { reply: true, identifier: ident, sequence: seq_no, data })
                    }
                    _ => Err(WireError::Malformed),
                }
            }
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, WireError> {
        let view = Icmpv4Packet::new_checked(bytes).map_err(|_| WireError::Malformed)?;
        if !matches!(view.msg_type(), Icmpv4Message::EchoRequest | Icmpv4Message::EchoReply) {
            return Err(WireError::Unwanted);
        }
        match Icmpv4Repr::parse(&view, &ChecksumCapabilities::ignored()) {
            Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
                Ok(Self { reply: false, identifier: ident, sequence: seq_no, data })
            }
            Ok(Icmpv4Repr::EchoReply { ident, seq_no, data }) => {
                Ok(Self { reply: true, identifier: ident, sequence: seq_no, data })
            }
            _ => Err(WireError::Malformed),
        }
    }

    /// The message's length.
    pub const fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.data.len()
    }

    /// Writes the message over the whole of `out`, which is [`IcmpEcho::encoded_len`] bytes.
    pub fn emit(&self, addresses: &Addresses, out: &mut [u8]) {
        let kind: u8 = match (addresses, self.reply) {
            (Addresses::V4 { .. }, false) => Icmpv4Message::EchoRequest.into(),
            (Addresses::V4 { .. }, true) => Icmpv4Message::EchoReply.into(),
            (Addresses::V6 { .. }, false) => Icmpv6Message::EchoRequest.into(),
            (Addresses::V6 { .. }, true) => Icmpv6Message::EchoReply.into(),
        };
        out[..4].copy_from_slice(&[kind, 0, 0, 0]);
        out[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        out[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[HEADER_BYTES..].copy_from_slice(self.data);
        fill_checksum(addresses, out);
    }
}

/// Whether the checksum of an ICMP or ICMPv6 message holds. ICMPv6's covers the pseudo-header (RFC 4443 §2.3).
pub(super) fn verify(addresses: &Addresses, bytes: &[u8]) -> Result<(), WireError> {
    if bytes.len() < 4 {
        return Err(WireError::Malformed);
    }
    if message_sum(addresses, bytes).holds() { Ok(()) } else { Err(WireError::Checksum) }
}

/// Fills in the checksum of an otherwise complete message.
pub(crate) fn fill_checksum(addresses: &Addresses, message: &mut [u8]) {
    message[2..4].fill(0);
    let checksum = message_sum(addresses, message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

fn message_sum(addresses: &Addresses, message: &[u8]) -> Sum {
    let start = match addresses {
        Addresses::V4 { .. } => Sum::default(),
        Addresses::V6 { .. } => addresses.pseudo_sum(IpProtocol::Icmpv6).word(message.len() as u16),
    };
    start.bytes(message)
}

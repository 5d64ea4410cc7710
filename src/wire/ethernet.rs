//! Ethernet II, with at most one 802.1Q tag.

use super::{Mac, WireError};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

/// An untagged header, bytes.
pub const HEADER_BYTES: usize = 14;
/// The length of an 802.1Q tag, bytes.
pub const VLAN_TAG_BYTES: usize = 4;
/// The address of all stations.
pub const BROADCAST: Mac = [0xff; 6];

/// The EtherType of an 802.1Q tag (IEEE 802.1Q §9.5).
const TPID_8021Q: EthernetProtocol = EthernetProtocol::Unknown(0x8100);
/// The VLAN identifier's bits in the tag; the rest is priority and drop eligibility.
const VLAN_ID_MASK: u16 = 0x0fff;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// The station or group it goes to.
    pub destination: Mac,
    /// The station that sent it.
    pub source: Mac,
    /// The 802.1Q VLAN identifier, if the frame is tagged. A tag that carries only a priority (identifier 0)
    /// counts as none.
    pub vlan: Option<u16>,
    /// The payload's protocol.
    pub protocol: EthernetProtocol,
}

impl Ethernet {
    /// Splits `frame` into its header and its payload, padding included. [`WireError::Malformed`] when it is
    /// too short.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let view = EthernetFrame::new_checked(frame).map_err(|_| WireError::Malformed)?;
        let mut header = Self {
            destination: view.dst_addr().0,
            source: view.src_addr().0,
            vlan: None,
            protocol: view.ethertype(),
        };
        let mut payload = view.payload();
        if header.protocol == TPID_8021Q {
            let (tag, rest) = payload.split_first_chunk::<VLAN_TAG_BYTES>().ok_or(WireError::Malformed)?;
            let id = u16::from_be_bytes([tag[0], tag[1]]) & VLAN_ID_MASK;
            header.vlan = (id != 0).then_some(id);
            header.protocol = u16::from_be_bytes([tag[2], tag[3]]).into();
            payload = rest;
        }
        Ok((header, payload))
    }

    /// The header's length: 14 bytes, or 18 with a tag.
    pub const fn encoded_len(&self) -> usize {
        match self.vlan {
            None => HEADER_BYTES,
            Some(_) => HEADER_BYTES + VLAN_TAG_BYTES,
        }
    }

    /// Writes the header at the start of `out`, which has room for [`Ethernet::encoded_len`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let mut view = EthernetFrame::new_unchecked(&mut *out);
        view.set_dst_addr(EthernetAddress(self.destination));
        view.set_src_addr(EthernetAddress(self.source));
        match self.vlan {
            None => view.set_ethertype(self.protocol),
            Some(id) => {
                view.set_ethertype(TPID_8021Q);
                let protocol: u16 = self.protocol.into();
                out[14..16].copy_from_slice(&(id & VLAN_ID_MASK).to_be_bytes());
                out[16..18].copy_from_slice(&protocol.to_be_bytes());
            }
        }
    }
}

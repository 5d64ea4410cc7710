//! What a switch and a device do to the bytes of a frame.

use crate::wire::TxKind;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_BYTES, VLAN_TAG_BYTES};

/// Marks the IP packet of an untagged frame as having met congestion. Gives whether its sender is capable of ECN (RFC 3168 §5).
pub(super) fn mark_congestion(frame: &mut [u8]) -> bool {
    const IPV4: &[u8] = &[0x08, 0];
    const IPV6: &[u8] = &[0x86, 0xdd];
    let kind = frame.get(12..14).unwrap_or_default();
    let (is_v4, is_v6) = (kind == IPV4, kind == IPV6);
    let Some(ip) = frame.get_mut(HEADER_BYTES..).filter(|ip| ip.len() >= 20) else { return false };
    // The two bits are the last of IPv4's second byte, and stand in the upper half of IPv6's.
    let bits = if is_v6 { 0b11 << 4 } else { 0b11 };
    if !(is_v4 || is_v6) || ip[1] & bits == 0 {
        return false;
    }
    ip[1] |= bits;
    if is_v4 {
        ip[10..12].fill(0);
        let checksum = Sum::default().bytes(&ip[..20]).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// Turns a bit of a frame over on its way. Returns whether the device that receives it takes it: ARP has no checksum of its own, so that of the frame
/// stands for it.
pub(super) fn turn_over(frame: &mut [u8], bit: usize) -> bool {
    const ARP: &[u8] = &[0x08, 0x06];
    let is_arp = frame.get(12..14) == Some(ARP);
    frame[bit / 8] ^= 1 << (bit % 8);
    !is_arp
}

/// A frame with its checksums, as a device of this MTU takes it.
pub(super) fn written(mtu: u16, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Vec<u8>> {
    if len > usize::from(mtu) + HEADER_BYTES + VLAN_TAG_BYTES {
        return None;
    }
    // A pattern that shows bytes that `fill` missed.
    let mut frame = vec![0xa5; len];
    fill(&mut frame);
    fill_checksums(kind, &mut frame);
    Some(frame)
}

/// Does a device's work for [`TxKind`].
fn fill_checksums(kind: TxKind, frame: &mut [u8]) {
    let udp_at = match kind {
        TxKind::Plain => return,
        TxKind::UdpV4 { l2_len } => {
            let ip = usize::from(l2_len);
            let checksum = Sum::default().bytes(&frame[ip..ip + 20]).checksum();
            frame[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
            ip + 20
        }
        TxKind::UdpV6 { l2_len } => usize::from(l2_len) + 40,
    };
    // The pseudo-header sum stands in the field and is summed with the rest.
    let checksum = Sum::default().bytes(&frame[udp_at..]).udp_checksum();
    frame[udp_at + 6..udp_at + 8].copy_from_slice(&checksum.to_be_bytes());
}

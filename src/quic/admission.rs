//! Refuses datagrams by their first bytes, before QUIC: garbage then costs neither a copy nor an
//! allocation.
//!
//! A refused datagram can be no packet; an accepted one may still be garbage. Two facts prevent a stricter
//! check: peers that know us may clear the fixed bit (RFC 9287), and a connection ID that no worker here
//! issued may be a peer's stateless reset (RFC 9000 §10.3.1), which only QUIC can tell from noise.

use quinn_proto::ConnectionId;

/// The shortest useful datagram, bytes: a stateless reset (RFC 9000 §10.3). A packet with a short header has
/// at least 26 (connection ID 8, packet number 1, tag 16), one with a long header 25, and Version Negotiation
/// 27 (RFC 9000 §17.2.1 and §7.2: this node chose both connection IDs, of 8 bytes or more).
const DATAGRAM_BYTES_MIN: usize = 21;
/// RFC 9000 §14.1: a datagram that begins a connection has at least this many bytes.
const INITIAL_BYTES_MIN: usize = 1200;
/// RFC 9000 §17.2: bits of the first byte.
const LONG_HEADER: u8 = 0x80;
const LONG_TYPE: u8 = 0x30;
/// RFC 9000 §17.2.2 and §17.2.3: Initial packets are of type 0, 0-RTT packets of type 1.
const LONG_TYPE_0RTT: u8 = 0x10;
/// RFC 9000 §17.2: the longest connection ID, bytes.
const CID_BYTES_MAX: usize = 20;
/// RFC 9000 §15, and §17.2.1 for the version of a Version Negotiation packet.
const VERSION_1: u32 = 1;
const VERSION_NEGOTIATION: u32 = 0;

/// Whether QUIC must see this datagram.
#[inline]
pub fn may_be_quic(datagram: &[u8]) -> bool {
    if datagram.len() < DATAGRAM_BYTES_MIN {
        return false;
    }
    // RFC 9000 §5.2.2: servers drop smaller packets of unknown versions.
    datagram.len() >= INITIAL_BYTES_MIN
        || match version(datagram) {
            None | Some(VERSION_1 | VERSION_NEGOTIATION) => true,
            Some(_) => false,
        }
}

/// Whether this datagram may be for a connection that was not accepted yet: Initial and 0-RTT packets carry a
/// connection ID that a client chose.
#[inline]
pub fn may_precede_acceptance(datagram: &[u8]) -> bool {
    version(datagram) == Some(VERSION_1) && datagram[0] & LONG_TYPE <= LONG_TYPE_0RTT
}

/// Whether this datagram may begin a connection and carries no token: its sender has not proven its address (RFC 9000 §8.1).
#[inline]
pub fn is_unproven_initial(datagram: &[u8]) -> bool {
    if version(datagram) != Some(VERSION_1) || datagram[0] & LONG_TYPE != 0 {
        return false;
    }
    // RFC 9000 §17.2.2: first byte, version, two connection IDs with their lengths, then the token's length.
    let mut at = 5;
    for _ in 0..2 {
        let Some(&len) = datagram.get(at) else { return false };
        at += 1 + usize::from(len);
    }
    datagram.get(at) == Some(&0)
}

/// The connection ID that a client chose for its first packets, and whether this datagram may begin a connection by it. `None`: its first
/// packet is neither Initial nor 0-RTT, or carries no ID of a legal length.
#[inline]
pub fn chosen_id(datagram: &[u8]) -> Option<(ConnectionId, bool)> {
    if !may_precede_acceptance(datagram) {
        return None;
    }
    // RFC 9000 §17.2: first byte, version, the length of the connection ID, and the ID; at most 20 bytes in this version.
    let len = usize::from(*datagram.get(5)?);
    let id = datagram.get(6..6 + len).filter(|_| len <= CID_BYTES_MAX)?;
    let begins = datagram[0] & LONG_TYPE == 0 && datagram.len() >= INITIAL_BYTES_MIN;
    Some((ConnectionId::new(id), begins))
}

/// Whether a datagram begins with a short header. Outside connections QUIC sends such datagrams only as
/// stateless resets.
pub fn is_short(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & LONG_HEADER == 0)
}

/// The version in a long header; `None` for a short one.
#[inline]
fn version(datagram: &[u8]) -> Option<u32> {
    match datagram {
        [first, a, b, c, d, ..] if first & LONG_HEADER != 0 => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, len: usize) -> Vec<u8> {
        let mut datagram = vec![0; len];
        datagram[0] = first;
        datagram[1..5].copy_from_slice(&version.to_be_bytes());
        datagram
    }

    #[test]
    fn datagrams_that_a_peer_may_send_pass() {
        // A short header, a stateless reset, and both with the fixed bit cleared (RFC 9287).
        for first in [0x40, 0x7f, 0x00, 0x3f] {
            assert!(may_be_quic(&[&[first][..], &[7; 20]].concat()));
        }
        for first in [0xc0, 0xd0, 0xe0, 0xf0, 0x80] {
            assert!(may_be_quic(&long(first, VERSION_1, 40)));
            assert!(may_be_quic(&long(first, VERSION_NEGOTIATION, 27)));
        }
        assert!(may_be_quic(&long(0xc0, 0x0a0a_0a0a, 1200)), "the answer lists the versions of this side");
    }

    #[test]
    fn datagrams_that_no_peer_sends_are_refused() {
        for len in 0..DATAGRAM_BYTES_MIN {
            assert!(!may_be_quic(&vec![0x40; len]));
        }
        assert!(!may_be_quic(&long(0xc0, 0x0a0a_0a0a, 1199)));
    }

    #[test]
    fn an_initial_packet_proves_nothing_without_a_token() {
        let initial = |token: &[u8]| {
            let mut datagram = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 1, 2, 3, 4];
            datagram.extend_from_slice(token);
            datagram.resize(INITIAL_BYTES_MIN, 7);
            datagram
        };
        assert!(is_unproven_initial(&initial(&[0])));
        assert!(!is_unproven_initial(&initial(&[3, 1, 2, 3])));
        for first in [0xd0, 0xe0, 0xf0, 0x40] {
            assert!(!is_unproven_initial(&[&[first][..], &initial(&[0])[1..]].concat()));
        }
        for len in 0..19 {
            assert!(!is_unproven_initial(&initial(&[0])[..len]), "cut off at {len}");
        }
    }

    #[test]
    fn initial_and_0rtt_packets_may_precede_the_acceptance_of_a_connection() {
        let early = |first| may_precede_acceptance(&long(first, VERSION_1, 30));
        assert_eq!([0xc0, 0xd0, 0xe0, 0xf0, 0x40].map(early), [true, true, false, false, false]);
        assert!(!may_precede_acceptance(&[]) && !may_precede_acceptance(&long(0xc0, 2, 30)));
    }
    #[test]
    fn a_client_chooses_the_connection_id_of_its_first_packets() {
        let chosen = |first: u8, version: u8, id: &[u8], len| {
            let mut datagram = vec![first, 0, 0, 0, version, id.len() as u8];
            datagram.extend_from_slice(id);
            datagram.resize(len, 7);
            chosen_id(&datagram)
        };
        let id = ConnectionId::new(&[9; 20]);
        assert_eq!(chosen(0xc0, 1, &[9; 20], 1200), Some((id, true)));
        assert_eq!(chosen(0xc0, 1, &[9; 20], 1199), Some((id, false)), "RFC 9000 §14.1");
        assert_eq!(chosen(0xd0, 1, &[9; 20], 1200), Some((id, false)), "0-RTT");
        assert_eq!(chosen(0xc0, 1, &[9; 21], 1200), None);
        assert_eq!(chosen(0xc0, 2, &[9; 20], 1200), None);
        assert_eq!(chosen(0xe0, 1, &[9; 20], 1200), None, "Handshake");
        assert_eq!(chosen(0x40, 1, &[9; 20], 1200), None, "a short header");
        let whole = [&[0xc0, 0, 0, 0, 1, 20][..], &[9; 20]].concat();
        assert!((0..whole.len()).all(|len| chosen_id(&whole[..len]).is_none()));
    }
}

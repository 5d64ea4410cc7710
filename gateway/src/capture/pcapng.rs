//! The blocks of a pcapng file (IETF draft-ietf-opsawg-pcapng), little-endian, as captures use them.

use std::time::Duration;

/// Block types.
pub const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
/// An enhanced packet block: one frame.
pub const PACKET: u32 = 6;
const SECRETS: u32 = 10;
/// "TLSK": lines in NSS' format.
const TLS_KEY_LOG: u32 = 0x544c_534b;
const ETHERNET: u16 = 1;
/// Options.
const IF_NAME: u16 = 2;
const IF_TIME_RESOLUTION: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_DROPPED: u16 = 5;
/// Directions in [`EPB_FLAGS`].
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// Bytes of a block beside its body: its type, and its length before and after the body.
pub const FRAME_LEN: usize = 12;

/// Begins a file.
pub fn section(out: &mut Vec<u8>) {
    block(out, SECTION, |out| {
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        // The section has no declared length.
        out.extend(u64::MAX.to_le_bytes());
    });
}

/// Names an Ethernet interface, numbered from 0 in the order of these blocks; times are in nanoseconds.
pub fn interface(out: &mut Vec<u8>, name: &str) {
    block(out, INTERFACE, |out| {
        out.extend(u32::from(ETHERNET).to_le_bytes());
        // Snap length: no limit.
        out.extend(0_u32.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_TIME_RESOLUTION, &[9]);
        option(out, 0, &[]);
    });
}

/// A frame; `at` is since the Unix epoch.
pub fn packet(out: &mut Vec<u8>, interface: u32, at: Duration, sent: bool, frame: &[u8]) {
    block(out, PACKET, |out| {
        out.extend(interface.to_le_bytes());
        time(out, at);
        out.extend((frame.len() as u32).to_le_bytes());
        out.extend((frame.len() as u32).to_le_bytes());
        padded(out, frame);
        option(out, EPB_FLAGS, &if sent { OUTBOUND } else { INBOUND }.to_le_bytes());
        option(out, 0, &[]);
    });
}

/// Lines of a TLS key log, for later frames.
pub fn secrets(out: &mut Vec<u8>, lines: &str) {
    block(out, SECRETS, |out| {
        out.extend(TLS_KEY_LOG.to_le_bytes());
        out.extend((lines.len() as u32).to_le_bytes());
        padded(out, lines.as_bytes());
    });
}

/// An interface's losses.
pub fn statistics(out: &mut Vec<u8>, interface: u32, at: Duration, dropped: u64) {
    block(out, STATISTICS, |out| {
        out.extend(interface.to_le_bytes());
        time(out, at);
        option(out, ISB_DROPPED, &dropped.to_le_bytes());
        option(out, 0, &[]);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = (out.len() - start + 4) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out.extend(len.to_le_bytes());
}

fn time(out: &mut Vec<u8>, at: Duration) {
    let ns = at.as_nanos() as u64;
    out.extend(((ns >> 32) as u32).to_le_bytes());
    out.extend((ns as u32).to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes[..4].try_into().unwrap())
    }

    #[test]
    fn a_section_has_the_bytes_of_the_draft() {
        let mut out = Vec::new();
        section(&mut out);
        let expected = "0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff1c000000";
        assert_eq!(data_encoding::HEXLOWER.encode(&out), expected);
    }

    #[test]
    fn a_frame_is_padded_and_has_its_time_and_direction() {
        let mut out = Vec::new();
        packet(&mut out, 1, Duration::from_nanos(0x1_0000_0002), true, b"abcde");
        assert_eq!((word(&out), word(&out[4..])), (PACKET, out.len() as u32));
        assert_eq!((word(&out[8..]), word(&out[12..]), word(&out[16..])), (1, 1, 2));
        assert_eq!((word(&out[20..]), word(&out[24..])), (5, 5));
        assert_eq!(&out[28..36], b"abcde\0\0\0");
        // Flags, four bytes, outbound; the end of options; the length again.
        assert_eq!(out[36..48], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(word(&out[48..]), out.len() as u32);
    }

    #[test]
    fn blocks_have_their_length_on_both_sides() {
        let mut out = Vec::new();
        section(&mut out);
        interface(&mut out, "net_null0");
        secrets(&mut out, "CLIENT_RANDOM 00 11\n");
        statistics(&mut out, 0, Duration::from_secs(1), 7);
        let mut kinds = Vec::new();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let len = word(&rest[4..]) as usize;
            assert!(len.is_multiple_of(4));
            assert_eq!(word(&rest[len - 4..]) as usize, len);
            kinds.push(word(rest));
            rest = &rest[len..];
        }
        assert_eq!(kinds, [SECTION, INTERFACE, SECRETS, STATISTICS]);
    }
}

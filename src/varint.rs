//! QUIC variable-length integers (RFC 9000 §16).
//!
//! Record fields accept any of the four lengths, as RFC 9000 does; descriptors are hashed, so they accept only the
//! shortest ([`read_minimal`]).

/// The largest integer that can be written: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// The bytes end inside an integer; it names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ends inside {0}")]
pub struct Truncated(pub &'static str);

/// Why no integer in its shortest form was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The bytes end inside the integer.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The integer is longer than its shortest form.
    #[error("an integer is not in its shortest form")]
    Long,
}

/// Bytes that [`write()`] needs for `value`.
pub const fn encoded_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values past [`MAX`] are written as [`MAX`]; no field of a record may be so large.
pub fn write(value: u64, out: &mut Vec<u8>) {
    match encoded_len(value) {
        1 => out.push(value as u8),
        2 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        4 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value.min(MAX) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads the integer at the start of `bytes`, of any length. Gives the value and how many bytes it took, or `None` if
/// `bytes` ends inside it.
#[inline]
pub fn peek(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let field = bytes.get(..len)?;
    let value = field[1..].iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, len))
}

/// Takes an integer of any length off `body`; `what` names the field.
///
/// # Errors
/// [`Truncated`] if `body` ends inside the integer.
pub fn read(body: &mut &[u8], what: &'static str) -> Result<u64, Truncated> {
    let (value, len) = peek(body).ok_or(Truncated(what))?;
    *body = &body[len..];
    Ok(value)
}

/// Takes an integer in its shortest form off `body`; `what` names the field.
///
/// # Errors
/// [`VarintError`]: `body` ends inside the integer, or the integer is longer than its shortest form.
pub fn read_minimal(body: &mut &[u8], what: &'static str) -> Result<u64, VarintError> {
    let before = body.len();
    let value = read(body, what)?;
    if before - body.len() != encoded_len(value) {
        return Err(VarintError::Long);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000 §A.1.
    #[test]
    fn samples_of_the_rfc() {
        let samples: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in samples {
            assert_eq!(peek(bytes), Some((value, bytes.len())));
            assert_eq!(peek(&bytes[..bytes.len() - 1]), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_value_round_trips_in_its_shortest_form(value in 0..=MAX) {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out.len(), encoded_len(value));
            assert_eq!(read_minimal(&mut &out[..], "value"), Ok(value));
        }
    }

    #[test]
    fn longer_forms_are_read_but_not_minimal() {
        assert_eq!(read(&mut &[0x40, 0x25][..], "value"), Ok(37));
        assert!(read_minimal(&mut &[0x40, 0x25][..], "value").is_err());
    }
}

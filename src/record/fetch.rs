//! FETCH: a request for ranges of a payload.

use super::{Record, RecordError, RecordType, finish, take_token, take_u8, varint};
use crate::limits::RANGES_LEN_MAX;
use crate::token::{Ranges, RangesError, TOKEN_BYTES, Token};

/// FETCH: `token(33) flags(8) max_bytes(i) n(i) { gap(i) len(i) }*`, ranges in groups of 16 KiB.
///
/// `gap` counts from the end of the range before (from group 0 for the first) and is not 0 after the first, so a set of
/// ranges has one form. The flag that asks for lanes is refused as unsupported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What is asked for.
    pub token: Token,
    /// The most payload bytes that the asker will take; 0: no bound.
    pub bytes_max: u64,
    /// The groups asked for.
    pub ranges: Ranges,
}

impl Fetch {
    /// Flag: ranges are in stripes, of the lanes of a bitmap.
    pub const FLAG_LANES: u8 = 0x01;
}

impl Record for Fetch {
    const TYPE: RecordType = RecordType::Fetch;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_token(&mut body, "token")?;
        match take_u8(&mut body, "flags")? {
            0 => {}
            Self::FLAG_LANES => return Err(RecordError::Unsupported("a FETCH of lanes is")),
            _ => return Err(RecordError::Unsupported("a FETCH flag is")),
        }
        let bytes_max = varint::read(&mut body, "max_bytes")?;
        let len = varint::read(&mut body, "n")?;
        if len > RANGES_LEN_MAX {
            return Err(RangesError::TooMany.into());
        }
        let mut ranges = Ranges::all();
        for _ in 0..len {
            let gap = varint::read(&mut body, "gap")?;
            let groups = varint::read(&mut body, "len")?;
            ranges.push_run(gap, groups)?;
        }
        finish(body)?;
        Ok(Self { token, bytes_max, ranges })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        out.push(0);
        varint::write(self.bytes_max, out);
        varint::write(self.ranges.len() as u64, out);
        for (gap, groups) in self.ranges.gap_runs() {
            varint::write(gap, out);
            varint::write(groups, out);
        }
    }

    fn encoded_len(&self) -> usize {
        let runs: usize = self
            .ranges
            .gap_runs()
            .map(|(gap, groups)| varint::encoded_len(gap) + varint::encoded_len(groups))
            .sum();
        TOKEN_BYTES
            + 1
            + varint::encoded_len(self.bytes_max)
            + varint::encoded_len(self.ranges.len() as u64)
            + runs
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorCode;
    use super::*;

    fn body(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut out = Token::of(b"").to_bytes().to_vec();
        out.extend_from_slice(&[flags, 0]);
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn lanes_are_refused_as_unsupported() {
        assert_eq!(Fetch::parse(&body(1, &[0])).unwrap_err().code(), ErrorCode::UnsupportedCode);
        assert_eq!(Fetch::parse(&body(2, &[0])).unwrap_err().code(), ErrorCode::UnsupportedCode);
    }

    #[test]
    fn ranges_that_touch_or_are_empty_or_too_many_are_refused() {
        assert!(Fetch::parse(&body(0, &[2, 0, 1, 1, 1])).is_ok());
        assert_eq!(Fetch::parse(&body(0, &[2, 0, 1, 0, 1])).unwrap_err().code(), ErrorCode::BadRange);
        assert_eq!(Fetch::parse(&body(0, &[1, 0, 0])).unwrap_err().code(), ErrorCode::BadRange);
        assert_eq!(Fetch::parse(&body(0, &[0x41, 0x01])).unwrap_err().code(), ErrorCode::Limit);
        let far = [
            1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(Fetch::parse(&body(0, &far)).unwrap_err().code(), ErrorCode::BadRange);
    }
}

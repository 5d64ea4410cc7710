//! FETCH: a request for ranges of a payload, or of lanes of a set.

use super::{
    Record, RecordError, RecordType, finish, lanes_need_a_set, take_any_token, take_some_lanes, take_u8,
    varint,
};
use crate::limits::RANGES_LEN_MAX;
use crate::shard::Lanes;
use crate::token::{AnyToken, Ranges, RangesError, TOKEN_BYTES};

/// FETCH: `token(33) flags(8) max_bytes(i) [lane bitmap if LANES] n(i) { gap(i) len(i) }*`, ranges in groups of 16 KiB,
/// or in stripes if LANES. With DESCRIBE there are neither lanes nor ranges: OK is the whole answer.
///
/// `gap` counts from the end of the range before (from 0 for the first) and is not 0 after the first, so a set of ranges
/// has one form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// The payload or set.
    pub token: AnyToken,
    /// The most payload bytes that the asker takes; 0: no bound.
    pub bytes_max: u64,
    /// Which lanes, of a set only and at least one; `None`: the payload itself.
    pub lanes: Option<Lanes>,
    /// The groups of the payload, or the stripes of the lanes.
    pub ranges: Ranges,
    /// Ask for no bytes, only for the length and, for a set, the descriptor.
    pub describe: bool,
}

impl Fetch {
    /// Flag: ranges are in stripes, of the lanes of a bitmap.
    pub const FLAG_LANES: u8 = 0x01;
    /// Flag: no bytes, only the length and the descriptor.
    pub const FLAG_DESCRIBE: u8 = 0x02;
}

impl Record for Fetch {
    const TYPE: RecordType = RecordType::Fetch;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let token = take_any_token(&mut body)?;
        let (of_lanes, describe) = match take_u8(&mut body, "flags")? {
            0 => (false, false),
            Self::FLAG_LANES => (true, false),
            Self::FLAG_DESCRIBE => (false, true),
            flags if flags == Self::FLAG_LANES | Self::FLAG_DESCRIBE => {
                return Err(RecordError::Malformed("a FETCH that describes asks for no lanes"));
            }
            _ => return Err(RecordError::Unsupported("a FETCH flag other than LANES and DESCRIBE is")),
        };
        if of_lanes {
            lanes_need_a_set(&token)?;
        }
        let bytes_max = varint::read(&mut body, "max_bytes")?;
        let lanes = if of_lanes { Some(take_some_lanes(&mut body)?) } else { None };
        let len = varint::read(&mut body, "n")?;
        if len > RANGES_LEN_MAX {
            return Err(RangesError::TooMany.into());
        }
        let mut ranges = Ranges::all();
        for _ in 0..len {
            let gap = varint::read(&mut body, "gap")?;
            let count = varint::read(&mut body, "len")?;
            ranges.push_run(gap, count)?;
        }
        finish(body)?;
        if describe && !ranges.is_all() {
            return Err(RecordError::Malformed("a FETCH that describes asks for no ranges"));
        }
        Ok(Self { token, bytes_max, lanes, ranges, describe })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token.to_bytes());
        let lanes_flag = self.lanes.map_or(0, |_| Self::FLAG_LANES);
        out.push(lanes_flag | if self.describe { Self::FLAG_DESCRIBE } else { 0 });
        varint::write(self.bytes_max, out);
        if let Some(lanes) = self.lanes {
            lanes.emit(out);
        }
        varint::write(self.ranges.len() as u64, out);
        for (gap, count) in self.ranges.gap_runs() {
            varint::write(gap, out);
            varint::write(count, out);
        }
    }

    fn encoded_len(&self) -> usize {
        let runs: usize = self
            .ranges
            .gap_runs()
            .map(|(gap, count)| varint::encoded_len(gap) + varint::encoded_len(count))
            .sum();
        TOKEN_BYTES
            + 1
            + varint::encoded_len(self.bytes_max)
            + self.lanes.map_or(0, |lanes| lanes.encoded_len())
            + varint::encoded_len(self.ranges.len() as u64)
            + runs
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, testing};
    use super::*;
    use crate::token::{SetToken, Token};
    use proptest::prelude::*;

    fn body(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut out = Token::of(b"").to_bytes().to_vec();
        out.extend_from_slice(&[flags, 0]);
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn lanes_stand_before_the_ranges() {
        let fetch = Fetch {
            token: SetToken::from_hash([7; 32]).into(),
            bytes_max: 5,
            lanes: Some([1, 8].into_iter().collect()),
            ranges: Ranges::all(),
            describe: false,
        };
        assert_eq!(testing::assert_round_trip(&fetch)[33..], [1, 5, 2, 0x02, 0x01, 0]);
    }

    #[test]
    fn lanes_must_be_some_and_of_a_set_and_other_flags_are_unsupported() {
        assert_eq!(Fetch::parse(&body(1, &[1, 1, 0])).unwrap_err().code(), ErrorCode::Malformed);
        assert_eq!(Fetch::parse(&body(4, &[0])).unwrap_err().code(), ErrorCode::UnsupportedCode);
        let set = SetToken::from_hash([7; 32]).to_bytes();
        let none = [&set[..], &[1, 0, 0, 0]].concat();
        assert_eq!(Fetch::parse(&none).unwrap_err().code(), ErrorCode::Malformed);
    }

    #[test]
    fn a_description_asks_for_neither_lanes_nor_ranges() {
        assert!(Fetch::parse(&body(2, &[0])).unwrap().describe);
        assert_eq!(Fetch::parse(&body(2, &[1, 0, 1])).unwrap_err().code(), ErrorCode::Malformed);
        let set = SetToken::from_hash([7; 32]).to_bytes();
        let lanes = [&set[..], &[3, 0, 1, 1, 0]].concat();
        assert_eq!(Fetch::parse(&lanes).unwrap_err().code(), ErrorCode::Malformed);
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

    proptest! {
        #[test]
        fn any_fetch_round_trips(
            token in testing::any_token(),
            bytes_max in 0..=varint::MAX,
            lanes in testing::lanes(),
            runs in proptest::collection::vec((1u64..1 << 20, 1u64..1 << 20), 0..6),
        ) {
            let lanes = (token.content().is_none() && !lanes.is_empty()).then_some(lanes);
            let mut ranges = Ranges::all();
            for (gap, count) in runs {
                ranges.push_run(gap, count).unwrap();
            }
            testing::assert_round_trip(&Fetch { token, bytes_max, lanes, ranges, describe: false });
        }
    }
}

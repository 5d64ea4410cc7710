//! A selection of a set's lanes.

use crate::limits::{LANES_DATA_MAX, LANES_MAX};
use std::fmt;
use std::str::FromStr;

/// Bytes of the longest bitmap.
const BITMAP_BYTES_MAX: usize = LANES_MAX as usize / 8;

/// A set of lanes, 0 to 127; lane `i` is bit `i`. Lanes below k are data, those above parity.
///
/// On the wire a bitmap: `len(8) bytes[len]`, lane `i` at bit `i % 8` (the least significant is 0) of byte `i
/// / 8`, the last byte not 0. A selection therefore has one form, and the empty selection is one zero byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lanes(u128);

impl Lanes {
    /// No lane.
    pub const NONE: Self = Self(0);

    /// Lanes 0 to `count - 1`; `count` is at most 128.
    pub const fn first(count: u32) -> Self {
        Self(if count >= u128::BITS { u128::MAX } else { (1 << count) - 1 })
    }

    /// One lane, below 128.
    pub const fn one(lane: u8) -> Self {
        Self(1 << (lane & 127))
    }

    /// Whether there is no lane.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of lanes.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether this lane is selected.
    pub const fn contains(self, lane: u8) -> bool {
        lane < 128 && self.0 >> lane & 1 == 1
    }

    /// Whether all of `other` are selected.
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The lanes of either selection.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The lanes of both selections.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The lanes that `other` does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The lowest lane.
    pub fn lowest(self) -> Option<u8> {
        (!self.is_empty()).then(|| self.0.trailing_zeros() as u8)
    }

    /// The highest lane.
    pub fn highest(self) -> Option<u8> {
        (!self.is_empty()).then(|| (127 - self.0.leading_zeros()) as u8)
    }

    /// The lanes, rising.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self;
        std::iter::from_fn(move || {
            let lane = left.lowest()?;
            left = left.without(Self::one(lane));
            Some(lane)
        })
    }

    /// The data lanes of a set with `k` of them, as bits.
    pub const fn data_bits(self, k: u8) -> u64 {
        (self.0 & Self::first(k as u32).0) as u64
    }

    /// The parity lanes of a set with `k` data lanes, as bits from the first parity lane on.
    pub const fn parity_bits(self, k: u8) -> u64 {
        if k as u64 > LANES_DATA_MAX { 0 } else { (self.0 >> k) as u64 }
    }

    /// Takes a bitmap off `body`. `None` if it ends early, is longer than 16 bytes, or ends in a zero byte.
    pub fn take(body: &mut &[u8]) -> Option<Self> {
        let (&len, rest) = body.split_first()?;
        let len = usize::from(len);
        if len > BITMAP_BYTES_MAX {
            return None;
        }
        let (bitmap, rest) = rest.split_at_checked(len)?;
        if bitmap.last() == Some(&0) {
            return None;
        }
        let mut bytes = [0; BITMAP_BYTES_MAX];
        bytes[..len].copy_from_slice(bitmap);
        *body = rest;
        Some(Self(u128::from_le_bytes(bytes)))
    }

    /// Appends the bitmap: [`Lanes::encoded_len`] bytes.
    pub fn emit(self, out: &mut Vec<u8>) {
        let len = self.encoded_len() - 1;
        out.push(len as u8);
        out.extend_from_slice(&self.0.to_le_bytes()[..len]);
    }

    /// Bytes of the bitmap with its length.
    pub const fn encoded_len(self) -> usize {
        1 + (u128::BITS - self.0.leading_zeros()).div_ceil(8) as usize
    }
}

impl FromIterator<u8> for Lanes {
    fn from_iter<I: IntoIterator<Item = u8>>(lanes: I) -> Self {
        lanes.into_iter().fold(Self::NONE, |set, lane| set.union(Self::one(lane)))
    }
}

/// `0-3,5`: runs and single lanes.
impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut lanes = self.iter().peekable();
        while let Some(start) = lanes.next() {
            let mut end = start;
            while lanes.next_if_eq(&(end + 1)).is_some() {
                end += 1;
            }
            write!(f, "{separator}{start}")?;
            if end > start {
                write!(f, "-{end}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// The error of a text that names no lanes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lanes are numbers from 0 to 127 and runs of them, such as `0-3,5`; got {got:?}")]
pub struct LanesError {
    got: String,
}

impl FromStr for Lanes {
    type Err = LanesError;

    fn from_str(text: &str) -> Result<Self, LanesError> {
        let lane = |text: &str| text.parse::<u8>().ok().filter(|&lane| u64::from(lane) < LANES_MAX);
        let parse = || {
            let mut lanes = Self::NONE;
            for part in text.split(',') {
                let (start, end) = part.split_once('-').unwrap_or((part, part));
                let (start, end) = (lane(start)?, lane(end)?);
                if start > end {
                    return None;
                }
                lanes = lanes.union((start..=end).collect());
            }
            Some(lanes)
        };
        parse().ok_or_else(|| LanesError { got: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lanes_read_as_people_write_them() {
        let lanes: Lanes = "0-3,5,127".parse().unwrap();
        assert_eq!(lanes.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 5, 127]);
        assert_eq!(lanes.to_string(), "0-3,5,127");
        for text in ["", "-", "3-1", "128", "1,,2", "a", "0x1"] {
            assert!(text.parse::<Lanes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bitmap_has_one_form() {
        assert_eq!(Lanes::take(&mut &[0][..]), Some(Lanes::NONE));
        assert_eq!(Lanes::take(&mut &[1, 0b101][..]), Some([0, 2].into_iter().collect()));
        assert_eq!(Lanes::take(&mut &[2, 1, 0][..]), None, "ends in a zero byte");
        assert_eq!(Lanes::take(&mut &[2, 1][..]), None, "ends early");
        assert_eq!(Lanes::take(&mut &[17; 18][..]), None, "more than 128 lanes");
    }

    proptest! {
        #[test]
        fn bitmaps_round_trip(bits in any::<u128>(), k in 0u8..=64) {
            let lanes = Lanes(bits);
            let mut out = Vec::new();
            lanes.emit(&mut out);
            prop_assert_eq!(out.len(), lanes.encoded_len());
            let mut rest = &out[..];
            prop_assert_eq!(Lanes::take(&mut rest), Some(lanes));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(lanes.iter().collect::<Lanes>(), lanes);
            prop_assert_eq!(lanes.is_empty() || lanes.to_string().parse() == Ok(lanes), true);
            let data = lanes.iter().filter(|&lane| lane < k).count() as u32;
            prop_assert_eq!(lanes.data_bits(k).count_ones(), data);
        }
    }
}

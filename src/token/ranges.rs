//! A selection of a payload's groups by ranges.

use super::{GROUP_BYTES_U64, groups_of};
use crate::limits::{PAYLOAD_BYTES_MAX, RANGES_LEN_MAX};
use smallvec::SmallVec;
use std::ops::Range;

/// Groups of the longest payload.
const GROUPS_MAX: u64 = PAYLOAD_BYTES_MAX / GROUP_BYTES_U64;

/// Runs of 16 KiB groups: in order, none empty, none touching the next, at most [`RANGES_LEN_MAX`]. No runs
/// select the whole payload, as on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ranges {
    runs: SmallVec<[Range<u64>; 1]>,
}

impl Ranges {
    /// The whole payload.
    pub fn all() -> Self {
        Self { runs: SmallVec::new() }
    }

    /// The groups that cover the payload bytes of `bytes`.
    ///
    /// # Errors
    /// [`RangesError::Empty`] if `bytes` is empty, [`RangesError::OutOfBounds`] past [`PAYLOAD_BYTES_MAX`].
    pub fn covering(bytes: Range<u64>) -> Result<Self, RangesError> {
        let mut ranges = Self::all();
        let start = bytes.start / GROUP_BYTES_U64;
        if bytes.is_empty() {
            return Err(RangesError::Empty);
        }
        ranges.push_run(start, bytes.end.div_ceil(GROUP_BYTES_U64) - start)?;
        Ok(ranges)
    }

    /// Appends `groups` groups that begin `gap` groups after the end of the last run, or at group `gap` if there is none.
    ///
    /// # Errors
    /// [`RangesError`] names the broken rule; the ranges are then unchanged.
    pub fn push_run(&mut self, gap: u64, groups: u64) -> Result<(), RangesError> {
        if groups == 0 {
            return Err(RangesError::Empty);
        }
        let last_end = match self.runs.last() {
            Some(_) if gap == 0 => return Err(RangesError::Touching),
            Some(last) => last.end,
            None => 0,
        };
        let start = last_end.checked_add(gap).ok_or(RangesError::OutOfBounds)?;
        let end =
            start.checked_add(groups).filter(|&end| end <= GROUPS_MAX).ok_or(RangesError::OutOfBounds)?;
        if self.runs.len() as u64 == RANGES_LEN_MAX {
            return Err(RangesError::TooMany);
        }
        self.runs.push(start..end);
        Ok(())
    }

    /// Whether the ranges select the whole payload.
    pub fn is_all(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of runs; 0 for the whole payload.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no run: this selects the whole payload.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs as half-open ranges of groups; no run for the whole payload.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().cloned()
    }

    /// The runs as on the wire: the gap from the end of the previous run, and the length, both in groups.
    pub fn gap_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().scan(0, |last_end, run| {
            let gap = run.start - *last_end;
            *last_end = run.end;
            Some((gap, run.end - run.start))
        })
    }

    /// Payload bytes that these ranges select of a payload of `length` bytes.
    ///
    /// # Errors
    /// [`RangesError::OutOfBounds`] if a run begins or ends past the payload's last group, or the payload is longer than
    /// [`PAYLOAD_BYTES_MAX`].
    pub fn selected_bytes(&self, length: u64) -> Result<u64, RangesError> {
        if length > PAYLOAD_BYTES_MAX {
            return Err(RangesError::OutOfBounds);
        }
        let Some(last) = self.runs.last() else { return Ok(length) };
        // A payload of no bytes has one group, an empty one.
        if last.end > groups_of(length) {
            return Err(RangesError::OutOfBounds);
        }
        let clip = |group: u64| (group * GROUP_BYTES_U64).min(length);
        Ok(self.runs.iter().map(|run| clip(run.end) - clip(run.start)).sum())
    }

    /// Whether one of `groups` is selected. Takes time logarithmic in the runs.
    pub fn intersects(&self, groups: Range<u64>) -> bool {
        if self.runs.is_empty() || groups.is_empty() {
            return !groups.is_empty();
        }
        let next = self.runs.partition_point(|run| run.end <= groups.start);
        self.runs.get(next).is_some_and(|run| run.start < groups.end)
    }

    /// The runs, with the whole payload as `0..end`.
    pub(crate) fn runs_of(&self, end: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let all = self.is_all().then_some(0..end);
        all.into_iter().chain(self.iter())
    }
}

/// Why ranges were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// A run of no groups.
    #[error("a range is empty")]
    Empty,
    /// A run that begins where the previous one ended.
    #[error("two ranges touch; they are one")]
    Touching,
    /// Past the payload.
    #[error("a range lies outside the payload")]
    OutOfBounds,
    /// Lanes that the set does not have.
    #[error("the set does not have these lanes")]
    Lanes,
    /// More than [`RANGES_LEN_MAX`].
    #[error("more than {RANGES_LEN_MAX} ranges")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn covering_rounds_out_to_groups() {
        let groups = |bytes| Ranges::covering(bytes).unwrap().iter().next().unwrap();
        assert_eq!(groups(0..1), 0..1);
        assert_eq!(groups(16_383..16_385), 0..2);
        assert_eq!(groups(16_384..32_768), 1..2);
        assert_eq!(Ranges::covering(5..5), Err(RangesError::Empty));
        assert_eq!(Ranges::covering(0..u64::MAX), Err(RangesError::OutOfBounds));
        assert!(Ranges::covering(PAYLOAD_BYTES_MAX - 1..PAYLOAD_BYTES_MAX).is_ok());
    }

    #[test]
    fn selected_bytes_stop_at_the_payloads_end() {
        let mut ranges = Ranges::covering(0..1).unwrap();
        ranges.push_run(1, 1).unwrap();
        assert_eq!(ranges.selected_bytes(32_769), Ok(16_385));
        assert_eq!(ranges.selected_bytes(32_768), Err(RangesError::OutOfBounds));
        assert_eq!(Ranges::all().selected_bytes(7), Ok(7));
        assert_eq!(Ranges::covering(0..1).unwrap().selected_bytes(0), Ok(0));
        assert_eq!(Ranges::all().selected_bytes(PAYLOAD_BYTES_MAX + 1), Err(RangesError::OutOfBounds));
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let mut ranges = Ranges::all();
        for _ in 0..RANGES_LEN_MAX {
            ranges.push_run(1, 1).unwrap();
        }
        assert_eq!(ranges.push_run(1, 1), Err(RangesError::TooMany));
    }

    proptest! {
        #[test]
        fn runs_are_found_by_the_groups_that_they_touch(
            runs in proptest::collection::vec((0u64..5, 1u64..5), 0..5),
            (start, len) in (0u64..40, 0u64..9),
        ) {
            let mut ranges = Ranges::all();
            for (gap, groups) in runs {
                let _ = ranges.push_run(gap, groups);
            }
            let meant = |group: u64| ranges.is_all() || ranges.iter().any(|run| run.contains(&group));
            prop_assert_eq!(ranges.intersects(start..start + len), (start..start + len).any(meant));
        }

        #[test]
        fn any_runs_are_refused_or_round_trip(runs in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..8)) {
            let mut ranges = Ranges::all();
            for (gap, groups) in runs {
                let _ = ranges.push_run(gap >> 30, groups >> 30);
                let _ = ranges.push_run(gap, groups);
            }
            let mut again = Ranges::all();
            for (gap, groups) in ranges.gap_runs() {
                again.push_run(gap, groups).unwrap();
            }
            prop_assert_eq!(&again, &ranges);
        }
    }
}

//! The groups that a verified encoding carries.

use super::{GROUP_BYTES_U64, Ranges, RangesError};
use crate::limits::{LANES_DATA_MAX, PAYLOAD_BYTES_MAX, SHARD_BYTES_MAX};
use std::ops::Range;

/// Groups of a payload: runs of them, or lanes of a sharded payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// Runs of groups.
    Ranges(Ranges),
    /// Some shards of every stripe.
    Lanes(LaneGroups),
}

impl Selection {
    /// Whether one of `groups` is selected. Takes time logarithmic in the runs.
    pub fn intersects(&self, groups: Range<u64>) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.intersects(groups),
            Self::Lanes(lanes) => lanes.intersects(groups),
        }
    }

    /// Payload bytes selected of a payload of `length` bytes.
    ///
    /// # Errors
    /// [`RangesError::OutOfBounds`] if a run begins or ends past the payload's last group or stripe, or the payload is
    /// longer than [`PAYLOAD_BYTES_MAX`].
    pub fn selected_bytes(&self, length: u64) -> Result<u64, RangesError> {
        match self {
            Self::Ranges(ranges) => ranges.selected_bytes(length),
            Self::Lanes(lanes) => lanes.selected_bytes(length),
        }
    }
}

impl From<Ranges> for Selection {
    fn from(ranges: Ranges) -> Self {
        Self::Ranges(ranges)
    }
}

impl From<&Ranges> for Selection {
    fn from(ranges: &Ranges) -> Self {
        Self::Ranges(ranges.clone())
    }
}

impl From<LaneGroups> for Selection {
    fn from(lanes: LaneGroups) -> Self {
        Self::Lanes(lanes)
    }
}

impl From<&Selection> for Selection {
    fn from(selection: &Selection) -> Self {
        selection.clone()
    }
}

/// Some of the shards of some stripes of a blob. A lane is one shard of every stripe, so there may be 2^35 runs: they are
/// computed and never listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneGroups {
    /// The blob's shards in a stripe.
    width: u8,
    /// Shard `i` of a stripe is bit `i`.
    lanes: u64,
    shard_groups: u64,
    /// Runs of stripes.
    stripes: Ranges,
}

impl LaneGroups {
    /// The shards `lanes` (bit `i` is shard `i`) of the stripes `stripes` of a blob that has `width` shards a stripe, 1 to
    /// 64, and `shard_groups` groups a shard, 1 to 64.
    ///
    /// # Errors
    /// [`RangesError::Lanes`] if a lane is not below `width`, or `width` or `shard_groups` is out of its bounds.
    pub fn new(width: u8, lanes: u64, shard_groups: u64, stripes: Ranges) -> Result<Self, RangesError> {
        let shard_groups_max = SHARD_BYTES_MAX / GROUP_BYTES_U64;
        let fits = (1..=LANES_DATA_MAX).contains(&u64::from(width))
            && (1..=shard_groups_max).contains(&shard_groups)
            && lanes.checked_shr(width.into()).unwrap_or(0) == 0;
        if fits { Ok(Self { width, lanes, shard_groups, stripes }) } else { Err(RangesError::Lanes) }
    }

    /// The number of groups in a stripe.
    fn stripe_groups(&self) -> u64 {
        u64::from(self.width) * self.shard_groups
    }

    /// The stripe that a group belongs to, and its lane there.
    fn place(&self, group: u64) -> (u64, u64) {
        let stripe_groups = self.stripe_groups();
        (group / stripe_groups, group % stripe_groups / self.shard_groups)
    }

    /// Whether one of `groups` is selected.
    pub fn intersects(&self, groups: Range<u64>) -> bool {
        if groups.is_empty() || self.lanes == 0 {
            return false;
        }
        let (first, first_lane) = self.place(groups.start);
        let (last, last_lane) = self.place(groups.end - 1);
        // Lanes are below 64.
        let from_first = self.lanes & (u64::MAX << first_lane);
        let to_last = self.lanes & (u64::MAX >> (63 - last_lane));
        if first == last {
            return from_first & to_last != 0 && self.stripes.intersects(first..first + 1);
        }
        (from_first != 0 && self.stripes.intersects(first..first + 1))
            || (to_last != 0 && self.stripes.intersects(last..last + 1))
            || self.stripes.intersects(first + 1..last)
    }

    /// Bytes selected of a blob of `length` bytes.
    ///
    /// # Errors
    /// [`RangesError::OutOfBounds`] if a run of stripes ends past the blob's last, or the blob is longer than
    /// [`PAYLOAD_BYTES_MAX`].
    pub fn selected_bytes(&self, length: u64) -> Result<u64, RangesError> {
        if length > PAYLOAD_BYTES_MAX {
            return Err(RangesError::OutOfBounds);
        }
        let shard_bytes = self.shard_groups * GROUP_BYTES_U64;
        let stripe_bytes = self.stripe_groups() * GROUP_BYTES_U64;
        let whole = length / stripe_bytes;
        let short_bytes = length % stripe_bytes;
        let stripes = whole + u64::from(short_bytes > 0);
        let (mut whole_selected, mut short_selected) = (0, false);
        for run in self.stripes.runs_of(stripes) {
            if run.end > stripes {
                return Err(RangesError::OutOfBounds);
            }
            whole_selected += run.end.min(whole) - run.start.min(whole);
            short_selected |= run.end > whole;
        }
        let mut bytes = whole_selected * u64::from(self.lanes.count_ones()) * shard_bytes;
        if short_selected {
            bytes += (0..u64::from(self.width))
                .filter(|lane| self.lanes >> lane & 1 == 1)
                .map(|lane| short_bytes.saturating_sub(lane * shard_bytes).min(shard_bytes))
                .sum::<u64>();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shapes_out_of_bounds_are_refused() {
        let new = |width, lanes, shard_groups| LaneGroups::new(width, lanes, shard_groups, Ranges::all());
        assert!(new(64, u64::MAX, 64).is_ok());
        for (width, lanes, shard_groups) in
            [(0, 0, 1), (65, 0, 1), (4, 0b1_0000, 1), (63, 1 << 63, 1), (4, 1, 0), (4, 1, 65)]
        {
            assert_eq!(new(width, lanes, shard_groups), Err(RangesError::Lanes));
        }
    }

    #[test]
    fn the_longest_payload_does_not_overflow() {
        let lanes = LaneGroups::new(64, u64::MAX, 64, Ranges::all()).unwrap();
        assert_eq!(lanes.selected_bytes(PAYLOAD_BYTES_MAX), Ok(PAYLOAD_BYTES_MAX));
        assert_eq!(lanes.selected_bytes(PAYLOAD_BYTES_MAX + 1), Err(RangesError::OutOfBounds));
        assert!(lanes.intersects(0..u64::MAX) && lanes.intersects(u64::MAX - 1..u64::MAX));
        let mut stripes = Ranges::all();
        stripes.push_run((1 << 36) - 1, 1).unwrap();
        let last = LaneGroups::new(1, 1, 1, stripes).unwrap();
        assert_eq!(last.selected_bytes(PAYLOAD_BYTES_MAX), Ok(GROUP_BYTES_U64));
        assert_eq!(last.selected_bytes(0), Err(RangesError::OutOfBounds));
    }

    proptest! {
        #[test]
        fn lanes_select_the_same_groups_as_their_list(
            (width, shard_groups) in (1u8..=6, 1u64..=4),
            lane_bits: u64,
            runs in proptest::collection::vec((0u64..4, 1u64..3), 0..4),
            length in 0u64..600 * 16_384,
            (start, len) in (0u64..700, 0u64..200),
        ) {
            let lanes = lane_bits & ((1 << width) - 1);
            let mut stripes = Ranges::all();
            for (gap, len) in runs {
                let _ = stripes.push_run(gap, len);
            }
            let selection = LaneGroups::new(width, lanes, shard_groups, stripes.clone()).unwrap();
            let selected = |group: u64| {
                let shard = group / shard_groups;
                lanes >> (shard % u64::from(width)) & 1 == 1
                    && (stripes.is_all() || stripes.iter().any(|run| run.contains(&(shard / u64::from(width)))))
            };
            prop_assert_eq!(selection.intersects(start..start + len), (start..start + len).any(selected));
            let count = length.div_ceil(u64::from(width) * shard_groups * GROUP_BYTES_U64);
            let bytes = (0..length.div_ceil(GROUP_BYTES_U64))
                .filter(|&group| selected(group))
                .map(|group| (length - group * GROUP_BYTES_U64).min(GROUP_BYTES_U64))
                .sum();
            let fits = stripes.iter().all(|run| run.end <= count);
            prop_assert_eq!(
                Selection::from(selection).selected_bytes(length),
                if fits { Ok(bytes) } else { Err(RangesError::OutOfBounds) }
            );
        }
    }
}

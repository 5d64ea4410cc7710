//! The order of a verified encoding (protocol §2).

use super::{GROUP_BYTES_U64, RangesError, Selection, groups_of, left_groups};

/// The next part of a verified encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The hash pair above a subtree.
    Pair {
        /// Its number in pre-order.
        index: u64,
        /// The first payload byte below it.
        offset: u64,
        is_root: bool,
        /// Whether selected groups of its left part follow.
        left: bool,
        /// Whether selected groups of its right part follow.
        right: bool,
    },
    /// The bytes of one group.
    Group { offset: u64, len: usize, is_root: bool },
}

/// A subtree that holds a selected group, by the groups below it.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    start: u64,
    end: u64,
    /// The number of its topmost pair in pre-order.
    index: u64,
}

/// Walks a payload's tree in pre-order and skips every subtree without selected groups. Holds one subtree for each
/// level, at most 37, for any number of selected groups.
#[derive(Debug)]
pub(super) struct Walk {
    selection: Selection,
    length: u64,
    groups: u64,
    /// The subtrees to walk; the next one is last.
    stack: Vec<Subtree>,
}

impl Walk {
    /// The walk over a payload of `length` bytes, and the number of selected bytes.
    ///
    /// # Errors
    /// Those of [`Selection::selected_bytes`].
    pub(super) fn new(selection: Selection, length: u64) -> Result<(Self, u64), RangesError> {
        let bytes = selection.selected_bytes(length)?;
        let groups = groups_of(length);
        let mut walk = Self { selection, length, groups, stack: Vec::new() };
        if walk.selection.intersects(0..groups) {
            walk.stack.push(Subtree { start: 0, end: groups, index: 0 });
        }
        Ok((walk, bytes))
    }

    /// The groups that it visits.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }
}

impl Iterator for Walk {
    type Item = Step;

    #[inline]
    fn next(&mut self) -> Option<Step> {
        let Subtree { start, end, index } = self.stack.pop()?;
        let is_root = end - start == self.groups;
        let offset = start * GROUP_BYTES_U64;
        if end - start == 1 {
            let len = (self.length - offset).min(GROUP_BYTES_U64) as usize;
            return Some(Step::Group { offset, len, is_root });
        }
        let left_groups = left_groups(end - start);
        let middle = start + left_groups;
        let left = self.selection.intersects(start..middle);
        let right = self.selection.intersects(middle..end);
        // A subtree of n groups has n - 1 pairs.
        if right {
            self.stack.push(Subtree { start: middle, end, index: index + left_groups });
        }
        if left {
            self.stack.push(Subtree { start, end: middle, index: index + 1 });
        }
        Some(Step::Pair { index, offset, is_root, left, right })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{LaneGroups, Ranges};

    #[test]
    fn two_to_the_thirty_five_runs_take_no_memory() {
        let every_second = LaneGroups::new(2, 0b10, 1, Ranges::all()).unwrap();
        let (mut walk, bytes) = Walk::new(every_second.into(), 1 << 50).unwrap();
        assert_eq!(bytes, 1 << 49);
        let mut groups = 0;
        for step in walk.by_ref().take(1 << 20) {
            if let Step::Group { offset, .. } = step {
                assert_eq!(offset, (2 * groups + 1) * GROUP_BYTES_U64);
                groups += 1;
            }
        }
        assert!(groups > 1 << 18);
        assert!(walk.stack.capacity() <= 64);
    }
}

//! One payload from one holder by ranges, handed on in the order of its bytes.

use crate::limits::GATHER_WINDOW_BYTES;
use crate::record::{ErrorCode, ErrorRecord};
use crate::token::{GROUP_BYTES_U64, RangesError, VerifiedPiece, groups_of};
use bytes::Buf;
use std::collections::BTreeMap;
use std::ops::Range;

/// The part of a payload that is gathered in order, and its bound.
#[derive(Clone, Debug, Default)]
pub struct InOrder {
    /// The wanted groups; none: the whole payload, which is known to be longer than [`GATHER_WINDOW_BYTES`].
    pub groups: Option<Range<u64>>,
    /// Fail if these have more bytes; 0 for no bound.
    pub bytes_max: u64,
}

impl InOrder {
    /// The groups that are asked for before the length is known.
    pub(super) fn first(&self) -> Range<u64> {
        let Range { start, end } = self.groups.clone().unwrap_or(0..u64::MAX);
        start..end.min(start + GATHER_WINDOW_BYTES / GROUP_BYTES_U64)
    }

    /// The wanted groups of a payload of this length.
    pub(super) fn groups_of(&self, length: u64) -> Result<Range<u64>, ErrorRecord> {
        let refused = |code, reason: String| Err(ErrorRecord::new(code, 0, reason));
        let groups = self.groups.clone().unwrap_or(0..groups_of(length));
        if groups.end > groups_of(length) {
            return refused(ErrorCode::BadRange, RangesError::OutOfBounds.to_string());
        }
        let selected = (groups.end * GROUP_BYTES_U64).min(length) - groups.start * GROUP_BYTES_U64;
        if self.bytes_max > 0 && selected > self.bytes_max {
            let (most, what) = (self.bytes_max, "payload bytes, more than the");
            return refused(
                ErrorCode::Limit,
                format!("the answer has {selected} {what} {most} asked for at most"),
            );
        }
        Ok(groups)
    }
}

/// Checked pieces on their way into order.
#[derive(Debug)]
pub(super) struct OrderedPieces {
    pub(super) wanted: InOrder,
    /// Pieces behind a gap, by their offsets.
    held: BTreeMap<u64, VerifiedPiece>,
    /// Where the next piece begins that goes into order.
    position: u64,
    /// Where the next piece begins that the host takes.
    taken: u64,
}

impl OrderedPieces {
    pub(super) fn new(wanted: InOrder) -> Self {
        let start = wanted.first().start * GROUP_BYTES_U64;
        Self { wanted, held: BTreeMap::new(), position: start, taken: start }
    }

    /// Takes a piece. Bytes that were there before are dropped: if a range is requested again, its pieces may have other borders.
    pub(super) fn add(&mut self, piece: VerifiedPiece) {
        let there = self.held.get(&piece.offset).map_or(0, |there| there.data.len());
        if piece.data.len() > there {
            self.held.insert(piece.offset, piece);
        }
    }

    /// The next piece in order, if it has come.
    pub(super) fn next(&mut self) -> Option<VerifiedPiece> {
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.position) {
            let mut piece = entry.remove();
            let known = usize::try_from(self.position - piece.offset).unwrap_or(usize::MAX);
            if known < piece.data.len() {
                piece.data.advance(known);
                piece.offset = self.position;
                self.position += piece.data.len() as u64;
                return Some(piece);
            }
        }
        None
    }

    /// The host took the next piece.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// Bytes before `group` that the host has not taken.
    pub(super) fn outstanding_bytes(&self, group: u64) -> u64 {
        (group * GROUP_BYTES_U64).saturating_sub(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn piece(bytes: Range<u64>) -> VerifiedPiece {
        let data: Vec<u8> = bytes.clone().map(|at| at as u8).collect();
        VerifiedPiece { offset: bytes.start, data: Bytes::from(data), proofs: Vec::new() }
    }

    fn drained(ordering: &mut OrderedPieces) -> Vec<Range<u64>> {
        let pieces = std::iter::from_fn(|| ordering.next());
        pieces.map(|piece| piece.offset..piece.offset + piece.data.len() as u64).collect()
    }

    #[test]
    fn what_comes_early_waits_and_what_comes_twice_is_dropped() {
        let mut ordering = OrderedPieces::new(InOrder::default());
        ordering.add(piece(10..20));
        assert_eq!(drained(&mut ordering), []);
        ordering.add(piece(0..10));
        assert_eq!(drained(&mut ordering), [0..10, 10..20]);
        ordering.add(piece(5..15));
        ordering.add(piece(15..25));
        assert_eq!(drained(&mut ordering).first(), Some(&(20..25)));
        assert_eq!(ordering.outstanding_bytes(1), GROUP_BYTES_U64);
        ordering.take(25);
        assert_eq!(ordering.outstanding_bytes(1), GROUP_BYTES_U64 - 25);
    }

    #[test]
    fn a_selection_outside_the_payload_and_one_that_is_too_long_are_refused() {
        let of = |groups: Option<Range<u64>>, bytes_max| InOrder { groups, bytes_max };
        assert_eq!(of(None, 0).groups_of(20 * GROUP_BYTES_U64 + 1), Ok(0..21));
        assert_eq!(of(Some(3..21), 0).groups_of(20 * GROUP_BYTES_U64 + 1), Ok(3..21));
        let code = |refused: Result<_, ErrorRecord>| refused.unwrap_err().code;
        assert_eq!(code(of(Some(3..22), 0).groups_of(20 * GROUP_BYTES_U64 + 1)), ErrorCode::BadRange);
        let last = of(Some(20..21), 1);
        assert_eq!(last.groups_of(20 * GROUP_BYTES_U64 + 1), Ok(20..21));
        assert_eq!(code(last.groups_of(20 * GROUP_BYTES_U64 + 2)), ErrorCode::Limit);
        assert_eq!(of(None, 0).first(), 0..GATHER_WINDOW_BYTES / GROUP_BYTES_U64);
        assert_eq!(of(Some(3..5), 0).first(), 3..5);
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_become_the_payload(
            pieces in proptest::collection::vec((0u64..200, 1u64..60), 0..40),
        ) {
            let mut ordering = OrderedPieces::new(InOrder::default());
            let mut given = Vec::new();
            let whole = (0..5u64).map(|part| (part * 52, 52));
            for (start, len) in pieces.into_iter().chain(whole) {
                ordering.add(piece(start..start + len));
                given.extend(std::iter::from_fn(|| ordering.next()).flat_map(|piece| piece.data));
            }
            prop_assert!(given.len() >= 260);
            prop_assert!(given.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
    }
}

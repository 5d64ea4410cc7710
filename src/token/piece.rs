//! Runs of groups of a payload, checked and not: any thread may check one whose hashes are known, in any order.

use super::{PAIR_BYTES, RangesError, hash_subtree};
use crate::error_code::ErrorCode;
use crate::limits::GROUP_BYTES;
use bytes::Bytes;

/// A checked hash pair and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Its number in pre-order: its place in the outboard is byte `64 * index`.
    pub index: u64,
    /// Left hash, right hash.
    pub pair: [u8; PAIR_BYTES],
}

/// Payload bytes that match the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPiece {
    /// Its place in the payload, bytes. A multiple of 16 KiB.
    pub offset: u64,
    /// Whole groups, at most 256 KiB.
    pub data: Bytes,
    /// Hash pairs checked since the previous piece, in pre-order.
    pub proofs: Vec<Proof>,
}

/// Why a verified encoding was refused. The decoder then takes no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A group or a hash pair that does not match the token.
    #[error("the bytes at payload offset {offset} do not match the token")]
    Proof {
        /// The first payload byte below the bad group or pair.
        offset: u64,
    },
    /// Bytes after the last group.
    #[error("{0} bytes after the end of the verified encoding")]
    Excess(usize),
    /// Ranges outside the payload, or a payload past 2^50 bytes.
    #[error(transparent)]
    Ranges(#[from] RangesError),
}

impl VerifyError {
    /// The error code for the peer (protocol §9).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Proof { .. } => ErrorCode::BadProof,
            Self::Excess(_) => ErrorCode::Malformed,
            Self::Ranges(_) => ErrorCode::BadRange,
        }
    }
}

/// A run of groups of a payload, of which the first ones may be unchecked.
#[derive(Clone, Debug)]
pub struct UncheckedPiece {
    piece: VerifiedPiece,
    /// The hashes that its first groups must have, all of them whole. Those behind are checked.
    expected: Vec<[u8; 32]>,
}

impl UncheckedPiece {
    pub(super) fn new(piece: VerifiedPiece, expected: Vec<[u8; 32]>) -> Self {
        Self { piece, expected }
    }

    /// Whether all of its groups are checked.
    pub fn is_checked(&self) -> bool {
        self.expected.is_empty()
    }

    /// Its length, bytes.
    pub fn len_bytes(&self) -> usize {
        self.piece.data.len()
    }

    /// Checks its groups.
    ///
    /// # Errors
    /// [`VerifyError::Proof`] at the first group that does not match.
    pub fn check(&self) -> Result<(), VerifyError> {
        let offsets = (self.piece.offset..).step_by(GROUP_BYTES);
        let groups = offsets.zip(self.piece.data.chunks_exact(GROUP_BYTES));
        let mut wrong = groups
            .zip(&self.expected)
            .filter(|((offset, group), expected)| hash_subtree(*offset, group, false) != **expected);
        wrong.next().map_or(Ok(()), |((offset, _), _)| Err(VerifyError::Proof { offset }))
    }

    /// The piece, for which [`UncheckedPiece::check`] has found every group right.
    pub(crate) fn into_checked(self) -> VerifiedPiece {
        self.piece
    }
}

//! Checks a verified encoding as it arrives.

use super::piece::{Proof, UncheckedPiece, VerifiedPiece, VerifyError};
use super::walk::{Step, Walk};
use super::{PAIR_BYTES, Selection, Token, hash_pair, hash_subtree, split_pair};
use crate::limits::{GROUP_BYTES, PAGE_BYTES};
use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Groups are collected in allocations of this size, bytes: a burst of large packets takes few of them, and
/// those of many payloads at once stay in the cache. The first one holds a group, and each next one twice as much: a payload that has
/// just begun takes little memory.
const ARENA_BYTES: usize = 1 << 18;
/// Full arenas kept until their pieces are dropped, to be filled again: fresh memory costs page faults.
const SPENT_ARENAS_LEN: usize = 3;
/// The longest piece, bytes.
const PIECE_BYTES_MAX: usize = ARENA_BYTES;

/// Takes the verified encoding of some groups of a payload in chunks of any size and gives the payload bytes
/// that match the token, group by group.
///
/// Each byte is copied once, into its group, and hashed there. At most one group and one hash pair are
/// unchecked at a time. Memory grows with the bytes that arrive, not with the claimed `length`. The check of
/// the last group proves that length, and so does every complete payload.
#[derive(Debug)]
pub struct VerifiedDecoder {
    walk: Walk,
    next: Option<Step>,
    /// No piece crosses a multiple of this number of bytes.
    cut_bytes: u64,
    /// Hashes from a checked parent, the next one last.
    promised: SmallVec<[[u8; 32]; 16]>,
    pair: [u8; PAIR_BYTES],
    pair_len: usize,
    /// Whole groups of one run, then the group being filled.
    arena: BytesMut,
    /// The size of the next arena, bytes.
    arena_bytes: usize,
    spent: SmallVec<[BytesMut; SPENT_ARENAS_LEN + 1]>,
    checked_len: usize,
    checked_offset: u64,
    proofs: Vec<Proof>,
    ready: VecDeque<UncheckedPiece>,
    /// Whether whole groups are left unchecked.
    defers: bool,
    /// The hashes of the first groups of the run that are not checked.
    expected: Vec<[u8; 32]>,
    /// Payload bytes that have not arrived in whole groups yet.
    left_bytes: u64,
    failed: Option<VerifyError>,
}

impl VerifiedDecoder {
    /// A decoder for `selection` of the payload named `token`, whose claimed length is `length` bytes.
    ///
    /// # Errors
    /// [`VerifyError::Ranges`] if some of the selection lies outside the payload or the payload is
    /// too long; [`VerifyError::Proof`] if `length` is 0 and `token` is not the token of no bytes.
    pub fn new(token: Token, length: u64, selection: impl Into<Selection>) -> Result<Self, VerifyError> {
        let (walk, left_bytes) = Walk::new(selection.into(), length)?;
        let mut decoder = Self {
            walk,
            next: None,
            cut_bytes: u64::MAX,
            promised: SmallVec::from_slice(&[*token.root()]),
            pair: [0; PAIR_BYTES],
            pair_len: 0,
            arena: BytesMut::new(),
            arena_bytes: GROUP_BYTES,
            spent: SmallVec::new(),
            checked_len: 0,
            checked_offset: 0,
            proofs: Vec::new(),
            ready: VecDeque::new(),
            defers: false,
            expected: Vec::new(),
            left_bytes,
            failed: None,
        };
        decoder.advance();
        if let Some(Step::Group { len: 0, .. }) = decoder.next {
            decoder.check_group(0, true)?;
        }
        Ok(decoder)
    }

    /// Ends pieces at multiples of `cut_bytes`, such as the borders of shards: a multiple of 16 KiB, not 0.
    /// Call it before the first byte is pushed.
    #[must_use]
    pub fn with_cut(mut self, cut_bytes: u64) -> Self {
        self.cut_bytes = cut_bytes.max(1);
        self
    }

    /// Leaves groups of 16 KiB unchecked for [`VerifiedDecoder::poll_unchecked`]: another thread may check them. Pairs, a payload of one group, and a
    /// shorter last group are checked as they arrive. Call it before the first byte is pushed.
    #[must_use]
    pub fn deferring(mut self, defers: bool) -> Self {
        self.defers = defers;
        self
    }

    /// Takes the next bytes of the encoding and checks every hash pair and group that they complete.
    ///
    /// # Errors
    /// The first mismatch. Pieces checked before it can still be polled.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), VerifyError> {
        self.feed(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let error = VerifyError::Excess(chunk.len());
        self.failed = Some(error);
        Err(error)
    }

    /// Like [`VerifiedDecoder::push`], but stops at the end of the encoding: the bytes behind it stay in
    /// `chunk`.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn feed(&mut self, chunk: &mut &[u8]) -> Result<(), VerifyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !chunk.is_empty() {
            let step = match self.next {
                Some(Step::Pair { index, offset, is_root, left, right }) => {
                    let take = chunk.len().min(PAIR_BYTES - self.pair_len);
                    self.pair[self.pair_len..self.pair_len + take].copy_from_slice(&chunk[..take]);
                    self.pair_len += take;
                    *chunk = &chunk[take..];
                    if self.pair_len < PAIR_BYTES {
                        Ok(())
                    } else {
                        self.check_pair(index, offset, is_root, [left, right])
                    }
                }
                Some(Step::Group { offset, len, is_root }) => {
                    let take = chunk.len().min(self.checked_len + len - self.arena.len());
                    self.arena.extend_from_slice(&chunk[..take]);
                    *chunk = &chunk[take..];
                    if self.arena.len() < self.checked_len + len {
                        Ok(())
                    } else {
                        self.check_group(offset, is_root)
                    }
                }
                None => return Ok(()),
            };
            if let Err(error) = step {
                self.failed = Some(error);
                // Unchecked bytes are dropped.
                self.arena.truncate(self.checked_len);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The next run of checked groups. A poll after each chunk gives single groups. A poll after each burst
    /// gives runs, which cost less downstream.
    pub fn poll(&mut self) -> Option<VerifiedPiece> {
        let piece = self.poll_unchecked()?;
        if let Err(error) = piece.check() {
            self.failed = Some(error);
            return None;
        }
        Some(piece.into_checked())
    }

    /// The next run of groups, of which some may be unchecked if this decoder is [deferring](VerifiedDecoder::deferring).
    pub fn poll_unchecked(&mut self) -> Option<UncheckedPiece> {
        if self.ready.is_empty() {
            self.cut();
        }
        self.ready.pop_front()
    }

    /// Whether every selected byte was checked, or has arrived if this decoder is deferring. Pieces may still wait to be polled.
    pub fn is_complete(&self) -> bool {
        self.next.is_none() && self.failed.is_none()
    }

    /// Payload bytes that have not arrived in whole groups yet.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    fn check_pair(
        &mut self,
        index: u64,
        offset: u64,
        is_root: bool,
        [left, right]: [bool; 2],
    ) -> Result<(), VerifyError> {
        self.pair_len = 0;
        if self.promised.pop() != Some(hash_pair(&self.pair, is_root)) {
            return Err(VerifyError::Proof { offset });
        }
        let [left_hash, right_hash] = split_pair(&self.pair);
        if right {
            self.promised.push(right_hash);
        }
        if left {
            self.promised.push(left_hash);
        }
        self.proofs.push(Proof { index, pair: self.pair });
        self.advance();
        Ok(())
    }

    fn check_group(&mut self, offset: u64, is_root: bool) -> Result<(), VerifyError> {
        let group = &self.arena[self.checked_len..];
        let promised = self.promised.pop();
        if let Some(expected) = promised.filter(|_| self.defers && !is_root && group.len() == GROUP_BYTES) {
            self.expected.push(expected);
        } else if promised != Some(hash_subtree(offset, group, is_root)) {
            return Err(VerifyError::Proof { offset });
        }
        self.left_bytes -= group.len() as u64;
        self.checked_len = self.arena.len();
        self.advance();
        Ok(())
    }

    /// Steps to the next node and, before a group, makes room for it.
    fn advance(&mut self) {
        self.next = self.walk.next();
        let Some(Step::Group { offset, len, .. }) = self.next else { return };
        let follows = offset == self.checked_offset + self.checked_len as u64;
        let no_room = self.arena.capacity() - self.arena.len() < len;
        if !follows
            || no_room
            || self.checked_len + len > PIECE_BYTES_MAX
            || offset.is_multiple_of(self.cut_bytes)
        {
            self.cut();
        }
        if self.checked_len == 0 {
            self.checked_offset = offset;
        }
        if no_room {
            self.renew_arena();
        }
    }

    /// Continues in an arena whose pieces were all dropped, or in a fresh one. The current one has no room
    /// left.
    fn renew_arena(&mut self) {
        let bytes = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(self.arena_bytes);
        if self.arena_bytes < ARENA_BYTES {
            // The one before is too short to be filled again.
            self.arena = BytesMut::with_capacity(bytes);
            self.arena_bytes *= 2;
            return;
        }
        self.spent.push(std::mem::take(&mut self.arena));
        let whole = bytes + PAGE_BYTES - 1;
        let free = self.spent.iter_mut().position(|arena| arena.try_reclaim(whole));
        self.arena = free.map_or_else(|| BytesMut::with_capacity(whole), |at| self.spent.remove(at));
        // Its pieces begin at pages then: they can be written past the page cache.
        let before = self.arena.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
        self.arena.resize(before, 0);
        self.arena.advance(before);
        if self.spent.len() > SPENT_ARENAS_LEN {
            self.spent.remove(0);
        }
    }

    /// Makes a piece of the checked groups.
    fn cut(&mut self) {
        if self.checked_len == 0 {
            return;
        }
        let data = self.arena.split_to(self.checked_len).freeze();
        let offset = self.checked_offset;
        self.checked_offset += self.checked_len as u64;
        self.checked_len = 0;
        let piece = VerifiedPiece { offset, data, proofs: std::mem::take(&mut self.proofs) };
        self.ready.push_back(UncheckedPiece::new(piece, std::mem::take(&mut self.expected)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{EncodedPiece, Outboard, Ranges, VerifiedEncoder};

    /// The most full arenas kept while a payload is decoded whose last `kept` pieces are held.
    fn spent_arenas(kept: usize) -> usize {
        let data = vec![7; 8 << 20];
        let (token, outboard) = Outboard::build(&data[..], data.len() as u64).unwrap();
        let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
        let mut decoder = VerifiedDecoder::new(token, data.len() as u64, Ranges::all()).unwrap();
        let (mut pieces, mut held, mut spent) = (Vec::new(), VecDeque::new(), 0);
        while encoder.next_batch(100_000, &mut pieces).unwrap() > 0 {
            for piece in pieces.drain(..) {
                match piece {
                    EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                    EncodedPiece::Data { offset, len } => {
                        decoder.push(&data[offset as usize..][..len]).unwrap()
                    }
                }
            }
            held.extend(std::iter::from_fn(|| decoder.poll()));
            held.drain(..held.len().saturating_sub(kept));
            spent = spent.max(decoder.spent.len());
        }
        assert!(decoder.is_complete());
        spent
    }

    #[test]
    fn pieces_of_a_long_payload_begin_at_pages_of_memory_also_where_it_is_used_again() {
        let data: Vec<u8> = (0..(4 << 20) + 5000).map(|at: u32| (at / 3) as u8).collect();
        let (token, outboard) = Outboard::build(&data[..], data.len() as u64).unwrap();
        let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
        let mut decoder = VerifiedDecoder::new(token, data.len() as u64, Ranges::all()).unwrap();
        let (mut pieces, mut seen) = (Vec::new(), 0);
        while encoder.next_batch(100_000, &mut pieces).unwrap() > 0 {
            for piece in pieces.drain(..) {
                match piece {
                    EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                    EncodedPiece::Data { offset, len } => {
                        decoder.push(&data[offset as usize..][..len]).unwrap();
                    }
                }
            }
            for piece in std::iter::from_fn(|| decoder.poll()) {
                assert_eq!(piece.data, data[piece.offset as usize..][..piece.data.len()]);
                // Those before are in memory that grows.
                if piece.offset >= ARENA_BYTES as u64 {
                    assert!(piece.data.as_ptr().addr().is_multiple_of(PAGE_BYTES), "from {}", piece.offset);
                    seen += piece.data.len();
                }
            }
        }
        assert!(seen > 3 << 20);
    }

    #[test]
    fn a_payload_that_has_just_begun_takes_little_memory() {
        let data = vec![7; 2 << 20];
        let (token, outboard) = Outboard::build(&data[..], data.len() as u64).unwrap();
        let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
        let mut decoder = VerifiedDecoder::new(token, data.len() as u64, Ranges::all()).unwrap();
        let (mut pieces, mut received) = (Vec::new(), 0);
        while encoder.next_batch(GROUP_BYTES, &mut pieces).unwrap() > 0 {
            for piece in pieces.drain(..) {
                let bytes = match &piece {
                    EncodedPiece::Proof(pairs) => pairs,
                    EncodedPiece::Data { offset, len } => &data[*offset as usize..][..*len],
                };
                decoder.push(bytes).unwrap();
                received += bytes.len();
                let held = decoder.arena.capacity();
                assert!(held <= 2 * received + GROUP_BYTES, "{held} bytes of memory for {received}");
            }
            while decoder.poll().is_some() {}
        }
        assert!(decoder.is_complete());
    }

    #[test]
    fn memory_of_dropped_pieces_is_filled_again_and_the_memory_of_held_ones_is_bounded() {
        // The last arena that was too short, and the one whose last piece is not polled yet.
        assert_eq!(spent_arenas(0), 2);
        assert_eq!(spent_arenas(usize::MAX), SPENT_ARENAS_LEN);
    }
}

//! Hashes a payload piece by piece.

use super::walk::{Step, Walk};
use super::{Outboard, OutboardError, PAIR_BYTES, Ranges, Token, hash_pair, hash_subtree, outboard_bytes};
use std::io::Read;

/// Payload read at once while hashing, bytes: whole groups, and small enough for a core's second cache.
const WINDOW_BYTES: usize = 1 << 18;

/// Takes a payload's bytes in pieces of any size and gives its token and outboard. Uses 64 bytes of memory
/// for every 16 KiB, and one group in addition.
#[derive(Debug)]
pub struct OutboardHasher {
    length: u64,
    walk: Walk,
    /// The group being filled.
    next: Option<Group>,
    group: Vec<u8>,
    /// Pairs in pre-order; those of incomplete subtrees are zero.
    pairs: Vec<u8>,
    /// The incomplete subtrees, the innermost last.
    open: Vec<Subtree>,
    root: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    offset: u64,
    len: usize,
    is_root: bool,
}

#[derive(Debug)]
struct Subtree {
    /// The place of its pair.
    at: usize,
    is_root: bool,
    left: Option<[u8; 32]>,
}

impl Outboard {
    /// Reads `length` bytes and hashes them. Uses 64 bytes of memory for every 16 KiB read, and 256 KiB in
    /// addition.
    ///
    /// # Errors
    /// [`OutboardError::TooLong`] past [`crate::limits::PAYLOAD_BYTES_MAX`]; [`OutboardError::Io`] if the reader fails or ends early.
    pub fn build(mut reader: impl Read, length: u64) -> Result<(Token, Self), OutboardError> {
        let mut hasher = OutboardHasher::new(length)?;
        let mut window = vec![0; WINDOW_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
        let mut left = length;
        while left > 0 {
            let len = left.min(WINDOW_BYTES as u64) as usize;
            reader.read_exact(&mut window[..len])?;
            hasher.update(&window[..len])?;
            left -= len as u64;
        }
        hasher.finish()
    }
}

impl OutboardHasher {
    /// A hasher for a payload of `length` bytes.
    ///
    /// # Errors
    /// [`OutboardError::TooLong`] past 2^50 bytes.
    pub fn new(length: u64) -> Result<Self, OutboardError> {
        let (walk, _) =
            Walk::new(Ranges::all().into(), length).map_err(|_| OutboardError::TooLong(length))?;
        let mut pairs = Vec::new();
        // A vector that doubles would hold up to twice this size. It doubles only if the exact size cannot be
        // reserved.
        let _ = pairs.try_reserve_exact(usize::try_from(outboard_bytes(length)).unwrap_or(usize::MAX));
        let (next, root) = (None, None);
        let mut hasher = Self { length, walk, next, group: Vec::new(), pairs, open: Vec::new(), root };
        hasher.advance();
        if length == 0 {
            hasher.close(0, &[], true);
        }
        Ok(hasher)
    }

    /// Takes the payload's next bytes.
    ///
    /// # Errors
    /// [`OutboardError::Length`] past the payload's length.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), OutboardError> {
        while !bytes.is_empty() {
            let Some(Group { offset, len, is_root }) = self.next else {
                return Err(OutboardError::Length { expected: self.length });
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(len - self.group.len()));
            bytes = rest;
            if taken.len() == len {
                self.close(offset, taken, is_root);
                continue;
            }
            self.group.extend_from_slice(taken);
            if self.group.len() == len {
                let mut group = std::mem::take(&mut self.group);
                self.close(offset, &group, is_root);
                group.clear();
                self.group = group;
            }
        }
        Ok(())
    }

    /// The token and the outboard.
    ///
    /// # Errors
    /// [`OutboardError::Length`] if bytes are missing.
    pub fn finish(self) -> Result<(Token, Outboard), OutboardError> {
        let root = self.root.ok_or(OutboardError::Length { expected: self.length })?;
        Ok((Token::from_root(root), Outboard::from_bytes(self.length, self.pairs.into())?))
    }

    /// Hashes a complete group, and the pairs of the subtrees that it completes.
    fn close(&mut self, offset: u64, group: &[u8], is_root: bool) {
        let mut hash = hash_subtree(offset, group, is_root);
        while let Some(subtree) = self.open.last_mut() {
            let Some(left) = subtree.left else {
                subtree.left = Some(hash);
                return self.advance();
            };
            let mut pair = [0; PAIR_BYTES];
            pair[..32].copy_from_slice(&left);
            pair[32..].copy_from_slice(&hash);
            self.pairs[subtree.at..subtree.at + PAIR_BYTES].copy_from_slice(&pair);
            hash = hash_pair(&pair, subtree.is_root);
            self.open.pop();
        }
        self.root = Some(hash);
        self.next = None;
    }

    /// Opens the subtrees that begin here, down to their first group.
    fn advance(&mut self) {
        self.next = None;
        for step in self.walk.by_ref() {
            match step {
                Step::Pair { is_root, .. } => {
                    self.open.push(Subtree { at: self.pairs.len(), is_root, left: None });
                    // A pair's place is before its children's: pre-order.
                    self.pairs.resize(self.pairs.len() + PAIR_BYTES, 0);
                }
                Step::Group { offset, len, is_root } => {
                    self.next = Some(Group { offset, len, is_root });
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn more_or_fewer_bytes_than_said_are_refused() {
        let mut hasher = OutboardHasher::new(20_000).unwrap();
        hasher.update(&[1; 19_999]).unwrap();
        assert!(hasher.update(&[1; 2]).is_err());
        let mut hasher = OutboardHasher::new(20_000).unwrap();
        hasher.update(&[1; 19_999]).unwrap();
        assert!(matches!(hasher.finish(), Err(OutboardError::Length { expected: 20_000 })));
        assert!(OutboardHasher::new(0).unwrap().update(&[1]).is_err());
        assert!(OutboardHasher::new((1 << 50) + 1).is_err());
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_one_token(len in 0usize..300_000, piece_len in 1usize..70_000) {
            let data: Vec<u8> = (0..len).map(|i| (i >> 8) as u8 ^ i as u8).collect();
            let mut hasher = OutboardHasher::new(len as u64).unwrap();
            data.chunks(piece_len).for_each(|piece| hasher.update(piece).unwrap());
            let (token, outboard) = hasher.finish().unwrap();
            prop_assert_eq!(token, Token::of(&data));
            prop_assert_eq!(outboard.as_bytes().unwrap().len() as u64, outboard_bytes(len as u64));
        }
    }
}

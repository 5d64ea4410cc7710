//! A rope of received bytes: moved, never copied.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Bytes of a record as received, in order, in the network's chunks. No chunk is empty.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    chunks: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl Payload {
    /// An empty payload.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }

    /// Appends a chunk that is kept past the turn in which it arrived. One that is shorter than `crumb_bytes` is copied, together with
    /// those before it: it would keep its whole datagram.
    pub(crate) fn push_kept(&mut self, chunk: Bytes, crumb_bytes: usize) {
        if chunk.len() >= crumb_bytes {
            return self.push(chunk);
        }
        self.len += chunk.len();
        let piece = append_crumb(self.chunks.last_mut(), &chunk);
        self.chunks.extend(piece);
    }

    /// Bytes in all chunks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.chunks.iter()
    }

    /// The chunks themselves.
    pub fn into_chunks(self) -> SmallVec<[Bytes; 2]> {
        self.chunks
    }

    /// The bytes in one piece: copied only if there is more than one chunk.
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            chunks => {
                let mut whole = BytesMut::with_capacity(self.len);
                chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
                whole.freeze()
            }
        }
    }

    /// Copies the first bytes into `out`; returns their number.
    pub(super) fn copy_prefix(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for chunk in &self.chunks {
            let take = chunk.len().min(out.len() - filled);
            out[filled..filled + take].copy_from_slice(&chunk[..take]);
            filled += take;
            if filled == out.len() {
                break;
            }
        }
        filled
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        let mut whole = 0;
        for chunk in &mut self.chunks {
            if left < chunk.len() {
                chunk.advance(left);
                break;
            }
            left -= chunk.len();
            whole += 1;
        }
        if whole > 0 {
            self.chunks.drain(..whole);
        }
    }
}

/// Crumbs are copied together into pieces of this length at most, bytes.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Appends a copy of a crumb to the last of the chunks before it. Returns the copy instead if there is none, or if it is long enough.
pub(super) fn append_crumb(last: Option<&mut Bytes>, crumb: &[u8]) -> Option<Bytes> {
    if crumb.is_empty() {
        return None;
    }
    let Some(last) = last.filter(|last| last.len() + crumb.len() <= PIECE_BYTES_MAX) else {
        return Some(Bytes::copy_from_slice(crumb));
    };
    let mut whole = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(shared.len() + crumb.len());
        copy.extend_from_slice(&shared);
        copy
    });
    whole.extend_from_slice(crumb);
    *last = whole.freeze();
    None
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(chunk);
        payload
    }
}

impl<'a> IntoIterator for &'a Payload {
    type Item = &'a Bytes;
    type IntoIter = std::slice::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Equal bytes, however they are cut.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().flat_map(|c| c.iter()).eq(other.iter().flat_map(|c| c.iter()))
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(chunks: &[&'static [u8]]) -> Payload {
        let mut payload = Payload::new();
        chunks.iter().for_each(|chunk| payload.push(Bytes::from_static(chunk)));
        payload
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let chunk = Bytes::from(vec![7; 100]);
        let payload = Payload::from(chunk.clone());
        assert_eq!(payload.to_bytes().as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn advance_crosses_chunks() {
        for count in 0..=8 {
            let mut payload = rope(&[b"ab", b"", b"cde", b"f"]);
            payload.advance(count);
            assert_eq!(&payload.to_bytes()[..], &b"abcdef"[count.min(6)..]);
            assert_eq!(payload.len(), 6 - count.min(6));
            assert!(payload.iter().all(|chunk| !chunk.is_empty()));
        }
    }

    #[test]
    fn equality_ignores_the_cuts() {
        assert_eq!(rope(&[b"ab", b"c"]), rope(&[b"a", b"bc"]));
        assert_ne!(rope(&[b"ab", b"c"]), rope(&[b"a", b"bd"]));
    }
}

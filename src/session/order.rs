//! The peer's bytes of a stream, in order.
//!
//! quinn-proto keeps bytes that arrive behind a gap, and closes the connection when one stream has more than about a thousand gaps. A
//! long path may lose that many packets at once. From the first gap of a connection on, its streams are read as their frames arrive and
//! put in order here. The bytes held here are bounded: the session takes them out of the connection's receive window.

use bytes::BytesMut;
use quinn_proto::{Chunk, Chunks, ReadError};
use std::collections::BTreeMap;

/// Adjoining bytes are held in one piece up to this length, bytes.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Bytes without a gap among them after which a stream that waits is not searched further for gaps.
const RUN_BYTES: usize = 64 * 1024;

/// Memory of a piece beside its bytes: its place in the tree and its allocation, bytes.
const PIECE_COST_BYTES: usize = 128;

/// How far a stream is read, and the bytes held behind its gaps.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Bytes given on, from the stream's start.
    next: u64,
    /// The bytes behind a gap; `None` while the stream is read in order.
    apart: Option<Box<Apart>>,
}

/// Bytes that arrived before bytes in front of them.
#[derive(Debug, Default)]
struct Apart {
    /// By the offset of their first byte; none overlap.
    pieces: BTreeMap<u64, BytesMut>,
    bytes: usize,
    /// The offset behind the last byte that was held.
    end: u64,
    /// Whether QUIC has given every byte of the stream.
    complete: bool,
}

impl Order {
    /// Reads the stream as its frames arrive from now on.
    pub(super) fn take_apart(&mut self) {
        self.apart.get_or_insert_default();
    }

    /// Whether the stream is read as its frames arrive.
    pub(super) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// Whether QUIC has given every byte of the stream, and no longer knows the stream.
    pub(super) fn is_complete(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| apart.complete)
    }

    /// The bytes given on, from the stream's start.
    pub(super) fn offset(&self) -> u64 {
        self.next
    }

    /// The bytes taken out of QUIC, from the stream's start: those given on, and those held here.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.next + self.apart.as_ref().map_or(0, |apart| apart.bytes as u64)
    }

    /// The memory of the bytes held here, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.apart.as_ref().map_or(0, |apart| apart.bytes + apart.pieces.len() * PIECE_COST_BYTES)
    }

    /// Drops the bytes held. The stream is not read any further.
    pub(super) fn clear(&mut self) {
        if let Some(apart) = &mut self.apart {
            apart.pieces.clear();
            apart.bytes = 0;
        }
    }

    /// The next bytes; `None` at the stream's end. [`Order::given`] must follow. `chunks` is `None` if [`Order::is_complete`].
    #[inline]
    pub(super) fn next(&mut self, chunks: &mut Option<Chunks<'_>>) -> Result<Option<Chunk>, ReadError> {
        match chunks {
            _ if self.apart.is_some() => self.next_apart(chunks),
            Some(chunks) => chunks.next(usize::MAX),
            None => Ok(None),
        }
    }

    /// Notes that these bytes were given on.
    #[inline]
    pub(super) fn given(&mut self, chunk: &Chunk) {
        self.next = chunk.offset + chunk.bytes.len() as u64;
    }

    /// The same, of a stream that is read as its frames arrive. Out of line: the path without gaps pays for each instruction here.
    #[cold]
    #[inline(never)]
    fn next_apart(&mut self, chunks: &mut Option<Chunks<'_>>) -> Result<Option<Chunk>, ReadError> {
        if let Some(front) = self.front() {
            return Ok(Some(front));
        }
        let Some(chunks) = chunks else { return Ok(None) };
        while let Some(chunk) = arrived(chunks)? {
            if let Some(next) = self.take(chunk) {
                return Ok(Some(next));
            }
        }
        if let Some(apart) = &mut self.apart {
            apart.complete = true;
        }
        Ok(self.front())
    }

    /// Takes about `part_bytes` bytes out of QUIC, of a stream whose bytes cannot be given on now. Stops once `bytes_max` bytes are held and
    /// a run without a gap follows: quinn-proto bounds those bytes itself, by the stream's window. Returns whether there may be more to
    /// take.
    pub(super) fn hold(
        &mut self,
        chunks: &mut Chunks<'_>,
        bytes_max: usize,
        part_bytes: usize,
    ) -> Result<bool, ReadError> {
        let Some(apart) = &mut self.apart else { return Ok(false) };
        let enough = apart.bytes + part_bytes;
        let mut run_bytes = 0;
        while run_bytes < RUN_BYTES || apart.bytes < bytes_max {
            if apart.bytes >= enough {
                return Ok(true);
            }
            match arrived(chunks) {
                Ok(Some(chunk)) => {
                    let adjoins = chunk.offset == apart.end.max(self.next);
                    run_bytes = if adjoins { run_bytes + chunk.bytes.len() } else { 0 };
                    apart.keep(chunk.offset, &chunk.bytes);
                }
                Ok(None) => {
                    apart.complete = true;
                    return Ok(false);
                }
                Err(ReadError::Blocked) => return Ok(false),
                Err(reset) => return Err(reset),
            }
        }
        Ok(false)
    }

    /// The next bytes, if they are held.
    fn front(&mut self) -> Option<Chunk> {
        let apart = self.apart.as_mut()?;
        let front = apart.pieces.first_entry().filter(|front| *front.key() == self.next)?;
        let bytes = front.remove().freeze();
        apart.bytes -= bytes.len();
        Some(Chunk { offset: self.next, bytes })
    }

    /// Returns bytes that are the next ones, and holds others.
    fn take(&mut self, chunk: Chunk) -> Option<Chunk> {
        match &mut self.apart {
            Some(apart) if chunk.offset != self.next => {
                apart.keep(chunk.offset, &chunk.bytes);
                None
            }
            _ => Some(chunk),
        }
    }
}

/// The next bytes that have arrived, behind gaps or not. One function for both callers, so that reading in order has a copy of
/// [`Chunks::next`] of its own.
#[inline(never)]
fn arrived(chunks: &mut Chunks<'_>) -> Result<Option<Chunk>, ReadError> {
    chunks.next(usize::MAX)
}

impl Apart {
    /// Copies bytes in: a reference to them would keep the whole burst of packets in which they arrived.
    fn keep(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.bytes += bytes.len();
        self.end = self.end.max(end);
        let before = self.pieces.range_mut(..offset).next_back();
        match before {
            Some((at, piece))
                if at + piece.len() as u64 == offset && piece.len() + bytes.len() <= PIECE_BYTES_MAX =>
            {
                piece.extend_from_slice(bytes);
            }
            _ => drop(self.pieces.insert(offset, BytesMut::from(bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// All held bytes that can be given on now.
    fn fronts(order: &mut Order) -> Vec<u8> {
        let front = || order.front().inspect(|chunk| order.given(chunk)).map(|chunk| chunk.bytes);
        std::iter::from_fn(front).flatten().collect()
    }

    /// These bytes arrive. Returns them if they are the next ones.
    fn take(order: &mut Order, offset: u64, bytes: impl Into<Bytes>) -> Option<Bytes> {
        let chunk = Chunk { offset, bytes: bytes.into() };
        order.take(chunk).inspect(|chunk| order.given(chunk)).map(|chunk| chunk.bytes)
    }

    #[test]
    fn bytes_in_order_are_passed_without_a_copy() {
        for apart in [false, true] {
            let mut order = Order::default();
            if apart {
                order.take_apart();
            }
            let bytes = Bytes::from_static(b"one after another");
            let at = bytes.as_ptr();
            assert_eq!(take(&mut order, 0, bytes).unwrap().as_ptr(), at);
            assert_eq!(take(&mut order, 17, &b"!"[..]).as_deref(), Some(&b"!"[..]));
            assert_eq!(order.held_bytes(), 0);
        }
    }

    #[test]
    fn adjoining_bytes_are_held_in_one_piece() {
        let mut order = Order::default();
        order.take_apart();
        for number in 1..=100 {
            assert_eq!(take(&mut order, number * 1000, vec![number as u8; 1000]), None);
        }
        assert_eq!(order.apart.as_ref().unwrap().pieces.len(), 2);
        assert_eq!(order.held_bytes(), 100_000 + 2 * PIECE_COST_BYTES);
        assert_eq!(take(&mut order, 0, vec![0; 1000]).unwrap().len(), 1000);
        let rest = fronts(&mut order);
        assert!(
            rest.len() == 100_000
                && rest.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at / 1000 + 1)
        );
        assert_eq!(order.held_bytes(), 0);
    }

    #[test]
    fn cleared_bytes_cost_nothing() {
        let mut order = Order::default();
        order.take_apart();
        take(&mut order, 5, &b"behind a gap"[..]);
        order.clear();
        assert_eq!(order.held_bytes(), 0);
        assert!(order.front().is_none());
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_same_bytes(
            lens in prop::collection::vec(1_usize..300, 1..80),
            order_of in prop::collection::vec(any::<u32>(), 80),
        ) {
            let whole: Vec<u8> = (0..lens.iter().sum::<usize>()).map(|at| (at * 7 % 251) as u8).collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for (len, &key) in lens.iter().zip(&order_of) {
                pieces.push((key, at, whole[at..at + len].to_vec()));
                at += len;
            }
            pieces.sort();
            let mut order = Order::default();
            order.take_apart();
            let mut got = Vec::new();
            let mut taken = 0;
            for (_, at, bytes) in pieces {
                taken += bytes.len();
                got.extend(take(&mut order, at as u64, bytes).into_iter().flatten());
                got.extend(fronts(&mut order));
                let pieces = order.apart.as_ref().unwrap().pieces.len();
                prop_assert_eq!(order.held_bytes(), taken - got.len() + pieces * PIECE_COST_BYTES);
            }
            prop_assert_eq!(got, whole);
        }
    }
}

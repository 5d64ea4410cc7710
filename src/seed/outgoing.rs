//! One answer on its way: its bytes come from memory, or wait for the disk.

use super::lookup::PreparedAnswer;
use super::memory::{Begin, BytesAsked, Place};
use super::open_payload::PayloadPart;
use super::tier::OnBytes;
use super::{MemoryTier, OpenPayload, StoreError};
use crate::limits::{GROUP_BYTES, MEMORY_BLOCK_BYTES, READ_AHEAD_LEN, READ_AHEAD_STEP_LEN};
use crate::queue::{AppPort, Credit, RequestId};
use crate::token::{AnyToken, EncodedPiece, VerifiedEncoder};
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes that are given to one peer before the next has its turn.
pub(super) const TURN_BYTES: usize = 256 * 1024;

/// One answer that is being sent.
pub(super) struct OutgoingAnswer {
    pub(super) request: RequestId,
    pub(super) token: AnyToken,
    pub(super) credit: Credit,
    parts: VecDeque<(OpenPayload, VerifiedEncoder)>,
    batch: Vec<EncodedPiece>,
    pieces: VecDeque<EncodedPiece>,
    /// Bytes that the ring or the credit did not take, or that the disk gave.
    pub(super) unsent: Option<Bytes>,
    /// What the disk is asked for.
    wanted: Option<WantedPart>,
    /// Why the disk did not give it.
    failed: Option<StoreError>,
    /// The first block of the part that was not looked at to be read ahead.
    ahead: u64,
}

#[derive(Clone, Copy)]
enum WantedPart {
    Data { offset: u64, len: usize },
    Pairs { offset: u64 },
}

/// How an answer gets bytes that are not in memory.
pub(super) struct Fetching<'a> {
    pub(super) memory: &'a MemoryTier,
    pub(super) begin: Begin,
    /// Makes what takes the bytes of a request.
    pub(super) waiting: &'a dyn Fn(RequestId) -> OnBytes,
}

/// The state of an answer after its turn.
pub(super) struct AnswerTurn {
    /// Bytes that were sent.
    pub(super) bytes: usize,
    /// Whether everything is sent.
    pub(super) whole: bool,
}

enum NextBytes {
    Bytes(Bytes),
    /// They wait for the disk.
    Later,
    End,
}

impl OutgoingAnswer {
    pub(super) fn new(request: RequestId, token: AnyToken, credit: Credit, answer: PreparedAnswer) -> Self {
        Self {
            request,
            token,
            credit,
            parts: answer.parts,
            batch: Vec::new(),
            pieces: VecDeque::new(),
            unsent: None,
            wanted: None,
            failed: None,
            ahead: 0,
        }
    }

    /// Whether it waits for the disk.
    pub(super) fn waits(&self) -> bool {
        self.wanted.is_some()
    }

    /// Takes what the disk gave: no bytes if it is to be asked again.
    pub(super) fn read(&mut self, read: Result<Bytes, StoreError>) {
        let Some(wanted) = self.wanted.take() else { return };
        match (read, wanted) {
            (Err(error), _) => self.failed = Some(error),
            (Ok(bytes), WantedPart::Data { offset, len }) => {
                self.put_back(offset + bytes.len() as u64, len - bytes.len().min(len));
                self.unsent = Some(bytes).filter(|bytes| !bytes.is_empty());
            }
            (Ok(pairs), WantedPart::Pairs { offset }) => self.give_pairs(offset, &pairs),
        }
    }

    fn give_pairs(&mut self, offset: u64, pairs: &[u8]) {
        if let Some((_, encoder)) = self.parts.front_mut().filter(|_| !pairs.is_empty()) {
            encoder.give_pairs(offset, pairs);
        }
    }

    /// Data that is still to be read.
    fn put_back(&mut self, offset: u64, len: usize) {
        if len > 0 {
            self.pieces.push_front(EncodedPiece::Data { offset, len });
        }
    }

    /// Sends up to about `bytes_max`.
    pub(super) fn turn(
        &mut self,
        bytes_max: usize,
        fetching: &Fetching<'_>,
        port: &mut AppPort,
    ) -> Result<AnswerTurn, StoreError> {
        let mut sent = 0;
        // Nothing is read for an answer that may send nothing.
        while sent < bytes_max && (self.credit.has_room() || self.is_given()) {
            let bytes = match self.next(fetching)? {
                NextBytes::Bytes(bytes) => bytes,
                NextBytes::Later => break,
                NextBytes::End => return Ok(AnswerTurn { bytes: sent, whole: true }),
            };
            let len = bytes.len();
            if let Err(bytes) = port.send_data(self.request, &self.credit, bytes) {
                self.unsent = Some(bytes);
                break;
            }
            sent += len;
        }
        Ok(AnswerTurn { bytes: sent, whole: false })
    }

    /// Whether every byte was sent, or no further one comes.
    fn is_given(&self) -> bool {
        let is_over = |(_, encoder): &(OpenPayload, VerifiedEncoder)| encoder.is_complete();
        let is_read = self.unsent.is_none() && self.pieces.is_empty() && self.wanted.is_none();
        self.failed.is_some() || (is_read && self.parts.iter().all(is_over))
    }

    fn next(&mut self, fetching: &Fetching<'_>) -> Result<NextBytes, StoreError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some(bytes) = self.unsent.take() {
            return Ok(NextBytes::Bytes(bytes));
        }
        loop {
            if self.wanted.is_some() {
                return Ok(NextBytes::Later);
            }
            let read = match self.pieces.pop_front() {
                Some(EncodedPiece::Proof(hashes)) => return Ok(NextBytes::Bytes(hashes)),
                Some(EncodedPiece::Data { offset, len }) => self.data(offset, len, fetching),
                None => {
                    let Some((held, encoder)) = self.parts.front_mut() else { return Ok(NextBytes::End) };
                    let failed = |source| StoreError::reading(held.token(), source);
                    if encoder.next_batch(TURN_BYTES, &mut self.batch).map_err(failed)? > 0 {
                        self.pieces.extend(self.batch.drain(..));
                        continue;
                    }
                    let Some((offset, len)) = encoder.missing_pairs() else {
                        self.parts.pop_front();
                        self.ahead = 0;
                        continue;
                    };
                    match self.ask(WantedPart::Pairs { offset }, len, fetching) {
                        Some(pairs) => {
                            self.give_pairs(offset, &pairs);
                            continue;
                        }
                        None => None,
                    }
                }
            };
            return Ok(read.map_or(NextBytes::Later, NextBytes::Bytes));
        }
    }

    /// Data, if it is in memory. A read ends where its block of memory ends.
    fn data(&mut self, offset: u64, len: usize, fetching: &Fetching<'_>) -> Option<Bytes> {
        let bytes = self.ask(WantedPart::Data { offset, len }, len, fetching);
        if let Some(bytes) = &bytes {
            self.put_back(offset + bytes.len() as u64, len - bytes.len().min(len));
        } else if self.wanted.is_none() {
            self.put_back(offset, len);
        }
        if fetching.begin == Begin::Read {
            self.read_ahead(offset / MEMORY_BLOCK_BYTES as u64, fetching.memory);
        }
        bytes
    }

    /// Bytes that are in memory. Otherwise the answer waits for them, unless it may begin no read.
    fn ask(&mut self, wanted: WantedPart, len: usize, fetching: &Fetching<'_>) -> Option<Bytes> {
        let (held, _) = self.parts.front()?;
        let place = match wanted {
            WantedPart::Data { offset, .. } => Place { part: PayloadPart::Blob, offset, len },
            WantedPart::Pairs { offset } => Place { part: PayloadPart::Pairs, offset, len },
        };
        let asked = fetching.memory.ask(held, place, fetching.begin, || (fetching.waiting)(self.request));
        match asked {
            BytesAsked::There(bytes) => return Some(bytes),
            BytesAsked::Coming => self.wanted = Some(wanted),
            BytesAsked::Later => self.wanted = Some(wanted).filter(|_| fetching.begin == Begin::Read),
        }
        None
    }

    /// Has the next blocks of the part read that the answer will carry.
    fn read_ahead(&mut self, index: u64, memory: &MemoryTier) {
        const GROUPS: u64 = (MEMORY_BLOCK_BYTES / GROUP_BYTES) as u64;
        let Some((held, encoder)) = self.parts.front() else { return };
        let from = self.ahead.max(index + 1);
        let end = held.length().div_ceil(MEMORY_BLOCK_BYTES as u64);
        let to = (index + 1 + READ_AHEAD_LEN).min(end);
        if to < end && to < from + READ_AHEAD_STEP_LEN {
            return;
        }
        for block in from..to {
            if encoder.selection().intersects(block * GROUPS..(block + 1) * GROUPS) {
                memory.read_ahead(held, block);
            }
        }
        self.ahead = from.max(to);
    }
}

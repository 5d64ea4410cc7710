//! The memory tier: the most used blocks of held payloads, in memory. Blocks that are not there are read by the store's reader, and those
//! that wait for them are told.

use super::error::StoreError;
use super::memory_stats::MemoryStats;
use super::open_payload::{OpenPayload, PartSource, PayloadPart};
use super::pool::MemoryPages;
use super::reader::{BlockRead, again};
use super::tier::{AwaitedPart, Looked, OnBytes, Tier, TierKey};
use crate::limits::MEMORY_BLOCK_BYTES;
use crate::token::Token;
use bytes::Bytes;
use disk_ring::Slot;
use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The answer to a request for bytes.
pub(super) enum BytesAsked {
    There(Bytes),
    /// They come to the one that waits for them.
    Coming,
    /// As many reads as there may be are on their way. The one that waits is called with no bytes when one has ended, and asks again. With
    /// [`Begin::Nothing`] it is not called.
    Later,
}

/// What is done for bytes that are neither in memory nor on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// They are read.
    Read,
    Nothing,
}

/// Some bytes of a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) part: PayloadPart,
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// A cache of blocks of held payloads, bounded in bytes; the least recently used block is dropped first. Clones share it. Reads give parts
/// of a block, not copies. A block is 2 MiB of a payload, or the rest of it; its memory is a slot of a size near its own.
#[derive(Clone, Debug)]
pub struct MemoryTier {
    tier: Arc<Mutex<Tier>>,
}

impl MemoryTier {
    /// A cache of at most `budget_bytes`, rounded down to whole blocks. With less than one block it keeps nothing, and every read goes
    /// to the disk.
    pub fn new(budget_bytes: u64, pages: MemoryPages) -> Self {
        let blocks_max = usize::try_from(budget_bytes / MEMORY_BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        Self { tier: Arc::new(Mutex::new(Tier::new(blocks_max, pages))) }
    }

    fn tier(&self) -> MutexGuard<'_, Tier> {
        self.tier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The payload bytes from `offset` on: `len`, or fewer if the block or the payload ends before; empty past the end. It waits for the
    /// disk, without a lock.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the block must be read from the disk and cannot; [`StoreError::Damaged`] if that block is a whole payload
    /// and does not match its token.
    pub fn read(&self, held: &OpenPayload, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let place = Place { part: PayloadPart::Blob, offset, len };
        loop {
            let (send, bytes) = channel();
            let asked = self.ask(held, place, Begin::Read, || Box::new(move |read| drop(send.send(read))));
            let gone = || StoreError::reading(held.token(), io::ErrorKind::BrokenPipe.into());
            match asked {
                BytesAsked::There(bytes) => return Ok(bytes),
                BytesAsked::Coming => return bytes.recv().map_err(|_| gone())?,
                BytesAsked::Later => drop(bytes.recv()),
            }
        }
    }

    /// The bytes at a place, as [`MemoryTier::read`] gives them, if they are in memory. Otherwise `waiting` gets them.
    pub(super) fn ask(
        &self,
        held: &OpenPayload,
        place: Place,
        begin: Begin,
        waiting: impl FnOnce() -> OnBytes,
    ) -> BytesAsked {
        let Place { part, offset, len } = place;
        let (index, start, block_len) = block_at(held, part, offset);
        let from = (offset - start) as usize;
        let to = from.saturating_add(len).min(block_len);
        if from >= to {
            return BytesAsked::There(Bytes::new());
        }
        let key = TierKey { token: held.token(), generation: held.generation(), part, index };
        let mut tier = self.tier();
        let looked = tier.look(key, from..to, block_len, begin == Begin::Read);
        match looked {
            Looked::There(part) => {
                drop(tier);
                BytesAsked::There(part.bytes())
            }
            Looked::Coming(ticket) => {
                tier.wait(ticket, AwaitedPart { part: from..to, told: waiting() });
                BytesAsked::Coming
            }
            Looked::Free(ticket, memory) => {
                tier.wait(ticket, AwaitedPart { part: from..to, told: waiting() });
                drop(tier);
                self.begin(held, (part, start, block_len), memory, ticket);
                BytesAsked::Coming
            }
            // Only these bytes are read, into memory of their own.
            Looked::Apart(ticket) => {
                tier.wait(ticket, AwaitedPart { part: 0..to - from, told: waiting() });
                drop(tier);
                self.begin(held, (part, offset, to - from), Slot::apart(to - from), ticket);
                BytesAsked::Coming
            }
            Looked::Full => {
                if begin == Begin::Read {
                    tier.later(waiting());
                }
                BytesAsked::Later
            }
        }
    }

    /// Has the block with this number read, unless it is in memory or as many blocks as there may be are read ahead.
    pub(super) fn read_ahead(&self, held: &OpenPayload, index: u64) {
        let (index, start, block_len) = block_at(held, PayloadPart::Blob, index * MEMORY_BLOCK_BYTES as u64);
        let key =
            TierKey { token: held.token(), generation: held.generation(), part: PayloadPart::Blob, index };
        let ahead = if block_len > 0 { self.tier().ahead(key, block_len) } else { None };
        if let Some((ticket, memory)) = ahead {
            self.begin(held, (PayloadPart::Blob, start, block_len), memory, ticket);
        }
    }

    fn begin(
        &self,
        held: &OpenPayload,
        (part, start, len): (PayloadPart, u64, usize),
        memory: Slot,
        ticket: u64,
    ) {
        let tier = self.clone();
        // Hashing one block takes a fraction of the time of reading it. A longer payload is checked by its reader.
        let is_whole =
            part == PayloadPart::Blob && held.is_whole() && start == 0 && held.length() == len as u64;
        let token = held.token();
        let done = move |memory: Slot, result: io::Result<()>| {
            let is_right = result.is_err() || !is_whole || Token::of(&memory[..len]) == token;
            let fault = match result {
                Err(error) => Some(ReadFault::Disk(error)),
                Ok(()) if !is_right => Some(ReadFault::Damaged),
                Ok(()) => None,
            };
            tier.arrived(ticket, token, (memory, len), fault);
        };
        let source = Box::new(PartSource(held.clone(), part));
        let read = BlockRead { source, start, len, memory, done: Box::new(done) };
        held.disk().reader().read(read);
    }

    /// Takes a block that was read, or that could not be, and tells those that wait for it.
    fn arrived(&self, ticket: u64, token: Token, block: (Slot, usize), fault: Option<ReadFault>) {
        let mut tier = self.tier();
        let (told, later) = match &fault {
            None => tier.keep(ticket, block),
            Some(_) => tier.fail(ticket),
        };
        drop(tier);
        for (waiting, part) in told {
            waiting(match (&fault, part) {
                (None, Some(part)) => Ok(part.bytes()),
                (Some(ReadFault::Damaged), _) => Err(StoreError::Damaged(token.into())),
                (Some(ReadFault::Disk(error)), _) => Err(StoreError::reading(token, again(error))),
                (None, None) => Ok(Bytes::new()),
            });
        }
        later.into_iter().for_each(|waiting| waiting(Ok(Bytes::new())));
    }

    /// Drops the blocks of a payload that the store no longer holds.
    pub fn forget(&self, token: &Token) {
        self.tier().forget(token);
    }

    /// Its counts and contents.
    pub fn stats(&self) -> MemoryStats {
        self.tier().stats()
    }

    /// The same, unless another thread uses it now.
    pub fn try_stats(&self) -> Option<MemoryStats> {
        self.tier.try_lock().ok().map(|tier| tier.stats())
    }
}

/// Why a block could not be read.
enum ReadFault {
    Disk(io::Error),
    Damaged,
}

/// The block of a payload's part at `offset`: its number, its first byte and its length.
fn block_at(held: &OpenPayload, part: PayloadPart, offset: u64) -> (u64, u64, usize) {
    let index = offset / MEMORY_BLOCK_BYTES as u64;
    let start = index * MEMORY_BLOCK_BYTES as u64;
    (index, start, held.part_len(part).saturating_sub(start).min(MEMORY_BLOCK_BYTES as u64) as usize)
}

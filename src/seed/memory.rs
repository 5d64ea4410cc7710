//! The memory tier: the most used blocks of held payloads, in memory.

use super::error::StoreError;
use super::loans::{Loans, Readers};
use super::open_payload::OpenPayload;
use crate::limits::MEMORY_BLOCK_BYTES;
use crate::token::Token;
use blocks::Pool;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The most blocks, beginning with the least recently used, that are tried for one without a reader.
const EVICTION_TRIES_MAX: usize = 64;

/// The counts and contents of a [`MemoryTier`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryStats {
    /// Reads that found their block in memory.
    pub hits: u64,
    /// Reads that went to the disk.
    pub misses: u64,
    /// The misses for which no block was free: their bytes were read into memory of their own and not kept.
    pub unpooled: u64,
    /// Payload bytes in memory.
    pub held_bytes: u64,
    /// Blocks in use.
    pub blocks: u64,
    /// Blocks of the pool in huge pages.
    pub huge_blocks: u64,
    /// Blocks in use that readers hold a part of. They stay until the reader's bytes are sent.
    pub lent_blocks: u64,
    /// Reads that got a copy, since half of the blocks were lent.
    pub copied: u64,
}

/// The memory of a [`MemoryTier`]'s blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPages {
    /// Huge pages if the program has DPDK and huge pages are free; ordinary memory otherwise.
    HugePreferred,
    /// Ordinary memory.
    Ordinary,
}

/// A cache of 2 MiB blocks of held payloads, bounded in bytes; the least recently used block is dropped first. Reads give
/// parts of a block, not copies. A payload shorter than a block takes a whole block.
#[derive(Debug)]
pub struct MemoryTier {
    pool: Pool,
    blocks: HashMap<Key, Block>,
    /// Keys by the time of their last use.
    uses: BTreeMap<u64, Key>,
    clock: u64,
    stats: MemoryStats,
    loans: Arc<Loans>,
}

/// Token, generation of the file, number of the block.
type Key = (Token, u64, u64);

#[derive(Debug)]
struct Block {
    /// Shared with every [`Lent`] part of it: the count shows whether a reader is left.
    memory: Arc<LoanedBlock>,
    len: usize,
    used: u64,
}

#[derive(Debug)]
struct LoanedBlock {
    memory: blocks::PooledBlock,
    readers: Readers,
}

/// A part of a block, out of the tier's lock.
enum ReadPart {
    Lent(Lent),
    /// It is to be copied.
    Copied(Arc<LoanedBlock>, Range<usize>),
}

/// The result of a look for a block.
enum Looked {
    There(ReadPart),
    /// Memory to read it into.
    Free(blocks::PooledBlock),
    /// No block of memory is free.
    Full,
}

/// A part of a block that is being read.
struct Lent {
    memory: Arc<LoanedBlock>,
    part: Range<usize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory.memory[self.part.clone()]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.memory.readers.give_back();
    }
}

impl Block {
    /// Lends a part, under the tier's lock.
    fn lend(&self, part: Range<usize>) -> ReadPart {
        let memory = self.memory.clone();
        match memory.readers.lend() {
            true => ReadPart::Lent(Lent { memory, part }),
            false => ReadPart::Copied(memory, part),
        }
    }
}

impl ReadPart {
    fn bytes(self) -> Bytes {
        match self {
            Self::Lent(lent) => Bytes::from_owner(lent),
            Self::Copied(block, part) => {
                block.readers.note_copy();
                Bytes::copy_from_slice(&block.memory[part])
            }
        }
    }
}

impl MemoryTier {
    /// A cache of at most `budget_bytes`, rounded down to whole blocks. With less than one block it keeps nothing, and every read goes
    /// to the disk.
    pub fn new(budget_bytes: u64, pages: MemoryPages) -> Self {
        let blocks_max = usize::try_from(budget_bytes / MEMORY_BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        Self {
            pool: Pool::new(blocks_max, MEMORY_BLOCK_BYTES, pages),
            blocks: HashMap::default(),
            uses: BTreeMap::new(),
            clock: 0,
            stats: MemoryStats::default(),
            loans: Loans::new(blocks_max.div_ceil(2)),
        }
    }

    /// The payload bytes from `offset` on: `len`, or fewer if the block or the payload ends before; empty past the end. The disk is read
    /// without the lock: no worker waits for another one's disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the block must be read from the disk and cannot; [`StoreError::Damaged`] if that block is a whole payload
    /// and does not match its token.
    pub fn read(
        tier: &Mutex<Self>,
        held: &OpenPayload,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let lock = || tier.lock().unwrap_or_else(PoisonError::into_inner);
        let index = offset / MEMORY_BLOCK_BYTES as u64;
        let start = index * MEMORY_BLOCK_BYTES as u64;
        let block_len = held.length().saturating_sub(start).min(MEMORY_BLOCK_BYTES as u64) as usize;
        let from = (offset - start) as usize;
        let to = from.saturating_add(len).min(block_len);
        if from >= to {
            return Ok(Bytes::new());
        }
        let key = (held.token(), held.generation(), index);
        let failed = |source| StoreError::reading(held.token(), source);
        let looked = lock().look(key, from..to);
        let mut memory = match looked {
            Looked::There(part) => return Ok(part.bytes()),
            Looked::Free(memory) => memory,
            Looked::Full => {
                let mut bytes = vec![0; to - from];
                held.read(offset, &mut bytes).map_err(failed)?;
                return Ok(bytes.into());
            }
        };
        held.read(start, &mut memory[..block_len]).map_err(failed)?;
        // Hashing one block takes a fraction of the time of reading it. A longer payload is checked by its reader.
        if held.is_whole()
            && held.length() == block_len as u64
            && Token::of(&memory[..block_len]) != held.token()
        {
            return Err(StoreError::Damaged(held.token().into()));
        }
        let part = lock().keep(key, memory, block_len).lend(from..to);
        Ok(part.bytes())
    }

    /// Looks for a block, and for free memory if it is not there.
    fn look(&mut self, key: Key, part: Range<usize>) -> Looked {
        self.clock += 1;
        if let Some(block) = self.blocks.get_mut(&key) {
            self.uses.remove(&block.used);
            self.uses.insert(self.clock, key);
            block.used = self.clock;
            self.stats.hits += 1;
            return Looked::There(block.lend(part));
        }
        self.stats.misses += 1;
        match self.free_block() {
            Some(memory) => Looked::Free(memory),
            None => {
                self.stats.unpooled += 1;
                Looked::Full
            }
        }
    }

    /// Keeps a block that was read. If another thread has read it meanwhile, that one's goes.
    fn keep(&mut self, key: Key, memory: blocks::PooledBlock, len: usize) -> &Block {
        self.evict(key);
        self.clock += 1;
        self.uses.insert(self.clock, key);
        self.stats.held_bytes += len as u64;
        let memory = LoanedBlock { memory, readers: Readers::new(self.loans.clone()) };
        self.blocks.entry(key).or_insert(Block { memory: Arc::new(memory), len, used: self.clock })
    }

    /// Drops the blocks of a payload that the store no longer holds.
    pub fn forget(&mut self, token: &Token) {
        let keys: Vec<Key> = self.blocks.keys().filter(|key| key.0 == *token).copied().collect();
        keys.into_iter().for_each(|key| self.evict(key));
    }

    /// Its counts and contents.
    pub fn stats(&self) -> MemoryStats {
        MemoryStats {
            blocks: self.blocks.len() as u64,
            huge_blocks: self.pool.huge_blocks() as u64,
            lent_blocks: self.loans.len() as u64,
            copied: self.loans.copied(),
            ..self.stats
        }
    }

    /// A block to fill: a new one, or the least recently used one without a reader.
    fn free_block(&mut self) -> Option<blocks::PooledBlock> {
        if let Some(block) = self.pool.take() {
            return Some(block);
        }
        let tried = self.uses.values().take(EVICTION_TRIES_MAX);
        let idle = tried
            .copied()
            .find(|key| self.blocks.get(key).is_some_and(|block| Arc::strong_count(&block.memory) == 1))?;
        self.evict(idle);
        self.pool.take()
    }

    fn evict(&mut self, key: Key) {
        if let Some(block) = self.blocks.remove(&key) {
            self.uses.remove(&block.used);
            self.stats.held_bytes -= block.len as u64;
        }
    }
}

/// The source of blocks: huge pages, by DPDK.
#[cfg(feature = "dpdk")]
mod blocks {
    use super::MemoryPages;
    use dpdk::{Backing, SlabPool};

    pub(super) use dpdk::SlabBlock as PooledBlock;

    #[derive(Debug)]
    pub(super) struct Pool(SlabPool);

    impl Pool {
        pub(super) fn new(blocks_max: usize, block_bytes: usize, pages: MemoryPages) -> Self {
            let backing = match pages {
                MemoryPages::HugePreferred => Backing::HugePagesPreferred,
                MemoryPages::Ordinary => Backing::Normal,
            };
            Self(SlabPool::new(blocks_max, block_bytes, backing))
        }

        pub(super) fn take(&self) -> Option<PooledBlock> {
            self.0.take()
        }

        pub(super) fn huge_blocks(&self) -> usize {
            self.0.stats().huge
        }
    }
}

/// The source of blocks: the heap.
#[cfg(not(feature = "dpdk"))]
mod blocks {
    use super::MemoryPages;
    use std::ops::{Deref, DerefMut};
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Debug)]
    pub(super) struct Pool {
        shared: Arc<Mutex<Shared>>,
        block_bytes: usize,
    }

    #[derive(Debug)]
    struct Shared {
        free: Vec<Vec<u8>>,
        /// The number of blocks that may still be made.
        left: usize,
    }

    impl Pool {
        pub(super) fn new(blocks_max: usize, block_bytes: usize, _pages: MemoryPages) -> Self {
            Self { shared: Arc::new(Mutex::new(Shared { free: Vec::new(), left: blocks_max })), block_bytes }
        }

        pub(super) fn take(&self) -> Option<PooledBlock> {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let memory = match shared.free.pop() {
                Some(memory) => memory,
                None => {
                    shared.left = shared.left.checked_sub(1)?;
                    vec![0; self.block_bytes]
                }
            };
            Some(PooledBlock { memory, shared: self.shared.clone() })
        }

        pub(super) fn huge_blocks(&self) -> usize {
            0
        }
    }

    /// A block that goes back to its pool when dropped.
    #[derive(Debug)]
    pub(super) struct PooledBlock {
        memory: Vec<u8>,
        shared: Arc<Mutex<Shared>>,
    }

    impl Deref for PooledBlock {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.memory
        }
    }

    impl DerefMut for PooledBlock {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.memory
        }
    }

    impl Drop for PooledBlock {
        fn drop(&mut self) {
            let memory = std::mem::take(&mut self.memory);
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).free.push(memory);
        }
    }
}

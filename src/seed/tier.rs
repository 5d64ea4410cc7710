//! What the memory tier has, and what is on its way to it.

use super::error::StoreError;
use super::loans::{Loans, Readers};
use super::memory_stats::MemoryStats;
use super::open_payload::PayloadPart;
use super::pool::{MemoryPages, Pool};
use crate::limits::{MEMORY_BLOCK_BYTES, READ_AHEAD_LEN_MAX, UNPOOLED_READS_LEN_MAX};
use crate::token::Token;
use bytes::Bytes;
use disk_ring::Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// The most blocks, beginning with the least recently used, that are tried for one without a reader.
const EVICTION_TRIES_MAX: usize = 64;

/// Called with the bytes that were asked for, or why there are none. It must not wait: it runs on the thread that reads.
pub(super) type OnBytes = Box<dyn FnOnce(Result<Bytes, StoreError>) + Send>;

/// A block of a payload's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TierKey {
    pub(super) token: Token,
    /// That of the file.
    pub(super) generation: u64,
    pub(super) part: PayloadPart,
    /// The number of the block.
    pub(super) index: u64,
}

/// The tier, behind its lock.
pub(super) struct Tier {
    pool: Pool,
    budget_bytes: usize,
    entries: HashMap<TierKey, TierEntry>,
    /// Keys by the time of their last use.
    uses: BTreeMap<u64, TierKey>,
    /// The blocks with their slots in each block of memory.
    sharing: BTreeSet<(u64, TierKey)>,
    clock: u64,
    /// Reads on their way, by their tickets.
    coming: HashMap<u64, ComingBlock>,
    coming_bytes: usize,
    /// Those of them that have memory of their own.
    apart: usize,
    /// Those of them that no request waits for yet.
    ahead: usize,
    /// To be told when a read has ended.
    later: Vec<OnBytes>,
    stats: MemoryStats,
    loans: Arc<Loans>,
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tier").field("stats", &self.stats).finish_non_exhaustive()
    }
}

enum TierEntry {
    There(KeptBlock),
    Coming(u64),
}

struct KeptBlock {
    /// Shared with every [`Lent`] part of it: the count shows whether a reader is left.
    memory: Arc<LoanedBlock>,
    len: usize,
    used: u64,
    /// Whether it was read ahead and no request has read it.
    ahead: bool,
}

struct ComingBlock {
    /// `None`: it has memory of its own and is not kept.
    key: Option<TierKey>,
    waiting: Vec<AwaitedPart>,
    bytes: usize,
    ahead: bool,
}

/// One that waits for a part of a block.
pub(super) struct AwaitedPart {
    pub(super) part: Range<usize>,
    pub(super) told: OnBytes,
}

pub(super) struct LoanedBlock {
    memory: Slot,
    readers: Readers,
}

/// A part of a block, out of the tier's lock.
pub(super) enum ReadPart {
    Lent(Lent),
    /// It is to be copied.
    Copied(Arc<LoanedBlock>, Range<usize>),
    /// It is all that was read.
    Own(Slot, usize),
}

/// The result of a look for a block.
pub(super) enum Looked {
    There(ReadPart),
    /// It is being read, under this ticket.
    Coming(u64),
    /// Memory to read it into.
    Free(u64, Slot),
    /// No memory is free: it is to be read into memory of its own.
    Apart(u64),
    /// As many reads as there may be are on their way.
    Full,
}

/// A part of a block that is being read.
pub(super) struct Lent {
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

/// The first bytes of a slot.
struct OwnedPart(Slot, usize);

impl AsRef<[u8]> for OwnedPart {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// Lends a part, under the tier's lock.
fn lend(memory: &Arc<LoanedBlock>, part: Range<usize>) -> ReadPart {
    let memory = memory.clone();
    match memory.readers.lend() {
        true => ReadPart::Lent(Lent { memory, part }),
        false => ReadPart::Copied(memory, part),
    }
}

impl ReadPart {
    pub(super) fn bytes(self) -> Bytes {
        match self {
            Self::Lent(lent) => Bytes::from_owner(lent),
            Self::Copied(block, part) => {
                block.readers.note_copy();
                Bytes::copy_from_slice(&block.memory[part])
            }
            Self::Own(memory, len) => Bytes::from_owner(OwnedPart(memory, len)),
        }
    }
}

/// Those that waited for a block with their parts of it, and those that wait for any read to end.
type Told = (Vec<(OnBytes, Option<ReadPart>)>, Vec<OnBytes>);

impl Tier {
    pub(super) fn new(blocks_max: usize, pages: MemoryPages) -> Self {
        let lent_bytes_max = blocks_max.div_ceil(2).saturating_mul(MEMORY_BLOCK_BYTES);
        Self {
            pool: Pool::new(blocks_max, pages),
            budget_bytes: blocks_max.saturating_mul(MEMORY_BLOCK_BYTES),
            entries: HashMap::default(),
            uses: BTreeMap::new(),
            sharing: BTreeSet::new(),
            clock: 0,
            coming: HashMap::default(),
            coming_bytes: 0,
            apart: 0,
            ahead: 0,
            later: Vec::new(),
            stats: MemoryStats::default(),
            loans: Loans::new(lent_bytes_max),
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Looks for a part of a block of `len` bytes. If it is not there and `begins`, room is made and a read begun, which the caller gives to
    /// the reader.
    pub(super) fn look(&mut self, key: TierKey, part: Range<usize>, len: usize, begins: bool) -> Looked {
        let now = self.tick();
        match self.entries.get_mut(&key) {
            Some(TierEntry::There(block)) => {
                self.uses.remove(&block.used);
                self.uses.insert(now, key);
                block.used = now;
                self.stats.hits += 1;
                self.stats.ahead_hits += u64::from(std::mem::take(&mut block.ahead));
                return Looked::There(lend(&block.memory, part));
            }
            Some(TierEntry::Coming(ticket)) => {
                let ticket = *ticket;
                self.stats.misses += 1;
                if let Some(coming) = self.coming.get_mut(&ticket)
                    && std::mem::take(&mut coming.ahead)
                {
                    self.stats.ahead_hits += 1;
                    self.ahead -= 1;
                }
                return Looked::Coming(ticket);
            }
            None if !begins => return Looked::Full,
            None => {}
        }
        if let Some(memory) = self.room(len) {
            self.stats.misses += 1;
            return Looked::Free(self.begin(Some(key), len, false), memory);
        }
        if self.apart == UNPOOLED_READS_LEN_MAX {
            return Looked::Full;
        }
        self.stats.misses += 1;
        self.stats.unpooled += 1;
        self.apart += 1;
        Looked::Apart(self.begin(None, 0, false))
    }

    /// Begins to read a block that no request waits for, if there is room.
    pub(super) fn ahead(&mut self, key: TierKey, len: usize) -> Option<(u64, Slot)> {
        let quarter = self.budget_bytes / MEMORY_BLOCK_BYTES / 4;
        if self.entries.contains_key(&key) || self.ahead >= READ_AHEAD_LEN_MAX.min(quarter) {
            return None;
        }
        let memory = self.room(len)?;
        self.ahead += 1;
        self.stats.ahead += 1;
        Some((self.begin(Some(key), len, true), memory))
    }

    /// Memory for a read. What is on its way takes half of the tier at most, if it is more than one read.
    fn room(&mut self, len: usize) -> Option<Slot> {
        if self.coming_bytes > 0 && self.coming_bytes + len > self.budget_bytes / 2 {
            return None;
        }
        self.memory(len)
    }

    fn begin(&mut self, key: Option<TierKey>, bytes: usize, ahead: bool) -> u64 {
        let ticket = self.tick();
        self.coming.insert(ticket, ComingBlock { key, waiting: Vec::new(), bytes, ahead });
        self.coming_bytes += bytes;
        if let Some(key) = key {
            self.entries.insert(key, TierEntry::Coming(ticket));
        }
        ticket
    }

    /// Adds one that waits for the read with this ticket.
    pub(super) fn wait(&mut self, ticket: u64, waiting: AwaitedPart) {
        if let Some(coming) = self.coming.get_mut(&ticket) {
            coming.waiting.push(waiting);
        }
    }

    /// Remembers one that wants to be told when a read has ended.
    pub(super) fn later(&mut self, told: OnBytes) {
        self.later.push(told);
    }

    /// A read is over.
    fn end(&mut self, ticket: u64) -> Option<ComingBlock> {
        let coming = self.coming.remove(&ticket)?;
        self.coming_bytes -= coming.bytes;
        self.apart -= usize::from(coming.key.is_none());
        self.ahead -= usize::from(coming.ahead);
        Some(coming)
    }

    /// Keeps a block that was read, unless its payload was forgotten meanwhile.
    pub(super) fn keep(&mut self, ticket: u64, (memory, len): (Slot, usize)) -> Told {
        let later = std::mem::take(&mut self.later);
        let Some(coming) = self.end(ticket) else { return (Vec::new(), later) };
        let Some(key) = coming.key else {
            let mut waiting = coming.waiting.into_iter();
            let told = waiting.next().map(|waiting| (waiting.told, Some(ReadPart::Own(memory, len))));
            return (told.into_iter().collect(), later);
        };
        let is_kept = matches!(self.entries.get(&key), Some(TierEntry::Coming(kept)) if *kept == ticket);
        let block = memory.block();
        let readers = Readers::new(self.loans.clone(), memory.len());
        let memory = Arc::new(LoanedBlock { memory, readers });
        let told = coming.waiting.into_iter();
        let told = told.map(|waiting| (waiting.told, Some(lend(&memory, waiting.part)))).collect();
        if is_kept {
            let used = self.tick();
            self.uses.insert(used, key);
            self.sharing.extend(block.map(|block| (block, key)));
            self.stats.held_bytes += len as u64;
            let kept = KeptBlock { memory, len, used, ahead: coming.ahead };
            self.entries.insert(key, TierEntry::There(kept));
        }
        (told, later)
    }

    /// Drops a read that failed.
    pub(super) fn fail(&mut self, ticket: u64) -> Told {
        let later = std::mem::take(&mut self.later);
        let Some(coming) = self.end(ticket) else { return (Vec::new(), later) };
        self.stats.ahead_wasted += u64::from(coming.ahead);
        if let Some(key) = coming.key
            && matches!(self.entries.get(&key), Some(TierEntry::Coming(kept)) if *kept == ticket)
        {
            self.entries.remove(&key);
        }
        (coming.waiting.into_iter().map(|waiting| (waiting.told, None)).collect(), later)
    }

    /// Drops the blocks of a payload. Those that are on their way still reach the ones that wait, and are not kept.
    pub(super) fn forget(&mut self, token: &Token) {
        let keys: Vec<TierKey> = self.entries.keys().filter(|key| key.token == *token).copied().collect();
        keys.into_iter().for_each(|key| self.evict(key));
    }

    pub(super) fn stats(&self) -> MemoryStats {
        MemoryStats {
            blocks: self.uses.len() as u64,
            huge_blocks: self.pool.huge_blocks() as u64,
            lent_bytes: self.loans.bytes() as u64,
            copied: self.loans.copied(),
            coming: self.coming.len() as u64,
            ..self.stats
        }
    }

    /// Memory for a block: a free slot, or that of the least recently used block without a reader. If that one's slot has another size, all
    /// of its block of memory is given up, and divided anew.
    fn memory(&mut self, len: usize) -> Option<Slot> {
        if let Some(memory) = self.pool.slabs.take(len) {
            return Some(memory);
        }
        let tried: Vec<TierKey> = self.uses.values().take(EVICTION_TRIES_MAX).copied().collect();
        for key in tried {
            let Some(memory) = self.idle(&key) else { continue };
            let (taken, block) = (memory.memory.len(), memory.memory.block());
            if self.pool.slabs.same_size(taken, len) {
                self.evict(key);
            } else {
                let Some(block) = block else { continue };
                let first = TierKey {
                    token: Token::from_root([0; 32]),
                    generation: 0,
                    part: PayloadPart::Blob,
                    index: 0,
                };
                let beside = self.sharing.range((block, first)..).take_while(|(other, _)| *other == block);
                let beside: Vec<TierKey> = beside.map(|(_, key)| *key).collect();
                let is_idle = beside.iter().all(|key| self.idle(key).is_some());
                if !is_idle || self.pool.slabs.taken_of(block) != beside.len() {
                    continue;
                }
                beside.into_iter().for_each(|key| self.evict(key));
            }
            if let Some(memory) = self.pool.slabs.take(len) {
                return Some(memory);
            }
        }
        None
    }

    /// The memory of a block that no reader holds a part of.
    fn idle(&self, key: &TierKey) -> Option<&LoanedBlock> {
        match self.entries.get(key) {
            Some(TierEntry::There(block)) if Arc::strong_count(&block.memory) == 1 => Some(&block.memory),
            _ => None,
        }
    }

    fn evict(&mut self, key: TierKey) {
        if let Some(TierEntry::There(block)) = self.entries.remove(&key) {
            self.uses.remove(&block.used);
            if let Some(shared) = block.memory.memory.block() {
                self.sharing.remove(&(shared, key));
            }
            self.stats.held_bytes -= block.len as u64;
            self.stats.ahead_wasted += u64::from(block.ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> TierKey {
        let mut root = [0; 32];
        root[..8].copy_from_slice(&number.to_be_bytes());
        TierKey { token: Token::from_root(root), generation: 1, part: PayloadPart::Blob, index: 0 }
    }

    /// Has a block read, by a disk that answers at once.
    fn fill(tier: &mut Tier, number: u64, len: usize) -> bool {
        match tier.look(key(number), 0..len, len, true) {
            Looked::Free(ticket, memory) => {
                drop(tier.keep(ticket, (memory, len)));
                true
            }
            Looked::There(_) => false,
            _ => panic!("there is room"),
        }
    }

    #[test]
    fn a_hundred_thousand_payloads_of_4_kib_fit_in_512_mib() {
        const PAYLOADS: u64 = 100_000;
        let mut tier = Tier::new((512 << 20) / MEMORY_BLOCK_BYTES, MemoryPages::Ordinary);
        for number in 0..PAYLOADS {
            assert!(fill(&mut tier, number, 4096));
        }
        for number in 0..PAYLOADS {
            assert!(!fill(&mut tier, number, 4096), "{number} is in memory");
        }
        let stats = tier.stats();
        assert_eq!((stats.blocks, stats.held_bytes), (PAYLOADS, PAYLOADS * 4096));
        assert_eq!(tier.pool.slabs.stats().blocks, 196, "512 of them in each block of 2 MiB");
    }

    #[test]
    fn blocks_of_other_sizes_take_the_memory_of_those_that_were_used_longest_ago() {
        let mut tier = Tier::new(2, MemoryPages::Ordinary);
        for number in 0..1024 {
            assert!(fill(&mut tier, number, 4000));
        }
        // One more of their size takes the place of one.
        assert!(fill(&mut tier, 5000, 4096) && fill(&mut tier, 0, 4000));
        assert_eq!(tier.stats().blocks, 1024);
        // A whole block takes that of the 512 beside the one that was used longest ago, unless one of them is being read.
        let Looked::There(lent) = tier.look(key(700), 0..1, 4000, true) else { panic!("it is in memory") };
        assert!(fill(&mut tier, 6000, MEMORY_BLOCK_BYTES));
        assert_eq!((tier.stats().blocks, tier.stats().lent_bytes), (513, 4096));
        assert!(!fill(&mut tier, 700, 4000) && !fill(&mut tier, 6000, MEMORY_BLOCK_BYTES));
        drop(lent);
        tier.forget(&key(700).token);
        assert_eq!((tier.stats().blocks, tier.stats().lent_bytes), (512, 0));
    }

    #[test]
    fn what_is_on_its_way_takes_half_of_the_memory_and_the_rest_waits_or_goes_apart() {
        let mut tier = Tier::new(8, MemoryPages::Ordinary);
        let mut tickets = Vec::new();
        for number in 0..4 {
            let Looked::Free(ticket, memory) = tier.look(key(number), 0..1, MEMORY_BLOCK_BYTES, true) else {
                panic!("half of it is free")
            };
            tickets.push((ticket, memory));
        }
        assert!(tier.ahead(key(100), MEMORY_BLOCK_BYTES).is_none());
        for number in 10..10 + UNPOOLED_READS_LEN_MAX as u64 {
            assert!(matches!(tier.look(key(number), 0..1, MEMORY_BLOCK_BYTES, true), Looked::Apart(_)));
        }
        assert!(matches!(tier.look(key(99), 0..1, MEMORY_BLOCK_BYTES, true), Looked::Full));
        assert!(matches!(tier.look(key(0), 0..1, MEMORY_BLOCK_BYTES, true), Looked::Coming(_)));
        let (failed, _) = tickets.pop().unwrap();
        tier.fail(failed);
        let (ticket, _) = tier.ahead(key(100), MEMORY_BLOCK_BYTES).unwrap();
        assert!(tier.ahead(key(100), MEMORY_BLOCK_BYTES).is_none(), "it is on its way");
        tier.fail(ticket);
        // One that is forgotten on its way is not kept.
        let (ticket, memory) = tickets.pop().unwrap();
        tier.forget(&key(2).token);
        drop(tier.keep(ticket, (memory, MEMORY_BLOCK_BYTES)));
        let stats = tier.stats();
        assert_eq!((stats.blocks, stats.ahead, stats.ahead_wasted), (0, 1, 1));
    }
}

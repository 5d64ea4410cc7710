//! Blocks of memory in huge pages, for data that outlives a packet: stored payloads.

use std::{
    alloc::Layout,
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use disk_ring::{HeapMemory, Memory as _};

use crate::hugepages;

/// The memory of a pool's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Huge pages while some are free, then normal pages.
    HugePagesPreferred,
    /// Normal pages.
    Normal,
}

/// The blocks of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabStats {
    /// Blocks in huge pages.
    pub huge: usize,
    /// Blocks in normal pages.
    pub normal: usize,
    /// Blocks in use: taken, or frozen with a [`Bytes`] left.
    pub taken: usize,
}

/// A bounded pool of blocks of one size. Clones are handles on the same pool.
///
/// No block is allocated before it is taken: a pool that is made early does not use up the huge pages that
/// DPDK takes at its start. Memory returns to the system only when the pool and all its blocks are gone.
#[derive(Clone, Debug)]
pub struct SlabPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    blocks_max: usize,
    block_bytes: usize,
    huge: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Memory>,
    stats: SlabStats,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlabPool {
    /// A pool of up to `blocks_max` blocks of `block_bytes` each. A block smaller than the system's default
    /// huge page uses normal pages: it would waste the rest.
    pub fn new(blocks_max: usize, block_bytes: usize, backing: Backing) -> Self {
        let fits = |page: usize| page <= block_bytes;
        let huge =
            backing == Backing::HugePagesPreferred && hugepages::default_page_bytes().is_some_and(fits);
        let shared = Shared { blocks_max, block_bytes, huge, state: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a block, whose content is unspecified. `None` while `blocks_max` are in use.
    pub fn take(&self) -> Option<SlabBlock> {
        let mut state = self.shared.state();
        let memory = match state.free.pop() {
            Some(memory) => memory,
            None => {
                if state.stats.huge + state.stats.normal >= self.shared.blocks_max {
                    return None;
                }
                let huge = self.shared.huge.then(|| HugeMemory::allocate(self.shared.block_bytes)).flatten();
                match huge {
                    Some(memory) => {
                        state.stats.huge += 1;
                        Memory::Huge(memory)
                    }
                    None => {
                        state.stats.normal += 1;
                        Memory::Normal(HeapMemory::new(self.shared.block_bytes))
                    }
                }
            }
        };
        state.stats.taken += 1;
        Some(SlabBlock { memory: Some(memory), shared: self.shared.clone() })
    }

    /// The number of blocks, by kind.
    pub fn stats(&self) -> SlabStats {
        self.shared.state().stats
    }

    /// The most blocks that the pool will have.
    pub fn blocks_max(&self) -> usize {
        self.shared.blocks_max
    }

    /// Bytes in each block.
    pub fn block_bytes(&self) -> usize {
        self.shared.block_bytes
    }
}

/// A block that its holder may write. It returns to its pool when dropped.
pub struct SlabBlock {
    /// Present until the drop takes it.
    memory: Option<Memory>,
    shared: Arc<Shared>,
}

impl SlabBlock {
    /// The first `len` bytes as [`Bytes`], without copying. The block returns to its pool with the last of them.
    ///
    /// # Panics
    ///
    /// If `len` is more than the block has.
    pub fn freeze(self, len: usize) -> Bytes {
        assert!(len <= self.shared.block_bytes, "a block of {} bytes has no {len}", self.shared.block_bytes);
        Bytes::from_owner(Frozen { block: self, len })
    }
}

impl Deref for SlabBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Memory::bytes)
    }
}

impl DerefMut for SlabBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], Memory::bytes_mut)
    }
}

impl Drop for SlabBlock {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.free.extend(self.memory.take());
        state.stats.taken -= 1;
    }
}

impl fmt::Debug for SlabBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabBlock").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

struct Frozen {
    block: SlabBlock,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.block[..self.len]
    }
}

#[derive(Debug)]
enum Memory {
    Huge(HugeMemory),
    Normal(HeapMemory),
}

impl Memory {
    fn start(&self) -> NonNull<u8> {
        match self {
            Self::Huge(memory) => memory.start,
            Self::Normal(memory) => memory.start(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Huge(memory) => memory.layout.size(),
            Self::Normal(memory) => memory.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: zeroed when it was made, and owned by `self`.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.len()) }
    }
}

// SAFETY: the block owns its memory until it is dropped, and the memory stays where it is.
unsafe impl disk_ring::Memory for SlabBlock {
    fn start(&self) -> NonNull<u8> {
        self.memory.as_ref().map_or(NonNull::dangling(), Memory::start)
    }

    fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, Memory::len)
    }

    fn is_huge(&self) -> bool {
        matches!(self.memory, Some(Memory::Huge(_)))
    }
}

/// A mapping of huge pages of its own.
#[derive(Debug)]
struct HugeMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory with one owner; the mapping belongs to the process, not to a thread.
unsafe impl Send for HugeMemory {}
// SAFETY: shared access only reads.
unsafe impl Sync for HugeMemory {}

impl HugeMemory {
    fn allocate(bytes: usize) -> Option<Self> {
        let layout = Layout::array::<u8>(bytes).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout's size is not zero. Null, when no huge page is free, is handled.
        let start = NonNull::new(unsafe { hugepage_rs::alloc(layout) })?;
        Some(Self { start, layout })
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by the same allocator, and freed once.
        unsafe { hugepage_rs::dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const BLOCK: usize = 2 << 20;

    fn round_trip(backing: Backing) -> SlabStats {
        let pool = SlabPool::new(2, BLOCK, backing);
        assert_eq!(pool.stats(), SlabStats::default(), "nothing before the first take");
        let mut block = pool.take().unwrap();
        assert_eq!(block.len(), BLOCK);
        block.fill(7);
        let start = block.as_ptr();
        let bytes = block.freeze(BLOCK - 1);
        assert_eq!((bytes.len(), bytes.as_ptr()), (BLOCK - 1, start), "not copied");
        assert!(bytes.iter().all(|&byte| byte == 7));

        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(pool.stats().taken, 1, "a slice keeps the block");
        thread::spawn(move || drop(slice)).join().unwrap();
        assert_eq!(pool.stats().taken, 0);

        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none(), "bounded");
        drop((first, second));
        assert!(pool.take().is_some());
        pool.stats()
    }

    #[test]
    fn blocks_are_taken_and_returned() {
        let stats = round_trip(Backing::Normal);
        assert_eq!(stats, SlabStats { huge: 0, normal: 2, taken: 0 });
    }

    #[test]
    fn huge_blocks_are_taken_and_returned() {
        let stats = round_trip(Backing::HugePagesPreferred);
        assert_eq!(stats.huge + stats.normal, 2, "falls back where none are free");
    }

    #[test]
    fn small_blocks_do_not_waste_huge_pages() {
        let pool = SlabPool::new(1, 4096, Backing::HugePagesPreferred);
        let _block = pool.take().unwrap();
        assert_eq!(pool.stats().normal, 1);
    }

    #[test]
    fn blocks_outlive_their_pool() {
        let pool = SlabPool::new(1, BLOCK, Backing::HugePagesPreferred);
        let bytes = pool.take().unwrap().freeze(3);
        drop(pool);
        assert_eq!(bytes.len(), 3);
    }

    #[test]
    #[should_panic(expected = "a block of 4096 bytes has no 4097")]
    fn more_than_the_block_cannot_be_frozen() {
        SlabPool::new(1, 4096, Backing::Normal).take().unwrap().freeze(4097);
    }
}

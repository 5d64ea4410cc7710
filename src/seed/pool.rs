//! The memory of the tier: blocks of huge pages or of the heap, in slots.

use crate::limits::MEMORY_BLOCK_BYTES;
use disk_ring::Slabs;

/// The memory of a [`super::MemoryTier`]'s blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPages {
    /// Huge pages if the program has DPDK and huge pages are free; ordinary memory otherwise.
    HugePreferred,
    /// Ordinary memory.
    Ordinary,
}

/// The tier's blocks in slots, and what tells how many of them are in huge pages.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) slabs: Slabs,
    #[cfg(feature = "dpdk")]
    blocks: dpdk::SlabPool,
}

#[cfg(feature = "dpdk")]
impl Pool {
    pub(super) fn new(blocks_max: usize, pages: MemoryPages) -> Self {
        let backing = match pages {
            MemoryPages::HugePreferred => dpdk::Backing::HugePagesPreferred,
            MemoryPages::Ordinary => dpdk::Backing::Normal,
        };
        let blocks = dpdk::SlabPool::new(blocks_max, MEMORY_BLOCK_BYTES, backing);
        let taken = blocks.clone();
        let slabs = Slabs::new(blocks_max, MEMORY_BLOCK_BYTES, move || {
            taken.take().map(|block| Box::new(block) as _)
        });
        Self { slabs, blocks }
    }

    pub(super) fn huge_blocks(&self) -> usize {
        self.blocks.stats().huge
    }
}

#[cfg(not(feature = "dpdk"))]
impl Pool {
    pub(super) fn new(blocks_max: usize, _pages: MemoryPages) -> Self {
        Self { slabs: Slabs::of_heap(blocks_max, MEMORY_BLOCK_BYTES) }
    }

    #[expect(clippy::unused_self, reason = "the pool of huge pages counts")]
    pub(super) fn huge_blocks(&self) -> usize {
        0
    }
}

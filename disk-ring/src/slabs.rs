//! Blocks of memory that are divided into slots of one size a block.

use crate::memory::{HeapMemory, Memory, PAGE_BYTES};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes a block; `None` if there can be no further one.
type Make = Box<dyn Fn() -> Option<Box<dyn Memory>> + Send + Sync>;

/// Blocks of memory, and the slots in them. Clones share them. A block whose slots are all free may be divided anew, for slots of another size.
#[derive(Clone, Debug)]
pub struct Slabs {
    shared: Arc<Shared>,
}

struct Shared {
    block_bytes: usize,
    blocks_max: usize,
    make: Make,
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("block_bytes", &self.block_bytes).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Blocks that are not divided.
    idle: Vec<Block>,
    divided: HashMap<u64, Divided>,
    /// Divided blocks with a free slot, by the slots of a block.
    open: BTreeMap<usize, BTreeSet<u64>>,
    next: u64,
    slots: usize,
}

#[derive(Debug)]
struct Divided {
    block: Block,
    slots: usize,
    free: Vec<usize>,
}

/// A block that was made.
#[derive(Debug)]
struct Block {
    memory: Box<dyn Memory>,
    /// No other block of the process has it, even after this one is gone.
    number: u64,
}

impl Block {
    fn new(memory: Box<dyn Memory>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { memory, number: NEXT.fetch_add(1, Relaxed) }
    }

    fn memory(&self) -> BlockMemory {
        let Self { memory, number } = self;
        BlockMemory { number: *number, start: memory.start(), len: memory.len(), is_huge: memory.is_huge() }
    }
}

/// The memory of a whole block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockMemory {
    /// No other block of the process has it, even after this one is gone.
    pub(crate) number: u64,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) is_huge: bool,
}

/// What blocks and slots there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabsStats {
    /// Blocks that were made.
    pub blocks: usize,
    /// Slots that are taken.
    pub slots: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots of a block for `len` bytes each, and their size: whole pages, and as large as their number allows.
    fn division(&self, len: usize) -> Option<(usize, usize)> {
        let pages = self.block_bytes / PAGE_BYTES;
        let slots = pages / len.div_ceil(PAGE_BYTES).max(1);
        (slots > 0).then(|| (slots, pages / slots * PAGE_BYTES))
    }
}

impl Slabs {
    /// At most `blocks_max` blocks of `block_bytes`, which is whole pages. `make` is called when a further one is needed.
    ///
    /// # Panics
    /// At a later [`Slabs::take`] if `make` gives a shorter block, or one that does not begin at a page.
    pub fn new(
        blocks_max: usize,
        block_bytes: usize,
        make: impl Fn() -> Option<Box<dyn Memory>> + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared { block_bytes, blocks_max, make: Box::new(make), state: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Blocks of the heap.
    pub fn of_heap(blocks_max: usize, block_bytes: usize) -> Self {
        Self::new(blocks_max, block_bytes, move || Some(Box::new(HeapMemory::new(block_bytes))))
    }

    /// A slot of at least `len` bytes, whose content is unspecified. `None` if none is free, or `len` is more than a block has.
    pub fn take(&self, len: usize) -> Option<Slot> {
        let (slots, slot_bytes) = self.shared.division(len)?;
        let mut state = self.shared.state();
        let block = match state.open.get(&slots).and_then(BTreeSet::first) {
            Some(&block) => block,
            None => {
                let made = match state.idle.pop() {
                    Some(block) => block,
                    None if state.divided.len() < self.shared.blocks_max => Block::new((self.shared.make)()?),
                    None => return None,
                };
                let memory = &made.memory;
                let is_aligned = memory.start().as_ptr().addr().is_multiple_of(PAGE_BYTES);
                assert!(memory.len() >= self.shared.block_bytes && is_aligned, "a block is whole pages");
                let block = state.next;
                state.next += 1;
                let free = (0..slots).rev().collect();
                state.divided.insert(block, Divided { block: made, slots, free });
                state.open.entry(slots).or_default().insert(block);
                block
            }
        };
        let divided = state.divided.get_mut(&block)?;
        let number = divided.free.pop()?;
        // SAFETY: the slots of a block lie within it, one behind the other.
        let start = unsafe { divided.block.memory.start().add(number * slot_bytes) };
        let memory = divided.block.memory();
        if divided.free.is_empty()
            && let Some(open) = state.open.get_mut(&slots)
        {
            open.remove(&block);
        }
        state.slots += 1;
        let home = Home::Block { shared: self.shared.clone(), block, number, memory };
        Some(Slot { start, len: slot_bytes, home })
    }

    /// Whether slots for two lengths are of one size.
    pub fn same_size(&self, one: usize, other: usize) -> bool {
        self.shared.division(one) == self.shared.division(other)
    }

    /// The slots of a block that are taken.
    pub fn taken_of(&self, block: u64) -> usize {
        self.shared.state().divided.get(&block).map_or(0, |divided| divided.slots - divided.free.len())
    }

    /// What blocks and slots there are.
    pub fn stats(&self) -> SlabsStats {
        let state = self.shared.state();
        SlabsStats { blocks: state.idle.len() + state.divided.len(), slots: state.slots }
    }
}

/// Where a slot goes back.
#[derive(Debug)]
enum Home {
    Block {
        shared: Arc<Shared>,
        block: u64,
        number: usize,
        memory: BlockMemory,
    },
    /// It has memory of its own.
    Own {
        _memory: HeapMemory,
    },
}

/// A part of a block with one owner.
#[derive(Debug)]
pub struct Slot {
    start: NonNull<u8>,
    len: usize,
    home: Home,
}

// SAFETY: the bytes belong to the slot alone: no number is given twice while it is out, and memory of its own has no other holder.
unsafe impl Send for Slot {}
// SAFETY: shared access only reads.
unsafe impl Sync for Slot {}

impl Slot {
    /// A slot with memory of its own.
    pub fn apart(len: usize) -> Self {
        let memory = HeapMemory::new(len.next_multiple_of(PAGE_BYTES));
        Self { start: memory.start(), len: memory.len(), home: Home::Own { _memory: memory } }
    }

    /// The number of its block; `None` if it has memory of its own.
    pub fn block(&self) -> Option<u64> {
        match &self.home {
            Home::Block { block, .. } => Some(*block),
            Home::Own { .. } => None,
        }
    }

    /// The block that it is a part of; `None` if it has memory of its own.
    pub(crate) fn memory(&self) -> Option<&BlockMemory> {
        match &self.home {
            Home::Block { memory, .. } => Some(memory),
            Home::Own { .. } => None,
        }
    }

    /// The first byte, for a call that writes the bytes while the slot is not touched.
    pub(crate) fn start(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes that belong to this slot. Its block lives while one of its slots is out: a divided block is kept
        // by the state, and the state by the slot.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` is the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Home::Block { shared, block, number, .. } = &self.home else { return };
        let mut state = shared.state();
        state.slots -= 1;
        let Some(divided) = state.divided.get_mut(block) else { return };
        divided.free.push(*number);
        let (slots, is_idle) = (divided.slots, divided.free.len() == divided.slots);
        let open = state.open.entry(slots).or_default();
        if !is_idle {
            open.insert(*block);
            return;
        }
        open.remove(block);
        if let Some(divided) = state.divided.remove(block) {
            state.idle.push(divided.block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 2 << 20;

    #[test]
    fn slots_have_the_size_that_their_number_allows_and_do_not_overlap() {
        let slabs = Slabs::of_heap(2, BLOCK);
        let mut slots: Vec<_> = (0..1024).map(|_| slabs.take(4096).unwrap()).collect();
        assert!(slabs.take(1).is_none(), "both blocks are full");
        for (number, slot) in slots.iter_mut().enumerate() {
            assert_eq!((slot.len(), slot.as_ptr().addr() % PAGE_BYTES), (4096, 0));
            slot.fill(number as u8);
        }
        for (number, slot) in slots.iter().enumerate() {
            assert!(**slot == [number as u8; 4096]);
        }
        assert_eq!(slabs.stats(), SlabsStats { blocks: 2, slots: 1024 });
        for (len, slot_bytes) in
            [(0, 4096), (4097, 8192), (20_000, 20_480), (700_000, 1 << 20), (BLOCK, BLOCK)]
        {
            let slabs = Slabs::of_heap(1, BLOCK);
            assert_eq!(slabs.take(len).unwrap().len(), slot_bytes);
        }
        assert!(Slabs::of_heap(1, BLOCK).take(BLOCK + 1).is_none());
        assert!(Slabs::of_heap(0, BLOCK).take(1).is_none());
    }

    #[test]
    fn a_block_without_a_taken_slot_is_divided_anew_and_outlives_its_slabs() {
        let slabs = Slabs::of_heap(1, BLOCK);
        let small = [slabs.take(4096).unwrap(), slabs.take(4096).unwrap()];
        let block = small[0].block().unwrap();
        assert_eq!((slabs.taken_of(block), small[1].block()), (2, Some(block)));
        assert!(slabs.same_size(1, 4096) && !slabs.same_size(4096, 4097));
        assert!(slabs.take(BLOCK).is_none(), "it has small slots");
        let [first, second] = small;
        drop(first);
        assert!(slabs.take(BLOCK).is_none());
        std::thread::spawn(move || drop(second)).join().unwrap();
        let mut whole = slabs.take(BLOCK).unwrap();
        drop(slabs);
        whole.fill(7);
        assert!(*whole == vec![7; BLOCK]);
        let apart = Slot::apart(5000);
        assert_eq!((apart.len(), apart.block()), (8192, None));
    }
}

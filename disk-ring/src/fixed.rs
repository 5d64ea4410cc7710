//! Blocks of memory that the kernel keeps at hand: a read into one of them does not look up its pages, and pins none.

use crate::slabs::{BlockMemory, Slot};
use io_uring::IoUring;
use std::collections::HashMap;
use std::io;

/// The most blocks of one ring: the kernel's bound.
const FIXED_LEN_MAX: u32 = 1 << 14;

/// The blocks that a ring has registered, in the order of their first reads.
#[derive(Debug, Default)]
pub struct FixedBlocks {
    /// Their places, by the numbers of the blocks.
    places: HashMap<u64, u16>,
    /// How many there may be; none until the first block, or where the kernel refuses them.
    len_max: Option<u32>,
}

impl FixedBlocks {
    /// The place of the block of a slot, registered with its first read. `None` for one that is not in huge pages, and for those that the kernel
    /// does not take: it reads into them as into any memory.
    pub(crate) fn place(&mut self, uring: &IoUring, slot: &Slot) -> Option<u16> {
        let block = slot.memory().filter(|block| block.is_huge)?;
        if let Some(&place) = self.places.get(&block.number) {
            return Some(place);
        }
        let len_max = *self.len_max.get_or_insert_with(|| {
            // Kernels before 5.19 have no table that is filled later.
            uring.submitter().register_buffers_sparse(FIXED_LEN_MAX).map_or(0, |()| FIXED_LEN_MAX)
        });
        let place = u16::try_from(self.places.len()).ok().filter(|&place| u32::from(place) < len_max)?;
        match register(uring, place, block) {
            Ok(()) => {
                self.places.insert(block.number, place);
                Some(place)
            }
            // RLIMIT_MEMLOCK as a rule: the next one would meet it too.
            Err(_) => {
                self.len_max = Some(0);
                None
            }
        }
    }

    /// How many blocks are registered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }
}

fn register(uring: &IoUring, place: u16, block: &BlockMemory) -> io::Result<()> {
    let memory = libc::iovec { iov_base: block.start.as_ptr().cast(), iov_len: block.len };
    // SAFETY: the range is a block's, mapped now. The kernel pins its pages, so that they outlive a block that goes; its place is then not used
    // again, because no other block has its number.
    unsafe { uring.submitter().register_buffers_update(u32::from(place), &[memory], None) }
}

//! What a ring has the kernel do.

use crate::read::RingRead;
use crate::write::RingWrite;

pub(crate) mod kernel {
    use crate::fixed::FixedBlocks;
    use io_uring::IoUring;
    use io_uring::squeue::Entry;

    /// A job as the kernel gets it.
    pub trait KernelJob: Sized {
        /// The operations that it may be.
        const CODES: &'static [u8];

        /// What the caller gets back of a job whose end is not waited for.
        type Tag;

        /// The entry of the queue. It refers to the job's file and memory, which stay where they are while the job is in its box.
        fn entry(&mut self, uring: &IoUring, fixed: &mut FixedBlocks) -> Entry;

        /// Leaves the file and the memory to the kernel.
        fn leave(self) -> Self::Tag;
    }
}

/// A read or a write: [`RingRead`], [`RingWrite`]. There are no others.
pub trait RingJob: kernel::KernelJob {}

impl<T> RingJob for RingRead<T> {}
impl<T> RingJob for RingWrite<T> {}

//! The blocks of the memory tier that readers hold a part of.

use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};

/// All of them. A reader of 16 KiB keeps a whole block: at most half of the blocks are lent, and further reads are copied.
#[derive(Debug)]
pub(super) struct Loans {
    len_max: usize,
    len: AtomicUsize,
    copied: AtomicU64,
}

impl Loans {
    pub(super) fn new(len_max: usize) -> Arc<Self> {
        Arc::new(Self { len_max, len: AtomicUsize::new(0), copied: AtomicU64::new(0) })
    }

    /// Blocks that are lent now.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Reads that were copied.
    pub(super) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }
}

/// The readers of one block.
#[derive(Debug)]
pub(super) struct Readers {
    len: AtomicUsize,
    loans: Arc<Loans>,
}

impl Readers {
    pub(super) fn new(loans: Arc<Loans>) -> Self {
        Self { len: AtomicUsize::new(0), loans }
    }

    /// Counts one more reader, under the tier's lock. Returns whether it gets a part of the block: otherwise the part is to be copied.
    pub(super) fn lend(&self) -> bool {
        let loans = &self.loans;
        if self.len.load(Ordering::Acquire) == 0 && loans.len.load(Ordering::Acquire) >= loans.len_max {
            return false;
        }
        if self.len.fetch_add(1, Ordering::AcqRel) == 0 {
            loans.len.fetch_add(1, Ordering::AcqRel);
        }
        true
    }

    /// A reader is done, on any thread.
    pub(super) fn give_back(&self) {
        if self.len.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.loans.len.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Counts a read that was copied.
    pub(super) fn note_copy(&self) {
        self.loans.copied.fetch_add(1, Ordering::Relaxed);
    }
}

//! The memory of the tier that readers hold a part of.

use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};

/// All of it. A reader of 16 KiB keeps a whole block: at most half of the memory is lent, and further reads are copied.
#[derive(Debug)]
pub(super) struct Loans {
    bytes_max: usize,
    bytes: AtomicUsize,
    copied: AtomicU64,
}

impl Loans {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicUsize::new(0), copied: AtomicU64::new(0) })
    }

    /// Bytes that are lent now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
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
    /// What the block takes of the memory.
    bytes: usize,
    loans: Arc<Loans>,
}

impl Readers {
    pub(super) fn new(loans: Arc<Loans>, bytes: usize) -> Self {
        Self { len: AtomicUsize::new(0), bytes, loans }
    }

    /// Counts one more reader, under the tier's lock. Returns whether it gets a part of the block: otherwise the part is to be copied.
    pub(super) fn lend(&self) -> bool {
        let loans = &self.loans;
        if self.len.load(Ordering::Acquire) == 0
            && loans.bytes.load(Ordering::Acquire).saturating_add(self.bytes) > loans.bytes_max
        {
            return false;
        }
        if self.len.fetch_add(1, Ordering::AcqRel) == 0 {
            loans.bytes.fetch_add(self.bytes, Ordering::AcqRel);
        }
        true
    }

    /// A reader is done, on any thread.
    pub(super) fn give_back(&self) {
        if self.len.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.loans.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }

    /// Counts a read that was copied.
    pub(super) fn note_copy(&self) {
        self.loans.copied.fetch_add(1, Ordering::Relaxed);
    }
}

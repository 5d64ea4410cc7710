//! Reads.

use crate::fixed::FixedBlocks;
use crate::job::kernel::KernelJob;
use crate::slabs::Slot;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Linux's flag of a read that does not wait.
const RWF_NOWAIT: i32 = 8;

/// A read of a file into a slot. The ring owns both until it is over.
#[derive(Debug)]
pub struct RingRead<T> {
    /// The file.
    pub file: Arc<File>,
    /// The place in the file, bytes.
    pub offset: u64,
    /// The bytes to read, at most those of the slot.
    pub len: usize,
    /// Where they go.
    pub memory: Slot,
    /// Their place there, bytes.
    pub at: usize,
    /// Whether the read fails with [`std::io::ErrorKind::WouldBlock`] unless the page cache has its first bytes.
    pub cached_only: bool,
    /// The caller's own.
    pub tag: T,
}

impl<T> KernelJob for RingRead<T> {
    const CODES: &'static [u8] = &[opcode::Read::CODE];

    type Tag = T;

    fn entry(&mut self, uring: &IoUring, fixed: &mut FixedBlocks) -> Entry {
        let end = self.at.checked_add(self.len);
        assert!(end.is_some_and(|end| end <= self.memory.len()), "the slot has room for the read");
        let (file, flags) = (types::Fd(self.file.as_raw_fd()), if self.cached_only { RWF_NOWAIT } else { 0 });
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        let start = self.memory.start().wrapping_add(self.at);
        match fixed.place(uring, &self.memory) {
            Some(block) => {
                opcode::ReadFixed::new(file, start, len, block).offset(self.offset).rw_flags(flags).build()
            }
            None => opcode::Read::new(file, start, len).offset(self.offset).rw_flags(flags).build(),
        }
    }

    fn leave(self) -> T {
        mem::forget((self.file, self.memory));
        self.tag
    }
}

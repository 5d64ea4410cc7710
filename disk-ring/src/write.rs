//! Writes.

use crate::fixed::FixedBlocks;
use crate::job::kernel::KernelJob;
use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// The most parts of one write: the kernel's bound.
pub const WRITE_PARTS_LEN_MAX: usize = libc::UIO_MAXIOV as usize;

/// A write of bytes into a file. The ring owns them and the file until it is over. A file that was opened for writes past the page cache
/// (`O_DIRECT`) asks that the offset, the address of each part and its length are multiples of the device's blocks; whole pages are.
#[derive(Debug)]
pub struct RingWrite<T> {
    /// The file.
    pub file: Arc<File>,
    /// The place in the file, bytes.
    pub offset: u64,
    /// The bytes, in their order: at most [`WRITE_PARTS_LEN_MAX`] parts; those behind are not written.
    pub parts: Vec<Bytes>,
    vectors: Vectors,
    /// The caller's own.
    pub tag: T,
}

/// The addresses and the lengths of the parts, for the kernel.
#[derive(Debug, Default)]
struct Vectors(Vec<libc::iovec>);

// SAFETY: addresses of bytes that any thread may read, which nothing but the kernel goes by.
unsafe impl Send for Vectors {}

impl<T> RingWrite<T> {
    /// A write of these parts from this offset on.
    pub fn new(file: Arc<File>, offset: u64, parts: Vec<Bytes>, tag: T) -> Self {
        Self { file, offset, parts, vectors: Vectors::default(), tag }
    }
}

impl<T> KernelJob for RingWrite<T> {
    const CODES: &'static [u8] = &[opcode::Write::CODE, opcode::Writev::CODE];

    type Tag = T;

    fn entry(&mut self, _: &IoUring, _: &mut FixedBlocks) -> Entry {
        let file = types::Fd(self.file.as_raw_fd());
        if let [part] = &*self.parts {
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            return opcode::Write::new(file, part.as_ptr(), len).offset(self.offset).build();
        }
        let vector =
            |part: &Bytes| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        self.vectors = Vectors(self.parts.iter().take(WRITE_PARTS_LEN_MAX).map(vector).collect());
        let count = self.vectors.0.len() as u32;
        opcode::Writev::new(file, self.vectors.0.as_ptr().cast(), count).offset(self.offset).build()
    }

    fn leave(self) -> T {
        mem::forget((self.file, self.parts, self.vectors));
        self.tag
    }
}

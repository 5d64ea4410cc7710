//! Transmit buffers taken from their pool and not yet written.

use std::{ffi::c_void, ptr, slice};

use dpdk_sys as sys;

use crate::pool::Pool;

/// Transmit buffers taken from the pool at a time.
pub(crate) const STASH_LEN: usize = 64;

/// The stash of one thread, for one pool. It is empty or dropped before the pool.
pub(crate) struct Stash {
    /// The front `len` of both arrays are mbufs that the stash owns, and where their data begin.
    mbufs: Box<[*mut c_void; STASH_LEN]>,
    data: Box<[*mut u8; STASH_LEN]>,
    len: usize,
}

impl Stash {
    pub(crate) fn new() -> Self {
        Self {
            mbufs: Box::new([ptr::null_mut(); STASH_LEN]),
            data: Box::new([ptr::null_mut(); STASH_LEN]),
            len: 0,
        }
    }

    /// Takes a buffer, whose first `len` bytes `fill` writes whole. `None`, without calling `fill`, if no buffer is free.
    ///
    /// # Safety
    ///
    /// The pool is the same at every call and outlives the stash; its buffers have room for `len` bytes, in memory that was mapped zeroed.
    #[inline]
    pub(crate) unsafe fn write<'p>(
        &mut self,
        pool: impl FnOnce() -> &'p Pool,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<*mut c_void> {
        if self.len == 0 && !self.restock(pool()) {
            return None;
        }
        let top = self.len - 1;
        // SAFETY: the front of the stash holds mbufs that it owns, with their data's start, and the caller answers for their room.
        // The memory was mapped zeroed, so it is initialized, and nothing else refers to it.
        fill(unsafe { slice::from_raw_parts_mut(self.data[top], len) });
        // Only now, so that a panic in `fill` leaves the buffer in the stash.
        self.len = top;
        Some(self.mbufs[top])
    }

    #[cold]
    fn restock(&mut self, pool: &Pool) -> bool {
        // A nearly empty pool may still have one buffer.
        self.len = [STASH_LEN, 1]
            .into_iter()
            .find(|&len| {
                // SAFETY: the pool is alive, and both arrays have room for `len`.
                let code = unsafe {
                    let (mbufs, data) = (self.mbufs.as_mut_ptr(), self.data.as_mut_ptr());
                    sys::stoq_tx_alloc(pool.as_ptr(), mbufs, data, len as u32)
                };
                code == 0
            })
            .unwrap_or(0);
        self.len > 0
    }
}

impl Drop for Stash {
    fn drop(&mut self) {
        // SAFETY: the front of the stash holds mbufs that it owns; it is gone after this.
        unsafe { sys::stoq_free(self.mbufs.as_mut_ptr(), self.len as u32) };
    }
}

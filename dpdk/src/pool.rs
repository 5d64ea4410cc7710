//! A pool of packet buffers.

use std::{
    ffi::{CString, c_int, c_void},
    ptr::NonNull,
};

/// Buffers that a registered thread keeps for itself: most bursts then touch no shared ring.
pub(crate) const CACHE_LEN: u32 = 256;
/// The most buffers that one cache withholds: DPDK flushes it at half as much again.
pub(crate) const CACHE_LEN_MAX: u32 = CACHE_LEN + CACHE_LEN / 2;
/// The most room in a buffer: its length, with DPDK's headroom of 128, is a 16-bit number.
pub(crate) const ROOM_BYTES_MAX: u16 = u16::MAX - 128;

/// A pool of mbufs, freed when dropped. Its owner drops it after everything that could hold one of its
/// buffers.
#[derive(Debug)]
pub(crate) struct Pool(NonNull<c_void>);

// SAFETY: an mbuf pool's ring is multi-producer and multi-consumer, and its caches belong to one thread each.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `mbufs` buffers with `room` bytes each; `None` if memory is short or the name is taken. EAL must be
    /// up, and stay up for as long as the pool lives.
    pub(crate) fn create(name: &str, mbufs: u32, room: u16, numa_node: c_int) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name is a C string, which DPDK copies; `room` plus the headroom fits 16 bits by this module's
        // limit, which callers keep; a null result is handled.
        let pool = unsafe {
            dpdk_sys::stoq_pool_create(name.as_ptr(), mbufs, CACHE_LEN, room.min(ROOM_BYTES_MAX), numa_node)
        };
        NonNull::new(pool).map(Self)
    }

    /// As [`Pool::create`], with buffers of one memory page each, all in one piece of memory, as
    /// net_af_xdp registers them with the kernel (the shim gives the reason).
    pub(crate) fn create_paged(name: &str, mbufs: u32, numa_node: c_int) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name is a C string, which DPDK copies; a null result is handled.
        let pool = unsafe { dpdk_sys::stoq_pool_create_paged(name.as_ptr(), mbufs, CACHE_LEN, numa_node) };
        NonNull::new(pool).map(Self)
    }

    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// Buffers that are free.
    pub(crate) fn available(&self) -> u32 {
        // SAFETY: the pool is alive.
        unsafe { dpdk_sys::stoq_pool_available(self.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: created by DPDK, freed once; the owner has closed the port and dropped the queues that use it.
        unsafe { dpdk_sys::stoq_pool_free(self.as_ptr()) };
    }
}

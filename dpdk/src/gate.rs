//! The gate between a memif queue and the driver's interrupt thread (`sys/gate.h` has the reason).

use std::{
    alloc::{Layout, handle_alloc_error},
    ffi::c_void,
    ptr::{self, NonNull},
};

/// The gate of one queue; none for drivers other than memif's.
#[derive(Debug)]
pub(crate) struct Gate(Option<NonNull<c_void>>);

impl Gate {
    /// The gate of a queue of `port`, if that is a memif.
    pub(crate) fn new(port: u16, is_memif: bool) -> Self {
        // SAFETY: the function only takes memory; a null result is handled.
        let gate = is_memif.then(|| NonNull::new(unsafe { dpdk_sys::stoq_gate_new(port) }));
        Self(gate.map(|gate| gate.unwrap_or_else(|| handle_alloc_error(Layout::new::<[u8; 64]>()))))
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(gate) = self.0 {
            // SAFETY: made by `new`, freed once; the queue that owns this makes no burst any more.
            unsafe { dpdk_sys::stoq_gate_free(gate.as_ptr()) };
        }
    }
}

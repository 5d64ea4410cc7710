//! The gate between a memif queue and the driver's interrupt thread (`sys/gate.h` has the reason).

use std::{
    alloc::{Layout, handle_alloc_error},
    ffi::c_void,
    ptr::{self, NonNull},
};

use crate::settings::QueueMismatch;

/// The gate of one queue; none for drivers other than memif's.
#[derive(Debug)]
pub(crate) struct Gate(Option<NonNull<c_void>>);

/// Connections of a client in a row that its server has to end before their links come up.
const REFUSALS_MIN: u32 = 2;

/// How the queues of a memif's other side differ from this side's `own`, if they do, while its link is up or not.
pub(crate) fn mismatch(port: u16, own: u16, is_up: bool) -> Option<QueueMismatch> {
    // SAFETY: both functions read what the shim noted of a port.
    let (shared, refusals) =
        unsafe { (dpdk_sys::stoq_memif_rings(port, own), dpdk_sys::stoq_memif_refusals(port)) };
    if is_up {
        return (shared < own).then_some(QueueMismatch::Fewer { shared, own });
    }
    (refusals >= REFUSALS_MIN).then_some(QueueMismatch::Refused { own })
}

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Receiving.
    In,
    /// Transmitting.
    Out,
}

impl Gate {
    /// No gate, for a queue of another driver.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The gate of a queue of a memif.
    pub(crate) fn new(port: u16, queue: u16, way: Way) -> Self {
        // SAFETY: the function only takes memory; a null result is handled.
        let gate = NonNull::new(unsafe { dpdk_sys::stoq_gate_new(port, queue, way == Way::Out) });
        Self(Some(gate.unwrap_or_else(|| handle_alloc_error(Layout::new::<[u8; 64]>()))))
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

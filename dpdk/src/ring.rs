//! Frames on their way between workers: a worker with a queue receives for others, and sends for them. Buffers change hands, and are not
//! copied.

use std::{ffi::c_void, fmt, ptr, sync::Arc};

use crossbeam_queue::ArrayQueue;
use dpdk_sys as sys;

use crate::{
    port::OpenPort,
    queue::{BURST_LEN_MAX, Burst, RxBatch, TxOffload},
    stash::Stash,
};

/// Frames in one ring.
pub const RING_LEN: usize = 1024;

/// An mbuf that the ring owns, and its description.
struct Carried<F> {
    mbuf: *mut c_void,
    frame: F,
}

// SAFETY: an mbuf with one owner may be read, written and freed from any thread; a description of a received frame points into its mbuf.
unsafe impl<F> Send for Carried<F> {}

/// A bounded queue of mbufs of one port, which it keeps open. It frees those that are left in it.
struct Carrier<F> {
    frames: ArrayQueue<Carried<F>>,
    port: Arc<OpenPort>,
}

impl<F> Carrier<F> {
    fn new(port: Arc<OpenPort>) -> Self {
        Self { frames: ArrayQueue::new(RING_LEN), port }
    }

    /// Frees up to `max` mbufs. Returns their number.
    fn free(&self, max: usize) -> usize {
        let mut freed = 0;
        while freed < max
            && let Some(Carried { mut mbuf, .. }) = self.frames.pop()
        {
            // SAFETY: the mbuf came with the pop, which makes this its only owner; its pool lives as long as the port.
            unsafe { sys::stoq_free(&mut mbuf, 1) };
            freed += 1;
        }
        freed
    }
}

impl<F> Drop for Carrier<F> {
    fn drop(&mut self) {
        self.free(usize::MAX);
    }
}

/// Received frames of a port on their way to one worker. [`RxBatch::give`] puts them in, from any thread.
pub struct RxRing(Carrier<sys::RxFrame>);

impl fmt::Debug for RxRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxRing").field("frames", &self.0.frames.len()).finish_non_exhaustive()
    }
}

/// The end of an [`RxRing`] at which its worker takes frames. [`Send`], not [`Sync`].
#[derive(Debug)]
pub struct RxInlet {
    ring: Arc<RxRing>,
    burst: Burst,
}

impl RxRing {
    pub(crate) fn new(port: Arc<OpenPort>) -> (Arc<Self>, RxInlet) {
        let burst = Burst::new(port.clone());
        let ring = Arc::new(Self(Carrier::new(port)));
        (ring.clone(), RxInlet { ring, burst })
    }

    /// Takes over an mbuf; false if there is no room. The mbuf is `port`'s, and the caller's if this returns false.
    ///
    /// # Panics
    ///
    /// If `port` is another one: its buffers would not outlive it.
    pub(crate) fn push(&self, port: &Arc<OpenPort>, mbuf: *mut c_void, frame: sys::RxFrame) -> bool {
        assert!(Arc::ptr_eq(port, &self.0.port), "frames of another port do not fit this ring");
        self.0.frames.push(Carried { mbuf, frame }).is_ok()
    }
}

impl RxInlet {
    /// Takes up to `max` frames, and never more than [`BURST_LEN_MAX`]. Does not wait.
    #[inline]
    pub fn rx_burst(&mut self, max: usize) -> RxBatch<'_> {
        let frames = &self.ring.0.frames;
        self.burst.fill(|mbufs, descriptions| {
            let mut len = 0;
            while len < max.min(BURST_LEN_MAX)
                && let Some(Carried { mbuf, frame }) = frames.pop()
            {
                (mbufs[len], descriptions[len]) = (mbuf, frame);
                len += 1;
            }
            len
        })
    }
}

/// Frames of one worker on their way to the transmit queue of another one.
pub struct TxRing {
    queue: u16,
    carrier: Carrier<sys::TxFrame>,
}

impl fmt::Debug for TxRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxRing")
            .field("queue", &self.queue)
            .field("frames", &self.carrier.frames.len())
            .finish_non_exhaustive()
    }
}

impl TxRing {
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16, frame_bytes_max: usize) -> (Arc<Self>, TxFeeder) {
        let ring = Arc::new(Self { queue, carrier: Carrier::new(port) });
        (ring.clone(), TxFeeder { stash: Stash::new(), frame_bytes_max, ring })
    }

    /// The next mbuf, which the caller then owns, for this queue of `port`.
    ///
    /// # Panics
    ///
    /// If the ring is for another queue: a driver returns all buffers of a burst to one pool.
    pub(crate) fn pop(&self, port: &Arc<OpenPort>, queue: u16) -> Option<(*mut c_void, sys::TxFrame)> {
        let fits = self.queue == queue && Arc::ptr_eq(port, &self.carrier.port);
        assert!(fits, "frames for another queue do not fit this one");
        self.carrier.frames.pop().map(|carried| (carried.mbuf, carried.frame))
    }
}

/// The end of a [`TxRing`] at which its worker writes frames. [`Send`], not [`Sync`].
pub struct TxFeeder {
    // Before the ring, which keeps the port and its pools.
    stash: Stash,
    frame_bytes_max: usize,
    ring: Arc<TxRing>,
}

// SAFETY: the stash's mbufs are this feeder's alone; an mbuf may be allocated, written and freed from any thread.
unsafe impl Send for TxFeeder {}

impl fmt::Debug for TxFeeder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxFeeder").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl TxFeeder {
    /// Frames that the queue's worker has not taken yet.
    #[inline]
    pub fn pending(&self) -> usize {
        self.ring.carrier.frames.len()
    }

    /// The number of further frames that may wait: at least as many, since only this end puts frames in.
    #[inline]
    pub fn room(&self) -> usize {
        RING_LEN - self.pending()
    }

    /// Appends a frame, as [`crate::TxQueue::frame`] does.
    #[inline]
    pub fn frame(&mut self, offload: TxOffload, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if len == 0 || len > self.frame_bytes_max || self.room() == 0 {
            return false;
        }
        let TxRing { queue, carrier } = &*self.ring;
        // SAFETY: the queue's transmit pool lives as long as the port, which the ring keeps, and the stash is dropped before it. Its
        // buffers have room for `frame_bytes_max` bytes.
        let written = unsafe { self.stash.write(|| carrier.port.tx_pool(*queue), len, fill) };
        let Some(mut mbuf) = written else { return false };
        let frame = offload.describe(len, carrier.port.tx_checksum());
        let is_taken = carrier.frames.push(Carried { mbuf, frame }).is_ok();
        if !is_taken {
            // SAFETY: the stash gave the mbuf away, and the ring did not take it.
            unsafe { sys::stoq_free(&mut mbuf, 1) };
        }
        is_taken
    }

    /// Frees the frames that wait. Returns their number.
    pub fn drop_pending(&mut self) -> usize {
        self.ring.carrier.free(RING_LEN)
    }
}

/// A description of no frame: of a received one that was given away.
pub(crate) const NO_FRAME: sys::RxFrame =
    sys::RxFrame { data: ptr::NonNull::<u8>::dangling().as_ptr().cast_const(), len: 0, flags: 0 };

//! The data path: bursts in, bursts out. One call into DPDK for each burst, none for each frame.

use std::{ffi::c_void, fmt, ptr, slice, sync::Arc};

use dpdk_sys as sys;

use crate::{
    gate::{Gate, Way},
    pool::Pool,
    port::OpenPort,
    ring::{NO_FRAME, RxRing, TxFeeder, TxRing},
    stash::Stash,
};

/// The most frames in one received burst.
pub const BURST_LEN_MAX: usize = 64;
/// The largest number of pending frames in a transmit queue.
pub(crate) const PENDING_LEN_MAX: usize = 16 * 1024;
/// The longest chained frame that is reassembled, bytes: a longer one is shown empty.
const CHAINED_BYTES_MAX: usize = u16::MAX as usize + 18;

// The shim counts pending frames in 16 bits.
const _: () = assert!(BURST_LEN_MAX <= PENDING_LEN_MAX && PENDING_LEN_MAX <= u16::MAX as usize);

/// The device's verdict on a received frame's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// No verdict: software must check.
    Unknown,
    /// The IP header's checksum and UDP's were checked, and match.
    Good,
    /// One of them is wrong.
    Bad,
}

impl TxOffload {
    /// The shim's description of a frame of `len` bytes, for a device that fills in checksums, or does not.
    #[inline]
    pub(crate) fn describe(self, len: usize, fills_in: bool) -> sys::TxFrame {
        let (kind, l2_len) = match self {
            Self::UdpV4 { l2_len } if fills_in => (sys::TX_UDP_V4, l2_len),
            Self::UdpV6 { l2_len } if fills_in => (sys::TX_UDP_V6, l2_len),
            _ => (sys::TX_PLAIN, 0),
        };
        // The largest frame of a port comes from a 16-bit number.
        sys::TxFrame { len: len as u16, kind, l2_len }
    }
}

/// A received frame, for as long as its batch lives.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    /// The frame from its Ethernet header on, without the frame check sequence.
    pub data: &'a [u8],
    /// The device's verdict on its checksums.
    pub checksum: Checksum,
}

/// Checksums that the device fills in, if [`crate::PortInfo::tx_checksum`] allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxOffload {
    /// None: the frame is complete.
    None,
    /// IPv4 header and UDP: the former is zero in the frame, the latter holds the pseudo-header sum.
    UdpV4 {
        /// Bytes before the IP header, which has no options.
        l2_len: u8,
    },
    /// UDP over IPv6: the field holds the pseudo-header sum.
    UdpV6 {
        /// Bytes before the IP header, which has no extension headers.
        l2_len: u8,
    },
}

/// The frames of one burst, received from a queue or taken from a ring.
pub(crate) struct Burst {
    /// The mbufs of the last burst. A batch owns the front of it.
    mbufs: Box<[*mut c_void; BURST_LEN_MAX]>,
    frames: Box<[sys::RxFrame; BURST_LEN_MAX]>,
    /// Where a chained frame is reassembled.
    scratch: Vec<u8>,
    port: Arc<OpenPort>,
}

// SAFETY: the pointers are to mbufs that a batch owns between its birth and its drop, and the batch borrows this; an mbuf may be freed
// from any thread.
unsafe impl Send for Burst {}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").finish_non_exhaustive()
    }
}

impl Burst {
    pub(crate) fn new(port: Arc<OpenPort>) -> Self {
        Self {
            mbufs: Box::new([ptr::null_mut(); BURST_LEN_MAX]),
            frames: Box::new([NO_FRAME; BURST_LEN_MAX]),
            scratch: Vec::new(),
            port,
        }
    }

    /// A batch of the frames that `fill` writes to the front of both arrays, mbufs of this port that the batch owns from then on. `fill` gives
    /// their number.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        fill: impl FnOnce(&mut [*mut c_void; BURST_LEN_MAX], &mut [sys::RxFrame; BURST_LEN_MAX]) -> usize,
    ) -> RxBatch<'_> {
        let len = fill(&mut self.mbufs, &mut self.frames);
        RxBatch { burst: self, len }
    }
}

/// A receive queue. [`Send`], not [`Sync`]: one thread polls it.
pub struct RxQueue {
    queue: u16,
    gate: Gate,
    burst: Burst,
}

// SAFETY: the gate is this queue's own, and follows it to its thread. DPDK asks that one thread at a time polls a queue, which `&mut` gives.
unsafe impl Send for RxQueue {}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl RxQueue {
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16) -> Self {
        Self { queue, gate: port.gate(queue, Way::In), burst: Burst::new(port) }
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.burst.port.rx_pool(self.queue)
    }

    /// Takes up to `max` frames, and never more than [`BURST_LEN_MAX`]. Does not wait.
    #[inline]
    pub fn rx_burst(&mut self, max: usize) -> RxBatch<'_> {
        let max = max.min(BURST_LEN_MAX) as u16;
        let (port, queue, gate) = (self.burst.port.id, self.queue, self.gate.as_ptr());
        self.burst.fill(|mbufs, frames| {
            // SAFETY: both arrays have room for `max`; the port is started and has this queue for as long as the burst keeps
            // it; `&mut self` makes this the only thread on it.
            let len = unsafe {
                sys::stoq_rx_burst(port, queue, mbufs.as_mut_ptr(), frames.as_mut_ptr(), max, gate)
            };
            len.into()
        })
    }
}

/// A received burst. Dropping it frees its buffers, once.
#[derive(Debug)]
pub struct RxBatch<'q> {
    burst: &'q mut Burst,
    len: usize,
}

impl RxBatch<'_> {
    /// Frames in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was received.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shows each frame, in the order of arrival.
    #[inline]
    pub fn for_each(mut self, mut show: impl FnMut(RxFrame<'_>)) {
        for index in 0..self.len {
            show(self.frame(index));
        }
    }

    /// The frame at `index`. A frame in several buffers is copied into one piece; one too long for that is
    /// empty.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`RxBatch::len`].
    #[inline]
    pub fn frame(&mut self, index: usize) -> RxFrame<'_> {
        let frame = self.burst.frames[..self.len][index];
        let checksum = match frame.flags & (sys::RX_CHECKSUM_GOOD | sys::RX_CHECKSUM_BAD) {
            0 => Checksum::Unknown,
            sys::RX_CHECKSUM_GOOD => Checksum::Good,
            _ => Checksum::Bad,
        };
        let data = if frame.flags & sys::RX_CHAINED == 0 {
            // SAFETY: the shim gave the start and the length of an mbuf's data, never null; the mbuf is owned by this
            // batch, which the slice borrows, and no other code writes to it.
            unsafe { slice::from_raw_parts(frame.data, frame.len as usize) }
        } else {
            self.join(index, frame.len as usize)
        };
        RxFrame { data, checksum }
    }

    /// Gives the frame at `index` to another worker: from now on it is empty here. Returns false, and keeps the frame, if that worker's ring
    /// is full.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`RxBatch::len`], or the ring is another port's.
    #[inline]
    pub fn give(&mut self, index: usize, ring: &RxRing) -> bool {
        let Burst { mbufs, frames, port, .. } = &mut *self.burst;
        let (mbuf, frame) = (&mut mbufs[..self.len][index], &mut frames[index]);
        if mbuf.is_null() || !ring.push(port, *mbuf, *frame) {
            return false;
        }
        (*mbuf, *frame) = (ptr::null_mut(), NO_FRAME);
        true
    }

    #[cold]
    fn join(&mut self, index: usize, len: usize) -> &[u8] {
        if len > CHAINED_BYTES_MAX {
            return &[];
        }
        let scratch = &mut self.burst.scratch;
        scratch.resize(len, 0);
        // SAFETY: the batch owns the mbuf, `scratch` has room for `len` bytes, and the shim writes no more than that.
        let written =
            unsafe { sys::stoq_rx_copy(self.burst.mbufs[index], scratch.as_mut_ptr(), len as u32) } as usize;
        // A chain with a wrong length is no frame.
        if written == len { &scratch[..len] } else { &[] }
    }
}

impl Drop for RxBatch<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the first `len` mbufs came with this batch, which owns them and is gone after this; those that were given
            // away are null, which DPDK skips.
            unsafe { sys::stoq_free(self.burst.mbufs.as_mut_ptr(), self.len as u32) };
        }
    }
}

/// A transmit queue. [`Send`], not [`Sync`]: one thread feeds it.
///
/// Frames are written into packet buffers by [`TxQueue::frame`] and wait in order until [`TxQueue::flush`] has given
/// them to the device.
pub struct TxQueue {
    queue: u16,
    frame_bytes_max: usize,
    // Before the port, which has its pool.
    stash: Stash,
    /// Pending frames are in `head..tail`, in one piece, because DPDK takes an array. The arrays are twice as
    /// long as the bound, so that the remaining frames seldom move to the front.
    mbufs: Box<[*mut c_void]>,
    frames: Box<[sys::TxFrame]>,
    head: usize,
    tail: usize,
    /// Pending frames, from the head, that the driver has already prepared.
    ready: u16,
    refused: u64,
    gate: Gate,
    port: Arc<OpenPort>,
}

// SAFETY: the pointers are to mbufs that this queue alone owns; an mbuf may be allocated, written and freed from any
// thread. The gate is this queue's own, and follows it to its thread. DPDK asks that one thread at a time feeds a queue, which `&mut` gives.
unsafe impl Send for TxQueue {}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxQueue")
            .field("queue", &self.queue)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl TxQueue {
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16, frame_bytes_max: usize, pending_max: usize) -> Self {
        Self {
            queue,
            frame_bytes_max,
            stash: Stash::new(),
            mbufs: vec![ptr::null_mut(); 2 * pending_max].into(),
            frames: vec![sys::TxFrame::default(); 2 * pending_max].into(),
            head: 0,
            tail: 0,
            ready: 0,
            refused: 0,
            gate: port.gate(queue, Way::Out),
            port,
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.port.tx_pool(self.queue)
    }

    /// Largest frame that the queue takes, bytes, Ethernet header and VLAN tag included.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Frames that wait for the device.
    #[inline]
    pub fn pending(&self) -> usize {
        self.tail - self.head
    }

    /// The number of further frames that may wait.
    #[inline]
    pub fn room(&self) -> usize {
        self.mbufs.len() / 2 - self.pending()
    }

    /// Appends a frame of `len` bytes, which `fill` writes whole into a packet buffer with unspecified
    /// content. Returns false, without calling `fill`, if the frame is empty or too large, the queue of
    /// pending frames is full, or no buffer is free.
    #[inline]
    pub fn frame(&mut self, offload: TxOffload, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if len == 0 || len > self.frame_bytes_max || self.room() == 0 {
            return false;
        }
        // SAFETY: the pool lives as long as the port, and the stash is dropped before it. Each buffer has room for `frame_bytes_max` bytes.
        let written = unsafe { self.stash.write(|| self.port.tx_pool(self.queue), len, fill) };
        let Some(mbuf) = written else { return false };
        self.push(mbuf, offload.describe(len, self.port.tx_checksum()));
        true
    }

    #[inline]
    fn push(&mut self, mbuf: *mut c_void, frame: sys::TxFrame) {
        if self.tail == self.mbufs.len() {
            self.mbufs.copy_within(self.head.., 0);
            self.frames.copy_within(self.head.., 0);
            self.tail -= self.head;
            self.head = 0;
        }
        self.mbufs[self.tail] = mbuf;
        self.frames[self.tail] = frame;
        self.tail += 1;
    }

    pub(crate) fn ring(&self) -> (Arc<TxRing>, TxFeeder) {
        TxRing::new(self.port.clone(), self.queue, self.frame_bytes_max)
    }

    /// Appends up to `max` frames of another worker, as far as there is room. Returns their number.
    ///
    /// # Panics
    ///
    /// If the ring is another queue's.
    pub fn carry(&mut self, ring: &TxRing, max: usize) -> usize {
        let mut carried = 0;
        while carried < max
            && self.room() > 0
            && let Some((mbuf, frame)) = ring.pop(&self.port, self.queue)
        {
            self.push(mbuf, frame);
            carried += 1;
        }
        carried
    }

    /// Offers all pending frames to the device. Returns the number of frames that it has not taken; they keep
    /// their order.
    #[inline]
    pub fn flush(&mut self) -> usize {
        while self.head < self.tail {
            let len = self.pending() as u16;
            // SAFETY: `head..tail` of both arrays are `len` mbufs that this queue owns and their descriptions, each
            // length within its mbuf's room. The frames that the call took belong to the device after it, and `head` moves past them.
            let taken = unsafe {
                let (mbufs, frames) =
                    (self.mbufs.as_mut_ptr().add(self.head), self.frames.as_ptr().add(self.head));
                let (port, gate) = (self.port.id, self.gate.as_ptr());
                sys::stoq_tx_burst(port, self.queue, mbufs, frames, len, &mut self.ready, gate)
            };
            self.head += usize::from(taken);
            self.ready -= taken;
            if self.ready > 0 || taken == len {
                break;
            }
            // Every earlier frame was taken, and the driver will never take this one.
            self.drop_front(1);
            self.refused += 1;
        }
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
        self.pending()
    }

    /// Frees all pending frames. Returns their number.
    pub fn drop_pending(&mut self) -> usize {
        let dropped = self.pending();
        self.drop_front(dropped);
        (self.head, self.tail, self.ready) = (0, 0, 0);
        dropped
    }

    /// Frames that the driver refused for good since the last call. They were dropped.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    fn drop_front(&mut self, len: usize) {
        debug_assert!(len <= self.pending());
        // SAFETY: `head..head + len` are mbufs that this queue owns; `head` moves past them, so this is the only free.
        unsafe { sys::stoq_free(self.mbufs.as_mut_ptr().add(self.head), len as u32) };
        self.head += len;
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.drop_pending();
    }
}

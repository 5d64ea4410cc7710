//! The data path: bursts in, bursts out. One call into DPDK for each burst, none for each frame.

use std::{ffi::c_void, fmt, ptr, slice, sync::Arc};

use dpdk_sys as sys;

use crate::{gate::Gate, pool::Pool, port::OpenPort};

/// The most frames in one received burst.
pub const BURST_LEN_MAX: usize = 64;
/// Transmit buffers taken from the pool at a time.
pub(crate) const STASH_LEN: usize = 64;
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

/// A receive queue. [`Send`], not [`Sync`]: one thread polls it.
pub struct RxQueue {
    queue: u16,
    /// The mbufs of the last burst. A batch owns the front of it.
    mbufs: Box<[*mut c_void; BURST_LEN_MAX]>,
    frames: Box<[sys::RxFrame; BURST_LEN_MAX]>,
    /// Where a chained frame is reassembled.
    scratch: Vec<u8>,
    gate: Gate,
    port: Arc<OpenPort>,
}

// SAFETY: the pointers are to mbufs that this queue owns, and only between a batch's birth and its drop; an mbuf may
// be freed from any thread. The gate is this queue's own, and follows it to its thread. DPDK asks that one thread at a time polls a queue, which `&mut` gives.
unsafe impl Send for RxQueue {}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl RxQueue {
    pub(crate) fn new(port: Arc<OpenPort>, queue: u16) -> Self {
        let empty = sys::RxFrame { data: ptr::null(), len: 0, flags: 0 };
        Self {
            queue,
            mbufs: Box::new([ptr::null_mut(); BURST_LEN_MAX]),
            frames: Box::new([empty; BURST_LEN_MAX]),
            scratch: Vec::new(),
            gate: port.gate(),
            port,
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.port.rx_pool(self.queue)
    }

    /// Takes up to `max` frames, and never more than [`BURST_LEN_MAX`]. Does not wait.
    #[inline]
    pub fn rx_burst(&mut self, max: usize) -> RxBatch<'_> {
        let max = max.min(BURST_LEN_MAX) as u16;
        // SAFETY: both arrays have room for `max`; the port is started and has this queue for as long as `self.port`
        // lives; `&mut self` makes this the only thread on it.
        let len = unsafe {
            let (mbufs, frames) = (self.mbufs.as_mut_ptr(), self.frames.as_mut_ptr());
            sys::stoq_rx_burst(self.port.id, self.queue, mbufs, frames, max, self.gate.as_ptr())
        };
        RxBatch { len: len.into(), queue: self }
    }
}

/// A received burst. Dropping it frees its buffers, once.
#[derive(Debug)]
pub struct RxBatch<'q> {
    queue: &'q mut RxQueue,
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
        let frame = self.queue.frames[..self.len][index];
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

    #[cold]
    fn join(&mut self, index: usize, len: usize) -> &[u8] {
        if len > CHAINED_BYTES_MAX {
            return &[];
        }
        let scratch = &mut self.queue.scratch;
        scratch.resize(len, 0);
        // SAFETY: the batch owns the mbuf, `scratch` has room for `len` bytes, and the shim writes no more than that.
        let written =
            unsafe { sys::stoq_rx_copy(self.queue.mbufs[index], scratch.as_mut_ptr(), len as u32) } as usize;
        // A chain with a wrong length is no frame.
        if written == len { &scratch[..len] } else { &[] }
    }
}

impl Drop for RxBatch<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the first `len` mbufs came with this batch, which owns them and is gone after this.
            unsafe { sys::stoq_free(self.queue.mbufs.as_mut_ptr(), self.len as u32) };
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
    /// Buffers taken from the pool and not yet written: the front `stash_len` of both arrays.
    stash: Box<[*mut c_void; STASH_LEN]>,
    stash_data: Box<[*mut u8; STASH_LEN]>,
    stash_len: usize,
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
            stash: Box::new([ptr::null_mut(); STASH_LEN]),
            stash_data: Box::new([ptr::null_mut(); STASH_LEN]),
            stash_len: 0,
            mbufs: vec![ptr::null_mut(); 2 * pending_max].into(),
            frames: vec![sys::TxFrame::default(); 2 * pending_max].into(),
            head: 0,
            tail: 0,
            ready: 0,
            refused: 0,
            gate: port.gate(),
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
        if self.stash_len == 0 && !self.restock() {
            return false;
        }
        let top = self.stash_len - 1;
        // SAFETY: the stash's front holds mbufs that this queue owns, with their data's start; each has room for
        // `frame_bytes_max` bytes. The memory was mapped zeroed, so it is initialized, and nothing else refers to it.
        fill(unsafe { slice::from_raw_parts_mut(self.stash_data[top], len) });
        // Only now, so that a panic in `fill` leaves the buffer in the stash.
        self.stash_len = top;

        if self.tail == self.mbufs.len() {
            self.mbufs.copy_within(self.head.., 0);
            self.frames.copy_within(self.head.., 0);
            self.tail -= self.head;
            self.head = 0;
        }
        let (kind, l2_len) = match offload {
            TxOffload::UdpV4 { l2_len } if self.port.tx_checksum() => (sys::TX_UDP_V4, l2_len),
            TxOffload::UdpV6 { l2_len } if self.port.tx_checksum() => (sys::TX_UDP_V6, l2_len),
            _ => (sys::TX_PLAIN, 0),
        };
        self.mbufs[self.tail] = self.stash[top];
        // `frame_bytes_max` comes from a 16-bit number.
        self.frames[self.tail] = sys::TxFrame { len: len as u16, kind, l2_len };
        self.tail += 1;
        true
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

    #[cold]
    fn restock(&mut self) -> bool {
        let pool = self.pool().as_ptr();
        // A nearly empty pool may still have one buffer.
        self.stash_len = [STASH_LEN, 1]
            .into_iter()
            .find(|&len| {
                // SAFETY: the pool lives as long as the port, and both arrays have room for `len`.
                let code = unsafe {
                    sys::stoq_tx_alloc(
                        pool,
                        self.stash.as_mut_ptr(),
                        self.stash_data.as_mut_ptr(),
                        len as u32,
                    )
                };
                code == 0
            })
            .unwrap_or(0);
        self.stash_len > 0
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.drop_pending();
        // SAFETY: the stash's front holds mbufs that this queue owns; it is gone after this.
        unsafe { sys::stoq_free(self.stash.as_mut_ptr(), self.stash_len as u32) };
    }
}

//! The exception path (as DPDK calls it): packets for this host that STOQ does not use go to the kernel, and the kernel's packets leave by the port.
//!
//! Two rings join the workers with the thread that has the kernel's interface: no worker waits for the kernel, and no lock is taken.

use crate::limits::EXCEPTION_RING_LEN;
use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The rings of one host, for all workers.
#[derive(Debug)]
pub struct ExceptionPath {
    to_kernel: ArrayQueue<Box<[u8]>>,
    from_kernel: ArrayQueue<Box<[u8]>>,
    event: OwnedFd,
    full: AtomicU64,
    refused: AtomicU64,
}

impl ExceptionPath {
    /// Empty rings.
    ///
    /// # Errors
    /// The system's, without a file descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            to_kernel: ArrayQueue::new(EXCEPTION_RING_LEN),
            from_kernel: ArrayQueue::new(EXCEPTION_RING_LEN),
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            full: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Gives a packet to the kernel. Returns false where only `kept` places or fewer are left: they are for others.
    pub(crate) fn give(&self, packet: &[u8], kept: usize) -> bool {
        let given =
            self.to_kernel.len() + kept < EXCEPTION_RING_LEN && self.to_kernel.push(packet.into()).is_ok();
        // Without room, the packets before it have made the event readable.
        if given {
            self.wake();
        }
        given
    }

    /// Whether a packet of the kernel waits for the wire.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        !self.from_kernel.is_empty()
    }

    /// The kernel's next packet for the wire.
    pub(crate) fn take(&self) -> Option<Box<[u8]>> {
        self.from_kernel.pop()
    }

    /// Readable once there is a packet for the kernel, or [`ExceptionPath::wake`] was called.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the event readable.
    pub fn wake(&self) {
        // It fails only where the event is readable already.
        let _ = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Makes the event unreadable until the next packet. Packets that came before are to be taken after it.
    pub fn clear(&self) {
        let _ = read(&self.event, &mut [0; 8]);
    }

    /// The next packet for the kernel.
    pub fn receive(&self) -> Option<Box<[u8]>> {
        self.to_kernel.pop()
    }

    /// Queues a packet of the kernel for the wire. One without room is dropped and counted.
    pub fn send(&self, packet: &[u8]) {
        if self.from_kernel.push(packet.into()).is_err() {
            self.full.fetch_add(1, Relaxed);
        }
    }

    /// Counts a packet that the kernel did not take.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Packets of the kernel that found no room.
    pub fn full(&self) -> u64 {
        self.full.load(Relaxed)
    }

    /// Packets that the kernel did not take.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

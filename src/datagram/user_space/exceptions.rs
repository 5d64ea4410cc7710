//! A queue's end of the exception path: refused frames go to the kernel, at a bounded rate.

use crate::counters::Counter;
use crate::datagram::exception_path::ExceptionPath;
use crate::limits::{EXCEPTION_RING_LEN, EXCEPTIONS_BURST, EXCEPTIONS_PER_S};
use crate::neighbor::route::IpRoutes;
use crate::token_bucket::TokenBucket;
use crate::wire::{Station, WireError};
use std::sync::Arc;
use std::time::Instant;

/// The queue by which the kernel's packets leave: one of all queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPackets {
    /// This one.
    LeaveHere,
    /// Another one.
    LeaveElsewhere,
}

/// A queue's end of the exception path.
pub(super) struct Exceptions {
    path: Arc<ExceptionPath>,
    /// The bounds on each [`PacketOrigin`].
    buckets: [TokenBucket; KEPT.len()],
    kernel_packets: KernelPackets,
}

/// The certainty that a packet is of a neighbor, the highest first. A flood of one kind leaves the others their rate, and the higher ones room in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PacketOrigin {
    /// Only a neighbor can have sent it: BFD, and BGP with TTL security (RFC 5082).
    Neighbor,
    /// A neighbor's address sent it: a router lets no other host use its own.
    NeighborsAddress,
    /// Any other host.
    Elsewhere,
}

/// The places in the ring that each origin leaves to those before it.
const KEPT: [usize; 3] = [0, EXCEPTION_RING_LEN / 4, EXCEPTION_RING_LEN / 2];

impl Exceptions {
    pub(super) fn new(path: Arc<ExceptionPath>, kernel_packets: KernelPackets) -> Self {
        let buckets = KEPT.map(|_| TokenBucket::new(EXCEPTIONS_PER_S, EXCEPTIONS_BURST));
        Self { path, buckets, kernel_packets }
    }

    /// The rings, if packets of the kernel wait to leave by this queue.
    #[inline]
    pub(super) fn waiting(&self) -> Option<Arc<ExceptionPath>> {
        let leaves = self.kernel_packets == KernelPackets::LeaveHere && self.path.has_waiting();
        leaves.then(|| self.path.clone())
    }

    /// Gives the kernel the packet of a frame that was refused for `error`, if it is one for this host.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        station: &Station,
        routes: &IpRoutes,
        (frame, error): (&[u8], WireError),
    ) -> Option<Counter> {
        // The others are no frames that a host may act on.
        let may_be =
            matches!(error, WireError::Unwanted | WireError::Port | WireError::Fragment | WireError::Foreign);
        let packet = may_be.then(|| station.exception(frame)).flatten()?;
        let origin = if packet.is_of_neighbor {
            PacketOrigin::Neighbor
        } else if routes.is_neighbor(packet.source) {
            PacketOrigin::NeighborsAddress
        } else {
            PacketOrigin::Elsewhere
        };
        let origin = origin as usize;
        let given = self.buckets[origin].take(now) && self.path.give(packet.packet, KEPT[origin]);
        Some(if given { Counter::ExceptionsIn } else { Counter::DropExceptionLimited })
    }
}

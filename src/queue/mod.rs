//! The bounded lock-free rings between workers and applications, and their contents.
//!
//! An application has one pair of rings with each worker: deliveries toward it, commands away from it. Both are bounded. While a
//! delivery ring is full, the worker stops reading streams, and QUIC flow control stops the sender. While a command ring is full or
//! credit is spent, the application waits. Neither direction drops anything.

mod close;
mod message;
mod port;
mod waking;

pub use close::CloseReason;
pub use message::{
    Answer, Ask, Command, ConnectionCommand, ConnectionEvent, Delivery, End, Ending, Forward, PeerRequest,
};
pub use port::{AppPort, WorkerPort, rings};
pub use waking::{Sleeper, Waker};

use crate::limits::{OUTSTANDING_BYTES_MAX, RELAY_WINDOW_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// A connection, by the worker that owns it. An ID is not reused while the process lives, short of 2^32 reuses of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The worker that owns the connection.
    pub worker: u16,
    /// Its place in that worker's table.
    pub slot: u32,
    /// A number that differs from those of earlier connections in the same place.
    pub generation: u32,
}

/// A request on a connection: one bidirectional stream. An application gets the IDs of its own requests from its
/// [`Outbox`](crate::application::Outbox).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The connection.
    pub connection: ConnectionId,
    opener: Opener,
    /// The QUIC stream ID of a peer's request; the application's count of its own requests.
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Opener {
    Peer,
    Application,
}

impl RequestId {
    /// The peer's request on this stream.
    pub(crate) fn peer(connection: ConnectionId, stream: u64) -> Self {
        Self { connection, opener: Opener::Peer, number: stream }
    }

    /// A request that this side opens: number `n` of its application.
    pub(crate) fn local(connection: ConnectionId, n: u64) -> Self {
        Self { connection, opener: Opener::Application, number: n }
    }

    /// Whether this side opened the request.
    pub fn is_local(self) -> bool {
        self.opener == Opener::Application
    }

    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

/// The bytes that an application has outstanding in one direction: given to the worker, and not yet taken by QUIC.
///
/// The application adds bytes when it sends them, and the worker subtracts them when QUIC has taken them. Credit bounds the bytes that
/// wait inside the worker for one slow peer: the command ring never has to stop for it.
#[derive(Clone, Debug, Default)]
pub struct Credit(Arc<AtomicIsize>);

impl Credit {
    /// Whether another send is allowed now.
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < OUTSTANDING_BYTES_MAX as isize
    }

    /// Whether a relay may read on for this direction: its bound of the bytes held of one stream.
    pub(crate) fn has_relay_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < RELAY_WINDOW_BYTES as isize
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes as isize, Ordering::AcqRel);
    }

    /// Subtracts bytes. Returns whether the first half is free again: time to wake an application that waits for credit.
    pub fn give_back(&self, bytes: usize) -> bool {
        const HALF: isize = OUTSTANDING_BYTES_MAX as isize / 2;
        let before = self.0.fetch_sub(bytes as isize, Ordering::AcqRel);
        before >= HALF && before - (bytes as isize) < HALF
    }

    /// Ends the credit: its connection has ended. Later bytes are dropped, and no application may wait for their credit.
    pub(crate) fn end(&self) {
        self.0.store(isize::MIN / 2, Ordering::Release);
    }
}

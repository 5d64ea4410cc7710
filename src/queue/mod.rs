//! The bounded lock-free rings between workers and applications, and what travels on them.
//!
//! An application has one pair of rings a worker: deliveries toward it, commands away from it. Both are bounded. A full
//! delivery ring makes the worker stop reading streams, so QUIC flow control stops the sender; a full command ring or
//! spent credit makes the application wait. Nothing on either way is dropped.

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

/// A connection, by the worker that owns it. Never reused while the process lives, short of 2^32 reuses of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The worker that owns the connection.
    pub worker: u16,
    /// Its place in that worker's table.
    pub slot: u32,
    /// Tells this connection from earlier ones in the same place.
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

    /// A request that this side opens: its application's `n`th.
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

/// How many bytes an application has outstanding on one way out: given to the worker, not yet taken by QUIC.
///
/// The application adds when it sends, the worker subtracts when QUIC has taken the bytes. It bounds what waits inside the
/// worker for one slow peer, so that the command ring never has to stop for it.
#[derive(Clone, Debug, Default)]
pub struct Credit(Arc<AtomicIsize>);

impl Credit {
    /// Whether another send is allowed now.
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < OUTSTANDING_BYTES_MAX as isize
    }

    /// Whether a relay may read on for this way out: the bound of what it holds of one stream.
    pub(crate) fn has_relay_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < RELAY_WINDOW_BYTES as isize
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes as isize, Ordering::AcqRel);
    }

    /// Returns whether that made the first half free again: time to wake an application that waits for credit.
    pub fn give_back(&self, bytes: usize) -> bool {
        const HALF: isize = OUTSTANDING_BYTES_MAX as isize / 2;
        let before = self.0.fetch_sub(bytes as isize, Ordering::AcqRel);
        before >= HALF && before - (bytes as isize) < HALF
    }

    /// Its connection is gone: what is still sent goes nowhere, and nobody may wait for it to come back.
    pub(crate) fn end(&self) {
        self.0.store(isize::MIN / 2, Ordering::Release);
    }
}

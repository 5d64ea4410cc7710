//! The bounded lock-free rings between workers and applications, and their contents.
//!
//! An application has one pair of rings with each worker: deliveries toward it, commands away from it. Both are bounded. While a
//! delivery ring is full, the worker stops reading streams, and QUIC flow control stops the sender. While a command ring is full or
//! credit is spent, the application waits. Neither direction drops anything.

mod close;
mod group_checks;
mod message;
mod port;
mod silence;
mod waking;

pub use close::CloseReason;
pub(crate) use group_checks::GroupsFound;
pub use group_checks::{GroupCheck, GroupCheckQueue, GroupChecks, check_rings};
pub(crate) use message::application_failed;
pub use message::{
    Answer, Ask, Command, ConnectionCommand, ConnectionEvent, Delivery, End, Ending, Forward, PeerRequest,
};
pub use port::{AppPort, WorkerPort, rings};
pub use silence::{PeerSilence, PeerWait};
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
pub struct Credit(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    bytes: AtomicIsize,
    /// Of an account that several share: their bound. Otherwise unused.
    bytes_max: AtomicIsize,
    /// The account that several on the connection share, and that these bytes are a part of: of its answers, or of its requests to other
    /// gateways.
    all: Option<Credit>,
}

impl Drop for Account {
    /// Bytes that were dropped with their stream are no longer outstanding.
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            all.0.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
        }
    }
}

impl Credit {
    /// An account for several on a connection.
    pub(crate) fn shared(bytes_max: usize) -> Self {
        let all = Self::default();
        all.set_bytes_max(bytes_max);
        all
    }

    /// Changes the bound of all of them, at most [`crate::limits::ANSWERS_BYTES_MAX`].
    pub(crate) fn set_bytes_max(&self, bytes_max: usize) {
        self.0.bytes_max.store(bytes_max as isize, Ordering::Release);
    }

    /// Credit for one of several on a connection, such as its answers: together they have at most the bytes of [`Credit::shared`] outstanding, and
    /// one has at most as much as all of them leave. So an answer that is not read leaves room for the next one.
    pub(crate) fn within(all: &Self) -> Self {
        let (bytes, bytes_max) = (AtomicIsize::new(0), AtomicIsize::new(0));
        Self(Arc::new(Account { bytes, bytes_max, all: Some(all.clone()) }))
    }

    fn bytes(&self) -> isize {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// The bytes outstanding.
    pub(crate) fn outstanding_bytes(&self) -> usize {
        self.bytes().max(0) as usize
    }

    fn bytes_max(&self) -> isize {
        self.0.bytes_max.load(Ordering::Acquire)
    }

    fn has_room_below(&self, bytes_max: usize) -> bool {
        let own = self.bytes();
        let left = || self.0.all.as_ref().is_none_or(|all| own < all.bytes_max() - all.bytes());
        own < bytes_max as isize && left()
    }

    /// Whether another send is allowed now.
    pub fn has_room(&self) -> bool {
        self.has_room_below(OUTSTANDING_BYTES_MAX)
    }

    /// Whether a relay may read on for this direction: its bound of the bytes held of one stream.
    pub(crate) fn has_relay_room(&self) -> bool {
        self.has_room_below(RELAY_WINDOW_BYTES)
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as isize, Ordering::AcqRel);
        if let Some(all) = &self.0.all {
            all.take(bytes);
        }
    }

    /// Subtracts bytes. Returns whether it is time to wake an application that waits for credit: the first half is free again, or a part of
    /// what several share.
    pub fn give_back(&self, bytes: usize) -> bool {
        const HALF: isize = OUTSTANDING_BYTES_MAX as isize / 2;
        let bytes = bytes as isize;
        let before = self.0.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let part_is_free = self.0.all.as_ref().is_some_and(|all| {
            let before = all.0.bytes.fetch_sub(bytes, Ordering::AcqRel);
            let part = (all.bytes_max() / 16).max(1);
            before / part != (before - bytes) / part
        });
        part_is_free || (before >= HALF && before - bytes < HALF)
    }

    /// Ends the credit: its connection has ended. Later bytes are dropped, and no application may wait for their credit.
    pub(crate) fn end(&self) {
        self.0.bytes.store(isize::MIN / 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{ANSWERS_BYTES_MAX, ANSWERS_BYTES_MIN};

    /// Takes as much as it may; returns the number of bytes.
    fn fill(credit: &Credit) -> usize {
        const EACH: usize = 1 << 16;
        std::iter::from_fn(|| credit.has_room().then(|| credit.take(EACH))).count() * EACH
    }

    #[test]
    fn answers_that_are_not_read_share_one_bound_and_leave_room_for_the_next_one() {
        let all = Credit::shared(ANSWERS_BYTES_MAX);
        let answers: Vec<Credit> = (0..256).map(|_| Credit::within(&all)).collect();
        let taken: Vec<usize> = answers.iter().map(fill).collect();
        assert_eq!(taken[..2], [OUTSTANDING_BYTES_MAX; 2]);
        assert!(taken[..8].windows(2).all(|pair| pair[0] >= pair[1] && pair[1] > 0), "{taken:?}");
        let sum: usize = taken.iter().sum();
        assert!(sum <= ANSWERS_BYTES_MAX + (1 << 16), "{sum} bytes are outstanding");
        // A stream that ends gives back what was dropped with it, and what QUIC took is free for the others.
        drop(answers.into_iter().skip(1).collect::<Vec<_>>());
        let next = Credit::within(&all);
        assert_eq!(fill(&next), OUTSTANDING_BYTES_MAX);
        assert!(next.give_back(OUTSTANDING_BYTES_MAX), "an application that waits is woken");
        drop(next);
        assert_eq!(all.bytes(), 0);
        all.set_bytes_max(ANSWERS_BYTES_MIN);
        let [one, other] = [Credit::within(&all), Credit::within(&all)];
        let taken = fill(&one) + fill(&other);
        assert!(taken <= ANSWERS_BYTES_MIN && taken > ANSWERS_BYTES_MIN / 2, "{taken}");
        assert!(
            one.give_back(ANSWERS_BYTES_MIN / 4),
            "an application that waits for a small bound is woken too"
        );
    }
}

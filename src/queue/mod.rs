//! The bounded lock-free rings between workers and applications, and their contents.
//!
//! An application has one pair of rings with each worker: deliveries toward it, commands away from it. Both are bounded. While a
//! delivery ring is full, the worker stops reading streams, and QUIC flow control stops the sender. While a command ring is full or
//! credit is spent, the application waits. Neither direction drops anything.

mod charge;
mod close;
mod credit;
mod group_checks;
mod message;
mod port;
mod silence;
mod waking;

pub use charge::Charge;
pub use close::CloseReason;
pub use credit::Credit;
pub(crate) use group_checks::GroupsFound;
pub use group_checks::{GroupCheck, GroupCheckQueue, GroupChecks, check_rings};
pub(crate) use message::application_failed;
pub use message::{
    Answer, Ask, Command, ConnectionCommand, ConnectionEvent, Delivery, End, Ending, Forward, PeerRequest,
};
pub use port::{AppPort, WorkerPort, rings};
pub use silence::{PeerSilence, PeerWait};
pub use waking::{Sleeper, Waker};

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
    /// No connection carries it.
    Nobody,
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

    /// What an application does of its own accord, as if it were asked: number `n`.
    pub(crate) fn own(n: u64) -> Self {
        let connection = ConnectionId { worker: u16::MAX, slot: u32::MAX, generation: u32::MAX };
        Self { connection, opener: Opener::Nobody, number: n }
    }

    /// Whether no peer asked for it.
    pub(crate) fn is_own(self) -> bool {
        self.opener == Opener::Nobody
    }

    /// Whether this side opened the request.
    pub fn is_local(self) -> bool {
        self.opener == Opener::Application
    }

    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{ANSWERS_BYTES_MAX, ANSWERS_BYTES_MIN, OUTSTANDING_BYTES_MAX};

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
        assert_eq!(all.outstanding_bytes(), 0);
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

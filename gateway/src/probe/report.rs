//! How wide a probe is, and what it reports.

use std::time::Duration;
use stoq::client::ClientError;
use stoq::hop::RouteError;
use stoq::record::ErrorCode;

/// What a probe reports.
#[derive(Debug)]
pub enum Report {
    /// The first connection is up.
    Reached,
    /// All connections are up.
    Connected,
    /// One round trip.
    RoundTrip(Duration),
    /// The time of each request, before the goodput of all.
    RoundTrips(Vec<Duration>),
    /// All bytes have arrived: at the peer's application, by its own count, or at this node.
    Goodput {
        /// Payload bytes.
        bytes: u64,
        /// Messages, or requests.
        messages: u64,
        /// From the first request or message on any connection to the last answer.
        elapsed: Duration,
    },
    /// The words of the peer's application about a payload that it dropped.
    Dropped(String),
    /// The probe ended early.
    Failed(ProbeError),
}

/// Why a probe ended early.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The error of a client that makes the same connection or request.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A payload was put to a queue whose application keeps it.
    #[error("queue {0} keeps payloads: give a queue of a discard application")]
    Keeps(u64),
    /// A payload was put to a queue whose application drops it.
    #[error("queue {0} drops payloads: give a queue of a seed application that keeps them")]
    Drops(u64),
    /// The peer does not take this client's messages on a queue.
    #[error(
        "not authorized: right messages is not given to this peer for queue {0}; have the gateway's operator add the queue in [[rights]]"
    )]
    Unallowed(u64),
    /// The peer takes no messages on a queue.
    #[error(
        "the gateway takes no messages on queue {queue} ({}): name a queue of its {kind} application, or add one to its \
         configuration: [[application]] kind = \"{kind}\", queues = [{queue}]",
        .code.name()
    )]
    Untaken {
        /// The queue.
        queue: u64,
        /// The peer's code.
        code: ErrorCode,
        /// The kind of application that the probe needs.
        kind: &'static str,
    },
}

impl From<RouteError> for ProbeError {
    fn from(error: RouteError) -> Self {
        ClientError::from(error).into()
    }
}

/// How wide a probe is.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// Connections of this worker; at 0 the probe does nothing.
    pub connections: usize,
    /// Concurrent streams on each connection.
    pub streams: usize,
}

impl Width {
    /// One stream on one connection.
    pub const ONE: Self = Self { connections: 1, streams: 1 };

    /// Concurrent streams on all connections together.
    pub fn total_streams(self) -> usize {
        self.connections * self.streams
    }
}

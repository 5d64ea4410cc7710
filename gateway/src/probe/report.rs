//! What a probe is told and what it reports.

use std::time::Duration;

/// What a probe reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All connections are up.
    Connected,
    /// One round trip.
    RoundTrip(Duration),
    /// All bytes have arrived: at the far application, by its own count, or here.
    Goodput {
        /// Payload bytes.
        bytes: u64,
        /// Messages, or requests.
        messages: u64,
        /// From the first byte's sending, on whichever connection, to the last answer.
        elapsed: Duration,
    },
    /// What the far application says of a payload that it did not keep.
    Dropped(String),
    /// The probe is over before its end.
    Failed(String),
}

/// How wide a probe is.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// Connections of this worker; with none the probe does nothing.
    pub connections: usize,
    /// Streams at once on each.
    pub streams: usize,
}

impl Width {
    /// One stream on one connection.
    pub const ONE: Self = Self { connections: 1, streams: 1 };

    /// Streams on all connections.
    pub fn total_streams(self) -> usize {
        self.connections * self.streams
    }
}

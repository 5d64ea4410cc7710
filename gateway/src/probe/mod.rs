//! Applications that measure a gateway from its client's side: the round trip of a small message, the goodput of messages, of
//! payloads put and of payloads fetched, over one connection or many. They run on the worker's own thread, so that what they
//! show is the transport and not the scheduler.

mod blast;
mod links;
mod ping;
mod pull;
mod push;

pub use blast::Blast;
pub use links::Remotes;
pub use ping::Ping;
pub use pull::{Pull, Pulled};
pub use push::Push;

use links::Links;
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

//! A peer that does not go on with a request.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A request on which no byte moved for too long, though the peer was to go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{remote} {wait}: no byte of the request has moved for {} s; the gateway is overloaded or out of order: try again, ask another \
     gateway, or let it be silent for longer by --timeout",
    .limit.as_secs_f32()
)]
pub struct PeerSilence {
    /// The peer.
    pub remote: SocketAddr,
    /// What the peer owes.
    pub wait: PeerWait,
    /// The time in which no byte moved.
    pub limit: Duration,
}

/// What a peer owes on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerWait {
    /// Room for one more request.
    Place,
    /// Any answer.
    Answer,
    /// The rest of its answer.
    Rest,
    /// Room for more bytes of a payload.
    Room,
    /// DONE, for a payload that it has whole.
    Done,
}

impl fmt::Display for PeerWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Place => "takes no further request",
            Self::Answer => "has not answered",
            Self::Rest => "has stopped in the middle of its answer",
            Self::Room => "takes no more bytes of the payload",
            Self::Done => "was sent the whole payload and does not confirm it",
        })
    }
}

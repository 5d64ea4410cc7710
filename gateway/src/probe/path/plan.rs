//! What a measurement does, and what it tells meanwhile.

use std::time::{Duration, Instant};

/// How much a probe does, and with which of the gateway's applications.
#[derive(Clone, Debug)]
pub struct PathPlan {
    /// The queue of the gateway's echo application.
    pub echo_queue: u64,
    /// The queue of its discard application.
    pub discard_queue: u64,
    /// How long round trips are measured without load, at most.
    pub idle: Duration,
    /// How long each way is loaded, at most.
    pub load: Duration,
    /// Payload bytes that are sent each way, at most.
    pub bytes_max: u64,
    /// How long an answer may take.
    pub patience: Duration,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPhase {
    /// Round trips alone.
    Idle,
    /// Messages to the discard application.
    Forth,
    /// Messages to the echo application.
    Back,
}

/// What a probe finds, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// The connections are up.
    Connected {
        /// The one that carries the load forth, as in [`stoq::worker::ConnectionView::slot`].
        forth_slot: u32,
        /// The one that carries the load back.
        back_slot: u32,
    },
    /// A phase begins.
    Began(PathPhase, Instant),
    /// A round trip of a small message on a connection of its own.
    RoundTrip(PathPhase, Duration),
    /// The bytes of the phase that have arrived by now: at the gateway as it says, or here.
    Arrived(PathPhase, Instant, u64),
    /// The load of a phase has ended.
    Ended(PathPhase, Instant),
    /// All phases are over.
    Over,
    /// The measurement ended early, for this reason.
    Failed(String),
}

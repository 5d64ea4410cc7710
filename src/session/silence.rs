//! How long a peer that this side connected to may be silent, and how long it has been. `looks.rs` tells.

use crate::limits::SETTINGS_MS_MAX;
use std::time::{Duration, Instant};

/// How long a peer may be silent on a connection that this side opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilenceLimits {
    /// Until its SETTINGS; then the connection is closed. `None`: no bound.
    pub settings: Option<Duration>,
    /// While requests wait for it and no byte of any of them moves; then these requests end with [`crate::queue::End::Silent`]. `None`: no bound.
    pub requests: Option<Duration>,
}

impl Default for SilenceLimits {
    /// A bound for SETTINGS alone: what a gateway asks of others has bounds of its own, or of the asker.
    fn default() -> Self {
        Self { settings: Some(Duration::from_millis(SETTINGS_MS_MAX)), requests: None }
    }
}

/// The silence of one peer.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The time of the last look.
    pub(super) looked: Option<Instant>,
    /// How long it has sent no SETTINGS.
    pub(super) settings: Duration,
    /// How long no byte of a request has moved.
    pub(super) requests: Duration,
    /// Requests of this side's that were made or have ended since the last look.
    pub(super) changes: u32,
    /// STREAM frames sent by then.
    pub(super) frames: u64,
}

/// How far a request of ours was at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestProgress {
    /// The bytes read of its answer, and the streams and bytes that are left of its own half.
    pub(super) mark: (u64, u32, u64),
    /// How long it has been there. Of a peer's stream: how long its first record is not whole.
    pub(super) still: Duration,
}

//! Accepted connections whose peers have not sent SETTINGS: the time for it is bounded. `silence.rs` has the time of peers that this side
//! connected to.
//!
//! A half of a stream that is longer than a part waits for the peer's SETTINGS (protocol §4). A peer that never sends them would hold answers,
//! their files and their credit as long as its connection lives.

use super::Core;
use crate::counters::Counter;
use crate::limits::ACCEPTED_SETTINGS_MS_MAX;
use crate::peer_text::PeerText;
use crate::queue::{CloseReason, ConnectionId};
use crate::record::ErrorCode;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The text of the CONNECTION_CLOSE.
const TEXT: &str = "no SETTINGS came after the handshake; send them first on CONTROL";

/// A worker's connections whose handshakes were completed lately, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Unsettled(VecDeque<(Instant, ConnectionId)>);

impl Unsettled {
    /// A handshake was completed.
    pub(super) fn begin(&mut self, id: ConnectionId, now: Instant) {
        self.0.push_back((now + Duration::from_millis(ACCEPTED_SETTINGS_MS_MAX), id));
    }

    /// When [`Unsettled::due`] has a connection.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.front().map(|(due, _)| *due)
    }

    /// The next connection whose time is over.
    fn due(&mut self, now: Instant) -> Option<ConnectionId> {
        self.0.pop_front_if(|(due, _)| *due <= now).map(|(_, id)| id)
    }
}

impl Core {
    /// Closes the connections whose peers have sent no SETTINGS in their time.
    pub(super) fn end_unsettled(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while let Some(id) = self.unsettled.due(now) {
            worked = true;
            let Some(mut conn) = self.connections.of(id) else { continue };
            if !conn.phase.is_open() || conn.session.has_settings() {
                continue;
            }
            let mut cx = self.desk.cx(now);
            cx.counters.add(Counter::SettingsTimedOut, 1);
            let reason = CloseReason::Fault { code: ErrorCode::Malformed, text: PeerText::from(TEXT) };
            conn.session.closed(&reason, &mut cx);
            conn.close(now, ErrorCode::Malformed, Bytes::from_static(TEXT.as_bytes()));
            conn.touched();
        }
        worked
    }
}

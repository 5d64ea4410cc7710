//! A peer that this side connected to, and that says nothing: no SETTINGS, or no byte of any request that waits for it.
//!
//! The worker looks about once a second. Only looks count: a time in which this process did not run is none. A request whose consumer here
//! has no room waits for that, not for the peer, and so does a PUT whose next bytes this side has not given.
//!
//! The peer may let requests wait while it goes on with others of the connection. A request therefore counts as going on while any of
//! them does, up to [`REQUEST_TURN_MS_MAX`].
//!
//! A look also tells whether answers wait for the peer, and refuses the peer's own requests that do not become whole.

use super::fault::Fault;
use super::silence::{RequestProgress, SilenceLimits};
use super::stream::{Queued, Readiness, Role, Sending, Stream};
use super::{Context, Session};
use crate::counters::Counter;
use crate::limits::{REQUEST_BEGUN_MS_MAX, REQUEST_TURN_MS_MAX, SURVEY_INTERVAL_MS};
use crate::queue::{CloseReason, Delivery, End, PeerSilence, PeerWait, WorkerPort};
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::{Connection, StreamId};
use std::time::Duration;

/// The most that one look counts.
const LOOK_MAX: Duration = Duration::from_millis(2 * SURVEY_INTERVAL_MS);

impl Stream {
    /// Whether it is a request of the peer with bytes of an answer that the peer has not acknowledged, as far as QUIC tells.
    fn answer_waits(&self) -> bool {
        self.role.is_peer_request()
            && match &self.send {
                Sending::Open(outbound) => outbound.waits(),
                Sending::Finished => self.unacknowledged > 0,
                Sending::Over => false,
            }
    }

    /// Whether the peer has begun a stream with less than a first record, all of which was read. What waits for a consumer here is not the peer's.
    fn is_begun(&self) -> bool {
        let lacks_record = match &self.role {
            Role::Opening(_) => true,
            Role::Serving(serving) => serving.is_opening(),
            Role::Relayed(relayed) => relayed.is_opening(),
            _ => false,
        };
        // One that was refused is read no more, and stays until the peer acknowledges that.
        lacks_record && self.recv.is_some() && self.queued == Queued::No
    }

    /// What its peer owes, if this is a request of ours that waits for the peer.
    fn owed(&self, ports: &[WorkerPort]) -> Option<PeerWait> {
        self.role.local_request()?;
        match self.readiness(ports) {
            Readiness::Paused | Readiness::Full | Readiness::Done => return None,
            Readiness::Wants | Readiness::Blocked => {}
        }
        match &self.role {
            Role::Asking(asking) => asking.owed(&self.send),
            _ => Some(PeerWait::Rest),
        }
    }

    /// Whether QUIC has not sent all that this side wrote, or the peer has not acknowledged it.
    fn is_sending(&self) -> bool {
        match &self.send {
            Sending::Over => false,
            Sending::Open(outbound) => outbound.waits(),
            Sending::Finished => true,
        }
    }

    /// Notes how far it is; returns whether it has moved since the last look.
    fn has_moved(&mut self, elapsed: Duration) -> bool {
        let left = match &self.send {
            Sending::Open(outbound) => outbound.left_bytes(),
            _ => 0,
        };
        let mark = (self.order.offset(), self.unacknowledged, left);
        let has_moved = mark != self.progress.mark;
        let still = if has_moved { Duration::ZERO } else { self.progress.still + elapsed };
        self.progress = RequestProgress { mark, still };
        has_moved
    }
}

impl Session {
    /// Whether bytes of an answer wait for the peer.
    pub(crate) fn answers_wait(&self) -> bool {
        self.streams.values().any(Stream::answer_waits)
    }

    /// Refuses the peer's requests, and stops its other streams, whose first record has not become whole in [`REQUEST_BEGUN_MS_MAX`]. Bytes that
    /// arrive one by one give no more time. While a consumer here has no room for other bytes of the connection, credit may be what is missing: this
    /// time does not count. Returns whether a later look may refuse one.
    pub(crate) fn refuse_begun(&mut self, conn: &mut Connection, cx: &mut Context<'_>) -> bool {
        let is_paused = self.streams.values().any(|stream| stream.queued == Queued::Paused);
        let look = if is_paused { Duration::ZERO } else { Duration::from_millis(SURVEY_INTERVAL_MS) };
        let limit = Duration::from_millis(REQUEST_BEGUN_MS_MAX);
        let mut waits = false;
        let begun = self.streams.iter_mut().filter(|(_, stream)| stream.is_begun());
        let late = begun.filter_map(|(&id, stream)| {
            waits = true;
            stream.progress.still += look;
            (stream.progress.still > limit).then_some(id)
        });
        for id in late.collect::<Vec<_>>() {
            cx.counters.add(Counter::RecordsTimedOut, 1);
            let reason = format!(
                "its first record was not whole after {} s; send it again at once",
                REQUEST_BEGUN_MS_MAX / 1000
            );
            self.fault(conn, id, Fault::new(ErrorCode::Busy, reason), cx);
        }
        waits
    }

    /// Looks at a peer that this side connected to. Returns whether silence may end the connection or a request of it at a later look.
    pub(crate) fn look_for_silence(
        &mut self,
        conn: &mut Connection,
        limits: SilenceLimits,
        cx: &mut Context<'_>,
    ) -> bool {
        let looked = self.silence.looked.replace(cx.now).unwrap_or(cx.now);
        let elapsed = cx.now.saturating_duration_since(looked).min(LOOK_MAX);
        if self.control_out.is_none() || self.closed_told || conn.is_closed() {
            return false;
        }
        let lacks_settings = limits.settings.filter(|_| self.peer.settings.is_none());
        if let Some(limit) = lacks_settings {
            self.silence.settings += elapsed;
            if self.silence.settings >= limit {
                self.closed(&CloseReason::NoSettings(limit), cx);
                conn.close(cx.now, ErrorCode::Malformed.into(), Bytes::from_static(b"no SETTINGS"));
                return false;
            }
        }
        let waits = limits.requests.is_some_and(|limit| self.look_at_requests(conn, limit, elapsed, cx));
        waits || lacks_settings.is_some()
    }

    /// Ends the requests of ours that have waited for too long. Returns whether any waits.
    fn look_at_requests(
        &mut self,
        conn: &mut Connection,
        limit: Duration,
        elapsed: Duration,
        cx: &mut Context<'_>,
    ) -> bool {
        let frames = conn.stats().frame_tx.stream;
        let sent = std::mem::replace(&mut self.silence.frames, frames) != frames;
        let mut moved = std::mem::take(&mut self.silence.changes) > 0;
        let mut waiting: Vec<(StreamId, PeerWait)> = Vec::new();
        for id in self.local.values() {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            moved |= stream.has_moved(elapsed);
            match stream.owed(cx.ports) {
                Some(wait) => {
                    // Bytes on their way are what moves. An hour of packets that are never acknowledged is no progress of a request.
                    moved |= sent && stream.is_sending();
                    waiting.push((*id, wait));
                }
                None => stream.progress.still = Duration::ZERO,
            }
        }
        let is_waiting = !waiting.is_empty() || self.unopened_requests() > 0;
        self.silence.requests =
            if moved || !is_waiting { Duration::ZERO } else { self.silence.requests + elapsed };
        let remote = conn.remote_address();
        if self.silence.requests >= limit {
            for (id, wait) in waiting {
                self.end_silent(conn, id, PeerSilence { remote, wait, limit }, cx);
            }
            self.refuse_unopened(PeerSilence { remote, wait: PeerWait::Place, limit }, cx);
            return false;
        }
        let turn = Duration::from_millis(REQUEST_TURN_MS_MAX).max(limit);
        for (id, wait) in waiting {
            if self.streams.get(&id).is_some_and(|stream| stream.progress.still >= turn) {
                self.end_silent(conn, id, PeerSilence { remote, wait, limit: turn }, cx);
            }
        }
        is_waiting
    }

    /// Cancels a request, and tells its application why.
    fn end_silent(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        silence: PeerSilence,
        cx: &mut Context<'_>,
    ) {
        self.tell(id, End::Silent(silence), cx);
        self.stop_reading(conn, id, ErrorCode::None);
        self.abort_out(conn, id, ErrorCode::None);
    }

    /// Ends the requests for which the peer allows no stream.
    fn refuse_unopened(&mut self, silence: PeerSilence, cx: &mut Context<'_>) {
        self.unopened.retain(|(app, command)| {
            if let Some(request) = command.opens() {
                cx.ports[*app].deliver(Delivery::Ended(request, End::Silent(silence)));
            }
            command.of_local().is_none()
        });
    }
}

//! What keeps a connection from sending more: noted at the end of each of its turns, as time.
//!
//! A turn ends because the device, the rate or the worker's bound ends it, which the worker knows, or because QUIC gives no more packets.
//! quinn-proto does not tell why. It is found in this order: what is in flight fills the congestion window; the last acknowledgment told
//! that QUIC was held back, which is then its own pacer; streams have bytes that QUIC does not take, which is the peer's flow control
//! if QUIC told the peer so or is still without credit, and the send window otherwise; there is nothing to send.

use super::conn::Conn;
use crate::counters::Counters;
use crate::quic::qlog::Track;
use crate::quic::release::{SenderNotes, leave_hole};
use crate::send_limit::{LimitTimes, SendLimit};
use quinn_proto::Connection;
use std::time::Instant;

/// A connection's present limit, and the time under each.
pub(super) struct LimitWatch {
    now: SendLimit,
    since: Instant,
    spent: LimitTimes,
    /// The part that the worker's totals contain already.
    counted: LimitTimes,
    sender: Option<SenderNotes>,
    /// The bytes that QUIC had taken of streams at the last look.
    given_bytes: u64,
    /// DATA_BLOCKED and STREAM_DATA_BLOCKED frames sent by then.
    blocked_frames: u64,
    /// MAX_DATA and MAX_STREAM_DATA frames received by then.
    credit_frames: u64,
    /// The peer was told of a full window, and has given no credit since.
    is_blocked: bool,
    track: Option<Track>,
}

impl LimitWatch {
    pub(super) fn new(quic: &Connection, now: Instant, track: Option<Track>) -> Self {
        Self {
            now: SendLimit::default(),
            since: now,
            spent: LimitTimes::default(),
            counted: LimitTimes::default(),
            sender: SenderNotes::of(quic),
            given_bytes: 0,
            blocked_frames: 0,
            credit_frames: 0,
            is_blocked: false,
            track,
        }
    }

    /// The present limit.
    pub(super) fn limit(&self) -> SendLimit {
        self.now
    }

    /// The time under each limit, up to now.
    pub(super) fn times(&self, now: Instant) -> LimitTimes {
        let mut times = self.spent;
        times.add(self.now, now.saturating_duration_since(self.since));
        times
    }

    /// Takes note of another controller, if the path has got one.
    pub(super) fn follow(&mut self, sender: Option<SenderNotes>) {
        self.sender = sender;
    }

    #[inline]
    fn note(&mut self, now: Instant, limit: SendLimit) {
        if limit != self.now {
            self.change(now, limit);
        }
    }

    #[inline(never)]
    fn change(&mut self, now: Instant, limit: SendLimit) {
        self.spent.add(self.now, now.saturating_duration_since(self.since));
        if let Some(track) = &mut self.track {
            track.send_limit(now, self.now, limit);
        }
        (self.now, self.since) = (limit, now);
    }
}

impl Conn {
    /// Its turn ends by the worker's own decision.
    #[inline]
    pub(super) fn limited_by(&mut self, now: Instant, limit: SendLimit) {
        if let Some(sender) = &self.limited.sender {
            sender.rest_unasked();
        }
        self.limited.note(now, limit);
    }

    /// Goes back to small packets if the path no longer carries large ones.
    #[inline]
    pub(super) fn leave_hole(&mut self, now: Instant) {
        if self.limited.sender.as_ref().is_some_and(SenderNotes::has_hole) {
            leave_hole(&mut self.quic, now);
        }
    }

    /// Its turn ends because QUIC gives no more packets.
    #[inline]
    pub(super) fn limited_by_quic(&mut self, now: Instant) {
        let (given_bytes, waits) = (self.session.given_bytes(), self.session.waits_for_quic());
        let limited = &mut self.limited;
        // What had nothing to send, and got nothing, has nothing.
        if limited.now == SendLimit::Application && given_bytes == limited.given_bytes && !waits {
            return;
        }
        limited.given_bytes = given_bytes;
        let limit = self.quic_limit(waits);
        self.limited.note(now, limit);
    }

    fn quic_limit(&mut self, waits: bool) -> SendLimit {
        if self.quic.is_handshaking() || self.quic.is_closed() {
            return SendLimit::Application;
        }
        if let Some(sender) = &self.limited.sender {
            sender.rest();
            let in_flight = sender.in_flight_bytes();
            // quinn-proto sends while a packet more stays below the window.
            if in_flight + u64::from(self.quic.current_mtu()) >= self.quic.congestion_state().window() {
                return SendLimit::Congestion;
            }
            if in_flight > 0 && sender.was_held_back() {
                return SendLimit::Pacing;
            }
        }
        match waits {
            true => self.flow_limit(),
            false if self.session.waits_for_streams() => SendLimit::Peer,
            false => SendLimit::Application,
        }
    }

    /// QUIC has sent all that it took, and takes no more.
    fn flow_limit(&mut self) -> SendLimit {
        let stats = self.quic.stats();
        let blocked_frames = stats.frame_tx.data_blocked + stats.frame_tx.stream_data_blocked;
        let credit_frames = stats.frame_rx.max_data + stats.frame_rx.max_stream_data;
        let limited = &mut self.limited;
        let is_told = std::mem::replace(&mut limited.blocked_frames, blocked_frames) != blocked_frames;
        let is_credited = std::mem::replace(&mut limited.credit_frames, credit_frames) != credit_frames;
        // Other limits may have lain between: the peer is told only once.
        limited.is_blocked = is_told || (limited.is_blocked && !is_credited);
        if limited.is_blocked { SendLimit::Peer } else { SendLimit::Window }
    }

    /// Adds to the worker's totals what it spent since the last call.
    pub(super) fn count_limits(&mut self, now: Instant, counters: &Counters) {
        let times = self.limited.times(now);
        counters.limits.add(&times.since(&self.limited.counted));
        self.limited.counted = times;
    }
}

//! How this side ends connections. A CONNECTION_CLOSE is repeated a bounded number of times until the peer answers it: if it is
//! lost, the peer waits for its whole idle timeout. A node that ends closes each connection when the device has room for the packet:
//! QUIC drops a closed connection after three PTOs, whether its CONNECTION_CLOSE was sent or not.

use super::Core;
use super::conn::Conn;
use super::phase::{Phase, SentClose};
use super::shared::{CLOSING, DRAINING};
use crate::counters::{Counter, Counters};
use crate::datagram::Network;
use crate::limits::{
    CLOSE_MS_MAX, CLOSE_REPEAT_MS, CLOSE_REPEATS_MAX, CONNECTIONS_LEN_PER_TURN_MAX, DRAIN_PASS_MS,
};
use crate::quic::release::release;
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::Transmit;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

impl Conn {
    /// Whether nothing is left to send: the peer closed as well, or the connection was lost.
    pub(super) fn is_over(&self) -> bool {
        self.phase.is_over() || self.quic.is_drained() || self.quic.stats().frame_rx.connection_close > 0
    }

    /// Called when the device has room for a packet of this connection. Closes the connection if this node ends, and sends a
    /// CONNECTION_CLOSE even if the congestion window is full.
    #[inline]
    pub(super) fn before_sending(&mut self, node_ends: bool, now: Instant) {
        if node_ends && !self.quic.is_closed() {
            self.close(now, ErrorCode::GoingAway, Bytes::from_static(b"shutting down"));
        } else if self.quic.is_closed() && self.phase.close() {
            // The session closed it.
            release(&self.quic);
        }
    }

    /// Closes the connection from this side.
    #[cold]
    pub(super) fn close(&mut self, now: Instant, code: ErrorCode, reason: Bytes) {
        self.quic.close(now, code.into(), reason);
        if self.phase.close() {
            release(&self.quic);
        }
    }

    /// Notes a datagram of this connection that was sent. A closed connection sends only its CONNECTION_CLOSE.
    #[inline]
    pub(super) fn sent(&mut self, now: Instant, transmit: &Transmit, contents: &[u8]) {
        if self.quic.is_closed() {
            self.sent_close(now, transmit, contents);
        }
    }

    #[cold]
    fn sent_close(&mut self, now: Instant, transmit: &Transmit, contents: &[u8]) {
        if self.is_over() {
            return;
        }
        let due = self.next_close(0, now);
        if let Phase::Closing { sent: sent @ None, .. } = &mut self.phase {
            let contents = contents[..transmit.size].to_vec();
            let &Transmit { destination, ecn, size, segment_size, src_ip } = transmit;
            let transmit = Transmit { destination, ecn, size, segment_size, src_ip };
            *sent = Some(Box::new(SentClose { transmit, contents, due, repeats: 0 }));
        }
    }

    /// When a CONNECTION_CLOSE that was repeated `repeats` times is due again.
    fn next_close(&self, repeats: u32, now: Instant) -> Option<Instant> {
        let wait = self.quic.rtt() + Duration::from_millis(CLOSE_REPEAT_MS);
        (repeats < CLOSE_REPEATS_MAX).then(|| now + wait)
    }

    /// When a timer of QUIC, the next paced burst or the next repetition of a CONNECTION_CLOSE is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        [self.quic.poll_timeout(), self.phase.close_due(), self.pace.due()].into_iter().flatten().min()
    }

    /// Repeats the CONNECTION_CLOSE if it is due. RFC 9000 §10.2.1: the packet may be the same.
    pub(super) fn repeat_close<N: Network>(&mut self, network: &mut N, now: Instant, counters: &Counters) {
        // Most connections return here.
        if self.phase.close_due().is_none_or(|due| due > now) {
            return;
        }
        if self.is_over() {
            self.phase.end();
        }
        if !network.can_send() {
            return;
        }
        let Some(close) = self.phase.sent_close() else { return };
        network.send(now, counters, &close.transmit, &close.contents);
        counters.add(Counter::QuicClosesRepeated, 1);
        close.repeats += 1;
        let repeats = close.repeats;
        let due = self.next_close(repeats, now);
        if let Some(close) = self.phase.sent_close() {
            close.due = due;
        }
    }
}

/// How far a worker is in ending all of its connections.
#[derive(Debug, Default)]
pub(super) struct EndProgress {
    /// The slot that a drain looks at next.
    drained: u32,
    /// When the next pass of a drain begins, if one turn does not look at all connections.
    next_pass: Option<Instant>,
    /// Requests of the connections that this pass of the drain has looked at, and how many of these were answered lately.
    requests: usize,
    lingering: usize,
    /// Whether a pass of the drain has reached the last connection.
    is_counted: bool,
    /// Before this slot, each peer knows that its connection is closed: they need no further look.
    closed: u32,
}

impl EndProgress {
    /// A connection begins in this slot.
    pub(super) fn begins(&mut self, slot: u32) {
        self.closed = self.closed.min(slot);
    }
}

impl Core {
    /// Drains after [`super::NodeShared::drain`]; called once a turn. It sends GOAWAY, and counts what the drain waits for, on a few connections
    /// in each turn. Returns whether others have their look in the next turn.
    pub(super) fn drain(&mut self, now: Instant) -> bool {
        if !self.desk.shared.is(DRAINING) {
            return false;
        }
        self.draining = true;
        let end = self.connections.slots().end;
        let from = self.ending.drained.min(end);
        if from == 0 && self.ending.next_pass.is_some_and(|due| due > now) {
            return false;
        }
        let to = (from + CONNECTIONS_LEN_PER_TURN_MAX as u32).min(end);
        for slot in from..to {
            let Some(mut conn) = self.connections.at(slot) else { continue };
            // QUIC keeps a closed connection for three PTOs, which are long after a bad path.
            if conn.quic.is_closed() {
                continue;
            }
            self.ending.requests += conn.session.requests();
            self.ending.lingering += usize::from(conn.session.answered_lately(now));
            if conn.go_away(&self.desk.cx(now)) {
                conn.touched();
            }
        }
        let is_over = to == end;
        let EndProgress { requests, lingering, is_counted, .. } = self.ending;
        let status = &self.desk.status;
        if is_over {
            status.requests.store(requests, Relaxed);
            status.lingering.store(lingering, Relaxed);
            let pause = Duration::from_millis(DRAIN_PASS_MS);
            let next_pass = (end > CONNECTIONS_LEN_PER_TURN_MAX as u32).then(|| now + pause);
            let closed = self.ending.closed;
            self.ending = EndProgress { is_counted: true, closed, next_pass, ..EndProgress::default() };
        } else {
            // Until each connection was looked at once, one of the others may have a request.
            if !is_counted {
                status.requests.store(requests + 1, Relaxed);
            }
            self.ending.drained = to;
        }
        !is_over
    }

    /// When a drain looks at the connections again.
    pub(super) fn drain_timeout(&self) -> Option<Instant> {
        self.ending.next_pass.filter(|_| self.desk.shared.is(DRAINING))
    }

    /// Closes the connections after [`super::NodeShared::close`]; called once a turn.
    pub(super) fn close_down(&mut self, now: Instant) {
        if !self.desk.shared.is(CLOSING) {
            return;
        }
        if self.close_by.is_none() {
            self.close_by = Some(now + Duration::from_millis(CLOSE_MS_MAX));
            for slot in self.connections.slots() {
                if let Some(mut conn) = self.connections.at(slot) {
                    conn.touched();
                }
            }
        }
        while self.closes_pending() && self.connections.get(self.ending.closed).is_none_or(Conn::is_over) {
            self.ending.closed += 1;
        }
    }

    /// Whether a peer may not know yet that its connection is closed, while this worker closes.
    pub(super) fn closes_pending(&self) -> bool {
        self.ending.closed < self.connections.slots().end
    }
}

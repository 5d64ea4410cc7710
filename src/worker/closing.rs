//! How this side ends connections. A CONNECTION_CLOSE is repeated a bounded number of times until the peer answers it: if it is
//! lost, the peer waits for its whole idle timeout. A node that ends closes each connection when the device has room for the packet:
//! QUIC drops a closed connection after three PTOs, whether its CONNECTION_CLOSE was sent or not.

use super::Core;
use super::conn::Conn;
use super::phase::{Phase, SentClose};
use super::shared::CLOSING;
use crate::counters::{Counter, Counters};
use crate::datagram::Network;
use crate::limits::{CLOSE_MS_MAX, CLOSE_REPEAT_MS, CLOSE_REPEATS_MAX};
use crate::quic::release::release;
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::Transmit;
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

impl Core {
    /// Closes the connections after [`super::NodeShared::close`]; called once a turn.
    pub(super) fn close_down(&mut self, now: Instant) {
        if !self.desk.shared.is(CLOSING) {
            return;
        }
        let first = self.close_by.is_none();
        self.close_by.get_or_insert(now + Duration::from_millis(CLOSE_MS_MAX));
        self.closes_pending = 0;
        for slot in self.connections.slots() {
            let Some(mut conn) = self.connections.at(slot) else { continue };
            self.closes_pending += usize::from(!conn.is_over());
            if first {
                conn.touched();
            }
        }
    }
}

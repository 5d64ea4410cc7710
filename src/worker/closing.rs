//! How this side ends connections. A CONNECTION_CLOSE is repeated a bounded number of times until the peer answers it: if it is
//! lost, the peer waits for its whole idle timeout. A node that ends closes each connection when the device has room for the packet:
//! QUIC drops a closed connection after three PTOs, whether its CONNECTION_CLOSE was sent or not.

use super::Core;
use super::conn::{Conn, SentClose};
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
        self.lost || self.quic.is_drained() || self.quic.stats().frame_rx.connection_close > 0
    }

    /// Called when the device has room for a packet of this connection. Closes the connection if this node ends, and sends a
    /// CONNECTION_CLOSE even if the congestion window is full.
    #[inline]
    pub(super) fn before_sending(&mut self, node_ends: bool, now: Instant) {
        if node_ends && !self.quic.is_closed() {
            self.quic.close(now, ErrorCode::GoingAway.into(), Bytes::from_static(b"shutting down"));
        }
        if self.quic.is_closed() && !std::mem::replace(&mut self.released, true) {
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
        if self.close.is_none() && !self.is_over() {
            let contents = contents[..transmit.size].to_vec();
            let &Transmit { destination, ecn, size, segment_size, src_ip } = transmit;
            let transmit = Transmit { destination, ecn, size, segment_size, src_ip };
            self.close = Some(SentClose { transmit, contents, due: None, repeats: 0 });
            self.schedule_close(now);
        }
    }

    fn schedule_close(&mut self, now: Instant) {
        let wait = self.quic.rtt() + Duration::from_millis(CLOSE_REPEAT_MS);
        if let Some(close) = &mut self.close {
            close.due = (close.repeats < CLOSE_REPEATS_MAX).then(|| now + wait);
        }
    }

    /// When a timer of QUIC or the next repetition of a CONNECTION_CLOSE is due.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let close = self.close.as_ref().and_then(|close| close.due);
        [self.quic.poll_timeout(), close].into_iter().flatten().min()
    }

    /// Repeats the CONNECTION_CLOSE if it is due. RFC 9000 §10.2.1: the packet may be the same.
    pub(super) fn repeat_close<N: Network>(&mut self, network: &mut N, now: Instant, counters: &Counters) {
        // Most connections return here.
        if self.close.as_ref().and_then(|close| close.due).is_none_or(|due| due > now) {
            return;
        }
        let is_over = self.is_over();
        let Some(close) = &mut self.close else { return };
        if is_over {
            close.due = None;
        }
        if is_over || !network.can_send() {
            return;
        }
        network.send(now, counters, &close.transmit, &close.contents);
        counters.add(Counter::QuicClosesRepeated, 1);
        close.repeats += 1;
        self.schedule_close(now);
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
        for (slot, conn) in self.conns.iter_mut().enumerate() {
            let Some(conn) = conn else { continue };
            self.closes_pending += usize::from(!conn.is_over());
            if first {
                self.run_queues.touched(conn, slot);
            }
        }
    }
}

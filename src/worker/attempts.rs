//! Connection attempts of peers: which of them begin a handshake, which must prove their addresses first, and the end of a handshake that is
//! not completed.
//!
//! A signature costs hundreds of microseconds. An address that proved nothing gets one while few such handshakes were begun in vain;
//! otherwise the attempt is answered with Retry (RFC 9000 §8.1.2), at a bounded rate, and costs no signature.

use super::Core;
use super::conn::Origin;
use super::placing::WorkDone;
use super::shared::NodeShared;
use crate::counters::Counter;
use crate::limits::{
    CONNECTIONS_LEN_MAX, HALF_OPEN_LEN_MAX, HANDSHAKES_PER_TURN_MAX, INCOMING_LEN_MAX, INCOMING_RETRY_LEN,
};
use crate::peer_text::PeerText;
use crate::queue::{CloseReason, ConnectionId};
use crate::quic::admission;
use crate::quic::transport::PeerControl;
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::{ConnectionHandle, EndpointEvent, Incoming, Side};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl Core {
    /// Whether this datagram is one more attempt from an address that proved nothing, and no Retry packet may be sent now. It then costs
    /// QUIC no keys.
    #[inline]
    pub(super) fn is_past_retries(&self, now: Instant, datagram: &[u8]) -> bool {
        // Most datagrams end at the first question: it costs less than the second one.
        admission::is_unproven_initial(datagram) && self.half_open.is_past_retries(now)
    }

    /// Whether clients must prove their addresses before their handshakes begin.
    fn must_prove(&self, now: Instant) -> bool {
        self.incoming.len() >= INCOMING_RETRY_LEN || self.half_open.must_prove(now)
    }

    /// The worker for a datagram that carries a connection ID of its client's choice; `None`: this one.
    #[inline(never)]
    pub(super) fn place(&mut self, now: Instant, datagram: &[u8]) -> Option<u16> {
        let (id, begins) = admission::chosen_id(datagram).filter(|_| self.server.is_some())?;
        if let Some(worker) = self.placing.known(&id, now) {
            return Some(worker);
        }
        // Attempts in excess are answered where they arrive, and cost the others nothing.
        if !begins || self.draining || self.must_prove(now) {
            return None;
        }
        let worker = self.choose();
        self.desk.status.counters.add(Counter::PlacementsOut, u64::from(worker.is_some()));
        self.placing.remember(id, worker.unwrap_or(self.index), now);
        worker
    }

    /// The worker with more room for a new connection than this one.
    fn choose(&mut self) -> Option<u16> {
        let NodeShared { loads, handovers, .. } = &*self.desk.shared;
        let connections = self.connections.len() + self.incoming.len();
        self.placing.choose((self.index.into(), connections), loads, |worker| !handovers[worker].is_full())
    }

    /// Publishes the load of this worker, if it is time or has changed.
    #[inline]
    pub(super) fn publish_load(&mut self, now: Instant) {
        let connections = self.connections.len() + self.incoming.len();
        if self.desk.shared.workers == 1 || !self.placing.is_due(connections, now) {
            return;
        }
        // A worker that drains, or whose predecessor failed, has room for no connection.
        let must_prove = self.draining || self.must_prove(now);
        let count = |counter| self.desk.status.counters.get(counter);
        let work = WorkDone {
            packets: count(Counter::RxPackets) + count(Counter::TxPackets),
            handed_over: count(Counter::HandoversOut),
            taken_over: count(Counter::HandoversIn),
        };
        let load = &self.desk.shared.loads[usize::from(self.index)];
        self.placing.publish(load, (work, connections, must_prove), now);
    }

    /// Takes a new attempt.
    pub(super) fn incoming(&mut self, now: Instant, incoming: Incoming) {
        if self.draining || self.desk.shared.turns_away_at(now) {
            self.desk.status.counters.add(Counter::ConnectionsTurnedAway, 1);
            self.send_buf.clear();
            let transmit = self.endpoint.refuse(incoming, &mut self.send_buf);
            self.respond(transmit);
        } else if !incoming.remote_address_validated() && self.must_prove(now) {
            self.retry(now, incoming);
        } else if self.incoming.len() >= INCOMING_LEN_MAX
            || self.desk.status.connections.load(Relaxed) >= CONNECTIONS_LEN_MAX
        {
            self.desk.status.counters.add(Counter::DropConnectionLimit, 1);
            self.endpoint.ignore(incoming);
        } else {
            self.incoming.push_back(incoming);
        }
    }

    fn retry(&mut self, now: Instant, incoming: Incoming) {
        if !self.half_open.take_retry(now) {
            self.desk.status.counters.add(Counter::DropRetryLimit, 1);
            return self.endpoint.ignore(incoming);
        }
        self.send_buf.clear();
        // The client sends its next packets to the ID in the Retry packet: its connection goes where there is room.
        let named = if self.desk.shared.workers > 1 { self.choose() } else { None };
        self.named.store(named.unwrap_or(self.index), Relaxed);
        let retried = self.endpoint.retry(incoming, &mut self.send_buf);
        self.named.store(self.index, Relaxed);
        match retried {
            Ok(transmit) => {
                self.desk.status.counters.add(Counter::QuicRetriesSent, 1);
                self.desk.status.counters.add(Counter::PlacementsByRetry, u64::from(named.is_some()));
                self.respond(transmit);
            }
            Err(error) => self.endpoint.ignore(error.into_incoming()),
        }
    }

    /// Begins the handshakes whose turn has come.
    pub(super) fn begin_handshakes(&mut self, now: Instant) -> bool {
        let mut begun = 0;
        while begun < HANDSHAKES_PER_TURN_MAX
            && let Some(incoming) = self.incoming.pop_front()
        {
            // More handshakes may have failed since it came.
            if !incoming.remote_address_validated() && self.half_open.must_prove(now) {
                self.retry(now, incoming);
                continue;
            }
            begun += 1;
            self.begin_handshake(now, incoming);
        }
        begun > 0
    }

    fn begin_handshake(&mut self, now: Instant, incoming: Incoming) {
        if let Some(victim) = self.half_open.victim() {
            self.end_half_open(
                now,
                victim,
                Counter::QuicHalfOpenEvicted,
                "too many handshakes are not complete",
            );
        }
        self.send_buf.clear();
        let (remote, is_proven) = (incoming.remote_address(), incoming.remote_address_validated());
        self.desk.status.counters.add(Counter::QuicAttemptsAccepted, 1);
        let mut config = self.server.as_ref().map(|server| server.of(remote).clone());
        let mut track = None;
        if let (Some(qlog), Some(config)) = (&mut self.qlog, &mut config)
            && let Some((transport, log)) =
                qlog.transport((remote, Side::Server), &PeerControl::default(), now)
        {
            Arc::make_mut(config).transport = transport;
            track = Some(log);
        }
        match self.endpoint.accept(incoming, now, &mut self.send_buf, config) {
            Ok((handle, quic)) => {
                let id = self.insert(now, handle, quic, (Origin::Peer, track));
                self.half_open.begin(id, remote.ip(), is_proven, now);
            }
            Err(error) => {
                self.half_open.failed_at_once(is_proven, now);
                self.desk.status.counters.add(Counter::HandshakesServerFailed, 1);
                tracing::debug!(cause = %error.cause, "handshake refused");
                if let Some(transmit) = error.response {
                    self.respond(transmit);
                }
            }
        }
    }

    /// Ends the handshakes that take too long.
    pub(super) fn end_slow_handshakes(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while let Some(id) = self.half_open.due(now) {
            worked = true;
            self.end_half_open(now, id, Counter::QuicHalfOpenTimedOut, "the handshake took too long");
        }
        worked
    }

    /// Ends a connection whose handshake is not complete, and forgets it at once: QUIC would keep it for three PTOs, seconds for a peer that
    /// has not answered.
    #[cold]
    fn end_half_open(&mut self, now: Instant, id: ConnectionId, counter: Counter, text: &'static str) {
        let is_proven = self.half_open.forget(id);
        let Some(mut conn) = self.connections.of(id) else { return };
        let status = self.desk.status.clone();
        if !conn.quic.is_closed() {
            status.counters.add(counter, 1);
            let reason = CloseReason::Fault { code: ErrorCode::Busy, text: PeerText::from(text) };
            conn.ended(&reason, &mut self.desk.cx(now));
            self.send_buf.clear();
            // RFC 9000 §8.1: an address that proved nothing gets no more than three times what it sent, and QUIC does not count this packet.
            if is_proven {
                conn.quic.close(now, ErrorCode::Busy.into(), Bytes::from_static(text.as_bytes()));
                if let Some(transmit) = conn.quic.poll_transmit(now, 1, &mut self.send_buf) {
                    self.respond(transmit);
                }
            }
        }
        self.endpoint.handle_event(ConnectionHandle(id.slot as usize), EndpointEvent::drained());
        self.remove(now, id.slot, &status.counters);
    }

    /// Shows the half-open connections, and logs when clients have to prove their addresses.
    pub(super) fn gauge_half_open(&mut self, now: Instant) {
        let must_prove = self.must_prove(now);
        let gauges = &self.desk.status.gauges;
        let (len, unproven) = self.half_open.len();
        gauges.half_open.store(len, Relaxed);
        gauges.half_open_unproven.store(unproven, Relaxed);
        if must_prove && !gauges.must_prove.load(Relaxed) && self.half_open.may_tell(now) {
            let (worker, half_open) = (self.index, len);
            tracing::warn!(
                worker,
                half_open,
                unproven,
                limit = HALF_OPEN_LEN_MAX,
                "handshakes are begun and not completed: clients must prove their addresses first (Retry)"
            );
        }
        gauges.must_prove.store(must_prove, Relaxed);
    }
}

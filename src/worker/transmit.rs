//! Transmission: first packets that QUIC made for no connection, then those of the connections, each in its turn.

use super::Core;
use super::connections::ConnEntry;
use super::phase::Reached;
use crate::counters::{Counter, Counters};
use crate::datagram::Network;
use crate::limits::{BATCHES_PER_TURN_MAX, TURN_PACKETS_LEN, TX_SEGMENTS_LEN_MAX};
use crate::send_limit::SendLimit;
use crate::stages::LoopStage;
use quinn_proto::ConnectionHandle;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Core {
    pub(super) fn transmit<N: Network>(
        &mut self,
        network: &mut N,
        now: Instant,
        counters: &Counters,
    ) -> bool {
        let mut worked = false;
        while network.can_send()
            && let Some((transmit, contents)) = self.responses.pop_front()
        {
            network.send(now, counters, &transmit, &contents[..transmit.size]);
            worked = true;
        }
        worked |= self.transmit_gue(network, now, counters);
        let mut left = TURN_PACKETS_LEN;
        for _ in 0..self.connections.sending_len() {
            if left == 0 {
                // Acknowledgments are read while what they acknowledge is in the cache, and others do not wait for all that many connections send.
                worked = true;
                break;
            }
            if !network.can_send() {
                network.flush(now, counters);
                if !network.can_send() {
                    break;
                }
            }
            let Some(slot) = self.connections.pop_sending() else { break };
            let packets = self.transmit_one(network, now, slot, counters);
            worked |= packets > 0;
            left = left.saturating_sub(packets);
        }
        network.flush(now, counters);
        worked
    }

    /// A connection's turn. Returns the packets that it sent.
    fn transmit_one<N: Network>(
        &mut self,
        network: &mut N,
        now: Instant,
        slot: u32,
        counters: &Counters,
    ) -> usize {
        let node_ends = self.close_by.is_some();
        let Some(mut conn) = self.connections.at(slot) else { return 0 };
        let conn = &mut conn;
        conn.fit_windows(now);
        conn.flush();
        conn.repeat_close(network, now, counters);
        if conn.session.take_credit_returned() {
            self.desk.ports.iter_mut().for_each(|port| port.urgent = true);
        }
        let turn = Turn { now, node_ends, counters };
        let packets = turn.send_batches(conn, network, &mut self.send_buf);
        let mut drained = false;
        while let Some(event) = conn.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(slot as usize), event) {
                conn.quic.handle_event(event);
                conn.touched();
            }
        }
        conn.set_timer();
        if drained {
            self.remove(now, slot, counters);
        }
        packets
    }

    /// Removes a connection for which QUIC has nothing left to do.
    #[cold]
    pub(super) fn remove(&mut self, now: Instant, slot: u32, counters: &Counters) {
        let Some(mut conn) = self.connections.remove(slot) else { return };
        if conn.phase.reached() != Reached::Open {
            self.half_open.forget(conn.session.id());
        }
        conn.end_dial(&mut self.dials);
        conn.count_path(counters);
        conn.count_limits(now, counters);
        let path = conn.quic.stats().path;
        tracing::debug!(
            remote = %conn.quic.remote_address(),
            rtt = ?path.rtt,
            cwnd_bytes = path.cwnd,
            mtu = path.current_mtu,
            sent_packets = path.sent_packets,
            lost_packets = path.lost_packets,
            congestion_events = path.congestion_events,
            "connection over"
        );
        if let Some(index) = conn.origin.peer_gateway() {
            self.gateways.failed(index, Some(slot), now);
        }
        self.desk.status.connections.store(self.connections.len(), Ordering::Relaxed);
        counters.add(Counter::ConnectionsClosed, 1);
    }
}

/// One connection's turn to send.
struct Turn<'a> {
    now: Instant,
    /// Whether the worker closes its connections.
    node_ends: bool,
    counters: &'a Counters,
}

impl Turn<'_> {
    /// Sends QUIC's packets, up to the turn's bound, the connection's rate or until the device is full; then the connection waits for its next
    /// turn. Returns their number.
    #[inline]
    fn send_batches<N: Network>(
        &self,
        conn: &mut ConnEntry<'_>,
        network: &mut N,
        send_buf: &mut Vec<u8>,
    ) -> usize {
        let &Self { now, node_ends, counters } = self;
        let mut sent = 0;
        if conn.is_quiet(now) {
            return sent;
        }
        conn.leave_hole(now);
        let paced = conn.paced();
        loop {
            if conn.batches == BATCHES_PER_TURN_MAX {
                conn.batches = 0;
                conn.send_next();
                conn.limited_by(now, SendLimit::Worker);
                return sent;
            }
            if !network.can_send_to(|| (conn.quic.remote_address(), conn.quic.local_ip())) {
                // Others may send by another port.
                if network.can_send() {
                    conn.send_next()
                } else {
                    conn.send_on()
                }
                conn.limited_by(now, SendLimit::Device);
                return sent;
            }
            conn.before_sending(node_ends, now);
            let packets = conn.paced_packets(paced, now, TX_SEGMENTS_LEN_MAX);
            if packets == 0 {
                conn.batches = 0;
                conn.limited_by(now, SendLimit::Pacing);
                return sent;
            }
            send_buf.clear();
            let Some(transmit) = conn.quic.poll_transmit(now, packets, send_buf) else {
                conn.batches = 0;
                conn.rest(now);
                conn.limited_by_quic(now);
                return sent;
            };
            sent += transmit.size.div_ceil(transmit.segment_size.unwrap_or(transmit.size).max(1));
            conn.batches += 1;
            counters.stages.enter(LoopStage::Frame);
            network.send(now, counters, &transmit, &send_buf[..transmit.size]);
            conn.sent(now, &transmit, send_buf);
            conn.paced_sent(paced, &transmit);
            counters.stages.enter(LoopStage::Transmit);
            network.flush(now, counters);
            counters.stages.enter(LoopStage::Emit);
        }
    }
}

//! A worker's figures about itself that would cost too much for every packet. A survey collects them once a second, a few connections
//! in each turn. An inspection gives the state of the connections on request.

use super::Core;
use super::conn::{Conn, CountedFigures, Origin};
use super::phase::Reached;
use super::view::ConnectionView;
use crate::counters::{Counter, Counters};
use crate::limits::{
    ANSWERS_UNTAKEN_MS_MAX, CONNECTIONS_LEN_PER_TURN_MAX, INSPECTION_LEN_MAX, SURVEY_INTERVAL_MS,
    SURVEY_TURN_LEN, UNACKNOWLEDGED_MS,
};
use crate::queue::ConnectionId;
use crate::quic::release::SenderNotes;
use crate::session::Context;
use crate::tls;
use quinn_proto::{ConnectionStats, FrameStats, Side};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The progress of a survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// When the next survey begins; `None`: at once.
    due: Option<Instant>,
    /// The slot that is surveyed next, while a survey runs.
    next: Option<u32>,
    /// The surveyed connections without acknowledgments.
    unacknowledged: usize,
    /// Whether a peer may be silent for too long at the next survey; and of those of this survey, so far.
    watches: bool,
    watched: bool,
    /// Whether the process's budget was short.
    is_short: bool,
    /// The slot that a running inspection looks at next, and the connections that it has seen.
    inspected: Option<(u32, Vec<ConnectionView>)>,
}

#[cfg(test)]
impl Survey {
    /// Whether a survey has connections left to look at.
    pub(super) fn is_running(&self) -> bool {
        self.next.is_some()
    }

    /// Has the next survey begin at this time.
    pub(super) fn set_due(&mut self, due: Instant) {
        self.due = Some(due);
    }
}

/// Frames that a peer must acknowledge (RFC 9000 §13.2.1): all but ACK, PADDING and CONNECTION_CLOSE.
fn eliciting(sent: &FrameStats) -> u64 {
    let streams = sent.stream + sent.reset_stream + sent.stop_sending + sent.datagram;
    let credit = sent.max_data + sent.max_stream_data + sent.max_streams_bidi + sent.max_streams_uni;
    let blocked =
        sent.data_blocked + sent.stream_data_blocked + sent.streams_blocked_bidi + sent.streams_blocked_uni;
    let paths = sent.path_challenge + sent.path_response + sent.new_connection_id + sent.retire_connection_id;
    let others = sent.crypto + sent.ping + sent.new_token + u64::from(sent.handshake_done);
    streams + credit + blocked + paths + others
}

impl Conn {
    /// Adds to the worker's counters the connection's figures since the last call.
    pub(super) fn count_path(&mut self, counters: &Counters) {
        let ConnectionStats { path, frame_tx, frame_rx, .. } = self.quic.stats();
        let heard = frame_rx.acks != self.counted.ack_frames;
        let sender = heard.then(|| SenderNotes::of(&self.quic)).flatten();
        let now = CountedFigures {
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            lost_bytes: path.lost_bytes,
            congestion_events: path.congestion_events,
            ack_frames: frame_rx.acks,
            acks: sender.as_ref().map_or(self.counted.acks, SenderNotes::acks),
            eliciting: eliciting(&frame_tx),
            stream_frames: frame_tx.stream,
            ..self.counted
        };
        if sender.is_some() {
            self.limited.follow(sender);
        }
        let before = std::mem::replace(&mut self.counted, now);
        // A path that is left takes its figures along: they may fall.
        for (counter, now, before) in [
            (Counter::QuicPacketsSent, now.sent_packets, before.sent_packets),
            (Counter::QuicPacketsLost, now.lost_packets, before.lost_packets),
            (Counter::QuicBytesLost, now.lost_bytes, before.lost_bytes),
            (Counter::QuicCongestionEvents, now.congestion_events, before.congestion_events),
            (Counter::QuicNewAcks, now.acks, before.acks),
        ] {
            counters.add(counter, now.saturating_sub(before));
        }
    }

    /// Whether the peer has acknowledged nothing for [`UNACKNOWLEDGED_MS`], although there was something to acknowledge; `acks` is the
    /// value of [`CountedFigures::acks`] at the last call.
    fn is_unacknowledged(&mut self, acks: u64, now: Instant) -> bool {
        let counted = &mut self.counted;
        if counted.acks != acks {
            (counted.eliciting_acked, counted.waiting_since) = (counted.eliciting, None);
        }
        if counted.eliciting == counted.eliciting_acked || self.quic.is_closed() {
            counted.waiting_since = None;
            return false;
        }
        let since = *counted.waiting_since.get_or_insert(now);
        now.saturating_duration_since(since) >= Duration::from_millis(UNACKNOWLEDGED_MS)
    }

    /// Whether the peer has taken nothing for [`ANSWERS_UNTAKEN_MS_MAX`], although an answer waits for it; `frames` is the value of
    /// [`CountedFigures::stream_frames`] at the last call. A stream without credit sends no frame.
    fn takes_nothing(&mut self, frames: u64, now: Instant) -> bool {
        let waits =
            self.counted.stream_frames == frames && self.phase.is_open() && self.session.answers_wait();
        if !waits || self.quic.is_closed() {
            self.counted.untaken_since = None;
            return false;
        }
        let since = *self.counted.untaken_since.get_or_insert(now);
        now.saturating_duration_since(since) >= Duration::from_millis(ANSWERS_UNTAKEN_MS_MAX)
    }

    /// Refuses streams that the peer has only begun. Returns whether there are any.
    fn refuse_begun(&mut self, cx: &mut Context<'_>) -> bool {
        self.session.refuse_begun(&mut self.quic, cx)
    }

    fn view(&self, now: Instant) -> ConnectionView {
        let ConnectionId { worker, slot, .. } = self.session.id();
        let stats = self.quic.stats();
        ConnectionView {
            worker,
            slot,
            remote: self.quic.remote_address(),
            node: tls::peer_node_id(&self.quic),
            outgoing: self.quic.side() == Side::Client,
            peer_gateway: matches!(self.origin, Origin::PeerGateway { .. }),
            established: self.phase.reached() == Reached::Open,
            requests: self.session.requests(),
            rtt_us: stats.path.rtt.as_micros() as u64,
            window_bytes: stats.path.cwnd,
            held_bytes: self.session.held_bytes() as u64,
            receive_window_bytes: self.fitted.receive_bytes(),
            send_window_bytes: self.fitted.send_bytes(),
            mtu_bytes: stats.path.current_mtu,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            congestion_events: stats.path.congestion_events,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            limit: self.limited.limit(),
            limited_s: self.limited.times(now),
        }
    }
}

impl Core {
    /// Goes on with a pending inspection. Returns whether it has connections left to look at.
    #[inline]
    pub(super) fn inspect(&mut self, now: Instant) -> bool {
        self.desk.status.inspection.is_wanted() && self.inspect_some(now)
    }

    /// Surveys a few connections, if it is time.
    pub(super) fn survey(&mut self, now: Instant, links_down: impl FnOnce() -> u32) {
        let Some(from) = self.survey.next else {
            if self.survey.due.is_none_or(|due| due <= now) {
                self.survey.due = Some(now + Duration::from_millis(SURVEY_INTERVAL_MS));
                self.survey.next = Some(0);
                self.survey.unacknowledged = 0;
                self.gauge(now, links_down());
            }
            return;
        };
        let slots = self.connections.slots();
        let to = (from + SURVEY_TURN_LEN as u32).min(slots.end);
        let status = self.desk.status.clone();
        let counters = &status.counters;
        for slot in from..to {
            let Some(mut conn) = self.connections.at(slot) else { continue };
            let CountedFigures { acks, stream_frames, .. } = conn.counted;
            conn.count_path(counters);
            conn.count_limits(now, counters);
            self.survey.unacknowledged += usize::from(conn.is_unacknowledged(acks, now));
            if conn.phase.is_open() {
                let path = conn.quic.stats().path;
                counters.rtts.record(path.rtt.as_micros() as u64);
                counters.windows.record(path.cwnd);
            }
            // A connection without packets has no turn.
            conn.fit_windows(now);
            if conn.takes_nothing(stream_frames, now) {
                conn.send_away(&mut self.desk.cx(now));
                conn.touched();
            }
            if conn.refuse_begun(&mut self.desk.cx(now)) {
                self.survey.watched = true;
                conn.touched();
            }
            self.survey.watched |= self.look_for_silence(slot, now);
        }
        self.survey.next = (to < slots.end).then_some(to);
        if self.survey.next.is_none() {
            status.gauges.unacknowledged.store(self.survey.unacknowledged, Relaxed);
            self.survey.watches = std::mem::take(&mut self.survey.watched);
        }
    }

    /// When the next survey is due, if it may find a peer that has been silent for too long.
    pub(super) fn survey_timeout(&self) -> Option<Instant> {
        self.survey.due.filter(|_| self.survey.watches)
    }

    /// Tells the log, once each time, that the process's budget is short, and who holds most of it.
    fn tell_shortage(&mut self) {
        let budget = &self.desk.shared.window_budget;
        let is_short = budget.is_short();
        if std::mem::replace(&mut self.survey.is_short, is_short) == is_short || self.index != 0 {
            return;
        }
        let (total_bytes, taken_bytes) = (budget.total_bytes(), budget.taken_bytes());
        match budget.largest().filter(|_| is_short) {
            Some((node, held_bytes)) => {
                let node =
                    node.map_or_else(|| "peers without a certificate".to_owned(), |node| node.to_string());
                tracing::warn!(
                    total_bytes,
                    taken_bytes,
                    node,
                    held_bytes,
                    "the budget of memory for peers is short, and this node holds most of it: its windows shrink"
                );
            }
            None => {
                tracing::info!(total_bytes, taken_bytes, "the budget of memory for peers is no longer short")
            }
        }
    }

    fn gauge(&mut self, now: Instant, links_down: u32) {
        self.tell_shortage();
        self.gauge_half_open(now);
        let gauges = &self.desk.status.gauges;
        gauges.links_down.store(links_down, Relaxed);
        let (deliveries, commands) = self.desk.ports.iter().fold((0, 0), |(deliveries, commands), port| {
            let (waiting, asked) = port.depths();
            (deliveries + waiting, commands + asked)
        });
        gauges.deliveries.store(deliveries, Relaxed);
        gauges.commands.store(commands, Relaxed);
        gauges.attempts.store(self.incoming.len(), Relaxed);
        gauges.senders.store(self.connections.sending_len(), Relaxed);
        // If a reader holds the lock, it sees the peer gateways of an earlier survey.
        if let Ok(mut peer_gateways) = gauges.peer_gateways.try_lock() {
            peer_gateways.clear();
            peer_gateways.extend(self.gateways.states());
        }
    }

    #[cold]
    fn inspect_some(&mut self, now: Instant) -> bool {
        let (from, mut views) = self.survey.inspected.take().unwrap_or_default();
        let end = self.connections.slots().end;
        let to = (from + CONNECTIONS_LEN_PER_TURN_MAX as u32).min(end);
        let seen = (from..to).filter_map(|slot| self.connections.get(slot));
        views.extend(seen.take(INSPECTION_LEN_MAX - views.len()).map(|conn| conn.view(now)));
        let goes_on = to < end && views.len() < INSPECTION_LEN_MAX;
        if goes_on {
            self.survey.inspected = Some((to, views));
        } else {
            self.desk.status.inspection.answer(views);
        }
        goes_on
    }
}

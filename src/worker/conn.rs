//! A connection as its worker holds it.

use super::limited::LimitWatch;
use super::node_seats::NodeSeat;
use super::pacing::ConnectionPace;
use super::phase::{Phase, PhaseEnd, Reached};
use super::run_queue::LinePlaces;
use super::windows::Fitted;
use crate::counters::Counter;
use crate::datagram::Obstacle;
use crate::limits::ANSWERS_UNTAKEN_MS_MAX;
use crate::peer_text::PeerText;
use crate::queue::{CloseReason, ConnectionEvent, Delivery};
use crate::quic::release::release;
use crate::quic::timers::Timer;
use crate::record::ErrorCode;
use crate::session::{Context, Session};
use crate::tls::{self, NodeId, RefusedBy};
use bytes::Bytes;
use quinn_proto::{Connection, ConnectionError, Event, Side};
use std::time::Instant;

/// The reason for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// The peer opened it.
    Peer,
    /// An application asked for it, and gets its deliveries alone.
    Application { app: usize, tag: u64, early: bool },
    /// It leads to a peer gateway, which must prove this node ID.
    PeerGateway { index: usize, node: NodeId },
}

impl Origin {
    /// The application that gets all of its deliveries.
    pub(super) fn owner(self) -> Option<usize> {
        match self {
            Self::Application { app, .. } => Some(app),
            _ => None,
        }
    }

    /// The index of its peer gateway.
    pub(super) fn peer_gateway(self) -> Option<usize> {
        match self {
            Self::PeerGateway { index, .. } => Some(index),
            _ => None,
        }
    }
}

/// A change for the peer gateways that an event caused.
pub(super) enum Change {
    PeerGatewayUp(usize),
    PeerGatewayLost(usize),
}

/// The figures of a connection that the worker's counters contain already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CountedFigures {
    pub(super) sent_packets: u64,
    pub(super) lost_packets: u64,
    pub(super) lost_bytes: u64,
    pub(super) congestion_events: u64,
    /// ACK frames received, and those of them that acknowledged something new.
    pub(super) ack_frames: u64,
    pub(super) acks: u64,
    /// Ack-eliciting frames sent.
    pub(super) eliciting: u64,
    /// The ack-eliciting frames that had been sent when the last new acknowledgment arrived.
    pub(super) eliciting_acked: u64,
    /// When the first ack-eliciting frame after that was noticed.
    pub(super) waiting_since: Option<Instant>,
    /// STREAM frames sent.
    pub(super) stream_frames: u64,
    /// When an answer was first seen to wait after the last of them.
    pub(super) untaken_since: Option<Instant>,
}

/// One connection on its worker.
pub(super) struct Conn {
    pub(super) quic: Connection,
    pub(super) session: Session,
    pub(super) timer: Timer,
    pub(super) fitted: Fitted,
    pub(super) phase: Phase,
    /// When its handshake began.
    pub(super) begun: Instant,
    /// The queues of the worker in which it stands.
    pub(super) places: LinePlaces,
    /// When its next packets leave, if it has a rate.
    pub(super) pace: ConnectionPace,
    /// What keeps it from sending more.
    pub(super) limited: LimitWatch,
    /// Batches sent in its present turn.
    pub(super) batches: usize,
    pub(super) origin: Origin,
    /// Its place among the connections that its peer's node may have. It is dropped after the session, which gives back the seats of requests.
    seat: NodeSeat,
    /// The node of a client whose certificate was refused.
    pub(super) refused: Option<NodeId>,
    /// The figures of the path that the counters contain already.
    pub(super) counted: CountedFigures,
}

impl Conn {
    /// A connection whose handshake begins.
    pub(super) fn new(
        quic: Connection,
        session: Session,
        origin: Origin,
        fitted: Fitted,
        limited: LimitWatch,
        seat: NodeSeat,
        begun: Instant,
    ) -> Self {
        Self {
            quic,
            session,
            timer: Timer::default(),
            phase: Phase::begin(),
            begun,
            places: LinePlaces::default(),
            pace: ConnectionPace::default(),
            limited,
            batches: 0,
            origin,
            seat,
            refused: None,
            fitted,
            counted: CountedFigures::default(),
        }
    }

    pub(super) fn event(&mut self, event: Event, cx: &mut Context<'_>) -> Option<Change> {
        match event {
            Event::Connected => return self.connected(cx),
            Event::ConnectionLost { reason } => {
                if reason == ConnectionError::Reset {
                    cx.counters.add(Counter::QuicStatelessResetsReceived, 1);
                }
                return self.ended(&CloseReason::from(&reason), cx);
            }
            Event::Stream(event) => {
                self.meet_early();
                self.session.stream_event(&mut self.quic, event, cx);
            }
            Event::DatagramReceived => {
                self.meet_early();
                while let Some(datagram) = self.quic.datagrams().recv() {
                    self.session.datagram(&self.quic, datagram, cx);
                }
            }
            Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
        }
        None
    }

    /// Ends the connection: tells the applications of its end, or that it did not come up.
    pub(super) fn ended(&mut self, reason: &CloseReason, cx: &mut Context<'_>) -> Option<Change> {
        release(&self.quic);
        self.seat.leave();
        let reached = match self.phase.end() {
            PhaseEnd::Lost(reached) => reached,
            // This side told most applications when it closed the connection; a session tells them once.
            PhaseEnd::Closed(reached) => {
                if reached.is_known() || self.session.is_met_early() {
                    self.session.closed(reason, cx);
                }
                return None;
            }
        };
        if reached != Reached::Open {
            let failed = match self.quic.side() {
                Side::Client => Counter::HandshakesClientFailed,
                Side::Server => Counter::HandshakesServerFailed,
            };
            cx.counters.add(failed, 1);
            self.tell_refusal(reason, cx);
        }
        // Requests and messages in early data are known before their connection is announced.
        if reached.is_known() || self.session.requests() > 0 || self.session.is_met_early() {
            self.session.closed(reason, cx);
        } else if let Origin::Application { app, tag, .. } = self.origin {
            cx.ports[app].deliver(Delivery::ConnectFailed { tag, reason: reason.clone() });
        }
        if let Origin::PeerGateway { index, node } = self.origin {
            let remote = self.quic.remote_address();
            tracing::info!(%node, %remote, %reason, "no connection to a peer gateway");
            cx.counters.add(Counter::PeerGatewaysLost, 1);
            return Some(Change::PeerGatewayLost(index));
        }
        None
    }

    /// Ends a handshake of this side whose packets do not arrive, by the rule of [`Phase::refuses`]. Returns `Some` if the handshake has
    /// ended, with the change for the peer gateways.
    pub(super) fn unreachable(
        &mut self,
        obstacle: &Obstacle,
        cx: &mut Context<'_>,
    ) -> Option<Option<Change>> {
        if self.quic.side() != Side::Client || self.quic.is_closed() {
            return None;
        }
        if !self.phase.refuses(obstacle.is_local(), cx.now) {
            return None;
        }
        // The applications are told, and the phase is the last one: no event of QUIC tells them again.
        let change = self.ended(&CloseReason::Unreachable(obstacle.clone()), cx);
        self.quic.close(cx.now, ErrorCode::None.into(), Bytes::new());
        Some(change)
    }

    /// Starts the session before the handshake is complete, if the application wants it and an earlier session allows it.
    pub(super) fn begin_early(&mut self, cx: &mut Context<'_>) {
        if let Origin::Application { early: true, .. } = self.origin
            && self.quic.has_0rtt()
        {
            self.phase.begin_early();
            self.session.start(&mut self.quic, cx);
            self.announce(tls::peer_node_id(&self.quic), cx);
        }
    }

    fn connected(&mut self, cx: &mut Context<'_>) -> Option<Change> {
        cx.counters.add(Counter::ConnectionsOpened, 1);
        cx.counters.add(self.handshake(), 1);
        let node = tls::peer_node_id(&self.quic);
        self.session.established(node);
        self.know_peer(cx.now, node);
        if let (Origin::Peer, Some(node)) = (self.origin, node) {
            match self.seat.take(node) {
                Ok(requests) => self.session.set_seats(requests),
                Err(max) => {
                    self.refuse_seat(node, max, cx);
                    return None;
                }
            }
        }
        if self.phase.reached().is_known() {
            self.phase.complete();
            if self.quic.accepted_0rtt() {
                cx.counters.add(Counter::QuicEarlyDataAccepted, 1);
            } else {
                self.session.early_refused(&mut self.quic, cx);
            }
            return None;
        }
        if let Origin::PeerGateway { index, node: expected } = self.origin {
            if node != Some(expected) {
                tracing::warn!(%expected, ?node, "a peer gateway's address leads to another node");
                let reason = Bytes::from_static(b"not the node that was dialed");
                self.close(cx.now, ErrorCode::NotAuthorized, reason);
                return Some(Change::PeerGatewayLost(index));
            }
            cx.counters.add(Counter::PeerGatewaysConnected, 1);
        }
        self.phase.complete();
        self.session.start(&mut self.quic, cx);
        self.announce(node, cx);
        match self.origin {
            Origin::PeerGateway { index, .. } => Some(Change::PeerGatewayUp(index)),
            _ => None,
        }
    }

    /// Closes the connection of a node that has as many as it may have.
    #[cold]
    fn refuse_seat(&mut self, node: NodeId, max: usize, cx: &mut Context<'_>) {
        let remote = self.quic.remote_address();
        tracing::warn!(%node, %remote, max, "a node has as many connections as one may have: another one is refused");
        cx.counters.add(Counter::NodeConnectionsRefused, 1);
        let text = format!(
            "this node ID has {max} connections here, as many as one may have; close some, or have connections_per_node_max raised here"
        );
        if self.session.requests() > 0 || self.session.is_met_early() {
            let reason = CloseReason::Fault { code: ErrorCode::Quota, text: PeerText::from(&*text) };
            self.session.closed(&reason, cx);
        }
        self.close(cx.now, ErrorCode::Quota, Bytes::from(text));
    }

    /// Closes the connection of a peer that takes none of its answers.
    #[cold]
    pub(super) fn send_away(&mut self, cx: &mut Context<'_>) {
        let (node, remote) = (tls::peer_node_id(&self.quic), self.quic.remote_address());
        tracing::info!(?node, %remote, "a peer takes no answer: its connection is closed");
        cx.counters.add(Counter::AnswersUntaken, 1);
        let text = format!(
            "no byte of an answer was taken for {} s; read answers as they come, or ask again later",
            ANSWERS_UNTAKEN_MS_MAX / 1000
        );
        let reason = CloseReason::Fault { code: ErrorCode::Limit, text: PeerText::from(&*text) };
        self.session.closed(&reason, cx);
        self.close(cx.now, ErrorCode::Limit, Bytes::from(text));
    }

    /// Logs why a client's certificate was refused: the client is told by an alert and a text that its own TLS library may not show.
    fn tell_refusal(&self, reason: &CloseReason, cx: &Context<'_>) {
        let CloseReason::Tls(refusal) = reason else { return };
        if self.quic.side() != Side::Server || refusal.by != RefusedBy::Us {
            return;
        }
        cx.counters.add(Counter::ClientsRefused, 1);
        let remote = self.quic.remote_address();
        match self.refused {
            Some(node) => tracing::info!(%remote, %node, reason = %refusal, "a client is refused"),
            None => tracing::info!(%remote, reason = %refusal, "a client is refused"),
        }
    }

    /// Lets the session introduce a connection in early data to the applications that take its messages. Its node ID is that of the session
    /// which is resumed.
    #[inline]
    fn meet_early(&mut self) {
        if self.phase.is_handshaking() && self.quic.side() == Side::Server && !self.session.may_introduce() {
            self.session.meet_early(self.quic.remote_address(), tls::peer_node_id(&self.quic));
        }
    }

    /// Gives QUIC the bytes that the session has collected.
    #[inline]
    pub(super) fn flush(&mut self) {
        self.session.flush(&mut self.quic);
    }

    /// Sends GOAWAY once. Returns whether this call sent it.
    pub(super) fn go_away(&mut self, cx: &Context<'_>) -> bool {
        let is_new = !self.session.is_leaving();
        if is_new {
            self.session.go_away(&mut self.quic, 0, cx);
        }
        is_new
    }

    /// The counter of a completed handshake of this kind.
    fn handshake(&self) -> Counter {
        match self.quic.side() {
            Side::Client if self.quic.accepted_0rtt() => Counter::HandshakesClientEarly,
            Side::Client => Counter::HandshakesClientCompleted,
            Side::Server if self.quic.has_0rtt() => Counter::HandshakesServerEarly,
            Side::Server => Counter::HandshakesServerCompleted,
        }
    }

    fn announce(&mut self, node: Option<NodeId>, cx: &mut Context<'_>) {
        let (side, remote) = (self.quic.side(), self.quic.remote_address());
        let (connection, credit) = (self.session.id(), self.session.message_credit());
        let tag = match self.origin {
            Origin::Application { tag, .. } => Some(tag),
            _ => None,
        };
        // Holdings are announced on connections that this side opened to peer gateways: once to each.
        let peer_gateway = matches!(self.origin, Origin::PeerGateway { .. }) && side == Side::Client;
        let delivery = || {
            let credit = credit.clone();
            let event = ConnectionEvent::Connected { tag, side, node, peer_gateway, remote, credit };
            Delivery::Connection(connection, event)
        };
        self.session.connected(delivery, cx);
    }
}

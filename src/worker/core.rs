//! The steps of a turn, in the order in which the loop names them.

use super::Core;
use super::conn::{Change, Conn, Origin};
use super::limited::LimitWatch;
use super::node_seats::NodeSeat;
use super::windows::Fitted;
use crate::counters::{Counter, Counters};
use crate::datagram::{Datagram, Network};
use crate::limits::{INCOMING_LEN_MAX, RX_BURSTS_LEN_MAX};
use crate::queue::{CloseReason, Command, ConnectionCommand, ConnectionId, Delivery};
use crate::quic::admission;
use crate::quic::qlog::Track;
use crate::quic::transport::PeerControl;
use crate::record::ErrorCode;
use crate::session::Session;
use crate::stages::LoopStage;
use crate::tls::{self, NodeId};
use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Side, Transmit};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Core {
    pub(super) fn receive<N: Network>(&mut self, network: &mut N, now: Instant, counters: &Counters) -> bool {
        self.received.begin_turn();
        let mut taken = self.receive_burst(network, now, counters);
        let worked = taken > 0;
        for _ in 1..RX_BURSTS_LEN_MAX {
            if !self.passing.goes_on(taken) {
                break;
            }
            taken = self.receive_burst(network, now, counters);
        }
        if worked {
            self.desk.crumb_bytes = self.received.largest_bytes() / 2;
        }
        worked
    }

    fn receive_burst<N: Network>(&mut self, network: &mut N, now: Instant, counters: &Counters) -> usize {
        self.passing.begin_burst();
        let taken = network.receive(now, counters, |datagram| {
            counters.stages.enter(LoopStage::Quic);
            // Before the copy: a datagram that cannot be QUIC costs only its time on the wire.
            if datagram.is_gue {
                self.take_gue(now, &datagram);
            } else if admission::may_be_quic(datagram.payload) {
                self.datagram(now, &datagram);
            } else {
                counters.add(Counter::DropNotQuic, 1);
            }
            counters.stages.enter(LoopStage::Receive);
        });
        if taken > 0 {
            counters.bursts.record(taken as u64);
        }
        taken
    }

    // Out of line: the path of rejected datagrams in `receive` stays small.
    #[inline(never)]
    fn datagram(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let is_alone = self.desk.shared.workers == 1;
        if !is_alone && self.pass_on(now, datagram) {
            return;
        }
        // A worker that is alone need not read connection IDs, but for packets that may begin a connection.
        if is_alone && !admission::is_short(datagram.payload) && self.hand_over(now, datagram) {
            return;
        }
        // The only copy of received bytes: from the packet buffer to a slot.
        let owned = self.received.copy(datagram.payload);
        let is_known = self.feed(now, (datagram.remote, datagram.local_ip, datagram.ecn), owned);
        if !is_known && is_alone && self.hand_over(now, datagram) {
            return;
        }
        self.count_unknown(is_known);
    }

    /// Counts a datagram that QUIC did not know.
    #[inline]
    pub(super) fn count_unknown(&self, is_known: bool) {
        if !is_known {
            self.desk.status.counters.add(Counter::DropNoConnection, 1);
        }
    }

    /// Gives a datagram to QUIC. Returns whether it was of use: it belongs to a connection, may begin one, was answered or was counted.
    #[inline]
    pub(super) fn feed(
        &mut self,
        now: Instant,
        (remote, local_ip, ecn): (SocketAddr, Option<IpAddr>, Option<EcnCodepoint>),
        data: BytesMut,
    ) -> bool {
        if self.is_past_retries(now, &data) {
            self.desk.status.counters.add(Counter::DropRetryLimit, 1);
            return true;
        }
        self.send_buf.clear();
        // QUIC buffers datagrams for an attempt that waits for its turn, and does not report this.
        let kept = !self.incoming.is_empty() && admission::may_precede_acceptance(&data);
        match self.endpoint.handle(now, remote, local_ip, ecn, data, &mut self.send_buf) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => self.connection_event(handle, event),
            Some(DatagramEvent::NewConnection(incoming)) => self.incoming(now, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                let counters = &self.desk.status.counters;
                counters.add(Counter::DropNoConnection, 1);
                counters
                    .add(Counter::QuicStatelessResetsSent, u64::from(admission::is_short(&self.send_buf)));
                self.respond(transmit);
            }
            None => return kept,
        }
        true
    }

    #[inline]
    pub(super) fn connection_event(&mut self, handle: ConnectionHandle, event: quinn_proto::ConnectionEvent) {
        if let Some(mut conn) = self.connections.at(handle.0 as u32) {
            conn.quic.handle_event(event);
            if conn.phase.is_handshaking() {
                conn.refused = tls::take_refused().or(conn.refused);
            }
            conn.touched();
        }
    }

    pub(super) fn respond(&mut self, transmit: Transmit) {
        if self.responses.len() < INCOMING_LEN_MAX {
            self.responses.push_back((transmit, self.send_buf.clone()));
        } else {
            self.desk.status.counters.add(Counter::DropNoBuffer, 1);
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        quic: Connection,
        (origin, track): (Origin, Option<Track>),
    ) -> ConnectionId {
        let id = self.connections.next_id(self.index, handle.0 as u32);
        let windows = self.windows.of(quic.side());
        let session = Session::new(id, origin.owner(), windows);
        let fitted = Fitted::new(windows, quic.side(), &self.desk.shared.window_budget, now);
        let limited = LimitWatch::new(&quic, now, track);
        let seat = NodeSeat::of(&self.desk.shared.node_seats);
        self.ending.begins(id.slot);
        let mut conn = self.connections.insert(Conn::new(quic, session, origin, fitted, limited, seat, now));
        conn.touched();
        conn.begin_early(&mut self.desk.cx(now));
        self.desk.status.connections.store(self.connections.len(), Ordering::Relaxed);
        id
    }

    /// OwnHandshakes the peer gateways whose time has come.
    pub(super) fn dial_peer_gateways(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while !self.draining
            && let Some((index, remote)) = self.gateways.next(now)
        {
            worked = true;
            match self.dial(now, remote, Origin::PeerGateway { index, node: self.gateways.node(index) }) {
                Ok(slot) => self.gateways.dialed(index, slot),
                Err(reason) => {
                    tracing::warn!(%remote, %reason, "a peer gateway cannot be dialed");
                    self.gateways.failed(index, None, now);
                }
            }
        }
        worked
    }

    pub(super) fn gateways_timeout(&self) -> Option<Instant> {
        if self.draining { None } else { self.gateways.poll_timeout() }
    }

    fn reach(&mut self, now: Instant, app: usize, node: &NodeId) {
        if self.gateways.is_far(node, now) {
            self.desk.ports[app].deliver(Delivery::Unreachable(*node));
            return;
        }
        let connections = &self.connections;
        let is_idle = |slot: u32| connections.get(slot).is_some_and(|conn| conn.session.requests() == 0);
        for slot in self.gateways.reach(node, now, is_idle) {
            let Some(mut conn) = self.connections.at(slot) else { continue };
            conn.session.closed(&CloseReason::Displaced, &mut self.desk.cx(now));
            conn.close(now, ErrorCode::None, Bytes::new());
            conn.touched();
        }
    }

    /// Takes QUIC's events, then the bytes of its streams.
    pub(super) fn read(&mut self, now: Instant) -> bool {
        let mut worked = false;
        self.resume_paused();
        for _ in 0..self.connections.reading_len() {
            let Some(slot) = self.connections.pop_reading() else { break };
            let Some(mut entry) = self.connections.at(slot) else { continue };
            let mut cx = self.desk.cx(now);
            let conn = &mut *entry;
            let is_new = conn.phase.is_handshaking();
            while let Some(event) = conn.quic.poll() {
                worked = true;
                match conn.event(event, &mut cx) {
                    Some(Change::PeerGatewayUp(index)) => self.gateways.up(index),
                    Some(Change::PeerGatewayLost(index)) => {
                        self.gateways.failed(index, Some(slot), now);
                    }
                    None => {}
                }
            }
            if is_new && !conn.phase.is_handshaking() {
                conn.end_dial(&mut self.dials);
                self.half_open.settle(conn.session.id(), conn.phase.is_open());
                if conn.phase.is_open() && conn.quic.side() == Side::Server {
                    self.unsettled.begin(conn.session.id(), now);
                }
            }
            cx.counters.stages.enter(LoopStage::Records);
            let has_read = conn.session.read(&mut conn.quic, &mut cx);
            cx.counters.stages.enter(LoopStage::Quic);
            let (wants_turn, is_paused) = (conn.session.wants_turn(), conn.session.is_paused());
            if has_read {
                worked = true;
                // Bytes that were read may give the peer new flow control credit.
                entry.send_next();
            }
            if wants_turn {
                entry.read_next();
            }
            if is_paused {
                entry.pause();
            }
        }
        worked
    }

    /// Puts paused streams whose consumer has room in line again, of a few connections in each turn. Costs nothing while no stream is paused.
    /// An idle worker may sleep meanwhile: a consumer that frees half of its credit wakes it.
    fn resume_paused(&mut self) {
        self.connections.next_paused(|conn| {
            if conn.session.resume_paused(&self.desk.ports) {
                conn.touched();
            }
            conn.session.is_paused()
        });
    }

    pub(super) fn poll_inline(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for inline in &mut self.inline {
            worked |= inline.application.poll(now, &mut inline.port);
        }
        worked
    }

    pub(super) fn take_commands(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for app in 0..self.desk.ports.len() {
            let mut next = self.desk.ports[app].command();
            while let Some(command) = next {
                worked = true;
                next = match command {
                    Command::On(id, ConnectionCommand::Message { queue, payload }) => {
                        self.messages(now, app, id, (queue, payload))
                    }
                    command => {
                        self.command(now, app, command);
                        self.desk.ports[app].command()
                    }
                };
            }
        }
        worked
    }

    /// Sends the messages to one connection that follow each other: small ones are many. Returns the command after them.
    #[inline]
    fn messages(
        &mut self,
        now: Instant,
        app: usize,
        id: ConnectionId,
        (mut queue, mut payload): (u64, Bytes),
    ) -> Option<Command> {
        let Some(mut entry) = self.connections.of(id) else { return self.desk.ports[app].command() };
        let conn = &mut *entry;
        let cx = self.desk.cx(now);
        let next = loop {
            conn.session.send_message(&mut conn.quic, app, queue, payload, &cx);
            match cx.ports[app].command() {
                Some(Command::On(to, ConnectionCommand::Message { queue: on, payload: next }))
                    if to == id =>
                {
                    (queue, payload) = (on, next);
                }
                next => break next,
            }
        };
        entry.touched();
        next
    }

    fn command(&mut self, now: Instant, app: usize, command: Command) {
        match command {
            Command::Connect { tag, remote, early } => return self.connect(now, app, tag, remote, early),
            Command::Abandon { tag } => return self.abandon(now, app, tag),
            Command::Reach(node) => return self.reach(now, app, &node),
            Command::Fail => return self.fail_application(now, app),
            _ => {}
        }
        let Some(id) = command.connection() else { return };
        let Some(mut entry) = self.connections.of(id) else { return };
        let conn = &mut *entry;
        let mut cx = self.desk.cx(now);
        if let Some(index) = conn.origin.peer_gateway()
            && command.opens().is_some()
        {
            self.gateways.used(index);
        }
        conn.session.command(&mut conn.quic, app, command, &mut cx);
        entry.touched();
    }

    fn fail_application(&mut self, now: Instant, app: usize) {
        for slot in self.connections.slots() {
            let Some(mut entry) = self.connections.at(slot) else { continue };
            let conn = &mut *entry;
            if conn.session.fail_application(&mut conn.quic, app, &mut self.desk.cx(now)) {
                entry.touched();
            }
        }
    }

    fn connect(&mut self, now: Instant, app: usize, tag: u64, remote: SocketAddr, early: bool) {
        match self.dial(now, remote, Origin::Application { app, tag, early }) {
            Ok(slot) => self.dials.begin_tagged((app, tag), slot),
            Err(reason) => self.desk.ports[app].deliver(Delivery::ConnectFailed { tag, reason }),
        }
    }

    fn dial(&mut self, now: Instant, remote: SocketAddr, origin: Origin) -> Result<u32, CloseReason> {
        let Some(config) = &self.client else {
            return Err(CloseReason::NoClient);
        };
        // An IPv4 address mapped into IPv6 is IPv4 on the wire, and the answers come from the IPv4 address.
        let remote = match remote.ip().to_canonical() {
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, remote.port()),
            IpAddr::V6(_) => remote,
        };
        let name = tls::connect_name(remote);
        let mut config = config.of(remote).clone();
        let control =
            origin.peer_gateway().map_or(PeerControl::default(), |index| self.gateways.control(index));
        let logged =
            self.qlog.as_mut().and_then(|qlog| qlog.transport((remote, Side::Client), &control, now));
        let (logged, track) = logged.unzip();
        let differs = control != PeerControl::default();
        if let Some(transport) =
            logged.or_else(|| differs.then(|| self.transports.to(remote, Side::Client, &control)))
        {
            config.transport_config(transport);
        }
        let (handle, quic) = self.endpoint.connect(now, config, remote, &name)?;
        let slot = handle.0 as u32;
        self.dials.begin(quic.remote_address(), slot);
        self.insert(now, handle, quic, (origin, track));
        Ok(slot)
    }

    pub(super) fn run_timers<N: Network>(&mut self, network: &mut N, now: Instant) -> bool {
        if network.poll_timeout().is_some_and(|at| at <= now) {
            network.handle_timeout(now, &self.desk.status.counters);
        }
        let mut worked = false;
        while let Some(mut conn) = self.connections.pop_due(now) {
            conn.quic.handle_timeout(now);
            conn.touched();
            worked = true;
        }
        worked
    }

    pub(super) fn notify(&mut self, busy: bool) {
        for port in &mut self.desk.ports {
            port.push_held();
            port.notify(busy);
        }
    }
}

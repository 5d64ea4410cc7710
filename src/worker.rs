//! The loop: one thread, one network queue, and everything that belongs to them. Nothing else knows the whole order.

use crate::application::Application;
use crate::counters::{Counter, Counters};
use crate::datagram::{Datagram, Network};
use crate::limits::{CONNECTIONS_LEN_MAX, HANDOVER_RING_LEN, TX_SEGMENTS_LEN_MAX};
use crate::queue::{AppPort, Command, ConnectionId, Delivery, Sleeper, Waker, WorkerPort, rings};
use crate::quic::cid::{CidKey, WorkerCids};
use crate::quic::timers::{Timer, Timers};
use crate::record::ErrorCode;
use crate::session::{Context, Routes, Session, own_settings};
use crate::tls;
use bytes::{Bytes, BytesMut};
use crossbeam_queue::ArrayQueue;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Event,
    Incoming, ServerConfig, Transmit,
};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Received bytes are cut from one arena of this size, reused when all that was cut has been dropped. Bytes.
const ARENA_BYTES: usize = 256 * 1024;
/// Batches taken from one connection before the others have their turn.
const BATCHES_PER_TURN_MAX: usize = 8;
/// Handshakes begun in one turn: each costs a signature, hundreds of microseconds that established traffic waits.
const HANDSHAKES_PER_TURN_MAX: usize = 1;
/// Connection attempts that wait for their turn; past it they are dropped in silence.
const INCOMING_LEN_MAX: usize = 256;
/// With more attempts than this waiting, a client must prove its address first (RFC 9000 §8.1.2).
const INCOMING_RETRY_LEN: usize = 64;
/// Turns without work before an adaptive worker yields its core, and before it sleeps.
const IDLE_YIELD_TURNS: u32 = 32;
const IDLE_SLEEP_TURNS: u32 = 2_000;
/// The longest sleep of an adaptive worker whose network cannot wake it.
const IDLE_SLEEP_MAX: Duration = Duration::from_micros(100);
/// The longest wait on a network that can.
const IDLE_WAIT_MAX: Duration = Duration::from_micros(500);
/// How long a stopping worker waits for its CONNECTION_CLOSE packets to be drained.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: lowest latency, a core at 100 %.
    Spin,
    /// Polls on for a while, then yields, then sleeps in short bits.
    Adaptive,
}

/// Everything all workers of a process share. Nothing in it is written on the packet's way.
#[derive(Debug)]
pub struct Shared {
    /// How many workers there are.
    pub workers: usize,
    /// The key that hides worker indices in connection IDs.
    pub cid_key: CidKey,
    /// Which application takes what.
    pub routes: Routes,
    /// One ring a worker, for datagrams that landed elsewhere.
    handovers: Vec<ArrayQueue<Handover>>,
    lifecycle: AtomicU8,
}

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const CLOSING: u8 = 2;

impl Shared {
    /// For this many workers.
    pub fn new(workers: usize, routes: Routes) -> Arc<Self> {
        Arc::new(Self {
            workers,
            cid_key: CidKey::random(),
            routes,
            handovers: (0..workers).map(|_| ArrayQueue::new(HANDOVER_RING_LEN)).collect(),
            lifecycle: AtomicU8::new(RUNNING),
        })
    }

    /// Asks the workers to finish what runs: no new connections, GOAWAY to the peers.
    pub fn drain(&self) {
        self.lifecycle.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Asks the workers to close every connection and end.
    pub fn close(&self) {
        self.lifecycle.fetch_max(CLOSING, Ordering::AcqRel);
    }

    /// Whether [`Shared::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.is(CLOSING)
    }

    fn is(&self, state: u8) -> bool {
        self.lifecycle.load(Ordering::Relaxed) >= state
    }
}

/// A datagram on its way to the worker that owns its connection.
#[derive(Debug)]
struct Handover {
    remote: SocketAddr,
    local_ip: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    payload: BytesMut,
}

/// What the rest of the process may see of a worker.
#[derive(Debug, Default)]
pub struct WorkerStatus {
    /// Its counters.
    pub counters: Counters,
    /// Connections now.
    pub connections: AtomicUsize,
    /// Requests in flight when last looked at: once a drain began, each turn.
    requests: AtomicUsize,
}

/// What a worker's QUIC is made of.
#[derive(Clone)]
pub struct Quic {
    /// For connections of both directions.
    pub endpoint: EndpointConfig,
    /// To accept connections; none on a pure client.
    pub server: Option<ByFamily<Arc<ServerConfig>>>,
    /// To open connections; none on a pure server.
    pub client: Option<ByFamily<ClientConfig>>,
}

/// One thing for IPv4 and one for IPv6: their headers leave different room for QUIC.
#[derive(Clone, Debug)]
pub struct ByFamily<T> {
    v4: T,
    v6: T,
}

impl<T> ByFamily<T> {
    /// Makes both; `make` is told whether it is for IPv6.
    pub fn new(make: impl Fn(bool) -> T) -> Self {
        Self { v4: make(false), v6: make(true) }
    }

    /// Makes another pair of this one.
    pub fn map<U>(&self, make: impl Fn(&T) -> U) -> ByFamily<U> {
        ByFamily { v4: make(&self.v4), v6: make(&self.v6) }
    }

    /// The one for this address. An IPv4 address mapped into IPv6 is IPv4 on the wire.
    pub fn of(&self, address: SocketAddr) -> &T {
        if address.ip().to_canonical().is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

struct Conn {
    quic: Connection,
    session: Session,
    timer: Timer,
    generation: u32,
    /// In the list of connections that this turn serves.
    dirty: bool,
    connected: bool,
    going_away: bool,
    /// The application and tag that asked for it.
    asked: Option<(usize, u64)>,
}

/// An application that runs on the worker's own thread, with its ends of the rings.
struct Inline {
    application: Box<dyn Application>,
    port: AppPort,
}

/// One worker.
pub struct Worker<N> {
    network: N,
    core: Core,
}

/// All of a worker but its network, so that the network can hand datagrams in while it is borrowed.
struct Core {
    index: u16,
    shared: Arc<Shared>,
    status: Arc<WorkerStatus>,
    endpoint: Endpoint,
    server: Option<ByFamily<Arc<ServerConfig>>>,
    client: Option<ByFamily<ClientConfig>>,
    conns: Vec<Option<Conn>>,
    generation: u32,
    dirty: VecDeque<u32>,
    timers: Timers,
    incoming: VecDeque<Incoming>,
    ports: Vec<WorkerPort>,
    inline: Vec<Inline>,
    arena: BytesMut,
    send_buf: Vec<u8>,
    /// Packets that QUIC made outside a connection: Retry, version negotiation, stateless reset, refusals.
    responses: VecDeque<(Transmit, Vec<u8>)>,
    sleeper: Sleeper,
    idle: Idle,
    idle_turns: u32,
    draining: bool,
    close_by: Option<Instant>,
}

impl<N: Network> Worker<N> {
    /// A worker with this index, on this network queue.
    pub fn new(index: u16, network: N, shared: Arc<Shared>, quic: Quic, idle: Idle) -> Self {
        let mut endpoint = quic.endpoint;
        let key = shared.cid_key.clone();
        endpoint.cid_generator(move || Box::new(WorkerCids::new(key.clone(), index)));
        let core = Core {
            index,
            shared,
            status: Arc::default(),
            endpoint: Endpoint::new(
                Arc::new(endpoint),
                quic.server.as_ref().map(|server| server.v4.clone()),
                true,
                None,
            ),
            server: quic.server,
            client: quic.client,
            conns: Vec::new(),
            generation: 0,
            dirty: VecDeque::new(),
            timers: Timers::default(),
            incoming: VecDeque::new(),
            ports: Vec::new(),
            inline: Vec::new(),
            arena: BytesMut::new(),
            send_buf: Vec::new(),
            responses: VecDeque::new(),
            sleeper: Sleeper::default(),
            idle,
            idle_turns: 0,
            draining: false,
            close_by: None,
        };
        Self { network, core }
    }

    /// Adds the next application, whose own thread takes the returned port. Applications are numbered in the order in which
    /// they are added; [`Routes`] names those numbers.
    pub fn add_port(&mut self) -> AppPort {
        let (app, worker) = rings(self.core.sleeper.waker());
        self.core.ports.push(worker);
        app
    }

    /// Adds the next application, which runs on the worker's thread.
    pub fn add_inline(&mut self, application: Box<dyn Application>) {
        let port = self.add_port();
        self.core.inline.push(Inline { application, port });
    }

    /// What others may see of this worker.
    pub fn status(&self) -> Arc<WorkerStatus> {
        self.core.status.clone()
    }

    /// Ends a sleep of this worker.
    pub fn waker(&self) -> Waker {
        self.core.sleeper.waker()
    }

    /// Runs until [`Shared::close`], then closes what is open and returns the network.
    pub fn run(mut self) -> N {
        loop {
            let now = Instant::now();
            let worked = self.turn(now);
            if self.ended(now) {
                return self.network;
            }
            if worked {
                self.core.idle_turns = 0;
            } else {
                self.rest(now);
            }
        }
    }

    /// One turn at `now`. Returns whether anything moved.
    pub fn turn(&mut self, now: Instant) -> bool {
        let Self { network, core } = self;
        // Receive, parse, feed QUIC.
        let mut worked = core.receive(network, now);
        worked |= core.take_handovers(now);
        worked |= core.begin_handshakes(now);
        // Read records, route to the rings.
        worked |= core.read(now);
        // Drain applications.
        worked |= core.poll_inline(now);
        worked |= core.take_commands(now);
        // Poll QUIC, emit, transmit.
        worked |= core.transmit(network, now);
        worked |= core.run_timers(network, now);
        core.lifecycle(now);
        core.notify(worked);
        let polls = if worked { Counter::BusyPolls } else { Counter::EmptyPolls };
        core.status.counters.add(polls, 1);
        worked
    }

    /// When [`Worker::turn`] has something to do though nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.core.timers.next(), self.network.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The network, for those who drive it themselves.
    pub fn network(&mut self) -> &mut N {
        &mut self.network
    }

    fn ended(&mut self, now: Instant) -> bool {
        let Some(by) = self.core.close_by else { return false };
        let gone = self.core.status.connections.load(Ordering::Relaxed) == 0;
        (gone && self.network.flush(now, &self.core.status.counters) == 0) || now >= by
    }

    fn rest(&mut self, now: Instant) {
        let core = &mut self.core;
        core.idle_turns = core.idle_turns.saturating_add(1);
        if core.idle == Idle::Spin || core.idle_turns < IDLE_YIELD_TURNS {
            std::hint::spin_loop();
        } else if core.idle_turns < IDLE_SLEEP_TURNS || !core.dirty.is_empty() {
            std::thread::yield_now();
        } else {
            let due = self.poll_timeout().map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            if !self.network.wait(due.min(IDLE_WAIT_MAX)) {
                let ports = &self.core.ports;
                self.core
                    .sleeper
                    .sleep(due.min(IDLE_SLEEP_MAX), || ports.iter().any(WorkerPort::has_commands));
            }
        }
    }
}

impl Core {
    fn receive<N: Network>(&mut self, network: &mut N, now: Instant) -> bool {
        let status = self.status.clone();
        network.receive(now, &status.counters, |datagram| self.datagram(now, datagram)) > 0
    }

    fn datagram(&mut self, now: Instant, datagram: Datagram<'_>) {
        let Datagram { remote, local_ip, ecn, payload } = datagram;
        if self.shared.workers > 1
            && let Some(owner) = self.shared.cid_key.owner(payload, self.shared.workers)
            && owner != self.index
        {
            let handover = Handover { remote, local_ip, ecn, payload: BytesMut::from(payload) };
            let taken = self.shared.handovers[usize::from(owner)].push(handover).is_ok();
            let counter = if taken { Counter::HandoversOut } else { Counter::DropHandoverFull };
            self.status.counters.add(counter, 1);
            return;
        }
        // The one copy on the way in: packet buffer to arena.
        if self.arena.capacity() < payload.len() {
            self.arena.reserve(ARENA_BYTES.max(payload.len()));
        }
        self.arena.extend_from_slice(payload);
        let owned = self.arena.split();
        self.feed(now, remote, local_ip, ecn, owned);
    }

    fn feed(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        self.send_buf.clear();
        match self.endpoint.handle(now, remote, local_ip, ecn, data, &mut self.send_buf) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(conn)) = self.conns.get_mut(handle.0) {
                    conn.quic.handle_event(event);
                    mark(&mut self.dirty, conn, handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.incoming(incoming),
            Some(DatagramEvent::Response(transmit)) => self.respond(transmit),
            None => {}
        }
    }

    fn respond(&mut self, transmit: Transmit) {
        if self.responses.len() < INCOMING_LEN_MAX {
            self.responses.push_back((transmit, self.send_buf.clone()));
        } else {
            self.status.counters.add(Counter::DropNoBuffer, 1);
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        if self.draining {
            self.send_buf.clear();
            let transmit = self.endpoint.refuse(incoming, &mut self.send_buf);
            self.respond(transmit);
        } else if self.incoming.len() >= INCOMING_LEN_MAX
            || self.status.connections.load(Ordering::Relaxed) >= CONNECTIONS_LEN_MAX
        {
            self.status.counters.add(Counter::DropConnectionLimit, 1);
            self.endpoint.ignore(incoming);
        } else {
            self.incoming.push_back(incoming);
        }
    }

    fn take_handovers(&mut self, now: Instant) -> bool {
        if self.shared.workers == 1 {
            return false;
        }
        let mut taken = 0;
        while taken < HANDOVER_RING_LEN as u64
            && let Some(handover) = self.shared.handovers[usize::from(self.index)].pop()
        {
            taken += 1;
            self.feed(now, handover.remote, handover.local_ip, handover.ecn, handover.payload);
        }
        self.status.counters.add(Counter::HandoversIn, taken);
        taken > 0
    }

    fn begin_handshakes(&mut self, now: Instant) -> bool {
        let mut begun = 0;
        while begun < HANDSHAKES_PER_TURN_MAX
            && let Some(incoming) = self.incoming.pop_front()
        {
            self.send_buf.clear();
            if self.incoming.len() >= INCOMING_RETRY_LEN && incoming.may_retry() {
                match self.endpoint.retry(incoming, &mut self.send_buf) {
                    Ok(transmit) => self.respond(transmit),
                    Err(error) => self.endpoint.ignore(error.into_incoming()),
                }
                continue;
            }
            begun += 1;
            let config = self.server.as_ref().map(|server| server.of(incoming.remote_address()).clone());
            match self.endpoint.accept(incoming, now, &mut self.send_buf, config) {
                Ok((handle, quic)) => self.insert(handle, quic, None),
                Err(error) => {
                    self.status.counters.add(Counter::HandshakesFailed, 1);
                    tracing::debug!(cause = %error.cause, "handshake refused");
                    if let Some(transmit) = error.response {
                        self.respond(transmit);
                    }
                }
            }
        }
        begun > 0
    }

    fn insert(&mut self, handle: ConnectionHandle, quic: Connection, asked: Option<(usize, u64)>) {
        let slot = handle.0;
        if self.conns.len() <= slot {
            self.conns.resize_with(slot + 1, || None);
        }
        self.generation = self.generation.wrapping_add(1);
        let id = ConnectionId { worker: self.index, slot: slot as u32, generation: self.generation };
        let session = Session::new(id, asked.map(|(app, _)| app));
        let mut conn = Conn {
            quic,
            session,
            timer: Timer::default(),
            generation: self.generation,
            dirty: false,
            connected: false,
            going_away: false,
            asked,
        };
        mark(&mut self.dirty, &mut conn, slot);
        self.conns[slot] = Some(conn);
        self.status.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what QUIC has for us: events, then what streams hold.
    fn read(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for i in 0..self.dirty.len() {
            let slot = self.dirty[i];
            let Some(conn) = self.conns[slot as usize].as_mut() else { continue };
            let mut cx = Context {
                now,
                ports: &mut self.ports,
                routes: &self.shared.routes,
                counters: &self.status.counters,
            };
            while let Some(event) = conn.quic.poll() {
                worked = true;
                conn.event(event, &mut cx);
            }
            worked |= conn.session.read(&mut conn.quic, &mut cx);
        }
        worked
    }

    fn poll_inline(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for inline in &mut self.inline {
            worked |= inline.application.poll(now, &mut inline.port);
        }
        worked
    }

    fn take_commands(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for app in 0..self.ports.len() {
            while let Some(command) = self.ports[app].command() {
                worked = true;
                self.command(now, app, command);
            }
        }
        worked
    }

    fn command(&mut self, now: Instant, app: usize, command: Command) {
        if let Command::Connect { tag, remote } = command {
            return self.connect(now, app, tag, remote);
        }
        let Some(id) = command.connection() else { return };
        let Some(Some(conn)) = self.conns.get_mut(id.slot as usize) else { return };
        if conn.generation != id.generation {
            return;
        }
        let mut cx = Context {
            now,
            ports: &mut self.ports,
            routes: &self.shared.routes,
            counters: &self.status.counters,
        };
        conn.session.command(&mut conn.quic, app, command, &mut cx);
        mark(&mut self.dirty, conn, id.slot as usize);
    }

    fn connect(&mut self, now: Instant, app: usize, tag: u64, remote: SocketAddr) {
        let result = match &self.client {
            Some(config) => {
                let name = tls::connect_name(remote);
                self.endpoint
                    .connect(now, config.of(remote).clone(), remote, &name)
                    .map_err(|error| error.to_string())
            }
            None => Err("this node has no client identity and opens no connections".into()),
        };
        match result {
            Ok((handle, quic)) => self.insert(handle, quic, Some((app, tag))),
            Err(reason) => self.ports[app].deliver(Delivery::ConnectFailed { tag, reason }),
        }
    }

    fn transmit<N: Network>(&mut self, network: &mut N, now: Instant) -> bool {
        let status = self.status.clone();
        let counters = &status.counters;
        let mut worked = false;
        while network.can_send()
            && let Some((transmit, contents)) = self.responses.pop_front()
        {
            network.send(now, counters, &transmit, &contents[..transmit.size]);
            worked = true;
        }
        for _ in 0..self.dirty.len() {
            if !network.can_send() {
                network.flush(now, counters);
                if !network.can_send() {
                    break;
                }
            }
            let Some(slot) = self.dirty.pop_front() else { break };
            worked |= self.transmit_one(network, now, slot, counters);
        }
        network.flush(now, counters);
        worked
    }

    fn transmit_one<N: Network>(
        &mut self,
        network: &mut N,
        now: Instant,
        slot: u32,
        counters: &Counters,
    ) -> bool {
        let Some(conn) = self.conns[slot as usize].as_mut() else { return false };
        conn.dirty = false;
        if conn.session.take_credit_returned() {
            self.ports.iter_mut().for_each(|port| port.urgent = true);
        }
        let mut worked = false;
        let mut more = conn.session.wants_turn();
        for batch in 0.. {
            if batch == BATCHES_PER_TURN_MAX || !network.can_send() {
                more = true;
                break;
            }
            self.send_buf.clear();
            let Some(transmit) = conn.quic.poll_transmit(now, TX_SEGMENTS_LEN_MAX, &mut self.send_buf) else {
                break;
            };
            worked = true;
            network.send(now, counters, &transmit, &self.send_buf[..transmit.size]);
            network.flush(now, counters);
        }
        let mut drained = false;
        while let Some(event) = conn.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(slot as usize), event) {
                conn.quic.handle_event(event);
                more = true;
            }
        }
        self.timers.set(slot, &mut conn.timer, conn.quic.poll_timeout());
        if drained {
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
            self.conns[slot as usize] = None;
            self.status.connections.fetch_sub(1, Ordering::Relaxed);
            counters.add(Counter::ConnectionsClosed, 1);
        } else if more {
            mark(&mut self.dirty, conn, slot as usize);
        }
        worked
    }

    fn run_timers<N: Network>(&mut self, network: &mut N, now: Instant) -> bool {
        if network.poll_timeout().is_some_and(|at| at <= now) {
            network.handle_timeout(now, &self.status.counters);
        }
        let mut worked = false;
        while let Some(entry) = self.timers.pop(now) {
            let slot = entry.1;
            let Some(Some(conn)) = self.conns.get_mut(slot as usize) else { continue };
            if self.timers.fire(entry, &mut conn.timer, now) {
                conn.quic.handle_timeout(now);
                mark(&mut self.dirty, conn, slot as usize);
                worked = true;
            }
        }
        worked
    }

    /// Follows [`Shared::drain`] and [`Shared::close`].
    fn lifecycle(&mut self, now: Instant) {
        if !self.shared.is(DRAINING) {
            return;
        }
        self.draining = true;
        let closing = self.shared.is(CLOSING) && self.close_by.is_none();
        let mut requests = 0;
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].as_mut() else { continue };
            let cx = Context {
                now,
                ports: &mut self.ports,
                routes: &self.shared.routes,
                counters: &self.status.counters,
            };
            requests += conn.session.requests();
            if !conn.going_away {
                conn.going_away = true;
                conn.session.go_away(&mut conn.quic, 0, &cx);
                mark(&mut self.dirty, conn, slot);
            }
            if closing {
                conn.quic.close(now, ErrorCode::GoingAway.into(), Bytes::from_static(b"shutting down"));
                mark(&mut self.dirty, conn, slot);
            }
        }
        self.status.requests.store(requests, Ordering::Relaxed);
        if closing {
            self.close_by = Some(now + CLOSE_TIMEOUT);
        }
    }

    fn notify(&mut self, busy: bool) {
        for port in &mut self.ports {
            port.push_held();
            port.notify(busy);
        }
    }
}

impl Conn {
    fn event(&mut self, event: Event, cx: &mut Context<'_>) {
        match event {
            Event::Connected => self.connected(cx),
            Event::ConnectionLost { reason } => {
                let text =
                    tls::explain(&reason).map_or_else(|| reason.to_string(), |refusal| refusal.to_string());
                if self.connected {
                    self.session.closed(&text, cx);
                } else {
                    cx.counters.add(Counter::HandshakesFailed, 1);
                    if let Some((app, tag)) = self.asked {
                        cx.ports[app].deliver(Delivery::ConnectFailed { tag, reason: text });
                    }
                }
            }
            Event::Stream(event) => self.session.stream_event(&mut self.quic, event, cx),
            Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn connected(&mut self, cx: &mut Context<'_>) {
        self.connected = true;
        cx.counters.add(Counter::ConnectionsOpened, 1);
        self.session.start(&mut self.quic, &own_settings(), cx);
        let node = tls::peer_node_id(&self.quic);
        let (side, remote) = (self.quic.side(), self.quic.remote_address());
        let (connection, credit) = (self.session.id(), self.session.message_credit());
        let tag = self.asked.map(|(_, tag)| tag);
        let delivery = || Delivery::Connected { connection, tag, side, node, remote, credit: credit.clone() };
        self.session.connected(delivery, cx);
    }
}

/// Puts a connection on the list of those that this turn serves.
fn mark(dirty: &mut VecDeque<u32>, conn: &mut Conn, slot: usize) {
    if !std::mem::replace(&mut conn.dirty, true) {
        dirty.push_back(slot as u32);
    }
}

impl WorkerStatus {
    /// Requests in flight while draining.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

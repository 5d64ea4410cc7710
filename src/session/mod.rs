//! STOQ on one connection: the kinds of its streams, the peer's records in, the applications' records out.
//!
//! Sans-I/O: the worker passes in quinn-proto's events and the applications' commands; deliveries go to the rings and bytes to
//! quinn-proto's streams. Reading stops while a ring is full; bytes to write wait in a backlog that credit bounds.
//! Each stream has a slot in one table (`stream.rs`), by its role.

mod asking;
mod body;
mod bounds;
mod chain;
mod commands;
mod control;
mod fault;
mod flow;
mod found;
mod holding;
mod looks;
mod messages;
mod order;
mod outcomes;
mod reading;
mod relayed;
mod request_seats;
mod rights;
mod send;
mod serving;
mod silence;
mod stream;
mod stream_room;
mod table;
mod turns;
mod untaken;

#[cfg(test)]
mod testing;

use crate::counters::Counters;
use crate::hop::Hops;
use crate::limits::{
    ANSWER_LINGER_MS, ANSWERS_BYTES_MAX, ANSWERS_BYTES_MIN, HAVE_BURST, HAVE_RATE_PER_S, HOPS_LEN_MAX,
    REQUESTS_LEN_MAX, ROUTED_ERRORS_MAX, STREAM_ERROR_WINDOW_S,
};
use crate::queue::{
    CloseReason, Command, ConnectionEvent, ConnectionId, Credit, Delivery, GroupChecks, WorkerPort,
};
use crate::quic::transport::Windows;
use crate::record::{ErrorCode, ErrorRecord, Fetch, GoAway, Settings};
use crate::rights::{Grant, Rights, RightsInForce};
use crate::tls::NodeId;
use crate::token_bucket::TokenBucket;
use bytes::Bytes;
use chain::Chains;
use flow::FlowControl;
use quinn_proto::{Connection, Dir, Side, StreamEvent, StreamId};
use reading::Reading;
pub(crate) use request_seats::RequestSeats;
use rustc_hash::{FxHashMap, FxHashSet};
use silence::Silence;
pub use silence::SilenceLimits;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::{Queued, Readiness, Sending, Stream};
use turns::Turns;
use untaken::Untaken;

/// The application of each queue and request, the same on every worker.
#[derive(Clone, Debug, Default)]
pub struct QueueRoutes {
    /// Queue number to application.
    pub queues: FxHashMap<u64, usize>,
    /// Queues that take messages in early data, which could be replayed.
    pub replay_safe: FxHashSet<u64>,
    /// Queues whose PUTs are delivered unchecked, as [`Delivery::Raw`].
    pub unchecked: FxHashSet<u64>,
    /// The application that answers FETCH, LOCATE and MIRROR, and gets HAVE.
    pub store: Option<usize>,
    /// The application that forwards requests.
    pub relay: Option<usize>,
    /// The rules of forwarding; `None`: every HOP is refused.
    pub hops: Option<Arc<Hops>>,
    /// Decides whether a FETCH that allows it is answered here instead of being forwarded. The application of
    /// [`QueueRoutes::store`] then answers.
    pub cache: Option<Arc<dyn Holds>>,
    /// What each peer may ask for, until a reload changes it.
    pub rights: Arc<Rights>,
}

impl QueueRoutes {
    /// This node's roles, as in SETTINGS.
    fn roles(&self) -> u64 {
        let seed = if self.store.is_some() { Settings::ROLE_SEED } else { 0 };
        seed | if self.relay.is_some() { Settings::ROLE_ROUTE } else { 0 }
    }
}

/// Tells which FETCHes this node answers itself.
pub trait Holds: fmt::Debug + Send + Sync {
    /// Whether the application of [`QueueRoutes::store`] holds everything that this FETCH selects.
    fn holds(&self, fetch: &Fetch) -> bool;
}

/// A session's view of its worker while it works.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) ports: &'a mut [WorkerPort],
    pub(crate) routes: &'a QueueRoutes,
    pub(crate) rights: &'a RightsInForce,
    pub(crate) counters: &'a Counters,
    /// The verify threads, if there are any.
    pub(crate) checks: Option<&'a mut GroupChecks>,
    /// Chunks that are shorter than this are copied before they are kept, bytes: a reference to one keeps its whole datagram.
    pub(crate) crumb_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Session {
    id: ConnectionId,
    /// The application that opened the connection, and gets all of its deliveries. On the peer's connections [`QueueRoutes`] decides.
    owner: Option<usize>,
    control_out: Option<StreamId>,
    peer: PeerState,
    flow: FlowControl,
    /// Every stream that has not ended.
    streams: FxHashMap<StreamId, Stream>,
    /// Our requests without a complete answer, by application and request number.
    local: FxHashMap<(usize, u64), StreamId>,
    /// The outgoing message stream of each queue.
    messages: FxHashMap<u64, StreamId>,
    message_credit: Credit,
    /// The bytes that all answers have outstanding.
    answers_credit: Credit,
    /// The requests of the peer's node, if it is known.
    seats: Option<RequestSeats>,
    /// When the peer last acknowledged a complete answer.
    answered_at: Option<Instant>,
    /// Streams on which small chunks were collected since the last flush; some may occur twice.
    unflushed: Vec<StreamId>,
    /// Streams that carry on others.
    chains: Chains,
    /// Streams with bytes that QUIC did not take.
    turns: Turns,
    /// Streams that may have bytes to read: those that are [`Queued::Readable`].
    readable: VecDeque<StreamId>,
    /// Streams paused until their consumer has room: those that are [`Queued::Paused`].
    paused: Vec<StreamId>,
    /// Commands that wait for the peer to allow another stream.
    unopened: VecDeque<(usize, Command)>,
    errors: VecDeque<Instant>,
    /// Whether the applications were told of the connection's end.
    closed_told: bool,
    /// Whether QUIC took bytes for whose credit an application may wait.
    credit_returned: bool,
    /// Bytes of streams that QUIC has taken.
    given_bytes: u64,
    /// Whether this side has sent GOAWAY.
    leaving: bool,
    /// Whether the handshake is incomplete: the peer's data may then be a replay.
    early: bool,
    /// Requests that the peer opened so far.
    arrivals: i32,
    silence: Silence,
}

/// The known state of the peer.
#[derive(Debug)]
pub(crate) struct PeerState {
    /// Its node ID, if it showed a certificate.
    node: Option<NodeId>,
    /// What it may ask for.
    grant: Arc<Grant>,
    /// The number of the rights by which it was given that; 0: it was not looked up.
    rights_number: u32,
    control_seen: bool,
    settings: Option<Settings>,
    going_away: bool,
    /// The HAVEs that it may still send (protocol §8).
    haves: TokenBucket,
    /// When requests that it forwarded broke a rule, the latest last.
    routed_errors: VecDeque<Instant>,
    /// Whether its node holds more of the process's memory than its share while it is short: its requests are refused.
    holds_too_much: bool,
    untaken: Untaken,
    /// The bytes of its requests that wait here: for other gateways, or for the application that it puts to.
    requests_credit: Credit,
    /// How to introduce it to applications while its handshake is not complete.
    early: Option<Box<EarlyPeer>>,
}

/// A peer whose messages in early data make applications know of its connection.
#[derive(Debug)]
struct EarlyPeer {
    remote: SocketAddr,
    node: Option<NodeId>,
    credit: Credit,
    /// The applications that know of it.
    told: Vec<usize>,
}

impl EarlyPeer {
    /// The event that introduces it.
    fn connected(&self) -> ConnectionEvent {
        let Self { remote, node, ref credit, .. } = *self;
        let (side, credit) = (Side::Server, credit.clone());
        ConnectionEvent::Connected { tag: None, side, node, peer_gateway: false, remote, credit }
    }
}

impl PeerState {
    /// Whether too many requests that it forwarded broke a rule lately.
    fn forwards_too_many_errors(&mut self, now: Instant) -> bool {
        let window = Duration::from_secs(STREAM_ERROR_WINDOW_S);
        while self.routed_errors.front().is_some_and(|&at| now.duration_since(at) > window) {
            self.routed_errors.pop_front();
        }
        self.routed_errors.len() >= ROUTED_ERRORS_MAX
    }

    fn new() -> Self {
        Self {
            node: None,
            grant: Arc::default(),
            rights_number: 0,
            control_seen: false,
            settings: None,
            going_away: false,
            requests_credit: Credit::shared(ANSWERS_BYTES_MAX),
            haves: TokenBucket::new(HAVE_RATE_PER_S, HAVE_BURST),
            early: None,
            untaken: Untaken::default(),
            routed_errors: VecDeque::new(),
            holds_too_much: false,
        }
    }
}

impl Session {
    pub(crate) fn new(id: ConnectionId, owner: Option<usize>, windows: Windows) -> Self {
        Self {
            id,
            owner,
            control_out: None,
            peer: PeerState::new(),
            flow: FlowControl::new(windows),
            streams: FxHashMap::default(),
            local: FxHashMap::default(),
            messages: FxHashMap::default(),
            message_credit: Credit::default(),
            answers_credit: Credit::shared(ANSWERS_BYTES_MIN),
            seats: None,
            answered_at: None,
            unflushed: Vec::new(),
            chains: Chains::default(),
            turns: Turns::default(),
            readable: VecDeque::new(),
            paused: Vec::new(),
            unopened: VecDeque::new(),
            errors: VecDeque::new(),
            closed_told: false,
            credit_returned: false,
            given_bytes: 0,
            leaving: false,
            early: true,
            arrivals: 0,
            silence: Silence::default(),
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn message_credit(&self) -> Credit {
        self.message_credit.clone()
    }

    /// Memory of what streams hold behind gaps, bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.flow.held_bytes()
    }

    /// The number of requests in flight, of both sides.
    pub(crate) fn requests(&self) -> usize {
        let unanswered = self.streams.values().filter(|stream| stream.is_unanswered()).count();
        self.local.len() + self.unopened_requests() + unanswered
    }

    /// Whether the peer may not have read acknowledged bytes yet.
    pub(crate) fn answered_lately(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now < at + Duration::from_millis(ANSWER_LINGER_MS))
    }

    fn unopened_requests(&self) -> usize {
        self.unopened.iter().filter(|(_, command)| command.opens().is_some()).count()
    }

    /// Whether a stream waits to be read, in the next turn or once a ring has room.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Whether a stream is paused until its consumer has room.
    pub(crate) fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Puts the paused streams that may go on in line. Returns whether any stream is in line.
    pub(crate) fn resume_paused(&mut self, ports: &[WorkerPort]) -> bool {
        let (streams, readable) = (&mut self.streams, &mut self.readable);
        self.paused.retain(|id| {
            let Some(stream) = streams.get_mut(id) else { return false };
            let waits = stream.readiness(ports) == Readiness::Paused;
            if !waits {
                stream.queued = Queued::Readable;
                readable.push_back(*id);
            }
            waits
        });
        !self.readable.is_empty()
    }

    /// Whether credit was returned since the last call: applications that sleep until then must be woken.
    pub(crate) fn take_credit_returned(&mut self) -> bool {
        std::mem::take(&mut self.credit_returned)
    }

    /// Bytes of streams that QUIC has taken so far.
    pub(crate) fn given_bytes(&self) -> u64 {
        self.given_bytes
    }

    /// Whether streams have bytes that QUIC does not take.
    pub(crate) fn waits_for_quic(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether a request waits until the peer allows another stream.
    pub(crate) fn waits_for_streams(&self) -> bool {
        !self.unopened.is_empty()
    }

    /// Opens CONTROL and sends SETTINGS: the first bytes on a connection (protocol §4).
    pub(crate) fn start(&mut self, conn: &mut Connection, cx: &Context<'_>) {
        let Some(id) = conn.streams().open(Dir::Uni) else {
            // A peer that allows no unidirectional stream cannot speak STOQ.
            let reason = Bytes::from_static(b"STOQ needs unidirectional streams");
            conn.close(cx.now, ErrorCode::Limit.into(), reason);
            return;
        };
        self.control_out = Some(id);
        let mut control = Stream::writing(Credit::default());
        if let Sending::Open(outbound) = &mut control.send {
            outbound.write_undivided();
        }
        self.streams.insert(id, control);
        // The peer serves little before it has SETTINGS: no message or request goes first.
        let _ = conn.send_stream(id).set_priority(i32::MAX);
        self.write_record(conn, id, &own_settings(cx.routes), cx);
    }

    /// Notes that the handshake is complete, and the node ID that it proved.
    pub(crate) fn established(&mut self, node: Option<NodeId>) {
        self.early = false;
        self.peer.node = node;
        self.peer.rights_number = 0;
    }

    /// Whether applications may be told of the connection though its handshake is not complete.
    pub(crate) fn may_introduce(&self) -> bool {
        self.peer.early.is_some()
    }

    /// Lets applications that take messages in early data know of the connection with the first of these messages.
    pub(crate) fn meet_early(&mut self, remote: SocketAddr, node: Option<NodeId>) {
        let credit = self.message_credit.clone();
        self.peer.early = Some(Box::new(EarlyPeer { remote, node, credit, told: Vec::new() }));
    }

    /// Whether an application was told of the connection by a message in early data.
    pub(crate) fn is_met_early(&self) -> bool {
        self.peer.early.as_ref().is_some_and(|early| !early.told.is_empty())
    }

    /// The peer refused early data: every stream opened so far is void. The requests may be sent again.
    pub(crate) fn early_refused(&mut self, conn: &mut Connection, cx: &mut Context<'_>) {
        let failure = ErrorRecord::new(ErrorCode::TooEarly, 0, "the peer took no early data; ask again");
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.fail(id, failure.clone(), cx);
        }
        self.streams.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.release(id));
        self.streams.clear();
        self.local.clear();
        self.messages.clear();
        self.unflushed.clear();
        self.turns.clear();
        self.chains.clear();
        self.readable.clear();
        self.paused.clear();
        self.start(conn, cx);
    }

    /// Whether the peer's SETTINGS have arrived.
    pub(crate) fn has_settings(&self) -> bool {
        self.peer.settings.is_some()
    }

    /// Whether this side has sent GOAWAY.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Sends GOAWAY: no new requests, running ones are finished.
    pub(crate) fn go_away(&mut self, conn: &mut Connection, retry_ms: u64, cx: &Context<'_>) {
        self.leaving = true;
        if let Some(id) = self.control_out {
            self.write_record(conn, id, &GoAway { retry_ms }, cx);
        }
    }

    pub(crate) fn stream_event(&mut self, conn: &mut Connection, event: StreamEvent, cx: &mut Context<'_>) {
        match event {
            StreamEvent::Opened { dir } => {
                let mut ever = 0;
                while let Some(id) = conn.streams().accept(dir) {
                    ever = id.index() + 1;
                    self.accept(conn, id, dir);
                }
                stream_room::widen(conn, dir, ever);
            }
            StreamEvent::Readable { id } => self.arrived(conn, id, cx),
            StreamEvent::Writable { id } => self.turns.writable(self.chains.first_written(id)),
            StreamEvent::Stopped { id, error_code } => {
                self.stopped(conn, self.chains.first_written(id), error_code, cx);
            }
            StreamEvent::Available { .. } => {
                self.resume_parts(conn);
                self.open_waiting(conn, cx);
            }
            StreamEvent::Finished { id } => self.acknowledged(id, cx.now),
        }
    }

    fn reading<'s, 'c>(&'s mut self, stream: StreamId, cx: &'s mut Context<'c>) -> Reading<'s, 'c> {
        let (connection, owner, leaving) = (self.id, self.owner, self.leaving);
        Reading { connection, stream, owner, peer: &mut self.peer, flow: &mut self.flow, leaving, cx }
    }

    /// Tells every application that knows the connection of its end.
    pub(crate) fn closed(&mut self, reason: &CloseReason, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.closed_told, true) {
            return;
        }
        self.message_credit.end();
        self.count_abandoned(cx.counters);
        self.tell_applications(|| ConnectionEvent::Closed { reason: reason.clone() }, cx);
    }

    /// The applications that the connection belongs to.
    fn applications(&self, cx: &Context<'_>) -> Range<usize> {
        self.owner.map_or(0..cx.ports.len(), |app| app..app + 1)
    }

    fn tell_applications(&self, event: impl Fn() -> ConnectionEvent, cx: &mut Context<'_>) {
        let told = self.applications(cx);
        for port in &mut cx.ports[told] {
            port.deliver(Delivery::Connection(self.id, event()));
        }
    }

    /// Tells the applications of a connection that has come up, apart from those that know of it by a message in early data.
    pub(crate) fn connected(&mut self, delivery: impl Fn() -> Delivery, cx: &mut Context<'_>) {
        let told = self.applications(cx);
        let known = self.peer.early.take().map_or(Vec::new(), |early| early.told);
        for app in told.filter(|app| !known.contains(app)) {
            cx.ports[app].deliver(delivery());
        }
    }
}

/// The settings that this node announces.
fn own_settings(routes: &QueueRoutes) -> Settings {
    Settings {
        record_bytes_max: Some(crate::limits::CONTROL_RECORD_BYTES_MAX),
        hops_max: routes.relay.map(|_| HOPS_LEN_MAX as u64),
        ranges_max: Some(crate::limits::RANGES_LEN_MAX),
        inflight_max: Some(REQUESTS_LEN_MAX),
        roles: Some(routes.roles()),
        continued: Some(1),
        leases: routes.store.map(|_| 1),
    }
}

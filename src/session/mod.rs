//! STOQ on one connection: which stream is what, records in, commands out.
//!
//! Sans-I/O: the worker hands in quinn-proto's events and the applications' commands; what comes of them goes to the rings
//! and to quinn-proto's streams. Reading stops where a ring is full; writing waits in a backlog that credit bounds.

mod answers;
mod body;
mod commands;
mod fault;
mod inbound;
mod outbound;
mod reading;
mod tally;

use crate::counters::{Counter, Counters};
use crate::hop::Hops;
use crate::limits::{
    ANSWER_LINGER_MS, CHUNKS_PER_TURN_MAX, HAVE_BURST, HAVE_RATE_PER_S, HOPS_LEN_MAX, REQUESTS_LEN_MAX,
    STREAM_ERROR_WINDOW_S, STREAM_ERRORS_MAX,
};
use crate::queue::{
    Command, ConnectionEvent, ConnectionId, Credit, Delivery, End as RequestEnd, RequestId, WorkerPort,
};
use crate::rate::Rate;
use crate::record::{ErrorCode, ErrorRecord, GoAway, RecordReader, RecordType, Settings};
use crate::tls::NodeId;
use bytes::Bytes;
use fault::Fault;
use inbound::Inbound;
use outbound::Outbound;
use quinn_proto::{Connection, Dir, ReadError, StreamEvent, StreamId, VarInt};
use reading::Reading;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tally::Outcome;

/// Which application takes what, the same on every worker.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Queue number to application.
    pub queues: FxHashMap<u64, usize>,
    /// Queues whose messages may come in early data, where they could be replayed.
    pub replay_safe: FxHashSet<u64>,
    /// Queues whose PUTs are taken as they come: unchecked, as [`Delivery::Raw`].
    pub unchecked: FxHashSet<u64>,
    /// The application that answers FETCH, LOCATE and MIRROR, and hears HAVE.
    pub store: Option<usize>,
    /// The application that forwards requests, and by which rules.
    pub relay: Option<usize>,
    /// The rules of forwarding; none: every HOP is refused.
    pub hops: Option<Arc<Hops>>,
}

impl Routes {
    /// What this node does for its peers, as SETTINGS say it.
    fn roles(&self) -> u64 {
        let seed = if self.store.is_some() { Settings::ROLE_SEED } else { 0 };
        seed | if self.relay.is_some() { Settings::ROLE_ROUTE } else { 0 }
    }
}

/// What a session needs of its worker while it works.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) ports: &'a mut [WorkerPort],
    pub(crate) routes: &'a Routes,
    pub(crate) counters: &'a Counters,
}

#[derive(Debug)]
pub(crate) struct Session {
    id: ConnectionId,
    /// The application that opened the connection takes all that comes on it; on the peer's connections [`Routes`] decide.
    owner: Option<usize>,
    control_out: Option<StreamId>,
    peer: PeerState,
    inbound: FxHashMap<StreamId, Inbound>,
    outbound: FxHashMap<StreamId, Outbound>,
    /// Streams of our own requests, by application and request number.
    local: FxHashMap<(usize, u64), StreamId>,
    /// The peer's requests whose answer has not been acknowledged whole, with the application that answers once it is known.
    answering: FxHashMap<StreamId, Option<usize>>,
    /// When the peer last acknowledged an answer whole.
    answered_at: Option<Instant>,
    /// One outgoing message stream a queue.
    messages: FxHashMap<u64, StreamId>,
    message_credit: Credit,
    /// Streams on which small chunks were gathered since the last flush; some may be named twice.
    gathering: Vec<StreamId>,
    /// Streams that may have something to read.
    readable: VecDeque<StreamId>,
    /// Streams that wait for whoever takes on what they bring.
    paced: Vec<StreamId>,
    /// Commands that wait for the peer to allow another stream.
    unopened: VecDeque<(usize, Command)>,
    errors: VecDeque<Instant>,
    /// The applications know that the connection is gone.
    closed_told: bool,
    /// QUIC took bytes that an application may be waiting to follow.
    credit_returned: bool,
    /// This side said GOAWAY.
    leaving: bool,
    /// The handshake is not over: what the peer sends now could be a replay.
    early: bool,
    /// Requests that the peer opened so far.
    arrivals: i32,
}

/// What is known of the peer.
#[derive(Debug)]
pub(crate) struct PeerState {
    /// Its node ID, if it showed a certificate.
    node: Option<NodeId>,
    control_seen: bool,
    settings: Option<Settings>,
    going_away: bool,
    /// How many HAVE it may still send (protocol §8).
    haves: Rate,
    /// Its requests that have not ended, for the counters.
    asked: FxHashMap<StreamId, RecordType>,
}

impl Session {
    pub(crate) fn new(id: ConnectionId, owner: Option<usize>) -> Self {
        Self {
            id,
            owner,
            control_out: None,
            peer: PeerState {
                node: None,
                control_seen: false,
                settings: None,
                going_away: false,
                haves: Rate::new(HAVE_RATE_PER_S, HAVE_BURST),
                asked: FxHashMap::default(),
            },
            inbound: FxHashMap::default(),
            outbound: FxHashMap::default(),
            local: FxHashMap::default(),
            answering: FxHashMap::default(),
            answered_at: None,
            messages: FxHashMap::default(),
            message_credit: Credit::default(),
            gathering: Vec::new(),
            readable: VecDeque::new(),
            paced: Vec::new(),
            unopened: VecDeque::new(),
            errors: VecDeque::new(),
            closed_told: false,
            credit_returned: false,
            leaving: false,
            early: true,
            arrivals: 0,
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn message_credit(&self) -> Credit {
        self.message_credit.clone()
    }

    /// Requests in flight, of both sides.
    pub(crate) fn requests(&self) -> usize {
        self.local.len() + self.unopened_requests() + self.answering.len()
    }

    /// Whether the peer may not have read yet what it acknowledged.
    pub(crate) fn answered_lately(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now < at + Duration::from_millis(ANSWER_LINGER_MS))
    }

    fn unopened_requests(&self) -> usize {
        self.unopened.iter().filter(|(_, command)| command.opens().is_some()).count()
    }

    /// Whether reading waits for a ring to get room, or for the next turn.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Whether reading waits for somebody to take on what was read.
    pub(crate) fn is_paced(&self) -> bool {
        !self.paced.is_empty()
    }

    /// Puts the streams in line again that may go on. Returns whether there is one.
    pub(crate) fn resume_paced(&mut self) -> bool {
        let (inbound, readable) = (&self.inbound, &mut self.readable);
        self.paced.retain(|id| {
            let waits = inbound.get(id).is_some_and(|inbound| !inbound.may_go_on());
            if !waits {
                readable.push_back(*id);
            }
            waits
        });
        !self.readable.is_empty()
    }

    /// Whether credit came back since the last call: applications that sleep for it must be woken.
    pub(crate) fn take_credit_returned(&mut self) -> bool {
        std::mem::take(&mut self.credit_returned)
    }

    /// Opens CONTROL and says SETTINGS: the first thing on a connection (protocol §4).
    pub(crate) fn start(&mut self, conn: &mut Connection, cx: &Context<'_>) {
        let Some(id) = conn.streams().open(Dir::Uni) else {
            // A peer that allows no unidirectional stream cannot speak STOQ.
            let reason = Bytes::from_static(b"STOQ needs unidirectional streams");
            conn.close(cx.now, ErrorCode::Limit.into(), reason);
            return;
        };
        self.control_out = Some(id);
        self.outbound.insert(id, Outbound::new(Credit::default()));
        self.write_record(conn, id, &own_settings(cx.routes), cx);
    }

    /// The handshake is over, and proved this peer.
    pub(crate) fn established(&mut self, node: Option<NodeId>) {
        self.early = false;
        self.peer.node = node;
    }

    /// The peer took no early data: every stream opened so far is gone. Who asked something may ask again.
    pub(crate) fn early_refused(&mut self, conn: &mut Connection, cx: &mut Context<'_>) {
        let failure = ErrorRecord::new(ErrorCode::TooEarly, 0, "the peer took no early data; ask again");
        for (id, mut inbound) in std::mem::take(&mut self.inbound) {
            inbound.fail(self.id, id, failure.clone(), cx);
        }
        self.outbound.clear();
        self.local.clear();
        self.messages.clear();
        self.gathering.clear();
        self.readable.clear();
        self.paced.clear();
        self.start(conn, cx);
    }

    /// Says GOAWAY: no new requests, finish what runs.
    pub(crate) fn go_away(&mut self, conn: &mut Connection, retry_ms: u64, cx: &Context<'_>) {
        self.leaving = true;
        if let Some(id) = self.control_out {
            self.write_record(conn, id, &GoAway { retry_ms }, cx);
        }
    }

    pub(crate) fn stream_event(&mut self, conn: &mut Connection, event: StreamEvent, cx: &mut Context<'_>) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = conn.streams().accept(dir) {
                    self.accept(conn, id, dir);
                }
            }
            StreamEvent::Readable { id } => self.line_up(id),
            StreamEvent::Writable { id } => self.pump(conn, id),
            StreamEvent::Stopped { id, error_code } => self.stopped(conn, id, error_code, cx),
            StreamEvent::Available { .. } => {
                for _ in 0..self.unopened.len() {
                    if let Some((app, command)) = self.unopened.pop_front() {
                        self.command(conn, app, command, cx);
                    }
                }
            }
            StreamEvent::Finished { id } => {
                if self.answering.remove(&id).is_some() {
                    self.answered_at = Some(cx.now);
                }
            }
        }
    }

    fn accept(&mut self, conn: &mut Connection, id: StreamId, dir: Dir) {
        let credit = Credit::default();
        if dir == Dir::Bi {
            self.outbound.insert(id, Outbound::new(credit.clone()));
            self.answering.insert(id, None);
            // Answers to one peer go out in the order of its requests.
            self.arrivals = self.arrivals.saturating_sub(1);
            let _ = conn.send_stream(id).set_priority(self.arrivals);
        }
        // A client that is through with its handshake is no replay, and neither is what it sent before.
        let early = self.early && conn.side().is_server();
        self.inbound.insert(id, Inbound::start(dir, credit, early));
        self.line_up(id);
    }

    /// Has a stream read at the next turn. Each stands in line once, however often more of it arrives.
    fn line_up(&mut self, id: StreamId) {
        if let Some(inbound) = self.inbound.get_mut(&id)
            && !std::mem::replace(&mut inbound.in_line, true)
        {
            self.readable.push_back(id);
        }
    }

    /// Takes a QUIC datagram: one MESSAGE, or it is dropped under its counter.
    pub(crate) fn datagram(&mut self, datagram: Bytes, cx: &mut Context<'_>) {
        let mut reader = RecordReader::new();
        reader.push(datagram);
        let whole = match reader.next_header() {
            Ok(Some(header)) if header.record_type == RecordType::Message => reader.take_body(),
            _ => None,
        };
        let Some(payload) = whole.filter(|_| reader.is_at_record_border()) else {
            return cx.counters.add(Counter::DropDatagramMalformed, 1);
        };
        cx.counters.add(Counter::RecordsIn, 1);
        let early = self.early;
        let no_stream = StreamId::new(quinn_proto::Side::Client, Dir::Uni, 0);
        let mut reading = self.reading(no_stream, cx);
        match inbound::message(payload, early, &mut reading) {
            Ok((app, message)) if cx.ports[app].room() > 0 => cx.ports[app].deliver(message),
            Ok(_) => cx.counters.add(Counter::DropDatagramRingFull, 1),
            Err(_) => cx.counters.add(Counter::DropDatagramRefused, 1),
        }
    }

    fn reading<'s, 'c>(&'s mut self, stream: StreamId, cx: &'s mut Context<'c>) -> Reading<'s, 'c> {
        let (connection, owner, leaving) = (self.id, self.owner, self.leaving);
        Reading { connection, stream, owner, peer: &mut self.peer, leaving, cx }
    }

    /// Reads what may be read. Streams whose ring is full stay in line.
    pub(crate) fn read(&mut self, conn: &mut Connection, cx: &mut Context<'_>) -> bool {
        let mut worked = false;
        for _ in 0..self.readable.len() {
            // Applications have heard the last of a closed connection: nothing on it would ever be taken back.
            if self.closed_told {
                self.readable.clear();
            }
            let Some(id) = self.readable.pop_front() else { break };
            worked |= self.read_stream(conn, id, cx);
        }
        worked
    }

    fn read_stream(&mut self, conn: &mut Connection, id: StreamId, cx: &mut Context<'_>) -> bool {
        let Some(mut inbound) = self.inbound.remove(&id) else { return false };
        inbound.in_line = false;
        let mut reading = self.reading(id, cx);
        let mut chunks_left = CHUNKS_PER_TURN_MAX;
        let mut end = End::Blocked;
        {
            let mut stream = conn.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { return false };
            loop {
                if !inbound.wants_bytes() {
                    end = End::Waiting;
                    break;
                }
                if !inbound.may_go_on() {
                    end = End::Paced;
                    break;
                }
                if chunks_left == 0 || !inbound.has_room(reading.cx.ports) {
                    reading.cx.counters.add(Counter::RingStalls, u64::from(chunks_left > 0));
                    end = End::Later;
                    break;
                }
                if let Err(fault) = inbound.resume(&mut reading) {
                    end = End::Fault(fault);
                    break;
                }
                chunks_left -= 1;
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        if let Err(fault) = inbound.feed(chunk.bytes, &mut reading) {
                            end = End::Fault(fault);
                            break;
                        }
                    }
                    Ok(None) => {
                        end = match inbound.finish() {
                            Ok(()) => End::Finished,
                            Err(fault) => End::Fault(fault),
                        };
                        break;
                    }
                    Err(ReadError::Blocked) => break,
                    Err(ReadError::Reset(code)) => {
                        end = End::Reset(code);
                        break;
                    }
                }
            }
            let _ = chunks.finalize();
        }
        inbound.settle(&mut reading);
        let worked = chunks_left < CHUNKS_PER_TURN_MAX;
        self.after_read(conn, id, inbound, end, cx);
        worked
    }

    fn after_read(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        mut inbound: Inbound,
        end: End,
        cx: &mut Context<'_>,
    ) {
        match end {
            End::Blocked | End::Waiting => {
                self.inbound.insert(id, inbound);
            }
            End::Paced => {
                self.inbound.insert(id, inbound);
                if !self.paced.contains(&id) {
                    self.paced.push(id);
                }
            }
            End::Later => {
                self.inbound.insert(id, inbound);
                self.line_up(id);
            }
            End::Finished => {
                inbound.ended(self.id, id, cx);
                self.forget_local(&inbound);
                // An answer that is whole ends a request of ours, though not all of it may have been sent.
                if inbound.local_request().is_some() {
                    self.abort_out(conn, id, ErrorCode::None);
                }
                if let Some(app) = self.answering.get_mut(&id) {
                    *app = inbound.app();
                }
            }
            End::Reset(_) if inbound.is_control() => {
                self.fault(conn, id, &mut inbound, Fault::control_reset(), cx);
            }
            End::Reset(code) => {
                self.forget_local(&inbound);
                self.tally(id, Outcome::Abandoned, cx.counters);
                let code = ErrorCode::from_u64(code.into_inner()).unwrap_or(ErrorCode::Internal);
                let failure = ErrorRecord::new(code, 0, "the peer gave the stream up");
                inbound.fail(self.id, id, failure, cx);
                self.abort_out(conn, id, ErrorCode::None);
            }
            End::Fault(fault) => self.fault(conn, id, &mut inbound, fault, cx),
        }
    }

    /// Ends a stream on which the peer broke the protocol or sent bytes that prove false.
    fn fault(
        &mut self,
        conn: &mut Connection,
        id: StreamId,
        inbound: &mut Inbound,
        fault: Fault,
        cx: &mut Context<'_>,
    ) {
        cx.counters.add(Counter::ProtocolErrors, 1);
        self.forget_local(inbound);
        let failure = ErrorRecord::new(fault.code, 0, fault.reason.clone());
        inbound.fail(self.id, id, failure.clone(), cx);
        let _ = conn.recv_stream(id).stop(fault.code.into());
        if inbound.is_peer_request() {
            self.refuse(conn, id, &failure, cx);
        } else {
            self.abort_out(conn, id, fault.code);
        }
        // Protocol §8: who passes on what others wrote is not charged for it.
        if !inbound.is_routed() {
            self.count_error(conn, fault, cx);
        }
    }

    /// Protocol §8: three stream errors in a minute close the connection; an error on CONTROL does at once.
    fn count_error(&mut self, conn: &mut Connection, fault: Fault, cx: &mut Context<'_>) {
        if !fault.counts() {
            return;
        }
        let window = Duration::from_secs(STREAM_ERROR_WINDOW_S);
        while self.errors.front().is_some_and(|&at| cx.now.duration_since(at) > window) {
            self.errors.pop_front();
        }
        self.errors.push_back(cx.now);
        if fault.fatal || self.errors.len() >= STREAM_ERRORS_MAX {
            self.closed(&format!("closed here: {}", fault.reason), cx);
            conn.close(cx.now, fault.code.into(), Bytes::from(fault.reason));
        }
    }

    fn stopped(&mut self, conn: &mut Connection, id: StreamId, code: VarInt, cx: &mut Context<'_>) {
        let code = ErrorCode::from_u64(code.into_inner()).unwrap_or(ErrorCode::Internal);
        let answering = self.answering.remove(&id);
        self.tally(id, Outcome::Abandoned, cx.counters);
        self.abort_out(conn, id, code);
        self.messages.retain(|_, stream| *stream != id);
        // Our own request: an ERROR record may still be on its way, so what we read decides. A peer that stops our answer
        // has lost interest: its application is told.
        if let Some(mut inbound) = self.inbound.remove(&id) {
            if inbound.is_peer_request() {
                let failure = ErrorRecord::new(code, 0, "the peer gave the request up");
                inbound.fail(self.id, id, failure, cx);
                let _ = conn.recv_stream(id).stop(code.into());
            } else {
                if let Some((app, request)) = inbound.raw_answer_to() {
                    cx.ports[app].deliver(Delivery::Stopped(request, code));
                }
                self.inbound.insert(id, inbound);
            }
        } else if let Some(Some(app)) = answering {
            let failure = ErrorRecord::new(code, 0, "the peer gave the answer up");
            let request = RequestId { connection: self.id, number: id.into() };
            cx.ports[app].deliver(Delivery::Ended(request, RequestEnd::Failed(failure)));
        }
    }

    fn forget_local(&mut self, inbound: &Inbound) {
        if let Some((app, request)) = inbound.local_request() {
            self.local.remove(&(app, request.number));
        }
    }

    /// The connection is gone: everyone who knew of it is told.
    pub(crate) fn closed(&mut self, reason: &str, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.closed_told, true) {
            return;
        }
        self.message_credit.end();
        self.tally_rest(cx.counters);
        let connection = self.id;
        let told = match self.owner {
            Some(app) => app..app + 1,
            None => 0..cx.ports.len(),
        };
        for port in &mut cx.ports[told] {
            port.deliver(Delivery::Connection(connection, ConnectionEvent::Closed { reason: reason.into() }));
        }
    }

    /// Tells the applications of a connection that came up.
    pub(crate) fn connected(&self, delivery: impl Fn() -> Delivery, cx: &mut Context<'_>) {
        let told = match self.owner {
            Some(app) => app..app + 1,
            None => 0..cx.ports.len(),
        };
        for port in &mut cx.ports[told] {
            port.deliver(delivery());
        }
    }
}

/// How a reading of a stream ended.
enum End {
    /// Nothing more has arrived.
    Blocked,
    /// The application must answer first.
    Waiting,
    /// The ring is full, or others have their turn first.
    Later,
    /// Whoever takes it on has no room.
    Paced,
    Finished,
    Reset(VarInt),
    Fault(Fault),
}

/// Which settings this node announces.
fn own_settings(routes: &Routes) -> Settings {
    Settings {
        record_bytes_max: Some(crate::limits::CONTROL_RECORD_BYTES_MAX),
        hops_max: routes.relay.map(|_| HOPS_LEN_MAX as u64),
        ranges_max: Some(crate::limits::RANGES_LEN_MAX),
        inflight_max: Some(REQUESTS_LEN_MAX),
        roles: Some(routes.roles()),
    }
}

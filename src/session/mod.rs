//! STOQ on one connection: which stream is what, records in, commands out.
//!
//! Sans-I/O: the worker hands in quinn-proto's events and the applications' commands; what comes of them goes to the rings
//! and to quinn-proto's streams. Reading stops where a ring is full; writing waits in a backlog that credit bounds.

mod inbound;
mod outbound;

use crate::counters::{Counter, Counters};
use crate::limits::{CHUNKS_PER_TURN_MAX, REQUESTS_LEN_MAX, STREAM_ERROR_WINDOW_S, STREAM_ERRORS_MAX};
use crate::queue::{Command, ConnectionId, Credit, Delivery, RequestId, WorkerPort};
use crate::record::{Done, ErrorCode, ErrorRecord, Fetch, GoAway, MessageHeader, OkRecord, Put, Settings};
use bytes::Bytes;
use inbound::{Fault, Inbound, Reading};
use outbound::Outbound;
use quinn_proto::{Connection, Dir, ReadError, StreamEvent, StreamId, VarInt};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Which application takes what, the same on every worker.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Queue number to application.
    pub queues: FxHashMap<u64, usize>,
    /// The application that answers FETCH.
    pub store: Option<usize>,
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
    /// Streams of our own requests, by request number.
    local: FxHashMap<u64, StreamId>,
    /// The peer's requests whose answer has not been acknowledged whole, with the application that answers once it is known.
    answering: FxHashMap<StreamId, Option<usize>>,
    /// One outgoing message stream a queue.
    messages: FxHashMap<u64, StreamId>,
    message_credit: Credit,
    /// Streams that may have something to read.
    readable: VecDeque<StreamId>,
    /// Commands that wait for the peer to allow another stream.
    unopened: VecDeque<(usize, Command)>,
    errors: VecDeque<Instant>,
    /// The applications know that the connection is gone.
    closed_told: bool,
    /// QUIC took bytes that an application may be waiting to follow.
    credit_returned: bool,
}

/// What the peer said of itself on its CONTROL stream.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    control_seen: bool,
    settings: Option<Settings>,
    going_away: bool,
}

impl Session {
    pub(crate) fn new(id: ConnectionId, owner: Option<usize>) -> Self {
        Self {
            id,
            owner,
            control_out: None,
            peer: PeerState::default(),
            inbound: FxHashMap::default(),
            outbound: FxHashMap::default(),
            local: FxHashMap::default(),
            answering: FxHashMap::default(),
            messages: FxHashMap::default(),
            message_credit: Credit::default(),
            readable: VecDeque::new(),
            unopened: VecDeque::new(),
            errors: VecDeque::new(),
            closed_told: false,
            credit_returned: false,
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
        self.local.len() + self.unopened.len() + self.answering.len()
    }

    /// Whether reading waits for a ring to get room, or for the next turn.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Whether credit came back since the last call: applications that sleep for it must be woken.
    pub(crate) fn take_credit_returned(&mut self) -> bool {
        std::mem::take(&mut self.credit_returned)
    }

    /// Opens CONTROL and says SETTINGS: the first thing on a connection (protocol §4).
    pub(crate) fn start(&mut self, conn: &mut Connection, settings: &Settings, cx: &Context<'_>) {
        let Some(id) = conn.streams().open(Dir::Uni) else {
            // A peer that allows no unidirectional stream cannot speak STOQ.
            let reason = Bytes::from_static(b"STOQ needs unidirectional streams");
            conn.close(cx.now, ErrorCode::Limit.into(), reason);
            return;
        };
        self.control_out = Some(id);
        self.outbound.insert(id, Outbound::new(Credit::default()));
        self.write_record(conn, id, settings, cx);
    }

    /// Says GOAWAY: no new requests, finish what runs.
    pub(crate) fn go_away(&mut self, conn: &mut Connection, retry_ms: u64, cx: &Context<'_>) {
        if let Some(id) = self.control_out {
            self.write_record(conn, id, &GoAway { retry_ms }, cx);
        }
    }

    pub(crate) fn stream_event(&mut self, conn: &mut Connection, event: StreamEvent, cx: &mut Context<'_>) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = conn.streams().accept(dir) {
                    self.accept(id, dir);
                }
            }
            StreamEvent::Readable { id } => self.readable.push_back(id),
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
                self.answering.remove(&id);
            }
        }
    }

    fn accept(&mut self, id: StreamId, dir: Dir) {
        let credit = Credit::default();
        if dir == Dir::Bi {
            self.outbound.insert(id, Outbound::new(credit.clone()));
            self.answering.insert(id, None);
        }
        self.inbound.insert(id, Inbound::start(dir, credit));
        self.readable.push_back(id);
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
        let mut reading =
            Reading { connection: self.id, stream: id, owner: self.owner, peer: &mut self.peer, cx };
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
            End::Later => {
                self.inbound.insert(id, inbound);
                self.readable.push_back(id);
            }
            End::Finished => {
                self.forget_local(&inbound);
                if let Some(app) = self.answering.get_mut(&id) {
                    *app = inbound.app();
                }
            }
            End::Reset(_) if inbound.is_control() => {
                self.fault(conn, id, &mut inbound, Fault::control_reset(), cx);
            }
            End::Reset(code) => {
                self.forget_local(&inbound);
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
        self.count_error(conn, fault, cx);
    }

    /// Protocol §8: three stream errors in a minute close the connection; an error on CONTROL does at once.
    fn count_error(&mut self, conn: &mut Connection, fault: Fault, cx: &mut Context<'_>) {
        // To ask for a queue or a store that is not here breaks no rule.
        if fault.code == ErrorCode::NotFound {
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
                self.inbound.insert(id, inbound);
            }
        } else if let Some(Some(app)) = answering {
            let failure = ErrorRecord::new(code, 0, "the peer gave the answer up");
            let request = RequestId { connection: self.id, number: id.into() };
            cx.ports[app].deliver(Delivery::Failed { request, failure });
        }
    }

    /// Carries out what an application asks.
    pub(crate) fn command(
        &mut self,
        conn: &mut Connection,
        app: usize,
        command: Command,
        cx: &mut Context<'_>,
    ) {
        match command {
            Command::Connect { .. } => unreachable!("the worker itself connects"),
            Command::Disconnect { .. } => {
                self.closed("closed here", cx);
                conn.close(cx.now, ErrorCode::None.into(), Bytes::new());
            }
            Command::Message { queue, payload, .. } => self.send_message(conn, app, queue, payload, cx),
            Command::Put { request, .. } | Command::Fetch { request, .. } => {
                self.open(conn, app, request, command, cx)
            }
            Command::Accept { request } => self.accept_put(conn, request, cx),
            Command::Answer { request, length } => {
                if let Some(id) = self.stream_of(request) {
                    self.write_record(conn, id, &OkRecord { length_bytes: length, descriptor: None }, cx);
                    self.begin_encoding(id);
                }
            }
            Command::Data { request, bytes } => {
                if let Some(id) = self.stream_of(request) {
                    self.write(conn, id, bytes);
                }
            }
            Command::Finish { request } => {
                if let Some(id) = self.stream_of(request) {
                    self.finish(conn, id);
                }
            }
            Command::Done { request, bytes, token } => {
                if let Some(id) = self.stream_of(request) {
                    self.write_record(conn, id, &Done { bytes, token: token.into() }, cx);
                    self.finish(conn, id);
                    // A payload that was here already: its bytes need not come.
                    if self.inbound.get(&id).is_some_and(|inbound| !inbound.is_complete()) {
                        self.inbound.remove(&id);
                        let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                    }
                }
            }
            Command::Refuse { request, failure } => {
                if let Some(id) = self.stream_of(request) {
                    self.inbound.remove(&id);
                    let _ = conn.recv_stream(id).stop(failure.code.into());
                    self.refuse(conn, id, &failure, cx);
                }
            }
            Command::Cancel { request } => {
                if let Some(id) = self.stream_of(request) {
                    if let Some(inbound) = self.inbound.remove(&id) {
                        self.forget_local(&inbound);
                    }
                    let _ = conn.recv_stream(id).stop(ErrorCode::None.into());
                    self.abort_out(conn, id, ErrorCode::None);
                }
                // One that waits for the peer to allow another stream is never opened.
                self.unopened.retain(|(_, command)| command.opens() != Some(request));
            }
        }
    }

    fn open(
        &mut self,
        conn: &mut Connection,
        app: usize,
        request: RequestId,
        command: Command,
        cx: &mut Context<'_>,
    ) {
        let refusal = if self.peer.going_away {
            Some((ErrorCode::GoingAway, "the peer takes no new requests"))
        } else if (self.local.len() + self.unopened.len()) as u64 >= REQUESTS_LEN_MAX {
            Some((ErrorCode::Busy, "too many requests in flight on this connection"))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            let failure = ErrorRecord::new(code, 0, reason);
            cx.ports[app].deliver(Delivery::Failed { request, failure });
            return;
        }
        let Some(id) = conn.streams().open(Dir::Bi) else {
            self.unopened.push_back((app, command));
            return;
        };
        self.local.insert(request.number, id);
        match command {
            Command::Put { queue, descriptor, lease_s, credit, .. } => {
                self.outbound.insert(id, Outbound::new(credit));
                self.inbound.insert(id, Inbound::put_answer(app, request));
                self.write_record(conn, id, &Put { queue, lease_s, descriptor, lanes: None }, cx);
            }
            Command::Fetch { token, ranges, max_bytes, .. } => {
                self.outbound.insert(id, Outbound::new(Credit::default()));
                let fetch = Fetch { token: token.into(), bytes_max: max_bytes, lanes: None, ranges };
                self.write_record(conn, id, &fetch, cx);
                self.inbound.insert(id, Inbound::fetch_answer(app, request, token, fetch.ranges));
                self.finish(conn, id);
            }
            _ => unreachable!("only PUT and FETCH open streams"),
        }
    }

    fn accept_put(&mut self, conn: &mut Connection, request: RequestId, cx: &mut Context<'_>) {
        let Some(id) = self.stream_of(request) else { return };
        if let Some(inbound) = self.inbound.get_mut(&id) {
            inbound.accept_put();
            self.readable.push_back(id);
            self.write_record(conn, id, &OkRecord { length_bytes: 0, descriptor: None }, cx);
        }
    }

    fn send_message(
        &mut self,
        conn: &mut Connection,
        app: usize,
        queue: u64,
        payload: Bytes,
        cx: &Context<'_>,
    ) {
        let id = match self.messages.get(&queue) {
            Some(&id) => id,
            None => {
                let Some(id) = conn.streams().open(Dir::Uni) else {
                    let command = Command::Message { connection: self.id, queue, payload };
                    self.unopened.push_back((app, command));
                    return;
                };
                self.messages.insert(queue, id);
                self.outbound.insert(id, Outbound::new(self.message_credit.clone()));
                id
            }
        };
        let mut front = Vec::with_capacity(16);
        MessageHeader { queue, token: None }.emit_record_front(payload.len(), &mut front);
        cx.counters.add(Counter::RecordsOut, 1);
        self.write_own(conn, id, front.into());
        self.write(conn, id, payload);
    }

    fn stream_of(&self, request: RequestId) -> Option<StreamId> {
        if request.is_local() {
            return self.local.get(&request.number).copied();
        }
        let id = StreamId::from(VarInt::from_u64(request.number).ok()?);
        self.outbound.contains_key(&id).then_some(id)
    }

    fn forget_local(&mut self, inbound: &Inbound) {
        if let Some(request) = inbound.local_request() {
            self.local.remove(&request.number);
        }
    }

    /// The connection is gone: everyone who knew of it is told.
    pub(crate) fn closed(&mut self, reason: &str, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.closed_told, true) {
            return;
        }
        self.message_credit.end();
        let connection = self.id;
        let told = match self.owner {
            Some(app) => app..app + 1,
            None => 0..cx.ports.len(),
        };
        for port in &mut cx.ports[told] {
            port.deliver(Delivery::Closed { connection, reason: reason.into() });
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
    Finished,
    Reset(VarInt),
    Fault(Fault),
}

/// Which settings this build announces.
pub(crate) fn own_settings() -> Settings {
    Settings {
        record_bytes_max: Some(crate::limits::CONTROL_RECORD_BYTES_MAX),
        ranges_max: Some(crate::limits::RANGES_LEN_MAX),
        inflight_max: Some(REQUESTS_LEN_MAX),
        ..Settings::default()
    }
}

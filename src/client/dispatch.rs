//! The worker's side of a client: an application that carries the tasks' calls to the rings, and what comes back to the tasks.
//!
//! It runs on the worker's own thread, one instance a worker, and never waits. Everything it keeps is bounded: requests by their
//! number, fetched bytes by each request's credit, bytes to be put by a short channel each, messages by a room a connection.

use super::call::{Answer, Batch, Call, Event, FetchAnswer, HostedGather, PutAnswer, Room, Up};
use super::dial::{Attempt, Dials};
use super::fetch::Piece;
use crate::application::{Application, Outbox};
use crate::limits::CLIENT_PIECES_LEN;
use crate::queue::{
    self, AppPort, Ask, CloseReason, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit,
    Delivery, End, Ending, RequestId,
};
use crate::record::{Done, ErrorCode, ErrorRecord, OkRecord, Payload};
use crate::tls::NodeId;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// Bytes of one PUT given to the worker before the next has its turn.
const TURN_BYTES: usize = 1 << 20;
/// Set in the number of a request that is asked for the second time: the first one's stream may not have ended yet.
const AGAIN: u64 = 1 << 62;
/// Set in the numbers of requests that a gathering makes.
const GATHER: u64 = 1 << 61;

/// See the module.
pub(super) struct Dispatch {
    calls: mpsc::UnboundedReceiver<Call>,
    dials: Dials,
    connections: FxHashMap<ConnectionId, Connection>,
    /// Commands that found the ring full; nothing more is taken from either side while one waits.
    unsent: Outbox,
    /// A message that found its connection's inbox full: no delivery is taken until it fits.
    blocked: Option<(ConnectionId, u64, Payload)>,
    /// PUTs that the peer has accepted and whose bytes are not all sent.
    putting: Vec<RequestId>,
    /// FETCHes that hold events back.
    holding: Vec<RequestId>,
    /// Connections with messages that wait to be sent.
    talking: Vec<ConnectionId>,
    gathers: Vec<HostedGather>,
    /// Requests of the gatherings so far.
    gather_requests: u64,
}

struct Connection {
    credit: Credit,
    /// Opened for early data: a request may be refused as too early.
    early: bool,
    closed: watch::Sender<Option<CloseReason>>,
    messages: mpsc::UnboundedSender<(u64, Payload)>,
    room: Arc<Room>,
    outbox: VecDeque<(u64, Bytes, OwnedSemaphorePermit)>,
    requests: FxHashMap<u64, Request>,
}

struct Request {
    /// As the worker knows it.
    id: RequestId,
    answer: Answer,
    /// To be asked once more if the peer says that it was too early.
    again: Option<Box<Ask>>,
}

/// The request as its task numbered it.
fn first(request: RequestId) -> RequestId {
    RequestId { number: request.number & !AGAIN, ..request }
}

impl Dispatch {
    pub(super) fn new(calls: mpsc::UnboundedReceiver<Call>) -> Self {
        Self {
            calls,
            dials: Dials::default(),
            connections: FxHashMap::default(),
            unsent: Outbox::default(),
            blocked: None,
            putting: Vec::new(),
            holding: Vec::new(),
            talking: Vec::new(),
            gathers: Vec::new(),
            gather_requests: GATHER,
        }
    }

    fn send(&mut self, port: &mut AppPort, command: Command) {
        self.unsent.send(port, command);
    }

    /// Returns whether there is room for more.
    fn send_unsent(&mut self, port: &mut AppPort) -> bool {
        self.unsent.flush(port)
    }

    fn take_calls(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while self.send_unsent(port)
            && let Ok(call) = self.calls.try_recv()
        {
            worked = true;
            self.call(port, call);
        }
        worked
    }

    fn call(&mut self, port: &mut AppPort, call: Call) {
        match call {
            Call::Connect(dial) => self.dials.begin(dial),
            Call::Resolved { dial, found } => self.dials.resolved(dial, found),
            // On a connection that is gone the answer's channel ends here, and the task learns why.
            Call::Ask { request, ask, answer } => {
                let Some(connection) = self.connections.get_mut(&request.connection) else { return };
                let again = connection.early.then(|| ask.clone());
                connection.requests.insert(request.number, Request { id: request, answer, again });
                self.send(port, Command::Ask(request, ask));
            }
            Call::Cancel { request } => {
                if let Some(given_up) = self.end(request) {
                    self.send(port, Command::End(given_up.id, Ending::Cancel));
                }
            }
            Call::Message { connection: id, queue, payload, place } => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if connection.outbox.is_empty() {
                    self.talking.push(id);
                }
                connection.outbox.push_back((queue, payload, place));
            }
            Call::Datagram { connection, queue, payload, place } => {
                if self.connections.contains_key(&connection) {
                    let datagram = ConnectionCommand::Datagram { queue, payload };
                    self.send(port, Command::On(connection, datagram));
                }
                // The worker takes it, or drops it, in this turn.
                drop(place);
            }
            Call::Gather(gathered) => self.gathers.push(*gathered),
            Call::AddHolder { id, source } => {
                if let Some(gathered) = self.gathers.iter_mut().find(|gathered| gathered.id == id) {
                    gathered.gather.add(*source);
                }
            }
            Call::SealGather { id } => {
                if let Some(gathered) = self.gathers.iter_mut().find(|gathered| gathered.id == id) {
                    gathered.gather.set_awaits_more(false);
                }
            }
            // Its events have nobody to go to: that ends it.
            Call::EndGather { id } => {
                if let Some(gathered) = self.gathers.iter_mut().find(|gathered| gathered.id == id) {
                    gathered.gather.cancel();
                }
            }
            Call::Disconnect { connection } => {
                if self.connections.contains_key(&connection) {
                    self.send(port, Command::On(connection, ConnectionCommand::Disconnect));
                }
            }
        }
    }

    fn request(&mut self, request: RequestId) -> Option<&mut Request> {
        self.connections.get_mut(&request.connection)?.requests.get_mut(&request.number)
    }

    fn end(&mut self, request: RequestId) -> Option<Request> {
        self.connections.get_mut(&request.connection)?.requests.remove(&request.number)
    }

    fn take_deliveries(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while self.send_unsent(port)
            && self.unblock()
            && let Some(delivery) = port.receive()
        {
            worked = true;
            self.deliver(now, port, delivery);
        }
        worked
    }

    /// Returns whether no message waits for its inbox.
    fn unblock(&mut self) -> bool {
        if let Some((connection, queue, payload)) = self.blocked.take() {
            self.message(connection, queue, payload);
        }
        self.blocked.is_none()
    }

    fn message(&mut self, id: ConnectionId, queue: u64, payload: Payload) {
        let Some(connection) = self.connections.get(&id) else { return };
        // Nobody is left to take it.
        if connection.messages.is_closed() {
            return;
        }
        if connection.room.is_full() {
            self.blocked = Some((id, queue, payload));
            return;
        }
        connection.room.take(payload.len());
        let _ = connection.messages.send((queue, payload));
    }

    fn deliver(&mut self, now: Instant, port: &mut AppPort, delivery: Delivery) {
        let mut delivery = delivery;
        for gathered in &mut self.gathers {
            match gathered.gather.handle(now, delivery) {
                Ok(()) => return,
                Err(back) => delivery = back,
            }
        }
        match delivery {
            Delivery::Connection(connection, event) => self.heard(port, connection, event),
            Delivery::ConnectFailed { tag, reason } => self.dials.failed(tag, reason),
            Delivery::Asked(request, _) | Delivery::Forward(request, _) => {
                let failure = ErrorRecord::new(ErrorCode::NotAuthorized, 0, "a client serves no requests");
                self.send(port, Command::refuse(request, failure));
            }
            Delivery::Answered(request, queue::Answer::Ok(ok)) => self.accepted(request, ok),
            Delivery::Answered(request, queue::Answer::Done(done)) => self.done(request, done),
            Delivery::Answered(request, queue::Answer::Holders(holders)) => {
                if let Some(Request { answer: Answer::Holders(reply), .. }) = self.end(first(request)) {
                    let _ = reply.send(Ok(holders.holders));
                }
            }
            Delivery::Piece { request, shard, piece } => {
                self.event(request, Event::Piece(Piece::new(shard, piece)));
            }
            Delivery::Ended(request, End::Failed(failure)) => self.failed(port, request, failure),
            Delivery::Ended(request, End::Checked) => self.last_event(request, Event::Complete),
            // A client opens no stream that is not read.
            Delivery::Ended(_, End::Raw) | Delivery::Raw(..) | Delivery::Stopped(..) => {}
        }
    }

    fn heard(&mut self, port: &mut AppPort, id: ConnectionId, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { tag: Some(tag), node, remote, credit, .. } => {
                self.connected(port, id, tag, (node, remote), credit);
            }
            ConnectionEvent::Message { queue, payload } => self.message(id, queue, payload),
            ConnectionEvent::Closed { reason } => {
                // The reason first: who sees a channel end looks for it.
                if let Some(connection) = self.connections.remove(&id) {
                    connection.closed.send_replace(Some(reason));
                }
            }
            // A client has only connections that it asked for, and keeps no directory.
            ConnectionEvent::Connected { tag: None, .. } | ConnectionEvent::Have { .. } => {}
        }
    }

    fn connected(
        &mut self,
        port: &mut AppPort,
        id: ConnectionId,
        tag: u64,
        (node, remote): (Option<NodeId>, SocketAddr),
        credit: Credit,
    ) {
        let Some(dial) = self.dials.connected(tag) else {
            // It came up after its time.
            return self.send(port, Command::On(id, ConnectionCommand::Disconnect));
        };
        let (tell_closed, closed) = watch::channel(None);
        let (give_messages, messages) = mpsc::unbounded_channel();
        let room = Arc::<Room>::default();
        let connection = Connection {
            credit,
            early: dial.early,
            closed: tell_closed,
            messages: give_messages,
            room: room.clone(),
            outbox: VecDeque::new(),
            requests: FxHashMap::default(),
        };
        self.connections.insert(id, connection);
        if dial.reply.send(Ok(Up { connection: id, node, remote, closed, messages, room })).is_err() {
            self.send(port, Command::On(id, ConnectionCommand::Disconnect));
        }
    }

    fn accepted(&mut self, request: RequestId, ok: OkRecord) {
        let id = first(request);
        match self.request(id).map(|found| &mut found.answer) {
            Some(Answer::Put(put)) => {
                let told = put.accepted.take().is_some_and(|accepted| accepted.send(()).is_ok());
                self.putting.extend(told.then_some(id));
            }
            Some(Answer::Fetch(_)) => self.event(request, Event::Accepted(ok)),
            _ => {}
        }
    }

    fn event(&mut self, request: RequestId, event: Event) {
        let id = first(request);
        let Some(Request { answer: Answer::Fetch(fetch), .. }) = self.request(id) else { return };
        fetch.held.push(event);
        if fetch.held.len() >= CLIENT_PIECES_LEN {
            fetch.flush();
        }
        if !std::mem::replace(&mut fetch.listed, true) {
            self.holding.push(id);
        }
    }

    fn last_event(&mut self, request: RequestId, event: Event) {
        if let Some(Request { answer: Answer::Fetch(mut fetch), .. }) = self.end(first(request)) {
            fetch.held.push(event);
            fetch.flush();
        }
    }

    fn done(&mut self, request: RequestId, done: Done) {
        let answer = self.end(first(request)).map(|request| request.answer);
        if let Some(Answer::Put(PutAnswer { done: reply, .. }) | Answer::Done(reply)) = answer {
            let _ = reply.send(Ok(done));
        }
    }

    fn failed(&mut self, port: &mut AppPort, request: RequestId, failure: ErrorRecord) {
        let id = first(request);
        // Refused as too early, it has had no effect; and who hears that is through with the handshake.
        if failure.code == ErrorCode::TooEarly
            && let Some(found) = self.request(id)
            && let Some(ask) = found.again.take()
        {
            found.id.number |= AGAIN;
            let id = found.id;
            return self.send(port, Command::Ask(id, ask));
        }
        match self.end(id).map(|request| request.answer) {
            Some(Answer::Fetch(mut fetch)) => {
                fetch.held.push(Event::Failed(failure));
                fetch.flush();
            }
            Some(Answer::Put(PutAnswer { done: reply, .. }) | Answer::Done(reply)) => {
                let _ = reply.send(Err(failure));
            }
            Some(Answer::Holders(reply)) => {
                let _ = reply.send(Err(failure));
            }
            None => {}
        }
    }

    /// Sends what is being put, as far as ring and credit go.
    fn put(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        for at in (0..self.putting.len()).rev() {
            let id = self.putting[at];
            let Some(Request { id: request, answer: Answer::Put(put), .. }) = self.request(id) else {
                self.putting.swap_remove(at);
                continue;
            };
            let request = *request;
            match put.turn(request, port) {
                PutTurn::Blocked => {}
                PutTurn::Sent => worked = true,
                PutTurn::Over => {
                    worked = true;
                    self.putting.swap_remove(at);
                    self.send(port, Command::End(request, Ending::Finish));
                }
                PutTurn::GivenUp => {
                    self.putting.swap_remove(at);
                }
            }
        }
        worked
    }

    fn poll_gathers(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        let numbers = &mut self.gather_requests;
        self.gathers.retain_mut(|gathered| {
            let (did, goes_on) = gathered.poll(now, port, numbers);
            worked |= did;
            goes_on
        });
        worked
    }

    fn send_messages(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        let connections = &mut self.connections;
        self.talking.retain(|id| {
            let Some(connection) = connections.get_mut(id) else { return false };
            while let Some((queue, payload, place)) = connection.outbox.pop_front() {
                if let Err(payload) = port.send_message(*id, &connection.credit, queue, payload) {
                    connection.outbox.push_front((queue, payload, place));
                    return true;
                }
                worked = true;
            }
            false
        });
        worked
    }

    /// Makes the attempts that are due, as far as the ring takes them, and ends those that nobody needs.
    fn dial(&mut self, now: Instant, port: &mut AppPort) -> bool {
        self.dials.expire(now);
        let mut worked = false;
        while self.send_unsent(port)
            && let Some(tag) = self.dials.next_abandoned()
        {
            worked = true;
            self.send(port, Command::Abandon { tag });
        }
        while self.send_unsent(port)
            && let Some(Attempt { tag, remote, early }) = self.dials.next_attempt(now)
        {
            worked = true;
            self.send(port, Command::Connect { tag, remote, early });
        }
        worked
    }

    fn flush(&mut self) {
        for id in std::mem::take(&mut self.holding) {
            if let Some(Request { answer: Answer::Fetch(fetch), .. }) = self.request(id) {
                fetch.listed = false;
                fetch.flush();
            }
        }
    }
}

impl FetchAnswer {
    /// Hands on what is held. A task that is gone has sent, or will send, [`Call::Cancel`].
    fn flush(&mut self) {
        if !self.held.is_empty() {
            let _ = self.events.send(std::mem::take(&mut self.held));
        }
    }
}

enum PutTurn {
    Sent,
    /// The ring, the credit or the task has nothing for it now.
    Blocked,
    Over,
    GivenUp,
}

impl PutAnswer {
    fn turn(&mut self, request: RequestId, port: &mut AppPort) -> PutTurn {
        let mut sent = 0;
        while sent < TURN_BYTES {
            let Some(bytes) = self.unsent.pop_front() else {
                match self.data.try_recv() {
                    Ok(Batch::Bytes(bytes)) => self.unsent = bytes.into(),
                    Ok(Batch::End) => return PutTurn::Over,
                    Err(TryRecvError::Disconnected) => return PutTurn::GivenUp,
                    Err(TryRecvError::Empty) => break,
                }
                continue;
            };
            let len = bytes.len();
            if let Err(bytes) = port.send_data(request, &self.credit, bytes) {
                self.unsent.push_front(bytes);
                break;
            }
            sent += len;
        }
        if sent > 0 { PutTurn::Sent } else { PutTurn::Blocked }
    }
}

impl Application for Dispatch {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.take_calls(port);
        let delivered = self.take_deliveries(now, port);
        worked |= delivered;
        if self.unsent.is_empty() {
            worked |= self.put(port);
            worked |= self.send_messages(port);
            worked |= self.poll_gathers(now, port);
        }
        worked |= self.dial(now, port);
        // A turn that brought nothing ends a run: the tasks may have it.
        if !delivered && !self.holding.is_empty() {
            self.flush();
            worked = true;
        }
        worked
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let gathers = self.gathers.iter().filter_map(|gathered| gathered.gather.poll_timeout());
        self.dials.poll_timeout().into_iter().chain(gathers).min()
    }
}

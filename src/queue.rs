//! The bounded lock-free rings between workers and applications, and what travels on them.
//!
//! An application has one pair of rings a worker: deliveries towards it, commands away from it. Both are bounded. A full
//! delivery ring makes the worker stop reading streams, so QUIC flow control stops the sender; a full command ring or
//! spent credit makes the application wait. Nothing on either way is dropped.

use crate::limits::{COMMAND_RING_LEN, DELIVERY_RING_LEN, OUTSTANDING_BYTES_MAX, RELAY_WINDOW_BYTES};
use crate::record::{ErrorCode, ErrorRecord, Have, Holder, Hop, Mirror, Payload};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::tls::NodeId;
use crate::token::{AnyToken, Ranges, VerifiedPiece};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::{Parker, Unparker};
use quinn_proto::Side;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering, fence};
use std::time::Duration;

/// Deliveries that gather before a busy worker wakes their application.
const WAKE_LEN: usize = 16;

/// A connection, by the worker that owns it. Never reused while the process lives, short of 2^32 reuses of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The worker that owns the connection.
    pub worker: u16,
    /// Its place in that worker's table.
    pub slot: u32,
    /// Tells this connection from earlier ones in the same place.
    pub generation: u32,
}

/// A request on a connection: one bidirectional stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The connection.
    pub connection: ConnectionId,
    /// The peer's requests carry their QUIC stream ID; an application numbers its own with [`RequestId::local`].
    pub number: u64,
}

impl RequestId {
    const LOCAL: u64 = 1 << 63;

    /// Names a request that this side opens. `n` is the application's own count, below 2^63, unique among its requests on the
    /// connection.
    pub fn local(connection: ConnectionId, n: u64) -> Self {
        Self { connection, number: n | Self::LOCAL }
    }

    /// Whether this side opened the request.
    pub fn is_local(self) -> bool {
        self.number & Self::LOCAL != 0
    }
}

/// How many bytes an application has outstanding on one way out: given to the worker, not yet taken by QUIC.
///
/// The application adds when it sends, the worker subtracts when QUIC has taken the bytes. It bounds what waits inside the
/// worker for one slow peer, so that the command ring never has to stop for it.
#[derive(Clone, Debug, Default)]
pub struct Credit(Arc<AtomicIsize>);

impl Credit {
    /// Whether another send is allowed now.
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < OUTSTANDING_BYTES_MAX as isize
    }

    /// Whether a relay may read on for this way out: the bound of what it holds of one stream.
    pub(crate) fn has_relay_room(&self) -> bool {
        self.0.load(Ordering::Acquire) < RELAY_WINDOW_BYTES as isize
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.fetch_add(bytes as isize, Ordering::AcqRel);
    }

    /// Returns whether that made the first half free again: time to wake an application that waits for credit.
    pub fn give_back(&self, bytes: usize) -> bool {
        const HALF: isize = OUTSTANDING_BYTES_MAX as isize / 2;
        let before = self.0.fetch_sub(bytes as isize, Ordering::AcqRel);
        before >= HALF && before - (bytes as isize) < HALF
    }

    /// Its connection is gone: what is still sent goes nowhere, and nobody may wait for it to come back.
    pub(crate) fn end(&self) {
        self.0.store(isize::MIN / 2, Ordering::Release);
    }
}

/// What a worker tells an application.
#[derive(Debug)]
pub enum Delivery {
    /// A connection is up and authenticated.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// The tag of the [`Command::Connect`] that asked for it; none for a connection that the peer opened.
        tag: Option<u64>,
        /// Which side this is.
        side: Side,
        /// The peer's node ID, if it showed a certificate.
        node: Option<NodeId>,
        /// This side opened it to a configured neighbour.
        neighbor: bool,
        /// The peer's address.
        remote: SocketAddr,
        /// Credit for messages on this connection.
        credit: Credit,
    },
    /// A connection that this application asked for did not come up.
    ConnectFailed {
        /// The tag of the [`Command::Connect`].
        tag: u64,
        /// Why, and what to do.
        reason: String,
    },
    /// A connection is gone; nothing more comes of its requests.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// A message.
    Message {
        /// Where it came from.
        connection: ConnectionId,
        /// The queue it names.
        queue: u64,
        /// The payload, as it arrived: its token, if it named one, has been checked.
        payload: Payload,
    },
    /// The peer wants to put a payload, or lanes of one, here. Answer with [`Command::Accept`], [`Command::Refuse`], or
    /// [`Command::Done`] if it is kept already.
    Put {
        /// The request.
        request: RequestId,
        /// The peer's node ID, if it showed a certificate.
        node: Option<NodeId>,
        /// What the payload is and how it is sharded.
        descriptor: Box<Descriptor>,
        /// The lanes that will come; none: the payload itself.
        lanes: Option<Lanes>,
        /// How long the peer asks it to be kept, seconds.
        lease_s: u64,
    },
    /// The peer asks for a payload, or lanes of one. Answer with [`Command::Answer`] and data, or [`Command::Refuse`].
    Fetch {
        /// The request.
        request: RequestId,
        /// What it asks for.
        token: AnyToken,
        /// Which lanes of it; none: the payload itself.
        lanes: Option<Lanes>,
        /// Which groups of the payload, or which stripes of the lanes.
        ranges: Ranges,
        /// The most payload bytes it wants; 0 for no bound.
        max_bytes: u64,
        /// It asks only what it is: [`Command::Answer`] and [`Command::Finish`], no data.
        describe: bool,
        /// It came in early data, which somebody may have replayed (protocol §7).
        early: bool,
        /// Credit for the answer's data.
        credit: Credit,
    },
    /// The peer asks who holds something. Answer with [`Command::Holders`] or [`Command::Refuse`].
    Locate {
        /// The request.
        request: RequestId,
        /// What.
        token: AnyToken,
    },
    /// The peer asks this node to fetch something elsewhere and hold it. Answer with [`Command::Done`] or
    /// [`Command::Refuse`].
    Mirror {
        /// The request.
        request: RequestId,
        /// The peer's node ID, if it showed a certificate.
        node: Option<NodeId>,
        /// What, and from where.
        mirror: Box<Mirror>,
    },
    /// A peer with a certificate says what it holds, or no longer holds.
    Have {
        /// By which connection.
        connection: ConnectionId,
        /// Who says so.
        node: NodeId,
        /// What.
        have: Have,
    },
    /// The peer's request is to be forwarded: its HOP record allows it. What follows it comes as [`Delivery::Raw`].
    Relay {
        /// The request.
        request: RequestId,
        /// The gateway to forward to.
        next: NodeId,
        /// The HOP record for it.
        hop: Box<Hop>,
        /// Credit for the answer, towards the peer.
        answer: Credit,
        /// Credit for what the peer sends: whoever forwards it takes it and gives it back. Reading waits for it.
        onward: Credit,
    },
    /// Bytes of a relayed stream, as they came.
    Raw {
        /// The request.
        request: RequestId,
        /// The bytes.
        bytes: Payload,
    },
    /// A relayed stream ended well.
    RawEnd {
        /// The request.
        request: RequestId,
    },
    /// The peer wants no more of what a relay sends it on a request of ours.
    RawStopped {
        /// The request.
        request: RequestId,
        /// Why.
        code: ErrorCode,
    },
    /// The peer said OK to a request of ours.
    Accepted {
        /// The request.
        request: RequestId,
        /// For a FETCH: the payload's length, bytes.
        length: u64,
        /// For a FETCH of a set: what the set is; it matches the set token.
        descriptor: Option<Box<Descriptor>>,
    },
    /// Bytes that have been checked against the request's token.
    Piece {
        /// The request.
        request: RequestId,
        /// The bytes, where they belong, and the hashes that proved them.
        piece: VerifiedPiece,
    },
    /// Bytes of one shard that have been checked against the content token or the parity token. Shards come in any order.
    Shard {
        /// The request.
        request: RequestId,
        /// Which shard.
        shard: ShardIndex,
        /// The blob that it is a part of; the piece's offset counts in it.
        blob: Blob,
        /// The bytes, where they belong, and the hashes that proved them.
        piece: VerifiedPiece,
    },
    /// The peer's answer to a LOCATE of ours.
    Holders {
        /// The request.
        request: RequestId,
        /// Who holds it, to the peer's knowledge.
        holders: Vec<Holder>,
    },
    /// Every byte of the request has arrived and has been checked.
    Complete {
        /// The request.
        request: RequestId,
    },
    /// The peer has checked and durably kept what was put.
    Done {
        /// The request.
        request: RequestId,
        /// Payload bytes.
        bytes: u64,
        /// The payload's token, or the set token of lanes.
        token: AnyToken,
    },
    /// The request is over without success: refused, reset, or its bytes did not match the token.
    Failed {
        /// The request.
        request: RequestId,
        /// Why.
        failure: ErrorRecord,
    },
}

/// What an application tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Open a connection. Answered by [`Delivery::Connected`] or [`Delivery::ConnectFailed`].
    Connect {
        /// Comes back in the answer.
        tag: u64,
        /// The peer's address.
        remote: SocketAddr,
        /// Answer at once where an earlier session allows early data: what is asked before the handshake is over could be
        /// replayed, and peers refuse most of it (protocol §7).
        early: bool,
    },
    /// Have a connection to a configured neighbour, now. [`Delivery::Connected`] comes once it is up, to every application.
    Reach {
        /// Which.
        node: NodeId,
    },
    /// Close a connection gracefully.
    Disconnect {
        /// Which.
        connection: ConnectionId,
    },
    /// Send a message. Made by [`AppPort::send_message`], which minds the credit.
    Message {
        /// To whom.
        connection: ConnectionId,
        /// Which of the peer's queues.
        queue: u64,
        /// At most [`crate::limits::MESSAGE_BYTES_MAX`].
        payload: Bytes,
    },
    /// Send a message in a QUIC datagram: it may be lost, and is dropped where it is larger than the path carries.
    Datagram {
        /// To whom.
        connection: ConnectionId,
        /// Which of the peer's queues.
        queue: u64,
        /// The payload.
        payload: Bytes,
    },
    /// Ask the peer to take a payload, or lanes of one. Data follows after [`Delivery::Accepted`].
    Put {
        /// A [`RequestId::local`].
        request: RequestId,
        /// By which gateways, if not this peer alone.
        hop: Option<Box<Hop>>,
        /// Which of the peer's queues takes it.
        queue: u64,
        /// The payload's token, its length and how it is sharded.
        descriptor: Box<Descriptor>,
        /// The lanes that follow; none: the payload itself.
        lanes: Option<Lanes>,
        /// How long to keep it, seconds.
        lease_s: u64,
        /// Credit for its data.
        credit: Credit,
    },
    /// Ask the peer for a payload, or lanes of one.
    Fetch {
        /// A [`RequestId::local`].
        request: RequestId,
        /// By which gateways, if not this peer alone.
        hop: Option<Box<Hop>>,
        /// What.
        token: AnyToken,
        /// Which lanes, and what their set is, which the answer must match; none: the payload itself.
        lanes: Option<(Lanes, Box<Descriptor>)>,
        /// Which groups of the payload, or which stripes of the lanes.
        ranges: Ranges,
        /// The most payload bytes wanted; 0 for no bound.
        max_bytes: u64,
        /// Ask only what it is: [`Delivery::Accepted`], then [`Delivery::Complete`].
        describe: bool,
        /// Reading takes credit for every payload byte and waits while it is spent; the application gives it back with
        /// [`Credit::give_back`]. None: the ring alone bounds what waits.
        pace: Option<Credit>,
    },
    /// Ask the peer who holds something. Answered by [`Delivery::Holders`].
    Locate {
        /// A [`RequestId::local`].
        request: RequestId,
        /// By which gateways, if not this peer alone.
        hop: Option<Box<Hop>>,
        /// What.
        token: AnyToken,
    },
    /// Ask the peer to fetch something elsewhere and hold it. Answered by [`Delivery::Done`].
    Mirror {
        /// A [`RequestId::local`].
        request: RequestId,
        /// By which gateways, if not this peer alone.
        hop: Option<Box<Hop>>,
        /// What, and from where.
        mirror: Box<Mirror>,
    },
    /// Open a stream for a relayed request: [`Command::Raw`] writes it, [`Delivery::Raw`] is what comes back.
    Open {
        /// A [`RequestId::local`].
        request: RequestId,
        /// Credit for what is sent on it.
        credit: Credit,
        /// The answer is read only while this has room.
        pace: Credit,
    },
    /// Read a relayed answer at another pace: the one who set it has gone.
    Pace {
        /// The request.
        request: RequestId,
        /// The answer is read only while this has room.
        pace: Credit,
    },
    /// Bytes of a relayed stream. Whoever sends them takes the credit; the reader minds it.
    Raw {
        /// The request.
        request: RequestId,
        /// The bytes.
        bytes: Payload,
    },
    /// Read a relayed request here after all, as if its route ended here.
    Take {
        /// The request.
        request: RequestId,
        /// What of it was delivered.
        bytes: Payload,
    },
    /// Read no more of what a peer sends on its request; its answer goes on.
    Stop {
        /// The request.
        request: RequestId,
        /// Why.
        code: ErrorCode,
    },
    /// Tell the peer what this node holds, or no longer holds.
    Have {
        /// Whom.
        connection: ConnectionId,
        /// What.
        have: Have,
    },
    /// Answer the peer's LOCATE.
    Holders {
        /// The request.
        request: RequestId,
        /// Who holds it.
        holders: Vec<Holder>,
    },
    /// Take the peer's PUT: its bytes may come.
    Accept {
        /// The request.
        request: RequestId,
    },
    /// Answer the peer's FETCH: data follows.
    Answer {
        /// The request.
        request: RequestId,
        /// The payload's whole length, bytes.
        length: u64,
        /// What the set is, where a set was asked for.
        descriptor: Option<Box<Descriptor>>,
    },
    /// The next bytes of a verified encoding. Made by [`AppPort::send_data`], which minds the credit.
    Data {
        /// The request.
        request: RequestId,
        /// The bytes.
        bytes: Bytes,
    },
    /// The verified encoding is complete.
    Finish {
        /// The request.
        request: RequestId,
    },
    /// The peer's PUT has been checked and is durably kept.
    Done {
        /// The request.
        request: RequestId,
        /// Payload bytes.
        bytes: u64,
        /// The payload's token, or the set token of lanes.
        token: AnyToken,
    },
    /// Refuse or abandon the peer's request.
    Refuse {
        /// The request.
        request: RequestId,
        /// Why.
        failure: ErrorRecord,
    },
    /// Give up a request of ours.
    Cancel {
        /// The request.
        request: RequestId,
    },
}

impl Command {
    /// The connection that this is about; none for those that ask for one.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connect { .. } | Self::Reach { .. } => None,
            Self::Disconnect { connection }
            | Self::Message { connection, .. }
            | Self::Datagram { connection, .. }
            | Self::Have { connection, .. } => Some(*connection),
            Self::Put { request, .. }
            | Self::Fetch { request, .. }
            | Self::Locate { request, .. }
            | Self::Mirror { request, .. }
            | Self::Open { request, .. }
            | Self::Pace { request, .. }
            | Self::Raw { request, .. }
            | Self::Stop { request, .. }
            | Self::Take { request, .. }
            | Self::Holders { request, .. }
            | Self::Accept { request }
            | Self::Answer { request, .. }
            | Self::Data { request, .. }
            | Self::Finish { request }
            | Self::Done { request, .. }
            | Self::Refuse { request, .. }
            | Self::Cancel { request } => Some(request.connection),
        }
    }

    /// Whether this opens that request of ours, or follows it on its stream.
    pub(crate) fn is_of(&self, request: RequestId) -> bool {
        match self {
            Self::Raw { request: of, .. } | Self::Finish { request: of } | Self::Pace { request: of, .. } => {
                *of == request
            }
            _ => self.opens() == Some(request),
        }
    }

    /// The request of ours that this opens.
    pub(crate) fn opens(&self) -> Option<RequestId> {
        match self {
            Self::Put { request, .. }
            | Self::Fetch { request, .. }
            | Self::Locate { request, .. }
            | Self::Mirror { request, .. }
            | Self::Open { request, .. } => Some(*request),
            _ => None,
        }
    }
}

/// Wakes a thread that sleeps on its rings; costs a fence when it does not sleep.
#[derive(Clone, Debug)]
pub struct Waker {
    sleeping: Arc<AtomicBool>,
    unparker: Unparker,
}

/// The sleeping side of a [`Waker`].
#[derive(Debug)]
pub struct Sleeper {
    waker: Waker,
    parker: Parker,
}

impl Default for Sleeper {
    fn default() -> Self {
        let parker = Parker::new();
        let waker = Waker { sleeping: Arc::default(), unparker: parker.unparker().clone() };
        Self { waker, parker }
    }
}

impl Sleeper {
    /// A handle that ends the sleep.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Sleeps up to `limit`, unless `ready` already holds or a wake comes. `ready` is asked after the flag is up, so that a
    /// push between the last look and the sleep is never missed.
    pub fn sleep(&self, limit: Duration, ready: impl Fn() -> bool) {
        self.waker.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !ready() {
            self.parker.park_timeout(limit);
        }
        self.waker.sleeping.store(false, Ordering::Relaxed);
    }
}

impl Waker {
    /// Ends the sleep, if there is one.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.unparker.unpark();
        }
    }
}

/// The application's ends of its two rings to one worker.
#[derive(Debug)]
pub struct AppPort {
    deliveries: Arc<ArrayQueue<Delivery>>,
    commands: Arc<ArrayQueue<Command>>,
    worker: Waker,
    sleeper: Sleeper,
    pushed: bool,
}

/// The worker's ends of the same rings.
#[derive(Debug)]
pub(crate) struct WorkerPort {
    deliveries: Arc<ArrayQueue<Delivery>>,
    commands: Arc<ArrayQueue<Command>>,
    application: Waker,
    /// Events that found the ring full: at most a few for each open connection and request. While any wait, nothing is
    /// read for this application.
    held: VecDeque<Delivery>,
    /// Something changed for the application this turn.
    touched: bool,
    /// The application may be waiting for it.
    pub(crate) urgent: bool,
}

/// Makes the two rings of one application on one worker.
pub(crate) fn rings(worker: Waker) -> (AppPort, WorkerPort) {
    let deliveries = Arc::new(ArrayQueue::new(DELIVERY_RING_LEN));
    let commands = Arc::new(ArrayQueue::new(COMMAND_RING_LEN));
    let sleeper = Sleeper::default();
    let application = sleeper.waker();
    (
        AppPort {
            deliveries: deliveries.clone(),
            commands: commands.clone(),
            worker,
            sleeper,
            pushed: false,
        },
        WorkerPort {
            deliveries,
            commands,
            application,
            held: VecDeque::new(),
            touched: false,
            urgent: false,
        },
    )
}

impl AppPort {
    /// The next delivery, if one waits.
    pub fn receive(&mut self) -> Option<Delivery> {
        // A look is cheaper than an attempt, which has a fence, and most looks find nothing.
        if self.deliveries.is_empty() {
            return None;
        }
        let delivery = self.deliveries.pop();
        // The worker may have stopped reading because this ring was full.
        self.pushed |= delivery.is_some();
        delivery
    }

    /// How many commands the ring takes now.
    pub fn room(&self) -> usize {
        self.commands.capacity() - self.commands.len()
    }

    /// Gives the worker a command, or gives it back when the ring is full: keep it and try again at the next poll.
    #[expect(clippy::result_large_err, reason = "a command that the ring does not take goes back whole")]
    pub fn send(&mut self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        self.pushed = true;
        Ok(())
    }

    /// Sends payload bytes of a request, or gives them back while the ring or the credit is spent.
    pub fn send_data(&mut self, request: RequestId, credit: &Credit, bytes: Bytes) -> Result<(), Bytes> {
        let len = bytes.len();
        if !credit.has_room() {
            return Err(bytes);
        }
        credit.take(len);
        self.send(Command::Data { request, bytes }).map_err(|command| {
            credit.give_back(len);
            match command {
                Command::Data { bytes, .. } => bytes,
                _ => Bytes::new(),
            }
        })
    }

    /// Sends a message, or gives it back while the ring or the credit is spent.
    pub fn send_message(
        &mut self,
        connection: ConnectionId,
        credit: &Credit,
        queue: u64,
        payload: Bytes,
    ) -> Result<(), Bytes> {
        let len = payload.len();
        if !credit.has_room() {
            return Err(payload);
        }
        credit.take(len);
        self.send(Command::Message { connection, queue, payload }).map_err(|command| {
            credit.give_back(len);
            match command {
                Command::Message { payload, .. } => payload,
                _ => Bytes::new(),
            }
        })
    }

    /// Wakes the worker if anything was pushed or taken since the last call. The host of an application calls this after
    /// every poll.
    pub fn notify(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.worker.wake();
        }
    }

    /// Sleeps until the worker has something, up to `limit`.
    pub fn wait(&mut self, limit: Duration) {
        self.notify();
        let deliveries = &self.deliveries;
        self.sleeper.sleep(limit, || !deliveries.is_empty());
    }

    /// Ends [`AppPort::wait`] from another thread.
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }
}

impl WorkerPort {
    /// How many deliveries the ring takes now. Only the worker pushes, so the room can only grow meanwhile.
    pub(crate) fn room(&self) -> usize {
        if self.held.is_empty() { self.deliveries.capacity() - self.deliveries.len() } else { 0 }
    }

    /// Delivers, in order. Stream data comes only while [`WorkerPort::room`] allows; events may always come.
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        self.touched = true;
        self.held.push_back(delivery);
        self.push_held();
    }

    /// Moves held events on. Returns whether the ring has room again.
    pub(crate) fn push_held(&mut self) -> bool {
        while let Some(delivery) = self.held.pop_front() {
            if let Err(delivery) = self.deliveries.push(delivery) {
                self.held.push_front(delivery);
                return false;
            }
        }
        !self.deliveries.is_full()
    }

    pub(crate) fn command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            return None;
        }
        let was_full = self.commands.is_full();
        let command = self.commands.pop();
        self.touched |= command.is_some();
        self.urgent |= was_full;
        command
    }

    /// Deliveries that wait for the application, and commands that wait for the worker.
    pub(crate) fn depths(&self) -> (usize, usize) {
        (self.deliveries.len() + self.held.len(), self.commands.len())
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Wakes the application if anything changed for it. While the worker is busy, deliveries gather first: a wake and its two
    /// context switches then serve many of them. The first turn without work sends the rest on their way.
    pub(crate) fn notify(&mut self, busy: bool) {
        if self.urgent || self.touched && (!busy || self.deliveries.len() >= WAKE_LEN) {
            (self.touched, self.urgent) = (false, false);
            self.application.wake();
        }
    }
}

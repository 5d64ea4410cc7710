//! Connect, put, fetch, message: what the command line and other programs call.
//!
//! The calls block their own thread, never a worker: a [`Client`] is a [`Node`] whose one application is the caller.

use crate::datagram::{Network, NetworkInfo};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::node::{Host, Hosted, Node, NodeConfig};
use crate::queue::{AppPort, Command, ConnectionId, Credit, Delivery, RequestId};
use crate::record::{Descriptor, ErrorCode, ErrorRecord, RecordError};
use crate::tls::NodeId;
use crate::token::{AnyToken, Outboard, Piece, Ranges, Token, VerifiedEncoder, VerifiedPiece};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a call sleeps at most before it looks at its deadline and for an interrupt.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Bytes of a file read at a time.
const READ_BYTES: u64 = 1 << 20;
/// Encoding pieces asked for at a time, bytes.
const ENCODE_BYTES: usize = 256 * 1024;
/// The queue on which gateways take PUTs unless told otherwise.
pub const PUT_QUEUE: u64 = 0;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came up.
    #[error("cannot connect to {remote}: {reason}")]
    Connect {
        /// Where to.
        remote: SocketAddr,
        /// Why, and what to do.
        reason: String,
    },
    /// The connection ended under the call.
    #[error("the connection to {remote} ended: {reason}")]
    Lost {
        /// The peer.
        remote: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The peer refused or gave up the request, or what it sent was false.
    #[error("{}: {}", .0.code.name(), .0.reason())]
    Refused(ErrorRecord),
    /// The peer keeps something else than what was put.
    #[error("the gateway confirms {got} instead of {put}; do not rely on this copy")]
    WrongReceipt {
        /// What was put.
        put: Token,
        /// What the peer says it keeps.
        got: AnyToken,
    },
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file changed between hashing and sending.
    #[error("{path} changed while it was being sent; put it again")]
    Changed {
        /// The file.
        path: String,
    },
    /// What the caller does with fetched bytes failed.
    #[error("cannot keep what was fetched: {0}")]
    Sink(io::Error),
    /// A payload or message past its bound.
    #[error(transparent)]
    TooLong(#[from] RecordError),
    /// A message past its bound.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes, not {0}; put a payload instead")]
    MessageTooLong(usize),
    /// Nothing came within the time given.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The caller's own interrupt, such as Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Threads cannot be started.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// A connection to a gateway.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The connection.
    pub connection: ConnectionId,
    /// The gateway's node ID.
    pub node: Option<NodeId>,
    /// Its address.
    pub remote: SocketAddr,
    credit: Credit,
}

/// A payload ready to be put: hashed, its tree at hand.
#[derive(Debug)]
pub struct Prepared {
    file: File,
    path: String,
    /// Its token.
    pub token: Token,
    /// Its length, bytes.
    pub length: u64,
    outboard: Outboard,
}

impl Prepared {
    /// Hashes a file.
    ///
    /// # Errors
    /// [`ClientError::File`] when it cannot be read.
    pub fn file(path: &Path) -> Result<Self, ClientError> {
        let name = path.display().to_string();
        let failed = |source| ClientError::File { path: name.clone(), source };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let (token, outboard) =
            Outboard::build(&mut file, length).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { file, path: name, token, length, outboard })
    }
}

/// How a PUT ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The payload crossed, was checked, and is durable.
    Now,
    /// The gateway had it already, checked and durable: nothing crossed.
    Already,
}

/// What came of a FETCH so far.
#[derive(Debug)]
pub enum Fetched {
    /// The payload's whole length, bytes; first.
    Length(u64),
    /// Checked bytes, in rising order.
    Piece(VerifiedPiece),
}

/// A client: a node whose application is the caller.
pub struct Client {
    node: Node,
    ports: Vec<AppPort>,
    interrupt: Arc<AtomicBool>,
    connects: u64,
    requests: u64,
    /// Messages that arrived while a call waited for something else.
    messages: VecDeque<(ConnectionId, u64, Bytes)>,
}

impl Client {
    /// Starts workers on these networks. A set `interrupt` ends whatever call is running.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start<N>(
        networks: Vec<N>,
        config: &NodeConfig,
        interrupt: Arc<AtomicBool>,
    ) -> Result<Self, ClientError>
    where
        N: Network + Send + 'static,
    {
        let hosted = Hosted {
            name: "client".into(),
            queues: Vec::new(),
            store: false,
            replay_safe: false,
            host: Host::Caller,
        };
        let mut node = Node::start(networks, config, vec![hosted])?;
        let ports = node.take_ports();
        Ok(Self { node, ports, interrupt, connects: 0, requests: 0, messages: VecDeque::new() })
    }

    /// Which network this client is on.
    pub fn network(&self) -> &NetworkInfo {
        &self.node.networks()[0]
    }

    /// The node, for its counters.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Connects. Connections take the workers in turn.
    ///
    /// # Errors
    /// [`ClientError::Connect`] with the reason, [`ClientError::Timeout`], [`ClientError::Interrupted`].
    pub fn connect(&mut self, remote: SocketAddr, timeout: Duration) -> Result<Peer, ClientError> {
        let worker = self.connects as usize % self.ports.len();
        self.connects += 1;
        let tag = self.connects;
        let deadline = Instant::now() + timeout;
        self.command(worker, Command::Connect { tag, remote, early: false })?;
        loop {
            match self.next(worker, Some(deadline), timeout)? {
                Delivery::Connected { connection, tag: Some(t), node, remote, credit, .. } if t == tag => {
                    return Ok(Peer { connection, node, remote, credit });
                }
                Delivery::ConnectFailed { tag: t, reason } if t == tag => {
                    return Err(ClientError::Connect { remote, reason });
                }
                _ => {}
            }
        }
    }

    /// Closes a connection gracefully.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`].
    pub fn disconnect(&mut self, peer: Peer) -> Result<(), ClientError> {
        self.command(worker_of(&peer), Command::Disconnect { connection: peer.connection })
    }

    /// Puts a payload and returns once the gateway has checked and durably kept it. `progress` hears how many payload bytes
    /// have been given to the connection.
    ///
    /// # Errors
    /// What the gateway refuses, a lost connection, a file that cannot be read or changed, an interrupt.
    pub fn put(
        &mut self,
        peer: &Peer,
        payload: &Prepared,
        queue: u64,
        lease_s: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<Kept, ClientError> {
        let (worker, request) = (worker_of(peer), self.request(peer));
        let credit = Credit::default();
        let descriptor = Descriptor::plain(payload.token, payload.length)?;
        let command = Command::Put {
            request,
            hop: None,
            lanes: None,
            queue,
            descriptor: Box::new(descriptor),
            lease_s,
            credit: credit.clone(),
        };
        self.command(worker, command)?;
        let mut source = Source::new(payload)?;
        let mut accepted = false;
        let mut next = None;
        let mut sent_all = false;
        loop {
            while let Some(delivery) = self.ports[worker].receive() {
                match self.sort(peer, request, delivery)? {
                    Some(Delivery::Accepted { .. }) => accepted = true,
                    Some(Delivery::Done { token, .. }) if token == payload.token.into() => {
                        return Ok(if accepted { Kept::Now } else { Kept::Already });
                    }
                    Some(Delivery::Done { token, .. }) => {
                        return Err(ClientError::WrongReceipt { put: payload.token, got: token });
                    }
                    _ => {}
                }
            }
            let mut sent = 0;
            while accepted && !sent_all && sent < ENCODE_BYTES {
                let Some(bytes) = next.take().map_or_else(|| source.next(), |bytes| Ok(Some(bytes)))? else {
                    self.command(worker, Command::Finish { request })?;
                    sent_all = true;
                    break;
                };
                let len = bytes.len();
                if let Err(bytes) = self.ports[worker].send_data(request, &credit, bytes) {
                    next = Some(bytes);
                    break;
                }
                sent += len;
            }
            progress(source.given);
            self.ports[worker].notify();
            if sent == 0 {
                self.check_interrupt(worker, Some(request))?;
                self.ports[worker].wait(WAIT_MAX);
            }
        }
    }

    /// Fetches ranges of a payload; `take` gets the length, then every piece, each checked against the token before.
    ///
    /// # Errors
    /// What the gateway refuses, bytes that do not match the token, a lost connection, an interrupt, `take`'s own.
    pub fn fetch(
        &mut self,
        peer: &Peer,
        token: Token,
        ranges: Ranges,
        mut take: impl FnMut(Fetched) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let (worker, request) = (worker_of(peer), self.request(peer));
        self.command(
            worker,
            Command::Fetch {
                request,
                hop: None,
                lanes: None,
                pace: None,
                token: token.into(),
                ranges,
                max_bytes: 0,
                describe: false,
            },
        )?;
        loop {
            let delivery = match self.next(worker, None, Duration::ZERO) {
                Ok(delivery) => delivery,
                Err(error) => {
                    self.cancel(worker, request);
                    return Err(error);
                }
            };
            let fetched = match self.sort(peer, request, delivery)? {
                Some(Delivery::Accepted { length, .. }) => Fetched::Length(length),
                Some(Delivery::Piece { piece, .. }) => Fetched::Piece(piece),
                Some(Delivery::Complete { .. }) => return Ok(()),
                _ => continue,
            };
            if let Err(error) = take(fetched) {
                self.cancel(worker, request);
                return Err(ClientError::Sink(error));
            }
        }
    }

    /// Sends a message to one of the gateway's queues. Returns when the connection has taken it, not when it has arrived.
    ///
    /// # Errors
    /// [`ClientError::MessageTooLong`], [`ClientError::Interrupted`].
    pub fn send_message(&mut self, peer: &Peer, queue: u64, payload: Bytes) -> Result<(), ClientError> {
        if payload.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(ClientError::MessageTooLong(payload.len()));
        }
        let (worker, mut payload) = (worker_of(peer), payload);
        while let Err(back) = self.ports[worker].send_message(peer.connection, &peer.credit, queue, payload) {
            payload = back;
            self.check_interrupt(worker, None)?;
            self.ports[worker].wait(WAIT_MAX);
        }
        self.ports[worker].notify();
        Ok(())
    }

    /// The next message from the gateway, with the queue it names.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], a lost connection, [`ClientError::Interrupted`].
    pub fn receive_message(&mut self, peer: &Peer, timeout: Duration) -> Result<(u64, Bytes), ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(at) = self.messages.iter().position(|(connection, ..)| *connection == peer.connection)
                && let Some((_, queue, payload)) = self.messages.remove(at)
            {
                return Ok((queue, payload));
            }
            let delivery = self.next(worker_of(peer), Some(deadline), timeout)?;
            self.sort(peer, RequestId::local(peer.connection, u64::MAX >> 1), delivery)?;
        }
    }

    /// Closes every connection and ends every thread.
    pub fn stop(self) {
        self.node.stop();
    }

    fn request(&mut self, peer: &Peer) -> RequestId {
        self.requests += 1;
        RequestId::local(peer.connection, self.requests)
    }

    fn command(&mut self, worker: usize, command: Command) -> Result<(), ClientError> {
        let mut command = command;
        while let Err(back) = self.ports[worker].send(command) {
            command = back;
            self.check_interrupt(worker, None)?;
            self.ports[worker].wait(WAIT_MAX);
        }
        self.ports[worker].notify();
        Ok(())
    }

    fn cancel(&mut self, worker: usize, request: RequestId) {
        // A full ring leaves the request to the end of the connection.
        let _ = self.ports[worker].send(Command::Cancel { request });
        self.ports[worker].notify();
    }

    fn check_interrupt(&mut self, worker: usize, request: Option<RequestId>) -> Result<(), ClientError> {
        if !self.interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(request) = request {
            self.cancel(worker, request);
        }
        Err(ClientError::Interrupted)
    }

    fn next(
        &mut self,
        worker: usize,
        deadline: Option<Instant>,
        timeout: Duration,
    ) -> Result<Delivery, ClientError> {
        loop {
            if let Some(delivery) = self.ports[worker].receive() {
                return Ok(delivery);
            }
            self.check_interrupt(worker, None)?;
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Err(ClientError::Timeout(timeout));
            }
            self.ports[worker].wait(WAIT_MAX);
        }
    }

    /// Gives back what belongs to `request`; keeps messages; turns ends into errors.
    fn sort(
        &mut self,
        peer: &Peer,
        request: RequestId,
        delivery: Delivery,
    ) -> Result<Option<Delivery>, ClientError> {
        match delivery {
            Delivery::Closed { connection, reason } if connection == peer.connection => {
                Err(ClientError::Lost { remote: peer.remote, reason })
            }
            Delivery::Failed { request: r, failure } if r == request => Err(ClientError::Refused(failure)),
            Delivery::Message { connection, queue, payload } => {
                self.messages.push_back((connection, queue, payload.to_bytes()));
                Ok(None)
            }
            Delivery::Put { request, .. } | Delivery::Fetch { request, .. } => {
                let failure = ErrorRecord::new(ErrorCode::NotAuthorised, 0, "a client serves no requests");
                self.command(usize::from(request.connection.worker), Command::Refuse { request, failure })?;
                Ok(None)
            }
            Delivery::Accepted { request: r, .. }
            | Delivery::Piece { request: r, .. }
            | Delivery::Complete { request: r }
            | Delivery::Done { request: r, .. }
                if r == request =>
            {
                Ok(Some(delivery))
            }
            _ => Ok(None),
        }
    }
}

fn worker_of(peer: &Peer) -> usize {
    usize::from(peer.connection.worker)
}

/// A file's verified encoding, read as it is sent.
struct Source<'a> {
    payload: &'a Prepared,
    encoder: VerifiedEncoder,
    batch: Vec<Piece>,
    pieces: VecDeque<Piece>,
    window: Bytes,
    window_offset: u64,
    /// Payload bytes given out.
    given: u64,
}

impl<'a> Source<'a> {
    fn new(payload: &'a Prepared) -> Result<Self, ClientError> {
        let encoder =
            VerifiedEncoder::new(payload.outboard.clone(), Ranges::all()).map_err(RecordError::from)?;
        let (pieces, batch) = (VecDeque::new(), Vec::new());
        Ok(Self { payload, encoder, batch, pieces, window: Bytes::new(), window_offset: 0, given: 0 })
    }

    fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.pieces.is_empty() {
            let failed = |source| ClientError::File { path: self.payload.path.clone(), source };
            self.encoder.next_batch(ENCODE_BYTES, &mut self.batch).map_err(failed)?;
            self.pieces.extend(self.batch.drain(..));
        }
        match self.pieces.pop_front() {
            None => Ok(None),
            Some(Piece::Proof(hashes)) => Ok(Some(hashes)),
            Some(Piece::Data { offset, len }) => {
                self.given += len as u64;
                self.read(offset, len).map(Some)
            }
        }
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, ClientError> {
        let end = offset + len as u64;
        if offset < self.window_offset || end > self.window_offset + self.window.len() as u64 {
            let failed = |source| ClientError::File { path: self.payload.path.clone(), source };
            let mut file = &self.payload.file;
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            let wanted = READ_BYTES.max(len as u64);
            let mut buffer = Vec::with_capacity(wanted as usize);
            file.take(wanted).read_to_end(&mut buffer).map_err(failed)?;
            if buffer.len() < len {
                return Err(ClientError::Changed { path: self.payload.path.clone() });
            }
            (self.window, self.window_offset) = (buffer.into(), offset);
        }
        let start = (offset - self.window_offset) as usize;
        Ok(self.window.slice(start..start + len))
    }
}

//! The task's side of a connection.

use super::call::{AnswerChannel, Batch, Call, ConnectionUp, PutAnswer, Room};
use super::fetch::{Description, PieceOptions, Pieces};
use super::payload::{Prepared, PutSource};
use super::read::{FetchOptions, FetchReader};
use super::{ClientError, Shared};
use crate::hop::Route;
use crate::limits::{CLIENT_BATCHES_LEN, CLIENT_MESSAGES_BYTES, CLIENT_REQUESTS_LEN, MESSAGE_BYTES_MAX};
use crate::queue::{Ask, CloseReason, ConnectionId, Credit};
use crate::record::{Done, ErrorCode, ErrorRecord, Holder, Hop, Locate, Mirror, Payload, Put};
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::AnyToken;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Seconds that a peer is asked to keep what is put, unless told otherwise: thirty days.
const LEASE_S: u64 = 30 * 24 * 3600;

/// A connection to a gateway. Clones are the same connection; it is closed when the last of them, and the last request on it,
/// is dropped.
///
/// Any number of tasks may use it at once. At most [`CLIENT_REQUESTS_LEN`] requests are in flight; more wait their turn. Each request has a
/// short form to the peer itself and a form with options: [`Peer::put`] and [`Peer::put_with`]. A future that is dropped before it is
/// ready ends its request: the peer is told, and keeps nothing of a PUT that is not whole.
///
/// Every request may end with [`ClientError::Lost`] when the connection is lost, and with [`ClientError::Stopped`] when the client is
/// stopped.
#[derive(Clone, Debug)]
pub struct Peer(Arc<PeerLink>);

/// How to put; the default is the whole payload to the peer itself, for thirty days.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Which of the gateway's queues takes it; none: [`ClientBuilder::put_queue`](super::ClientBuilder::put_queue).
    pub queue: Option<u64>,
    /// How long to keep it, seconds.
    pub lease_s: u64,
    /// What set it is; without one, what [`Prepared::descriptor`] says.
    pub descriptor: Option<Descriptor>,
    /// These lanes of that set instead of the whole payload.
    pub lanes: Option<Lanes>,
    /// By which gateways.
    pub route: Option<Route>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self { queue: None, lease_s: LEASE_S, descriptor: None, lanes: None, route: None }
    }
}

/// How to ask; the default is the peer itself.
#[derive(Clone, Debug, Default)]
pub struct AskOptions {
    /// By which gateways: the last of them is asked.
    pub route: Option<Route>,
}

/// How a PUT ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The payload crossed, was checked, and is durable.
    Now,
    /// The gateway had it already, checked and durable: nothing crossed.
    Already,
}

/// A message from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The queue that it names.
    pub queue: u64,
    /// The payload.
    pub payload: Bytes,
}

/// What all clones of a [`Peer`] share.
#[derive(Debug)]
pub(super) struct PeerLink {
    shared: Arc<Shared>,
    connection: ConnectionId,
    node: Option<NodeId>,
    remote: SocketAddr,
    closed: watch::Receiver<Option<CloseReason>>,
    messages: Mutex<mpsc::UnboundedReceiver<(u64, Payload)>>,
    room: Arc<Room>,
    /// Bytes of messages that may wait to be sent.
    outbox: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.call(Call::Disconnect { connection: self.connection });
    }
}

impl PeerLink {
    pub(super) fn call(&self, call: Call) {
        self.shared.call(self.connection.worker.into(), call);
    }

    pub(super) fn wake(&self) {
        self.shared.wake(self.connection.worker.into());
    }

    pub(super) fn hop(&self, route: Option<&Route>) -> Result<Option<Box<Hop>>, ClientError> {
        let hop = |route: &Route| Ok(Box::new(route.starting_at(self.node)?.hop()));
        route.map(hop).transpose()
    }

    /// Why a channel to the worker's side ended.
    pub(super) fn lost(&self) -> ClientError {
        match &*self.closed.borrow() {
            Some(reason) => ClientError::Lost { remote: self.remote, reason: reason.clone() },
            None => ClientError::Stopped,
        }
    }
}

/// A request in flight. Dropped before it is [`PendingRequest::over`], it is canceled.
#[derive(Debug)]
pub(super) struct PendingRequest {
    link: Arc<PeerLink>,
    /// What the worker's side knows it by.
    ticket: u64,
    asked: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl PendingRequest {
    /// Waits for its turn.
    pub(super) async fn new(link: &Arc<PeerLink>) -> Self {
        // The semaphore is never closed.
        let slot = link.requests.clone().acquire_owned().await.ok();
        Self { link: link.clone(), ticket: link.shared.next_request(), asked: false, _slot: slot }
    }

    pub(super) fn ask(&mut self, ask: Ask, answer: AnswerChannel) {
        self.asked = true;
        let (connection, ticket) = (self.link.connection, self.ticket);
        self.link.call(Call::Ask { connection, ticket, ask: Box::new(ask), answer });
    }

    pub(super) fn link(&self) -> &PeerLink {
        &self.link
    }

    /// There is nothing left to cancel.
    pub(super) fn over(&mut self) {
        self.asked = false;
    }

    /// Waits for an answer that comes whole.
    async fn answer<T>(
        &mut self,
        reply: oneshot::Receiver<Result<T, ErrorRecord>>,
    ) -> Result<T, ClientError> {
        let answer = reply.await.map_err(|_| self.link.lost())?;
        self.over();
        answer.map_err(ClientError::Refused)
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if self.asked {
            self.link.call(Call::Cancel { ticket: self.ticket });
        }
    }
}

impl Peer {
    pub(super) fn new(shared: Arc<Shared>, up: ConnectionUp) -> Self {
        let ConnectionUp { connection, node, remote, closed, messages, room } = up;
        Self(Arc::new(PeerLink {
            shared,
            connection,
            node,
            remote,
            closed,
            messages: Mutex::new(messages),
            room,
            outbox: Arc::new(Semaphore::new(CLIENT_MESSAGES_BYTES)),
            requests: Arc::new(Semaphore::new(CLIENT_REQUESTS_LEN)),
        }))
    }

    /// The peer's node ID, if it showed a certificate before the connection was given out: see [`super::ConnectOptions::early`].
    pub fn node(&self) -> Option<NodeId> {
        self.0.node
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.0.connection
    }

    /// Its address.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// Puts a payload, and returns once the gateway has checked and durably kept it, for thirty days: [`Peer::put_with`] says more.
    ///
    /// # Errors
    /// Those of [`Peer::put_with`].
    pub async fn put(&self, payload: &Prepared) -> Result<Kept, ClientError> {
        self.put_with(payload, PutOptions::default(), |_sent| {}).await
    }

    /// Puts a payload, or lanes of it, and returns once the gateway has checked and durably kept it. `progress` hears how many
    /// payload bytes have been given to the connection, 0 first, unless the gateway has them already. Dropping the future ends the
    /// request: nothing of it is kept, unless the gateway had confirmed it already.
    ///
    /// A file is read by the task itself, 1 MiB at a time, and only as fast as the connection takes it: from a slow disk, give
    /// it a thread that may block.
    ///
    /// A file that is written to meanwhile is an error, also where all its bytes had been sent before: [`ClientError::Changed`],
    /// [`ClientError::ChangedSince`]. Its size and its time of modification are looked at after each read, and its bytes checked before
    /// they are sent where these may not tell. A write that is seen by neither, through a shared mapping, is found by the gateway: the file
    /// is then hashed once more, to tell who erred. A file that is deleted, or replaced by another of its name, is put as it was opened.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the gateway refuses; [`ClientError::File`], [`ClientError::Changed`] and
    /// [`ClientError::ChangedSince`] for a file that cannot be read or changed; [`ClientError::OtherDescriptor`],
    /// [`ClientError::NoParity`] and [`ClientError::Ranges`] for a set that the payload does not have; [`ClientError::WrongReceipt`] for a
    /// gateway that confirms another payload; [`ClientError::Route`].
    pub async fn put_with(
        &self,
        payload: &Prepared,
        options: PutOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<Kept, ClientError> {
        let PutOptions { queue, lease_s, descriptor, lanes, route } = options;
        let queue = queue.unwrap_or(self.0.shared.put_queue);
        let descriptor = descriptor.map_or_else(|| payload.descriptor(), Ok)?;
        let mut source = PutSource::new(payload, &descriptor, lanes)?;
        let put = match lanes {
            Some(_) => AnyToken::from(descriptor.set_token()),
            None => payload.token.into(),
        };
        let hop = self.0.hop(route.as_ref())?;
        let mut request = PendingRequest::new(&self.0).await;
        let (accept, accepted) = oneshot::channel();
        let (done, kept) = oneshot::channel();
        let (give, data) = mpsc::channel(CLIENT_BATCHES_LEN);
        let (credit, unsent) = (Credit::default(), VecDeque::new());
        let answer = PutAnswer { accepted: Some(accept), done, data, unsent, credit: credit.clone() };
        let ask = Ask::by(hop, Put { queue, lease_s, descriptor, lanes }).with_credit(credit);
        request.ask(ask, AnswerChannel::Put(answer));
        let accepted = accepted.await.is_ok();
        if accepted {
            progress(0);
        }
        // Half of the channel at a time: the task then wakes once for many batches.
        'sending: while accepted && let Ok(places) = give.reserve_many(CLIENT_BATCHES_LEN / 2).await {
            for place in places {
                let batch = source.next_batch()?;
                let is_last = batch.is_none();
                place.send(batch.map_or(Batch::End, Batch::Bytes));
                self.0.wake();
                progress(source.given);
                if is_last {
                    break 'sending;
                }
            }
        }
        let answer = request.answer(kept).await;
        if matches!(&answer, Err(ClientError::Refused(failure)) if failure.code == ErrorCode::BadProof)
            && (payload.has_changed()? || !payload.is_still_true()?)
        {
            return Err(ClientError::Changed { path: payload.name() });
        }
        let done = answer?;
        if done.token == put && payload.has_changed()? {
            return Err(ClientError::ChangedSince { path: payload.name(), kept: put });
        }
        match done.token {
            token if token != put => Err(ClientError::WrongReceipt { put, got: token }),
            _ if accepted => Ok(Kept::Now),
            _ => Ok(Kept::Already),
        }
    }

    /// Asks for a payload; returns once the peer has said that it has it. The result reads checked bytes, in order.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the peer refuses: with [`ErrorCode::NotFound`] where it does not have the payload.
    pub async fn fetch(&self, token: impl Into<AnyToken>) -> Result<FetchReader, ClientError> {
        self.fetch_with(token, FetchOptions::default()).await
    }

    /// The same of parts of a payload, or by other gateways.
    ///
    /// # Errors
    /// Those of [`Peer::fetch`], and [`ClientError::Route`].
    pub async fn fetch_with(
        &self,
        token: impl Into<AnyToken>,
        options: FetchOptions,
    ) -> Result<FetchReader, ClientError> {
        FetchReader::start(&self.0, token.into(), options).await
    }

    /// Asks for a payload piece by piece, each with its offset and its proofs; or for lanes of a set, whose shards come in any order.
    /// Returns once the peer has said that it has it.
    ///
    /// # Errors
    /// Those of [`Peer::fetch_with`].
    pub async fn pieces(
        &self,
        token: impl Into<AnyToken>,
        options: PieceOptions,
    ) -> Result<Pieces, ClientError> {
        Pieces::start(&self.0, token.into(), options, false).await
    }

    /// Asks what a payload or a set is, without its bytes.
    ///
    /// # Errors
    /// Those of [`Peer::fetch`].
    pub async fn describe(&self, token: impl Into<AnyToken>) -> Result<Description, ClientError> {
        self.describe_with(token, AskOptions::default()).await
    }

    /// The same by other gateways.
    ///
    /// # Errors
    /// Those of [`Peer::fetch_with`].
    pub async fn describe_with(
        &self,
        token: impl Into<AnyToken>,
        options: AskOptions,
    ) -> Result<Description, ClientError> {
        let AskOptions { route } = options;
        let options = PieceOptions { route, ..PieceOptions::default() };
        let mut pieces = Pieces::start(&self.0, token.into(), options, true).await?;
        match pieces.next().await {
            None => Ok(Description { length: pieces.length(), descriptor: pieces.descriptor().copied() }),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => Err(self.0.lost()),
        }
    }

    /// Asks who holds a payload or a set, to the peer's knowledge.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the peer refuses.
    pub async fn locate(&self, token: impl Into<AnyToken>) -> Result<Vec<Holder>, ClientError> {
        self.locate_with(token, AskOptions::default()).await
    }

    /// The same of another gateway.
    ///
    /// # Errors
    /// Those of [`Peer::locate`], and [`ClientError::Route`].
    pub async fn locate_with(
        &self,
        token: impl Into<AnyToken>,
        options: AskOptions,
    ) -> Result<Vec<Holder>, ClientError> {
        let hop = self.0.hop(options.route.as_ref())?;
        let mut request = PendingRequest::new(&self.0).await;
        let (reply, answer) = oneshot::channel();
        request.ask(Ask::by(hop, Locate { token: token.into() }), AnswerChannel::Holders(reply));
        request.answer(answer).await
    }

    /// Asks the peer to fetch something elsewhere and hold it; returns once it does. Dropping the future takes the wish back.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for what the peer refuses or cannot fetch.
    pub async fn mirror(&self, mirror: Mirror) -> Result<Done, ClientError> {
        self.mirror_with(mirror, AskOptions::default()).await
    }

    /// The same of another gateway.
    ///
    /// # Errors
    /// Those of [`Peer::mirror`], and [`ClientError::Route`].
    pub async fn mirror_with(&self, mirror: Mirror, options: AskOptions) -> Result<Done, ClientError> {
        let hop = self.0.hop(options.route.as_ref())?;
        let mut request = PendingRequest::new(&self.0).await;
        let (reply, answer) = oneshot::channel();
        request.ask(Ask::by(hop, mirror), AnswerChannel::Done(reply));
        request.answer(answer).await
    }

    /// Sends a message to one of the peer's queues. Messages to one queue arrive in the order in which they were sent. Returns
    /// when it is on its way, not when it has arrived; waits while 8 MiB of them are. A future that is dropped has sent nothing.
    ///
    /// # Errors
    /// [`ClientError::MessageTooLong`], a lost connection.
    pub async fn send_message(&self, queue: u64, payload: Bytes) -> Result<(), ClientError> {
        let place = self.place(&payload).await?;
        self.0.call(Call::Message { connection: self.0.connection, queue, payload, place });
        Ok(())
    }

    /// Sends a message in a QUIC datagram: it may be lost, overtake others, and is dropped where it is larger than the path
    /// carries, about 1,200 bytes on an unknown one.
    ///
    /// # Errors
    /// [`ClientError::MessageTooLong`], a lost connection.
    pub async fn send_datagram(&self, queue: u64, payload: Bytes) -> Result<(), ClientError> {
        let place = self.place(&payload).await?;
        self.0.call(Call::Datagram { connection: self.0.connection, queue, payload, place });
        Ok(())
    }

    /// Room for a message among those that wait to be sent.
    async fn place(&self, payload: &Bytes) -> Result<OwnedSemaphorePermit, ClientError> {
        if payload.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(ClientError::MessageTooLong(payload.len()));
        }
        let bytes = payload.len().max(1) as u32;
        let place = self.0.outbox.clone().acquire_many_owned(bytes).await.map_err(|_| self.0.lost())?;
        if self.0.closed.borrow().is_some() || self.0.closed.has_changed().is_err() {
            return Err(self.0.lost());
        }
        Ok(place)
    }

    /// The next message or datagram from the peer. Each goes to one caller. May be dropped and called again: no message is lost.
    ///
    /// Messages wait for a caller, up to 1,024 of them or 8 MiB a connection. Past that the worker takes nothing more from any of its
    /// connections until one is taken: who may be sent messages must take them.
    ///
    /// # Errors
    /// [`ClientError::Lost`] once the connection is gone and every message that came before has been taken.
    pub async fn message(&self) -> Result<Message, ClientError> {
        let next = self.0.messages.lock().await.recv().await;
        let Some((queue, payload)) = next else { return Err(self.0.lost()) };
        if self.0.room.give_back(payload.len()) {
            self.0.wake();
        }
        Ok(Message { queue, payload: payload.to_bytes() })
    }

    /// Waits for the end of the connection; gives the reason.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.0.closed.clone();
        let reason = closed.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or(CloseReason::Stopped)
    }

    /// Closes the connection of every clone now, without waiting. What is in flight fails with [`ClientError::Lost`].
    pub fn close(&self) {
        self.0.call(Call::Disconnect { connection: self.0.connection });
    }
}

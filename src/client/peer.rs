//! The task's side of a connection.

use super::call::{AnswerChannel, Batch, Call, ConnectionUp, PutAnswer};
use super::fetch::{Description, PieceOptions, Pieces};
use super::inbox::InboxRoom;
use super::payload::{Prepared, PutSource};
use super::read::{FetchOptions, FetchReader};
use super::{ClientError, Shared};
use crate::hop::Route;
use crate::limits::{
    CLIENT_BATCHES_LEN, CLIENT_MESSAGES_BYTES, CLIENT_REQUESTS_LEN, MESSAGE_BYTES_MAX, MESSAGE_COST_BYTES,
};
use crate::queue::{Ask, CloseReason, ConnectionId, Credit};
use crate::record::{Done, ErrorCode, Holder, Hop, Locate, Mirror, Payload, Put};
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::AnyToken;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Seconds for which a peer is asked to keep a payload by default: thirty days.
const LEASE_S: u64 = 30 * 24 * 3600;

/// A connection to a gateway. Clones are handles of the same connection; it is closed when the last of them and the last request on it
/// are dropped.
///
/// Any number of tasks may use it at once. At most [`CLIENT_REQUESTS_LEN`] requests are in flight; more wait their turn. Each request has a
/// short form to the peer itself and a form with options: [`Peer::put`] and [`Peer::put_with`]. A future that is dropped before it is
/// ready ends its request: the peer is told, and keeps nothing of an incomplete PUT.
///
/// Every request may end with [`ClientError::Lost`] if the connection is lost, with [`ClientError::Silent`] if the peer does not go on with
/// it, and with [`ClientError::Stopped`] if the client is stopped.
#[derive(Clone, Debug)]
pub struct Peer(Arc<PeerLink>);

/// The options of a PUT; the default is the whole payload to the peer itself, for thirty days.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// The gateway's queue; `None`: [`ClientBuilder::put_queue`](super::ClientBuilder::put_queue).
    pub queue: Option<u64>,
    /// The lease, seconds.
    pub lease_s: u64,
    /// The descriptor of the set; `None`: [`Prepared::descriptor`].
    pub descriptor: Option<Descriptor>,
    /// These lanes of that set instead of the whole payload.
    pub lanes: Option<Lanes>,
    /// The gateways on the way, the last of which keeps the payload; `None`: the peer itself.
    pub route: Option<Route>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self { queue: None, lease_s: LEASE_S, descriptor: None, lanes: None, route: None }
    }
}

/// The options of a request without further ones; the default asks the peer itself.
#[derive(Clone, Debug, Default)]
pub struct AskOptions {
    /// The gateways on the way, the last of which is asked; `None`: the peer itself.
    pub route: Option<Route>,
}

/// How a PUT succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The payload was sent, checked and kept durably.
    Now,
    /// The gateway had the payload already, checked and durable; no bytes of it were sent.
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

/// The part that all clones of a [`Peer`] share.
#[derive(Debug)]
pub(super) struct PeerLink {
    shared: Arc<Shared>,
    connection: ConnectionId,
    node: Option<NodeId>,
    remote: SocketAddr,
    closed: watch::Receiver<Option<CloseReason>>,
    messages: Mutex<mpsc::UnboundedReceiver<(u64, Payload)>>,
    room: Arc<InboxRoom>,
    /// Bytes of messages that may wait to be sent, with [`MESSAGE_COST_BYTES`] for each.
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

/// A request in flight. It is canceled if it is dropped before [`PendingRequest::over`].
#[derive(Debug)]
pub(super) struct PendingRequest {
    link: Arc<PeerLink>,
    /// The request's number for the worker's side.
    ticket: u64,
    asked: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl PendingRequest {
    /// Waits until the connection has a free request slot.
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

    /// Marks the request as over: dropping it cancels nothing.
    pub(super) fn over(&mut self) {
        self.asked = false;
    }

    /// Waits for an answer that is a single record.
    pub(super) async fn answer<T>(
        &mut self,
        reply: oneshot::Receiver<Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let answer = reply.await.map_err(|_| self.link.lost())?;
        self.over();
        answer
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

    /// The peer's node ID, if the peer showed a certificate before the connection was returned: see [`super::ConnectOptions::early`].
    pub fn node(&self) -> Option<NodeId> {
        self.0.node
    }

    pub(super) fn link(&self) -> &Arc<PeerLink> {
        &self.0
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.0.connection
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// Puts a payload for thirty days; returns once the gateway has checked it and keeps it durably. See [`Peer::put_with`].
    ///
    /// # Errors
    /// Those of [`Peer::put_with`].
    pub async fn put(&self, payload: &Prepared) -> Result<Kept, ClientError> {
        self.put_with(payload, PutOptions::default(), |_sent| {}).await
    }

    /// Puts a payload, or lanes of it; returns once the gateway has checked the bytes and keeps them durably. `progress` is called with
    /// the payload bytes given to the connection so far, 0 first, unless the gateway has the payload already. Dropping the future ends the
    /// request: the gateway keeps nothing of it, unless it had confirmed it already.
    ///
    /// The task itself reads the file, 1 MiB at a time, as fast as the connection takes the bytes. If the disk is slow, run the task on a
    /// thread that may block.
    ///
    /// A file that is written to meanwhile is an error, also if all its bytes were sent before: [`ClientError::Changed`],
    /// [`ClientError::ChangedSince`]. The file's size and time of modification are compared after each read. If these may miss a write,
    /// the bytes are checked before they are sent. A write through a shared mapping may escape both; the gateway finds it, and the file
    /// is then hashed once more to tell which side erred. A file that is deleted, or replaced by another of its name, is put as it was
    /// when it was opened.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the gateway refuses; [`ClientError::File`], [`ClientError::Changed`] and
    /// [`ClientError::ChangedSince`] for a file that cannot be read or was changed; [`ClientError::OtherDescriptor`],
    /// [`ClientError::NoParity`] and [`ClientError::Ranges`] for a set that the payload does not have; [`ClientError::Record`] for a
    /// payload longer than the protocol allows; [`ClientError::WrongReceipt`] for a gateway that confirms another token;
    /// [`ClientError::Route`] for a route that does not start at the peer.
    pub async fn put_with(
        &self,
        payload: &Prepared,
        options: PutOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<Kept, ClientError> {
        let PutOptions { queue, lease_s, descriptor, lanes, route } = options;
        let queue = queue.unwrap_or(self.0.shared.put_queue);
        let descriptor = descriptor.map_or_else(|| payload.descriptor(), Ok)?;
        let put = Put { queue, lease_s, descriptor, lanes };
        let mut source = PutSource::new(payload, &put)?;
        let token = match lanes {
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
        let ask = Ask::new(put).by(hop).with_credit(credit);
        request.ask(ask, AnswerChannel::Put(answer));
        let accepted = accepted.await.is_ok();
        if accepted {
            progress(0);
        }
        // Half of the channel at a time: the task wakes once for many batches.
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
        if done.token == token && payload.has_changed()? {
            return Err(ClientError::ChangedSince { path: payload.name(), kept: token });
        }
        match done.token {
            got if got != token => Err(ClientError::WrongReceipt { put: token, got }),
            _ if accepted => Ok(Kept::Now),
            _ => Ok(Kept::Already),
        }
    }

    /// Asks for a payload; returns once the peer has confirmed that it holds the payload. The result reads checked bytes, in order.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the peer refuses: with [`ErrorCode::NotFound`] if it does not have the payload.
    pub async fn fetch(&self, token: impl Into<AnyToken>) -> Result<FetchReader, ClientError> {
        self.fetch_with(token, FetchOptions::default()).await
    }

    /// Asks for a payload, for parts of it, or along a route.
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

    /// Asks for a payload piece by piece, each with its offset and its proofs; or for lanes of a set, whose shards arrive in any order.
    /// Returns once the peer has confirmed that it holds them.
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

    /// Asks for the description of a payload or a set, without its bytes.
    ///
    /// # Errors
    /// Those of [`Peer::fetch`].
    pub async fn describe(&self, token: impl Into<AnyToken>) -> Result<Description, ClientError> {
        self.describe_with(token, AskOptions::default()).await
    }

    /// Asks for the description along a route.
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

    /// Asks the peer which holders of a payload or a set it knows.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the peer refuses.
    pub async fn locate(&self, token: impl Into<AnyToken>) -> Result<Vec<Holder>, ClientError> {
        self.locate_with(token, AskOptions::default()).await
    }

    /// Asks the last gateway of a route which holders it knows.
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
        request.ask(Ask::new(Locate { token: token.into() }).by(hop), AnswerChannel::Holders(reply));
        request.answer(answer).await
    }

    /// Asks the peer to fetch a payload or lanes from other nodes and to hold them; returns once it holds them. Dropping the future
    /// cancels the request.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the peer refuses, or a payload that it cannot fetch; [`ClientError::WrongReceipt`] for a
    /// peer that confirms another token.
    pub async fn mirror(&self, mirror: Mirror) -> Result<Done, ClientError> {
        self.mirror_with(mirror, AskOptions::default()).await
    }

    /// Asks the last gateway of a route to mirror.
    ///
    /// # Errors
    /// Those of [`Peer::mirror`], and [`ClientError::Route`].
    pub async fn mirror_with(&self, mirror: Mirror, options: AskOptions) -> Result<Done, ClientError> {
        let hop = self.0.hop(options.route.as_ref())?;
        let token = mirror.token;
        let mut request = PendingRequest::new(&self.0).await;
        let (reply, answer) = oneshot::channel();
        request.ask(Ask::new(mirror).by(hop), AnswerChannel::Done(reply));
        let done = request.answer(answer).await?;
        match done.token {
            got if got != token => Err(ClientError::WrongReceipt { put: token, got }),
            _ => Ok(done),
        }
    }

    /// Sends a message to one of the peer's queues. Messages to one queue arrive in the order in which they were sent. Returns
    /// when the message is on its way, not when it has arrived; waits while 8 MiB of messages are on their way, counted with 128 bytes
    /// more for each. A future that is dropped before it is ready has sent nothing.
    ///
    /// # Errors
    /// [`ClientError::MessageTooLong`], [`ClientError::Lost`], [`ClientError::Stopped`].
    pub async fn send_message(&self, queue: u64, payload: Bytes) -> Result<(), ClientError> {
        let place = self.place(&payload).await?;
        self.0.call(Call::Message { connection: self.0.connection, queue, payload, place });
        Ok(())
    }

    /// Sends a message in a QUIC datagram. The message may be lost or overtake others. It is dropped if it is larger than the path
    /// carries: about 1,200 bytes on a path whose MTU is not known yet.
    ///
    /// # Errors
    /// [`ClientError::MessageTooLong`], [`ClientError::Lost`], [`ClientError::Stopped`].
    pub async fn send_datagram(&self, queue: u64, payload: Bytes) -> Result<(), ClientError> {
        let place = self.place(&payload).await?;
        self.0.call(Call::Datagram { connection: self.0.connection, queue, payload, place });
        Ok(())
    }

    /// Waits for room for a message among those that wait to be sent.
    async fn place(&self, payload: &Bytes) -> Result<OwnedSemaphorePermit, ClientError> {
        if payload.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(ClientError::MessageTooLong(payload.len()));
        }
        let cost = (payload.len() + MESSAGE_COST_BYTES) as u32;
        let place = self.0.outbox.clone().acquire_many_owned(cost).await.map_err(|_| self.0.lost())?;
        if self.0.closed.borrow().is_some() || self.0.closed.has_changed().is_err() {
            return Err(self.0.lost());
        }
        Ok(place)
    }

    /// The next message or datagram from the peer. Each goes to one caller. The future may be dropped and called again: no message is lost.
    ///
    /// Up to 1,024 messages or 8 MiB wait for each connection. Past that the worker delivers nothing on any of its connections until
    /// a message is taken: a program whose peer sends messages must take them.
    ///
    /// # Errors
    /// [`ClientError::Lost`] or [`ClientError::Stopped`] once the connection is gone and every earlier message has been taken.
    pub async fn message(&self) -> Result<Message, ClientError> {
        let next = self.0.messages.lock().await.recv().await;
        let Some((queue, payload)) = next else { return Err(self.0.lost()) };
        if self.0.room.give_back(payload.len()) {
            self.0.wake();
        }
        Ok(Message { queue, payload: payload.to_bytes() })
    }

    /// Waits for the end of the connection; returns the reason.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.0.closed.clone();
        let reason = closed.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or(CloseReason::Stopped)
    }

    /// Closes the connection of every clone, without waiting. Requests in flight fail with [`ClientError::Lost`].
    pub fn close(&self) {
        self.0.call(Call::Disconnect { connection: self.0.connection });
    }
}

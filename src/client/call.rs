//! The calls that tasks make to the worker's side of a client, and the channels on which it answers.

use super::error::{ClientError, DialFailure};
use super::fetch::Piece;
use super::inbox::InboxRoom;
use crate::application::Asker;
use crate::gather::{self, Gather, HolderReport};
use crate::names::ResolveError;
use crate::queue::{Ask, CloseReason, ConnectionId, Credit};
use crate::record::{Done, Holder, Listed, OkRecord, Payload};
use crate::tls::NodeId;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// One call of a task to the worker's side.
pub(super) enum Call {
    Connect(Dial),
    /// The resolver's answer for a dial.
    Resolved {
        dial: u64,
        found: Result<Vec<SocketAddr>, ResolveError>,
    },
    Ask {
        connection: ConnectionId,
        /// The task's number for the request, unique within this client.
        ticket: u64,
        ask: Box<Ask>,
        answer: AnswerChannel,
    },
    /// The task has dropped the request.
    Cancel {
        ticket: u64,
    },
    Message {
        connection: ConnectionId,
        queue: u64,
        payload: Bytes,
        /// Its share of the bytes that may wait to be sent.
        place: OwnedSemaphorePermit,
    },
    Datagram {
        connection: ConnectionId,
        queue: u64,
        payload: Bytes,
        place: OwnedSemaphorePermit,
    },
    Disconnect {
        connection: ConnectionId,
    },
    Gather(Box<HostedGather>),
}

/// A gathering that the workers of a client share: each asks the holders that are its own connections. The lock is held for a delivery or a
/// look at a time; bytes are checked before they are delivered.
pub(super) type SharedGather = Arc<Mutex<Gather>>;

/// A gathering as the worker's side hosts it, once on each worker.
pub(super) struct HostedGather {
    pub(super) id: u64,
    pub(super) worker: u16,
    pub(super) gather: SharedGather,
    pub(super) events: mpsc::UnboundedSender<gather::GatherEvent>,
    /// Bytes in events that the task has not taken.
    pub(super) credit: Credit,
    pub(super) report: Arc<Mutex<Vec<HolderReport>>>,
}

impl HostedGather {
    /// Moves the gathering on. Returns whether there was work, and whether the gathering goes on.
    pub(super) fn poll<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) -> (bool, bool) {
        let mut gather = self.gather();
        if self.events.is_closed() {
            gather.cancel();
            gather.poll_on(self.worker, now, asker);
            return (true, false);
        }
        let mut worked = gather.poll_on(self.worker, now, asker);
        while self.credit.has_room()
            && let Some(event) = gather.poll_event()
        {
            worked = true;
            let over = matches!(event, gather::GatherEvent::Done | gather::GatherEvent::Failed(_));
            if let gather::GatherEvent::Piece(piece) | gather::GatherEvent::Shard { piece, .. } = &event {
                self.credit.take(piece.data.len());
            }
            if over {
                // Sends the last cancellations before the gathering ends.
                gather.poll_on(self.worker, now, asker);
                *self.report.lock().unwrap_or_else(PoisonError::into_inner) = gather.report();
            }
            let _ = self.events.send(event);
            if over {
                return (true, false);
            }
        }
        // Another worker may have given the end.
        (worked, !gather.is_told())
    }

    /// The gathering, for a short time.
    pub(super) fn gather(&self) -> MutexGuard<'_, Gather> {
        self.gather.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that a task asks for.
pub(super) struct Dial {
    pub(super) id: u64,
    /// Addresses that were not tried yet, in order; `None` until the resolver has answered.
    pub(super) remotes: Option<VecDeque<SocketAddr>>,
    pub(super) early: bool,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<ConnectionUp, DialError>>,
}

/// Why a dial gave no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Timeout,
    /// The resolver did not answer in time.
    Unresolved,
    Resolve(ResolveError),
    /// Every address failed.
    Failed(Vec<DialFailure>),
}

/// A connection that came up.
#[derive(Debug)]
pub(super) struct ConnectionUp {
    pub(super) connection: ConnectionId,
    pub(super) node: Option<NodeId>,
    pub(super) remote: SocketAddr,
    /// Why the connection ended, once it has.
    pub(super) closed: watch::Receiver<Option<CloseReason>>,
    pub(super) messages: mpsc::UnboundedReceiver<(u64, Payload)>,
    pub(super) room: Arc<InboxRoom>,
}

/// Where the answer to a request goes. A channel that ends without an answer means that the connection is lost.
pub(super) enum AnswerChannel {
    Put(PutAnswer),
    Fetch(FetchAnswer),
    Holders(oneshot::Sender<Result<Vec<Holder>, ClientError>>),
    Done(oneshot::Sender<Result<Done, ClientError>>),
    Listed(oneshot::Sender<Result<Listed, ClientError>>),
}

pub(super) struct PutAnswer {
    /// Dropped unused if the peer takes no bytes.
    pub(super) accepted: Option<oneshot::Sender<()>>,
    pub(super) done: oneshot::Sender<Result<Done, ClientError>>,
    pub(super) data: mpsc::Receiver<Batch>,
    /// Bytes that the ring or the credit did not take yet, in order.
    pub(super) unsent: VecDeque<Bytes>,
    pub(super) credit: Credit,
}

/// Bytes of a payload on their way out.
pub(super) enum Batch {
    Bytes(Vec<Bytes>),
    /// The end of the payload. A channel that ends without it means that the task gave up.
    End,
}

pub(super) struct FetchAnswer {
    pub(super) events: mpsc::UnboundedSender<Vec<FetchEvent>>,
    /// Events that are collected here, to wake the task once for many of them.
    pub(super) held: Vec<FetchEvent>,
    /// Whether the request is in [`Tasks`](super::tasks::Tasks)' list of requests with held events.
    pub(super) listed: bool,
}

/// An event of a FETCH. The credit of the FETCH bounds the bytes of its events.
#[derive(Debug)]
pub(super) enum FetchEvent {
    Accepted(OkRecord),
    Piece(Piece),
    Complete,
    Failed(ClientError),
}

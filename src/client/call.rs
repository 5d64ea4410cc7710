//! What tasks ask of the worker's side of a client, and the ends of the channels that it answers on.

use super::error::DialFailure;
use super::fetch::Piece;
use crate::application::Asker;
use crate::gather::{self, Gather, GatherSource, HolderReport};
use crate::limits::{CLIENT_MESSAGES_BYTES, CLIENT_MESSAGES_LEN};
use crate::names::ResolveError;
use crate::queue::{Ask, CloseReason, ConnectionId, Credit};
use crate::record::{Done, ErrorRecord, Holder, OkRecord, Payload};
use crate::tls::NodeId;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// One thing asked of the worker's side.
pub(super) enum Call {
    Connect(Dial),
    /// The resolver's answer for a dial.
    Resolved {
        dial: u64,
        found: Result<Vec<SocketAddr>, ResolveError>,
    },
    Ask {
        connection: ConnectionId,
        /// The task's name for the request, of this client alone.
        ticket: u64,
        ask: Box<Ask>,
        answer: AnswerChannel,
    },
    /// The task has lost interest.
    Cancel {
        ticket: u64,
    },
    Message {
        connection: ConnectionId,
        queue: u64,
        payload: Bytes,
        /// Its place among what waits to be sent.
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
    /// One more holder for a gathering.
    AddHolder {
        id: u64,
        source: Box<GatherSource>,
    },
    /// No more holders come for a gathering.
    SealGather {
        id: u64,
    },
    EndGather {
        id: u64,
    },
}

/// Something fetched from several holders, as the worker's side hosts it.
pub(super) struct HostedGather {
    pub(super) id: u64,
    pub(super) gather: Gather,
    pub(super) events: mpsc::UnboundedSender<gather::GatherEvent>,
    /// Bytes in events that the task has not taken.
    pub(super) credit: Credit,
    pub(super) report: Arc<Mutex<Vec<HolderReport>>>,
}

impl HostedGather {
    /// Goes on; false when it is over.
    pub(super) fn poll<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) -> (bool, bool) {
        if self.events.is_closed() {
            self.gather.cancel();
            self.gather.poll(now, asker);
            return (true, false);
        }
        let mut worked = self.gather.poll(now, asker);
        while self.credit.has_room()
            && let Some(event) = self.gather.poll_event()
        {
            worked = true;
            let over = matches!(event, gather::GatherEvent::Done | gather::GatherEvent::Failed(_));
            if let gather::GatherEvent::Piece(piece) | gather::GatherEvent::Shard { piece, .. } = &event {
                self.credit.take(piece.data.len());
            }
            if over {
                // The last cancellations go out before it ends.
                self.gather.poll(now, asker);
                *self.report.lock().unwrap_or_else(PoisonError::into_inner) = self.gather.report();
            }
            let _ = self.events.send(event);
            if over {
                return (true, false);
            }
        }
        (worked, true)
    }
}

/// A connection that is wanted.
pub(super) struct Dial {
    pub(super) id: u64,
    /// Addresses that were not tried yet, in order; none while the resolver is asked.
    pub(super) remotes: Option<VecDeque<SocketAddr>>,
    pub(super) early: bool,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<ConnectionUp, DialError>>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum DialError {
    Timeout,
    /// The resolver has not answered in time.
    Unresolved,
    Resolve(ResolveError),
    /// Every address that was tried has failed.
    Failed(Vec<DialFailure>),
}

/// A connection that is up.
#[derive(Debug)]
pub(super) struct ConnectionUp {
    pub(super) connection: ConnectionId,
    pub(super) node: Option<NodeId>,
    pub(super) remote: SocketAddr,
    /// Why the connection ended, once it has.
    pub(super) closed: watch::Receiver<Option<CloseReason>>,
    pub(super) messages: mpsc::UnboundedReceiver<(u64, Payload)>,
    pub(super) room: Arc<Room>,
}

/// Where the answer to a request goes. A channel that ends without an answer means that the connection is gone.
pub(super) enum AnswerChannel {
    Put(PutAnswer),
    Fetch(FetchAnswer),
    Holders(oneshot::Sender<Result<Vec<Holder>, ErrorRecord>>),
    Done(oneshot::Sender<Result<Done, ErrorRecord>>),
}

pub(super) struct PutAnswer {
    /// Dropped unused if the peer takes no bytes.
    pub(super) accepted: Option<oneshot::Sender<()>>,
    pub(super) done: oneshot::Sender<Result<Done, ErrorRecord>>,
    pub(super) data: mpsc::Receiver<Batch>,
    /// What the ring or the credit has not taken yet, in order.
    pub(super) unsent: VecDeque<Bytes>,
    pub(super) credit: Credit,
}

/// Bytes of a payload on their way out.
pub(super) enum Batch {
    Bytes(Vec<Bytes>),
    /// All have been given. A channel that ends without it means that the task gave up.
    End,
}

pub(super) struct FetchAnswer {
    pub(super) events: mpsc::UnboundedSender<Vec<FetchEvent>>,
    /// Events that gather: a wake of the task then serves many of them.
    pub(super) held: Vec<FetchEvent>,
    /// Among those that the worker's side looks after.
    pub(super) listed: bool,
}

/// The deliveries of a FETCH. Their bytes are bounded by its credit.
#[derive(Debug)]
pub(super) enum FetchEvent {
    Accepted(OkRecord),
    Piece(Piece),
    Complete,
    Failed(ErrorRecord),
}

/// What waits in the inbox of one connection.
#[derive(Debug, Default)]
pub(super) struct Room {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    pub(super) fn is_full(&self) -> bool {
        self.messages.load(Ordering::Acquire) >= CLIENT_MESSAGES_LEN
            || self.bytes.load(Ordering::Acquire) >= CLIENT_MESSAGES_BYTES
    }

    pub(super) fn take(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Returns whether it was full: the worker may be waiting for it.
    pub(super) fn give_back(&self, bytes: usize) -> bool {
        let was_full = self.is_full();
        self.messages.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        was_full
    }
}

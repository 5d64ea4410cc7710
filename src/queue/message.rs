//! What travels: deliveries to applications, commands from them.

use super::{CloseReason, ConnectionId, Credit, RequestId};
use crate::record::{
    Done, ErrorCode, ErrorRecord, Fetch, Have, Holders, Hop, OkRecord, Payload, Request, Routed,
};
use crate::shard::{Blob, ShardIndex};
use crate::tls::NodeId;
use crate::token::VerifiedPiece;
use bytes::Bytes;
use quinn_proto::Side;
use std::net::SocketAddr;

/// What a worker tells an application.
#[derive(Debug)]
pub enum Delivery {
    /// Something of a connection as a whole.
    Connection(ConnectionId, ConnectionEvent),
    /// A connection that this application asked for did not come up.
    ConnectFailed {
        /// The tag of the [`Command::Connect`].
        tag: u64,
        /// Why, and what to do.
        reason: CloseReason,
    },
    /// The peer asks something. [`Command::Answer`] or [`Command::End`] answers it.
    Asked(RequestId, Box<PeerRequest>),
    /// The peer's request is to be forwarded: its HOP record allows it. The bytes after that record follow as [`Delivery::Raw`].
    Forward(RequestId, Box<Forward>),
    /// The peer's answer to a request of ours. DONE and HOLDERS are the last delivery of their request.
    Answered(RequestId, Answer),
    /// Bytes that have been checked against the request's token.
    Piece {
        /// The request.
        request: RequestId,
        /// Where lanes come: which shard, and the blob that it is a part of. The piece's offset counts in that blob. Shards come in
        /// any order.
        shard: Option<(ShardIndex, Blob)>,
        /// The bytes, where they belong, and the hashes that proved them.
        piece: VerifiedPiece,
    },
    /// Bytes of a stream that is not read here, as they came.
    Raw(RequestId, Payload),
    /// The peer wants no more of what a relay sends it on a request of ours; or of an answer that is whole and that it has not
    /// acknowledged.
    Stopped(RequestId, ErrorCode),
    /// Nothing more comes of the request.
    Ended(RequestId, End),
}

impl Delivery {
    /// The request that this is about.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Asked(request, _)
            | Self::Forward(request, _)
            | Self::Answered(request, _)
            | Self::Piece { request, .. }
            | Self::Raw(request, _)
            | Self::Stopped(request, _)
            | Self::Ended(request, _) => Some(*request),
            Self::Connection(..) | Self::ConnectFailed { .. } => None,
        }
    }

    /// Whether this is the last delivery of its request.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Ended(..) | Self::Answered(_, Answer::Done(_) | Answer::Holders(_)))
    }
}

/// Something of a connection as a whole.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// It is up and authenticated.
    Connected {
        /// The tag of the [`Command::Connect`] that asked for it; none for a connection that the peer opened.
        tag: Option<u64>,
        /// Which side this is.
        side: Side,
        /// The peer's node ID, if it showed a certificate.
        node: Option<NodeId>,
        /// This side opened it to a configured peer gateway.
        peer_gateway: bool,
        /// The peer's address.
        remote: SocketAddr,
        /// Credit for messages on this connection.
        credit: Credit,
    },
    /// A message.
    Message {
        /// The queue it names.
        queue: u64,
        /// The payload, as it arrived: its token, if it named one, has been checked.
        payload: Payload,
    },
    /// A peer with a certificate says what it holds, or no longer holds.
    Have {
        /// The peer.
        node: NodeId,
        /// What.
        have: Have,
    },
    /// It is gone; nothing more comes of its requests.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// A request of the peer's. A PUT is taken with an OK, refused, or answered with DONE if its payload is held already. A FETCH
/// is answered with an OK and [`Command::Bytes`], LOCATE with HOLDERS, MIRROR with DONE.
#[derive(Debug)]
pub struct PeerRequest {
    /// What it asks.
    pub request: Request,
    /// The peer's node ID, if it showed a certificate.
    pub node: Option<NodeId>,
    /// It came in early data, which may be a replay (protocol §7).
    pub early: bool,
    /// Credit for the answer's data.
    pub credit: Credit,
}

/// A request of the peer's on its way to another gateway.
#[derive(Debug)]
pub struct Forward {
    /// The gateway to forward to.
    pub next: NodeId,
    /// The HOP record for it.
    pub hop: Box<Hop>,
    /// What is asked, if it is a FETCH, whose answer may serve others as well; none: anything else.
    pub fetch: Option<Fetch>,
    /// Credit for the answer, toward the peer.
    pub answer: Credit,
    /// Credit for the bytes that the peer sends: the relay takes it and gives it back. Reading waits for it.
    pub onward: Credit,
}

/// What answers a request, but for an ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A PUT may send its bytes; the bytes of a FETCH follow. The descriptor of a set matches the set token.
    Ok(OkRecord),
    /// Who holds what LOCATE named.
    Holders(Holders),
    /// PUT or MIRROR: all of it is checked and durably held.
    Done(Done),
}

/// How the last of a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every byte of it has arrived and has been checked.
    Checked,
    /// Its stream, which is not read here, ended well.
    Raw,
    /// Without success: refused, reset, or its bytes did not match the token.
    Failed(ErrorRecord),
}

/// What an application tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Open a connection. Answered by [`ConnectionEvent::Connected`] or [`Delivery::ConnectFailed`].
    Connect {
        /// Comes back in the answer.
        tag: u64,
        /// The peer's address.
        remote: SocketAddr,
        /// Answer at once where an earlier session allows early data: what is asked before the handshake is over could be
        /// replayed, and peers refuse most of it (protocol §7).
        early: bool,
    },
    /// Give up a connection that was asked for and is not up yet: nothing comes of it. One that is up stays, and is told of.
    Abandon {
        /// The tag that it was asked for with.
        tag: u64,
    },
    /// Have a connection to this configured peer gateway, now. [`ConnectionEvent::Connected`] comes once it is up, to every application.
    Reach(NodeId),
    /// Something with a connection as a whole.
    On(ConnectionId, ConnectionCommand),
    /// Ask the peer something: [`Outbox::ask`](crate::application::Outbox::ask).
    Ask(RequestId, Box<Ask>),
    /// Open a stream for a request that is not read here: [`Outbox::open`](crate::application::Outbox::open). [`Command::Bytes`] writes
    /// it, [`Delivery::Raw`] brings its answer.
    Open {
        /// The request.
        request: RequestId,
        /// Credit for what is sent on it.
        credit: Credit,
        /// The answer is read only while this has room.
        pace: Credit,
    },
    /// Answer the peer's request.
    Answer(RequestId, Answer),
    /// The next bytes of a verified encoding, or of a stream that is not read here. Their sender takes the credit:
    /// [`send_data`](super::AppPort::send_data) does.
    Bytes(RequestId, Payload),
    /// End a request, or this side of it.
    End(RequestId, Ending),
    /// Read the answer to a [`Command::Open`] while this has room, and no longer while the earlier credit has.
    Pace(RequestId, Credit),
    /// Read no more of what a peer sends on its request; its answer goes on.
    Stop(RequestId, ErrorCode),
}

/// Something with a connection as a whole.
#[derive(Debug)]
pub enum ConnectionCommand {
    /// Close it gracefully.
    Disconnect,
    /// Send a message. Made by [`send_message`](super::AppPort::send_message), which minds the credit.
    Message {
        /// Which of the peer's queues.
        queue: u64,
        /// At most [`crate::limits::MESSAGE_BYTES_MAX`].
        payload: Bytes,
    },
    /// Send a message in a QUIC datagram: it may be lost, and is dropped where it is larger than the path carries.
    Datagram {
        /// Which of the peer's queues.
        queue: u64,
        /// The payload.
        payload: Bytes,
    },
    /// Tell the peer what this node holds, or no longer holds.
    Have(Have),
}

/// A request of ours.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is asked, and by which gateways.
    pub routed: Routed,
    /// Of a PUT, credit for its data. Of a FETCH, reading takes credit for every payload byte and waits while it is spent; the
    /// application gives it back with [`Credit::give_back`]. None: the ring alone bounds what waits.
    pub credit: Option<Credit>,
}

impl Ask {
    /// Asks the peer itself.
    pub fn new(request: impl Into<Request>) -> Self {
        Self::by(None, request)
    }

    /// Asks the last of these gateways.
    pub fn by(hop: Option<Box<Hop>>, request: impl Into<Request>) -> Self {
        Self { routed: Routed { hop, request: request.into() }, credit: None }
    }

    /// The same, with this credit.
    #[must_use]
    pub fn with_credit(self, credit: Credit) -> Self {
        Self { credit: Some(credit), ..self }
    }
}

/// How a request, or this side of it, ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All bytes of this side are given.
    Finish,
    /// The peer's request is refused or abandoned.
    Refuse(ErrorRecord),
    /// A request of ours is given up.
    Cancel,
}

impl Command {
    /// Refuses the peer's request.
    pub fn refuse(request: RequestId, failure: ErrorRecord) -> Self {
        Self::End(request, Ending::Refuse(failure))
    }

    /// Takes the peer's PUT: its bytes may come.
    pub fn accept(request: RequestId) -> Self {
        Self::Answer(request, Answer::Ok(OkRecord { length_bytes: 0, descriptor: None }))
    }

    /// The connection that this is about; none for those that ask for one.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connect { .. } | Self::Abandon { .. } | Self::Reach(_) => None,
            Self::On(connection, _) => Some(*connection),
            Self::Ask(request, _)
            | Self::Open { request, .. }
            | Self::Answer(request, _)
            | Self::Bytes(request, _)
            | Self::End(request, _)
            | Self::Pace(request, _)
            | Self::Stop(request, _) => Some(request.connection),
        }
    }

    /// The request of ours that this opens.
    pub(crate) fn opens(&self) -> Option<RequestId> {
        match self {
            Self::Ask(request, _) | Self::Open { request, .. } => Some(*request),
            _ => None,
        }
    }

    /// The request of ours that this opens, or follows on its stream.
    pub(crate) fn of_local(&self) -> Option<RequestId> {
        match self {
            Self::Ask(request, _)
            | Self::Open { request, .. }
            | Self::Bytes(request, _)
            | Self::End(request, Ending::Finish)
            | Self::Pace(request, _) => Some(*request).filter(|request| request.is_local()),
            _ => None,
        }
    }
}

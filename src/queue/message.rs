//! The contents of the rings: deliveries to applications, commands from them.

use super::{Charge, CloseReason, ConnectionId, Credit, PeerSilence, RequestId};
use crate::record::{
    Done, ErrorCode, ErrorRecord, Fetch, Have, Holders, Hop, Listed, OkRecord, Payload, Request, Routed,
};
use crate::rights::StoreTerms;
use crate::shard::{Blob, ShardIndex};
use crate::tls::NodeId;
use crate::token::VerifiedPiece;
use bytes::Bytes;
use quinn_proto::Side;
use std::net::SocketAddr;

/// The answer to a request whose application has failed.
pub(crate) fn application_failed() -> ErrorRecord {
    ErrorRecord::new(ErrorCode::Internal, 0, "the application failed")
}

/// A worker's report to an application.
#[derive(Debug)]
pub enum Delivery {
    /// An event of a connection as a whole.
    Connection(ConnectionId, ConnectionEvent),
    /// A connection that this application asked for did not come up.
    ConnectFailed {
        /// The tag of the [`Command::Connect`].
        tag: u64,
        /// The reason and the fix.
        reason: CloseReason,
    },
    /// The peer gateway of a [`Command::Reach`] is not connected, and is dialed again only later than a forwarded request waits.
    Unreachable(NodeId),
    /// A request of the peer. [`Command::Answer`] or [`Command::End`] answers it.
    Asked(RequestId, Box<PeerRequest>),
    /// A request of the peer that its HOP record allows to forward. The bytes after that record follow as [`Delivery::Raw`].
    Forward(RequestId, Box<Forward>),
    /// The peer's answer to a request of ours. DONE, HOLDERS and LISTED are the last delivery of their request.
    Answered(RequestId, Answer),
    /// Bytes that were checked against the request's token.
    Piece {
        /// The request.
        request: RequestId,
        /// The shard and its blob, if the request names lanes. The piece's offset counts in that blob. Shards arrive in any order.
        shard: Option<(ShardIndex, Blob)>,
        /// The bytes, their offset, and the hashes that proved them.
        piece: VerifiedPiece,
        /// The credit of a peer that puts. Its stream is read on only while there is some: an application that keeps the bytes keeps this beside
        /// them.
        charge: Charge,
    },
    /// Bytes of a stream that is not parsed here, as they arrived.
    Raw(RequestId, Payload),
    /// The peer stops reading: the bytes that a relay sends it for a request of ours, or an answer that is complete and not
    /// acknowledged yet.
    Stopped(RequestId, ErrorCode),
    /// The last delivery of the request.
    Ended(RequestId, End),
}

impl Delivery {
    #[inline]
    pub(crate) fn message(connection: ConnectionId, queue: u64, payload: Payload) -> Self {
        Self::Connection(connection, ConnectionEvent::Message { queue, payload })
    }

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
            Self::Connection(..) | Self::ConnectFailed { .. } | Self::Unreachable(_) => None,
        }
    }

    /// The connection that this is about; `None` for one that did not come up.
    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connection(connection, _) => Some(*connection),
            _ => self.request().map(|request| request.connection),
        }
    }

    /// Whether this is the last delivery of its request.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Ended(..) | Self::Answered(_, Answer::Done(_) | Answer::Holders(_) | Answer::Listed(_))
        )
    }
}

/// An event of a connection as a whole.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The connection is up and authenticated.
    Connected {
        /// The tag of the [`Command::Connect`] that asked for it; `None` for a connection that the peer opened.
        tag: Option<u64>,
        /// Which side this is.
        side: Side,
        /// The peer's node ID, if it showed a certificate.
        node: Option<NodeId>,
        /// Whether this side opened it to a configured peer gateway.
        peer_gateway: bool,
        /// The peer's address.
        remote: SocketAddr,
        /// Credit for messages on this connection.
        credit: Credit,
    },
    /// A message.
    Message {
        /// The queue.
        queue: u64,
        /// The payload, as it arrived. Its token, if the message has one, was checked.
        payload: Payload,
    },
    /// A peer with a certificate announces a holding, or its end.
    Have {
        /// The peer.
        node: NodeId,
        /// The announcement.
        have: Have,
    },
    /// The peer takes no messages on this queue: those that it has not taken are lost. A later one is tried anew.
    MessagesStopped {
        /// The queue.
        queue: u64,
        /// Why: [`ErrorCode::NotFound`] where the peer has no application on it.
        code: ErrorCode,
    },
    /// The connection has ended; its requests get no more deliveries.
    Closed {
        /// The reason.
        reason: CloseReason,
    },
}

/// A request of the peer. A PUT is accepted with OK, refused, or answered with DONE if its payload is held already. A FETCH
/// is answered with OK and [`Command::Bytes`], LOCATE with HOLDERS, MIRROR with DONE, and requests about leases with LISTED.
#[derive(Debug)]
pub struct PeerRequest {
    /// The request record.
    pub request: Request,
    /// The peer's node ID, if it showed a certificate.
    pub node: Option<NodeId>,
    /// Whether it arrived in early data, which may be a replay (protocol §7).
    pub early: bool,
    /// Credit for the answer's data.
    pub credit: Credit,
    /// How the store keeps what the peer puts and mirrors.
    pub terms: StoreTerms,
}

/// A request of the peer that is forwarded to another gateway.
#[derive(Debug)]
pub struct Forward {
    /// The gateway to forward to.
    pub next: NodeId,
    /// The HOP record for it.
    pub hop: Box<Hop>,
    /// The FETCH, whose answer other FETCHes may share; `None`: another request.
    pub fetch: Option<Fetch>,
    /// Credit for the answer, toward the peer.
    pub answer: Credit,
    /// Credit for the bytes that the peer sends. The relay takes it and gives it back; reading waits for it.
    pub onward: Credit,
}

/// An answer to a request, other than ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A PUT may send its bytes; a FETCH's bytes follow. The descriptor of a set matches the set token.
    Ok(OkRecord),
    /// The holders that LOCATE asked for.
    Holders(Holders),
    /// PUT or MIRROR: every byte is checked and durably held.
    Done(Done),
    /// LIST, STAT, REMOVE or RENEW: what is kept.
    Listed(Listed),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every byte of it arrived and was checked.
    Checked,
    /// Its stream, which is not parsed here, ended properly.
    Raw,
    /// It failed: it was refused or reset, or its bytes did not match the token.
    Failed(ErrorRecord),
    /// The peer was silent for too long, and the request was canceled ([`crate::session::SilenceLimits`]).
    Silent(PeerSilence),
}

/// An application's order to a worker.
#[derive(Debug)]
pub enum Command {
    /// Open a connection. Answered by [`ConnectionEvent::Connected`] or [`Delivery::ConnectFailed`].
    Connect {
        /// A number that comes back in the answer.
        tag: u64,
        /// The peer's address.
        remote: SocketAddr,
        /// Answer at once if an earlier session allows early data. Requests sent before the handshake is over may be replayed, and peers
        /// refuse most kinds (protocol §7).
        early: bool,
    },
    /// Give up a connection that was asked for and is not up yet: it gets no answer. A connection that is up already stays, and is
    /// reported.
    Abandon {
        /// Its tag.
        tag: u64,
    },
    /// Connect to this configured peer gateway now. Every application gets [`ConnectionEvent::Connected`] once the connection is up.
    Reach(NodeId),
    /// An order for a connection as a whole.
    On(ConnectionId, ConnectionCommand),
    /// Send a request to the peer: [`Outbox::ask`](crate::application::Outbox::ask).
    Ask(RequestId, Box<Ask>),
    /// Open a stream for a request that is not parsed here: [`Outbox::open`](crate::application::Outbox::open). [`Command::Bytes`] and
    /// [`Command::Raw`] write to it, [`Delivery::Raw`] brings its answer.
    Open {
        /// The request.
        request: RequestId,
        /// Credit for the bytes sent on it.
        credit: Credit,
        /// The answer is read only while this credit has room.
        pace: Credit,
    },
    /// Answer the peer's request.
    Answer(RequestId, Box<Answer>),
    /// Tell the peer that its request, which has no answer yet, is worked on. A peer gives up one of which it hears nothing.
    Working(RequestId),
    /// The next bytes of a verified encoding, or of a stream that is not parsed here. Their sender takes the credit:
    /// [`send_data`](super::AppPort::send_data) does.
    Bytes(RequestId, Bytes),
    /// The same, in several pieces, as [`Delivery::Raw`] brings them.
    Raw(RequestId, Box<Payload>),
    /// End a request, or this side of it.
    End(RequestId, Ending),
    /// Read the answer to a [`Command::Open`] while this credit has room, in place of the earlier one.
    Pace(RequestId, Credit),
    /// Read no more of a peer's request; its answer goes on.
    Stop(RequestId, ErrorCode),
    /// The application has failed, and knows its requests no more: refuse those of peers, and cancel its own.
    Fail,
}

/// An order for a connection as a whole.
#[derive(Debug)]
pub enum ConnectionCommand {
    /// Close it gracefully.
    Disconnect,
    /// Send a message. [`send_message`](super::AppPort::send_message) makes this, and takes the credit.
    Message {
        /// The peer's queue.
        queue: u64,
        /// The payload, at most [`crate::limits::MESSAGE_BYTES_MAX`] bytes.
        payload: Bytes,
    },
    /// Send a message in a QUIC datagram. It may be lost, and is dropped if it is larger than the path carries.
    Datagram {
        /// The peer's queue.
        queue: u64,
        /// The payload.
        payload: Bytes,
    },
    /// Announce a holding of this node, or its end.
    Have(Box<Have>),
}

// Every message is moved in a command from the application to QUIC.
const _: () = assert!(size_of::<Command>() <= 64, "a large part of a command is boxed");

/// A request of ours.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The request, and the gateways on its way.
    pub routed: Routed,
    /// For a PUT, credit for its data. For a FETCH, reading takes credit for every payload byte and waits while it is spent; the
    /// application gives it back with [`Credit::give_back`]. `None`: only the ring bounds the bytes that wait.
    pub credit: Option<Credit>,
}

impl Ask {
    /// A request to the peer itself.
    pub fn new(request: impl Into<Request>) -> Self {
        Self { routed: Routed { hop: None, request: request.into() }, credit: None }
    }

    /// The same request to the last gateway of this hop's route; `None`: to the peer itself.
    #[must_use]
    pub fn by(mut self, hop: Option<Box<Hop>>) -> Self {
        self.routed.hop = hop;
        self
    }

    /// The same request with this credit.
    #[must_use]
    pub fn with_credit(self, credit: Credit) -> Self {
        Self { credit: Some(credit), ..self }
    }
}

/// How a request, or this side's half of it, ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This side has sent all of its bytes.
    Finish,
    /// The peer's request is refused, or given up here.
    Refuse(Box<ErrorRecord>),
    /// A request of ours is canceled.
    Cancel,
}

impl Command {
    /// Refuses a peer's request.
    pub fn refuse(request: RequestId, failure: ErrorRecord) -> Self {
        Self::End(request, Ending::Refuse(Box::new(failure)))
    }

    /// Answers a peer's request.
    pub fn answer(request: RequestId, answer: Answer) -> Self {
        Self::Answer(request, Box::new(answer))
    }

    /// Accepts a peer's PUT: its bytes may follow.
    pub fn accept(request: RequestId) -> Self {
        Self::answer(request, Answer::Ok(OkRecord { length_bytes: 0, descriptor: None }))
    }

    /// The connection that the command concerns; `None` for a command that asks for one.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connect { .. } | Self::Abandon { .. } | Self::Reach(_) | Self::Fail => None,
            Self::On(connection, _) => Some(*connection),
            Self::Ask(request, _)
            | Self::Open { request, .. }
            | Self::Answer(request, _)
            | Self::Working(request)
            | Self::Bytes(request, _)
            | Self::Raw(request, _)
            | Self::End(request, _)
            | Self::Pace(request, _)
            | Self::Stop(request, _) => Some(request.connection),
        }
    }

    /// The request of ours that the command opens.
    pub(crate) fn opens(&self) -> Option<RequestId> {
        match self {
            Self::Ask(request, _) | Self::Open { request, .. } => Some(*request),
            _ => None,
        }
    }

    /// The request of ours that the command opens, or that it follows on the stream.
    pub(crate) fn of_local(&self) -> Option<RequestId> {
        match self {
            Self::Ask(request, _)
            | Self::Open { request, .. }
            | Self::Bytes(request, _)
            | Self::Raw(request, _)
            | Self::End(request, Ending::Finish)
            | Self::Pace(request, _) => Some(*request).filter(|request| request.is_local()),
            _ => None,
        }
    }
}

//! What travels: deliveries to applications, commands from them.

use super::{ConnectionId, Credit, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Have, Holder, Hop, Mirror, Payload};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::tls::NodeId;
use crate::token::{AnyToken, Ranges, VerifiedPiece};
use bytes::Bytes;
use quinn_proto::Side;
use std::net::SocketAddr;

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
    /// Send a message. Made by [`send_message`](super::AppPort::send_message), which minds the credit.
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
    /// The next bytes of a verified encoding. Made by [`send_data`](super::AppPort::send_data), which minds the credit.
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

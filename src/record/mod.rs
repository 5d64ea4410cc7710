//! STOQ records: `type(i) length(i) body` on QUIC streams and datagrams.
//!
//! One file a kind, one codec shape: [`Record::parse`] gives a value or a small error, [`Record::emit`]
//! writes the body, [`Record::encoded_len`] gives its length. After `parse` no accessor can panic.
//! [`RecordReader`] cuts a stream's chunks into records without copying them.

mod continuation;
mod done;
mod error;
mod fetch;
mod go_away;
mod have;
mod holders;
mod hop;
mod list;
mod listed;
mod locate;
mod message;
mod mirror;
mod ok;
mod payload;
mod put;
mod reader;
mod remove;
mod renew;
mod request;
mod settings;
mod stat;

pub use crate::error_code::ErrorCode;
pub use continuation::Continuation;
pub use done::Done;
pub use error::ErrorRecord;
pub use fetch::Fetch;
pub use go_away::GoAway;
pub use have::{Coverage, Have};
pub use holders::{Holder, Holders};
pub use hop::Hop;
pub use list::{LeaseHolder, LeaseScope, List};
pub use listed::{Listed, ListedEntry, ListedLease};
pub use locate::Locate;
pub use message::MessageHeader;
pub use mirror::Mirror;
pub use ok::OkRecord;
pub use payload::Payload;
pub use put::Put;
pub use reader::{RecordHeader, RecordReader};
pub use remove::Remove;
pub use renew::Renew;
pub use request::{Request, Routed};
pub use settings::Settings;
pub use stat::Stat;

pub use crate::shard::{Coding, Descriptor};

use crate::limits::{CONTROL_RECORD_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES_MAX};
use crate::shard::{DescriptorError, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, RangesError, TOKEN_BYTES, Token, TokenError};
use crate::varint::{self, Truncated};

/// A node ID on the wire, bytes.
const NODE_ID_BYTES: usize = 32;

/// The kinds of record, by their numbers (protocol §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum RecordType {
    /// A side's roles and bounds; first on its CONTROL stream.
    Settings = 0x01,
    /// A holding of the sender, or its end.
    Have = 0x03,
    /// No new requests; running ones are finished.
    GoAway = 0x05,
    /// An application message; the payload is the rest of the body.
    Message = 0x07,
    /// The route of the request that follows.
    Hop = 0x09,
    /// A request to keep a payload; its verified encoding follows the answer.
    Put = 0x0b,
    /// A request for ranges of a payload.
    Fetch = 0x0d,
    /// A request to fetch a payload elsewhere and hold it.
    Mirror = 0x0f,
    /// A request for the holders of a payload or set.
    Locate = 0x11,
    /// The request is accepted; for FETCH the verified encoding follows.
    Ok = 0x13,
    /// The holders that LOCATE asked for.
    Holders = 0x15,
    /// The receiver has checked the payload and, for PUT, keeps it durably.
    Done = 0x17,
    /// The request failed.
    Error = 0x19,
    /// The stream carries on a half of another one.
    Continuation = 0x1b,
    /// A request for a page of the payloads and sets that are kept.
    List = 0x1d,
    /// A request for what is kept of one payload or set.
    Stat = 0x1f,
    /// The asker gives up its lease.
    Remove = 0x23,
    /// The asker wants its lease to last longer.
    Renew = 0x25,
    /// What is kept, and the leases of it.
    Listed = 0x27,
}

/// WORKING, a whole record: the answer takes its time, and the sender works on it (protocol §4). Its type is even and it says nothing more:
/// a reader skips it like any type that it does not know.
pub(crate) const WORKING: [u8; 2] = [0x1c, 0];

/// How a reader treats a record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A record that this side speaks.
    Known(RecordType),
    /// Unknown and even: its body is skipped.
    Skippable,
    /// Unknown and odd: an error.
    Forbidden,
}

impl RecordType {
    /// Sorts a type number (protocol §4: unknown even types are skipped, unknown odd types are an error).
    pub const fn from_u64(number: u64) -> RecordKind {
        RecordKind::Known(match number {
            0x01 => Self::Settings,
            0x03 => Self::Have,
            0x05 => Self::GoAway,
            0x07 => Self::Message,
            0x09 => Self::Hop,
            0x0b => Self::Put,
            0x0d => Self::Fetch,
            0x0f => Self::Mirror,
            0x11 => Self::Locate,
            0x13 => Self::Ok,
            0x15 => Self::Holders,
            0x17 => Self::Done,
            0x19 => Self::Error,
            0x1b => Self::Continuation,
            0x1d => Self::List,
            0x1f => Self::Stat,
            0x23 => Self::Remove,
            0x25 => Self::Renew,
            0x27 => Self::Listed,
            n if n % 2 == 0 => return RecordKind::Skippable,
            _ => return RecordKind::Forbidden,
        })
    }

    /// The number on the wire.
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// The longest body of this kind, bytes (protocol §8).
    pub const fn body_bytes_max(self) -> u64 {
        match self {
            Self::Message => MESSAGE_BYTES_MAX + MESSAGE_HEADER_BYTES_MAX as u64,
            _ => CONTROL_RECORD_BYTES_MAX,
        }
    }

    /// Writes `type(i) length(i)` for a body of `body_len` bytes.
    pub fn emit_header(self, body_len: u64, out: &mut Vec<u8>) {
        varint::write(self.number(), out);
        varint::write(body_len, out);
    }
}

/// The one codec shape. A body is the bytes after `type(i) length(i)`.
pub trait Record: Sized {
    /// The number under which this kind travels.
    const TYPE: RecordType;

    /// Reads a whole body.
    ///
    /// # Errors
    /// The fault of the body; [`RecordError::code`] is its error code for the peer.
    fn parse(body: &[u8]) -> Result<Self, RecordError>;

    /// Appends the body to `out`: [`Record::encoded_len`] bytes.
    fn emit(&self, out: &mut Vec<u8>);

    /// Bytes that [`Record::emit`] writes.
    fn encoded_len(&self) -> usize;

    /// Appends the whole record, header and body, to `out`.
    fn emit_record(&self, out: &mut Vec<u8>) {
        let body_len = self.encoded_len();
        out.reserve(body_len + 16);
        Self::TYPE.emit_header(body_len as u64, out);
        self.emit(out);
    }
}

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The body ended inside a field.
    #[error("record ends inside {0}")]
    Truncated(&'static str),
    /// The body goes on after its last field.
    #[error("{0} bytes after the record's last field")]
    Trailing(usize),
    /// An odd type that this side does not speak (protocol §4).
    #[error("unknown record type {0:#x}; odd types must be understood")]
    UnknownType(u64),
    /// Longer than its kind may be (protocol §8).
    #[error("record of {length} bytes; type {record_type:#x} may have {length_max}")]
    TooLong {
        /// The type number.
        record_type: u64,
        /// The length claimed, bytes.
        length: u64,
        /// The length allowed, bytes.
        length_max: u64,
    },
    /// More of something than protocol §8 allows.
    #[error("more {what} than {max}")]
    TooMany {
        /// The items that there are too many of.
        what: &'static str,
        /// Their allowed number.
        max: u64,
    },
    /// A field whose value this record may not have.
    #[error("{0}")]
    Malformed(&'static str),
    /// A feature or flag that this side does not implement.
    #[error("{0} not supported here")]
    Unsupported(&'static str),
    /// A setting that occurs twice.
    #[error("setting {0:#x} occurs twice")]
    DuplicateSetting(u64),
    /// A reason that is not UTF-8.
    #[error("reason is not UTF-8")]
    ReasonNotUtf8,
    /// A descriptor that cannot be read.
    #[error(transparent)]
    Descriptor(DescriptorError),
    /// A token that cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Ranges that are empty, out of order or out of bounds.
    #[error(transparent)]
    Ranges(#[from] RangesError),
}

impl RecordError {
    /// The error code for the peer (protocol §9).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated(_)
            | Self::Trailing(_)
            | Self::DuplicateSetting(_)
            | Self::ReasonNotUtf8
            | Self::Malformed(_) => ErrorCode::Malformed,
            Self::UnknownType(_) => ErrorCode::UnknownRecord,
            Self::TooLong { .. } | Self::TooMany { .. } => ErrorCode::Limit,
            Self::Unsupported(_) | Self::Token(_) => ErrorCode::UnsupportedCode,
            Self::Descriptor(error) => error.code(),
            Self::Ranges(RangesError::TooMany) => ErrorCode::Limit,
            Self::Ranges(_) => ErrorCode::BadRange,
        }
    }
}

impl From<Truncated> for RecordError {
    fn from(Truncated(what): Truncated) -> Self {
        Self::Truncated(what)
    }
}

impl From<DescriptorError> for RecordError {
    fn from(error: DescriptorError) -> Self {
        match error {
            DescriptorError::Truncated(what) => Self::Truncated(what),
            DescriptorError::Trailing(bytes) => Self::Trailing(bytes),
            other => Self::Descriptor(other),
        }
    }
}

/// Takes the next `len` bytes off `body`.
fn take<'a>(body: &mut &'a [u8], len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
    let (taken, rest) = body.split_at_checked(len).ok_or(RecordError::Truncated(what))?;
    *body = rest;
    Ok(taken)
}

/// Takes one byte off `body`.
fn take_u8(body: &mut &[u8], what: &'static str) -> Result<u8, RecordError> {
    Ok(take(body, 1, what)?[0])
}

/// Takes a 33-byte content token off `body`.
fn take_token(body: &mut &[u8], what: &'static str) -> Result<Token, RecordError> {
    Ok(Token::from_slice(take(body, TOKEN_BYTES, what)?)?)
}

/// Takes a 33-byte token of either kind off `body`.
fn take_any_token(body: &mut &[u8]) -> Result<AnyToken, RecordError> {
    Ok(AnyToken::from_slice(take(body, TOKEN_BYTES, "token")?)?)
}

/// Takes a node ID off `body`.
fn take_node_id(body: &mut &[u8]) -> Result<NodeId, RecordError> {
    let bytes = take(body, NODE_ID_BYTES, "node ID")?;
    Ok(NodeId(bytes.try_into().map_err(|_| RecordError::Truncated("node ID"))?))
}

/// Takes a lane bitmap, which may be empty, off `body`.
fn take_lanes(body: &mut &[u8]) -> Result<Lanes, RecordError> {
    Lanes::take(body).ok_or(RecordError::Malformed(
        "a lane bitmap is a length, at most 16, and that number of bytes, the last of them not 0",
    ))
}

/// Takes a lane bitmap that must name a lane off `body`.
fn take_some_lanes(body: &mut &[u8]) -> Result<Lanes, RecordError> {
    match take_lanes(body)? {
        Lanes::NONE => Err(RecordError::Malformed("a lane bitmap that names no lane")),
        lanes => Ok(lanes),
    }
}

/// Lanes are parts of a set: a content token has none.
fn lanes_need_a_set(token: &AnyToken) -> Result<(), RecordError> {
    match token {
        AnyToken::Set(_) => Ok(()),
        AnyToken::Content(_) => Err(RecordError::Malformed("lanes of a content token; only a set has lanes")),
    }
}

/// Refuses bytes after the last field.
fn finish(body: &[u8]) -> Result<(), RecordError> {
    if body.is_empty() { Ok(()) } else { Err(RecordError::Trailing(body.len())) }
}

#[cfg(test)]
mod testing {
    use super::*;
    use proptest::prelude::*;

    /// Tokens of both kinds.
    pub(super) fn any_token() -> impl Strategy<Value = AnyToken> {
        (any::<bool>(), any::<[u8; 32]>()).prop_map(|(set, hash)| {
            if set { crate::token::SetToken::from_hash(hash).into() } else { Token::from_root(hash).into() }
        })
    }

    pub(super) fn node_id() -> impl Strategy<Value = NodeId> {
        any::<[u8; 32]>().prop_map(NodeId)
    }

    pub(super) fn lease_holder() -> impl Strategy<Value = LeaseHolder> {
        prop_oneof![
            Just(LeaseHolder::Anonymous),
            Just(LeaseHolder::Cache),
            node_id().prop_map(LeaseHolder::Node)
        ]
    }

    /// Lanes, sometimes none.
    pub(super) fn lanes() -> impl Strategy<Value = Lanes> {
        proptest::collection::vec(0u8..128, 0..12).prop_map(|lanes| lanes.into_iter().collect())
    }

    /// Writes a body, reads it again, and reads no shorter and no longer one.
    #[track_caller]
    pub(super) fn assert_round_trip<R: Record + PartialEq + std::fmt::Debug>(record: &R) -> Vec<u8> {
        let mut body = Vec::new();
        record.emit(&mut body);
        assert_eq!(body.len(), record.encoded_len());
        assert_eq!(R::parse(&body).as_ref(), Ok(record));
        for len in 0..body.len() {
            assert_eq!(R::parse(&body[..len]).unwrap_err().code(), ErrorCode::Malformed, "cut to {len}");
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(R::parse(&longer), Err(RecordError::Trailing(1)));
        body
    }
}

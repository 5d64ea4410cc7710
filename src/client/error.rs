//! Why a call failed.

use crate::datagram::kernel::BindError;
use crate::hop::RouteError;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::names::{AddressError, ResolveError};
use crate::queue::{CloseReason, PeerSilence};
use crate::quic::transport::QuicError;
use crate::record::{ErrorCode, ErrorRecord, RecordError};
use crate::shard::CoderError;
use crate::tls::TlsError;
use crate::token::{AnyToken, RangesError, Token};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why an input cannot be read as a payload, and what to do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A directory.
    #[error("is a directory; give an archive of it by a pipe: tar -c DIRECTORY | stoq put -")]
    Directory,
    /// A socket in the file system, which cannot be opened.
    #[error("is a socket; have a program that reads it write into a pipe: PROGRAM | stoq put -")]
    Socket,
    /// A character device other than /dev/null and a terminal.
    #[error(
        "is a character device, which has no end; give a part of it by a pipe: head -c BYTES DEVICE | stoq put -"
    )]
    CharacterDevice,
    /// A block device of no size, such as a drive without a medium.
    #[error("is a block device whose size the system does not tell; is there a medium in it?")]
    BlockDevice,
    /// A descriptor that was closed when the process started. Rust's runtime opens /dev/null in its place, for reading and
    /// writing. A closed descriptor therefore looks like /dev/null opened for both.
    #[error(
        "is closed, or /dev/null opened for writing too; a payload of no bytes is `stoq put - </dev/null`"
    )]
    Closed,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came up.
    #[error("cannot connect to {remote}: {}", told(.failures))]
    Connect {
        /// The address as the caller wrote it.
        remote: String,
        /// The reason and the fix for each address that was tried, in the order in which they failed.
        failures: Vec<DialFailure>,
    },
    /// No connection came up within the time given.
    #[error("no answer from {remote} within {} s: does the gateway run there, and does the path carry UDP?", .limit.as_secs_f32())]
    Timeout {
        /// The address as the caller wrote it.
        remote: String,
        /// The time given.
        limit: Duration,
    },
    /// The system's resolver did not answer within the time given.
    #[error("the resolver has given no address of {remote} within {} s; check /etc/resolv.conf, or give the address itself", .limit.as_secs_f32())]
    Unresolved {
        /// The address as the caller wrote it.
        remote: String,
        /// The time given.
        limit: Duration,
    },
    /// The caller's text is no address of a gateway.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address cannot be resolved, or leads nowhere on this client's network.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The connection ended before the call or during it.
    #[error("the connection to {remote} ended: {reason}")]
    Lost {
        /// The peer.
        remote: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// The peer did not go on with the request for as long as [`ClientBuilder::silence_timeout`](super::ClientBuilder::silence_timeout)
    /// allows; the request was canceled, and the connection goes on.
    #[error(transparent)]
    Silent(#[from] PeerSilence),
    /// Settings of QUIC that do not go together.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// The client was stopped.
    #[error("the client was stopped")]
    Stopped,
    /// The peer refused the request or gave it up, or its bytes did not match the token.
    #[error("{}: {}", .0.code.name(), .0.reason())]
    Refused(ErrorRecord),
    /// The holders of a gathering cannot give the whole.
    #[error("{}: {}{}", .failure.code.name(), .failure.reason(), each(.holders))]
    Ungathered {
        /// Why the gathering ended.
        failure: ErrorRecord,
        /// What each holder did, of the first [`crate::limits::HOLDERS_TOLD_LEN_MAX`].
        holders: Vec<String>,
    },
    /// The peer confirms a token other than the one that was put.
    #[error("the gateway confirms {got} instead of {put}; do not rely on this copy")]
    WrongReceipt {
        /// The token that was put.
        put: AnyToken,
        /// The token that the peer confirms.
        got: AnyToken,
    },
    /// A local file failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        r#source: io::Error,
    },
    /// The input cannot be read as a payload.
    #[error("{path} {error}")]
    Input {
        /// The input's path or name.
        path: String,
        /// The fault, and its fix.
        error: InputError,
    },
    /// The file was written to before all of its bytes were sent.
    #[error(
        "{path} changed while it was being sent; put it again when no program writes to it, or put a copy: cat FILE | stoq put -"
    )]
    Changed {
        /// The file.
        path: String,
    },
    /// The file was written to after its bytes were read, and before the peer confirmed them.
    #[error(
        "{path} changed while it was being sent; the gateway keeps its earlier content, as {kept}; put it again for its present content"
    )]
    ChangedSince {
        /// The file.
        path: String,
        /// The payload that the peer keeps.
        kept: AnyToken,
    },
    /// The file was written to while its token was made.
    #[error("{path} changed while it was being hashed; hash it again when no program writes to it")]
    ChangedHashing {
        /// The file.
        path: String,
    },
    /// The caller's function for fetched bytes failed.
    #[error("cannot keep the fetched bytes: {0}")]
    Sink(io::Error),
    /// A payload or message is past its bound, or a descriptor is not valid.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The payload does not have these ranges or lanes.
    #[error(transparent)]
    Ranges(#[from] RangesError),
    /// The descriptor describes another payload.
    #[error("the descriptor is of the payload {described}, not of {put}, which is to be put")]
    OtherDescriptor {
        /// The descriptor's content token.
        described: Token,
        /// The payload's content token.
        put: Token,
    },
    /// The shard size or the numbers of lanes are not valid.
    #[error(transparent)]
    Shape(CoderError),
    /// A temporary file, for an input without a length or for parity, cannot be written.
    #[error(
        "cannot keep {what} in a temporary file in {}: {error}; name a directory with room by --spool DIR, or by TMPDIR",
        .directory.display()
    )]
    Spool {
        /// The contents of the temporary file.
        what: String,
        /// Its directory.
        directory: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Parity lanes are to be put, and their parity was not computed.
    #[error(
        "parity lanes are to be put, and the parity was not computed; prepare the payload with its parity"
    )]
    NoParity,
    /// The route is not valid.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A message is past its bound.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes, not {0}; put a payload instead")]
    MessageTooLong(usize),
    /// The answer has more bytes than the caller allows in memory.
    #[error(
        "the answer has more than the {0} bytes allowed; raise the limit, or take the payload piece by piece"
    )]
    TooLong(u64),
    /// A [`FetchReader`](super::FetchReader) is read again after it failed.
    #[error("this fetch has failed already; fetch the payload again")]
    Failed,
    /// The identity, the trust or another setting of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads cannot be started, the number of workers is out of range, or the system gives no random bytes.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Why one address gave no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialFailure {
    /// The address.
    pub address: SocketAddr,
    /// The reason and the fix.
    pub reason: CloseReason,
}

/// The reasons with their addresses; the reason alone if one address was tried.
fn told(failures: &[DialFailure]) -> String {
    match failures {
        [DialFailure { reason, .. }] => reason.to_string(),
        several => {
            let each = several.iter().map(|DialFailure { address, reason }| format!("{address}: {reason}"));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

impl ClientError {
    /// Why the connection was lost, or why it did not come up at each address; none for other errors.
    pub fn close_reasons(&self) -> impl Iterator<Item = &CloseReason> {
        let (lost, failures) = match self {
            Self::Lost { reason, .. } => (Some(reason), &[][..]),
            Self::Connect { failures, .. } => (None, &failures[..]),
            _ => (None, &[][..]),
        };
        lost.into_iter().chain(failures.iter().map(|failure| &failure.reason))
    }
}

/// For readers: the [`ClientError`] is inside the [`io::Error`], and [`io::Error::downcast`] gives it back.
impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Lost { reason: CloseReason::TimedOut | CloseReason::NoSettings(_), .. } => {
                io::ErrorKind::TimedOut
            }
            ClientError::Lost { reason: CloseReason::Local, .. } | ClientError::Stopped => {
                io::ErrorKind::ConnectionAborted
            }
            ClientError::Lost { .. } => io::ErrorKind::ConnectionReset,
            ClientError::Timeout { .. } | ClientError::Unresolved { .. } | ClientError::Silent(_) => {
                io::ErrorKind::TimedOut
            }
            ClientError::Refused(failure) | ClientError::Ungathered { failure, .. } => match failure.code {
                ErrorCode::NotFound => io::ErrorKind::NotFound,
                ErrorCode::NotAuthorized => io::ErrorKind::PermissionDenied,
                ErrorCode::BadProof => io::ErrorKind::InvalidData,
                _ => io::ErrorKind::Other,
            },
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Start(error)
    }
}

/// What each holder did, behind the reason.
fn each(holders: &[String]) -> String {
    holders.iter().map(|holder| format!("; {holder}")).collect()
}

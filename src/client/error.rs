//! Why a call failed.

use crate::datagram::kernel::BindError;
use crate::hop::RouteError;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::names::{AddressError, ResolveError};
use crate::queue::CloseReason;
use crate::record::{ErrorCode, ErrorRecord, RecordError};
use crate::shard::CoderError;
use crate::tls::TlsError;
use crate::token::{AnyToken, RangesError, Token};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why something cannot be read as a payload, and what to do instead.
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
    /// A descriptor that was closed when the process started. Rust's runtime then opens /dev/null in its place, for reading and
    /// writing, so that a closed descriptor cannot be told from /dev/null opened that way.
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
        /// Where to, as the caller wrote it.
        remote: String,
        /// Why, and what to do: at each address that was tried, in the order in which they failed.
        failures: Vec<DialFailure>,
    },
    /// No connection came up within the time given.
    #[error("no answer from {remote} within {} s", .limit.as_secs_f32())]
    Timeout {
        /// Where to, as the caller wrote it.
        remote: String,
        /// The time given.
        limit: Duration,
    },
    /// The system's resolver has not answered within the time given.
    #[error("cannot connect to {remote}: the resolver has not answered within {} s", .limit.as_secs_f32())]
    Unresolved {
        /// Where to, as the caller wrote it.
        remote: String,
        /// The time given.
        limit: Duration,
    },
    /// The caller's text is no address of a gateway.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address leads nowhere on this client's network.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The connection ended under the call, or before it.
    #[error("the connection to {remote} ended: {reason}")]
    Lost {
        /// The peer.
        remote: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// The client was stopped.
    #[error("the client was stopped")]
    Stopped,
    /// The peer refused or gave up the request, or what it sent was false.
    #[error("{}: {}", .0.code.name(), .0.reason())]
    Refused(ErrorRecord),
    /// The peer keeps something else than what was put.
    #[error("the gateway confirms {got} instead of {put}; do not rely on this copy")]
    WrongReceipt {
        /// What was put.
        put: AnyToken,
        /// What the peer says it keeps.
        got: AnyToken,
    },
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        r#source: io::Error,
    },
    /// What cannot be read as a payload.
    #[error("{path} {error}")]
    Input {
        /// What was to be read.
        path: String,
        /// What it is, and what to do.
        error: InputError,
    },
    /// The file was written to before all of it was sent.
    #[error(
        "{path} changed while it was being sent; put it again when nobody writes to it, or put a copy: cat FILE | stoq put -"
    )]
    Changed {
        /// The file.
        path: String,
    },
    /// The file was written to after its bytes had been read, and before the peer said that it keeps them.
    #[error(
        "{path} changed while it was being sent; the gateway keeps what it was before, as {kept}. Put it again for what it is now"
    )]
    ChangedSince {
        /// The file.
        path: String,
        /// What the peer keeps.
        kept: AnyToken,
    },
    /// The file was written to while its token was made.
    #[error("{path} changed while it was being hashed; do it again when nobody writes to it")]
    ChangedHashing {
        /// The file.
        path: String,
    },
    /// What the caller does with fetched bytes failed.
    #[error("cannot keep what was fetched: {0}")]
    Sink(io::Error),
    /// A payload or message past its bound, or a descriptor that cannot be.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Ranges or lanes that the payload does not have.
    #[error(transparent)]
    Ranges(#[from] RangesError),
    /// The descriptor given is not of the payload given.
    #[error("the descriptor is of the payload {described}, and {put} is to be put")]
    OtherDescriptor {
        /// The descriptor's content token.
        described: Token,
        /// The payload's.
        put: Token,
    },
    /// Shards that cannot be.
    #[error(transparent)]
    Shape(CoderError),
    /// A temporary file, for what has no length or for parity.
    #[error(
        "cannot keep {what} in a temporary file in {}: {error}; name a directory with room by --spool DIR, or by TMPDIR",
        .directory.display()
    )]
    Spool {
        /// What was to be kept.
        what: String,
        /// Where.
        directory: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Holders of one gathering on different workers.
    #[error("what is gathered comes by one worker; connect all holders with the same `worker` option")]
    OtherWorker,
    /// Parity lanes are to be put, and their bytes are not at hand.
    #[error("parity lanes are to be put, and the parity was not made")]
    NoParity,
    /// A route that cannot be.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A message past its bound.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes, not {0}; put a payload instead")]
    MessageTooLong(usize),
    /// More bytes than the caller wants in memory.
    #[error("the answer has more than the {0} bytes allowed; raise the limit, or take it piece by piece")]
    TooLong(u64),
    /// The fetch that is read failed before.
    #[error("this fetch has failed already; fetch the payload again")]
    Failed,
    /// The identity, the trust or another setting of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads cannot be started, or the system gives no random bytes.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Why one address did not become a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialFailure {
    /// The address.
    pub address: SocketAddr,
    /// Why, and what to do.
    pub reason: CloseReason,
}

/// The reason alone where one address was tried.
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

/// For readers: the [`ClientError`] is inside, and [`io::Error::downcast`] gives it back.
impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Lost { reason: CloseReason::TimedOut, .. } => io::ErrorKind::TimedOut,
            ClientError::Lost { reason: CloseReason::Local, .. } | ClientError::Stopped => {
                io::ErrorKind::ConnectionAborted
            }
            ClientError::Lost { .. } => io::ErrorKind::ConnectionReset,
            ClientError::Timeout { .. } | ClientError::Unresolved { .. } => io::ErrorKind::TimedOut,
            ClientError::Refused(failure) => match failure.code {
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

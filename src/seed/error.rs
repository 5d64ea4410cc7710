//! Why a store could not do it.

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::record::ErrorCode;
use crate::shard::Lanes;
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken};
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do it. The text names the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured capacity is used up.
    #[error(
        "the store in {} has no room for {needed_bytes} bytes: {usage_bytes} of {capacity_bytes} are taken; \
         remove payloads or raise its capacity", path.display()
    )]
    Capacity {
        /// The store.
        path: PathBuf,
        /// What was asked for, bytes.
        needed_bytes: u64,
        /// What is taken, bytes.
        usage_bytes: u64,
        /// What may be taken, bytes.
        capacity_bytes: u64,
    },
    /// What a peer may have kept is used up.
    #[error(
        "{owner} has {used_bytes} of {quota_bytes} bytes kept here and asks for {needed_bytes} more; \
         wait for its leases to end, remove what it had kept, or raise the quota of a peer"
    )]
    PeerQuota {
        /// The peer.
        owner: NodeId,
        /// What was asked for, bytes.
        needed_bytes: u64,
        /// What is kept for the peer, bytes.
        used_bytes: u64,
        /// What may be kept for a peer, bytes.
        quota_bytes: u64,
    },
    /// The file system is full.
    #[error(
        "the disk under {} has {available_bytes} bytes free and {needed_bytes} are needed; \
         free some, or give the store a capacity that fits the disk", path.display()
    )]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// What was asked for, bytes.
        needed_bytes: u64,
        /// What the disk has, bytes.
        available_bytes: u64,
    },
    /// The store can only serve.
    #[error("{} cannot be written ({kind}): mount it for writing or give this user the right", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Another process writes there.
    #[error("the store in {} is in use by another process; stop it or choose another directory", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// Past [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is longer than the {PAYLOAD_BYTES_MAX} that the protocol allows")]
    TooLong(u64),
    /// A piece that is not of this payload.
    #[error("a piece at offset {offset} lies outside its payload of {length} bytes")]
    Foreign {
        /// Where the piece said it was.
        offset: u64,
        /// The payload's length.
        length: u64,
    },
    /// A commit before every byte was written.
    #[error("only {written_bytes} of {length} bytes were written; nothing is kept")]
    Incomplete {
        /// Payload bytes written.
        written_bytes: u64,
        /// The payload's length, bytes.
        length: u64,
    },
    /// A set whose decoded bytes missed the content token.
    #[error("{0} has a bad descriptor: its shards do not give its payload back; shard the payload anew")]
    BadDescriptor(SetToken),
    /// Lanes that a set does not have.
    #[error("lanes `{lanes}` of a set that has {count}: name one at least, and none past the last")]
    NoSuchLanes {
        /// What was asked for.
        lanes: Lanes,
        /// Lanes of the set.
        count: u32,
    },
    /// Lanes that were held went while others were written.
    #[error("lanes {missing} of {token} went while others were written: put them again")]
    LanesWent {
        /// The set.
        token: SetToken,
        /// What went.
        missing: Lanes,
    },
    /// Something that was held went before its lease was made longer.
    #[error("{0} went before its lease could be made longer: put it again")]
    Went(AnyToken),
    /// What is on the disk is not what the token names.
    #[error("{0} is damaged on the disk: put it again")]
    Damaged(AnyToken),
    /// The disk failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        r#source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The error that the peer is told (protocol §9). The text stays here: it names paths.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Capacity { .. } | Self::PeerQuota { .. } | Self::DiskFull { .. } => ErrorCode::Quota,
            Self::TooLong(_) => ErrorCode::Limit,
            Self::BadDescriptor(_) => ErrorCode::BadDescriptor,
            Self::NoSuchLanes { .. } => ErrorCode::BadRange,
            Self::LanesWent { .. } | Self::Went(_) => ErrorCode::Busy,
            Self::ReadOnly { .. }
            | Self::InUse { .. }
            | Self::Foreign { .. }
            | Self::Incomplete { .. }
            | Self::Damaged(_)
            | Self::Io { .. } => ErrorCode::Internal,
        }
    }

    /// The reason that the peer is told: without paths and figures, which peers must not see.
    pub(super) fn for_peers(&self) -> &'static str {
        match (self.code(), self) {
            (ErrorCode::Quota, Self::PeerQuota { .. }) => {
                "this peer's quota has no room for it; wait for its leases to end, or have the gateway's owner raise quota_bytes"
            }
            (ErrorCode::Quota, Self::DiskFull { .. }) => {
                "the store's disk has no room for this payload; have the gateway's owner free some"
            }
            (ErrorCode::Quota, _) => {
                "the store has no room for this payload; wait for leases to end, or have the gateway's owner raise capacity_bytes"
            }
            (ErrorCode::Limit, _) => "the payload is longer than the protocol allows",
            (ErrorCode::BadDescriptor, _) => "this set's shards do not give its payload",
            (ErrorCode::BadRange, _) => "the set has no such lanes",
            (_, Self::Damaged(_)) => "what is kept of it here is damaged; put or mirror it again",
            (ErrorCode::Busy, _) => "what was held of it went meanwhile; ask again",
            _ => "the store cannot keep or read this payload now",
        }
    }
}

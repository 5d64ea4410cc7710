//! Why a store could not do something.

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::record::ErrorCode;
use crate::shard::Lanes;
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, Token};
use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not do something. The text names the path and the fix.
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
        /// The bytes asked for.
        needed_bytes: u64,
        /// The bytes taken.
        usage_bytes: u64,
        /// The capacity, bytes.
        capacity_bytes: u64,
    },
    /// The quota of a peer is used up.
    #[error(
        "{owner} has {used_bytes} of {quota_bytes} bytes kept here and asks for {needed_bytes} more; \
         wait for its leases to end, remove its payloads, or raise the quota of a peer"
    )]
    PeerQuota {
        /// The peer.
        owner: NodeId,
        /// The bytes asked for.
        needed_bytes: u64,
        /// The bytes kept for the peer.
        used_bytes: u64,
        /// The quota of a peer, bytes.
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
        /// The bytes asked for.
        needed_bytes: u64,
        /// The bytes free on the disk.
        available_bytes: u64,
    },
    /// The file system has no room for another file.
    #[error(
        "the disk under {} has no inode left for a new file, with {available_bytes} bytes free; \
         remove files, or give the store a `capacity_entries` that fits the disk", path.display()
    )]
    NoInodes {
        /// The directory.
        path: PathBuf,
        /// The bytes free on the disk.
        available_bytes: u64,
    },
    /// The store holds as many payloads and sets as it may.
    #[error(
        "the store in {} holds {entries} of {entries_max} payloads and sets; \
         remove some or raise its `capacity_entries`", path.display()
    )]
    Entries {
        /// The store.
        path: PathBuf,
        /// The payloads and sets held, or being written.
        entries: u64,
        /// The most that it may hold.
        entries_max: u64,
    },
    /// As many payloads and sets are kept for a peer as may be.
    #[error(
        "{owner} has {entries} of {entries_max} payloads and sets kept here; \
         wait for its leases to end, remove some, or raise `quota_entries`"
    )]
    PeerEntries {
        /// The peer.
        owner: NodeId,
        /// The payloads and sets kept for the peer, or being written.
        entries: u64,
        /// The most that may be kept for one peer.
        entries_max: u64,
    },
    /// Too many payloads are being written.
    #[error("{count} payloads are unfinished, and {count_max} may be: finish some first")]
    Unfinished {
        /// The number of unfinished ones.
        count: u64,
        /// The most that may be.
        count_max: u64,
    },
    /// The unfinished payloads of a peer need more than their share.
    #[error(
        "a peer's unfinished payloads need {promised_bytes} bytes, and {needed_bytes} more are past their share of {share_bytes}: \
         finish some first, or raise capacity_bytes"
    )]
    UnfinishedShare {
        /// The bytes asked for.
        needed_bytes: u64,
        /// The bytes that the unfinished payloads need.
        promised_bytes: u64,
        /// The share of all unfinished payloads of one peer, bytes.
        share_bytes: u64,
    },
    /// The store can be read only.
    #[error("{} cannot be written ({kind}): mount it for writing or give this user the right", path.display())]
    ReadOnly {
        /// The path that cannot be written.
        path: PathBuf,
        /// The kind of the system's error.
        kind: io::ErrorKind,
    },
    /// Another process has the store open for writing.
    #[error("the store in {} is in use by another process; stop it or choose another directory", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The database of the store is damaged, or is none of a store.
    #[error(
        "the store's database {} cannot be used: {reason}; restore it from a backup, or move it away: \
         the payloads that are files are then kept without end and without an owner", path.display()
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The journal of the store's database is damaged, of another database or of a later version.
    #[error(
        "the store's journal {} cannot be used: {reason}; restore it and the database from one backup, or move it away: \
         what was put last, and is in the journal alone, is then lost", path.display()
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The database of the store is of a later version.
    #[error(
        "the store's database {} has the layout {layout}, and this version of STOQ knows {known}; \
         run the version that wrote it, or a later one", path.display()
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// The version of the layout.
        layout: u32,
        /// The version that this program knows.
        known: u32,
    },
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("the store takes no payload of {0} bytes: the protocol allows {PAYLOAD_BYTES_MAX}")]
    TooLong(u64),
    /// A piece does not belong to the payload.
    #[error("a piece at offset {offset} lies outside its payload of {length} bytes")]
    Foreign {
        /// The piece's offset, bytes.
        offset: u64,
        /// The payload's length, bytes.
        length: u64,
    },
    /// A commit before all bytes were written.
    #[error("only {written_bytes} of {length} bytes were written; nothing is kept")]
    Incomplete {
        /// Payload bytes written.
        written_bytes: u64,
        /// The payload's length, bytes.
        length: u64,
    },
    /// The shards of a set do not give the payload of its content token.
    #[error("{0} has a bad descriptor: its shards do not give its payload back; shard the payload anew")]
    BadDescriptor(SetToken),
    /// The set does not have these lanes.
    #[error("lanes `{lanes}` of a set that has {count}: name one at least, and none past the last")]
    NoSuchLanes {
        /// The lanes asked for.
        lanes: Lanes,
        /// The number of lanes of the set.
        count: u32,
    },
    /// Lanes that were held were removed while others were written.
    #[error("lanes {missing} of {token} were removed while others were written: put them again")]
    LanesWent {
        /// The set.
        token: SetToken,
        /// The lanes removed.
        missing: Lanes,
    },
    /// A payload or set was removed before its lease was extended.
    #[error("{0} was removed before its lease could be extended: put it again")]
    Went(AnyToken),
    /// A payload was removed or replaced while a reader had its file closed.
    #[error("{0} was removed or replaced while it was read: ask for it again")]
    Removed(AnyToken),
    /// The bytes on the disk do not match the token.
    #[error("{0} is damaged on the disk: put it again")]
    Damaged(AnyToken),
    /// The disk failed.
    #[error("the seed store cannot {action} {}: {source}", path.display())]
    Io {
        /// The action.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's error.
        r#source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The error of reading an open payload.
    pub(super) fn reading(token: Token, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Removed(token.into()),
            _ => Self::io("read", Path::new(&token.hex()), source),
        }
    }

    /// The error code for the peer (protocol §9). The text is not sent: it names paths.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Capacity { .. }
            | Self::PeerQuota { .. }
            | Self::DiskFull { .. }
            | Self::NoInodes { .. }
            | Self::Entries { .. }
            | Self::PeerEntries { .. } => ErrorCode::Quota,
            Self::Unfinished { .. } | Self::UnfinishedShare { .. } => ErrorCode::Busy,
            Self::TooLong(_) => ErrorCode::Limit,
            Self::BadDescriptor(_) => ErrorCode::BadDescriptor,
            Self::NoSuchLanes { .. } => ErrorCode::BadRange,
            Self::LanesWent { .. } | Self::Went(_) | Self::Removed(_) => ErrorCode::Busy,
            Self::ReadOnly { .. }
            | Self::InUse { .. }
            | Self::Database { .. }
            | Self::Journal { .. }
            | Self::Layout { .. }
            | Self::Foreign { .. }
            | Self::Incomplete { .. }
            | Self::Damaged(_)
            | Self::Io { .. } => ErrorCode::Internal,
        }
    }

    /// The reason for the peer: without paths and figures, which peers must not see.
    pub(super) fn for_peers(&self) -> &'static str {
        match (self.code(), self) {
            (ErrorCode::Quota, Self::PeerQuota { .. }) => {
                "this peer's quota has no room for it; wait for its leases to end, or have the gateway's owner raise quota_bytes"
            }
            (ErrorCode::Quota, Self::PeerEntries { .. }) => {
                "this peer has as many payloads and sets kept as it may; wait for its leases to end, or have the gateway's owner raise quota_entries"
            }
            (ErrorCode::Quota, Self::Entries { .. }) => {
                "the store holds as many payloads and sets as it may; wait for leases to end, or have the gateway's owner raise capacity_entries"
            }
            (ErrorCode::Quota, Self::NoInodes { .. }) => {
                "the store's disk has no room for one more file; have the gateway's owner remove some"
            }
            (ErrorCode::Busy, Self::Unfinished { .. } | Self::UnfinishedShare { .. }) => {
                "too much is unfinished; finish other puts first, then ask again"
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
            (_, Self::Damaged(_)) => "the copy kept here is damaged; put or mirror it again",
            (ErrorCode::Busy, _) => "it was removed meanwhile; ask again",
            _ => "the store cannot keep or read this payload now",
        }
    }
}

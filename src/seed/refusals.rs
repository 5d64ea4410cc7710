//! The refusals of a store, by the bound that made them.

use super::error::StoreError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A bound of a store for which it refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBound {
    /// The capacity, bytes.
    Capacity,
    /// The disk.
    Disk,
    /// A peer's quota, bytes.
    Quota,
    /// The number of entries.
    Entries,
    /// The number of a peer's entries.
    PeerEntries,
    /// A peer's unfinished PUTs: their number, or their share of the capacity.
    Unfinished,
    /// The time in which a PUT must go further.
    Progress,
    /// A peer's mirrors, or those of all peers.
    Mirrors,
    /// A peer's requests about leases, or those of all peers.
    Leases,
}

impl StoreBound {
    /// All bounds.
    pub const ALL: [Self; 9] = [
        Self::Capacity,
        Self::Disk,
        Self::Quota,
        Self::Entries,
        Self::PeerEntries,
        Self::Unfinished,
        Self::Progress,
        Self::Mirrors,
        Self::Leases,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Disk => "disk",
            Self::Quota => "quota",
            Self::Entries => "entries",
            Self::PeerEntries => "peer_entries",
            Self::Unfinished => "unfinished",
            Self::Progress => "progress",
            Self::Mirrors => "mirrors",
            Self::Leases => "leases",
        }
    }
}

/// The number of refusals by each bound.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; StoreBound::ALL.len()]);

impl Refusals {
    pub(super) fn note(&self, bound: StoreBound) {
        self.0[bound as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count(&self, bound: StoreBound) -> u64 {
        self.0[bound as usize].load(Relaxed)
    }
}

impl StoreError {
    /// The bound that it reports, if it reports one.
    pub const fn bound(&self) -> Option<StoreBound> {
        Some(match self {
            Self::Capacity { .. } => StoreBound::Capacity,
            Self::DiskFull { .. } | Self::NoInodes { .. } => StoreBound::Disk,
            Self::PeerQuota { .. } => StoreBound::Quota,
            Self::Entries { .. } => StoreBound::Entries,
            Self::PeerEntries { .. } => StoreBound::PeerEntries,
            Self::Unfinished { .. } | Self::UnfinishedShare { .. } => StoreBound::Unfinished,
            _ => return None,
        })
    }
}

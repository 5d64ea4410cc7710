//! How a store is kept.

/// How a store is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// The most that what is held may take, outboards included, bytes; `None`: as much as the disk has.
    pub capacity_bytes: Option<u64>,
    /// The most that is kept for one peer, bytes; `None`: as much as there is.
    pub quota_bytes: Option<u64>,
    /// The lease of what was put without one, seconds; 0: it has no end.
    pub lease_default_s: u64,
    /// The longest lease, seconds; 0: any is granted.
    pub lease_max_s: u64,
}

//! The settings of a store.

/// The settings of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// The most bytes of disk that everything held may take: the blocks of all files; `None`: as many as the disk has.
    pub capacity_bytes: Option<u64>,
    /// The most bytes that are kept for one peer; `None`: no bound of its own.
    pub quota_bytes: Option<u64>,
    /// The most payloads and sets that are held; `None`: [`crate::limits::STORE_ENTRIES_LEN`].
    pub capacity_entries: Option<u64>,
    /// The most of them that are kept for one peer; `None`: [`crate::limits::NODE_ENTRIES_LEN`].
    pub quota_entries: Option<u64>,
    /// The lease of a payload that is put without one, seconds; 0: it has no end.
    pub lease_default_s: u64,
    /// The longest lease that is granted, seconds; 0: any.
    pub lease_max_s: u64,
}

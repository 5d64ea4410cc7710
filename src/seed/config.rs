//! The settings of a store.

use crate::limits::{NODE_UNFINISHED_LEN_MAX, READ_FILES_LEN_MAX, STORE_FILES_LEN_MAX, UNFINISHED_LEN_MAX};

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
    /// The time within which the scrub reads everything that is held, seconds; 0: it reads only when an operator asks for it.
    pub scrub_s: u64,
    /// The highest rate at which it reads, bytes a second; `None`: [`crate::limits::SCRUB_BYTES_PER_S`].
    pub scrub_bytes_per_s: Option<u64>,
    /// The most files that the store may have open; `None`, and at most: [`STORE_FILES_LEN_MAX`].
    pub files_max: Option<u64>,
}

/// The shares of a store's open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileShares {
    /// Files that are read.
    pub(super) read: usize,
    /// Payloads and blobs that are written, of two files each.
    pub(super) unfinished: u64,
    /// The same, of one node.
    pub(super) node_unfinished: u64,
}

impl StoreConfig {
    /// How the open files are divided: an eighth is for readers, who open a file again when it is their turn.
    pub(super) fn files(&self) -> FileShares {
        let files = self.files_max.unwrap_or(STORE_FILES_LEN_MAX);
        let read = (files / 8).clamp(1, READ_FILES_LEN_MAX);
        let unfinished = (files.saturating_sub(read) / 2).clamp(1, UNFINISHED_LEN_MAX);
        let node_unfinished = (unfinished / 2).clamp(1, NODE_UNFINISHED_LEN_MAX);
        FileShares { read: read as usize, unfinished, node_unfinished }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_the_files_that_it_may_have_and_no_node_takes_all_of_them() {
        let of = |files_max| StoreConfig { files_max, ..StoreConfig::default() }.files();
        assert_eq!(of(None).read as u64 + 2 * of(None).unfinished, STORE_FILES_LEN_MAX);
        assert_eq!(of(None).node_unfinished, NODE_UNFINISHED_LEN_MAX);
        assert_eq!(of(Some(u64::MAX)), of(None));
        for files in [16, 100, 256, 1000] {
            let FileShares { read, unfinished, node_unfinished } = of(Some(files));
            assert!(read as u64 + 2 * unfinished <= files && 2 * node_unfinished <= unfinished, "{files}");
        }
        assert_eq!(of(Some(0)).unfinished, 1, "a store takes a payload in any case");
    }
}

//! What rows know of their journal between commits.

use super::journal::{JournalFiles, JournalNote};
use super::take_over::TakeOver;
use crate::seed::disk::StoreDisk;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct RowsJournal {
    pub(super) dir: PathBuf,
    pub(super) disk: StoreDisk,
    /// The note that the database has, but for the number: that of the last batch or commit which was begun.
    pub(super) note: JournalNote,
    /// `None`: the next commit goes into the database, with all that the journal has.
    pub(super) files: Option<JournalFiles>,
    pub(super) take_over: Option<Arc<TakeOver>>,
    /// A file that should have been there when the store was opened.
    pub(super) missing: Option<PathBuf>,
    pub(super) is_closing: bool,
}

impl RowsJournal {
    pub(super) fn new(dir: &Path, disk: &StoreDisk, note: JournalNote, missing: Option<PathBuf>) -> Self {
        let (dir, disk) = (dir.to_owned(), disk.clone());
        Self { dir, disk, note, files: None, take_over: None, missing, is_closing: false }
    }

    /// Whether the file that is written has as much as the database takes over at a time.
    pub(super) fn is_full(&self) -> bool {
        let bytes_max = self.disk.0.journal_bytes_max();
        self.files.as_ref().is_some_and(|files| files.used_bytes() >= bytes_max)
    }

    /// Waits for a take-over that runs.
    pub(super) fn wait(&self) {
        if let Some(take_over) = &self.take_over {
            take_over.wait();
        }
    }
}

//! A commit that is on its way: into a journal, or into the database.

use super::batch::emit;
use super::guard::GuardedDatabase;
use super::journal::{JournalFiles, JournalNote};
use super::opened::write;
use super::table::Changes;
use super::take_over::TakeOver;
use crate::seed::disk::StoreDisk;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A commit that is on its way.
pub(in crate::seed) struct Commit {
    pub(super) changes: Arc<Changes>,
    pub(super) disk: StoreDisk,
    /// With the number of this batch or commit.
    pub(super) note: JournalNote,
    pub(super) way: CommitWay,
}

pub(super) enum CommitWay {
    /// It waits for the end of a take-over, and begins again then.
    Wait(Arc<TakeOver>),
    /// It is appended to a journal. A take-over is started before.
    Journal { files: JournalFiles, take_over: Option<Arc<TakeOver>> },
    /// The database takes it, and before it all that its journal has. `start` has the directory of a journal that begins then.
    Database { database: Arc<GuardedDatabase>, earlier: Option<Arc<Changes>>, start: Option<PathBuf> },
}

/// What came of the writing of a commit.
pub(in crate::seed) struct Written(pub(super) WrittenTo);

pub(super) enum WrittenTo {
    Waited,
    Journal(io::Result<JournalFiles>),
    /// The files of a journal that begins.
    Database(Result<Option<JournalFiles>, redb::Error>),
}

impl Commit {
    /// Writes it. Blocks on the disk.
    pub(in crate::seed) fn write(&self) -> Written {
        Written(match &self.way {
            CommitWay::Wait(take_over) => {
                take_over.wait();
                WrittenTo::Waited
            }
            CommitWay::Journal { files, take_over } => {
                if let Some(take_over) = take_over {
                    take_over.clone().start(self.disk.0.takes_over_beside());
                }
                let mut files = files.clone();
                let batch = emit(&self.changes, self.note.taken, &self.note.key);
                WrittenTo::Journal(files.append(&self.disk, &batch).map(|()| files))
            }
            CommitWay::Database { database, earlier, start } => {
                // Before the note that there are such files.
                let files = start.as_ref().and_then(|dir| {
                    let opened = JournalFiles::open(dir, &self.disk, &self.note.key);
                    let warn = |error| tracing::warn!(%error, "the store's journal cannot be opened: puts are slower");
                    opened.map_err(warn).ok()
                });
                let note = JournalNote { is_open: files.is_some(), ..self.note };
                let earlier = earlier.as_deref().into_iter();
                let changes: Vec<_> = earlier.chain([&*self.changes]).collect();
                WrittenTo::Database(write(database, &changes, &note).map(|()| files))
            }
        })
    }
}

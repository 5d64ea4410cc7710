//! Begins and ends the commits of a store's rows, and decides where each goes.

use super::commit::{Commit, CommitWay, Written, WrittenTo};
use super::guard::GuardedDatabase;
use super::journal::{JournalFiles, JournalNote, paths};
use super::opened::DatabaseAccess;
use super::rows::Rows;
use super::table::Changes;
use super::take_over::TakeOver;
use crate::limits::STORE_JOURNAL_ROWS_LEN_MAX;
use crate::seed::error::StoreError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::seed) enum CommitEnd {
    Durable,
    /// It is to begin again.
    Again,
}

impl Rows {
    /// A file of the journal that should have been there when the store was opened: what was put last may be lost.
    pub(in crate::seed) fn missing_journal(&self) -> Option<&Path> {
        self.journal.missing.as_deref()
    }

    /// Has the next commit be the last one: it leaves nothing to the journal. Returns the paths of its files, which may be removed then.
    pub(in crate::seed) fn begin_close(&mut self) -> [PathBuf; 2] {
        self.journal.is_closing = true;
        paths(&self.journal.dir)
    }

    /// Whether a last commit has something to do.
    fn must_close(&self) -> bool {
        let is_journaled = || self.database().latest().is_journaled();
        self.journal.is_closing && (self.journal.note.is_open || is_journaled())
    }

    /// Begins a commit of all changes so far; `None` if there are none. Only one may be on its way.
    ///
    /// # Errors
    /// The disk's, if a row could not be read: the changes are then forgotten.
    pub(in crate::seed) fn begin_commit(&mut self) -> Result<Option<Commit>, StoreError> {
        let fault = self.fault().take();
        if let Some(error) = fault {
            self.changed = Changes::default();
            return Err(error);
        }
        if !self.is_changed() && !self.must_close() {
            return Ok(None);
        }
        self.end_take_over();
        let latest = self.latest();
        let is_full = self.journal.is_full() || latest.journaled_len() >= STORE_JOURNAL_ROWS_LEN_MAX;
        let is_behind = is_full && latest.is_taking();
        let to_database = self.journal.is_closing || is_behind;
        let way = match self.journal.files.clone() {
            Some(files) if !to_database => {
                let take_over = if is_full { Some(self.begin_take_over()?) } else { None };
                let files = if is_full { files.turned() } else { files };
                CommitWay::Journal { files, take_over }
            }
            _ => match &self.journal.take_over {
                Some(take_over) => CommitWay::Wait(take_over.clone()),
                None => self.to_database()?,
            },
        };
        let changes = match way {
            CommitWay::Wait(_) => Arc::default(),
            CommitWay::Journal { .. } | CommitWay::Database { .. } => {
                self.journal.note.taken += 1;
                self.committing.insert(Arc::new(std::mem::take(&mut self.changed))).clone()
            }
        };
        Ok(Some(Commit { changes, disk: self.journal.disk.clone(), note: self.journal.note, way }))
    }

    /// The database, to be written.
    fn writer(&self) -> Result<Arc<GuardedDatabase>, StoreError> {
        let mut database = self.database();
        if self.writable && database.writer().0 == DatabaseAccess::Read {
            database.reopen()?;
        }
        Ok(database.writer().1)
    }

    fn begin_take_over(&mut self) -> Result<Arc<TakeOver>, StoreError> {
        let note = JournalNote { is_open: true, ..self.journal.note };
        let take_over = TakeOver::new(self.writer()?, self.latest().freeze(), note);
        Ok(self.journal.take_over.insert(take_over).clone())
    }

    fn to_database(&self) -> Result<CommitWay, StoreError> {
        let database = self.writer()?;
        let latest = self.latest();
        let earlier = latest.is_journaled().then(|| latest.freeze());
        let may_start = self.writable && !self.journal.is_closing;
        let start = may_start.then(|| self.journal.dir.clone());
        Ok(CommitWay::Database { database, earlier, start })
    }

    /// Notes the end of a take-over, if one has ended. If it failed, the journal keeps what it has.
    fn end_take_over(&mut self) {
        let Some(take_over) = self.journal.take_over.take_if(|running| running.is_over()) else { return };
        let Some(written) = take_over.take_result() else { return };
        if let Err(error) = self.end_of_database(&take_over.database, written) {
            tracing::error!(%error, "the store's database could not take its journal over: it tries again when the journal is full");
        }
    }

    /// Shows what was written to the database. After an error its file is opened anew.
    fn end_of_database(
        &self,
        writer: &Arc<GuardedDatabase>,
        written: Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let mut database = self.database();
        let ended = match written {
            Ok(()) => database.refresh(),
            Err(error) => Err(database.failed(error)),
        };
        if ended.is_err()
            && Arc::ptr_eq(&database.writer().1, writer)
            && let Err(error) = database.reopen()
        {
            tracing::error!(%error, "the store's database cannot be written: the store serves what it holds");
        }
        ended
    }

    /// Ends a commit. After an error its changes are changes again.
    pub(in crate::seed) fn end_commit(
        &mut self,
        commit: Commit,
        written: Written,
    ) -> Result<CommitEnd, StoreError> {
        let Commit { changes, way, .. } = commit;
        let ended = match (way, written.0) {
            (CommitWay::Database { database, earlier, .. }, WrittenTo::Database(written)) => {
                drop(earlier);
                self.end_database_commit(&database, written)
            }
            (_, WrittenTo::Journal(Ok(files))) => {
                self.journal.files = Some(files);
                self.committing = None;
                self.latest().add(Arc::try_unwrap(changes).unwrap_or_else(|shared| shared.cloned()));
                return Ok(CommitEnd::Durable);
            }
            (_, WrittenTo::Journal(Err(error))) => {
                tracing::warn!(%error, "the store's journal cannot be written: its database takes what is put");
                self.journal.files = None;
                Ok(CommitEnd::Again)
            }
            _ => return Ok(CommitEnd::Again),
        };
        self.committing = None;
        if !matches!(ended, Ok(CommitEnd::Durable)) {
            let mut earlier = Arc::try_unwrap(changes).unwrap_or_else(|shared| shared.cloned());
            earlier.absorb(std::mem::take(&mut self.changed));
            self.changed = earlier;
        }
        ended
    }

    fn end_database_commit(
        &mut self,
        writer: &Arc<GuardedDatabase>,
        written: Result<Option<JournalFiles>, redb::Error>,
    ) -> Result<CommitEnd, StoreError> {
        let (written, files) = match written {
            Ok(files) => (Ok(()), files),
            Err(error) => (Err(error), None),
        };
        // After an error too: a number was used that no batch has.
        self.journal.files = files;
        self.end_of_database(writer, written)?;
        self.journal.note.is_open = self.journal.files.is_some();
        Ok(CommitEnd::Durable)
    }
}

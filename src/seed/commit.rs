//! Commits of a store's rows, and the removal of files after them. One thread commits for all that wait: what they changed becomes durable
//! together.

use super::database::CommitEnd;
use super::disk::parent;
use super::error::StoreError;
use super::inner::Inner;
use crate::limits::STORE_BATCH_LEN;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The commits of a store.
#[derive(Debug, Default)]
pub(super) struct Commits {
    state: Mutex<CommitState>,
    /// Signals the ends of commits with even numbers, and of those with odd ones: threads that wait for the next one sleep on.
    ended: [Condvar; 2],
}

#[derive(Debug, Default)]
struct CommitState {
    /// Commits that have begun, and the last of them that ended well.
    begun: u64,
    durable: u64,
    is_running: bool,
    /// The last commit that failed, and why.
    failed: Option<(u64, CommitFailure)>,
    /// Files that may be removed, by their paths in the store's directory: the commit that gave them up is durable.
    gone: Vec<String>,
}

/// The error of a commit, for each that waited for it.
#[derive(Clone, Debug)]
struct CommitFailure {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl CommitFailure {
    fn of(error: &StoreError) -> Self {
        let source = match error {
            StoreError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        let kind = match error {
            StoreError::DiskFull { .. } | StoreError::NoInodes { .. } => io::ErrorKind::StorageFull,
            StoreError::ReadOnly { kind, .. } => *kind,
            _ => io::ErrorKind::Other,
        };
        Self { errno: source, kind, text: error.to_string() }
    }

    fn error(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None if self.kind == io::ErrorKind::Other => io::Error::other(self.text.clone()),
            None => self.kind.into(),
        }
    }
}

impl Commits {
    fn state(&self) -> MutexGuard<'_, CommitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the threads sleep on that wait for the commit with this number.
    fn end_of(&self, number: u64) -> &Condvar {
        &self.ended[(number % 2) as usize]
    }
}

impl Inner {
    /// Makes all changes durable that were made before. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's. The changes stay, and the next commit takes them along.
    pub(super) fn commit(&self) -> Result<(), StoreError> {
        let mut state = self.commits.state();
        // A commit that is on its way may have begun too early: the next one takes all.
        let wanted = state.begun + 1;
        loop {
            if state.durable >= wanted {
                return Ok(());
            }
            if let Some((number, failure)) = &state.failed
                && *number >= wanted
            {
                let failure = failure.error();
                drop(state);
                return Err(self.database_error(failure));
            }
            if !state.is_running {
                break;
            }
            state = self.commits.end_of(wanted).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_running = true;
        state.begun += 1;
        let number = state.begun;
        drop(state);
        let committed = self.commit_now();
        let mut state = self.commits.state();
        state.is_running = false;
        let ended = match committed {
            Ok(gone) => {
                state.durable = number;
                state.gone.extend(gone);
                Ok(())
            }
            Err(error) => {
                state.failed = Some((number, CommitFailure::of(&error)));
                Err(error)
            }
        };
        drop(state);
        // One of the threads that wait for the next commit makes it. It is woken first: the disk has nothing to do until then.
        self.commits.end_of(number + 1).notify_one();
        self.commits.end_of(number).notify_all();
        let spent = self.index().rows.take_spent();
        // Many rows, if the database took a journal over: nothing waits for their end.
        drop(spent);
        ended
    }

    fn database_error(&self, error: io::Error) -> StoreError {
        super::disk::write_error(&self.dir.join(super::database::DATABASE), 0, error)
    }

    /// Makes the changes durable whose commit failed, if one did: they take memory until then.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        let is_behind = {
            let state = self.commits.state();
            state.failed.as_ref().is_some_and(|(number, _)| *number > state.durable)
        };
        if is_behind { self.commit() } else { Ok(()) }
    }

    /// Commits, and returns the files that may be removed then.
    fn commit_now(&self) -> Result<Vec<String>, StoreError> {
        let mut gone = Vec::new();
        loop {
            let begun = self.index().begin_commit();
            let commit = match begun {
                Ok(Some((commit, given_up))) => {
                    gone.extend(given_up);
                    commit
                }
                Ok(None) => return Ok(gone),
                Err(error) => {
                    self.index().forget_files(gone);
                    return Err(error);
                }
            };
            let written = commit.write();
            let mut index = self.index();
            match index.rows.end_commit(commit, written) {
                Ok(CommitEnd::Durable) => return Ok(gone),
                Ok(CommitEnd::Again) => {}
                Err(error) => {
                    index.forget_files(gone);
                    return Err(error);
                }
            }
        }
    }

    /// Makes the removals so far durable, and then removes their files: a crash brings nothing of them back.
    pub(super) fn sync_removals(&self) -> Result<(), StoreError> {
        let _one = self.syncing_removals.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_rows_aside();
        self.commit()?;
        loop {
            let mut gone = std::mem::take(&mut self.commits.state().gone);
            if gone.is_empty() {
                return Ok(());
            }
            let later = gone.split_off(gone.len().min(STORE_BATCH_LEN));
            self.commits.state().gone.extend(later);
            if let Err(error) = self.remove_gone(&gone) {
                self.commits.state().gone.extend(gone);
                return Err(error);
            }
        }
    }

    /// Makes durable what no request has waited for: removals, leases that ended.
    pub(super) fn close(&self) {
        let is_changed = self.has_removals() || self.index().rows.is_changed();
        if self.read_only.is_none()
            && is_changed
            && let Err(error) = self.sync_removals()
        {
            tracing::warn!(%error, "what was removed last comes back with the next start, and is removed again");
        }
        if self.read_only.is_none()
            && let Err(error) = self.close_journal()
        {
            tracing::warn!(%error, "the store's journal stays: the next start reads it");
        }
    }

    /// Has the database take over what the journal has, and removes the journal's files.
    fn close_journal(&self) -> Result<(), StoreError> {
        let paths = self.index().rows.begin_close();
        self.commit()?;
        let mut is_removed = false;
        for path in &paths {
            match self.disk.0.remove(path) {
                Ok(()) => is_removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", path, error)),
            }
        }
        if is_removed { self.disk.sync_directory(&self.dir) } else { Ok(()) }
    }

    /// Whether files wait to be removed.
    pub(super) fn has_removals(&self) -> bool {
        let is_waiting = {
            let index = self.index();
            index.has_gone() || index.rows.has_rotten()
        };
        is_waiting || !self.commits.state().gone.is_empty()
    }

    /// Removes files that no holding claims any more, durably. Their rows go with the next commit.
    pub(super) fn remove_gone(&self, gone: &[String]) -> Result<(), StoreError> {
        let one = self.change();
        let mut directories = BTreeSet::new();
        for path in gone {
            let file = self.dir.join(path);
            if self.is_claimed(path) {
                continue;
            }
            match self.disk.0.remove(&file) {
                Ok(()) => drop(directories.insert(parent(&file).to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A removal that an error stopped may not be durable yet.
                    directories.insert(parent(&file).to_owned());
                }
                Err(error) => return Err(StoreError::io("remove", &file, error)),
            }
        }
        drop(one);
        directories.retain(|directory| directory.is_dir());
        directories.iter().try_for_each(|directory| self.disk.sync_directory(directory))?;
        let mut index = self.index();
        gone.iter().for_each(|path| index.note_removed(path));
        Ok(())
    }
}

//! The state that the store's parts share: files, index, and the two locks over them.

use super::blocks::Blocks;
use super::checks::Checks;
use super::clock::Clock;
use super::damage::Damage;
use super::disk::{StoreDisk, parent};
use super::error::StoreError;
use super::index::{EntryBody, Index};
use super::layout::{self, BLOB, DATA_KINDS, META, OUTBOARD, SET, SET_KINDS};
use super::lease::{Lease, LeaseFile};
use super::lock::Lock;
use super::open_files::OpenFiles;
use super::open_payload::{OpenPayload, OpenSet};
use super::refusals::Refusals;
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, SetToken, Token};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a set is opened again if it changes while it is opened.
const OPEN_TRIES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) disk: StoreDisk,
    /// Why the store cannot be written; `None` if it can.
    pub(super) read_only: Option<io::ErrorKind>,
    pub(super) next_temporary: AtomicU64,
    /// Held during renames and removals and the changes of the index that go with them. Taken before every other lock.
    pub(super) changes: Mutex<()>,
    /// Never held while the disk works.
    pub(super) index: Mutex<Index>,
    pub(super) clock: Mutex<Clock>,
    /// Held while the time is written, so that the newest time stays.
    pub(super) noting: Mutex<()>,
    pub(super) damage: Mutex<Damage>,
    /// Directories that lost names which their disk may still have.
    pub(super) removed_in: Mutex<BTreeSet<PathBuf>>,
    /// Held while they are synced, so that no removal counts as durable while another thread syncs its directory.
    pub(super) syncing_removals: Mutex<()>,
    /// Payloads whose files are there, but that are neither held nor given up: their outboards are being made.
    pub(super) pending: Mutex<HashSet<Token>>,
    pub(super) checks: Checks,
    /// The files that readers have open.
    pub(super) files: Arc<OpenFiles>,
    /// One clone for each job of a thread that a request waits for: [`super::Store::requests_waiting`].
    pub(super) waits: Arc<()>,
    /// Payloads and sets removed because their leases were over.
    pub(super) ended: AtomicU64,
    /// Refusals for lack of room, by bound.
    pub(super) refusals: Refusals,
    /// The lock of the directory, as long as the store is open for writing.
    pub(super) _lock: Option<Lock>,
}

/// A file made by [`Inner::mark`]. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Mark(StoreDisk, PathBuf);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.0.0.remove(&self.1);
    }
}

/// Permission to change files that have their final names: the lock `changes` is held.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

impl Inner {
    pub(super) fn get(&self, token: &Token) -> Result<Option<OpenPayload>, StoreError> {
        let any = AnyToken::from(*token);
        let Some(EntryBody::Payload { length }) = self.index().get(&any).map(|entry| entry.body) else {
            return Ok(None);
        };
        let held = self.open(*token, 0, &any, [BLOB, OUTBOARD], Some(&self.files))?;
        let held = held.filter(|held| held.length() == length);
        if held.is_some() {
            self.index().touch(&any);
        }
        Ok(held)
    }

    pub(super) fn get_set(&self, token: &SetToken) -> Result<Option<OpenSet>, StoreError> {
        for _ in 0..OPEN_TRIES_MAX {
            let Some(set) = self.index().set(token) else { return Ok(None) };
            let descriptor = set.descriptor;
            let mut held = OpenSet { descriptor, lanes: set.own, content: None, parity: None };
            for blob in [Blob::Content, Blob::Parity] {
                let Some((token_of_blob, length)) = layout::blob(&descriptor, blob) else { continue };
                let whole = self.index().has_payload(&token_of_blob, length);
                let opened = if whole {
                    held.lanes = held.lanes.union(layout::lanes_of(&descriptor, blob));
                    self.get(&token_of_blob)?
                } else {
                    let any = AnyToken::from(*token);
                    let kinds = layout::lane_kinds(blob).into();
                    self.open(token_of_blob, set.generation, &any, kinds, Some(&self.files))?
                };
                match blob {
                    Blob::Content => held.content = opened,
                    Blob::Parity => held.parity = opened,
                }
            }
            let parts = layout::parts_of(&descriptor, held.lanes);
            let same = self.index().set(token).is_some_and(|now| now.generation == set.generation);
            if same && !held.lanes.is_empty() && parts.iter().all(|part| held.blob(part.blob).is_some()) {
                // A file of lanes that the set does not claim is no part of it.
                let claims = |blob| parts.iter().any(|part| part.blob == blob);
                held.content = held.content.filter(|_| claims(Blob::Content));
                held.parity = held.parity.filter(|_| claims(Blob::Parity));
                self.touch(&AnyToken::from(*token));
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Opens a blob and its outboard, of these kinds of files of `any`. See [`OpenPayload::open`].
    pub(super) fn open(
        &self,
        token: Token,
        generation: u64,
        any: &AnyToken,
        kinds: [&str; 2],
        files: Option<&Arc<OpenFiles>>,
    ) -> Result<Option<OpenPayload>, StoreError> {
        let paths = kinds.map(|kind| self.file(any, kind));
        OpenPayload::open(&self.disk, token, generation, paths.each_ref().map(AsRef::as_ref), files)
    }

    pub(super) fn touch(&self, token: &AnyToken) {
        let tokens = self.with_blobs(token);
        let mut index = self.index();
        tokens.iter().flatten().for_each(|token| index.touch(token));
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match self.read_only {
            None => Ok(()),
            Some(kind) => Err(StoreError::ReadOnly { path: self.dir.clone(), kind }),
        }
    }

    /// A token, and before it those of its blobs that are held whole if it is a set; `None` if it is not held.
    pub(super) fn with_blobs(&self, token: &AnyToken) -> Option<Vec<AnyToken>> {
        let index = self.index();
        let mut tokens = match index.get(token)?.body {
            EntryBody::Payload { .. } => Vec::new(),
            EntryBody::Set(set) => index.whole_blobs(&set.descriptor).map(|(blob, _)| blob.into()).collect(),
        };
        tokens.push(*token);
        Some(tokens)
    }

    /// Extends the lease of a holding, durably.
    pub(super) fn extend(
        &self,
        one: &Changing<'_>,
        token: &AnyToken,
        asked: Lease,
    ) -> Result<(), StoreError> {
        self.join(one, token, self.granted(asked))
    }

    /// Extends a lease; `asked` is by the clock of now.
    pub(super) fn join(&self, _one: &Changing<'_>, token: &AnyToken, asked: Lease) -> Result<(), StoreError> {
        let Some(entry) = self.index().get(token).copied() else { return Ok(()) };
        let lease = self.joined(entry.lease, asked);
        if lease == entry.lease {
            self.index().touch(token);
            return Ok(());
        }
        self.check_writable()?;
        let length = match entry.body {
            EntryBody::Payload { length } => Some(length),
            EntryBody::Set(_) => None,
        };
        self.write_lease(token, lease, length)?;
        self.index().set_lease(token, lease);
        Ok(())
    }

    /// Writes a lease, durably, and with it the length of a payload.
    pub(super) fn write_lease(
        &self,
        token: &AnyToken,
        lease: Lease,
        length: Option<u64>,
    ) -> Result<(), StoreError> {
        self.place_lease(token, lease, length)?;
        self.disk.sync_directory(parent(&self.file(token, META)))
    }

    /// Writes a lease. It is durable once its directory is synced.
    pub(super) fn place_lease(
        &self,
        token: &AnyToken,
        lease: Lease,
        length: Option<u64>,
    ) -> Result<(), StoreError> {
        let shift_s = self.clock().shift_s(lease.clock);
        let lease = Lease { expires_s: lease.expires_s.map(|at| at.saturating_sub(shift_s)), ..lease };
        self.place_small(token, META, &LeaseFile { lease, length }.to_bytes())
    }

    /// A lease by the clock of now, if the clock was set after the lease was granted.
    pub(super) fn granted(&self, asked: Lease) -> Lease {
        let shift_s = self.clock().shift_s(asked.clock);
        Lease { expires_s: asked.expires_s.map(|at| at.saturating_add(shift_s)), ..asked }
    }

    /// The lease that results when `asked` is added to `held`. All are by the clock of now.
    pub(super) fn joined(&self, held: Lease, asked: Lease) -> Lease {
        let clock = self.clock();
        let ahead_s = clock.ahead_s();
        if ahead_s <= 0 || clock.is_of_this_boot(held.clock) {
            return held.extended_by(asked);
        }
        // The clock may prove to be that far ahead. A lease of an earlier boot does not shift then, but this one does.
        let end = |lease: Lease, by_s: i64| lease.expires_s.map(|at| at.saturating_add_signed(by_s));
        let longer = held.extended_by(Lease { expires_s: end(asked, ahead_s), ..asked });
        if longer == held {
            return held;
        }
        let expires_s = match (held.expires_s, asked.expires_s) {
            (Some(held), Some(asked)) => Some(held.max(asked)),
            (_, asked) => asked,
        };
        Lease { expires_s, ..asked }
    }

    /// Replaces a small file, durably.
    pub(super) fn write_small(&self, token: &AnyToken, kind: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.place_small(token, kind, bytes)?;
        self.disk.sync_directory(parent(&self.file(token, kind)))
    }

    /// Replaces a small file. It is durable once its directory is synced.
    fn place_small(&self, token: &AnyToken, kind: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.file(token, kind);
        self.disk.make_directory(parent(&path))?;
        let (_, hex) = layout::place(token);
        self.disk.replace(&path, &self.temporary(&hex).with_added_extension(kind), bytes)
    }

    /// Removes a holding, and the sets that hold nothing else; returns the tokens removed.
    pub(super) fn remove(&self, _one: &Changing<'_>, token: &AnyToken) -> Result<Vec<AnyToken>, StoreError> {
        if self.index().get(token).is_none() {
            return Ok(Vec::new());
        }
        let mut gone = vec![*token];
        let mut marks = vec![self.remove_files(token)?];
        if let AnyToken::Content(payload) = token {
            let sets = self.index().emptied_sets(payload);
            for set in sets {
                marks.push(self.remove_files(&set.into())?);
                gone.push(set.into());
            }
        }
        marks.iter().try_for_each(|mark| self.disk.remove_if_there(mark))?;
        Ok(gone)
    }

    /// Removes a holding whose lease is over.
    pub(super) fn end_lease(
        &self,
        one: &Changing<'_>,
        token: &AnyToken,
    ) -> Result<Vec<AnyToken>, StoreError> {
        let ended_s = self.index().get(token).and_then(|entry| entry.lease.expires_s);
        let went = self.remove(one, token)?;
        for token in &went {
            tracing::info!(%token, ended_s, "removed: its lease is over");
        }
        self.ended.fetch_add(went.len() as u64, Relaxed);
        Ok(went)
    }

    /// Removes what a failed write left of a payload that is not held: its durability is not known. What a crash leaves of it then is known as a
    /// leftover.
    pub(super) fn discard(&self, payload: &Token) -> Result<(), StoreError> {
        if self.pending().contains(payload) {
            return Ok(());
        }
        let mark = self.remove_files(&AnyToken::from(*payload))?;
        self.disk.remove_if_there(&mark)
    }

    /// Removes the files of one holding, except the one that makes it held: that is renamed to a temporary name, which is returned. While
    /// the temporary file exists, files that a crash left are known to be parts of a removal, not of a loss.
    fn remove_files(&self, token: &AnyToken) -> Result<PathBuf, StoreError> {
        let (held_by, kinds) = kinds(token);
        let (path, hex) = (self.file(token, held_by), layout::place(token).1);
        let mark = self.temporary(&hex).with_added_extension(held_by);
        match self.disk.0.rename(&path, &mark) {
            Ok(()) => drop(self.removed_in().insert(parent(&path).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &path, error)),
        }
        self.index().remove(token);
        kinds.iter().try_for_each(|kind| self.disk.remove_if_there(&self.file(token, kind)))?;
        Ok(mark)
    }

    /// Makes the removals so far durable, with one sync a directory: a crash brings nothing of them back.
    pub(super) fn sync_removals(&self) -> Result<(), StoreError> {
        let _one = self.syncing_removals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut synced = Ok(());
        let directories = std::mem::take(&mut *self.removed_in());
        for directory in directories {
            if let Err(error) = self.disk.sync_directory(&directory) {
                self.removed_in().insert(directory);
                synced = Err(error);
            }
        }
        synced
    }

    /// Drops a damaged holding, and the sets that hold nothing else, and sets their files aside.
    pub(super) fn set_aside(&self, _one: &Changing<'_>, token: &AnyToken, reason: &str) {
        let mut damaged = vec![*token];
        if let Some(entry) = self.index().remove(token) {
            self.damage().remember(*token, entry.lease);
        }
        if let AnyToken::Content(payload) = token {
            self.pending().remove(payload);
            damaged.extend(self.index().emptied_sets(payload).into_iter().map(AnyToken::from));
        }
        for (number, token) in damaged.into_iter().enumerate() {
            let reason = if number == 0 { reason } else { "its only payload is damaged" };
            if let Some(entry) = self.index().remove(&token) {
                self.damage().remember(token, entry.lease);
            }
            let paths: Vec<_> = kinds(&token).1.iter().map(|kind| self.file(&token, kind)).collect();
            self.damage().set_aside(token, reason, paths.iter().map(PathBuf::as_path));
        }
    }

    /// The path of a file of this kind.
    pub(super) fn file(&self, token: &AnyToken, kind: &str) -> PathBuf {
        let (directory, hex) = layout::place(token);
        self.dir.join(directory).join(&hex[..2]).join(format!("{hex}.{kind}"))
    }

    /// What a set with these lanes in its own files is charged.
    pub(super) fn set_bytes(&self, descriptor: &Descriptor, own: Lanes) -> u64 {
        let any = descriptor.set_token().into();
        let kinds = layout::kinds_of_set(descriptor, own);
        let files = kinds.filter_map(|kind| fs::metadata(self.file(&any, kind)).ok());
        let taken_bytes = files.map(|file| Blocks::taken_by(&file)).sum();
        self.index().blocks.set_that_takes(descriptor, own, taken_bytes)
    }

    /// Makes a file that marks this token as being changed. If the process ends, missing files of the token are then not taken for lost.
    pub(super) fn mark(&self, token: &AnyToken) -> Result<Mark, StoreError> {
        let path = self.temporary(&layout::place(token).1).with_added_extension("mark");
        self.disk.create(&path)?;
        Ok(Mark(self.disk.clone(), path))
    }

    /// A new path under `tmp`, without the kind.
    pub(super) fn temporary(&self, hex: &str) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Relaxed);
        self.dir.join("tmp").join(format!("{hex}.{number}"))
    }

    pub(super) fn change(&self) -> Changing<'_> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn damage(&self) -> MutexGuard<'_, Damage> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn removed_in(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.removed_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashSet<Token>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of the file that makes a token held, and the kinds of all its files, that one first.
fn kinds(token: &AnyToken) -> (&'static str, &'static [&'static str]) {
    match token {
        AnyToken::Content(_) => (BLOB, &DATA_KINDS[..]),
        AnyToken::Set(_) => (SET, &SET_KINDS[..]),
    }
}

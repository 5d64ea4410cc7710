//! The state that the store's parts share: files, index, and the two locks over them.
//!
//! Files are changed before the rows that claim them are committed, and removed after the commit of those that give them up. Until then a
//! name in `tmp`, or a row of its own, tells of each.

use super::accounts::StoreAccount;
use super::blocks::Blocks;
use super::checks::Checks;
use super::clock::Clock;
use super::commit::Commits;
use super::damage::Damage;
use super::disk::{StoreDisk, write_error};
use super::disk_room::DiskRoom;
use super::entry::{EntryBody, PayloadPlace};
use super::error::StoreError;
use super::index::Index;
use super::layout::{self, BLOB, OUTBOARD};
use super::lease::Lease;
use super::lock::Lock;
use super::open_files::{OpenFiles, OpenFor};
use super::open_payload::{OpenPayload, OpenSet, PairsAt};
use super::openers::Openers;
use super::refusals::Refusals;
use super::scrub::Scrub;
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, SetToken, Token, outboard_bytes};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a set is opened again if it changes while it is opened.
const OPEN_TRIES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) disk: StoreDisk,
    pub(super) disk_room: DiskRoom,
    /// Why the store cannot be written; `None` if it can.
    pub(super) read_only: Option<io::ErrorKind>,
    pub(super) next_temporary: AtomicU64,
    /// Held during renames and removals and the changes of the index that go with them. Taken before every other lock.
    pub(super) changes: Mutex<()>,
    /// Never held while files are changed or rows are written. Rows that are not in memory are read under it.
    pub(super) index: Mutex<Index>,
    pub(super) commits: Commits,
    pub(super) clock: Mutex<Clock>,
    /// Held while the time is written, so that the newest time stays.
    pub(super) noting: Mutex<()>,
    pub(super) damage: Mutex<Damage>,
    /// Held while removals are made durable, so that none counts as durable while another thread removes its files.
    pub(super) syncing_removals: Mutex<()>,
    pub(super) checks: Checks,
    pub(super) scrub: Scrub,
    /// The files that readers have open.
    pub(super) files: Arc<OpenFiles>,
    /// The threads that look payloads up and open them for requests.
    pub(super) openers: Openers,
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
        if !self.1.as_os_str().is_empty() {
            let _ = self.0.0.remove(&self.1);
        }
    }
}

/// Permission to change files that have their final names: the lock `changes` is held.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

impl Inner {
    pub(super) fn get(&self, token: &Token) -> Result<Option<OpenPayload>, StoreError> {
        self.get_by(token, OpenFor::Table(&self.files))
    }

    pub(super) fn get_set(&self, token: &SetToken) -> Result<Option<OpenSet>, StoreError> {
        self.get_set_by(token, OpenFor::Table(&self.files))
    }

    pub(super) fn get_by(&self, token: &Token, by: OpenFor<'_>) -> Result<Option<OpenPayload>, StoreError> {
        let any = AnyToken::from(*token);
        let Some(body) = self.index().get(&any).map(|entry| entry.body) else { return Ok(None) };
        let held = self.open_payload(*token, body, by)?;
        if held.is_some() {
            self.index().touch(&any);
        }
        Ok(held)
    }

    pub(super) fn get_set_by(
        &self,
        token: &SetToken,
        by: OpenFor<'_>,
    ) -> Result<Option<OpenSet>, StoreError> {
        for _ in 0..OPEN_TRIES_MAX {
            let Some(set) = self.index().set(token) else { return Ok(None) };
            let descriptor = set.descriptor;
            let mut held = OpenSet { descriptor, lanes: set.own, content: None, parity: None };
            for blob in [Blob::Content, Blob::Parity] {
                let Some((token_of_blob, length)) = layout::blob(&descriptor, blob) else { continue };
                let whole = self.index().has_payload(&token_of_blob, length);
                let opened = if whole {
                    held.lanes = held.lanes.union(layout::lanes_of(&descriptor, blob));
                    self.get_by(&token_of_blob, by)?
                } else {
                    let any = AnyToken::from(*token);
                    let kinds = layout::lane_kinds(blob).into();
                    self.open(token_of_blob, set.generation, &any, kinds, by)?
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

    /// Opens a payload whose entry has this body; `None` if it is not there.
    pub(super) fn open_payload(
        &self,
        token: Token,
        body: EntryBody,
        by: OpenFor<'_>,
    ) -> Result<Option<OpenPayload>, StoreError> {
        let EntryBody::Payload { length, place } = body else { return Ok(None) };
        match place {
            PayloadPlace::Files => {
                let held = self.open(token, 0, &token.into(), [BLOB, OUTBOARD], by)?;
                Ok(held.filter(|held| held.length() == length))
            }
            PayloadPlace::Pairs(number) => {
                let Some(row) = self.index().rows.bytes(number) else { return Ok(None) };
                let path = self.file(&token.into(), BLOB);
                let held = OpenPayload::open(&self.disk, token, 0, (&path, PairsAt::Row(&row)), by)?;
                Ok(held.filter(|held| held.length() == length))
            }
            PayloadPlace::Row(number) => {
                let Some(row) = self.index().rows.bytes(number) else { return Ok(None) };
                OpenPayload::of_row(&self.disk, (token, length), number, row).map(Some)
            }
        }
    }

    /// Opens a blob and its outboard, of these kinds of files of `any`. See [`OpenPayload::open`].
    pub(super) fn open(
        &self,
        token: Token,
        generation: u64,
        any: &AnyToken,
        kinds: [&str; 2],
        by: OpenFor<'_>,
    ) -> Result<Option<OpenPayload>, StoreError> {
        let paths = kinds.map(|kind| self.file(any, kind));
        let [blob, pairs] = &paths;
        OpenPayload::open(&self.disk, token, generation, (blob, PairsAt::File(pairs)), by)
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

    /// Extends a lease of a holding and of the blobs that it needs. Returns whether it is held.
    pub(super) fn extend_with_blobs(
        &self,
        one: &Changing<'_>,
        token: &AnyToken,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        let Some(tokens) = self.with_blobs(token) else { return Ok(false) };
        tokens.iter().try_for_each(|token| self.check_extension(token, lease))?;
        tokens.iter().try_for_each(|token| self.extend(one, token, lease))?;
        Ok(true)
    }

    /// Extends a lease of a holding. It is durable after the next commit.
    pub(super) fn extend(
        &self,
        one: &Changing<'_>,
        token: &AnyToken,
        asked: Lease,
    ) -> Result<(), StoreError> {
        self.join(one, token, self.granted(asked))
    }

    /// Extends the lease of one account; `asked` is by the clock of now. It is durable after the next commit.
    pub(super) fn join(&self, _one: &Changing<'_>, token: &AnyToken, asked: Lease) -> Result<(), StoreError> {
        let lease = self.to_grant(token, asked);
        let held = self.index().leases(token);
        if held.is_empty() || held.contains(&lease) || asked.cached && !held.iter().any(|held| held.cached) {
            self.index().touch(token);
            return Ok(());
        }
        self.check_writable()?;
        self.index().set_lease(token, lease);
        Ok(())
    }

    /// The lease that an account has of a token when it asks for `asked`: the longer of what it has and this one.
    pub(super) fn to_grant(&self, token: &AnyToken, asked: Lease) -> Lease {
        let account = StoreAccount::of(&asked);
        let held = self.index().leases(token);
        let held = held.into_iter().find(|held| StoreAccount::of(held) == account);
        held.map_or(asked, |held| self.joined(held, asked))
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

    /// Removes a holding, and the sets that hold nothing else; returns the tokens removed. Their files go once that is durable.
    pub(super) fn remove(&self, _one: &Changing<'_>, token: &AnyToken) -> Vec<AnyToken> {
        let mut index = self.index();
        let Some(removed) = index.remove(token) else { return Vec::new() };
        let mut gone = vec![*token];
        if let AnyToken::Content(payload) = token {
            let sets = index.emptied_sets(payload);
            for set in sets {
                index.remove(&set.into());
                gone.push(set.into());
            }
        }
        let has_files = !matches!(removed.body, EntryBody::Payload { place: PayloadPlace::Row(_), .. });
        gone.iter().skip(usize::from(!has_files)).for_each(|token| index.forget_files_of(token));
        gone
    }

    /// Ends the leases of a holding that are over, and removes it if it has no other; returns the tokens removed.
    pub(super) fn end_lease(&self, one: &Changing<'_>, token: &AnyToken, now_s: u64) -> Vec<AnyToken> {
        let ended_s = self.index().get(token).and_then(|entry| entry.lease.expires_s);
        if self.index().end_leases(token, now_s) {
            return Vec::new();
        }
        let went = self.remove(one, token);
        for token in &went {
            tracing::info!(%token, ended_s, "removed: its lease is over");
        }
        self.ended.fetch_add(went.len() as u64, Relaxed);
        went
    }

    /// Whether a holding has this file, a path in the store's directory.
    pub(super) fn is_claimed(&self, path: &str) -> bool {
        let Some((token, kind)) = layout::of_path(path) else { return false };
        match self.index().get(&token).map(|entry| entry.body) {
            Some(EntryBody::Payload { length, place: PayloadPlace::Files }) => {
                kind == BLOB || kind == OUTBOARD && outboard_bytes(length) > 0
            }
            Some(EntryBody::Payload { place: PayloadPlace::Pairs(_), .. }) => kind == BLOB,
            Some(EntryBody::Payload { place: PayloadPlace::Row(_), .. }) => false,
            Some(EntryBody::Set(set)) => {
                layout::kinds_of_set(&set.descriptor, set.own).any(|claimed| claimed == kind)
            }
            None => false,
        }
    }

    /// Removes files of a token whose removal is not durable yet, or not made: others of the same names may then be placed.
    pub(super) fn settle(&self, token: &AnyToken) -> Result<(), StoreError> {
        let is_gone = |kind: &&str| self.index().is_gone(&layout::path(token, kind));
        if layout::kinds(token).iter().any(is_gone) { self.sync_removals() } else { Ok(()) }
    }

    /// Drops a damaged holding, and the sets that hold nothing else, and sets their files aside.
    pub(super) fn set_aside(&self, _one: &Changing<'_>, token: &AnyToken, reason: &str) {
        let row = self.row_as_file(token);
        self.lose(token);
        match row {
            Ok(row) => self.set_files_aside(*token, reason, row),
            Err(error) => self.set_files_aside(*token, &format!("{reason}; {error}"), None),
        }
        if let AnyToken::Content(payload) = token {
            let emptied = self.index().emptied_sets(payload);
            for set in emptied.into_iter().map(AnyToken::from) {
                self.lose(&set);
                self.set_files_aside(set, "its only payload is damaged", None);
            }
        }
    }

    fn set_files_aside(&self, token: AnyToken, reason: &str, row: Option<PathBuf>) {
        let files = layout::kinds(&token).iter().map(|kind| self.file(&token, kind));
        let paths: Vec<_> = files.chain(row).collect();
        self.damage().set_aside(token, reason, paths.iter().map(PathBuf::as_path));
    }

    /// Takes a damaged holding out of the index, which remembers that it is missed.
    fn lose(&self, token: &AnyToken) {
        let mut index = self.index();
        let leases = index.leases(token);
        if let Some(entry) = index.remove(token) {
            let lanes = match entry.body {
                EntryBody::Payload { .. } => Lanes::NONE,
                EntryBody::Set(set) => set.own,
            };
            index.note_lost(token, leases, lanes);
        }
    }

    /// The path of a file of this kind.
    pub(super) fn file(&self, token: &AnyToken, kind: &str) -> PathBuf {
        self.dir.join(layout::path(token, kind))
    }

    /// What a set with these lanes in its own files is charged.
    pub(super) fn set_bytes(&self, descriptor: &Descriptor, own: Lanes) -> u64 {
        let any = descriptor.set_token().into();
        let kinds = layout::kinds_of_set(descriptor, own);
        let files = kinds.filter_map(|kind| fs::metadata(self.file(&any, kind)).ok());
        let taken_bytes = files.map(|file| Blocks::taken_by(&file)).sum();
        self.index().blocks.set_that_takes(descriptor, own, taken_bytes)
    }

    /// Makes a file that marks this token as being changed, durably. A crash then leaves nothing of it that no row claims.
    pub(super) fn mark(&self, token: &AnyToken) -> Result<Mark, StoreError> {
        let path = self.temporary(&layout::place(token).1).with_added_extension("mark");
        self.disk.create(&path)?;
        let mark = Mark(self.disk.clone(), path);
        self.sync_temporary()?;
        Ok(mark)
    }

    /// Leaves a mark to the next commit: until then it tells of the files.
    pub(super) fn leave_mark(&self, mut mark: Mark) {
        let path = std::mem::take(&mut mark.1);
        let name = path.strip_prefix(&self.dir).ok().and_then(Path::to_str).map(str::to_owned);
        self.index().forget_files(name);
    }

    /// Makes the names in `tmp` durable.
    pub(super) fn sync_temporary(&self) -> Result<(), StoreError> {
        self.disk.sync_directory(&self.dir.join("tmp"))
    }

    /// Gives a file that `tmp` names its place, and keeps the first name: it tells of the file until a row does.
    pub(super) fn place_file(&self, temporary: &Path, path: &Path) -> Result<(), StoreError> {
        match self.disk.0.link(temporary, path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let second = temporary.with_added_extension("again");
                self.disk.link(temporary, &second)?;
                self.disk.rename(&second, path)
            }
            Err(error) => Err(write_error(path, 0, error)),
        }
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
}

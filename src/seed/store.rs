//! The payloads and sets on disk. Each is held whole, or not at all.
//!
//! ```text
//! <dir>/store.redb                what is held, with leases, sums, files that are to be removed, and short payloads and hash pairs: see
//!                                 `database`, `short`
//! <dir>/store.journal.0, .1       what was put last, until the database has it: see `database::journal`; there while a process writes here
//! <dir>/store.lock                locked by the process that writes here
//! <dir>/lock/                     keeps versions out that know no database
//! <dir>/data/<ab>/<64 hex>.blob   a payload longer than a group; shorter ones of versions before they were rows
//! <dir>/data/<ab>/<64 hex>.obao   the hash pairs, in pre-order, of one longer than 1 MiB, or of one that versions before put
//! <dir>/sets/<ab>/<64 hex>.content, .content.obao, .parity, .parity.obao
//!                                 lanes of a blob that is not held whole, at their places, with holes between them
//! <dir>/tmp/                      files being written, and names of files that no row claims yet; emptied when the store is opened
//! <dir>/damaged/                  damaged files, under their old names; the store never empties it
//! <dir>/clock                     the store's time, see `clock`
//! <dir>/trust-clock               an operator's word for the machine's clock, until the store has taken it
//! ```
//!
//! A set holds the lanes in its own files, and those of its blobs that are held as payloads. A payload that is removed
//! therefore takes its lanes from every set, and a set without other lanes is removed with it.

use super::blocks::Blocks;
use super::check::CheckResult;
use super::checks::{CheckState, Checks, Urgency};
use super::config::StoreConfig;
use super::damage::{Damage, DamageOutcome, DamageState};
use super::database::{DATABASE, Rows};
use super::disk::{Disk, MachineDisk, StoreDisk};
use super::error::StoreError;
use super::holdings::{Census, Holding, HoldingChanges};
use super::index::Index;
use super::inner::Inner;
use super::layout::DATA;
use super::lease::Lease;
use super::lock::{EARLIER_LOCK, LOCK, prepare};
use super::migration::Migration;
use super::open_files::OpenFiles;
use super::open_payload::{OpenPayload, OpenSet};
use super::openers::Openers;
use super::refusals::{Refusals, StoreBound};
use super::scrub::Scrub;
use super::writing::{PayloadWriter, SetWriter};
use super::{rebuild, recovery, saved_time};
use crate::limits::STORE_BATCH_LEN;
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, Token};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A directory of payloads and sets, named by their tokens. Clones share it. Calls block on the disk. No call reads a clock:
/// `now_s` is the store's time, seconds since the Unix epoch ([`Store::moment`]).
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
    _open: Arc<Opened>,
}

/// Ends the store's thread with the last [`Store`]: another process may then open the directory.
#[derive(Debug)]
struct Opened(Arc<Inner>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.end_checks();
        self.0.close();
    }
}

impl Store {
    /// Opens the store in `dir`, makes it if it is missing, and removes files that a crash left incomplete. The layout of versions without a
    /// database is taken over. A directory that cannot be written serves its holdings; [`Store::begin`] then returns the reason why it takes no more.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open for writing, [`StoreError::Database`] if its database is damaged or none of a store,
    /// [`StoreError::Layout`] if it is of a later version, [`StoreError::Journal`] if its journal is damaged or of another database, [`StoreError::Io`] if the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, config: StoreConfig) -> Result<Self, StoreError> {
        Self::open_with(dir.into(), config, StoreDisk::new(Arc::new(MachineDisk)))
    }

    /// Opens as [`Store::open`] does, and changes files by the calls of `disk` alone: for tests.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_on(
        dir: impl Into<PathBuf>,
        config: StoreConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        Self::open_with(dir.into(), config, StoreDisk::new(disk))
    }

    fn open_with(dir: PathBuf, config: StoreConfig, disk: StoreDisk) -> Result<Self, StoreError> {
        let (lock, read_only) = match prepare(&dir, &disk) {
            Ok(lock) => (Some(lock), None),
            Err(StoreError::Io { source, path, .. }) if is_read_only(&source) && dir.join(DATA).is_dir() => {
                tracing::warn!(path = %path.display(), error = %source, "the store cannot be written: it only serves the payloads that it holds");
                (None, Some(source.kind()))
            }
            Err(error) => return Err(error),
        };
        let mut damage = Damage::of(&dir, &disk, read_only.is_none());
        let in_flight = if read_only.is_none() { recovery::in_flight(&dir)? } else { HashSet::default() };
        let clock = saved_time::clock(&dir);
        let rows = Rows::open(&dir, &disk, read_only.is_none())?;
        if let Some(path) = rows.missing_journal() {
            damage.note(
                path.display(),
                "a file of the journal is missing: what was put last may be lost",
                DamageOutcome::Left,
            );
        }
        let index = Index::new(config, Blocks::of_disk(&dir), rows, clock.shifts.clone());
        let scrub = Scrub::of(&index);
        let inner = Inner {
            dir,
            disk,
            disk_room: Default::default(),
            read_only,
            next_temporary: AtomicU64::new(0),
            changes: Mutex::new(()),
            index: Mutex::new(index),
            commits: Default::default(),
            clock: Mutex::new(clock),
            noting: Mutex::new(()),
            damage: Mutex::new(damage),
            syncing_removals: Mutex::default(),
            checks: Checks::default(),
            scrub,
            files: Arc::new(OpenFiles::new(config.files().read)),
            openers: Openers::default(),
            waits: Arc::default(),
            ended: AtomicU64::new(0),
            refusals: Refusals::default(),
            _lock: lock,
        };
        let inner = Arc::new(inner);
        rebuild::run(&inner)?;
        if !inner.index().is_taken_over() {
            Migration::run(&inner, &in_flight)?;
        }
        if read_only.is_none() {
            inner.clean(&in_flight)?;
        }
        inner.index().forget_changes();
        Ok(Self { _open: Arc::new(Opened(inner.clone())), inner })
    }

    /// Whether another process has the store in `dir` open for writing; returns the file that it has locked. Changes nothing there.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the lock cannot be tested.
    pub fn is_in_use(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        // Versions before the database lock another file.
        let earlier = dir.join(EARLIER_LOCK);
        let path = if earlier.is_file() { earlier } else { dir.join(LOCK) };
        match File::open(&path).map(|file| file.try_lock_shared()) {
            Ok(Ok(())) => Ok(None),
            Ok(Err(fs::TryLockError::WouldBlock)) => Ok(Some(path)),
            Ok(Err(fs::TryLockError::Error(error))) => Err(StoreError::io("lock", &path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Begins to write the payload `token` of `length` bytes. It must fit now, beside what is kept and what the same owner has begun. It takes
    /// its room as its bytes are written: then, if room is short, holdings whose leases have ended are removed, and after them cached ones,
    /// the least recently used first. Begun payloads of other owners may use the room up before: writing then fails as this does.
    ///
    /// # Errors
    /// [`StoreError::Capacity`], [`StoreError::Entries`] or [`StoreError::DiskFull`] if there is no room, [`StoreError::PeerQuota`] or
    /// [`StoreError::PeerEntries`] if the owner's quota has none, [`StoreError::Unfinished`] or [`StoreError::UnfinishedShare`] if the
    /// owner has too much begun, [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::TooLong`] past
    /// [`crate::limits::PAYLOAD_BYTES_MAX`], [`StoreError::Io`] if the disk fails.
    pub fn begin(
        &self,
        token: Token,
        length: u64,
        lease: Lease,
        now_s: u64,
    ) -> Result<PayloadWriter, StoreError> {
        PayloadWriter::begin(self.inner.clone(), token, length, lease, now_s)
    }

    /// Begins to write those of `lanes` of a set that are not held, as [`Store::begin`] does.
    /// [`SetWriter::parts`] lists the parts to write.
    ///
    /// # Errors
    /// Those of [`Store::begin`]; [`StoreError::BadDescriptor`] after [`Store::mark_bad`], [`StoreError::NoSuchLanes`].
    pub fn begin_set(
        &self,
        descriptor: Descriptor,
        lanes: Lanes,
        lease: Lease,
        now_s: u64,
    ) -> Result<SetWriter, StoreError> {
        SetWriter::begin(self.inner.clone(), descriptor, lanes, lease, now_s)
    }

    /// Opens the payload `token`, if it is held whole. Counts as a use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened, [`StoreError::Damaged`] if they are missing or have the wrong size.
    pub fn get(&self, token: &Token) -> Result<Option<OpenPayload>, StoreError> {
        self.found(*token, || self.inner.get(token))
    }

    /// The result of `open`. If `open` finds nothing of a token that is held, and not merely changing just now, the token is damaged.
    fn found<T>(
        &self,
        token: impl Into<AnyToken>,
        open: impl Fn() -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let token = token.into();
        if let Some(held) = open()? {
            return Ok(Some(held));
        }
        if self.holding(&token).is_none() {
            return Ok(None);
        }
        let _one = self.inner.change();
        match open()? {
            None if self.holding(&token).is_some() => Err(StoreError::Damaged(token)),
            held => Ok(held),
        }
    }

    /// Opens the lanes that are held of a set, if any are. Counts as a use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened, [`StoreError::Damaged`] if they are missing or have the wrong size.
    pub fn get_set(&self, token: &SetToken) -> Result<Option<OpenSet>, StoreError> {
        self.found(*token, || self.inner.get_set(token))
    }

    /// The descriptor of a set of which lanes are held.
    pub(super) fn descriptor(&self, token: &SetToken) -> Option<Descriptor> {
        self.inner.index().set(token).map(|set| set.descriptor)
    }

    /// Notes a use: cached holdings that were used longer ago are removed first.
    pub fn touch(&self, token: impl Into<AnyToken>) {
        self.inner.touch(&token.into());
    }

    /// Extends the lease that the owner of `lease` has of a holding, durably, to the longer of both. A cached holding is kept from now on
    /// if `lease` is no cached one. A set's blobs that are held whole are extended with it. Returns whether the token is held.
    ///
    /// # Errors
    /// [`StoreError::PeerQuota`] if the new owner's quota has no room, [`StoreError::ReadOnly`] if a lease would change in
    /// a store that cannot be written, [`StoreError::Io`] if the disk fails.
    pub fn extend(&self, token: impl Into<AnyToken>, lease: Lease) -> Result<bool, StoreError> {
        let token = token.into();
        Ok(self.begin_extension(&token, lease)? && self.finish_extension(&token)?)
    }

    /// Extends a lease as [`Store::extend`] does. It is durable once [`Store::finish_extension`] returns: several are made so by one commit.
    pub(super) fn begin_extension(&self, token: &AnyToken, lease: Lease) -> Result<bool, StoreError> {
        let one = self.inner.change();
        self.inner.extend_with_blobs(&one, token, lease)
    }

    /// Makes extensions durable. Returns whether the token is held.
    pub(super) fn finish_extension(&self, token: &AnyToken) -> Result<bool, StoreError> {
        if !self.is_read_only() {
            // Also if nothing changed: the lease may not be durable yet.
            self.inner.commit()?;
        }
        Ok(self.holding(token).is_some())
    }

    /// Ends leases that are over at `now_s`, at most [`STORE_BATCH_LEN`] in a call, and removes holdings that have no other; returns their tokens.
    /// [`Store::sync_removals`] makes that durable and removes their files.
    pub fn expire(&self, now_s: u64) -> Vec<AnyToken> {
        let mut gone = Vec::new();
        if self.is_read_only() {
            return gone;
        }
        let expired = self.inner.index().expired(now_s, STORE_BATCH_LEN);
        for token in expired {
            let one = self.inner.change();
            // Its lease may have been extended meanwhile.
            gone.extend(self.inner.end_lease(&one, &token, now_s));
        }
        gone
    }

    /// Payloads and sets removed because their leases were over, since the store was opened.
    pub fn ended(&self) -> u64 {
        self.inner.ended.load(Relaxed)
    }

    /// Leases that are over at `by_s` by the clock of now, as far as `len` of them.
    pub fn leases_due(&self, by_s: u64, len: usize) -> usize {
        self.inner.index().expired(by_s, len).len()
    }

    /// Bytes of the file of the store's database.
    pub fn database_bytes(&self) -> u64 {
        fs::metadata(self.inner.dir.join(DATABASE)).map_or(0, |file| file.len())
    }

    /// The damage that the store knows of.
    pub fn damage(&self) -> DamageState {
        DamageState { lost: self.inner.index().lost_len(), ..self.inner.damage().state() }
    }

    /// Logs and counts what became of damage.
    pub(super) fn note_damage(&self, token: AnyToken, reason: impl Into<String>, outcome: DamageOutcome) {
        self.inner.damage().note(token, reason, outcome);
    }

    /// Reads a holding on another thread, and compares it with its token; `done` is called there with the result. A payload
    /// that does not match is mended or set aside; a set loses its damaged lanes. `now` is the time of the worker's loop. A check that no
    /// request waits for reads at most [`crate::limits::CHECK_BYTES_PER_S`]; false if too many of those are due.
    pub fn check(
        &self,
        token: impl Into<AnyToken>,
        now: Instant,
        urgency: Urgency,
        done: impl FnOnce(AnyToken, CheckResult) + Send + 'static,
    ) -> bool {
        self.inner.check(token.into(), now, urgency, Box::new(done))
    }

    /// Whether a check found the token's bytes correct within [`crate::limits::CHECK_FRESH_S`] before `now`.
    pub fn is_fresh(&self, token: impl Into<AnyToken>, now: Instant) -> bool {
        self.inner.checks.is_fresh(&token.into(), now)
    }

    /// Notes a successful check as of `now`, at which the requests that waited for it continue.
    pub(super) fn note_whole(&self, token: AnyToken, now: Instant) {
        self.inner.checks.note_whole(token, now);
    }

    /// Drops a holding that cannot be used, and sets its files aside.
    pub(super) fn give_up(&self, token: &AnyToken, reason: &str) {
        let one = self.inner.change();
        self.inner.set_aside(&one, token, reason);
    }

    /// The checks so far.
    pub fn checks(&self) -> CheckState {
        *self.inner.checks.state()
    }

    /// Removes a payload or a set, durably and regardless of its lease; returns whether it was held, or lost to damage and missed. A reader that has it open can go on reading.
    /// Sets lose the lanes that a removed payload gave them; blobs of a removed set that are held whole stay.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails.
    pub fn remove(&self, token: impl Into<AnyToken>) -> Result<bool, StoreError> {
        self.inner.check_writable()?;
        let one = self.inner.change();
        let token = token.into();
        let gone = self.inner.remove(&one, &token);
        let was_lost = self.inner.index().forget_lost(&token);
        drop(one);
        self.sync_removals()?;
        Ok(was_lost || !gone.is_empty())
    }

    /// Makes all removals durable: those of leases that are over and those for lack of room. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk fails: the next call tries again.
    pub fn sync_removals(&self) -> Result<(), StoreError> {
        self.inner.sync_removals()
    }

    /// Has [`Store::sync_removals`] done on the thread of the checks, if there is need.
    pub(super) fn sync_removals_later(&self) {
        if self.inner.has_removals() {
            self.inner.sync_removals_later();
        }
    }

    /// The holding of `token`, if there is one.
    pub fn holding(&self, token: &AnyToken) -> Option<Holding> {
        self.inner.index().holding_of(token)
    }

    /// Makes a file without a name, on the store's own disk.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails.
    pub(super) fn scratch(&self) -> Result<File, StoreError> {
        self.inner.check_writable()?;
        let directory = self.inner.dir.join("tmp");
        tempfile::tempfile_in(&directory).map_err(|error| StoreError::io("make a file in", &directory, error))
    }

    /// Tests whether the store can be written now: writes 4 KiB to a file without a name. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails or is full.
    pub fn probe(&self) -> Result<(), StoreError> {
        let written = self.scratch()?.write_all(&[0; 4096]);
        written.map_err(|error| StoreError::io("write a file in", &self.inner.dir.join("tmp"), error))
    }

    /// The numbers of holdings, by kind.
    pub fn census(&self) -> Census {
        self.inner.index().census()
    }

    /// The changes after a sequence number.
    pub fn changes_after(&self, sequence: u64) -> HoldingChanges {
        self.inner.index().changes_after(sequence)
    }

    /// The longest lease of a holding.
    pub fn lease(&self, token: impl Into<AnyToken>) -> Option<Lease> {
        self.inner.index().get(&token.into()).map(|entry| entry.lease)
    }

    /// Remembers that a set's shards did not give the payload of its content token. The last [`crate::limits::BAD_SETS_LEN_MAX`] sets
    /// are remembered, as long as the store is open.
    pub fn mark_bad(&self, token: SetToken) {
        self.inner.index().mark_bad(token);
    }

    /// Whether [`Store::mark_bad`] was called for this set.
    pub fn is_bad(&self, token: &SetToken) -> bool {
        self.inner.index().is_bad(token)
    }

    /// The store's settings.
    pub fn config(&self) -> StoreConfig {
        *self.inner.index().config()
    }

    /// Changes the store's settings. Holdings stay, even if they take more than the new settings allow; leases that were
    /// granted stay as they are.
    pub fn configure(&self, config: StoreConfig) {
        self.inner.index().configure(config);
        self.inner.files.set_len_max(config.files().read);
    }

    /// The files that readers of payloads have open.
    pub fn files_open(&self) -> usize {
        self.inner.files.len()
    }

    /// The files that were opened again for a reader, since the store was opened: they had been closed for other readers.
    pub fn files_reopened(&self) -> u64 {
        self.inner.files.reopened()
    }

    /// Bytes of disk that payloads, lanes, outboards and their small files take, in whole blocks, and those taken for ones that are being
    /// written.
    pub fn usage_bytes(&self) -> u64 {
        self.inner.index().accounts().usage_bytes()
    }

    /// The part of [`Store::usage_bytes`] that is kept for this peer, and what its unfinished puts need.
    pub fn owned_bytes(&self, owner: &NodeId) -> u64 {
        self.inner.index().owned_bytes(owner)
    }

    /// Requests refused because of this bound, since the store was opened.
    pub fn refused(&self, bound: StoreBound) -> u64 {
        self.inner.refusals.count(bound)
    }

    /// Counts a refused request.
    pub(super) fn note_refused(&self, bound: StoreBound) {
        self.inner.refusals.note(bound);
    }

    /// The bound of [`Store::usage_bytes`], if there is one.
    pub fn capacity_bytes(&self) -> Option<u64> {
        self.config().capacity_bytes
    }

    /// Requests that wait for a thread of the store to make a payload durable or to check it, and those whose results the seed has not taken
    /// yet. A simulated clock stands still meanwhile.
    pub fn requests_waiting(&self) -> usize {
        Arc::strong_count(&self.inner.waits) - 1
    }

    /// Counts a request among those that wait, until the value is dropped.
    pub(super) fn wait(&self) -> Arc<()> {
        self.inner.waits.clone()
    }

    /// Whether the store could not be written when it was opened.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only.is_some()
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

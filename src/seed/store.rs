//! What is kept on disk, each whole or not at all.
//!
//! ```text
//! <dir>/lock                      held by the process that writes here
//! <dir>/data/<ab>/<64 hex>.meta   the payload's lease, see `Lease`
//! <dir>/data/<ab>/<64 hex>.obao   hash pairs in pre-order; absent if the payload is one group
//! <dir>/data/<ab>/<64 hex>.blob   the payload; it is held once this file is there
//! <dir>/sets/<ab>/<64 hex>.meta   the set's lease
//! <dir>/sets/<ab>/<64 hex>.content, .content.obao, .parity, .parity.obao
//!                                 lanes of a blob that is not held whole, at their places, with holes between them
//! <dir>/sets/<ab>/<64 hex>.set    bitmap of the lanes in these files, then the descriptor; the set is held once it is there
//! <dir>/tmp/                      what is being written or removed; emptied when the store is opened
//! <dir>/damaged/                  what was found damaged, under the names that it had; never emptied here
//! <dir>/clock                     the latest time seen, see `clock`
//! <dir>/trust-clock               an operator's word for the machine's clock, until it was taken
//! ```
//!
//! The lanes held of a set are those in its own files and those of its blobs that are held as payloads. So a blob that goes
//! takes its lanes from every set, and a set that has no others goes with it.

use super::check::CheckResult;
use super::checks::{CheckState, Checks};
use super::config::StoreConfig;
use super::damage::{Damage, DamageState};
use super::error::StoreError;
use super::index::{Census, Holding, HoldingChanges, Index};
use super::inner::Inner;
use super::layout::{DATA, SETS};
use super::lease::Lease;
use super::lock::Lock;
use super::open_payload::{OpenPayload, OpenSet};
use super::writing::{PayloadWriter, SetWriter};
use super::{recovery, saved_time};
use crate::limits::MEND_AT_START_BYTES_MAX;
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, Token};
use rustc_hash::FxHashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A directory of payloads and sets, named by their tokens. Clones share it. Calls block on the disk; none reads a clock:
/// `now_s` is seconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
    _open: Arc<Opened>,
}

/// Ends the store's thread with the last [`Store`], so that another process may open the directory then.
#[derive(Debug)]
struct Opened(Arc<Inner>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.end_checks();
    }
}

/// Locked by the process that has the store open for writing.
const LOCK: &str = "lock";

impl Store {
    /// Opens the store in `dir`, makes it if it is not there, and removes what a crash left half-written. A directory
    /// that cannot be written serves what it holds; [`Store::begin`] then says why it cannot take more. What is damaged is made
    /// whole again or set aside: see [`Store::damage`].
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process writes there, [`StoreError::Io`] if the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, config: StoreConfig) -> Result<Self, StoreError> {
        Self::open_mending(dir, config, MEND_AT_START_BYTES_MAX)
    }

    /// Opens as [`Store::open`] does, with outboards made anew before it returns, for payloads of at most this many bytes together.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_mending(
        dir: impl Into<PathBuf>,
        config: StoreConfig,
        bytes_max: u64,
    ) -> Result<Self, StoreError> {
        let dir = dir.into();
        let (lock, read_only) = match prepare(&dir) {
            Ok(lock) => (Some(lock), None),
            Err(StoreError::Io { source, path, .. }) if is_read_only(&source) && dir.join(DATA).is_dir() => {
                tracing::warn!(path = %path.display(), error = %source, "the store cannot be written: it serves what it holds");
                (None, Some(source.kind()))
            }
            Err(error) => return Err(error),
        };
        let mut index = Index::new(config);
        let mut damage = Damage::of(&dir, read_only.is_none());
        let in_flight = if read_only.is_none() {
            recovery::empty_temporary(&dir, &mut damage)?
        } else {
            FxHashSet::default()
        };
        let clock = saved_time::clock(&dir);
        let suspects = recovery::Recovery {
            dir: &dir,
            index: &mut index,
            damage: &mut damage,
            clock: &clock,
            in_flight,
        }
        .fill()?;
        let inner = Inner {
            dir,
            read_only,
            next_temporary: AtomicU64::new(0),
            changes: Mutex::new(()),
            index: Mutex::new(index),
            clock: Mutex::new(clock),
            noting: Mutex::new(()),
            damage: Mutex::new(damage),
            pending: Mutex::new(suspects.iter().map(|suspect| suspect.token).collect()),
            checks: Checks::default(),
            ended: AtomicU64::new(0),
            _lock: lock,
        };
        let inner = Arc::new(inner);
        for suspect in inner.mend_now(suspects, bytes_max) {
            inner.mend_later(suspect);
        }
        inner.index().forget_changes();
        Ok(Self { _open: Arc::new(Opened(inner.clone())), inner })
    }

    /// Whether another process has the store in `dir` open for writing; gives the file that it has locked. Changes nothing there.
    ///
    /// # Errors
    /// [`StoreError::Io`] if that cannot be found out.
    pub fn is_in_use(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        let path = dir.join(LOCK);
        match File::open(&path).map(|file| file.try_lock_shared()) {
            Ok(Ok(())) => Ok(None),
            Ok(Err(fs::TryLockError::WouldBlock)) => Ok(Some(path)),
            Ok(Err(fs::TryLockError::Error(error))) => Err(StoreError::io("lock", &path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Begins to write the payload `token` of `length` bytes; room for it is taken at once. What has expired makes room,
    /// then what is merely cached, the one used longest ago first.
    ///
    /// # Errors
    /// [`StoreError::Capacity`] or [`StoreError::DiskFull`] if there is no room, [`StoreError::PeerQuota`] if its owner
    /// has none left, [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::TooLong`] past
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

    /// Begins to write those of `lanes` of a set that are not held; room for them is taken at once, as in
    /// [`Store::begin`]. [`SetWriter::parts`] says what is to be written.
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

    /// The payload `token`, if it is held whole. It is then in use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened, [`StoreError::Damaged`] if they are not what they should be.
    pub fn get(&self, token: &Token) -> Result<Option<OpenPayload>, StoreError> {
        self.found(*token, || self.inner.get(token))
    }

    /// What `open` gives. If that is nothing although the thing is held, and not merely because it changes just now, it is damaged.
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

    /// The lanes that are held of a set, if any are. They are then in use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened, [`StoreError::Damaged`] if they are not what they should be.
    pub fn get_set(&self, token: &SetToken) -> Result<Option<OpenSet>, StoreError> {
        self.found(*token, || self.inner.get_set(token))
    }

    /// Says that something is in use, so that other things that are merely cached go first.
    pub fn touch(&self, token: impl Into<AnyToken>) {
        self.inner.touch(&token.into());
    }

    /// Makes the lease of something that is held the longer of its own and `keep`'s, durably; what was cached is kept from
    /// now on if `keep` says so. With a set go its blobs that are held whole. Gives whether it is held.
    ///
    /// # Errors
    /// [`StoreError::PeerQuota`] if the new owner has no room left, [`StoreError::ReadOnly`] if something would change in
    /// a store that cannot be written, [`StoreError::Io`] if the disk fails.
    pub fn extend(&self, token: impl Into<AnyToken>, lease: Lease) -> Result<bool, StoreError> {
        let token = token.into();
        let one = self.inner.change();
        let Some(tokens) = self.inner.with_blobs(&token) else { return Ok(false) };
        tokens.iter().try_for_each(|token| self.inner.check_extension(token, lease))?;
        tokens.iter().try_for_each(|token| self.inner.extend(&one, token, lease))?;
        Ok(true)
    }

    /// Removes what has expired at `now_s`; gives what went. What cannot be removed is logged and tried again next time.
    pub fn expire(&self, now_s: u64) -> Vec<AnyToken> {
        let mut gone = Vec::new();
        if self.is_read_only() {
            return gone;
        }
        let expired = self.inner.index().expired(now_s);
        for token in expired {
            let one = self.inner.change();
            // It may have got a longer lease meanwhile.
            if !self.lease(token).is_some_and(|lease| lease.is_expired(now_s)) {
                continue;
            }
            match self.inner.end_lease(&one, &token) {
                Ok(went) => gone.extend(went),
                Err(error) => tracing::warn!(%token, %error, "what has expired cannot be removed"),
            }
        }
        gone
    }

    /// How many things went because their leases were over, since the store was opened.
    pub fn ended(&self) -> u64 {
        self.inner.ended.load(Relaxed)
    }

    /// The damage that it knows of.
    pub fn damage(&self) -> DamageState {
        self.inner.damage().state()
    }

    /// Reads something that is held, on another thread, and compares it with its token; `done` is told there what was found. What is
    /// not what its token names is made so again or set aside, and a set loses the lanes in question. `now` is the time of the
    /// worker's loop. A check is urgent when a request waits for it; anything else is read at [`crate::limits::CHECK_BYTES_PER_S`], and false is
    /// given if too many such checks are due.
    pub fn check(
        &self,
        token: impl Into<AnyToken>,
        now: Instant,
        urgent: bool,
        done: impl FnOnce(AnyToken, CheckResult) + Send + 'static,
    ) -> bool {
        self.inner.check(token.into(), now, urgent, Box::new(done))
    }

    /// Whether a check found it whole within [`crate::limits::CHECK_FRESH_S`] before `now`.
    pub fn is_fresh(&self, token: impl Into<AnyToken>, now: Instant) -> bool {
        self.inner.checks.is_fresh(&token.into(), now)
    }

    /// Something was found whole: the requests that waited for that go on at `now`.
    pub(super) fn note_whole(&self, token: AnyToken, now: Instant) {
        self.inner.checks.note_whole(token, now);
    }

    /// Takes something that cannot be used out of what is held, and sets its files aside.
    pub(super) fn give_up(&self, token: &AnyToken, reason: &str) {
        let one = self.inner.change();
        self.inner.set_aside(&one, token, reason);
    }

    /// How many checks there were.
    pub fn checks(&self) -> CheckState {
        *self.inner.checks.state()
    }

    /// Forgets a payload or a set, whatever its lease; gives whether it was held. A reader that has it open can go on reading it.
    /// Sets lose the lanes that they had by a payload; blobs of a set that are held whole stay.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails.
    pub fn remove(&self, token: impl Into<AnyToken>) -> Result<bool, StoreError> {
        self.inner.check_writable()?;
        let one = self.inner.change();
        Ok(!self.inner.remove(&one, &token.into())?.is_empty())
    }

    /// Every payload held whole, with its length in bytes, in no order.
    pub fn list(&self) -> Vec<(Token, u64)> {
        self.inner.index().payloads().collect()
    }

    /// Everything held, in no order, with the number from which [`Store::changes_after`] goes on.
    pub fn holdings(&self) -> (u64, Vec<Holding>) {
        self.inner.index().holdings()
    }

    /// How much of something is held, if any of it is.
    pub fn holding(&self, token: &AnyToken) -> Option<Holding> {
        self.inner.index().holding_of(token)
    }

    /// A file without a name, on the store's own disk.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails.
    pub(super) fn scratch(&self) -> Result<File, StoreError> {
        self.inner.check_writable()?;
        let directory = self.inner.dir.join("tmp");
        tempfile::tempfile_in(&directory).map_err(|error| StoreError::io("make a file in", &directory, error))
    }

    /// Writes a little to a file without a name, so that it is known whether the store can be written now. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails or is full.
    pub fn probe(&self) -> Result<(), StoreError> {
        let written = self.scratch()?.write_all(&[0; 4096]);
        written.map_err(|error| StoreError::io("write a file in", &self.inner.dir.join("tmp"), error))
    }

    /// How much is held, by kind.
    pub fn census(&self) -> Census {
        self.inner.index().census()
    }

    /// What changed after the moment of `sequence`.
    pub fn changes_after(&self, sequence: u64) -> HoldingChanges {
        self.inner.index().changes_after(sequence)
    }

    /// The lease that something is held with, if it is held.
    pub fn lease(&self, token: impl Into<AnyToken>) -> Option<Lease> {
        self.inner.index().get(&token.into()).map(|entry| entry.lease)
    }

    /// Remembers that a set's decoded bytes missed the content token. The last
    /// [`crate::limits::BAD_SETS_LEN_MAX`] are remembered, as long as the store is open.
    pub fn mark_bad(&self, token: SetToken) {
        self.inner.index().mark_bad(token);
    }

    /// Whether [`Store::mark_bad`] was said of this set.
    pub fn is_bad(&self, token: &SetToken) -> bool {
        self.inner.index().is_bad(token)
    }

    /// How it is kept.
    pub fn config(&self) -> StoreConfig {
        *self.inner.index().config()
    }

    /// Keeps things so from now on. What is held stays, also where it is more than would be taken now; leases that were
    /// given stay as they are.
    pub fn configure(&self, config: StoreConfig) {
        self.inner.index().configure(config);
    }

    /// Bytes that payloads, lanes and outboards take, with those reserved for what is being written.
    pub fn usage_bytes(&self) -> u64 {
        self.inner.index().usage_bytes()
    }

    /// Of [`Store::usage_bytes`], what is kept for this peer.
    pub fn owned_bytes(&self, owner: &NodeId) -> u64 {
        self.inner.index().owned_bytes(owner)
    }

    /// The most that [`Store::usage_bytes`] may be, if it is bounded.
    pub fn capacity_bytes(&self) -> Option<u64> {
        self.config().capacity_bytes
    }

    /// Whether the store can only serve.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only.is_some()
    }
}

/// Makes the directories and takes the lock.
fn prepare(dir: &Path) -> Result<Lock, StoreError> {
    for made in [DATA, SETS, "tmp"].map(|name| dir.join(name)) {
        fs::create_dir_all(&made).map_err(|e| StoreError::io("make the directory", &made, e))?;
    }
    let path = dir.join(LOCK);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = open.map_err(|e| StoreError::io("open", &path, e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path, error)),
    }
    Ok(Lock(lock))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

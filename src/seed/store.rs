//! What is kept on disk, each whole or not at all.
//!
//! ```text
//! <dir>/lock                      held by the process that writes here
//! <dir>/data/<ab>/<64 hex>.meta   the payload's lease, see `Keep`
//! <dir>/data/<ab>/<64 hex>.obao   hash pairs in pre-order; absent if the payload is one group
//! <dir>/data/<ab>/<64 hex>.blob   the payload; it is held once this file is there
//! <dir>/sets/<ab>/<64 hex>.meta   the set's lease
//! <dir>/sets/<ab>/<64 hex>.content, .content.obao, .parity, .parity.obao
//!                                 lanes of a blob that is not held whole, at their places, with holes between them
//! <dir>/sets/<ab>/<64 hex>.set    bitmap of the lanes in these files, then the descriptor; the set is held once it is there
//! <dir>/tmp/                      what is being written; emptied when the store is opened
//! ```
//!
//! The lanes held of a set are those in its own files and those of its blobs that are held as payloads. So a blob that goes
//! takes its lanes from every set, and a set that has no others goes with it.

use super::disk::{make_directory, parent, remove_if_there, replace, sync_directory};
use super::error::StoreError;
use super::held::{Held, HeldSet};
use super::index::{Body, Census, Changes, Holding, Index};
use super::keep::Keep;
use super::layout::{self, BLOB, DATA, DATA_KINDS, META, OUTBOARD, SET, SET_KINDS, SETS};
use super::set::SetWriter;
use super::sweep;
use super::writer::Writer;
use crate::shard::{Blob, Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, Token};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a set is looked for again that changes while it is opened.
const OPEN_TRIES_MAX: usize = 8;

/// How a store is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// The most that what is held may take, outboards included, bytes; `None`: as much as the disk has.
    pub capacity_bytes: Option<u64>,
    /// The most that is kept for one peer, bytes; `None`: as much as there is.
    pub quota_bytes: Option<u64>,
    /// The lease of what was put without one, seconds; 0: it has no end.
    pub lease_default_s: u64,
    /// The longest lease, seconds; 0: any is granted.
    pub lease_max_s: u64,
}

/// A directory of payloads and sets, named by their tokens. Clones share it. Calls block on the disk; none reads a clock:
/// `now_s` is seconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    /// Why nothing can be written here, if that is so.
    read_only: Option<io::ErrorKind>,
    next_temporary: AtomicU64,
    /// Renames and removals, with what they change in the index, one at a time. Taken before `index`.
    changes: Mutex<()>,
    /// Never held while the disk works.
    index: Mutex<Index>,
    /// Locked as long as the store is open for writing.
    _lock: Option<Lock>,
}

/// Locked by the process that has the store open for writing.
const LOCK: &str = "lock";

/// Shows that whoever has it may change files that have their final names.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

/// The store's lock. Let go by name: a process that forked meanwhile holds the same open file until it runs its program.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Store {
    /// Opens the store in `dir`, makes it if it is not there, and removes what a crash left half-written. A directory
    /// that cannot be written serves what it holds; [`Store::begin`] then says why it cannot take more.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process writes there, [`StoreError::Io`] if the directory cannot be made or read.
    pub fn open(dir: impl Into<PathBuf>, config: StoreConfig) -> Result<Self, StoreError> {
        let dir = dir.into();
        let (lock, read_only) = match prepare(&dir) {
            Ok(lock) => (Some(lock), None),
            Err(StoreError::Io { source, .. }) if is_read_only(&source) && dir.join(DATA).is_dir() => {
                (None, Some(source.kind()))
            }
            Err(error) => return Err(error),
        };
        let mut index = Index::new(config);
        sweep::fill(&mut index, &dir, read_only.is_none())?;
        let inner = Inner {
            dir,
            read_only,
            next_temporary: AtomicU64::new(0),
            changes: Mutex::new(()),
            index: Mutex::new(index),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
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
    pub fn begin(&self, token: Token, length: u64, keep: Keep, now_s: u64) -> Result<Writer, StoreError> {
        Writer::begin(self.inner.clone(), token, length, keep, now_s)
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
        keep: Keep,
        now_s: u64,
    ) -> Result<SetWriter, StoreError> {
        SetWriter::begin(self.inner.clone(), descriptor, lanes, keep, now_s)
    }

    /// The payload `token`, if it is held whole. It is then in use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened.
    pub fn get(&self, token: &Token) -> Result<Option<Held>, StoreError> {
        self.inner.get(token)
    }

    /// The lanes that are held of a set, if any are. They are then in use: see [`Store::touch`].
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened.
    pub fn get_set(&self, token: &SetToken) -> Result<Option<HeldSet>, StoreError> {
        self.inner.get_set(token)
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
    pub fn extend(&self, token: impl Into<AnyToken>, keep: Keep) -> Result<bool, StoreError> {
        let token = token.into();
        let one = self.inner.change();
        let Some(tokens) = self.inner.with_blobs(&token) else { return Ok(false) };
        tokens.iter().try_for_each(|token| self.inner.check_extension(token, keep))?;
        tokens.iter().try_for_each(|token| self.inner.extend(&one, token, keep))?;
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
            if !self.keep(token).is_some_and(|keep| keep.is_expired(now_s)) {
                continue;
            }
            match self.inner.remove(&one, &token) {
                Ok(went) => gone.extend(went),
                Err(error) => tracing::warn!(%token, %error, "what has expired cannot be removed"),
            }
        }
        gone
    }

    /// Forgets a payload or a set, whatever its lease; gives whether it was held. Whoever has it open can go on reading it.
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

    /// Everything held, in no order, with the number to ask [`Store::changes_after`] for what comes next.
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
    pub fn changes_after(&self, sequence: u64) -> Changes {
        self.inner.index().changes_after(sequence)
    }

    /// The lease that something is held with, if it is held.
    pub fn keep(&self, token: impl Into<AnyToken>) -> Option<Keep> {
        self.inner.index().get(&token.into()).map(|entry| entry.keep)
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

impl Inner {
    pub(super) fn get(&self, token: &Token) -> Result<Option<Held>, StoreError> {
        let any = AnyToken::from(*token);
        let held = Held::open(*token, 0, &self.file(&any, BLOB), &self.file(&any, OUTBOARD))?;
        if held.is_some() {
            self.index().touch(&any);
        }
        Ok(held)
    }

    pub(super) fn get_set(&self, token: &SetToken) -> Result<Option<HeldSet>, StoreError> {
        for _ in 0..OPEN_TRIES_MAX {
            let Some(set) = self.index().set(token) else { return Ok(None) };
            let descriptor = set.descriptor;
            let mut held = HeldSet { descriptor, lanes: set.own, content: None, parity: None };
            for blob in [Blob::Content, Blob::Parity] {
                let Some((token_of_blob, length)) = layout::blob(&descriptor, blob) else { continue };
                let whole = self.index().has_payload(&token_of_blob, length);
                let opened = if whole {
                    held.lanes = held.lanes.union(layout::lanes_of(&descriptor, blob));
                    self.get(&token_of_blob)?
                } else {
                    let any = AnyToken::from(*token);
                    let (kind, outboard_kind) = layout::lane_kinds(blob);
                    let paths = (self.file(&any, kind), self.file(&any, outboard_kind));
                    Held::open(token_of_blob, set.generation, &paths.0, &paths.1)?
                };
                match blob {
                    Blob::Content => held.content = opened,
                    Blob::Parity => held.parity = opened,
                }
            }
            let parts = layout::parts_of(&descriptor, held.lanes);
            let same = self.index().set(token).is_some_and(|now| now.generation == set.generation);
            if same && !held.lanes.is_empty() && parts.iter().all(|part| held.blob(part.blob).is_some()) {
                // A file of lanes that nobody claims is no part of it.
                let claims = |blob| parts.iter().any(|part| part.blob == blob);
                held.content = held.content.filter(|_| claims(Blob::Content));
                held.parity = held.parity.filter(|_| claims(Blob::Parity));
                self.touch(&AnyToken::from(*token));
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    fn touch(&self, token: &AnyToken) {
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

    /// A token and, if it is a set's, those of its blobs that are held whole, these first; `None` if it is not held.
    fn with_blobs(&self, token: &AnyToken) -> Option<Vec<AnyToken>> {
        let index = self.index();
        let mut tokens = match index.get(token)?.body {
            Body::Payload { .. } => Vec::new(),
            Body::Set(set) => index.whole_blobs(&set.descriptor).map(|(blob, _)| blob.into()).collect(),
        };
        tokens.push(*token);
        Some(tokens)
    }

    /// Gives what is held a longer lease, durably.
    pub(super) fn extend(
        &self,
        _one: &Changing<'_>,
        token: &AnyToken,
        asked: Keep,
    ) -> Result<(), StoreError> {
        let Some(entry) = self.index().get(token).copied() else { return Ok(()) };
        let keep = entry.keep.extended_by(asked);
        if keep == entry.keep {
            self.index().touch(token);
            return Ok(());
        }
        self.check_writable()?;
        self.write_keep(token, keep)?;
        self.index().set_keep(token, keep);
        Ok(())
    }

    /// Writes a lease, durably. Its directory must be there.
    pub(super) fn write_keep(&self, token: &AnyToken, keep: Keep) -> Result<(), StoreError> {
        self.write_small(token, META, &keep.to_file())
    }

    /// Replaces a small file, durably.
    pub(super) fn write_small(&self, token: &AnyToken, kind: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.file(token, kind);
        make_directory(parent(&path))?;
        let (_, hex) = layout::place(token);
        replace(&path, &self.temporary(&hex).with_added_extension(kind), bytes)?;
        sync_directory(parent(&path))
    }

    /// Removes what is held, and the sets that have nothing else; gives what went.
    pub(super) fn remove(&self, _one: &Changing<'_>, token: &AnyToken) -> Result<Vec<AnyToken>, StoreError> {
        if self.index().get(token).is_none() {
            return Ok(Vec::new());
        }
        let mut gone = vec![*token];
        self.remove_files(token)?;
        if let AnyToken::Content(payload) = token {
            let sets = self.index().emptied_sets(payload);
            for set in sets {
                self.remove_files(&set.into())?;
                gone.push(set.into());
            }
        }
        Ok(gone)
    }

    fn remove_files(&self, token: &AnyToken) -> Result<(), StoreError> {
        let (held_by, kinds) = match token {
            AnyToken::Content(_) => (BLOB, &DATA_KINDS[..]),
            AnyToken::Set(_) => (SET, &SET_KINDS[..]),
        };
        // This one first: without it the others are leftovers.
        remove_if_there(&self.file(token, held_by))?;
        self.index().remove(token);
        kinds.iter().try_for_each(|kind| remove_if_there(&self.file(token, kind)))
    }

    /// Where a file of this kind is.
    pub(super) fn file(&self, token: &AnyToken, kind: &str) -> PathBuf {
        let (directory, hex) = layout::place(token);
        self.dir.join(directory).join(&hex[..2]).join(format!("{hex}.{kind}"))
    }

    /// A new name under `tmp`, without the kind.
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
}

/// Makes the directories, takes the lock and empties `tmp`.
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
    let tmp = dir.join("tmp");
    for entry in fs::read_dir(&tmp).map_err(|e| StoreError::io("read", &tmp, e))? {
        let path = entry.map_err(|e| StoreError::io("read", &tmp, e))?.path();
        fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
    }
    Ok(Lock(lock))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

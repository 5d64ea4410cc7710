//! Payloads on disk, each whole or not at all.
//!
//! ```text
//! <dir>/lock                      held by the process that writes here
//! <dir>/data/<ab>/<64 hex>.obao   hash pairs in pre-order; absent if the payload is one group
//! <dir>/data/<ab>/<64 hex>.blob   the payload; it is held once this file is there
//! <dir>/tmp/                      what is being written; emptied when the store is opened
//! ```

use super::Writer;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::record::ErrorCode;
use crate::token::{Outboard, OutboardError, Token, outboard_bytes};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Outboards up to this size are read whole when a payload is opened, bytes.
const OUTBOARD_IN_MEMORY_BYTES_MAX: u64 = 1 << 20;

pub(super) const BLOB: &str = "blob";
pub(super) const OUTBOARD: &str = "obao";

/// How a store is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// The most that payloads and their outboards may take together, bytes; `None`: as much as the disk has.
    pub capacity_bytes: Option<u64>,
}

/// A directory of payloads, named by their tokens. Clones share it. All calls block on the disk.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    dir: PathBuf,
    capacity_bytes: Option<u64>,
    /// Bytes of what is kept, and of what is reserved for what is being written.
    usage_bytes: AtomicU64,
    /// Why nothing can be written here, if that is so.
    read_only: Option<io::ErrorKind>,
    next_temporary: AtomicU64,
    /// Renames and removals, with the usage they change, one at a time.
    changes: Mutex<()>,
    /// Locked as long as the store is open for writing.
    _lock: Option<Lock>,
}

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
        let data = dir.join("data");
        let (lock, read_only) = match prepare(&dir) {
            Ok(lock) => (Some(lock), None),
            Err(StoreError::Io { source, .. }) if is_read_only(&source) && data.is_dir() => {
                (None, Some(source.kind()))
            }
            Err(error) => return Err(error),
        };
        let usage_bytes = AtomicU64::new(sweep(&data, read_only.is_none())?);
        let inner = Inner {
            dir,
            capacity_bytes: config.capacity_bytes,
            usage_bytes,
            read_only,
            next_temporary: AtomicU64::new(0),
            changes: Mutex::new(()),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins to write the payload `token` of `length` bytes; room for it is taken at once.
    ///
    /// # Errors
    /// [`StoreError::Capacity`] or [`StoreError::DiskFull`] if there is no room, [`StoreError::ReadOnly`] if the store
    /// cannot be written, [`StoreError::TooLong`] past [`PAYLOAD_BYTES_MAX`], [`StoreError::Io`] if the disk fails.
    pub fn begin(&self, token: Token, length: u64) -> Result<Writer, StoreError> {
        Writer::begin(self.inner.clone(), token, length)
    }

    /// The payload `token`, if it is held whole.
    ///
    /// # Errors
    /// [`StoreError::Io`] if its files are there and cannot be opened.
    pub fn get(&self, token: &Token) -> Result<Option<Held>, StoreError> {
        self.inner.get(token)
    }

    /// Forgets the payload `token`; gives whether it was held. Whoever has it open can go on reading it.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written, [`StoreError::Io`] if the disk fails.
    pub fn remove(&self, token: &Token) -> Result<bool, StoreError> {
        self.inner.check_writable()?;
        let _one = self.inner.change();
        let blob = self.inner.file(token, BLOB);
        let length = match fs::metadata(&blob) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("read", &blob, error)),
        };
        // The blob first: without it an outboard is a leftover.
        fs::remove_file(&blob).map_err(|e| StoreError::io("remove", &blob, e))?;
        remove_if_there(&self.inner.file(token, OUTBOARD))?;
        self.inner.usage_bytes.fetch_sub(length + outboard_bytes(length), Relaxed);
        Ok(true)
    }

    /// Every payload held, with its length in bytes, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<(Token, u64)>, StoreError> {
        let mut held = Vec::new();
        each_file(&self.inner.dir.join("data"), |path, length| {
            if let Some((token, BLOB)) = named(path)
                && is_whole(path, length)
            {
                held.push((token, length));
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// Bytes that payloads and outboards take, with those reserved for what is being written.
    pub fn usage_bytes(&self) -> u64 {
        self.inner.usage_bytes.load(Relaxed)
    }

    /// The most that [`Store::usage_bytes`] may be, if it is bounded.
    pub fn capacity_bytes(&self) -> Option<u64> {
        self.inner.capacity_bytes
    }

    /// Whether the store can only serve.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only.is_some()
    }
}

impl Inner {
    pub(super) fn get(&self, token: &Token) -> Result<Option<Held>, StoreError> {
        let path = self.file(token, BLOB);
        let blob = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        let length = blob.metadata().map_err(|e| StoreError::io("read", &path, e))?.len();
        let path = self.file(token, OUTBOARD);
        let outboard = match open_outboard(&path, length) {
            Ok(outboard) => outboard,
            // Two renames that a crash tore apart: the payload is not held.
            Err(OutboardError::Size { .. } | OutboardError::TooLong(_)) => return Ok(None),
            Err(OutboardError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path, io::Error::other(error))),
        };
        Ok(Some(Held { token: *token, length, blob: Arc::new(blob), outboard }))
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match self.read_only {
            None => Ok(()),
            Some(kind) => Err(StoreError::ReadOnly { path: self.dir.clone(), kind }),
        }
    }

    /// Takes `needed_bytes` of the capacity and looks whether the disk has them.
    pub(super) fn reserve(&self, needed_bytes: u64) -> Result<(), StoreError> {
        let capacity_bytes = self.capacity_bytes.unwrap_or(u64::MAX);
        let available_bytes = rustix::fs::statvfs(&self.dir)
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
            .map_err(|e| StoreError::io("look for room in", &self.dir, e.into()))?;
        if needed_bytes > available_bytes {
            return Err(StoreError::DiskFull { path: self.dir.clone(), needed_bytes, available_bytes });
        }
        let taken = self.usage_bytes.fetch_update(Relaxed, Relaxed, |usage| {
            usage.checked_add(needed_bytes).filter(|&usage| usage <= capacity_bytes)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(usage_bytes) => Err(StoreError::Capacity {
                path: self.dir.clone(),
                needed_bytes,
                usage_bytes,
                capacity_bytes,
            }),
        }
    }

    /// Gives back what [`Inner::reserve`] took.
    pub(super) fn release(&self, bytes: u64) {
        self.usage_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Where a held payload's file of this kind is.
    pub(super) fn file(&self, token: &Token, kind: &str) -> PathBuf {
        let hex = token.hex();
        self.dir.join("data").join(&hex[..2]).join(format!("{hex}.{kind}"))
    }

    /// A new name under `tmp`, without the kind.
    pub(super) fn temporary(&self, token: &Token) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Relaxed);
        self.dir.join("tmp").join(format!("{}.{number}", token.hex()))
    }

    pub(super) fn change(&self) -> impl Drop + '_ {
        self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A payload that is held whole, open for reading. Cheap to clone; stays readable when the store forgets it.
#[derive(Clone, Debug)]
pub struct Held {
    token: Token,
    length: u64,
    blob: Arc<File>,
    outboard: Outboard,
}

impl Held {
    /// Its token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Its length, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its hash pairs.
    pub fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Fills `out` with the payload bytes from `offset` on.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::UnexpectedEof`] past the payload's end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.blob.read_exact_at(out, offset)
    }
}

/// Makes the directories, takes the lock and empties `tmp`.
fn prepare(dir: &Path) -> Result<Lock, StoreError> {
    for made in [&dir.join("data"), &dir.join("tmp")] {
        fs::create_dir_all(made).map_err(|e| StoreError::io("make the directory", made, e))?;
    }
    let path = dir.join("lock");
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

/// Sums up what is held. Removes, where it may, files that a crash left without their other half.
fn sweep(data: &Path, may_remove: bool) -> Result<u64, StoreError> {
    let mut usage_bytes = 0;
    each_file(data, |path, length| {
        let whole = match named(path) {
            Some((_, BLOB)) => is_whole(path, length),
            Some(_) => path.with_extension(BLOB).exists(),
            // Not ours: neither counted nor touched.
            None => return Ok(()),
        };
        if whole {
            usage_bytes += length;
        } else if may_remove {
            remove_if_there(path)?;
        }
        Ok(())
    })?;
    Ok(usage_bytes)
}

/// Whether the blob at `path` has its outboard.
fn is_whole(path: &Path, length: u64) -> bool {
    let needed = if length <= PAYLOAD_BYTES_MAX { outboard_bytes(length) } else { return false };
    needed == 0 || fs::metadata(path.with_extension(OUTBOARD)).is_ok_and(|metadata| metadata.len() == needed)
}

/// The token and the kind that a file's name says.
fn named(path: &Path) -> Option<(Token, &str)> {
    let kind = path.extension()?.to_str().filter(|&kind| kind == BLOB || kind == OUTBOARD)?;
    let token = format!("b3:{}", path.file_stem()?.to_str()?).parse().ok()?;
    Some((token, kind))
}

/// Shows every file two levels below `data`, with its length.
fn each_file(
    data: &Path,
    mut show: impl FnMut(&Path, u64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for directory in fs::read_dir(data).map_err(|e| StoreError::io("read", data, e))? {
        let directory = directory.map_err(|e| StoreError::io("read", data, e))?.path();
        if !directory.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&directory).map_err(|e| StoreError::io("read", &directory, e))? {
            let entry = entry.map_err(|e| StoreError::io("read", &directory, e))?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => show(&entry.path(), metadata.len())?,
                Ok(_) => {}
                // Forgotten meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("read", &entry.path(), error)),
            }
        }
    }
    Ok(())
}

fn open_outboard(path: &Path, length: u64) -> Result<Outboard, OutboardError> {
    match outboard_bytes(length.min(PAYLOAD_BYTES_MAX)) {
        0 => Outboard::from_bytes(length, bytes::Bytes::new()),
        1..=OUTBOARD_IN_MEMORY_BYTES_MAX => Outboard::from_bytes(length, fs::read(path)?.into()),
        _ => Outboard::from_file(length, File::open(path)?),
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Why the store could not do it. The text names the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured capacity is used up.
    #[error(
        "the store in {} has no room for {needed_bytes} bytes: {usage_bytes} of {capacity_bytes} are taken; \
         remove payloads or raise its capacity", path.display()
    )]
    Capacity {
        /// The store.
        path: PathBuf,
        /// What was asked for, bytes.
        needed_bytes: u64,
        /// What is taken, bytes.
        usage_bytes: u64,
        /// What may be taken, bytes.
        capacity_bytes: u64,
    },
    /// The file system is full.
    #[error(
        "the disk under {} has {available_bytes} bytes free and {needed_bytes} are needed; \
         free some, or give the store a capacity that fits the disk", path.display()
    )]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// What was asked for, bytes.
        needed_bytes: u64,
        /// What the disk has, bytes.
        available_bytes: u64,
    },
    /// The store can only serve.
    #[error("{} cannot be written ({kind}): mount it for writing or give this user the right", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Another process writes there.
    #[error("the store in {} is in use by another process; stop it or choose another directory", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// Past [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is longer than the {PAYLOAD_BYTES_MAX} that the protocol allows")]
    TooLong(u64),
    /// A piece that is not of this payload.
    #[error("a piece at offset {offset} lies outside its payload of {length} bytes")]
    Foreign {
        /// Where the piece said it was.
        offset: u64,
        /// The payload's length.
        length: u64,
    },
    /// A commit before every byte was written.
    #[error("only {written_bytes} of {length} bytes were written; nothing is kept")]
    Incomplete {
        /// Payload bytes written.
        written_bytes: u64,
        /// The payload's length, bytes.
        length: u64,
    },
    /// The disk failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The error that the peer is told (protocol §9). The text stays here: it names paths.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Capacity { .. } | Self::DiskFull { .. } => ErrorCode::Quota,
            Self::TooLong(_) => ErrorCode::Limit,
            Self::ReadOnly { .. }
            | Self::InUse { .. }
            | Self::Foreign { .. }
            | Self::Incomplete { .. }
            | Self::Io { .. } => ErrorCode::Internal,
        }
    }
}

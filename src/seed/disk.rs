//! How a store makes, writes, moves and removes files: by the calls of [`Disk`], which a test replaces by a disk that fails and forgets.

use super::direct_writer::DirectWriter;
use super::error::StoreError;
use super::reader::BlockReader;
use crate::limits::STORE_JOURNAL_BYTES_MAX;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The calls by which a store changes its files and reads payloads. Each makes the one call of the operating system that its name says; a
/// disk of a test fails, counts or forgets them instead.
#[allow(clippy::missing_errors_doc, reason = "each has the errors of its call")]
pub trait Disk: Debug + Send + Sync {
    /// Makes a file that must not exist yet, to be read and written.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    /// Opens a file to read it.
    fn open_to_read(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    /// Opens a file to read it, if the kernel has all that it takes in memory.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it may have to read the disk, or cannot tell; besides those of [`Disk::open_to_read`].
    fn open_to_read_now(&self, path: &Path) -> io::Result<File> {
        let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        match openat2(CWD, path, flags, mode, ResolveFlags::CACHED) {
            Ok(file) => Ok(file.into()),
            // Kernels before 5.12, and containers that forbid the call.
            Err(Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::AGAIN) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file to write into it.
    fn open_to_write(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    /// The same, for writes past the page cache.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] or [`io::ErrorKind::Unsupported`] where there are none.
    fn open_to_write_direct(&self, _path: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens a file to read and write it.
    fn open_to_change(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// Makes a file this many bytes long, without blocks.
    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Has a file take blocks for these bytes. Its length stays.
    fn allocate(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    /// Writes all of these bytes at this offset.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Has the bytes that were written here go to the disk, without waiting for it. It makes nothing durable.
    fn begin_write_back(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        disk_ring::begin_write_back(file, offset, len)
    }

    /// Fills `out` from this offset on.
    fn read(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(out, offset)
    }

    /// Whether io_uring may read in place of [`Disk::read`], and write in place of [`Disk::write`].
    fn has_ring(&self) -> bool {
        false
    }

    /// The batches of a journal after which a store's database takes them over, bytes.
    fn journal_bytes_max(&self) -> u64 {
        STORE_JOURNAL_BYTES_MAX
    }

    /// Whether it takes them over on a thread of its own. A disk of a test may want its changes in one order.
    fn takes_over_beside(&self) -> bool {
        true
    }

    /// Makes a file's bytes durable, but no name of it.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Makes a file's bytes durable, and of its other properties only those without which they cannot be read.
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.sync(file)
    }

    /// Moves a file, and replaces one of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    /// Removes a name of a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Makes a directory that must not exist yet.
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Bytes that are free for files below a directory.
    fn available_bytes(&self, directory: &Path) -> io::Result<u64> {
        Ok(rustix::fs::statvfs(directory).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))?)
    }
}

/// The disk of the machine.
#[derive(Debug)]
pub struct MachineDisk;

impl Disk for MachineDisk {
    fn open_to_write_direct(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)
    }

    fn has_ring(&self) -> bool {
        true
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// A store's disk. Its errors name the path and the fix.
#[derive(Clone, Debug)]
pub(super) struct StoreDisk(pub(super) Arc<dyn Disk>, Arc<DiskState>);

#[derive(Debug)]
struct DiskState {
    /// Directories that were made and whose names may not be durable: a sync failed.
    uncertain: Mutex<HashSet<PathBuf>>,
    reader: Arc<BlockReader>,
    direct_writer: DirectWriter,
    /// Whether the file system cannot allocate blocks ahead.
    no_allocation: AtomicBool,
}

impl StoreDisk {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        let reader = Arc::new(BlockReader::new(disk.has_ring()));
        let direct_writer = DirectWriter::new(disk.has_ring());
        let (uncertain, no_allocation) = (Mutex::default(), AtomicBool::new(false));
        let state = DiskState { uncertain, reader, direct_writer, no_allocation };
        Self(disk, Arc::new(state))
    }

    /// What reads for threads that must not wait.
    pub(super) fn reader(&self) -> &Arc<BlockReader> {
        &self.1.reader
    }

    /// What writes long files past the page cache.
    pub(super) fn direct_writer(&self) -> &DirectWriter {
        &self.1.direct_writer
    }

    fn uncertain(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.1.uncertain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a file take blocks for these bytes, if the file system can: others are written without.
    pub(super) fn allocate(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        if self.1.no_allocation.load(Relaxed) {
            return Ok(());
        }
        match self.0.allocate(file, offset, len) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) =>
            {
                if !self.1.no_allocation.swap(true, Relaxed) {
                    tracing::info!(
                        "the store's files take blocks as they are written: its file system allocates none ahead"
                    );
                }
                Ok(())
            }
            // The write takes them.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            allocated => allocated,
        }
    }

    /// Makes a file that must not exist yet.
    pub(super) fn create(&self, path: &Path) -> Result<File, StoreError> {
        self.0.create(path).map_err(|error| write_error(path, 0, error))
    }

    /// Writes a small file durably under `temporary` and renames it to `path`. The new name is durable once its directory
    /// is synced.
    pub(super) fn replace(&self, path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || {
            let file = self.create(temporary)?;
            let written = self.0.write(&file, bytes, 0).and_then(|()| self.0.sync(&file));
            written.map_err(|error| write_error(temporary, bytes.len() as u64, error))?;
            self.rename(temporary, path)
        };
        write().inspect_err(|_| {
            let _ = self.0.remove(temporary);
        })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.0.rename(from, to).map_err(|error| write_error(to, 0, error))
    }

    /// Gives a file a second name, replacing a file of that name.
    pub(super) fn link(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.remove_if_there(to)?;
        self.0.link(from, to).map_err(|error| write_error(to, 0, error))
    }

    pub(super) fn remove_if_there(&self, path: &Path) -> Result<(), StoreError> {
        match self.0.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory durably, if it is missing.
    pub(super) fn make_directory(&self, directory: &Path) -> Result<(), StoreError> {
        let is_uncertain = {
            // Another thread that finds the directory made must find it among the uncertain ones too.
            let mut uncertain = self.uncertain();
            match self.0.create_directory(directory) {
                Ok(()) => {
                    uncertain.insert(directory.to_owned());
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => uncertain.contains(directory),
                Err(error) => return Err(write_error(directory, 0, error)),
            }
        };
        if is_uncertain {
            self.sync_directory(parent(directory))?;
            self.uncertain().remove(directory);
        }
        Ok(())
    }

    pub(super) fn sync_directory(&self, directory: &Path) -> Result<(), StoreError> {
        self.0.sync_directory(directory).map_err(|e| StoreError::io("sync", directory, e))
    }
}

/// The directory of a file of the store.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != "").unwrap_or(Path::new("."))
}

/// The error of a write, with its own variants for a full disk and a read-only one.
pub(super) fn write_error(path: &Path, needed_bytes: u64, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            let directory = path.parent().unwrap_or(path);
            let disk = rustix::fs::statvfs(directory);
            let available_bytes = disk.as_ref().map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
            // A file system without a table of inodes reports none in all.
            if disk.is_ok_and(|disk| disk.f_files > 0 && disk.f_favail == 0) {
                return StoreError::NoInodes { path: directory.to_owned(), available_bytes };
            }
            StoreError::DiskFull { path: directory.to_owned(), needed_bytes, available_bytes }
        }
        kind @ (io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            StoreError::ReadOnly { path: path.to_owned(), kind }
        }
        _ => StoreError::io("write", path, error),
    }
}

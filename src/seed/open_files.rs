//! The files that readers have open: the least recently read one is closed for another, and opened again when it is read.

use super::disk::Disk;
use crate::token::ReadPairs;
use rustc_hash::FxHashMap;
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The files of one store that readers have open. A file that is being read stays open for this read, so that each thread may have one more.
#[derive(Debug)]
pub(super) struct OpenFiles {
    table: Mutex<OpenTable>,
    /// Files that were opened again.
    reopened: AtomicU64,
}

#[derive(Debug)]
struct OpenTable {
    len_max: usize,
    /// By the number of their reader, which this table gives.
    files: FxHashMap<u64, OpenFile>,
    /// Readers by the time of their last read.
    reads: BTreeMap<u64, u64>,
    /// Counts readers and reads.
    clock: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    read_at: u64,
}

impl OpenFiles {
    pub(super) fn new(len_max: usize) -> Self {
        let table = OpenTable { len_max, files: FxHashMap::default(), reads: BTreeMap::new(), clock: 0 };
        Self { table: Mutex::new(table), reopened: AtomicU64::new(0) }
    }

    /// Changes their largest number.
    pub(super) fn set_len_max(&self, len_max: usize) {
        let mut table = self.table();
        table.len_max = len_max;
        table.close_oldest();
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.table().files.len()
    }

    /// How many were opened again, since the store was opened.
    pub(super) fn reopened(&self) -> u64 {
        self.reopened.load(Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, OpenTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenTable {
    fn next(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The file of a reader, if it is open.
    fn read(&mut self, reader: u64) -> Option<Arc<File>> {
        let now = self.next();
        let open = self.files.get_mut(&reader)?;
        self.reads.remove(&std::mem::replace(&mut open.read_at, now));
        self.reads.insert(now, reader);
        Some(open.file.clone())
    }

    fn insert(&mut self, reader: u64, file: Arc<File>) {
        self.close(reader);
        let read_at = self.next();
        self.files.insert(reader, OpenFile { file, read_at });
        self.reads.insert(read_at, reader);
        self.close_oldest();
    }

    fn close_oldest(&mut self) {
        while self.files.len() > self.len_max.max(1)
            && let Some((_, oldest)) = self.reads.pop_first()
        {
            self.files.remove(&oldest);
        }
    }

    fn close(&mut self, reader: u64) {
        if let Some(open) = self.files.remove(&reader) {
            self.reads.remove(&open.read_at);
        }
    }
}

/// One file for one reader.
#[derive(Debug)]
pub(super) enum ReadFile {
    /// It stays open.
    Own(Arc<File>),
    /// It is open while it stands in the table.
    Shared(SharedFile),
}

#[derive(Debug)]
pub(super) struct SharedFile {
    files: Arc<OpenFiles>,
    reader: u64,
    path: PathBuf,
    identity: FileIdentity,
    /// Whether it is read past the page cache.
    direct: bool,
}

/// Inode, and the time of the last change of its bytes: a file of the store is complete before it has its name.
type FileIdentity = (u64, i64, i64);

fn identity(metadata: &Metadata) -> FileIdentity {
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// How files are opened for a reader.
#[derive(Clone, Copy, Debug)]
pub(super) enum OpenFor<'a> {
    /// They stay open.
    Itself,
    /// They are open while they stand in the table.
    Table(&'a Arc<OpenFiles>),
    /// The same, by a thread that must not wait for the disk: what the kernel has not in memory is an error, [`io::ErrorKind::WouldBlock`].
    TableNow(&'a Arc<OpenFiles>),
}

impl OpenFor<'_> {
    pub(super) fn open(self, disk: &dyn Disk, path: &Path) -> io::Result<File> {
        match self {
            Self::Itself | Self::Table(_) => disk.open_to_read(path),
            Self::TableNow(_) => disk.open_to_read_now(path),
        }
    }

    /// Reads all of a short file.
    pub(super) fn read(self, file: &File, bytes: &mut [u8]) -> io::Result<()> {
        if let Self::TableNow(_) = self {
            let mut parts = [IoSliceMut::new(bytes)];
            let read = rustix::io::preadv2(file, &mut parts, 0, ReadWriteFlags::NOWAIT);
            let is_whole = read.is_ok_and(|read| read == bytes.len());
            return if is_whole { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        file.read_exact_at(bytes, 0)
    }
}

impl ReadFile {
    /// Opens a file.
    pub(super) fn open(disk: &dyn Disk, path: &Path, by: OpenFor<'_>) -> io::Result<(Self, Metadata)> {
        let file = by.open(disk, path)?;
        let metadata = file.metadata()?;
        let (OpenFor::Table(files) | OpenFor::TableNow(files)) = by else {
            return Ok((Self::Own(file.into()), metadata));
        };
        let mut table = files.table();
        let reader = table.next();
        table.insert(reader, Arc::new(file));
        drop(table);
        let (files, path, identity) = (files.clone(), path.to_owned(), identity(&metadata));
        Ok((Self::Shared(SharedFile { files, reader, path, identity, direct: false }), metadata))
    }

    /// The same file, to be read past the page cache (`O_DIRECT`). It is opened at its first read.
    pub(super) fn direct(&self) -> Option<Self> {
        let Self::Shared(shared) = self else { return None };
        let (files, path, identity) = (shared.files.clone(), shared.path.clone(), shared.identity);
        let reader = files.table().next();
        Some(Self::Shared(SharedFile { files, reader, path, identity, direct: true }))
    }

    /// The open file.
    ///
    /// # Errors
    /// Those of [`ReadFile::with`] before it reads.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        match self {
            Self::Own(file) => Ok(file.clone()),
            Self::Shared(shared) => shared.file(),
        }
    }

    /// Reads by `read`.
    ///
    /// # Errors
    /// Those of `read`; [`io::ErrorKind::NotFound`] if the file was closed for another, and removed or replaced since.
    pub(super) fn with(&self, read: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        read(&*self.file()?)
    }
}

impl SharedFile {
    fn file(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.table().read(self.reader) {
            return Ok(file);
        }
        let flags = if self.direct { OFlags::DIRECT.bits().cast_signed() } else { 0 };
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        if identity(&file.metadata()?) != self.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was replaced while it was read"));
        }
        let file = Arc::new(file);
        if !self.direct {
            self.files.reopened.fetch_add(1, Relaxed);
        }
        self.files.table().insert(self.reader, file.clone());
        Ok(file)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        self.files.table().close(self.reader);
    }
}

impl ReadPairs for Arc<ReadFile> {
    fn read_pairs(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|file| file.read_exact_at(out, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::MachineDisk;

    #[test]
    fn more_readers_than_files_may_be_open_read_on_and_none_reads_another_file() {
        const READERS: usize = 20;
        const OPEN: usize = 4;
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(OpenFiles::new(OPEN));
        let path = |number: usize| directory.path().join(number.to_string());
        let open = |number: usize| {
            std::fs::write(path(number), [number as u8; 10]).unwrap();
            Arc::new(ReadFile::open(&MachineDisk, &path(number), OpenFor::Table(&files)).unwrap().0)
        };
        let readers: Vec<_> = (0..READERS).map(open).collect();
        assert_eq!((files.len(), files.reopened()), (OPEN, 0));
        for round in 1..=3 {
            for (number, reader) in readers.iter().enumerate() {
                let mut bytes = [0; 5];
                reader.read_pairs(5, &mut bytes).unwrap();
                assert_eq!(bytes, [number as u8; 5]);
                assert!(files.len() <= OPEN);
            }
            assert_eq!(files.reopened(), (round * READERS) as u64);
        }
        // The files of the first readers are closed by now. One is removed, and one replaced by a file of the same length.
        std::fs::remove_file(path(0)).unwrap();
        std::fs::write(path(100), [100; 10]).unwrap();
        std::fs::rename(path(100), path(1)).unwrap();
        for reader in &readers[..2] {
            assert_eq!(reader.read_pairs(0, &mut [0]).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        // An open file stays readable after it was removed.
        std::fs::remove_file(path(READERS - 1)).unwrap();
        readers[READERS - 1].read_pairs(0, &mut [0]).unwrap();
        let kept = Arc::new(ReadFile::open(&MachineDisk, &path(2), OpenFor::Itself).unwrap().0);
        files.set_len_max(1);
        assert_eq!(files.len(), 1);
        drop(readers);
        assert_eq!(files.len(), 0, "a reader that is dropped closes its file");
        kept.read_pairs(0, &mut [0]).unwrap();
    }
}

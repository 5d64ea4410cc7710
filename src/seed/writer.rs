//! One payload on its way into the store.

use super::store::{BLOB, Held, Inner, OUTBOARD, StoreError, remove_if_there};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::token::{PAIR_BYTES, Proof, Token, VerifiedPiece, outboard_bytes};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Takes a payload's verified pieces in any order and keeps it once all are there. Dropped before
/// [`Writer::commit`], it leaves nothing. May move to another thread; every call blocks on the disk.
#[derive(Debug)]
pub struct Writer {
    store: Arc<Inner>,
    token: Token,
    length: u64,
    blob_path: PathBuf,
    outboard_path: PathBuf,
    blob: File,
    /// Absent if the payload is one group.
    outboard: Option<File>,
    /// What was written, as runs `start -> end` of payload bytes that do not touch.
    written: BTreeMap<u64, u64>,
    /// Bytes to give back when this is dropped: payload and outboard, 0 once they are kept.
    reserved: Reservation,
    /// Neighbouring hash pairs, for one write.
    pairs: Vec<u8>,
}

/// Room in the store, given back when dropped.
#[derive(Debug)]
struct Reservation {
    store: Arc<Inner>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.release(self.bytes);
    }
}

impl Writer {
    pub(super) fn begin(store: Arc<Inner>, token: Token, length: u64) -> Result<Self, StoreError> {
        store.check_writable()?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(StoreError::TooLong(length));
        }
        let outboard_len = outboard_bytes(length);
        store.reserve(length + outboard_len)?;
        let reserved = Reservation { store: store.clone(), bytes: length + outboard_len };
        let temporary = store.temporary(&token);
        let blob_path = temporary.with_added_extension(BLOB);
        let outboard_path = temporary.with_added_extension(OUTBOARD);
        let blob = create(&blob_path)?;
        // From here on a drop removes the files.
        let mut writer = Self {
            store,
            token,
            length,
            blob_path,
            outboard_path,
            blob,
            outboard: None,
            written: BTreeMap::new(),
            reserved,
            pairs: Vec::new(),
        };
        allocate(&writer.blob, &writer.blob_path, length)?;
        if outboard_len > 0 {
            let outboard = writer.outboard.insert(create(&writer.outboard_path)?);
            allocate(outboard, &writer.outboard_path, outboard_len)?;
        }
        Ok(writer)
    }

    /// The payload's token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Payload bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written.iter().map(|(start, end)| end - start).sum()
    }

    /// Writes a piece and its hash pairs.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] or [`StoreError::Io`] if the disk fails, [`StoreError::Foreign`] if the piece or a pair
    /// lies outside the payload.
    pub fn write(&mut self, piece: &VerifiedPiece) -> Result<(), StoreError> {
        let foreign = StoreError::Foreign { offset: piece.offset, length: self.length };
        let end = piece.offset.checked_add(piece.data.len() as u64).filter(|&end| end <= self.length);
        let Some(end) = end else { return Err(foreign) };
        let pairs_len = outboard_bytes(self.length) / PAIR_BYTES as u64;
        if piece.proofs.iter().any(|proof| proof.index >= pairs_len) {
            return Err(foreign);
        }
        if let Err(error) = self.blob.write_all_at(&piece.data, piece.offset) {
            return Err(write_error(&self.blob_path, piece.data.len() as u64, error));
        }
        self.write_pairs(&piece.proofs)?;
        self.note_written(piece.offset, end);
        Ok(())
    }

    /// Makes the payload durable, then visible: when this returns, a crash no longer loses it.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if bytes are missing, [`StoreError::DiskFull`] or [`StoreError::Io`] if the disk
    /// fails. Nothing is kept then.
    pub fn commit(mut self) -> Result<Held, StoreError> {
        let written_bytes = self.written_bytes();
        if written_bytes != self.length {
            return Err(StoreError::Incomplete { written_bytes, length: self.length });
        }
        self.blob.sync_all().map_err(|e| write_error(&self.blob_path, 0, e))?;
        if let Some(outboard) = &self.outboard {
            outboard.sync_all().map_err(|e| write_error(&self.outboard_path, 0, e))?;
        }
        let blob = self.store.file(&self.token, BLOB);
        let outboard = self.store.file(&self.token, OUTBOARD);
        let directory = blob.parent().unwrap_or(Path::new("."));
        make_directory(directory)?;
        let replaces = {
            let _one = self.store.change();
            let replaces = blob.exists();
            if self.outboard.is_some() {
                rename(&self.outboard_path, &outboard)?;
            }
            // The commit point.
            rename(&self.blob_path, &blob)?;
            // The same bytes were held already: their room is counted.
            if !replaces {
                self.reserved.bytes = 0;
            }
            replaces
        };
        if let Err(error) = sync_directory(directory) {
            // Not known to be durable, so not kept.
            if !replaces {
                remove_if_there(&blob)?;
                remove_if_there(&outboard)?;
                self.reserved.bytes = self.length + outboard_bytes(self.length);
            }
            return Err(error);
        }
        let missing = || StoreError::io("open", &blob, io::ErrorKind::NotFound.into());
        self.store.get(&self.token)?.ok_or_else(missing)
    }

    /// Writes hash pairs, neighbours at once.
    fn write_pairs(&mut self, proofs: &[Proof]) -> Result<(), StoreError> {
        let Some(outboard) = &self.outboard else { return Ok(()) };
        for run in proofs.chunk_by(|a, b| a.index.checked_add(1) == Some(b.index)) {
            let Some(first) = run.first() else { continue };
            self.pairs.clear();
            run.iter().for_each(|proof| self.pairs.extend_from_slice(&proof.pair));
            if let Err(error) = outboard.write_all_at(&self.pairs, first.index * PAIR_BYTES as u64) {
                return Err(write_error(&self.outboard_path, self.pairs.len() as u64, error));
            }
        }
        Ok(())
    }

    /// Adds `start..end` to what was written. Pieces that come in order stay one run.
    fn note_written(&mut self, mut start: u64, mut end: u64) {
        while let Some((&run_start, &run_end)) = self.written.range(..=end).next_back()
            && run_end >= start
        {
            self.written.remove(&run_start);
            start = start.min(run_start);
            end = end.max(run_end);
        }
        if start < end {
            self.written.insert(start, end);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After a commit there is nothing under these names. What cannot be removed goes when the store is next opened.
        let _ = fs::remove_file(&self.blob_path);
        if self.outboard.is_some() {
            let _ = fs::remove_file(&self.outboard_path);
        }
    }
}

fn create(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    opened.map_err(|error| write_error(path, 0, error))
}

/// Takes `len` bytes of disk, so that a full disk shows before anything is sent. Where the file system cannot, the file
/// has holes and a full disk shows when they are filled.
fn allocate(file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
    if len == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len).map_err(|e| write_error(path, len, e)),
        Err(error) => Err(write_error(path, len, error.into())),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| write_error(to, 0, error))
}

/// Makes the directory, durably, if it is not there.
fn make_directory(directory: &Path) -> Result<(), StoreError> {
    match fs::create_dir(directory) {
        Ok(()) => sync_directory(directory.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(write_error(directory, 0, error)),
    }
}

fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|e| StoreError::io("sync", directory, e))
}

/// Says disk full and read-only in their own words.
fn write_error(path: &Path, needed_bytes: u64, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            let directory = path.parent().unwrap_or(path);
            let available =
                rustix::fs::statvfs(directory).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
            StoreError::DiskFull {
                path: directory.to_owned(),
                needed_bytes,
                available_bytes: available.unwrap_or_default(),
            }
        }
        kind @ (io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            StoreError::ReadOnly { path: path.to_owned(), kind }
        }
        _ => StoreError::io("write", path, error),
    }
}

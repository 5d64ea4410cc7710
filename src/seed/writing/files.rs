//! A blob and its outboard while they are written into the store, under temporary names.

use super::direct::DirectFile;
use crate::limits::{ALLOCATION_STEP_BYTES, DIRECT_WRITE_BYTES_MIN};
use crate::seed::disk::{StoreDisk, write_error};
use crate::seed::error::StoreError;
use crate::seed::layout::{BLOB, OUTBOARD};
use crate::seed::written::Later;
use crate::token::{PAIR_BYTES, Proof, Selection, VerifiedPiece, outboard_bytes};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Two files that take verified pieces in any order. They are made with the first piece, take blocks of the disk as they are written or some steps
/// ahead, and are as long as they must be once they are synced.
/// Dropping them removes these names; files that were placed have others.
#[derive(Debug)]
pub(super) struct NewFiles {
    disk: StoreDisk,
    length: u64,
    selection: Selection,
    selected_bytes: u64,
    pub(super) blob_path: PathBuf,
    pub(super) outboard_path: PathBuf,
    /// Absent before the first piece.
    pub(super) blob: Option<File>,
    /// Absent before the first piece, and if the payload is one group.
    pub(super) outboard: Option<File>,
    /// The blob as it is written past the page cache. Absent before a first piece that may be, and without such writes.
    direct: Option<Box<DirectFile>>,
    /// Whether the blob was looked at for them.
    is_direct_known: bool,
    written_bytes: u64,
    /// The blob has blocks for its bytes before this one.
    allocated: u64,
    /// The bytes before this one are on their way to the disk.
    written_back: u64,
    /// The bytes written, as runs `start -> end` that do not touch. Only selected bytes count: pieces that
    /// arrive in order then stay one run, however many shards lie between them.
    written: BTreeMap<u64, u64>,
    /// Neighboring hash pairs, for one write.
    pairs: Vec<u8>,
    /// All pairs, if they become a row in place of a file.
    row: Option<Vec<u8>>,
}

impl NewFiles {
    /// Files under the name `temporary` for a selection of a blob of `length` bytes, at most [`crate::limits::PAYLOAD_BYTES_MAX`]. They are not
    /// made yet.
    pub(super) fn new(
        disk: &StoreDisk,
        temporary: &Path,
        length: u64,
        selection: Selection,
        selected_bytes: u64,
    ) -> Self {
        Self {
            disk: disk.clone(),
            length,
            selection,
            selected_bytes,
            blob_path: temporary.with_added_extension(BLOB),
            outboard_path: temporary.with_added_extension(OUTBOARD),
            blob: None,
            outboard: None,
            direct: None,
            is_direct_known: false,
            written_bytes: 0,
            allocated: 0,
            written_back: 0,
            written: BTreeMap::new(),
            pairs: Vec::new(),
            row: None,
        }
    }

    /// Keeps the hash pairs in memory, and makes no file of them.
    pub(super) fn with_pairs_in_memory(mut self) -> Self {
        self.row = Some(Vec::new());
        self
    }

    /// The pairs of [`NewFiles::with_pairs_in_memory`].
    pub(super) fn take_pairs(&mut self) -> Option<Vec<u8>> {
        self.row.take()
    }

    /// Makes the files, unless they are there.
    fn open(&mut self) -> Result<(), StoreError> {
        if self.blob.is_none() {
            self.blob = Some(self.disk.create(&self.blob_path)?);
        }
        let outboard_len = outboard_bytes(self.length);
        if let Some(row) = &mut self.row {
            row.resize(outboard_len as usize, 0);
        } else if outboard_len > 0 && self.outboard.is_none() {
            self.outboard = Some(self.disk.create(&self.outboard_path)?);
        }
        Ok(())
    }

    /// Whether it is long, and without holes.
    fn is_stepped(&self) -> bool {
        self.selected_bytes == self.length && self.length >= ALLOCATION_STEP_BYTES
    }

    /// Has the steps that are written without a gap go to the disk: the sync at the end then waits for little.
    fn begin_write_back(&mut self) {
        let whole =
            self.written.first_key_value().filter(|(start, _)| **start == 0).map_or(0, |(_, end)| *end);
        let to = whole - whole % ALLOCATION_STEP_BYTES;
        if self.is_stepped()
            && self.direct.is_none()
            && to > self.written_back
            && let Some(blob) = &self.blob
        {
            // What it does not begin, the sync writes.
            let _ = self.disk.0.begin_write_back(blob, self.written_back, to - self.written_back);
            self.written_back = to;
        }
    }

    /// Has the blob take blocks for bytes that adjoin those that have some, and for some behind them: no more than the room that was taken for
    /// them. Lanes have holes between them, and what arrives far ahead takes its own blocks.
    fn allocate(&mut self, start: u64, end: u64) -> Result<(), StoreError> {
        if !self.is_stepped() || start > self.allocated || end <= self.allocated {
            return Ok(());
        }
        let to = end.next_multiple_of(ALLOCATION_STEP_BYTES).min(self.length);
        let len = to - self.allocated;
        if let Some(blob) = &self.blob {
            let allocated = self.disk.allocate(blob, self.allocated, len);
            allocated.map_err(|e| write_error(&self.blob_path, len, e))?;
        }
        self.allocated = to;
        Ok(())
    }

    /// Selected bytes written so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Begins to write the pieces that wait for others.
    pub(super) fn flush(&mut self) {
        if let Some(direct) = &mut self.direct {
            direct.flush();
        }
    }

    /// The first bytes of a piece that are written later: whole pages of a long payload.
    fn later_bytes(&mut self, piece: &VerifiedPiece) -> usize {
        let whole = DirectFile::whole_pages(piece.offset, &piece.data);
        let is_long = self.is_stepped() && self.length >= DIRECT_WRITE_BYTES_MIN;
        if whole > 0 && is_long && !std::mem::replace(&mut self.is_direct_known, true) {
            let (disk, path, length) = (&self.disk, &self.blob_path, self.length);
            self.direct = self.blob.as_ref().and_then(|blob| DirectFile::open(disk, path, blob, length));
        }
        if self.direct.is_some() { whole } else { 0 }
    }

    /// Writes a piece and its hash pairs; or begins to, and takes what is told after that.
    pub(super) fn write(
        &mut self,
        piece: &VerifiedPiece,
        later: Option<&mut Later<'_>>,
    ) -> Result<(), StoreError> {
        let foreign = StoreError::Foreign { offset: piece.offset, length: self.length };
        let len = piece.data.len() as u64;
        let end = piece.offset.checked_add(len).filter(|&end| end <= self.length);
        let Some(end) = end else { return Err(foreign) };
        // The selected bytes before an offset are those of a blob that ends there.
        let (Ok(from), Ok(to)) =
            (self.selection.selected_bytes(piece.offset), self.selection.selected_bytes(end))
        else {
            return Err(foreign);
        };
        let pairs_len = outboard_bytes(self.length) / PAIR_BYTES as u64;
        if to - from != len || piece.proofs.iter().any(|proof| proof.index >= pairs_len) {
            return Err(foreign);
        }
        self.open()?;
        self.allocate(piece.offset, end)?;
        let failed = |path: &Path, error| write_error(path, len, error);
        let mut whole = 0;
        if let Some(later) = later {
            whole = self.later_bytes(piece);
            if let Some(direct) = self.direct.as_mut().filter(|_| whole > 0) {
                let written = direct.write(piece.offset, piece.data.slice(..whole), later);
                written.map_err(|e| failed(&self.blob_path, e))?;
            }
        }
        if let Some(blob) = self.blob.as_ref().filter(|_| whole < piece.data.len()) {
            let written = self.disk.0.write(blob, &piece.data[whole..], piece.offset + whole as u64);
            written.map_err(|e| failed(&self.blob_path, e))?;
        }
        self.write_pairs(&piece.proofs)?;
        self.note_written(from, to);
        self.begin_write_back();
        Ok(())
    }

    /// Makes the bytes written durable, but not their names.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if selected bytes are missing; an error of the disk.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.check_complete()?;
        self.open()?;
        if let Some(direct) = &mut self.direct {
            direct.finish().map_err(|e| write_error(&self.blob_path, self.length, e))?;
        }
        let (blob, outboard) = ((&self.blob, &self.blob_path), (&self.outboard, &self.outboard_path));
        for ((file, path), length) in [(blob, self.length), (outboard, outboard_bytes(self.length))] {
            if let Some(file) = file {
                // What the file system allocated behind the end goes, and a hole at the end of lanes comes.
                self.disk.0.set_length(file, length).map_err(|e| write_error(path, 0, e))?;
                self.disk.0.sync(file).map_err(|e| write_error(path, 0, e))?;
            }
        }
        Ok(())
    }

    /// Keeps the files when this is dropped; returns their names.
    pub(super) fn leave(&mut self) -> Vec<PathBuf> {
        let blob = self.blob.take().map(|_| self.blob_path.clone());
        let outboard = self.outboard.take().map(|_| self.outboard_path.clone());
        blob.into_iter().chain(outboard).collect()
    }

    pub(super) fn check_complete(&self) -> Result<(), StoreError> {
        let (written_bytes, length) = (self.written_bytes(), self.selected_bytes);
        if written_bytes == length { Ok(()) } else { Err(StoreError::Incomplete { written_bytes, length }) }
    }

    /// Writes hash pairs, neighboring ones at once.
    fn write_pairs(&mut self, proofs: &[Proof]) -> Result<(), StoreError> {
        if let Some(row) = &mut self.row {
            let (places, _) = row.as_chunks_mut::<PAIR_BYTES>();
            for proof in proofs {
                if let Some(place) = places.get_mut(proof.index as usize) {
                    *place = proof.pair;
                }
            }
            return Ok(());
        }
        let Some(outboard) = &self.outboard else { return Ok(()) };
        for run in proofs.chunk_by(|a, b| a.index.checked_add(1) == Some(b.index)) {
            let Some(first) = run.first() else { continue };
            self.pairs.clear();
            run.iter().for_each(|proof| self.pairs.extend_from_slice(&proof.pair));
            let written = self.disk.0.write(outboard, &self.pairs, first.index * PAIR_BYTES as u64);
            written.map_err(|e| write_error(&self.outboard_path, self.pairs.len() as u64, e))?;
        }
        Ok(())
    }

    /// Adds `start..end` to the bytes written. Pieces that arrive in order stay one run.
    fn note_written(&mut self, mut start: u64, mut end: u64) {
        while let Some((&run_start, &run_end)) = self.written.range(..=end).next_back()
            && run_end >= start
        {
            self.written.remove(&run_start);
            self.written_bytes -= run_end - run_start;
            start = start.min(run_start);
            end = end.max(run_end);
        }
        if start < end {
            self.written.insert(start, end);
            self.written_bytes += end - start;
        }
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        // A file that cannot be removed is removed when the store is next opened.
        if self.blob.is_some() {
            let _ = self.disk.0.remove(&self.blob_path);
        }
        if self.outboard.is_some() {
            let _ = self.disk.0.remove(&self.outboard_path);
        }
    }
}

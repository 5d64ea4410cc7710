//! The journal of a store: files to which commits are appended, each in one piece and with one sync, before the database takes many of them over.
//!
//! ```text
//! <dir>/store.journal.0, store.journal.1   a head of a block with the key of the database, then batches, each at a block
//! ```
//!
//! The batches have numbers without gaps, and the database notes the last that it has. While it takes those of one file over, commits go on into
//! the other. A file is written over from its start once all of it was taken, so behind its batches are older ones, and these do not count.
//! What a crash tears is the last batch, which was never confirmed.

use super::batch::{BatchHead, HEAD_BYTES, JournalKey};
use super::table::Changes;
use crate::limits::{JOURNAL_BLOCK_BYTES, STORE_JOURNAL_STEP_BYTES};
use crate::seed::disk::{StoreDisk, write_error};
use crate::seed::error::StoreError;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The names of the files.
const FILES: [&str; 2] = ["store.journal.0", "store.journal.1"];
const MAGIC: &[u8; 8] = b"STOQjrnl";
/// The version of the files.
const VERSION: u32 = 1;
/// A file's head: magic, version, key, and a check of these.
const KEY_AT: usize = 12;
const CHECK_AT: usize = 44;
const FILE_HEAD_BYTES: usize = 52;
/// What a file grows by. It takes no memory: nothing writes it.
static ZEROS: [u8; STORE_JOURNAL_STEP_BYTES as usize] = [0; STORE_JOURNAL_STEP_BYTES as usize];

/// What a database knows of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalNote {
    pub(super) key: JournalKey,
    /// The number of the last batch that the database has.
    pub(super) taken: u64,
    /// Whether files of a journal may have more.
    pub(super) is_open: bool,
}

impl JournalNote {
    const BYTES: usize = 41;

    /// That of a new database.
    pub(super) fn new() -> Self {
        Self { key: rand::random(), taken: 0, is_open: false }
    }

    pub(super) fn emit(&self) -> [u8; Self::BYTES] {
        let mut row = [0; Self::BYTES];
        row[..32].copy_from_slice(&self.key);
        row[32..40].copy_from_slice(&self.taken.to_be_bytes());
        row[40] = self.is_open.into();
        row
    }

    pub(super) fn parse(row: &[u8]) -> Option<Self> {
        let row: &[u8; Self::BYTES] = row.try_into().ok()?;
        let taken = u64::from_be_bytes(*row[32..].first_chunk()?);
        Some(Self { key: *row.first_chunk()?, taken, is_open: row[40] != 0 })
    }
}

/// The paths of the files in a store's directory.
pub(super) fn paths(dir: &Path) -> [PathBuf; 2] {
    FILES.map(|name| dir.join(name))
}

fn refused(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::Journal { path: path.to_owned(), reason: reason.into() }
}

/// The batches that a journal has and its database has not.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// All their changes.
    pub(super) changes: Changes,
    /// The number of the last one, or of the last that the database has.
    pub(super) sequence: u64,
    /// A file that should be there.
    pub(super) missing: Option<PathBuf>,
}

/// Reads the journal of the store in `dir`. With a `disk` it makes durable what it found: a process that ended may have left it in memory alone.
///
/// # Errors
/// [`StoreError::Journal`] if a file is damaged, of another database or of a later version, [`StoreError::Io`] if it cannot be read.
pub(super) fn replay(dir: &Path, note: &JournalNote, disk: Option<&StoreDisk>) -> Result<Replay, StoreError> {
    let mut found = BTreeMap::new();
    let mut missing = None;
    for path in paths(dir) {
        let file = match (disk, &path) {
            (Some(disk), path) => disk.0.open_to_change(path),
            (None, path) => File::open(path),
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing = missing.or(note.is_open.then_some(path));
                continue;
            }
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        check_head(&file, &path, &note.key)?;
        let before = found.len();
        scan(&file, note, |sequence, rows| drop(found.insert(sequence, (rows, path.clone()))))
            .map_err(|error| StoreError::io("read", &path, error))?;
        if let Some(disk) = disk
            && found.len() > before
        {
            disk.0.sync_data(&file).map_err(|error| StoreError::io("sync", &path, error))?;
        }
    }
    let mut replay = Replay { changes: Changes::default(), sequence: note.taken, missing };
    for (sequence, (rows, path)) in found {
        let lost = replay.sequence + 1;
        if sequence != lost {
            return Err(refused(
                &path,
                format!("its batch {lost} is damaged or gone, and batch {sequence} is there"),
            ));
        }
        replay.changes.absorb(rows);
        replay.sequence = sequence;
    }
    Ok(replay)
}

fn check_head(file: &File, path: &Path, key: &JournalKey) -> Result<(), StoreError> {
    let mut head = [0; FILE_HEAD_BYTES];
    file.read_exact_at(&mut head, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => refused(path, "its head is cut off"),
        _ => StoreError::io("read", path, error),
    })?;
    let version = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if &head[..8] != MAGIC {
        return Err(refused(path, "its head is damaged"));
    }
    if version > VERSION {
        return Err(refused(
            path,
            format!(
                "it has the version {version}, and this version of STOQ knows {VERSION} and leaves it as it is"
            ),
        ));
    }
    if head != file_head(head[KEY_AT..CHECK_AT].first_chunk().unwrap_or(&[0; 32])) {
        return Err(refused(path, "its head is damaged"));
    }
    if head[KEY_AT..CHECK_AT] != key[..] {
        return Err(refused(path, "it is the journal of another database"));
    }
    Ok(())
}

fn file_head(key: &JournalKey) -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..KEY_AT].copy_from_slice(&VERSION.to_be_bytes());
    head[KEY_AT..CHECK_AT].copy_from_slice(key);
    let check = blake3::hash(&head[..CHECK_AT]);
    head[CHECK_AT..].copy_from_slice(&check.as_bytes()[..FILE_HEAD_BYTES - CHECK_AT]);
    head
}

/// Calls `found` with each whole batch that the database does not have.
fn scan(file: &File, note: &JournalNote, mut found: impl FnMut(u64, Changes)) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut at = JOURNAL_BLOCK_BYTES;
    while at + HEAD_BYTES as u64 <= length {
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, at)?;
        let whole = BatchHead::parse(&head, &note.key)
            .filter(|head| head.length <= length - at - HEAD_BYTES as u64)
            .map(|head| {
                let mut rows = vec![0; head.length as usize];
                file.read_exact_at(&mut rows, at + HEAD_BYTES as u64)?;
                io::Result::Ok(head.rows(&rows, &note.key).map(|rows| (head, rows)))
            })
            .transpose()?
            .flatten();
        match whole {
            Some((head, rows)) => {
                if head.sequence > note.taken {
                    found(head.sequence, rows);
                }
                at += head.taken_bytes();
            }
            None => at += JOURNAL_BLOCK_BYTES,
        }
    }
    Ok(())
}

/// The files of a journal, open, and the next place in them.
#[derive(Clone, Debug)]
pub(super) struct JournalFiles {
    files: Arc<[File; 2]>,
    lengths: [u64; 2],
    /// The file that is written.
    number: usize,
    /// Where the next batch begins.
    at: u64,
}

impl JournalFiles {
    /// Opens the files, and makes those that are missing. What is in them stays: it may not be taken over yet.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(dir: &Path, disk: &StoreDisk, key: &JournalKey) -> Result<Self, StoreError> {
        let [first, second] = paths(dir);
        let files = Arc::new([open_file(dir, &first, disk, key)?, open_file(dir, &second, disk, key)?]);
        disk.sync_directory(dir)?;
        let length = |file: &File| file.metadata().map(|of| of.len());
        let lengths = [length(&files[0]), length(&files[1])];
        let [first, second] =
            lengths.map(|length| length.map_err(|error| StoreError::io("look at", dir, error)));
        Ok(Self { files, lengths: [first?, second?], number: 0, at: JOURNAL_BLOCK_BYTES })
    }

    /// Bytes of batches in the file that is written.
    pub(super) fn used_bytes(&self) -> u64 {
        self.at - JOURNAL_BLOCK_BYTES
    }

    /// The same, to go on in the other file, whose batches were all taken over.
    pub(super) fn turned(self) -> Self {
        Self { number: 1 - self.number, at: JOURNAL_BLOCK_BYTES, ..self }
    }

    /// Appends a batch durably.
    ///
    /// # Errors
    /// The disk's: nothing may be appended to this journal then before the database has all of it.
    pub(super) fn append(&mut self, disk: &StoreDisk, batch: &[u8]) -> io::Result<()> {
        let (file, length) = (&self.files[self.number], &mut self.lengths[self.number]);
        let end = self.at + batch.len() as u64;
        disk.0.write(file, batch, self.at)?;
        if end > *length {
            // Blocks that were written once need no change of the file's metadata when they are written again.
            let grown = end.next_multiple_of(STORE_JOURNAL_STEP_BYTES);
            disk.0.write(file, &ZEROS[..(grown - end) as usize], end)?;
            *length = grown;
        }
        disk.0.sync_data(file)?;
        self.at = end;
        Ok(())
    }
}

/// A new file has its name once it is whole.
fn open_file(dir: &Path, path: &Path, disk: &StoreDisk, key: &JournalKey) -> Result<File, StoreError> {
    match disk.0.open_to_change(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(write_error(path, 0, error)),
    }
    let new = dir.join("tmp").join(path.file_name().unwrap_or_default());
    disk.remove_if_there(&new)?;
    let file = disk.create(&new)?;
    let mut block = vec![0; JOURNAL_BLOCK_BYTES as usize];
    block[..FILE_HEAD_BYTES].copy_from_slice(&file_head(key));
    let written = disk.0.write(&file, &block, 0).and_then(|()| disk.0.sync(&file));
    written.map_err(|error| write_error(&new, JOURNAL_BLOCK_BYTES, error))?;
    disk.rename(&new, path)?;
    Ok(file)
}

//! A file that is being filled, under a temporary name beside its output.
//!
//! It is called `FILE.part`, and `FILE.part.json` names its payload. If such a name is too long, the beginning of the name and
//! its hash replace it. The rules:
//!
//! - It is made exclusively, opened through no symbolic link, and locked while it is written. A second get of one output is
//!   refused.
//! - An existing one is taken only if its note names the same token, or if it is empty. Any other file
//!   belongs to another program: it is refused by name and left as it is.
//! - It gets its name only after it was read back and hashed, and it replaces nothing.
//! - If it is dropped before, it is removed, unless it is to be kept.

mod error;
mod note;
mod place;

use crate::client::ClientError;
use crate::limits::{PART_READ_BYTES, PART_TRIES_MAX};
use crate::token::{AnyToken, Token};
pub(crate) use error::{file_error, refused};
use note::{FoundNote, Note};
pub(crate) use place::OutputPlace;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::Errno;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The order in which the bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOrder {
    /// Rising: the part's length is the progress, and a later get continues there.
    Rising,
    /// Any: a later get begins anew.
    Any,
}

/// A part: the file that is being filled.
#[derive(Debug)]
pub(crate) struct PartFile {
    place: OutputPlace,
    file: File,
    token: AnyToken,
    order: WriteOrder,
    /// Whether the note is of this payload.
    note_is_mine: bool,
    /// Whether the bytes of an earlier get count: its note names this payload, and they arrived in rising order.
    continues: bool,
    keep: bool,
    over: bool,
}

impl PartFile {
    /// Makes the part of `output`, or takes the one that an earlier get of `token` left. Its bytes count only
    /// if they arrived in rising order; otherwise they are dropped.
    ///
    /// [`ClientError::File`], with the fix: `output` exists, its directory cannot be written, another get writes the part, or a file
    /// with the part's name belongs to another program.
    pub(crate) fn open(output: &Path, token: AnyToken, order: WriteOrder) -> Result<Self, ClientError> {
        Self::at(OutputPlace::of(output)?, token, order)
    }

    /// Like [`Self::open`], for an output whose directory is open.
    pub(crate) fn at(place: OutputPlace, token: AnyToken, order: WriteOrder) -> Result<Self, ClientError> {
        place.check_vacant()?;
        for _ in 0..PART_TRIES_MAX {
            if let Some((file, made)) = take(&place)? {
                let (note_is_mine, continues, over) = (false, false, false);
                let mut part = Self { place, file, token, order, note_is_mine, continues, keep: !made, over };
                // A get that ended meanwhile gave its part the name.
                part.place.check_vacant()?;
                part.recognize()?;
                return Ok(part);
            }
        }
        let text = "other gets of this output begin and end all the time; give another --output";
        Err(refused(&place.path(&place.part), text))
    }

    /// Checks that the existing file belongs to this get. Only then is anything changed.
    fn recognize(&mut self) -> Result<(), ClientError> {
        let (part, note) = (self.path(), self.place.path(&self.place.note));
        let len = fstat(&self.file).map_err(|error| refused(&part, error.to_string()))?.st_size;
        let found = match Note::find(&self.place) {
            FoundNote::Note(found) if found.token() == Some(self.token) => {
                if self.order == WriteOrder::Rising && !found.gathered {
                    (self.note_is_mine, self.continues, self.keep) = (true, true, len > 0);
                    return Ok(());
                }
                if found.gathered || len == 0 {
                    // It has holes, and only the get that made it knew their places.
                    self.file.set_len(0).map_err(|error| self.failed(error))?;
                    (self.note_is_mine, self.keep) = (true, false);
                    return Ok(());
                }
                FoundNote::Note(found)
            }
            // An empty part was left before any byte arrived, or by a crash: truncating it loses nothing.
            FoundNote::Nothing | FoundNote::Empty | FoundNote::Note(_) if len == 0 => return Ok(()),
            found => found,
        };
        let text = match found {
            FoundNote::Foreign(what) if len == 0 => {
                let text = format!(
                    "its name is needed for the note of a part, and it is none ({what}); move it, or give another --output"
                );
                return Err(refused(&note, text));
            }
            FoundNote::Note(found) => format!(
                "an earlier get left it: `stoq get {} -o {}` continues it; otherwise remove it, or give another --output",
                found.token().unwrap_or(self.token),
                self.place.output.display()
            ),
            FoundNote::Foreign(what) => format!(
                "it is no part that a get can continue: {} is no note of one ({what}); move or remove both, or give another --output",
                note.display()
            ),
            FoundNote::Nothing | FoundNote::Empty => format!(
                "it is no part that a get can continue: {} does not name its payload; move or remove it, or give another --output",
                note.display()
            ),
        };
        Err(refused(&part, text))
    }

    /// The part's path.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.path(&self.place.part)
    }

    /// The file, open for reading and writing.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the part's bytes are of an earlier get of this payload.
    pub(crate) fn continues(&self) -> bool {
        self.continues
    }

    /// Notes the payload. The part must be empty.
    ///
    /// # Errors
    /// An error of the disk; the path is the note's.
    pub(crate) fn note(&mut self) -> Result<(), ClientError> {
        let (note, path) = (Note::new(self.token, self.order == WriteOrder::Any), &self.place.note);
        note.write(&self.place).map_err(|error| with_mend(&self.place.path(path), error, self.keep))?;
        self.note_is_mine = true;
        Ok(())
    }

    /// Sets whether the part stays for a later get.
    pub(crate) fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// The error of a write into the part, with the fix.
    pub(crate) fn failed(&self, error: io::Error) -> ClientError {
        with_mend(&self.path(), error, self.keep)
    }

    /// Reads the part back and hashes it; returns whether it is the payload of `token`. `progress` gets the bytes read.
    /// Dropping the future ends the check.
    ///
    /// The bytes were checked before they were written. But other processes can write into the file, a crash may have damaged a
    /// resumed part, and disks err. Only reading back checks the file that gets the name.
    ///
    /// # Errors
    /// An error of the disk.
    pub(crate) async fn holds(&self, token: Token, mut progress: impl FnMut(u64)) -> io::Result<bool> {
        let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; PART_READ_BYTES], 0);
        loop {
            match self.file.read_at(&mut buffer, at) {
                Ok(0) => return Ok(Token::from_root(*hasher.finalize().as_bytes()) == token),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                    progress(at);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Signals are handled between two polls.
            tokio::task::yield_now().await;
        }
    }

    /// Makes the part durable and gives it the output's name.
    ///
    /// # Errors
    /// [`ClientError::File`], with the fix: the name was taken meanwhile (that file is not replaced, and the part stays under the path
    /// in the error), the part was moved or removed, or the disk failed.
    pub(crate) fn give_name(mut self) -> Result<(), ClientError> {
        let part = self.path();
        self.keep = true;
        if let Err(error) = self.file.sync_all() {
            // The kernel may drop pages that it could not write, and serve them from memory until then. A later read would not
            // show the loss.
            return Err(self.discard(&format!("the disk did not take it ({error})")));
        }
        if !self.is_there() {
            self.over = true;
            let text = "it was moved, replaced or removed while it was written; run the same command again";
            return Err(refused(&part, text));
        }
        match self.place.give_name() {
            Ok(()) => {
                self.over = true;
                self.place.sync();
                // A note without a part is replaced by the next get.
                let _ = self.place.remove(&self.place.note);
                Ok(())
            }
            Err(error) => {
                let what = if error == Errno::EXIST {
                    place::TAKEN.to_owned()
                } else {
                    format!("the payload cannot get this name: {error}")
                };
                // The part is complete: no later get may take it for an incomplete one.
                let _ = self.place.remove(&self.place.note);
                let text = format!(
                    "{what}; every byte is there and checked, as {}: move it from there",
                    part.display()
                );
                Err(refused(&self.place.output, text))
            }
        }
    }

    /// Removes the part and its note: it is not the payload, for the reason `why`. Returns the error that says so.
    pub(crate) fn discard(mut self, why: &str) -> ClientError {
        self.over = true;
        let text = match self.remove() {
            Ok(()) => format!("{why}; it has been removed: run the same command again"),
            Err(error) => format!(
                "{why}, and it cannot be removed ({error}): remove it, and run the same command again"
            ),
        };
        refused(&self.path(), text)
    }

    fn remove(&self) -> io::Result<()> {
        // The name may belong to another program's file by now.
        if self.is_there() {
            self.place.remove(&self.place.part)?;
            if self.note_is_mine {
                self.place.remove(&self.place.note)?;
            }
        }
        Ok(())
    }

    fn is_there(&self) -> bool {
        is_at(&self.place, &self.file).unwrap_or(false)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.over && !self.keep {
            let _ = self.remove();
        }
    }
}

/// Makes the part, or opens an existing one, and locks it. Returns the file, and whether it was made; `None` if the file was
/// removed meanwhile.
fn take(place: &OutputPlace) -> Result<Option<(File, bool)>, ClientError> {
    let path = place.path(&place.part);
    let failed = |error: Errno| refused(&path, cannot_make(error));
    let (file, made) = match place.create(&place.part) {
        Ok(file) => (file, true),
        Err(Errno::EXIST) => {
            let Some(stat) = place.stat(&place.part).map_err(failed)? else { return Ok(None) };
            check_ours(place, &path, &stat)?;
            match place.open(&place.part, OFlags::RDWR) {
                Ok(file) => (file, false),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let text = "another get is writing it: wait until it ends, or give another --output";
            return Err(refused(&path, text));
        }
        // A file system without locks: two gets of one output notice each other when they read their files back.
        Err(TryLockError::Error(error)) if has_no_locks(&error) => {}
        Err(TryLockError::Error(error)) => return Err(file_error(&path, error)),
    }
    // The previous owner of the lock may have renamed or removed the file.
    if !is_at(place, &file).map_err(failed)? {
        return Ok(None);
    }
    let stat = fstat(&file).map_err(failed)?;
    check_ours(place, &path, &stat)?;
    Ok(Some((file, made)))
}

/// Refuses a file that no get of this user made.
fn check_ours(place: &OutputPlace, path: &Path, stat: &Stat) -> Result<(), ClientError> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let what = match kind {
        FileType::RegularFile if stat.st_nlink > 1 => "has a second name, whose content would change with it",
        FileType::RegularFile if place.is_shared() && stat.st_uid != rustix::process::geteuid().as_raw() => {
            "belongs to another user"
        }
        FileType::RegularFile => return Ok(()),
        FileType::Symlink => "is a symbolic link",
        FileType::Directory => "is a directory",
        _ => "is a device, a pipe or a socket",
    };
    // Nothing but a file is to be moved: a device, a link or a directory may belong to the system.
    let text = match kind {
        FileType::RegularFile => {
            format!(
                "{what}, and its name is needed while the payload is fetched; move it, or give another --output"
            )
        }
        _ => format!("{what}, and a get needs its name; give another --output"),
    };
    Err(refused(path, text))
}

/// Whether the part's name belongs to this open file.
fn is_at(place: &OutputPlace, file: &File) -> Result<bool, Errno> {
    let (named, opened) = (place.stat(&place.part)?, fstat(file)?);
    Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)))
}

/// The reason for discarding a part that was written and read back here.
pub(crate) const NOT_AS_WRITTEN: &str =
    "it does not hold the bytes written into it: another process wrote there too, or the disk errs";

/// The fix of a full disk.
const MAKE_ROOM: &str = "make room, or give another --output";

fn cannot_make(error: Errno) -> String {
    let what = match error {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => "give an --output in a directory that you may write to",
        Errno::NOSPC | Errno::DQUOT => MAKE_ROOM,
        Errno::NAMETOOLONG => "give a shorter --output",
        _ => "give another --output",
    };
    format!("{error}; {what}")
}

fn has_no_locks(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK))
}

/// The error of a write, with the fix if the disk is full.
fn with_mend(path: &Path, error: io::Error, kept: bool) -> ClientError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let mend = match kept {
        _ if !full => return file_error(path, error),
        true => "the part is kept: make room, and run the same command again",
        false => MAKE_ROOM,
    };
    file_error(path, io::Error::new(error.kind(), format!("{error}; {mend}")))
}

//! The inputs of a payload: files, pipes, devices, standard input, any reader.
//!
//! The size that the system reports for a file is only a claim: files under /proc have the size 0, those under /sys the size of a page,
//! and a pipe has none. Every input is therefore read to its end, and a claim is compared with that end.

use super::{ClientError, InputError};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::token::{OutboardError, Token};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, Stat, fcntl_getfl, fstat, major, minor};
use std::fmt;
use std::fs::{File, FileType, Metadata};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes read at a time while an input is hashed or copied.
pub(super) const WINDOW_BYTES: usize = 1 << 18;

/// Names of standard input in the file system. To open one of them anew fails for a socket, and hides that the descriptor was closed.
const STANDARD_INPUTS: [&str; 3] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// The coarsest step of a file's time of modification on file systems in use (FAT: two seconds). Two writes within one step leave the
/// same time.
const TIME_STEP: Duration = Duration::from_secs(2);

/// A source of a payload's bytes.
///
/// ```
/// use stoq::client::{Input, PrepareOptions, Prepared};
///
// For example a pipe: its length is not known until it has been read.
/// let input = Input::reader("a reader", &b"hello"[..]);
/// let payload = input.prepare(&PrepareOptions::default())?;
/// assert_eq!((payload.length, payload.token), (5, Prepared::bytes("hello").token));
/// # Ok::<_, stoq::client::ClientError>(())
/// ```
pub struct Input {
    pub(super) name: String,
    pub(super) from: From,
}

pub(super) enum From {
    /// A file that claims this length, read in place.
    File { file: File, length: u64, watch: FileStamp },
    /// A FIFO, opened when it is read: the opening waits for a writer.
    Fifo(PathBuf),
    /// A stream, read once, to its end.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Input {
    /// Opens the input that `path` names: a file, a block device, a FIFO, a terminal, or the target of a descriptor under /dev/fd. Does not
    /// wait for a FIFO's writer; reading the input does.
    ///
    /// # Errors
    /// [`ClientError::Input`] for an input that has no end or is no file; [`ClientError::File`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        if STANDARD_INPUTS.iter().any(|name| path == Path::new(name)) {
            return Self::stdin();
        }
        let name = path.display().to_string();
        let failed = |source| ClientError::File { path: name.clone(), source };
        // The kind is checked before the file is opened: opening a device may have an effect, and opening a FIFO waits.
        let known = path.metadata().map_err(failed)?;
        let refused = |error| Err(ClientError::Input { path: name.clone(), error });
        match known.file_type() {
            kind if kind.is_dir() => return refused(InputError::Directory),
            kind if kind.is_socket() => return refused(InputError::Socket),
            kind if kind.is_char_device() && !is_null(&known) && !is_terminal(&known) => {
                return refused(InputError::CharacterDevice);
            }
            kind if kind.is_fifo() => return Ok(Self { name, from: From::Fifo(path.into()) }),
            _ => {}
        }
        let file = File::open(path).map_err(failed)?;
        Self::of(name, file)
    }

    /// Standard input, from its present position to its end.
    ///
    /// # Errors
    /// [`ClientError::Input`] if it was closed, or is a device without an end; [`ClientError::File`] if the system cannot describe it.
    pub fn stdin() -> Result<Self, ClientError> {
        let name = "standard input";
        let failed = |source: io::Error| ClientError::File { path: name.into(), source };
        let own = || Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?));
        let file = own().map_err(failed)?;
        if was_closed(file.as_fd()) {
            return Err(ClientError::Input { path: name.into(), error: InputError::Closed });
        }
        Self::of(name.into(), file)
    }

    /// A file that is open, from its present position to its end, with the name that messages give it.
    ///
    /// # Errors
    /// [`ClientError::Input`] for an input that has no end; [`ClientError::File`] if the system cannot describe it.
    pub fn file(name: impl Into<String>, file: File) -> Result<Self, ClientError> {
        Self::of(name.into(), file)
    }

    /// Any reader, with the name that messages give it.
    pub fn reader(name: impl Into<String>, reader: impl Read + Send + 'static) -> Self {
        Self { name: name.into(), from: From::Stream(Box::new(reader)) }
    }

    /// Whether the input can be read only once. A failure after that loses its bytes.
    pub fn is_read_once(&self) -> bool {
        !matches!(self.from, From::File { .. })
    }

    fn of(name: String, mut file: File) -> Result<Self, ClientError> {
        let failed = |source| ClientError::File { path: name.clone(), source };
        let known = file.metadata().map_err(failed)?;
        let kind: FileType = known.file_type();
        let refused = |error| Err(ClientError::Input { path: name.clone(), error });
        let length = if kind.is_file() && file.stream_position().map_err(failed)? == 0 {
            known.len()
        } else if kind.is_block_device() {
            let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
            file.rewind().map_err(failed)?;
            match end {
                0 => return refused(InputError::BlockDevice),
                end => end,
            }
        } else if kind.is_dir() {
            return refused(InputError::Directory);
        } else if kind.is_char_device() && !is_null(&known) && !file.is_terminal() {
            return refused(InputError::CharacterDevice);
        } else {
            return Ok(Self { name, from: From::Stream(Box::new(Waiting(file))) });
        };
        let watch = FileStamp::of(&known);
        Ok(Self { name, from: From::File { file, length, watch } })
    }

    /// Reads the input to its end; returns its token and its length in bytes. Keeps no bytes, in memory or on disk.
    ///
    /// # Errors
    /// [`ClientError::File`] if it cannot be read, or is longer than the protocol allows; [`ClientError::ChangedHashing`] if it is
    /// written to meanwhile.
    pub fn token(self) -> Result<(Token, u64), ClientError> {
        let Self { name, from } = self;
        let failed = |source| ClientError::File { path: name.clone(), source };
        let (mut reader, watched) = match from {
            From::File { file, watch, .. } => {
                let again = file.try_clone().map_err(failed)?;
                (Box::new(file) as Box<dyn Read + Send>, Some((again, watch)))
            }
            other => (other.reader().map_err(failed)?, None),
        };
        let (mut hasher, mut length, mut window) = (blake3::Hasher::new(), 0, vec![0; WINDOW_BYTES]);
        loop {
            let len = read_full(&mut reader, &mut window).map_err(failed)?;
            hasher.update(&window[..len]);
            length += len as u64;
            if length > PAYLOAD_BYTES_MAX {
                return Err(failed(io::Error::other(OutboardError::TooLong(length))));
            }
            if len < window.len() {
                break;
            }
        }
        if let Some((file, watch)) = watched
            && watch.has_changed(&file).map_err(failed)?
        {
            return Err(ClientError::ChangedHashing { path: name });
        }
        Ok((Token::from_root(*hasher.finalize().as_bytes()), length))
    }
}

impl From {
    /// A reader from the present position to the end. Waits for a FIFO's writer.
    pub(super) fn reader(self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::File { file, .. } => Box::new(file),
            Self::Fifo(path) => Box::new(Waiting(File::open(path)?)),
            Self::Stream(reader) => reader,
        })
    }
}

/// Fills `window` unless the input ends before; returns the number of bytes read.
pub(super) fn read_full(reader: &mut impl Read, window: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < window.len() {
        match reader.read(&mut window[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn device(known: &Metadata) -> (u32, u32) {
    (major(known.rdev()), minor(known.rdev()))
}

fn is_null(known: &Metadata) -> bool {
    known.file_type().is_char_device() && device(known) == (1, 3)
}

/// Whether a device number is a terminal's (Linux, Documentation/admin-guide/devices.txt): /dev/tty, or a pseudo-terminal. Serial lines
/// are left out: to open one may wait for a carrier.
fn is_terminal(known: &Metadata) -> bool {
    matches!(device(known), (5, 0) | (136..=143, _))
}

/// A reader that waits for bytes also if the descriptor is set not to block. Another program that shares the descriptor may set that.
struct Waiting(File);

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                other => return other,
            }
        }
    }
}

/// The system's report of a file when it is opened. A different report later means that the file was written to. The kernel notes a
/// write before its bytes can be read. A write through a shared mapping is noted as late as the kernel writes the page back.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileStamp {
    size: u64,
    modified: (i64, i64),
    /// Whether a write may leave size and time unchanged: within a time step of an earlier write, and on a block device, whose node
    /// shows only the writes made through that node.
    is_blind: bool,
}

impl FileStamp {
    fn of(known: &Metadata) -> Self {
        let age = known.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self {
            size: known.len(),
            modified: (known.mtime(), known.mtime_nsec()),
            is_blind: known.file_type().is_block_device() || age.is_none_or(|age| age < TIME_STEP),
        }
    }

    /// Whether a write may go unseen here: then the bytes themselves must be checked.
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Whether the file was written to.
    pub(super) fn has_changed(&self, file: &File) -> io::Result<bool> {
        let now = fstat(file)?;
        Ok((now.st_size as u64, (now.st_mtime as i64, now.st_mtime_nsec as i64))
            != (self.size, self.modified))
    }
}

/// Whether a descriptor was closed when the process started. Rust's runtime opens /dev/null in its place, for reading and writing; a
/// shell's `>/dev/null` opens it for writing alone. If another program has opened it for both, the answer is wrong, and costs no data.
pub fn was_closed(descriptor: BorrowedFd<'_>) -> bool {
    let both_ways = fcntl_getfl(descriptor).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    let is_null = |found: Stat| {
        rustix::fs::FileType::from_raw_mode(found.st_mode).is_char_device()
            && (major(found.st_rdev), minor(found.st_rdev)) == (1, 3)
    };
    both_ways && fstat(descriptor).is_ok_and(is_null)
}

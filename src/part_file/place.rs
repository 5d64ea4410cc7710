//! The directory of an output, and the names in it.
//!
//! Every call is relative to the opened directory. A directory that is renamed meanwhile stays the same one. Only the last
//! component of a path can be a symbolic link, which is never followed.

use super::error::{file_error, refused};
use crate::client::ClientError;
use crate::limits::NAME_BYTES_MAX;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Hex digits of the hash of a name that is too long for a suffix.
const HASH_DIGITS: usize = 16;

/// The fate of an output whose name is gone when its bytes are there.
pub(super) const TAKEN: &str = "appeared while it was being fetched, and is not replaced";

/// The place of an output.
#[derive(Debug)]
pub(crate) struct OutputPlace {
    pub(super) output: PathBuf,
    directory: OwnedFd,
    name: OsString,
    pub(super) part: OsString,
    pub(super) note: OsString,
}

impl OutputPlace {
    /// Opens the directory of `output` and chooses the names of its part and its note.
    pub(super) fn of(output: &Path) -> Result<Self, ClientError> {
        let text = output.as_os_str().as_bytes();
        let names_directory = text.ends_with(b"/") || text.ends_with(b"/.");
        let Some(name) = output.file_name().filter(|_| !names_directory) else {
            return Err(refused(output, "names a directory; give a file in it"));
        };
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(|error| {
            let shown = parent.display();
            let text = match error {
                Errno::NOENT => format!("there is no directory {shown}: make it, or give another --output"),
                Errno::NOTDIR => format!("{shown} is no directory: give another --output"),
                error => format!("cannot open the directory {shown}: {error}; give another --output"),
            };
            refused(output, text)
        })?;
        Self::at(directory, name, output.into())
    }

    /// The place of the file `name` in `directory`, which messages call `output`.
    pub(crate) fn at(directory: OwnedFd, name: &OsStr, output: PathBuf) -> Result<Self, ClientError> {
        let name_max = rustix::fs::fstatvfs(&directory).map_or(0, |system| system.f_namemax);
        let name_max = if name_max == 0 { NAME_BYTES_MAX } else { name_max as usize };
        if name.len() > name_max {
            let text = format!(
                "the name has {} bytes, and names in this directory have {name_max} at most; give a shorter one",
                name.len()
            );
            return Err(refused(&output, text));
        }
        let (part, note) = (with_suffix(name, ".part", name_max), with_suffix(name, ".part.json", name_max));
        Ok(Self { output, directory, name: name.into(), part, note })
    }

    /// The output's path, for messages.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// The file that has the output's name; `None` if there is none. Anything but a file is refused.
    pub(crate) fn existing(&self) -> Result<Option<File>, ClientError> {
        let failed = |error: Errno| file_error(&self.output, error.into());
        match self.stat(&self.name).map_err(failed)? {
            None => Ok(None),
            Some(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
                self.open(&self.name, OFlags::RDONLY).map(Some).map_err(failed)
            }
            Some(_) => self.check_vacant().map(|()| None),
        }
    }

    /// Makes a file without a name in the directory; `None` if the file system has none (NFS, FUSE).
    pub(crate) fn unnamed(&self) -> Result<Option<File>, ClientError> {
        let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        match rustix::fs::openat(&self.directory, ".", flags, mode) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => Ok(None),
            Err(error) => Err(file_error(&self.output, error.into())),
        }
    }

    /// Gives a file of [`Self::unnamed`] the output's name, if the name is free; false if /proc is not there to do it by.
    pub(crate) fn give_name_to(&self, file: &File) -> Result<bool, ClientError> {
        // linkat(2): without CAP_DAC_READ_SEARCH this is the way.
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, open, &self.directory, &self.name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::PERM | Errno::XDEV) => Ok(false),
            Err(Errno::EXIST) => Err(refused(&self.output, TAKEN)),
            Err(error) => Err(file_error(&self.output, error.into())),
        }
    }

    /// The path of a name beside the output.
    pub(super) fn path(&self, name: &OsStr) -> PathBuf {
        self.output.with_file_name(name)
    }

    /// The file of a name, `None` if there is none. A symbolic link is not followed.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses an existing output.
    pub(super) fn check_vacant(&self) -> Result<(), ClientError> {
        let output = &self.output;
        let stat = self.stat(&self.name).map_err(|error| refused(output, error.to_string()))?;
        let Some(stat) = stat else { return Ok(()) };
        const IS_DIRECTORY: &str = "is a directory; give a file in it";
        const EXISTS: &str = "exists already; remove it, or give another --output";
        let text = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => match std::fs::metadata(output) {
                Ok(target) if target.is_dir() => IS_DIRECTORY.into(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let target = std::fs::read_link(output).unwrap_or_default();
                    format!(
                        "is a symbolic link to {}, which does not exist; give that file itself as --output",
                        target.display()
                    )
                }
                _ => "is a symbolic link, through which a get writes nothing; give another --output".into(),
            },
            FileType::Directory => IS_DIRECTORY.into(),
            FileType::RegularFile => EXISTS.into(),
            FileType::BlockDevice => {
                "is a block device, and its contents would be lost; give a file, or write to it by \"-o -\""
                    .into()
            }
            FileType::Socket => {
                "is a socket, which cannot be opened; give a file, or a pipe by \"-o -\"".into()
            }
            _ => "is a device or a pipe, which takes bytes in order only; give a file".into(),
        };
        Err(refused(output, text))
    }

    /// Opens `name`, never through a symbolic link.
    pub(super) fn open(&self, name: &OsStr, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o666)).map(File::from)
    }

    /// Makes `name`, which must not exist.
    pub(super) fn create(&self, name: &OsStr) -> Result<File, Errno> {
        self.open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    pub(super) fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// Whether other users may make files in the directory, as in /tmp.
    pub(super) fn is_shared(&self) -> bool {
        rustix::fs::fstat(&self.directory).is_ok_and(|stat| stat.st_mode & 0o1002 == 0o1002)
    }

    /// Gives the part the output's name, if the name is free.
    pub(super) fn give_name(&self) -> Result<(), Errno> {
        let (directory, flags) = (&self.directory, RenameFlags::NOREPLACE);
        match rustix::fs::renameat_with(directory, &self.part, directory, &self.name, flags) {
            // The file system (NFS, FUSE) or the kernel does not support RENAME_NOREPLACE.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.give_name_by_link(),
            result => result,
        }
    }

    /// Gives the name where renaming may replace a file: makes a second link, which fails if a file exists, and removes the first
    /// one.
    fn give_name_by_link(&self) -> Result<(), Errno> {
        let directory = &self.directory;
        match rustix::fs::linkat(directory, &self.part, directory, &self.name, AtFlags::empty()) {
            Ok(()) => self.remove(&self.part),
            Err(Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => {
                self.give_name_by_placeholder()
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the name where a file can have only one: makes an empty file exclusively under the name, and replaces it.
    fn give_name_by_placeholder(&self) -> Result<(), Errno> {
        drop(self.create(&self.name)?);
        let directory = &self.directory;
        rustix::fs::renameat(directory, &self.part, directory, &self.name).inspect_err(|_| {
            let _ = self.remove(&self.name);
        })
    }

    /// Makes the names durable, as far as the file system supports it.
    pub(super) fn sync(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(opened) = rustix::fs::openat(&self.directory, ".", flags, Mode::empty()) {
            // Some network file systems cannot sync a directory. At most a name is lost then, and no byte.
            let _ = rustix::fs::fsync(opened);
        }
    }
}

/// `name` and `suffix`; if these are too long, the beginning of `name`, its hash, and `suffix`.
fn with_suffix(name: &OsStr, suffix: &str, name_max: usize) -> OsString {
    let mut whole = name.to_owned();
    if name.len() + suffix.len() > name_max {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        let room = name_max.saturating_sub(1 + HASH_DIGITS + suffix.len());
        whole = OsStr::from_bytes(beginning(name.as_bytes(), room)).to_owned();
        whole.push("~");
        whole.push(&hash[..HASH_DIGITS]);
    }
    whole.push(suffix);
    whole
}

/// At most `room` bytes of `name`; cuts no character of UTF-8.
fn beginning(name: &[u8], room: usize) -> &[u8] {
    let mut end = room.min(name.len());
    while end > 0 && name.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, OutputPlace) {
        let directory = tempfile::tempdir().unwrap();
        let place = OutputPlace::of(&directory.path().join("out")).unwrap();
        std::fs::write(directory.path().join("out.part"), b"whole").unwrap();
        (directory, place)
    }

    #[test]
    fn no_way_of_giving_a_name_replaces_an_existing_file() {
        for way in
            [OutputPlace::give_name, OutputPlace::give_name_by_link, OutputPlace::give_name_by_placeholder]
        {
            let (directory, place) = place();
            std::fs::write(&place.output, b"another's").unwrap();
            assert_eq!(way(&place), Err(Errno::EXIST));
            assert_eq!(std::fs::read(&place.output).unwrap(), b"another's");
            assert_eq!(std::fs::read(directory.path().join("out.part")).unwrap(), b"whole");
            std::fs::remove_file(&place.output).unwrap();
            way(&place).unwrap();
            assert_eq!(std::fs::read(&place.output).unwrap(), b"whole");
            assert!(!directory.path().join("out.part").exists());
            // A dangling link counts as a file too.
            let (_directory, place) = self::place();
            std::os::unix::fs::symlink("nowhere", &place.output).unwrap();
            assert_eq!(way(&place), Err(Errno::EXIST));
        }
    }

    #[test]
    fn names_beside_a_long_name_fit_and_differ() {
        assert_eq!(with_suffix(OsStr::new("out"), ".part", 255), "out.part");
        assert_eq!(with_suffix(OsStr::new(&"n".repeat(250)), ".part", 255).len(), 255);
        for len in 246..=255 {
            let (one, other) = ("ä".repeat(len / 2), "ä".repeat(len / 2 - 1) + "ö");
            let [one, other] = [one, other].map(|name| with_suffix(OsStr::new(&name), ".part.json", 255));
            assert!(one.len() <= 255 && one != other, "{len}");
            assert!(one.to_str().is_some_and(|name| name.ends_with(".part.json")), "no character is cut");
        }
        // The shortest limit of a file system in use (eCryptfs).
        assert!(with_suffix(OsStr::new(&"n".repeat(143)), ".part.json", 143).len() <= 143);
    }
}

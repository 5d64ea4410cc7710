//! A directory into which payloads are fetched, each as a file of a name below it.
//!
//! A name has components with `/` between them: no `..`, and none that begins at the root. Each directory on the way to a file is opened
//! by itself, from the one before, and through no symbolic link: whatever lies in the directory already, and whatever is put there
//! meanwhile, no file is made outside. Directories that are missing are made.
//!
//! A short payload is fetched whole, written into a file without a name, made durable, and then given its name: an end in between leaves
//! nothing behind. A longer one is a [`Download`], which a later get continues.

use crate::client::{AskOptions, ClientError, FetchOptions, FetchReader, Peer};
use crate::download::{Download, write_with_holes};
use crate::limits::{FILE_IN_MEMORY_BYTES, PART_READ_BYTES};
use crate::part_file::{OutputPlace, file_error, refused};
use crate::token::Token;
use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a name leads to no file below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It begins at the root.
    #[error("begins with /, which leads out of the directory; give names that are relative to it")]
    Absolute,
    /// It has a component `..`.
    #[error("has .., which leads out of the directory; give names without it")]
    Parent,
    /// It names a directory, or nothing.
    #[error("names no file; give it the name of one")]
    NoFile,
}

/// The directories of a name, and its file; `.` and doubled slashes count as nothing.
///
/// # Errors
/// [`NameError`] if the name leads out of the directory or to no file.
pub fn components(name: &[u8]) -> Result<(Vec<&OsStr>, &OsStr), NameError> {
    if name.starts_with(b"/") {
        return Err(NameError::Absolute);
    }
    let mut found = Vec::new();
    let mut names_file = false;
    for part in name.split(|&byte| byte == b'/') {
        names_file = !matches!(part, b"" | b".");
        match part {
            b"" | b"." => {}
            b".." => return Err(NameError::Parent),
            part => found.push(OsStr::from_bytes(part)),
        }
    }
    match found.pop() {
        Some(file) if names_file => Ok((found, file)),
        _ => Err(NameError::NoFile),
    }
}

/// The directory.
#[derive(Debug)]
pub struct OutputTree {
    directory: OwnedFd,
    path: PathBuf,
}

/// How a file came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchedFile {
    /// It was there, and its bytes match the token.
    There {
        /// Its length, bytes.
        length: u64,
    },
    /// It was fetched.
    Now {
        /// Its length, bytes.
        length: u64,
        /// Bytes that an earlier get had fetched.
        resumed_at: u64,
    },
}

impl OutputTree {
    /// Opens the directory; makes it if only its own name is missing.
    ///
    /// # Errors
    /// [`ClientError::File`]: it cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let failed = |error: Errno| file_error(path, error.into());
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        Ok(Self { directory, path: path.into() })
    }

    /// Has the payload of `token` as the file of this name: a file that is there and right stays; a file of other bytes is not
    /// replaced. `progress` gets the bytes of the file that are there, and its length, a claim until the file is whole. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`ClientError::File`], with the fix: the name leads out of the directory, is taken, or the disk failed; otherwise those of
    /// [`Peer::fetch`] and [`Download`].
    pub async fn fetch(
        &self,
        (token, name): (Token, &[u8]),
        peer: &Peer,
        options: &AskOptions,
        progress: impl FnMut(u64, u64),
    ) -> Result<FetchedFile, ClientError> {
        let place = self.place(name)?;
        if let Some(length) = there(&place, token)? {
            return Ok(FetchedFile::There { length });
        }
        let fetch = FetchOptions { route: options.route.clone(), ..FetchOptions::default() };
        let fetch = peer.fetch_with(token, fetch).await?;
        if fetch.length() > FILE_IN_MEMORY_BYTES {
            return long(place, token, fetch, (peer, options), progress).await;
        }
        let bytes = fetch.bytes(FILE_IN_MEMORY_BYTES).await?;
        let length = bytes.len() as u64;
        if !whole(&place, &bytes)? {
            let download = Download::at(place, token)?.with(bytes)?;
            download.finish(|_| {}).await?;
        }
        Ok(FetchedFile::Now { length, resumed_at: 0 })
    }

    /// Makes the names of all files in the directory durable, as far as the file system supports it.
    pub fn sync(&self) {
        // At most names are lost otherwise, and no bytes: each file is durable before it has its name.
        let _ = rustix::fs::syncfs(&self.directory);
    }

    /// The place of a name: opens its directories, and makes those that are missing.
    fn place(&self, name: &[u8]) -> Result<OutputPlace, ClientError> {
        let mut path = self.path.clone();
        let outside = |error: NameError| refused(&self.path.join(OsStr::from_bytes(name)), error.to_string());
        let (parents, file) = components(name).map_err(outside)?;
        let mut directory = self.directory.try_clone().map_err(|error| file_error(&path, error))?;
        for part in parents {
            path.push(part);
            directory = enter(&directory, part, &path)?;
        }
        OutputPlace::at(directory, file, path.join(file))
    }
}

/// Opens a directory in a directory, through no symbolic link; makes it if it is missing.
fn enter(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, ClientError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(directory, name, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o777)) {
            // Another file's name may have the same directory.
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(error) => Err(error),
        },
        opened => opened,
    };
    opened.map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => refused(
            path,
            "is a symbolic link or a file, and a directory is needed there; move it, or give another --output",
        ),
        error => file_error(path, error.into()),
    })
}

/// The length of the file that is there, if it is the payload of `token`; `None` if there is none.
fn there(place: &OutputPlace, token: Token) -> Result<Option<u64>, ClientError> {
    let Some(mut file) = place.existing()? else { return Ok(None) };
    let failed = |error| file_error(place.output(), error);
    let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
    let size = file.metadata().map_err(failed)?.len();
    let mut buffer = vec![0; PART_READ_BYTES.min(size as usize + 1)];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if Token::from_root(*hasher.finalize().as_bytes()) == token {
        return Ok(Some(length));
    }
    let text = "exists already, with other bytes, and is not replaced; remove it, or give another --output";
    Err(refused(place.output(), text))
}

async fn long(
    place: OutputPlace,
    token: Token,
    fetch: FetchReader,
    (peer, options): (&Peer, &AskOptions),
    progress: impl FnMut(u64, u64),
) -> Result<FetchedFile, ClientError> {
    let mut download = Download::at(place, token)?;
    let resumed_at = download.have();
    if resumed_at == 0 {
        download.take(fetch, 0, progress).await?;
    } else {
        drop(fetch);
        download.run_with(peer, options.clone(), progress).await?;
    }
    let length = download.finish(|_| {}).await?;
    Ok(FetchedFile::Now { length, resumed_at })
}

/// Writes a whole file and gives it its name; false if the file system makes no file without a name.
fn whole(place: &OutputPlace, bytes: &Bytes) -> Result<bool, ClientError> {
    let Some(file) = place.unnamed()? else { return Ok(false) };
    let written = write_with_holes(&file, bytes, 0).and_then(|()| file.sync_all());
    written.map_err(|error| file_error(place.output(), error))?;
    place.give_name_to(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_directory() {
        let parts = |name: &str| {
            let (mut parts, file) = components(name.as_bytes())?;
            parts.push(file);
            Ok(parts.join(OsStr::new("|")).into_string().unwrap())
        };
        for (name, found) in
            [("a", "a"), ("a/b", "a|b"), ("./a//b", "a|b"), ("..a/b..", "..a|b.."), ("-", "-")]
        {
            assert_eq!(parts(name).unwrap(), found, "{name}");
        }
        for name in ["/", "/a", "//a", "/../a"] {
            assert_eq!(parts(name), Err(NameError::Absolute), "{name}");
        }
        for name in ["..", "../a", "a/../b", "a/..", "./../a"] {
            assert_eq!(parts(name), Err(NameError::Parent), "{name}");
        }
        for name in ["", ".", "a/", "a/.", "./"] {
            assert_eq!(parts(name), Err(NameError::NoFile), "{name}");
        }
    }

    #[test]
    fn no_symbolic_link_leads_out() {
        let (tree, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), tree.path().join("link")).unwrap();
        std::fs::create_dir(tree.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", tree.path().join("inner")).unwrap();
        std::fs::write(tree.path().join("file"), b"").unwrap();
        let opened = OutputTree::open(tree.path()).unwrap();
        for name in ["link/x", "link/a/x", "inner/x", "file/x"] {
            let error = opened.place(name.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("is a symbolic link or a file"), "{name}: {error}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        opened.place(b"real/deeper/x").unwrap();
        assert!(tree.path().join("real/deeper").is_dir());
        // The last component may be a link too: nothing is written through it.
        let place = opened.place(b"link").unwrap();
        assert!(there(&place, Token::of(b"")).unwrap_err().to_string().contains("is a directory"));
    }

    #[test]
    fn a_file_gets_its_name_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let tree = OutputTree::open(&directory.path().join("made")).unwrap();
        let (bytes, place) = (Bytes::from_static(b"hello"), tree.place(b"a/b").unwrap());
        assert!(whole(&place, &bytes).unwrap(), "this file system makes files without names");
        assert_eq!(std::fs::read(directory.path().join("made/a/b")).unwrap(), b"hello");
        assert_eq!(there(&place, Token::of(b"hello")).unwrap(), Some(5));
        let other = there(&place, Token::of(b"other")).unwrap_err().to_string();
        assert!(other.contains("with other bytes, and is not replaced"), "{other}");
        let taken = whole(&place, &bytes).unwrap_err().to_string();
        assert!(taken.contains("appeared while it was being fetched"), "{taken}");
        assert_eq!(std::fs::read_dir(directory.path().join("made/a")).unwrap().count(), 1);
    }
}

//! The files that a command line names: by their own names, or by a directory that they are in.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// What was found under a name.
pub(crate) struct FoundPath {
    pub(crate) path: PathBuf,
    pub(crate) what: FoundFile,
}

pub(crate) enum FoundFile {
    /// A file to be put. It is named on the command line, and may be a link or a pipe, or lies in a directory that is.
    File { is_named: bool, size: u64 },
    /// No file: why it is left out.
    Skipped(&'static str),
    /// It cannot be read, or a directory cannot.
    Unread(String),
}

/// The file that is the manifest, by its device and its number.
pub(crate) type FileNumber = (u64, u64);

pub(crate) fn file_number(known: &Metadata) -> FileNumber {
    (known.dev(), known.ino())
}

/// Finds the files of these paths, each directory's in the order of their names. Stops when `take` says so.
pub(crate) fn walk(paths: &[PathBuf], manifest: Option<FileNumber>, mut take: impl FnMut(FoundPath) -> bool) {
    for path in paths {
        if path.as_os_str() == "-" {
            if !take(FoundPath { path: path.clone(), what: FoundFile::File { is_named: true, size: 0 } }) {
                return;
            }
            continue;
        }
        for entry in WalkDir::new(path).sort_by_file_name() {
            let found = match entry {
                Ok(entry) => of(entry, manifest),
                Err(error) => {
                    let at = error.path().unwrap_or(path).to_owned();
                    let why = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    Some(FoundPath { path: at, what: FoundFile::Unread(why) })
                }
            };
            if found.is_some_and(|found| !take(found)) {
                return;
            }
        }
    }
}

fn of(entry: DirEntry, manifest: Option<FileNumber>) -> Option<FoundPath> {
    let (kind, is_named) = (entry.file_type(), entry.depth() == 0);
    // A name on the command line stands for what its link leads to.
    let known = if is_named { entry.path().metadata() } else { entry.path().symlink_metadata() };
    let what = match &known {
        Err(error) => FoundFile::Unread(error.to_string()),
        Ok(known) if known.is_dir() => return None,
        Ok(known) if manifest == Some(file_number(known)) => FoundFile::Skipped("is the manifest"),
        Ok(known) if is_named => FoundFile::File { is_named, size: known.len() },
        Ok(known) if known.is_file() => FoundFile::File { is_named, size: known.len() },
        Ok(_) if kind.is_symlink() => {
            FoundFile::Skipped("is a symbolic link; name it itself to put the file it leads to")
        }
        Ok(_) if kind.is_socket() => FoundFile::Skipped("is a socket"),
        Ok(_) if kind.is_fifo() => FoundFile::Skipped("is a pipe; name it itself to put its bytes"),
        Ok(_) => FoundFile::Skipped("is a device"),
    };
    Some(FoundPath { path: entry.into_path(), what })
}

/// The name of a path in a manifest, relative as those in an archive of `tar` are; and what was left out in front of it: the root, or
/// everything up to the last `..`.
pub(crate) fn name_of(path: &Path) -> (Vec<u8>, bool) {
    let (mut parts, mut is_cut) = (Vec::new(), false);
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                parts.clear();
                is_cut = true;
            }
        }
    }
    let name = parts.join(OsStr::new("/"));
    // Readers of manifests take "-" for standard input.
    let name = if name == "-" { b"./-".to_vec() } else { name.as_bytes().to_vec() };
    (name, is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_as_in_an_archive() {
        let name = |path: &str| {
            let (name, is_cut) = name_of(Path::new(path));
            (String::from_utf8(name).unwrap(), is_cut)
        };
        for (path, there, is_cut) in [
            ("a/b", "a/b", false),
            ("./a//b", "a/b", false),
            ("/srv/data/x", "srv/data/x", true),
            ("../data/x", "data/x", true),
            ("a/../b/c", "b/c", true),
            ("./-", "./-", false),
            ("d/-", "d/-", false),
        ] {
            assert_eq!(name(path), (there.to_owned(), is_cut), "{path}");
        }
    }
}

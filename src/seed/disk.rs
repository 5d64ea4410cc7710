//! How a store makes, moves and removes files.

use super::error::StoreError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Makes a file that must not exist yet.
pub(super) fn create(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    opened.map_err(|error| write_error(path, 0, error))
}

/// Writes a small file durably under `temporary` and renames it to `path`. The new name is durable once its directory
/// is synced.
pub(super) fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = create(temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| write_error(temporary, bytes.len() as u64, error))?;
        rename(temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(temporary);
    })
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| write_error(to, 0, error))
}

/// Gives a file a second name, replacing a file of that name.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), StoreError> {
    remove_if_there(to)?;
    fs::hard_link(from, to).map_err(|error| write_error(to, 0, error))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes the directory durably, if it is missing.
pub(super) fn make_directory(directory: &Path) -> Result<(), StoreError> {
    match fs::create_dir(directory) {
        Ok(()) => sync_directory(parent(directory)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(write_error(directory, 0, error)),
    }
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|e| StoreError::io("sync", directory, e))
}

/// The directory of a file of the store.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Bytes that the disk under `path` has free.
pub(super) fn available_bytes(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::statvfs(path).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))?)
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

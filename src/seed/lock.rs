//! The lock of a store's directory.

use super::disk::{StoreDisk, parent, write_error};
use super::error::StoreError;
use super::layout::{DATA, SETS};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// The file that the process locks which has the store open for writing.
pub(super) const LOCK: &str = "store.lock";
/// The file that versions before the database lock. In its place is a directory: they then refuse the store.
pub(super) const EARLIER_LOCK: &str = "lock";
/// The file in that directory, and its text.
const README: &str = "README";
const REFUSAL: &[u8] = b"This directory stands where versions of STOQ before the database `store.redb` open their lock: they cannot read this store,\n\
    and must not. Run the version that wrote it, or a later one; docs/operations.md (The store) says how to go back.\n";

/// The store's lock. It is unlocked explicitly: a forked process keeps the same file open until it runs its program.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Makes the store's directories and takes its lock.
pub(super) fn prepare(dir: &Path, disk: &StoreDisk) -> Result<Lock, StoreError> {
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(|e| StoreError::io("make the store's directory", dir, e))?;
        disk.sync_directory(parent(dir))?;
    }
    let lock = take(dir, &dir.join(LOCK))?;
    refuse_earlier(dir, disk)?;
    for made in [DATA, SETS, "tmp"].map(|name| dir.join(name)) {
        match disk.0.create_directory(&made) {
            Err(error) if !made.is_dir() => return Err(StoreError::io("make the directory", &made, error)),
            _ => {}
        }
    }
    // A payload is not lost with a directory above it, also if the process that made that one did not sync its name.
    for directory in [dir, &dir.join(DATA), &dir.join(SETS)] {
        disk.sync_directory(directory)?;
    }
    Ok(lock)
}

fn take(dir: &Path, path: &Path) -> Result<Lock, StoreError> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let lock = open.map_err(|e| StoreError::io("open", path, e))?;
    match lock.try_lock() {
        Ok(()) => Ok(Lock(lock)),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io("lock", path, error)),
    }
}

/// Keeps versions from before the database out, before anything is changed that they know.
fn refuse_earlier(dir: &Path, disk: &StoreDisk) -> Result<(), StoreError> {
    let path = dir.join(EARLIER_LOCK);
    if path.is_file() {
        // One of them may have the store open.
        let earlier = take(dir, &path)?;
        fs::remove_file(&path).map_err(|error| StoreError::io("remove", &path, error))?;
        drop(earlier);
    }
    match disk.0.create_directory(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(write_error(&path, 0, error)),
    }
    let readme = path.join(README);
    if !readme.exists() {
        let _ = fs::write(&readme, REFUSAL);
    }
    Ok(())
}

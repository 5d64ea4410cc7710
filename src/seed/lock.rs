//! The lock of a store's directory.

use super::disk::{StoreDisk, parent};
use super::error::StoreError;
use super::layout::{DATA, SETS};
use std::fs::{self, File, OpenOptions};
use std::path::Path;

/// The file that the process locks which has the store open for writing.
pub(super) const LOCK: &str = "lock";

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
    let path = dir.join(LOCK);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = open.map_err(|e| StoreError::io("open", &path, e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path, error)),
    }
    Ok(Lock(lock))
}

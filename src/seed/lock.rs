//! The lock of a store's directory.

use std::fs::File;

/// The store's lock. It is unlocked explicitly: a forked process keeps the same file open until it runs its program.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

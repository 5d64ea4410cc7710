//! The lock of a store's directory.

use std::fs::File;

/// The store's lock. Let go by name: a process that forked meanwhile holds the same open file until it runs its program.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

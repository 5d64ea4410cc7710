//! The store's time, kept in a file of its directory.

use super::clock::{Clock, Saved, boot_id};
use super::inner::Inner;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

/// The name of that file.
const CLOCK: &str = "clock";

impl Inner {
    /// Writes the time, if the store can be written.
    pub(super) fn save_clock(&self) {
        if self.read_only.is_some() {
            return;
        }
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(saved) = self.clock().saved() else { return };
        let path = self.dir.join(CLOCK);
        let bytes = serde_json::to_vec(&saved).unwrap_or_default();
        // Beside the file: `tmp` is only for payloads and sets.
        let new = path.with_added_extension("new");
        let disk = &self.disk;
        if let Err(error) = disk.remove_if_there(&new).and_then(|()| disk.replace(&path, &new, &bytes)) {
            tracing::warn!(%error, "the time cannot be written to the store's file `clock`");
        }
    }
}

/// The clock of the store in `dir`. A file that cannot be read counts as missing.
pub(super) fn clock(dir: &Path) -> Clock {
    let path = dir.join(CLOCK);
    let saved = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Saved>(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the store's file of the time is not valid"))
            .ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the store's file of the time cannot be read");
            None
        }
    };
    Clock::new(saved, boot_id())
}

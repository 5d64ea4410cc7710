//! Watches the configuration's files, and raises SIGHUP when one of them changes.
//!
//! The watch covers directories and compares contents, so every way of replacing a file works: writing in place, renaming over it, or
//! changing a symbolic link in its directory.

use crate::faults::started;
use anyhow::Context;
use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use signal_hook::consts::SIGHUP;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time without a change before the files are read: files that belong together are replaced one after another.
const QUIET: Duration = Duration::from_millis(300);
/// The longest time that further changes delay the reading.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(5);

/// A running watch. Dropping it ends it.
pub struct Watch {
    watcher: RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    files: Files,
}

type Files = Arc<Mutex<Watched>>;

#[derive(Default)]
struct Watched {
    files: Vec<PathBuf>,
    contents: Option<blake3::Hash>,
}

impl Watch {
    /// A watch without files.
    ///
    /// # Errors
    ///
    /// The kernel refuses a watch or a thread.
    pub fn start() -> anyhow::Result<Self> {
        let (send, events) = channel();
        let on_event = move |event: notify::Result<notify::Event>| {
            // Reading a file does not change it.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                let _ = send.send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event).context(
            "cannot watch files; raise fs.inotify.max_user_instances, or set reload.watch = false",
        )?;
        let files = Files::default();
        let looked_at = files.clone();
        let thread = std::thread::Builder::new().name("stoq-watch".into());
        started("watches files", thread.spawn(move || look(&events, &looked_at)))?;
        Ok(Self { watcher, directories: BTreeSet::new(), files })
    }

    /// Watches exactly these files from now on. Directories that cannot be watched are logged.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        let parent = |file: &PathBuf| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let directories: BTreeSet<_> = files.iter().map(parent).collect();
        for gone in self.directories.difference(&directories) {
            let _ = self.watcher.unwatch(gone);
        }
        for new in directories.difference(&self.directories) {
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(directory = %new.display(), %error, "changes in this directory cause no reload; send SIGHUP to reload");
            }
        }
        self.directories = directories;
        let mut watched = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // The same files keep their known contents: a change since they were read still raises the signal.
        if watched.files != files {
            watched.contents = Some(contents(&files));
            watched.files = files;
        }
    }
}

fn look(events: &Receiver<()>, files: &Files) {
    while events.recv().is_ok() {
        let until = Instant::now() + QUIET_WAIT_MAX;
        loop {
            match events.recv_timeout(QUIET) {
                Ok(()) if Instant::now() < until => {}
                Ok(()) | Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let mut watched = files.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Some(contents(&watched.files));
        if watched.contents != now {
            watched.contents = now;
            // The same signal that an operator sends.
            let _ = signal_hook::low_level::raise(SIGHUP);
        }
    }
}

/// A hash over the files' contents. An unreadable file differs from every readable one.
fn contents(files: &[impl AsRef<Path>]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let hash = std::fs::read(file).map(|bytes| *blake3::hash(&bytes).as_bytes());
        hasher.update(&[u8::from(hash.is_ok())]).update(&hash.unwrap_or_default());
    }
    hasher.finalize()
}

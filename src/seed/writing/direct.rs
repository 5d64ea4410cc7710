//! The part of a long file that is written past the page cache.

use crate::limits::{DIRECT_RUN_BYTES, PAGE_BYTES};
use crate::seed::direct_writer::{DirectEnd, DirectWrite};
use crate::seed::disk::StoreDisk;
use crate::seed::reader::again;
use crate::seed::written::{Later, Teller, WriteResult};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A file whose pieces are written by others. Neighboring pieces that arrive together are written at once.
#[derive(Debug)]
pub(super) struct DirectFile {
    disk: StoreDisk,
    file: Arc<File>,
    plain: Arc<File>,
    writes: Arc<WritesOnTheirWay>,
    run: DirectRun,
}

/// Pieces that adjoin each other, and are not written yet.
#[derive(Debug, Default)]
struct DirectRun {
    start: u64,
    len: usize,
    parts: Vec<Bytes>,
    /// What is told once they are.
    told: Told,
}

/// Results that wait, and what takes them.
#[derive(Default)]
struct Told(Vec<WriteResult>, Option<Teller>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Told").field(&self.0.len()).finish()
    }
}

impl Drop for Told {
    /// Bytes that are not needed any more are told of too: a peer gets its credit back.
    fn drop(&mut self) {
        if let Some(teller) = &self.1 {
            teller.tell(self.0.drain(..));
        }
    }
}

#[derive(Debug, Default)]
struct WritesOnTheirWay {
    state: Mutex<WritesState>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct WritesState {
    len: usize,
    failed: Option<io::Error>,
}

impl WritesOnTheirWay {
    fn state(&self) -> MutexGuard<'_, WritesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, result: io::Result<()>) {
        let mut state = self.state();
        state.len -= 1;
        if let Err(error) = result {
            state.failed.get_or_insert(error);
        }
        self.over.notify_all();
    }

    /// The error of the first write that has failed.
    fn check(&self) -> io::Result<()> {
        self.state().failed.as_ref().map_or(Ok(()), |error| Err(again(error)))
    }

    fn wait(&self) {
        let mut state = self.state();
        while state.len > 0 {
            state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl DirectFile {
    /// The file at `path`, which is open as `blob`, at its full length: a write that makes a file longer waits for those before it. `None` where
    /// it is to be written through the page cache.
    pub(super) fn open(disk: &StoreDisk, path: &Path, blob: &File, length: u64) -> Option<Box<Self>> {
        if !disk.direct_writer().is_there() {
            return None;
        }
        let opened = disk.0.open_to_write_direct(path).and_then(|file| Ok((file, blob.try_clone()?)));
        match opened {
            Ok((file, plain)) => {
                disk.0.set_length(blob, length).ok()?;
                let (file, plain) = (Arc::new(file), Arc::new(plain));
                let (writes, run) = (Arc::default(), DirectRun::default());
                Some(Box::new(Self { disk: disk.clone(), file, plain, writes, run }))
            }
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) {
                    disk.direct_writer().refuse(&error);
                }
                None
            }
        }
    }

    /// The first bytes of a piece that it takes: whole pages.
    pub(super) fn whole_pages(offset: u64, data: &[u8]) -> usize {
        let is_aligned =
            offset.is_multiple_of(PAGE_BYTES as u64) && data.as_ptr().addr().is_multiple_of(PAGE_BYTES);
        if is_aligned { data.len() - data.len() % PAGE_BYTES } else { 0 }
    }

    /// Has whole pages written, and takes what is told after that.
    ///
    /// # Errors
    /// The error of a write before.
    pub(super) fn write(&mut self, offset: u64, data: Bytes, later: &mut Later<'_>) -> io::Result<()> {
        self.writes.check()?;
        if self.run.start + self.run.len as u64 != offset {
            self.flush();
            self.run.start = offset;
        }
        self.run.len += data.len();
        self.run.parts.push(data);
        self.run.told.0.extend(later.result.take());
        self.run.told.1.get_or_insert_with(|| later.teller.clone());
        if self.run.len >= DIRECT_RUN_BYTES {
            self.flush();
        }
        Ok(())
    }

    /// Begins to write what waits.
    pub(super) fn flush(&mut self) {
        let next = DirectRun { start: self.run.start + self.run.len as u64, ..DirectRun::default() };
        let DirectRun { start, parts, told, .. } = std::mem::replace(&mut self.run, next);
        if parts.is_empty() {
            return;
        }
        self.writes.state().len += 1;
        let writes = self.writes.clone();
        let done = Box::new(move |result| {
            drop(told);
            writes.end(result);
        });
        let end = DirectEnd { plain: self.plain.clone(), done };
        let write = DirectWrite { file: self.file.clone(), offset: start, parts, end };
        self.disk.direct_writer().write(write);
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// The error of the first write that has failed.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.flush();
        self.writes.wait();
        self.writes.check()
    }
}

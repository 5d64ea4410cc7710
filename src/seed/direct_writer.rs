//! Writes pieces of long files past the page cache, by io_uring: the kernel then copies nothing, and each write is on the disk when it is over.
//!
//! A file system that has no such writes, and a kernel without io_uring, get them through the page cache.

use super::Store;
use super::reader::again;
use crate::limits::{PAGE_BYTES, WRITES_LEN_MAX};
use bytes::{Buf, Bytes};
use disk_ring::{Ring, RingWaker, RingWrite, give_way};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Called once the bytes are written, or cannot be: on the thread of the writer, or on the caller's.
type OnWritten = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Whole pages of memory for whole pages of a file.
pub(super) struct DirectWrite {
    /// The file, open for writes past the page cache.
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) parts: Vec<Bytes>,
    pub(super) end: DirectEnd,
}

/// What ends such a write.
pub(super) struct DirectEnd {
    /// The same file, open for writes through the page cache.
    pub(super) plain: Arc<File>,
    pub(super) done: OnWritten,
}

impl DirectWrite {
    /// Writes it through the page cache, and waits for that.
    fn write_plain(self) {
        let mut offset = self.offset;
        let written = self.parts.iter().try_for_each(|part| {
            self.end.plain.write_all_at(part, offset)?;
            offset += part.len() as u64;
            Ok(())
        });
        (self.end.done)(written);
    }
}

/// The writes of a store past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WriteState {
    /// Writes that are on their way, or wait for it.
    pub in_flight: u64,
    /// Those that are over.
    pub written: u64,
    /// Those that could not be made.
    pub failed: u64,
}

/// The thread that has the kernel write. It starts with the first long file.
#[derive(Debug)]
pub(super) struct DirectWriter {
    /// Whether it may use io_uring.
    ring: bool,
    shared: Arc<DirectShared>,
}

#[derive(Debug, Default)]
struct DirectShared {
    queue: Mutex<DirectQueue>,
    /// The kernel or the file system has no such writes.
    is_refused: AtomicBool,
    in_flight: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct DirectQueue {
    writes: VecDeque<DirectWrite>,
    /// There once the thread is.
    waker: Option<RingWaker>,
    is_closed: bool,
}

impl std::fmt::Debug for DirectQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectQueue").field("writes", &self.writes.len()).finish_non_exhaustive()
    }
}

impl Drop for DirectWriter {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        if let Some(waker) = &queue.waker {
            waker.wake();
        }
    }
}

impl Store {
    /// How long payloads are written past the page cache.
    pub fn writes(&self) -> WriteState {
        self.inner.disk.direct_writer().state()
    }
}

impl DirectWriter {
    pub(super) fn new(ring: bool) -> Self {
        Self { ring, shared: Arc::default() }
    }

    /// Whether files are to be written past the page cache, as far as is known.
    pub(super) fn is_there(&self) -> bool {
        self.ring && !self.shared.is_refused.load(Relaxed) && self.shared.start()
    }

    fn state(&self) -> WriteState {
        let DirectShared { in_flight, written, failed, .. } = &*self.shared;
        let [in_flight, written, failed] = [in_flight, written, failed].map(|count| count.load(Relaxed));
        WriteState { in_flight, written, failed }
    }

    /// The file system has no such writes.
    pub(super) fn refuse(&self, error: &io::Error) {
        self.shared.refuse(error);
    }

    /// Writes, without waiting for it where the thread is there.
    pub(super) fn write(&self, write: DirectWrite) {
        let mut queue = self.shared.queue();
        match &queue.waker {
            Some(waker) if !self.shared.is_refused.load(Relaxed) => {
                self.shared.in_flight.fetch_add(1, Relaxed);
                waker.wake();
                queue.writes.push_back(write);
            }
            _ => {
                drop(queue);
                write.write_plain();
            }
        }
    }
}

impl DirectShared {
    fn queue(&self) -> MutexGuard<'_, DirectQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, error: &io::Error) {
        if !self.is_refused.swap(true, Relaxed) {
            tracing::info!(%error, "the store writes through the page cache");
        }
    }

    /// Ends a write that the kernel was to make.
    fn end(&self, end: DirectEnd, result: io::Result<()>) {
        self.in_flight.fetch_sub(1, Relaxed);
        let count = if result.is_ok() { &self.written } else { &self.failed };
        count.fetch_add(1, Relaxed);
        (end.done)(result);
    }

    /// Makes one through the page cache instead.
    fn write_plain(&self, write: DirectWrite) {
        self.in_flight.fetch_sub(1, Relaxed);
        write.write_plain();
    }

    /// Starts the thread, unless it is there.
    fn start(self: &Arc<Self>) -> bool {
        let mut queue = self.queue();
        if queue.waker.is_some() {
            return true;
        }
        let started = Ring::new(WRITES_LEN_MAX).and_then(|ring| {
            let (waker, shared) = (ring.waker(), self.clone());
            std::thread::Builder::new().name("stoq-direct".into()).spawn(move || shared.run(ring))?;
            Ok(waker)
        });
        match started {
            Ok(waker) => queue.waker = Some(waker),
            Err(error) => self.refuse(&error),
        }
        queue.waker.is_some()
    }

    fn run(&self, mut ring: Ring<RingWrite<DirectEnd>>) {
        // As the thread that reads does.
        let _ = give_way();
        let mut over = Vec::new();
        loop {
            while ring.has_room() {
                let Some(write) = self.queue().writes.pop_front() else { break };
                self.push(&mut ring, write);
            }
            if ring.in_flight() == 0 && self.queue().is_closed {
                return;
            }
            if let Err(error) = ring.wait(&mut over) {
                return self.fail(ring, &error);
            }
            for (write, result) in over.drain(..) {
                self.go_on(&mut ring, write, result);
            }
        }
    }

    fn push(&self, ring: &mut Ring<RingWrite<DirectEnd>>, write: DirectWrite) {
        let DirectWrite { file, offset, parts, end } = write;
        if let Err(write) = ring.push(RingWrite::new(file, offset, parts, end)) {
            self.end(write.tag, Err(io::ErrorKind::ResourceBusy.into()));
        }
    }

    fn go_on(
        &self,
        ring: &mut Ring<RingWrite<DirectEnd>>,
        write: RingWrite<DirectEnd>,
        result: io::Result<usize>,
    ) {
        let RingWrite { file, mut offset, mut parts, tag: end, .. } = write;
        match result {
            Ok(0) => return self.end(end, Err(io::ErrorKind::WriteZero.into())),
            Ok(mut len) => {
                offset += len as u64;
                while len > 0
                    && let Some(part) = parts.first_mut()
                {
                    let of_part = len.min(part.len());
                    part.advance(of_part);
                    len -= of_part;
                    if part.is_empty() {
                        parts.remove(0);
                    }
                }
                if parts.is_empty() {
                    return self.end(end, Ok(()));
                }
                if !offset.is_multiple_of(PAGE_BYTES as u64) {
                    // A disk that is full, as a rule: the error is that of the next write.
                    return self.write_plain(DirectWrite { file, offset, parts, end });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                self.refuse(&error);
                return self.write_plain(DirectWrite { file, offset, parts, end });
            }
            Err(error) => return self.end(end, Err(error)),
        }
        self.push(ring, DirectWrite { file, offset, parts, end });
    }

    /// The kernel gives no answers any more: what is on its way ends with an error, and the rest is written through the page cache.
    fn fail(&self, ring: Ring<RingWrite<DirectEnd>>, error: &io::Error) {
        self.refuse(error);
        let waiting = std::mem::take(&mut self.queue().writes);
        ring.give_up().into_iter().for_each(|end| self.end(end, Err(again(error))));
        waiting.into_iter().for_each(|write| self.write_plain(write));
    }
}

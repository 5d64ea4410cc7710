//! Log lines on their way to standard error: a bounded queue, and a thread that writes. Only that thread
//! waits.
//!
//! A stuck reader (a paused terminal, a full pipe, a log collector that hangs) stops only that thread. Lines
//! that find the queue full, and lines that cannot be written, are lost and counted.
//!
//! tracing-appender has such a queue, but its guard prints an error on standard error at the end when the
//! queue is full: with a stuck reader it never returns. Nor does it count lines that could not be written.

use crate::output::is_writable;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::{Parker, Unparker};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use stoq::limits::{LOG_QUEUE_BYTES_MAX, LOG_QUEUE_LINES_MAX};
use tracing_subscriber::fmt::MakeWriter;

/// The writing thread's name.
pub(super) const THREAD: &str = "stoq-log";

/// The handle on the writing thread.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    lines: ArrayQueue<Vec<u8>>,
    /// Bytes queued or being written.
    bytes: AtomicUsize,
    /// Lines queued or being written. Guarded, so that the end can wait for it to become 0.
    pending: Mutex<usize>,
    written: Condvar,
    lost: AtomicU64,
    unparker: Unparker,
}

impl Queue {
    /// Starts the thread that writes to `out`, which may be slow or stuck. It ends with the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(out: File) -> io::Result<Self> {
        let parker = Parker::new();
        let shared = Arc::new(Shared {
            lines: ArrayQueue::new(LOG_QUEUE_LINES_MAX),
            bytes: AtomicUsize::new(0),
            pending: Mutex::new(0),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
            unparker: parker.unparker().clone(),
        });
        let writing = Self(shared.clone());
        std::thread::Builder::new().name(THREAD.into()).spawn(move || writing.write_all(out, &parker))?;
        Ok(Self(shared))
    }

    /// Lines that were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything queued is written, for at most `limit`; returns whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.written.wait_timeout_while(pending, limit, |pending| *pending > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn push(&self, line: &[u8]) {
        let Shared { lines, bytes, pending, lost, unparker, .. } = &*self.0;
        let before = bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= LOG_QUEUE_BYTES_MAX;
        // Counted first: the thread may have written it before this returns.
        *pending.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        if fits && lines.push(line.to_vec()).is_ok() {
            unparker.unpark();
        } else {
            lost.fetch_add(1, Ordering::Relaxed);
            self.settle(line.len());
        }
    }

    /// A line of this length was written or lost.
    fn settle(&self, len: usize) {
        self.0.bytes.fetch_sub(len, Ordering::Relaxed);
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending -= 1;
        if *pending == 0 {
            self.0.written.notify_all();
        }
    }

    fn write_all(&self, mut out: File, parker: &Parker) {
        let (mut taken, mut torn, mut said) = (false, false, 0);
        loop {
            while let Some(line) = self.0.lines.pop() {
                // A torn line must not swallow the head of the next.
                let head = if torn { write(&mut out, b"\n") } else { Ok(()) };
                match head.and_then(|()| write(&mut out, &line)) {
                    Ok(()) => (taken, torn) = (true, false),
                    Err(NotWritten { partly }) => {
                        (taken, torn) = (false, torn | partly);
                        self.0.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                self.settle(line.len());
            }
            let lost = self.lost();
            // Logged once standard error takes lines again. Before that this line would be lost as well.
            if taken && lost > said {
                tracing::warn!(
                    lost = lost - said,
                    "log lines were lost: standard error did not take them in time"
                );
                said = lost;
                continue;
            }
            parker.park();
        }
    }
}

/// A line, or the rest of it, could not be written.
struct NotWritten {
    partly: bool,
}

/// Writes all of `bytes`, however long it takes.
fn write(out: &mut File, bytes: &[u8]) -> Result<(), NotWritten> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&*out, rest) {
            Ok(written) if written > 0 => rest = &rest[written..],
            Err(Errno::INTR) => {}
            // The descriptor is shared with the process' parent, and may be non-blocking.
            Err(Errno::AGAIN) if is_writable(out.as_fd(), None).is_ok() => {}
            _ => return Err(NotWritten { partly: rest.len() < bytes.len() }),
        }
    }
    Ok(())
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// tracing-subscriber writes an event with one call.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

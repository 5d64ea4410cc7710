//! Reads blocks of files for threads that must not wait: by io_uring, or by threads of its own where the kernel has none or forbids it.
//!
//! By io_uring a block is copied from the page cache if that has all of it, and is otherwise read past it (`O_DIRECT`) where the file system can:
//! the bytes go to the memory tier, and a second copy would only push others out.

use super::Store;
use crate::limits::{READ_THREADS_LEN_MAX, READS_LEN_MAX};
use disk_ring::{PAGE_BYTES, Ring, RingRead, RingWaker, Slot, give_way, is_cached};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Called on a thread of the reader with the memory, and the result.
pub(super) type OnBlock = Box<dyn FnOnce(Slot, io::Result<()>) + Send>;

/// What blocks are read from.
pub(super) trait BlockSource: Send + Sync {
    /// Fills `out` from `start` on, and waits for it.
    fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()>;

    /// Whether it is a file. What is none is read by threads alone.
    fn is_file(&self) -> bool;

    /// Its file, opened if need be.
    fn file(&self) -> io::Result<Arc<File>>;

    /// The same, for reads past the page cache; `None` where there are none.
    fn direct(&self) -> Option<Arc<File>>;
}

/// One block to read.
pub(super) struct BlockRead {
    pub(super) source: Box<dyn BlockSource>,
    /// Its first byte.
    pub(super) start: u64,
    pub(super) len: usize,
    pub(super) memory: Slot,
    pub(super) done: OnBlock,
}

/// How a store reads blocks, and how often it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReadState {
    /// By what it reads: `None` before its first read.
    pub by: Option<ReadsBy>,
    /// Blocks that are being read, or wait for it.
    pub in_flight: u64,
    /// Blocks that were copied from the page cache.
    pub cached: u64,
    /// Blocks that were read past it.
    pub direct: u64,
    /// Blocks that were read through it.
    pub buffered: u64,
    /// Blocks that could not be read.
    pub failed: u64,
}

/// What reads a store's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadsBy {
    /// One thread, by io_uring; what is no file, by threads.
    IoUring,
    /// Threads that each wait for the disk.
    Threads,
}

/// Reads blocks. It starts with the first one.
#[derive(Debug)]
pub(super) struct BlockReader {
    /// Whether it may use io_uring.
    ring: bool,
    shared: Arc<ReaderShared>,
}

#[derive(Debug, Default)]
struct ReaderShared {
    queue: Mutex<ReadQueue>,
    /// Wakes threads that wait for a block.
    there: Condvar,
    in_flight: AtomicU64,
    cached: AtomicU64,
    direct: AtomicU64,
    buffered: AtomicU64,
    failed: AtomicU64,
    /// Whether the file system refused a read past the page cache.
    no_direct: AtomicBool,
}

#[derive(Default)]
struct ReadQueue {
    /// Those for io_uring.
    reads: VecDeque<BlockRead>,
    /// Those for threads.
    for_threads: VecDeque<BlockRead>,
    by: Option<ReadsBy>,
    waker: Option<RingWaker>,
    threads: usize,
    /// Threads that wait for a block.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for ReadQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadQueue").field("reads", &self.reads.len()).finish_non_exhaustive()
    }
}

impl Drop for BlockReader {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        if let Some(waker) = &queue.waker {
            waker.wake();
        }
        self.shared.there.notify_all();
    }
}

impl Store {
    /// How blocks are read for answers, and how often they were.
    pub fn reads(&self) -> ReadState {
        self.inner.disk.reader().state()
    }

    /// Finds out by what blocks are read for answers; otherwise their first read does.
    pub fn prepare_reads(&self) -> ReadsBy {
        self.inner.disk.reader().start()
    }
}

impl BlockReader {
    pub(super) fn new(ring: bool) -> Self {
        Self { ring, shared: Arc::default() }
    }

    /// Finds out by what it reads.
    pub(super) fn start(&self) -> ReadsBy {
        self.shared.start(&mut self.shared.queue(), self.ring)
    }

    /// Blocks that are being read for requests, or wait for it.
    pub(super) fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Relaxed)
    }

    pub(super) fn state(&self) -> ReadState {
        let shared = &self.shared;
        ReadState {
            by: shared.queue().by,
            in_flight: shared.in_flight.load(Relaxed),
            cached: shared.cached.load(Relaxed),
            direct: shared.direct.load(Relaxed),
            buffered: shared.buffered.load(Relaxed),
            failed: shared.failed.load(Relaxed),
        }
    }

    /// Reads a block, without waiting for it.
    pub(super) fn read(&self, read: BlockRead) {
        let shared = &self.shared;
        shared.in_flight.fetch_add(1, Relaxed);
        let mut queue = shared.queue();
        let by = shared.start(&mut queue, self.ring);
        if by == ReadsBy::IoUring && read.source.is_file() {
            queue.reads.push_back(read);
            if let Some(waker) = &queue.waker {
                waker.wake();
            }
            return;
        }
        queue.for_threads.push_back(read);
        if queue.for_threads.len() > queue.idle && queue.threads < READ_THREADS_LEN_MAX {
            let thread = shared.clone();
            let builder = std::thread::Builder::new().name(format!("stoq-read-{}", queue.threads));
            match builder.spawn(move || thread.run_threads()) {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => {
                    let reads = std::mem::take(&mut queue.for_threads);
                    drop(queue);
                    tracing::error!(%error, "no thread that reads the store can be started; allow this process more threads");
                    reads.into_iter().for_each(|read| shared.end(read.done, read.memory, Err(again(&error))));
                    return;
                }
                Err(_) => {}
            }
        }
        shared.there.notify_one();
    }
}

impl ReaderShared {
    fn queue(&self) -> MutexGuard<'_, ReadQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, queue: &mut ReadQueue, ring: bool) -> ReadsBy {
        if let Some(by) = queue.by {
            return by;
        }
        let by = if ring { self.start_ring(queue) } else { ReadsBy::Threads };
        *queue.by.insert(by)
    }

    fn start_ring(self: &Arc<Self>, queue: &mut ReadQueue) -> ReadsBy {
        let started = Ring::new(READS_LEN_MAX).and_then(|ring| {
            let (waker, shared) = (ring.waker(), self.clone());
            std::thread::Builder::new().name("stoq-read".into()).spawn(move || shared.run_ring(ring))?;
            Ok(waker)
        });
        match started {
            Ok(waker) => {
                queue.waker = Some(waker);
                tracing::info!("the store reads by io_uring");
                ReadsBy::IoUring
            }
            Err(error) => {
                tracing::info!(%error, threads = READ_THREADS_LEN_MAX, "the store reads by threads: io_uring cannot be used here");
                ReadsBy::Threads
            }
        }
    }

    /// Ends a read.
    fn end(&self, done: OnBlock, memory: Slot, result: io::Result<()>) {
        if result.is_err() {
            self.failed.fetch_add(1, Relaxed);
        }
        self.in_flight.fetch_sub(1, Relaxed);
        done(memory, result);
    }

    /// One of several threads: reads block by block, by the calls of the store's disk.
    fn run_threads(&self) {
        loop {
            let mut queue = self.queue();
            let read = loop {
                if let Some(read) = queue.for_threads.pop_front() {
                    break read;
                }
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                queue = self.there.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            let BlockRead { source, start, len, mut memory, done } = read;
            let result = source.read(start, &mut memory[..len]);
            self.buffered.fetch_add(1, Relaxed);
            self.end(done, memory, result);
        }
    }

    /// The one thread with the ring.
    fn run_ring(&self, mut ring: Ring<RingRead<RingStep>>) {
        // Workers that share a core with it yield while they have no packets. Otherwise it would take the core from them whenever a block arrives.
        let _ = give_way();
        let mut over = Vec::new();
        loop {
            while ring.has_room() {
                let Some(read) = self.queue().reads.pop_front() else { break };
                self.begin(&mut ring, read);
            }
            if ring.in_flight() == 0 && self.queue().closed {
                return;
            }
            if let Err(error) = ring.wait(&mut over) {
                return self.fail_over(ring, &error);
            }
            for (read, result) in over.drain(..) {
                self.go_on(&mut ring, read, result);
            }
        }
    }

    /// The kernel gives no answers any more: what waits is read by threads, and what is on its way ends with an error. Its memory stays with
    /// the kernel.
    fn fail_over(&self, ring: Ring<RingRead<RingStep>>, error: &io::Error) {
        tracing::error!(%error, "io_uring failed: the store reads by threads from now on");
        {
            let mut queue = self.queue();
            queue.by = Some(ReadsBy::Threads);
            queue.threads += 1;
            let waiting = std::mem::take(&mut queue.reads);
            queue.for_threads.extend(waiting);
        }
        for step in ring.give_up() {
            self.end(step.done, Slot::apart(0), Err(again(error)));
        }
        self.run_threads();
    }

    fn begin(&self, ring: &mut Ring<RingRead<RingStep>>, read: BlockRead) {
        let BlockRead { source, start, len, memory, done } = read;
        let step = RingStep { source, start, len, how: How::Cached, done };
        match step.source.file() {
            // Where nothing tells, it is not.
            Ok(file) if is_cached(&file, start, len).unwrap_or(false) => {
                self.push(ring, step, file, memory, 0)
            }
            Ok(file) => self.push_uncached(ring, step, file, memory),
            Err(error) => self.end(step.done, memory, Err(error)),
        }
    }

    /// Reads a block past the page cache, or else through it.
    fn push_uncached(
        &self,
        ring: &mut Ring<RingRead<RingStep>>,
        mut step: RingStep,
        file: Arc<File>,
        memory: Slot,
    ) {
        let direct = self.direct(&step, &memory);
        step.how = if direct.is_some() { How::Direct } else { How::Buffered };
        self.push(ring, step, direct.unwrap_or(file), memory, 0);
    }

    /// Reads what is missing from the byte `at` of a block on.
    fn push(
        &self,
        ring: &mut Ring<RingRead<RingStep>>,
        step: RingStep,
        file: Arc<File>,
        memory: Slot,
        at: usize,
    ) {
        let (offset, cached_only) = (step.start + at as u64, step.how == How::Cached);
        let mut len = step.len - at;
        if step.how == How::Direct {
            len = len.next_multiple_of(PAGE_BYTES);
        }
        let read = RingRead { file, offset, len, memory, at, cached_only, tag: step };
        if let Err(read) = ring.push(read) {
            self.end(read.tag.done, read.memory, Err(io::ErrorKind::ResourceBusy.into()));
        }
    }

    fn go_on(
        &self,
        ring: &mut Ring<RingRead<RingStep>>,
        read: RingRead<RingStep>,
        result: io::Result<usize>,
    ) {
        let RingRead { file, memory, at, tag: mut step, .. } = read;
        match (step.how, result) {
            (how, Ok(len)) if at + len >= step.len => {
                let count = match how {
                    How::Cached => &self.cached,
                    How::Direct => &self.direct,
                    How::Buffered => &self.buffered,
                };
                count.fetch_add(1, Relaxed);
                self.end(step.done, memory, Ok(()));
            }
            // Some of it went meanwhile.
            (How::Cached, _) => self.push_uncached(ring, step, file, memory),
            (How::Direct, result) => {
                match result {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        if !self.no_direct.swap(true, Relaxed) {
                            tracing::info!(
                                "the store reads through the page cache: its file system reads only so"
                            );
                        }
                    }
                    Err(error) => return self.end(step.done, memory, Err(error)),
                    // The end of the file is looked for once more.
                    Ok(_) => {}
                }
                step.how = How::Buffered;
                match step.source.file() {
                    Ok(file) => self.push(ring, step, file, memory, 0),
                    Err(error) => self.end(step.done, memory, Err(error)),
                }
            }
            (How::Buffered, Ok(0)) => self.end(step.done, memory, Err(io::ErrorKind::UnexpectedEof.into())),
            (How::Buffered, Ok(len)) => self.push(ring, step, file, memory, at + len),
            (How::Buffered, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                self.push(ring, step, file, memory, at);
            }
            (How::Buffered, Err(error)) => self.end(step.done, memory, Err(error)),
        }
    }

    /// The file for a read past the page cache, if this one can be.
    fn direct(&self, step: &RingStep, memory: &Slot) -> Option<Arc<File>> {
        let is_aligned = step.start.is_multiple_of(PAGE_BYTES as u64);
        let has_room = memory.len() >= step.len.next_multiple_of(PAGE_BYTES);
        let may = is_aligned && has_room && !self.no_direct.load(Relaxed);
        if may { step.source.direct() } else { None }
    }
}

/// A block on its way through the ring.
struct RingStep {
    source: Box<dyn BlockSource>,
    start: u64,
    len: usize,
    how: How,
    done: OnBlock,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Cached,
    Direct,
    Buffered,
}

/// The same error once more.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::mpsc::channel;

    struct FileSource(Arc<File>);

    impl BlockSource for FileSource {
        fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
            std::os::unix::fs::FileExt::read_exact_at(&*self.0, out, start)
        }

        fn is_file(&self) -> bool {
            true
        }

        fn file(&self) -> io::Result<Arc<File>> {
            Ok(self.0.clone())
        }

        fn direct(&self) -> Option<Arc<File>> {
            None
        }
    }

    #[test]
    fn reads_on_their_way_end_when_io_uring_fails_and_later_ones_are_read_by_threads() {
        let Ok(mut ring) = Ring::new(4) else { return };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"bytes").unwrap();
        let (file, reader) = (Arc::new(file), BlockReader::new(false));
        let (told, ended) = channel();
        let read = |number: u64| {
            let told = told.clone();
            let done = move |memory: Slot, result: io::Result<()>| {
                let bytes = result.map(|()| memory[..5].to_vec());
                told.send((number, bytes.map_err(|error| error.raw_os_error()))).unwrap();
            };
            let (source, memory) = (Box::new(FileSource(file.clone())), Slot::apart(5));
            BlockRead { source, start: 0, len: 5, memory, done: Box::new(done) }
        };
        let shared = reader.shared.clone();
        shared.in_flight.store(3, Relaxed);
        shared.queue().by = Some(ReadsBy::IoUring);
        shared.begin(&mut ring, read(1));
        shared.begin(&mut ring, read(2));
        shared.queue().reads.push_back(read(3));
        let thread = std::thread::spawn(move || shared.fail_over(ring, &io::Error::from_raw_os_error(9)));
        let mut got: Vec<_> = (0..3).map(|_| ended.recv().unwrap()).collect();
        reader.read(read(4));
        got.push(ended.recv().unwrap());
        let whole = Ok(b"bytes".to_vec());
        assert_eq!(got, [(1, Err(Some(9))), (2, Err(Some(9))), (3, whole.clone()), (4, whole)]);
        let state = reader.state();
        assert_eq!((state.by, state.in_flight, state.failed), (Some(ReadsBy::Threads), 0, 2));
        drop(reader);
        thread.join().unwrap();
    }
}

//! Reads and writes of files by io_uring.

use crate::fixed::FixedBlocks;
use crate::job::RingJob;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The user data of the read that a wake ends.
const WAKE: u64 = u64::MAX;

/// Reads or writes that are on their way. It belongs to one thread; a [`RingWaker`] ends its wait.
pub struct Ring<J: RingJob> {
    uring: IoUring,
    fixed: FixedBlocks,
    jobs: Vec<Option<Box<J>>>,
    free: Vec<usize>,
    wake: Arc<OwnedFd>,
    /// What a wake wrote. The kernel writes it while `is_armed`.
    woken: Box<[u8; 8]>,
    is_armed: bool,
}

impl<J: RingJob> fmt::Debug for Ring<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// Ends a ring's wait, from any thread.
#[derive(Clone, Debug)]
pub struct RingWaker(Arc<OwnedFd>);

impl RingWaker {
    /// Ends the wait, or the next one.
    pub fn wake(&self) {
        // It fails only when 2^64 - 2 wakes are not taken: the ring then wakes in any case.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl<J: RingJob> Ring<J> {
    /// A ring for this number of jobs at a time.
    ///
    /// # Errors
    /// The kernel's error where it has no io_uring, or forbids it.
    pub fn new(depth: u16) -> io::Result<Self> {
        let uring = IoUring::new((u32::from(depth) + 1).next_power_of_two())?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        if !J::CODES.iter().chain(&[opcode::Read::CODE]).all(|&code| probe.is_supported(code)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring of this kernel cannot read or write",
            ));
        }
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let jobs = (0..depth).map(|_| None).collect();
        let free = (0..usize::from(depth)).rev().collect();
        let fixed = FixedBlocks::default();
        Ok(Self { uring, fixed, jobs, free, wake, woken: Box::default(), is_armed: false })
    }

    /// A handle that ends [`Ring::wait`].
    pub fn waker(&self) -> RingWaker {
        RingWaker(self.wake.clone())
    }

    /// Jobs on their way.
    pub fn in_flight(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Whether a further job would go.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Begins a job with the next [`Ring::wait`].
    ///
    /// # Errors
    /// The job, if as many as there may be are on their way.
    ///
    /// # Panics
    /// If a read's slot is shorter than the read.
    pub fn push(&mut self, job: J) -> Result<(), J> {
        let Some(place) = self.free.pop() else { return Err(job) };
        let mut job = Box::new(job);
        let entry = job.entry(&self.uring, &mut self.fixed).user_data(place as u64);
        // SAFETY: the file and the memory of the job stay in `jobs`, untouched, until the kernel says that it is over; a ring that is dropped
        // earlier leaks them. The queue has an entry for each place, and one for the wake.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.free.push(place);
            return Err(*job);
        }
        self.jobs[place] = Some(job);
        Ok(())
    }

    /// Begins the jobs that were pushed, and waits until one is over or a wake comes. Appends those that are over to `done`, with the number
    /// of bytes read or written.
    ///
    /// # Errors
    /// The kernel's error. Jobs stay on their way.
    pub fn wait(&mut self, done: &mut Vec<(J, io::Result<usize>)>) -> io::Result<()> {
        if !self.is_armed {
            let fd = types::Fd(self.wake.as_raw_fd());
            let entry = opcode::Read::new(fd, self.woken.as_mut_ptr(), 8).build().user_data(WAKE);
            // SAFETY: the counter and its file stay until this read is over, or are leaked.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                self.is_armed = true;
            }
        }
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy) => {}
            Err(error) => return Err(error),
        }
        for over in self.uring.completion() {
            if over.user_data() == WAKE {
                self.is_armed = false;
                continue;
            }
            let place = over.user_data() as usize;
            let Some(job) = self.jobs.get_mut(place).and_then(Option::take) else { continue };
            self.free.push(place);
            let result = usize::try_from(over.result());
            done.push((*job, result.map_err(|_| io::Error::from_raw_os_error(-over.result()))));
        }
        Ok(())
    }

    /// Ends the ring. Returns the callers' own of the jobs that are on their way; their files and memory stay with the kernel.
    pub fn give_up(mut self) -> Vec<J::Tag> {
        self.leave_jobs()
    }

    fn leave_jobs(&mut self) -> Vec<J::Tag> {
        // The kernel may still use them: a device that hangs never says when.
        self.jobs.drain(..).flatten().map(|job| (*job).leave()).collect()
    }
}

impl<J: RingJob> Drop for Ring<J> {
    fn drop(&mut self) {
        drop(self.leave_jobs());
        if self.is_armed {
            std::mem::forget(std::mem::take(&mut self.woken));
            std::mem::forget(self.wake.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::read::RingRead;
    use crate::slabs::Slabs;
    use crate::write::RingWrite;
    use bytes::Bytes;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use std::fs::File;
    use std::io::Write;
    use std::ptr::{self, NonNull};
    use std::sync::Mutex;

    fn read(file: &Arc<File>, slabs: &Slabs, offset: u64, len: usize, tag: u64) -> RingRead<u64> {
        let memory = slabs.take(len).unwrap();
        RingRead { file: file.clone(), offset, len, memory, at: 0, cached_only: false, tag }
    }

    #[test]
    fn reads_end_in_any_order_with_their_bytes_and_a_wake_ends_a_wait() {
        let mut ring = match Ring::<RingRead<u64>>::new(4) {
            Ok(ring) => ring,
            // A kernel or a container that forbids it says so, and the caller reads by threads.
            Err(error) => {
                let refused = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported];
                return assert!(refused.contains(&error.kind()), "{error}");
            }
        };
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
        file.write_all(&data).unwrap();
        let (file, slabs) = (Arc::new(file), Slabs::of_heap(8, 1 << 20));
        for tag in 0..4 {
            ring.push(read(&file, &slabs, tag * 20_000, 30_000, tag)).unwrap();
        }
        assert!(ring.push(read(&file, &slabs, 0, 1, 9)).is_err(), "four at a time");
        assert!(!ring.has_room());
        let mut done = Vec::new();
        while done.len() < 4 {
            ring.wait(&mut done).unwrap();
        }
        for (read, result) in &done {
            assert_eq!(result.as_ref().unwrap(), &30_000);
            assert_eq!(read.memory[..30_000], data[read.tag as usize * 20_000..][..30_000]);
        }
        assert_eq!(ring.in_flight(), 0);
        // Past the end there is nothing.
        ring.push(read(&file, &slabs, 200_000, 10, 5)).unwrap();
        done.clear();
        while done.is_empty() {
            ring.wait(&mut done).unwrap();
        }
        assert_eq!(done[0].1.as_ref().unwrap(), &0);
        let waker = ring.waker();
        std::thread::spawn(move || waker.wake());
        done.clear();
        ring.wait(&mut done).unwrap();
        assert!(done.is_empty());
        drop(done);
        drop(ring);
        assert_eq!(slabs.stats().slots, 0);
    }

    /// A block that says of itself that it is in huge pages. The test owns its pages.
    #[derive(Debug)]
    struct Huge(NonNull<u8>);

    // SAFETY: a pointer to memory that no other holder touches.
    unsafe impl Send for Huge {}
    // SAFETY: as for `Send`.
    unsafe impl Sync for Huge {}

    const HUGE_BYTES: usize = 1 << 16;

    // SAFETY: the test gives the pages back after the slots and the rings.
    unsafe impl Memory for Huge {
        fn start(&self) -> NonNull<u8> {
            self.0
        }

        fn len(&self) -> usize {
            HUGE_BYTES
        }

        fn is_huge(&self) -> bool {
            true
        }
    }

    #[test]
    fn blocks_in_huge_pages_are_registered_once_and_one_at_the_address_of_another_for_itself() {
        let Ok(mut ring) = Ring::<RingRead<u64>>::new(4) else { return };
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
        file.write_all(&data).unwrap();
        let file = Arc::new(file);
        let mut start = ptr::null_mut();
        for round in 0..3 {
            let flags = if round == 0 { MapFlags::PRIVATE } else { MapFlags::PRIVATE | MapFlags::FIXED };
            // SAFETY: the kernel chooses the address of the first ones; later ones take the places of those that nothing refers to any more.
            start = unsafe {
                mmap_anonymous(start, HUGE_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags).unwrap()
            };
            let block = Mutex::new(NonNull::new(start.cast()).map(Huge));
            let slabs = Slabs::new(1, HUGE_BYTES, move || Some(Box::new(block.lock().unwrap().take()?) as _));
            for turn in 0..2 {
                let places = [0, 1].map(|tag| (round * 2 + turn + tag) * 7000);
                places.iter().for_each(|&at| ring.push(read(&file, &slabs, at, 20_000, at)).unwrap());
                let mut done = Vec::new();
                while done.len() < 2 {
                    ring.wait(&mut done).unwrap();
                }
                for (read, result) in &done {
                    assert_eq!(result.as_ref().unwrap(), &20_000);
                    assert_eq!(read.memory[..20_000], data[read.tag as usize..][..20_000]);
                    assert_eq!(read.memory.memory().unwrap().start.as_ptr(), start.cast());
                }
                // Kernels before 5.19, and limits of what a process pins, leave none.
                assert!([0, round as usize + 1].contains(&ring.fixed.len()), "{} blocks", ring.fixed.len());
            }
        }
        drop(ring);
        // SAFETY: mapped above, and nothing refers to it any more.
        unsafe { munmap(start, HUGE_BYTES) }.unwrap();
    }

    #[test]
    fn writes_of_one_part_and_of_many_end_with_their_length_and_one_that_may_not_be_with_its_error() {
        let Ok(mut ring) = Ring::<RingWrite<u64>>::new(4) else { return };
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
        let data: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
        let data = Bytes::from(data);
        let parts = vec![data.slice(40_000..40_001), data.slice(40_001..90_000), data.slice(90_000..)];
        ring.push(RingWrite::new(file.clone(), 40_000, parts, 1)).unwrap();
        ring.push(RingWrite::new(file.clone(), 0, vec![data.slice(..40_000)], 2)).unwrap();
        let read_only = Arc::new(File::open(&path).unwrap());
        ring.push(RingWrite::new(read_only, 0, vec![data.slice(..10)], 3)).unwrap();
        let mut done = Vec::new();
        while done.len() < 3 {
            ring.wait(&mut done).unwrap();
        }
        done.sort_by_key(|(write, _)| write.tag);
        let ends: Vec<_> = done.iter().map(|(_, result)| result.as_ref().ok().copied()).collect();
        assert_eq!(ends, [Some(60_000), Some(40_000), None]);
        assert_eq!(std::fs::read(&path).unwrap(), data);
        drop(done);
        assert!(data.try_into_mut().is_ok(), "the ring has given the parts back");
    }

    #[test]
    fn a_ring_that_is_given_up_returns_the_tags_of_its_reads_and_leaves_their_slots_to_the_kernel() {
        let Ok(mut ring) = Ring::<RingRead<u64>>::new(4) else { return };
        let (quiet, slabs) =
            (Arc::new(File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap())), Slabs::of_heap(8, 1 << 20));
        let waker = ring.waker();
        for tag in 0..3 {
            ring.push(read(&quiet, &slabs, 0, 8, tag)).unwrap();
        }
        // The kernel has them; none of them ends.
        waker.wake();
        ring.wait(&mut Vec::new()).unwrap();
        assert_eq!(ring.give_up(), [0, 1, 2]);
        assert_eq!(slabs.stats().slots, 3);
    }
}

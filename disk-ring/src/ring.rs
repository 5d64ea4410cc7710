//! Reads of files by io_uring.

use crate::fixed::FixedBlocks;
use crate::slabs::Slot;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The user data of the read that a wake ends.
const WAKE: u64 = u64::MAX;
/// Linux's flag of a read that does not wait.
const RWF_NOWAIT: i32 = 8;

/// A read of a file into a slot. The ring owns both until it is over.
#[derive(Debug)]
pub struct RingRead<T> {
    /// The file.
    pub file: Arc<File>,
    /// The place in the file, bytes.
    pub offset: u64,
    /// The bytes to read, at most those of the slot.
    pub len: usize,
    /// Where they go.
    pub memory: Slot,
    /// Their place there, bytes.
    pub at: usize,
    /// Whether the read fails with [`io::ErrorKind::WouldBlock`] unless the page cache has its first bytes.
    pub cached_only: bool,
    /// The caller's own.
    pub tag: T,
}

/// Reads that are on their way. It belongs to one thread; a [`RingWaker`] ends its wait.
pub struct Ring<T> {
    uring: IoUring,
    fixed: FixedBlocks,
    reads: Vec<Option<Box<RingRead<T>>>>,
    free: Vec<usize>,
    wake: Arc<OwnedFd>,
    /// What a wake wrote. The kernel writes it while `is_armed`.
    woken: Box<[u8; 8]>,
    is_armed: bool,
}

impl<T> fmt::Debug for Ring<T> {
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

impl<T> Ring<T> {
    /// A ring for this number of reads at a time.
    ///
    /// # Errors
    /// The kernel's error where it has no io_uring, or forbids it.
    pub fn new(depth: u16) -> io::Result<Self> {
        let uring = IoUring::new((u32::from(depth) + 1).next_power_of_two())?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of this kernel cannot read"));
        }
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let reads = (0..depth).map(|_| None).collect();
        let free = (0..usize::from(depth)).rev().collect();
        let fixed = FixedBlocks::default();
        Ok(Self { uring, fixed, reads, free, wake, woken: Box::default(), is_armed: false })
    }

    /// A handle that ends [`Ring::wait`].
    pub fn waker(&self) -> RingWaker {
        RingWaker(self.wake.clone())
    }

    /// Reads on their way.
    pub fn in_flight(&self) -> usize {
        self.reads.len() - self.free.len()
    }

    /// Whether a further read would go.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Begins a read with the next [`Ring::wait`].
    ///
    /// # Errors
    /// The read, if as many as there may be are on their way.
    ///
    /// # Panics
    /// If the slot is shorter than the read.
    pub fn push(&mut self, read: RingRead<T>) -> Result<(), RingRead<T>> {
        assert!(
            read.at.checked_add(read.len).is_some_and(|end| end <= read.memory.len()),
            "the slot has room for the read"
        );
        let Some(place) = self.free.pop() else { return Err(read) };
        let mut read = Box::new(read);
        let (file, flags) = (types::Fd(read.file.as_raw_fd()), if read.cached_only { RWF_NOWAIT } else { 0 });
        let len = u32::try_from(read.len).unwrap_or(u32::MAX);
        let start = read.memory.start().wrapping_add(read.at);
        let entry = match self.fixed.place(&self.uring, &read.memory) {
            Some(block) => {
                let entry = opcode::ReadFixed::new(file, start, len, block);
                entry.offset(read.offset).rw_flags(flags).build()
            }
            None => opcode::Read::new(file, start, len).offset(read.offset).rw_flags(flags).build(),
        };
        let entry = entry.user_data(place as u64);
        // SAFETY: the file and the slot stay in `reads`, untouched, until the kernel says that the read is over; a ring that is dropped
        // earlier leaks them. The queue has an entry for each place, and one for the wake.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.free.push(place);
            return Err(*read);
        }
        self.reads[place] = Some(read);
        Ok(())
    }

    /// Begins the reads that were pushed, and waits until one is over or a wake comes. Appends those that are over to `done`, with the number
    /// of bytes read.
    ///
    /// # Errors
    /// The kernel's error. Reads stay on their way.
    pub fn wait(&mut self, done: &mut Vec<(RingRead<T>, io::Result<usize>)>) -> io::Result<()> {
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
            let Some(read) = self.reads.get_mut(place).and_then(Option::take) else { continue };
            self.free.push(place);
            let result = usize::try_from(over.result());
            done.push((*read, result.map_err(|_| io::Error::from_raw_os_error(-over.result()))));
        }
        Ok(())
    }

    /// Ends the ring. Returns the callers' own of the reads that are on their way; their files and slots stay with the kernel.
    pub fn give_up(mut self) -> Vec<T> {
        self.leave_reads()
    }

    fn leave_reads(&mut self) -> Vec<T> {
        // The kernel may still write there: a device that hangs never says when.
        let leave = |read: Box<RingRead<T>>| {
            let RingRead { file, memory, tag, .. } = *read;
            std::mem::forget((file, memory));
            tag
        };
        self.reads.drain(..).flatten().map(leave).collect()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        drop(self.leave_reads());
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
    use crate::slabs::Slabs;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use std::io::Write;
    use std::ptr::{self, NonNull};
    use std::sync::Mutex;

    fn read(file: &Arc<File>, slabs: &Slabs, offset: u64, len: usize, tag: u64) -> RingRead<u64> {
        let memory = slabs.take(len).unwrap();
        RingRead { file: file.clone(), offset, len, memory, at: 0, cached_only: false, tag }
    }

    #[test]
    fn reads_end_in_any_order_with_their_bytes_and_a_wake_ends_a_wait() {
        let mut ring = match Ring::<u64>::new(4) {
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
        let Ok(mut ring) = Ring::<u64>::new(4) else { return };
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
    fn a_ring_that_is_given_up_returns_the_tags_of_its_reads_and_leaves_their_slots_to_the_kernel() {
        let Ok(mut ring) = Ring::<u64>::new(4) else { return };
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

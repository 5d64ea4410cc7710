//! How much the disk has free. A look costs a walk of the path in the kernel: short payloads share one.

use crate::limits::DISK_ROOM_BYTES_MIN;
use std::io;
use std::sync::{Mutex, PoisonError};

/// What a look found, less what was needed since.
#[derive(Debug, Default)]
pub(super) struct DiskRoom(Mutex<Look>);

#[derive(Debug, Default)]
struct Look {
    /// The store's time of the look, seconds since the Unix epoch; 0 while the clock is in doubt.
    at_s: u64,
    left_bytes: u64,
}

impl DiskRoom {
    /// Bytes that are free on a disk of which `need_bytes` are about to be taken. The last look counts within its second, as long as it leaves
    /// room for what others write meanwhile.
    ///
    /// # Errors
    /// Those of the look.
    pub(super) fn available(
        &self,
        need_bytes: u64,
        now_s: u64,
        look: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = now_s != 0 && last.at_s == now_s;
        if !is_recent || last.left_bytes < need_bytes.saturating_add(DISK_ROOM_BYTES_MIN) {
            *last = Look { at_s: now_s, left_bytes: look()? };
        }
        let available_bytes = last.left_bytes;
        last.left_bytes = available_bytes.saturating_sub(need_bytes);
        Ok(available_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Disk, Lease, Store, StoreConfig, StoreError};
    use crate::token::Token;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn a_look_counts_for_its_second_and_never_near_the_end_of_the_disk() {
        let room = DiskRoom::default();
        let looks = std::cell::Cell::new(0);
        let ask = |need_bytes, now_s, free_bytes| {
            let look = || Ok(free_bytes).inspect(|_| looks.set(looks.get() + 1));
            (room.available(need_bytes, now_s, look).unwrap(), looks.get())
        };
        let free_bytes = DISK_ROOM_BYTES_MIN + 100;
        assert_eq!(ask(40, 7, free_bytes), (free_bytes, 1));
        assert_eq!(ask(40, 7, 0), (free_bytes - 40, 1), "the same second, and what was needed is not free");
        assert_eq!(ask(40, 7, 50), (50, 2), "too little is left to trust the look");
        assert_eq!(ask(40, 7, 20), (20, 3));
        assert_eq!(ask(1, 8, free_bytes), (free_bytes, 4), "another second");
        assert_eq!(ask(1, 0, free_bytes), (free_bytes, 5), "no time is known");
        assert_eq!(ask(1, 0, free_bytes), (free_bytes, 6));
    }

    #[test]
    fn a_look_that_fails_counts_for_none() {
        let room = DiskRoom::default();
        assert!(room.available(1, 7, || Err(io::Error::other("gone"))).is_err());
        assert_eq!(room.available(1, 7, || Ok(9)).unwrap(), 9);
    }

    /// A disk with this much free, which counts the looks.
    #[derive(Debug)]
    struct CountedDisk {
        free_bytes: AtomicU64,
        looks: AtomicU64,
    }

    impl Disk for CountedDisk {
        fn available_bytes(&self, _: &Path) -> io::Result<u64> {
            self.looks.fetch_add(1, Relaxed);
            Ok(self.free_bytes.load(Relaxed))
        }
    }

    #[test]
    fn short_payloads_of_a_second_share_a_look_and_one_that_finds_the_disk_full_refuses() {
        let free_bytes = AtomicU64::new(2 * DISK_ROOM_BYTES_MIN);
        let disk = Arc::new(CountedDisk { free_bytes, looks: AtomicU64::default() });
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_on(directory.path(), StoreConfig::default(), disk.clone()).unwrap();
        let begin = |number: u32, now_s| {
            store.begin(Token::of(&number.to_be_bytes()), 4, Lease::default(), now_s).map(drop)
        };
        for number in 0..1000 {
            begin(number, 7).unwrap();
        }
        assert_eq!(disk.looks.load(Relaxed), 1);
        disk.free_bytes.store(0, Relaxed);
        assert!(matches!(begin(0, 8), Err(StoreError::DiskFull { available_bytes: 0, .. })));
    }
}

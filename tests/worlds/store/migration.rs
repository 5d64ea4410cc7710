//! The layout of versions before the database is taken over: through a crash at each change of the disk nothing is lost, and no crash is damage.

use super::*;
use crate::earlier::{downgrade, to_layout};

impl Over {
    /// Opens an earlier layout, crashes at this change, and examines what is left. Returns whether there was no such change.
    fn take_over_and_crash(&self, earlier: &Path, (seed, at): (u64, u64), random: &mut StdRng) -> bool {
        let disk = Arc::new(FaultyDisk::new(earlier, seed, Fault::Crash(at), None));
        let is_open = Store::open_on(earlier, StoreConfig::default(), disk.clone()).is_ok();
        let left = scratch();
        disk.survivors(left.path(), random.random());
        Left::open(left, self.promises.clone(), self.now_s).examine();
        is_open && at >= disk.steps()
    }

    /// Opens an earlier layout while this change fails, and examines what is there then. Returns whether there was no such change.
    fn take_over_on_a_failing_disk(self, seed: u64, at: u64) -> bool {
        let fault = Fault::Fails(at, 1, [FAILURE, NO_SPACE][at as usize % 2]);
        let disk = Arc::new(FaultyDisk::new(self.directory.path(), seed, fault, None));
        drop(Store::open_on(self.directory.path(), StoreConfig::default(), disk.clone()));
        let is_over = at >= disk.steps();
        Left::open(self.directory, self.promises, self.now_s).examine();
        is_over
    }
}

#[test]
fn a_crash_while_the_earlier_layout_is_taken_over_loses_nothing() {
    for seed in 1..7 {
        let random = &mut StdRng::seed_from_u64(seed);
        let made = || {
            let over = run(seed, Fault::None, None);
            let store = Store::open(over.directory.path(), StoreConfig::default()).unwrap();
            downgrade(over.directory.path(), store);
            over
        };
        for at in 0.. {
            let over = made();
            if over.take_over_and_crash(over.directory.path(), (seed, at), random) {
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_fails_while_the_earlier_layout_is_taken_over_loses_nothing() {
    for seed in 1..4 {
        for at in 0.. {
            let over = run(seed, Fault::None, None);
            let store = Store::open(over.directory.path(), StoreConfig::default()).unwrap();
            downgrade(over.directory.path(), store);
            if over.take_over_on_a_failing_disk(seed, at) {
                break;
            }
        }
    }
}

#[test]
fn a_crash_while_the_layout_before_checks_is_taken_over_loses_nothing() {
    for seed in 1..5 {
        let random = &mut StdRng::seed_from_u64(seed);
        for at in 0.. {
            // Every other one was killed, and has a journal.
            let fault = if at % 2 == 0 { Fault::None } else { Fault::Crash(60 + seed * 10) };
            let over = run(seed, fault, None);
            let earlier = scratch();
            over.disk.survivors(earlier.path(), seed);
            if !earlier.path().join("store.redb").exists() {
                continue;
            }
            to_layout(earlier.path(), 3);
            if over.take_over_and_crash(earlier.path(), (seed, at), random) {
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_while_the_layout_before_checks_is_taken_over_loses_nothing() {
    for at in 0.. {
        let over = run(3, Fault::None, None);
        to_layout(over.directory.path(), 3);
        if over.take_over_on_a_failing_disk(3, at) {
            break;
        }
    }
}

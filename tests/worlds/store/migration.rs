//! The layout of versions before the database is taken over: through a crash at each change of the disk nothing is lost, and no crash is damage.

use super::*;
use crate::earlier::{downgrade, to_layout};

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
            let disk = Arc::new(FaultyDisk::new(over.directory.path(), seed, Fault::Crash(at), None));
            let opened = Store::open_on(over.directory.path(), StoreConfig::default(), disk.clone());
            let is_open = opened.is_ok();
            drop(opened);
            let left = scratch();
            disk.survivors(left.path(), random.random());
            Left::open(left, over.promises.clone(), over.now_s).examine();
            if is_open && at >= disk.steps() {
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
            let fault = Fault::Fails(at, 1, [FAILURE, NO_SPACE][at as usize % 2]);
            let disk = Arc::new(FaultyDisk::new(over.directory.path(), seed, fault, None));
            drop(Store::open_on(over.directory.path(), StoreConfig::default(), disk.clone()));
            let is_over = at >= disk.steps();
            Left::open(over.directory, over.promises, over.now_s).examine();
            if is_over {
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
            let disk = Arc::new(FaultyDisk::new(earlier.path(), seed, Fault::Crash(at), None));
            let opened = Store::open_on(earlier.path(), StoreConfig::default(), disk.clone());
            let is_open = opened.is_ok();
            drop(opened);
            let left = scratch();
            disk.survivors(left.path(), random.random());
            Left::open(left, over.promises.clone(), over.now_s).examine();
            if is_open && at >= disk.steps() {
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
        let fault = Fault::Fails(at, 1, [NO_SPACE, FAILURE][at as usize % 2]);
        let disk = Arc::new(FaultyDisk::new(over.directory.path(), 3, fault, None));
        drop(Store::open_on(over.directory.path(), StoreConfig::default(), disk.clone()));
        let is_over = at >= disk.steps();
        Left::open(over.directory, over.promises, over.now_s).examine();
        if is_over {
            break;
        }
    }
}

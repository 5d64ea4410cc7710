//! The layout of versions before the database is taken over: through a crash at each change of the disk nothing is lost, and no crash is damage.

use super::*;
use crate::earlier::downgrade;

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

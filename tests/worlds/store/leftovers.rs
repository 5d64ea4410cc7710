//! What a crash left is removed, and a second crash brings it back when nothing else tells of the first one.

use super::*;
use crate::samples::PARITY;

fn put_lanes(store: &Store, lanes: Lanes) {
    let mut writer = store.begin_set(samples().descriptor, lanes, Lease::default(), 0).unwrap();
    let parts: Vec<_> = writer.parts().cloned().collect();
    for part in parts {
        for piece in pieces(blob(part.blob), &part.selection) {
            writer.write(part.blob, &piece).unwrap();
        }
    }
    writer.commit().unwrap();
}

#[test]
fn files_that_became_a_payload_do_not_outlive_it_in_a_crash() {
    // Of each kind of disk: some sync all names at once.
    for seed in 0..8 {
        let directory = scratch();
        let disk = Arc::new(FaultyDisk::new(directory.path(), seed, Fault::None, None));
        let store = Store::open_on(directory.path(), StoreConfig::default(), disk.clone()).unwrap();
        let [first, second] = [4, 5].map(|lane| Lanes::first(lane + 1).without(Lanes::first(lane)));
        put_lanes(&store, first.union(Lanes::first(1)));
        put_lanes(&store, second);
        let payload = samples().payloads[PARITY].token;
        assert!(store.get(&payload).unwrap().is_some(), "the parity has become a payload");
        store.remove(payload).unwrap();
        store.sync_removals().unwrap();
        for crash in 0..32 {
            let left = scratch();
            disk.survivors(left.path(), crash);
            Left::open(left, Promises::new(), 0).examine_as_it_is();
        }
    }
}

#[test]
fn a_crash_while_a_store_is_opened_is_no_damage_either() {
    for seed in 0..200 {
        let random = &mut StdRng::seed_from_u64(seed);
        let steps = run(seed, Fault::None, None).disk.steps();
        let first = run(seed, Fault::Crash(random.random_range(0..steps)), None);
        let crash = random.random();
        for at in 0.. {
            let left = scratch();
            first.disk.survivors(left.path(), crash);
            let disk = Arc::new(FaultyDisk::new(left.path(), seed, Fault::Crash(at), None));
            let opened = Store::open_on(left.path(), StoreConfig::default(), disk.clone());
            let is_open = opened.is_ok();
            drop(opened);
            for crash in 0..4 {
                let again = scratch();
                disk.survivors(again.path(), crash);
                Left::open(again, first.promises.clone(), first.now_s).examine_as_it_is();
            }
            // Later changes are of its closing.
            if is_open && at >= disk.steps() {
                break;
            }
        }
    }
}

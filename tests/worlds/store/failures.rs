//! One change of the disk fails, each in its turn: the promises made after it hold.

use super::*;

/// Opens a store on a disk of which this change fails; `None` if that keeps it closed.
fn open(directory: &TempDir, seed: u64, at: u64) -> (Arc<FaultyDisk>, Option<Store>) {
    let disk = Arc::new(FaultyDisk::new(directory.path(), seed, Fault::Fails(at, 1, FAILURE), None));
    let store = Store::open_on(directory.path(), StoreConfig::default(), disk.clone());
    (disk, store.ok())
}

fn put(store: &Store, number: usize) -> Result<(), StoreError> {
    let sample = &samples().payloads[number];
    let mut writer = store.begin(sample.token, sample.bytes.len() as u64, Lease::default(), 0)?;
    sample.pieces.iter().try_for_each(|piece| writer.write(piece))?;
    writer.commit().map(drop)
}

#[test]
fn a_put_after_a_change_that_failed_survives_a_crash() {
    const NUMBER: usize = 2;
    let kept = Promise { until_s: Some(u64::MAX), ..Promise::default() };
    for seed in 0..8 {
        for at in 0.. {
            let directory = scratch();
            let (disk, store) = open(&directory, seed, at);
            let Some(store) = store else { continue };
            if put(&store, NUMBER).is_err() {
                put(&store, NUMBER).expect("the disk works again");
            }
            drop(store);
            for crash in 0..6 {
                let left = scratch();
                disk.survivors(left.path(), crash);
                let promises = Promises::from([(samples().payloads[NUMBER].token.into(), kept)]);
                Left::open(left, promises, 0).examine_as_it_is();
            }
            if at >= disk.steps() {
                break;
            }
        }
    }
}

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

fn put_lanes(store: &Store, lanes: &str) -> Result<(), StoreError> {
    let mut writer = store.begin_set(samples().descriptor, lanes.parse().unwrap(), Lease::default(), 0)?;
    let parts: Vec<_> = writer.parts().cloned().collect();
    for part in parts {
        let made = pieces(blob(part.blob), &part.selection);
        made.iter().try_for_each(|piece| writer.write(part.blob, piece))?;
    }
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

#[test]
fn blocks_of_lanes_whose_put_failed_are_charged() {
    let begun = {
        let directory = scratch();
        let (disk, store) = open(&directory, 0, u64::MAX - 1);
        let store = store.unwrap();
        put_lanes(&store, "0").unwrap();
        disk.steps()
    };
    let mut failed = 0;
    for at in begun.. {
        let directory = scratch();
        let (disk, store) = open(&directory, 0, at);
        let store = store.unwrap();
        put_lanes(&store, "0").unwrap();
        failed += usize::from(put_lanes(&store, "1-2").is_err());
        let is_later = at >= disk.steps();
        assert_charged(directory.path(), &store);
        if is_later {
            break;
        }
        // Others are claimed, and those of the failed put are there as before.
        put_lanes(&store, "4").unwrap();
        assert_charged(directory.path(), &store);
        let usage_bytes = store.usage_bytes();
        drop(store);
        let store = Store::open(directory.path(), StoreConfig::default()).unwrap();
        assert_eq!(store.usage_bytes(), usage_bytes, "opened again, it counts the same");
    }
    assert!(failed > 4, "{failed} puts failed");
}

#[test]
fn nothing_is_left_of_lanes_whose_put_failed() {
    let (mut failed, mut is_over) = (0, false);
    for at in 0.. {
        let directory = scratch();
        let (disk, store) = open(&directory, 0, at);
        let Some(store) = store else { continue };
        if put_lanes(&store, "1-4").is_ok() {
            // Both blobs become whole, and a payload each.
            failed += usize::from(put_lanes(&store, "0,5").is_err());
            is_over = at >= disk.steps();
        }
        drop(store);
        Left::open(directory, Promises::new(), 0).examine_as_it_is();
        if is_over {
            break;
        }
    }
    assert!(failed > 16, "{failed} puts failed");
}

//! Blocks that files take ahead of their bytes.

use super::*;
use crate::limits::ALLOCATION_STEP_BYTES;
use crate::seed::StoreError;
use std::os::unix::fs::MetadataExt;

/// A disk that notes allocations and what is written back, and may refuse them.
#[derive(Debug, Default)]
struct AllocatingDisk {
    asked: Mutex<Vec<(u64, u64)>>,
    /// What was to be written back.
    begun: Mutex<Vec<(u64, u64)>>,
    error: Option<Errno>,
}

impl Disk for AllocatingDisk {
    fn begin_write_back(&self, _: &File, offset: u64, len: u64) -> io::Result<()> {
        self.begun.lock().unwrap().push((offset, len));
        // A sync writes what this does not.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.asked.lock().unwrap().push((offset, len));
        match self.error {
            Some(error) => Err(error.into()),
            None => MachineDisk.allocate(file, offset, len),
        }
    }
}

fn store(error: Option<Errno>) -> (tempfile::TempDir, Arc<AllocatingDisk>, Store) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(AllocatingDisk { error, ..AllocatingDisk::default() });
    let store = Store::open_on(dir.path(), StoreConfig::default(), disk.clone()).unwrap();
    (dir, disk, store)
}

#[test]
fn a_file_takes_blocks_in_steps_ahead_of_its_bytes_and_is_as_long_as_these() {
    const STEP: u64 = ALLOCATION_STEP_BYTES;
    let (dir, disk, store) = store(None);
    let data = payload(2 * STEP as usize + 100_000, 1);
    let (token, pieces) = pieces(&data);
    let mut writer = store.begin(token, data.len() as u64, Lease::default(), 0).unwrap();
    let path = || {
        let mut found = std::fs::read_dir(dir.path().join("tmp")).unwrap().map(|entry| entry.unwrap().path());
        found.find(|path| path.extension().is_some_and(|kind| kind == "blob")).unwrap()
    };
    let mut written = 0;
    for piece in &pieces {
        writer.write(piece).unwrap();
        written += piece.data.len() as u64;
        let file = std::fs::metadata(path()).unwrap();
        assert_eq!(file.len(), written, "its length is that of its proven bytes");
        let least = written.next_multiple_of(STEP).min(data.len() as u64);
        assert!(file.blocks() * 512 >= least, "{} bytes are taken for {written}", file.blocks() * 512);
    }
    assert_eq!(*disk.asked.lock().unwrap(), [(0, STEP), (STEP, STEP), (2 * STEP, 100_000)]);
    assert_eq!(*disk.begun.lock().unwrap(), [(0, STEP), (STEP, STEP)], "whole steps go to the disk at once");
    writer.commit().unwrap();
    let path = dir.path().join("data").join(&token.hex()[..2]).join(format!("{}.blob", token.hex()));
    let file = std::fs::metadata(path).unwrap();
    assert_eq!(file.len(), data.len() as u64);
    assert!(file.blocks() * 512 <= file.len() + 65_536, "nothing is taken behind its end");
}

#[test]
fn what_arrives_far_ahead_and_what_is_short_is_allocated_as_it_is_written() {
    let (_dir, disk, store) = store(None);
    let data = payload(3 * ALLOCATION_STEP_BYTES as usize, 1);
    let (token, pieces) = pieces(&data);
    let mut writer = store.begin(token, data.len() as u64, Lease::default(), 0).unwrap();
    writer.write(pieces.last().unwrap()).unwrap();
    assert!(disk.asked.lock().unwrap().is_empty(), "nothing before it was proven");
    assert!(disk.begun.lock().unwrap().is_empty(), "bytes before it are missing");
    pieces[..pieces.len() - 1].iter().for_each(|piece| writer.write(piece).unwrap());
    writer.commit().unwrap();
    assert_eq!(disk.asked.lock().unwrap().len(), 3);
    put(&store, &payload(1 << 20, 2));
    assert_eq!(disk.asked.lock().unwrap().len(), 3);
}

#[test]
fn a_file_system_that_allocates_nothing_is_asked_once_and_a_full_one_ends_the_put() {
    let data = payload(2 * ALLOCATION_STEP_BYTES as usize, 1);
    for error in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL] {
        let (_dir, disk, store) = store(Some(error));
        let token = put(&store, &data);
        assert_eq!(disk.asked.lock().unwrap().len(), 1, "{error}");
        assert!(store.get(&token).unwrap().is_some());
    }
    let (dir, _, store) = store(Some(Errno::NOSPC));
    let (token, pieces) = pieces(&data);
    let mut writer = store.begin(token, data.len() as u64, Lease::default(), 0).unwrap();
    assert!(matches!(writer.write(&pieces[0]), Err(StoreError::DiskFull { .. })));
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

//! The store on disk and the memory tier before it.

mod clock;
mod damage;
mod database;
mod earlier;
mod journal;
#[path = "../data/mod.rs"]
mod data;
mod leases;
mod listing;
mod removals;
mod room;
mod rows;
mod salvage;
mod sets;
mod short;

use data::payload;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use stoq::limits::{STORE_FILE_BYTES, STORE_ROW_BYTES, STORE_ROWS_BYTES};
use stoq::record::ErrorCode;
use stoq::seed::{Lease, MemoryPages, MemoryTier, OpenPayload, Store, StoreConfig, StoreError};
use stoq::token::{
    EncodedPiece, Outboard, Ranges, Selection, Token, VerifiedDecoder, VerifiedEncoder, VerifiedPiece,
};
use tempfile::TempDir;

const GROUP: usize = 16 * 1024;
const BLOCK: usize = 2 << 20;

/// The verified pieces that a receiver of `data` gives to the store.
fn pieces(data: &[u8]) -> Vec<VerifiedPiece> {
    pieces_of(data, &Ranges::all().into())
}

fn pieces_of(data: &[u8], selection: &Selection) -> Vec<VerifiedPiece> {
    let (token, outboard) = Outboard::build(data, data.len() as u64).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, selection).unwrap();
    let mut decoder = VerifiedDecoder::new(token, data.len() as u64, selection).unwrap();
    let mut batch = Vec::new();
    while encoder.next_batch(1 << 20, &mut batch).unwrap() > 0 {
        for piece in batch.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                EncodedPiece::Data { offset, len } => decoder.push(&data[offset as usize..][..len]).unwrap(),
            }
        }
    }
    std::iter::from_fn(|| decoder.poll()).collect()
}

fn put(store: &Store, data: &[u8]) -> Result<OpenPayload, StoreError> {
    put_as(store, data, Lease::default(), 0)
}

fn put_as(store: &Store, data: &[u8], lease: Lease, now_s: u64) -> Result<OpenPayload, StoreError> {
    let mut writer = store.begin(Token::of(data), data.len() as u64, lease, now_s)?;
    for piece in pieces(data) {
        writer.write(&piece)?;
    }
    writer.commit()
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), StoreConfig::default()).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files of payloads and sets, those that are being written among them.
fn stored(dir: &Path) -> Vec<PathBuf> {
    ["data", "sets", "tmp"].into_iter().flat_map(|name| files(&dir.join(name))).collect()
}

/// A file system of its own, if the test may mount one.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).output();
    }
}

#[test]
fn payloads_of_every_size_are_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, GROUP - 1, GROUP, GROUP + 1, (1 << 20) + 5];
    let store = open(&dir);
    for len in sizes {
        let data = payload(len);
        let held = put(&store, &data).unwrap();
        assert_eq!((held.token(), held.length()), (Token::of(&data), len as u64));
    }
    let usage_bytes = store.usage_bytes();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.usage_bytes(), usage_bytes);
    assert_eq!(store.list().len(), sizes.len());
    for len in sizes {
        let data = payload(len);
        let held = store.get(&Token::of(&data)).unwrap().unwrap();
        let mut read = vec![0; len];
        held.read(0, &mut read).unwrap();
        assert!(read == data);
        let (_, outboard) = Outboard::build(&data[..], len as u64).unwrap();
        assert_eq!(held.outboard().as_bytes(), outboard.as_bytes());
        assert!(held.read(1, &mut vec![0; len.max(1)]).is_err());
    }
    assert!(store.get(&Token::of(b"never put")).unwrap().is_none());
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload((1 << 20) + 5);
    let pieces = pieces(&data);
    for written in 0..=pieces.len() {
        let mut writer = store.begin(Token::of(&data), data.len() as u64, Lease::default(), 0).unwrap();
        pieces[..written].iter().for_each(|piece| writer.write(piece).unwrap());
        drop(writer);
        assert_eq!(stored(dir.path()), Vec::<PathBuf>::new());
        assert_eq!(store.usage_bytes(), 0);
    }
}

#[test]
fn a_crash_leaves_the_whole_payload_or_nothing() {
    let data = payload(2_000_000);
    let token = Token::of(&data);
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir), &data).unwrap();
    let [obao, blob] = ["obao", "blob"].map(|kind| {
        files(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == kind)).unwrap()
    });
    let (blob_bytes, obao_bytes) = (fs::read(&blob).unwrap(), fs::read(&obao).unwrap());
    open(&dir).remove(token).unwrap();
    let tmp = dir.path().join("tmp");

    // A crash while the files are written, or before the payload has its row. Until then they have temporary names.
    let written = tmp.join(format!("{}.0.blob", token.hex()));
    let outboard_written = tmp.join(format!("{}.0.obao", token.hex()));
    for leftovers in [&[&written, &outboard_written][..], &[&obao, &written], &[&obao, &blob, &written]] {
        for path in leftovers {
            let is_blob = path.extension().is_some_and(|extension| extension == "blob");
            fs::write(path, if is_blob { &blob_bytes } else { &obao_bytes }).unwrap();
        }
        let store = open(&dir);
        assert!(store.get(&token).unwrap().is_none());
        assert_eq!((store.usage_bytes(), store.list().len()), (0, 0));
        assert_eq!(stored(dir.path()), Vec::<PathBuf>::new());
    }
    // A crash after it has.
    put(&open(&dir), &data).unwrap();
    fs::write(&written, &blob_bytes).unwrap();
    assert!(open(&dir).get(&token).unwrap().is_some());
    assert_eq!(files(&tmp), Vec::<PathBuf>::new());
}

#[test]
fn a_payload_with_a_hole_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(600_000);
    let pieces = pieces(&data);
    let mut writer = store.begin(Token::of(&data), data.len() as u64, Lease::default(), 0).unwrap();
    // The first and the last piece, each twice; the middle is missing.
    for piece in [&pieces[0], &pieces[0], &pieces[pieces.len() - 1], &pieces[pieces.len() - 1]] {
        writer.write(piece).unwrap();
    }
    assert!(matches!(writer.commit(), Err(StoreError::Incomplete { .. })));
    assert!(store.get(&Token::of(&data)).unwrap().is_none());

    // In any order, a complete payload is kept.
    let mut writer = store.begin(Token::of(&data), data.len() as u64, Lease::default(), 0).unwrap();
    pieces.iter().rev().for_each(|piece| writer.write(piece).unwrap());
    assert_eq!(writer.written_bytes(), data.len() as u64);
    writer.commit().unwrap();

    let mut writer = store.begin(Token::of(b"short"), 5, Lease::default(), 0).unwrap();
    assert!(matches!(writer.write(&pieces[0]), Err(StoreError::Foreign { .. })));
}

#[test]
fn two_writers_of_one_payload_both_succeed_and_it_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(100_000);
    let token = Token::of(&data);
    let mut writers = [0, 1].map(|_| store.begin(token, data.len() as u64, Lease::default(), 0).unwrap());
    for writer in &mut writers {
        pieces(&data).iter().for_each(|piece| writer.write(piece).unwrap());
    }
    for thread in writers.map(|writer| std::thread::spawn(move || writer.commit())) {
        thread.join().unwrap().unwrap();
    }
    let once = store.usage_bytes();
    assert_eq!(once, 25 * 4096 + STORE_FILE_BYTES + 2 * (6 * 64 + STORE_ROW_BYTES) + STORE_ROWS_BYTES);
    assert!(store.remove(token).unwrap() && !store.remove(token).unwrap());
    assert_eq!(store.usage_bytes(), 0);
}

#[test]
fn an_open_payload_stays_readable_after_the_store_has_removed_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(40_000);
    let held = put(&store, &data).unwrap();
    store.remove(held.token()).unwrap();
    assert!(store.get(&held.token()).unwrap().is_none());
    let mut read = vec![0; data.len()];
    held.read(0, &mut read).unwrap();
    assert_eq!(read, data);
}

#[test]
fn a_full_capacity_is_an_error_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::open(dir.path(), StoreConfig { capacity_bytes: Some(150_000), ..StoreConfig::default() })
            .unwrap();
    let first = store.begin(Token::of(b"a"), 100_000, Lease::default(), 0).unwrap();
    let error = store.begin(Token::of(b"b"), 100_000, Lease::default(), 0).unwrap_err();
    assert!(matches!(error, StoreError::Capacity { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Quota);
    assert!(error.to_string().contains("raise its capacity"), "{error}");
    drop(first);
    store.begin(Token::of(b"b"), 100_000, Lease::default(), 0).unwrap();
}

#[test]
fn a_full_disk_is_an_error_before_anything_is_written() {
    let disk = SmallDisk::mount("8m");
    let dir = tempfile::tempdir().unwrap();
    // If no file system may be mounted, one payload is longer than any disk.
    let (path, length) = match &disk {
        Some(disk) => (disk.dir.path(), 16 << 20),
        None => (dir.path(), 1 << 50),
    };
    let store = Store::open(path, StoreConfig::default()).unwrap();
    let error = store.begin(Token::of(b"long"), length, Lease::default(), 0).unwrap_err();
    let StoreError::DiskFull { available_bytes, .. } = error else { panic!("{error}") };
    assert_eq!(error.code(), ErrorCode::Quota);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(stored(path), Vec::<PathBuf>::new());
    assert_eq!(store.usage_bytes(), 0);
    if disk.is_some() {
        // Each of the two would fit alone, but not both.
        let length = available_bytes * 6 / 10;
        let _first = store.begin(Token::of(b"a"), length, Lease::default(), 0).unwrap();
        assert!(matches!(
            store.begin(Token::of(b"b"), length, Lease::default(), 0),
            Err(StoreError::DiskFull { .. })
        ));
        assert_eq!(files(&path.join("tmp")).len(), 0, "no byte is proven yet");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "the output must show that the test proved nothing")]
fn a_read_only_store_serves_and_returns_the_reason_why_it_keeps_nothing() {
    let Some(disk) = SmallDisk::mount("8m") else {
        eprintln!("skipped: no file system may be mounted here");
        return;
    };
    let path = disk.dir.path();
    let data = payload(50_000);
    put(&Store::open(path, StoreConfig::default()).unwrap(), &data).unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(path).output().unwrap();
    assert!(remounted.status.success());
    let store = Store::open(path, StoreConfig::default()).unwrap();
    assert!(store.is_read_only() && store.get(&Token::of(&data)).unwrap().is_some());
    let errors = [
        store.begin(Token::of(b"x"), 1, Lease::default(), 0).unwrap_err(),
        store.remove(Token::of(&data)).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_store_has_one_process_that_writes() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir);
    assert!(matches!(Store::open(dir.path(), StoreConfig::default()), Err(StoreError::InUse { .. })));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = Store::open(dir.path().join("file/store"), StoreConfig::default()).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
    assert!(matches!(
        open(&dir).begin(Token::of(b""), (1 << 50) + 1, Lease::default(), 0),
        Err(StoreError::TooLong(_))
    ));
}

#[test]
fn the_memory_tier_gives_the_bytes_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(2 * BLOCK + 12_345);
    let held = put(&store, &data).unwrap();
    let tier = MemoryTier::new(3 * BLOCK as u64, MemoryPages::Ordinary);
    for (offset, len) in
        [(0, 32_768), (BLOCK - 16_384, 16_384), (BLOCK, 100), (2 * BLOCK + 16_384, 1), (7, 99)]
    {
        let to = (offset + len).min(data.len());
        assert_eq!(tier.read(&held, offset as u64, len).unwrap(), data[offset.min(to)..to]);
    }
    assert_eq!(tier.read(&held, data.len() as u64 - 5, 100).unwrap(), data[data.len() - 5..]);
    // A read ends where its block ends.
    assert_eq!(tier.read(&held, BLOCK as u64 - 10, 20).unwrap().len(), 10);
    assert!(tier.read(&held, u64::MAX, 20).unwrap().is_empty());
    let stats = tier.stats();
    assert_eq!((stats.misses, stats.blocks, stats.held_bytes), (3, 3, data.len() as u64));
    tier.forget(&held.token());
    let stats = tier.stats();
    assert_eq!((stats.blocks, stats.held_bytes), (0, 0));
}

#[test]
fn the_least_recently_used_block_is_dropped_first_and_blocks_with_readers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(4 * BLOCK);
    let held = put(&store, &data).unwrap();
    let tier = MemoryTier::new(2 * BLOCK as u64, MemoryPages::Ordinary);
    let read = |block: usize| {
        let bytes = tier.read(&held, (block * BLOCK) as u64, 1000).unwrap();
        assert_eq!(bytes, data[block * BLOCK..][..1000]);
        (bytes, tier.stats())
    };
    read(0);
    read(1);
    let (zero, _) = read(0);
    let (_, stats) = read(2);
    assert_eq!(
        (stats.hits, stats.misses, stats.blocks),
        (1, 3, 2),
        "block 1 was dropped, although 0 is older"
    );
    let (_two, _) = read(2);
    let (_three, stats) = read(3);
    assert_eq!(
        (stats.lent_bytes, stats.copied),
        (BLOCK as u64, 3),
        "half of the blocks may be lent: block 0"
    );
    assert_eq!((stats.unpooled, stats.blocks), (0, 2), "block 2 made room: its reader has a copy");
    drop(zero);
    let (_one, stats) = read(1);
    assert_eq!(
        (stats.lent_bytes, stats.blocks),
        (BLOCK as u64, 2),
        "block 0 made room for block 1, which is lent"
    );
}

#[test]
fn readers_that_keep_small_parts_keep_half_of_the_blocks_at_most() {
    const BLOCKS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(2 * BLOCKS * BLOCK);
    let held = put(&store, &data).unwrap();
    let tier = MemoryTier::new((BLOCKS * BLOCK) as u64, MemoryPages::Ordinary);
    let read = |block: usize| tier.read(&held, (block * BLOCK) as u64, 16_384).unwrap();
    // What a peer that takes nothing has asked for.
    let unread: Vec<_> = (0..BLOCKS).map(read).collect();
    let stats = tier.stats();
    assert_eq!((stats.lent_bytes, stats.copied, stats.unpooled), (2 * BLOCK as u64, 2, 0));
    // Other readers find the rest of the tier.
    for block in (BLOCKS..2 * BLOCKS).flat_map(|block| [block, block]) {
        assert_eq!(read(block), data[block * BLOCK..][..16_384]);
    }
    let stats = tier.stats();
    assert_eq!((stats.hits, stats.unpooled), (BLOCKS as u64, 0));
    for (block, bytes) in unread.iter().enumerate() {
        assert_eq!(bytes, &data[block * BLOCK..][..16_384]);
    }
    drop(unread);
    assert_eq!(tier.stats().lent_bytes, 0);
}

#[test]
fn a_store_answers_more_readers_than_it_may_have_files_open() {
    const FILES: u64 = 16;
    const PAYLOADS: usize = 20;
    /// Its outboard is read from its file.
    const BYTES: usize = 1_300_000;
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { files_max: Some(FILES), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let payloads: Vec<_> = (0..PAYLOADS).map(|number| payload(BYTES + number)).collect();
    let readers: Vec<_> = payloads.iter().map(|data| put(&store, data).unwrap()).collect();
    assert!(store.files_open() <= FILES as usize, "{} files are open", store.files_open());
    for (held, data) in readers.iter().zip(&payloads) {
        let (mut bytes, last) = (vec![0; 1000], data.len() - 1000);
        held.read(last as u64, &mut bytes).unwrap();
        assert_eq!(bytes, data[last..]);
        held.outboard().pairs(70, 1).unwrap();
    }
    assert!(store.files_open() <= FILES as usize && store.files_reopened() > PAYLOADS as u64);
    // A payload that is removed while its file is closed cannot be read on, and the error says why.
    let gone = readers[0].token();
    assert!(store.remove(gone).unwrap());
    let tier = MemoryTier::new(4 * BLOCK as u64, MemoryPages::Ordinary);
    let error = tier.read(&readers[0], 0, 10).unwrap_err();
    assert!(error.to_string().contains("removed or replaced while it was read"), "{error}");
    assert_eq!(error.code(), ErrorCode::Busy);
    drop(readers);
    assert_eq!(store.files_open(), 0);
}

#[test]
fn a_tier_without_memory_still_serves() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(70_000);
    let held = put(&open(&dir), &data).unwrap();
    let tier = MemoryTier::new(0, MemoryPages::HugePreferred);
    assert_eq!(tier.read(&held, 16_384, 16_384).unwrap(), data[16_384..32_768]);
    let stats = tier.stats();
    assert_eq!((stats.unpooled, stats.blocks), (1, 0));
}

//! Room: it is promised to a PUT, taken as bytes are proven, and counted as the disk gives it.

use super::{files, payload, pieces, put, put_as, stored};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use stoq::limits::{
    NODE_UNFINISHED_LEN_MAX, ROOM_STEP_BYTES, STORE_ROW_BYTES, STORE_ROWS_BYTES, UNFINISHED_LEN_MAX,
};
use stoq::record::ErrorCode;
use stoq::seed::{Lease, PayloadWriter, Store, StoreBound, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::Token;

const ALICE: NodeId = NodeId([1; 32]);
const BOB: NodeId = NodeId([2; 32]);

fn of(owner: NodeId) -> Lease {
    Lease::until(None, Some(owner))
}

/// Blocks of disk, in bytes, and files, without the database.
fn on_disk(dir: &Path) -> (u64, u64) {
    let files = stored(dir);
    let bytes = files.iter().map(|path| path.metadata().unwrap().blocks() * 512).sum();
    (bytes, files.len() as u64)
}

fn begin(store: &Store, data: &[u8], lease: Lease) -> Result<PayloadWriter, StoreError> {
    store.begin(Token::of(data), data.len() as u64, lease, 0)
}

#[test]
fn a_begun_payload_takes_no_disk_and_removes_nothing_before_its_bytes_are_proven() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { capacity_bytes: Some(30 << 20), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let cached = payload(4 << 20);
    put_as(&store, &cached, Lease::cached(None), 0).unwrap();
    let is_cached = || store.lease(Token::of(&cached)).is_some();
    let (before, usage_bytes) = (on_disk(dir.path()), store.usage_bytes());
    let long = payload(28 << 20);
    let mut writer = begin(&store, &long, of(ALICE)).unwrap();
    assert_eq!((on_disk(dir.path()), store.usage_bytes()), (before, usage_bytes), "a promise takes nothing");
    assert_eq!(store.census().unfinished, 1);
    assert!(is_cached());
    let pieces = pieces(&long);
    let (mut written, mut half) = (0, false);
    for piece in &pieces {
        writer.write(piece).unwrap();
        written += piece.data.len() as u64;
        if written > 10 << 20 && !half {
            half = true;
            let (bytes, count) = on_disk(dir.path());
            assert!(is_cached(), "there is room for both so far");
            assert_eq!(count, before.1 + 2);
            let most_bytes = written + ROOM_STEP_BYTES + (1 << 20);
            assert!(bytes - before.0 <= most_bytes, "{bytes} on the disk for {written} proven ones");
            let taken = store.usage_bytes() - usage_bytes;
            assert!((written..written + 2 * ROOM_STEP_BYTES).contains(&taken), "{taken} for {written}");
        }
    }
    assert!(!is_cached(), "it went when its room was needed");
    writer.commit().unwrap();
    store.sync_removals().unwrap();
    assert!(on_disk(dir.path()).0 <= store.usage_bytes() + 4096);
    assert_eq!(store.census().unfinished, 0);
}

#[test]
fn two_nodes_may_begin_into_the_same_room_and_the_later_one_is_refused_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { capacity_bytes: Some(20 << 20), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let (idle, honest) = (payload(19 << 20), payload(15 << 20));
    let mut waiting = begin(&store, &idle, of(ALICE)).unwrap();
    put_as(&store, &honest, of(BOB), 0).unwrap();
    let error = pieces(&idle).iter().try_for_each(|piece| waiting.write(piece)).unwrap_err();
    assert!(matches!(error, StoreError::Capacity { .. }), "{error}");
    drop(waiting);
    assert!(store.get(&Token::of(&honest)).unwrap().is_some());
    assert_eq!(files(&dir.path().join("tmp")).len(), 0);
    assert_eq!(store.owned_bytes(&ALICE), 0);
    assert_eq!(store.owned_bytes(&BOB), store.usage_bytes());
}

#[test]
fn the_unfinished_payloads_of_one_node_have_a_share_and_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { capacity_bytes: Some(100 << 20), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let writer =
        |number: u64, length: u64, owner| store.begin(Token::of(&number.to_le_bytes()), length, of(owner), 0);
    // A single one may be larger than the share.
    let large = writer(0, 60 << 20, ALICE).unwrap();
    let error = writer(1, 1, ALICE).unwrap_err();
    assert!(matches!(error, StoreError::UnfinishedShare { .. }), "{error}");
    assert_eq!((error.code(), error.bound()), (ErrorCode::Busy, Some(StoreBound::Unfinished)));
    assert!(error.to_string().contains("finish some first"), "{error}");
    let others = writer(2, 60 << 20, BOB).unwrap();
    drop((large, others));
    let begun = |from: u64, owner| -> Vec<_> {
        (from..from + NODE_UNFINISHED_LEN_MAX).map(|number| writer(number, 8, owner).unwrap()).collect()
    };
    let mut all = vec![begun(0, ALICE)];
    let error = writer(u64::MAX, 8, ALICE).unwrap_err();
    assert!(matches!(error, StoreError::Unfinished { .. }), "{error}");
    assert_eq!(stored(dir.path()).len(), 0, "none has a file yet");
    for node in 2..=UNFINISHED_LEN_MAX / NODE_UNFINISHED_LEN_MAX {
        all.push(begun(node << 32, NodeId([node as u8 + 10; 32])));
    }
    assert!(matches!(writer(u64::MAX, 8, BOB), Err(StoreError::Unfinished { .. })));
    all.clear();
    assert!(writer(u64::MAX, 8, BOB).is_ok());
    assert_eq!((store.census().unfinished, store.usage_bytes()), (0, 0));
}

#[test]
fn tiny_payloads_are_counted_as_the_disk_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { quota_bytes: Some(1_000_000), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let tiny = |number: u64| number.to_le_bytes();
    let mut count = 0;
    let error = loop {
        match put_as(&store, &tiny(count), of(ALICE), 0) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::PeerQuota { owner: ALICE, .. }), "{error}");
    assert_eq!(count, 1_000_000 / (2 * (8 + STORE_ROW_BYTES) + STORE_ROWS_BYTES), "not 125,000");
    let (bytes, inodes) = on_disk(dir.path());
    assert!(bytes <= store.usage_bytes(), "{bytes} on the disk, and {} counted", store.usage_bytes());
    assert_eq!(inodes, 0);
    // What another process counts is the same.
    let usage_bytes = store.usage_bytes();
    drop(store);
    let store = Store::open(dir.path(), config).unwrap();
    assert_eq!((store.usage_bytes(), store.owned_bytes(&ALICE)), (usage_bytes, usage_bytes));
    assert!(put_as(&store, &tiny(u64::MAX), of(ALICE), 0).is_err());
    put_as(&store, &tiny(u64::MAX), of(BOB), 0).unwrap();
}

#[test]
fn entries_are_bounded_by_store_and_by_node_and_the_error_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { capacity_entries: Some(8), quota_entries: Some(5), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let tiny = |number: u8, lease| put_as(&store, &[number], lease, 0);
    for number in 0..3 {
        tiny(number, Lease::cached(None)).unwrap();
    }
    for number in 10..15 {
        tiny(number, of(ALICE)).unwrap();
    }
    let error = tiny(15, of(ALICE)).unwrap_err();
    assert!(matches!(error, StoreError::PeerEntries { owner: ALICE, entries: 5, entries_max: 5 }), "{error}");
    assert!(error.to_string().contains("raise `quota_entries`"), "{error}");
    assert_eq!((error.code(), error.bound()), (ErrorCode::Quota, Some(StoreBound::PeerEntries)));
    // Taking over a cached one is no way around it.
    assert!(matches!(store.extend(Token::of(&[0]), of(ALICE)), Err(StoreError::PeerEntries { .. })));
    // Cached ones make room for others, one each.
    let waiting = begin(&store, &[16], of(BOB)).unwrap();
    assert_eq!(store.census().cached, 3, "a promise removes none");
    drop(waiting);
    for number in 16..19 {
        tiny(number, of(BOB)).unwrap();
    }
    assert_eq!((store.census().cached, store.census().entries), (0, 8));
    let error = tiny(19, of(BOB)).unwrap_err();
    assert!(matches!(error, StoreError::Entries { entries: 8, entries_max: 8, .. }), "{error}");
    assert!(error.to_string().contains("raise its `capacity_entries`"), "{error}");
    assert_eq!((error.code(), error.bound()), (ErrorCode::Quota, Some(StoreBound::Entries)));
    // Unfinished ones of a node count for it.
    store.remove(Token::of(&[10])).unwrap();
    let waiting = begin(&store, &[20], of(ALICE)).unwrap();
    assert!(matches!(tiny(21, of(ALICE)), Err(StoreError::PeerEntries { .. })));
    drop(waiting);
    tiny(21, of(ALICE)).unwrap();
    // A bound that is lowered removes nothing.
    store.configure(StoreConfig { capacity_entries: Some(2), ..config });
    assert_eq!(store.census().entries, 8);
    assert!(put(&store, b"one more").is_err());
}

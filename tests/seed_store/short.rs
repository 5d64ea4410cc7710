//! Payloads of at most one group: rows of the database.

use super::{GROUP, files, open, payload, put, put_as, stored};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use stoq::limits::STORE_ROWS_BYTES;
use stoq::seed::{CheckResult, Lease, MemoryPages, MemoryTier, Store, StoreConfig, StoreError, Urgency};
use stoq::tls::NodeId;
use stoq::token::Token;

const PATIENCE: Duration = Duration::from_secs(60);

fn check(store: &Store, token: Token) -> CheckResult {
    let (send, receive) = channel();
    let done = move |_, found| send.send(found).unwrap();
    assert!(store.check(token, Instant::now(), Urgency::RequestWaits, done));
    receive.recv_timeout(PATIENCE).unwrap()
}

/// Bytes that occur nowhere else.
fn short(len: usize, seed: u8) -> Vec<u8> {
    payload(len + usize::from(seed)).split_off(seed.into())
}

/// The places of these bytes in the database.
fn places(dir: &Path, bytes: &[u8]) -> Vec<u64> {
    let database = fs::read(dir.join("store.redb")).unwrap();
    let found = database.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
    found.map(|(at, _)| at as u64).collect()
}

fn write_over(dir: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(dir.join("store.redb")).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn payloads_of_up_to_a_group_have_no_file_and_are_served_from_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let all: Vec<_> = [0, 1, 4096, GROUP - 1, GROUP].into_iter().map(|len| short(len, 3)).collect();
    for data in &all {
        let held = put(&store, data).unwrap();
        assert_eq!((held.token(), held.length()), (Token::of(data), data.len() as u64));
    }
    assert_eq!(stored(dir.path()).len(), 0);
    put(&store, &payload(GROUP + 1)).unwrap();
    assert_eq!(stored(dir.path()).len(), 1, "a longer one is a file");
    put(&store, &payload(64 * GROUP)).unwrap();
    assert_eq!(stored(dir.path()).len(), 2);
    put(&store, &payload(64 * GROUP + 1)).unwrap();
    assert_eq!(stored(dir.path()).len(), 4, "and one that is longer still has a file of hash pairs");
    let memory = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
    let read = |store: &Store| {
        for data in &all {
            let held = store.get(&Token::of(data)).unwrap().unwrap();
            let mut bytes = vec![0; data.len()];
            held.read(0, &mut bytes).unwrap();
            assert!(bytes == *data);
            assert!(held.read(1, &mut vec![0; data.len().max(1)]).is_err());
            assert_eq!(memory.read(&held, 0, data.len()).unwrap(), *data);
            assert_eq!(check(store, Token::of(data)), CheckResult::Whole);
        }
    };
    read(&store);
    let usage_bytes = store.usage_bytes();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.usage_bytes(), usage_bytes);
    read(&store);
    for (token, _) in store.list() {
        assert!(store.remove(token).unwrap());
    }
    assert_eq!((store.usage_bytes(), stored(dir.path()).len()), (0, 0));
}

#[test]
fn an_open_row_ends_with_its_payload_and_with_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let [gone, kept] = [1, 2].map(|seed| short(5000, seed));
    put(&store, &gone).unwrap();
    put(&store, &kept).unwrap();
    let [gone_held, kept_held] = [&gone, &kept].map(|data| store.get(&Token::of(data)).unwrap().unwrap());
    store.remove(Token::of(&gone)).unwrap();
    let memory = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
    assert!(matches!(memory.read(&gone_held, 0, 10), Err(StoreError::Removed(_))));
    assert_eq!(memory.read(&kept_held, 0, 10).unwrap(), kept[..10]);
    drop(store);
    assert_eq!(kept_held.read(0, &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(open(&dir).get(&Token::of(&kept)).unwrap().is_some(), "it does not keep the store open");
}

#[test]
fn a_short_payload_that_is_a_file_stays_one_until_it_is_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = short(9000, 1);
    let lease = Lease::until(Some(50), Some(NodeId([1; 32])));
    let store = open(&dir);
    put_as(&store, &data, lease, 0).unwrap();
    super::earlier::downgrade(dir.path(), store);
    for _ in 0..2 {
        let store = open(&dir);
        assert_eq!(stored(dir.path()).len(), 1);
        assert_eq!(store.lease(Token::of(&data)), Some(lease));
        assert_eq!(check(&store, Token::of(&data)), CheckResult::Whole);
    }
    let store = open(&dir);
    let as_file_bytes = store.usage_bytes();
    put(&store, &data).unwrap();
    store.sync_removals().unwrap();
    assert_eq!(stored(dir.path()).len(), 0);
    assert_ne!(store.usage_bytes(), as_file_bytes);
    assert_eq!(check(&store, Token::of(&data)), CheckResult::Whole);
}

#[test]
fn a_row_that_rots_is_found_set_aside_as_a_file_and_may_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = short(10_000, 1);
    let token = Token::of(&data);
    put_as(&open(&dir), &data, Lease::until(Some(70), None), 0).unwrap();
    let at = places(dir.path(), &data);
    assert!(!at.is_empty());
    at.iter().for_each(|at| write_over(dir.path(), at + 5000, &[!data[5000]]));
    let store = open(&dir);
    let memory = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
    let held = store.get(&token).unwrap().unwrap();
    assert!(matches!(memory.read(&held, 0, 10), Err(StoreError::Damaged(_))), "rot is not served");
    assert_eq!(check(&store, token), CheckResult::Damaged);
    assert!(store.get(&token).unwrap().is_none());
    let damage = store.damage();
    assert_eq!((damage.set_aside, damage.files_set_aside), (1, 1), "{damage:?}");
    let aside = files(&dir.path().join("damaged")).remove(0);
    let mut rotten = data.clone();
    rotten[5000] = !rotten[5000];
    assert!(fs::read(&aside).unwrap() == rotten && aside.to_str().unwrap().contains(&token.hex()));
    put(&store, &data).unwrap();
    assert_eq!(check(&store, token), CheckResult::Whole);
    assert_eq!(store.lease(token).unwrap().expires_s, None, "it has the longer of both leases");
    drop(store);
    assert_eq!(check(&open(&dir), token), CheckResult::Whole);
}

#[test]
fn hash_pairs_that_rot_in_the_database_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(300_000);
    let token = Token::of(&data);
    let pairs = put(&open(&dir), &data).unwrap().outboard().as_bytes().unwrap().clone();
    for round in 0..2 {
        let at = places(dir.path(), &pairs);
        assert!(!at.is_empty());
        at.iter().for_each(|at| write_over(dir.path(), at + 100, &[!pairs[100]]));
        let store = open(&dir);
        assert_eq!(check(&store, token), CheckResult::Whole, "{round}");
        assert_eq!((store.damage().mended, store.damage().set_aside), (1, 0));
        assert_eq!(store.get(&token).unwrap().unwrap().outboard().as_bytes(), Some(&pairs));
    }
    assert_eq!(check(&open(&dir), token), CheckResult::Whole);
    assert_eq!(stored(dir.path()).len(), 1);
    // Without the database too.
    super::earlier::forget(dir.path());
    let store = open(&dir);
    assert!(matches!(store.get(&token), Err(StoreError::Damaged(_))), "a get waits for a check");
    assert_eq!(check(&store, token), CheckResult::Whole);
    assert_eq!(store.get(&token).unwrap().unwrap().outboard().as_bytes(), Some(&pairs));
}

#[test]
fn no_page_of_the_database_that_rots_ends_the_program_or_gives_other_bytes() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..30).map(|seed| short(700 * usize::from(seed), seed)).collect();
    let store = open(&dir);
    all.iter().for_each(|data| drop(put(&store, data).unwrap()));
    drop(store);
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).unwrap();
    let (mut refused, mut lost) = (0, 0);
    let used = whole.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    for (page, _) in used {
        // A leaf, a branch, and neither.
        for garbage in [1u8, 2, 0xff] {
            let mut rotten = whole.clone();
            let end = whole.len().min((page + 1) * PAGE);
            rotten[page * PAGE..end].fill(garbage);
            fs::write(&path, &rotten).unwrap();
            // A store whose database cannot be written leaves its journal.
            super::journal::journals(dir.path()).iter().for_each(|path| drop(fs::remove_file(path)));
            let store = match Store::open(dir.path(), StoreConfig::default()) {
                Ok(store) => store,
                Err(StoreError::Database { .. } | StoreError::Io { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{page} {garbage}: {error}"),
            };
            for data in &all {
                let memory = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
                match store.get(&Token::of(data)).map(|held| memory.read(&held?, 0, data.len()).ok()) {
                    Ok(Some(bytes)) => assert!(bytes == *data, "{page} {garbage}"),
                    Ok(None) | Err(_) => lost += 1,
                }
            }
            let _ = store.list();
            let _ = put(&store, b"one more");
            let _ = store.remove(Token::of(&all[7]));
        }
    }
    assert!(refused > 0 && lost > 0, "{refused} {lost}");
}

#[test]
fn a_database_of_the_layout_before_rows_of_payloads_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let [long, short] = [payload(100_000), short(100, 1)];
    put(&open(&dir), &long).unwrap();
    super::earlier::to_layout(dir.path(), 1);
    put(&open(&dir), &short).unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    for data in [&long, &short] {
        assert_eq!(check(&store, Token::of(data)), CheckResult::Whole);
    }
}

#[test]
fn payloads_of_the_layout_before_packs_stay_as_they_are_beside_new_ones_and_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..20).map(|seed| short(4096, seed)).collect();
    let (old, new) = all.split_at(10);
    let store = open(&dir);
    old.iter().for_each(|data| drop(put(&store, data).unwrap()));
    let left = super::journal::killed(dir.path());
    drop(store);
    for dir in [&dir, &left] {
        super::earlier::to_layout(dir.path(), 4);
        let store = open(dir);
        new.iter().for_each(|data| drop(put(&store, data).unwrap()));
        drop(store);
        let store = open(dir);
        for data in &all {
            assert_eq!(check(&store, Token::of(data)), CheckResult::Whole);
        }
        let usage_bytes = store.usage_bytes();
        for (token, _) in store.list() {
            assert!(store.remove(token).unwrap());
        }
        assert_eq!((store.usage_bytes(), usage_bytes), (0, 20 * (8192 + STORE_ROWS_BYTES)));
        put(&store, &all[0]).unwrap();
        drop(store);
        assert_eq!(check(&open(dir), Token::of(&all[0])), CheckResult::Whole);
    }
}

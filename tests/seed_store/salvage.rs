//! Pages of the database that are damaged: a check of the store finds what they hide, and a salvage brings back what can be read.

use super::journal::killed;
use super::{SmallDisk, open, payload, put_as};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use stoq::record::{LeaseHolder, LeaseScope, ListedEntry};
use stoq::seed::{Lease, Store, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Token};
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Entries of which the tree has branches.
const ENTRIES: u32 = 300;
const OWNER: NodeId = NodeId([1; 32]);

/// A store of many short payloads and two files, closed.
fn filled() -> (TempDir, BTreeMap<AnyToken, ListedEntry>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for number in 0..ENTRIES {
        put_as(&store, &number.to_be_bytes(), Lease::until(None, Some(OWNER)), 0).unwrap();
    }
    for len in [100_000, 1_100_000] {
        put_as(&store, &payload(len), Lease::until(None, Some(OWNER)), 0).unwrap();
    }
    let truth = entries(&store);
    drop(store);
    (dir, truth)
}

fn entries(store: &Store) -> BTreeMap<AnyToken, ListedEntry> {
    let all = store.holdings().1.into_iter().map(|holding| holding.token);
    let stat = |token| store.stat(token, LeaseScope::All, LeaseHolder::Anonymous, 0);
    all.filter_map(|token| Some((token, stat(token)?))).collect()
}

/// Whether each short payload has its bytes.
fn serves_all(store: &Store) -> bool {
    (0..ENTRIES).all(|number| {
        let held = store.get(&Token::of(&number.to_be_bytes())).ok().flatten();
        let mut bytes = [0; 4];
        held.is_some_and(|held| held.read(0, &mut bytes).is_ok() && bytes == number.to_be_bytes())
    })
}

fn flip(dir: &Path, bit: usize) {
    let path = dir.join("store.redb");
    let mut file = fs::read(&path).unwrap();
    file[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, file).unwrap();
}

#[derive(Debug, Default)]
struct Seen {
    refused: u32,
    silent: u32,
    told: u32,
    hidden: u32,
    salvaged: u32,
    whole: u32,
}

/// Turns a bit of the database over, and looks at what the store says, what it finds, and what a salvage brings back.
fn turn_over(dir: &TempDir, truth: &BTreeMap<AnyToken, ListedEntry>, bit: usize, seen: &mut Seen) {
    let left = killed(dir.path());
    flip(left.path(), bit);
    match Store::open(left.path(), StoreConfig::default()) {
        Err(StoreError::Database { .. } | StoreError::Layout { .. } | StoreError::Io { .. }) => {
            seen.refused += 1
        }
        Err(error) => panic!("bit {bit}: {error}"),
        Ok(store) => {
            let is_whole = entries(&store) == *truth && serves_all(&store);
            let found = store.verify(|_| true).tally;
            if found.damaged + found.unreadable == 0 {
                seen.silent += 1;
                assert!(is_whole, "bit {bit} hides something, and nothing tells of it");
                return;
            }
            seen.told += 1;
            seen.hidden +=
                u32::from(store.damage().latest.iter().any(|damaged| damaged.name.contains("table")));
        }
    }
    // As the disk has it, without what the store made of it meanwhile.
    let left = killed(dir.path());
    flip(left.path(), bit);
    let salvaged = match Store::salvage(left.path(), |_| {}) {
        Ok(salvaged) => salvaged,
        Err(StoreError::Database { .. } | StoreError::Io { .. }) => return,
        Err(error) => panic!("bit {bit}: {error}"),
    };
    assert!(salvaged.rows.copied > 0 && salvaged.damaged.is_file(), "bit {bit}: {salvaged:?}");
    seen.salvaged += 1;
    drop(open(&left));
    let store = open(&left);
    let found = entries(&store);
    for (token, entry) in &found {
        assert_eq!(entry.length_bytes, truth[token].length_bytes, "bit {bit}");
    }
    assert!(!found.is_empty(), "bit {bit}: {salvaged:?}");
    let tally = store.verify(|_| true).tally;
    assert_eq!((tally.checked, tally.unreadable), (found.len() as u64, 0), "bit {bit}");
    let files = found.values().filter(|entry| entry.length_bytes >= 100_000).count();
    assert_eq!(files, 2, "bit {bit}: payloads whose files are there");
    // Bytes of payloads are compared with their tokens alone.
    if salvaged.rows.damaged + salvaged.rows.missing + tally.damaged == 0 {
        assert!(found == *truth && serves_all(&store), "bit {bit}: {salvaged:?}");
        seen.whole += 1;
    }
}

#[test]
fn a_page_that_hides_rows_is_told_of_and_a_salvage_brings_back_what_can_be_read() {
    let (dir, truth) = filled();
    let file = fs::read(dir.path().join("store.redb")).unwrap();
    let (mut seen, mut random) = (Seen::default(), 1_u64);
    for (page, bytes) in file.chunks(PAGE).enumerate() {
        // Kinds of pages: a leaf of rows, and a branch, whose keys and pointers lead to others.
        let bits = match bytes[0] {
            1 => 2,
            2 => 24,
            _ => 0,
        };
        for _ in 0..bits {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // What a page has stands at its begin.
            let within = (random >> 33) as usize % (if bytes[0] == 2 { 1024 } else { PAGE } * 8);
            turn_over(&dir, &truth, page * PAGE * 8 + within, &mut seen);
        }
    }
    assert!(seen.told > 0 && seen.hidden > 0 && seen.salvaged > 0 && seen.whole > 0, "{seen:?}");
}

#[test]
fn a_salvage_of_a_sound_database_changes_nothing_and_keeps_its_file() {
    let (dir, truth) = filled();
    let store = open(&dir);
    assert!(matches!(Store::salvage(dir.path(), |_| {}), Err(StoreError::InUse { .. })));
    drop(store);
    let before = fs::read(dir.path().join("store.redb")).unwrap();
    for round in 0..2 {
        let salvaged = Store::salvage(dir.path(), |_| {}).unwrap();
        assert_eq!((salvaged.rows.damaged, salvaged.rows.missing), (0, 0));
        if round == 0 {
            assert_eq!(salvaged.damaged, dir.path().join("damaged/store.redb"));
            assert!(fs::read(&salvaged.damaged).unwrap() == before);
        }
        let store = open(&dir);
        assert!(entries(&store) == truth && serves_all(&store));
        assert_eq!(store.verify(|_| true).tally.damaged, 0);
        // What is put afterwards goes on with its journal.
        put_as(&store, b"another", Lease::default(), 0).unwrap();
        store.remove(Token::of(b"another")).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("damaged")).unwrap().count(), 2);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Store::salvage(empty.path(), |_| {}), Err(StoreError::Io { .. })));
}

#[test]
fn a_salvage_that_finds_no_room_leaves_the_database_as_it_is() {
    let Some(small) = SmallDisk::mount("32m") else { return };
    let dir = &small.dir;
    let store = open(dir);
    for number in 0..ENTRIES {
        put_as(&store, &number.to_be_bytes(), Lease::default(), 0).unwrap();
    }
    let truth = entries(&store);
    drop(store);
    let before = fs::read(dir.path().join("store.redb")).unwrap();
    // All but a few pages of the disk are taken.
    let filler = fs::File::create(dir.path().join("filler")).unwrap();
    let page = [1; PAGE];
    let mut at = 0;
    while filler.write_all_at(&page, at).is_ok() {
        at += PAGE as u64;
    }
    filler.set_len(at - 20 * PAGE as u64).unwrap();
    let refused = Store::salvage(dir.path(), |_| {});
    assert!(matches!(refused, Err(StoreError::DiskFull { .. } | StoreError::Io { .. })), "{refused:?}");
    assert!(fs::read(dir.path().join("store.redb")).unwrap() == before);
    assert!(!dir.path().join("store.redb.new").exists());
    filler.set_len(0).unwrap();
    Store::salvage(dir.path(), |_| {}).unwrap();
    assert!(entries(&open(dir)) == truth);
}

#[test]
fn a_salvage_takes_the_journal_of_a_gateway_that_was_killed_along() {
    let (dir, _) = filled();
    let store = open(&dir);
    for data in [&b"first"[..], b"later"] {
        put_as(&store, data, Lease::default(), 0).unwrap();
    }
    let left = killed(dir.path());
    let truth = entries(&store);
    drop(store);
    Store::salvage(left.path(), |_| {}).unwrap();
    let store = open(&left);
    assert!(entries(&store) == truth && serves_all(&store));
}

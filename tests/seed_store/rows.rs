//! Rows of the database: earlier layouts of them, bits that turn over in them, and lists by owner.

use super::earlier::to_layout;
use super::journal::killed;
use super::sets::Sharded;
use super::{open, payload, put, put_as};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use stoq::record::{LeaseHolder, LeaseScope, List, ListedEntry, ListedLease};
use stoq::seed::{KeptFor, Lease, Store, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Token};
use tempfile::TempDir;

const ALICE: NodeId = NodeId([1; 32]);
const BOB: NodeId = NodeId([2; 32]);
const HOLDERS: [LeaseHolder; 4] =
    [LeaseHolder::Anonymous, LeaseHolder::Node(ALICE), LeaseHolder::Node(BOB), LeaseHolder::Cache];

/// Everything that a store says of what it holds.
#[derive(Debug, PartialEq)]
struct Said {
    entries: BTreeMap<AnyToken, ListedEntry>,
    by_owner: Vec<Vec<AnyToken>>,
    kept: Vec<KeptFor>,
    usage_bytes: u64,
}

fn entries(store: &Store) -> BTreeMap<AnyToken, ListedEntry> {
    let all = store.holdings().1.into_iter().map(|holding| holding.token);
    let stat = |token| store.stat(token, LeaseScope::All, LeaseHolder::Anonymous, 0);
    all.filter_map(|token| Some((token, stat(token)?))).collect()
}

/// The list of a holder, two entries a page.
fn owned(store: &Store, holder: LeaseHolder) -> Vec<AnyToken> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let list =
            List { scope: LeaseScope::All, holder: Some(holder), after, entries_max: 2, ..List::default() };
        let page = store.list_page(&list, LeaseHolder::Anonymous, 0);
        found.extend(page.entries.into_iter().map(|entry| entry.token));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn said(store: &Store) -> Said {
    Said {
        entries: entries(store),
        by_owner: HOLDERS.map(|holder| owned(store, holder)).to_vec(),
        kept: store.kept_for(None, 10),
        usage_bytes: store.usage_bytes(),
    }
}

/// What is derived from the entries agrees with them.
fn check_derived(store: &Store) {
    let said = said(store);
    let mut kept = Vec::new();
    for (holder, owned) in HOLDERS.into_iter().zip(&said.by_owner) {
        let of =
            said.entries.iter().filter(|(_, entry)| entry.shown.iter().any(|lease| lease.holder == holder));
        let of: Vec<_> = of.collect();
        assert_eq!(*owned, of.iter().map(|(token, _)| **token).collect::<Vec<_>>(), "{holder:?}");
        let bytes = of.iter().map(|(_, entry)| entry.stored_bytes).sum();
        kept.extend((!of.is_empty()).then_some(KeptFor { holder, bytes, entries: of.len() as u64 }));
    }
    assert_eq!(said.kept, kept);
    let leases = said.entries.values().flat_map(|entry| &entry.shown);
    let census = store.census();
    assert_eq!(census.entries, said.entries.len() as u64);
    assert_eq!(census.leases, leases.filter(|lease| lease.expires_s > 0).count() as u64);
    assert_eq!(said.usage_bytes, said.entries.values().map(|entry| entry.stored_bytes).sum::<u64>());
}

/// Payloads of all kinds, with leases of several owners, and a set.
fn fill(store: &Store) -> Vec<Vec<u8>> {
    let data: Vec<_> = [100, 5000, 100_000, 1_100_000].map(payload).into();
    let leases = [
        Lease::until(Some(100), Some(ALICE)),
        Lease::until(Some(200), Some(BOB)).in_epoch(2),
        Lease::default(),
        Lease::until(None, Some(ALICE)),
    ];
    for (data, lease) in data.iter().zip(leases) {
        put_as(store, data, lease, 0).unwrap();
    }
    store.extend(Token::of(&data[0]), Lease::until(Some(300), Some(BOB))).unwrap();
    store.extend(Token::of(&data[2]), Lease::until(Some(50), Some(BOB))).unwrap();
    put_as(store, b"cached", Lease::cached(Some(400)), 0).unwrap();
    Sharded::new().put(store, "0-1,4", Lease::until(Some(400), Some(BOB)), 0).unwrap();
    data
}

#[test]
fn the_layout_before_checks_and_owners_is_taken_over_with_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    // The database has one commit of them, and the journal the others.
    let store = open(&dir);
    fill(&store);
    store.remove(Token::of(&payload(5000))).unwrap();
    let before = said(&store);
    let left = killed(dir.path());
    drop(store);
    for dir in [&dir, &left] {
        to_layout(dir.path(), 3);
        for _ in 0..2 {
            let store = open(dir);
            assert_eq!(said(&store), before);
            check_derived(&store);
            assert_eq!(store.damage(), Default::default());
            Sharded::new().check(&store, "0-1,4");
        }
        put(&open(dir), b"another").unwrap();
        check_derived(&open(dir));
    }
}

/// The rows of the database, as its file has them.
fn rows(dir: &Path) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let database = redb::Database::open(dir.join("store.redb")).unwrap();
    let reading = database.begin_read().unwrap();
    let mut found = Vec::new();
    for name in ["holdings", "ends", "ages", "sets", "accounts", "notes", "owners"] {
        let table = reading.open_table(TableDefinition::<&[u8], &[u8]>::new(name)).unwrap();
        for row in table.iter().unwrap() {
            let (key, value) = row.unwrap();
            found.push((name, key.value().to_vec(), value.value().to_vec()));
        }
    }
    found
}

fn copied(dir: &TempDir) -> TempDir {
    let copy = killed(dir.path());
    assert!(!copy.path().join("store.journal.0").exists());
    copy
}

/// Turns a bit over wherever these bytes are in the database. Returns whether they are anywhere.
fn flip(dir: &Path, bytes: &[u8], bit: usize) -> bool {
    let path = dir.join("store.redb");
    let mut file = fs::read(&path).unwrap();
    let at: Vec<_> = (0..file.len() + 1 - bytes.len()).filter(|at| file[*at..].starts_with(bytes)).collect();
    for at in &at {
        file[at + bit / 8 % bytes.len()] ^= 1 << (bit % 8);
    }
    fs::write(path, file).unwrap();
    !at.is_empty()
}

/// What a store says of its entries is true, or says less.
fn check_believed(store: &Store, truth: &Said, told: &str) {
    for (token, entry) in entries(store) {
        let of = truth.entries.get(&token).unwrap_or_else(|| panic!("{told}: {token} is believed"));
        assert_eq!(entry.length_bytes, of.length_bytes, "{told}");
        let is_plain = |lease: &ListedLease| lease.holder == LeaseHolder::Anonymous && lease.expires_s == 0;
        let is_known = |lease| of.shown.contains(lease) || is_plain(lease);
        assert!(entry.shown.iter().all(is_known), "{told}: {entry:?}");
    }
}

fn serves(store: &Store, data: &[u8]) -> bool {
    let held = store.get(&Token::of(data)).ok().flatten();
    let mut bytes = vec![0; data.len()];
    held.is_some_and(|held| held.read(0, &mut bytes).is_ok() && bytes == data)
}

#[test]
fn a_bit_that_turned_over_in_a_row_is_told_set_aside_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = fill(&store);
    let truth = said(&store);
    drop(store);
    let rows = rows(dir.path());
    for table in ["holdings", "ends", "ages", "sets", "accounts", "notes", "owners"] {
        assert!(rows.iter().any(|(of, ..)| *of == table), "{table}");
    }
    let mut bit = 5;
    for (table, key, value) in rows {
        for (part, bytes) in [("key", &key), ("value", &value)] {
            bit += 37;
            let left = copied(&dir);
            let told = format!("{part} {key:x?} of {table}, bit {bit}");
            assert!(flip(left.path(), bytes, bit % (bytes.len() * 8)), "{told}");
            let store = match Store::open(left.path(), StoreConfig::default()) {
                Ok(store) => store,
                Err(error) => {
                    assert!(
                        matches!(error, StoreError::Database { .. } | StoreError::Layout { .. }),
                        "{told}: {error}"
                    );
                    continue;
                }
            };
            check_believed(&store, &truth, &told);
            assert!(store.verify(|_| true).tally.damaged > 0, "{told}");
            let damage = store.damage();
            assert!(
                damage.set_aside > 0 && damage.files_set_aside > 0 && damage.left == 0,
                "{told}: {damage:?}"
            );
            assert!(
                !damage.latest[0].name.is_empty()
                    && damage.latest[0].reason.contains("does not match its check"),
                "{told}: {damage:?}"
            );
            check_believed(&store, &truth, &told);
            // Nothing of it goes on for ever.
            store.expire(10_000);
            store.sync_removals().unwrap();
            data.iter().for_each(|data| drop(put(&store, data).unwrap()));
            drop(store);
            // A start counts anew. It may find a row again whose key is in no order, and whose removal or that of one beside it was of no effect.
            let store = open(&left);
            check_derived(&store);
            store.verify(|_| true);
            assert_eq!(store.damage().left, 0, "{told}");
            assert!(data.iter().all(|data| serves(&store, data)), "{told}");
            drop(store);
            let store = open(&left);
            store.verify(|_| true);
            check_derived(&store);
            assert_eq!(
                (store.damage().set_aside, store.damage().left),
                (0, 0),
                "{told}: {:?}",
                store.damage()
            );
        }
    }
}

//! Leases, quotas, and the payloads that are removed when room is short.

use super::earlier::{downgrade, forget};
use super::{files, open, payload, put, put_as, stored};
use std::fs;
use std::time::{Duration, SystemTime};
use stoq::limits::{BAD_SETS_LEN_MAX, STORE_FILE_BYTES, STORE_ROW_BYTES, STORE_ROWS_BYTES};
use stoq::record::ErrorCode;
use stoq::seed::{Coverage, Holding, HoldingChange, Lease, Store, StoreConfig, StoreError};
use stoq::shard::{Coding, Descriptor};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, SetToken, Token};
use tempfile::TempDir;

/// The blocks of a payload of 100,000 bytes, a file, its hash pairs in a row, and its other rows.
const STORED: u64 = 25 * 4096 + STORE_FILE_BYTES + 2 * (6 * 64 + STORE_ROW_BYTES) + STORE_ROWS_BYTES;
/// The same with its hash pairs in a file, as earlier versions kept them.
const STORED_EARLIER: u64 = 25 * 4096 + 4096 + 2 * STORE_FILE_BYTES + STORE_ROWS_BYTES;

const ALICE: NodeId = NodeId([1; 32]);
const BOB: NodeId = NodeId([2; 32]);

/// One of several payloads of 100,000 bytes.
fn numbered(number: u8) -> (Vec<u8>, Token) {
    let mut data = payload(100_000);
    data[0] = number;
    let token = Token::of(&data);
    (data, token)
}

fn bounded(dir: &TempDir, capacity_bytes: u64) -> Store {
    let config = StoreConfig { capacity_bytes: Some(capacity_bytes), ..StoreConfig::default() };
    Store::open(dir.path(), config).unwrap()
}

fn is_held(store: &Store, token: Token) -> bool {
    let indexed = store.lease(token).is_some();
    // Not by `get`, which counts as a use.
    assert_eq!(store.list().iter().any(|(held, _)| *held == token), indexed);
    indexed
}

#[test]
fn a_payload_whose_lease_is_over_is_removed_by_expire_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for (number, expires_s) in [(1, Some(100)), (2, Some(200)), (3, None)] {
        put_as(&store, &numbered(number).0, Lease::until(expires_s, None), 0).unwrap();
    }
    assert!(store.expire(99).is_empty());
    let held = store.get(&numbered(1).1).unwrap().unwrap();
    assert_eq!(store.expire(100), [AnyToken::from(numbered(1).1)]);
    assert!(store.get(&numbered(1).1).unwrap().is_none());
    held.read(0, &mut [0; 100_000]).unwrap();
    assert_eq!(store.usage_bytes(), 2 * STORED);
    assert_eq!(store.expire(u64::MAX), [AnyToken::from(numbered(2).1)]);
    assert_eq!(store.list(), [(numbered(3).1, 100_000)]);
    store.sync_removals().unwrap();
    assert_eq!(stored(dir.path()).len(), 1, "the file of the payload that is left");
}

#[test]
fn leases_owners_and_kinds_outlast_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let leases = [
        Lease::until(Some(100), Some(ALICE)),
        Lease::until(None, Some(BOB)),
        Lease::cached(Some(300)),
        Lease::default(),
    ];
    let store = open(&dir);
    for (number, lease) in leases.iter().enumerate() {
        put_as(&store, &numbered(number as u8).0, *lease, 0).unwrap();
    }
    drop(store);
    let store = open(&dir);
    for (number, lease) in leases.iter().enumerate() {
        assert_eq!(store.lease(numbered(number as u8).1), Some(*lease));
    }
    assert_eq!((store.owned_bytes(&ALICE), store.owned_bytes(&BOB)), (STORED, STORED));
    assert_eq!(store.usage_bytes(), 4 * STORED);
    assert_eq!(store.expire(100), [AnyToken::from(numbered(0).1)]);
    assert_eq!(store.owned_bytes(&ALICE), 0);
}

#[test]
fn a_payload_of_an_older_store_is_kept_without_end_and_without_an_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put_as(&store, &numbered(1).0, Lease::until(Some(5), Some(ALICE)), 0).unwrap();
    downgrade(dir.path(), store);
    let meta = files(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "meta"));
    fs::remove_file(meta.unwrap()).unwrap();
    fs::remove_dir(dir.path().join("sets")).unwrap();
    let store = open(&dir);
    assert_eq!(store.lease(numbered(1).1), Some(Lease::default()));
    assert!(store.expire(u64::MAX).is_empty());
}

#[test]
fn a_crash_before_the_payload_has_its_name_leaves_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let (data, token) = numbered(1);
    let store = open(&dir);
    put_as(&store, &data, Lease::until(Some(5), Some(ALICE)), 0).unwrap();
    downgrade(dir.path(), store);
    let paths = files(&dir.path().join("data"));
    let of = |kind: &str| paths.iter().find(|path| path.extension().is_some_and(|e| e == kind)).unwrap();
    let contents = ["meta", "obao", "blob"].map(|kind| (of(kind), fs::read(of(kind)).unwrap()));
    // Files get their names in this order; a crash comes after each.
    for there in 0..=3 {
        paths.iter().for_each(|path| drop(fs::remove_file(path)));
        forget(dir.path());
        contents[..there].iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        // The blob has its temporary name until then.
        fs::write(dir.path().join(format!("tmp/{}.0.blob", token.hex())), b"").unwrap();
        let store = open(&dir);
        assert_eq!(is_held(&store, token), there == 3);
        assert_eq!(store.get(&token).unwrap().is_some(), there == 3);
        assert_eq!(store.owned_bytes(&ALICE), if there == 3 { STORED_EARLIER } else { 0 });
        assert_eq!(files(&dir.path().join("data")).len(), if there == 3 { 2 } else { 0 });
    }
    // A lease whose file is incomplete keeps its payload.
    forget(dir.path());
    fs::write(of("meta"), b"{\"expires_s\":5,\"own").unwrap();
    let store = open(&dir);
    assert_eq!(store.lease(token), Some(Lease::default()));
    assert_eq!(store.damage().files_set_aside, 1, "and is not deleted");
}

#[test]
fn putting_again_lengthens_a_lease_and_never_shortens_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let (data, token) = numbered(1);
    assert!(!store.extend(token, Lease::default()).unwrap());
    put_as(&store, &data, Lease::cached(Some(50)), 0).unwrap();
    assert_eq!(store.owned_bytes(&ALICE), 0);
    for (asked, then) in [
        // Even a shorter lease makes it kept: the node that asked relies on it.
        (Lease::until(Some(40), Some(ALICE)), Lease::until(Some(40), Some(ALICE))),
        (Lease::until(Some(100), Some(ALICE)), Lease::until(Some(100), Some(ALICE))),
        (Lease::until(Some(90), Some(BOB)), Lease::until(Some(100), Some(ALICE))),
        (Lease::cached(None), Lease::until(Some(100), Some(ALICE))),
        (Lease::until(Some(110), Some(BOB)), Lease::until(Some(110), Some(BOB))),
    ] {
        assert!(store.extend(token, asked).unwrap());
        assert_eq!(store.lease(token), Some(then));
        // A whole PUT has the same effect.
        put_as(&store, &data, asked, 0).unwrap();
        assert_eq!(store.lease(token), Some(then));
    }
    assert_eq!((store.owned_bytes(&ALICE), store.owned_bytes(&BOB)), (STORED, STORED), "each has its own");
    assert_eq!(store.usage_bytes(), STORED);
    assert!(store.expire(105).is_empty());
    assert_eq!((store.owned_bytes(&ALICE), store.owned_bytes(&BOB)), (0, STORED));
    drop(store);
    assert_eq!(open(&dir).lease(token), Some(Lease::until(Some(110), Some(BOB))));
}

#[test]
fn the_least_recently_used_cached_payload_is_removed_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = bounded(&dir, 3 * STORED);
    for number in 1..=3 {
        put_as(&store, &numbered(number).0, Lease::cached(None), 0).unwrap();
    }
    store.touch(numbered(1).1);
    store.get(&numbered(2).1).unwrap();
    let open_still = store.get(&numbered(3).1).unwrap().unwrap();
    store.touch(numbered(1).1);
    store.touch(numbered(2).1);
    // By now payload 3 is the least recently used.
    put(&store, &numbered(4).0).unwrap();
    assert_eq!([1, 2, 3, 4].map(|n| is_held(&store, numbered(n).1)), [true, true, false, true]);
    open_still.read(0, &mut [0; 100_000]).unwrap();
    put(&store, &numbered(5).0).unwrap();
    assert_eq!([1, 2, 4, 5].map(|n| is_held(&store, numbered(n).1)), [false, true, true, true]);
    assert_eq!(store.usage_bytes(), 3 * STORED);
}

#[test]
fn after_a_start_the_payload_written_last_counts_as_used_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = bounded(&dir, 3 * STORED);
    for number in [1, 2, 3] {
        put_as(&store, &numbered(number).0, Lease::cached(None), 0).unwrap();
    }
    downgrade(dir.path(), store);
    for (number, age_s) in [(1, 100), (2, 300), (3, 200)] {
        let hex = numbered(number).1.hex();
        let blob = files(dir.path()).into_iter().find(|path| path.ends_with(format!("{hex}.blob"))).unwrap();
        let file = fs::OpenOptions::new().write(true).open(blob).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
    }
    let store = bounded(&dir, 3 * STORED);
    for (number, goes) in [(4, 2), (5, 3), (6, 1)] {
        put(&store, &numbered(number).0).unwrap();
        assert!(!is_held(&store, numbered(goes).1), "{goes}");
    }
}

#[test]
fn a_payload_with_a_lease_stays_however_short_room_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = bounded(&dir, 3 * STORED);
    put_as(&store, &numbered(1).0, Lease::until(Some(100), None), 0).unwrap();
    put_as(&store, &numbered(2).0, Lease::default(), 0).unwrap();
    put_as(&store, &numbered(3).0, Lease::cached(None), 0).unwrap();
    // The request needs the room of two payloads, and only one may go: none is removed.
    let error = store.begin(Token::of(b"long"), 2 * 100_000, Lease::cached(None), 99).unwrap_err();
    assert!(matches!(error, StoreError::Capacity { .. }), "{error}");
    assert!(is_held(&store, numbered(3).1));
    // Once a lease is over, its payload is removed first, and a cached one only if that is not enough.
    put_as(&store, &numbered(4).0, Lease::default(), 100).unwrap();
    assert_eq!([1, 2, 3, 4].map(|n| is_held(&store, numbered(n).1)), [false, true, true, true]);
    put_as(&store, &numbered(5).0, Lease::default(), 100).unwrap();
    assert_eq!([2, 3, 4, 5].map(|n| is_held(&store, numbered(n).1)), [true, false, true, true]);
    let error = put(&store, &numbered(6).0).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Quota);
    assert_eq!(store.usage_bytes(), 3 * STORED);
}

#[test]
fn a_peer_has_a_quota_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { quota_bytes: Some(2 * STORED), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let leased = |expires_s, owner| Lease::until(Some(expires_s), Some(owner));
    put_as(&store, &numbered(1).0, leased(100, ALICE), 0).unwrap();
    // A payload that is being written counts.
    let writing = store.begin(numbered(2).1, 100_000, leased(200, ALICE), 0).unwrap();
    let error = store.begin(numbered(3).1, 100_000, leased(200, ALICE), 0).unwrap_err();
    assert!(matches!(error, StoreError::PeerQuota { owner: ALICE, .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Quota);
    assert!(error.to_string().contains("wait for its leases to end"), "{error}");
    // Other peers' payloads, those without an owner, and cached ones have room.
    for (number, lease) in [(3, leased(200, BOB)), (4, Lease::default()), (5, Lease::cached(None))] {
        put_as(&store, &numbered(number).0, lease, 0).unwrap();
    }
    drop(writing);
    assert_eq!(store.owned_bytes(&ALICE), STORED);
    put_as(&store, &numbered(2).0, leased(200, ALICE), 0).unwrap();
    // Extending another peer's lease or a cached payload is no way around the quota.
    for (number, until_s) in [(3, 300), (5, 300), (3, 150)] {
        let error = store.extend(numbered(number).1, leased(until_s, ALICE)).unwrap_err();
        assert!(matches!(error, StoreError::PeerQuota { .. }), "{error}");
    }
    // Leases of this peer that are over make room.
    put_as(&store, &numbered(6).0, leased(300, ALICE), 100).unwrap();
    assert!(!is_held(&store, numbered(1).1) && is_held(&store, numbered(3).1));
    assert_eq!(store.owned_bytes(&ALICE), 2 * STORED);
}

#[test]
fn changes_are_listed_in_order_after_a_sequence_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert!(!store.changes_after(0).complete, "holdings of the start are in no journal");
    let (start, holdings) = store.holdings();
    assert!(holdings.is_empty());
    let [one, two] = [1, 2].map(|number| AnyToken::from(numbered(number).1));
    let holds =
        |token, expires_s| HoldingChange::Holds(Holding { token, coverage: Coverage::All, expires_s });
    put_as(&store, &numbered(1).0, Lease::until(Some(100), None), 0).unwrap();
    put_as(&store, &numbered(2).0, Lease::until(Some(200), None), 0).unwrap();
    let first = store.changes_after(start);
    assert_eq!(first.changes, [holds(one, Some(100)), holds(two, Some(200))]);
    assert!(first.complete);
    // Each change shows the present state, and none is listed twice.
    store.extend(two, Lease::until(None, None)).unwrap();
    store.expire(100);
    assert_eq!(store.changes_after(start).changes, [HoldingChange::Gone(one), holds(two, None)]);
    let second = store.changes_after(first.newest);
    assert_eq!(second.changes, [holds(two, None), HoldingChange::Gone(one)]);
    assert!(store.changes_after(second.newest).changes.is_empty());
    assert!(!store.changes_after(second.newest + 1).complete, "the number is another process's");
    let (newest, holdings) = store.holdings();
    assert_eq!(newest, second.newest);
    assert_eq!(holdings, [Holding { token: two, coverage: Coverage::All, expires_s: None }]);
}

#[test]
fn the_memory_of_bad_sets_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let set = |number: usize| SetToken::of(&number.to_le_bytes());
    for number in 0..=BAD_SETS_LEN_MAX {
        store.mark_bad(set(number));
        store.mark_bad(set(1));
    }
    assert!(!store.is_bad(&set(0)) && store.is_bad(&set(1)) && store.is_bad(&set(BAD_SETS_LEN_MAX)));
}

/// A peer may put many sets of one payload, and prolong the payload's lease as often as it likes.
#[test]
fn a_longer_lease_of_a_payload_announces_none_of_its_sets() {
    const SETS: u8 = 20;
    let dir = tempfile::tempdir().unwrap();
    let (store, bytes) = (open(&dir), payload(100_000));
    let token = Token::of(&bytes);
    put_as(&store, &bytes, Lease::until(Some(100), None), 0).unwrap();
    for number in 0..SETS {
        let coding = Coding::ReedSolomon { data_lanes: 2 + number, parity: None };
        let descriptor = Descriptor::new(token, bytes.len() as u64, 16 * 1024, coding).unwrap();
        let writer = store.begin_set(descriptor, descriptor.lanes(), Lease::until(Some(100), None), 0);
        writer.unwrap().commit().unwrap();
    }
    let (sequence, _) = store.holdings();
    store.extend(token, Lease::until(Some(200), None)).unwrap();
    let longer = Holding { token: token.into(), coverage: Coverage::All, expires_s: Some(200) };
    assert_eq!(store.changes_after(sequence).changes, [HoldingChange::Holds(longer)]);
    let (sequence, _) = store.holdings();
    store.remove(token).unwrap();
    assert_eq!(store.changes_after(sequence).changes.len(), 1 + usize::from(SETS));
}

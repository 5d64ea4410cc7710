//! The database of a store: what is refused, and with which way out; the layout of versions before it, and leases by owner.

use super::earlier::{downgrade, forget};
use super::sets::Sharded;
use super::{files, open, payload, put, put_as, stored};
use redb::{ReadableDatabase, TableDefinition};
use std::fs::{self, OpenOptions};
use std::path::Path;
use stoq::limits::STORE_BATCH_LEN;
use stoq::seed::{Lease, Store, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Token};

const ALICE: NodeId = NodeId([1; 32]);
const BOB: NodeId = NodeId([2; 32]);
const NOTES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("notes");

fn refused(dir: &Path) -> StoreError {
    Store::open(dir, StoreConfig::default()).unwrap_err()
}

#[test]
fn a_database_that_is_none_is_refused_with_the_way_out_and_that_way_works() {
    type Harm = (&'static str, fn(&Path));
    let harm: [Harm; 5] = [
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("a text", |path| fs::write(path, [b'x'; 10_000]).unwrap()),
        ("its head", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(200).unwrap()),
        ("cut", |path| {
            let length = fs::metadata(path).unwrap().len();
            OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
        ("another program's", |path| {
            fs::remove_file(path).unwrap();
            let other = redb::Database::create(path).unwrap();
            let writing = other.begin_write().unwrap();
            writing.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
            writing.commit().unwrap();
        }),
    ];
    let data = payload(1_100_000);
    for (name, harm) in harm {
        let dir = tempfile::tempdir().unwrap();
        put_as(&open(&dir), &data, Lease::until(Some(9), Some(ALICE)), 0).unwrap();
        let path = dir.path().join("store.redb");
        harm(&path);
        let error = refused(dir.path());
        assert!(matches!(error, StoreError::Database { .. }), "{name}: {error}");
        assert!(error.to_string().contains("restore it from a backup, or move it away"), "{name}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{name}: {error}");
        fs::rename(&path, dir.path().join("away")).unwrap();
        let store = open(&dir);
        assert_eq!(store.lease(Token::of(&data)), Some(Lease::default()), "{name}");
        assert!(store.get(&Token::of(&data)).unwrap().is_some(), "{name}");
    }
}

#[test]
fn a_database_of_a_later_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir), b"data").unwrap();
    let path = dir.path().join("store.redb");
    let database = redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(NOTES).unwrap().insert(&b"layout"[..], &7u32.to_be_bytes()[..]).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Layout { layout: 7, known: 5, .. }), "{error}");
    assert!(error.to_string().contains("run the version that wrote it, or a later one"), "{error}");
    let database = redb::Database::open(&path).unwrap();
    let notes = database.begin_read().unwrap().open_table(NOTES).unwrap();
    assert_eq!(notes.get(&b"layout"[..]).unwrap().unwrap().value(), 7u32.to_be_bytes());
}

#[test]
fn versions_before_the_database_are_kept_out_and_one_that_runs_keeps_this_one_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, b"data").unwrap();
    let earlier = dir.path().join("lock");
    // As they open it.
    let theirs = || OpenOptions::new().create(true).truncate(false).write(true).open(&earlier);
    assert!(theirs().is_err());
    let told = fs::read_to_string(earlier.join("README")).unwrap();
    assert!(told.contains("store.redb") && told.contains("Run the version that wrote it"), "{told}");
    downgrade(dir.path(), store);
    let lock = theirs().unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(refused(dir.path()), StoreError::InUse { .. }));
    assert_eq!(Store::is_in_use(dir.path()).unwrap(), Some(earlier.clone()));
    assert!(!dir.path().join("store.redb").exists());
    drop(lock);
    assert!(open(&dir).get(&Token::of(b"data")).unwrap().is_some());
    assert!(earlier.is_dir());
}

#[test]
fn the_layout_before_the_database_is_taken_over_with_all_that_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sharded) = (open(&dir), Sharded::new());
    let leases = [
        Lease::default(),
        Lease::until(Some(100), Some(ALICE)).in_epoch(2),
        Lease::until(None, Some(BOB)),
        Lease::cached(Some(300)),
    ];
    for (number, lease) in leases.iter().enumerate() {
        put_as(&store, &payload(1_100_000 + number), *lease, 0).unwrap();
    }
    sharded.put(&store, "0-1,4", Lease::until(Some(400), Some(BOB)), 0).unwrap();
    let mut before = store.holdings().1;
    let (usage_bytes, owned_bytes, census) = (store.usage_bytes(), store.owned_bytes(&BOB), store.census());
    downgrade(dir.path(), store);
    for _ in 0..2 {
        let store = open(&dir);
        let mut holdings = store.holdings().1;
        holdings.sort_by_key(|holding| holding.token);
        before.sort_by_key(|holding| holding.token);
        assert_eq!(holdings, before);
        assert_eq!(
            (store.usage_bytes(), store.owned_bytes(&BOB), store.census()),
            (usage_bytes, owned_bytes, census)
        );
        for (number, lease) in leases.iter().enumerate() {
            assert_eq!(store.lease(Token::of(&payload(1_100_000 + number))), Some(*lease));
        }
        sharded.check(&store, "0-1,4");
        assert_eq!(store.damage(), Default::default());
        let kinds = stored(dir.path()).into_iter().map(|path| path.extension().unwrap().to_owned());
        assert!(!kinds.into_iter().any(|kind| kind == "meta" || kind == "set"));
    }
}

#[test]
fn a_payload_is_kept_as_long_as_one_of_its_owners_has_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(20_000);
    let token = Token::of(&data);
    let [alice, bob] = [(10, ALICE), (20, BOB)].map(|(until_s, of)| Lease::until(Some(until_s), Some(of)));
    let store = open(&dir);
    put_as(&store, &data, alice, 0).unwrap();
    assert!(store.extend(token, bob).unwrap());
    drop(store);
    let store = open(&dir);
    assert_eq!(
        (store.owned_bytes(&ALICE), store.owned_bytes(&BOB)),
        (store.usage_bytes(), store.usage_bytes())
    );
    assert_eq!((store.census().entries, store.census().leases), (1, 2));
    assert!(store.expire(15).is_empty());
    assert_eq!((store.owned_bytes(&ALICE), store.lease(token)), (0, Some(bob)));
    assert!(store.expire(19).is_empty());
    assert_eq!(store.expire(20), [AnyToken::from(token)]);
    store.sync_removals().unwrap();
    assert_eq!((store.usage_bytes(), stored(dir.path()).len()), (0, 0));
}

#[test]
fn pages_hold_everything_once_and_many_leases_end_in_several_looks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for number in 0..50u8 {
        put_as(&store, &[number], Lease::until(Some(1), Some(ALICE)), 0).unwrap();
    }
    let mut paged: Vec<AnyToken> = Vec::new();
    loop {
        let page = store.holdings_after(paged.last(), 7);
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        paged.extend(page.iter().map(|holding| holding.token));
    }
    assert!(paged.is_sorted() && paged.len() == 50);
    const { assert!(STORE_BATCH_LEN >= 50) };
    assert_eq!(store.expire(1).len(), 50);
    assert_eq!(store.holdings().1, []);
    // Its end makes that durable.
    drop(store);
    assert_eq!((open(&dir).census().entries, stored(dir.path()).len()), (0, 0));
}

#[test]
fn a_start_looks_at_no_payload_and_a_file_that_was_removed_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(100_000);
    put(&open(&dir), &data).unwrap();
    let blob = files(&dir.path().join("data"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|kind| kind == "blob"));
    fs::remove_file(blob.unwrap()).unwrap();
    let store = open(&dir);
    assert_eq!(store.damage(), Default::default());
    assert!(store.holding(&Token::of(&data).into()).is_some());
    assert!(matches!(store.get(&Token::of(&data)), Err(StoreError::Damaged(_))));
    forget(dir.path());
}

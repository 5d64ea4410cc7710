//! The journal of the database: what a process that was killed leaves in it, and what is refused.

use super::{SmallDisk, open, payload, put, put_as};
use redb::{ReadableDatabase, TableDefinition};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use stoq::seed::{DamageOutcome, Lease, Store, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::Token;
use tempfile::TempDir;

const BLOCK: usize = 4096;
const BOB: NodeId = NodeId([2; 32]);
const NOTES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("notes");

/// What a process leaves that is killed now. No commit may be on its way.
pub(crate) fn killed(dir: &Path) -> TempDir {
    let left = tempfile::tempdir().unwrap();
    copy(dir, left.path());
    left
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub(crate) fn journals(dir: &Path) -> [PathBuf; 2] {
    [0, 1].map(|number| dir.join(format!("store.journal.{number}")))
}

fn short(number: u8) -> Vec<u8> {
    vec![number; 3000]
}

/// The directory of a killed process that put these payloads, one commit each: the database has the first two, and the journal the others.
fn left_with(count: u8) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir), &short(0)).unwrap();
    let store = open(&dir);
    for number in 1..count {
        put_as(&store, &short(number), Lease::until(Some(50), Some(BOB)), 0).unwrap();
    }
    killed(dir.path())
}

fn holds(store: &Store, number: u8) -> bool {
    let Some(held) = store.get(&Token::of(&short(number))).unwrap() else { return false };
    let mut bytes = vec![0; 3000];
    held.read(0, &mut bytes).unwrap();
    bytes == short(number)
}

/// The places of the batches in the first file.
fn batches(dir: &Path) -> Vec<usize> {
    let bytes = fs::read(&journals(dir)[0]).unwrap();
    (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"STOQrows")).collect()
}

fn turn_bit(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 8], at as u64).unwrap();
}

fn refused(dir: &Path) -> String {
    let error = Store::open(dir, StoreConfig::default()).unwrap_err();
    assert!(matches!(error, StoreError::Journal { .. }), "{error}");
    assert!(
        error.to_string().contains("restore it and the database from one backup, or move it away"),
        "{error}"
    );
    error.to_string()
}

#[test]
fn what_a_killed_process_left_in_its_journal_is_held_and_a_closed_store_has_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let long = payload(1_100_000);
    for number in 0..5 {
        put_as(&store, &short(number), Lease::until(Some(50), Some(BOB)), 0).unwrap();
    }
    put(&store, &long).unwrap();
    store.remove(Token::of(&short(0))).unwrap();
    let (usage_bytes, owned_bytes, census) = (store.usage_bytes(), store.owned_bytes(&BOB), store.census());
    let mut holdings = store.holdings().1;
    holdings.sort_by_key(|holding| holding.token);
    let left = killed(dir.path());
    drop(store);
    for dir in [&left, &dir] {
        for round in 0..3 {
            let store = open(dir);
            assert_eq!(store.damage(), Default::default());
            assert!(!holds(&store, 0), "{round}");
            assert!((1..5).all(|number| holds(&store, number)), "{round}");
            assert!(store.get(&Token::of(&long)).unwrap().is_some());
            assert_eq!(store.lease(Token::of(&short(1))), Some(Lease::until(Some(50), Some(BOB))));
            assert_eq!(
                (store.usage_bytes(), store.owned_bytes(&BOB), store.census()),
                (usage_bytes, owned_bytes, census)
            );
            let mut found = store.holdings().1;
            found.sort_by_key(|holding| holding.token);
            assert_eq!(found, holdings);
            drop(store);
            assert!(journals(dir.path()).iter().all(|path| !path.exists()), "{round}");
        }
    }
}

#[test]
fn the_end_of_a_journal_may_be_torn_and_damage_before_it_is_named_with_the_way_out() {
    let whole = left_with(6);
    let places = batches(whole.path());
    assert_eq!(places.len(), 4);
    let last = places.len() - 1;
    for (number, place) in places.iter().enumerate() {
        // The magic, the number, the length, the check, the hash, a row.
        for at in [0, 15, 23, 30, 40, 100, 1500] {
            let left = killed(whole.path());
            let [first, second] = journals(left.path());
            turn_bit(&first, place + at);
            if number < last {
                let error = refused(left.path());
                assert!(error.contains("is damaged or gone") && error.contains("store.journal.0"), "{error}");
                for path in [first, second] {
                    fs::rename(&path, path.with_added_extension("away")).unwrap();
                }
            }
            let store = open(&left);
            assert!(holds(&store, 0), "the database has it");
            assert!(!holds(&store, 5), "it is torn, or gone with the journal");
            assert_eq!(holds(&store, 4), number == last);
            put(&store, &short(5)).unwrap();
            let again = killed(left.path());
            drop(store);
            assert!(holds(&open(&left), 5) && holds(&open(&again), 5));
        }
    }
    // Cut at its end.
    let left = killed(whole.path());
    let cut = places[last] as u64 + 100;
    File::options().write(true).open(&journals(left.path())[0]).unwrap().set_len(cut).unwrap();
    let store = open(&left);
    assert!(holds(&store, 4) && !holds(&store, 5));
}

#[test]
fn a_journal_that_is_missing_is_damage_that_is_told() {
    let left = left_with(3);
    fs::remove_file(&journals(left.path())[0]).unwrap();
    let store = open(&left);
    let damage = store.damage();
    assert_eq!(damage.left, 1, "{damage:?}");
    let found = damage.latest.back().unwrap();
    assert_eq!(found.outcome, DamageOutcome::Left);
    assert!(
        found.name.ends_with("store.journal.0") && found.reason.contains("what was put last may be lost")
    );
    assert!(holds(&store, 0) && !holds(&store, 2));
    drop(store);
    assert_eq!(open(&left).damage(), Default::default(), "it is told once");
}

#[test]
fn a_journal_of_another_database_of_a_later_version_or_without_its_head_is_refused() {
    let (left, other) = (left_with(3), left_with(3));
    let [first, _] = journals(left.path());
    let own = fs::read(&first).unwrap();
    fs::copy(&journals(other.path())[0], &first).unwrap();
    assert!(refused(left.path()).contains("it is the journal of another database"));
    let mut later = own.clone();
    later[11] = 2;
    fs::write(&first, &later).unwrap();
    assert!(refused(left.path()).contains("it has the version 2, and this version of STOQ knows 1"));
    assert!(fs::read(&first).unwrap() == later, "it is left as it is");
    for at in [0, 20, 50] {
        fs::write(&first, &own).unwrap();
        turn_bit(&first, at);
        assert!(refused(left.path()).contains("its head is damaged"));
    }
    fs::write(&first, &own[..20]).unwrap();
    assert!(refused(left.path()).contains("its head is cut off"));
    fs::write(&first, &own).unwrap();
    assert!(holds(&open(&left), 2), "its own is read");
    // A database that was moved away takes its journal along.
    let left = left_with(3);
    fs::remove_file(left.path().join("store.redb")).unwrap();
    assert!(refused(left.path()).contains("it is the journal of another database"));
}

#[test]
fn a_database_of_the_layout_before_the_journal_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir), &short(1)).unwrap();
    super::earlier::to_layout(dir.path(), 2);
    let store = open(&dir);
    put(&store, &short(2)).unwrap();
    put(&store, &short(3)).unwrap();
    let left = killed(dir.path());
    drop(store);
    for dir in [&dir, &left] {
        assert!((1..4).all(|number| holds(&open(dir), number)));
    }
    let database = redb::Database::open(dir.path().join("store.redb")).unwrap();
    let notes = database.begin_read().unwrap().open_table(NOTES).unwrap();
    assert_eq!(notes.get(&b"layout"[..]).unwrap().unwrap().value(), 5u32.to_be_bytes());
}

#[test]
#[allow(clippy::print_stderr, reason = "the output must show that the test proved nothing")]
fn a_store_that_cannot_be_written_serves_what_its_journal_has() {
    let Some(disk) = SmallDisk::mount("32m") else {
        eprintln!("skipped: no file system may be mounted here");
        return;
    };
    let path = disk.dir.path();
    copy(left_with(4).path(), path);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(path).output().unwrap();
    assert!(remounted.status.success());
    let store = Store::open(path, StoreConfig::default()).unwrap();
    assert!(store.is_read_only() && (0..4).all(|number| holds(&store, number)));
    assert_eq!((store.census().entries, store.list().len()), (4, 4));
    drop(store);
    assert!(journals(path).iter().all(|path| path.exists()));
}

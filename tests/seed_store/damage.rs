//! Damage on the disk: it is found, mended or set aside, and reported.

use super::earlier::downgrade;
use super::sets::Sharded;
use super::{GROUP, SmallDisk, files, open, payload, pieces, put, put_as};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use stoq::limits::{STORE_FILE_BYTES, STORE_ROWS_BYTES};
use stoq::seed::{
    CheckResult, DamageOutcome, Lease, MemoryPages, MemoryTier, Store, StoreConfig, StoreError, Urgency,
};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Token};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const ALICE: NodeId = NodeId([1; 32]);

/// The only file of this kind.
fn file(dir: &TempDir, kind: &str) -> PathBuf {
    let is_kind = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.split_once('.').is_some_and(|(_, of)| of == kind)
    };
    let mut found = files(dir.path());
    found.retain(|path| !path.starts_with(dir.path().join("damaged")));
    found.into_iter().find(is_kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn set_aside(dir: &TempDir) -> Vec<String> {
    let damaged = dir.path().join("damaged");
    let entries = fs::read_dir(damaged).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Inverts one bit of a byte.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn check(store: &Store, token: impl Into<AnyToken>) -> CheckResult {
    let (send, receive) = channel();
    assert!(
        store.check(token, Instant::now(), Urgency::RequestWaits, move |_, found| send.send(found).unwrap())
    );
    receive.recv_timeout(PATIENCE).unwrap()
}

#[track_caller]
fn assert_whole(store: &Store, data: &[u8]) {
    let held = store.get(&Token::of(data)).unwrap().unwrap();
    let mut read = vec![0; data.len()];
    held.read(0, &mut read).unwrap();
    assert!(read == data);
    assert_eq!(check(store, Token::of(data)), CheckResult::Whole);
}

#[test]
fn an_outboard_that_is_short_long_or_missing_is_made_again() {
    type Harm = (&'static str, fn(&Path));
    let data = payload(3_000_000);
    let lease = Lease::until(Some(100), Some(ALICE));
    let harm: [Harm; 4] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| cut(path, 0)),
        ("short", |path| cut(path, 64)),
        ("long", |path| cut(path, 100_000)),
    ];
    for (name, harm) in harm {
        let dir = tempfile::tempdir().unwrap();
        put_as(&open(&dir), &data, lease, 0).unwrap();
        let outboard = file(&dir, "obao");
        let before = fs::read(&outboard).unwrap();
        harm(&outboard);
        let store = open(&dir);
        assert!(matches!(store.get(&Token::of(&data)), Err(StoreError::Damaged(_))), "{name}");
        assert_eq!(check(&store, Token::of(&data)), CheckResult::Whole, "{name}");
        assert_whole(&store, &data);
        assert_eq!(store.lease(Token::of(&data)), Some(lease), "{name}");
        assert_eq!(fs::read(&outboard).unwrap(), before, "{name}");
        let damage = store.damage();
        assert_eq!((damage.mended, damage.set_aside, damage.files_set_aside), (1, 0, 0), "{name}");
        assert_eq!(damage.latest[0].outcome, DamageOutcome::Mended);
        assert!(damage.latest[0].name.contains(&Token::of(&data).hex()));
        drop(store);
        assert_eq!(open(&dir).damage().mended, 0, "once");
    }
}

#[test]
fn an_outboard_is_made_again_for_the_set_that_relies_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    // Lanes that become a payload keep their files.
    sharded.put(&store, "0-1", Lease::default(), 0).unwrap();
    sharded.put(&store, "2-3", Lease::default(), 0).unwrap();
    drop(store);
    fs::remove_file(file(&dir, "obao")).unwrap();
    let store = open(&dir);
    assert_eq!(check(&store, sharded.descriptor.set_token()), CheckResult::Whole);
    assert_eq!(store.damage().mended, 1);
    sharded.check(&store, "0-3");
    assert_eq!(set_aside(&dir), [""; 0]);
}

#[test]
fn files_that_cannot_be_used_are_set_aside_and_never_deleted() {
    let data = payload(1_100_000);
    let hex = Token::of(&data).hex();
    let [blob, obao] = ["blob", "obao"].map(|kind| format!("{hex}.{kind}"));
    let all = [blob.clone(), obao.clone()];
    type Harm<'a> = (&'a str, fn(&TempDir), &'a [String]);
    let harm: [Harm<'_>; 6] = [
        ("the payload is cut within a group", |dir| cut(&file(dir, "blob"), 1_099_999), &all),
        ("the payload is longer", |dir| cut(&file(dir, "blob"), 1_100_001), &all),
        ("the payload is empty", |dir| cut(&file(dir, "blob"), 0), &all),
        ("the payload is missing", |dir| fs::remove_file(file(dir, "blob")).unwrap(), &all[1..]),
        (
            "both files are damaged",
            |dir| {
                flip(&file(dir, "blob"), 50_000);
                cut(&file(dir, "obao"), 0);
            },
            &all,
        ),
        (
            "a directory has its name",
            |dir| {
                let path = file(dir, "blob");
                fs::remove_file(&path).unwrap();
                fs::create_dir(path).unwrap();
            },
            &all,
        ),
    ];
    for (name, harm, names) in harm {
        let dir = tempfile::tempdir().unwrap();
        put_as(&open(&dir), &data, Lease::until(Some(500), Some(ALICE)), 0).unwrap();
        harm(&dir);
        let store = open(&dir);
        assert_eq!(check(&store, Token::of(&data)), CheckResult::Damaged, "{name}");
        assert!(store.get(&Token::of(&data)).unwrap().is_none(), "{name}");
        assert_eq!((set_aside(&dir), store.usage_bytes()), (names.to_vec(), 0), "{name}");
        let damage = store.damage();
        assert!(
            damage.set_aside >= 1 && damage.files_set_aside as usize == names.len(),
            "{name}: {damage:?}"
        );
        assert!(damage.latest[0].name.contains(&hex), "{name}: {damage:?}");
        // The payload can be put again, is then complete, and the next start finds no more damage.
        put(&store, &data).unwrap();
        assert_whole(&store, &data);
        drop(store);
        let store = open(&dir);
        assert_whole(&store, &data);
        let damage = store.damage();
        assert_eq!((damage.set_aside, damage.files_set_aside as usize), (0, names.len()), "{name}");
        // A second file of the same name gets a number.
        drop(store);
        cut(&file(&dir, "blob"), 7);
        check(&open(&dir), Token::of(&data));
        assert!(
            set_aside(&dir).contains(&format!("{blob}{}", if names.contains(&blob) { ".2" } else { "" })),
            "{name}"
        );
    }
}

#[test]
fn a_small_payload_is_known_by_its_length_and_a_broken_lease_keeps_it_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(GROUP - 1);
    put_as(&open(&dir), &data, Lease::until(Some(5), None), 0).unwrap();
    for broken in [&b""[..], b"{\"expires_s\":5,\"ow"] {
        downgrade(dir.path(), open(&dir));
        fs::write(dir.path().join(file(&dir, "blob").with_extension("meta")), broken).unwrap();
        let store = open(&dir);
        assert_eq!(store.lease(Token::of(&data)), Some(Lease::default()));
        assert_eq!(store.damage().set_aside, 1);
        assert_whole(&store, &data);
        assert!(store.expire(u64::MAX).is_empty());
    }
    assert_eq!(set_aside(&dir).len(), 2);
    let store = open(&dir);
    put_as(&store, &data, Lease::default(), 0).unwrap();
    downgrade(dir.path(), store);
    cut(&file(&dir, "blob"), 100);
    assert!(open(&dir).get(&Token::of(&data)).unwrap().is_none());
}

#[test]
fn a_check_finds_bytes_that_have_changed_since_they_were_put() {
    let data = payload(5_000_000);
    let token = Token::of(&data);
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert_eq!(check(&store, token), CheckResult::Gone);
    let lease = Lease::until(Some(1 << 40), Some(ALICE));
    put_as(&store, &data, lease, 0).unwrap();
    assert_whole(&store, &data);
    // Only its outboard is damaged.
    flip(&file(&dir, "obao"), 10_000);
    assert_eq!(check(&store, token), CheckResult::Whole);
    assert_eq!(store.damage().mended, 1);
    fs::remove_file(file(&dir, "obao")).unwrap();
    assert!(matches!(store.get(&token), Err(StoreError::Damaged(_))));
    assert_eq!(check(&store, token), CheckResult::Whole);
    assert_whole(&store, &data);
    // Its bytes are damaged.
    let open_still = store.get(&token).unwrap().unwrap();
    flip(&file(&dir, "blob"), 4_999_999);
    let (sequence, _) = store.holdings();
    assert_eq!(check(&store, token), CheckResult::Damaged);
    assert!(store.get(&token).unwrap().is_none() && store.usage_bytes() == 0);
    assert_eq!(store.changes_after(sequence).changes.len(), 1, "peer gateways are told");
    assert_eq!(set_aside(&dir).len(), 2);
    open_still.read(0, &mut [0; 100]).unwrap();
    // It is put again, and keeps its earlier lease if that is longer.
    put_as(&store, &data, Lease::until(Some(7), None), 0).unwrap();
    assert_eq!(store.lease(token), Some(lease));
    assert_whole(&store, &data);
    let checks = store.checks();
    assert_eq!((checks.damaged, checks.unreadable, checks.skipped), (1, 0, 0));
    assert!(checks.whole >= 4 && checks.bytes > 20_000_000, "{checks:?}");
}

#[test]
fn two_checks_at_once_leave_a_payload_that_is_put_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let both = [payload(3_000_000), payload(3_000_001)];
    both.iter().for_each(|data| drop(put(&store, data).unwrap()));
    for path in files(&dir.path().join("data")) {
        if path.extension().is_some_and(|kind| kind == "blob") {
            flip(&path, 1_000_000);
        }
    }
    let (send, receive) = channel();
    for data in &both {
        let send = send.clone();
        assert!(store.check(Token::of(data), Instant::now(), Urgency::RequestWaits, move |_, found| {
            send.send(found).unwrap()
        }));
    }
    // Whichever is first, a payload that is put again stays.
    put(&store, &both[0]).unwrap();
    let found = [(); 2].map(|()| receive.recv_timeout(PATIENCE).unwrap());
    assert!(found.contains(&CheckResult::Damaged), "{found:?}");
    assert_eq!(check(&store, Token::of(&both[1])), CheckResult::Gone);
    if store.get(&Token::of(&both[0])).unwrap().is_none() {
        put(&store, &both[0]).unwrap();
    }
    assert_whole(&store, &both[0]);
}

#[test]
fn damaged_lanes_are_set_aside_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let set = sharded.descriptor.set_token();
    let store = open(&dir);
    sharded.put(&store, "0-1,4", Lease::default(), 0).unwrap();
    assert_eq!(check(&store, set), CheckResult::Whole);
    flip(&file(&dir, "content"), 100);
    assert_eq!(check(&store, set), CheckResult::Damaged);
    sharded.check(&store, "4");
    assert_eq!(set_aside(&dir), [format!("{}.content", set.hex()), format!("{}.content.obao", set.hex())]);
    drop(store);
    let store = open(&dir);
    sharded.check(&store, "4");
    sharded.put(&store, "0-1", Lease::default(), 0).unwrap();
    sharded.check(&store, "0-1,4");
    drop(store);
    cut(&file(&dir, "parity.obao"), 64);
    let store = open(&dir);
    assert_eq!(check(&store, set), CheckResult::Damaged);
    sharded.check(&store, "0-1");
    drop(store);
    cut(&file(&dir, "content"), 64);
    let store = open(&dir);
    assert_eq!(check(&store, set), CheckResult::Damaged);
    assert!(!sharded.is_held(&store));
    assert_eq!(files(&dir.path().join("sets")), [""; 0].map(PathBuf::from));
    sharded.put(&store, "0-5", Lease::default(), 0).unwrap();
    sharded.check(&store, "0-5");
    // Its payload, which gives its lanes, is damaged.
    let content = files(&dir.path().join("data")).into_iter().find(|path| {
        path.file_name().unwrap().to_str().unwrap() == format!("{}.blob", sharded.descriptor.content().hex())
    });
    flip(&content.unwrap(), 100);
    assert_eq!(check(&store, set), CheckResult::Damaged);
    sharded.check(&store, "4-5");
    sharded.put(&store, "0-3", Lease::default(), 0).unwrap();
    sharded.check(&store, "0-5");
    // A version before the database kept the descriptor in a file.
    downgrade(dir.path(), store);
    fs::write(file(&dir, "set"), b"").unwrap();
    let store = open(&dir);
    assert!(!sharded.is_held(&store) && store.damage().set_aside == 1);
    assert!(
        store
            .begin_set(sharded.descriptor, Lanes::first(6), Lease::default(), 0)
            .unwrap()
            .parts()
            .next()
            .is_none()
    );
}

#[test]
fn a_short_payload_is_checked_when_it_is_read_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let data = payload(100_000);
    let held = put(&store, &data).unwrap();
    let tier = MemoryTier::new(4 << 20, MemoryPages::Ordinary);
    assert_eq!(tier.read(&held, 0, 10).unwrap(), data[..10]);
    flip(&file(&dir, "blob"), 99_999);
    // The memory tier still has the old bytes.
    assert_eq!(tier.read(&held, 99_990, 10).unwrap(), data[99_990..]);
    tier.forget(&held.token());
    assert!(matches!(tier.read(&held, 0, 10), Err(StoreError::Damaged(_))));
    assert_eq!(tier.stats().blocks, 0);
    // Another file in its place is not taken for the old one.
    assert_eq!(check(&store, held.token()), CheckResult::Damaged);
    let again = put(&store, &data).unwrap();
    assert_eq!(tier.read(&again, 99_990, 10).unwrap(), data[99_990..]);
}

#[test]
fn foreign_files_in_the_directory_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(100_000);
    let store = open(&dir);
    put(&store, &data).unwrap();
    downgrade(dir.path(), store);
    fs::create_dir(dir.path().join("tmp/a-directory")).unwrap();
    let prefix = if Token::of(&data).hex().starts_with("0b") { "0c" } else { "0b" };
    fs::write(dir.path().join("data").join(prefix), b"a file").unwrap();
    fs::write(dir.path().join("data/README"), b"not the store's").unwrap();
    let store = open(&dir);
    assert_whole(&store, &data);
    assert_eq!(set_aside(&dir), [prefix, "a-directory"]);
    assert!(dir.path().join("data/README").exists());
}

#[test]
fn a_payload_that_is_being_checked_may_be_put_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let data = payload(3_000_000);
    put(&open(&dir), &data).unwrap();
    fs::remove_file(file(&dir, "obao")).unwrap();
    let store = open(&dir);
    let mut writer = store.begin(Token::of(&data), data.len() as u64, Lease::default(), 0).unwrap();
    pieces(&data).iter().for_each(|piece| writer.write(piece).unwrap());
    writer.commit().unwrap();
    assert_whole(&store, &data);
    assert_eq!(store.usage_bytes(), (733 + 3) * 4096 + 2 * STORE_FILE_BYTES + STORE_ROWS_BYTES);
}

#[test]
#[allow(clippy::print_stderr, reason = "the output must show that the test proved nothing")]
fn damage_in_a_store_that_cannot_be_written_is_reported_and_moves_nothing() {
    let Some(disk) = SmallDisk::mount("16m") else {
        eprintln!("skipped: no file system may be mounted here");
        return;
    };
    let path = disk.dir.path();
    let (good, bad) = (payload(60_000), payload(70_000));
    let store = Store::open(path, StoreConfig::default()).unwrap();
    put(&store, &good).unwrap();
    put(&store, &bad).unwrap();
    drop(store);
    let blob = files(path).into_iter().find(|file| fs::read(file).unwrap() == bad).unwrap();
    flip(&blob, 12_345);
    let before = files(path);
    let remounted = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(path).output();
    assert!(remounted.unwrap().status.success());
    let store = Store::open(path, StoreConfig::default()).unwrap();
    assert!(store.is_read_only());
    assert_eq!(check(&store, Token::of(&bad)), CheckResult::Damaged);
    assert!(store.get(&Token::of(&bad)).unwrap().is_none(), "it is no longer served");
    let damage = store.damage();
    assert_eq!((damage.left, damage.set_aside, damage.mended), (1, 0, 0));
    assert!(damage.latest[0].reason.contains("the store cannot be written"), "{damage:?}");
    assert_eq!(files(path), before, "nothing is moved");
    assert_whole(&store, &good);
}

//! Lanes of sets, in files of their own or as payloads.

use super::earlier::downgrade;
use super::{files, open, payload, pieces, pieces_of, put, put_as, stored};
use std::fs;
use std::path::{Path, PathBuf};
use stoq::record::ErrorCode;
use stoq::seed::{
    Coverage, DamageState, Holding, HoldingChange, Lease, MemoryPages, MemoryTier, OpenSet, Store,
    StoreConfig, StoreError,
};
use stoq::shard::{Blob, Coding, Descriptor, Lanes};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, EncodedPiece, Ranges, Token, VerifiedDecoder, VerifiedEncoder};
use tempfile::TempDir;

const SHARD: usize = 32 * 1024;
const ALICE: NodeId = NodeId([1; 32]);

/// A payload in lanes 0 to 3, and bytes in place of its parity in lanes 4 and 5: the store does not examine them.
pub(super) struct Sharded {
    pub(super) content: Vec<u8>,
    pub(super) parity: Vec<u8>,
    pub(super) descriptor: Descriptor,
}

impl Sharded {
    /// Five stripes, the last of them a shard and a bit.
    pub(super) fn new() -> Self {
        let content = payload(4 * 4 * SHARD + SHARD + 5000);
        let parity = payload(5 * 2 * SHARD);
        let coding = Coding::ReedSolomon { data_lanes: 4, parity: Some((2, Token::of(&parity))) };
        let descriptor =
            Descriptor::new(Token::of(&content), content.len() as u64, SHARD as u64, coding).unwrap();
        Self { content, parity, descriptor }
    }

    fn bytes(&self, blob: Blob) -> &[u8] {
        match blob {
            Blob::Content => &self.content,
            Blob::Parity => &self.parity,
        }
    }

    pub(super) fn put(
        &self,
        store: &Store,
        lanes: &str,
        lease: Lease,
        now_s: u64,
    ) -> Result<OpenSet, StoreError> {
        let mut writer = store.begin_set(self.descriptor, lanes.parse().unwrap(), lease, now_s)?;
        let parts: Vec<_> = writer.parts().cloned().collect();
        for part in parts {
            for piece in pieces_of(self.bytes(part.blob), &part.selection) {
                writer.write(part.blob, &piece)?;
            }
        }
        writer.commit()
    }

    /// Encodes the lanes held and checks them as a receiver would.
    pub(super) fn check(&self, store: &Store, lanes: &str) {
        let lanes: Lanes = lanes.parse().unwrap();
        let held = store.get_set(&self.descriptor.set_token()).unwrap().unwrap();
        assert_eq!((held.lanes, held.descriptor), (lanes, self.descriptor));
        let parts = self.descriptor.parts(lanes, &Ranges::all()).unwrap();
        for blob in [Blob::Content, Blob::Parity] {
            assert_eq!(held.blob(blob).is_some(), parts.iter().any(|part| part.blob == blob));
        }
        for part in parts {
            let held = held.blob(part.blob).unwrap();
            assert_eq!((held.token(), held.length()), (part.token, part.length));
            let mut encoder = VerifiedEncoder::new(held.outboard().clone(), &part.selection).unwrap();
            let mut decoder = VerifiedDecoder::new(part.token, part.length, &part.selection).unwrap();
            let mut batch = Vec::new();
            while encoder.next_batch(1 << 20, &mut batch).unwrap() > 0 {
                for piece in batch.drain(..) {
                    match piece {
                        EncodedPiece::Proof(pairs) => decoder.push(&pairs).unwrap(),
                        EncodedPiece::Data { offset, len } => {
                            let mut read = vec![0; len];
                            held.read(offset, &mut read).unwrap();
                            decoder.push(&read).unwrap();
                        }
                    }
                }
            }
            assert!(decoder.is_complete());
        }
    }

    pub(super) fn is_held(&self, store: &Store) -> bool {
        store.get_set(&self.descriptor.set_token()).unwrap().is_some()
    }
}

fn kinds(dir: &TempDir) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut kinds: Vec<_> = stored(dir.path())
        .into_iter()
        .filter_map(|path| Some(name(path).split_once('.')?.1.to_owned()))
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn some_lanes_are_held_and_more_join_them() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    for (lanes, then) in [("1", "1"), ("1-2", "1-2"), ("2,4", "1-2,4"), ("0,4", "0-2,4")] {
        sharded.put(&store, lanes, Lease::default(), 0).unwrap();
        sharded.check(&store, then);
    }
    assert!(store.get(&sharded.descriptor.content()).unwrap().is_none(), "it is not held whole");
    let usage_bytes = store.usage_bytes();
    // Three of four lanes and one of two: much less than both blobs.
    let stored = sharded.content.len() - 4 * SHARD + 5 * SHARD;
    assert!((stored as u64..stored as u64 + 60_000).contains(&usage_bytes), "{usage_bytes} for {stored}");
    drop(store);
    let store = open(&dir);
    sharded.check(&store, "0-2,4");
    assert_eq!(store.usage_bytes(), usage_bytes);
    assert!(store.remove(sharded.descriptor.set_token()).unwrap());
    assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0));
}

#[test]
fn files_of_lanes_have_holes() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    Sharded::new().put(&open(&dir), "1", Lease::default(), 0).unwrap();
    let content = files(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "content"));
    let metadata = fs::metadata(content.unwrap()).unwrap();
    assert_eq!(metadata.len(), Sharded::new().content.len() as u64);
    // Five shards of lane 1, the last of 5000 bytes, with room for the file system's own needs.
    assert!(metadata.blocks() * 512 < 6 * SHARD as u64, "{}", metadata.blocks());
}

#[test]
fn a_blob_put_whole_is_a_payload() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    sharded.put(&store, "0-4", Lease::default(), 0).unwrap();
    assert_eq!(kinds(&dir), ["blob", "parity", "parity.obao"]);
    sharded.check(&store, "0-4");
    let held = store.get(&sharded.descriptor.content()).unwrap().unwrap();
    let mut read = vec![0; sharded.content.len()];
    held.read(0, &mut read).unwrap();
    assert!(read == sharded.content);
    drop(store);
    sharded.check(&open(&dir), "0-4");
}

#[test]
fn lanes_that_complete_a_blob_become_a_payload() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    sharded.put(&store, "0-1,4", Lease::until(Some(100), Some(ALICE)), 0).unwrap();
    // A reader has the set open meanwhile.
    let before = store.get_set(&sharded.descriptor.set_token()).unwrap().unwrap();
    sharded.put(&store, "2-3,5", Lease::cached(None), 0).unwrap();
    sharded.check(&store, "0-5");
    assert_eq!(kinds(&dir), ["blob", "blob", "obao", "obao"]);
    let whole = put(&open(&tempfile::tempdir().unwrap()), &sharded.content).unwrap();
    let held = store.get(&sharded.descriptor.content()).unwrap().unwrap();
    assert_eq!(held.outboard().as_bytes(), whole.outboard().as_bytes());
    // The lanes that had a lease still have it.
    assert_eq!(store.lease(sharded.descriptor.content()), Some(Lease::until(Some(100), Some(ALICE))));
    let mut read = vec![0; SHARD];
    before.content.unwrap().read(SHARD as u64, &mut read).unwrap();
    assert!(read == sharded.content[SHARD..2 * SHARD]);
    let usage_bytes = store.usage_bytes();
    assert_eq!(store.owned_bytes(&ALICE), usage_bytes);
    drop(store);
    let store = open(&dir);
    sharded.check(&store, "0-5");
    assert_eq!(store.usage_bytes(), usage_bytes);
}

#[test]
fn a_held_payload_gives_a_set_its_lanes_and_takes_them_away_when_removed() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    let (content, set) = (sharded.descriptor.content(), sharded.descriptor.set_token());
    put_as(&store, &sharded.content, Lease::cached(Some(50)), 0).unwrap();
    let writer = store
        .begin_set(sharded.descriptor, "1-2".parse().unwrap(), Lease::until(Some(100), None), 0)
        .unwrap();
    assert_eq!(writer.parts().count(), 0, "nothing is to be written");
    writer.commit().unwrap();
    sharded.check(&store, "0-3");
    assert_eq!(store.lease(content), Some(Lease::until(Some(100), None)), "the set relies on it");
    sharded.put(&store, "5", Lease::default(), 0).unwrap();
    sharded.check(&store, "0-3,5");

    let (sequence, _) = store.holdings();
    assert!(store.remove(content).unwrap());
    sharded.check(&store, "5");
    let left = Holding { token: set.into(), coverage: Coverage::Lanes(Lanes::one(5)), expires_s: None };
    assert_eq!(
        store.changes_after(sequence).changes,
        [HoldingChange::Gone(content.into()), HoldingChange::Holds(left)]
    );
    // The payload is put again.
    put(&store, &sharded.content).unwrap();
    sharded.check(&store, "0-3,5");
    // A set is removed without its payload; a payload takes with it a set that has no other lanes.
    store.remove(set).unwrap();
    assert!(!sharded.is_held(&store) && store.get(&content).unwrap().is_some());
    sharded.put(&store, "0", Lease::default(), 0).unwrap();
    let (sequence, _) = store.holdings();
    store.remove(content).unwrap();
    assert!(!sharded.is_held(&store));
    assert_eq!(
        store.changes_after(sequence).changes.iter().filter(|c| matches!(c, HoldingChange::Gone(_))).count(),
        2
    );
    assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0));
}

#[test]
fn sets_expire_and_make_room_like_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let set = AnyToken::from(sharded.descriptor.set_token());
    let store = open(&dir);
    sharded.put(&store, "0-4", Lease::until(Some(100), None), 0).unwrap();
    assert!(store.expire(99).is_empty());
    let mut gone = store.expire(100);
    gone.sort();
    assert_eq!(gone, [AnyToken::from(sharded.descriptor.content()), set]);
    store.sync_removals().unwrap();
    assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0));
    drop(store);

    let config = StoreConfig { capacity_bytes: Some(1_000_000), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    sharded.put(&store, "0", Lease::cached(None), 0).unwrap();
    assert!(store.begin(Token::of(b"long"), 950_000, Lease::default(), 0).is_ok());
    assert!(sharded.is_held(&store), "a byte of it must be proven first");
    let long = payload(950_000);
    put(&store, &long).unwrap();
    assert!(!sharded.is_held(&store), "the set was removed to make room");
    store.remove(Token::of(&long)).unwrap();
    sharded.put(&store, "0", Lease::default(), 0).unwrap();
    assert!(matches!(
        store.begin(Token::of(b"long"), 950_000, Lease::default(), 0),
        Err(StoreError::Capacity { .. })
    ));
}

#[test]
fn a_peer_pays_for_its_lanes() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let config = StoreConfig { quota_bytes: Some(400_000), ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let alice = Lease::until(None, Some(ALICE));
    sharded.put(&store, "0", alice, 0).unwrap();
    assert_eq!(store.owned_bytes(&ALICE), store.usage_bytes());
    let error = sharded.put(&store, "1-2", alice, 0).unwrap_err();
    assert!(matches!(error, StoreError::PeerQuota { .. }), "{error}");
    assert_eq!(store.owned_bytes(&ALICE), store.usage_bytes());
    sharded.check(&store, "0");
}

#[test]
fn a_dropped_or_incomplete_writer_of_lanes_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    for before in [None, Some("1,4")] {
        if let Some(lanes) = before {
            sharded.put(&store, lanes, Lease::default(), 0).unwrap();
        }
        let (usage_bytes, there) = (store.usage_bytes(), kinds(&dir));
        let begin =
            || store.begin_set(sharded.descriptor, "0,5".parse().unwrap(), Lease::default(), 0).unwrap();
        let parts: Vec<_> = begin().parts().cloned().collect();
        assert_eq!(parts.len(), 2);
        let pieces = pieces_of(&sharded.content, &parts[0].selection);
        let mut writer = begin();
        pieces.iter().for_each(|piece| writer.write(Blob::Content, piece).unwrap());
        assert!(matches!(writer.write(Blob::Parity, &pieces[1]), Err(StoreError::Foreign { .. })));
        assert_eq!(writer.written_bytes(), parts[0].bytes);
        assert!(matches!(writer.commit(), Err(StoreError::Incomplete { .. })));
        drop(begin());
        assert_eq!((store.usage_bytes(), kinds(&dir)), (usage_bytes, there));
        assert_eq!(sharded.is_held(&store), before.is_some());
    }
    sharded.check(&store, "1,4");
    // A piece of another lane of the same payload.
    let mut writer = store.begin_set(sharded.descriptor, Lanes::one(0), Lease::default(), 0).unwrap();
    let all = pieces(&sharded.content);
    assert!(matches!(writer.write(Blob::Content, all.last().unwrap()), Err(StoreError::Foreign { .. })));
}

#[test]
fn writers_of_one_set_at_once_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    let mut writers = ["0,4", "1,4", "2", "3"].map(|lanes| {
        store.begin_set(sharded.descriptor, lanes.parse().unwrap(), Lease::default(), 0).unwrap()
    });
    for writer in &mut writers {
        let parts: Vec<_> = writer.parts().cloned().collect();
        for part in parts {
            let pieces = pieces_of(sharded.bytes(part.blob), &part.selection);
            pieces.iter().for_each(|piece| writer.write(part.blob, piece).unwrap());
        }
    }
    let threads = writers.map(|writer| std::thread::spawn(move || writer.commit()));
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap().unwrap()));
    sharded.check(&store, "0-4");
    assert!(store.get(&sharded.descriptor.content()).unwrap().is_some());
    let usage_bytes = store.usage_bytes();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.usage_bytes(), usage_bytes);
    sharded.check(&store, "0-4");
}

#[test]
fn lanes_that_were_removed_meanwhile_are_not_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    sharded.put(&store, "0", Lease::default(), 0).unwrap();
    let mut writer =
        store.begin_set(sharded.descriptor, "0-1".parse().unwrap(), Lease::default(), 0).unwrap();
    let part = writer.parts().next().unwrap().clone();
    let pieces = pieces_of(&sharded.content, &part.selection);
    pieces.iter().for_each(|piece| writer.write(part.blob, piece).unwrap());
    store.remove(sharded.descriptor.set_token()).unwrap();
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, StoreError::LanesWent { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Busy);
    assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0));
}

#[test]
fn bad_and_impossible_sets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    for lanes in [Lanes::NONE, Lanes::one(6)] {
        let error = store.begin_set(sharded.descriptor, lanes, Lease::default(), 0).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadRange, "{error}");
    }
    store.mark_bad(sharded.descriptor.set_token());
    let error = sharded.put(&store, "0", Lease::default(), 0).unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadDescriptor, "{error}");
}

#[test]
fn short_payloads_leave_lanes_without_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for content in [payload(0), payload(1), payload(SHARD + 1)] {
        let coding = Coding::ReedSolomon { data_lanes: 4, parity: None };
        let descriptor =
            Descriptor::new(Token::of(&content), content.len() as u64, SHARD as u64, coding).unwrap();
        let parity = Vec::new();
        let sharded = Sharded { content, parity, descriptor };
        // The last lane has no byte of any of these payloads.
        sharded.put(&store, "3", Lease::default(), 0).unwrap();
        sharded.check(&store, "3");
        sharded.put(&store, "0-1", Lease::default(), 0).unwrap();
        let whole = sharded.content.is_empty();
        sharded.check(&store, if whole { "0-1,3" } else { "0-3" });
        assert_eq!(store.get(&descriptor.content()).unwrap().is_some(), !whole);
    }
}

#[test]
fn threads_that_put_read_and_remove_at_once_agree_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    let (content, set) = (sharded.descriptor.content(), sharded.descriptor.set_token());
    std::thread::scope(|scope| {
        for lanes in ["0,4", "1-2", "2-3,5", "0-3"] {
            let (store, sharded) = (&store, &sharded);
            scope.spawn(move || {
                for round in 0..12 {
                    match sharded.put(store, lanes, Lease::until(Some(round), Some(ALICE)), 0) {
                        // Lanes that another thread removed meanwhile are an error, and there is no other error.
                        Ok(_) | Err(StoreError::LanesWent { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if let Some(held) = store.get_set(&set).unwrap() {
                        let lane = held.lanes.lowest().unwrap();
                        let (blob, at) =
                            if lane < 4 { (Blob::Content, lane) } else { (Blob::Parity, lane - 4) };
                        let at = usize::from(at) * SHARD;
                        let mut read = vec![0; SHARD];
                        held.blob(blob).unwrap().read(at as u64, &mut read).unwrap();
                        assert!(read == sharded.bytes(blob)[at..at + SHARD]);
                    }
                    match round % 3 {
                        0 => drop(store.remove(set).unwrap()),
                        1 => drop(store.remove(content).unwrap()),
                        _ => drop(store.expire(round)),
                    }
                }
            });
        }
    });
    let usage_bytes = store.usage_bytes();
    assert_eq!(store.owned_bytes(&ALICE), usage_bytes);
    drop(store);
    let store = open(&dir);
    assert_eq!(store.usage_bytes(), usage_bytes);
    store.expire(u64::MAX);
    store.sync_removals().unwrap();
    assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0));
}

/// Copies a store as it is, as a crash would leave it.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Opens the store that a crash leaves between the states `before` and `after`: of the files that differ, those of the first `done`
/// steps of `steps` are in place.
fn crashed(before: &Path, after: &Path, steps: &[&[&str]], done: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(before, dir.path());
    for path in files(after) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let kind = name.split_once('.').map_or("", |(_, kind)| kind);
        let under = path.strip_prefix(after).unwrap();
        let place = under.components().next().unwrap().as_os_str().to_str().unwrap();
        if steps[..done].iter().any(|step| step.contains(&format!("{place}/{kind}").as_str())) {
            fs::create_dir_all(dir.path().join(under).parent().unwrap()).unwrap();
            fs::copy(&path, dir.path().join(under)).unwrap();
        }
        // A file under `tmp` names the token that was being changed.
        if let Some((hex, _)) = name.split_once('.') {
            fs::write(dir.path().join("tmp").join(format!("{hex}.0.mark")), b"").unwrap();
        }
    }
    // A blob that has become a payload is one file with two names.
    for (of_payload, of_set) in [("blob", "content"), ("obao", "content.obao")] {
        let found = |kind: &str| {
            let is_kind = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.split_once('.').is_some_and(|(_, of_file)| of_file == kind)
            };
            files(dir.path()).into_iter().find(is_kind)
        };
        if let (Some(payload), Some(set)) = (found(of_payload), found(of_set)) {
            fs::copy(&payload, &set).unwrap();
            fs::remove_file(&payload).unwrap();
            fs::hard_link(&set, &payload).unwrap();
        }
    }
    dir
}

#[test]
fn a_crash_of_an_earlier_version_at_any_step_leaves_the_old_lanes_or_the_new() {
    let sharded = Sharded::new();
    let states = ["", "1", "0-1", "0-1,4", "0-4"].map(|lanes| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let mut so_far = Vec::new();
        // The lanes are put one after the other: they are all in the set's own files as long as possible.
        for lane in lanes.parse::<Lanes>().into_iter().flat_map(Lanes::iter) {
            sharded.put(&store, &lane.to_string(), Lease::until(Some(100), None), 0).unwrap();
            so_far.push(lane);
        }
        downgrade(dir.path(), store);
        dir
    });
    let lanes_files: [&[&str]; 4] = [
        &["sets/parity.obao", "sets/content.obao"],
        &["sets/parity", "sets/content"],
        &["sets/meta"],
        &["sets/set"],
    ];
    let promoted: [&[&str]; 5] =
        [&["data/meta"], &["data/obao"], &["data/blob"], &["sets/meta"], &["sets/set"]];
    for (from, to, steps) in [
        (("", 0), ("1", 1), &lanes_files[..]),
        (("1", 1), ("0-1", 2), &lanes_files[..]),
        (("0-1", 2), ("0-1,4", 3), &lanes_files[..]),
        (("0-1,4", 3), ("0-4", 4), &promoted[..]),
    ] {
        for done in 0..=steps.len() {
            let dir = crashed(states[from.1].path(), states[to.1].path(), steps, done);
            let store = open(&dir);
            // A payload that is there gives its lanes, whether the set has noticed or not.
            let is_whole = store.get(&sharded.descriptor.content()).unwrap().is_some();
            let lanes = if done == steps.len() || (is_whole && to.0 == "0-4") { to.0 } else { from.0 };
            if lanes.is_empty() {
                assert_eq!((store.usage_bytes(), kinds(&dir).len()), (0, 0), "{to:?} {done}");
            } else {
                sharded.check(&store, lanes);
            }
            if is_whole {
                assert!(!kinds(&dir).contains(&"content".to_owned()), "the payload is enough: {done}");
            }
            // Later writes work.
            sharded.put(&store, "5", Lease::default(), 0).unwrap();
            drop(store);
            let store = open(&dir);
            let five = if lanes.is_empty() { "5".to_owned() } else { format!("{lanes},5") };
            let lanes: Lanes = five.parse().unwrap();
            sharded.check(&store, &lanes.to_string());
        }
    }
}

#[test]
fn a_crash_while_lanes_become_a_payload_is_no_damage_at_a_later_start() {
    let sharded = Sharded::new();
    let [before, after] = ["0-1,4", "0-4"].map(|lanes| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let lanes: Lanes = lanes.parse().unwrap();
        for lane in lanes.iter() {
            sharded.put(&store, &lane.to_string(), Lease::default(), 0).unwrap();
        }
        downgrade(dir.path(), store);
        dir
    });
    // A version before the database was stopped. The payload has its names, and the set still claims its lanes.
    let dir = crashed(before.path(), after.path(), &[&["data/meta", "data/obao", "data/blob"]], 1);
    for _ in 0..3 {
        let store = open(&dir);
        sharded.check(&store, "0-4");
        assert_eq!(store.damage(), DamageState::default());
    }
    // Nor when the payload is removed later, and its lanes with it.
    let store = open(&dir);
    assert!(store.remove(sharded.descriptor.content()).unwrap());
    sharded.check(&store, "4");
    drop(store);
    let store = open(&dir);
    sharded.check(&store, "4");
    assert_eq!(store.damage(), DamageState::default());
}

#[test]
fn lanes_that_a_payload_gives_meanwhile_are_charged_where_they_take_blocks() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    sharded.put(&store, "1,3", Lease::default(), 0).unwrap();
    let mut writer =
        store.begin_set(sharded.descriptor, "0,2".parse().unwrap(), Lease::default(), 0).unwrap();
    let part = writer.parts().next().unwrap().clone();
    for piece in pieces_of(&sharded.content, &part.selection) {
        writer.write(Blob::Content, &piece).unwrap();
    }
    put(&store, &sharded.content).unwrap();
    writer.commit().unwrap();
    sharded.check(&store, "0-3");
    let taken_bytes: u64 =
        stored(dir.path()).iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum();
    assert!(store.usage_bytes() >= taken_bytes, "{} of {taken_bytes} bytes are charged", store.usage_bytes());
}

#[test]
fn the_memory_tier_gives_no_bytes_from_before_lanes_were_added() {
    let dir = tempfile::tempdir().unwrap();
    let sharded = Sharded::new();
    let store = open(&dir);
    let tier = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
    let read = |shard: usize| {
        let held = store.get_set(&sharded.descriptor.set_token()).unwrap().unwrap();
        tier.read(&held.content.unwrap(), (shard * SHARD) as u64, SHARD).unwrap()
    };
    for (lanes, shard) in [("0", 0), ("1", 1), ("2-3", 2)] {
        sharded.put(&store, lanes, Lease::default(), 0).unwrap();
        assert!(read(shard) == sharded.content[shard * SHARD..][..SHARD], "{lanes}");
    }
}

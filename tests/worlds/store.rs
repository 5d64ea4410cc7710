//! A store on a faulty disk, by seeds: puts, lanes, leases, removals, checks and evictions; a crash at each change of the disk, failures,
//! and bits that turn over. After each the store is opened again and examined.

mod failures;
mod journal;
mod leftovers;
mod migration;

use crate::disk::{FAILURE, Fault, FaultyDisk, NO_SPACE, READ_ONLY};
use crate::samples::{blob, pieces, samples, serves};
use crate::seeds::{self, Mutant};
use crate::support::files;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use stoq::limits::{GROUP_BYTES, STORE_FILE_BYTES};
use stoq::record::{LeaseHolder, LeaseScope, List};
use stoq::seed::{
    CheckResult, ClockReading, DamageState, Lease, PayloadWriter, Store, StoreConfig, StoreError, Urgency,
};
use stoq::shard::{Blob, Lanes};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Ranges, Token, VerifiedPiece};
use tempfile::TempDir;

/// Actions of one run.
const ACTIONS: usize = 24;
/// How long a check may take in real time before a run fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the store has promised of a token, and must keep through a crash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    /// The end of the lease; `None`: nothing is promised.
    pub(crate) until_s: Option<u64>,
    /// The lanes of a set.
    pub(crate) lanes: Lanes,
    /// It was removed, and nothing of it was put since.
    pub(crate) gone: bool,
}

pub(crate) type Promises = HashMap<AnyToken, Promise>;

/// A run of actions on one store.
struct Run {
    random: StdRng,
    store: Store,
    now_s: u64,
    promises: Promises,
    unchecked: bool,
}

/// What a run leaves.
struct Over {
    directory: TempDir,
    disk: Arc<FaultyDisk>,
    promises: Promises,
    now_s: u64,
}

const NODES: [NodeId; 2] = [NodeId([1; 32]), NodeId([2; 32])];

/// Runs the actions of a seed on a disk with this fault, and closes the store.
fn run(seed: u64, fault: Fault, mutant: Option<Mutant>) -> Over {
    let mut random = StdRng::seed_from_u64(seed);
    let directory = scratch();
    let on_disk = mutant.and_then(Mutant::on_disk);
    let disk = Arc::new(FaultyDisk::new(directory.path(), random.random(), fault, on_disk));
    let capacity_bytes = random.random_bool(0.5).then_some(400_000);
    let config = StoreConfig { capacity_bytes, ..StoreConfig::default() };
    // A disk that fails may keep it closed.
    let Ok(store) = Store::open_on(directory.path(), config, disk.clone()) else {
        return Over { directory, disk, promises: Promises::new(), now_s: 0 };
    };
    let unchecked = mutant == Some(Mutant::UncheckedGroup);
    let mut run = Run { random, store, now_s: 1000, promises: Promises::new(), unchecked };
    for _ in 0..ACTIONS {
        run.act();
    }
    if fault == Fault::None {
        // Holdings that went for others leave their files until then.
        run.store.sync_removals().unwrap();
        assert_charged(directory.path(), &run.store);
    }
    Over { directory, disk, promises: run.promises, now_s: run.now_s }
}

/// A directory in memory, where there is one: the model of the disk is what is tried.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Over {
    /// Crashes, and opens what is left on a disk without faults.
    fn crash(self, seed: u64) -> Left {
        let Self { directory, disk, promises, now_s } = self;
        let left = scratch();
        disk.survivors(left.path(), seed);
        drop(directory);
        Left::open(left, promises, now_s)
    }

    /// Opens it again as it is.
    fn reopen(self) -> Left {
        Left::open(self.directory, self.promises, self.now_s)
    }
}

impl Run {
    fn act(&mut self) {
        let number = self.random.random_range(0..samples().payloads.len());
        let token = samples().payloads[number].token;
        match self.random.random_range(0..16) {
            0..6 => self.put(number),
            6..9 => self.put_lanes(),
            9 => self.remove(token.into()),
            10 => self.remove(samples().descriptor.set_token().into()),
            11 => {
                let any =
                    if self.random.random() { token.into() } else { samples().descriptor.set_token().into() };
                let lease = self.lease();
                if self.store.extend(any, lease).is_ok_and(|held| held) {
                    self.promise(any, lease, Lanes::NONE);
                }
            }
            12 => {
                self.now_s += self.random.random_range(0..300);
                let unix_s = 2_000_000_000 + self.now_s;
                self.store.moment(ClockReading { unix_s, up_s: self.now_s });
                let gone = self.store.expire(self.now_s);
                if self.store.sync_removals().is_ok() {
                    gone.into_iter().for_each(|token| self.note_gone(token));
                }
            }
            13 => {
                // A put that its peer gives up.
                let sample = &samples().payloads[number];
                if let Ok(mut writer) = self.begin(number, Lease::default()) {
                    let some = self.random.random_range(0..=sample.pieces.len());
                    sample.pieces[..some].iter().for_each(|piece| drop(writer.write(piece)));
                }
            }
            14 => drop(check(&self.store, token.into())),
            _ => self.look(number),
        }
        let over_s = self.now_s;
        self.promises
            .retain(|_, promise| promise.gone || promise.until_s.is_some_and(|until_s| until_s > over_s));
    }

    fn lease(&mut self) -> Lease {
        let owner = NODES.get(self.random.random_range(0..3)).copied();
        let expires_s = self.random.random_bool(0.7).then(|| self.now_s + self.random.random_range(1..600));
        if self.random.random_bool(0.3) { Lease::cached(expires_s) } else { Lease::until(expires_s, owner) }
    }

    fn begin(&self, number: usize, lease: Lease) -> Result<PayloadWriter, StoreError> {
        let sample = &samples().payloads[number];
        self.store.begin(sample.token, sample.bytes.len() as u64, lease, self.now_s)
    }

    fn put(&mut self, number: usize) {
        let sample = &samples().payloads[number];
        let lease = self.lease();
        self.may_come_back(sample.token.into());
        let Ok(mut writer) = self.begin(number, lease) else { return };
        for piece in &sample.pieces {
            let mut piece = piece.clone();
            if self.unchecked {
                piece.data = piece.data.iter().map(|byte| !byte).collect();
            }
            if writer.write(&piece).is_err() {
                return;
            }
        }
        if writer.commit().is_ok() {
            self.promise(sample.token.into(), lease, Lanes::NONE);
        }
    }

    fn put_lanes(&mut self) {
        let descriptor = samples().descriptor;
        let bits = self.random.random_range(1..64);
        let lanes: Lanes = (0..6).filter(|lane| bits >> lane & 1 == 1).collect();
        let lease = self.lease();
        let blobs = [Blob::Content, Blob::Parity].map(|of| Token::of(blob(of)).into());
        blobs.into_iter().chain([descriptor.set_token().into()]).for_each(|token| self.may_come_back(token));
        let Ok(mut writer) = self.store.begin_set(descriptor, lanes, lease, self.now_s) else { return };
        let parts: Vec<_> = writer.parts().cloned().collect();
        for part in parts {
            for piece in pieces(blob(part.blob), &part.selection) {
                if writer.write(part.blob, &piece).is_err() {
                    return;
                }
            }
        }
        if writer.commit().is_ok() {
            self.promise(descriptor.set_token().into(), lease, lanes);
        }
    }

    /// Notes what the store has promised. A cached payload may go at any time.
    fn promise(&mut self, token: AnyToken, lease: Lease, lanes: Lanes) {
        if lease.cached {
            return;
        }
        let promise = self.promises.entry(token).or_default();
        promise.gone = false;
        promise.until_s = promise.until_s.max(Some(lease.expires_s.unwrap_or(u64::MAX)));
        promise.lanes = promise.lanes.union(lanes);
    }

    fn remove(&mut self, token: AnyToken) {
        self.promises.remove(&token);
        if matches!(token, AnyToken::Content(_)) {
            // A set may lose lanes with it.
            self.promises.remove(&samples().descriptor.set_token().into());
        }
        if self.store.remove(token).is_ok_and(|held| held) {
            self.note_gone(token);
        }
    }

    /// Notes a durable removal.
    fn note_gone(&mut self, token: AnyToken) {
        self.promises.insert(token, Promise { gone: true, ..Promise::default() });
    }

    /// A put of it begins: whether it is held after a crash is open from now on.
    fn may_come_back(&mut self, token: AnyToken) {
        if self.promises.get(&token).is_some_and(|promise| promise.gone) {
            self.promises.remove(&token);
        }
    }

    /// What is read is right, or there is an error.
    fn look(&self, number: usize) {
        let sample = &samples().payloads[number];
        if let Ok(Some(held)) = self.store.get(&sample.token) {
            let mut read = vec![0; sample.bytes.len()];
            if held.read(0, &mut read).is_ok() {
                assert!(read == sample.bytes, "the store gives other bytes of {}", sample.token);
            }
        }
    }
}

fn check(store: &Store, token: AnyToken) -> CheckResult {
    let (send, receive) = channel();
    let done = move |_, found| send.send(found).unwrap();
    assert!(store.check(token, Instant::now(), Urgency::RequestWaits, done));
    receive.recv_timeout(PATIENCE).expect("the check ends")
}

/// A store that was opened again.
pub(crate) struct Left {
    directory: TempDir,
    store: Store,
    promises: Promises,
    now_s: u64,
}

impl Left {
    pub(crate) fn open(directory: TempDir, promises: Promises, now_s: u64) -> Self {
        let store = Store::open(directory.path(), StoreConfig::default()).expect("the store opens");
        Self { directory, store, promises, now_s }
    }

    /// Closes the store; returns its directory.
    pub(crate) fn close(self) -> TempDir {
        drop(self.store);
        self.directory
    }

    /// Everything that must hold after a crash.
    fn examine(self) {
        self.examine_as_it_is();
        let (usage_bytes, now_s) = (self.store.usage_bytes(), self.now_s);
        let again = Self::open(self.close(), Promises::new(), now_s);
        assert_eq!(again.store.usage_bytes(), usage_bytes, "opened twice, it counts the same");
        again.empty();
    }

    /// The same, as far as it changes nothing.
    pub(crate) fn examine_as_it_is(&self) {
        assert_eq!(self.store.damage(), DamageState::default(), "a crash is no damage");
        self.examine_promises();
        self.examine_holdings();
        self.examine_owners();
        self.examine_files();
    }

    /// What was confirmed is there, at least as long as its lease, and what was removed is not.
    fn examine_promises(&self) {
        for (token, promise) in &self.promises {
            let lease = self.store.lease(*token);
            if promise.gone {
                assert_eq!(lease, None, "{token} was removed and came back");
                continue;
            }
            let lease = lease.unwrap_or_else(|| panic!("{token} was confirmed and is lost: {promise:?}"));
            let until_s = lease.expires_s.unwrap_or(u64::MAX);
            assert!(!lease.cached && Some(until_s) >= promise.until_s, "{token} has {lease:?}: {promise:?}");
            if let AnyToken::Set(set) = token {
                let held = self.store.get_set(set).unwrap().expect("it is held");
                assert!(held.lanes.contains_all(promise.lanes), "{token} has {}: {promise:?}", held.lanes);
            }
        }
    }

    /// What is held is whole.
    fn examine_holdings(&self) {
        for (token, length) in self.store.list() {
            let sample = samples().payloads.iter().find(|sample| sample.token == token).unwrap();
            assert_eq!(sample.bytes.len() as u64, length);
            let held = self.store.get(&token).unwrap().expect("it is held");
            assert!(serves(&held, &Ranges::all().into()), "{token} is held and not whole");
        }
        let descriptor = samples().descriptor;
        let Some(held) = self.store.get_set(&descriptor.set_token()).unwrap() else { return };
        for part in descriptor.parts(held.lanes, &Ranges::all()).unwrap() {
            let blob = held.blob(part.blob).expect("its lanes have files");
            assert!(serves(blob, &part.selection), "lanes {} are held and not whole", held.lanes);
        }
    }

    /// The lists by owner have what the leases say.
    fn examine_owners(&self) {
        let nodes = NODES.map(LeaseHolder::Node);
        let own = nodes[0];
        for holder in [LeaseHolder::Anonymous, nodes[0], nodes[1], LeaseHolder::Cache] {
            let list = List { scope: LeaseScope::All, holder: Some(holder), ..List::default() };
            let listed = self.store.list_page(&list, own, 0).entries.into_iter().map(|entry| entry.token);
            let all = self.store.holdings().1.into_iter().map(|holding| holding.token);
            let has_lease = |token: &AnyToken| {
                let entry = self.store.stat(*token, LeaseScope::All, own, 0);
                entry.is_some_and(|entry| entry.shown.iter().any(|lease| lease.holder == holder))
            };
            assert_eq!(listed.collect::<Vec<_>>(), all.filter(has_lease).collect::<Vec<_>>(), "{holder:?}");
        }
    }

    /// Every file belongs to a holding, and the holdings are charged for the blocks that they take.
    fn examine_files(&self) {
        let root = self.directory.path();
        let held: Vec<_> = self.store.holdings().1.into_iter().map(|holding| hex(holding.token)).collect();
        for path in files(root) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let top = path.strip_prefix(root).unwrap().components().next().unwrap();
            if path.parent() == Some(root) {
                const OWN: [&str; 6] =
                    ["store.redb", "store.journal.0", "store.journal.1", "store.lock", "clock", "clock.new"];
                assert!(OWN.contains(&name), "{name} is left");
                continue;
            }
            if top.as_os_str() == "lock" {
                continue;
            }
            let is_held = held.iter().any(|hex| name.starts_with(hex));
            assert!(is_held && (top.as_os_str() == "data" || top.as_os_str() == "sets"), "{path:?} is left");
        }
        assert_charged(root, &self.store);
    }

    /// All can be put again, and removed again, and nothing stays.
    fn empty(self) {
        for sample in &samples().payloads {
            let length = sample.bytes.len() as u64;
            let mut writer = self.store.begin(sample.token, length, Lease::default(), self.now_s).unwrap();
            sample.pieces.iter().for_each(|piece| writer.write(piece).unwrap());
            writer.commit().unwrap();
        }
        self.examine_holdings();
        for holding in self.store.holdings().1 {
            self.store.remove(holding.token).unwrap();
        }
        assert_eq!((self.store.usage_bytes(), self.store.census().entries), (0, 0));
        for directory in ["data", "sets", "tmp"] {
            assert!(files(&self.directory.path().join(directory)).is_empty(), "files stay in {directory}");
        }
    }

    /// Bits turn over: checks find them, what is still held is whole, and all can be put again.
    fn rot(self, random: &mut StdRng) {
        let Self { directory, mut store, promises, now_s } = self;
        let mut found = files(&directory.path().join("data"));
        found.extend(files(&directory.path().join("sets")));
        found.sort();
        found.retain(|_| random.random_bool(0.3));
        found.iter().for_each(|path| turn_over(path, random));
        if random.random() {
            drop(store);
            store = Store::open(directory.path(), StoreConfig::default()).unwrap();
        }
        for holding in store.holdings().1 {
            check(&store, holding.token);
        }
        let left = Self { directory, store, promises, now_s };
        left.examine_holdings();
        left.empty();
    }
}

/// The holdings are charged for the blocks that they take, but for less than a group of the one set: the file system's own.
pub(crate) fn assert_charged(root: &Path, store: &Store) {
    let found = ["data", "sets"].into_iter().flat_map(|top| files(&root.join(top)));
    let taken_bytes: u64 =
        found.map(|path| fs::metadata(path).unwrap().blocks() * 512 + STORE_FILE_BYTES).sum();
    let usage_bytes = store.usage_bytes();
    let most_bytes = usage_bytes + GROUP_BYTES as u64;
    assert!(taken_bytes <= most_bytes, "{taken_bytes} bytes are taken, {usage_bytes} are charged");
}

fn hex(token: AnyToken) -> String {
    match token {
        AnyToken::Content(token) => token.hex(),
        AnyToken::Set(token) => token.hex(),
    }
}

/// Turns over one bit of a file, or cuts it.
fn turn_over(path: &Path, random: &mut StdRng) {
    let mut bytes = fs::read(path).unwrap();
    if bytes.is_empty() {
        return;
    }
    let at = random.random_range(0..bytes.len());
    if random.random_bool(0.8) {
        bytes[at] ^= 1 << random.random_range(0..8);
    } else {
        bytes.truncate(at);
    }
    fs::write(path, bytes).unwrap();
}

/// A run without faults, crashes at some or all of its changes, failures, and bits that turn over.
fn pass(seed: u64, mutant: Option<Mutant>, crashes: usize) {
    let random = &mut StdRng::seed_from_u64(!seed);
    let over = run(seed, Fault::None, mutant);
    let steps = over.disk.steps();
    over.crash(random.random()).examine();
    run(seed, Fault::None, mutant).reopen().examine();
    run(seed, Fault::None, mutant).reopen().rot(random);
    let at: Vec<u64> = if (crashes as u64) < steps {
        (0..crashes).map(|_| random.random_range(0..steps)).collect()
    } else {
        (0..steps).collect()
    };
    for at in at {
        run(seed, Fault::Crash(at), mutant).crash(random.random()).examine();
    }
    for errno in [FAILURE, NO_SPACE, READ_ONLY] {
        let (at, count) = (random.random_range(0..steps), [1, 20][random.random_range(0..2)]);
        run(seed, Fault::Fails(at, count, errno), mutant).crash(random.random()).examine();
        run(seed, Fault::Fails(at, count, errno), mutant).reopen().examine();
    }
}

#[test]
fn a_store_keeps_its_word_through_crashes_failures_and_rot() {
    seeds::run("store", 1..101, |seed, mutant| pass(seed, mutant, 8));
}

#[test]
fn a_store_keeps_its_word_through_a_crash_at_each_change_of_its_disk() {
    seeds::run("each_change", 1..4, |seed, mutant| pass(seed, mutant, usize::MAX));
}

#[test]
fn the_seeds_of_the_store_catch_every_mutant() {
    for mutant in Mutant::OF_STORE {
        seeds::assert_caught(mutant, 1..101, |seed| pass(seed, Some(mutant), 8));
    }
}

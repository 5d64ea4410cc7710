//! The scrub by ticks of a time that the tests give.

use super::{OnScrubbed, span_s};
use crate::record::LeaseHolder;
use crate::seed::tests::put;
use crate::seed::{Disk, GivenUp, Lease, MemoryPages, MemoryTier, Store, StoreConfig};
use crate::tls::NodeId;
use crate::token::{AnyToken, Token};
use redb::{ReadableDatabase, ReadableTable};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Its hash pairs are a file, not a row of the database.
const PAYLOAD_BYTES: usize = 1_100_000;
const EVERY_S: u64 = 8_000;
const START_S: u64 = 2_000_000_000;

/// Counts reads; one of a file that is told of meets a test twice, before it goes on.
#[derive(Debug, Default)]
struct CountingDisk {
    reads: AtomicU64,
    bytes: AtomicU64,
    slow: Mutex<Option<Arc<Barrier>>>,
}

impl Disk for CountingDisk {
    fn read(&self, file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
        let slow = self.slow.lock().unwrap().take();
        if let Some(meet) = slow {
            meet.wait();
            meet.wait();
        }
        self.reads.fetch_add(1, Relaxed);
        self.bytes.fetch_add(out.len() as u64, Relaxed);
        file.read_exact_at(out, offset)
    }
}

struct Scrubbed {
    dir: tempfile::TempDir,
    disk: Arc<CountingDisk>,
    store: Option<Store>,
    config: StoreConfig,
    now: Instant,
    now_s: u64,
    found: Arc<Mutex<Vec<AnyToken>>>,
}

impl Scrubbed {
    fn new(config: StoreConfig) -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::<CountingDisk>::default());
        let store = Store::open_on(dir.path(), config, disk.clone()).unwrap();
        let (now, now_s, found) = (Instant::now(), START_S, Arc::default());
        Self { dir, disk, store: Some(store), config, now, now_s, found }
    }

    fn every(scrub_s: u64) -> Self {
        Self::new(StoreConfig { scrub_s, ..StoreConfig::default() })
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(Store::open_on(self.dir.path(), self.config, self.disk.clone()).unwrap());
    }

    /// Gives a tick, and lets the scrub read what is due, unless it waits for requests.
    fn tick(&mut self, passed_s: u64) {
        self.now += Duration::from_secs(passed_s);
        self.now_s += passed_s;
        let found = self.found.clone();
        let told = || Box::new(move |token, _| found.lock().unwrap().push(token)) as OnScrubbed;
        self.store().scrub((self.now_s, self.now), told);
        let begun = Instant::now();
        while self.store().requests_waiting() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.store().scrub_state());
            std::thread::park_timeout(Duration::from_micros(100));
        }
    }

    /// Lets time pass.
    fn pass(&mut self, span_s: u64) {
        (0..span_s / 10).for_each(|_| self.tick(10));
    }

    fn put(&self, len: usize) -> Vec<Vec<u8>> {
        let payloads: Vec<_> = (0..len as u8).map(|number| vec![number; PAYLOAD_BYTES]).collect();
        payloads.iter().for_each(|data| {
            put(self.store(), data);
        });
        payloads
    }
}

fn file(dir: &Path, data: &[u8], kind: &str) -> std::path::PathBuf {
    let hex = Token::of(data).hex();
    dir.join("data").join(&hex[..2]).join(format!("{hex}.{kind}"))
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn each_kind_of_damage_is_found_within_the_time_of_the_scrub() {
    let mut scrubbed = Scrubbed::every(EVERY_S);
    let payloads = scrubbed.put(8);
    scrubbed.pass(EVERY_S / 2);
    let dir = scrubbed.dir.path();
    flip(&file(dir, &payloads[0], "blob"));
    flip(&file(dir, &payloads[1], "obao"));
    fs::remove_file(file(dir, &payloads[2], "blob")).unwrap();
    File::options()
        .write(true)
        .open(file(dir, &payloads[3], "blob"))
        .unwrap()
        .set_len(PAYLOAD_BYTES as u64 - 1)
        .unwrap();
    fs::remove_file(file(dir, &payloads[4], "obao")).unwrap();
    scrubbed.pass(EVERY_S);
    let damage = scrubbed.store().damage();
    assert_eq!((damage.set_aside, damage.mended, damage.left, damage.lost), (3, 2, 0, 3), "{damage:#?}");
    let lost: Vec<_> = payloads.iter().map(|data| scrubbed.store().is_lost(Token::of(data))).collect();
    assert_eq!(lost, [true, false, true, true, false, false, false, false]);
    assert_eq!(scrubbed.found.lock().unwrap().len(), 3, "each is told of once");
    for (number, data) in payloads.iter().enumerate() {
        let held = scrubbed.store().get(&Token::of(data)).unwrap();
        assert_eq!(held.is_some(), !lost[number], "{number}");
    }
    assert_eq!(fs::read_dir(scrubbed.dir.path().join("damaged")).unwrap().count(), 5);
    // A payload that is put again has its lease again, and nothing is lost of it.
    put(scrubbed.store(), &payloads[0]);
    assert!(!scrubbed.store().is_lost(Token::of(&payloads[0])));
    assert_eq!(scrubbed.store().damage().lost, 2);
    scrubbed.restart();
    assert_eq!(scrubbed.store().damage().lost, 2, "a restart forgets none");
    // What its owner gives up, or an operator removes, is not fetched again.
    let (store, given_up, removed) = (scrubbed.store(), Token::of(&payloads[2]), Token::of(&payloads[3]));
    let give_up = || store.end_lease_of(given_up, LeaseHolder::Anonymous).unwrap();
    assert_eq!((give_up(), give_up()), (GivenUp::Gone(Vec::new()), GivenUp::NoLease));
    assert_eq!((store.remove(removed).unwrap(), store.remove(removed).unwrap()), (true, false));
    assert_eq!(store.damage().lost, 0);
}

/// The key of the first row of a table.
fn first_key(dir: &Path, table: &str) -> Vec<u8> {
    let database = redb::Database::open(dir.join("store.redb")).unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new(table);
    let table = database.begin_read().unwrap().open_table(table).unwrap();
    let (key, _) = table.first().unwrap().unwrap();
    key.value().to_vec()
}

#[test]
fn a_row_that_rots_where_no_request_reads_it_is_found_at_the_begin_of_a_pass() {
    for table in ["ends", "owners"] {
        let mut scrubbed = Scrubbed::every(EVERY_S);
        scrubbed.put(2);
        let terms = Lease::until(Some(START_S + 1_000_000), Some(NodeId([7; 32])));
        scrubbed.store().extend(Token::of(&[0; PAYLOAD_BYTES]), terms).unwrap();
        scrubbed.store = None;
        let (path, key) = (scrubbed.dir.path().join("store.redb"), first_key(scrubbed.dir.path(), table));
        let mut bytes = fs::read(&path).unwrap();
        let at: Vec<_> = (0..bytes.len() - key.len()).filter(|at| bytes[*at..].starts_with(&key)).collect();
        at.iter().for_each(|at| bytes[at + key.len() - 1] ^= 1);
        fs::write(path, bytes).unwrap();
        scrubbed.restart();
        assert_eq!(scrubbed.store().damage().set_aside, 0, "{table}");
        for _ in 0..4 {
            scrubbed.tick(1);
        }
        let (damage, state) = (scrubbed.store().damage(), scrubbed.store().scrub_state());
        assert_eq!((damage.set_aside, damage.left, state.tally.damaged), (1, 0, 1), "{table}: {damage:#?}");
        assert!(damage.latest[0].name.starts_with(table), "{damage:#?}");
        // Once in a pass: the next restart goes on with the payloads.
        scrubbed.pass(EVERY_S);
        assert_eq!(scrubbed.store().scrub_state().last.unwrap().tally.damaged, 1, "{table}");
    }
}

#[test]
fn a_pass_is_spread_over_its_time_and_the_next_begins_after_it() {
    let mut scrubbed = Scrubbed::every(EVERY_S);
    scrubbed.put(64);
    let mut before = 0;
    for eighth in 1..=7 {
        scrubbed.pass(EVERY_S / 8);
        let state = scrubbed.store().scrub_state();
        assert!(eighth == 7 || state.checked < 64, "{state:?}");
        assert!(state.checked > before, "{state:?}");
        before = state.checked;
    }
    scrubbed.tick(10);
    let state = scrubbed.store().scrub_state();
    let last = state.last.expect("a pass is over");
    assert_eq!((state.passes, last.tally.checked, last.tally.damaged), (1, 64, 0));
    assert!(last.ended_s - last.began_s <= span_s(EVERY_S) + 20, "{last:?}");
    assert!(last.tally.bytes >= 64 * PAYLOAD_BYTES as u64);
    scrubbed.pass(EVERY_S);
    assert_eq!(scrubbed.store().scrub_state().passes, 2);
    // A clock that is set back delays nothing.
    scrubbed.now_s -= 1_000_000;
    scrubbed.pass(2 * EVERY_S);
    assert!(scrubbed.store().scrub_state().passes >= 3);
}

#[test]
fn the_scrub_reads_nothing_while_a_request_waits_for_a_read() {
    let mut scrubbed = Scrubbed::every(EVERY_S);
    let payloads = scrubbed.put(4);
    let held = scrubbed.store().get(&Token::of(&payloads[0])).unwrap().unwrap();
    let tier = MemoryTier::new(8 << 20, MemoryPages::Ordinary);
    let meet = Arc::new(Barrier::new(2));
    *scrubbed.disk.slow.lock().unwrap() = Some(meet.clone());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| tier.read(&held, 0, 10).unwrap());
        meet.wait();
        // The disk reads for a request now, however long.
        scrubbed.pass(EVERY_S - 100);
        let state = scrubbed.store().scrub_state();
        assert_eq!((scrubbed.disk.reads.load(Relaxed), state.checked, state.reads_beside), (0, 0, 0));
        assert!(state.waits > 100, "{state:?}");
        // Past its time it reads a piece a tick: it must come to an end.
        scrubbed.tick(1_000);
        scrubbed.tick(1);
        assert!(scrubbed.store().scrub_state().reads_beside > 0);
        meet.wait();
        assert_eq!(reader.join().unwrap(), payloads[0][..10]);
    });
    scrubbed.pass(100);
    assert_eq!(scrubbed.store().scrub_state().passes, 1, "it catches up");
    // A read from memory does not hold up the scrub.
    let waits = scrubbed.store().scrub_state().waits;
    for _ in 0..EVERY_S / 10 {
        scrubbed.tick(10);
        assert_eq!(tier.read(&held, 0, 10).unwrap(), payloads[0][..10]);
    }
    assert_eq!((scrubbed.store().scrub_state().waits, tier.stats().hits), (waits, EVERY_S / 10));
}

#[test]
fn a_restart_goes_on_where_the_scrub_was_and_a_pass_that_is_behind_keeps_to_its_rate() {
    const RATE: u64 = 1 << 20;
    let config = StoreConfig { scrub_s: EVERY_S, scrub_bytes_per_s: Some(RATE), ..StoreConfig::default() };
    let mut scrubbed = Scrubbed::new(config);
    scrubbed.put(64);
    scrubbed.pass(EVERY_S / 2);
    let before = scrubbed.store().scrub_state();
    scrubbed.restart();
    let after = scrubbed.store().scrub_state();
    assert_eq!(after.began_s, before.began_s);
    assert!(after.tally.checked > 20 && after.tally.checked <= before.tally.checked, "{after:?}");
    // It was off for long: what was missed is read at the rate.
    scrubbed.now_s += EVERY_S;
    let mut read = scrubbed.disk.bytes.load(Relaxed);
    while scrubbed.store().scrub_state().passes == 0 {
        scrubbed.tick(1);
        let now = scrubbed.disk.bytes.load(Relaxed);
        assert!(now - read <= 3 * RATE, "{} bytes in a second", now - read);
        read = now;
    }
    let last = scrubbed.store().scrub_state().last.unwrap();
    assert!((64..66).contains(&last.tally.checked), "none is read twice, but for the last minute: {last:?}");
}

#[test]
fn an_operator_has_all_read_at_once_also_where_nothing_is_configured() {
    let mut scrubbed = Scrubbed::every(0);
    let payloads = scrubbed.put(8);
    scrubbed.pass(1000);
    assert_eq!(scrubbed.disk.reads.load(Relaxed), 0, "it is off");
    flip(&file(scrubbed.dir.path(), &payloads[5], "blob"));
    scrubbed.store().scrub_now();
    assert!(scrubbed.store().scrub_state().asked);
    (0..3).for_each(|_| scrubbed.tick(1));
    let state = scrubbed.store().scrub_state();
    let last = state.last.expect("all was read");
    assert_eq!((last.tally.checked, last.tally.damaged, state.asked), (8, 1, false));
    // The same on this thread, with a store that no gateway serves.
    flip(&file(scrubbed.dir.path(), &payloads[6], "blob"));
    let mut told = 0;
    let progress = scrubbed.store().verify(|_| {
        told += 1;
        true
    });
    assert_eq!((progress.tally.checked, progress.tally.damaged, progress.entries), (7, 1, 7));
    assert!(told >= 7);
    let ended = scrubbed.store().verify(|progress| progress.tally.checked < 2);
    assert_eq!(ended.tally.checked, 2);
}

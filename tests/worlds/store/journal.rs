//! The journal and its take-over by the database, on a thread of its own beside threads that put: a crash at any change of the disk, and a disk
//! that is full for a while, lose nothing that was confirmed.

use super::*;
use std::sync::Mutex;

const THREADS: u8 = 4;
const PUTS: u8 = 12;

/// Puts and removes short payloads from several threads; returns what the store has confirmed: held or removed.
fn put_and_remove(store: &Store) -> HashMap<Token, bool> {
    let confirmed = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let confirmed: &Mutex<HashMap<_, _>> = &confirmed;
            scope.spawn(move || {
                for number in 0..PUTS {
                    let bytes = bytes(thread, number);
                    let token = Token::of(&bytes);
                    if put(store, &bytes).is_ok() {
                        confirmed.lock().unwrap().insert(token, true);
                    }
                    if number % 3 == 2 {
                        confirmed.lock().unwrap().remove(&token);
                        if store.remove(token).is_ok_and(|held| held) {
                            confirmed.lock().unwrap().insert(token, false);
                        }
                    }
                }
            });
        }
    });
    confirmed.into_inner().unwrap()
}

fn bytes(thread: u8, number: u8) -> Vec<u8> {
    vec![thread << 5 | number; 2000]
}

fn put(store: &Store, bytes: &[u8]) -> Result<(), StoreError> {
    let mut writer = store.begin(Token::of(bytes), bytes.len() as u64, Lease::default(), 0)?;
    writer.write(&VerifiedPiece { offset: 0, data: bytes.to_vec().into(), proofs: Vec::new() })?;
    writer.commit().map(drop)
}

fn examine(directory: &Path, confirmed: &HashMap<Token, bool>, told: &str) {
    let store = Store::open(directory, StoreConfig::default()).expect(told);
    assert_eq!(store.damage(), DamageState::default(), "{told}");
    for (token, is_held) in confirmed {
        assert_eq!(store.get(token).unwrap().is_some(), *is_held, "{told}: {token}");
    }
    for (token, length) in store.list() {
        let held = store.get(&token).unwrap().expect("it is held");
        let mut read = vec![0; length as usize];
        held.read(0, &mut read).unwrap();
        assert_eq!(Token::of(&read), token, "{told}");
    }
}

fn run_with(fault: Fault, seed: u64) -> (TempDir, Arc<FaultyDisk>, HashMap<Token, bool>) {
    let directory = scratch();
    let disk = FaultyDisk::new(directory.path(), seed, fault, None);
    let disk = Arc::new(disk.with_take_overs_beside([0, 10_000, 60_000][seed as usize % 3]));
    let confirmed = Store::open_on(directory.path(), StoreConfig::default(), disk.clone());
    let confirmed = confirmed.map_or_else(|_| HashMap::new(), |store| put_and_remove(&store));
    (directory, disk, confirmed)
}

#[test]
fn a_crash_beside_a_take_over_loses_nothing_that_was_confirmed() {
    for seed in 0..60 {
        let (directory, disk, confirmed) = run_with(Fault::None, seed);
        let steps = disk.steps();
        examine(directory.path(), &confirmed, "closed");
        let at = StdRng::seed_from_u64(seed).random_range(0..steps);
        let (_, disk, confirmed) = run_with(Fault::Crash(at), seed);
        for crash in 0..4 {
            let left = scratch();
            disk.survivors(left.path(), crash);
            examine(left.path(), &confirmed, &format!("seed {seed}, change {at}, crash {crash}"));
            // Opened, changed and closed again.
            examine(left.path(), &confirmed, &format!("seed {seed}, change {at}, crash {crash}, again"));
        }
    }
}

#[test]
fn a_disk_that_is_full_or_fails_for_a_while_beside_a_take_over_loses_nothing_that_was_confirmed() {
    for seed in 0..60 {
        let steps = run_with(Fault::None, seed).1.steps();
        let random = &mut StdRng::seed_from_u64(seed);
        let (at, count) = (random.random_range(0..steps), random.random_range(1..60));
        let errno = [NO_SPACE, FAILURE][seed as usize % 2];
        let (directory, disk, confirmed) = run_with(Fault::Fails(at, count, errno), seed);
        for crash in 0..4 {
            let left = scratch();
            disk.survivors(left.path(), crash);
            examine(
                left.path(),
                &confirmed,
                &format!("seed {seed}, changes {at} and {count}, crash {crash}"),
            );
        }
        examine(directory.path(), &confirmed, &format!("seed {seed}, changes {at} and {count}"));
    }
}

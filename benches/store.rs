//! A store with many payloads: what a start costs, how long a look-up takes, and how many small payloads become durable in a second, beside
//! what the disk's own syncs allow.
//!
//! `cargo bench -p stoq --bench store [-- HELD [PUTS [DIRECTORY]]]` fills a store with HELD payloads of 8 bytes (100,000) in DIRECTORY (the system's
//! directory of temporary files), and prints
//!
//! - the time of the next open, in a process of its own, and the resident memory after it;
//! - times of look-ups of random tokens, as LOCATE and `stat` make them;
//! - puts of 4 KiB a second, PUTS of them (20,000) from 64 threads and then from 512, the time of processors that one takes, and the syncs a second of
//!   a file on the same disk, to which as many bytes are written before each as the payloads of one commit have at most, before and after them.
//!
//! Figures are of this machine and its disk, and of what else it does meanwhile.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use stoq::seed::{Lease, Store, StoreConfig, StoreError};
use stoq::tls::NodeId;
use stoq::token::{Token, VerifiedPiece};

/// Threads that fill the store, and those that put, as many connections do.
const FILL_THREADS_LEN: u64 = 1024;
const THREADS_LEN: [u64; 2] = [64, 512];
const PUT_BYTES: usize = 4096;
const LOOKUPS_LEN: u64 = 100_000;
/// The argument of the process that measures.
const OPEN: &str = "--open";
/// How long syncs are counted.
const SYNC_SPAN: Duration = Duration::from_secs(3);

fn put(store: &Store, number: u64, owner: u8, bytes: Vec<u8>) -> Result<(), StoreError> {
    let token = Token::of(&bytes);
    // As many leases of one length end in a second as were granted in one.
    let lease = Lease::until(Some(4_000_000_000 + number / 4096), Some(NodeId([owner; 32])));
    let mut writer = store.begin(token, bytes.len() as u64, lease, 0)?;
    writer.write(&VerifiedPiece { offset: 0, data: bytes.into(), proofs: Vec::new() })?;
    writer.commit().map(drop)
}

/// Puts payloads from this many threads; returns the time.
fn put_all(
    store: &Store,
    threads: u64,
    count: u64,
    bytes: impl Fn(u64) -> Vec<u8> + Sync,
) -> Result<Duration, StoreError> {
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        // Several nodes: one may not have as many payloads unfinished.
        let one = |thread: u64| {
            let owner = (thread / 128) as u8;
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return Ok(());
                }
                put(store, number, owner, bytes(number))?;
            }
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(begun.elapsed())
}

/// Syncs a second, each after a write of this many bytes.
fn syncs_per_s(directory: &Path, bytes: usize) -> io::Result<f64> {
    let path = directory.join("syncs");
    let file = File::create(&path)?;
    let data = vec![0x5a; bytes];
    let (begun, mut syncs) = (Instant::now(), 0u64);
    while begun.elapsed() < SYNC_SPAN {
        file.write_all_at(&data, syncs % 16 * bytes as u64)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = syncs as f64 / begun.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

/// The time that this process has had of processors, seconds.
fn processor_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    let is_filled = arguments.next_if_eq(OPEN).is_some();
    let held: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let puts: u64 = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    if is_filled {
        return measure(&parent, held, puts);
    }
    let directory = tempfile::tempdir_in(parent)?;
    fill(&directory.path().join("store"), held)?;
    // A process of its own: this one has what filling took.
    let numbers = [held.to_string(), puts.to_string()];
    let status =
        Command::new(std::env::current_exe()?).arg(OPEN).args(numbers).arg(directory.path()).status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("the process that measures ended with {status}").into())
}

fn config() -> StoreConfig {
    let entries = Some(1 << 32);
    StoreConfig { capacity_entries: entries, quota_entries: entries, ..StoreConfig::default() }
}

fn fill(path: &Path, held: u64) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(path, config())?;
    let took = put_all(&store, FILL_THREADS_LEN, held, |number| number.to_be_bytes().to_vec())?;
    println!(
        "{held} payloads of 8 bytes are put in {:.1} s by {FILL_THREADS_LEN} threads",
        took.as_secs_f64()
    );
    drop(store);
    let database = fs::metadata(path.join("store.redb"))?.len();
    println!("the database has {:.1} MB, {} bytes a payload", database as f64 / 1e6, database / held.max(1));
    Ok(())
}

/// Measures the filled store in this directory.
fn measure(directory: &Path, held: u64, puts: u64) -> Result<(), Box<dyn std::error::Error>> {
    let before = resident_bytes();
    let begun = Instant::now();
    let store = Store::open(directory.join("store"), config())?;
    let opened = begun.elapsed();
    let resident = resident_bytes();
    println!(
        "it opens in {:.1} ms; resident are {:.1} MB before and {:.1} MB after",
        opened.as_secs_f64() * 1e3,
        before as f64 / 1e6,
        resident as f64 / 1e6
    );
    let mut times = Vec::with_capacity(LOOKUPS_LEN as usize);
    let mut number = 1u64;
    for _ in 0..LOOKUPS_LEN {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = Token::of(&((number >> 33) % held.max(1)).to_be_bytes()).into();
        let begun = Instant::now();
        let found = store.holding(&token).is_some();
        times.push(begun.elapsed());
        assert!(found || held == 0);
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "a look-up takes {:.1} us at p50, {:.1} us at p99; {:.1} MB are resident",
        at(0.5),
        at(0.99),
        resident_bytes() as f64 / 1e6
    );

    for threads in THREADS_LEN {
        let batch = threads as usize * PUT_BYTES;
        let first = syncs_per_s(directory, batch)?;
        let begun_s = processor_s();
        let took = put_all(&store, threads, puts, |number| {
            let mut bytes = vec![0x51; PUT_BYTES];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            bytes[8..16].copy_from_slice(&threads.to_be_bytes());
            bytes
        })?;
        let each_us = (processor_s() - begun_s) / puts as f64 * 1e6;
        let last = syncs_per_s(directory, batch)?;
        let (rate, syncs) = (puts as f64 / took.as_secs_f64(), (first + last) / 2.0);
        println!(
            "{puts} payloads of 4 KiB from {threads} threads: {rate:.0} a second, {each_us:.1} us of processors each"
        );
        println!(
            "syncs of {batch} bytes on this disk: {first:.0} a second before, {last:.0} after; {:.2} of what such batches allow",
            rate / (syncs * threads as f64)
        );
    }
    Ok(())
}

//! `stoq put` of several files, of directories, or with a manifest.

use super::manifest::{ManifestOutput, ordered};
use super::walk::{FileNumber, FoundFile, FoundPath, file_number, name_of, walk};
use super::{FileWork, RunClock, connect, is_for_all, plain, print, progress, start};
use crate::output::{self, EndedEarly, Usage};
use crate::put::Args;
use crate::session::Online;
use anyhow::{anyhow, bail};
use indicatif::ProgressBar;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoq::client::{ClientError, Input, Kept, Peer, PrepareOptions, Prepared, PutOptions, Route};
use stoq::limits::FILE_IN_MEMORY_BYTES;
use stoq::manifest::{ManifestLine, escaped};
use stoq::record::ErrorCode;
use stoq::token::Token;
use stoq_gateway::faults::started;
use tokio::sync::Semaphore;

/// Files at once: requests that a connection has in flight.
const FILES_LEN: usize = 128;
/// Files found and not yet taken.
const FOUND_LEN: usize = 1024;
/// Files past [`FILE_IN_MEMORY_BYTES`] at once, at least and at most: one waits for the gateway's disk while others are hashed and sent.
const LONG_FILES_LEN: (usize, usize) = (4, 16);
/// How often a put is tried that the gateway is too busy for.
const BUSY_TRIES: u32 = 20;
/// How long to wait then, where the gateway does not say, and at most.
const BUSY_WAIT_MS: (u64, u64) = (50, 5000);
/// The state of the put when standard output does not take a line.
const DONE: &str = "this file is put: the gateway has checked and keeps it";

/// The work, shared by the threads.
struct PutWork {
    found: Mutex<Receiver<(u64, FoundPath)>>,
    /// Files whose equals could not be put.
    again: Mutex<Vec<(u64, FoundPath)>>,
    /// The tokens that were put, or are being put; files of the same bytes wait for the latter.
    seen: Mutex<HashMap<Token, Option<Vec<Waiting>>>>,
    long: Semaphore,
    /// Files found, once all are.
    total: AtomicU64,
    options: PutOptions,
    preparing: PrepareOptions,
    bar: ProgressBar,
}

/// A file whose bytes are being put already, as another file.
struct Waiting {
    at: u64,
    found: FoundPath,
    length: u64,
}

/// What became of a file.
struct PutReport {
    at: u64,
    path: PathBuf,
    outcome: Outcome,
    hashing: Duration,
    putting: Duration,
}

enum Outcome {
    Kept {
        token: Token,
        length: u64,
        how: HowKept,
    },
    Skipped(&'static str),
    Failed {
        /// The whole text, with the path.
        error: String,
        is_for_all: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HowKept {
    Now,
    Already,
    /// As another file of the same bytes, in the same run.
    Twice,
}

impl FileWork for PutWork {
    type Report = PutReport;

    async fn next(&self, peer: &Peer) -> Option<Vec<PutReport>> {
        let again = lock(&self.again).pop();
        let (at, found) = match again {
            Some(found) => found,
            None => lock(&self.found).recv().ok()?,
        };
        Some(self.file(at, found, peer).await)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PutWork {
    fn new(args: &Args, route: Option<Route>, found: Receiver<(u64, FoundPath)>, bar: ProgressBar) -> Self {
        let (cores, (least, most)) =
            (std::thread::available_parallelism().map_or(1, NonZero::get), LONG_FILES_LEN);
        Self {
            found: Mutex::new(found),
            again: Mutex::default(),
            seen: Mutex::default(),
            long: Semaphore::new(cores.clamp(least, most)),
            total: AtomicU64::new(u64::MAX),
            options: PutOptions {
                queue: Some(args.queue),
                lease_s: args.lease.0,
                route,
                ..PutOptions::default()
            },
            preparing: PrepareOptions {
                spool: args.spool.clone(),
                memory_bytes: FILE_IN_MEMORY_BYTES,
                ..PrepareOptions::default()
            },
            bar,
        }
    }

    async fn file(&self, at: u64, found: FoundPath, peer: &Peer) -> Vec<PutReport> {
        let report = |outcome| {
            let (hashing, putting) = (Duration::ZERO, Duration::ZERO);
            PutReport { at, path: found.path.clone(), outcome, hashing, putting }
        };
        let (is_named, size) = match &found.what {
            FoundFile::File { is_named, size } => (*is_named, *size),
            FoundFile::Skipped(why) => return vec![report(Outcome::Skipped(why))],
            FoundFile::Unread(why) => {
                let error = format!("{}: {why}", found.path.display());
                return vec![report(Outcome::Failed { error, is_for_all: false })];
            }
        };
        // Never closed.
        let _long = if size > FILE_IN_MEMORY_BYTES { self.long.acquire().await.ok() } else { None };
        let started = Instant::now();
        let prepared = open(&found.path, is_named).and_then(|input| input.prepare(&self.preparing));
        let hashing = started.elapsed();
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return vec![PutReport { hashing, ..report(failed(&error)) }],
        };
        let (token, length) = (prepared.token, prepared.length);
        let path = found.path.clone();
        if let Some(twice) = self.seen_before(token, Waiting { at, found, length }) {
            let kept = Outcome::Kept { token, length, how: HowKept::Twice };
            let whole = PutReport { at, path, outcome: kept, hashing, putting: Duration::ZERO };
            return if twice { vec![whole] } else { Vec::new() };
        }
        let started = Instant::now();
        let kept = self.put(&prepared, peer).await;
        let putting = started.elapsed();
        let waiting = self.settle(token, kept.is_ok());
        let outcome = match &kept {
            Ok(Kept::Now) => Outcome::Kept { token, length, how: HowKept::Now },
            Ok(Kept::Already) => {
                self.bar.inc(length);
                Outcome::Kept { token, length, how: HowKept::Already }
            }
            Err(error) => failed(error),
        };
        let mut reports = vec![PutReport { at, path, outcome, hashing, putting }];
        if kept.is_ok() {
            reports.extend(waiting.into_iter().map(|Waiting { at, found, length }| {
                self.bar.inc(length);
                let outcome = Outcome::Kept { token, length, how: HowKept::Twice };
                PutReport { at, path: found.path, outcome, hashing: Duration::ZERO, putting: Duration::ZERO }
            }));
        } else {
            lock(&self.again).extend(waiting.into_iter().map(|waiting| (waiting.at, waiting.found)));
        }
        reports
    }

    /// Whether the bytes have been put already, in this run (true), or are being put, so that the file waits for that (false). `None`: this
    /// thread is to put them.
    fn seen_before(&self, token: Token, file: Waiting) -> Option<bool> {
        let mut seen = lock(&self.seen);
        match seen.get_mut(&token) {
            None => {
                seen.insert(token, Some(Vec::new()));
                None
            }
            Some(Some(waiting)) => {
                waiting.push(file);
                Some(false)
            }
            Some(None) => {
                self.bar.inc(file.length);
                Some(true)
            }
        }
    }

    /// Notes whether the bytes were put; returns the files that waited for it.
    fn settle(&self, token: Token, kept: bool) -> Vec<Waiting> {
        let mut seen = lock(&self.seen);
        let waiting = if kept { seen.insert(token, None) } else { seen.remove(&token) };
        waiting.flatten().unwrap_or_default()
    }

    /// Puts, and waits while the gateway is busy with other puts.
    async fn put(&self, prepared: &Prepared, peer: &Peer) -> Result<Kept, ClientError> {
        let mut tries = 1;
        loop {
            let mut given = 0;
            let step = |bytes| self.bar.inc(bytes - std::mem::replace(&mut given, bytes));
            let kept = peer.put_with(prepared, self.options.clone(), step).await;
            let wait_ms = match &kept {
                Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::Busy => refusal.retry_ms,
                _ => return kept,
            };
            if tries == BUSY_TRIES {
                return kept;
            }
            tries += 1;
            // The thread has no other work.
            std::thread::sleep(Duration::from_millis(wait_ms.clamp(BUSY_WAIT_MS.0, BUSY_WAIT_MS.1)));
        }
    }
}

/// Opens a file. One that lies in a directory is a file that the walk has seen: by now it may be a link or a pipe, which is not opened.
fn open(path: &Path, is_named: bool) -> Result<Input, ClientError> {
    if is_named {
        return if path.as_os_str() == "-" { Input::stdin() } else { Input::open(path) };
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let name = path.display().to_string();
    let file = opened.map_err(|source| ClientError::File { path: name.clone(), source })?;
    Input::file(name, file)
}

fn failed(error: &ClientError) -> Outcome {
    // An application that keeps no payloads.
    let keeps_none = matches!(error, ClientError::Refused(refusal) if refusal.code == ErrorCode::NotFound);
    Outcome::Failed { error: error.to_string(), is_for_all: keeps_none || is_for_all(error) }
}

/// What has become of all files so far.
#[derive(Default)]
struct PutTally {
    files: u64,
    bytes: u64,
    sent_files: u64,
    sent_bytes: u64,
    already: u64,
    twice: u64,
    skipped: u64,
    failed: u64,
    hashing: Duration,
    putting: Duration,
    lines: Vec<(u64, ManifestLine)>,
    names_cut: bool,
}

impl PutTally {
    /// Takes a report, and prints the file's line. A fault that is every file's is an error.
    fn take(&mut self, report: PutReport, prints: bool, keeps: bool) -> anyhow::Result<()> {
        self.hashing += report.hashing;
        self.putting += report.putting;
        let (name, is_cut) = name_of(&report.path);
        match report.outcome {
            Outcome::Kept { token, length, how } => {
                self.files += 1;
                self.bytes += length;
                match how {
                    HowKept::Now => {
                        (self.sent_files, self.sent_bytes) = (self.sent_files + 1, self.sent_bytes + length)
                    }
                    HowKept::Already => self.already += 1,
                    HowKept::Twice => self.twice += 1,
                }
                if prints {
                    print(&line(token, length, &report.path), DONE)?;
                }
                if keeps {
                    self.names_cut |= is_cut;
                    self.lines.push((report.at, ManifestLine { token, name }));
                }
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                let path = report.path.display().to_string();
                output::note(format_args!("skipped: {} {why}", plain(&path)));
            }
            Outcome::Failed { error, is_for_all: true } => bail!("{error}"),
            Outcome::Failed { error, is_for_all: false } => {
                self.failed += 1;
                output::note(format_args!("not put: {}", plain(&error)));
            }
        }
        Ok(())
    }

    /// Writes the manifest.
    fn list(&mut self, manifest: &ManifestOutput) -> anyhow::Result<()> {
        self.lines.sort_by_key(|(at, _)| *at);
        let lines = std::mem::take(&mut self.lines).into_iter().map(|(_, line)| line).collect();
        let (lines, twice) = ordered(lines);
        for name in twice {
            self.failed += 1;
            let name = plain(&String::from_utf8_lossy(&name));
            output::note(format_args!(
                "not in the manifest: two files are {name} there; put them by themselves"
            ));
        }
        if self.names_cut {
            output::note(
                "names in the manifest have no leading \"/\" and nothing up to the last \"..\", as those in an archive",
            );
        }
        manifest.write(&lines)
    }

    fn summary(&self, clock: &RunClock, connections: usize, online: &Online) -> String {
        let (seconds, rate, files_per_s) = clock.rates(self.bytes, self.files);
        format!(
            "{} files of {} bytes are kept, {} of {} bytes sent now: {seconds:.3} s, {files_per_s:.0} files/s, {rate:.2} Gbit/s; {} kept \
             already, {} of the same bytes as another, {} skipped, {} not put; {}, {connections} connection(s), {} worker(s), {}",
            self.files,
            self.bytes,
            self.sent_files,
            self.sent_bytes,
            self.already,
            self.twice,
            self.skipped,
            self.failed,
            online.client.network(),
            online.workers,
            online.cipher,
        )
    }

    fn json(&self, clock: &RunClock, connections: usize, online: &Online) -> serde_json::Value {
        let (seconds, rate, files_per_s) = clock.rates(self.bytes, self.files);
        serde_json::json!({
            "operation": "put", "files": self.files, "bytes": self.bytes, "sent_files": self.sent_files, "sent_bytes": self.sent_bytes,
            "already_kept": self.already, "same_bytes": self.twice, "skipped": self.skipped, "failed": self.failed, "seconds": seconds,
            "files_per_s": files_per_s, "gbit_per_s": rate, "hash_seconds": self.hashing.as_secs_f64(),
            "put_seconds": self.putting.as_secs_f64(), "connections": connections, "network": online.client.network(),
            "workers": online.workers, "cipher": online.cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// A file's line: token, size, name as in a manifest.
fn line(token: Token, length: u64, path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut line = format!("{token} {length} ").into_bytes();
    line.extend(escaped(path.as_os_str().as_bytes()));
    line
}

/// Puts the files.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    refuse(&args)?;
    let manifest = args.manifest.clone().map(ManifestOutput::check).transpose()?;
    let (setup, connections) = args.options.open_for(args.connections, &[])?;
    let online = setup.start()?;
    let (give, found) = sync_channel(FOUND_LEN);
    let bar = progress(args.options.is_quiet());
    let work = Arc::new(PutWork::new(&args, args.route.route(&online.gateways)?, found, bar.clone()));
    let (mut tally, mut clock) = (PutTally::default(), RunClock::start());
    let is_json = args.options.json;
    let done = online.block_on(async {
        let peers = connect(&online, connections).await?;
        clock = RunClock::start();
        let old = manifest.as_ref().and_then(|manifest| manifest.there.as_ref()).map(file_number);
        find(args.files, old, give, work.clone())?;
        let (_running, mut reports) = start(&work, &peers, FILES_LEN)?;
        while let Some(report) = reports.recv().await {
            tally.take(report, !is_json, manifest.is_some())?;
            bar.set_message(format!("put {} files", tally.files));
        }
        // A thread that panicked reports nothing of its file.
        let told = tally.files + tally.skipped + tally.failed;
        if told == work.total.load(Ordering::Acquire) { Ok(()) } else { Err(EndedEarly.into()) }
    });
    bar.finish_and_clear();
    if done.is_err() && tally.files > 0 {
        output::note(format_args!(
            "{} files are put so far; the same command goes on from there: what the gateway keeps is not sent again",
            tally.files
        ));
    }
    done?;
    if let Some(manifest) = manifest {
        tally.list(&manifest)?;
    }
    if is_json {
        output::line(tally.json(&clock, connections, &online))?;
    } else {
        output::note(tally.summary(&clock, connections, &online));
    }
    match tally.failed {
        0 => Ok(()),
        failed => Err(anyhow!(
            "{failed} of {} files were not put, as told above; run the same command again",
            tally.files + failed
        )),
    }
}

/// Refuses options that do not go together.
fn refuse(args: &Args) -> Result<(), Usage> {
    if args.shards.is_some() {
        return Err(Usage("--shards: shards are made of one file; put each with them by itself".into()));
    }
    if args.manifest.is_some() && args.files.iter().any(|file| file.as_os_str() == "-") {
        return Err(Usage("--manifest: standard input has no name; give a file, or leave it out".into()));
    }
    Ok(())
}

/// Starts the thread that finds the files.
fn find(
    files: Vec<PathBuf>,
    manifest: Option<FileNumber>,
    give: SyncSender<(u64, FoundPath)>,
    work: Arc<PutWork>,
) -> anyhow::Result<()> {
    let walker = std::thread::Builder::new().name("stoq-walk".into()).spawn(move || {
        let mut at = 0;
        walk(&files, manifest, |found| {
            if let FoundFile::File { size, .. } = &found.what {
                work.bar.inc_length(*size);
            }
            at += 1;
            give.send((at, found)).is_ok()
        });
        work.total.store(at, Ordering::Release);
    });
    started("finds the files", walker)?;
    Ok(())
}

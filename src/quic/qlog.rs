//! qlog (draft-ietf-quic-qlog-main-schema) of sampled connections, one file for each: packets sent, received and
//! lost, the state of congestion control, and STOQ's own event `stoq:send_limit_updated`: what keeps the connection from sending more.
//!
//! A worker formats events when they happen and gives them, in runs, to a thread that writes files. It never
//! waits: a run that finds the channel full is dropped and counted. quinn-proto takes a log only with the
//! configuration of a new connection: an open connection cannot be logged.

use super::transport::{PeerControl, Transports};
use crate::limits::{QLOG_FILES_OPEN_MAX, QLOG_QUEUE_LEN, QLOG_RUN_BYTES};
use crate::send_limit::SendLimit;
use quinn_proto::{QlogStream, Side, TransportConfig};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The extension of a log's file: JSON text sequences (RFC 7464).
const SUFFIX: &str = "sqlog";
/// Runs that were dropped since the process started, by any [`Qlog`].
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Runs of records that found the channel full, in this process.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// RFC 7464 §2.2: precedes each record.
const RECORD_SEPARATOR: u8 = 0x1e;

/// Logs of connections, into one directory. Clones share the thread that writes.
#[derive(Clone, Debug)]
pub struct Qlog {
    sample: u32,
    runs: SyncSender<Run>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A part of the files' names: files of another process or an earlier reload stay.
    start_ms: u128,
    files: AtomicU64,
}

/// Complete records for the end of a file.
#[derive(Debug)]
struct Run {
    name: Arc<str>,
    bytes: Vec<u8>,
    last: bool,
}

impl Qlog {
    /// Logs one of `sample` connections of each worker into `directory`, which is made if it is missing,
    /// until its logs have `bytes_max`.
    ///
    /// # Errors
    /// The system's error if the directory cannot be made or read, or no thread can be started.
    pub fn start(directory: &Path, sample: u32, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut used = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|suffix| suffix == SUFFIX) {
                used += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        let (runs, incoming) = sync_channel(QLOG_QUEUE_LEN);
        let directory = directory.to_owned();
        let thread = std::thread::Builder::new().name("stoq-qlog".into());
        thread.spawn(move || write(&incoming, &directory, bytes_max.saturating_sub(used)))?;
        let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let shared = Arc::new(Shared { start_ms, files: AtomicU64::new(0) });
        Ok(Self { sample: sample.max(1), runs, shared })
    }

    fn stream(&self, remote: SocketAddr, now: Instant) -> Option<(QlogStream, Track)> {
        let number = self.shared.files.fetch_add(1, Ordering::Relaxed);
        let name: Arc<str> = format!("{}-{number}.{SUFFIX}", self.shared.start_ms).into();
        let records = || Records { qlog: self.clone(), name: name.clone(), bytes: Vec::new() };
        let mut config = quinn_proto::QlogConfig::default();
        config.writer(Box::new(records())).title(Some(remote.to_string())).start_time(now);
        Some((config.into_stream()?, Track { records: records(), start: now }))
    }
}

/// The choice of a worker's connections that are logged.
#[derive(Clone, Debug)]
pub struct Sampler {
    qlog: Qlog,
    transports: Transports,
    passed: u32,
}

impl Sampler {
    /// The sampler for connections with these configurations.
    pub fn new(qlog: Qlog, transports: Transports) -> Self {
        Self { qlog, transports, passed: 0 }
    }

    /// The configuration of the next connection, if that connection is logged.
    pub(crate) fn transport(
        &mut self,
        (remote, side): (SocketAddr, Side),
        control: &PeerControl,
        now: Instant,
    ) -> Option<(Arc<TransportConfig>, Track)> {
        self.passed += 1;
        if self.passed < self.qlog.sample {
            return None;
        }
        self.passed = 0;
        let mut transport = self.transports.to(remote, side, control);
        let (stream, track) = self.qlog.stream(remote, now)?;
        Arc::get_mut(&mut transport)?.qlog_stream(Some(stream));
        Some((transport, track))
    }
}

/// STOQ's own events of one connection, in the file of quinn-proto's. They are collected apart, and stand in the file later than
/// those of their time.
pub(crate) struct Track {
    records: Records,
    start: Instant,
}

impl Track {
    /// Another reason keeps the connection from sending more.
    pub(crate) fn send_limit(&mut self, now: Instant, old: SendLimit, new: SendLimit) {
        let time_ms = now.saturating_duration_since(self.start).as_secs_f64() * 1e3;
        let (old, new) = (old.name(), new.name());
        let record = format!(
            "\u{1e}{{\"time\":{time_ms:.3},\"name\":\"stoq:send_limit_updated\",\"data\":{{\"old\":\"{old}\",\"new\":\"{new}\"}}}}\n"
        );
        // A write of records never fails: what finds no room is counted.
        let _ = self.records.write_all(record.as_bytes());
    }
}

/// Records of one connection, collected into runs.
struct Records {
    qlog: Qlog,
    name: Arc<str>,
    bytes: Vec<u8>,
}

impl Records {
    fn send(&mut self, last: bool) {
        let run = Run { name: self.name.clone(), bytes: std::mem::take(&mut self.bytes), last };
        if self.qlog.runs.try_send(run).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only complete records are sent: a dropped run damages no other.
        if bytes.first() == Some(&RECORD_SEPARATOR) && self.bytes.len() >= QLOG_RUN_BYTES {
            self.send(false);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.send(true);
    }
}

fn write(runs: &Receiver<Run>, directory: &Path, mut left: u64) {
    let mut open: HashMap<Arc<str>, File> = HashMap::new();
    let mut full = false;
    for Run { name, bytes, last } in runs {
        full |= left < bytes.len() as u64;
        if full {
            if !open.is_empty() {
                tracing::warn!(directory = %directory.display(), "qlog.capacity_bytes is reached; nothing more is logged");
                open.clear();
            }
            continue;
        }
        left -= bytes.len() as u64;
        // If its last run was dropped, a file is still open.
        if open.len() >= QLOG_FILES_OPEN_MAX {
            open.clear();
        }
        let path = directory.join(&*name);
        let written = match open.remove(&name).map_or_else(|| append(&path), Ok) {
            Ok(mut file) => file.write_all(&bytes).map(|()| file),
            Err(error) => Err(error),
        };
        match written {
            Ok(file) if !last => {
                open.insert(name, file);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "a qlog cannot be written"),
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::transport::QuicConfig;
    use std::time::Duration;

    /// The texts of the files that exist once all writers are gone.
    fn texts(directory: &Path, count: usize, whole: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let files = fs::read_dir(directory)
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
            let files: Vec<_> = files.collect();
            if files.len() == count && files.iter().all(|text| whole(text)) {
                return files;
            }
            assert!(Instant::now() < deadline, "{files:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_of_every_three_connections_has_a_log() {
        let directory = tempfile::TempDir::new().unwrap();
        let qlog = Qlog::start(&directory.path().join("logs"), 3, 1 << 20).unwrap();
        let mut sampler = Sampler::new(qlog, Transports::new(QuicConfig::default(), 1500));
        let remote = "10.0.0.1:5000".parse().unwrap();
        let logged: Vec<_> = (0..7)
            .map(|_| sampler.transport((remote, Side::Server), &PeerControl::default(), Instant::now()))
            .collect();
        assert_eq!(
            logged.iter().map(Option::is_some).collect::<Vec<_>>(),
            [false, false, true, false, false, true, false]
        );
        let mut logged: Vec<_> = logged.into_iter().flatten().collect();
        for (_, track) in &mut logged {
            track.send_limit(
                track.start + Duration::from_millis(1500),
                SendLimit::Application,
                SendLimit::Peer,
            );
        }
        drop(logged);
        let whole = |text: &str| text.ends_with('\n') && text.lines().count() >= 2;
        for text in texts(&directory.path().join("logs"), 2, whole) {
            assert!(text.starts_with('\u{1e}') && text.contains("10.0.0.1:5000"), "{text}");
            let records = text.split('\u{1e}').skip(1).map(serde_json::from_str::<serde_json::Value>);
            let own = records.map(Result::unwrap).find(|record| record["name"] == "stoq:send_limit_updated");
            let own = own.expect("the event is there");
            assert_eq!((own["time"].as_f64(), own["data"]["new"].as_str()), (Some(1500.0), Some("peer")));
        }
    }

    #[test]
    fn runs_are_whole_records_and_end_at_the_bound() {
        let directory = tempfile::TempDir::new().unwrap();
        let record = [&[RECORD_SEPARATOR][..], &[b'a'; 1000], b"\n"].concat();
        let bound = 50 * record.len() as u64;
        let qlog = Qlog::start(directory.path(), 1, bound).unwrap();
        let mut records = Records { qlog: qlog.clone(), name: "a.sqlog".into(), bytes: Vec::new() };
        // More than the limit, in runs that fit the queue.
        for _ in 0..60 {
            records.write_all(&record[..1]).unwrap();
            records.write_all(&record[1..]).unwrap();
        }
        drop(records);
        assert_eq!(dropped(), 0);
        let run = QLOG_RUN_BYTES.next_multiple_of(record.len());
        let expected = (bound as usize / run) * run;
        assert!(expected > 0);
        texts(directory.path(), 1, |text| text.len() == expected);
        // The next log counts the existing bytes.
        let next = Qlog::start(directory.path(), 1, expected as u64).unwrap();
        drop(Records { qlog: next.clone(), name: "b.sqlog".into(), bytes: record.clone() });
        drop(next);
        texts(directory.path(), 1, |text| text.len() == expected);
    }
}

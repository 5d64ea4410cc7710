//! Puts and gets of many files: threads that read, hash and write, and have their requests on a few connections together.
//!
//! A thread has one file at a time, so that open files, and bytes in memory, are bounded by the threads. The main thread gets a report
//! of each file, prints it, and handles signals.

pub(crate) mod get;
mod manifest;
pub(crate) mod put;
pub(crate) mod remove;
mod walk;

use crate::output::{self, gbit_per_s};
use crate::session::Online;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stoq::client::{ClientError, Peer};
use stoq::peer_text::PeerText;
use stoq::record::ErrorCode;
use stoq_gateway::faults::started;
use tokio::sync::mpsc;

/// Work on many files, shared by the threads that do it.
pub(super) trait FileWork: Send + Sync + 'static {
    /// What the main thread is told of a file.
    type Report: Send;

    /// Works on the next file, with requests to `peer`. `None` after the last.
    fn next(&self, peer: &Peer) -> impl Future<Output = Option<Vec<Self::Report>>>;
}

/// Ends the threads' work before its end if it is dropped.
pub(super) struct RunningThreads(Arc<AtomicBool>);

impl Drop for RunningThreads {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts `threads` threads that work; their reports arrive in any order.
pub(super) fn start<W: FileWork>(
    work: &Arc<W>,
    peers: &[Peer],
    threads: usize,
) -> anyhow::Result<(RunningThreads, mpsc::UnboundedReceiver<W::Report>)> {
    let over = Arc::new(AtomicBool::new(false));
    let running = RunningThreads(over.clone());
    let (tell, reports) = mpsc::unbounded_channel();
    for at in 0..threads {
        let (work, peer) = (work.clone(), peers[at % peers.len()].clone());
        let (over, tell) = (over.clone(), tell.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.context("the runtime of a thread for files cannot be started")?;
        let thread = std::thread::Builder::new().name("stoq-file".into());
        let thread = thread.spawn(move || {
            while !over.load(Ordering::Relaxed)
                && let Some(reports) = runtime.block_on(work.next(&peer))
            {
                if reports.into_iter().any(|report| tell.send(report).is_err()) {
                    return;
                }
            }
        });
        started("works on files", thread)?;
    }
    Ok((running, reports))
}

/// Connects to the gateway this often, at once.
pub(super) async fn connect(online: &Online, connections: usize) -> anyhow::Result<Vec<Peer>> {
    let mut peers = vec![online.connect_gateway().await?];
    for _ in 1..connections {
        peers.push(online.connect_gateway().await?);
    }
    Ok(peers)
}

/// Whether no other file will fare better: the connection, or the right to use it, is gone.
pub(super) fn is_for_all(error: &ClientError) -> bool {
    match error {
        ClientError::Lost { .. } | ClientError::Stopped | ClientError::Route(_) => true,
        ClientError::Refused(failure) => {
            matches!(failure.code, ErrorCode::NotAuthorized | ErrorCode::GoingAway | ErrorCode::NoRoute)
        }
        _ => false,
    }
}

/// A text with names of files, fit for a terminal: their names are whatever another program or a manifest says.
pub(super) fn plain(text: &str) -> PeerText {
    PeerText::cut(text, usize::MAX)
}

/// Prints a file's line, with the bytes of its name; on a terminal, fit for it.
pub(super) fn print(line: &[u8], done: &str) -> anyhow::Result<()> {
    if std::io::stdout().is_terminal() {
        output::result(plain(&String::from_utf8_lossy(line)), done)?;
    } else {
        output::result_bytes(line, done)?;
    }
    Ok(())
}

/// A progress bar of bytes and files, on a terminal.
pub(super) fn progress(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{msg} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// The time of a whole run, and its rates.
pub(super) struct RunClock(Instant);

impl RunClock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds so far, gigabits a second of these bytes, and files a second.
    pub(super) fn rates(&self, bytes: u64, files: u64) -> (f64, f64, f64) {
        let elapsed: Duration = self.0.elapsed();
        let seconds = elapsed.as_secs_f64();
        (seconds, gbit_per_s(bytes, elapsed), files as f64 / seconds.max(1e-9))
    }
}

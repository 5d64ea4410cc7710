//! `stoq get --manifest`.

use super::manifest::read;
use super::{FileWork, RunClock, connect, is_for_all, plain, print, progress, start};
use crate::get::Args;
use crate::output::{self, EndedEarly, Usage};
use anyhow::{anyhow, bail};
use indicatif::ProgressBar;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use stoq::client::{AskOptions, ClientError, Peer};
use stoq::manifest::{ManifestLine, escaped};
use stoq::output_tree::{FetchedFile, OutputTree};

/// Files at once: each waits for the gateway and then for the disk, which takes many at a time.
const FILES_LEN: usize = 64;

/// The work, shared by the threads.
struct GetWork {
    lines: Vec<ManifestLine>,
    next: AtomicUsize,
    tree: OutputTree,
    options: AskOptions,
    bar: ProgressBar,
}

struct GetReport {
    at: usize,
    outcome: Result<FetchedFile, ClientError>,
}

impl FileWork for GetWork {
    type Report = GetReport;

    async fn next(&self, peer: &Peer) -> Option<Vec<GetReport>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let line = self.lines.get(at)?;
        let (mut given, mut known) = (0, 0);
        let step = |have: u64, length: u64| {
            self.bar.inc_length(length - std::mem::replace(&mut known, length));
            self.bar.inc(have.saturating_sub(std::mem::replace(&mut given, have)));
        };
        let outcome = self.tree.fetch((line.token, &line.name), peer, &self.options, step).await;
        if let (Ok(FetchedFile::There { length } | FetchedFile::Now { length, .. }), 0) = (&outcome, known) {
            self.bar.inc_length(*length);
            self.bar.inc(*length);
        }
        Some(vec![GetReport { at, outcome }])
    }
}

/// What has become of all files so far.
#[derive(Default)]
struct GetTally {
    files: u64,
    bytes: u64,
    fetched_files: u64,
    fetched_bytes: u64,
    there: u64,
    failed: u64,
}

impl GetTally {
    fn take(
        &mut self,
        line: &ManifestLine,
        outcome: Result<FetchedFile, ClientError>,
        prints: bool,
    ) -> anyhow::Result<()> {
        match outcome {
            Ok(FetchedFile::There { length }) => {
                (self.files, self.bytes, self.there) = (self.files + 1, self.bytes + length, self.there + 1);
            }
            Ok(FetchedFile::Now { length, resumed_at }) => {
                (self.files, self.bytes) = (self.files + 1, self.bytes + length);
                self.fetched_files += 1;
                self.fetched_bytes += length - resumed_at.min(length);
                if prints {
                    let mut text = format!("{} {length} ", line.token).into_bytes();
                    text.extend(escaped(&line.name));
                    print(&text, "this file is here, every byte checked")?;
                }
            }
            Err(error) if is_for_all(&error) => return Err(error.into()),
            Err(error @ (ClientError::File { .. } | ClientError::Input { .. })) => {
                self.failed += 1;
                output::note(format_args!("not got: {}", plain(&error.to_string())));
            }
            Err(error) => {
                self.failed += 1;
                let name = String::from_utf8_lossy(&line.name);
                output::note(format_args!("not got: {}: {error}", plain(&name)));
            }
        }
        Ok(())
    }
}

/// Gets the files of a manifest.
pub(crate) fn run(args: Args, manifest: &Path) -> anyhow::Result<()> {
    if !args.from.is_empty() {
        bail!(Usage(
            "--manifest: the files come from the connected gateway; leave out --from, or use --via".into()
        ));
    }
    let lines = read(manifest)?;
    let tree = OutputTree::open(&args.output)?;
    let (setup, connections) = args.options.open_for(args.connections, &[])?;
    let online = setup.start()?;
    let options = AskOptions { route: args.route.route(&online.gateways)? };
    let bar = progress(args.options.is_quiet());
    let work = Arc::new(GetWork { lines, next: AtomicUsize::new(0), tree, options, bar: bar.clone() });
    let (mut tally, mut clock) = (GetTally::default(), RunClock::start());
    let done = online.block_on(async {
        let peers = connect(&online, connections).await?;
        clock = RunClock::start();
        let (_running, mut reports) = start(&work, &peers, FILES_LEN)?;
        while let Some(GetReport { at, outcome }) = reports.recv().await {
            tally.take(&work.lines[at], outcome, !args.options.json)?;
            bar.set_message(format!("got {} of {} files", tally.files, work.lines.len()));
        }
        // A thread that panicked reports nothing of its file.
        if tally.files + tally.failed == work.lines.len() as u64 { Ok(()) } else { Err(EndedEarly.into()) }
    });
    bar.finish_and_clear();
    work.tree.sync();
    if done.is_err() && tally.files > 0 {
        output::note(format_args!(
            "{} files are there so far; the same command goes on from there",
            tally.files
        ));
    }
    done?;
    let (seconds, rate, files_per_s) = clock.rates(tally.fetched_bytes, tally.fetched_files);
    let network = online.client.network();
    if args.options.json {
        output::line(serde_json::json!({
            "operation": "get", "files": tally.files, "bytes": tally.bytes, "fetched_files": tally.fetched_files,
            "fetched_bytes": tally.fetched_bytes, "already_there": tally.there, "failed": tally.failed, "verified": true,
            "seconds": seconds, "files_per_s": files_per_s, "gbit_per_s": rate, "connections": connections, "network": network,
            "workers": online.workers, "cipher": online.cipher.name(), "version": env!("CARGO_PKG_VERSION"),
        }))?;
    } else {
        output::note(format_args!(
            "{} files of {} bytes are there, {} of {} bytes fetched now: {seconds:.3} s, {files_per_s:.0} files/s, {rate:.2} Gbit/s; {} were \
             there, {} not got; {network}, {connections} connection(s), {} worker(s), {}",
            tally.files,
            tally.bytes,
            tally.fetched_files,
            tally.fetched_bytes,
            tally.there,
            tally.failed,
            online.workers,
            online.cipher,
        ));
    }
    match tally.failed {
        0 => Ok(()),
        failed => Err(anyhow!(
            "{failed} of {} files were not got, as told above; run the same command again",
            work.lines.len()
        )),
    }
}

//! The benchmark but for its printing: `tests/wan.rs` runs it too.

mod applications;
mod content;
mod options;
mod path;
mod report;
mod rows;
mod run;
mod sides;

pub(crate) use options::Options;
pub(crate) use path::Transfer;
#[allow(unused_imports, reason = "tests/wan.rs uses it")]
pub(crate) use rows::rows;

use anyhow::{Context, bail};
use content::Content;
use report::Report;
use rows::Row;
use run::{Outcome, Run};
use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Does what the options ask, and prints by `print`.
pub(crate) fn run(options: &Options, mut print: impl FnMut(&str)) -> anyhow::Result<()> {
    if options.help {
        print(options::HELP.trim_end());
        return Ok(());
    }
    let rows = options.rows()?;
    if options.list {
        rows.iter().for_each(|row| print(&row.to_string()));
        return Ok(());
    }
    if let Some((transfer, seed)) = options.single {
        let [row] = &rows[..] else { bail!("--run needs one row: name it with --only") };
        let outcome = one(options, row, transfer, seed)?;
        print(&serde_json::to_string(&outcome)?);
        return Ok(());
    }
    if let Some(interval) = options.trace {
        for row in &rows {
            let mut run = Run::new(&row.path, row.transfers[0], 1, &options.quic)?;
            let outcome = run.trace(interval, &content(&row.path, row.transfers[0])?, &mut print)?;
            print(&serde_json::to_string(&outcome)?);
        }
        return Ok(());
    }
    if !options.json {
        print(&report::head(options));
    }
    for row in &rows {
        let report = measure(options, row)?;
        print(&if options.json { report.json().to_string() } else { report.lines() });
    }
    Ok(())
}

/// One run, in this process.
pub(crate) fn one(options: &Options, row: &Row, transfer: Transfer, seed: u64) -> anyhow::Result<Outcome> {
    Run::new(&row.path, transfer, seed, &options.quic)?.finish(&content(&row.path, transfer)?)
}

fn content(path: &path::Path, transfer: Transfer) -> anyhow::Result<Option<Content>> {
    (transfer != Transfer::Message).then(|| Content::of(path.content_bytes())).transpose()
}

/// All runs of a row, each in a process of its own, so that its memory is its own.
fn measure<'a>(options: &'a Options, row: &'a Row) -> anyhow::Result<Report<'a>> {
    for &transfer in &row.transfers {
        // Once, and not in every process.
        drop(content(&row.path, transfer)?);
    }
    let jobs =
        row.transfers.iter().flat_map(|&transfer| (1..=options.seeds).map(move |seed| (transfer, seed)));
    let jobs: Mutex<VecDeque<_>> = Mutex::new(jobs.collect());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let outcomes = std::thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            while let Some((transfer, seed)) = next() {
                let outcome = in_process(options, row, transfer, seed);
                let outcome = outcome.with_context(|| format!("{}, {transfer}, seed {seed}", row.name))?;
                outcomes.push((transfer, outcome));
            }
            anyhow::Ok(outcomes)
        };
        let workers: Vec<_> = (0..options.threads).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(outcomes) => outcomes,
            Err(_) => bail!("a thread that waits for runs panicked"),
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(Report { options, row, outcomes: outcomes.into_iter().flatten().collect() })
}

fn in_process(options: &Options, row: &Row, transfer: Transfer, seed: u64) -> anyhow::Result<Outcome> {
    let output = Command::new(std::env::current_exe()?)
        .args(&options.given)
        .args(["--only", &row.name, "--run", &format!("{transfer}:{seed}")])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the run ended with {}: {text}", output.status);
    }
    serde_json::from_str(&text).with_context(|| format!("a run printed {text:?}"))
}

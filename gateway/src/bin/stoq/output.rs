//! The tools' output and exit codes.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use stoq_gateway::config::ConfigError;
pub(crate) use stoq_gateway::faults::{EndedEarly, Interrupted, Usage};
pub(crate) use stoq_gateway::output::{failed, line, note, result, result_bytes};

/// A progress bar on a terminal; nothing elsewhere.
pub(crate) fn progress(quiet: bool, what: &'static str, bytes: u64) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{msg:5} [{bar:32}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_message(what)
}

/// Gigabits a second.
pub(crate) fn gbit_per_s(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8.0 / elapsed.as_secs_f64().max(1e-9) / 1e9
}

/// Prints an error on standard error. Returns the exit code of its kind.
pub(crate) fn exit(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<ReaderGone>() {
        return ExitCode::from(READER_GONE);
    }
    let code = failed("stoq", &error);
    if error.is::<Interrupted>() {
        return ExitCode::from(130);
    }
    ExitCode::from(if error.is::<ConfigError>() || error.is::<Usage>() { 2 } else { code })
}

/// The exit code that a shell shows for a tool that SIGPIPE ended.
const READER_GONE: u8 = 141;

/// The output's reader has gone: the tool ends silently.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has closed it")]
pub(crate) struct ReaderGone;

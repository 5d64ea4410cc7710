//! The executables' output, and how they end when their output is closed.
//!
//! `println!` and `eprintln!` panic when their stream is closed or full, and a panic ends a gateway. Therefore this module alone
//! prints (`clippy::print_stdout` and `clippy::print_stderr` are denied). A failure of standard output ends a tool with an exit code; a
//! failure of standard error is ignored.

use crate::faults::Usage;
use clap::error::ErrorKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use stoq::client::was_closed;

/// The exit code of a tool whose reader has gone: the code that shells report for a program that SIGPIPE ended.
const READER_GONE: u8 = 141;

/// Bytes that a writable pipe takes without blocking (`PIPE_BUF`).
const PIPE_BYTES: usize = 4096;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Its reader has gone. The tool ends without a message: after `| head -1` the reader has its line.
    #[error("the reader of standard output has closed it")]
    ReaderGone,
    /// The disk is full, or another error of the system.
    #[error("standard output cannot be written: {0}; free the disk, or redirect it")]
    Failed(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(error),
        }
    }
}

/// Prints a line on standard output.
///
/// # Errors
/// Standard output is closed or full.
pub fn line(text: impl Display) -> Result<(), OutputError> {
    let written = write_all(io::stdout().as_fd(), format!("{text}\n").as_bytes(), None);
    written.map_err(OutputError::from)
}

/// Like [`line()`], but fails after `limit`.
///
/// # Errors
/// Standard output is closed or full, or its reader took too long.
pub fn line_within(text: impl Display, limit: Duration) -> Result<(), OutputError> {
    let deadline = Some(Instant::now() + limit);
    let written = write_all(io::stdout().as_fd(), format!("{text}\n").as_bytes(), deadline);
    written.map_err(OutputError::from)
}

/// Prints the result of finished work, such as a token. Where standard output fails, or was closed when the process started, the result
/// goes to standard error after `done`, which says what is finished: the work need not be repeated.
///
/// # Errors
/// Standard output is closed by its reader, or full.
pub fn result(text: impl Display, done: &str) -> Result<(), OutputError> {
    if was_closed(io::stdout().as_fd()) {
        note(format_args!("{done}; standard output is closed, so here it is:\n{text}"));
        return Ok(());
    }
    line(&text).inspect_err(|_| note(format_args!("{done}; standard output did not take this:\n{text}")))
}

/// Like [`result()`], for a line that may not be UTF-8, as names of files.
///
/// # Errors
/// Standard output is closed by its reader, or full.
pub fn result_bytes(line: &[u8], done: &str) -> Result<(), OutputError> {
    if was_closed(io::stdout().as_fd()) {
        return result(String::from_utf8_lossy(line), done);
    }
    let written = write_all(io::stdout().as_fd(), &[line, b"\n"].concat(), None);
    written.map_err(OutputError::from).inspect_err(|_| {
        note(format_args!("{done}; standard output did not take this:\n{}", String::from_utf8_lossy(line)));
    })
}

/// Prints a line on standard error. A failure is ignored.
pub fn note(text: impl Display) {
    let _ = write_all(io::stderr().as_fd(), format!("{text}\n").as_bytes(), None);
}

/// Prints clap's text and ends the process: `--help` and `--version` with exit code 0, wrong usage with 2.
pub fn refuse(refused: &clap::Error, program: &str) -> ! {
    // Clap's text shows the wrong argument.
    if refused.to_string().contains("PRIVATE KEY-----") {
        failed(
            program,
            &Usage("an argument is a private key; put it into a file, and give the file's path".into())
                .into(),
        );
        std::process::exit(2);
    }
    let printed = refused.print().and_then(|()| io::stdout().flush());
    let code = match (printed, refused.kind()) {
        (Ok(()), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => 0,
        (Err(error), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            failed(program, &OutputError::from(error).into())
        }
        _ => 2,
    };
    std::process::exit(code.into())
}

/// Prints on standard error why `program` failed; returns its exit code: 1, or 141 without a message where
/// the reader of its output has gone.
pub fn failed(program: &str, error: &anyhow::Error) -> u8 {
    explain(format!("{program}: {error:#}\n"), error, None)
}

/// Like [`failed`], with `prefix` before each line, but gives up after `limit`: a gateway must end even when standard error is stuck.
pub fn failed_within(program: &str, prefix: &str, error: &anyhow::Error, limit: Duration) -> u8 {
    explain(prefixed(prefix, &format!("{program}: {error:#}")), error, Some(Instant::now() + limit))
}

/// The journal takes the priority of a line from its begin.
fn prefixed(prefix: &str, text: &str) -> String {
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}

fn explain(text: String, error: &anyhow::Error, deadline: Option<Instant>) -> u8 {
    if let Some(OutputError::ReaderGone) = error.downcast_ref() {
        return READER_GONE;
    }
    let _ = write_all(io::stderr().as_fd(), text.as_bytes(), deadline);
    1
}

/// The exit code of a tool that only prints.
pub fn exit(program: &str, printed: Result<ExitCode, OutputError>) -> ExitCode {
    printed.unwrap_or_else(|error| failed(program, &error.into()).into())
}

/// Writes all bytes. Another process may have made the descriptor non-blocking.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], deadline: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        // With a deadline, no write may block: a writable pipe takes PIPE_BYTES without blocking.
        let len = if deadline.is_some() { bytes.len().min(PIPE_BYTES) } else { bytes.len() };
        if let Some(deadline) = deadline
            && !is_writable(to, Some(deadline))?
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match rustix::io::write(to, &bytes[..len]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(is_writable(to, deadline)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until the descriptor can be written, or the reader has gone; false at the deadline.
pub(crate) fn is_writable(to: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&to, PollFlags::OUT)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

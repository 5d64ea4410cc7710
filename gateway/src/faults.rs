//! Errors of the executables that name no file and no address.

use std::io;

/// The system starts no thread.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start the thread that {work}: {error}; raise the limit of threads: `ulimit -u`, or TasksMax= of the unit"
)]
pub struct ThreadError {
    /// What the thread does.
    work: &'static str,
    /// The system's error.
    error: io::Error,
}

/// Gives a thread that was started. `work` says what the thread does, such as "watches files".
///
/// # Errors
/// The system has started none.
pub fn started<T>(work: &'static str, thread: io::Result<T>) -> Result<T, ThreadError> {
    thread.map_err(|error| ThreadError { work, error })
}

/// The kernel refuses a signal handler.
#[derive(Debug, thiserror::Error)]
#[error("cannot register signal handlers: {0}; raise the limit of open files: `ulimit -n`")]
pub struct SignalError(pub io::Error);

/// A worker's thread ended before its work was done: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("a worker ended early; please report this, with the lines above")]
pub struct EndedEarly;

/// A signal ended a tool's work.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A command line that contradicts itself, or a value on it, in the environment or in the file that is none; with the fix. The exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// Neither the command line nor the configuration file names a gateway.
    pub fn no_gateway() -> Self {
        Usage("no gateway: give --gateway HOST[:PORT], or `connect = \"…\"` in the configuration file".into())
    }
}

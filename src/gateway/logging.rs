//! Log lines on standard error.

use crate::config::LogConfig;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The environment variable that overrides the configured level.
const LEVEL_VARIABLE: &str = "STOQ_LOG";

/// Starts logging for the process.
///
/// # Errors
/// When the level cannot be read.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        anyhow::anyhow!(
            "log level `{level}`: {error}; use error, warn, info, debug or trace, or module=level"
        )
    })?;
    let ansi = std::io::stderr().is_terminal();
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        // It would panic where nobody reads standard error any more, and a thread of the gateway with it.
        .log_internal_errors(false)
        .try_init();
    Ok(())
}

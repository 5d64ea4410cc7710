//! The signals that end a tool.

use crate::faults::{SignalError, started};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a process that a signal ended.
const INTERRUPTED: i32 = 130;

/// From here on the first SIGINT or SIGTERM sets the flag and calls `told`, and the second one ends the process at once. One handler a signal does
/// both: between two handlers a signal would be lost.
///
/// # Errors
/// The kernel gives no handler, or no thread.
pub fn listen(told: impl FnOnce() + Send + 'static) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut arriving = Signals::new([SIGINT, SIGTERM]).map_err(SignalError)?;
    let (waiter, noted) = (std::thread::Builder::new().name("stoq-signals".into()), flag.clone());
    let waiting = waiter.spawn(move || {
        let mut signals = arriving.forever();
        if signals.next().is_some() {
            noted.store(true, Ordering::SeqCst);
            told();
        }
        if signals.next().is_some() {
            signal_hook::low_level::exit(INTERRUPTED);
        }
    });
    started("waits for signals", waiting)?;
    Ok(flag)
}

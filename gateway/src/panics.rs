//! Panics of the gateway's threads. Each is logged and counted, and ends the gateway by `[shutdown] on_panic`: no thread of it may be missing
//! unnoticed.

use crate::config::OnPanic;
use crate::logging;
use signal_hook::consts::SIGTERM;
use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use stoq::limits::PANICS_SHOWN_LEN_MAX;
use stoq::peer_text::PeerText;

const _: () = assert!(cfg!(panic = "unwind"), "a panic must take down one worker, and not the process");

static COUNT: AtomicU64 = AtomicU64::new(0);
static SEEN: Mutex<Vec<Panicked>> = Mutex::new(Vec::new());
static ABORTS: AtomicBool = AtomicBool::new(false);
/// The gateway ends already: a further SIGTERM would end the drain.
static ENDS: AtomicBool = AtomicBool::new(false);

/// A thread that panicked, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("thread {thread} panicked at {place}: {message}; please report this, with the log")]
pub struct Panicked {
    /// The thread's name, which names the worker or the application.
    pub thread: String,
    place: String,
    message: PeerText,
}

/// Has each panic logged from now on, instead of printed on standard error, where a stuck reader would keep the process from its end. The
/// panic of any thread then ends the gateway by this rule.
pub fn watch(rule: OnPanic) {
    set_rule(rule);
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let trace = Backtrace::capture();
        let message = panic.payload_as_str().unwrap_or("without a message");
        if stoq::seed::catches_panics() {
            tracing::error!(thread, place, "a page of the store's database is damaged: {message}");
            return;
        }
        tracing::error!(thread, place, %trace, "panic: {message}");
        logging::flush();
        if ABORTS.load(Relaxed) {
            std::process::abort();
        }
        note(Panicked { thread: thread.to_owned(), place, message: PeerText::from(message) });
    }));
}

/// Has later panics end the gateway by this rule.
pub fn set_rule(rule: OnPanic) {
    ABORTS.store(rule == OnPanic::Abort, Relaxed);
}

/// The gateway ends: from now on faults are only noted.
pub fn ending() {
    ENDS.store(true, Relaxed);
}

/// Ends the gateway for a fault, as SIGTERM does. One that ends already goes on with that: a second SIGTERM would cut its drain short.
pub fn end() {
    if !ENDS.swap(true, Relaxed) {
        let _ = signal_hook::low_level::raise(SIGTERM);
    }
}

/// The panics so far.
pub fn count() -> u64 {
    COUNT.load(Relaxed)
}

/// The first panics, at most [`PANICS_SHOWN_LEN_MAX`].
pub fn seen() -> Vec<Panicked> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note(panicked: Panicked) {
    COUNT.fetch_add(1, Relaxed);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() < PANICS_SHOWN_LEN_MAX {
        seen.push(panicked);
    }
    drop(seen);
    end();
}

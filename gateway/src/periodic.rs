//! A thread that does one thing again and again.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// A running thread. Dropping it ends it.
#[derive(Default)]
pub struct Periodic {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Periodic {
    /// Calls `act` on a thread of this name, each time an interval is over.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(name: &str, interval: Duration, mut act: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let (end, ended) = channel::<()>();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                act();
            }
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!("the thread {name} panicked");
            }
        }
    }
}

//! The worker that follows one that panicked, on the same network queue: without connections and applications.
//!
//! No other worker reads that queue. The successor hands datagrams of other workers' connections to them, answers those of the connections that
//! are gone with a stateless reset (RFC 9000 §10.3), refuses new connections, and goes on with ARP and NDP.

use super::{Core, Quic, Worker};
use crate::counters::Counter;
use crate::datagram::Network;
use crate::queue::{CloseReason, Sleeper, WorkerPort};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl<N: Network> Worker<N> {
    /// Runs to the end, like [`Worker::run`]. A panic of the worker, or of an application on its thread, takes down its connections; the rest of the
    /// node goes on. A successor then has the queue until the end.
    ///
    /// # Panics
    /// If the successor panics too.
    pub fn run_isolated(mut self, quic: Quic) -> N {
        let Err(panic) = catch(|| self.run()) else { return self.network };
        self.status.counters.add(Counter::WorkersFailed, 1);
        let (worker, message) = (self.core.index, message(&*panic));
        tracing::error!(
            worker,
            "a worker panicked: {message}; its connections are gone, and it accepts no others until a restart"
        );
        let mut successor = self.successor(quic);
        successor.run();
        successor.network
    }

    /// The successor of this worker, which has panicked. Its applications on other threads learn that their connections have ended, and keep
    /// their rings.
    fn successor(self, quic: Quic) -> Self {
        let Self { network, core, status } = self;
        let (index, shared, idle) = (core.index, core.desk.shared.clone(), core.idle);
        // What panicked once may panic again while it is taken apart.
        let kept = catch(|| core.take_apart(Instant::now()));
        let mut next = Worker::new(index, network, shared, quic, idle);
        if let Ok((ports, sleeper)) = kept {
            (next.core.desk.ports, next.core.sleeper) = (ports, sleeper);
        }
        next.core.desk.status.clone_from(&status);
        next.core.draining = true;
        for count in [&status.connections, &status.requests, &status.lingering] {
            count.store(0, Relaxed);
        }
        Self { status, ..next }
    }
}

impl Core {
    /// Ends all that belongs to this worker but its rings.
    fn take_apart(mut self, now: Instant) -> (Vec<WorkerPort>, Sleeper) {
        for slot in self.connections.slots() {
            if let Some(mut conn) = self.connections.at(slot) {
                conn.ended(&CloseReason::WorkerFailed, &mut self.desk.cx(now));
            }
        }
        self.notify(false);
        (self.desk.ports, self.sleeper)
    }
}

/// Calls a function whose panic ends here. Afterwards its state may contradict itself, and is only good for being taken apart.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(work))
}

/// The text of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

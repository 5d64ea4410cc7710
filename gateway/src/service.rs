//! Tells a service manager, such as systemd, that the gateway is ready, stops, and still works: the protocol of sd_notify(3). Without
//! `NOTIFY_SOCKET` in the environment nothing is told.

use crate::faults::started;
use crate::periodic::Periodic;
use sd_notify::NotifyState;
use std::sync::Arc;
use stoq::counters::Counter;
use stoq::worker::WorkerStatus;

/// The watchdog is told this many times in the interval that the service manager allows.
const PER_INTERVAL: u32 = 3;

/// A service that runs. Dropping it ends what it tells.
pub struct Service {
    _thread: Periodic,
}

impl Service {
    /// Tells that the gateway is ready. Tells the watchdog from now on, if there is one, as long as each of these workers makes turns.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn ready(workers: &[Arc<WorkerStatus>]) -> anyhow::Result<Self> {
        tell(NotifyState::Ready);
        let Some(interval) = sd_notify::watchdog_enabled() else {
            return Ok(Self { _thread: Periodic::default() });
        };
        let mut turns = WorkerTurns::new(workers.to_vec());
        let watch = move || {
            if turns.moved() {
                tell(NotifyState::Watchdog);
            }
        };
        let thread = Periodic::start("stoq-service", interval / PER_INTERVAL, watch);
        Ok(Self { _thread: started("tells the watchdog", thread)? })
    }

    /// Tells that the gateway stops. The watchdog is told until the end of the drain.
    pub fn stopping(&self) {
        tell(NotifyState::Stopping);
    }
}

fn tell(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told about the gateway's state");
    }
}

/// The turns of workers.
struct WorkerTurns {
    workers: Vec<Arc<WorkerStatus>>,
    before: Vec<u64>,
}

impl WorkerTurns {
    fn new(workers: Vec<Arc<WorkerStatus>>) -> Self {
        let before = counts(&workers);
        Self { workers, before }
    }

    /// Whether each worker has made a turn since the last call.
    fn moved(&mut self) -> bool {
        let now = counts(&self.workers);
        let before = std::mem::replace(&mut self.before, now);
        before.iter().zip(&self.before).all(|(before, now)| before != now)
    }
}

fn counts(workers: &[Arc<WorkerStatus>]) -> Vec<u64> {
    let turns = |status: &Arc<WorkerStatus>| {
        let counters = &status.counters;
        counters.get(Counter::EmptyPolls).wrapping_add(counters.get(Counter::BusyPolls))
    };
    workers.iter().map(turns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_without_a_turn_is_enough_for_silence() {
        let workers: Vec<_> = (0..2).map(|_| Arc::<WorkerStatus>::default()).collect();
        let mut turns = WorkerTurns::new(workers.clone());
        let turn = |worker: usize, counter| workers[worker].counters.add(counter, 1);
        assert!(!turns.moved());
        turn(0, Counter::EmptyPolls);
        assert!(!turns.moved(), "the other stands still");
        turn(0, Counter::BusyPolls);
        turn(1, Counter::EmptyPolls);
        assert!(turns.moved());
        assert!(!turns.moved());
    }
}

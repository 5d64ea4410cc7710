//! Groups that verify threads check: the thread itself, and the worker's side.

use super::shared::Idle;
use super::{Core, IDLE_SLEEP_TURNS, IDLE_YIELD_TURNS};
use crate::queue::{GroupCheckQueue, GroupChecks};
use std::time::{Duration, Instant};

/// The longest sleep of a verify thread before it looks whether the workers have ended.
const SLEEP_MAX: Duration = Duration::from_millis(100);

impl Core {
    /// Takes what verify threads found.
    pub(super) fn take_found(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while let Some(checks) = &mut self.desk.checks
            && let Some(found) = checks.poll(now, &self.desk.status.counters)
        {
            worked = true;
            let Some(mut entry) = self.connections.of(found.connection) else { continue };
            let conn = &mut *entry;
            conn.session.found(&mut conn.quic, &found, &mut self.desk.cx(now));
            entry.touched();
        }
        worked
    }

    /// Whether verify threads owe answers: nothing wakes a worker for them.
    pub(super) fn awaits_checks(&self) -> bool {
        self.desk.checks.as_ref().is_some_and(GroupChecks::waits)
    }
}

/// Runs a verify thread until the workers have ended.
pub(crate) fn check_groups(queue: &GroupCheckQueue, idle: Idle) {
    let mut idle_turns = 0_u32;
    loop {
        if let Some(check) = queue.take() {
            check.run();
            idle_turns = 0;
            continue;
        }
        idle_turns = idle_turns.saturating_add(1);
        if idle_turns < IDLE_YIELD_TURNS {
            std::hint::spin_loop();
        } else if queue.is_over() {
            return;
        } else if idle == Idle::Spin {
            std::hint::spin_loop();
        } else if idle_turns < IDLE_SLEEP_TURNS {
            std::thread::yield_now();
        } else {
            queue.wait(SLEEP_MAX);
        }
    }
}

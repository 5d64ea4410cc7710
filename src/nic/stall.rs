//! How long frames wait for a device that takes none.

use crate::limits::TX_STALL_MS_MAX;
use std::time::{Duration, Instant};

/// The time since which none of the queued frames was taken.
#[derive(Debug, Default)]
pub(super) struct Stall(Option<Instant>);

impl Stall {
    /// Notes a flush after which frames are left, or none, and whether some were taken since the last one. Returns true once
    /// [`TX_STALL_MS_MAX`] has passed without progress.
    pub(super) fn is_over_bound(&mut self, has_progressed: bool, now: Instant) -> bool {
        if has_progressed {
            self.0 = None;
            return false;
        }
        let since = *self.0.get_or_insert(now);
        let over = now.saturating_duration_since(since) >= Duration::from_millis(TX_STALL_MS_MAX);
        if over {
            self.0 = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_starts_the_bound_anew() {
        let bound = Duration::from_millis(TX_STALL_MS_MAX);
        let (mut stall, start) = (Stall::default(), Instant::now());
        let almost = bound - Duration::from_millis(1);
        assert!(!stall.is_over_bound(false, start));
        assert!(!stall.is_over_bound(false, start + almost));
        assert!(!stall.is_over_bound(true, start + almost));
        assert!(!stall.is_over_bound(false, start + bound));
        assert!(!stall.is_over_bound(false, start + bound + almost));
        assert!(stall.is_over_bound(false, start + 2 * bound));
        assert!(!stall.is_over_bound(false, start + 2 * bound), "counted from the next flush");
    }
}

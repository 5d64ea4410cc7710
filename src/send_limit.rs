//! What keeps a connection from sending more, and how long each reason did.

use serde::ser::{Serialize, Serializer};
use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The reason why a connection sends no more than it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SendLimit {
    /// The applications have given no more, or the handshake runs.
    #[default]
    Application,
    /// The peer's flow control: its windows are full, or it allows no further stream (RFC 9000 §4).
    Peer,
    /// This side's send window ([`crate::quic::transport::QuicConfig::send_window_max_bytes`] and the process's budget).
    Window,
    /// The congestion window is in flight (RFC 9002 §7).
    Congestion,
    /// The next packet waits for its time: the rate of the controller or of the operator (RFC 9002 §7.7).
    Pacing,
    /// The device takes no more packets now.
    Device,
    /// The worker serves other connections first: the core is busy.
    Worker,
}

impl SendLimit {
    /// Every limit, in the order in which results list them.
    pub const ALL: [Self; 7] = [
        Self::Application,
        Self::Peer,
        Self::Window,
        Self::Congestion,
        Self::Pacing,
        Self::Device,
        Self::Worker,
    ];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Peer => "peer",
            Self::Window => "window",
            Self::Congestion => "congestion",
            Self::Pacing => "pacing",
            Self::Device => "device",
            Self::Worker => "worker",
        }
    }
}

/// The time spent under each limit. As JSON it is an object of seconds by the limits' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitTimes([Duration; SendLimit::ALL.len()]);

impl LimitTimes {
    /// The time under one limit.
    pub fn of(&self, limit: SendLimit) -> Duration {
        self.0[limit as usize]
    }

    /// Adds time under one limit.
    pub fn add(&mut self, limit: SendLimit, span: Duration) {
        self.0[limit as usize] += span;
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self(array::from_fn(|at| self.0[at] + more.0[at]))
    }

    /// What is more here than in `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    /// The limits with their share of the whole, 0 to 1, largest share first, without those that had no time.
    pub fn shares(&self) -> Vec<(SendLimit, f64)> {
        let whole = self.0.iter().sum::<Duration>().as_secs_f64();
        let share = |limit: SendLimit| (limit, self.of(limit).as_secs_f64() / whole);
        let mut shares: Vec<_> =
            SendLimit::ALL.into_iter().filter(|limit| !self.of(*limit).is_zero()).map(share).collect();
        shares.sort_by(|one, other| other.1.total_cmp(&one.1));
        shares
    }
}

impl Serialize for LimitTimes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(SendLimit::ALL.map(|limit| (limit.name(), self.of(limit).as_secs_f64())))
    }
}

/// The same of all connections of a worker. The worker alone adds; any thread reads.
#[derive(Debug, Default)]
pub struct LimitTotals([AtomicU64; SendLimit::ALL.len()]);

impl LimitTotals {
    /// Adds what one connection spent.
    pub fn add(&self, times: &LimitTimes) {
        for (cell, span) in self.0.iter().zip(times.0) {
            cell.store(cell.load(Relaxed).wrapping_add(span.as_nanos() as u64), Relaxed);
        }
    }

    /// The sums so far.
    pub fn times(&self) -> LimitTimes {
        LimitTimes(array::from_fn(|at| Duration::from_nanos(self.0[at].load(Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_whole_and_sorted() {
        let mut times = LimitTimes::default();
        assert_eq!(times.shares(), []);
        times.add(SendLimit::Pacing, Duration::from_secs(3));
        times.add(SendLimit::Application, Duration::from_secs(1));
        assert_eq!(times.shares(), [(SendLimit::Pacing, 0.75), (SendLimit::Application, 0.25)]);
        let totals = LimitTotals::default();
        totals.add(&times);
        totals.add(&times);
        assert_eq!(totals.times().since(&times), times);
        let shown = serde_json::to_value(times).unwrap();
        assert_eq!((shown["pacing"].as_f64(), shown["device"].as_f64()), (Some(3.0), Some(0.0)));
    }

    #[test]
    fn limits_stand_at_their_own_index() {
        for (at, limit) in SendLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at, "{limit:?}");
        }
    }
}

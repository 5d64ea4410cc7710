//! The windows of a connection, fitted to its path while it runs.
//!
//! A window must hold the bytes that move in a round trip, and those that wait behind a loss until the loss is mended. Neither number is
//! known before the connection runs. A window starts small and becomes four times the bytes that moved in the last round trip: a
//! connection that uses its window up multiplies it each round trip, and one that does not use it keeps it. The sizes of windows beyond
//! their first ones come out of one budget a process.

use super::conn::Conn;
use crate::limits::{WINDOW_QUIET_MS, WINDOW_ROUND_MS_MIN, WINDOW_TRIPS_LEN};
use crate::quic::budget::{Budget, Share};
use crate::quic::transport::Windows;
use quinn_proto::Connection;
use std::time::{Duration, Instant};

/// A shorter round trip counts as this long: over less time, the counts of bytes say little.
const ROUND_MIN: Duration = Duration::from_millis(WINDOW_ROUND_MS_MIN);

/// The windows of one connection, in both directions.
#[derive(Debug)]
pub(super) struct Fitted {
    receive: Window,
    send: Window,
    /// The times of the last look at both, and of the next.
    looked: Instant,
    due: Instant,
}

/// One window.
#[derive(Debug)]
struct Window {
    min_bytes: u64,
    max_bytes: u64,
    bytes: u64,
    /// The bytes that the peer may still use of an earlier, larger window.
    debt_bytes: u64,
    /// Bytes that had moved by the last look.
    moved_bytes: u64,
    /// The time at which its present size was last needed.
    needed: Instant,
    share: Share,
}

impl Window {
    fn new(min_bytes: u64, max_bytes: u64, budget: &Budget, now: Instant) -> Self {
        let share = Share::of(budget);
        Self { min_bytes, max_bytes, bytes: min_bytes, debt_bytes: 0, moved_bytes: 0, needed: now, share }
    }

    /// Fits it to `moved_bytes`, the bytes that have moved so far; `elapsed` is the time since the last look. Returns whether its size
    /// changed. `binds`: the peer may use all of a window that becomes smaller.
    fn fit(&mut self, now: Instant, moved_bytes: u64, elapsed: Duration, rtt: Duration, binds: bool) -> bool {
        let moved = moved_bytes.saturating_sub(self.moved_bytes);
        self.moved_bytes = moved_bytes;
        self.debt_bytes = self.debt_bytes.saturating_sub(moved);
        let in_round = moved as f64 * rtt.as_secs_f64() / elapsed.as_secs_f64();
        let wanted = ((in_round * f64::from(WINDOW_TRIPS_LEN)) as u64).clamp(self.min_bytes, self.max_bytes);
        if wanted >= self.bytes {
            self.needed = now;
        } else if now.saturating_duration_since(self.needed) < Duration::from_millis(WINDOW_QUIET_MS) {
            return false;
        }
        let before = self.bytes;
        if binds {
            self.debt_bytes += before.saturating_sub(wanted);
        }
        let past_min = wanted - self.min_bytes + self.debt_bytes;
        let granted = self.share.resize(past_min).saturating_sub(self.debt_bytes);
        self.bytes = wanted.min(self.min_bytes + granted);
        self.bytes != before
    }
}

impl Fitted {
    pub(super) fn new(windows: Windows, budget: &Budget, now: Instant) -> Self {
        Self {
            receive: Window::new(windows.connection_bytes, windows.connection_max_bytes, budget, now),
            send: Window::new(windows.send_bytes, windows.send_max_bytes, budget, now),
            looked: now,
            due: now + ROUND_MIN,
        }
    }

    /// The receive window, bytes.
    pub(super) fn receive_bytes(&self) -> u64 {
        self.receive.bytes
    }

    /// The send window, bytes.
    pub(super) fn send_bytes(&self) -> u64 {
        self.send.bytes
    }

    /// Whether half a round trip is over since the last look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Fits both to the bytes that moved. Returns whether the receive window and the send window changed.
    fn look(&mut self, now: Instant, quic: &Connection) -> (bool, bool) {
        let stats = quic.stats();
        let elapsed = now.saturating_duration_since(self.looked).max(ROUND_MIN);
        let rtt = stats.path.rtt;
        self.looked = now;
        // A window must be there before the congestion window that doubles each round trip, and the peer hears of it half a round trip later.
        self.due = now + (rtt / 2).max(ROUND_MIN);
        let received = self.receive.fit(now, stats.udp_rx.bytes, elapsed, rtt, true);
        let sent = self.send.fit(now, stats.udp_tx.bytes, elapsed, rtt, false);
        (received, sent)
    }
}

impl Conn {
    /// Fits its windows, twice a round trip.
    #[inline]
    pub(super) fn fit_windows(&mut self, now: Instant) {
        if self.fitted.is_due(now) {
            self.fit_windows_now(now);
        }
    }

    #[cold]
    fn fit_windows_now(&mut self, now: Instant) {
        let (received, sent) = self.fitted.look(now, &self.quic);
        if received {
            self.session.set_receive_window(&mut self.quic, self.fitted.receive_bytes());
        }
        if sent {
            self.quic.set_send_window(self.fitted.send_bytes());
            // Streams that wait for the send window learn of its room at the next acknowledgment.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RTT: Duration = Duration::from_millis(100);

    struct Path {
        window: Window,
        now: Instant,
        moved: u64,
    }

    impl Path {
        fn new(budget: &Budget) -> Self {
            let now = Instant::now();
            Self { window: Window::new(MIB, 64 * MIB, budget, now), now, moved: 0 }
        }

        /// A round trip in which this many bytes move; returns the window after it.
        fn round(&mut self, bytes: u64) -> u64 {
            self.now += RTT;
            self.moved += bytes;
            self.window.fit(self.now, self.moved, RTT, RTT, true);
            self.window.bytes
        }
    }

    #[test]
    fn a_window_that_is_used_up_grows_to_its_bound_and_an_idle_one_stays() {
        let mut path = Path::new(&Budget::new(1 << 40));
        assert_eq!(path.round(0), MIB);
        assert_eq!(path.round(MIB / 5), MIB);
        assert_eq!(path.round(MIB), 4 * MIB);
        assert_eq!(path.round(4 * MIB), 16 * MIB);
        assert_eq!(path.round(16 * MIB), 64 * MIB);
        assert_eq!(path.round(64 * MIB), 64 * MIB);
    }

    #[test]
    fn a_window_that_was_not_needed_for_a_while_shrinks() {
        let budget = Budget::new(1 << 40);
        let mut path = Path::new(&budget);
        path.round(8 * MIB);
        let rounds = WINDOW_QUIET_MS / RTT.as_millis() as u64;
        for _ in 0..rounds - 1 {
            assert_eq!(path.round(0), 32 * MIB);
        }
        assert_eq!(path.round(0), MIB);
        // The peer may use the larger one up: it is given back as the peer's bytes arrive.
        assert_eq!(budget.taken_bytes(), 31 * MIB);
        path.round(MIB / 8);
        assert_eq!(budget.taken_bytes(), 31 * MIB - MIB / 8);
        drop(path);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[test]
    fn windows_grow_within_the_budget() {
        let budget = Budget::new(32 * MIB);
        let (mut first, mut second) = (Path::new(&budget), Path::new(&budget));
        assert_eq!(first.round(64 * MIB), 17 * MIB);
        assert_eq!(second.round(64 * MIB), 9 * MIB);
        for _ in 0..64 {
            first.round(64 * MIB);
            second.round(64 * MIB);
        }
        assert!(budget.taken_bytes() <= 32 * MIB);
        assert!(first.window.bytes + second.window.bytes <= 34 * MIB);
    }

    #[test]
    fn a_short_round_trip_needs_no_large_window() {
        let mut path = Path::new(&Budget::new(1 << 40));
        // 10 Gbit/s for 10 ms over 100 microseconds.
        let moved = 12_500_000;
        path.window.fit(path.now + ROUND_MIN, moved, ROUND_MIN, Duration::from_micros(100), true);
        assert_eq!(path.window.bytes, MIB);
    }
}

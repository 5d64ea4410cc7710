//! CUBIC (RFC 9438), with a slow start that ends before the buffer overflows: HyStart++ (RFC 9406).

use super::algorithm::CongestionAlgorithm;
use std::time::{Duration, Instant};

/// RFC 9438 §4.6: what remains of the window after congestion.
const BETA: f64 = 0.7;
/// RFC 9438 §5: the growth, packets a cubic second.
const C: f64 = 0.4;
/// RFC 9438 §4.3: growth as Reno has it, packets a round.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 9002 §7.2: the least window, packets.
const WINDOW_PACKETS_MIN: f64 = 2.0;
/// RFC 9002 §6.2.2: the round trip before one was measured.
const RTT_INITIAL: Duration = Duration::from_millis(333);

#[derive(Clone, Debug)]
pub(super) struct Cubic {
    mtu: f64,
    /// Bytes.
    window: f64,
    ssthresh: f64,
    slow_start: HyStart,
    w_max: f64,
    /// Of Reno, beside CUBIC's own (RFC 9438 §4.3).
    w_est: f64,
    k: f64,
    /// When congestion avoidance began, without the time in which the window was not used up.
    epoch: Option<Instant>,
    /// Packets sent until then belong to the last congestion event.
    recovery: Option<Instant>,
    rtt: Option<Duration>,
    /// Bytes acknowledged by this frame that may let the window grow, and all.
    grown: u64,
    acked: u64,
    newest_sent: Option<Instant>,
    last_ack: Option<Instant>,
}

impl Cubic {
    pub(super) fn new(initial_window: u64, mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            window: initial_window as f64,
            ssthresh: f64::INFINITY,
            slow_start: HyStart::default(),
            w_max: 0.0,
            w_est: 0.0,
            k: 0.0,
            epoch: None,
            recovery: None,
            rtt: None,
            grown: 0,
            acked: 0,
            newest_sent: None,
            last_ack: None,
        }
    }

    /// Goes on in congestion avoidance with this window, bytes.
    pub(super) fn resumed(window: u64, mtu: u16) -> Self {
        let ssthresh = (window as f64).max(WINDOW_PACKETS_MIN * f64::from(mtu));
        Self { window: ssthresh, ssthresh, ..Self::new(window, mtu) }
    }

    /// RFC 9438 §4.2, Figure 1, bytes.
    fn w_cubic(&self, t: Duration) -> f64 {
        C * (t.as_secs_f64() - self.k).powi(3) * self.mtu + self.w_max
    }

    fn begin_epoch(&mut self, now: Instant) -> Instant {
        if self.epoch.is_none() {
            // RFC 9438 §4.2: K is 0 where the window is not below W_max.
            if self.w_max < self.window {
                self.w_max = self.window;
            }
            self.k = ((self.w_max - self.window) / self.mtu / C).cbrt();
            self.w_est = self.window;
        }
        *self.epoch.get_or_insert(now)
    }

    fn avoid_congestion(&mut self, now: Instant) {
        let epoch = self.begin_epoch(now);
        let t = now.saturating_duration_since(epoch);
        let acked = self.grown as f64;
        // RFC 9438 §4.2: no faster than half of the window a round.
        let target = self.w_cubic(t + self.rtt.unwrap_or(RTT_INITIAL)).clamp(self.window, 1.5 * self.window);
        let alpha = if self.w_est >= self.w_max { 1.0 } else { ALPHA };
        self.w_est += alpha * self.mtu * acked / self.window;
        self.window += (target - self.window) * acked / self.window;
        self.window = self.window.max(self.w_est);
    }

    fn on_congestion(&mut self, now: Instant, sent: Instant, persistent: bool) {
        if self.recovery.is_some_and(|recovery| sent <= recovery) && !persistent {
            return;
        }
        self.recovery = Some(now);
        self.epoch = None;
        // RFC 9438 §4.7: fast convergence.
        self.w_max = if self.window < self.w_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        let least = WINDOW_PACKETS_MIN * self.mtu;
        self.ssthresh = (self.window * BETA).max(least);
        // RFC 9002 §7.6.2.
        self.window = if persistent { least } else { self.ssthresh };
    }
}

impl CongestionAlgorithm for Cubic {
    fn on_sent(&mut self, _now: Instant, _bytes: u64) {}

    fn on_acked(&mut self, _now: Instant, sent: Instant, bytes: u64) {
        self.acked += bytes;
        if self.recovery.is_none_or(|recovery| sent > recovery) {
            self.grown += bytes;
        }
        self.newest_sent = self.newest_sent.max(Some(sent));
    }

    fn on_ack_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let since_last = self.last_ack.replace(now).map_or(Duration::ZERO, |last| now - last);
        if let Some(sent) = self.newest_sent.take() {
            let rtt = now.saturating_duration_since(sent);
            self.rtt = Some(self.rtt.map_or(rtt, |before| (before * 7 + rtt) / 8));
            let in_slow_start = self.window < self.ssthresh;
            if in_slow_start && self.slow_start.on_rtt(now, sent, rtt) {
                self.ssthresh = self.window;
            }
        }
        // RFC 9002 §7.8: a window that is not used up does not grow.
        let used = (in_flight + self.acked) as f64;
        if app_limited || used < self.window * 0.25 {
            self.epoch = self.epoch.map(|epoch| epoch + since_last);
        } else if self.window < self.ssthresh {
            self.window += self.grown as f64 / self.slow_start.divisor();
        } else {
            self.avoid_congestion(now);
        }
        (self.grown, self.acked) = (0, 0);
    }

    fn on_lost(&mut self, now: Instant, sent: Instant, _bytes: u64, persistent: bool) {
        self.on_congestion(now, sent, persistent);
    }

    fn on_marked(&mut self, now: Instant, sent: Instant) {
        self.on_congestion(now, sent, false);
    }

    fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        self.window = self.window.max(WINDOW_PACKETS_MIN * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn pacing_bytes_per_s(&self) -> Option<f64> {
        None
    }

    fn slow_start_threshold(&self) -> Option<u64> {
        Some(if self.ssthresh.is_finite() { self.ssthresh as u64 } else { u64::MAX })
    }
}

/// RFC 9406 §4.3.
const RTT_RISE_MIN: Duration = Duration::from_millis(4);
const RTT_RISE_MAX: Duration = Duration::from_millis(16);
const RTT_RISE_DIVISOR: u32 = 8;
const CONSERVATIVE_DIVISOR: f64 = 4.0;
/// Acknowledgments in a row whose round trips must have grown. RFC 9406 compares the shortest of a whole round: a paced sender learns
/// of a queue half a round later by it, when its window has doubled again.
const RISEN_SAMPLES: u32 = 6;
/// Whole rounds of Conservative Slow Start that must confirm the growth. RFC 9406 has five, in which the window triples.
const CONSERVATIVE_ROUNDS: u32 = 1;

/// Slow start that ends when the round trips grow.
#[derive(Clone, Debug, Default)]
struct HyStart {
    /// Packets sent before this belong to the round.
    round_began: Option<Instant>,
    least: Option<Duration>,
    least_before: Option<Duration>,
    /// Acknowledgments in a row whose round trips had grown.
    risen: u32,
    /// In Conservative Slow Start: the round trip when it began, and the rounds that began in it.
    conservative: Option<(Duration, u32)>,
}

impl HyStart {
    /// A round trip was measured by a packet sent at `sent`. Returns whether slow start is over.
    fn on_rtt(&mut self, now: Instant, sent: Instant, rtt: Duration) -> bool {
        if self.round_began.is_none_or(|began| sent > began) {
            self.round_began = Some(now);
            (self.least_before, self.least) = (self.least.take(), None);
            if let Some((base, rounds)) = &mut self.conservative {
                let shorter = self.least_before.is_some_and(|least| least < *base);
                if *rounds >= CONSERVATIVE_ROUNDS && shorter {
                    // The growth was none: slow start goes on.
                    (self.conservative, self.risen) = (None, 0);
                } else if *rounds >= CONSERVATIVE_ROUNDS {
                    return true;
                } else {
                    *rounds += 1;
                }
            }
        }
        self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        if self.conservative.is_none()
            && let Some(before) = self.least_before
        {
            let rise = (before / RTT_RISE_DIVISOR).clamp(RTT_RISE_MIN, RTT_RISE_MAX);
            self.risen = if rtt >= before + rise { self.risen + 1 } else { 0 };
            if self.risen >= RISEN_SAMPLES {
                self.conservative = Some((rtt, 0));
            }
        }
        false
    }

    /// By what the growth is divided.
    fn divisor(&self) -> f64 {
        if self.conservative.is_some() { CONSERVATIVE_DIVISOR } else { 1.0 }
    }
}

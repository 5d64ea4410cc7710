//! A fixed rate, for bandwidth that belongs to this connection alone.

use super::algorithm::{CongestionAlgorithm, MinRtt};
use std::time::{Duration, Instant};

/// The share of lost bytes in a round above which the path is not what was reserved.
const LOSS_MAX: f64 = 0.10;
/// The least share of the rate that it comes down to.
const SHARE_MIN: f64 = 0.02;
/// How fast it comes back to what arrived before, and how fast it tries more, a round.
const RECOVERY: f64 = 1.25;
const GROWTH: f64 = 1.01;
/// The share of lost bytes above which a path is out.
const OUTAGE_LOSS: f64 = 0.5;
/// Rounds with fewer packets say nothing of the path.
const ROUND_PACKETS_MIN: u64 = 32;
/// Beside one and a half round trips, the window holds what is sent while the peer and this worker sleep.
const SLACK: Duration = Duration::from_millis(5);
/// How long a shortest round trip counts.
const MIN_RTT_LIFE: Duration = Duration::from_secs(10);
/// Packets that the window holds beside that.
const SLACK_PACKETS: u64 = 64;

/// Sends at a rate, whatever is lost, up to [`LOSS_MAX`]. More loss than that means that the path does not carry the rate: then it
/// comes down with what arrives, so that a wrong number does not stop everything else on the path.
#[derive(Clone, Debug)]
pub(super) struct Reserved {
    bytes_per_s: f64,
    share: f64,
    /// The share of which more than [`LOSS_MAX`] was lost the last time: above it the rate grows slowly.
    doubtful: f64,
    min_rtt: MinRtt,
    mtu: u64,
    initial_window: u64,
    acked: u64,
    lost: u64,
    newest_sent: Option<Instant>,
    round_began: Option<Instant>,
}

impl Reserved {
    pub(super) fn new(bits_per_s: u64, initial_window: u64, mtu: u16) -> Self {
        Self {
            bytes_per_s: bits_per_s as f64 / 8.0,
            share: 1.0,
            doubtful: 1.0,
            min_rtt: MinRtt::default(),
            mtu: mtu.into(),
            initial_window,
            acked: 0,
            lost: 0,
            newest_sent: None,
            round_began: None,
        }
    }

    fn rate(&self) -> f64 {
        self.bytes_per_s * self.share
    }

    fn end_round(&mut self) {
        let sum = self.acked + self.lost;
        if sum >= ROUND_PACKETS_MIN * self.mtu {
            let loss = self.lost as f64 / sum as f64;
            let arrived = self.share * (1.0 - loss);
            let share = if loss > LOSS_MAX {
                // A round that lost most is of an outage, and says nothing of the rate.
                if loss < OUTAGE_LOSS {
                    self.doubtful = arrived;
                }
                arrived
            } else {
                self.share * if self.share < self.doubtful { RECOVERY } else { GROWTH }
            };
            self.share = share.clamp(SHARE_MIN, 1.0);
            (self.acked, self.lost) = (0, 0);
        }
    }
}

impl CongestionAlgorithm for Reserved {
    fn on_sent(&mut self, _now: Instant, _bytes: u64) {}

    fn on_acked(&mut self, _now: Instant, sent: Instant, bytes: u64) {
        self.acked += bytes;
        self.newest_sent = self.newest_sent.max(Some(sent));
    }

    fn on_ack_end(&mut self, now: Instant, _in_flight: u64, _app_limited: bool) {
        let Some(sent) = self.newest_sent.take() else { return };
        let rtt = now.saturating_duration_since(sent);
        if self.min_rtt.is_older(now, MIN_RTT_LIFE) {
            self.min_rtt.replace(now, rtt);
        }
        self.min_rtt.sample(now, rtt);
        // A round ends when what was sent after its beginning is acknowledged.
        if self.round_began.is_none_or(|began| sent >= began) {
            self.round_began = Some(now);
            self.end_round();
        }
    }

    fn on_lost(&mut self, _now: Instant, _sent: Instant, bytes: u64, _persistent: bool) {
        self.lost += bytes;
    }

    /// The rate is reserved: a queue that marks is not filled by this connection alone, and does not make it slower.
    fn on_marked(&mut self, _now: Instant, _sent: Instant) {}

    fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    fn window(&self) -> u64 {
        let Some(rtt) = self.min_rtt.get() else { return self.initial_window };
        let held = self.rate() * (rtt.mul_f64(1.5) + SLACK).as_secs_f64();
        (held as u64 + SLACK_PACKETS * self.mtu).max(self.initial_window)
    }

    fn pacing_bytes_per_s(&self) -> Option<f64> {
        Some(self.rate())
    }
}

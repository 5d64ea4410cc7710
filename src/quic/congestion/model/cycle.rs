//! The cycle of the model: startup, and the probes for more (draft-ietf-ccwg-bbr §5.3).

use super::{BETA, HEADROOM, Mode, Model, RISE_MIN, UP_GAIN};
use crate::quic::congestion::delivery::DeliverySample;
use crate::quic::congestion::round::Round;
use std::time::{Duration, Instant};

const FULL_GROWTH: f64 = 1.25;
const UP_GROWTH: f64 = 1.08;
const FULL_ROUNDS: u32 = 3;
/// A cycle is no shorter, and no longer: round trips inside a machine or a rack tell less than they are many.
const CRUISE_MIN: Duration = Duration::from_millis(50);
const CRUISE_MAX: Duration = Duration::from_secs(3);
/// The rise of round trips that ends startup: their part, and the least rise that counts. An eighth would be seen when more than a product
/// is already on its way into the buffer.
const RISE_DIVISOR: u32 = 16;
/// Acknowledgments in a row that must agree on the rise.
const RISE_SAMPLES: u32 = 6;
const PROBE_RTT_SPAN: Duration = Duration::from_millis(200);

impl Model {
    /// Takes what an acknowledgment told; `ended` is the round that it ended. `in_flight`: bytes.
    pub(super) fn step(
        &mut self,
        now: Instant,
        sample: &DeliverySample,
        in_flight: u64,
        ended: Option<&Round>,
    ) {
        match self.mode {
            Mode::Startup => {
                let round = *ended.unwrap_or(&self.round);
                self.step_startup(now, &round, sample, ended.is_some());
            }
            Mode::Drain => {
                if in_flight as f64 <= self.product() || self.rounds_in_mode() > 4 {
                    self.enter(Mode::Cruise, now);
                }
            }
            Mode::Down => {
                let target = (HEADROOM * self.in_flight_high).min(self.product());
                if in_flight as f64 <= target || self.rounds_in_mode() > 4 {
                    self.enter(Mode::Cruise, now);
                }
            }
            // It learns of the path by its shared rate, without probes.
            Mode::Cruise if self.sharing.rate().is_some() => {}
            Mode::Cruise => {
                let span = self.in_mode(now);
                if self.rounds_in_mode() >= self.cruise_rounds && span >= CRUISE_MIN || span >= CRUISE_MAX {
                    self.enter(Mode::Refill, now);
                }
            }
            Mode::Refill => {
                if self.rounds_in_mode() >= 1 {
                    self.enter(Mode::Up, now);
                }
            }
            Mode::Up => self.step_up(now, sample, ended),
            Mode::ProbeRtt => {
                let until = *self.probe_rtt_until.get_or_insert(now + PROBE_RTT_SPAN.max(self.min_rtt()));
                if now >= until {
                    self.probe_rtt_until = None;
                    self.enter(if self.is_full { Mode::Cruise } else { Mode::Startup }, now);
                }
            }
        }
    }

    /// Whether packets with this round trip waited.
    fn has_risen(&self, rtt: Duration) -> bool {
        let base = self.min_rtt();
        rtt >= base + (base / RISE_DIVISOR).max(RISE_MIN)
    }

    fn step_startup(&mut self, now: Instant, round: &Round, sample: &DeliverySample, has_ended: bool) {
        let long = self.has_risen(sample.rtt);
        // What a sender that has nothing more to send makes wait for itself is a burst of its own.
        self.risen = if long && !sample.is_idle { self.risen + 1 } else { 0 };
        let queued = self.risen >= RISE_SAMPLES;
        let congested =
            round.is_surely_congested(self.mtu) && (has_ended || round.acked + round.lost >= self.window / 4);
        let filled = has_ended && !sample.app_limited && self.has_filled(self.max_rate());
        if filled || queued || congested {
            if congested {
                self.in_flight_high = self.product().max(round.in_flight as f64 * BETA);
            }
            self.is_full = true;
            // What startup overflowed is noticed in the next rounds, as what a probe did.
            self.probed = self.rounds;
            self.enter(Mode::Drain, now);
        }
    }

    fn step_up(&mut self, now: Instant, sample: &DeliverySample, ended: Option<&Round>) {
        if self.round.is_congested() || ended.is_some_and(Round::is_congested) {
            self.in_flight_high = (sample.in_flight as f64).max(BETA * self.product());
            self.overflowed = true;
            // What was lost is answered.
            self.round = Round::default();
            self.enter(Mode::Down, now);
            return;
        }
        if ended.is_some() && sample.in_flight as f64 >= self.in_flight_high * 0.95 {
            self.in_flight_high *= UP_GAIN;
        }
        if ended.is_some() && self.rounds_in_mode() >= 2 {
            let rate = self.max_rate();
            if rate < self.full_rate * UP_GROWTH {
                self.overflowed = false;
                self.enter(Mode::Down, now);
            } else if self.in_flight_high.is_infinite()
                && ended.and_then(|round| round.rtt).is_some_and(|rtt| !self.has_risen(rtt))
            {
                // The rate grows as it is asked to, and no packet waits: what ended startup was another flow's queue, or the path has
                // become faster.
                self.is_full = false;
                (self.full_rounds, self.risen) = (0, 0);
                self.enter(Mode::Startup, now);
            }
            self.full_rate = rate;
        }
    }

    /// Whether the rate has stopped growing; asked at the end of a round.
    fn has_filled(&mut self, rate: f64) -> bool {
        if rate >= self.full_rate * FULL_GROWTH {
            (self.full_rate, self.full_rounds) = (rate, 0);
        } else {
            self.full_rounds += 1;
        }
        self.full_rounds >= FULL_ROUNDS
    }
}

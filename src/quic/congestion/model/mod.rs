//! A model of the path, rate and delay, after BBRv3 (draft-ietf-ccwg-bbr). It differs where STOQ's paths ask for it:
//!
//! - Loss of less than 2 % of a round changes nothing. BBRv3 lowers its short-term bounds by every loss.
//! - Startup ends as soon as the round trips grow, so that it overflows no buffer of half a product of rate and delay.
//! - Cycles are counted in round trips, so that flows beside each other become equal soon.
//! - Where a queue stays between probes, the rate follows the queue instead ([`Sharing`]).
//! - Among flows that fill the buffer of a short path, CUBIC has the flow for a while ([`Crowd`]).

mod cycle;

use super::algorithm::{CongestionAlgorithm, MinRtt};
use super::crowd::{Crowd, ModelView};
use super::delivery::{Ahead, Deliveries, DeliverySample};
use super::round::Round;
use super::sharing::{QueueSeen, Sharing};
use std::time::{Duration, Instant};

/// The draft's §2.4 to §2.6, or chosen for what the module's description says.
const BETA: f64 = 0.7;
const BETA_IN_FLIGHT: f64 = 0.85;
const HEADROOM: f64 = 0.9;
/// How many bytes the window grows by for each that is acknowledged. quinn-proto's pacer lets 5/4 of a window leave in a round trip: a window
/// that grew by what is acknowledged would become 1.92 times as large each round, and not twice.
const STARTUP_GROWTH: f64 = 1.11;
/// More than 2.77, with which a window that doubles each round fills the round evenly: a round that ends early shows a queue while the next
/// one can still be stopped.
const STARTUP_GAIN: f64 = 3.4;
/// The same while the flow has less than half of the slowest link between sites, bytes a second: there the window quadruples each round.
const FAST_GROWTH: f64 = 4.4;
const FAST_GAIN: f64 = 8.0;
const FAST_BYTES_PER_S: f64 = 50e6 / 8.0;
const DRAIN_GAIN: f64 = 0.5;
const UP_GAIN: f64 = 1.25;
const DOWN_GAIN: f64 = 0.9;
const WINDOW_GAIN: f64 = 1.3;
const PROBE_RTT_GAIN: f64 = 0.5;
const PACING_MARGIN: f64 = 0.99;
/// Rounds after a probe in which its losses are noticed.
const PROBE_ROUNDS: u64 = 3;
/// Rounds of a cycle that only cruise, the least and how many more at most.
const CRUISE_ROUNDS: u64 = 3;
const CRUISE_ROUNDS_MORE: u64 = 4;
const CRUISE_AFTER_LOSS: u64 = 3;
/// How long a shortest round trip counts.
const MIN_RTT_LIFE: Duration = Duration::from_secs(5);
/// The queue at which a cruise gives way, as a part of the round trip.
const QUEUED_DIVISOR: u32 = 4;
const RISE_MIN: Duration = Duration::from_millis(2);
/// The window holds what is sent in this time, even where round trips are shorter: workers take turns, and sleep.
const TURN: Duration = Duration::from_micros(500);
/// Packets that the window holds beside that: what one acknowledgment covers, and bursts.
const SLACK_PACKETS: u64 = 32;
const WINDOW_PACKETS_MIN: u64 = 4;
/// No bound makes the window smaller than two acknowledgments cover.
const BOUND_PACKETS_MIN: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    Down,
    Cruise,
    /// Fills the pipe, before more is tried.
    Refill,
    Up,
    ProbeRtt,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    mode: Mode,
    mode_began: Option<Instant>,
    mode_round: u64,
    mtu: u64,
    initial_window: u64,
    window: u64,
    deliveries: Deliveries,
    min_rtt: MinRtt,
    /// The greatest rate of this cycle and of the one before, bytes a second.
    max_rate: [f64; 2],
    /// Bounds of the time since the last probe, and of all times.
    rate_low: f64,
    in_flight_low: f64,
    in_flight_high: f64,
    round: Round,
    rounds: u64,
    /// The round ends when a packet is acknowledged that was sent after this much was delivered, bytes.
    round_end: u64,
    full_rate: f64,
    full_rounds: u32,
    /// Acknowledgments in a row whose round trips had grown.
    risen: u32,
    /// The path was found to be full.
    is_full: bool,
    probe_rtt_until: Option<Instant>,
    ahead: Ahead,
    sharing: Sharing,
    crowd: Crowd,
    /// After persistent congestion the window grows from its least, until it is what the model says.
    restoring: bool,
    cruise_rounds: u64,
    /// The last probe ended with losses: the next waits longer, so that others have time.
    overflowed: bool,
    /// The round in which the last probe ended.
    probed: u64,
    random: u64,
}

impl Model {
    /// `seed` makes the cycles of flows different.
    pub(super) fn new(initial_window: u64, mtu: u16, seed: u64) -> Self {
        Self {
            mode: Mode::Startup,
            mode_began: None,
            mode_round: 0,
            mtu: mtu.into(),
            initial_window,
            window: initial_window,
            deliveries: Deliveries::default(),
            min_rtt: MinRtt::default(),
            max_rate: [0.0; 2],
            rate_low: f64::INFINITY,
            in_flight_low: f64::INFINITY,
            in_flight_high: f64::INFINITY,
            round: Round::default(),
            rounds: 0,
            round_end: 0,
            full_rate: 0.0,
            full_rounds: 0,
            risen: 0,
            is_full: false,
            probe_rtt_until: None,
            ahead: Ahead::default(),
            sharing: Sharing::default(),
            crowd: Crowd::default(),
            restoring: false,
            cruise_rounds: 0,
            overflowed: false,
            probed: 0,
            random: seed,
        }
    }

    fn max_rate(&self) -> f64 {
        self.max_rate[0].max(self.max_rate[1])
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        // A shared rate grows by itself, and shows soon what the path carries.
        let most =
            self.sharing.rate().map_or(self.max_rate(), |shared| shared.min(self.max_rate() * UP_GAIN));
        most.min(self.rate_low)
    }

    fn min_rtt(&self) -> Duration {
        self.min_rtt.get().unwrap_or(Duration::ZERO)
    }

    /// The product of rate and delay, bytes.
    fn product(&self) -> f64 {
        self.rate() * self.min_rtt().as_secs_f64()
    }

    /// What startup multiplies rate and window by.
    fn startup_gain(&self) -> f64 {
        if self.is_fast() { FAST_GAIN } else { STARTUP_GAIN }
    }

    /// No link between sites is so slow that it would suffer from large steps.
    fn is_fast(&self) -> bool {
        !self.is_full && (self.window as f64) < FAST_BYTES_PER_S * self.min_rtt().as_secs_f64()
    }

    fn draw(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn enter(&mut self, mode: Mode, now: Instant) {
        self.mode = mode;
        (self.mode_began, self.mode_round) = (Some(now), self.rounds);
        match mode {
            Mode::Refill => {
                (self.rate_low, self.in_flight_low) = (f64::INFINITY, f64::INFINITY);
                (self.full_rate, self.full_rounds) = (0.0, 0);
            }
            // A cycle in which the application sent less than the path carries forgets nothing.
            Mode::Down => {
                self.probed = self.rounds;
                if self.max_rate[1] > 0.0 {
                    self.max_rate = [self.max_rate[1], 0.0];
                }
            }
            Mode::Up => self.full_rate = self.max_rate(),
            Mode::Cruise => {
                self.cruise_rounds = CRUISE_ROUNDS + self.draw() % CRUISE_ROUNDS_MORE;
                if self.overflowed {
                    self.cruise_rounds *= CRUISE_AFTER_LOSS;
                }
            }
            _ => {}
        }
    }

    fn queue_seen(&self, round: &Round) -> Option<QueueSeen> {
        let min_rtt = self.min_rtt();
        Some(QueueSeen {
            wait: round.rtt?.saturating_sub(min_rtt),
            long: (min_rtt / QUEUED_DIVISOR).max(RISE_MIN),
            min_rtt,
            packet_bytes: self.mtu,
            rate_max: self.max_rate() * UP_GAIN,
        })
    }

    /// Gives way to others, while packets of whole rounds wait.
    fn share(&mut self, now: Instant, round: &Round) {
        let Some(seen) = self.queue_seen(round) else { return };
        let had_shared = self.sharing.rate().is_some();
        if let Some(rate) = self.sharing.on_round(now, &seen, self.rate()) {
            self.max_rate = [rate; 2];
        } else if !had_shared && self.sharing.rate().is_some() {
            (self.rate_low, self.in_flight_low) = (f64::INFINITY, f64::INFINITY);
        }
    }

    fn in_mode(&self, now: Instant) -> Duration {
        self.mode_began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    fn rounds_in_mode(&self) -> u64 {
        self.rounds - self.mode_round
    }

    fn learn(&mut self, sample: &DeliverySample) {
        if sample.rate > 0.0 && (!sample.app_limited || sample.rate >= self.max_rate()) {
            self.max_rate[1] = self.max_rate[1].max(sample.rate);
        }
        let round = &mut self.round;
        round.acked += sample.acked;
        round.rate = round.rate.max(sample.rate);
        round.in_flight = round.in_flight.max(sample.in_flight);
        round.rtt = Some(round.rtt.map_or(sample.rtt, |least| least.min(sample.rtt)));
    }

    /// Less than there was before, for as long as nothing is probed (draft §5.5.10.3).
    fn lower_bounds(&mut self, round: &Round) {
        let rate = self.rate();
        self.rate_low = round.rate.max(BETA * rate);
        let in_flight = self.in_flight_low.min(self.window as f64);
        self.in_flight_low = (round.in_flight as f64).max(BETA * in_flight);
    }

    fn probe_rtt(&mut self, now: Instant, rtt: Duration) {
        if self.min_rtt.is_older(now, MIN_RTT_LIFE) && self.mode != Mode::ProbeRtt {
            // The next samples decide.
            self.min_rtt.replace(now, rtt);
            self.probe_rtt_until = None;
            if self.is_full {
                self.enter(Mode::ProbeRtt, now);
            }
        }
    }

    /// Whether CUBIC has the flow from now on, after a round without a probe.
    fn joins_crowd(&mut self, now: Instant, round: &Round) -> bool {
        let (min_rtt, has_overflowed) = (self.min_rtt(), self.overflowed);
        let view = ModelView { min_rtt, window: self.window, mtu: self.mtu as u16, has_overflowed };
        let random = self.draw();
        self.crowd.on_round(now, round, &view, random)
    }

    /// Ends a round of CUBIC's. The model goes on with what that round delivered.
    fn end_cubic_round(&mut self, now: Instant, round: &Round) {
        let Some(window) = self.crowd.window() else { return };
        if self.crowd.on_cubic_round(now) {
            self.max_rate = [round.rate; 2];
            (self.rate_low, self.in_flight_low) = (f64::INFINITY, f64::INFINITY);
            self.in_flight_high = window as f64 / HEADROOM;
            (self.sharing, self.ahead) = (Sharing::default(), Ahead::default());
            (self.is_full, self.restoring, self.overflowed) = (true, false, true);
            self.window = window;
            self.enter(Mode::Cruise, now);
        }
    }

    fn set_window(&mut self, acked: u64) {
        let rtt = self.min_rtt().max(TURN).as_secs_f64();
        let slack = (self.ahead.bytes() + SLACK_PACKETS * self.mtu) as f64;
        let gain = match self.mode {
            Mode::ProbeRtt => PROBE_RTT_GAIN,
            Mode::Startup => self.startup_gain(),
            Mode::Up => WINDOW_GAIN + 0.25,
            _ => WINDOW_GAIN,
        };
        let rate = if self.mode == Mode::Startup { self.max_rate() } else { self.rate() };
        let mut target = gain * rate * rtt + slack;
        let bound = match self.mode {
            Mode::Startup => f64::INFINITY,
            Mode::Up | Mode::Refill => self.in_flight_high,
            _ => (HEADROOM * self.in_flight_high).min(self.in_flight_low),
        };
        target = target.min(bound.max((BOUND_PACKETS_MIN * self.mtu) as f64));
        if !self.is_full {
            target = target.max(self.initial_window as f64);
        }
        let target = (target as u64).max(WINDOW_PACKETS_MIN * self.mtu);
        if self.restoring || !self.is_full {
            let growth = if self.is_fast() { FAST_GROWTH } else { STARTUP_GROWTH };
            let least = self.window.max(WINDOW_PACKETS_MIN * self.mtu);
            self.window = (self.window + (growth * acked as f64) as u64).max(least).min(target);
            self.restoring &= self.window < target;
        } else {
            self.window = target;
        }
    }
}

impl CongestionAlgorithm for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64) {
        self.deliveries.on_sent(now, bytes);
    }

    fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.deliveries.on_acked(sent, bytes);
        if let Some(cubic) = self.crowd.cubic() {
            cubic.on_acked(now, sent, bytes);
        }
    }

    fn on_ack_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let min_rtt = self.min_rtt();
        let Some(sample) = self.deliveries.sample(now, in_flight, app_limited, min_rtt) else { return };
        let is_crowded =
            self.crowd.cubic().map(|cubic| cubic.on_ack_end(now, in_flight, app_limited)).is_some();
        if !is_crowded {
            self.probe_rtt(now, sample.rtt);
        }
        self.min_rtt.sample(now, sample.rtt);
        self.learn(&sample);
        let mut ended = None;
        if sample.delivered_before >= self.round_end {
            self.round_end = self.deliveries.delivered();
            self.rounds += 1;
            let round = std::mem::take(&mut self.round);
            if is_crowded {
                self.end_cubic_round(now, &round);
                return;
            }
            let probing = matches!(self.mode, Mode::Startup | Mode::Up | Mode::Refill);
            if !probing && self.rounds > self.probed + PROBE_ROUNDS && self.joins_crowd(now, &round) {
                return;
            }
            match self.sharing.rate() {
                // Nearly each round of many packets has a loss by chance: a few count where a queue may have overflowed.
                Some(_) => {
                    let is_long = self.queue_seen(&round).is_some_and(|seen| seen.wait > seen.long);
                    if round.is_congested() || round.loss_events > 0 && is_long {
                        self.sharing.on_losses();
                    }
                }
                // Losses of a probe are noticed when it is over.
                None if round.is_congested() && !probing && self.rounds <= self.probed + PROBE_ROUNDS => {
                    self.in_flight_high =
                        (self.product() / HEADROOM).max(BETA_IN_FLIGHT * round.in_flight as f64);
                    self.overflowed = true;
                }
                None if round.is_congested() && !probing => self.lower_bounds(&round),
                _ => {}
            }
            // The first round of a cruise began before it: its packets waited behind those that the flow took back.
            if self.mode == Mode::Cruise && self.rounds_in_mode() > 1 {
                self.share(now, &round);
            }
            ended = Some(round);
        }
        if is_crowded {
            return;
        }
        self.ahead.note(now, sample.acked, self.max_rate(), self.rounds);
        self.step(now, &sample, in_flight, ended.as_ref());
        self.set_window(sample.acked);
    }

    fn on_lost(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        if let Some(cubic) = self.crowd.cubic() {
            return cubic.on_lost(now, sent, bytes, persistent);
        }
        self.round.lost += bytes;
        self.round.loss_events += 1;
        self.round.in_flight = self.round.in_flight.max(self.deliveries.in_flight_at(sent));
        if persistent {
            self.window = WINDOW_PACKETS_MIN * self.mtu;
            self.restoring = true;
        }
    }

    fn on_marked(&mut self, now: Instant, sent: Instant) {
        if let Some(cubic) = self.crowd.cubic() {
            return cubic.on_marked(now, sent);
        }
        self.round.marked = true;
    }

    fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        if let Some(cubic) = self.crowd.cubic() {
            cubic.on_mtu(mtu);
        }
        self.window = self.window.max(WINDOW_PACKETS_MIN * self.mtu);
    }

    fn window(&self) -> u64 {
        self.crowd.window().unwrap_or(self.window)
    }

    fn pacing_bytes_per_s(&self) -> Option<f64> {
        if self.crowd.window().is_some() {
            return None;
        }
        let rtt = self.min_rtt.get()?;
        let gain = match self.mode {
            Mode::Startup => self.startup_gain(),
            Mode::Drain => DRAIN_GAIN,
            Mode::Up => UP_GAIN,
            Mode::Down => DOWN_GAIN,
            _ => 1.0,
        };
        let rate = if self.mode == Mode::Startup {
            self.max_rate().max(self.initial_window as f64 / rtt.as_secs_f64())
        } else {
            self.rate()
        };
        (rate > 0.0).then_some(gain * rate * PACING_MARGIN)
    }
}

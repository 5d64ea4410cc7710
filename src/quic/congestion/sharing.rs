//! What a model does beside other flows: where a queue stands though no flow probes, the rates of all flows are more than the path has.
//!
//! Each flow then holds a rate of its own that it adjusts by the queue, which all of them see alike. While the queue is short, the
//! rate grows by a number of packets a round that grows with the square root of the rate; while it is long, the rate shrinks by a share
//! of itself. A small flow grows by more of itself than a large one and shrinks by as much, and it gives way to a longer queue, so they become
//! equal.
//!
//! A queue that stays, whatever this flow gives up, is of flows that only losses slow down. The flow gives no more up for a while then, and
//! competes as a flow alone would.

use std::time::{Duration, Instant};

/// Packets a round that a rate grows by, for the square root of its packets a round; and the most, as a share of the rate.
const GROWTH: f64 = 2.0;
const GROWTH_MAX: f64 = 0.25;
/// What a rate gives up a round: at least this share, more with the queue, and the most.
const YIELD_MIN: f64 = 0.02;
const YIELD_BY_QUEUE: f64 = 0.3;
const YIELD_MAX: f64 = 0.1;
/// What a rate gives up for a round with losses.
const YIELD_BY_LOSS: f64 = 0.15;
/// The share of its greatest rate of late that a flow keeps, and how much of that is forgotten a round.
const KEPT: f64 = 0.6;
const FORGOTTEN: f64 = 0.02;
/// A flow of more packets a round than these gives way to a shorter queue, one of fewer to a longer one: between the two, the large flow shrinks
/// while the small one grows. The exponent of their ratio, and the bounds of the factor.
const LONG_PACKETS: f64 = 1000.0;
const LONG_EXPONENT: f64 = 0.4;
const LONG_MIN: f64 = 0.15;
const LONG_MAX: f64 = 2.0;
/// Rounds in a row with a long queue, after which a flow gives up nothing for a while.
const CONTESTED_ROUNDS: u32 = 8;
const STUBBORN_SPAN: Duration = Duration::from_secs(5);
/// A queue of less than this share of a long one is none; after this many rounds of it, the flow is alone.
const CALM: f64 = 0.2;
const CALM_ROUNDS: u32 = 6;

/// What a round told of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSeen {
    /// What every packet waited, at least.
    pub(super) wait: Duration,
    /// A queue is long from here on, for a flow of [`LONG_PACKETS`] a round.
    pub(super) long: Duration,
    /// The round trip without a queue.
    pub(super) min_rtt: Duration,
    pub(super) packet_bytes: u64,
    /// The greatest rate that makes sense after what the path has delivered, bytes a second.
    pub(super) rate_max: f64,
}

/// The rate of a flow that shares its path.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Bytes a second, while it shares.
    rate: Option<f64>,
    /// The greatest of late.
    peak: f64,
    contested: u32,
    calm: u32,
    stubborn_until: Option<Instant>,
}

impl Sharing {
    /// Bytes a second, while the flow shares its path.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// A round is over; `rate` is what a flow begins with that has not shared, bytes a second. Returns the rate that it ends with, if it
    /// shares no longer.
    pub(super) fn on_round(&mut self, now: Instant, seen: &QueueSeen, rate: f64) -> Option<f64> {
        let long = self.long(seen, rate);
        let is_long = seen.wait > long;
        if self.rate.is_none() {
            if !is_long || self.stubborn_until.is_some_and(|until| now < until) {
                return None;
            }
            (self.peak, self.contested, self.calm) = (rate, 0, 0);
        }
        let mut shared = self.rate.unwrap_or(rate);
        let min_rtt_s = seen.min_rtt.as_secs_f64().max(1e-9);
        if is_long {
            let more = (seen.wait - long).as_secs_f64() / min_rtt_s;
            shared *= 1.0 - (YIELD_MIN + YIELD_BY_QUEUE * more).min(YIELD_MAX);
            self.contested += 1;
        } else {
            let packets = (shared * min_rtt_s / seen.packet_bytes as f64).max(1.0);
            shared *= 1.0 + (GROWTH / packets.sqrt()).min(GROWTH_MAX);
            self.contested = 0;
        }
        self.calm = if seen.wait < seen.long.mul_f64(CALM) { self.calm + 1 } else { 0 };
        // The rate of a flow that its window holds back would grow without end, and be sent when the sharing ends.
        shared = shared.min(seen.rate_max);
        self.peak = (self.peak * (1.0 - FORGOTTEN)).max(shared);
        shared = shared.max(self.peak * KEPT);
        self.rate = Some(shared);
        if self.contested >= CONTESTED_ROUNDS {
            self.stubborn_until = Some(now + STUBBORN_SPAN);
        } else if self.calm < CALM_ROUNDS {
            return None;
        }
        self.rate.take()
    }

    /// The queue at which this flow gives way: the faster it is, the shorter.
    fn long(&self, seen: &QueueSeen, rate: f64) -> Duration {
        let rate = self.rate.unwrap_or(rate);
        let packets = (rate * seen.min_rtt.as_secs_f64() / seen.packet_bytes as f64).max(1.0);
        seen.long.mul_f64((LONG_PACKETS / packets).powf(LONG_EXPONENT).clamp(LONG_MIN, LONG_MAX))
    }

    /// The round had losses.
    pub(super) fn on_losses(&mut self) {
        self.rate = self.rate.map(|rate| rate * (1.0 - YIELD_BY_LOSS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_RTT: Duration = Duration::from_millis(50);
    const PACKETS_PER_S: f64 = 20_000.0;

    fn seen(wait: Duration) -> QueueSeen {
        QueueSeen { wait, long: MIN_RTT / 4, min_rtt: MIN_RTT, packet_bytes: 1, rate_max: 1e9 }
    }

    #[test]
    fn rates_become_equal_and_the_queue_stays_near_what_is_long() {
        let (mut now, mut queue) = (Instant::now(), 500.0);
        let mut flows =
            [(Sharing::default(), 16_000.0), (Sharing::default(), 5_000.0), (Sharing::default(), 1_000.0)];
        for _ in 0..400 {
            let round = MIN_RTT + Duration::from_secs_f64(queue / PACKETS_PER_S);
            now += round;
            for (sharing, rate) in &mut flows {
                let ended = sharing.on_round(now, &seen(round - MIN_RTT), *rate);
                *rate = sharing.rate().or(ended).unwrap_or(*rate);
            }
            let sum: f64 = flows.iter().map(|(_, rate)| rate).sum();
            queue = (queue + (sum - PACKETS_PER_S) * round.as_secs_f64()).max(0.0);
        }
        let (least, most) = flows.iter().fold((f64::MAX, 0.0_f64), |(a, b), (_, r)| (a.min(*r), b.max(*r)));
        assert!(most < 1.3 * least, "{least} to {most}");
        assert!(queue < 0.7 * PACKETS_PER_S * MIN_RTT.as_secs_f64(), "{queue} packets wait");
    }

    #[test]
    fn a_queue_that_stays_ends_the_sharing_for_a_while_and_one_that_is_gone_ends_it_at_once() {
        let (mut sharing, begun) = (Sharing::default(), Instant::now());
        let long = seen(MIN_RTT);
        let ended = (0..CONTESTED_ROUNDS).find_map(|_| sharing.on_round(begun, &long, 1000.0)).unwrap();
        assert!((450.0..700.0).contains(&ended), "{ended}");
        assert_eq!(sharing.on_round(begun, &long, ended), None);
        assert_eq!(sharing.rate(), None, "it gives up nothing more");
        let later = begun + STUBBORN_SPAN;
        sharing.on_round(later, &long, ended);
        assert!(sharing.rate().is_some());
        let none = seen(Duration::ZERO);
        let ended = (0..CALM_ROUNDS).find_map(|_| sharing.on_round(later, &none, 0.0));
        assert!(ended.is_some() && sharing.rate().is_none());
    }

    #[test]
    fn no_shared_rate_passes_what_the_path_can_deliver() {
        let (mut sharing, now) = (Sharing::default(), Instant::now());
        sharing.on_round(now, &seen(MIN_RTT), 1000.0);
        for _ in 0..200 {
            // The queue is neither long nor gone: the rate grows.
            sharing.on_round(now, &QueueSeen { rate_max: 1250.0, ..seen(MIN_RTT / 5) }, 1000.0);
        }
        assert_eq!(sharing.rate(), Some(1250.0));
    }

    #[test]
    fn losses_cost_a_shared_rate_alone() {
        let mut sharing = Sharing::default();
        sharing.on_losses();
        assert_eq!(sharing.rate(), None);
        sharing.on_round(Instant::now(), &seen(MIN_RTT), 1000.0);
        let before = sharing.rate().unwrap();
        sharing.on_losses();
        assert!((sharing.rate().unwrap() / before - 0.85).abs() < 1e-9);
    }
}

//! What a sender sees in one round trip.

use std::time::Duration;

/// The greatest share that may be lost, and the fewest losses that say more (draft-ietf-ccwg-bbr §2.5).
const LOSS_MAX: f64 = 0.02;
const LOSS_EVENTS_MIN: u32 = 6;
/// Startup ends for losses of this many standard deviations more.
const CHANCE_DEVIATIONS: f64 = 4.0;

/// What happened in the round that goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    pub(super) acked: u64,
    pub(super) lost: u64,
    pub(super) loss_events: u32,
    pub(super) marked: bool,
    pub(super) rate: f64,
    pub(super) in_flight: u64,
    pub(super) rtt: Option<Duration>,
}

impl Round {
    pub(super) fn is_congested(&self) -> bool {
        let loss = self.lost as f64 > LOSS_MAX * (self.lost + self.acked) as f64;
        self.marked || loss && self.loss_events >= LOSS_EVENTS_MIN
    }

    /// Whether it lost more packets than chance may take where [`LOSS_MAX`] is lost: rounds of a beginning have few.
    pub(super) fn is_surely_congested(&self, packet_bytes: u64) -> bool {
        let packets = |bytes: u64| bytes as f64 / packet_bytes as f64;
        let by_chance = LOSS_MAX * packets(self.lost + self.acked);
        let is_sure = packets(self.lost) > by_chance + CHANCE_DEVIATIONS * by_chance.sqrt();
        self.is_congested() && (self.marked || is_sure)
    }
}

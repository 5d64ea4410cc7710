//! A congestion controller that takes what an MTU black hole swallowed for one loss.
//!
//! When a path stops carrying large packets, quinn-proto needs four runs of losses to notice, a probe timeout apart, and the controller
//! hears of each as of congestion. Here the second run is enough, if the connection began with packets that every path carries: it goes back to
//! those ([`super::release::leave_hole`]). Otherwise quinn-proto tells the controller of the smaller size once it has noticed. In both cases the
//! controller takes its state from before the losses, and answers one loss.

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerMetrics};
use std::any::Any;
use std::time::Instant;

/// Runs of losses without a large packet that arrives between them after which the path has a hole.
const HOLE_RUNS_LEN: u32 = 2;

/// A controller and its state before the losses that a hole may explain.
pub(super) struct HoleProof {
    inner: Box<dyn Controller>,
    /// The size of the packets that the path carries, bytes of UDP payload.
    mtu: u16,
    /// The size that every path carries.
    mtu_min: u16,
    /// The first loss since a packet larger than `mtu_min` arrived that was sent after it.
    suspect: Option<SuspectLoss>,
    hole: Hole,
    /// Whether the connection can go back to `mtu_min`: it began with that.
    can_leave: bool,
    /// Whether a hole was found that the connection has not left.
    is_found: bool,
}

struct SuspectLoss {
    /// When the loss was noticed.
    since: Instant,
    /// Runs of losses since then: each was sent after the one before was noticed.
    runs_len: u32,
    /// When the last of them was noticed.
    last: Instant,
    /// As the controller was until then.
    before: Box<dyn Controller>,
}

/// What is known of the last hole.
#[derive(Clone, Copy)]
enum Hole {
    None,
    /// It was noticed by the loss that the controller hears of next.
    Noticed,
    /// Packets that were sent until then may have been swallowed.
    Until(Instant),
}

impl HoleProof {
    pub(super) fn new(inner: Box<dyn Controller>, mtu: u16, mtu_min: u16) -> Self {
        let can_leave = mtu <= mtu_min;
        Self { inner, mtu, mtu_min, suspect: None, hole: Hole::None, can_leave, is_found: false }
    }

    /// Whether the path has a hole that the connection has not left.
    pub(super) fn is_found(&self) -> bool {
        self.is_found
    }

    /// The connection goes back to packets that every path carries.
    pub(super) fn left(&mut self) {
        self.is_found = false;
        self.mtu = self.mtu_min;
        self.inner.on_mtu_update(self.mtu_min);
    }

    /// A large packet was lost. Returns whether a hole explains it.
    fn lost(&mut self, now: Instant, sent: Instant) -> bool {
        let Some(suspect) = &mut self.suspect else {
            self.suspect =
                Some(SuspectLoss { since: now, runs_len: 1, last: now, before: self.inner.clone_box() });
            return false;
        };
        if sent > suspect.last {
            suspect.runs_len += 1;
            suspect.last = now;
        }
        self.can_leave && suspect.runs_len >= HOLE_RUNS_LEN
    }

    /// A packet of this size that was sent at `sent` arrived. If it is large, what was lost before was lost for another reason.
    fn arrived(&mut self, sent: Instant, bytes: u64) {
        if bytes > u64::from(self.mtu_min) {
            self.suspect.take_if(|suspect| suspect.since < sent);
        }
    }
}

impl Clone for HoleProof {
    fn clone(&self) -> Self {
        let suspect = self.suspect.as_ref();
        Self {
            inner: self.inner.clone_box(),
            suspect: suspect.map(|suspect| SuspectLoss { before: suspect.before.clone_box(), ..*suspect }),
            ..*self
        }
    }
}

impl Controller for HoleProof {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.arrived(sent, bytes);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        match self.hole {
            Hole::Noticed => {
                self.hole = Hole::Until(now);
                self.inner.on_congestion_event(now, sent, false, lost_bytes);
                return;
            }
            Hole::Until(until) if lost_bytes > 0 && sent <= until => return,
            _ => {}
        }
        // A mark came from a packet that arrived.
        let is_hole = lost_bytes > 0 && self.mtu > self.mtu_min && self.lost(now, sent);
        if let Some(SuspectLoss { before, .. }) = self.suspect.take_if(|_| is_hole) {
            self.inner = before;
            (self.hole, self.is_found) = (Hole::Until(now), true);
        }
        self.inner.on_congestion_event(now, sent, persistent && !is_hole, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        if new_mtu < self.mtu {
            if let Some(SuspectLoss { before, .. }) = self.suspect.take() {
                self.inner = before;
            }
            self.hole = Hole::Noticed;
        }
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::congestion::{Congestion, factory};
    use std::time::Duration;

    const WINDOW: u64 = 1_000_000;
    const MS: Duration = Duration::from_millis(1);

    fn controller(congestion: Congestion) -> HoleProof {
        HoleProof::new(factory(congestion, WINDOW, 0, None).build(Instant::now(), 8972), 8972, 1200)
    }

    /// Four runs of losses of large packets, each noticed 100 ms after the one before, the third persistent.
    fn swallow(controller: &mut HoleProof, begun: Instant) -> Instant {
        for run in 0..4 {
            let now = begun + run * 100 * MS;
            if run == 3 {
                controller.on_mtu_update(1200);
            }
            controller.on_congestion_event(now, now - 50 * MS, run == 2, 90_000);
        }
        begun + 300 * MS
    }

    #[test]
    fn the_losses_of_a_hole_count_as_one() {
        for (congestion, left) in [(Congestion::Cubic, 0.7), (Congestion::Newreno, 0.5)] {
            let mut controller = controller(congestion);
            let now = swallow(&mut controller, Instant::now() + 100 * MS);
            assert_eq!(controller.window(), (WINDOW as f64 * left) as u64, "{congestion:?}");
            // More of what was sent into the hole.
            controller.on_congestion_event(now + 50 * MS, now, true, 9_000);
            assert_eq!(controller.window(), (WINDOW as f64 * left) as u64, "{congestion:?}");
            // A later loss is congestion.
            controller.on_congestion_event(now + 100 * MS, now + MS, false, 1_200);
            assert!(controller.window() < (WINDOW as f64 * left) as u64, "{congestion:?}");
        }
    }

    #[test]
    fn a_second_run_is_a_hole_where_the_connection_began_small() {
        let begun = Instant::now() + 100 * MS;
        let mut controller =
            HoleProof::new(factory(Congestion::Cubic, WINDOW, 0, None).build(begun, 1200), 1200, 1200);
        controller.on_mtu_update(8972);
        controller.on_congestion_event(begun, begun - 50 * MS, false, 90_000);
        // More of what was sent before the first run was noticed.
        controller.on_congestion_event(begun + 50 * MS, begun - MS, false, 90_000);
        assert!(!controller.is_found());
        controller.on_congestion_event(begun + 100 * MS, begun + 50 * MS, true, 90_000);
        assert!(controller.is_found());
        assert_eq!(controller.window(), (WINDOW as f64 * 0.7) as u64);
        controller.left();
        assert!(!controller.is_found());
        controller.on_congestion_event(begun + 150 * MS, begun + 90 * MS, true, 90_000);
        assert_eq!(controller.window(), (WINDOW as f64 * 0.7) as u64, "it was sent into the hole");
        controller.on_congestion_event(begun + 200 * MS, begun + 150 * MS, false, 1_200);
        assert!(controller.window() < (WINDOW as f64 * 0.7) as u64);
    }

    #[test]
    fn losses_between_large_packets_that_arrive_are_congestion() {
        let mut controller = controller(Congestion::Cubic);
        let begun = Instant::now() + 100 * MS;
        controller.on_congestion_event(begun, begun - MS, false, 90_000);
        let after_one = controller.window();
        // A small packet proves nothing, a large one sent before the loss was noticed neither.
        controller.arrived(begun + MS, 1_200);
        controller.arrived(begun - MS, 8_972);
        assert!(controller.suspect.is_some());
        controller.arrived(begun + MS, 8_972);
        assert!(controller.suspect.is_none());
        // A hole that begins now gives back what was lost since, and no more.
        swallow(&mut controller, begun + 200 * MS);
        assert!(controller.window() <= after_one, "{} > {after_one}", controller.window());
    }

    #[test]
    fn marks_and_losses_of_small_packets_keep_no_state() {
        let mut controller = controller(Congestion::Cubic);
        let now = Instant::now() + 100 * MS;
        controller.on_congestion_event(now, now - MS, false, 0);
        assert!(controller.suspect.is_none());
        controller.on_mtu_update(1200);
        controller.on_congestion_event(now, now - MS, false, 1200);
        controller.on_congestion_event(now + MS, now + MS, false, 1200);
        assert!(controller.suspect.is_none());
    }
}

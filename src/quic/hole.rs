//! A congestion controller that takes what an MTU black hole swallowed for one loss.
//!
//! When a path stops carrying large packets, quinn-proto needs several runs of losses to notice, a probe timeout apart, and the controller
//! hears of each as of congestion. quinn-proto tells the controller of the smaller size once it has noticed. The controller then takes its
//! state from before the losses, and answers one loss.

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerMetrics};
use std::any::Any;
use std::time::Instant;

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
}

struct SuspectLoss {
    /// When the loss was noticed.
    since: Instant,
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
        Self { inner, mtu, mtu_min, suspect: None, hole: Hole::None }
    }

    /// A packet of this size that was sent at `sent` arrived. If it is large, what was lost before was lost for another reason.
    fn arrived(&mut self, sent: Instant, bytes: u64) {
        if bytes > u64::from(self.mtu_min) {
            self.suspect.take_if(|suspect| suspect.since < sent);
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
        if lost_bytes > 0 && self.mtu > self.mtu_min && self.suspect.is_none() {
            self.suspect = Some(SuspectLoss { since: now, before: self.inner.clone_box() });
        }
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
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
        let suspect = self.suspect.as_ref();
        Box::new(Self {
            inner: self.inner.clone_box(),
            suspect: suspect.map(|suspect| SuspectLoss { before: suspect.before.clone_box(), ..*suspect }),
            ..*self
        })
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

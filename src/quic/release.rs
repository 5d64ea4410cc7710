//! A congestion controller that stops holding packets back when its connection is closed.
//!
//! quinn-proto lets a CONNECTION_CLOSE wait for the congestion window when stream data waits too, and a
//! closed connection takes no more acknowledgments: on a full window the close would never leave. RFC 9002 §7
//! bounds only ack-eliciting packets, and a CONNECTION_CLOSE is not ack-eliciting.
//!
//! It bounds the rate that the worker paces by ([`ControllerMetrics::pacing_rate`]) by the operator's, whatever the controller is.
//!
//! It also counts the ACK frames that acknowledge new packets. The statistics of quinn-proto count every ACK frame, and a
//! peer that receives nothing repeats its last ACK in every packet it sends.

use super::congestion::Factory;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::{Connection, RttEstimator};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// Makes the controllers of one kind.
pub(super) struct Releasable {
    pub(super) factory: Factory,
    /// The rate that is never exceeded, bits a second.
    pub(super) rate_bits_per_s: Option<u64>,
}

impl ControllerFactory for Releasable {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.factory.clone().build(now, current_mtu);
        Box::new(Held { inner, rate_bits_per_s: self.rate_bits_per_s, released: Arc::default(), acks: 0 })
    }
}

/// A controller and whether its connection was closed, which it shares with its clones.
struct Held {
    inner: Box<dyn Controller>,
    rate_bits_per_s: Option<u64>,
    released: Arc<AtomicBool>,
    /// ACK frames that acknowledged new packets.
    acks: u64,
}

/// The ACK frames on the connection's path that acknowledged something new. A new path begins at 0. Allocates.
pub fn acks(connection: &Connection) -> u64 {
    connection.congestion_state().clone_box().into_any().downcast::<Held>().map_or(0, |held| held.acks)
}

/// Removes the congestion window of a closed connection: it sends only its CONNECTION_CLOSE.
pub fn release(connection: &Connection) {
    if let Ok(held) = connection.congestion_state().clone_box().into_any().downcast::<Held>() {
        held.released.store(true, Relaxed);
    }
}

impl Controller for Held {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.acks += 1;
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.released.load(Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        if let Some(most) = self.rate_bits_per_s {
            metrics.pacing_rate = Some(metrics.pacing_rate.map_or(most, |rate| rate.min(most)));
        }
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            rate_bits_per_s: self.rate_bits_per_s,
            released: self.released.clone(),
            acks: self.acks,
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
    use quinn_proto::congestion::CubicConfig;

    fn releasable(rate_bits_per_s: Option<u64>) -> Arc<Releasable> {
        Arc::new(Releasable { factory: Arc::new(CubicConfig::default()), rate_bits_per_s })
    }

    #[test]
    fn the_operators_rate_bounds_the_controllers() {
        let rate = |most| releasable(most).build(Instant::now(), 1200).metrics().pacing_rate;
        assert_eq!((rate(None), rate(Some(5))), (None, Some(5)));
        let reserved = factory(Congestion::Reserved, 12_000, 10_000_000);
        let rate = |most| {
            let factory = Releasable { factory: reserved.clone(), rate_bits_per_s: most };
            Arc::new(factory).build(Instant::now(), 1200).metrics().pacing_rate
        };
        assert_eq!((rate(Some(5)), rate(Some(20_000_000))), (Some(5), Some(10_000_000)));
    }

    #[test]
    fn a_release_is_seen_by_the_original_and_leaves_its_clone_no_window() {
        let factory = releasable(None);
        let controller = factory.build(Instant::now(), 1200);
        let window = controller.window();
        assert_eq!(window, controller.initial_window());
        let clone = controller.clone_box();
        let Ok(held) = controller.clone_box().into_any().downcast::<Held>() else { panic!("another kind") };
        held.released.store(true, Relaxed);
        assert_eq!((controller.window(), clone.window()), (u64::MAX, u64::MAX));
        assert_eq!(controller.metrics().congestion_window, window, "its own window is still shown");
    }
}

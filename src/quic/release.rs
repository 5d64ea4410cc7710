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
//!
//! And it notes what quinn-proto tells a controller alone: what is in flight, and whether anything but the application held the sender
//! back. The worker shows by them what limits a connection.

use super::congestion::Factory;
use super::hole::HoleProof;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::{Connection, RttEstimator};
use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Makes the controllers of one kind.
pub(super) struct Releasable {
    pub(super) factory: Factory,
    /// The UDP payload that every path carries, bytes.
    pub(super) mtu_min: u16,
    /// The rate that is never exceeded, bits a second.
    pub(super) rate_bits_per_s: Option<u64>,
}

impl ControllerFactory for Releasable {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        if let Some(held) = CARRIED.take() {
            return held;
        }
        let inner = self.factory.clone().build(now, current_mtu);
        let inner = HoleProof::new(inner, current_mtu, self.mtu_min);
        Box::new(Held { inner, rate_bits_per_s: self.rate_bits_per_s, noted: Arc::default() })
    }
}

thread_local! {
    /// The controller of a connection that starts its path anew, for the factory: quinn-proto asks that for another one.
    static CARRIED: Cell<Option<Box<Held>>> = const { Cell::new(None) };
}

/// Takes the connection back to packets that every path carries, with the controller that it has. Its round trip is measured anew, and the
/// search for larger packets begins.
pub(crate) fn leave_hole(connection: &mut Connection, now: Instant) {
    let Ok(mut held) = connection.congestion_state().clone_box().into_any().downcast::<Held>() else {
        return;
    };
    held.inner.left();
    held.noted.has_hole.store(false, Relaxed);
    CARRIED.set(Some(held));
    connection.path_changed(now);
    CARRIED.set(None);
}

/// A sent datagram of this size or less is taken for a bare acknowledgment, which is not in flight (RFC 9002 §2), bytes.
const BARE_ACK_BYTES_MAX: u64 = 128;

/// A controller and what it notes of its path, which it shares with its clones.
struct Held {
    inner: HoleProof,
    rate_bits_per_s: Option<u64>,
    noted: Arc<Noted>,
}

/// The worker's thread alone writes: plain loads and stores, never a locked instruction.
#[derive(Debug, Default)]
struct Noted {
    /// Whether the connection was closed.
    released: AtomicBool,
    /// Whether the path no longer carries large packets.
    has_hole: AtomicBool,
    /// ACK frames that acknowledged new packets.
    acks: AtomicU64,
    /// Bytes in flight: exact at each acknowledgment, and what was sent since.
    in_flight_bytes: AtomicU64,
    /// Whether QUIC was asked for packets, and had no more, since the last acknowledgment.
    is_asked: AtomicBool,
    /// Whether congestion control or pacing was the reason at the last acknowledgment after that.
    was_held_back: AtomicBool,
}

impl Noted {
    fn set_in_flight(&self, change: impl FnOnce(u64) -> u64) {
        self.in_flight_bytes.store(change(self.in_flight_bytes.load(Relaxed)), Relaxed);
    }
}

/// What the controller of a connection's path notes.
#[derive(Clone, Debug)]
pub(crate) struct SenderNotes(Arc<Noted>);

impl SenderNotes {
    /// Of the connection's present path. Allocates.
    pub(crate) fn of(connection: &Connection) -> Option<Self> {
        let held = connection.congestion_state().clone_box().into_any().downcast::<Held>().ok()?;
        Some(Self(held.noted.clone()))
    }

    /// The ACK frames on the path that acknowledged something new.
    pub(crate) fn acks(&self) -> u64 {
        self.0.acks.load(Relaxed)
    }

    /// Whether the path no longer carries large packets: [`leave_hole`] must follow.
    #[inline]
    pub(crate) fn has_hole(&self) -> bool {
        self.0.has_hole.load(Relaxed)
    }

    /// What is in flight, about, bytes.
    #[inline]
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.0.in_flight_bytes.load(Relaxed)
    }

    /// QUIC was asked for packets, and has no more.
    #[inline]
    pub(crate) fn rest(&self) {
        self.0.is_asked.store(true, Relaxed);
    }

    /// QUIC may have more packets: it was not asked.
    #[inline]
    pub(crate) fn rest_unasked(&self) {
        self.0.is_asked.store(false, Relaxed);
    }

    /// Whether the last acknowledgment after a [`SenderNotes::rest`] told that congestion control or QUIC's pacer held packets back.
    #[inline]
    pub(crate) fn was_held_back(&self) -> bool {
        self.0.was_held_back.load(Relaxed)
    }
}

/// Removes the congestion window of a closed connection: it sends only its CONNECTION_CLOSE.
pub fn release(connection: &Connection) {
    if let Ok(held) = connection.congestion_state().clone_box().into_any().downcast::<Held>() {
        held.noted.released.store(true, Relaxed);
    }
}

impl Controller for Held {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if bytes > BARE_ACK_BYTES_MAX {
            self.noted.set_in_flight(|before| before + bytes);
        }
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
        let noted = &self.noted;
        noted.acks.store(noted.acks.load(Relaxed) + 1, Relaxed);
        noted.in_flight_bytes.store(in_flight, Relaxed);
        if noted.is_asked.load(Relaxed) {
            noted.is_asked.store(false, Relaxed);
            noted.was_held_back.store(!app_limited, Relaxed);
        }
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.noted.set_in_flight(|before| before.saturating_sub(lost_bytes));
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        if self.inner.is_found() {
            self.noted.has_hole.store(true, Relaxed);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.noted.released.load(Relaxed) { u64::MAX } else { self.inner.window() }
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
            inner: self.inner.clone(),
            rate_bits_per_s: self.rate_bits_per_s,
            noted: self.noted.clone(),
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
        Arc::new(Releasable { factory: Arc::new(CubicConfig::default()), mtu_min: 1200, rate_bits_per_s })
    }

    #[test]
    fn the_operators_rate_bounds_the_controllers() {
        let rate = |most| releasable(most).build(Instant::now(), 1200).metrics().pacing_rate;
        assert_eq!((rate(None), rate(Some(5))), (None, Some(5)));
        let reserved = factory(Congestion::Reserved, 12_000, 10_000_000, None);
        let rate = |most| {
            let factory = Releasable { factory: reserved.clone(), mtu_min: 1200, rate_bits_per_s: most };
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
        held.noted.released.store(true, Relaxed);
        assert_eq!((controller.window(), clone.window()), (u64::MAX, u64::MAX));
        assert_eq!(controller.metrics().congestion_window, window, "its own window is still shown");
    }
}

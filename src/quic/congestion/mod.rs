//! Congestion controllers, behind quinn-proto's interface. `docs/decisions.md` says why they are STOQ's own.

mod algorithm;
mod crowd;
mod cubic;
mod delivery;
mod model;
mod reserved;
mod round;
mod sharing;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::limits::{RATE_BITS_PER_S_MAX, RATE_BITS_PER_S_MIN};
use algorithm::CongestionAlgorithm;
use cubic::Cubic;
use model::Model;
use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, NewRenoConfig};
use reserved::Reserved;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The congestion controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Congestion {
    /// A model of the path's rate and delay, after BBRv3 (draft-ietf-ccwg-bbr): losses of up to 2 % do not slow it down.
    Model,
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    Cubic,
    /// RFC 9002 §7.
    Newreno,
    /// A fixed rate, whatever is lost: for bandwidth that is reserved for the connection. Needs
    /// [`QuicConfig::rate_bits_per_s`](super::transport::QuicConfig::rate_bits_per_s).
    Reserved,
}

impl Congestion {
    const NAMES: [(&'static str, Self); 4] = [
        ("model", Self::Model),
        ("cubic", Self::Cubic),
        ("newreno", Self::Newreno),
        ("reserved", Self::Reserved),
    ];

    /// Its name in configuration files.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, congestion)| *congestion == self).map_or("", |(name, _)| name)
    }
}

/// A name that is no congestion controller's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CongestionError {
    /// quinn-proto has one of this name.
    #[error(
        "\"bbr\" of quinn-proto loses a third of what it sends and leaves nothing to other connections; write \"model\", which measures \
         the path as BBRv3 does"
    )]
    Bbr,
    /// Nothing has this name.
    #[error(
        "no congestion controller is called {0:?}; write \"model\", \"cubic\", \"newreno\" or \"reserved\""
    )]
    Unknown(String),
}

impl FromStr for Congestion {
    type Err = CongestionError;

    fn from_str(name: &str) -> Result<Self, CongestionError> {
        match Self::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, congestion)) => Ok(*congestion),
            None if name == "bbr" => Err(CongestionError::Bbr),
            None => Err(CongestionError::Unknown(name.into())),
        }
    }
}

impl TryFrom<String> for Congestion {
    type Error = CongestionError;

    fn try_from(name: String) -> Result<Self, CongestionError> {
        name.parse()
    }
}

impl From<Congestion> for &'static str {
    fn from(congestion: Congestion) -> Self {
        congestion.name()
    }
}

/// What makes a connection's controller.
pub(super) type Factory = Arc<dyn ControllerFactory + Send + Sync>;

/// Makes controllers with this window at the start, bytes. [`Congestion::Reserved`] sends at `rate_bits_per_s`; the others take no note of
/// it. `seed` is that of each [`Congestion::Model`]; none: each draws its own.
pub(super) fn factory(
    congestion: Congestion,
    initial_window: u64,
    rate_bits_per_s: u64,
    seed: Option<u64>,
) -> Factory {
    match congestion {
        Congestion::Model => {
            let model = move |window, mtu| Model::new(window, mtu, seed.unwrap_or_else(rand::random));
            Arc::new(Make(initial_window, model))
        }
        Congestion::Cubic => Arc::new(Make(initial_window, Cubic::new)),
        Congestion::Newreno => {
            let mut config = NewRenoConfig::default();
            config.initial_window(initial_window);
            Arc::new(config)
        }
        Congestion::Reserved => {
            let rate = rate_bits_per_s.clamp(RATE_BITS_PER_S_MIN, RATE_BITS_PER_S_MAX);
            Arc::new(Make(initial_window, move |window, mtu| Reserved::new(rate, window, mtu)))
        }
    }
}

/// Makes algorithms from the window at the start and the MTU, bytes.
struct Make<F>(u64, F);

impl<A: CongestionAlgorithm, F: Fn(u64, u16) -> A + Send + Sync> ControllerFactory for Make<F> {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Driven::new((self.1)(self.0, current_mtu), self.0, current_mtu))
    }
}

/// A window differs by fewer bytes than these for [`Driven::changed`].
const MORE_BYTES: u64 = 16;

/// The least window, in packets (RFC 9002 §7.2). quinn-proto sends nothing, not even acknowledgments where data waits, while one packet does
/// not fit: over loopback the search of the path's MTU finds packets larger than a window at the start.
const WINDOW_PACKETS_MIN: u64 = 2;

/// An algorithm as quinn-proto drives it.
#[derive(Clone)]
struct Driven<A> {
    algorithm: A,
    initial_window: u64,
    mtu: u64,
    rtt: Duration,
    /// The round-trip time that quinn-proto's pacer reckons with.
    paced_rtt: Duration,
    /// Bytes more of the window, a few: quinn-proto's pacer looks at the round-trip time only when the window changes. A window that fits from
    /// the start would leave it with the bursts of a path of 333 ms.
    more: u64,
    /// The algorithm's window and these, bytes: quinn-proto asks twice a packet.
    window: u64,
}

impl<A: CongestionAlgorithm> Driven<A> {
    fn new(algorithm: A, initial_window: u64, mtu: u16) -> Self {
        let rtt = Duration::ZERO;
        let mut driven =
            Self { algorithm, initial_window, mtu: mtu.into(), rtt, paced_rtt: rtt, more: 0, window: 0 };
        driven.changed();
        driven
    }

    /// Takes over the algorithm's window, and another one when the round-trip time has become another by an eighth.
    fn changed(&mut self) {
        if self.rtt.abs_diff(self.paced_rtt) > self.paced_rtt / 8 {
            self.paced_rtt = self.rtt;
            self.more = (self.more + 1) % MORE_BYTES;
        }
        self.window = self.algorithm.window().max(WINDOW_PACKETS_MIN * self.mtu) + self.more;
    }
}

impl<A: CongestionAlgorithm> Controller for Driven<A> {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.algorithm.on_sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, rtt: &RttEstimator) {
        self.rtt = rtt.get();
        self.algorithm.on_acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.algorithm.on_ack_end(now, in_flight, app_limited);
        self.changed();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        // quinn-proto: no lost bytes mean packets that were marked.
        match lost_bytes {
            0 => self.algorithm.on_marked(now, sent),
            bytes => self.algorithm.on_lost(now, sent, bytes, persistent),
        }
        self.changed();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.algorithm.on_mtu(new_mtu);
        self.changed();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.ssthresh = self.algorithm.slow_start_threshold();
        metrics.pacing_rate = self.algorithm.pacing_bytes_per_s().map(|rate| (rate * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

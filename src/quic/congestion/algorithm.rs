//! What a congestion controller hears and answers.

use std::time::{Duration, Instant};

/// A congestion controller of STOQ's own. Bytes are those of UDP payloads.
pub(super) trait CongestionAlgorithm: Clone + Send + Sync + 'static {
    /// This many bytes were sent.
    fn on_sent(&mut self, now: Instant, bytes: u64);

    /// A packet that was sent at `sent` was acknowledged.
    fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64);

    /// All packets that one frame acknowledges were told. `app_limited`: the sender had nothing left to send.
    fn on_ack_end(&mut self, now: Instant, in_flight: u64, app_limited: bool);

    /// Packets were lost, the last of which was sent at `sent`. `persistent`: all were, for a span of several timeouts
    /// (RFC 9002 §7.6).
    fn on_lost(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool);

    /// A packet that was sent at `sent` or before met a full queue, and was marked instead of lost (RFC 3168).
    fn on_marked(&mut self, now: Instant, sent: Instant);

    /// The path carries this UDP payload, bytes.
    fn on_mtu(&mut self, mtu: u16);

    /// How much may be in flight, bytes.
    fn window(&self) -> u64;

    /// The rate at which packets leave, bytes a second; none: the window alone decides.
    fn pacing_bytes_per_s(&self) -> Option<f64>;

    /// The window at which slow start ends, bytes, if this controller has such a thing.
    fn slow_start_threshold(&self) -> Option<u64> {
        None
    }
}

/// The shortest round trip of the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinRtt {
    least: Option<(Duration, Instant)>,
}

impl MinRtt {
    /// Notes a round trip. One that is hardly longer than the shortest confirms it.
    pub(super) fn sample(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.max(Duration::from_nanos(1));
        match &mut self.least {
            Some((least, at)) if rtt >= *least => {
                if rtt <= *least + *least / 50 {
                    *at = now;
                }
            }
            least => *least = Some((rtt, now)),
        }
    }

    /// The shortest round trip, if there was one.
    pub(super) fn get(&self) -> Option<Duration> {
        self.least.map(|(rtt, _)| rtt)
    }

    /// Whether the shortest was seen longer ago than this.
    pub(super) fn is_older(&self, now: Instant, life: Duration) -> bool {
        self.least.is_some_and(|(_, at)| now.saturating_duration_since(at) > life)
    }

    /// Takes another for the shortest, whatever it was before.
    pub(super) fn replace(&mut self, now: Instant, rtt: Duration) {
        self.least = Some((rtt.max(Duration::from_nanos(1)), now));
    }
}

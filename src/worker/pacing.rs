//! When a connection's next packets leave. quinn-proto paces at 5/4 of the window a round trip, in bursts of up to 256 packets; what has
//! a rate, of its controller or of its operator, is held to it here, in bursts that a small buffer on the way holds.
//!
//! Packets that only acknowledge are small. They are not paced (RFC 9002 §7.7): the rate of a connection that receives is what it has sent
//! itself, which is next to nothing, and an acknowledgment that waits for it is taken for a loss by the peer. Over long paths they are
//! sent less often instead: their number is what a thin way back carries, and each costs both sides a packet.

use super::conn::Conn;
use crate::limits::{
    ACK_GAP_DIVISOR_LEN, ACK_GAP_US_MAX, ACK_GAP_US_MIN, PACING_BURST_LEN, PACING_BURST_US,
    PACING_LATE_DIVISOR_LEN, PACING_LATE_US_MAX, PACING_LATE_US_MIN, PACING_STEP_US,
};
use quinn_proto::Transmit;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What an Ethernet frame has around the payload of UDP, bytes: its own header, and those of IP and UDP.
const HEADERS_V4_BYTES: usize = 14 + 20 + 8;
const HEADERS_V6_BYTES: usize = 14 + 40 + 8;

/// A bucket of tokens, as times instead of tokens.
#[derive(Debug, Default)]
pub(super) struct ConnectionPace {
    /// From then on, what was sent is paid for.
    paid: Option<Instant>,
    /// When the next burst leaves, if one waits for that.
    due: Option<Instant>,
    /// The last datagram only acknowledged, or was as small.
    is_small: bool,
    /// Nothing leaves before this time: what acknowledges next covers more packets for it.
    quiet_until: Option<Instant>,
    /// Something waits for that time.
    is_waiting: bool,
}

/// How a rate spends its time.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes_per_s: f64,
    frame_bytes: usize,
}

impl Rate {
    fn span(self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_s)
    }

    fn packets(self, span: Duration) -> usize {
        // Half a byte more: a span that was made of packets holds them all.
        ((span.as_secs_f64() * self.bytes_per_s + 0.5) / self.frame_bytes as f64) as usize
    }

    /// What leaves at once: as many packets as a step has, [`PACING_BURST_LEN`] at most; more where the rate is so high that they are
    /// over in less than a turn of the worker.
    fn burst(self) -> Duration {
        let most = self.span(PACING_BURST_LEN * self.frame_bytes).max(Duration::from_micros(PACING_BURST_US));
        most.min(Duration::from_micros(PACING_STEP_US)).max(self.span(2 * self.frame_bytes))
    }
}

impl ConnectionPace {
    /// How many packets may leave now; 0: none before [`ConnectionPace::due`].
    fn allowed(&mut self, now: Instant, rate: Rate, rtt: Duration) -> usize {
        let late = match self.due {
            Some(due) if now < due => return 0,
            // A worker that comes late to a burst makes up for it: with many connections, each has its turn late. A connection that had nothing to
            // send has saved nothing.
            Some(_) => late(rtt).max(rate.span(PACING_BURST_LEN * rate.frame_bytes)),
            None => Duration::ZERO,
        };
        let paid = self.paid.map_or(now, |paid| paid.max(now - late));
        self.paid = Some(paid);
        let span = (now + rate.burst()).saturating_duration_since(paid);
        let packets = rate.packets(span);
        if packets == 0 {
            self.due = Some(paid);
        }
        packets
    }

    /// The connection has nothing to send now, and this round trip.
    #[inline]
    fn rest(&mut self, now: Instant, rtt: Duration) {
        self.due = None;
        if std::mem::take(&mut self.is_small) {
            let gap = (rtt / ACK_GAP_DIVISOR_LEN).min(Duration::from_micros(ACK_GAP_US_MAX));
            self.quiet_until = (gap >= Duration::from_micros(ACK_GAP_US_MIN)).then(|| now + gap);
        }
    }

    /// Whether the connection waits for its next acknowledgment to be worth a packet.
    #[inline]
    pub(super) fn is_quiet(&mut self, now: Instant) -> bool {
        self.is_waiting = self.quiet_until.is_some_and(|until| now < until);
        if !self.is_waiting {
            self.quiet_until = None;
        }
        self.is_waiting
    }

    /// Packets of this many bytes in all left.
    fn sent(&mut self, bytes: usize, rate: Rate) {
        self.paid = self.paid.map(|paid| paid + rate.span(bytes));
    }

    /// When the next burst or acknowledgment leaves, if one waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.max(self.quiet_until.filter(|_| self.is_waiting))
    }
}

/// How late a worker may come to a burst and make up for it. Where other threads use its core, the kernel takes the core away for milliseconds:
/// what a path of this round trip holds bears a burst of a small part of it.
#[inline]
fn late(rtt: Duration) -> Duration {
    let (least, most) =
        (Duration::from_micros(PACING_LATE_US_MIN), Duration::from_micros(PACING_LATE_US_MAX));
    (rtt / PACING_LATE_DIVISOR_LEN).clamp(least, most)
}

/// Bytes of Ethernet frames that carry these datagrams.
fn frame_bytes(transmit: &Transmit) -> usize {
    let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
    transmit.size + transmit.size.div_ceil(segment) * headers(transmit.destination)
}

fn headers(remote: SocketAddr) -> usize {
    if remote.ip().to_canonical().is_ipv4() { HEADERS_V4_BYTES } else { HEADERS_V6_BYTES }
}

/// A connection's rate in one of its turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paced(Option<Rate>);

impl Conn {
    /// The rate of its controller, or of its operator if that is lower.
    #[inline]
    pub(super) fn paced(&self) -> Paced {
        Paced(self.quic.congestion_state().metrics().pacing_rate.map(|bits_per_s| Rate {
            bytes_per_s: (bits_per_s as f64 / 8.0).max(1.0),
            frame_bytes: usize::from(self.quic.current_mtu()) + headers(self.quic.remote_address()),
        }))
    }

    /// Packets that may leave now, `most` at most; 0: not before [`ConnectionPace::due`].
    #[inline]
    pub(super) fn paced_packets(&mut self, paced: Paced, now: Instant, most: usize) -> usize {
        match paced.0 {
            // A closed connection sends its CONNECTION_CLOSE, and nothing waits for that.
            Some(rate) if !self.quic.is_closed() => self.pace.allowed(now, rate, self.quic.rtt()).min(most),
            _ => most,
        }
    }

    /// Notes datagrams that left.
    #[inline]
    pub(super) fn paced_sent(&mut self, paced: Paced, transmit: &Transmit) {
        self.pace.is_small = transmit.size < usize::from(self.quic.current_mtu()) / 2;
        if let Some(rate) = paced.0.filter(|_| !self.pace.is_small) {
            self.pace.sent(frame_bytes(transmit), rate);
        }
    }

    /// It has nothing to send now.
    #[inline]
    pub(super) fn rest(&mut self, now: Instant) {
        // A handshake waits for nothing.
        let rtt = if self.quic.is_handshaking() { Duration::ZERO } else { self.quic.rtt() };
        self.pace.rest(now, rtt);
    }

    /// Whether it waits for its next acknowledgment to be worth a packet.
    #[inline]
    pub(super) fn is_quiet(&mut self, now: Instant) -> bool {
        self.pace.is_quiet(now) && !self.quic.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { bytes_per_s: 125_000_000.0, frame_bytes: 1514 };

    fn at(start: Instant, us: u64) -> Instant {
        start + Duration::from_micros(us)
    }

    /// Sends all that may leave at this time over a short path. Gives the packets.
    fn send(pace: &mut ConnectionPace, now: Instant, rate: Rate) -> usize {
        send_over(pace, now, rate, Duration::ZERO)
    }

    fn send_over(pace: &mut ConnectionPace, now: Instant, rate: Rate, rtt: Duration) -> usize {
        let mut sent = 0;
        loop {
            let packets = pace.allowed(now, rate, rtt);
            if packets == 0 {
                return sent;
            }
            pace.sent(packets * rate.frame_bytes, rate);
            sent += packets;
        }
    }

    #[test]
    fn bursts_are_of_sixteen_packets_and_no_longer_than_a_step() {
        let (mut pace, start) = (ConnectionPace::default(), Instant::now());
        assert_eq!(send(&mut pace, start, RATE), 16);
        let due = pace.due().unwrap();
        assert_eq!(due - start, RATE.span(16 * 1514));
        assert_eq!(send(&mut pace, due - Duration::from_nanos(1), RATE), 0, "nothing before its time");
        assert_eq!(send(&mut pace, due, RATE), 16);
        // 10 Mbit/s: two packets are more than a step has.
        let slow = Rate { bytes_per_s: 1_250_000.0, ..RATE };
        assert_eq!(send(&mut ConnectionPace::default(), start, slow), 2);
        // 100 Gbit/s: sixteen packets are over in 2 us.
        let fast = Rate { bytes_per_s: 12.5e9, ..RATE };
        assert_eq!(send(&mut ConnectionPace::default(), start, fast), 165);
    }

    /// The share of the rate that leaves if the worker comes every `turn_us` only, over a path of this round trip.
    fn carried_by_turns_of(turn_us: u64, rtt_ms: u64, rate: Rate) -> f64 {
        let (mut pace, start) = (ConnectionPace::default(), Instant::now());
        let (turns, rtt) = (2000, Duration::from_millis(rtt_ms));
        let sent: usize =
            (0..turns).map(|turn| send_over(&mut pace, at(start, turn * turn_us), rate, rtt)).sum();
        // One that comes a second later still has no more than it may make up for.
        let most = send_over(&mut pace, at(start, turns * turn_us + 1_000_000), rate, rtt);
        assert!(most <= rate.packets(late(rtt)).max(16) + 17, "{most} packets at once");
        sent as f64 / rate.packets(Duration::from_micros(turns * turn_us)) as f64
    }

    #[test]
    fn a_worker_that_comes_late_loses_no_rate() {
        for (turn_us, rtt_ms) in [(500, 0), (500, 1), (2400, 20), (4900, 50), (4900, 200)] {
            let carried = carried_by_turns_of(turn_us, rtt_ms, RATE);
            assert!((0.99..1.01).contains(&carried), "{carried} in turns of {turn_us} us over {rtt_ms} ms");
        }
        let carried = carried_by_turns_of(4900, 1, RATE);
        assert!(carried < 0.3, "{carried}: a short path gets no long burst");
    }

    #[test]
    fn one_of_many_connections_that_has_its_turn_late_loses_no_rate() {
        // 10 Mbit/s of one connection, whose turn comes every ten milliseconds since hundreds of others have theirs.
        let carried = carried_by_turns_of(10_000, 0, Rate { bytes_per_s: 1_250_000.0, ..RATE });
        assert!((0.98..1.01).contains(&carried), "{carried}");
    }

    #[test]
    fn a_connection_that_had_nothing_to_send_begins_with_one_burst() {
        let (mut pace, start) = (ConnectionPace::default(), Instant::now());
        send(&mut pace, start, RATE);
        pace.rest(start, Duration::ZERO);
        assert_eq!(pace.due(), None);
        assert_eq!(send(&mut pace, at(start, 1_000_000), RATE), 16);
    }

    #[test]
    fn acknowledgments_over_a_long_path_are_a_millisecond_apart_and_over_a_short_one_wait_for_nothing() {
        let (mut pace, start) = (ConnectionPace::default(), Instant::now());
        let rest = |pace: &mut ConnectionPace, is_small, rtt_us| {
            pace.is_small = is_small;
            pace.rest(start, Duration::from_micros(rtt_us));
            pace.is_quiet(start)
        };
        assert!(!rest(&mut pace, false, 50_000), "what is large is no acknowledgment");
        assert!(!rest(&mut pace, true, 1000));
        assert_eq!(pace.due(), None);
        assert!(rest(&mut pace, true, 50_000));
        assert_eq!(pace.due(), Some(at(start, ACK_GAP_US_MAX)));
        assert!(pace.is_quiet(at(start, ACK_GAP_US_MAX - 1)) && !pace.is_quiet(at(start, ACK_GAP_US_MAX)));
        assert_eq!(pace.due(), None, "a time that is over is no timer's");
    }

    #[test]
    fn headers_are_paid_for() {
        let destination = "10.0.0.1:1".parse().unwrap();
        let transmit =
            |size, segment_size| Transmit { destination, ecn: None, size, segment_size, src_ip: None };
        assert_eq!(frame_bytes(&transmit(1000, None)), 1042);
        assert_eq!(frame_bytes(&transmit(2500, Some(1000))), 2500 + 3 * 42);
        assert_eq!(headers("[::ffff:10.0.0.1]:1".parse().unwrap()), 42);
        assert_eq!(headers("[fd77::1]:1".parse().unwrap()), 62);
    }
}

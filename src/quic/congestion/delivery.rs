//! How fast a path delivers (draft-ietf-ccwg-bbr §4.1, draft-cheng-iccrg-delivery-rate-estimation).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What was so when packets were sent.
#[derive(Clone, Copy, Debug)]
struct SentRecord {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// With these packets, bytes.
    in_flight: u64,
    app_limited: bool,
}

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliverySample {
    /// Bytes a second; 0 where the span was too short to tell.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    /// Bytes that this frame acknowledged.
    pub(super) acked: u64,
    /// The sender had less to send than the path carries.
    pub(super) app_limited: bool,
    /// The sender has nothing to send now.
    pub(super) is_idle: bool,
    /// Bytes that were in flight when the packet was sent, itself included.
    pub(super) in_flight: u64,
    /// Bytes delivered when the packet was sent.
    pub(super) delivered_before: u64,
}

/// Counts what is delivered, and remembers for what is in flight how much was when it was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    /// One for all that was sent at one instant, in the order of sending.
    records: VecDeque<SentRecord>,
    delivered: u64,
    delivered_at: Option<Instant>,
    first_sent: Option<Instant>,
    /// While less was delivered, samples are of a sender that had nothing to send.
    app_limited_until: u64,
    in_flight: u64,
    acked: u64,
    newest: Option<Instant>,
}

impl Deliveries {
    pub(super) fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            // What was not sent says nothing of the path.
            (self.first_sent, self.delivered_at) = (Some(now), Some(now));
        }
        self.in_flight += bytes;
        if let Some(last) = self.records.back_mut()
            && last.sent >= now
        {
            last.in_flight = self.in_flight;
            return;
        }
        self.records.push_back(SentRecord {
            sent: now,
            delivered: self.delivered,
            delivered_at: *self.delivered_at.get_or_insert(now),
            first_sent: *self.first_sent.get_or_insert(now),
            in_flight: self.in_flight,
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    pub(super) fn on_acked(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acked += bytes;
        self.newest = self.newest.max(Some(sent));
    }

    /// The sample of a frame whose packets were told. `min_rtt` bounds the span of a rate from below.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        min_rtt: Duration,
    ) -> Option<DeliverySample> {
        self.in_flight = in_flight;
        let newest = self.newest.take()?;
        self.delivered_at = Some(now);
        if app_limited {
            self.app_limited_until = self.delivered + in_flight.max(1);
        }
        // Probes of the path's MTU have no record: the next frame tells what this one acknowledged beside them.
        let at = self.records.partition_point(|record| record.sent < newest);
        let record = *self.records.get(at).filter(|record| record.sent == newest)?;
        let acked = std::mem::take(&mut self.acked);
        // Of the older ones, losses may still ask for what was in flight.
        let rtt = now.saturating_duration_since(newest);
        while self.records.len() > 1 && self.records[0].sent + rtt < newest {
            self.records.pop_front();
        }
        // Packets that arrive out of order say nothing new.
        self.first_sent = self.first_sent.max(Some(newest));
        let span = (now - record.delivered_at).max(newest.saturating_duration_since(record.first_sent));
        let delivered = self.delivered - record.delivered;
        let rate = if span < min_rtt || span.is_zero() { 0.0 } else { delivered as f64 / span.as_secs_f64() };
        Some(DeliverySample {
            rate,
            rtt,
            acked,
            app_limited: record.app_limited,
            is_idle: app_limited,
            in_flight: record.in_flight,
            delivered_before: record.delivered,
        })
    }

    /// What was in flight when a packet was sent that is lost now, bytes.
    pub(super) fn in_flight_at(&self, sent: Instant) -> u64 {
        let at = self.records.partition_point(|record| record.sent < sent);
        self.records.get(at).map_or(self.in_flight, |record| record.in_flight)
    }

    /// Bytes delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }
}

/// Rounds in which acknowledgments that run ahead are remembered.
const AHEAD_ROUNDS: u64 = 10;

/// How far acknowledgments run ahead of the rate: room for bursts of them (draft §5.5.9).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    began: Option<Instant>,
    acked: u64,
    /// The most of these rounds, and of those before.
    most: [u64; 2],
    round: u64,
}

impl Ahead {
    pub(super) fn note(&mut self, now: Instant, acked: u64, rate: f64, round: u64) {
        let span = self.began.map_or(0.0, |began| now.saturating_duration_since(began).as_secs_f64());
        let mut expected = rate * span;
        if self.began.is_none() || self.acked as f64 <= expected {
            (self.began, self.acked, expected) = (Some(now), 0, 0.0);
        }
        self.acked += acked;
        if round >= self.round + AHEAD_ROUNDS / 2 {
            (self.most, self.round) = ([self.most[1], 0], round);
        }
        self.most[1] = self.most[1].max((self.acked as f64 - expected).max(0.0) as u64);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.most[0].max(self.most[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_frame_acknowledges_beside_a_probe_of_the_mtu_is_told_by_the_next() {
        let (begun, rtt) = (Instant::now(), Duration::from_millis(10));
        let mut deliveries = Deliveries::default();
        let at = |ms| begun + Duration::from_millis(ms);
        deliveries.on_sent(at(0), 1200);
        // The probe at 1 ms is not told as sent.
        deliveries.on_sent(at(2), 1200);
        deliveries.on_acked(at(0), 1200);
        deliveries.on_acked(at(1), 9000);
        assert!(deliveries.sample(at(11), 1200, false, rtt).is_none());
        deliveries.on_acked(at(2), 1200);
        let sample = deliveries.sample(at(12), 0, false, rtt).unwrap();
        assert_eq!((sample.acked, sample.rtt), (11_400, rtt));
    }
}

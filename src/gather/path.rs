//! How many bytes the path to a holder needs in flight, measured by the answers that arrive over it.

use crate::limits::{
    GATHER_FLIGHT_BYTES_MAX, GATHER_FLIGHT_BYTES_MIN, GATHER_FLIGHT_PRODUCTS_LEN, GATHER_RANGE_BYTES,
    GATHER_REQUESTS_LEN_MAX, GATHER_SPAN_MS_MIN, GATHER_SPAN_ROUND_TRIPS_LEN, GATHER_WINDOW_BYTES,
};
use std::time::{Duration, Instant};

/// Measures a path: its round trip, and the bytes that come in one.
#[derive(Debug)]
pub(super) struct PathMeter {
    /// The shortest time from a request to the first byte of its answer. Most answers wait behind others at the holder: their times
    /// say nothing of the path.
    round_trip: Option<Duration>,
    /// The most bytes a round trip, of the samples since the time that follows and of those in the span before it: a pause of the consumer is not
    /// forgotten at once, and its speed is not remembered for long.
    products_bytes: [u64; 2],
    span_began: Option<Instant>,
    /// Requests that the holder takes at once, as far as its refusals show.
    requests_max: usize,
    /// Requests answered since that was changed.
    answered: usize,
}

impl Default for PathMeter {
    fn default() -> Self {
        Self {
            round_trip: None,
            products_bytes: [0; 2],
            span_began: None,
            requests_max: GATHER_REQUESTS_LEN_MAX,
            answered: 0,
        }
    }
}

impl PathMeter {
    /// The first byte of an answer came this long after its request.
    pub(super) fn answer_began(&mut self, after: Duration) {
        self.round_trip = Some(self.round_trip.map_or(after, |shortest| shortest.min(after)));
    }

    /// A request was answered whole, `after` it was sent. In this time `came_bytes` came from the holder: those of the requests in flight
    /// before it, and its own.
    pub(super) fn was_answered(&mut self, now: Instant, after: Duration, came_bytes: u64) {
        self.answered += 1;
        if self.answered >= self.requests_max && self.requests_max < GATHER_REQUESTS_LEN_MAX {
            (self.requests_max, self.answered) = (self.requests_max + 1, 0);
        }
        let Some(round_trip) = self.round_trip.filter(|_| !after.is_zero()) else { return };
        let span = (round_trip * GATHER_SPAN_ROUND_TRIPS_LEN).max(Duration::from_millis(GATHER_SPAN_MS_MIN));
        if now.saturating_duration_since(*self.span_began.get_or_insert(now)) >= span {
            self.span_began = Some(now);
            self.products_bytes = [0, self.products_bytes[0]];
        }
        let product_bytes = came_bytes as f64 * round_trip.as_secs_f64() / after.as_secs_f64();
        self.products_bytes[0] = self.products_bytes[0].max(product_bytes as u64);
    }

    /// What should be in flight, bytes. While the rate grows, this grows before it, as slow start does.
    pub(super) fn flight_bytes(&self) -> u64 {
        let product = self.products_bytes.iter().max().copied().unwrap_or_default();
        (GATHER_FLIGHT_PRODUCTS_LEN * product).clamp(GATHER_FLIGHT_BYTES_MIN, GATHER_FLIGHT_BYTES_MAX)
    }

    /// The best length of a range, bytes. On a short path few requests cost least. If many bytes are in flight, short ranges cost the holder
    /// least: for each packet its QUIC walks through the unacknowledged data of the packet's stream.
    pub(super) fn range_bytes(&self) -> u64 {
        let flight_bytes = self.flight_bytes();
        if flight_bytes == GATHER_FLIGHT_BYTES_MIN {
            return GATHER_WINDOW_BYTES;
        }
        (flight_bytes / GATHER_REQUESTS_LEN_MAX as u64).next_power_of_two().max(GATHER_RANGE_BYTES)
    }

    /// How many requests may be in flight.
    pub(super) fn requests_max(&self) -> usize {
        self.requests_max
    }

    /// The holder has refused a request because of others, and answers `running` of this gathering.
    pub(super) fn was_refused(&mut self, running: usize) {
        (self.requests_max, self.answered) = (running.max(1), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A path over which bytes come at these rates, for a round trip each; and the flight after each.
    fn over(round_trip: Duration, rates_bytes_per_s: &[u64]) -> (PathMeter, Vec<u64>) {
        let (mut path, mut now) = (PathMeter::default(), Instant::now());
        path.answer_began(round_trip);
        let flights = rates_bytes_per_s.iter().map(|rate| {
            now += round_trip;
            path.was_answered(now, round_trip, (*rate as f64 * round_trip.as_secs_f64()) as u64);
            path.flight_bytes()
        });
        let flights = flights.collect();
        (path, flights)
    }

    fn is_about(found: u64, expected: u64) -> bool {
        found.abs_diff(expected) < expected / 20
    }

    #[test]
    fn a_short_path_has_the_least_flight_in_few_requests() {
        let (path, _) = over(Duration::from_micros(100), &[1_500_000_000; 10]);
        assert_eq!(path.flight_bytes(), GATHER_FLIGHT_BYTES_MIN);
        assert_eq!(path.range_bytes(), GATHER_WINDOW_BYTES);
        assert_eq!(PathMeter::default().flight_bytes(), GATHER_FLIGHT_BYTES_MIN, "and an unknown one");
    }

    #[test]
    fn a_long_path_has_three_products_in_flight_in_short_ranges() {
        // 1 Gbit/s x 100 ms.
        let (path, _) = over(Duration::from_millis(100), &[125_000_000; 4]);
        assert!(is_about(path.flight_bytes(), 37_500_000), "{}", path.flight_bytes());
        assert_eq!(path.range_bytes(), GATHER_RANGE_BYTES);
    }

    #[test]
    fn the_flight_grows_ahead_of_the_rate_and_stops_with_it() {
        let mib_per_trip = [1, 2, 4, 8, 16, 32, 64, 64, 64, 64];
        let rates: Vec<_> = mib_per_trip.iter().map(|mib| mib * MIB * 20).collect();
        let (_, flights) = over(Duration::from_millis(50), &rates);
        for (flight, next) in flights.iter().zip(&mib_per_trip[1..]) {
            assert!(*flight >= next * MIB, "{flight} bytes in flight would hold back {next} MiB");
        }
        assert!(is_about(*flights.last().unwrap(), 192 * MIB), "{flights:?}");
    }

    #[test]
    fn the_flight_has_a_ceiling_and_ranges_grow_so_that_few_requests_reach_it() {
        let (path, _) = over(Duration::from_millis(200), &[12_500_000_000; 4]);
        assert_eq!(path.flight_bytes(), GATHER_FLIGHT_BYTES_MAX);
        assert!(GATHER_FLIGHT_BYTES_MAX.div_ceil(path.range_bytes()) <= GATHER_REQUESTS_LEN_MAX as u64);
    }

    #[test]
    fn a_consumer_that_slows_down_shrinks_the_flight_and_a_pause_does_not() {
        let fast = [125_000_000; 4];
        let (path, flights) = over(Duration::from_millis(100), &[&fast[..], &[0, 0]].concat());
        assert!(is_about(path.flight_bytes(), 37_500_000), "{flights:?}");
        let slow = [1_000_000; 2 * GATHER_SPAN_ROUND_TRIPS_LEN as usize + 1];
        let (path, flights) = over(Duration::from_millis(100), &[&fast[..], &slow].concat());
        assert_eq!(path.flight_bytes(), GATHER_FLIGHT_BYTES_MIN, "{flights:?}");
    }

    #[test]
    fn answers_that_waited_at_the_holder_do_not_lengthen_the_path() {
        let (mut path, _) = over(Duration::from_millis(100), &[125_000_000; 4]);
        let before = path.flight_bytes();
        path.answer_began(Duration::from_secs(1));
        path.was_answered(Instant::now() + Duration::from_secs(1), Duration::from_secs(1), 125_000_000);
        assert_eq!(path.flight_bytes(), before);
    }

    #[test]
    fn a_refusal_bounds_the_requests_and_answers_loosen_that() {
        let mut path = PathMeter::default();
        let answers = |path: &mut PathMeter, count| {
            (0..count).for_each(|_| path.was_answered(Instant::now(), Duration::ZERO, 0));
        };
        path.was_refused(10);
        assert_eq!(path.requests_max(), 10);
        answers(&mut path, 10);
        assert_eq!(path.requests_max(), 11);
        answers(&mut path, 100_000);
        assert_eq!(path.requests_max(), GATHER_REQUESTS_LEN_MAX);
        path.was_refused(0);
        assert_eq!(path.requests_max(), 1);
    }
}

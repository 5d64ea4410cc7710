//! The rates of the last minutes, for the page's graphs.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use stoq::counters::Counter;
use stoq::worker::WorkerStatus;

/// Samples that are kept.
const SAMPLES_LEN_MAX: usize = 150;
/// Ticks, of a second each, between two samples.
const TICKS_A_SAMPLE: u32 = 2;

/// The rates of the time before one sample, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct RecentRates {
    received_bits: f64,
    sent_bits: f64,
    /// Peers' requests that were answered, refused or abandoned.
    requests: f64,
    drops: f64,
}

/// Sums over all workers.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    received_bytes: u64,
    sent_bytes: u64,
    requests: u64,
    drops: u64,
}

/// The samples so far.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<RecentSamples>);

#[derive(Debug, Default)]
struct RecentSamples {
    ticks: u32,
    before: Option<(Instant, Totals)>,
    rates: VecDeque<RecentRates>,
}

/// The object that `/recent` gives.
#[derive(Debug, Serialize)]
pub(super) struct RecentView {
    /// Seconds between two samples.
    interval_s: u32,
    /// The newest last.
    rates: Vec<RecentRates>,
}

impl Totals {
    fn of(statuses: &[Arc<WorkerStatus>]) -> Self {
        let sum = |is: fn(&str) -> bool| {
            let counters = Counter::ALL.iter().filter(|counter| is(counter.name()));
            let values = counters.flat_map(|&counter| statuses.iter().map(move |s| s.counters.get(counter)));
            values.fold(0, u64::wrapping_add)
        };
        Self {
            received_bytes: sum(|name| name == "rx_bytes"),
            sent_bytes: sum(|name| name == "tx_bytes"),
            requests: sum(|name| name.starts_with("requests_")),
            drops: sum(|name| name.starts_with("drop_")),
        }
    }

    fn since(self, before: Self, seconds: f64) -> RecentRates {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds.max(0.001);
        RecentRates {
            received_bits: rate(self.received_bytes, before.received_bytes) * 8.0,
            sent_bits: rate(self.sent_bytes, before.sent_bytes) * 8.0,
            requests: rate(self.requests, before.requests),
            drops: rate(self.drops, before.drops),
        }
    }
}

impl Recent {
    /// Takes a sample, if it is time. Called once a second.
    pub(super) fn tick(&self, statuses: &[Arc<WorkerStatus>]) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.ticks += 1;
        if samples.before.is_some() && !samples.ticks.is_multiple_of(TICKS_A_SAMPLE) {
            return;
        }
        let now = (Instant::now(), Totals::of(statuses));
        if let Some((at, before)) = samples.before.replace(now) {
            if samples.rates.len() == SAMPLES_LEN_MAX {
                samples.rates.pop_front();
            }
            samples.rates.push_back(now.1.since(before, (now.0 - at).as_secs_f64()));
        }
    }

    pub(super) fn view(&self) -> RecentView {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        RecentView { interval_s: TICKS_A_SAMPLE, rates: samples.rates.iter().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_between_two_samples() {
        let before = Totals { received_bytes: 1_000, ..Totals::default() };
        let now = Totals { received_bytes: 2_000, requests: 6, ..before };
        let rates = now.since(before, 2.0);
        assert_eq!((rates.received_bits, rates.sent_bits, rates.requests), (4_000.0, 0.0, 3.0));
    }

    #[test]
    fn the_samples_are_of_five_minutes_at_the_most() {
        let recent = Recent::default();
        for _ in 0..1_000 {
            recent.tick(&[]);
        }
        assert_eq!(recent.view().rates.len(), SAMPLES_LEN_MAX);
    }
}

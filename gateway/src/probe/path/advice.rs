//! What to set after a measurement.

use super::report::{Advice, AdviceSide, PathReport};
use stoq::limits::{PACKETS_PER_ACK_LEN_MAX, STREAM_PART_BYTES, WINDOW_BYTES_MAX};
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::send_limit::SendLimit;

/// A limit with this share of the time or more is worth a word.
const SHARE: f64 = 0.2;
/// Loss from which a controller that takes every loss for congestion falls behind.
const LOSS_CUBIC: f64 = 1e-5;
/// Loss that `model` takes for congestion.
const LOSS_MODEL: f64 = 0.02;
/// A queue that adds this to the delay, as a multiple of the idle round trip and in microseconds at least.
const BLOAT: f64 = 2.0;
const BLOAT_US: f64 = 20_000.0;
/// The way back has this part of the rate of the way forth or less: acknowledgments fill it.
const THIN: f64 = 1.0 / 50.0;
const PACKETS_PER_ACK_THIN: u32 = 32;
/// Round trips that a window holds (docs/wan.md).
const TRIPS: f64 = 4.0;

/// What differs from the configuration and would help.
pub fn advise(report: &PathReport, quic: &QuicConfig) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut add = |side, key, value: String, why: &str| {
        advice.push(Advice { side, key, value, why: why.to_owned() });
    };
    let forth = &report.forth;
    let share =
        |limit| forth.limited_s.shares().iter().find(|(l, _)| *l == limit).map_or(0.0, |(_, share)| *share);
    let trip_s = report.idle.p50_us / 1e6;
    let product = forth.bits_per_s / 8.0 * trip_s;
    let window = rounded(product * TRIPS);
    let takes_loss_for_congestion =
        matches!(quic.congestion_control, Congestion::Cubic | Congestion::Newreno);
    let queue_us = forth.round_trips.p50_us - report.idle.p50_us;
    let is_bloated = queue_us > BLOAT_US && queue_us > BLOAT * report.idle.p50_us;
    if takes_loss_for_congestion
        && share(SendLimit::Congestion) >= SHARE
        && forth.loss >= LOSS_CUBIC
        && !is_bloated
    {
        let why =
            "packets are lost though the queue is short, and this controller takes each loss for congestion";
        add(AdviceSide::Client, "congestion_control", "\"model\"".into(), why);
    } else if takes_loss_for_congestion && is_bloated {
        let why = "this controller fills the buffer on the way, and everything beside it waits there";
        add(AdviceSide::Client, "congestion_control", "\"model\"".into(), why);
    }
    if quic.congestion_control == Congestion::Model && forth.loss >= LOSS_MODEL {
        let why = "more is lost than a model takes for chance; if the bandwidth is yours alone, reserve it with rate_bits_per_s";
        add(AdviceSide::Client, "congestion_control", "\"reserved\"".into(), why);
    }
    if share(SendLimit::Window) >= SHARE {
        let (largest, now) = (quic.windows().send_max_bytes, forth.send_window_bytes);
        if now * 2 > largest && largest < WINDOW_BYTES_MAX {
            let why = "the send window is full before the path is";
            let value = rounded(largest as f64 * TRIPS).min(WINDOW_BYTES_MAX);
            add(AdviceSide::Client, "send_window_max_bytes", value.to_string(), why);
        } else if quic.window_budget_bytes() < 2 * window {
            let why = "the windows of this process may not grow as far as the path needs";
            add(AdviceSide::Client, "window_budget_bytes", (2 * window).to_string(), why);
        }
    }
    if share(SendLimit::Peer) >= SHARE {
        let why = "the gateway's windows are full before the path is, or what it hosts there is slow";
        // What the window held in a round trip is what arrived in one: it must be larger by a factor.
        add(AdviceSide::Gateway, "receive_window_max_bytes", window.to_string(), why);
        // A longer half goes on in another stream: a larger window of one stream gains nothing.
        let why = "the same, where the window of one stream is smaller there";
        add(AdviceSide::Gateway, "stream_receive_window_bytes", STREAM_PART_BYTES.to_string(), why);
    }
    let back_product = report.back.bits_per_s / 8.0 * trip_s;
    let receive_max = quic.windows().connection_max_bytes;
    if back_product * 2.0 > receive_max as f64 && receive_max < WINDOW_BYTES_MAX {
        let why = "a round trip of the way back fills the receive window";
        let value = rounded(back_product * TRIPS).min(WINDOW_BYTES_MAX);
        add(AdviceSide::Client, "receive_window_max_bytes", value.to_string(), why);
    }
    if report.back.bits_per_s < THIN * forth.bits_per_s && quic.packets_per_ack < PACKETS_PER_ACK_THIN {
        let why = "the way back is thin: fewer acknowledgments leave it room";
        let value = PACKETS_PER_ACK_THIN.min(PACKETS_PER_ACK_LEN_MAX);
        add(AdviceSide::Client, "packets_per_ack", value.to_string(), why);
    }
    if quic.initial_udp_payload_bytes > report.udp_payload_bytes && report.udp_payload_bytes > 0 {
        let why = "the path carries less: larger packets at the start are lost";
        add(AdviceSide::Client, "initial_udp_payload_bytes", report.udp_payload_bytes.to_string(), why);
    }
    advice
}

/// The next power of two, 1 MiB at least, and no more than a window may have.
fn rounded(bytes: f64) -> u64 {
    (bytes as u64).max(1 << 20).checked_next_power_of_two().unwrap_or(WINDOW_BYTES_MAX).min(WINDOW_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use stoq::send_limit::LimitTimes;

    /// 1 Gbit/s over 100 ms, under this limit.
    fn report(limit: SendLimit, loss: f64) -> PathReport {
        let mut limited_s = LimitTimes::default();
        limited_s.add(limit, Duration::from_secs(10));
        let mut report = PathReport { udp_payload_bytes: 1472, ..PathReport::default() };
        (report.idle.p50_us, report.forth.round_trips.p50_us) = (100_000.0, 101_000.0);
        (report.forth.bits_per_s, report.back.bits_per_s) = (1e9, 1e9);
        (report.forth.loss, report.forth.limited_s) = (loss, limited_s);
        report
    }

    fn keys(report: &PathReport, quic: &QuicConfig) -> Vec<(AdviceSide, &'static str, String)> {
        advise(report, quic).into_iter().map(|advice| (advice.side, advice.key, advice.value)).collect()
    }

    fn with(congestion_control: Congestion) -> QuicConfig {
        QuicConfig { congestion_control, ..QuicConfig::default() }
    }

    #[test]
    fn a_path_that_is_full_needs_nothing() {
        for congestion_control in [Congestion::Cubic, Congestion::Model] {
            let found = keys(&report(SendLimit::Congestion, 0.0), &with(congestion_control));
            assert_eq!(found, []);
        }
    }

    #[test]
    fn losses_by_chance_ask_for_a_model_and_many_for_a_reserved_rate() {
        let model = (AdviceSide::Client, "congestion_control", "\"model\"".to_owned());
        let lossy = report(SendLimit::Congestion, 0.001);
        assert_eq!(keys(&lossy, &with(Congestion::Cubic)), [model]);
        assert_eq!(keys(&lossy, &with(Congestion::Model)), []);
        let reserved = (AdviceSide::Client, "congestion_control", "\"reserved\"".to_owned());
        assert_eq!(keys(&report(SendLimit::Pacing, 0.05), &with(Congestion::Model)), [reserved]);
    }

    #[test]
    fn windows_that_are_full_are_named_with_their_side() {
        let small = QuicConfig {
            send_window_bytes: 1 << 20,
            send_window_max_bytes: 4 << 20,
            ..with(Congestion::Model)
        };
        let mut full = report(SendLimit::Window, 0.0);
        full.forth.send_window_bytes = 4 << 20;
        let wanted = (AdviceSide::Client, "send_window_max_bytes", (16 << 20).to_string());
        assert_eq!(keys(&full, &small), [wanted]);
        let peer = keys(&report(SendLimit::Peer, 0.0), &with(Congestion::Model));
        // Four products of 12.5 MB, to the next power of two.
        let of = |key, bytes: u64| (AdviceSide::Gateway, key, bytes.to_string());
        let wanted =
            [of("receive_window_max_bytes", 64 << 20), of("stream_receive_window_bytes", STREAM_PART_BYTES)];
        assert_eq!(peer, wanted);
    }

    #[test]
    fn a_thin_way_back_and_a_small_path_have_their_keys() {
        let mut thin = report(SendLimit::Pacing, 0.0);
        thin.back.bits_per_s = 1e7;
        let wanted = (AdviceSide::Client, "packets_per_ack", "32".to_owned());
        assert_eq!(keys(&thin, &with(Congestion::Model)), [wanted]);
        let large = QuicConfig { initial_udp_payload_bytes: 8972, ..with(Congestion::Model) };
        let wanted = (AdviceSide::Client, "initial_udp_payload_bytes", "1472".to_owned());
        assert_eq!(keys(&report(SendLimit::Pacing, 0.0), &large), [wanted]);
    }
}

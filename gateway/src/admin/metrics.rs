//! `/metrics`: every counter of every worker and what stands beside them, by Prometheus' conventions.

use super::source::AdminSource;
use super::text::{Exposition, MetricKind};
use crate::logging;
use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;
use stoq::counters::Counter;
use stoq::histogram::Histogram;
use stoq::quic::qlog;
use stoq::seed::DamageOutcome;
use stoq::stages::{LoopStage, SAMPLE_TURNS};
use stoq::worker::WorkerStatus;

/// Counters whose names begin alike are one family; what follows are its labels' values.
const FAMILIES: &[(&str, &str, &[&str], &str)] = &[
    ("drop_", "stoq_drops_total", &["reason"], "Packets and datagrams dropped, by reason."),
    (
        "handshakes_",
        "stoq_quic_handshakes_total",
        &["role", "result"],
        "QUIC handshakes, by who began them and how they ended: completed without early data, early with it, failed.",
    ),
    (
        "requests_",
        "stoq_requests_total",
        &["kind", "result"],
        "Requests of peers answered here, by kind and how they ended: ok, refused, abandoned by the peer.",
    ),
    (
        "hops_",
        "stoq_hops_total",
        &["result"],
        "Requests by a route: forwarded to another gateway, refused, or merged with one in flight.",
    ),
];

/// The family that a counter belongs to, its help, and the labels that tell it from others of the family.
pub(super) fn family(counter: Counter) -> (String, &'static str, Vec<(&'static str, &'static str)>) {
    let name = counter.name();
    for (front, family, keys, help) in FAMILIES {
        if let Some(rest) = name.strip_prefix(front) {
            return (
                (*family).to_owned(),
                help,
                keys.iter().copied().zip(rest.splitn(keys.len(), '_')).collect(),
            );
        }
    }
    if let Some(result) = name.strip_suffix("_polls") {
        let help = "Turns of the loop: busy ones moved something, empty ones nothing.";
        return ("stoq_polls_total".to_owned(), help, vec![("result", result)]);
    }
    (format!("stoq_{name}_total"), counter.help(), Vec::new())
}

/// The whole exposition.
pub(super) fn render(source: &AdminSource) -> String {
    let mut out = Exposition::default();
    process(source, &mut out);
    counters(source, &mut out);
    histograms(source, &mut out);
    stages(source, &mut out);
    gauges(source, &mut out);
    port(source, &mut out);
    store(source, &mut out);
    out.finish()
}

fn process(source: &AdminSource, out: &mut Exposition) {
    let facts = source.facts();
    out.family("stoq_build_info", MetricKind::Gauge, "Always 1; the labels say what runs.");
    let version = env!("CARGO_PKG_VERSION");
    out.sample(
        &[
            ("version", &version),
            ("node_id", &facts.certificate.node_id),
            ("configuration", &facts.fingerprint),
        ],
        1,
    );
    let started =
        source.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let help = "When the gateway started, seconds since the Unix epoch.";
    out.single("process_start_time_seconds", MetricKind::Gauge, help, started);
    let ready = u8::from(source.not_ready().is_empty());
    out.single("stoq_ready", MetricKind::Gauge, "1 while peers may come: see /readyz.", ready);
    let draining = u8::from(source.shared.is_draining());
    out.single(
        "stoq_draining",
        MetricKind::Gauge,
        "1 while the gateway finishes what runs and takes nothing new.",
        draining,
    );
    let help =
        "When the first of the certificates that peers are sent expires, seconds since the Unix epoch.";
    out.single("stoq_certificate_expiry_timestamp_seconds", MetricKind::Gauge, help, facts.not_after_s());
    let taken = u8::from(source.reloads.last_was_taken());
    let help = "1 unless the last reload was refused: the gateway goes by the configuration before it.";
    out.single("stoq_config_last_reload_successful", MetricKind::Gauge, help, taken);
    out.family("stoq_config_reloads_total", MetricKind::Counter, "Reloads of the configuration, by result.");
    for (result, value) in [("taken", source.reloads.reloads()), ("refused", source.reloads.failures())] {
        out.sample(&[("result", &result)], value);
    }
    let help = "Log lines left out because peers could cause too many of them.";
    out.single("stoq_log_lines_suppressed_total", MetricKind::Counter, help, logging::lines_left_out());
    let help = "Log lines lost because standard error did not take them.";
    out.single("stoq_log_lines_lost_total", MetricKind::Counter, help, logging::lines_lost());
    let help = "Runs of qlog records that were dropped because the disk was slow.";
    out.single("stoq_qlog_runs_dropped_total", MetricKind::Counter, help, qlog::dropped());
    if let Some(tap) = &source.tap {
        let help = "Frames and secrets that a capture missed because it was slow.";
        out.single("stoq_capture_dropped_total", MetricKind::Counter, help, tap.dropped());
    }
}

fn counters(source: &AdminSource, out: &mut Exposition) {
    let mut done: Vec<String> = Vec::new();
    for &counter in Counter::ALL {
        let (name, help, _) = family(counter);
        if done.contains(&name) {
            continue;
        }
        out.family(&name, MetricKind::Counter, help);
        for (worker, status) in source.statuses.iter().enumerate() {
            for &counter in Counter::ALL {
                let (of, _, pairs) = family(counter);
                if of == name {
                    let mut labels: Vec<(&str, &dyn Display)> = vec![("worker", &worker)];
                    labels.extend(pairs.iter().map(|(key, value)| (*key, value as &dyn Display)));
                    out.sample(&labels, status.counters.get(counter));
                }
            }
        }
        done.push(name);
    }
}

/// A histogram of a worker, its name, the exponents of its buckets, its unit and its help.
type HistogramRow = (fn(&WorkerStatus) -> &Histogram, &'static str, (usize, usize), f64, &'static str);

fn histograms(source: &AdminSource, out: &mut Exposition) {
    let shown: [HistogramRow; 4] = [
        (
            |status| &status.counters.bursts,
            "stoq_rx_burst_packets",
            (0, 6),
            1.0,
            "Packets that a burst brought, of bursts that brought any.",
        ),
        (
            |status| &status.counters.stages.turns,
            "stoq_turn_duration_seconds",
            (9, 27),
            1e-9,
            "How long turns of the loop took that moved something; one of 64 is measured.",
        ),
        (
            |status| &status.counters.rtts,
            "stoq_quic_smoothed_rtt_seconds",
            (5, 22),
            1e-6,
            "Smoothed round-trip times: one of each connection a second.",
        ),
        (
            |status| &status.counters.windows,
            "stoq_quic_congestion_window_bytes",
            (11, 28),
            1.0,
            "Congestion windows: one of each connection a second.",
        ),
    ];
    for (of, name, range, unit, help) in shown {
        out.family(name, MetricKind::Histogram, help);
        for (worker, status) in source.statuses.iter().enumerate() {
            out.histogram(&[("worker", &worker)], of(status), range, unit);
        }
    }
}

fn stages(source: &AdminSource, out: &mut Exposition) {
    let name = "stoq_worker_busy_seconds_total";
    out.family(
        name,
        MetricKind::Counter,
        "Time that the worker worked, estimated from the turns that are measured.",
    );
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.counters.stages.busy_ns() as f64 / 1e9);
    }
    let help = "The same by stage of the loop.";
    out.family("stoq_worker_stage_seconds_total", MetricKind::Counter, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let sampled = status.counters.stages.sampled();
        for stage in LoopStage::ALL {
            let ns = sampled.ns(stage).saturating_mul(SAMPLE_TURNS);
            out.sample(&[("worker", &worker), ("stage", &stage.name())], ns as f64 / 1e9);
        }
    }
}

fn gauges(source: &AdminSource, out: &mut Exposition) {
    out.family("stoq_connections", MetricKind::Gauge, "Connections now.");
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.connections.load(Relaxed));
    }
    let help = "Connections whose peer acknowledges nothing of what it was sent, as of the last second.";
    out.family("stoq_connections_unacknowledged", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.gauges.unacknowledged.load(Relaxed));
    }
    let help = "What waits in the worker's rings and lines: deliveries for applications, commands and handovers for the worker, \
                connection attempts, connections with something to send. As of the last second.";
    out.family("stoq_ring_depth", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let gauges = &status.gauges;
        for (ring, depth) in [
            ("deliveries", gauges.deliveries.load(Relaxed)),
            ("commands", gauges.commands.load(Relaxed)),
            ("handovers", source.shared.handovers_waiting(worker)),
            ("attempts", gauges.attempts.load(Relaxed)),
            ("senders", gauges.senders.load(Relaxed)),
        ] {
            out.sample(&[("worker", &worker), ("ring", &ring)], depth);
        }
    }
    out.family("stoq_link_up", MetricKind::Gauge, "1 while the link of the worker's port is up.");
    for ((worker, status), network) in source.statuses.iter().enumerate().zip(&source.networks) {
        let labels: [(&str, &dyn Display); 3] =
            [("worker", &worker), ("device", &network.device), ("driver", &network.driver)];
        out.sample(&labels, u8::from(status.gauges.link_up.load(Relaxed)));
    }
    let facts = source.facts();
    if facts.peer_gateways.is_empty() {
        return;
    }
    out.family(
        "stoq_peer_gateway_up",
        MetricKind::Gauge,
        "1 while the worker's connection to the peer gateway is up.",
    );
    for (worker, status) in source.statuses.iter().enumerate() {
        for (node, up) in status.gauges.peer_gateways() {
            let named = facts.peer_gateways.iter().find(|(known, _)| *known == node);
            let name = named.and_then(|(_, name)| name.clone()).unwrap_or_default();
            out.sample(&[("worker", &worker), ("node_id", &node), ("name", &name)], u8::from(up));
        }
    }
}

/// A device's own statistics by DPDK's names, and by ours.
const PORT: &[(&str, &str, &str)] = &[
    ("ipackets", "stoq_port_rx_packets_total", "Frames that the device received."),
    ("opackets", "stoq_port_tx_packets_total", "Frames that the device sent."),
    ("ibytes", "stoq_port_rx_bytes_total", "Bytes that the device received."),
    ("obytes", "stoq_port_tx_bytes_total", "Bytes that the device sent."),
    ("imissed", "stoq_port_rx_missed_total", "Frames that the device dropped: no descriptor was free."),
    ("ierrors", "stoq_port_rx_errors_total", "Frames that the device received in error."),
    ("oerrors", "stoq_port_tx_errors_total", "Frames that the device failed to send."),
    ("rx_nombuf", "stoq_port_rx_no_buffer_total", "Times that no buffer was free to receive into."),
];

fn port(source: &AdminSource, out: &mut Exposition) {
    let Some(network) = source.networks.first() else { return };
    out.family("stoq_port_mtu_bytes", MetricKind::Gauge, "The largest layer-3 packet of the port.");
    out.sample(&[("device", &network.device)], network.mtu);
    let stats = source.device.stats();
    for (name, metric, help) in PORT {
        // Where the kernel has the device, it has these too.
        if let Some((_, value)) = stats.iter().find(|(known, _)| known == name) {
            out.family(metric, MetricKind::Counter, help);
            out.sample(&[("device", &network.device)], value);
        }
    }
}

fn store(source: &AdminSource, out: &mut Exposition) {
    let Some(store) = &source.store else { return };
    let census = store.census();
    let mut gauge = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Gauge, help, value);
    let writable = u64::from(source.writable().is_ok());
    gauge("stoq_store_writable", "1 while the store can be written.", writable);
    let help =
        "Bytes that payloads, lanes and outboards take, with those reserved for what is being written.";
    gauge("stoq_store_usage_bytes", help, census.usage_bytes);
    if let Some(capacity) = store.capacity_bytes() {
        gauge("stoq_store_capacity_bytes", "The most that the usage may be.", capacity);
    }
    gauge("stoq_store_entries", "Payloads and sets that are held.", census.entries);
    gauge("stoq_store_leases", "Of the entries, those whose lease ends.", census.leases);
    gauge("stoq_store_cached_entries", "Of the entries, those merely cached.", census.cached);
    gauge("stoq_store_cached_bytes", "Bytes of those merely cached.", census.cached_bytes);
    let clock = store.clock_state();
    gauge(
        "stoq_store_clock_believed",
        "1 while leases end by the clock; 0 after it jumped.",
        clock.believed.into(),
    );
    let damage = store.damage();
    let help = "Files in the store's directory damaged: look at them, then remove them.";
    gauge("stoq_store_damaged_files", help, damage.files_set_aside);
    let mut counter = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Counter, help, value);
    counter(
        "stoq_store_clock_jumps_total",
        "Times that the clock jumped, at the start or later.",
        clock.jumps,
    );
    counter(
        "stoq_store_leases_ended_total",
        "Things that went because their leases were over.",
        store.ended(),
    );
    let help = "Things found damaged on the disk, by what became of them.";
    out.family("stoq_store_damage_total", MetricKind::Counter, help);
    for outcome in DamageOutcome::ALL {
        out.sample(&[("outcome", &outcome.name())], damage.count(outcome));
    }
    let checks = store.checks();
    out.family(
        "stoq_store_checks_total",
        MetricKind::Counter,
        "Checks of what is held against its token, by result.",
    );
    for (result, value) in [
        ("whole", checks.whole),
        ("damaged", checks.damaged),
        ("unreadable", checks.unreadable),
        ("skipped", checks.skipped),
    ] {
        out.sample(&[("result", &result)], value);
    }
    out.single(
        "stoq_store_checked_bytes_total",
        MetricKind::Counter,
        "Bytes read by these checks.",
        checks.bytes,
    );
    memory(source, out);
}

fn memory(source: &AdminSource, out: &mut Exposition) {
    let Some(stats) = source.memory() else { return };
    let mut gauge = |name: &str, help: &str, value: u64| out.single(name, MetricKind::Gauge, help, value);
    gauge("stoq_store_memory_bytes", "Payload bytes held in memory.", stats.held_bytes);
    out.family(
        "stoq_store_memory_reads_total",
        MetricKind::Counter,
        "Reads of payloads, by whether memory had them.",
    );
    for (result, value) in [("hit", stats.hits), ("miss", stats.misses)] {
        out.sample(&[("result", &result)], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_counter_has_a_place_of_its_own_and_a_help() {
        let mut places = HashSet::new();
        for &counter in Counter::ALL {
            let (name, help, labels) = family(counter);
            assert!(name.starts_with("stoq_") && name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
            assert!(places.insert((name, labels)), "{counter:?} is shown as another is");
        }
        let documented = include_str!("../../../docs/admin.md");
        for (name, _) in &places {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/admin.md");
        }
        let (name, _, labels) = family(Counter::HandshakesServerEarly);
        assert_eq!(
            (name.as_str(), labels),
            ("stoq_quic_handshakes_total", vec![("role", "server"), ("result", "early")])
        );
        let (name, _, labels) = family(Counter::DropNotQuic);
        assert_eq!((name.as_str(), labels), ("stoq_drops_total", vec![("reason", "not_quic")]));
    }
}

//! `/metrics`: the counters and gauges of the workers, the process, the port and the store, by Prometheus' conventions.

use super::fleet;
use super::source::AdminSource;
use super::store_metrics;
use super::text::{Exposition, MetricKind};
use crate::anycast::AnycastView;
use crate::{logging, panics};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;
use stoq::counters::Counter;
use stoq::histogram::Histogram;
use stoq::quic::qlog;
use stoq::send_limit::SendLimit;
use stoq::stages::{LoopStage, SAMPLE_TURNS};
use stoq::worker::{BudgetUse, WorkerStatus};

/// Counters with a common prefix are one family; the rest of a counter's name gives the values of its labels.
const FAMILIES: &[(&str, &str, &[&str], &str)] = &[
    ("drop_", "stoq_drops_total", &["reason"], "Packets and datagrams dropped, by reason."),
    (
        "handshakes_",
        "stoq_quic_handshakes_total",
        &["role", "result"],
        "QUIC handshakes, by this node's role and by result: completed (without early data), early (with it), failed.",
    ),
    (
        "requests_",
        "stoq_requests_total",
        &["kind", "result"],
        "Requests of peers that this gateway answered, by kind and result: ok, refused, abandoned by the peer.",
    ),
    (
        "hops_",
        "stoq_hops_total",
        &["result"],
        "Requests with a route: forwarded to another gateway, refused, or merged with one in flight.",
    ),
    (
        "rights_refused_",
        "stoq_rights_refused_total",
        &["right"],
        "Requests, streams of messages and QUIC datagrams refused because their peers lack the right to them.",
    ),
];

/// The family of a counter, its help, and the counter's labels in the family.
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
        let help = "Turns of the worker's loop: busy turns did work, empty turns did none.";
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
    limits(source, &mut out);
    gauges(source, &mut out);
    port(source, &mut out);
    store_metrics::store(source, &mut out);
    out.finish()
}

fn anycast_metrics(anycast: &AnycastView, out: &mut Exposition) {
    let help = "1 while the addresses of [anycast] are on their interface.";
    out.single("stoq_anycast_announced", MetricKind::Gauge, help, u8::from(anycast.announced.load(Relaxed)));
    let Some(path) = &anycast.exceptions else { return };
    let help = "Packets of the exception path that were dropped beside the workers, by reason: the kernel took them not, or the port had no room for the kernel's.";
    out.family("stoq_exception_path_drops_total", MetricKind::Counter, help);
    for (reason, value) in [("kernel", path.refused()), ("port", path.full())] {
        out.sample(&[("reason", &reason)], value);
    }
}

fn process(source: &AdminSource, out: &mut Exposition) {
    let facts = source.facts();
    out.family(
        "stoq_build_info",
        MetricKind::Gauge,
        "Always 1; the labels name the version, the node and its configuration.",
    );
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
    out.single("stoq_ready", MetricKind::Gauge, "1 while the gateway is ready: see /readyz.", ready);
    if let Some(anycast) = &source.anycast {
        anycast_metrics(anycast, out);
    }
    let draining = u8::from(source.shared.is_draining() || source.shared.turns_away());
    out.single(
        "stoq_draining",
        MetricKind::Gauge,
        "1 while the gateway ends and finishes running requests, or takes no new connections by its fleet's table.",
        draining,
    );
    let help =
        "When the first certificate of the chain that peers are sent expires, seconds since the Unix epoch.";
    out.single("stoq_certificate_expiry_timestamp_seconds", MetricKind::Gauge, help, facts.not_after_s());
    let taken = u8::from(source.reloads.last_was_taken());
    let help = "1 unless the last reload was refused. Then the configuration before it stays in effect.";
    out.single("stoq_config_last_reload_successful", MetricKind::Gauge, help, taken);
    out.family("stoq_config_reloads_total", MetricKind::Counter, "Reloads of the configuration, by result.");
    for (result, value) in [("taken", source.reloads.reloads()), ("refused", source.reloads.failures())] {
        out.sample(&[("result", &result)], value);
    }
    fleet::metrics(&source.fleet, out);
    let help = "Panics of the gateway's threads. Each ends the gateway.";
    out.single("stoq_panics_total", MetricKind::Counter, help, panics::count());
    let help = "Log lines left out by the bound log.lines_per_s.";
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
            "Packets in a receive burst; empty bursts are left out.",
        ),
        (
            |status| &status.counters.stages.turns,
            "stoq_turn_duration_seconds",
            (9, 27),
            1e-9,
            "Duration of busy turns of the worker's loop; one of 64 is measured.",
        ),
        (
            |status| &status.counters.rtts,
            "stoq_quic_smoothed_rtt_seconds",
            (5, 22),
            1e-6,
            "Smoothed round-trip times: one sample a second of each connection.",
        ),
        (
            |status| &status.counters.windows,
            "stoq_quic_congestion_window_bytes",
            (11, 28),
            1.0,
            "Congestion windows: one sample a second of each connection.",
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
        "Busy time of the worker, estimated from the turns that are measured.",
    );
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.counters.stages.busy_ns() as f64 / 1e9);
    }
    let help = "Busy time of the worker by stage of its loop, estimated from the turns that are measured.";
    out.family("stoq_worker_stage_seconds_total", MetricKind::Counter, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let sampled = status.counters.stages.sampled();
        for stage in LoopStage::ALL {
            let ns = sampled.ns(stage).saturating_mul(SAMPLE_TURNS);
            out.sample(&[("worker", &worker), ("stage", &stage.name())], ns as f64 / 1e9);
        }
    }
}

fn limits(source: &AdminSource, out: &mut Exposition) {
    let help =
        "Time that connections could not send more, by what kept them from it, of all connections together.";
    out.family("stoq_quic_limited_seconds_total", MetricKind::Counter, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let times = status.counters.limits.times();
        for limit in SendLimit::ALL {
            out.sample(&[("worker", &worker), ("limit", &limit.name())], times.of(limit).as_secs_f64());
        }
    }
}

fn gauges(source: &AdminSource, out: &mut Exposition) {
    let budget = &source.shared.window_budget;
    let help = "What may be promised to peers and held for them, bytes: windows, answers, messages.";
    out.single("stoq_window_budget_bytes", MetricKind::Gauge, help, budget.total_bytes());
    let help = "What is promised to peers and held for them, bytes, by use.";
    out.family("stoq_window_budget_taken_bytes", MetricKind::Gauge, help);
    for of in BudgetUse::ALL {
        out.sample(&[("use", &of.name())], budget.used_bytes(of));
    }
    let help = "What is promised to the node that has most and held for it, bytes. Without a node ID: peers without a certificate together.";
    out.family("stoq_window_budget_largest_bytes", MetricKind::Gauge, help);
    if let Some((node, held_bytes)) = budget.largest() {
        out.sample(&[("node_id", &node.map_or_else(String::new, |node| node.to_string()))], held_bytes);
    }
    let help = "1 while less than an eighth of that budget is left.";
    out.single("stoq_window_budget_short", MetricKind::Gauge, help, u8::from(budget.is_short()));
    out.family("stoq_connections", MetricKind::Gauge, "Open connections.");
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.connections.load(Relaxed));
    }
    half_open(source, out);
    let help =
        "Connections with unacknowledged packets whose peer sends no acknowledgments, as of the last second.";
    out.family("stoq_connections_unacknowledged", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], status.gauges.unacknowledged.load(Relaxed));
    }
    let help = "Entries in the worker's rings and queues: deliveries for applications, commands and hand-overs for the worker, \
                connection attempts, connections with packets to send. As of the last second.";
    out.family("stoq_ring_entries", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let gauges = &status.gauges;
        for (ring, entries) in [
            ("deliveries", gauges.deliveries.load(Relaxed)),
            ("commands", gauges.commands.load(Relaxed)),
            ("handovers", source.shared.handovers_waiting(worker)),
            ("attempts", gauges.attempts.load(Relaxed)),
            ("senders", gauges.senders.load(Relaxed)),
        ] {
            out.sample(&[("worker", &worker), ("ring", &ring)], entries);
        }
    }
    out.family("stoq_link_up", MetricKind::Gauge, "1 while the link of the worker's port is up.");
    for ((worker, status), network) in source.statuses.iter().enumerate().zip(&source.networks) {
        for (at, port) in network.ports().iter().enumerate() {
            let labels: [(&str, &dyn Display); 3] =
                [("worker", &worker), ("device", &port.device), ("driver", &port.driver)];
            out.sample(&labels, u8::from(status.gauges.link_up(at)));
        }
    }
    let named: BTreeMap<_, _> = source.peer_gateways(&source.facts()).into_iter().collect();
    if named.is_empty() {
        return;
    }
    out.family(
        "stoq_peer_gateway_up",
        MetricKind::Gauge,
        "1 while the worker's connection to the peer gateway is up.",
    );
    for (worker, status) in source.statuses.iter().enumerate() {
        for (node, up) in status.gauges.peer_gateways() {
            let name = named.get(&node).and_then(|name| name.as_deref()).unwrap_or_default();
            out.sample(&[("worker", &worker), ("node_id", &node), ("name", &name)], u8::from(up));
        }
    }
}

fn half_open(source: &AdminSource, out: &mut Exposition) {
    let help = "Connections that peers began and whose handshakes are not complete, by whether their clients have proven their addresses, \
                as of the last second.";
    out.family("stoq_half_open_connections", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        let all = status.gauges.half_open.load(Relaxed);
        let unproven = status.gauges.half_open_unproven.load(Relaxed).min(all);
        for (address, len) in [("proven", all - unproven), ("unproven", unproven)] {
            out.sample(&[("worker", &worker), ("address", &address)], len);
        }
    }
    let help = "1 while clients must prove their addresses before their handshakes begin: too many were begun and not completed.";
    out.family("stoq_half_open_short", MetricKind::Gauge, help);
    for (worker, status) in source.statuses.iter().enumerate() {
        out.sample(&[("worker", &worker)], u8::from(status.gauges.must_prove.load(Relaxed)));
    }
}

/// A device's statistics: DPDK's name, the metric and its help.
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
    let ports = source.ports();
    if ports.is_empty() {
        return;
    }
    out.family("stoq_port_mtu_bytes", MetricKind::Gauge, "The largest layer-3 packet of the port.");
    for port in ports {
        out.sample(&[("device", &port.device)], port.mtu);
    }
    let stats: Vec<_> = source.device.ports().iter().map(|port| (port.device(), port.stats())).collect();
    for (name, metric, help) in PORT.iter().filter(|_| !stats.is_empty()) {
        out.family(metric, MetricKind::Counter, help);
        for (device, stats) in &stats {
            let value = stats.iter().find(|(known, _)| known == name);
            value.iter().for_each(|(_, value)| out.sample(&[("device", device)], value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_counter_has_its_own_documented_metric_and_a_help() {
        let mut places = HashSet::new();
        for &counter in Counter::ALL {
            let (name, help, labels) = family(counter);
            assert!(name.starts_with("stoq_") && name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
            assert!(
                places.insert((name, labels)),
                "{counter:?} has the metric and labels of another counter"
            );
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

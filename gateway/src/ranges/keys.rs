//! The numeric keys of the configuration files.

use super::{Range, whole};
use stoq::limits::{
    CONNECTIONS_LEN_MAX, CORES_MAX, FABRIC_MTU_BYTES_MIN, HANDOVERS_PER_S_MAX, LEASE_S_MAX,
    MEMORY_BLOCK_BYTES, PACKET_THRESHOLD_LEN_MAX, PACKETS_PER_ACK_LEN_MAX, RATE_BITS_PER_S_MAX,
    RATE_BITS_PER_S_MIN, SCRUB_BYTES_PER_S_MAX, SCRUB_BYTES_PER_S_MIN, SCRUB_S_MAX, SPAN_S_MAX,
    STORE_BYTES_MAX, STORE_ENTRIES_LEN_MAX, VERIFY_THREADS_LEN_MAX, WINDOW_BUDGET_BYTES_MIN,
    WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WORKERS_MAX,
};
use stoq::quic::routable::CID_ROTATION_MAX;
use toml::Value;

const DAY_MS: u64 = SPAN_S_MAX * 1000;
const A_DAY: &str = "nothing waits for more than a day";
const SMALL_WINDOW: &str =
    "messages of 64 KiB that arrive together would fill it, and a peer would wait forever";
const LARGE_WINDOW: &str = "a peer could fill the memory";
const ENTRIES: &str = "no memory holds more";
const STORE: &str = "no file system holds more";

const fn receive_window(name: &'static str) -> Range {
    whole(name, (WINDOW_BYTES_MIN, WINDOW_BYTES_MAX), "bytes", SMALL_WINDOW, LARGE_WINDOW)
}

const fn send_window(name: &'static str) -> Range {
    let small = "a message of 64 KiB would wait for the acknowledgments of the one before";
    let large = "a peer that acknowledges nothing could fill the memory";
    whole(name, (WINDOW_BYTES_MIN, WINDOW_BYTES_MAX), "bytes", small, large)
}

const fn rate(name: &'static str) -> Range {
    let (small, large) = ("acknowledgments alone need more", "no port is faster");
    whole(name, (RATE_BITS_PER_S_MIN, RATE_BITS_PER_S_MAX), "bits a second", small, large)
        .or_zero_for("no bound")
}

/// The range of each numeric key, by its section and name.
pub const KEYS: &[Range] = &[
    whole(
        "workers.count",
        (1, WORKERS_MAX as u64),
        "workers",
        "no worker would serve the network",
        "a connection ID names its worker in 16 bits",
    ),
    whole(
        "workers.cores",
        (0, CORES_MAX as u64 - 1),
        "",
        "cores are counted from 0",
        "the kernel's sets of cores hold no more",
    ),
    whole(
        "workers.verify_threads",
        (0, VERIFY_THREADS_LEN_MAX as u64),
        "threads",
        "a number of threads is not negative",
        "workers keep fewer busy",
    ),
    whole(
        "workers.verify_cores",
        (0, CORES_MAX as u64 - 1),
        "",
        "cores are counted from 0",
        "the kernel's sets of cores hold no more",
    ),
    whole("network.udp_port", (1, 65_535), "", "0 is no port", "a port has 16 bits"),
    whole("network.vlan", (1, 4094), "", "0 is no VLAN (IEEE 802.1Q)", "4095 is reserved (IEEE 802.1Q)"),
    whole(
        "network.mtu",
        (1280, 64_494),
        "bytes",
        "IPv6 and QUIC need 1280 (RFC 8200 §5, RFC 9000 §14)",
        "a frame does not fit into a packet buffer",
    ),
    whole(
        "network.queues",
        (1, WORKERS_MAX as u64),
        "queue pairs",
        "a port without a queue carries nothing",
        "no worker would use more",
    ),
    whole(
        "network.rx_descriptors",
        (64, 32_768),
        "descriptors",
        "a burst of 64 frames does not fit",
        "no driver has more",
    ),
    whole(
        "network.tx_descriptors",
        (64, 32_768),
        "descriptors",
        "a burst of 64 frames does not fit",
        "no driver has more",
    ),
    whole(
        "network.mbufs",
        (256, 1 << 22),
        "buffers",
        "the descriptors and a burst need more",
        "4 million buffers take 8 GiB",
    ),
    whole(
        "network.memory_mib",
        (32, 1 << 20),
        "MiB",
        "the packet buffers of one queue do not fit",
        "a TiB is more than packet buffers need",
    ),
    whole(
        "network.buffer_bytes",
        (65_536, 1 << 30),
        "bytes",
        "one burst of datagrams does not fit",
        "the kernel takes no larger buffer",
    ),
    whole(
        "quic.idle_timeout_ms",
        (1000, DAY_MS),
        "milliseconds",
        "a slow peer would lose its connection",
        A_DAY,
    )
    .or_zero_for("never"),
    whole("quic.keep_alive_ms", (100, DAY_MS), "milliseconds", "PINGs would fill the link", A_DAY)
        .or_zero_for("never"),
    receive_window("quic.stream_receive_window_bytes"),
    receive_window("quic.receive_window_bytes"),
    receive_window("quic.receive_window_max_bytes").or_zero_for("windows that do not grow"),
    send_window("quic.send_window_bytes"),
    send_window("quic.send_window_max_bytes").or_zero_for("windows that do not grow"),
    whole(
        "quic.window_budget_bytes",
        (WINDOW_BUDGET_BYTES_MIN, STORE_BYTES_MAX),
        "bytes",
        "the first peer's windows would take it",
        "no machine has this memory",
    )
    .or_zero_for("a quarter of the memory"),
    whole(
        "quic.connections_per_node_max",
        (1, u32::MAX as u64),
        "connections",
        "no peer could connect",
        "connections are counted in 32 bits",
    )
    .or_zero_for("no bound"),
    whole(
        "quic.datagram_receive_buffer_bytes",
        (1200, 1 << 30),
        "bytes",
        "no datagram would fit",
        LARGE_WINDOW,
    )
    .or_zero_for("none"),
    whole(
        "quic.initial_congestion_window_bytes",
        (12_000, WINDOW_BYTES_MAX),
        "bytes",
        "a handshake of ten packets would stall (RFC 9002 §7.2)",
        "the first flight would flood any path",
    )
    .or_zero_for("32 packets"),
    rate("quic.rate_bits_per_s"),
    whole(
        "quic.packet_threshold",
        (3, PACKET_THRESHOLD_LEN_MAX as u64),
        "packets",
        "RFC 9002 §6.1.1 has 3 as the least",
        "a packet that comes later is taken for a duplicate",
    ),
    whole(
        "quic.packets_per_ack",
        (2, PACKETS_PER_ACK_LEN_MAX as u64),
        "packets",
        "2 is what QUIC has without the extension (RFC 9000 §13.2.2)",
        "a sender would learn of losses too late",
    ),
    whole(
        "quic.initial_udp_payload_bytes",
        (1200, 65_527),
        "bytes",
        "QUIC needs 1200 (RFC 9000 §14)",
        "a UDP payload is no larger",
    )
    .or_zero_for("what the port carries"),
    rate("gateway.rate_bits_per_s"),
    whole(
        "application.queues",
        (0, i64::MAX as u64 >> 1),
        "",
        "queues are counted from 0",
        "a queue number has 62 bits (protocol §2)",
    ),
    whole("application.capacity_bytes", (16_384, STORE_BYTES_MAX), "bytes", "hardly a payload fits", STORE),
    whole("application.quota_bytes", (16_384, STORE_BYTES_MAX), "bytes", "hardly a payload fits", STORE),
    whole("application.capacity_entries", (16, STORE_ENTRIES_LEN_MAX), "", "hardly a payload fits", ENTRIES),
    whole("application.quota_entries", (16, STORE_ENTRIES_LEN_MAX), "", "hardly a payload fits", ENTRIES),
    whole(
        "application.scrub_days",
        (1, SCRUB_S_MAX / 86_400),
        "days",
        "a time is not negative",
        "bytes rot for ten years before they are read",
    )
    .or_zero_for("only when asked"),
    whole(
        "application.scrub_bytes_per_s",
        (SCRUB_BYTES_PER_S_MIN, SCRUB_BYTES_PER_S_MAX),
        "bytes a second",
        "a terabyte would take longer than eleven days",
        "no disk is faster",
    ),
    whole(
        "application.lease_default_s",
        (10, LEASE_S_MAX),
        "seconds",
        "a payload would be gone before it is fetched",
        "a lease has at most a hundred years",
    )
    .or_zero_for("without end"),
    whole(
        "application.lease_max_s",
        (10, LEASE_S_MAX),
        "seconds",
        "a payload would be gone before it is fetched",
        "a lease has at most a hundred years",
    )
    .or_zero_for("as requested"),
    whole(
        "application.memory_bytes",
        (MEMORY_BLOCK_BYTES as u64, 1 << 46),
        "bytes",
        "one block of 2 MiB does not fit",
        "no machine has more",
    )
    .or_zero_for("none"),
    whole(
        "rights.queues",
        (0, i64::MAX as u64 >> 1),
        "",
        "queues are counted from 0",
        "a queue number has 62 bits (protocol §2)",
    ),
    whole("rights.quota_bytes", (16_384, STORE_BYTES_MAX), "bytes", "hardly a payload fits", STORE),
    whole("rights.quota_entries", (16, STORE_ENTRIES_LEN_MAX), "", "hardly a payload fits", ENTRIES),
    whole(
        "rights.lease_default_s",
        (10, LEASE_S_MAX),
        "seconds",
        "a payload would be gone before it is fetched",
        "a lease has at most a hundred years",
    )
    .or_zero_for("without end"),
    whole(
        "hops.budget_max_bytes",
        (65_536, STORE_BYTES_MAX),
        "bytes",
        "hardly a request would fit",
        "no payload is larger",
    ),
    whole(
        "hops.connections_max",
        (1, CONNECTIONS_LEN_MAX as u64),
        "connections",
        "no peer gateway would be reached",
        "a worker has no more connections",
    ),
    whole("shutdown.drain_ms", (0, DAY_MS), "milliseconds", "a time is not negative", A_DAY),
    whole(
        "anycast.settle_ms",
        (0, 60_000),
        "milliseconds",
        "a time is not negative",
        "a service manager would end the gateway first",
    ),
    whole("log.lines_per_s", (1, 1_000_000), "lines", "nothing would be logged", "0 sets no bound")
        .or_zero_for("no bound"),
    whole(
        "fleet.handover_pps_max",
        (1, HANDOVERS_PER_S_MAX as u64),
        "datagrams a second",
        "nothing would be handed over; leave fleet.handover out",
        "no worker receives more",
    ),
    whole(
        "fleet.fabric_mtu",
        (FABRIC_MTU_BYTES_MIN as u64, 65_535),
        "bytes",
        "a datagram of 1200 bytes does not fit into a packet of GUE",
        "no packet is larger",
    ),
    whole(
        "fleet.rotation.number",
        (0, CID_ROTATION_MAX as u64),
        "",
        "rotations are counted from 0",
        "a connection ID has 3 bits for it, and 7 is no rotation",
    ),
    whole(
        "qlog.sample",
        (1, u32::MAX as u64),
        "",
        "no connection would be logged",
        "connections are counted in 32 bits",
    ),
    whole(
        "qlog.capacity_bytes",
        (65_536, STORE_BYTES_MAX),
        "bytes",
        "the log of one connection does not fit",
        STORE,
    ),
];

/// The range of a key such as `quic.initial_udp_payload_bytes`. A further port's keys have the ranges of the first one's.
pub fn key(name: &str) -> Option<&'static Range> {
    let is_named = |range: &&Range| match name.strip_prefix("network.port.") {
        Some(key) => range.name.strip_prefix("network.") == Some(key),
        None => range.name == name,
    };
    KEYS.iter().find(is_named)
}

/// Checks every number of a file against its range. Numbers without a range are left to the types of the configuration.
///
/// # Errors
///
/// The first key out of its range, and the fix.
pub fn check_keys(file: &toml::Table) -> Result<(), (String, String)> {
    file.iter().try_for_each(|(name, value)| check(name, value))
}

fn check(name: &str, value: &Value) -> Result<(), (String, String)> {
    let checked = match value {
        Value::Table(table) => {
            return table.iter().try_for_each(|(inner, value)| check(&format!("{name}.{inner}"), value));
        }
        Value::Array(values) => return values.iter().try_for_each(|value| check(name, value)),
        Value::Integer(number) => key(name).map(|range| range.check_whole((*number).into())),
        Value::Float(number) => key(name).map(|range| range.check_real(*number)),
        _ => None,
    };
    checked.unwrap_or(Ok(())).map_err(|fix| (name.to_owned(), fix))
}

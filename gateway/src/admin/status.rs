//! `/status`: this gateway and the state of its parts.

use super::fleet::FleetRow;
use super::source::{AdminSource, unix_s};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use stoq::counters::Counter;
use stoq::datagram::NetworkKind;
use stoq::network::OpenPort;
use stoq::nic::Offloads;
use stoq::nic::interface::{Interface, InterfaceView};
use stoq::rights::{Grant, MessageQueues, Right};
use stoq::seed::{
    Census, CheckState, ClockState, DamageState, MemoryStats, ReadState, ScrubState, WriteState,
};
use stoq::send_limit::LimitTimes;
use stoq::tls::NodeId;

/// Leases that end soon, as far as they are counted.
const LEASES_TOLD_LEN_MAX: usize = 256;

/// The object that `/status` gives.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    node_id: NodeId,
    uptime_s: u64,
    configuration: Configuration,
    ready: bool,
    not_ready: Vec<String>,
    /// Bounds that peers press now, though the gateway serves on.
    short: Vec<String>,
    draining: bool,
    certificate: Certificate,
    ports: Vec<PortRow>,
    workers: Vec<WorkerRow>,
    peer_gateways: Vec<PeerGatewayRow>,
    /// The sections of rights in force, without their peers; empty: every peer may do everything.
    rights: Vec<RightsRow>,
    /// The fleet's table; none: the gateway has no directory.
    fleet: Option<FleetRow>,
    store: Option<StoreRow>,
}

#[derive(Debug, Serialize)]
struct Configuration {
    blake3: String,
}

#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    algorithm: String,
    not_after: String,
    /// Seconds from now; negative once it has expired.
    expires_in_s: i64,
}

#[derive(Debug, Serialize)]
struct PortRow {
    kind: NetworkKind,
    driver: String,
    device: String,
    mtu: u16,
    local: Vec<SocketAddr>,
    link_up: bool,
    /// The kernel's interface under it, if there is one.
    interface: Option<InterfaceView>,
    /// None on kernel sockets.
    offloads: Option<Offloads>,
    workers: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct WorkerRow {
    worker: usize,
    core: Option<usize>,
    numa_node: Option<usize>,
    /// The busy share of the last second, 0 to 1.
    load: f64,
    connections: usize,
    /// Connections that peers began and whose handshakes are not complete.
    half_open: usize,
    /// Connections with unacknowledged packets whose peer sends no acknowledgments.
    unacknowledged: usize,
    link_up: bool,
    rings: Rings,
    drops: u64,
    /// How long each limit kept connections from sending more, seconds.
    limited_s: LimitTimes,
}

#[derive(Debug, Serialize)]
struct Rings {
    deliveries: usize,
    commands: usize,
    handovers: usize,
    attempts: usize,
}

#[derive(Debug, Serialize)]
struct PeerGatewayRow {
    node_id: NodeId,
    name: Option<String>,
    /// The workers whose connection to it is up.
    workers_up: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct RightsRow {
    name: Option<String>,
    allow: Vec<&'static str>,
    /// The queues that take messages; none: every queue.
    queues: Option<Vec<u64>>,
}

#[derive(Debug, Serialize)]
struct StoreRow {
    writable: bool,
    reason: Option<String>,
    capacity_bytes: Option<u64>,
    #[serde(flatten)]
    census: Census,
    /// Leases that end within an hour, and within a day; at most [`LEASES_TOLD_LEN_MAX`] of each are counted.
    leases_in_hour: usize,
    leases_in_day: usize,
    /// Payloads and sets removed since the start because their leases had expired.
    leases_ended: u64,
    /// Bytes of the store's database.
    database_bytes: u64,
    clock: ClockState,
    checks: CheckState,
    scrub: ScrubState,
    damage: DamageState,
    memory: Option<MemoryStats>,
    /// How blocks that are not in memory are read.
    reads: ReadState,
    /// How long payloads are written past the page cache.
    writes: WriteState,
}

impl Status {
    pub(super) fn of(source: &AdminSource) -> Self {
        let facts = source.facts();
        let not_ready = source.not_ready();
        let certificate = &facts.certificate;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node_id: certificate.node_id,
            uptime_s: source.started.elapsed().map_or(0, |up| up.as_secs()),
            configuration: Configuration { blake3: facts.fingerprint.clone() },
            ready: not_ready.is_empty(),
            not_ready,
            short: source.short(),
            draining: source.shared.is_draining() || source.shared.turns_away(),
            certificate: Certificate {
                subject: certificate.subject.clone(),
                algorithm: certificate.algorithm.clone(),
                not_after: certificate.not_after.clone(),
                expires_in_s: (facts.not_after_s() as i64).saturating_sub(unix_s() as i64),
            },
            ports: ports(source),
            workers: (0..source.statuses.len()).map(|index| worker(source, index)).collect(),
            peer_gateways: source
                .peer_gateways(&facts)
                .into_iter()
                .map(|(node, name)| peer_gateway(source, node, name))
                .collect(),
            rights: facts.rights.iter().map(|grant| rights(grant)).collect(),
            fleet: FleetRow::of(&source.fleet),
            store: kept(source),
        }
    }
}

/// The ports. Workers on queues of one device share a port. Kernel sockets are a port each, if their addresses differ.
fn ports(source: &AdminSource) -> Vec<PortRow> {
    let mut ports: Vec<PortRow> = Vec::new();
    for (worker, network) in source.networks.iter().enumerate() {
        for (at, port) in network.ports().iter().enumerate() {
            if let Some(row) = ports.iter_mut().find(|row| row.device == port.device) {
                row.workers.push(worker);
                continue;
            }
            let opened = source.device.ports().get(at);
            ports.push(PortRow {
                kind: port.kind,
                driver: port.driver.clone(),
                device: port.device.clone(),
                mtu: port.mtu,
                local: port.local.clone(),
                link_up: source.link_up(at),
                interface: opened.and_then(OpenPort::interface).map(Interface::view),
                offloads: opened.map(OpenPort::offloads),
                workers: vec![worker],
            });
        }
    }
    ports
}

fn worker(source: &AdminSource, index: usize) -> WorkerRow {
    let status = &source.statuses[index];
    let core = source.cores.get(index).copied();
    let drops = Counter::ALL.iter().filter(|counter| counter.name().starts_with("drop_"));
    WorkerRow {
        worker: index,
        core,
        numa_node: core.and_then(numa_node),
        load: source.load(index),
        connections: status.connections.load(Relaxed),
        half_open: status.gauges.half_open.load(Relaxed),
        unacknowledged: status.gauges.unacknowledged.load(Relaxed),
        link_up: (0..source.ports().len()).any(|port| status.gauges.link_up(port)),
        rings: Rings {
            deliveries: status.gauges.deliveries.load(Relaxed),
            commands: status.gauges.commands.load(Relaxed),
            handovers: source.shared.handovers_waiting(index),
            attempts: status.gauges.attempts.load(Relaxed),
        },
        drops: drops.map(|&counter| status.counters.get(counter)).sum(),
        limited_s: status.counters.limits.times(),
    }
}

/// The NUMA node of a core, if the kernel names one.
fn numa_node(core: usize) -> Option<usize> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next()
}

fn peer_gateway(source: &AdminSource, node_id: NodeId, name: Option<String>) -> PeerGatewayRow {
    let is_up = |worker: &usize| {
        source.statuses[*worker].gauges.peer_gateways().iter().any(|&(n, up)| up && n == node_id)
    };
    let workers_up = (0..source.statuses.len()).filter(is_up).collect();
    PeerGatewayRow { node_id, name, workers_up }
}

fn rights(grant: &Grant) -> RightsRow {
    let requests = grant.allowed.iter().filter(|right| *right != Right::Messages);
    let queues = match &grant.queues {
        MessageQueues::All => None,
        MessageQueues::Listed(queues) => Some(queues.iter().copied().collect()),
    };
    RightsRow { name: grant.section.clone(), allow: requests.map(Right::name).collect(), queues }
}

fn kept(source: &AdminSource) -> Option<StoreRow> {
    let store = source.store.as_ref()?;
    let reason = source.writable().err();
    Some(StoreRow {
        writable: reason.is_none(),
        reason,
        capacity_bytes: store.capacity_bytes(),
        census: store.census(),
        leases_in_hour: store.leases_due(unix_s() + 3_600, LEASES_TOLD_LEN_MAX),
        leases_in_day: store.leases_due(unix_s() + 86_400, LEASES_TOLD_LEN_MAX),
        leases_ended: store.ended(),
        database_bytes: store.database_bytes(),
        clock: store.clock_state(),
        checks: store.checks(),
        scrub: store.scrub_state(),
        damage: store.damage(),
        memory: source.memory(),
        reads: store.reads(),
        writes: store.writes(),
    })
}

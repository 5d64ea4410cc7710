//! The data of the endpoint: handles on the workers' statuses, and values that need several samples.

use super::recent::Recent;
use crate::anycast::AnycastView;
use crate::dates::out_of_dates;
use crate::fleet::view::FleetView;
use crate::panics;
use crate::reloads::Reloads;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use stoq::counters::Counter;
use stoq::datagram::NetworkInfo;
use stoq::limits::{HALF_OPEN_LEN_MAX, WORKER_STUCK_S};
use stoq::network::{DeviceView, OpenPort};
use stoq::nic::tap::Tap;
use stoq::rights::Grant;
use stoq::seed::{MemoryStats, MemoryTier, Store};
use stoq::tls::{CertificateSummary, NodeId};
use stoq::token::AnyToken;
use stoq::worker::{NodeShared, WorkerStatus};

/// How long the result of a write probe stays valid.
const PROBE_AGE_MAX: Duration = Duration::from_secs(30);

/// Facts that a reload may change.
#[derive(Clone, Debug)]
pub struct Facts {
    /// BLAKE3 of the configuration file, hexadecimal.
    pub fingerprint: String,
    /// The certificate that peers see.
    pub certificate: CertificateSummary,
    /// The certificates of its issuers that peers are sent.
    pub issuers: Vec<CertificateSummary>,
    /// Peer gateways and their configured names.
    pub peer_gateways: Vec<(NodeId, Option<String>)>,
    /// The rights of each section; empty: every peer may do everything.
    pub rights: Vec<Arc<Grant>>,
}

impl Facts {
    /// Every certificate that peers are sent.
    pub fn chain(&self) -> Vec<CertificateSummary> {
        [self.certificate.clone()].into_iter().chain(self.issuers.iter().cloned()).collect()
    }

    /// When the first certificate of the chain expires, seconds since the Unix epoch.
    pub(super) fn not_after_s(&self) -> u64 {
        let issuers = self.issuers.iter().map(|issuer| issuer.not_after_s);
        issuers.fold(self.certificate.not_after_s, u64::min)
    }
}

/// The data from which the endpoint answers.
pub struct AdminSource {
    pub(super) shared: Arc<NodeShared>,
    pub(super) statuses: Vec<Arc<WorkerStatus>>,
    pub(super) networks: Vec<NetworkInfo>,
    pub(super) cores: Vec<usize>,
    pub(super) device: DeviceView,
    pub(super) store: Option<Arc<Store>>,
    pub(super) tap: Option<Arc<Tap>>,
    pub(super) reloads: Arc<Reloads>,
    pub(super) fleet: Arc<FleetView>,
    pub(super) anycast: Option<Arc<AnycastView>>,
    memory: Option<MemoryTier>,
    memory_seen: Mutex<MemoryStats>,
    pub(super) started: SystemTime,
    facts: RwLock<Facts>,
    watched: Vec<Watched>,
    pub(super) recent: Recent,
    probing: AtomicBool,
    probed: Mutex<(Instant, Result<(), String>)>,
}

/// A worker's progress between samples.
#[derive(Debug)]
struct Watched {
    polls: AtomicU64,
    /// Samples since its last turn.
    still: AtomicU32,
    /// The time of the last sample, and the worker's busy time by then, nanoseconds.
    looked: Mutex<(Instant, u64)>,
    /// The busy share of the time between the last two samples, millionths.
    load: AtomicU64,
}

/// The parts of a gateway that the endpoint shows.
pub struct AdminParts {
    /// State that the workers share.
    pub shared: Arc<NodeShared>,
    /// The status of each worker.
    pub statuses: Vec<Arc<WorkerStatus>>,
    /// The network of each worker.
    pub networks: Vec<NetworkInfo>,
    /// The core of each worker; workers past the end are not pinned.
    pub cores: Vec<usize>,
    /// The device under the networks.
    pub device: DeviceView,
    /// The store, where there is one.
    pub store: Option<Arc<Store>>,
    /// The memory tier before the store.
    pub memory: Option<MemoryTier>,
    /// The source of captured frames, where captures are configured.
    pub tap: Option<Arc<Tap>>,
    /// The reloads so far.
    pub reloads: Arc<Reloads>,
    /// What the gateway knows of its fleet.
    pub fleet: Arc<FleetView>,
    /// Its announced addresses, where it has such.
    pub anycast: Option<Arc<AnycastView>>,
}

impl AdminSource {
    /// Makes a source of these parts.
    pub fn new(parts: AdminParts, facts: Facts) -> Self {
        let AdminParts {
            shared,
            statuses,
            networks,
            cores,
            device,
            store,
            memory,
            tap,
            reloads,
            fleet,
            anycast,
        } = parts;
        let now = Instant::now();
        let watched = statuses.iter().map(|_| Watched {
            polls: AtomicU64::new(0),
            still: AtomicU32::new(0),
            looked: Mutex::new((now, 0)),
            load: AtomicU64::new(0),
        });
        Self {
            watched: watched.collect(),
            shared,
            statuses,
            networks,
            cores,
            device,
            store,
            memory,
            tap,
            reloads,
            fleet,
            anycast,
            recent: Recent::default(),
            memory_seen: Mutex::default(),
            started: SystemTime::now(),
            facts: RwLock::new(facts),
            probing: AtomicBool::new(false),
            probed: Mutex::new((now, Ok(()))),
        }
    }

    /// Drops the blocks of a payload that was removed.
    pub(super) fn forget(&self, token: &AnyToken) {
        if let (Some(memory), AnyToken::Content(token)) = (&self.memory, token) {
            memory.forget(token);
        }
    }

    /// The configured peer gateways, and the other members of the fleet to which a worker keeps or has a connection; each with its name.
    pub(super) fn peer_gateways(&self, facts: &Facts) -> Vec<(NodeId, Option<String>)> {
        let mut listed = facts.peer_gateways.clone();
        let mut known: BTreeSet<_> = listed.iter().map(|(node, _)| *node).collect();
        let table = self.fleet.table();
        for (node, _) in self.statuses.iter().flat_map(|status| status.gauges.peer_gateways()) {
            if known.insert(node) {
                let row = table.as_ref().and_then(|table| table.roster.gateways.get(&node));
                listed.push((node, row.map(|row| row.name.clone())));
            }
        }
        listed
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_facts(&self, facts: Facts) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    pub(super) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Samples the workers' progress. Called once a second.
    pub(super) fn tick(&self) {
        self.recent.tick(&self.statuses);
        for (status, watched) in self.statuses.iter().zip(&self.watched) {
            let counters = &status.counters;
            let polls = counters.get(Counter::EmptyPolls).wrapping_add(counters.get(Counter::BusyPolls));
            let moved = watched.polls.swap(polls, Relaxed) != polls;
            watched.still.store(if moved { 0 } else { watched.still.load(Relaxed) + 1 }, Relaxed);
            let now = (Instant::now(), counters.stages.busy_ns());
            let mut looked = watched.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *looked, now);
            let passed = (now.0 - before.0).as_nanos().max(1);
            let busy = u128::from(now.1.saturating_sub(before.1)) * 1_000_000 / passed;
            watched.load.store(busy.min(1_000_000) as u64, Relaxed);
        }
    }

    /// The busy share of a worker's last second, 0 to 1, estimated from its sampled turns.
    pub(super) fn load(&self, worker: usize) -> f64 {
        self.watched.get(worker).map_or(0.0, |watched| watched.load.load(Relaxed) as f64 / 1e6)
    }

    /// Workers that have made no turn for [`WORKER_STUCK_S`] seconds.
    pub(super) fn stuck(&self) -> impl Iterator<Item = usize> + '_ {
        let stuck = |watched: &Watched| watched.still.load(Relaxed) >= WORKER_STUCK_S;
        self.watched.iter().enumerate().filter(move |(_, watched)| stuck(watched)).map(|(worker, _)| worker)
    }

    /// Probes whether the store can be written, unless a probe is running. Blocks on the disk.
    pub(super) fn probe(&self) {
        let Some(store) = &self.store else { return };
        if self.probing.swap(true, Relaxed) {
            return;
        }
        let result = store.probe().map_err(|error| error.to_string());
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), result);
        self.probing.store(false, Relaxed);
    }

    /// Statistics of the memory tier; the last known ones while another thread has its lock.
    pub(super) fn memory(&self) -> Option<MemoryStats> {
        let memory = self.memory.as_ref()?;
        let mut seen = self.memory_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = memory.try_stats() {
            *seen = stats;
        }
        Some(*seen)
    }

    /// The result of the last write probe. A success older than [`PROBE_AGE_MAX`] means that the disk does not answer.
    pub(super) fn writable(&self) -> Result<(), String> {
        if !self.has_store() {
            return Ok(());
        }
        let (at, result) = self.probed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match result {
            Ok(()) if at.elapsed() > PROBE_AGE_MAX => Err("the disk does not answer".into()),
            result => result,
        }
    }

    /// Every reason why this gateway is not ready; none if it is ready.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.shared.is_draining() {
            wrong.push("draining".to_owned());
        }
        if self.shared.turns_away() {
            wrong.push("drained by the fleet's table: `stoq-gateway fleet active` ends it".to_owned());
        }
        // Not their messages, which may hold bytes of peers: the log has them.
        wrong.extend(panics::seen().iter().map(|panicked| format!("thread {} panicked", panicked.thread)));
        wrong.extend(self.device.lost().map(|lost| lost.to_string()));
        wrong.extend(self.stuck().map(|worker| format!("worker {worker} makes no turns")));
        let down = self.ports_down();
        // While one port is up, the gateway serves by it.
        if down.len() == self.ports().len() {
            wrong.extend(down);
        }
        wrong.extend(out_of_dates(&self.facts().chain(), SystemTime::now()));
        if let Err(reason) = self.writable() {
            wrong.push(format!("the store cannot be written: {reason}"));
        }
        wrong
    }

    /// The ports; the workers have queues at each.
    pub(super) fn ports(&self) -> &[NetworkInfo] {
        self.networks.first().map_or(&[], NetworkInfo::ports)
    }

    /// Whether the link of a port is up for each worker, and the kernel's interface under it.
    pub(super) fn link_up(&self, port: usize) -> bool {
        self.port_down(port).is_none()
    }

    /// The fault of each port that is down.
    fn ports_down(&self) -> Vec<String> {
        (0..self.ports().len()).filter_map(|port| self.port_down(port)).collect()
    }

    fn port_down(&self, port: usize) -> Option<String> {
        let interface = self.device.ports().get(port).and_then(OpenPort::interface);
        let fault = interface.and_then(|interface| interface.view().fault());
        fault.or_else(|| {
            let down = self.statuses.iter().position(|status| !status.gauges.link_up(port))?;
            Some(match self.ports() {
                [_] => format!("port of worker {down} is down"),
                ports => format!("port {} is down", ports[port].device),
            })
        })
    }

    /// Every bound that peers press now, and every port of several that is down, though the gateway serves on.
    pub(super) fn short(&self) -> Vec<String> {
        let down = self.ports_down();
        let serves_on = down.len() < self.ports().len();
        let down =
            down.into_iter().filter(|_| serves_on).map(|fault| format!("{fault}; the others serve on"));
        let pressed =
            self.statuses.iter().enumerate().filter(|(_, status)| status.gauges.must_prove.load(Relaxed));
        let told = |(worker, status): (usize, &Arc<WorkerStatus>)| {
            let gauges = &status.gauges;
            format!(
                "worker {worker} is short of half-open connections: {} of {HALF_OPEN_LEN_MAX}, {} of clients that have not proven their \
                 addresses; clients must prove them first (Retry)",
                gauges.half_open.load(Relaxed),
                gauges.half_open_unproven.load(Relaxed),
            )
        };
        let budget = &self.shared.window_budget;
        let memory = budget.is_short().then(|| budget.largest()).flatten().map(|(node, held_bytes)| {
            let node = node.map_or_else(|| "peers without a certificate".to_owned(), |node| node.to_string());
            let (taken_bytes, total_bytes) = (budget.taken_bytes(), budget.total_bytes());
            format!(
                "memory for peers is short: {taken_bytes} of {total_bytes} bytes (quic.window_budget_bytes) are taken, {held_bytes} of them by {node}"
            )
        });
        pressed.map(told).chain(memory).chain(down).collect()
    }
}

/// Seconds since the Unix epoch.
pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

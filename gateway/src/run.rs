//! The appliance: from a configuration to a running gateway, and to its orderly end.

use crate::admin::{Admin, AdminParts, AdminSource};
use crate::anycast::{Anycast, AnycastView};
use crate::capture::{CaptureServer, Secrets};
use crate::config::{ApplicationConfig, FleetConfig, GatewayConfig, SeedConfig, load_gateway};
use crate::dates::{Dates, out_of_dates};
use crate::events::{Ended, Event, Up};
use crate::faults::{SignalError, started};
use crate::fleet::view::FleetView;
use crate::fleet::{AttachedGateway, FleetPart};
use crate::peer_list::PeerList;
use crate::port_watch::PortWatch;
use crate::reload::{self, Live};
use crate::reloads::Reloads;
use crate::service::Service;
use crate::tls::KeyLogger;
use crate::watch::Watch;
use crate::{descriptors, logging, output, panics, renewable, rights};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use stoq::application::{Application, Discard, Echo, Placement};
use stoq::datagram::NetworkInfo;
use stoq::hop::Hops;
use stoq::limits::LOG_FLUSH_MS_MAX;
use stoq::network::{Besides, OpenError, OpenNetwork, OpenPort, Running, machine};
use stoq::nic::tap::Tap;
use stoq::node::{ApplicationHost, Hosted, MakeApplication, Node, NodeConfig};
use stoq::seed::{Cache, MemoryPages, MemoryTier, Seed, SeedParts, Store};
use stoq::tls::{Identity, NodeId};

/// The program's name on standard error.
pub const PROGRAM: &str = "stoq-gateway";

/// The exit code of a gateway that a second signal ended before running requests had finished.
const INTERRUPTED: u8 = 130;

/// SIGINT and SIGTERM, which end a gateway, and SIGHUP, which makes it reload. Register them before the gateway starts: a signal that
/// arrives during the start is then handled once the gateway runs.
///
/// # Errors
/// The kernel refuses a signal handler.
pub fn signals() -> anyhow::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| SignalError(error).into())
}

/// A gateway that serves.
pub struct Gateway {
    node: Running<Node>,
    live: Live,
    port_watch: PortWatch,
    up: Option<Box<Up>>,
    service: Service,
    anycast: Option<Anycast>,
    _capture: Option<CaptureServer>,
}

impl Gateway {
    /// Opens everything and starts serving.
    ///
    /// # Errors
    /// Names the first part that cannot be opened, and the fix.
    pub fn start(config: &GatewayConfig) -> anyhow::Result<Self> {
        Self::start_with(config, Vec::new())
    }

    /// Like [`Gateway::start`], with more applications than the configuration has.
    ///
    /// # Errors
    /// Those of [`Gateway::start`].
    pub fn start_with(config: &GatewayConfig, more: Vec<Hosted>) -> anyhow::Result<Self> {
        machine::ensure_memory(&config.network, config.memory_tier_bytes())?;
        let (tap, key_log) = capturing(config);
        let mut anycast = config.anycast.as_ref().map(Anycast::open).transpose()?;
        let inputs = reload::inputs(config);
        let fleet = FleetPart::start(config)?;
        let (renewed, identity) = renewable::node(config, FleetPart::keys(fleet.as_ref()), key_log.clone())?;
        fleet.as_ref().map_or(Ok(()), |fleet| fleet.begin(identity.node_id()))?;
        // The network opens first: DPDK takes its huge pages before the store does.
        let anycast_view = anycast.as_ref().map(Anycast::view);
        let opened = open_network(config, tap.as_ref(), anycast_view.as_deref())?;
        let hops = Arc::new(Hops::new(renewable::policy(config, identity.node_id()), BTreeSet::new()));
        let seeds = Seeds::new(identity.node_id(), &hops, config)?;
        let hosted = config.application.iter().map(|app| seeds.hosted(app)).chain(more).collect();
        let node_config = NodeConfig {
            hops: Some(hops.clone()),
            cache: seeds.cache()?,
            idle: config.workers.idle,
            cores: config.workers.cores.clone(),
            verify: config.workers.verify(),
            thread_setup: opened.thread_setup(),
            ..renewed
        };
        let node = opened.start_node(&node_config, hosted)?;
        log_serving(config, &node);
        Anycast::carry_on(anycast.as_mut(), &config.network, node.networks().first())?;
        let reloads = Arc::<Reloads>::default();
        let fleet_view = FleetPart::view(fleet.as_ref());
        let peers = PeerList::new(node.shared().clone(), node.wakers().to_vec(), hops.clone());
        peers.configure(node_config.peer_gateways, config.dials_members());
        let attached = attached(config, peers, fleet.as_ref(), identity.node_id());
        let shown = AdminShown {
            tap: tap.clone(),
            reloads: reloads.clone(),
            fleet: fleet_view.clone(),
            anycast: anycast_view,
        };
        let admin = admin(config, &node, &identity, &seeds, shown)?;
        FleetPart::tell_readiness(fleet.as_ref(), admin.as_ref().map(Admin::readiness));
        let chain = identity.summaries()?;
        let refused = out_of_dates(&chain, SystemTime::now()).is_some();
        let node_id = identity.node_id();
        log_up(config, node_id, refused);
        let dates = started("checks certificates", Dates::watch(chain))?;
        let store = seeds.parts.map(|parts| parts.store);
        let devices = devices(&node);
        let capture = start_capture(config, &devices, tap)?;
        let port_watch = PortWatch::start(node.device(), devices, node.statuses().to_vec())?;
        let service = Service::ready(node.statuses())?;
        Anycast::follow_from(anycast.as_mut(), admin.as_ref().map(Admin::readiness))?;
        let up = up(config, &node, node_id, !refused, admin.as_ref());
        let live = Live::new(
            config,
            inputs,
            reload::ReloadParts {
                identity,
                dates,
                hops,
                attached,
                store,
                admin,
                fleet,
                fleet_view,
                key_log,
                reloads,
            },
        );
        Ok(Self { node, live, port_watch, up: Some(Box::new(up)), service, anycast, _capture: capture })
    }

    /// The event that tells programs that the gateway serves. Only the first call returns it.
    pub fn up(&mut self) -> Option<Box<Up>> {
        self.up.take()
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The admin endpoint, if there is one.
    pub fn admin(&self) -> Option<&Admin> {
        self.live.admin()
    }

    /// Serves until SIGINT or SIGTERM, then drains running requests; a second such signal ends the process at once, with exit code 1
    /// if a fault ends it and 130 otherwise. Reloads `file` on
    /// SIGHUP and, with `reload.watch`, when `file` or a file that it names changes, and calls `tell` with the outcome. Returns the final
    /// counters, and the fault that ended it, if one did: a lost port or a panic.
    pub fn run(
        mut self,
        mut signals: Signals,
        file: &Path,
        mut tell: impl FnMut(&Event),
    ) -> (Ended, anyhow::Result<()>) {
        let mut watch =
            self.live.config().reload.watch.then(Watch::start).transpose().unwrap_or_else(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "changed files cause no reload; send SIGHUP to reload"
                );
                None
            });
        let handle = signals.handle();
        let mut arrived = signals.forever();
        loop {
            if let Some(watch) = &mut watch {
                watch.follow(reload::files(file, self.live.config()));
            }
            if arrived.next() != Some(SIGHUP) {
                break;
            }
            tell(&self.live.reload(&self.node, file));
        }
        drop(watch);
        panics::ending();
        tracing::info!(
            drain_ms = self.live.config().shutdown.drain_ms,
            "stopping: no new requests; finishing running requests"
        );
        let lost = self.port_watch.noted();
        let fault = move || {
            let panicked = panics::seen().into_iter().next();
            let lost = lost.get().cloned().map(anyhow::Error::from);
            lost.or(panicked.map(Into::into)).map_or(Ok(()), Err)
        };
        let ended = std::thread::scope(|scope| {
            let fault = fault.clone();
            // A second signal ends the process while the drain goes on.
            scope.spawn(move || {
                if arrived.any(|signal| signal != SIGHUP) {
                    tracing::warn!("second signal: not waiting for running requests");
                    logging::flush();
                    let limit = Duration::from_millis(LOG_FLUSH_MS_MAX);
                    let failed =
                        |error| output::failed_within(PROGRAM, logging::error_prefix(), &error, limit);
                    std::process::exit(fault().map_or_else(failed, |()| INTERRUPTED).into());
                }
            });
            let ended = self.stop();
            handle.close();
            ended
        });
        (ended, fault())
    }

    /// Drains running requests, then closes every connection and the network. Returns the final counters.
    pub fn stop(self) -> Ended {
        self.service.stopping();
        if let Some(anycast) = &self.anycast {
            anycast.withdraw();
        }
        let drain_ms = self.live.config().shutdown.drain_ms;
        // No request ends over a port that is lost.
        self.node.drain_while(Duration::from_millis(drain_ms), || self.port_watch.lost().is_none());
        for port in self.node.device().ports() {
            let counts: Vec<_> = port.stats().iter().map(|(name, value)| format!("{name}={value}")).collect();
            tracing::info!(device = port.device(), stats = counts.join(" "), "port counted");
        }
        // Both read the device, so they end before it closes.
        drop((self.live, self.port_watch));
        let statuses = self.node.statuses().to_vec();
        drop(self.node);
        tracing::info!("stopped");
        Ended::of(statuses.iter().map(AsRef::as_ref))
    }
}

/// Runs the gateway of this file to its end, as `stoq-gateway run` does, with more applications than the file has. With `json` it prints
/// its events.
///
/// # Errors
/// It does not start, the event of its start cannot be printed, or a fault ended it.
pub fn serve(file: &Path, json: bool, more: Vec<Hosted>) -> anyhow::Result<()> {
    let config = load_gateway(file)?;
    logging::start(&config.log)?;
    panics::watch(config.shutdown.on_panic);
    raise_limit(&config);
    let signals = signals()?;
    let mut gateway = Gateway::start_with(&config, more)?;
    // A program waits for this line. If it cannot be printed, the gateway ends, so that the program does not wait forever.
    if json && let Some(up) = gateway.up() {
        Event::Up(up).print()?;
    }
    // A program that needs the first line alone may have closed its end. After a line that was not written whole, no other follows.
    let mut is_read = json;
    let mut tell = |event: &Event| {
        if is_read && let Err(error) = event.print() {
            tracing::debug!(%error, "standard output takes no more events");
            is_read = false;
        }
    };
    let (ended, result) = gateway.run(signals, file, &mut tell);
    tell(&Event::Ended(ended));
    result
}

/// The event that tells that the gateway serves.
fn up(
    config: &GatewayConfig,
    node: &Running<Node>,
    node_id: NodeId,
    certificate_valid: bool,
    admin: Option<&Admin>,
) -> Up {
    Up {
        certificate_valid,
        version: env!("CARGO_PKG_VERSION"),
        node_id,
        cipher: config.tls.cipher.to_string(),
        workers: node.networks().to_vec(),
        offloads: node.device().ports().first().map(OpenPort::offloads),
        huge_pages: node.device().huge_pages(),
        admin: admin.map(Admin::local),
        capture: config.capture.socket.clone(),
    }
}

fn log_up(config: &GatewayConfig, node_id: NodeId, refused: bool) {
    let state = if refused { "gateway up, and not ready" } else { "gateway ready" };
    tracing::info!(%node_id, cipher = %config.tls.cipher, version = env!("CARGO_PKG_VERSION"), "{state}");
}

/// Opens the network, with what is beside its queues.
fn open_network(
    config: &GatewayConfig,
    tap: Option<&Arc<Tap>>,
    anycast: Option<&AnycastView>,
) -> Result<OpenNetwork, OpenError> {
    let exceptions = anycast.and_then(|anycast| anycast.exceptions.clone());
    let besides = Besides { tap: tap.cloned(), exceptions };
    OpenNetwork::open_with(&config.network, config.workers.count.into(), &besides)
}

/// The gateway as its fleet's table changes it, from now on.
fn attached(
    config: &GatewayConfig,
    peers: PeerList,
    fleet: Option<&FleetPart>,
    own: NodeId,
) -> Arc<AttachedGateway> {
    let handover_pps_max = config.fleet.as_ref().and_then(FleetConfig::handover_pps_max);
    let settle = Duration::from_millis(config.anycast.as_ref().map_or(0, |anycast| anycast.settle_ms));
    let attached = AttachedGateway::new(own, peers, handover_pps_max, settle);
    FleetPart::attach(fleet, &attached);
    attached
}

/// The names of the node's ports.
fn devices(node: &Running<Node>) -> Vec<String> {
    let ports = node.networks().first().map_or(&[][..], NetworkInfo::ports);
    ports.iter().map(|port| port.device.clone()).collect()
}

/// Where the capture's frames and the secrets of TLS go, if there is a capture.
fn capturing(config: &GatewayConfig) -> (Option<Arc<Tap>>, KeyLogger) {
    let tap = config.capture.socket.is_some().then(Arc::<Tap>::default);
    let secrets = tap.clone().filter(|_| config.capture.key_log).map(Secrets);
    (tap, secrets.map(|secrets| Arc::new(secrets) as _))
}

/// Serves the capture, if there is one.
fn start_capture(
    config: &GatewayConfig,
    devices: &[String],
    tap: Option<Arc<Tap>>,
) -> anyhow::Result<Option<CaptureServer>> {
    let capture = config.capture.socket.as_deref().zip(tap);
    capture.map(|(socket, tap)| CaptureServer::start(socket, devices.to_vec(), tap)).transpose()
}

/// Logs what each worker serves, and what peers may do.
fn log_serving(config: &GatewayConfig, node: &Running<Node>) {
    for (worker, network) in node.networks().iter().enumerate() {
        let local: Vec<_> = network.local.iter().map(ToString::to_string).collect();
        let core = config.workers.cores.get(worker);
        tracing::info!(worker, core, %network, local = local.join(" "), "serving");
    }
    rights::log(config);
}

/// Raises the limit of open files. A gateway with fewer than it can need takes fewer puts at a time.
fn raise_limit(config: &GatewayConfig) {
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is; set LimitNOFILE or `ulimit -n`");
    }
    let (needed, (limit, _)) = (descriptors::needed(config), descriptors::limits());
    if needed > limit {
        tracing::warn!(
            needed,
            limit,
            "the gateway may have fewer files open than it can need: the store takes fewer puts at a time; raise LimitNOFILE or `ulimit -Hn`"
        );
    }
}

/// What the admin endpoint shows of other parts of the gateway.
struct AdminShown {
    tap: Option<Arc<Tap>>,
    reloads: Arc<Reloads>,
    fleet: Arc<FleetView>,
    anycast: Option<Arc<AnycastView>>,
}

fn admin(
    config: &GatewayConfig,
    node: &Running<Node>,
    identity: &Identity,
    seeds: &Seeds,
    shown: AdminShown,
) -> anyhow::Result<Option<Admin>> {
    let Some(admin) = &config.admin else { return Ok(None) };
    let AdminShown { tap, reloads, fleet, anycast } = shown;
    let parts = AdminParts {
        shared: node.shared().clone(),
        statuses: node.statuses().to_vec(),
        networks: node.networks().to_vec(),
        cores: config.workers.cores.clone(),
        device: node.device(),
        store: seeds.parts.as_ref().map(|parts| parts.store.clone()),
        memory: seeds.parts.as_ref().map(|parts| parts.memory.clone()),
        tap,
        reloads,
        fleet,
        anycast,
    };
    Admin::start(admin, AdminSource::new(parts, renewable::facts(config, identity)?)).map(Some)
}

/// The gateway's seed store, if it has one: shared by the seed, the cache, the admin endpoint and reloads.
struct Seeds {
    parts: Option<SeedParts>,
    cache: bool,
}

impl Seeds {
    /// Opens the store that the configuration names.
    fn new(own: NodeId, hops: &Arc<Hops>, config: &GatewayConfig) -> anyhow::Result<Self> {
        let parts = config.seed().map(|seed| open_store(config, seed, own, hops)).transpose()?;
        Ok(Self { parts, cache: config.keeps_passing() })
    }

    fn cache(&self) -> anyhow::Result<Option<Cache>> {
        let store = self.parts.as_ref().filter(|_| self.cache).map(|parts| parts.store.clone());
        Ok(started("keeps forwarded payloads", store.map(Cache::start).transpose())?)
    }

    fn hosted(&self, config: &ApplicationConfig) -> Hosted {
        fn boxed<A: Application + 'static>(make: impl Fn() -> A + Send + 'static) -> MakeApplication {
            Box::new(move |_worker| Box::new(make()))
        }
        let parts = self.parts.clone();
        let queues = config.queues().to_vec();
        match (config, parts) {
            (ApplicationConfig::Echo(echo), _) => Hosted {
                replay_safe: echo.replay_safe,
                ..Hosted::new("echo", queues, ApplicationHost::Node(echo.placement, boxed(Echo::default)))
            },
            (ApplicationConfig::Discard(discard), _) => Hosted {
                replay_safe: discard.replay_safe,
                unchecked: !discard.verify,
                ..Hosted::new(
                    "discard",
                    queues,
                    ApplicationHost::Node(discard.placement, boxed(Discard::default)),
                )
            },
            (ApplicationConfig::Seed(seed), Some(parts)) => {
                let make: MakeApplication =
                    Box::new(move |worker| Box::new(Seed::new(parts.clone(), worker)));
                Hosted {
                    store: true,
                    ..Hosted::new("seed", queues, ApplicationHost::Node(seed.placement, make))
                }
            }
            (ApplicationConfig::Seed(_), None) => unreachable!("its store was opened"),
        }
    }
}

fn open_store(
    config: &GatewayConfig,
    seed: &SeedConfig,
    own: NodeId,
    hops: &Arc<Hops>,
) -> anyhow::Result<SeedParts> {
    if seed.placement == Placement::Worker {
        tracing::warn!(
            "the seed store runs on the worker's thread: every wait for the disk stops the network"
        );
    }
    let store = Arc::new(Store::open(&seed.directory, renewable::kept(config, seed))?);
    store.prepare_reads();
    let memory = MemoryTier::new(seed.memory_bytes, MemoryPages::HugePreferred);
    Ok(SeedParts { own: Some(own), hops: Some(hops.clone()), ..SeedParts::alone(store, memory) })
}

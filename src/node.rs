//! A running STOQ: workers on their cores, applications on their rings. Gateways and clients are both nodes.

use crate::application::{Application, Placement};
use crate::datagram::{Network, NetworkInfo};
use crate::hop::Hops;
use crate::limits::{
    INCOMING_ALL_BYTES_MAX, INCOMING_BYTES_MAX, PEER_GATEWAY_CONNECTIONS_DEFAULT, VERIFY_THREADS_LEN_MAX,
};
use crate::queue::{AppPort, Command, GroupChecks, Waker, application_failed, check_rings};
use crate::quic::fleet_settings::FleetSettings;
use crate::quic::keys::{NodeKeys, RestartSecret};
use crate::quic::qlog::{Qlog, Sampler};
use crate::quic::transport::{QuicConfig, Transports};
use crate::relay::Relay;
use crate::rights::Rights;
use crate::seed::Cache;
use crate::session::{Holds, QueueRoutes, SilenceLimits};
use crate::stages::{LoopStage, Sampled};
use crate::tls;
use crate::wire::IpFamily;
use crate::wire::gue::GUE_OVERHEAD_BYTES;
use crate::worker::{self, ByFamily, Idle, NodeShared, PeerGatewayList, Quic, Renewal, Worker, WorkerStatus};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, EndpointConfig, ServerConfig};
use std::any::Any;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest sleep of an application's thread before it checks whether the node ends.
const APPLICATION_WAIT_MAX: Duration = Duration::from_millis(100);

/// RFC 9000 §15: the one version that STOQ speaks.
const QUIC_V1: u32 = 1;

/// Makes one instance of an application for each worker, by the worker's index.
pub type MakeApplication = Box<dyn FnMut(usize) -> Box<dyn Application> + Send>;

/// Runs on every worker's thread before its loop; its result is dropped there after the loop. DPDK threads
/// register by it.
pub type ThreadSetup = Arc<dyn Fn() -> Box<dyn Any> + Send + Sync>;

/// One application of a node.
pub struct Hosted {
    /// Its name, for threads and logs.
    pub name: String,
    /// The queue numbers whose messages and PUTs it takes.
    pub queues: Vec<u64>,
    /// Whether it answers FETCH, LOCATE and MIRROR.
    pub store: bool,
    /// Whether it takes messages in early data, where they could be replayed.
    pub replay_safe: bool,
    /// Whether it gets the payloads of PUTs unchecked, as they are on the stream. This is for measuring the cost of checking.
    pub unchecked: bool,
    /// Its host.
    pub host: ApplicationHost,
}

impl Hosted {
    /// An application that takes these queues, and no requests to a store.
    pub fn new(name: &str, queues: Vec<u64>, host: ApplicationHost) -> Self {
        Self { name: name.into(), queues, store: false, replay_safe: false, unchecked: false, host }
    }
}

/// The host of an application.
pub enum ApplicationHost {
    /// The node, on the worker's thread or on one of its own.
    Node(Placement, MakeApplication),
    /// The caller: it gets the ports, one for each worker, from [`Node::take_ports`].
    Caller,
}

/// The parts of a node, apart from its networks and its applications.
pub struct NodeConfig {
    /// To accept connections; `None`: it accepts none.
    pub server: Option<Arc<QuicServerConfig>>,
    /// To open connections; `None`: it opens none.
    pub client: Option<Arc<QuicClientConfig>>,
    /// Other gateways; connections to the standing ones are kept.
    pub peer_gateways: PeerGatewayList,
    /// The rules of forwarding; `None`: every HOP record is refused.
    pub hops: Option<Arc<Hops>>,
    /// The cache for forwarded payloads whose requests allow it; `None`: none is kept.
    pub cache: Option<Cache>,
    /// What each peer may ask for.
    pub rights: Arc<Rights>,
    /// The identity's secret, from which the keys that outlive the process derive; `None`: peers of an earlier
    /// process get no stateless reset.
    pub restart_secret: Option<RestartSecret>,
    /// Of a gateway in a fleet: its keys, in the place of those that derive from the identity. Its rotations may change.
    pub fleet: Option<FleetSettings>,
    /// Whether other gateways of the fleet hand datagrams over, and the settings for it.
    pub handover: Option<HandoverConfig>,
    /// How connections behave.
    pub quic: QuicConfig,
    /// How long peers may be silent on connections that this node opens.
    pub silence: SilenceLimits,
    /// Log QUIC's events of some connections.
    pub qlog: Option<Qlog>,
    /// How idle workers wait.
    pub idle: Idle,
    /// The core of each worker; workers past the end are pinned to none.
    pub cores: Vec<usize>,
    /// Threads that check groups of payloads for the workers.
    pub verify: VerifyThreads,
    /// A function that each worker's thread runs first.
    pub thread_setup: Option<ThreadSetup>,
}

/// Datagrams that gateways of a fleet hand over to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandoverConfig {
    /// The largest layer-3 packet that passes between gateways, bytes; `None`: that of the device.
    pub fabric_mtu: Option<u16>,
}

/// Threads that check groups of payloads, so that workers have their cores for packets. The default is none: workers check everything themselves.
#[derive(Clone, Debug, Default)]
pub struct VerifyThreads {
    /// Their number, at most [`crate::limits::VERIFY_THREADS_LEN_MAX`].
    pub count: usize,
    /// The core of each; threads past the end are pinned to none.
    pub cores: Vec<usize>,
}

impl Default for NodeConfig {
    /// Neither accepts nor opens connections, has no peer gateway and forwards no request.
    fn default() -> Self {
        Self {
            server: None,
            client: None,
            peer_gateways: PeerGatewayList {
                peer_gateways: Vec::new(),
                connections_max: PEER_GATEWAY_CONNECTIONS_DEFAULT,
            },
            hops: None,
            cache: None,
            rights: Arc::default(),
            restart_secret: None,
            fleet: None,
            handover: None,
            quic: QuicConfig::default(),
            silence: SilenceLimits::default(),
            qlog: None,
            idle: Idle::Adaptive,
            cores: Vec::new(),
            verify: VerifyThreads::default(),
            thread_setup: None,
        }
    }
}

/// A running node. Dropping it closes every connection.
pub struct Node {
    shared: Arc<NodeShared>,
    wakers: Vec<Waker>,
    statuses: Vec<Arc<WorkerStatus>>,
    infos: Vec<NetworkInfo>,
    /// The smallest MTU of its networks, layer-3 bytes.
    device_mtu: u16,
    ports: Vec<AppPort>,
    workers: Vec<JoinHandle<()>>,
    applications: Vec<JoinHandle<()>>,
    verifiers: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts one worker on each network, and the applications.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if settings of QUIC do not go together; the system's error if a thread cannot be started.
    pub fn start<N>(networks: Vec<N>, config: &NodeConfig, mut hosted: Vec<Hosted>) -> io::Result<Self>
    where
        N: Network + Send + 'static,
    {
        let peers = config.peer_gateways.peer_gateways.iter().map(|peer| config.quic.with(&peer.control));
        for quic in peers.chain([config.quic.clone()]) {
            quic.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        }
        let routes = QueueRoutes {
            relay: config.hops.as_ref().map(|_| hosted.len()),
            hops: config.hops.clone(),
            cache: config.cache.clone().map(|cache| Arc::new(cache) as Arc<dyn Holds>),
            rights: config.rights.clone(),
            ..routes(&hosted)
        };
        let infos: Vec<_> = networks.iter().map(Network::info).collect();
        let shared = NodeShared::with_keys(networks.len(), routes, config.keys(&infos));
        shared.window_budget.set_total(config.quic.window_budget_bytes());
        shared.node_seats.set_max(config.quic.connections_per_node_max);
        let now = Instant::now();
        let mut node = Self {
            shared: shared.clone(),
            wakers: Vec::new(),
            statuses: Vec::new(),
            infos,
            device_mtu: 0,
            ports: Vec::new(),
            workers: Vec::new(),
            applications: Vec::new(),
            verifiers: Vec::new(),
        };
        let mut checks = node.start_verifiers(networks.len(), config)?.into_iter();
        node.device_mtu = node.infos.iter().map(|info| info.mtu).min().unwrap_or(1500);
        let quic = config.quic(node.device_mtu);
        for (index, mut network) in networks.into_iter().enumerate() {
            if config.handover.is_some() {
                network.open_gue()?;
            }
            let mut worker = Worker::new(index as u16, network, shared.clone(), quic.clone(), config.idle);
            for app in &mut hosted {
                node.add(&mut worker, index, app)?;
            }
            if config.hops.is_some() {
                worker.add_inline(Box::new(Relay::new(worker.status(), config.cache.clone())));
            }
            checks.next().into_iter().for_each(|checks| worker.set_checks(checks));
            worker.set_peer_gateways(config.peer_gateways.clone(), now);
            node.statuses.push(worker.status());
            node.wakers.push(worker.waker());
            let core = config.cores.get(index).copied();
            let setup = config.thread_setup.clone();
            let quic = quic.clone();
            let thread = std::thread::Builder::new().name(format!("stoq-worker-{index}"));
            node.workers.push(thread.spawn(move || {
                pin(core);
                tls::seed_random();
                let _guard = setup.map(|setup| setup());
                drop(worker.run_isolated(quic));
            })?);
        }
        Ok(node)
    }

    /// Starts the verify threads. Returns each worker's end of the rings to them, if there are any.
    fn start_verifiers(&mut self, workers: usize, config: &NodeConfig) -> io::Result<Vec<GroupChecks>> {
        if config.verify.count == 0 {
            return Ok(Vec::new());
        }
        let (checks, queues) = check_rings(workers, config.verify.count.min(VERIFY_THREADS_LEN_MAX));
        for (index, queue) in queues.into_iter().enumerate() {
            let (core, idle) = (config.verify.cores.get(index).copied(), config.idle);
            let thread = std::thread::Builder::new().name(format!("stoq-verify-{index}"));
            self.verifiers.push(thread.spawn(move || {
                pin(core);
                worker::check_groups(&queue, idle);
            })?);
        }
        Ok(checks)
    }

    fn add<N: Network>(&mut self, worker: &mut Worker<N>, index: usize, app: &mut Hosted) -> io::Result<()> {
        match &mut app.host {
            ApplicationHost::Node(Placement::Worker, make) => worker.add_inline(make(index)),
            ApplicationHost::Node(Placement::Thread, make) => {
                let (application, port, shared) = (make(index), worker.add_port(), self.shared.clone());
                let thread = std::thread::Builder::new().name(format!("stoq-{}-{index}", app.name));
                self.applications.push(thread.spawn(move || host_isolated(application, port, &shared))?);
            }
            ApplicationHost::Caller => self.ports.push(worker.add_port()),
        }
        Ok(())
    }

    /// The ports of the applications that the caller runs, one for each worker, in the order of the workers. Empty at a second call.
    pub fn take_ports(&mut self) -> Vec<AppPort> {
        std::mem::take(&mut self.ports)
    }

    /// Each worker's waker.
    pub fn wakers(&self) -> &[Waker] {
        &self.wakers
    }

    /// The network of each worker.
    pub fn networks(&self) -> &[NetworkInfo] {
        &self.infos
    }

    /// Each worker's published status.
    pub fn statuses(&self) -> &[Arc<WorkerStatus>] {
        &self.statuses
    }

    /// The state that the workers share.
    pub fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// Takes the TLS and the QUIC of `config` for new connections, the rights for new requests, and the rotations of its fleet; its other parts
    /// count only at the start ([`NodeShared::renew_peer_gateways`] changes the peer gateways). Open connections go on as they began.
    pub fn renew(&self, config: &NodeConfig) {
        self.shared.window_budget.set_total(config.quic.window_budget_bytes());
        self.shared.node_seats.set_max(config.quic.connections_per_node_max);
        if let Some(fleet) = &config.fleet {
            self.shared.renew_keys(fleet);
        }
        self.shared.renew(Renewal { quic: config.quic(self.device_mtu), rights: config.rights.clone() });
        self.wake();
    }

    /// Stops accepting connections and requests. Returns when no request is in flight and the peers answered
    /// last have closed or had time to read, or after `limit`.
    pub fn drain(&self, limit: Duration) {
        self.drain_while(limit, || true);
    }

    /// Like [`Node::drain`], and returns early once there is no use in waiting.
    pub fn drain_while(&self, limit: Duration, is_useful: impl Fn() -> bool) {
        self.shared.drain();
        self.wake();
        let until = Instant::now() + limit;
        // A worker counts its requests only after it has seen the drain. Two quiet looks in a row, a park apart, ensure that.
        let mut quiet = 0;
        while quiet < 2 && is_useful() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(20));
            let over = self.statuses.iter().all(|s| s.requests() + s.lingering() == 0);
            quiet = if over { quiet + 1 } else { 0 };
        }
    }

    /// Closes every connection, ends every thread and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    fn end(&mut self) {
        self.shared.close();
        self.wake();
        let threads = self.workers.drain(..).chain(self.applications.drain(..));
        for thread in threads.chain(self.verifiers.drain(..)) {
            if thread.join().is_err() {
                tracing::error!("a thread of the node panicked");
            }
        }
        for (worker, status) in self.statuses.drain(..).enumerate() {
            let counted = status.counters.snapshot().filter(|(_, value)| *value > 0);
            let counters: Vec<_> = counted.map(|(name, value)| format!("{name}={value}")).collect();
            tracing::info!(worker, counters = counters.join(" "), "worker counted");
            let sampled = status.counters.stages.sampled();
            let ns: Vec<_> =
                LoopStage::ALL.iter().map(|&s| format!("{}={}", s.name(), sampled.ns(s))).collect();
            let Sampled { turns, rx_packets, tx_packets, .. } = sampled;
            let ns = ns.join(" ");
            tracing::info!(worker, turns, rx_packets, tx_packets, ns, "worker sampled its stages");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

impl NodeConfig {
    /// The keys of a node on these networks, the queues of one device.
    pub fn keys(&self, networks: &[NetworkInfo]) -> NodeKeys {
        if let Some(fleet) = &self.fleet {
            return NodeKeys::of_fleet(fleet);
        }
        match (&self.restart_secret, networks.first()) {
            (Some(secret), Some(network)) => NodeKeys::derived(secret, &network.local),
            _ => NodeKeys::random(),
        }
    }

    /// The largest UDP payload that peers may send, bytes. In a fleet a datagram passes between gateways in a packet that has a header more.
    fn largest_received(&self, device_mtu: u16) -> u16 {
        let largest = self.quic.largest_payload(device_mtu, IpFamily::V4);
        let Some(HandoverConfig { fabric_mtu }) = self.handover else { return largest };
        let inside = fabric_mtu.unwrap_or(device_mtu).saturating_sub(GUE_OVERHEAD_BYTES);
        // One number for both families: that of IPv6, whose header is longer.
        self.quic.largest_payload(inside, IpFamily::V6).min(largest)
    }

    /// The quinn-proto configurations for a device of this MTU (layer-3 bytes).
    pub fn quic(&self, device_mtu: u16) -> Quic {
        let mut endpoint = EndpointConfig::default();
        endpoint.supported_versions(vec![QUIC_V1]);
        let largest = self.largest_received(device_mtu);
        if let Err(error) = endpoint.max_udp_payload_size(largest) {
            tracing::warn!(%error, largest, "the device's MTU does not bound what peers may send");
        }
        let transports = |quic: &QuicConfig| ByFamily::new(|family| quic.node_transport(device_mtu, family));
        let server = self.server.clone().map(|crypto| {
            let mut shared = ServerConfig::with_crypto(crypto);
            shared
                .incoming_buffer_size(INCOMING_BYTES_MAX)
                .incoming_buffer_size_total(INCOMING_ALL_BYTES_MAX);
            transports(&self.quic.opening()).map(|transport| {
                let mut config = shared.clone();
                config.transport_config(transport.clone());
                Arc::new(config)
            })
        });
        let client = self.client.clone().map(|crypto| {
            transports(&self.quic).map(|transport| {
                let mut config = ClientConfig::new(crypto.clone());
                config.transport_config(transport.clone());
                config
            })
        });
        let makes = Transports::new(self.quic.clone(), device_mtu);
        let qlog = self.qlog.clone().map(|qlog| Sampler::new(qlog, makes.clone()));
        let windows = self.quic.windows();
        Quic { endpoint, server, client, qlog, transports: makes, windows, silence: self.silence }
    }
}

/// The application of each queue and request, numbered by their order in `hosted`.
pub fn routes(hosted: &[Hosted]) -> QueueRoutes {
    let mut routes = QueueRoutes::default();
    for (index, app) in hosted.iter().enumerate() {
        routes.queues.extend(app.queues.iter().map(|&queue| (queue, index)));
        if app.replay_safe {
            routes.replay_safe.extend(&app.queues);
        }
        if app.unchecked {
            routes.unchecked.extend(&app.queues);
        }
        if app.store {
            routes.store.get_or_insert(index);
        }
    }
    routes
}

/// Hosts an application. When it has panicked, [`FailedApplication`] takes its place.
fn host_isolated(mut application: Box<dyn Application>, mut port: AppPort, shared: &NodeShared) {
    let Err(panic) = worker::catch(|| host(&mut *application, &mut port, shared)) else { return };
    tracing::error!(
        "an application panicked: {}; its requests are refused until a restart",
        worker::message(&*panic)
    );
    // What panicked once may panic again while it is dropped.
    let _ = worker::catch(|| drop(application));
    host(&mut FailedApplication::default(), &mut port, shared);
}

/// In the place of an application that panicked: it has the requests ended that the application had taken, refuses those that come later, and takes
/// its other deliveries, for which the worker would wait.
#[derive(Default)]
struct FailedApplication {
    /// Whether the worker knows that the application has failed.
    has_told: bool,
}

impl Application for FailedApplication {
    fn poll(&mut self, _: Instant, port: &mut AppPort) -> bool {
        if !self.has_told {
            self.has_told = port.send(Command::Fail).is_ok();
            return self.has_told;
        }
        // Each delivery has room for a command.
        let Some(delivery) = (port.room() > 0).then(|| port.receive()).flatten() else { return false };
        if let Some(request) = delivery.request().filter(|request| !request.is_local()) {
            let sent = port.send(Command::refuse(request, application_failed()));
            debug_assert!(sent.is_ok(), "the ring had room");
        }
        true
    }
}

fn host(application: &mut dyn Application, port: &mut AppPort, shared: &NodeShared) {
    loop {
        let worked = application.poll(Instant::now(), port);
        port.notify();
        if !worked {
            if shared.is_closing() {
                return;
            }
            port.poll_and_wait(APPLICATION_WAIT_MAX, |port| application.poll(Instant::now(), port));
        }
    }
}

fn pin(core: Option<usize>) {
    let Some(id) = core else { return };
    if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
        tracing::warn!(core = id, "could not pin a thread to its core; it floats");
    }
}

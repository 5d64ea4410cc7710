//! Stations with their workers: gateways and clients.

use super::caller::Caller;
use super::identities::{gateway_identity, gateway_node, identities, trust};
use super::liar::Liar;
use super::nic::{Attached, shares};
use super::told::{Teller, Told};
use super::verifier::Verifier;
use super::{
    DISCARD, ECHO, HELD, ROUTER_MAC, SEED, Setup, Station, UDP_PORT, UNCHECKED, anycast_v4, anycast_v6,
    gateway_address,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use stoq::application::{Discard, Echo};
use stoq::counters::Counter;
use stoq::datagram::port_set::PortSet;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::datagram::{Network as _, NetworkKind};
use stoq::hop::{Hops, Policy};
use stoq::neighbor::exchange::exchange;
use stoq::nic::simulated::SimulatedLink;
use stoq::node::NodeConfig;
use stoq::queue::check_rings;
use stoq::quic::fleet_settings::FleetSettings;
use stoq::relay::Relay;
use stoq::rights::Rights;
use stoq::seed::{Cache, MemoryPages, MemoryTier, Seed, SeedParts, Store};
use stoq::send_limit::LimitTimes;
use stoq::session::{Holds, QueueRoutes};
use stoq::tls::{ClientAuth, ClientTls, Identity, ServerTls, client_config, server_config};
use stoq::wire::Mac;
use stoq::wire::prefix::Prefix;
use stoq::worker::{
    ConnectionView, Idle, NodeShared, PeerGateway, PeerGatewayList, Renewal, Worker, WorkerStatus,
};

/// The connections to peer gateways that a gateway keeps.
const PEER_GATEWAY_CONNECTIONS: usize = 8;

/// The memory tier of a gateway, bytes.
pub(crate) const MEMORY_TIER_BYTES: u64 = 8 << 20;

/// What the work of a host's worker costs, as time that passes before it works again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkCosts {
    /// A handshake that was accepted.
    pub(crate) handshake: Duration,
    /// A Retry packet.
    pub(crate) retry: Duration,
    /// A datagram that was refused before QUIC.
    pub(crate) refused: Duration,
    /// A datagram that was handed over to another worker.
    pub(crate) handover: Duration,
    /// A datagram that another worker handed over.
    pub(crate) taken_over: Duration,
    /// Any other packet, received or sent.
    pub(crate) packet: Duration,
}

impl WorkCosts {
    /// The time of all of a worker's work so far.
    fn of(&self, status: &WorkerStatus) -> Duration {
        let times = |counter| status.counters.get(counter) as u32;
        let (refused, handed_over) = (times(Counter::DropRetryLimit), times(Counter::HandoversOut));
        let own = times(Counter::RxPackets) - handed_over - refused;
        self.handshake * times(Counter::QuicAttemptsAccepted)
            + self.retry * times(Counter::QuicRetriesSent)
            + self.refused * refused
            + self.handover * handed_over
            + self.taken_over * times(Counter::HandoversIn)
            + self.packet * (own + times(Counter::TxPackets))
    }
}

/// A worker's work so far, and when it is done.
struct Work {
    costs: WorkCosts,
    charged: Duration,
    busy_until: Instant,
}

impl Work {
    fn is_done(work: &Option<Self>, now: Instant) -> bool {
        work.as_ref().is_none_or(|work| work.busy_until <= now)
    }
}

/// A station with its workers.
pub(crate) struct ApplicationHost {
    pub(super) workers: Vec<Worker<Told>>,
    /// Reports unreachable destinations to its first worker, as ICMP does.
    pub(crate) icmp: Teller,
    /// The test's own application, on each worker.
    pub(crate) callers: Vec<Caller>,
    pub(crate) shared: Arc<NodeShared>,
    pub(super) statuses: Vec<Arc<WorkerStatus>>,
    /// A gateway's memory tier.
    #[allow(dead_code, reason = "the worlds count its blocks")]
    pub(crate) memory: Option<MemoryTier>,
    /// A gateway's configuration, and the MTU of its device.
    config: Option<(NodeConfig, u16)>,
    /// Whether its process has died: its workers are not turned.
    pub(crate) dead: bool,
    /// The verify thread of its workers, if they have one.
    pub(crate) verifier: Option<Verifier>,
    /// What the work of each worker costs; none: nothing.
    work: Vec<Option<Work>>,
}

impl ApplicationHost {
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if self.dead {
            return false;
        }
        let mut worked = false;
        let parts = self.workers.iter_mut().zip(&mut self.callers).zip(&mut self.work).zip(&self.statuses);
        for (((worker, caller), work), status) in parts {
            if !Work::is_done(work, now) {
                continue;
            }
            worked |= worker.turn(now) | caller.poll(now);
            let Some(Work { costs, charged, busy_until }) = work else { continue };
            let sum = costs.of(status);
            // A packet that waited and was refused then costs less than it was charged.
            *busy_until = now + sum.saturating_sub(*charged);
            *charged = sum;
        }
        worked | self.verifier.as_mut().is_some_and(|verifier| verifier.turn(now))
    }

    /// Has groups checked as by a verify thread, which takes up to this long for each piece.
    #[allow(dead_code, reason = "not every suite has verify threads")]
    pub(crate) fn verify(&mut self, seed: u64, delay_max: Duration) {
        let (checks, mut queues) = check_rings(self.workers.len(), 1);
        self.workers.iter_mut().zip(checks).for_each(|(worker, checks)| worker.set_checks(checks));
        self.verifier = queues.pop().map(|queue| Verifier::new(queue, seed, delay_max));
    }

    /// Gives a gateway's peers other rights, as a reload does.
    #[allow(dead_code, reason = "not every suite has rights")]
    pub(crate) fn renew_rights(&self, rights: Rights) {
        let (config, mtu) = self.config.as_ref().expect("a gateway");
        self.shared.renew(Renewal { quic: config.quic(*mtu), rights: Arc::new(rights) });
    }

    /// Has a gateway take other rotations of its fleet's key, as its directory does.
    #[allow(dead_code, reason = "not every suite has a fleet")]
    pub(crate) fn renew_fleet(&self, fleet: &FleetSettings) {
        self.shared.renew_keys(fleet);
    }

    /// Lets its work take time from now on.
    #[allow(dead_code, reason = "not every suite charges work")]
    pub(crate) fn charge_work(&mut self, costs: WorkCosts, now: Instant) {
        let begin = |status: &Arc<WorkerStatus>| Work { costs, charged: costs.of(status), busy_until: now };
        self.work = self.statuses.iter().map(begin).map(Some).collect();
    }

    /// Whether a worker does nothing else before its work has taken its time.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.work.iter().flatten().any(|work| now < work.busy_until)
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let parts = self.workers.iter().zip(&self.callers).zip(&self.work);
        let due = parts.filter_map(|((worker, caller), work)| match work {
            Some(work) if now < work.busy_until => Some(work.busy_until),
            _ => worker.poll_timeout().into_iter().chain(caller.poll_timeout()).min(),
        });
        let checks = self.verifier.as_ref().and_then(Verifier::poll_timeout);
        due.chain(checks).min().filter(|_| !self.dead)
    }

    /// A counter, summed over the workers.
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.statuses.iter().map(|status| status.counters.get(counter)).sum()
    }

    /// The status of one worker.
    #[allow(dead_code, reason = "the worlds read its gauges")]
    pub(crate) fn status(&self, worker: usize) -> &WorkerStatus {
        &self.statuses[worker]
    }

    /// A counter of one worker.
    pub(crate) fn count_of(&self, worker: usize, counter: Counter) -> u64 {
        self.statuses[worker].counters.get(counter)
    }

    /// Has the first worker tell its connections: it answers in its next turn.
    pub(crate) fn inspect(&self) -> impl FnOnce() -> Vec<ConnectionView> + use<> {
        self.inspect_worker(0)
    }

    /// The same of any worker.
    pub(crate) fn inspect_worker(&self, worker: usize) -> impl FnOnce() -> Vec<ConnectionView> + use<> {
        let mut answer = self.statuses[worker].inspection.ask();
        move || answer.try_recv().expect("the worker had a turn")
    }

    /// The time that each limit had on the connections of the first worker.
    pub(crate) fn limited(&self) -> LimitTimes {
        self.statuses[0].counters.limits.times()
    }

    /// Open connections of one worker.
    pub(crate) fn connections_of(&self, worker: usize) -> usize {
        self.statuses[worker].connections.load(Relaxed)
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        (0..self.workers.len()).map(|worker| self.connections_of(worker)).sum()
    }

    /// Connections whose peers acknowledge nothing, as last surveyed.
    pub(crate) fn unacknowledged(&self) -> usize {
        let gauge = |status: &Arc<WorkerStatus>| status.gauges.unacknowledged.load(Relaxed);
        self.statuses.iter().map(gauge).sum()
    }

    /// Requests in flight, as a drain sees them.
    pub(crate) fn requests(&self) -> usize {
        self.statuses.iter().map(|status| status.requests()).sum()
    }

    /// Connections for which a drain waits although no request runs on them.
    pub(crate) fn lingering(&self) -> usize {
        self.statuses.iter().map(|status| status.lingering()).sum()
    }
}

/// The addresses and the MAC of the station with this number; the gateway is 1.
pub(crate) fn station(link: &SimulatedLink, number: u8, queues: usize) -> Vec<Station> {
    station_on(link, [2, 0, 0, 0, 0, number], (FIRST_NET, number), (queues, queues), true)
}

/// The second parts of the addresses on the first switch and on the second.
const FIRST_NET: u8 = 77;
const SECOND_NET: u8 = 78;

/// The networks of a host's workers, which have a second port each if there is a second switch.
fn attached(
    (link, setup): (&SimulatedLink, &Setup),
    mac: Mac,
    (queues, workers): (usize, usize),
) -> Vec<Attached> {
    if !setup.anycast.is_empty() {
        let stations = station_of_fleet(link, mac, (queues, workers));
        return stations.into_iter().map(|station| Attached::One(Box::new(station))).collect();
    }
    let first = station_on(link, mac, (FIRST_NET, mac[5]), (queues, workers), setup.udp_checksum);
    let Some(second) = &setup.second else {
        return first.into_iter().map(|station| Attached::One(Box::new(station))).collect();
    };
    let second = station_on(second, mac, (SECOND_NET, mac[5]), (workers, workers), setup.udp_checksum);
    let ports = first.into_iter().zip(second);
    ports.map(|(first, second)| Attached::Two(PortSet::new(vec![first, second]))).collect()
}

/// A station whose workers share its queues if these are fewer.
fn station_on(
    link: &SimulatedLink,
    mac: Mac,
    (net, number): (u8, u8),
    (queues, workers): (usize, usize),
    udp_checksum: bool,
) -> Vec<Station> {
    let (v4, v6): (IpAddr, IpAddr) =
        ([10, net, 0, number].into(), format!("fd{net}::{number:x}").parse().unwrap());
    // By its second port, a client sends packets for an address of the gateway's first port to the gateway.
    let is_routed = net == SECOND_NET && number >= 10;
    let interface = InterfaceConfig {
        addresses: vec![format!("{v4}/24").parse().unwrap(), format!("{v6}/64").parse().unwrap()],
        next_hop_v4: is_routed.then(|| [10, net, 0, 1].into()),
        next_hop_v6: is_routed.then(|| format!("fd{net}::1").parse().unwrap()),
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum,
    };
    attach(link, mac, (queues, workers), &interface)
}

fn attach(
    link: &SimulatedLink,
    mac: Mac,
    (queues, workers): (usize, usize),
    interface: &InterfaceConfig,
) -> Vec<Station> {
    let nics = shares(link, mac, queues, workers).into_iter().zip(exchange(workers));
    nics.map(|(nic, port)| {
        UserSpace::new(nic, interface, NetworkKind::Simulated).unwrap().with_exchange(port)
    })
    .collect()
}

/// A station of a network with a router: gateways have the anycast addresses too, and clients reach them by the router.
fn station_of_fleet(link: &SimulatedLink, mac: Mac, (queues, workers): (usize, usize)) -> Vec<Station> {
    let number = mac[5];
    let is_client = number >= 10;
    let mut addresses = vec![
        format!("10.{FIRST_NET}.0.{number}/24").parse().unwrap(),
        format!("fd{FIRST_NET}::{number:x}/64").parse().unwrap(),
    ];
    let anycast =
        [anycast_v4(), anycast_v6()].map(|at| Prefix::new(at.ip(), if at.is_ipv4() { 32 } else { 128 }));
    addresses.extend(anycast.into_iter().filter(|_| !is_client).map(Result::unwrap));
    let router: (Ipv4Addr, Ipv6Addr) = ([10, FIRST_NET, 0, 254].into(), "fd77::fe".parse().unwrap());
    let interface = InterfaceConfig {
        addresses,
        next_hop_v4: Some(router.0),
        next_hop_v6: Some(router.1),
        vlan: None,
        udp_port: UDP_PORT,
        udp_checksum: true,
    };
    let fixed = [(router.0.into(), ROUTER_MAC), (router.1.into(), ROUTER_MAC)];
    let stations = attach(link, mac, (queues, workers), &interface).into_iter();
    stations.map(|station| station.with_stations(fixed).unwrap()).collect()
}

pub(super) fn gateway(
    link: &SimulatedLink,
    setup: &Setup,
    index: usize,
    store: &Arc<Store>,
    now: Instant,
) -> ApplicationHost {
    let identity = gateway_identity(index);
    let tls =
        ServerTls { early_data: true, ..ServerTls::new(identity.clone(), ClientAuth::Required(trust())) };
    let peer_gateways = peer_gateways_of(setup, index);
    let policy = policy(identity, setup);
    let hops = Arc::new(Hops::new(policy, peer_gateways.iter().map(|&other| gateway_node(other)).collect()));
    let cache = setup.cache.then(|| Cache::start(store.clone()).unwrap());
    let routes = QueueRoutes {
        queues: [(SEED, 0), (ECHO, 1), (DISCARD, 2), (HELD, 3), (UNCHECKED, 2)].into_iter().collect(),
        replay_safe: setup.replay_safe.iter().copied().collect(),
        unchecked: [UNCHECKED].into_iter().collect(),
        store: Some(0),
        relay: Some(4),
        hops: Some(hops.clone()),
        cache: cache.clone().map(|cache| Arc::new(cache) as Arc<dyn Holds>),
        rights: setup.rights.clone(),
    };
    let config = NodeConfig {
        server: Some(server_config(&tls).unwrap()),
        client: Some(
            client_config(&ClientTls { identity: Some(identity.clone()), ..ClientTls::new(trust()) })
                .unwrap(),
        ),
        restart_secret: identity.restart_secret().cloned(),
        quic: setup.gateway_quic.clone(),
        idle: Idle::Spin,
        ..setup.of_fleet(index)
    };
    let memory = MemoryTier::new(MEMORY_TIER_BYTES, MemoryPages::Ordinary);
    let parts = SeedParts {
        own: Some(identity.node_id()),
        hops: Some(hops),
        clocks: setup.clock.clocks(),
        ..SeedParts::alone(store.clone(), memory)
    };
    let mac = [2, 0, 0, 0, setup.device, index as u8 + 1];
    let stations = attached((link, setup), mac, setup.gateway_device());
    let shared = NodeShared::with_keys(setup.gateway_workers, routes, config.keys(&[stations[0].info()]));
    bound(&shared, setup);
    let mut host = host(stations, &config, shared, setup, |worker, at| {
        match setup.liars.iter().find(|(liar, ..)| *liar == index) {
            Some((_, lie, payload)) => worker.add_inline(Box::new(Liar::new(*lie, payload.clone()))),
            None => worker.add_inline(Box::new(Seed::new(parts.clone(), at))),
        }
        worker.add_inline(Box::new(Echo::default()));
        worker.add_inline(Box::new(Discard::default()));
    });
    host.memory = Some(parts.memory.clone());
    let peer_gateways = peer_list(setup, &peer_gateways);
    for worker in &mut host.workers {
        worker.add_inline(Box::new(Relay::new(worker.status(), cache.clone())));
        worker.set_peer_gateways(peer_gateways.clone(), now);
    }
    let config = NodeConfig { peer_gateways, ..config };
    host.config = Some((config, setup.link.mtu));
    host
}

/// The list of these peer gateways, all of them standing.
fn peer_list(setup: &Setup, others: &[usize]) -> PeerGatewayList {
    let others = others.iter().map(|&other| PeerGateway {
        node: gateway_node(other),
        addresses: vec![gateway_address(other)].into(),
        control: setup.peer_control,
        is_standing: true,
    });
    PeerGatewayList { peer_gateways: others.collect(), connections_max: PEER_GATEWAY_CONNECTIONS }
}

/// The gateways that are peer gateways of this one.
fn peer_gateways_of(setup: &Setup, index: usize) -> Vec<usize> {
    let other = |&(a, b): &(usize, usize)| match index {
        _ if index == a => Some(b),
        _ if index == b => Some(a),
        _ => None,
    };
    setup.peer_gateways.iter().filter_map(other).collect()
}

/// A gateway's policy for requests behind HOP.
fn policy(identity: &Identity, setup: &Setup) -> Policy {
    Policy { own: identity.node_id(), transit: setup.transit.clone(), budget_bytes_max: u64::MAX }
}

pub(super) fn client(link: &SimulatedLink, setup: &Setup, index: usize) -> ApplicationHost {
    let tls =
        ClientTls { early_data: true, identity: Some(identities()[1].clone()), ..ClientTls::new(trust()) };
    let config = NodeConfig {
        client: Some(client_config(&tls).unwrap()),
        quic: setup.client_quic.clone(),
        silence: setup.silence,
        idle: Idle::Spin,
        ..NodeConfig::default()
    };
    let shared = NodeShared::new(setup.client_workers, QueueRoutes::default());
    bound(&shared, setup);
    let number = 10 + index as u8;
    let mac = [2, 0, 0, 0, 0, number];
    let workers = setup.client_workers;
    let stations = attached((link, setup), mac, (workers, workers));
    host(stations, &config, shared, setup, |_, _| {})
}

/// Sets the bounds of a process.
fn bound(shared: &NodeShared, setup: &Setup) {
    shared.window_budget.set_total(setup.window_budget_bytes);
    shared.node_seats.set_max(setup.gateway_quic.connections_per_node_max);
}

fn host(
    stations: Vec<Attached>,
    config: &NodeConfig,
    shared: Arc<NodeShared>,
    setup: &Setup,
    mut add: impl FnMut(&mut Worker<Told>, usize),
) -> ApplicationHost {
    let (mut workers, mut callers, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
    let icmp = Teller::default();
    let tellers = std::iter::once(icmp.clone()).chain(std::iter::repeat_with(|| icmp.beside()));
    let networks: Vec<_> = stations.into_iter().zip(tellers).map(|(at, by)| Told::new(at, by)).collect();
    for (index, mut network) in networks.into_iter().enumerate() {
        if config.handover.is_some() {
            network.open_gue().unwrap();
        }
        let mut quic = config.quic(setup.link.mtu);
        quic.endpoint.rng_seed(setup.seeds.next());
        let links_down = network.links_down();
        let mut worker = Worker::new(index as u16, network, shared.clone(), quic, config.idle);
        assert_eq!(
            worker.status().gauges.links_down.load(Relaxed),
            links_down,
            "known before the first turn"
        );
        add(&mut worker, index);
        callers.push(Caller::new(worker.add_port()));
        statuses.push(worker.status());
        workers.push(worker);
    }
    let work = workers.iter().map(|_| None).collect();
    let (memory, verifier, config) = (None, None, None);
    ApplicationHost { workers, icmp, callers, shared, statuses, memory, config, dead: false, verifier, work }
}

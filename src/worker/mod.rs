//! The loop: one thread, one network queue, and everything that belongs to them. Only this file knows the whole order of a turn.

mod attempts;
mod budget;
mod closing;
mod conn;
mod connections;
mod core;
mod dials;
mod gateways;
mod gone;
mod half_open;
mod handed_flows;
mod handing_over;
mod inspect;
mod inspection;
mod limited;
#[cfg(test)]
mod tests;
mod newest;
mod node_seats;
mod pacing;
mod passing;
mod phase;
mod placing;
mod published_load;
mod received;
mod renew;
mod run_queue;
mod shared;
mod signs_of_life;
mod silence;
mod successor;
mod telling;
mod transmit;
mod unreachable;
mod unsettled;
mod verifying;
mod view;
mod windows;

pub use budget::{Budget, BudgetUse};
pub use gateways::{PeerGateway, PeerGatewayList};
pub use inspection::Inspection;
pub use node_seats::NodeSeats;
pub use shared::{ByFamily, Idle, NodeShared, Quic, Renewal, WorkerStatus};
pub(crate) use successor::{catch, message};
pub(crate) use verifying::check_groups;
pub use view::{ConnectionView, Gauges};

use crate::application::Application;
use crate::counters::Counter;
use crate::datagram::Network;
use crate::limits::{ADDRESS_TOKEN_S, RESET_INTERVAL_US};
use crate::queue::{AppPort, GroupChecks, Sleeper, Waker, WorkerPort, rings};
use crate::quic::cid::{CidReader, WorkerCids};
use crate::quic::keys::NodeKeys;
use crate::quic::qlog::Sampler;
use crate::quic::transport::{Transports, Windows};
use crate::rights::RightsInForce;
use crate::session::{Context, SilenceLimits};
use crate::stages::LoopStage;
use closing::EndProgress;
use connections::Connections;
use dials::OwnHandshakes;
use gateways::PeerGateways;
use half_open::HalfOpen;
use handing_over::HandingOver;
use inspect::Survey;
use passing::PassingOn;
use placing::Placing;
use quinn_proto::{ClientConfig, Endpoint, Incoming, ServerConfig, Transmit, ValidationTokenConfig};
use received::ReceiveSlots;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use unsettled::Unsettled;

/// Turns without work before an adaptive worker yields its core, and before it sleeps.
const IDLE_YIELD_TURNS: u32 = 32;
const IDLE_SLEEP_TURNS: u32 = 2_000;
/// The longest sleep of an adaptive worker whose network cannot wake it.
const IDLE_SLEEP_MAX: Duration = Duration::from_micros(100);
/// The longest wait of an adaptive worker on a network that can wake it.
const IDLE_WAIT_MAX: Duration = Duration::from_micros(500);

/// An application that runs on the worker's own thread, with its ends of the rings.
struct Inline {
    application: Box<dyn Application>,
    port: AppPort,
}

/// One worker.
pub struct Worker<N> {
    network: N,
    core: Core,
    /// The core's own status, at hand while the core is borrowed.
    status: Arc<WorkerStatus>,
}

/// The part of a worker that its sessions need. It is apart from the connections, one of which is borrowed at the same time.
struct Desk {
    shared: Arc<NodeShared>,
    status: Arc<WorkerStatus>,
    ports: Vec<WorkerPort>,
    /// What each peer may ask for.
    rights: RightsInForce,
    /// The verify threads, if there are any.
    checks: Option<GroupChecks>,
    /// See [`Context::crumb_bytes`].
    crumb_bytes: usize,
}

impl Desk {
    fn cx(&mut self, now: Instant) -> Context<'_> {
        let Self { shared, status, ports, rights, checks, crumb_bytes } = self;
        let (checks, crumb_bytes) = (checks.as_mut(), *crumb_bytes);
        let (routes, counters) = (&shared.routes, &status.counters);
        Context { now, ports, routes, rights, counters, checks, crumb_bytes }
    }
}

/// All of a worker but its network: the network is borrowed while it passes in datagrams.
struct Core {
    index: u16,
    desk: Desk,
    endpoint: Endpoint,
    server: Option<ByFamily<Arc<ServerConfig>>>,
    client: Option<ByFamily<ClientConfig>>,
    qlog: Option<Sampler>,
    transports: Transports,
    windows: Windows,
    connections: Connections,
    gateways: PeerGateways,
    dials: OwnHandshakes,
    survey: Survey,
    /// How long peers may be silent that this side connects to.
    silence: SilenceLimits,
    /// The number of the last renewal taken.
    renewed: u32,
    renewed_peer_gateways: u32,
    incoming: VecDeque<Incoming>,
    half_open: HalfOpen,
    placing: Placing,
    passing: PassingOn,
    /// Reads the connection IDs of datagrams, by keys that may change.
    cids: CidReader,
    /// The changes of keys taken.
    keys_changed: u32,
    /// What goes to other gateways of the fleet.
    handing: HandingOver,
    /// The worker that the next Retry packet names: a part of the endpoint's generator of connection IDs.
    named: Arc<AtomicU16>,
    unsettled: Unsettled,
    inline: Vec<Inline>,
    received: ReceiveSlots,
    send_buf: Vec<u8>,
    /// Packets that QUIC made for no connection: Retry, version negotiation, stateless reset, refusals.
    responses: VecDeque<(Transmit, Vec<u8>)>,
    sleeper: Sleeper,
    idle: Idle,
    idle_turns: u32,
    draining: bool,
    close_by: Option<Instant>,
    ending: EndProgress,
}

impl<N: Network> Worker<N> {
    /// A worker with this index, on this network queue.
    pub fn new(index: u16, network: N, shared: Arc<NodeShared>, quic: Quic, idle: Idle) -> Self {
        let mut endpoint = quic.endpoint;
        let NodeKeys { cids, reset, tokens } = shared.keys.clone();
        let reader = cids.reader();
        endpoint.reset_key(reset);
        endpoint.min_reset_interval(Duration::from_micros(RESET_INTERVAL_US));
        let named = Arc::new(AtomicU16::new(index));
        let names = named.clone();
        endpoint.cid_generator(move || Box::new(WorkerCids::new(cids.clone(), names.clone())));
        // A token of one worker is good at all of them, once.
        let mut validation = ValidationTokenConfig::default();
        validation.log(shared.used_tokens.clone()).lifetime(Duration::from_secs(ADDRESS_TOKEN_S));
        let server = quic.server.map(|server| {
            server.map(|config| {
                let mut config = ServerConfig::clone(config);
                config.token_key(tokens.clone()).validation_token_config(validation.clone());
                Arc::new(config)
            })
        });
        let rights = RightsInForce::new(shared.routes.rights.clone());
        let (status, ports) = (Arc::default(), Vec::new());
        let udp_port = network.info().local.first().map_or(0, SocketAddr::port);
        let core = Core {
            index,
            desk: Desk { shared, status, ports, rights, checks: None, crumb_bytes: 0 },
            endpoint: Endpoint::new(
                Arc::new(endpoint),
                server.as_ref().map(|server| server.v4.clone()),
                true,
                None,
            ),
            server,
            client: quic.client,
            qlog: quic.qlog,
            transports: quic.transports,
            windows: quic.windows,
            connections: Connections::default(),
            gateways: PeerGateways::default(),
            dials: OwnHandshakes::default(),
            survey: Survey::default(),
            silence: quic.silence,
            renewed: 0,
            renewed_peer_gateways: 0,
            incoming: VecDeque::new(),
            half_open: HalfOpen::default(),
            placing: Placing::default(),
            passing: PassingOn::default(),
            cids: reader,
            keys_changed: 0,
            handing: HandingOver::new(udp_port),
            named,
            unsettled: Unsettled::default(),
            inline: Vec::new(),
            received: ReceiveSlots::default(),
            send_buf: Vec::new(),
            responses: VecDeque::new(),
            sleeper: Sleeper::default(),
            idle,
            idle_turns: 0,
            draining: false,
            close_by: None,
            ending: EndProgress::default(),
        };
        let status = core.desk.status.clone();
        // A node whose links are up is ready from its start on, and not only from its first survey on.
        status.gauges.links_down.store(network.links_down(), Relaxed);
        Self { network, core, status }
    }

    /// Keeps connections to the standing ones of these peer gateways, and makes others when requests need them.
    pub fn set_peer_gateways(&mut self, list: PeerGatewayList, now: Instant) {
        self.core.gateways = PeerGateways::new(list, now);
    }

    /// Has verify threads check groups of 16 KiB, where they have room.
    pub fn set_checks(&mut self, checks: GroupChecks) {
        self.core.desk.checks = Some(checks);
    }

    /// Adds the next application, whose own thread uses the returned port. Applications are numbered in the order in which
    /// they are added; [`crate::session::QueueRoutes`] names these numbers.
    pub fn add_port(&mut self) -> AppPort {
        let (app, worker) = rings(self.core.sleeper.waker());
        self.core.desk.ports.push(worker);
        app
    }

    /// Adds the next application, which runs on the worker's thread.
    pub fn add_inline(&mut self, application: Box<dyn Application>) {
        let port = self.add_port();
        self.core.inline.push(Inline { application, port });
    }

    /// The status that this worker shows to other threads.
    pub fn status(&self) -> Arc<WorkerStatus> {
        self.core.desk.status.clone()
    }

    /// Ends a sleep of this worker.
    pub fn waker(&self) -> Waker {
        self.core.sleeper.waker()
    }

    /// Runs until [`NodeShared::close`], then closes every connection.
    pub fn run(&mut self) {
        loop {
            let now = Instant::now();
            let worked = self.turn(now);
            if self.ended(now) {
                return;
            }
            if worked {
                self.core.idle_turns = 0;
            } else {
                self.rest(now);
            }
        }
    }

    /// One turn at `now`. Returns whether there was work.
    pub fn turn(&mut self, now: Instant) -> bool {
        let Self { network, core, status } = self;
        let counters = &status.counters;
        let stages = &counters.stages;
        let packets = || (counters.get(Counter::RxPackets), counters.get(Counter::TxPackets));
        stages.begin(LoopStage::Receive);
        let before = if stages.is_sampling() { packets() } else { (0, 0) };
        // Receive, parse, feed QUIC.
        let mut worked = core.receive(network, now, counters);
        stages.enter(LoopStage::Quic);
        core.take_renewal(now);
        worked |= core.take_handovers(now);
        worked |= core.begin_handshakes(now);
        worked |= core.dial_peer_gateways(now);
        worked |= core.take_found(now);
        // Read records, route to the rings.
        worked |= core.read(now);
        // Drain applications.
        stages.enter(LoopStage::Application);
        worked |= core.poll_inline(now);
        stages.enter(LoopStage::Rings);
        worked |= core.take_commands(now);
        // Poll QUIC, emit, transmit.
        stages.enter(LoopStage::Emit);
        worked |= core.transmit(network, now, counters);
        stages.enter(LoopStage::Other);
        core.take_unreachable(network, now);
        worked |= core.run_timers(network, now);
        worked |= core.end_slow_handshakes(now);
        worked |= core.end_unsettled(now);
        worked |= core.drain(now);
        core.close_down(now);
        worked |= core.inspect(now);
        core.survey(now, || network.links_down());
        core.publish_load(now);
        core.notify(worked);
        if !worked {
            core.half_open.had_time();
        }
        let polls = if worked { Counter::BusyPolls } else { Counter::EmptyPolls };
        counters.add(polls, 1);
        stages.end(worked, || {
            let after = packets();
            (after.0 - before.0, after.1 - before.1)
        });
        worked
    }

    /// When [`Worker::turn`] has work even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let inline = self.core.inline.iter().filter_map(|inline| inline.application.poll_timeout());
        let others = [
            self.core.connections.next_timeout(),
            self.core.half_open.poll_timeout(),
            self.core.unsettled.poll_timeout(),
            self.core.handing.poll_timeout(),
            self.network.poll_timeout(),
            self.core.gateways_timeout(),
            self.core.desk.checks.as_ref().and_then(GroupChecks::poll_timeout),
            self.core.survey_timeout(),
            self.core.drain_timeout(),
        ];
        inline.chain(others.into_iter().flatten()).min()
    }

    /// The network, for a program that drives it itself.
    pub fn network(&mut self) -> &mut N {
        &mut self.network
    }

    fn ended(&mut self, now: Instant) -> bool {
        let Some(by) = self.core.close_by else { return false };
        (!self.core.closes_pending() && self.network.flush(now, &self.core.desk.status.counters) == 0)
            || now >= by
    }

    fn rest(&mut self, now: Instant) {
        let core = &mut self.core;
        core.idle_turns = core.idle_turns.saturating_add(1);
        if core.idle == Idle::Spin || core.idle_turns < IDLE_YIELD_TURNS {
            std::hint::spin_loop();
        } else if core.idle_turns < IDLE_SLEEP_TURNS || !core.connections.is_idle() || core.awaits_checks() {
            std::thread::yield_now();
        } else {
            let due = self.poll_timeout().map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            if !self.network.wait(due.min(IDLE_WAIT_MAX)) {
                let ports = &self.core.desk.ports;
                self.core
                    .sleeper
                    .sleep(due.min(IDLE_SLEEP_MAX), || ports.iter().any(WorkerPort::has_commands));
            }
        }
    }
}

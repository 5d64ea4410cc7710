//! The state that the workers of a process share, and the status that each shows.

use super::budget::Budget;
use super::gateways::PeerGatewayList;
use super::inspection::Inspection;
use super::newest::NewestValue;
use super::node_seats::NodeSeats;
use super::published_load::PublishedLoad;
use super::signs_of_life::SignsOfLife;
use super::view::Gauges;
use crate::counters::Counters;
use crate::limits::HANDOVER_RING_LEN;
use crate::quic::fleet_members::FleetMembers;
use crate::quic::fleet_settings::FleetSettings;
use crate::quic::keys::{NodeKeys, UsedTokens};
use crate::quic::qlog::Sampler;
use crate::quic::transport::{Transports, Windows};
use crate::rights::Rights;
use crate::session::{QueueRoutes, SilenceLimits};
use crate::wire::IpFamily;
use bytes::BytesMut;
use crossbeam_queue::ArrayQueue;
use quinn_proto::{ClientConfig, EcnCodepoint, EndpointConfig, ServerConfig};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The conduct of an idle worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: lowest latency, with a core at 100 %.
    Spin,
    /// Polls for a while, then yields, then sleeps in short steps.
    Adaptive,
}

/// The state that all workers of a process share. On a packet's way, only the hand-over rings are written.
#[derive(Debug)]
pub struct NodeShared {
    /// The number of workers.
    pub workers: usize,
    /// The keys of connection IDs, stateless resets and address tokens.
    pub keys: NodeKeys,
    /// The address tokens that clients used.
    pub(super) used_tokens: Arc<UsedTokens>,
    /// The application of each queue and request.
    pub routes: QueueRoutes,
    /// The memory that may be promised to all peers and held for them. It is 0 until it is set: windows keep their sizes.
    pub window_budget: Budget,
    /// The connections that each node may have here.
    pub node_seats: NodeSeats,
    /// One ring for each worker, for datagrams of its connections that another worker received.
    pub(super) handovers: Vec<ArrayQueue<Handover>>,
    /// The load of each worker.
    pub(super) loads: Vec<PublishedLoad>,
    lifecycle: AtomicU8,
    turns_away: AtomicBool,
    turns_away_from: Mutex<Option<Instant>>,
    /// Each worker looks at it once a turn.
    renewals: NewestValue<Renewal>,
    peer_gateways: NewestValue<PeerGatewayList>,
    /// The other gateways of the fleet. Each worker looks at it once a turn.
    members: NewestValue<FleetMembers>,
    pub(super) signs: SignsOfLife,
    /// Counts the changes of the fleet's keys.
    keys_changed: AtomicU32,
}

const RUNNING: u8 = 0;
pub(super) const DRAINING: u8 = 1;
pub(super) const CLOSING: u8 = 2;

impl NodeShared {
    /// The shared state of this many workers, with random keys.
    pub fn new(workers: usize, routes: QueueRoutes) -> Arc<Self> {
        Self::with_keys(workers, routes, NodeKeys::random())
    }

    /// The shared state of this many workers, with these keys.
    pub fn with_keys(workers: usize, routes: QueueRoutes, keys: NodeKeys) -> Arc<Self> {
        Arc::new(Self {
            workers,
            keys,
            used_tokens: Arc::default(),
            routes,
            window_budget: Budget::default(),
            node_seats: NodeSeats::default(),
            handovers: (0..workers).map(|_| ArrayQueue::new(HANDOVER_RING_LEN)).collect(),
            loads: (0..workers).map(|_| PublishedLoad::default()).collect(),
            lifecycle: AtomicU8::new(RUNNING),
            turns_away: AtomicBool::new(false),
            turns_away_from: Mutex::default(),
            renewals: NewestValue::default(),
            peer_gateways: NewestValue::default(),
            members: NewestValue::default(),
            signs: SignsOfLife::default(),
            keys_changed: AtomicU32::new(0),
        })
    }

    /// Asks the workers to drain: they accept no new connections and send GOAWAY to their peers.
    pub fn drain(&self) {
        self.lifecycle.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Asks the workers to close every connection and to end.
    pub fn close(&self) {
        self.lifecycle.fetch_max(CLOSING, Ordering::AcqRel);
    }

    /// Whether [`NodeShared::drain`] or [`NodeShared::close`] was called.
    pub fn is_draining(&self) -> bool {
        self.is(DRAINING)
    }

    /// Turns new connections away from this time on, or takes them again. Unlike a drain it can be undone: connections that there are go on, and
    /// peers are sent no GOAWAY.
    pub fn set_turns_away(&self, from: Option<Instant>) {
        *self.turns_away_from.lock().unwrap_or_else(PoisonError::into_inner) = from;
        self.turns_away.store(from.is_some(), Ordering::Release);
    }

    /// Whether new connections are to be turned away by [`NodeShared::set_turns_away`], now or soon.
    pub fn turns_away(&self) -> bool {
        self.turns_away.load(Ordering::Acquire)
    }

    /// Whether a new connection is turned away.
    pub(super) fn turns_away_at(&self, now: Instant) -> bool {
        let from = || *self.turns_away_from.lock().unwrap_or_else(PoisonError::into_inner);
        self.turns_away() && from().is_some_and(|from| from <= now)
    }

    /// The number of datagrams handed over to this worker that it has not taken yet.
    pub fn handovers_waiting(&self, worker: usize) -> usize {
        self.handovers.get(worker).map_or(0, ArrayQueue::len)
    }

    /// Gives every worker new rights, and new TLS and transport settings for connections that begin from now on.
    pub fn renew(&self, renewal: Renewal) {
        self.renewals.put(Arc::new(renewal));
    }

    /// The newest renewal, if its number is not `seen`; otherwise the call costs one relaxed load.
    pub(super) fn renewed(&self, seen: &mut u32) -> Option<Arc<Renewal>> {
        self.renewals.newer(seen)
    }

    /// Gives every worker another list of peer gateways, and leaves all else as it is. Connections to those that stay are kept; the others
    /// are closed once no request runs on them. A worker that waits for packets takes it within a second, or once it is woken.
    pub fn renew_peer_gateways(&self, list: PeerGatewayList) {
        self.peer_gateways.put(Arc::new(list));
    }

    /// The newest list of peer gateways, if its number is not `seen`.
    pub(super) fn renewed_peer_gateways(&self, seen: &mut u32) -> Option<Arc<PeerGatewayList>> {
        self.peer_gateways.newer(seen)
    }

    /// Takes other rotations of the fleet's keys, at each worker.
    pub fn renew_keys(&self, settings: &FleetSettings) {
        self.keys.renew(settings);
        self.keys_changed.fetch_add(1, Ordering::Release);
    }

    /// How often the keys have changed.
    #[inline]
    pub(super) fn keys_changed(&self) -> u32 {
        self.keys_changed.load(Ordering::Acquire)
    }

    /// Hands datagrams over to these gateways of the fleet, and takes theirs.
    pub fn set_members(&self, members: FleetMembers) {
        self.signs.keep(|server_id| members.way(server_id).is_some_and(|way| way.is_gone));
        self.members.put(Arc::new(members));
    }

    /// The newest table of the fleet's gateways, if its number is not `seen`; otherwise the call costs one relaxed load.
    #[inline]
    pub(super) fn newer_members(&self, seen: &mut u32) -> Option<Arc<FleetMembers>> {
        self.members.newer(seen)
    }

    /// Whether [`NodeShared::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.is(CLOSING)
    }

    pub(super) fn is(&self, state: u8) -> bool {
        self.lifecycle.load(Ordering::Relaxed) >= state
    }
}

/// A datagram that is handed over to the worker of its connection.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: BytesMut,
    /// Whether it is a packet of GUE.
    pub(super) is_gue: bool,
}

/// The status of a worker, for other threads of the process. It lies in cache lines of its own: what a worker counts for each packet takes
/// no line from another worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStatus {
    /// Its counters.
    pub counters: Counters,
    /// Connections now.
    pub connections: AtomicUsize,
    /// Figures that a survey collects once a second.
    pub gauges: Gauges,
    /// Inspections of its connections, for the admin endpoint.
    pub inspection: Inspection,
    /// Requests in flight, counted each turn once a drain has begun.
    pub(super) requests: AtomicUsize,
    /// Connections whose peers may not have read the last answer yet, counted in the same way.
    pub(super) lingering: AtomicUsize,
}

/// The settings that a reload gives to the workers.
#[derive(Debug)]
pub struct Renewal {
    /// TLS and transport of connections that begin from now on; existing ones keep theirs.
    pub quic: Quic,
    /// What each peer may ask for, with the next request or message that is read.
    pub rights: Arc<Rights>,
}

/// The QUIC settings of a worker.
#[derive(Clone, Debug)]
pub struct Quic {
    /// The settings of connections in both directions.
    pub endpoint: EndpointConfig,
    /// The settings to accept connections; `None` on a pure client.
    pub server: Option<ByFamily<Arc<ServerConfig>>>,
    /// The settings to open connections; `None` on a pure server.
    pub client: Option<ByFamily<ClientConfig>>,
    /// The choice of connections that are logged; `None`: no connection is.
    pub qlog: Option<Sampler>,
    /// The settings of connections that differ from the others.
    pub transports: Transports,
    /// How far a peer may be ahead of the readers of its streams. These are the values in the transport parameters of `server` and `client`.
    pub windows: Windows,
    /// How long peers may be silent on connections that this side opens.
    pub silence: SilenceLimits,
}

/// A value for IPv4 and one for IPv6: their headers leave different room for QUIC.
#[derive(Clone, Debug)]
pub struct ByFamily<T> {
    pub(super) v4: T,
    v6: T,
}

impl<T> ByFamily<T> {
    /// Makes both values, one for each family.
    pub fn new(make: impl Fn(IpFamily) -> T) -> Self {
        Self { v4: make(IpFamily::V4), v6: make(IpFamily::V6) }
    }

    /// Makes another pair from this one.
    pub fn map<U>(&self, make: impl Fn(&T) -> U) -> ByFamily<U> {
        ByFamily { v4: make(&self.v4), v6: make(&self.v6) }
    }

    /// Makes a pair from this one and another.
    pub fn zip<U, V>(&self, other: &ByFamily<U>, make: impl Fn(&T, &U) -> V) -> ByFamily<V> {
        ByFamily { v4: make(&self.v4, &other.v4), v6: make(&self.v6, &other.v6) }
    }

    /// The value for this address. An IPv4 address mapped into IPv6 is IPv4 on the wire.
    pub fn of(&self, address: SocketAddr) -> &T {
        match IpFamily::of(address.ip()) {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

impl WorkerStatus {
    /// Requests in flight while the worker drains.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections for which a drain still waits: answered in the last [`crate::limits::ANSWER_LINGER_MS`], and not closed.
    pub fn lingering(&self) -> usize {
        self.lingering.load(Ordering::Relaxed)
    }
}

//! What the workers of a process share, and what each shows of itself.

use super::gateways::PeerGateway;
use super::view::{ConnectionView, Gauges};
use crate::counters::Counters;
use crate::limits::HANDOVER_RING_LEN;
use crate::quic::budget::Budget;
use crate::quic::keys::NodeKeys;
use crate::quic::qlog::Sampler;
use crate::quic::transport::Windows;
use crate::session::QueueRoutes;
use bytes::BytesMut;
use crossbeam_queue::ArrayQueue;
use quinn_proto::{ClientConfig, EcnCodepoint, EndpointConfig, ServerConfig};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: lowest latency, a core at 100 %.
    Spin,
    /// Polls on for a while, then yields, then sleeps in short steps.
    Adaptive,
}

/// The state that all workers of a process share. On a packet's way, only the hand-over rings are written.
#[derive(Debug)]
pub struct NodeShared {
    /// How many workers there are.
    pub workers: usize,
    /// The keys of connection IDs and stateless resets.
    pub keys: NodeKeys,
    /// Which application takes what.
    pub routes: QueueRoutes,
    /// What the windows of all connections may have past their first size. Without a total until it is set: windows keep their size.
    pub window_budget: Budget,
    /// One ring a worker, for datagrams that landed elsewhere.
    pub(super) handovers: Vec<ArrayQueue<Handover>>,
    lifecycle: AtomicU8,
    /// The number of the last renewal; each worker compares it with its own once a turn.
    renewals: AtomicU32,
    renewal: Mutex<Numbered>,
}

/// A renewal with its number, from 1; 0 before the first.
type Numbered = (u32, Option<Arc<Renewal>>);

const RUNNING: u8 = 0;
pub(super) const DRAINING: u8 = 1;
pub(super) const CLOSING: u8 = 2;

impl NodeShared {
    /// For this many workers, with random keys.
    pub fn new(workers: usize, routes: QueueRoutes) -> Arc<Self> {
        Self::with_keys(workers, routes, NodeKeys::random())
    }

    /// For this many workers, with these keys.
    pub fn with_keys(workers: usize, routes: QueueRoutes, keys: NodeKeys) -> Arc<Self> {
        Arc::new(Self {
            workers,
            keys,
            routes,
            window_budget: Budget::default(),
            handovers: (0..workers).map(|_| ArrayQueue::new(HANDOVER_RING_LEN)).collect(),
            lifecycle: AtomicU8::new(RUNNING),
            renewals: AtomicU32::new(0),
            renewal: Mutex::default(),
        })
    }

    /// Asks the workers to finish what runs: no new connections, GOAWAY to the peers.
    pub fn drain(&self) {
        self.lifecycle.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Asks the workers to close every connection and end.
    pub fn close(&self) {
        self.lifecycle.fetch_max(CLOSING, Ordering::AcqRel);
    }

    /// Whether [`NodeShared::drain`] or [`NodeShared::close`] was called.
    pub fn is_draining(&self) -> bool {
        self.is(DRAINING)
    }

    /// Datagrams that other workers handed to this one and that it has not taken yet.
    pub fn handovers_waiting(&self, worker: usize) -> usize {
        self.handovers.get(worker).map_or(0, ArrayQueue::len)
    }

    /// Gives every worker other peer gateways, and other TLS and transport for the connections that begin from now on.
    pub fn renew(&self, renewal: Renewal) {
        let mut slot = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slot.0.wrapping_add(1);
        *slot = (number, Some(Arc::new(renewal)));
        self.renewals.store(number, Ordering::Release);
    }

    /// The newest renewal, if `seen` is not its number; for the price of one relaxed load where it is.
    pub(super) fn renewed(&self, seen: &mut u32) -> Option<Arc<Renewal>> {
        if self.renewals.load(Ordering::Relaxed) == *seen {
            return None;
        }
        let (number, renewal) = self.renewal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *seen = number;
        renewal
    }

    /// Whether [`NodeShared::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.is(CLOSING)
    }

    pub(super) fn is(&self, state: u8) -> bool {
        self.lifecycle.load(Ordering::Relaxed) >= state
    }
}

/// A datagram on its way to the worker that owns its connection.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: BytesMut,
}

/// What the rest of the process may see of a worker.
#[derive(Debug, Default)]
pub struct WorkerStatus {
    /// Its counters.
    pub counters: Counters,
    /// Connections now.
    pub connections: AtomicUsize,
    /// What it looks at once a second.
    pub gauges: Gauges,
    /// Shows its connections to the admin endpoint.
    pub inspection: Inspection,
    /// Requests in flight when last looked at: once a drain began, each turn.
    pub(super) requests: AtomicUsize,
    /// Connections whose peers may not have read the last answer yet, in the same way.
    pub(super) lingering: AtomicUsize,
}

/// One who wants to see a worker's connections, and the worker's answer.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Looked at each turn; the lock only when this is so.
    pub(super) wanted: AtomicBool,
    pub(super) asker: Mutex<Option<oneshot::Sender<Vec<ConnectionView>>>>,
}

impl Inspection {
    /// Asks the worker for its first [`crate::limits::INSPECTION_LEN_MAX`] connections; it answers in one of its next turns. Who
    /// asked before and has no answer yet gets none.
    pub fn ask(&self) -> oneshot::Receiver<Vec<ConnectionView>> {
        let (asker, answer) = oneshot::channel();
        *self.asker.lock().unwrap_or_else(PoisonError::into_inner) = Some(asker);
        self.wanted.store(true, Ordering::Release);
        answer
    }
}

/// What a reload gives the workers.
#[derive(Debug)]
pub struct Renewal {
    /// TLS and transport of connections that begin from now on; those that exist keep theirs.
    pub quic: Quic,
    /// The peer gateways. Connections to those that stay peer gateways stay.
    pub peer_gateways: Vec<PeerGateway>,
    /// Connections to peer gateways that a worker keeps at once.
    pub peer_gateway_connections_max: usize,
}

/// What a worker's QUIC is made of.
#[derive(Clone, Debug)]
pub struct Quic {
    /// For connections of both directions.
    pub endpoint: EndpointConfig,
    /// To accept connections; none on a pure client.
    pub server: Option<ByFamily<Arc<ServerConfig>>>,
    /// To open connections; none on a pure server.
    pub client: Option<ByFamily<ClientConfig>>,
    /// Which connections are logged; none: none.
    pub qlog: Option<Sampler>,
    /// How far a peer may be ahead of the readers of its streams, as the transport parameters of `server` and `client` say it.
    pub windows: Windows,
}

/// One thing for IPv4 and one for IPv6: their headers leave different room for QUIC.
#[derive(Clone, Debug)]
pub struct ByFamily<T> {
    pub(super) v4: T,
    v6: T,
}

impl<T> ByFamily<T> {
    /// Makes both; `make` is told whether it is for IPv6.
    pub fn new(make: impl Fn(bool) -> T) -> Self {
        Self { v4: make(false), v6: make(true) }
    }

    /// Makes another pair of this one.
    pub fn map<U>(&self, make: impl Fn(&T) -> U) -> ByFamily<U> {
        ByFamily { v4: make(&self.v4), v6: make(&self.v6) }
    }

    /// Makes a pair of this one and another.
    pub fn zip<U, V>(&self, other: &ByFamily<U>, make: impl Fn(&T, &U) -> V) -> ByFamily<V> {
        ByFamily { v4: make(&self.v4, &other.v4), v6: make(&self.v6, &other.v6) }
    }

    /// The one for this address. An IPv4 address mapped into IPv6 is IPv4 on the wire.
    pub fn of(&self, address: SocketAddr) -> &T {
        if address.ip().to_canonical().is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

impl WorkerStatus {
    /// Requests in flight while draining.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections that a drain still waits for: answered in the last [`crate::limits::ANSWER_LINGER_MS`], and not closed by the peer.
    pub fn lingering(&self) -> usize {
        self.lingering.load(Ordering::Relaxed)
    }
}

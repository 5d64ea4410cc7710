//! One stream without a connection, for the tests of its roles.

use super::fault::Fault;
use super::flow::FlowControl;
use super::reading::Reading;
use super::serving::Serving;
use super::stream::{Role, Sending, Stream};
use super::{Context, PeerState, QueueRoutes};
use crate::counters::Counters;
use crate::hop::{Hops, Policy, Transit};
use crate::limits::DELIVERY_RING_LEN;
use crate::queue::{
    AppPort, CloseReason, ConnectionId, Credit, Delivery, End, GroupChecks, Sleeper, WorkerPort, rings,
};
use crate::quic::transport::Windows;
use crate::record::{ErrorRecord, Hop, Record};
use crate::rights::{Grant, RightsInForce};
use crate::session::control::Opening;
use crate::tls::NodeId;
use crate::token::{EncodedPiece, Outboard, Ranges, VerifiedEncoder};
use bytes::Bytes;
use quinn_proto::{Dir, Side, StreamId};
use std::sync::Arc;
use std::time::Instant;

pub(super) const QUEUE: u64 = 1;
pub(super) const SAFE_QUEUE: u64 = 2;
pub(super) const UNCHECKED_QUEUE: u64 = 3;
pub(super) const NODE: NodeId = NodeId([1; 32]);
pub(super) const NEXT: NodeId = NodeId([2; 32]);
const OWN: NodeId = NodeId([3; 32]);

/// The surroundings of a stream that is read, with one application that takes all deliveries.
pub(super) struct Bench {
    pub(super) ports: Vec<WorkerPort>,
    pub(super) peer: PeerState,
    pub(super) leaving: bool,
    pub(super) checks: Option<GroupChecks>,
    app: AppPort,
    routes: QueueRoutes,
    pub(super) counters: Counters,
    rights: RightsInForce,
    now: Instant,
}

impl Bench {
    pub(super) fn new() -> Self {
        let (app, worker) = rings(Sleeper::default().waker());
        let routes = QueueRoutes {
            queues: [(QUEUE, 0), (SAFE_QUEUE, 0), (UNCHECKED_QUEUE, 0)].into_iter().collect(),
            replay_safe: [SAFE_QUEUE].into_iter().collect(),
            unchecked: [UNCHECKED_QUEUE].into_iter().collect(),
            store: Some(0),
            ..QueueRoutes::default()
        };
        Self {
            ports: vec![worker],
            peer: PeerState { grant: Arc::new(Grant::everything()), ..PeerState::new() },
            leaving: false,
            checks: None,
            app,
            routes,
            counters: Counters::default(),
            rights: RightsInForce::new(Arc::default()),
            now: Instant::now(),
        }
    }

    /// Lets every peer route through this node to [`NEXT`].
    pub(super) fn route(&mut self) {
        let policy = Policy { own: OWN, transit: Transit::Anyone, budget_bytes_max: u64::MAX };
        self.routes.hops = Some(Arc::new(Hops::new(policy, [NEXT].into_iter().collect())));
        self.routes.relay = Some(0);
    }

    pub(super) fn connection(&self) -> ConnectionId {
        ConnectionId { worker: 0, slot: 0, generation: 1 }
    }

    /// A unidirectional stream of the peer.
    pub(super) fn uni(&self, early: bool) -> Stream {
        Stream::new(Role::Opening(Opening { early, pace: None }), Sending::Over)
    }

    /// A bidirectional stream of the peer.
    pub(super) fn bi(&self, early: bool) -> Stream {
        Stream::new(Role::Serving(Serving::new(early, Credit::default())), Sending::Over)
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Reading<'_, '_>) -> T) -> T {
        let connection = self.connection();
        let mut cx = Context {
            now: self.now,
            ports: &mut self.ports,
            routes: &self.routes,
            rights: &self.rights,
            counters: &self.counters,
            checks: self.checks.as_mut(),
            crumb_bytes: 0,
        };
        act(&mut Reading {
            connection,
            stream: StreamId::new(Side::Client, Dir::Bi, 0),
            owner: None,
            peer: &mut self.peer,
            flow: &mut FlowControl::new(Windows::default()),
            leaving: self.leaving,
            cx: &mut cx,
        })
    }

    pub(super) fn feed(&mut self, stream: &mut Stream, bytes: &[u8]) -> Result<(), Fault> {
        self.with(|cx| stream.feed(Bytes::copy_from_slice(bytes), cx))
    }

    pub(super) fn resume(&mut self, stream: &mut Stream) -> Result<(), Fault> {
        self.with(|cx| stream.resume(cx))
    }

    pub(super) fn settle(&mut self, stream: &mut Stream) {
        self.with(|cx| stream.settle(cx)).unwrap();
    }

    pub(super) fn end(&mut self, stream: &mut Stream) -> Result<(), Fault> {
        self.with(|cx| stream.end(cx))
    }

    pub(super) fn fail(&mut self, stream: &mut Stream, failure: ErrorRecord) {
        self.with(|cx| stream.role.fail(End::Failed(failure), cx));
    }

    /// The application's deliveries since the last call.
    pub(super) fn delivered(&mut self) -> Vec<Delivery> {
        std::iter::from_fn(|| self.app.receive()).collect()
    }

    /// The application takes up to `count` deliveries. Returns how many it took.
    pub(super) fn take(&mut self, count: usize) -> usize {
        std::iter::from_fn(|| self.app.receive()).take(count).count()
    }

    /// Fills the application's ring.
    pub(super) fn fill(&mut self) {
        for tag in 0..DELIVERY_RING_LEN as u64 {
            self.ports[0].deliver(Delivery::ConnectFailed { tag, reason: CloseReason::Local });
        }
    }

    /// Takes the deliveries of [`Bench::fill`].
    pub(super) fn empty(&mut self) {
        assert_eq!(self.delivered().len(), DELIVERY_RING_LEN);
    }
}

/// A complete record.
pub(super) fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}

/// The verified encoding of a small payload.
pub(super) fn encoding(payload: &[u8]) -> Vec<Vec<u8>> {
    let (_, outboard) = Outboard::build(payload, payload.len() as u64).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, Ranges::all()).unwrap();
    let (mut batch, mut encoded) = (Vec::new(), Vec::new());
    while !encoder.is_complete() {
        encoder.next_batch(1 << 20, &mut batch).unwrap();
        encoded.extend(batch.drain(..).map(|piece| match piece {
            EncodedPiece::Proof(hashes) => hashes.to_vec(),
            EncodedPiece::Data { offset, len } => payload[offset as usize..][..len].to_vec(),
        }));
    }
    encoded
}

/// A hop from [`OWN`] to [`NEXT`].
pub(super) fn hop() -> Hop {
    Hop {
        cache: false,
        hop_limit: 4,
        nonce: [9; 16],
        budget_bytes: 1 << 20,
        cursor: 0,
        route: [OWN, NEXT].into_iter().collect(),
    }
}

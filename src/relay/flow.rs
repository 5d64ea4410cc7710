//! One forwarded request, and the peers that wait for its answer.

use crate::queue::{ConnectionId, Credit, RequestId};
use crate::record::{Fetch, Hop, Payload};
use crate::seed::Passing;
use crate::tls::NodeId;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::time::Instant;

/// The identity of a FETCH: the record, the rest of the route, and whether gateways on the way may keep the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FetchKey {
    pub(super) fetch: Fetch,
    pub(super) route: SmallVec<[NodeId; 8]>,
    pub(super) cache: bool,
}

/// One forwarded request, and the peers that wait for its answer.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) next: NodeId,
    pub(super) hop: Box<Hop>,
    /// The peers that wait. The first one sets the pace at which the answer is read.
    pub(super) members: SmallVec<[Member; 1]>,
    /// Credit for the bytes of the request, which the first member sends.
    pub(super) onward: Credit,
    pub(super) stage: FlowStage,
    /// Bytes of the request that wait for the connection; their credit is taken.
    pub(super) head: Payload,
    /// Whether the first member has ended its half.
    pub(super) ended: bool,
    pub(super) key: Option<FetchKey>,
    pub(super) passing: Option<Passing>,
    /// When a byte of the answer last passed.
    pub(super) progress: Instant,
}

#[derive(Debug)]
pub(super) enum FlowStage {
    /// It waits for a connection to its peer gateway.
    Waiting { until: Instant },
    /// It is forwarded under this number.
    Open(RequestId),
}

/// A peer that waits for an answer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) request: RequestId,
    pub(super) answer: Credit,
    pub(super) budget_left: u64,
}

impl Member {
    /// Takes bytes off the budget; false if it is spent.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = self.budget_left.checked_sub(bytes as u64);
        self.budget_left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Flow {
    /// Whether the peer that sets the pace reads no bytes.
    pub(super) fn is_held_up(&self) -> bool {
        self.members.first().is_some_and(|member| !member.answer.has_relay_room())
    }

    /// Holds bytes of the request until they can be forwarded. They take credit: at most a window of them is read.
    pub(super) fn hold(&mut self, bytes: Payload) {
        self.onward.take(bytes.len());
        bytes.into_chunks().into_iter().for_each(|chunk| self.head.push(chunk));
    }
}

/// The requests of peers, with the flow of each, by connection. Peers choose the numbers of their streams: the tables are hashed with a key.
#[derive(Debug, Default)]
pub(super) struct Upstream(HashMap<ConnectionId, HashMap<RequestId, usize>>);

impl Upstream {
    pub(super) fn insert(&mut self, request: RequestId, flow: usize) {
        self.0.entry(request.connection).or_default().insert(request, flow);
    }

    pub(super) fn get(&self, request: &RequestId) -> Option<usize> {
        self.0.get(&request.connection)?.get(request).copied()
    }

    pub(super) fn remove(&mut self, request: &RequestId) -> Option<usize> {
        let of_peer = self.0.get_mut(&request.connection)?;
        let flow = of_peer.remove(request);
        if of_peer.is_empty() {
            self.0.remove(&request.connection);
        }
        flow
    }

    /// The requests of one connection.
    pub(super) fn of(&self, connection: ConnectionId) -> Vec<RequestId> {
        self.0.get(&connection).map_or(Vec::new(), |requests| requests.keys().copied().collect())
    }
}

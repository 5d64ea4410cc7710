//! Hops: whether a gateway forwards a request, and to which node (protocol §5).
//!
//! A HOP record names the route; [`decide`] judges it against this gateway's [`Policy`] and knows no stream,
//! no clock and no table of peer gateways. [`NonceCache`] recognizes repeated requests. [`Hops`] combines
//! both, for all workers.

mod nonces;
mod route;

pub use nonces::NonceCache;
pub use route::{Route, RouteError};

use crate::record::{ErrorCode, Hop};
use crate::tls::NodeId;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The peers for which a gateway forwards requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transit {
    /// For no peer: it answers requests that end here and forwards none.
    Nobody,
    /// For its peer gateways.
    Gateways,
    /// For every peer with a certificate that this gateway trusts.
    Authenticated,
    /// For every peer that may connect, with or without a node ID.
    Anyone,
    /// For these nodes.
    Listed(BTreeSet<NodeId>),
}

impl Transit {
    fn allows(&self, previous: Option<NodeId>, peer_gateways: impl Fn(&NodeId) -> bool) -> bool {
        match self {
            Self::Nobody => false,
            Self::Gateways => previous.is_some_and(|node| peer_gateways(&node)),
            Self::Authenticated => previous.is_some(),
            Self::Anyone => true,
            Self::Listed(nodes) => previous.is_some_and(|node| nodes.contains(&node)),
        }
    }
}

/// A gateway's node ID and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its own node ID.
    pub own: NodeId,
    /// The peers for which it forwards.
    pub transit: Transit,
    /// The most bytes that one request may pass through it, both directions together; at least 1.
    pub budget_bytes_max: u64,
}

impl Policy {
    /// Bytes that may pass here after this HOP record, both directions together: the rest of the route's
    /// budget, bounded by the gateway's own limit.
    pub fn budget_bytes(&self, hop: &Hop) -> u64 {
        hop.budget_bytes.min(self.budget_bytes_max)
    }
}

/// The decision about a request whose route is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The route ends here: the request is for this node.
    Deliver,
    /// The request is forwarded.
    Forward {
        /// To this peer gateway.
        next: NodeId,
        /// Its HOP record there: cursor advanced by one, hop_limit reduced by one, budget bounded.
        hop: Box<Hop>,
    },
}

/// Why a gateway refuses a route. The asker reads the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopRefusal {
    /// The route's cursor points at another node.
    #[error("the route's cursor does not point at this gateway, {own}; give its own node ID at that place")]
    NotMyHop {
        /// This gateway.
        own: NodeId,
    },
    /// A node occurs in the route twice.
    #[error("the route names {0} twice; name every gateway once")]
    Loop(NodeId),
    /// No further gateway may take the request.
    #[error("hop_limit is used up; begin with at least the number of gateways in the route")]
    HopLimit,
    /// No byte may pass.
    #[error("the route's byte budget is used up; begin with more than the request and its answer take")]
    Budget,
    /// The nonce was used before.
    #[error("a request with this nonce came before; draw a new nonce for each attempt")]
    Seen,
    /// The gateway does not forward for that peer.
    #[error("this gateway does not forward for this peer; have its operator allow it, or use another route")]
    NotAuthorized,
    /// The next node is no configured peer gateway.
    #[error("{0} is no peer gateway of this one; use a route along configured peer gateways")]
    NoRoute(NodeId),
}

impl HopRefusal {
    /// The error code for the asker (protocol §9).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotMyHop { .. } => ErrorCode::NotMyHop,
            Self::Loop(_) | Self::Seen => ErrorCode::Loop,
            Self::HopLimit => ErrorCode::HopLimit,
            Self::Budget => ErrorCode::Budget,
            Self::NotAuthorized => ErrorCode::NotAuthorized,
            Self::NoRoute(_) => ErrorCode::NoRoute,
        }
    }
}

/// Whether a route's nonce was seen before: the result of [`NonceCache::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteNonce {
    /// The nonce is seen for the first time.
    New,
    /// The nonce was seen before: a loop or a replay.
    Seen,
}

/// Judges a route (protocol §5, in its order). `previous` is the peer that sent the request, `None` without a
/// certificate; `peer_gateways` recognizes configured peer gateways.
///
/// # Errors
/// The first rule that the route breaks.
pub fn decide(
    hop: &Hop,
    previous: Option<NodeId>,
    policy: &Policy,
    peer_gateways: impl Fn(&NodeId) -> bool,
    nonce: RouteNonce,
) -> Result<Decision, HopRefusal> {
    let cursor = usize::from(hop.cursor);
    if hop.route.get(cursor) != Some(&policy.own) {
        return Err(HopRefusal::NotMyHop { own: policy.own });
    }
    if let Some(twice) = first_repeated(&hop.route) {
        return Err(HopRefusal::Loop(twice));
    }
    let Some(hop_limit) = hop.hop_limit.checked_sub(1) else { return Err(HopRefusal::HopLimit) };
    if hop.budget_bytes == 0 {
        return Err(HopRefusal::Budget);
    }
    if nonce == RouteNonce::Seen {
        return Err(HopRefusal::Seen);
    }
    let Some(&next) = hop.route.get(cursor + 1) else { return Ok(Decision::Deliver) };
    if !policy.transit.allows(previous, &peer_gateways) {
        return Err(HopRefusal::NotAuthorized);
    }
    if !peer_gateways(&next) {
        return Err(HopRefusal::NoRoute(next));
    }
    let hop = Hop {
        hop_limit,
        budget_bytes: policy.budget_bytes(hop),
        // The cursor is not at the last node, and a route is at most 8 long.
        cursor: hop.cursor.saturating_add(1),
        ..hop.clone()
    };
    Ok(Decision::Forward { next, hop: Box::new(hop) })
}

/// The state that all workers of a gateway share: its policy, its peer gateways and the nonces seen.
#[derive(Debug)]
pub struct Hops {
    inner: Mutex<HopState>,
}

#[derive(Debug)]
struct HopState {
    policy: Policy,
    peer_gateways: BTreeSet<NodeId>,
    nonces: NonceCache,
}

impl Hops {
    /// A gateway with these peer gateways and no nonces.
    pub fn new(policy: Policy, peer_gateways: BTreeSet<NodeId>) -> Self {
        Self { inner: Mutex::new(HopState { policy, peer_gateways, nonces: NonceCache::new() }) }
    }

    /// Replaces the rules. Seen nonces stay seen.
    pub fn renew(&self, policy: Policy) {
        self.inner().policy = policy;
    }

    /// Replaces the peer gateways.
    pub fn renew_peer_gateways(&self, peer_gateways: BTreeSet<NodeId>) {
        self.inner().peer_gateways = peer_gateways;
    }

    /// Whether this is a peer gateway.
    pub fn is_peer_gateway(&self, node: &NodeId) -> bool {
        self.inner().peer_gateways.contains(node)
    }

    /// The gateway's rules.
    pub fn policy(&self) -> Policy {
        self.inner().policy.clone()
    }

    /// This node's ID.
    pub fn own(&self) -> NodeId {
        self.inner().policy.own
    }

    /// Judges a route, as [`decide`] does, and remembers its nonce, whatever the decision.
    ///
    /// # Errors
    /// The first rule that the route breaks.
    pub fn judge(&self, hop: &Hop, previous: Option<NodeId>, now: Instant) -> Result<Decision, HopRefusal> {
        let mut inner = self.inner();
        let nonce = if inner.nonces.insert(hop.nonce, now) { RouteNonce::Seen } else { RouteNonce::New };
        decide(hop, previous, &inner.policy, |node| inner.peer_gateways.contains(node), nonce)
    }

    fn inner(&self) -> MutexGuard<'_, HopState> {
        // The state is valid at every step, so a worker that panicked with the lock left it valid.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first node that occurs a second time in the route. Routes are short: at most 28 comparisons.
fn first_repeated(route: &[NodeId]) -> Option<NodeId> {
    route.iter().enumerate().find(|(at, node)| route[..*at].contains(node)).map(|(_, node)| *node)
}

#[cfg(test)]
mod tests;

//! The way of a request, as whoever asks names it.

use crate::limits::{HOP_LIMIT_MAX, HOPS_LEN_MAX};
use crate::record::Hop;
use crate::record::varint;
use crate::tls::NodeId;
use smallvec::SmallVec;

/// The gateways that a request goes through, the first one the peer that it is sent to, the last one the one that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    nodes: SmallVec<[NodeId; HOPS_LEN_MAX]>,
    cache: bool,
    budget_bytes: u64,
}

/// Why gateways are no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// None, or more than [`HOPS_LEN_MAX`].
    #[error("a route has 1 to {HOPS_LEN_MAX} gateways, not {0}")]
    Length(usize),
    /// One of them twice.
    #[error("the route names {0} twice; name every gateway once")]
    Twice(NodeId),
}

impl Route {
    /// Through these gateways, in order, with no bound on the bytes.
    ///
    /// # Errors
    /// [`RouteError`] for a route that the first gateway would refuse.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Result<Self, RouteError> {
        let nodes: SmallVec<[NodeId; HOPS_LEN_MAX]> = nodes.into_iter().collect();
        if nodes.is_empty() || nodes.len() > HOPS_LEN_MAX {
            return Err(RouteError::Length(nodes.len()));
        }
        if let Some(twice) = super::first_repeated(&nodes) {
            return Err(RouteError::Twice(twice));
        }
        Ok(Self { nodes, cache: false, budget_bytes: varint::MAX })
    }

    /// Lets gateways on the way keep what passes, and answer from what they hold.
    #[must_use]
    pub fn with_cache(self, cache: bool) -> Self {
        Self { cache, ..self }
    }

    /// Bounds the bytes that each gateway passes on, both directions together.
    #[must_use]
    pub fn with_budget(self, budget_bytes: u64) -> Self {
        Self { budget_bytes: budget_bytes.min(varint::MAX), ..self }
    }

    /// The gateways.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The record for one request: every request has a nonce of its own.
    pub fn hop(&self) -> Hop {
        Hop {
            cache: self.cache,
            hop_limit: HOP_LIMIT_MAX,
            nonce: rand::random(),
            budget_bytes: self.budget_bytes,
            cursor: 0,
            route: self.nodes.clone(),
        }
    }
}

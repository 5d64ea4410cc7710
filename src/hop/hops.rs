//! The rules of a gateway, with what they remember: shared by its workers.

use super::{Decision, NonceCache, Policy, Refusal, decide};
use crate::record::Hop;
use crate::tls::NodeId;
use rustc_hash::FxHashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Judges the HOP records that come to a gateway, on whichever worker. The lock is taken once a routed request, never for a
/// packet.
#[derive(Debug)]
pub struct Hops {
    policy: Policy,
    neighbors: FxHashSet<NodeId>,
    nonces: Mutex<NonceCache>,
}

impl Hops {
    /// Rules for a gateway with these neighbours.
    pub fn new(policy: Policy, neighbors: impl IntoIterator<Item = NodeId>) -> Self {
        let neighbors = neighbors.into_iter().collect();
        Self { policy, neighbors, nonces: Mutex::new(NonceCache::new()) }
    }

    /// Whether this is a configured neighbour.
    pub fn is_neighbor(&self, node: &NodeId) -> bool {
        self.neighbors.contains(node)
    }

    /// Judges one record; `previous` is the peer that it came from.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn judge(&self, hop: &Hop, previous: Option<NodeId>, now: Instant) -> Result<Decision, Refusal> {
        let judge = |seen| decide(hop, previous, &self.policy, |node| self.is_neighbor(node), seen);
        // What is refused anyway takes no place among the nonces.
        judge(false)?;
        let seen = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(hop.nonce, now);
        judge(seen)
    }
}

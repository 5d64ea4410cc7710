//! Requests that wait for a connection to their peer gateway.

use crate::limits::RELAY_WAITING_LEN_MAX;
use crate::tls::NodeId;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The end of a request's wait, and its flow.
pub(super) type Wait = (Instant, usize);

/// Requests that wait for a connection to their peer gateway. Each is stepped over once, however many wait for however many gateways.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// By peer gateways, in the order of their ends. None is empty.
    of: HashMap<NodeId, BTreeSet<Wait>>,
    /// The first end of each.
    first: BTreeSet<(Instant, NodeId)>,
    /// Waits and peer gateways that were looked at.
    #[cfg(test)]
    pub(super) steps: usize,
}

impl Waits {
    /// Adds a wait. Returns false if too many wait for this peer gateway.
    pub(super) fn push(&mut self, node: NodeId, wait: Wait) -> bool {
        let waiting = self.of.entry(node).or_default();
        if waiting.len() == RELAY_WAITING_LEN_MAX {
            return false;
        }
        let before = waiting.first().map(|&(until, _)| until);
        waiting.insert(wait);
        self.settle(node, before);
        true
    }

    /// Removes a wait: its flow is over.
    pub(super) fn remove(&mut self, node: NodeId, wait: Wait) {
        let Some(waiting) = self.of.get_mut(&node) else { return };
        let before = waiting.first().map(|&(until, _)| until);
        waiting.remove(&wait);
        self.settle(node, before);
    }

    /// The waits for this peer gateway, which are over.
    pub(super) fn take(&mut self, node: &NodeId) -> BTreeSet<Wait> {
        let waiting = self.of.remove(node).unwrap_or_default();
        if let Some(&(until, _)) = waiting.first() {
            self.first.remove(&(until, *node));
        }
        self.step(waiting.len());
        waiting
    }

    /// A wait that has come to its end.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<Wait> {
        let &(until, node) = self.first.first().filter(|(until, _)| *until <= now)?;
        self.step(1);
        let late = self.of.get_mut(&node)?.pop_first();
        self.settle(node, Some(until));
        late
    }

    /// The first end of a wait.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.first.first().map(|&(until, _)| until)
    }

    /// Notes the first end of a peer gateway's waits, which was `before`.
    fn settle(&mut self, node: NodeId, before: Option<Instant>) {
        let first = self.of.get(&node).and_then(|waiting| waiting.first()).map(|&(until, _)| until);
        if first.is_none() {
            self.of.remove(&node);
        }
        if first != before {
            before.map(|until| self.first.remove(&(until, node)));
            first.map(|until| self.first.insert((until, node)));
        }
    }

    fn step(&mut self, _steps: usize) {
        #[cfg(test)]
        {
            self.steps += _steps;
        }
    }
}

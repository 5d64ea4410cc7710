//! Requests that wait for a connection to their peer gateway.

use crate::limits::RELAY_WAITING_LEN_MAX;
use crate::tls::NodeId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

/// The end of a request's wait, and its flow. A flow that is over stays until that end.
pub(super) type Wait = (Instant, usize);

/// Requests that wait for a connection to their peer gateway. Each is stepped over once, however many wait for however many gateways.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// By peer gateways, in the order of their ends. None is empty.
    of: HashMap<NodeId, VecDeque<Wait>>,
    /// The first end of each.
    first: BTreeSet<(Instant, NodeId)>,
    /// Waits and peer gateways that were looked at.
    #[cfg(test)]
    pub(super) steps: usize,
}

impl Waits {
    /// Adds a wait, which ends no earlier than those before it. Returns false if too many wait for this peer gateway.
    pub(super) fn push(&mut self, node: NodeId, wait: Wait) -> bool {
        let waiting = self.of.entry(node).or_default();
        if waiting.is_empty() {
            self.first.insert((wait.0, node));
        }
        let has_room = waiting.len() < RELAY_WAITING_LEN_MAX;
        if has_room {
            waiting.push_back(wait);
        }
        has_room
    }

    /// The waits for this peer gateway, which are over.
    pub(super) fn take(&mut self, node: &NodeId) -> VecDeque<Wait> {
        let waiting = self.of.remove(node).unwrap_or_default();
        if let Some(&(until, _)) = waiting.front() {
            self.first.remove(&(until, *node));
        }
        self.step(waiting.len());
        waiting
    }

    /// A wait that has come to its end.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<Wait> {
        let &(until, node) = self.first.first().filter(|(until, _)| *until <= now)?;
        self.step(1);
        self.first.remove(&(until, node));
        let waiting = self.of.get_mut(&node)?;
        let late = waiting.pop_front();
        match waiting.front() {
            Some(&(next, _)) => _ = self.first.insert((next, node)),
            None => _ = self.of.remove(&node),
        }
        late
    }

    /// The first end of a wait.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.first.first().map(|&(until, _)| until)
    }

    fn step(&mut self, _steps: usize) {
        #[cfg(test)]
        {
            self.steps += _steps;
        }
    }
}

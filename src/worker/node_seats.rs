//! The connections and requests that each node may have here: one count of each a process, by the node ID that the handshake proved.

use crate::limits::CONNECTIONS_PER_NODE_DEFAULT;
use crate::session::RequestSeats;
use crate::tls::NodeId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections each node has opened here. Clones are the same count.
#[derive(Clone, Debug)]
pub struct NodeSeats(Arc<Table>);

#[derive(Debug)]
struct Table {
    max: AtomicUsize,
    /// Locked when a peer's handshake is complete, and when its connection ends. The map's hashing is keyed: peers choose node IDs.
    taken: Mutex<HashMap<NodeId, NodeCounts>>,
}

#[derive(Debug, Default)]
struct NodeCounts {
    connections: usize,
    requests: RequestSeats,
}

impl Default for NodeSeats {
    fn default() -> Self {
        let max = AtomicUsize::new(CONNECTIONS_PER_NODE_DEFAULT as usize);
        Self(Arc::new(Table { max, taken: Mutex::default() }))
    }
}

impl NodeSeats {
    /// The most connections that one node may have; 0: no bound. Connections past a lower bound stay.
    pub fn set_max(&self, max: u32) {
        self.0.max.store(max as usize, Relaxed);
    }

    /// The most connections that one node may have; 0: no bound.
    pub fn max(&self) -> usize {
        self.0.max.load(Relaxed)
    }

    /// The connections that this node has.
    pub fn taken(&self, node: &NodeId) -> usize {
        self.lock().get(node).map_or(0, |counts| counts.connections)
    }

    /// The requests that the connections of this node have in flight.
    pub fn requests(&self, node: &NodeId) -> usize {
        self.lock().get(node).map_or(0, |counts| counts.requests.taken())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, NodeCounts>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seat of one connection. Its drop gives it back.
///
/// A connection that has ended may hold requests until it is dropped: a node that connects again meanwhile must find them counted. So
/// the node is forgotten with the last of its requests and connections.
#[derive(Debug)]
pub(super) struct NodeSeat {
    all: NodeSeats,
    node: Option<NodeId>,
    /// Whether the connection has ended.
    is_left: bool,
}

impl NodeSeat {
    /// No seat yet.
    pub(super) fn of(all: &NodeSeats) -> Self {
        Self { all: all.clone(), node: None, is_left: false }
    }

    /// Takes a seat for a connection of this node; returns those of its requests.
    ///
    /// # Errors
    /// The bound, if the node has as many connections.
    pub(super) fn take(&mut self, node: NodeId) -> Result<RequestSeats, usize> {
        let max = self.all.max();
        let mut all = self.all.lock();
        let counts = all.entry(node).or_default();
        if max > 0 && counts.connections >= max {
            return Err(max);
        }
        counts.connections += 1;
        self.node = Some(node);
        Ok(counts.requests.clone())
    }
}

impl NodeSeat {
    /// Gives the seat back: the connection has ended, though QUIC still knows it for three PTOs.
    pub(super) fn leave(&mut self) {
        let Some(node) = self.node.filter(|_| !std::mem::replace(&mut self.is_left, true)) else { return };
        if let Some(counts) = self.all.lock().get_mut(&node) {
            counts.connections -= 1;
        }
    }
}

impl Drop for NodeSeat {
    /// The connection's session is gone, and its requests with it.
    fn drop(&mut self) {
        self.leave();
        let Some(node) = self.node else { return };
        let mut all = self.all.lock();
        if all.get(&node).is_some_and(|counts| counts.connections == 0 && counts.requests.taken() == 0) {
            all.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_seats_and_gives_them_back() {
        let (seats, one, other) = (NodeSeats::default(), NodeId([1; 32]), NodeId([2; 32]));
        seats.set_max(2);
        let mut held: Vec<_> = (0..3).map(|_| NodeSeat::of(&seats)).collect();
        assert!(held[0].take(one).is_ok() && held[1].take(one).is_ok());
        assert_eq!(held[2].take(one).err(), Some(2));
        assert!(held[2].take(other).is_ok());
        held.remove(0);
        assert_eq!((seats.taken(&one), seats.taken(&other)), (1, 1));
        assert!(NodeSeat::of(&seats).take(one).is_ok(), "it is dropped at once");
        seats.set_max(1);
        assert_eq!(NodeSeat::of(&seats).take(one).err(), Some(1));
        seats.set_max(0);
        assert!(NodeSeat::of(&seats).take(one).is_ok());
        held.clear();
        assert!(seats.lock().is_empty(), "nodes that are gone take no memory");
    }

    #[test]
    fn a_node_that_connects_again_finds_the_requests_of_its_ended_connection_counted() {
        let (seats, node) = (NodeSeats::default(), NodeId([1; 32]));
        let (mut ended, mut again) = (NodeSeat::of(&seats), NodeSeat::of(&seats));
        let (request, _) = ended.take(node).unwrap().take();
        ended.leave();
        assert_eq!(seats.taken(&node), 0, "the connection itself counts no more");
        assert_eq!(again.take(node).unwrap().taken(), 1);
        drop((request, ended));
        assert_eq!((seats.taken(&node), seats.requests(&node)), (1, 0));
        again.leave();
        drop(again);
        assert!(seats.lock().is_empty());
    }
}

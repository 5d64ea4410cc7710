//! The connections of a gateway to its peer gateways. The standing ones are dialed at the start, and again with backoff after a failure; the
//! others once a request needs them, and again for as long as it may wait. At most the allowed number exists at once; the least recently
//! used one makes room.

use crate::limits::{
    PEER_GATEWAY_BACKOFF_MS_MAX, PEER_GATEWAY_BACKOFF_MS_MIN, REACH_CONNECTIONS_MAX, RELAY_REACH_MS,
};
use crate::names::Places;
use crate::quic::transport::PeerControl;
use crate::tls::NodeId;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Another gateway that this one forwards to, mirrors from and tells of its holdings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerGateway {
    /// Its node ID; a connection that proves another is closed.
    pub node: NodeId,
    /// Its addresses, of either family; tried in turn.
    pub addresses: Places,
    /// How connections to it differ from the others.
    pub control: PeerControl,
    /// Whether a connection to it is kept. Otherwise it is dialed when a request needs it.
    pub is_standing: bool,
}

/// The peer gateways of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerGatewayList {
    /// The gateways. Where connections are fewer, the first standing ones have them.
    pub peer_gateways: Vec<PeerGateway>,
    /// The most connections to them that a worker keeps at once.
    pub connections_max: usize,
}

/// One worker's connections to peer gateways.
#[derive(Debug, Default)]
pub(super) struct PeerGateways {
    links: Vec<GatewayLink>,
    by_node: FxHashMap<NodeId, usize>,
    connections_max: usize,
    /// The wanted links, the one to dial next first.
    wanted: BTreeSet<(Instant, usize)>,
    /// The open links, the least recently used one first.
    open: BTreeSet<(u64, usize)>,
    /// Uses of any link until now.
    uses: u64,
}

#[derive(Debug)]
struct GatewayLink {
    peer_gateway: PeerGateway,
    state: State,
    /// Failures since it was last up.
    failures: u32,
    /// The next address to try.
    address: usize,
    /// The number of its last use: a request that went to it, or was to go there.
    used: u64,
    /// Until when a request may wait for a connection to it.
    needed_until: Option<Instant>,
    /// The earliest time to dial it again, after failures.
    rests_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no connection, and none is needed.
    Idle,
    /// It is to be dialed from this time on.
    Wanted { from: Instant },
    /// It has the connection in this slot of the worker's table; `up`: its handshake is complete.
    Open { slot: u32, up: bool },
}

impl PeerGateways {
    /// Connects to the first `connections_max` standing ones of a list from `now` on.
    pub(super) fn new(list: PeerGatewayList, now: Instant) -> Self {
        let PeerGatewayList { peer_gateways, connections_max } = list;
        let by_node = peer_gateways.iter().enumerate().map(|(index, n)| (n.node, index)).collect();
        let mut standing = 0;
        let link = |peer_gateway: PeerGateway| {
            standing += usize::from(peer_gateway.is_standing);
            let is_wanted = peer_gateway.is_standing && standing <= connections_max;
            GatewayLink {
                peer_gateway,
                state: if is_wanted { State::Wanted { from: now } } else { State::Idle },
                failures: 0,
                address: 0,
                used: 0,
                needed_until: None,
                rests_until: None,
            }
        };
        let links = peer_gateways.into_iter().map(link).collect();
        let mut gateways = Self { links, by_node, connections_max, ..Self::default() };
        gateways.sort();
        gateways
    }

    /// Replaces the peer gateways. Those that stay keep their connections and their failures. Returns the slots of the connections that
    /// are no longer needed. Indices change: [`PeerGateways::place`] gives the new ones.
    pub(super) fn renew(&mut self, list: PeerGatewayList, now: Instant) -> Vec<u32> {
        let mut before = std::mem::replace(self, Self::new(list, now));
        let connections_max = self.connections_max;
        self.uses = before.uses;
        for link in &mut self.links {
            let known = before.by_node.get(&link.peer_gateway.node).map(|&index| &mut before.links[index]);
            if let Some(known) = known {
                let known_state = std::mem::replace(&mut known.state, State::Idle);
                // With new addresses there is no reason to wait for the backoff.
                let moved = known.peer_gateway.addresses != link.peer_gateway.addresses;
                link.state = match known_state {
                    State::Wanted { .. } if moved => State::Wanted { from: now },
                    State::Idle => link.state,
                    state => state,
                };
                (link.failures, link.address, link.used) = (known.failures, known.address, known.used);
                link.needed_until = known.needed_until;
                link.rests_until = known.rests_until.filter(|_| !moved);
            }
        }
        let mut gone: Vec<_> = before.links.iter().filter_map(GatewayLink::slot).collect();
        let mut busy = self.links.iter().filter(|link| link.state != State::Idle).count();
        for link in self.links.iter_mut().rev().filter(|link| link.state != State::Idle) {
            if busy <= connections_max {
                break;
            }
            gone.extend(link.slot());
            link.state = State::Idle;
            busy -= 1;
        }
        self.sort();
        gone
    }

    /// The index of this peer gateway.
    pub(super) fn place(&self, node: &NodeId) -> Option<usize> {
        self.by_node.get(node).copied()
    }

    /// When [`PeerGateways::next`] may have a peer gateway to dial.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.wanted.first().map(|&(from, _)| from)
    }

    /// A peer gateway to dial now, and its address. The caller then calls [`PeerGateways::dialed`] or [`PeerGateways::failed`].
    pub(super) fn next(&mut self, now: Instant) -> Option<(usize, SocketAddr)> {
        let &(_, index) = self.wanted.first().filter(|(from, _)| *from <= now)?;
        let link = &mut self.links[index];
        let known = link.peer_gateway.addresses.addresses();
        let Some(&address) = known.get(link.address % known.len().max(1)) else {
            if link.peer_gateway.addresses.has_names() {
                // The resolver has not answered yet, or found no address: it is tried again later.
                self.failed(index, None, now);
            } else {
                self.set(index, State::Idle);
            }
            return None;
        };
        link.address += 1;
        Some((index, address))
    }

    /// Each peer gateway to which a connection is to be kept or there is one now, and whether it is up.
    pub(super) fn states(&self) -> impl Iterator<Item = (NodeId, bool)> + '_ {
        let is_shown = |link: &&GatewayLink| link.peer_gateway.is_standing || link.state != State::Idle;
        self.links
            .iter()
            .filter(is_shown)
            .map(|link| (link.peer_gateway.node, matches!(link.state, State::Open { up: true, .. })))
    }

    /// The node ID that this connection must prove.
    pub(super) fn node(&self, index: usize) -> NodeId {
        self.links[index].peer_gateway.node
    }

    /// How the connection to a peer gateway differs from the others.
    pub(super) fn control(&self, index: usize) -> PeerControl {
        self.links[index].peer_gateway.control
    }

    /// Notes that a connection in this slot is being opened.
    pub(super) fn dialed(&mut self, index: usize, slot: u32) {
        self.set(index, State::Open { slot, up: false });
    }

    /// Notes that its connection is up.
    pub(super) fn up(&mut self, index: usize) {
        let link = &mut self.links[index];
        if let State::Open { up, .. } = &mut link.state {
            *up = true;
        }
        (link.failures, link.rests_until) = (0, None);
        self.used(index);
    }

    /// Notes that the connection in this slot failed or ended; returns whether that was news. It is dialed again if it is a standing one or a
    /// request may still wait for it, with a longer wait each time.
    pub(super) fn failed(&mut self, index: usize, slot: Option<u32>, now: Instant) -> bool {
        let link = &mut self.links[index];
        if slot.is_some_and(|gone| !matches!(link.state, State::Open { slot, .. } if slot == gone)) {
            return false;
        }
        let backoff = PEER_GATEWAY_BACKOFF_MS_MIN << link.failures.min(16);
        link.failures += 1;
        let from = now + Duration::from_millis(backoff.min(PEER_GATEWAY_BACKOFF_MS_MAX));
        link.rests_until = Some(from);
        let is_needed = link.peer_gateway.is_standing || link.needed_until.is_some_and(|until| from <= until);
        self.set(index, if is_needed { State::Wanted { from } } else { State::Idle });
        true
    }

    /// Notes that a request goes to it, or is to go there.
    pub(super) fn used(&mut self, index: usize) {
        let link = &mut self.links[index];
        if link.used == self.uses && self.uses != 0 {
            return;
        }
        self.uses += 1;
        let before = std::mem::replace(&mut link.used, self.uses);
        if self.open.remove(&(before, index)) {
            self.open.insert((self.uses, index));
        }
    }

    /// Has a peer gateway dialed that is not connected. Returns the slots of the connections to close for it, if there are too many: the
    /// least recently used ones without requests in flight, which `is_idle` tells. A peer may have this done again and again: it takes few
    /// looks, and one with requests gets its next look last.
    pub(super) fn reach(
        &mut self,
        node: &NodeId,
        now: Instant,
        is_idle: impl Fn(u32) -> bool,
    ) -> SmallVec<[u32; 1]> {
        let mut closed = SmallVec::new();
        let Some(index) = self.place(node) else { return closed };
        let link = &mut self.links[index];
        link.needed_until = Some(now + Duration::from_millis(RELAY_REACH_MS));
        if link.state != State::Idle {
            return closed;
        }
        let from = link.rests_until.map_or(now, |until| until.max(now));
        self.used(index);
        self.set(index, State::Wanted { from });
        for _ in 0..self.open.len().min(REACH_CONNECTIONS_MAX) {
            let Some(&(_, oldest)) = self.open.first() else { break };
            if self.wanted.len() + self.open.len() <= self.connections_max {
                break;
            }
            match self.links[oldest].slot().filter(|&slot| is_idle(slot)) {
                Some(slot) => {
                    self.set(oldest, State::Idle);
                    closed.push(slot);
                }
                None => self.used(oldest),
            }
        }
        closed
    }

    /// Whether the next attempt to dial it comes later than a forwarded request waits.
    pub(super) fn is_far(&self, node: &NodeId, now: Instant) -> bool {
        let later = now + Duration::from_millis(RELAY_REACH_MS);
        let Some(link) = self.place(node).map(|index| &self.links[index]) else { return false };
        match link.state {
            State::Wanted { from } => from > later,
            State::Idle => link.rests_until.is_some_and(|until| until > later),
            State::Open { .. } => false,
        }
    }

    /// Changes the state of a link, and its place in the order of those that are alike.
    fn set(&mut self, index: usize, state: State) {
        let link = &mut self.links[index];
        match std::mem::replace(&mut link.state, state) {
            State::Wanted { from } => _ = self.wanted.remove(&(from, index)),
            State::Open { .. } => _ = self.open.remove(&(link.used, index)),
            State::Idle => {}
        }
        match state {
            State::Wanted { from } => _ = self.wanted.insert((from, index)),
            State::Open { .. } => _ = self.open.insert((link.used, index)),
            State::Idle => {}
        }
    }

    /// Makes both orders anew, of all states.
    fn sort(&mut self) {
        self.wanted.clear();
        self.open.clear();
        for index in 0..self.links.len() {
            self.set(index, self.links[index].state);
        }
    }
}

impl GatewayLink {
    /// The slot of its connection.
    fn slot(&self) -> Option<u32> {
        match self.state {
            State::Open { slot, .. } => Some(slot),
            State::Idle | State::Wanted { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;

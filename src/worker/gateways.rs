//! The connections of a gateway to its peer gateways. They are dialed at the start, and again with backoff after a failure. At most
//! the allowed number exists at once; the least recently used one makes room.

use crate::limits::{PEER_GATEWAY_BACKOFF_MS_MAX, PEER_GATEWAY_BACKOFF_MS_MIN, RELAY_REACH_MS};
use crate::names::Places;
use crate::quic::transport::PeerControl;
use crate::tls::NodeId;
use rustc_hash::FxHashMap;
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
}

/// One worker's connections to peer gateways.
#[derive(Debug, Default)]
pub(super) struct PeerGateways {
    links: Vec<GatewayLink>,
    by_node: FxHashMap<NodeId, usize>,
    connections_max: usize,
    /// When an action is due; `None`: not before a change.
    due: Option<Instant>,
}

#[derive(Debug)]
struct GatewayLink {
    peer_gateway: PeerGateway,
    state: State,
    /// Failures since it was last up.
    failures: u32,
    /// The next address to try.
    address: usize,
    used: Instant,
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
    /// Connects to the first `connections_max` of `peer_gateways` from `now` on.
    pub(super) fn new(peer_gateways: Vec<PeerGateway>, connections_max: usize, now: Instant) -> Self {
        let by_node = peer_gateways.iter().enumerate().map(|(index, n)| (n.node, index)).collect();
        let link = |(index, peer_gateway)| {
            let state = if index < connections_max { State::Wanted { from: now } } else { State::Idle };
            GatewayLink { peer_gateway, state, failures: 0, address: 0, used: now }
        };
        let links = peer_gateways.into_iter().enumerate().map(link).collect();
        Self { links, by_node, connections_max, due: Some(now) }
    }

    /// Replaces the peer gateways. Those that stay keep their connections and their failures. Returns the slots of the connections that
    /// are no longer needed. Indices change: [`PeerGateways::place`] gives the new ones.
    pub(super) fn renew(
        &mut self,
        peer_gateways: Vec<PeerGateway>,
        connections_max: usize,
        now: Instant,
    ) -> Vec<u32> {
        let mut before = std::mem::replace(self, Self::new(peer_gateways, connections_max, now));
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
            }
        }
        let open = |link: &GatewayLink| match link.state {
            State::Open { slot, .. } => Some(slot),
            _ => None,
        };
        let mut gone: Vec<_> = before.links.iter().filter_map(open).collect();
        let mut busy = self.links.iter().filter(|link| link.state != State::Idle).count();
        for link in self.links.iter_mut().rev().filter(|link| link.state != State::Idle) {
            if busy <= connections_max {
                break;
            }
            gone.extend(open(link));
            link.state = State::Idle;
            busy -= 1;
        }
        self.set_due();
        gone
    }

    /// The index of this peer gateway.
    pub(super) fn place(&self, node: &NodeId) -> Option<usize> {
        self.by_node.get(node).copied()
    }

    /// When [`PeerGateways::next`] may have a peer gateway to dial.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// A peer gateway to dial now, and its address. The caller then calls [`PeerGateways::dialed`] or [`PeerGateways::failed`].
    pub(super) fn next(&mut self, now: Instant) -> Option<(usize, SocketAddr)> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        let is_due = |link: &GatewayLink| matches!(link.state, State::Wanted { from } if from <= now);
        let Some(index) = self.links.iter().position(is_due) else {
            self.set_due();
            return None;
        };
        let link = &mut self.links[index];
        let known = link.peer_gateway.addresses.addresses();
        let Some(&address) = known.get(link.address % known.len().max(1)) else {
            if link.peer_gateway.addresses.has_names() {
                // The resolver has not answered yet, or found no address: it is tried again later.
                self.failed(index, None, now);
            } else {
                link.state = State::Idle;
            }
            return None;
        };
        link.address += 1;
        Some((index, address))
    }

    /// Each peer gateway, and whether its connection is up.
    pub(super) fn states(&self) -> impl Iterator<Item = (NodeId, bool)> + '_ {
        self.links
            .iter()
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
        self.links[index].state = State::Open { slot, up: false };
        self.set_due();
    }

    /// Notes that its connection is up.
    pub(super) fn up(&mut self, index: usize, now: Instant) {
        let link = &mut self.links[index];
        if let State::Open { up, .. } = &mut link.state {
            *up = true;
        }
        (link.failures, link.used) = (0, now);
    }

    /// Notes that the connection in this slot failed or ended; returns whether that was news. It is dialed again, with a longer wait
    /// each time.
    pub(super) fn failed(&mut self, index: usize, slot: Option<u32>, now: Instant) -> bool {
        let link = &mut self.links[index];
        if slot.is_some_and(|gone| !matches!(link.state, State::Open { slot, .. } if slot == gone)) {
            return false;
        }
        let backoff = PEER_GATEWAY_BACKOFF_MS_MIN << link.failures.min(16);
        link.failures += 1;
        link.state =
            State::Wanted { from: now + Duration::from_millis(backoff.min(PEER_GATEWAY_BACKOFF_MS_MAX)) };
        self.set_due();
        true
    }

    /// Notes that a request goes to it.
    pub(super) fn used(&mut self, index: usize, now: Instant) {
        self.links[index].used = now;
    }

    /// Has a peer gateway dialed that is not connected. Returns the slot of the connection to close for it, if there
    /// are too many. `is_idle` tells whether a connection has no requests in flight.
    pub(super) fn reach(
        &mut self,
        node: &NodeId,
        now: Instant,
        is_idle: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let index = *self.by_node.get(node)?;
        if self.links[index].state != State::Idle {
            return None;
        }
        self.links[index].state = State::Wanted { from: now };
        self.due = Some(now);
        if self.links.iter().filter(|link| link.state != State::Idle).count() <= self.connections_max {
            return None;
        }
        let open = |link: &GatewayLink| match link.state {
            State::Open { slot, .. } => Some(slot),
            _ => None,
        };
        let idle = self.links.iter_mut().filter(|link| open(link).is_some_and(&is_idle));
        let oldest = idle.min_by_key(|link| link.used)?;
        let slot = open(oldest);
        oldest.state = State::Idle;
        slot
    }

    /// Whether the next attempt to dial it comes later than a forwarded request waits.
    pub(super) fn is_far(&self, node: &NodeId, now: Instant) -> bool {
        let later = now + Duration::from_millis(RELAY_REACH_MS);
        let link = self.place(node).map(|index| &self.links[index]);
        link.is_some_and(|link| matches!(link.state, State::Wanted { from } if from > later))
    }

    fn set_due(&mut self) {
        let wanted = self.links.iter().filter_map(|link| match link.state {
            State::Wanted { from } => Some(from),
            _ => None,
        });
        self.due = wanted.min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_gateways(count: u8) -> Vec<PeerGateway> {
        let addresses = ["10.0.0.1:1", "[fd00::1]:1"].map(|text| text.parse().unwrap()).to_vec();
        (0..count)
            .map(|n| PeerGateway {
                node: NodeId([n; 32]),
                addresses: addresses.clone().into(),
                control: PeerControl::default(),
            })
            .collect()
    }

    #[test]
    fn a_peer_gateway_that_fails_is_dialed_later_each_time_by_its_other_address() {
        let mut now = Instant::now();
        let mut links = PeerGateways::new(peer_gateways(1), 8, now);
        let mut waits = Vec::new();
        let mut tried = Vec::new();
        for _ in 0..12 {
            let (index, address) = links.next(now).unwrap();
            tried.push(address.is_ipv4());
            links.dialed(index, 7);
            assert!(links.failed(index, Some(7), now));
            assert!(!links.failed(index, Some(7), now), "reported once");
            waits.push((links.poll_timeout().unwrap() - now).as_millis() as u64);
            assert_eq!(links.next(now), None);
            now = links.poll_timeout().unwrap();
        }
        assert_eq!(tried[..4], [true, false, true, false]);
        assert_eq!(waits[0], PEER_GATEWAY_BACKOFF_MS_MIN);
        assert!(waits.is_sorted() && *waits.last().unwrap() == PEER_GATEWAY_BACKOFF_MS_MAX);
    }

    #[test]
    fn the_least_recently_used_idle_connection_makes_room() {
        let now = Instant::now();
        let mut links = PeerGateways::new(peer_gateways(3), 2, now);
        for slot in 0..2 {
            let (index, _) = links.next(now).unwrap();
            links.dialed(index, slot);
            links.up(index, now);
        }
        assert_eq!(links.next(now), None, "two are allowed");
        links.used(0, now + Duration::from_secs(1));
        let third = NodeId([2; 32]);
        assert_eq!(links.reach(&third, now, |_| true), Some(1));
        assert_eq!(links.next(now).unwrap().0, 2);
        assert!(!links.failed(1, Some(1), now), "closed on purpose: not dialed again");
        assert_eq!(links.reach(&NodeId([9; 32]), now, |_| true), None, "no peer gateway");
    }

    #[test]
    fn a_change_of_peer_gateways_keeps_the_connections_of_those_that_stay() {
        let now = Instant::now();
        let mut links = PeerGateways::new(peer_gateways(3), 8, now);
        for slot in 10..13 {
            let (index, _) = links.next(now).unwrap();
            links.dialed(index, slot);
            links.up(index, now);
        }
        // The first one goes, the others change their order, a new one is added.
        let mut others: Vec<_> = peer_gateways(4).into_iter().skip(1).collect();
        others.reverse();
        assert_eq!(links.renew(others.clone(), 8, now), [10]);
        assert_eq!(links.place(&NodeId([0; 32])), None);
        let place = links.place(&NodeId([1; 32])).unwrap();
        assert_eq!((place, links.node(place)), (2, NodeId([1; 32])));
        let (index, _) = links.next(now).unwrap();
        assert_eq!(links.node(index), NodeId([3; 32]));
        links.dialed(index, 13);
        assert_eq!(links.next(now), None, "the others are connected");
        assert!(links.failed(place, Some(11), now), "and dialed again if they fail");
        // With one connection allowed, the first keeps it.
        assert_eq!(links.renew(others, 1, now), [12]);
        assert_eq!(links.next(now), None);
    }
}

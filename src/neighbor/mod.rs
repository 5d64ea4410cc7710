//! Next hop to station address, for both families: ARP (RFC 826) and neighbor discovery (RFC 4861) in a simple form.
//!
//! No I/O and no clock: packets go in by `handle_*`, [`Neighbors::poll_output`] gives the packets to send.
//!
//! ```text
//!              answered                    60 s, or heard of unasked             used
//! Incomplete ───────────▶ Reachable ────────────────────────────────▶ Stale ───────────▶ Probe ──▶ Reachable
//!     │ 3 s                                                                                │ 3 s
//!     ▼                                                                                    ▼
//! Unreachable ─ 3 s, used ─▶ Incomplete                                                 forgotten
//! ```
//!
//! Packets flow in every state except the first and the last two: a neighbor that is probed again stays in
//! use. The claim of another host to one of our own addresses is ignored (RFC 4862 §5.4): addresses are
//! given, not chosen.

use crate::counters::{Counter, Counters};
use crate::limits::{
    NEIGHBOR_PENDING_BYTES_MAX, NEIGHBOR_PENDING_LEN_MAX, NEIGHBOR_REACHABLE_MS,
    NEIGHBOR_SOLICIT_INTERVAL_MS, NEIGHBOR_SOLICITS_MAX, NEIGHBOR_UNREACHABLE_MS, NEIGHBORS_LEN_MAX,
};
use crate::nic::TxKind;
use crate::wire::arp::Arp;
use crate::wire::ethernet::BROADCAST;
use crate::wire::ip::Addresses;
use crate::wire::ndp::{self, Ndp};
use crate::wire::{Mac, is_unicast};
use route::IpRoutes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

pub mod exchange;
pub mod route;

#[cfg(test)]
mod tests;

const SOLICIT_INTERVAL: Duration = Duration::from_millis(NEIGHBOR_SOLICIT_INTERVAL_MS);
const REACHABLE: Duration = Duration::from_millis(NEIGHBOR_REACHABLE_MS);
const UNREACHABLE: Duration = Duration::from_millis(NEIGHBOR_UNREACHABLE_MS);

/// A complete frame without its destination station.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    /// The frame's kind for the device.
    pub kind: TxKind,
    /// The frame; the first six bytes are filled in when the neighbor is known.
    pub frame: Vec<u8>,
    /// Bytes of its UDP payload.
    pub payload_len: usize,
}

/// A packet to send.
#[derive(Debug, PartialEq, Eq)]
pub enum NeighborOutput {
    /// An ARP packet.
    Arp {
        /// Its destination station, or all stations.
        destination: Mac,
        /// The packet.
        arp: Arp,
    },
    /// A neighbor discovery message.
    Ndp {
        /// Its destination station or group.
        destination: Mac,
        /// From one of our addresses to its receiver.
        addresses: Addresses,
        /// The message.
        ndp: Ndp,
    },
    /// A frame that waited for its neighbor.
    Frame(Pending),
}

/// The state of a next hop, by [`Neighbors::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send to this station.
    Known {
        /// The neighbor's station address.
        mac: Mac,
        /// Look it up again from this instant on.
        recheck_at: Instant,
    },
    /// Being resolved: [`Neighbors::enqueue`] the packet.
    Resolving,
    /// It did not answer lately.
    Unreachable,
}

/// A packet's statement about a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The neighbor.
    pub address: IpAddr,
    /// Its station address; an answer may omit it when nothing changed.
    pub mac: Option<Mac>,
    /// It answers a question of this host: the neighbor hears us.
    pub solicited: bool,
    /// It replaces a known station address.
    pub overrides: bool,
    /// It asks for one of our addresses: we are about to send to this neighbor.
    pub asks_us: bool,
}

#[derive(Debug)]
enum State {
    Incomplete { solicits: u32, next_at: Instant, pending: VecDeque<Pending> },
    Reachable { mac: Mac, until: Instant },
    Stale { mac: Mac },
    Probe { mac: Mac, solicits: u32, next_at: Instant },
    Unreachable { until: Instant },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// The time at which a packet of ours last looked it up; `None` for a neighbor that was only heard.
    used_at: Option<Instant>,
}

impl Entry {
    fn mac(&self) -> Option<Mac> {
        match self.state {
            State::Reachable { mac, .. } | State::Stale { mac } | State::Probe { mac, .. } => Some(mac),
            State::Incomplete { .. } | State::Unreachable { .. } => None,
        }
    }
}

/// The neighbors of one worker.
#[derive(Debug)]
pub struct Neighbors {
    mac: Mac,
    routes: IpRoutes,
    entries: FxHashMap<IpAddr, Entry>,
    outputs: VecDeque<NeighborOutput>,
    pending_bytes: usize,
    next_timeout: Option<Instant>,
    generation: u64,
}

impl Neighbors {
    /// No neighbors yet, around the station `mac` with these routes.
    pub fn new(mac: Mac, routes: IpRoutes) -> Self {
        Self {
            mac,
            routes,
            entries: FxHashMap::default(),
            outputs: VecDeque::new(),
            pending_bytes: 0,
            next_timeout: None,
            generation: 0,
        }
    }

    /// The interface's routes.
    pub fn routes(&self) -> &IpRoutes {
        &self.routes
    }

    /// Changes whenever an earlier [`Resolution::Known`] no longer holds.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The station address of `next_hop`, for a packet to send now. Asks for it where needed.
    pub fn lookup(&mut self, now: Instant, counters: &Counters, next_hop: IpAddr) -> Resolution {
        let Some(entry) = self.entries.get_mut(&next_hop) else {
            self.make_room(counters, true);
            return self.resolve(now, next_hop);
        };
        entry.used_at = Some(now);
        match entry.state {
            State::Incomplete { .. } => Resolution::Resolving,
            State::Reachable { mac, until } if now < until => Resolution::Known { mac, recheck_at: until },
            State::Reachable { mac, .. } | State::Stale { mac } => {
                let next_at = now + SOLICIT_INTERVAL;
                entry.state = State::Probe { mac, solicits: 1, next_at };
                self.schedule(next_at);
                self.solicit(next_hop, Some(mac));
                Resolution::Known { mac, recheck_at: next_at }
            }
            State::Probe { mac, next_at, .. } => Resolution::Known { mac, recheck_at: next_at },
            State::Unreachable { until } if now < until => Resolution::Unreachable,
            State::Unreachable { .. } => self.resolve(now, next_hop),
        }
    }

    /// Keeps a packet until `next_hop` has answered, after [`Neighbors::lookup`] gave
    /// [`Resolution::Resolving`]. Drops it under a counter when too many bytes wait already.
    pub fn enqueue(&mut self, counters: &Counters, next_hop: IpAddr, packet: Pending) {
        let room = self.pending_bytes + packet.frame.len() <= NEIGHBOR_PENDING_BYTES_MAX;
        match self.entries.get_mut(&next_hop).map(|entry| &mut entry.state) {
            Some(State::Incomplete { pending, .. }) if room && pending.len() < NEIGHBOR_PENDING_LEN_MAX => {
                self.pending_bytes += packet.frame.len();
                pending.push_back(packet);
            }
            _ => counters.add(Counter::DropNeighborQueueFull, 1),
        }
    }

    /// Learns from an ARP packet, and answers it when it asks for one of our addresses. Returns the claim to
    /// tell other workers.
    pub fn handle_arp(&mut self, now: Instant, counters: &Counters, arp: &Arp) -> Option<Claim> {
        let to_us = self.is_ours(IpAddr::V4(arp.target));
        if to_us && !arp.reply && is_unicast(arp.source_mac) {
            let arp = Arp {
                reply: true,
                source_mac: self.mac,
                source: arp.target,
                target_mac: arp.source_mac,
                target: arp.source,
            };
            self.outputs.push_back(NeighborOutput::Arp { destination: arp.target_mac, arp });
        }
        let claim = Claim {
            address: IpAddr::V4(arp.source),
            mac: Some(arp.source_mac),
            solicited: arp.reply && to_us,
            overrides: true,
            asks_us: !arp.reply && to_us,
        };
        self.handle_claim(now, counters, claim).then_some(claim)
    }

    /// Learns from a neighbor discovery message that the station `source_mac` sent from `source`, and answers
    /// it when it asks for one of our addresses. Returns the claim to tell other workers.
    pub fn handle_ndp(
        &mut self,
        now: Instant,
        counters: &Counters,
        source_mac: Mac,
        source: Ipv6Addr,
        message: &Ndp,
    ) -> Option<Claim> {
        let claim = match *message {
            Ndp::Solicit { target, source_mac: stated } => {
                if !self.is_ours(IpAddr::V6(target)) {
                    return None;
                }
                self.advertise(stated.unwrap_or(source_mac), source, target);
                // RFC 4861 §7.2.3: nothing is learned without the option.
                stated?;
                Claim {
                    address: IpAddr::V6(source),
                    mac: stated,
                    solicited: false,
                    overrides: true,
                    asks_us: true,
                }
            }
            Ndp::Advertise { target, target_mac, solicited, overrides, .. } => {
                Claim { address: IpAddr::V6(target), mac: target_mac, solicited, overrides, asks_us: false }
            }
        };
        self.handle_claim(now, counters, claim).then_some(claim)
    }

    /// Learns a claim, heard here or at another worker. Returns whether it is possible at all: about another
    /// host on our link, at a station.
    pub fn handle_claim(&mut self, now: Instant, counters: &Counters, claim: Claim) -> bool {
        if !self.routes.is_neighbor(claim.address) || claim.mac.is_some_and(|mac| !is_unicast(mac)) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(&claim.address) else {
            // RFC 4861 §7.2.5: an answer to no question creates nothing.
            if let Some(mac) = claim.mac
                && claim.asks_us
                && self.make_room(counters, false)
            {
                self.entries.insert(claim.address, Entry { state: State::Stale { mac }, used_at: None });
            }
            return true;
        };
        let known = entry.mac();
        let Some(mac) = claim.mac.or(known) else { return true };
        let changed = known.is_some_and(|known| known != mac);
        if changed && !claim.overrides {
            // RFC 4861 §7.2.5 I: another station claims the address too. Ask again.
            if let State::Reachable { mac, .. } = entry.state {
                entry.state = State::Stale { mac };
                self.generation += 1;
            }
            return true;
        }
        let next = if claim.solicited {
            State::Reachable { mac, until: now + REACHABLE }
        } else if known == Some(mac) {
            return true;
        } else {
            State::Stale { mac }
        };
        if changed {
            self.generation += 1;
        }
        if let State::Incomplete { pending, .. } = std::mem::replace(&mut entry.state, next) {
            self.release(mac, pending);
        }
        true
    }

    /// The next packet to send, if any.
    #[inline]
    pub fn poll_output(&mut self) -> Option<NeighborOutput> {
        self.outputs.pop_front()
    }

    /// When [`Neighbors::handle_timeout`] must be called.
    #[inline]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout
    }

    /// Asks again, and gives up on neighbors that did not answer often enough.
    pub fn handle_timeout(&mut self, now: Instant, counters: &Counters) {
        if self.next_timeout.is_none_or(|at| now < at) {
            return;
        }
        self.next_timeout = None;
        let due: Vec<IpAddr> = self
            .entries
            .iter()
            .filter_map(|(&address, entry)| match entry.state {
                State::Incomplete { next_at, .. } | State::Probe { next_at, .. } => Some((address, next_at)),
                _ => None,
            })
            .filter_map(|(address, next_at)| {
                let due = next_at <= now;
                if !due {
                    self.next_timeout = Some(self.next_timeout.map_or(next_at, |at| at.min(next_at)));
                }
                due.then_some(address)
            })
            .collect();
        for address in due {
            self.ask_again(now, counters, address);
        }
    }

    fn ask_again(&mut self, now: Instant, counters: &Counters, address: IpAddr) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let retry_at = now + SOLICIT_INTERVAL;
        let to = match &mut entry.state {
            State::Incomplete { solicits, next_at, .. } if *solicits < NEIGHBOR_SOLICITS_MAX => {
                *solicits += 1;
                *next_at = retry_at;
                None
            }
            State::Probe { mac, solicits, next_at } if *solicits < NEIGHBOR_SOLICITS_MAX => {
                *solicits += 1;
                *next_at = retry_at;
                Some(*mac)
            }
            State::Incomplete { pending, .. } => {
                let pending = std::mem::take(pending);
                entry.state = State::Unreachable { until: now + UNREACHABLE };
                self.forget(counters, pending);
                return;
            }
            // RFC 4861 §7.3.3: forgotten, so that the next packet asks all stations.
            _ => {
                self.entries.remove(&address);
                self.generation += 1;
                return;
            }
        };
        self.schedule(retry_at);
        self.solicit(address, to);
    }

    fn resolve(&mut self, now: Instant, next_hop: IpAddr) -> Resolution {
        let next_at = now + SOLICIT_INTERVAL;
        let state = State::Incomplete { solicits: 1, next_at, pending: VecDeque::new() };
        self.entries.insert(next_hop, Entry { state, used_at: Some(now) });
        self.schedule(next_at);
        self.solicit(next_hop, None);
        Resolution::Resolving
    }

    fn schedule(&mut self, at: Instant) {
        self.next_timeout = Some(self.next_timeout.map_or(at, |next| next.min(at)));
    }

    /// Asks the station `to`, or all stations, for `address`.
    fn solicit(&mut self, address: IpAddr, to: Option<Mac>) {
        match (address, self.routes.source_for(address, address)) {
            (IpAddr::V4(target), source) => {
                // RFC 5227 §2.1: a host without a fitting address asks from 0.0.0.0.
                let source = match source {
                    Some(IpAddr::V4(source)) => source,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let arp = Arp { reply: false, source_mac: self.mac, source, target_mac: [0; 6], target };
                self.outputs.push_back(NeighborOutput::Arp { destination: to.unwrap_or(BROADCAST), arp });
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                let group = ndp::solicited_node(target);
                let destination = if to.is_some() { target } else { group };
                self.outputs.push_back(NeighborOutput::Ndp {
                    destination: to.unwrap_or(ndp::multicast_mac(group)),
                    addresses: Addresses::V6 { source, destination },
                    ndp: Ndp::Solicit { target, source_mac: Some(self.mac) },
                });
            }
            // Unreachable: a next hop in IPv6 is on a link, and the link-local address always is.
            (IpAddr::V6(_), _) => {}
        }
    }

    /// Answers a solicitation for `target`. RFC 4861 §7.2.4: a solicitation from the unspecified address is answered to all nodes.
    fn advertise(&mut self, mac: Mac, asker: Ipv6Addr, target: Ipv6Addr) {
        let probe = asker.is_unspecified();
        let to = if probe { ndp::ALL_NODES } else { asker };
        if !probe && !is_unicast(mac) {
            return;
        }
        self.outputs.push_back(NeighborOutput::Ndp {
            destination: if probe { ndp::multicast_mac(to) } else { mac },
            addresses: Addresses::V6 { source: target, destination: to },
            ndp: Ndp::Advertise {
                target,
                target_mac: Some(self.mac),
                router: false,
                solicited: !probe,
                overrides: true,
            },
        });
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.routes.addresses().any(|ours| ours == address)
    }

    fn release(&mut self, mac: Mac, pending: VecDeque<Pending>) {
        for mut packet in pending {
            self.pending_bytes -= packet.frame.len();
            if let Some(destination) = packet.frame.first_chunk_mut() {
                *destination = mac;
            }
            self.outputs.push_back(NeighborOutput::Frame(packet));
        }
    }

    fn forget(&mut self, counters: &Counters, pending: VecDeque<Pending>) {
        self.pending_bytes -= pending.iter().map(|packet| packet.frame.len()).sum::<usize>();
        counters.add(Counter::DropNeighborUnreachable, pending.len() as u64);
    }

    /// Makes room for one more neighbor. Neighbors that we never sent to go first. Then, if `for_use`, the
    /// one least recently sent to goes: a station that only speaks to us cannot displace one that we speak
    /// to. Returns whether there is room.
    fn make_room(&mut self, counters: &Counters, for_use: bool) -> bool {
        if self.entries.len() < NEIGHBORS_LEN_MAX {
            return true;
        }
        let victim = self
            .entries
            .iter()
            .filter(|(_, entry)| for_use || entry.used_at.is_none())
            .min_by_key(|(_, entry)| entry.used_at)
            .map(|(&address, _)| address);
        let Some(entry) = victim.and_then(|address| self.entries.remove(&address)) else { return false };
        if entry.used_at.is_some() {
            self.generation += 1;
        }
        if let State::Incomplete { pending, .. } = entry.state {
            self.forget(counters, pending);
        }
        true
    }
}

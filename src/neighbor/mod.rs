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
//! A neighbor whose station the configuration names is `Fixed`: it is never asked for, and nothing changes it.
//!
//! Packets flow in every state except the first and the last two: a neighbor that is probed again stays in
//! use. The claim of another host to one of our own addresses is ignored (RFC 4862 §5.4): addresses are
//! given, not chosen.
//!
//! A claim that a neighbor in use is at another station does not overwrite the known one, as RFC 4861 §7.2.5 would: any host of the link
//! can send it. The known station is asked, three times 200 ms apart, and keeps the address if it answers. Otherwise the claimed station takes
//! over: after 600 ms, as a router's gratuitous ARP or advertisement after a failover needs it.

use crate::counters::{Counter, Counters};
use crate::limits::{
    NEIGHBOR_PENDING_BYTES_MAX, NEIGHBOR_PENDING_LEN_MAX, NEIGHBOR_REACHABLE_MS, NEIGHBOR_SOLICITS_BURST,
    NEIGHBOR_SOLICITS_MAX, NEIGHBOR_SOLICITS_PER_S, NEIGHBOR_UNREACHABLE_MS,
};
use crate::token_bucket::TokenBucket;
use crate::wire::{Mac, is_unicast};
use packets::ReplyLimits;
use route::{IpRouteError, IpRoutes};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use table::{CONTEST_INTERVAL, NeighborEntry, NeighborState, RoomFor, SOLICIT_INTERVAL};

mod claim;
pub mod exchange;
mod packets;
pub mod route;
mod table;

pub use claim::{Claim, NeighborOutput, Pending, Resolution};

#[cfg(test)]
mod tests;

const REACHABLE: Duration = Duration::from_millis(NEIGHBOR_REACHABLE_MS);
const UNREACHABLE: Duration = Duration::from_millis(NEIGHBOR_UNREACHABLE_MS);

/// The neighbors of one worker.
#[derive(Debug)]
pub struct Neighbors {
    mac: Mac,
    routes: IpRoutes,
    /// Ordered, not hashed: peers choose the addresses.
    entries: BTreeMap<IpAddr, NeighborEntry>,
    /// First questions to all stations.
    solicitations: TokenBucket,
    replies: ReplyLimits,
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
            entries: BTreeMap::new(),
            solicitations: TokenBucket::new(NEIGHBOR_SOLICITS_PER_S, NEIGHBOR_SOLICITS_BURST),
            replies: ReplyLimits::default(),
            outputs: VecDeque::new(),
            pending_bytes: 0,
            next_timeout: None,
            generation: 0,
        }
    }

    /// Fixes the stations of these neighbors.
    ///
    /// # Errors
    /// [`IpRouteError::NoNeighbor`] for one that can be no other host on a link of ours.
    pub fn fix(&mut self, stations: impl IntoIterator<Item = (IpAddr, Mac)>) -> Result<(), IpRouteError> {
        for (address, mac) in stations {
            self.routes.check_neighbor(address)?;
            self.entries.insert(address, NeighborEntry::new(NeighborState::Fixed { mac }, None));
        }
        Ok(())
    }

    /// The interface's routes.
    pub fn routes(&self) -> &IpRoutes {
        &self.routes
    }

    /// Adds addresses that this host has at other ports.
    pub fn add_elsewhere(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.routes.add_elsewhere(addresses);
    }

    /// Changes whenever an earlier [`Resolution::Known`] no longer holds.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The station address of `next_hop`, for a packet to send now. Asks for it where needed.
    pub fn lookup(&mut self, now: Instant, counters: &Counters, next_hop: IpAddr) -> Resolution {
        let Some(entry) = self.entries.get_mut(&next_hop) else {
            return self.resolve(now, counters, next_hop);
        };
        entry.used_at = Some(now);
        match entry.state {
            NeighborState::Incomplete { .. } => Resolution::Resolving,
            NeighborState::Fixed { mac } => Resolution::Known { mac, recheck_at: now + REACHABLE },
            NeighborState::Reachable { mac, until } if now < until => {
                Resolution::Known { mac, recheck_at: until }
            }
            NeighborState::Reachable { mac, .. } | NeighborState::Stale { mac } => {
                let next_at = now + SOLICIT_INTERVAL;
                entry.state = NeighborState::Probe { mac, solicits: 1, next_at, rival: None };
                self.schedule(next_at);
                self.solicit(next_hop, Some(mac));
                Resolution::Known { mac, recheck_at: next_at }
            }
            NeighborState::Probe { mac, next_at, .. } => Resolution::Known { mac, recheck_at: next_at },
            NeighborState::Unreachable { until } if now < until => Resolution::Unreachable,
            NeighborState::Unreachable { .. } => self.resolve(now, counters, next_hop),
        }
    }

    /// Keeps a packet until `next_hop` has answered, after [`Neighbors::lookup`] gave
    /// [`Resolution::Resolving`]. Drops it under a counter when too many bytes wait already.
    pub fn enqueue(&mut self, counters: &Counters, next_hop: IpAddr, packet: Pending) {
        let room = self.pending_bytes + packet.frame.len() <= NEIGHBOR_PENDING_BYTES_MAX
            || self.routes.is_router(next_hop);
        match self.entries.get_mut(&next_hop).map(|entry| &mut entry.state) {
            Some(NeighborState::Incomplete { pending, .. })
                if room && pending.len() < NEIGHBOR_PENDING_LEN_MAX =>
            {
                self.pending_bytes += packet.frame.len();
                pending.push_back(packet);
            }
            _ => counters.add(Counter::DropNeighborQueueFull, 1),
        }
    }

    /// Learns a claim, heard here or at another worker. Returns whether it is possible at all: about another
    /// host on our link whose station is not fixed, at a station.
    pub fn handle_claim(&mut self, now: Instant, counters: &Counters, claim: Claim) -> bool {
        if !self.routes.is_neighbor(claim.address) || claim.mac.is_some_and(|mac| !is_unicast(mac)) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(&claim.address) else {
            // RFC 4861 §7.2.5: an answer to no question creates nothing.
            if let Some(mac) = claim.mac
                && claim.asks_us
                && self.make_room(now, counters, claim.address, RoomFor::Heard)
            {
                self.entries.insert(claim.address, NeighborEntry::new(NeighborState::Stale { mac }, None));
            }
            return true;
        };
        if let NeighborState::Fixed { mac } = entry.state {
            counters.add(
                Counter::NeighborClaimsRefuted,
                u64::from(claim.mac.is_some_and(|claimed| claimed != mac)),
            );
            return false;
        }
        let known = entry.mac();
        let Some(mac) = claim.mac.or(known) else { return true };
        if known.is_some_and(|known| known != mac) && entry.used_at.is_some() {
            self.contest(now, counters, claim.address, claim.overrides.then_some(mac));
            return true;
        }
        let next = if claim.solicited {
            NeighborState::Reachable { mac, until: now + REACHABLE }
        } else if known == Some(mac) {
            return true;
        } else {
            NeighborState::Stale { mac }
        };
        match std::mem::replace(&mut entry.state, next) {
            NeighborState::Incomplete { pending, .. } => self.release(mac, pending),
            NeighborState::Probe { rival: Some(_), .. } => counters.add(Counter::NeighborClaimsRefuted, 1),
            _ => {}
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
                NeighborState::Incomplete { next_at, .. } | NeighborState::Probe { next_at, .. } => {
                    Some((address, next_at))
                }
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
        let (to, retry_at) = match &mut entry.state {
            NeighborState::Incomplete { solicits, next_at, .. } if *solicits < NEIGHBOR_SOLICITS_MAX => {
                *solicits += 1;
                *next_at = now + SOLICIT_INTERVAL;
                (None, *next_at)
            }
            NeighborState::Probe { mac, solicits, next_at, rival } if *solicits < NEIGHBOR_SOLICITS_MAX => {
                *solicits += 1;
                *next_at = now + if rival.is_some() { CONTEST_INTERVAL } else { SOLICIT_INTERVAL };
                (Some(*mac), *next_at)
            }
            NeighborState::Incomplete { pending, .. } => {
                let pending = std::mem::take(pending);
                entry.state = NeighborState::Unreachable { until: now + UNREACHABLE };
                self.forget(counters, pending);
                return;
            }
            NeighborState::Probe { mac, rival: Some(rival), .. } => {
                let (mac, rival) = (*mac, *rival);
                self.take_over(now, counters, address, mac, rival);
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

    fn resolve(&mut self, now: Instant, counters: &Counters, next_hop: IpAddr) -> Resolution {
        // RFC 6583 §7.1: the questions are limited in rate, and known neighbors go before unknown ones.
        let allowed = self.routes.is_router(next_hop) || self.solicitations.take(now);
        if !allowed || !self.make_room(now, counters, next_hop, RoomFor::Use) {
            return Resolution::Limited;
        }
        let next_at = now + SOLICIT_INTERVAL;
        let state = NeighborState::Incomplete { solicits: 1, next_at, pending: VecDeque::new() };
        self.entries.insert(next_hop, NeighborEntry::new(state, Some(now)));
        self.schedule(next_at);
        self.solicit(next_hop, None);
        Resolution::Resolving
    }

    fn schedule(&mut self, at: Instant) {
        self.next_timeout = Some(self.next_timeout.map_or(at, |next| next.min(at)));
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
}

//! The table's entries, their places in it, and contests about them.

use super::Neighbors;
use super::claim::Pending;
use crate::counters::{Counter, Counters};
use crate::limits::{
    NEIGHBOR_CONTEST_INTERVAL_MS, NEIGHBOR_CONTEST_PAUSE_MS, NEIGHBOR_IN_USE_MS,
    NEIGHBOR_SOLICIT_INTERVAL_MS, NEIGHBORS_LEN_MAX, NEIGHBORS_UNRESOLVED_LEN_MAX,
};
use crate::wire::Mac;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub(super) const SOLICIT_INTERVAL: Duration = Duration::from_millis(NEIGHBOR_SOLICIT_INTERVAL_MS);
pub(super) const CONTEST_INTERVAL: Duration = Duration::from_millis(NEIGHBOR_CONTEST_INTERVAL_MS);
const CONTEST_PAUSE: Duration = Duration::from_millis(NEIGHBOR_CONTEST_PAUSE_MS);
const IN_USE: Duration = Duration::from_millis(NEIGHBOR_IN_USE_MS);

#[derive(Debug)]
pub(super) enum NeighborState {
    Incomplete {
        solicits: u32,
        next_at: Instant,
        pending: VecDeque<Pending>,
    },
    Reachable {
        mac: Mac,
        until: Instant,
    },
    Stale {
        mac: Mac,
    },
    /// The station is asked. `rival` is the station that takes over if it does not answer.
    Probe {
        mac: Mac,
        solicits: u32,
        next_at: Instant,
        rival: Option<Mac>,
    },
    Unreachable {
        until: Instant,
    },
    /// The configuration names the station.
    Fixed {
        mac: Mac,
    },
}

#[derive(Debug)]
pub(super) struct NeighborEntry {
    pub(super) state: NeighborState,
    /// The time at which a packet of ours last looked it up; `None` for a neighbor that was only heard.
    pub(super) used_at: Option<Instant>,
    /// The next contest about it asks its station no sooner.
    contest_at: Option<Instant>,
}

impl NeighborEntry {
    pub(super) fn new(state: NeighborState, used_at: Option<Instant>) -> Self {
        Self { state, used_at, contest_at: None }
    }

    pub(super) fn mac(&self) -> Option<Mac> {
        match self.state {
            NeighborState::Reachable { mac, .. }
            | NeighborState::Stale { mac }
            | NeighborState::Probe { mac, .. }
            | NeighborState::Fixed { mac } => Some(mac),
            NeighborState::Incomplete { .. } | NeighborState::Unreachable { .. } => None,
        }
    }

    fn is_fixed(&self) -> bool {
        matches!(self.state, NeighborState::Fixed { .. })
    }

    fn is_in_use(&self, now: Instant) -> bool {
        self.mac().is_some() && self.used_at.is_some_and(|at| now < at + IN_USE)
    }
}

/// The kind of neighbor that needs a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomFor {
    /// One that a packet goes to.
    Use,
    /// One that was only heard.
    Heard,
}

impl Neighbors {
    /// Another station claims the neighbor `address`, or denies it the known station if `rival` is `None`: asks the known station.
    pub(super) fn contest(&mut self, now: Instant, counters: &Counters, address: IpAddr, rival: Option<Mac>) {
        counters.add(Counter::NeighborClaimsContested, 1);
        let Some(entry) = self.entries.get_mut(&address) else { return };
        // One contest at a time; a mere denial asks no station that is being asked.
        let is_asked = match entry.state {
            NeighborState::Probe { rival: known, .. } => known.is_some() || rival.is_none(),
            _ => false,
        };
        let Some(mac) = entry.mac().filter(|_| !is_asked) else { return };
        let asked_at = entry.contest_at.map_or(now, |at| at.max(now));
        entry.contest_at = Some(asked_at + CONTEST_PAUSE);
        // Asked at once, or by the timer after the pause.
        let (solicits, next_at) = if asked_at > now { (0, asked_at) } else { (1, now + CONTEST_INTERVAL) };
        entry.state = NeighborState::Probe { mac, solicits, next_at, rival };
        self.schedule(next_at);
        if solicits > 0 {
            self.solicit(address, Some(mac));
        }
    }

    /// The known station `mac` of `address` did not answer: `rival` takes over, and is asked in its turn.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        counters: &Counters,
        address: IpAddr,
        mac: Mac,
        rival: Mac,
    ) {
        counters.add(Counter::NeighborStationsChanged, 1);
        let hex = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
        tracing::warn!(
            %address,
            from = hex(mac),
            to = hex(rival),
            "a neighbor is at another station, and the old one does not answer"
        );
        let next_at = now + SOLICIT_INTERVAL;
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.state = NeighborState::Probe { mac: rival, solicits: 1, next_at, rival: None };
        self.generation += 1;
        self.schedule(next_at);
        self.solicit(address, Some(rival));
    }

    /// Makes room for the neighbor `address`. Returns whether there is room.
    ///
    /// Unresolved neighbors have a bound of their own and go first. Then go those that we never sent to. Then, for one that we send to, goes
    /// the one that we sent to longest ago. Routers and stations in use stay.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        counters: &Counters,
        address: IpAddr,
        room_for: RoomFor,
    ) -> bool {
        if self.routes.is_router(address) || self.entries.contains_key(&address) {
            return true;
        }
        let unresolved = |entry: &NeighborEntry| entry.mac().is_none();
        let is_full = self.entries.len() >= NEIGHBORS_LEN_MAX;
        let crowded = room_for == RoomFor::Use
            && self.entries.values().filter(|entry| unresolved(entry)).count()
                >= NEIGHBORS_UNRESOLVED_LEN_MAX;
        if !is_full && !crowded {
            return true;
        }
        let victim = self
            .entries
            .iter()
            .filter(|&(&address, entry)| {
                let may_go = match room_for {
                    RoomFor::Use => !entry.is_in_use(now),
                    RoomFor::Heard => unresolved(entry) || entry.used_at.is_none(),
                };
                may_go && !entry.is_fixed() && !self.routes.is_router(address)
            })
            .min_by_key(|(_, entry)| (!unresolved(entry), entry.used_at))
            .map(|(&address, _)| address);
        let Some(entry) = victim.and_then(|address| self.entries.remove(&address)) else { return false };
        // Only a resolved neighbor is in a path.
        if entry.used_at.is_some() && entry.mac().is_some() {
            self.generation += 1;
        }
        if let NeighborState::Incomplete { pending, .. } = entry.state {
            self.forget(counters, pending);
        }
        true
    }
}

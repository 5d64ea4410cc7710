//! The running gateway that goes by a table: its state in it, its peer gateways, and those to which it hands datagrams over.

use super::handover_table::handover_table;
use super::members::members;
use super::record::{FleetGateway, FleetState};
use super::table::{FleetTable, Roster};
use crate::peer_list::PeerList;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stoq::tls::NodeId;

/// A running gateway that goes by the table of its fleet.
#[derive(Debug)]
pub(crate) struct AttachedGateway {
    peers: PeerList,
    /// The datagrams that a worker hands over in a second; none: none are handed over.
    handover_pps_max: Option<u32>,
    /// How long routers may still send new clients here after the gateway has said that it is not ready.
    settle: Duration,
    followed: Mutex<Followed>,
}

/// What is in effect.
#[derive(Debug)]
struct Followed {
    own: NodeId,
    roster: Option<Arc<Roster>>,
}

impl AttachedGateway {
    /// A gateway that goes by no table yet.
    pub(crate) fn new(
        own: NodeId,
        peers: PeerList,
        handover_pps_max: Option<u32>,
        settle: Duration,
    ) -> Arc<Self> {
        let followed = Mutex::new(Followed { own, roster: None });
        Arc::new(Self { peers, handover_pps_max, settle, followed })
    }

    /// The list of its peer gateways.
    pub(crate) fn peers(&self) -> &PeerList {
        &self.peers
    }

    /// Has another node ID from now on, as after a reload. The table is to be followed again.
    pub(crate) fn set_own(&self, own: NodeId) {
        let mut followed = self.followed();
        if followed.own != own {
            *followed = Followed { own, roster: None };
        }
    }

    /// Goes by this table from now on; `None`: by none.
    pub(super) fn follow(&self, table: Option<&FleetTable>) {
        let mut followed = self.followed();
        let own = followed.own;
        if let (Some(table), Some(pps_max)) = (table, self.handover_pps_max) {
            self.peers.node().set_members(handover_table(table, own, pps_max));
            self.peers.wake();
        }
        let new = table.map(|table| &table.roster);
        // What gateways say of themselves changes nothing else.
        let is_same = match (&followed.roster, new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if is_same {
            return;
        }
        followed.roster = new.cloned();
        self.follow_state(new.and_then(|roster| roster.gateways.get(&own)));
        self.peers.set_members(new.map_or_else(Vec::new, |roster| members(roster, own)));
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns new connections away while the gateway's row is not active, once its anycast addresses are gone.
    fn follow_state(&self, row: Option<&Arc<FleetGateway>>) {
        let state = row.map_or(FleetState::Active, |row| row.state);
        let turns_away = state != FleetState::Active;
        let node = self.peers.node();
        if turns_away != node.turns_away() {
            // It is not ready at once, so that its addresses go first.
            node.set_turns_away(turns_away.then(|| Instant::now() + self.settle));
            tracing::warn!(%state, turns_away, "the fleet's table gives this gateway another state: new connections are turned away while it is not active");
        }
    }
}

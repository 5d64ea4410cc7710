//! The running gateway that goes by a table: its state in it, its peer gateways, and those to which it hands datagrams over.

use super::handover_table::handover_table;
use super::members::members;
use super::record::FleetState;
use super::table::{FleetTable, Roster};
use crate::peer_list::PeerList;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoq::tls::NodeId;

/// A running gateway that goes by the table of its fleet.
#[derive(Debug)]
pub(crate) struct AttachedGateway {
    own: NodeId,
    peers: Arc<PeerList>,
    /// The datagrams that a worker hands over in a second; none: none are handed over.
    handover_pps_max: Option<u32>,
    /// How long routers may still send new clients here after the gateway has said that it is not ready.
    settle: Duration,
    /// The roster that is in effect.
    roster: Mutex<Option<Arc<Roster>>>,
}

impl AttachedGateway {
    /// A gateway that goes by no table yet.
    pub(crate) fn new(
        own: NodeId,
        peers: Arc<PeerList>,
        handover_pps_max: Option<u32>,
        settle: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { own, peers, handover_pps_max, settle, roster: Mutex::default() })
    }

    /// The list of its peer gateways.
    pub(crate) fn peers(&self) -> &PeerList {
        &self.peers
    }

    /// Goes by this table from now on; `None`: by none.
    pub(super) fn follow(&self, table: Option<&FleetTable>) {
        if let (Some(table), Some(pps_max)) = (table, self.handover_pps_max) {
            self.peers.node().set_members(handover_table(table, self.own, pps_max));
        }
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let new = table.map(|table| &table.roster);
        // What gateways say of themselves changes nothing else.
        let is_same = match (&*roster, new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if is_same {
            return;
        }
        *roster = new.cloned();
        self.follow_state(new.map(|roster| &**roster));
        self.peers.set_members(new.map_or_else(Vec::new, |roster| members(roster, self.own)));
    }

    /// Turns new connections away while the gateway's row is not active, once its anycast addresses are gone.
    fn follow_state(&self, roster: Option<&Roster>) {
        let row = roster.and_then(|roster| roster.gateways.get(&self.own));
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

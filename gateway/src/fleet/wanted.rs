//! What the operator wants of this gateway: its state in the table.

use super::record::FleetState;
use super::table::FleetTable;
use stoq::tls::NodeId;
use stoq::worker::NodeShared;

/// Has the node turn new connections away exactly while its row of the table is not active.
pub(super) fn follow_state(table: Option<&FleetTable>, node: &NodeShared, own: NodeId) {
    let row = table.and_then(|table| table.roster.gateways.get(&own));
    let state = row.map_or(FleetState::Active, |row| row.state);
    let turns_away = state != FleetState::Active;
    if turns_away != node.turns_away() {
        node.set_turns_away(turns_away);
        tracing::warn!(%state, turns_away, "the fleet's table gives this gateway another state: new connections are turned away while it is not active");
    }
}

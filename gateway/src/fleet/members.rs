//! The other gateways of a fleet as peer gateways: each may be reached, and a few are kept connected.

use super::record::FleetState;
use super::table::Roster;
use std::collections::BTreeSet;
use stoq::limits::FLEET_STANDING_LEN;
use stoq::quic::transport::PeerControl;
use stoq::tls::NodeId;
use stoq::worker::PeerGateway;

/// The peer gateways that a roster gives the gateway `own`.
///
/// Every row but its own and those that are `out` may be dialed. To [`FLEET_STANDING_LEN`] of the active ones connections are kept: those of
/// the highest hash of both node IDs. So each gateway keeps others, and a row that comes or goes changes few of them.
pub(super) fn members(roster: &Roster, own: NodeId) -> Vec<PeerGateway> {
    let others = || roster.gateways.values().filter(|row| row.node_id != own);
    let active = others().filter(|row| row.state == FleetState::Active);
    let mut scored: Vec<_> = active.map(|row| (score(own, row.node_id), row.node_id)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    let standing: BTreeSet<_> = scored.into_iter().take(FLEET_STANDING_LEN).map(|(_, node)| node).collect();
    let rows = others().filter(|row| row.state != FleetState::Out);
    rows.map(|row| PeerGateway {
        node: row.node_id,
        addresses: row.addresses.clone().into(),
        control: PeerControl::default(),
        is_standing: standing.contains(&row.node_id),
    })
    .collect()
}

/// How well another gateway suits this one (rendezvous hashing). It is the same from the other's side.
fn score(own: NodeId, other: NodeId) -> [u8; 32] {
    let (first, second) = if own < other { (own, other) } else { (other, own) };
    *blake3::Hasher::new().update(&first.0).update(&second.0).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::record::FleetGateway;
    use super::*;
    use std::sync::Arc;

    fn node(number: u16) -> NodeId {
        NodeId(*blake3::hash(&number.to_be_bytes()).as_bytes())
    }

    fn roster(len: u16) -> Roster {
        let row = |number: u16| FleetGateway {
            node_id: node(number),
            name: number.to_string(),
            server_id: number.to_string().repeat(6)[..6].parse().unwrap(),
            zone: String::new(),
            weight: 1.0,
            addresses: vec!["192.0.2.1:4433".parse().unwrap()],
            state: FleetState::Active,
        };
        let gateways = (0..len).map(|number| (node(number), Arc::new(row(number)))).collect();
        Roster { gateways, ..Roster::default() }
    }

    fn set(roster: &mut Roster, number: u16, state: FleetState) {
        let row = Arc::make_mut(roster.gateways.get_mut(&node(number)).unwrap());
        row.state = state;
    }

    fn standing(roster: &Roster, own: u16) -> BTreeSet<NodeId> {
        members(roster, node(own)).into_iter().filter(|peer| peer.is_standing).map(|peer| peer.node).collect()
    }

    #[test]
    fn gateways_keep_different_ones_connected_and_few_change_with_a_row() {
        let mut roster = roster(100);
        let before: Vec<_> = (0..100).map(|own| standing(&roster, own)).collect();
        assert!(before.iter().all(|kept| kept.len() == FLEET_STANDING_LEN));
        let kept: BTreeSet<_> = before.iter().flatten().collect();
        assert!(kept.len() > 90, "{} of 100 are kept by another one", kept.len());
        assert_eq!(members(&roster, node(0)).len(), 99, "each may be reached");
        set(&mut roster, 7, FleetState::Drain);
        let changed = |before: &[BTreeSet<NodeId>], roster: &Roster| {
            let now = (0..100).map(|own| standing(roster, own));
            now.zip(before).map(|(now, before)| before.difference(&now).count()).collect::<Vec<_>>()
        };
        let gone = changed(&before, &roster);
        assert!(gone.iter().all(|gone| *gone <= 1), "no more than the row that is drained");
        assert!(gone.iter().sum::<usize>() < 20);
        assert_eq!(members(&roster, node(0)).len(), 99, "one that drains may still be reached");
        set(&mut roster, 7, FleetState::Out);
        assert_eq!(members(&roster, node(0)).len(), 98);
        assert_eq!(members(&roster, node(7)).len(), 99, "one that is out reaches the others");
    }

    #[test]
    fn all_of_a_small_fleet_are_kept() {
        let roster = roster(FLEET_STANDING_LEN as u16 + 1);
        assert_eq!(standing(&roster, 0).len(), FLEET_STANDING_LEN);
    }
}

//! The gateways of a table to which datagrams are handed over.

use super::record::FleetGateway;
use super::table::FleetTable;
use std::net::SocketAddr;
use stoq::quic::fleet_members::{FleetMembers, OtherGateway};
use stoq::tls::NodeId;

/// The gateways of a table but the own one. The addresses where a gateway listens are those that it is handed datagrams at.
pub(super) fn handover_table(table: &FleetTable, own: NodeId, pps_max: u32) -> FleetMembers {
    let ips = |row: &FleetGateway| row.addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>();
    let rows = &table.roster.gateways;
    let others = rows.values().filter(|row| row.node_id != own).map(|row| OtherGateway {
        server_id: row.server_id,
        addresses: ips(row),
        is_gone: table.is_alive(&row.node_id) == Some(false),
    });
    let own = rows.get(&own).map(|row| ips(row)).unwrap_or_default();
    FleetMembers::new(&own, &others.collect::<Vec<_>>(), pps_max)
}

#[cfg(test)]
mod tests {
    use super::super::table::{Roster, TableOrigin};
    use super::*;
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::sync::Arc;
    use stoq::quic::routable::ServerId;

    #[test]
    fn a_gateway_is_gone_only_where_the_directory_knows_that_it_has_no_lease() {
        // The last letter has a bit that counts.
        let id = |letter: char| format!("{letter}{}", "a".repeat(51)).parse::<NodeId>().unwrap();
        let row = |letter: char, number: u8| {
            let row = serde_json::json!({
                "node_id": id(letter), "name": letter, "server_id": format!("0000{number:02x}"),
                "addresses": [format!("192.0.2.{number}:4433")],
            });
            (id(letter), Arc::new(serde_json::from_value::<FleetGateway>(row).unwrap()))
        };
        let gateways = BTreeMap::from([row('a', 1), row('i', 2)]);
        let table = |origin| FleetTable {
            roster: Arc::new(Roster { gateways: gateways.clone(), ..Roster::default() }),
            alive: BTreeMap::new(),
            origin,
        };
        let other = ServerId([0, 0, 2]);
        for (origin, is_gone) in [
            (TableOrigin::Directory, true),
            (TableOrigin::File, false),
            (TableOrigin::Cached { saved_s: 1 }, false),
        ] {
            let members = handover_table(&table(origin), id('a'), 9);
            let way = members.way(other).unwrap();
            let ips: [IpAddr; 2] = [[192, 0, 2, 2].into(), [192, 0, 2, 1].into()];
            assert_eq!(([way.destination, way.source], way.is_gone), (ips, is_gone), "{origin:?}");
            assert_eq!(members.way(ServerId([0, 0, 1])), None, "that is the gateway itself");
            assert!(members.at(ips[1]).is_none() && members.handover_pps_max() == 9);
        }
        let stranger = handover_table(&table(TableOrigin::File), id('q'), 9);
        assert_eq!(
            stranger.way(other),
            None,
            "a gateway that the table does not have has no address to send from"
        );
    }
}

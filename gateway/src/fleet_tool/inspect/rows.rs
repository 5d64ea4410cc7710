//! The rows of a directory.

use super::findings::FleetFindings;
use crate::config::FleetConfig;
use crate::fleet::orders::{SERVER_IDS, StoreSnapshot};
use crate::fleet::record::{FleetGateway, FleetRecord};
use crate::fleet::table::Roster;
use std::sync::Arc;
use stoq::tls::NodeId;

/// Whether every key can be read and goes with the others.
pub(super) fn directory(
    snapshot: &StoreSnapshot,
    fleet: &FleetConfig,
    own: NodeId,
    findings: &mut FleetFindings,
) {
    let entries: Vec<_> = snapshot.entries().collect();
    if let Err(fault) = Roster::read(&entries, snapshot.head.revision) {
        findings.fail("table", format!("gateways refuse it: {fault}"), "follow the line above");
    }
    for entry in &entries {
        if let FleetRecord::AliveFault(fault) = &entry.record {
            findings.warn(
                "table",
                format!("{}: {fault}", entry.key),
                "upgrade the older of the two gateways",
            );
        }
    }
    let gateways: Vec<_> = snapshot.gateways().collect();
    for gateway in &gateways {
        let claim = format!("{SERVER_IDS}{}", gateway.server_id);
        if snapshot.get(&claim).is_none_or(|stored| stored.value != gateway.node_id.to_string().as_bytes()) {
            let found = format!("{claim} is not claimed for {}", gateway.name);
            findings.warn(
                "table",
                found,
                "run `stoq-gateway fleet join` on it: no other can take its server ID then",
            );
        }
    }
    rows(gateways.iter(), fleet, own, findings);
}

/// Whether the table has this gateway as its configuration does.
pub(super) fn rows<'a>(
    gateways: impl Iterator<Item = &'a Arc<FleetGateway>>,
    fleet: &FleetConfig,
    own: NodeId,
    findings: &mut FleetFindings,
) {
    let rows: Vec<_> = gateways.collect();
    match rows.iter().find(|row| row.node_id == own) {
        Some(row) if row.server_id == fleet.server_id => {
            findings.ok("table", format!("{} gateways, this one as {}", rows.len(), row.name));
        }
        Some(row) => {
            let found = format!(
                "the table gives this gateway server ID {}, and fleet.server_id is {}",
                row.server_id, fleet.server_id
            );
            findings.fail(
                "table",
                found,
                "set fleet.server_id to that of the table, and restart the gateway",
            );
        }
        None => {
            let found = format!("none of the table's {} gateways is this one", rows.len());
            findings.warn("table", found, "run `stoq-gateway fleet join`, or add its row to fleet.file");
        }
    }
}

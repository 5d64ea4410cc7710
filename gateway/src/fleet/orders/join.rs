//! `fleet join`: a gateway and its server ID come into the directory together.

use super::super::record::{FleetGateway, FleetRecord, GATEWAYS};
use super::{FleetOrder, OrderError, SERVER_IDS, StoreCondition, StoreSnapshot, StoreTransaction, row_key};
use std::sync::Arc;

/// Puts a gateway's row and claims its server ID, unless another gateway has it. A gateway that is there already is left as it is.
///
/// # Errors
/// [`OrderError`], which names the gateway that is in the way.
pub fn join(snapshot: &StoreSnapshot, offer: &FleetGateway) -> Result<FleetOrder, OrderError> {
    let (row, claim) = (row_key(&offer.node_id), format!("{SERVER_IDS}{}", offer.server_id));
    offer.check().map_err(|fault| OrderError::Record { key: row.clone(), fault: Arc::new(fault) })?;
    let node = offer.node_id.to_string();
    let claimed = snapshot.get(&claim).map(|stored| String::from_utf8_lossy(&stored.value).into_owned());
    if let Some(holder) = claimed.as_ref().filter(|holder| **holder != node) {
        let holder =
            holder.parse().map_or_else(|_| holder.escape_debug().to_string(), |id| snapshot.shown(&id));
        return Err(OrderError::ServerIdTaken { server_id: offer.server_id, holder });
    }
    // A row that was put by hand has no claim.
    for other in snapshot.gateways().filter(|other| other.node_id != offer.node_id) {
        if other.server_id == offer.server_id {
            let holder = snapshot.shown(&other.node_id);
            return Err(OrderError::ServerIdTaken { server_id: offer.server_id, holder });
        }
        if other.name == offer.name {
            return Err(OrderError::NameTaken { name: offer.name.clone(), holder: other.node_id });
        }
    }
    // Two gateways that join at once see each other's rows, or one of them is told.
    let none_put = StoreCondition::NonePut(GATEWAYS.to_owned(), snapshot.head.revision);
    let (mut conditions, mut puts) = (vec![none_put], Vec::new());
    if claimed.is_none() {
        conditions.push(StoreCondition::Absent(claim.clone()));
        puts.push((claim, node.into_bytes()));
    }
    let stored = snapshot.entries().find(|entry| *entry.key == *row);
    match stored.map(|entry| entry.record) {
        Some(FleetRecord::Gateway(stored)) if stored.server_id != offer.server_id => {
            let (stored, configured) = (stored.server_id, offer.server_id);
            return Err(OrderError::OtherServerId { stored, configured });
        }
        Some(FleetRecord::Gateway(_)) if puts.is_empty() => {
            return Ok(FleetOrder::Done(format!(
                "{} is in the fleet already; its row stays as it is",
                offer.name
            )));
        }
        Some(FleetRecord::Gateway(_)) => {}
        Some(FleetRecord::Fault(fault)) => return Err(OrderError::Record { key: row, fault }),
        _ => {
            conditions.push(StoreCondition::Absent(row.clone()));
            puts.push((row, offer.value()));
        }
    }
    let told = format!("{} is in the fleet with server ID {}", offer.name, offer.server_id);
    Ok(FleetOrder::Send(StoreTransaction { conditions, puts }, told))
}

//! `fleet drain`, `active` and `out`: what the operator wants of a gateway.

use super::super::record::FleetState;
use super::{FleetOrder, OrderError, StoreCondition, StoreSnapshot, StoreTransaction, fields, row_key};

/// Sets the state of the gateway of this name or node ID, and leaves the rest of its row as it is.
///
/// # Errors
/// There is none, or it is the last active one and `force` is not given.
pub fn set_state(
    snapshot: &StoreSnapshot,
    name: &str,
    state: FleetState,
    force: bool,
) -> Result<FleetOrder, OrderError> {
    let rows: Vec<_> = snapshot.gateways().collect();
    let found = rows.iter().find(|row| row.name == name || row.node_id.to_string() == name);
    let Some(row) = found else {
        let known: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        return Err(OrderError::Unknown { name: name.to_owned(), known: known.join(", ") });
    };
    if row.state == state {
        return Ok(FleetOrder::Done(format!("{} is {state} already", row.name)));
    }
    let mut others = rows.iter().filter(|other| other.node_id != row.node_id);
    if row.state == FleetState::Active && !force && others.all(|other| other.state != FleetState::Active) {
        return Err(OrderError::LastActive(row.name.clone()));
    }
    let key = row_key(&row.node_id);
    let stored = snapshot.get(&key).expect("its row was read");
    let mut fields = fields(stored)?;
    fields.insert("state".to_owned(), serde_json::json!(state));
    let puts = vec![(key.clone(), serde_json::Value::from(fields).to_string().into_bytes())];
    let conditions = vec![StoreCondition::Unchanged(key, stored.revision)];
    let told = format!("{} is {state}, and was {}", row.name, row.state);
    Ok(FleetOrder::Send(StoreTransaction { conditions, puts }, told))
}

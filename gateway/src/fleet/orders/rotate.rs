//! `fleet rotate-cid`: the next step of a rotation of the fleet's keys.
//!
//! The newest rotation is the last of the list. While it is only accepted, the next step lets it issue; when it issues and others are accepted, the
//! next step removes those; when it is alone, the next step adds one. When a step was made stands beside the rotations, as `stepped_s`.

use super::super::record::{FLEET_KEY, FleetRecord, FleetState, rotations_value};
use super::{FleetOrder, OrderError, StoreCondition, StoreSnapshot, StoreTransaction, fields};
use serde_json::json;
use stoq::limits::CID_ROTATION_KEPT_S;
use stoq::quic::fleet_settings::{CidRotation, RotationSalt, RotationState, check_rotations};
use stoq::quic::routable::CID_ROTATION_MAX;
use stoq::tls::NodeId;

/// What a step is made with.
#[derive(Clone, Copy, Debug)]
pub struct RotationStep {
    /// The time, seconds since 1970.
    pub now_s: u64,
    /// The salt of a new rotation.
    pub salt: RotationSalt,
    /// Whether gateways that are not alive are passed over, and a step that was made by hand is taken for old.
    pub force: bool,
}

/// The next step.
///
/// # Errors
/// A gateway has not taken the step before, or connections would be lost; with the gateway's name or the time to wait.
pub fn rotate(snapshot: &StoreSnapshot, step: &RotationStep) -> Result<FleetOrder, OrderError> {
    let Some(stored) = snapshot.get(FLEET_KEY) else {
        let first = CidRotation { number: 0, salt: step.salt, state: RotationState::Issue };
        let puts = vec![(FLEET_KEY.to_owned(), rotations_value(&[first]))];
        let conditions = vec![StoreCondition::Absent(FLEET_KEY.to_owned())];
        let told = "rotation 0 issues: the first of the fleet".to_owned();
        return Ok(FleetOrder::Send(StoreTransaction { conditions, puts }, told));
    };
    let rotations = read(snapshot)?;
    all_have_taken(snapshot, stored.revision, step.force)?;
    let mut fields = fields(stored)?;
    let stepped_s = fields.get("stepped_s").and_then(serde_json::Value::as_u64);
    let list = fields["rotations"].as_array_mut().expect("the rotations were read");
    let last = rotations.last().expect("the rotations were checked");
    let told = if last.state == RotationState::Accept {
        for (value, rotation) in list.iter_mut().zip(&rotations) {
            let is_new = rotation.number == last.number;
            value["state"] = json!(if is_new { RotationState::Issue } else { RotationState::Accept });
        }
        format!("step 2 of 3: rotation {} issues; run this again in {CID_ROTATION_KEPT_S} s", last.number)
    } else if let Some((old, _)) = rotations.split_last().map(|(_, rest)| rest).and_then(<[_]>::split_last) {
        may_go(old.number, stepped_s, step)?;
        let gone: Vec<_> =
            rotations[..rotations.len() - 1].iter().map(|old| old.number.to_string()).collect();
        list.drain(..rotations.len() - 1);
        format!("step 3 of 3: rotation {} is removed, and {} issues alone", gone.join(", "), last.number)
    } else {
        let number = (last.number + 1) % (CID_ROTATION_MAX + 1);
        list.push(json!(CidRotation { number, salt: step.salt, state: RotationState::Accept }));
        format!("step 1 of 3: rotation {number} is accepted; run this again when every gateway goes by it")
    };
    fields.insert("stepped_s".to_owned(), step.now_s.into());
    let puts = vec![(FLEET_KEY.to_owned(), serde_json::Value::from(fields).to_string().into_bytes())];
    let conditions = vec![StoreCondition::Unchanged(FLEET_KEY.to_owned(), stored.revision)];
    Ok(FleetOrder::Send(StoreTransaction { conditions, puts }, told))
}

fn read(snapshot: &StoreSnapshot) -> Result<Vec<CidRotation>, OrderError> {
    let read = snapshot.entries().find(|entry| *entry.key == *FLEET_KEY).map(|entry| entry.record);
    match read {
        Some(FleetRecord::Keys(rotations)) => {
            check_rotations(&rotations).map_err(OrderError::Rotations)?;
            Ok(rotations.to_vec())
        }
        Some(FleetRecord::Fault(fault)) => Err(OrderError::Record { key: FLEET_KEY.to_owned(), fault }),
        _ => unreachable!("the key is there"),
    }
}

/// Whether every gateway goes by the revision of the rotations that is there.
fn all_have_taken(snapshot: &StoreSnapshot, revision: u64, force: bool) -> Result<(), OrderError> {
    let (rows, alive): (Vec<_>, _) = (snapshot.gateways().collect(), snapshot.alive());
    let name = |node: &NodeId| {
        let row = rows.iter().find(|row| row.node_id == *node);
        row.map_or_else(|| format!("the node {node}"), |row| row.name.clone())
    };
    let behind: Vec<_> =
        alive.iter().filter(|(_, alive)| alive.keys < revision).map(|(node, _)| name(node)).collect();
    if !behind.is_empty() {
        return Err(OrderError::Behind { gateways: some(&behind, ["has", "have"]), revision });
    }
    let wanted = rows.iter().filter(|row| row.state != FleetState::Out);
    let dead: Vec<_> =
        wanted.filter(|row| !alive.contains_key(&row.node_id)).map(|row| row.name.clone()).collect();
    if dead.is_empty() || force { Ok(()) } else { Err(OrderError::Dead(some(&dead, ["is", "are"]))) }
}

/// Names and their verb.
fn some(names: &[String], [one, more]: [&str; 2]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { one } else { more })
}

/// Whether no connection has an ID of a rotation any more.
fn may_go(number: u8, stepped_s: Option<u64>, step: &RotationStep) -> Result<(), OrderError> {
    let Some(stepped_s) = stepped_s else {
        return if step.force { Ok(()) } else { Err(OrderError::Undated(number)) };
    };
    let left_s = CID_ROTATION_KEPT_S.saturating_sub(step.now_s.saturating_sub(stepped_s));
    if left_s == 0 { Ok(()) } else { Err(OrderError::Early { number, left_s }) }
}

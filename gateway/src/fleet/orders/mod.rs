//! What an operator's command asks of a fleet's directory: decided from all its keys as of one revision, without a clock or a socket.
//!
//! An order is one transaction. It holds only if what it was decided by is still so; of two operators, one is told that the directory has changed.

mod join;
mod rotate;
mod state;

pub use join::join;
pub use rotate::{RotationStep, rotate};
pub use state::set_state;

use super::exchange::StoreHead;
use super::record::{FleetAlive, FleetEntry, FleetGateway, FleetRecord, GATEWAYS, RecordFault, read_record};
use std::collections::BTreeMap;
use std::sync::Arc;
use stoq::limits::CID_ROTATION_KEPT_S;
use stoq::quic::fleet_settings::RotationError;
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;

/// Under this each server ID has the node ID of its gateway.
pub const SERVER_IDS: &str = "server-ids/";

/// One key of a directory, without the fleet's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub key: Arc<str>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that put it.
    pub revision: u64,
}

/// Every key of a fleet, as of one revision.
#[derive(Clone, Debug)]
pub struct StoreSnapshot {
    /// The state of the cluster.
    pub head: StoreHead,
    /// The keys.
    pub keys: Vec<StoredKey>,
}

/// What must be so for a transaction to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCondition {
    /// There is no such key.
    Absent(String),
    /// The key was last put by this revision.
    Unchanged(String, u64),
    /// No key below this prefix was put after this revision.
    NonePut(String, u64),
}

/// Values that are put all at once, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTransaction {
    /// What must be so.
    pub conditions: Vec<StoreCondition>,
    /// The keys and their values.
    pub puts: Vec<(String, Vec<u8>)>,
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetOrder {
    /// It is so already, in words.
    Done(String),
    /// This transaction; and, in words, what is so after it.
    Send(StoreTransaction, String),
}

/// Why a command comes to nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// A name that no gateway has.
    #[error("no gateway of the fleet is {name:?}; give one of: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The server ID of another gateway.
    #[error("server ID {server_id} is that of {holder}; give this gateway another in fleet.server_id")]
    ServerIdTaken {
        /// The number.
        server_id: ServerId,
        /// Who has it.
        holder: String,
    },
    /// The name of another gateway.
    #[error("the name {name:?} is that of {holder}; give this gateway another by --name")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: NodeId,
    },
    /// The directory has this gateway with another server ID.
    #[error(
        "the directory gives this gateway server ID {stored}, and fleet.server_id is {configured}; set fleet.server_id to that of the directory"
    )]
    OtherServerId {
        /// That of the directory.
        stored: ServerId,
        /// That of the configuration.
        configured: ServerId,
    },
    /// A value that cannot be read, or that would not be.
    #[error("{key}: {fault}")]
    Record {
        /// Its key.
        key: String,
        /// Why.
        fault: Arc<RecordFault>,
    },
    /// No gateway would be left that takes connections.
    #[error("{0} is the last active gateway; have another one active first, or give --force")]
    LastActive(String),
    /// Rotations that do not go together.
    #[error("fleet: {0}")]
    Rotations(RotationError),
    /// Living gateways that have not taken the step before.
    #[error(
        "{gateways} not gone by revision {revision} of the rotations yet, the step before; wait some seconds, or look at what its log and `stoq-gateway fleet status` say"
    )]
    Behind {
        /// Their names, and `has` or `have`.
        gateways: String,
        /// The revision of the step before.
        revision: u64,
    },
    /// Gateways whose part in the step before is not known.
    #[error(
        "{0} not alive, and may serve by older rotations; start it, or `stoq-gateway fleet out` it, or give --force if it has ended"
    )]
    Dead(String),
    /// Connections may have IDs of a rotation.
    #[error(
        "rotation {number} issued until less than {CID_ROTATION_KEPT_S} s ago, and connections have IDs of it; run this again in {left_s} s"
    )]
    Early {
        /// Its number.
        number: u8,
        /// After this time it may go, seconds.
        left_s: u64,
    },
    /// The step before was made by hand.
    #[error(
        "the directory does not say since when rotation {0} issues no more; if that is {CID_ROTATION_KEPT_S} s ago, give --force"
    )]
    Undated(u8),
}

impl StoreSnapshot {
    /// The key, if there is one.
    pub fn get(&self, key: &str) -> Option<&StoredKey> {
        self.keys.iter().find(|stored| *stored.key == *key)
    }

    /// The keys that a table is made of, as they are read.
    pub fn entries(&self) -> impl Iterator<Item = FleetEntry> + '_ {
        self.keys.iter().filter_map(|StoredKey { key, value, revision }| {
            Some(FleetEntry { key: key.clone(), revision: *revision, record: read_record(key, value)? })
        })
    }

    /// The gateways whose rows can be read.
    pub fn gateways(&self) -> impl Iterator<Item = Arc<FleetGateway>> + '_ {
        self.entries().filter_map(|entry| match entry.record {
            FleetRecord::Gateway(gateway) => Some(gateway),
            _ => None,
        })
    }

    /// What gateways say of themselves.
    pub fn alive(&self) -> BTreeMap<NodeId, Arc<FleetAlive>> {
        let alive = self.entries().filter_map(|entry| match entry.record {
            FleetRecord::Alive(node, alive) => Some((node, alive)),
            _ => None,
        });
        alive.collect()
    }

    /// A gateway in words.
    fn shown(&self, node: &NodeId) -> String {
        let row = self.gateways().find(|row| row.node_id == *node);
        row.map_or_else(|| format!("the node {node}"), |row| format!("{} ({node})", row.name))
    }
}

/// The fields of a value, which may have some that this version does not know: they stay as they are.
fn fields(stored: &StoredKey) -> Result<serde_json::Map<String, serde_json::Value>, OrderError> {
    serde_json::from_slice(&stored.value).map_err(|error| {
        let fault = Arc::new(RecordFault::Value(error.to_string()));
        OrderError::Record { key: stored.key.to_string(), fault }
    })
}

fn row_key(node: &NodeId) -> String {
    format!("{GATEWAYS}{node}")
}

#[cfg(test)]
mod tests;

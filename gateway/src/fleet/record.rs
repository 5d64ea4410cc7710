//! What the keys of a fleet's directory say. A key is read when it arrives, once; a value that cannot be read is a fault of its own.
//!
//! Below the fleet's prefix, `/stoq/1/NAME/`, `fleet` has the rotations of the fleet's keys, `gateways/ID` a gateway as the operator wants it,
//! and `alive/ID` what the gateway itself says while it runs. Values are JSON with `"v": 1`; unknown fields are ignored. A key
//! of another name is of a later version, or of `fleet join`, and is passed over.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use stoq::limits::{FLEET_ADDRESSES_LEN_MAX, FLEET_TEXT_BYTES_MAX, FLEET_VALUE_BYTES_MAX};
use stoq::quic::fleet_settings::{CidRotation, RotationSalt, RotationState};
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;

/// The version of the values.
const VERSION: u64 = 1;
/// The name of the key with the fleet's rotations.
pub const FLEET_KEY: &str = "fleet";
/// Under this stand the gateways, each by its node ID.
pub const GATEWAYS: &str = "gateways/";
/// Under this each gateway says that it is alive.
pub const ALIVE: &str = "alive/";
/// The most that a weight may be.
const WEIGHT_MAX: f64 = 1e6;

/// One key of the directory, as it is after one revision.
#[derive(Clone, Debug)]
pub struct FleetEntry {
    /// The key, without the fleet's prefix.
    pub key: Arc<str>,
    /// The revision that put it.
    pub revision: u64,
    /// What it says.
    pub record: FleetRecord,
}

/// One change of the directory.
#[derive(Clone, Debug)]
pub enum FleetChange {
    /// A key was put.
    Put(FleetEntry),
    /// A key is gone: deleted, or its lease has ended.
    Gone(Arc<str>),
}

/// What one key says.
#[derive(Clone, Debug)]
pub enum FleetRecord {
    /// The rotations of the fleet's keys.
    Keys(Arc<[CidRotation]>),
    /// A gateway, as the operator wants it.
    Gateway(Arc<FleetGateway>),
    /// What a gateway says of itself.
    Alive(NodeId, Arc<FleetAlive>),
    /// It is the operator's and cannot be read.
    Fault(Arc<RecordFault>),
    /// It is what a gateway says of itself and cannot be read.
    AliveFault(Arc<RecordFault>),
}

/// A gateway of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetGateway {
    /// Its node ID.
    pub node_id: NodeId,
    /// Its name for people, unlike that of every other one.
    pub name: String,
    /// Its number, unlike that of every other one.
    pub server_id: ServerId,
    /// Its place, such as `ams/r12`: gateways of one place may fail together.
    #[serde(default)]
    pub zone: String,
    /// Its share, in proportion to those of the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// Where it listens.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<SocketAddr>,
    /// What the operator wants of it.
    #[serde(default)]
    pub state: FleetState,
}

fn one() -> f64 {
    1.0
}

/// Reads addresses. The error shows the one at fault, which that of the type does not.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let read = |text: String| {
        let address = text.parse().ok();
        let is_one = |address: &SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
        address.filter(is_one).ok_or_else(|| D::Error::custom(NoAddress(text)))
    };
    texts.into_iter().map(read).collect()
}

/// A text that is no address of a gateway.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address with a port; give one such as \"192.0.2.11:4433\" or \"[2001:db8::11]:4433\"")]
struct NoAddress(String);

/// The fields of a [`FleetGateway`]. A value of etcd may have others, of a later version; a file may not.
const GATEWAY_FIELDS: &[&str] = &["node_id", "name", "server_id", "zone", "weight", "addresses", "state"];

/// What the operator wants of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FleetState {
    /// It takes part.
    #[default]
    Active,
    /// It takes nothing new, and finishes what it has.
    Drain,
    /// It is out of the fleet.
    Out,
}

impl fmt::Display for FleetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Out => "out",
        })
    }
}

/// What a gateway says of itself while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetAlive {
    /// Its process: drawn at its start.
    pub boot: String,
    /// Its version.
    pub version: String,
    /// Whether it is ready.
    pub ready: bool,
    /// The revision of the fleet's rotations that it goes by.
    pub keys: u64,
    /// When its process started, seconds since 1970; 0: it does not say.
    #[serde(default)]
    pub since_s: u64,
}

impl FleetAlive {
    /// The value of the key.
    pub fn value(&self) -> Vec<u8> {
        with_version(self)
    }
}

impl FleetGateway {
    /// The value of the key.
    pub fn value(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).expect("it is JSON");
        // The key has it.
        value.as_object_mut().expect("it is an object").remove("node_id");
        with_version(&value)
    }

    /// Holds it against the bounds.
    ///
    /// # Errors
    /// The field that is out of bounds.
    pub fn check(&self) -> Result<(), RecordFault> {
        for (field, text) in [("name", &self.name), ("zone", &self.zone)] {
            if text.len() > FLEET_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(RecordFault::Text(field));
            }
        }
        if self.name.is_empty() {
            return Err(RecordFault::Text("name"));
        }
        // A weight that is no number is neither above nor below.
        if !(self.weight > 0.0 && self.weight <= WEIGHT_MAX) {
            return Err(RecordFault::Weight(self.weight));
        }
        if self.addresses.is_empty() || self.addresses.len() > FLEET_ADDRESSES_LEN_MAX {
            return Err(RecordFault::Addresses(self.addresses.len()));
        }
        Ok(())
    }
}

/// The value of the key of the rotations.
pub fn rotations_value(rotations: &[CidRotation]) -> Vec<u8> {
    with_version(&serde_json::json!({ "rotations": rotations }))
}

fn with_version(value: &impl Serialize) -> Vec<u8> {
    let mut value = serde_json::to_value(value).expect("it is JSON");
    value["v"] = VERSION.into();
    value.to_string().into_bytes()
}

/// Why a value cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecordFault {
    /// It is longer than any.
    #[error("its value has {0} bytes; give it at most {FLEET_VALUE_BYTES_MAX}")]
    Long(usize),
    /// It is of another version.
    #[error(
        "its version `v` is {0}, and this gateway knows {VERSION}; upgrade the gateway, or put the value as version {VERSION}"
    )]
    Version(String),
    /// It is not JSON, or lacks a field, or has one of a wrong type.
    #[error("its value cannot be read: {0}; put it again as docs/fleet.md shows it")]
    Value(String),
    /// The key's end is no node ID.
    #[error("the key does not end in a node ID: {0}")]
    NodeId(String),
    /// A text is too long, or has letters that are not seen, or a gateway has no name.
    #[error(
        "`{0}` is empty, longer than {FLEET_TEXT_BYTES_MAX} bytes or has letters that are not seen; give another"
    )]
    Text(&'static str),
    /// A weight that cannot be one.
    #[error("`weight` is {0}; give a number above 0 and up to {WEIGHT_MAX}")]
    Weight(f64),
    /// No address, or too many.
    #[error("`addresses` has {0}; give 1 to {FLEET_ADDRESSES_LEN_MAX}")]
    Addresses(usize),
}

/// Reads a key below the fleet's prefix. `None`: it is of another purpose.
pub fn read_record(key: &str, value: &[u8]) -> Option<FleetRecord> {
    if let Some(id) = key.strip_prefix(ALIVE) {
        let read = read_alive(id, value);
        return Some(read.unwrap_or_else(|fault| FleetRecord::AliveFault(Arc::new(fault))));
    }
    let read = match key.strip_prefix(GATEWAYS) {
        Some(id) => read_gateway(id, value),
        None if key == FLEET_KEY => read_rotations(value),
        None => return None,
    };
    Some(read.unwrap_or_else(|fault| FleetRecord::Fault(Arc::new(fault))))
}

fn read_rotations(value: &[u8]) -> Result<FleetRecord, RecordFault> {
    #[derive(Deserialize)]
    struct Rotations {
        rotations: Vec<LooseRotation>,
    }
    // Rotations of a configuration refuse unknown fields.
    #[derive(Deserialize)]
    struct LooseRotation {
        number: u8,
        salt: RotationSalt,
        state: RotationState,
    }
    let read: Rotations = versioned(value)?;
    let rotations = read.rotations.into_iter();
    Ok(FleetRecord::Keys(
        rotations.map(|LooseRotation { number, salt, state }| CidRotation { number, salt, state }).collect(),
    ))
}

fn read_gateway(id: &str, value: &[u8]) -> Result<FleetRecord, RecordFault> {
    let node_id: NodeId = id.parse().map_err(|error| RecordFault::NodeId(format!("{error}")))?;
    let mut fields: serde_json::Map<String, serde_json::Value> = versioned(value)?;
    fields.retain(|field, _| GATEWAY_FIELDS.contains(&field.as_str()));
    fields.insert("node_id".into(), node_id.to_string().into());
    let gateway: FleetGateway = serde_json::from_value(fields.into()).map_err(unreadable)?;
    gateway.check()?;
    Ok(FleetRecord::Gateway(Arc::new(gateway)))
}

fn read_alive(id: &str, value: &[u8]) -> Result<FleetRecord, RecordFault> {
    let node_id: NodeId = id.parse().map_err(|error| RecordFault::NodeId(format!("{error}")))?;
    let alive: FleetAlive = versioned(value)?;
    let texts = [("boot", &alive.boot), ("version", &alive.version)];
    if let Some((field, _)) = texts.into_iter().find(|(_, text)| text.len() > FLEET_TEXT_BYTES_MAX) {
        return Err(RecordFault::Text(field));
    }
    Ok(FleetRecord::Alive(node_id, Arc::new(alive)))
}

/// Reads a value of [`VERSION`].
fn versioned<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, RecordFault> {
    #[derive(Deserialize)]
    struct Versioned {
        v: serde_json::Value,
    }
    if value.len() > FLEET_VALUE_BYTES_MAX {
        return Err(RecordFault::Long(value.len()));
    }
    let Versioned { v } = serde_json::from_slice(value).map_err(unreadable)?;
    if v != VERSION {
        return Err(RecordFault::Version(v.to_string().chars().take(FLEET_TEXT_BYTES_MAX).collect()));
    }
    serde_json::from_slice(value).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> RecordFault {
    RecordFault::Value(error.to_string())
}

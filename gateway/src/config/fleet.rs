//! A gateway's part in a fleet.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use stoq::quic::fleet_settings::CidRotation;
use stoq::quic::routable::ServerId;

/// The keys that all gateways of a fleet share, and this gateway's number among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// The fleet's secret, as `stoq-gateway fleet key` makes it; the same file on every gateway.
    pub key_file: PathBuf,
    /// The gateway's number, unlike that of every other one.
    pub server_id: ServerId,
    /// The rotations of the keys, the same on every gateway.
    pub rotation: Vec<CidRotation>,
}

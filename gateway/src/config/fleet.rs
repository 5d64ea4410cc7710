//! A gateway's part in a fleet.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use stoq::quic::fleet_settings::{CidRotation, check_rotations};
use stoq::quic::routable::ServerId;

/// The keys that all gateways of a fleet share, this gateway's number among them, and where it learns of the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// The fleet's secret, as `stoq-gateway fleet key` makes it; the same file on every gateway.
    pub key_file: PathBuf,
    /// The gateway's number, unlike that of every other one.
    pub server_id: ServerId,
    /// Where the table of the fleet's gateways and rotations is; without it there is none.
    pub provider: Option<FleetProvider>,
    /// The file of the provider `file`.
    pub file: Option<PathBuf>,
    /// The rotations of the keys, the same on every gateway, where there is no table.
    #[serde(default)]
    pub rotation: Vec<CidRotation>,
}

/// Where a fleet's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FleetProvider {
    /// A file beside the configuration.
    File,
}

impl FleetConfig {
    /// Why the keys do not go together: the key and the fix.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        match (self.provider, &self.file) {
            (None, Some(_)) => {
                return Some(("fleet.file", "it is not read; set fleet.provider = \"file\"".into()));
            }
            (Some(FleetProvider::File), None) => {
                return Some(("fleet.file", "the provider \"file\" needs the table's file; name it".into()));
            }
            (Some(_), _) if !self.rotation.is_empty() => {
                let fix = "the fleet's table has the rotations; move them there";
                return Some(("fleet.rotation", fix.into()));
            }
            (Some(_), _) => return None,
            (None, None) => {}
        }
        check_rotations(&self.rotation).err().map(|error| ("fleet.rotation", error.to_string()))
    }
}

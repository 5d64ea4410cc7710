//! The directory that is a file beside the configuration: `[[rotation]]` and `[[gateway]]`, in TOML or, if its name ends in `.json`, in JSON.
//!
//! It is read at the start and at each reload, like the configuration: a file with a fault starts no gateway, and changes nothing of one
//! that runs. So no copy of it is kept.

use super::record::{FleetEntry, FleetGateway, FleetRecord};
use super::table::{FleetTable, Roster, TableFault, TableOrigin};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use stoq::quic::fleet_settings::CidRotation;

/// A fault of the file.
#[derive(Debug, thiserror::Error)]
pub enum FleetFileError {
    /// It cannot be read.
    #[error("fleet.file: {file}: cannot be read: {source}; give a file as docs/fleet.md shows it")]
    Read {
        /// The file.
        file: String,
        /// Why.
        r#source: std::io::Error,
    },
    /// It is no TOML or JSON, or has an unknown key, or a value of a wrong type.
    #[error("fleet.file: {file}: {why}")]
    Parse {
        /// The file.
        file: String,
        /// Why, and where.
        why: String,
    },
    /// Its rows do not make a table.
    #[error("fleet.file: {file}: {fault}")]
    Table {
        /// The file.
        file: String,
        /// Why.
        fault: TableFault,
    },
}

/// The rows of the file, and of a table that is kept on the disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableRows {
    #[serde(default)]
    pub(super) rotation: Vec<CidRotation>,
    #[serde(default)]
    pub(super) gateway: Vec<FleetGateway>,
}

impl TableRows {
    /// The roster of these rows.
    pub(super) fn roster(self, revision: u64) -> Result<Roster, TableFault> {
        let mut entries = Vec::new();
        if !self.rotation.is_empty() {
            let record = FleetRecord::Keys(self.rotation.into());
            entries.push(FleetEntry { key: "[[rotation]]".into(), revision, record });
        }
        for (at, gateway) in self.gateway.into_iter().enumerate() {
            let key: Arc<str> = format!("[[gateway]] {} {:?}", at + 1, gateway.name).into();
            let record = match gateway.check() {
                Ok(()) => FleetRecord::Gateway(Arc::new(gateway)),
                Err(fault) => FleetRecord::Fault(Arc::new(fault)),
            };
            entries.push(FleetEntry { key, revision, record });
        }
        Roster::read(&entries, revision)
    }

    /// The rows of a roster.
    pub(super) fn of(roster: &Roster) -> Self {
        let gateway = roster.gateways.values().map(|gateway| (**gateway).clone()).collect();
        Self { rotation: roster.rotations.to_vec(), gateway }
    }
}

/// Reads the file. `before` is the table that the gateway goes by: a file with other rows is one revision after it.
///
/// # Errors
/// [`FleetFileError`], with the row at fault.
pub fn read_fleet_file(path: &Path, before: Option<&FleetTable>) -> Result<Arc<FleetTable>, FleetFileError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| FleetFileError::Read { file: file.clone(), source })?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let rows: Result<TableRows, String> = match is_json {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        false => toml::from_str(&text).map_err(|error| error.to_string().trim_end().to_owned()),
    };
    let rows = rows.map_err(|why| FleetFileError::Parse { file: file.clone(), why })?;
    let last = before.map_or(0, |table| table.roster.revision);
    let mut roster = rows.roster(last + 1).map_err(|fault| FleetFileError::Table { file, fault })?;
    if let Some(old) = before.map(|table| &table.roster) {
        let is_same = roster.gateways == old.gateways && roster.rotations == old.rotations;
        roster.revision = if is_same { last } else { last + 1 };
        roster.keys_revision =
            if roster.rotations == old.rotations { old.keys_revision } else { roster.revision };
    }
    let (alive, origin) = (BTreeMap::new(), TableOrigin::File);
    Ok(Arc::new(FleetTable { roster: Arc::new(roster), alive, origin }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[rotation]]
number = 0
salt = "000102030405060708090a0b0c0d0e0f"
state = "issue"
[[gateway]]
node_id = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
name = "a1"
server_id = "000001"
zone = "ams/r12"
addresses = ["192.0.2.11:4433"]
[[gateway]]
node_id = "qaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
name = "a2"
server_id = "000002"
weight = 2.5
addresses = ["192.0.2.12:4433"]
state = "drain"
"#;

    fn read(ending: &str, text: &str, before: Option<&FleetTable>) -> Result<Arc<FleetTable>, String> {
        let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read = read_fleet_file(file.path(), before);
        read.map_err(|error| {
            let text = error.to_string();
            assert!(text.contains(&file.path().display().to_string()), "{text}");
            text
        })
    }

    #[test]
    fn toml_and_json_make_the_same_table_and_a_change_is_the_next_revision() {
        let first = read(".toml", FILE, None).unwrap();
        assert_eq!((first.roster.revision, first.roster.gateways.len()), (1, 2));
        assert_eq!(first.is_alive(&first.roster.named("a1").unwrap().node_id), None);
        let json = serde_json::to_string(&TableRows::of(&first.roster)).unwrap();
        let same = read(".json", &json, Some(&first)).unwrap();
        assert_eq!(same.roster, first.roster);
        let other = read(".toml", &FILE.replace("2.5", "3"), Some(&first)).unwrap();
        assert_eq!((other.roster.revision, other.roster.keys_revision), (2, 1));
    }

    #[test]
    fn a_fault_names_the_file_and_the_row() {
        let changed = |from: &str, to: &str| read(".toml", &FILE.replace(from, to), None).unwrap_err();
        for (error, part) in [
            (
                changed("000002", "000001"),
                "[[gateway]] 2 \"a2\": server_id 000001 is that of [[gateway]] 1 \"a1\" too",
            ),
            (changed("qaaa", "aaaa"), "[[gateway]] 2 \"a2\": the gateway is there twice; remove one"),
            (changed("weight", "wieght"), "unknown field `wieght`"),
            (changed("2.5", "nan"), "[[gateway]] 2 \"a2\": `weight` is NaN; give a number above 0"),
            (changed("192.0.2.12:4433", "192.0.2.12"), "\"192.0.2.12\" is no address with a port"),
            (changed("issue", "accept"), "[[rotation]]: 0 rotations issue"),
            (changed("[[rotation]]\nnumber = 0", "[[rotations]]"), "unknown field `rotations`"),
            (read(".json", FILE, None).unwrap_err(), "expected value at line"),
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = read_fleet_file(Path::new("missing/fleet.toml"), None).unwrap_err().to_string();
        assert!(error.contains("give a file as docs/fleet.md shows it"), "{error}");
    }
}

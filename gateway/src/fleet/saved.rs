//! The last good table of etcd or Kubernetes, kept on the disk: a gateway that starts without the directory goes by it.
//!
//! What gateways say of themselves is not in it: it would be old.

use super::file::TableRows;
use super::table::{FleetTable, Roster, TableFault, TableOrigin};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

/// The version of the file.
const VERSION: u64 = 1;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTable {
    v: u64,
    cluster: u64,
    revision: u64,
    keys_revision: u64,
    saved_s: u64,
    table: TableRows,
}

/// Why a table that was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read.
    #[error("{0}; let the gateway's user read it, or remove it while the directory answers")]
    Read(io::Error),
    /// It is none, or of another version.
    #[error("it is no table of this version ({0}); remove it while the directory answers")]
    Parse(serde_json::Error),
    /// It makes no table.
    #[error("it makes no table ({0}); remove it while the directory answers")]
    Table(TableFault),
}

/// Writes a table that a directory's cluster gave, at `saved_s`, seconds since 1970. After it returns, either the new file or the former is
/// there, whatever happens to the machine.
///
/// # Errors
/// The disk refuses.
pub fn save_table(path: &Path, cluster: u64, roster: &Roster, saved_s: u64) -> io::Result<()> {
    let Roster { revision, keys_revision, .. } = *roster;
    let table = TableRows::of(roster);
    let saved = SavedTable { v: VERSION, cluster, revision, keys_revision, saved_s, table };
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    file.write_all(&serde_json::to_vec(&saved)?)?;
    file.sync_all()?;
    rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// The table that was kept, and the cluster that it is of; `None`: there is none.
///
/// # Errors
/// [`SavedError`]: it cannot be used.
pub fn saved_table(path: &Path) -> Result<Option<(u64, Arc<FleetTable>)>, SavedError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(SavedError::Read)?,
    };
    let saved: SavedTable = serde_json::from_slice(&text).map_err(SavedError::Parse)?;
    let SavedTable { cluster, revision, keys_revision, saved_s, table, .. } = saved;
    let roster = Roster { keys_revision, ..table.roster(revision).map_err(SavedError::Table)? };
    let (alive, origin) = (BTreeMap::new(), TableOrigin::Cached { saved_s });
    Ok(Some((cluster, Arc::new(FleetTable { roster: Arc::new(roster), alive, origin }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = r#"{"rotation":[{"number":0,"salt":"000102030405060708090a0b0c0d0e0f","state":"issue"}],
        "gateway":[{"node_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"a1",
        "server_id":"000001","addresses":["192.0.2.11:4433"]}]}"#;

    #[test]
    fn a_table_is_read_as_it_was_kept_and_a_damaged_one_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.json");
        assert!(saved_table(&path).unwrap().is_none());
        let rows: TableRows = serde_json::from_str(ROWS).unwrap();
        let roster = Roster { keys_revision: 5, ..rows.roster(9).unwrap() };
        save_table(&path, u64::MAX, &roster, 1_000).unwrap();
        save_table(&path, u64::MAX, &roster, 2_000).unwrap();
        let (cluster, table) = saved_table(&path).unwrap().unwrap();
        assert_eq!((cluster, table.origin), (u64::MAX, TableOrigin::Cached { saved_s: 2_000 }));
        assert_eq!(*table.roster, roster);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");

        let text = std::fs::read_to_string(&path).unwrap();
        for (damaged, part) in [
            (text[..text.len() / 2].to_owned(), "it is no table of this version"),
            (text.replace("\"issue\"", "\"accept\""), "it makes no table ([[rotation]]: 0 rotations issue"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = saved_table(&path).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.ends_with("remove it while the directory answers"),
                "{error}"
            );
        }
        let error = saved_table(directory.path()).unwrap_err().to_string();
        assert!(error.contains("let the gateway's user read it"), "{error}");
        save_table(&path, 1, &roster, 3_000).unwrap();
        assert!(saved_table(&path).is_ok());
        assert!(save_table(&directory.path().join("missing/fleet.json"), 1, &roster, 1).is_err());
    }
}

//! `stoq-gateway fleet status`: the gateways of a fleet's directory, and how the directory is.

use super::OperatorArgs;
use crate::config::{FleetConfig, FleetProvider};
use crate::durations;
use crate::fleet::file::read_fleet_file;
use crate::fleet::orders::StoreSnapshot;
use crate::fleet::record::{FLEET_KEY, FleetAlive, FleetGateway};
use crate::fleet::saved::saved_table;
use crate::fleet::table::{FleetTable, Roster};
use crate::fleet::unix_s;
use crate::output;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use stoq::tls::NodeId;

/// The fleet as `fleet status` shows it.
#[derive(Debug, Serialize)]
struct FleetOverview {
    /// Where the table is.
    provider: FleetProvider,
    /// Why the directory does not answer; none: it does, or it is a file.
    lost: Option<String>,
    /// Why gateways refuse the table; none: they do not.
    refused: Option<String>,
    /// The age of the table, seconds.
    age_s: u64,
    /// Its revision.
    revision: u64,
    /// The revision of its rotations.
    keys_revision: u64,
    gateways: Vec<OverviewRow>,
}

/// A gateway as `fleet status` shows it.
#[derive(Debug, Serialize)]
struct OverviewRow {
    #[serde(flatten)]
    gateway: FleetGateway,
    /// Whether it says that it is alive; none: the table cannot know.
    alive: Option<bool>,
    /// Since when it is, seconds since 1970.
    since_s: Option<u64>,
    ready: Option<bool>,
    version: Option<String>,
    /// The revision of the rotations that it goes by.
    keys: Option<u64>,
}

impl OverviewRow {
    /// `alive`: what it says; the outer none: the table cannot know.
    fn new(gateway: &FleetGateway, alive: Option<Option<&Arc<FleetAlive>>>) -> Self {
        let said = alive.flatten();
        Self {
            gateway: gateway.clone(),
            alive: alive.map(|alive| alive.is_some()),
            since_s: said.map(|said| said.since_s).filter(|since_s| *since_s > 0),
            ready: said.map(|said| said.ready),
            version: said.map(|said| said.version.clone()),
            keys: said.map(|said| said.keys),
        }
    }
}

/// Shows the fleet.
///
/// # Errors
/// The directory cannot be read, and no table of it is kept; or standard output is closed or full.
pub(super) fn show(operator: &OperatorArgs, json: bool) -> anyhow::Result<()> {
    let (_, fleet) = operator.load()?;
    let overview = look(operator, &fleet)?;
    if json {
        return Ok(output::line(serde_json::to_string(&overview)?)?);
    }
    for line in overview.lines(unix_s()) {
        output::line(line)?;
    }
    Ok(())
}

fn look(operator: &OperatorArgs, fleet: &FleetConfig) -> anyhow::Result<FleetOverview> {
    if let (Some(FleetProvider::File), Some(file)) = (fleet.provider, &fleet.file) {
        let table = read_fleet_file(file, None)?;
        return Ok(FleetOverview::of_table(FleetProvider::File, &table, age_s(file), None));
    }
    let mut client = operator.client(fleet)?;
    let lost = match client.snapshot() {
        Ok(snapshot) => {
            let provider = fleet.provider.unwrap_or(FleetProvider::Etcd);
            return Ok(FleetOverview::of_snapshot(provider, &snapshot));
        }
        Err(lost) => lost,
    };
    let saved = fleet.saved.as_deref().and_then(|saved| Some((saved, saved_table(saved).ok()??.1)));
    let (saved, table) = saved.context(lost.to_string())?;
    let provider = fleet.provider.unwrap_or(FleetProvider::Etcd);
    Ok(FleetOverview::of_table(provider, &table, age_s(saved), Some(lost.to_string())))
}

/// The age of a file.
fn age_s(file: &Path) -> u64 {
    let changed = std::fs::metadata(file).and_then(|meta| meta.modified()).ok();
    changed.and_then(|changed| SystemTime::now().duration_since(changed).ok()).map_or(0, |age| age.as_secs())
}

impl FleetOverview {
    fn of_table(provider: FleetProvider, table: &FleetTable, age_s: u64, lost: Option<String>) -> Self {
        let Roster { revision, keys_revision, .. } = *table.roster;
        let gateways = table.roster.gateways.values().map(|row| OverviewRow::new(row, None)).collect();
        Self { provider, lost, refused: None, age_s, revision, keys_revision, gateways }
    }

    fn of_snapshot(provider: FleetProvider, snapshot: &StoreSnapshot) -> Self {
        let entries: Vec<_> = snapshot.entries().collect();
        let refused = Roster::read(&entries, snapshot.head.revision).err().map(|fault| fault.to_string());
        let alive: BTreeMap<NodeId, Arc<FleetAlive>> = snapshot.alive();
        let row = |row: Arc<FleetGateway>| OverviewRow::new(&row, Some(alive.get(&row.node_id)));
        Self {
            provider,
            lost: None,
            refused,
            age_s: 0,
            revision: snapshot.head.revision,
            keys_revision: snapshot.get(FLEET_KEY).map_or(0, |keys| keys.revision),
            gateways: snapshot.gateways().map(row).collect(),
        }
    }

    /// A line for the directory, a head, and a line for each gateway by name.
    fn lines(&self, now_s: u64) -> Vec<String> {
        let (revision, keys, age) = (self.revision, self.keys_revision, durations::show(self.age_s));
        let first = match (self.provider, &self.lost) {
            (FleetProvider::File, _) => format!("file, changed {age} ago"),
            (FleetProvider::Etcd, None) => format!("etcd, revision {revision}; rotations of revision {keys}"),
            (FleetProvider::Kubernetes, None) => {
                format!("Kubernetes, revision {revision}; rotations of revision {keys}")
            }
            (FleetProvider::Etcd | FleetProvider::Kubernetes, Some(_)) => {
                format!(
                    "the table kept on the disk, {age} old, revision {revision}; rotations of revision {keys}"
                )
            }
        };
        let mut lines = vec![format!("directory: {first}")];
        lines.extend(self.lost.iter().map(ToString::to_string));
        lines.extend(self.refused.iter().map(|why| format!("REFUSED by the gateways: {why}")));
        let none = || "-".to_owned();
        let mut rows = vec![
            ["NAME", "SERVER ID", "ZONE", "STATE", "ALIVE", "READY", "KEYS", "NODE ID"].map(str::to_owned),
        ];
        let mut gateways: Vec<_> = self.gateways.iter().collect();
        gateways.sort_by(|one, other| one.gateway.name.cmp(&other.gateway.name));
        for row in gateways {
            let gateway = &row.gateway;
            let since = row.since_s.map(|since_s| durations::show(now_s.saturating_sub(since_s)));
            let alive = row
                .alive
                .map(|alive| if alive { since.unwrap_or_else(|| "yes".into()) } else { "no".into() });
            let ready = row.ready.map(|ready| if ready { "yes".to_owned() } else { "no".into() });
            let keys = row.keys.map(|keys| {
                if keys < self.keys_revision { format!("{keys} (behind)") } else { keys.to_string() }
            });
            let zone = Some(gateway.zone.clone()).filter(|zone| !zone.is_empty());
            rows.push([
                gateway.name.clone(),
                gateway.server_id.to_string(),
                zone.unwrap_or_else(none),
                gateway.state.to_string(),
                alive.unwrap_or_else(none),
                ready.unwrap_or_else(none),
                keys.unwrap_or_else(none),
                gateway.node_id.to_string(),
            ]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..7).map(width).collect();
        lines.extend(rows.iter().map(|row| {
            let cells = row.iter().enumerate();
            let cells = cells.map(|(at, cell)| {
                let width = widths.get(at).copied().unwrap_or(0);
                format!("{cell:<width$}")
            });
            cells.collect::<Vec<_>>().join("  ")
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::exchange::StoreHead;
    use crate::fleet::orders::StoredKey;

    #[test]
    fn a_line_for_each_gateway_says_whether_it_is_alive_and_which_rotations_it_goes_by() {
        let key = |key: String, value: &str, revision| StoredKey {
            key: key.into(),
            value: value.as_bytes().to_vec(),
            revision,
        };
        let id = |letter: &str| letter.repeat(52);
        let row = |name: &str, number: u8, state: &str| {
            format!(
                r#"{{"v":1,"name":"{name}","server_id":"00000{number}","addresses":["192.0.2.1:1"],"state":"{state}"}}"#
            )
        };
        let alive = r#"{"v":1,"boot":"b","version":"1","ready":true,"keys":3,"since_s":1000}"#;
        let keys =
            r#"{"v":1,"rotations":[{"number":0,"salt":"000102030405060708090a0b0c0d0e0f","state":"issue"}]}"#;
        let mut snapshot = StoreSnapshot {
            head: StoreHead { cluster: 1, revision: 9 },
            keys: vec![
                key("fleet".into(), keys, 5),
                key(format!("gateways/{}", id("a")), &row("b1", 1, "active"), 2),
                key(format!("gateways/{}", id("q")), &row("a2", 2, "drain"), 4),
                key(format!("alive/{}", id("a")), alive, 6),
            ],
        };
        let overview = FleetOverview::of_snapshot(FleetProvider::Etcd, &snapshot);
        let lines = overview.lines(1_090);
        assert_eq!(lines[0], "directory: etcd, revision 9; rotations of revision 5");
        assert!(lines[2].starts_with("a2    000002     -     drain   no     -      -"), "{lines:#?}");
        assert!(
            lines[3].starts_with("b1    000001     -     active  1m30s  yes    3 (behind)  aaaa"),
            "{lines:#?}"
        );
        let json = serde_json::to_value(&overview).unwrap();
        assert_eq!((&json["gateways"][0]["keys"], &json["provider"]), (&3.into(), &"etcd".into()));
        snapshot.keys[2] = key(format!("gateways/{}", id("q")), &row("a2", 1, "drain"), 4);
        let lines = FleetOverview::of_snapshot(FleetProvider::Etcd, &snapshot).lines(1_090);
        assert!(lines[1].starts_with("REFUSED by the gateways: gateways/"), "{lines:#?}");
    }
}

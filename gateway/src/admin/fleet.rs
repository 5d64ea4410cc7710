//! A gateway's fleet, in `/status` and `/metrics`.

use super::text::{Exposition, MetricKind};
use crate::fleet::record::{FleetGateway, FleetState};
use crate::fleet::table::TableOrigin;
use crate::fleet::view::FleetView;
use serde::Serialize;

/// The fleet as `/status` shows it.
#[derive(Debug, Serialize)]
pub(super) struct FleetRow {
    /// The revision of the table.
    revision: u64,
    /// The revision of its rotations.
    keys_revision: u64,
    /// When the table was saved, seconds since 1970, where it is that of the disk.
    saved_s: Option<u64>,
    gateways: Vec<FleetGatewayRow>,
    /// None: the directory is a file.
    directory: Option<DirectoryRow>,
}

#[derive(Debug, Serialize)]
struct FleetGatewayRow {
    #[serde(flatten)]
    gateway: FleetGateway,
    /// Whether it says that it is alive; none: the table cannot know.
    alive: Option<bool>,
}

#[derive(Debug, Serialize)]
struct DirectoryRow {
    up: bool,
    /// The endpoint that is asked, by its place in the configuration.
    endpoint: usize,
    /// Since the last answer, seconds.
    age_s: Option<u64>,
    /// The revision up to which the directory is known.
    seen: u64,
    /// Why its gateways and rotations are not gone by; empty: they are.
    refused: String,
    /// Why the last endpoint was lost.
    lost: Option<String>,
    /// What the user of etcd, or the account of Kubernetes, may not do.
    denied: Option<String>,
    /// Whether the gateway says there that it is alive.
    has_lease: bool,
    /// Another process that says it is this gateway.
    twin: Option<String>,
}

impl FleetRow {
    /// What the view shows; none: the gateway has no directory.
    pub(super) fn of(view: &FleetView) -> Option<Self> {
        let table = view.table()?;
        let gateways = table.roster.gateways.values().map(|gateway| FleetGatewayRow {
            alive: table.is_alive(&gateway.node_id),
            gateway: (**gateway).clone(),
        });
        let directory = view.status().map(|status| DirectoryRow {
            up: status.is_up,
            endpoint: status.endpoint,
            age_s: status.heard.map(|heard| heard.elapsed().as_secs()),
            seen: status.seen,
            refused: status.refusal(),
            lost: status.lost,
            denied: status.denied,
            has_lease: status.has_lease,
            twin: status.twin,
        });
        let saved_s = match table.origin {
            TableOrigin::Cached { saved_s } => Some(saved_s),
            TableOrigin::File | TableOrigin::Directory => None,
        };
        Some(Self {
            revision: table.roster.revision,
            keys_revision: table.roster.keys_revision,
            saved_s,
            gateways: gateways.collect(),
            directory,
        })
    }
}

/// The metrics of a fleet.
pub(super) fn metrics(view: &FleetView, out: &mut Exposition) {
    let Some(table) = view.table() else { return };
    let help = "The revision of the fleet's table by which the gateway goes.";
    out.single("stoq_fleet_table_revision", MetricKind::Gauge, help, table.roster.revision);
    let help = "Gateways in the fleet's table.";
    out.single("stoq_fleet_gateways", MetricKind::Gauge, help, table.roster.gateways.len());
    let help = "Rotations of the fleet's keys in the table: more than one while a rotation is half done.";
    out.single("stoq_fleet_rotations", MetricKind::Gauge, help, table.roster.rotations.len());
    let Some(status) = view.status() else { return };
    let help = "Gateways of the table that say they are alive, as far as the directory is known.";
    let alive = table.roster.gateways.keys().filter(|node| table.is_alive(node) == Some(true)).count();
    out.single("stoq_fleet_gateways_alive", MetricKind::Gauge, help, alive);
    let rows = table.roster.gateways.values();
    let missing =
        rows.filter(|row| row.state != FleetState::Out && table.is_alive(&row.node_id) == Some(false));
    let help = "Gateways of the table that are not out and do not say they are alive, as far as the directory is known.";
    out.single("stoq_fleet_gateways_missing", MetricKind::Gauge, help, missing.count());
    let help = "1 while the directory answers. Without it the last table stays in effect.";
    out.single("stoq_fleet_directory_up", MetricKind::Gauge, help, u8::from(status.is_up));
    let age = status.heard.map_or(-1.0, |heard| heard.elapsed().as_secs_f64());
    let help = "Since the directory last answered, seconds; -1: not since the start.";
    out.single("stoq_fleet_directory_age_seconds", MetricKind::Gauge, help, age);
    let help = "1 while the directory's keys or its cluster are refused; /status and the log name the fault.";
    let refused = u8::from(!status.refusal().is_empty());
    out.single("stoq_fleet_table_refused", MetricKind::Gauge, help, refused);
    let help = "1 while the gateway has a lease in the directory: without one the others take it for gone.";
    out.single("stoq_fleet_lease", MetricKind::Gauge, help, u8::from(status.has_lease));
    let help = "1 while another process says in the directory that it is this gateway.";
    out.single("stoq_fleet_twin", MetricKind::Gauge, help, u8::from(status.twin.is_some()));
}

//! A gateway's part in its fleet while it runs: its keys, and the table by which it goes.

use super::attached::AttachedGateway;
use super::file::read_fleet_file;
use super::joined::{DirectorySettings, JoinedFleet};
use super::keys::read_key;
use super::table::FleetTable;
use super::view::FleetView;
use crate::config::{FleetConfig, FleetProvider, GatewayConfig};
use crate::tls;
use anyhow::{Context, ensure};
use std::sync::Arc;
use std::time::Instant;
use stoq::quic::fleet_settings::{CidRotation, FleetSettings};
use stoq::tls::NodeId;

/// A gateway's part in its fleet.
#[derive(Clone, Debug)]
pub(crate) struct FleetPart {
    /// Its keys.
    pub(crate) settings: FleetSettings,
    /// The table of its directory, if that is a file.
    pub(crate) table: Option<Arc<FleetTable>>,
    /// Its membership of a directory that it follows, if it has one.
    joined: Option<Arc<JoinedFleet>>,
}

impl FleetPart {
    /// The part of a gateway that starts.
    ///
    /// # Errors
    /// The key file or the directory's file cannot be read or used; with the fix.
    pub(crate) fn start(config: &GatewayConfig) -> anyhow::Result<Option<Self>> {
        let Some(fleet) = &config.fleet else { return Ok(None) };
        if let (Some(directory), Some(saved)) = (DirectorySettings::read(fleet)?, &fleet.saved) {
            let own = tls::load(&config.identity)?.node_id();
            let joined = JoinedFleet::start(fleet, directory, saved.clone(), own)?;
            let settings = joined.settings()?;
            return Ok(Some(Self { settings, table: None, joined: Some(Arc::new(joined)) }));
        }
        Self::read(fleet).map(Some)
    }

    /// Reads the key file and, if the directory is a file, that.
    ///
    /// # Errors
    /// Those of [`FleetPart::start`].
    pub(crate) fn read(config: &FleetConfig) -> anyhow::Result<Self> {
        let secret = read_key(&config.key_file)?;
        let table = directory(config, None)?;
        let rotations = rotations(config, table.as_deref());
        let settings = FleetSettings::new(secret, config.server_id, rotations)?;
        Ok(Self { settings, table, joined: None })
    }

    /// The part of the same gateway by another configuration and the directory as it is now. The key and the server ID stay until a restart.
    ///
    /// # Errors
    /// Connections would be lost, or the directory's file cannot be used; with the fix.
    pub(crate) fn renewed(&self, config: Option<&FleetConfig>) -> anyhow::Result<Self> {
        let Some(config) = config.filter(|_| self.joined.is_none()) else { return Ok(self.clone()) };
        let table = directory(config, self.table.as_deref())?;
        let rotations = rotations(config, table.as_deref());
        let settings = self.settings.rotated(rotations, Instant::now()).context("fleet.rotation")?;
        Ok(Self { settings, table, joined: None })
    }

    /// The keys, if the gateway is in a fleet.
    pub(crate) fn keys(part: Option<&Self>) -> Option<FleetSettings> {
        let part = part?;
        let learned = part.joined.as_ref().and_then(|joined| joined.settings().ok());
        Some(learned.unwrap_or_else(|| part.settings.clone()))
    }

    /// Has the gateway go by the table: by that of a file as it is now, and by that of a directory that it follows from now on.
    pub(crate) fn attach(part: Option<&Self>, gateway: &Arc<AttachedGateway>) {
        match part.and_then(|part| part.joined.as_ref()) {
            Some(joined) => joined.attach(gateway),
            None => gateway.follow(part.and_then(|part| part.table.as_deref())),
        }
    }

    /// Has the directory told whether the gateway is ready, as this says.
    pub(crate) fn tell_readiness(
        part: Option<&Self>,
        readiness: Option<impl Fn() -> Vec<String> + Send + 'static>,
    ) {
        let joined = part.and_then(|part| part.joined.as_ref());
        if let Some((joined, readiness)) = joined.zip(readiness) {
            joined.tell_readiness(Box::new(readiness));
        }
    }

    /// Shows the table, if there is one.
    pub(crate) fn view(part: Option<&Self>) -> Arc<FleetView> {
        if let Some(joined) = part.and_then(|part| part.joined.as_ref()) {
            return joined.view();
        }
        let view = FleetView::default();
        view.show(part.and_then(|part| part.table.clone()));
        Arc::new(view)
    }

    /// Holds the gateway against the table, and logs its part.
    ///
    /// # Errors
    /// Those of [`FleetPart::check_own`].
    pub(crate) fn begin(&self, own: NodeId) -> anyhow::Result<()> {
        self.check_own(own)?;
        let (server_id, rotations) = (self.settings.server_id(), self.settings.rotations().len());
        tracing::info!(%server_id, rotations, "connection IDs name this gateway of the fleet");
        self.log(own);
        Ok(())
    }

    /// Holds the gateway against its row of the table.
    ///
    /// # Errors
    /// The table gives it another server ID, or gives its server ID to another gateway.
    pub(crate) fn check_own(&self, own: NodeId) -> anyhow::Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        let server_id = self.settings.server_id();
        if let Some(row) = table.roster.gateways.get(&own) {
            ensure!(
                row.server_id == server_id,
                "fleet.server_id is {server_id}, and the fleet's table gives this gateway {}; set one to the other, and restart the gateway",
                row.server_id
            );
        }
        let holder = table.roster.gateways.values().find(|row| row.server_id == server_id);
        if let Some(holder) = holder.filter(|holder| holder.node_id != own) {
            anyhow::bail!(
                "fleet.server_id {server_id} is that of the gateway {:?} in the fleet's table; give this one another",
                holder.name
            );
        }
        Ok(())
    }

    /// Logs what the table says.
    pub(crate) fn log(&self, own: NodeId) {
        let Some(table) = &self.table else { return };
        let (revision, gateways) = (table.roster.revision, table.roster.gateways.len());
        tracing::info!(revision, gateways, "the fleet's table is taken");
        if !table.roster.gateways.contains_key(&own) {
            tracing::warn!("the fleet's table does not have this gateway: the others do not know it");
        }
    }
}

fn directory(config: &FleetConfig, before: Option<&FleetTable>) -> anyhow::Result<Option<Arc<FleetTable>>> {
    Ok(match (config.provider, &config.file) {
        (Some(FleetProvider::File), Some(file)) => Some(read_fleet_file(file, before)?),
        _ => None,
    })
}

/// The rotations of the directory, or those of the configuration.
fn rotations(config: &FleetConfig, table: Option<&FleetTable>) -> Vec<CidRotation> {
    table.map_or_else(|| config.rotation.clone(), |table| table.roster.rotations.to_vec())
}

//! A gateway whose directory is etcd or Kubernetes: what its thread learns takes effect here, while the gateway runs.

use super::attached::AttachedGateway;
use super::clock::unix_s;
use super::directory::{DirectoryThread, FleetWatcher};
use super::etcd::{self, EtcdSettings};
use super::exchange::{MemberSettings, MemberStatus};
use super::keys::read_key;
use super::kube::{self, KubeSettings};
use super::note::adoption_note;
use super::record::ALIVE;
use super::saved::{save_table, saved_table};
use super::table::{FleetTable, TableOrigin};
use super::view::FleetView;
use crate::config::{FleetConfig, FleetProvider};
use anyhow::Context;
use rand::Rng;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoq::limits::FLEET_FIRST_MS_MAX;
use stoq::quic::fleet_settings::{FleetSecret, FleetSettings};
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;

/// A gateway that goes by a directory.
pub(crate) struct JoinedFleet {
    learned: Arc<Learned>,
    _directory: DirectoryThread,
}

/// How to reach the directory.
pub(crate) enum DirectorySettings {
    Etcd(EtcdSettings),
    Kubernetes(KubeSettings),
}

impl DirectorySettings {
    /// Reads what the configuration names; `None`: the gateway follows no directory.
    pub(crate) fn read(config: &FleetConfig) -> anyhow::Result<Option<Self>> {
        Ok(match (config.provider, &config.etcd) {
            (Some(FleetProvider::Etcd), Some(etcd)) => Some(Self::Etcd(EtcdSettings::read(config, etcd)?)),
            (Some(FleetProvider::Kubernetes), _) => Some(Self::Kubernetes(KubeSettings::read(config)?)),
            _ => None,
        })
    }

    fn own_key(&self, own: NodeId) -> Arc<str> {
        match self {
            Self::Etcd(settings) => format!("{}{ALIVE}{own}", settings.prefix).into(),
            Self::Kubernetes(settings) => settings.names().own_key(&own),
        }
    }

    /// In words.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Etcd(settings) => format!("{} endpoints of etcd", settings.endpoints.len()),
            Self::Kubernetes(settings) => format!("Kubernetes, namespace {}", settings.names().namespace),
        }
    }

    fn endpoints(&self) -> usize {
        match self {
            Self::Etcd(settings) => settings.endpoints.len(),
            Self::Kubernetes(_) => 1,
        }
    }
}

impl fmt::Debug for JoinedFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinedFleet(..)")
    }
}

#[derive(Default)]
struct Learned {
    state: Mutex<State>,
    has_table: Condvar,
    view: Arc<FleetView>,
}

/// Why the gateway is not ready; empty: it is.
pub(crate) type ReadinessLook = Box<dyn Fn() -> Vec<String> + Send>;

#[derive(Default)]
struct State {
    settings: Option<FleetSettings>,
    keys_revision: u64,
    gateway: Option<Arc<AttachedGateway>>,
    readiness: Option<ReadinessLook>,
}

impl Learned {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the gateway go by the table.
    fn follow(&self) {
        let gateway = self.state().gateway.clone();
        gateway.iter().for_each(|gateway| gateway.follow(self.view.table().as_deref()));
    }
}

impl JoinedFleet {
    /// Begins, and waits for the first table: that of the disk, or the directory's.
    ///
    /// # Errors
    /// A file cannot be read, or there is no table yet and the directory gives none; with the fix.
    pub(crate) fn start(
        config: &FleetConfig,
        settings: DirectorySettings,
        saved: PathBuf,
        own: NodeId,
    ) -> anyhow::Result<Self> {
        let secret = read_key(&config.key_file)?;
        let kept = saved_table(&saved).unwrap_or_else(|error| {
            tracing::warn!(file = %saved.display(), %error, "the fleet's table on the disk is not used");
            None
        });
        let mut random = rand::rng();
        let member = MemberSettings {
            node: own,
            own_key: settings.own_key(own),
            boot: format!("{:016x}", random.random::<u64>()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_s: unix_s(),
            endpoints: settings.endpoints(),
            seed: random.random(),
        };
        let learned = Arc::<Learned>::default();
        let watcher = Watcher {
            learned: learned.clone(),
            secret,
            server_id: config.server_id,
            own,
            saved,
            roster: None,
            refused: None,
            said: None,
        };
        let directory = match settings {
            DirectorySettings::Etcd(settings) => {
                DirectoryThread::start(|end| etcd::follow(settings, member, kept, watcher, end))
            }
            DirectorySettings::Kubernetes(settings) => {
                DirectoryThread::start(|end| kube::follow(settings, member, kept, watcher, end))
            }
        };
        let directory = directory.context("the thread that follows the fleet's directory")?;
        let joined = Self { learned, _directory: directory };
        joined.wait();
        Ok(joined)
    }

    /// Waits for the first table.
    fn wait(&self) {
        let limit = Duration::from_millis(FLEET_FIRST_MS_MAX);
        let has_none = |state: &mut State| state.settings.is_none();
        drop(self.learned.has_table.wait_timeout_while(self.learned.state(), limit, has_none));
    }

    /// The keys by which the gateway goes now.
    ///
    /// # Errors
    /// There is no table.
    pub(crate) fn settings(&self) -> anyhow::Result<FleetSettings> {
        let settings = self.learned.state().settings.clone();
        settings.with_context(|| {
            let why = self.learned.view.status().map(|status| status.why()).unwrap_or_default();
            format!("the directory has given no table of the fleet, and none is kept in fleet.saved ({why}); `stoq-gateway fleet check` looks at it, and docs/fleet.md shows what is in it")
        })
    }

    pub(crate) fn view(&self) -> Arc<FleetView> {
        self.learned.view.clone()
    }

    /// Has the directory told whether the gateway is ready, as this says. Without it the gateway is ready while it serves.
    pub(crate) fn tell_readiness(&self, readiness: ReadinessLook) {
        self.learned.state().readiness = Some(readiness);
    }

    /// Has the gateway go by the table and the keys of now, and of each later one.
    pub(crate) fn attach(&self, gateway: &Arc<AttachedGateway>) {
        let mut state = self.learned.state();
        if let Some(settings) = &state.settings {
            gateway.peers().node().renew_keys(settings);
        }
        state.gateway = Some(gateway.clone());
        drop(state);
        self.learned.follow();
    }
}

struct Watcher {
    learned: Arc<Learned>,
    secret: FleetSecret,
    server_id: ServerId,
    own: NodeId,
    saved: PathBuf,
    /// The revision of the roster that was last taken.
    roster: Option<u64>,
    /// A table whose rotations are not taken yet, since connections would be lost.
    refused: Option<Arc<FleetTable>>,
    /// What was last logged: whether the directory answers, and what is refused.
    said: Option<(bool, String)>,
}

impl FleetWatcher for Watcher {
    fn is_ready(&mut self) -> bool {
        let state = self.learned.state();
        state.gateway.is_some() && state.readiness.as_ref().is_none_or(|not_ready| not_ready().is_empty())
    }

    fn table(&mut self, cluster: u64, table: &Arc<FleetTable>) -> u64 {
        let roster = &table.roster;
        let is_new = self.roster.replace(roster.revision) != Some(roster.revision);
        let keys_revision =
            if is_new { self.take_keys(table, true) } else { self.learned.state().keys_revision };
        if is_new {
            let (revision, gateways) = (roster.revision, roster.gateways.len());
            let is_cached = table.origin != TableOrigin::Directory;
            tracing::info!(revision, gateways, is_cached, "the fleet's table is taken");
            match roster.gateways.get(&self.own) {
                None => {
                    tracing::warn!("the fleet's table does not have this gateway: the others do not know it")
                }
                Some(row) if row.server_id != self.server_id => tracing::error!(
                    configured = %self.server_id, table = %row.server_id,
                    "the fleet's table gives this gateway another server ID than the configuration; the configured one stays in effect"
                ),
                Some(_) => {}
            }
            if !is_cached && let Err(error) = save_table(&self.saved, cluster, roster, unix_s()) {
                tracing::error!(file = %self.saved.display(), %error, "the fleet's table is not kept on the disk: a start without the directory goes by an older one");
            }
        }
        self.learned.view.show(Some(table.clone()));
        self.learned.follow();
        self.learned.has_table.notify_all();
        keys_revision
    }

    fn again(&mut self) -> Option<u64> {
        let refused = self.refused.take()?;
        let keys_revision = self.take_keys(&refused, false);
        if self.refused.is_none() {
            tracing::info!(
                keys_revision,
                "the rotations that were refused are taken: no connection is lost by them any more"
            );
        }
        Some(keys_revision)
    }

    fn status(&mut self, status: &MemberStatus) -> bool {
        let refused = status.refusal();
        let now = (status.is_up, refused.clone());
        if self.said.as_ref() != Some(&now) {
            let was_up = self.said.as_ref().is_some_and(|(is_up, _)| *is_up);
            let had = self.said.as_ref().map(|(_, refused)| refused.clone()).unwrap_or_default();
            if status.is_up && !was_up {
                tracing::info!(endpoint = status.endpoint, "the fleet's directory answers");
            } else if !status.is_up && was_up {
                tracing::warn!(
                    why = status.why(),
                    "the fleet's directory does not answer; the last table stays in effect"
                );
            }
            if !refused.is_empty() && refused != had {
                tracing::error!(
                    why = refused,
                    "the fleet's directory is not gone by; the last good table stays in effect"
                );
            } else if refused.is_empty() && !had.is_empty() {
                tracing::info!("the fleet's directory is gone by again");
            }
            self.said = Some(now);
        }
        self.learned.view.set_status(status.clone());
        // The note is taken away by the adoption that it asks for.
        let adopts = status.strange.is_some() && std::fs::remove_file(adoption_note(&self.saved)).is_ok();
        if adopts {
            self.roster = None;
            tracing::warn!("the directory that answers is adopted, as the operator wants it");
        }
        adopts
    }
}

impl Watcher {
    /// Goes by the rotations of a table, if no connection is lost by them. Returns the revision of those in effect.
    fn take_keys(&mut self, table: &Arc<FleetTable>, logs: bool) -> u64 {
        let learned = self.learned.clone();
        let mut state = learned.state();
        let rotations = table.roster.rotations.to_vec();
        let renewed = match &state.settings {
            None => FleetSettings::new(self.secret.clone(), self.server_id, rotations),
            Some(settings) => settings.rotated(rotations, std::time::Instant::now()),
        };
        self.refused = renewed.is_err().then(|| table.clone());
        match renewed {
            Ok(settings) => {
                if let Some(gateway) = &state.gateway {
                    gateway.peers().node().renew_keys(&settings);
                }
                (state.settings, state.keys_revision) = (Some(settings), table.roster.keys_revision);
            }
            Err(_) if !logs => {}
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "the rotations of the fleet's table are not taken; those before stay in effect until no connection is lost by the change"
                );
            }
        }
        state.keys_revision
    }
}

//! What a member of a fleet's directory asks of its driver, and what the driver tells it.

use super::lease::LeaseId;
use super::record::{FleetAlive, FleetChange, FleetEntry};
use super::table::TableFault;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::tls::NodeId;

/// Who a member is.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The gateway.
    pub node: NodeId,
    /// The key by which it says that it is alive.
    pub own_key: Arc<str>,
    /// Its process, drawn at its start.
    pub boot: String,
    /// Its version.
    pub version: String,
    /// When its process started, seconds since 1970.
    pub since_s: u64,
    /// Endpoints of etcd: at least one.
    pub endpoints: usize,
    /// Draws its pauses.
    pub seed: u64,
}

/// The state of a cluster of etcd, as each answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHead {
    /// The cluster's ID.
    pub cluster: u64,
    /// Its revision.
    pub revision: u64,
}

/// What a member asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum FleetRequest {
    /// To leave the former endpoint and take this one. Events of other sessions are passed over.
    Connect {
        /// The session.
        session: u64,
        /// The endpoint, by its place in the configuration.
        endpoint: usize,
    },
    /// For the state of the cluster, by a read that needs a quorum.
    Probe,
    /// For every key of the fleet.
    List,
    /// For every change from this revision on; and for an error where the endpoint has no leader.
    WatchFrom(u64),
    /// For a lease.
    Grant,
    /// To keep a lease alive.
    KeepAlive(LeaseId),
    /// To put what the gateway says of itself, under its lease.
    PutAlive(LeaseId, Arc<FleetAlive>),
    /// To end a lease, and with it what is put under it.
    Revoke(LeaseId),
}

/// What a driver tells a member.
#[derive(Clone, Debug)]
pub enum FleetEvent {
    /// The state of the cluster.
    Probed(StoreHead),
    /// Every key of the fleet, as of the revision of the state.
    Listed(StoreHead, Vec<FleetEntry>),
    /// The watch is set up.
    Watching,
    /// All changes up to the revision of the state: whole revisions.
    Changed(StoreHead, Vec<FleetChange>),
    /// The changes from the revision that is watched are no longer there.
    Compacted,
    /// A lease of so long.
    Granted(LeaseId, Duration),
    /// The lease is kept alive, for so long.
    KeptAlive(Duration),
    /// There is no such lease: it has ended.
    LeaseGone,
    /// The value is put.
    Put,
    /// The lease is ended.
    Revoked,
    /// The user of etcd may not do what was asked.
    Denied(String),
    /// The endpoint is lost, and all that was asked of it.
    Lost(String),
}

/// Why a directory's cluster is not gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrangeCluster {
    /// It is another one.
    #[error(
        "the directory is another cluster than before ({got:x}, before {known:x}); give the endpoints of the former, or, if it was made anew, run `stoq-gateway fleet adopt`"
    )]
    Other {
        /// Its ID.
        got: u64,
        /// The ID of the former.
        known: u64,
    },
    /// It is behind of what it was.
    #[error(
        "the directory is at revision {got} and was at {known} before; if it was restored from a backup, compare its keys and run `stoq-gateway fleet adopt`"
    )]
    Back {
        /// Its revision.
        got: u64,
        /// The revision before.
        known: u64,
    },
}

impl StrangeCluster {
    /// Why the cluster in this state is none to go by, where `known` is the state that was last seen.
    pub fn of(head: StoreHead, known: StoreHead) -> Option<Self> {
        let (got, known) = if head.cluster == known.cluster {
            (head.revision, known.revision)
        } else {
            return Some(Self::Other { got: head.cluster, known: known.cluster });
        };
        (got < known).then_some(Self::Back { got, known })
    }
}

/// What a member shows of itself.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Whether an endpoint answers.
    pub is_up: bool,
    /// The endpoint, by its place in the configuration.
    pub endpoint: usize,
    /// When an endpoint last answered.
    pub heard: Option<Instant>,
    /// The revision up to which the directory is known.
    pub seen: u64,
    /// Why the directory's gateways and rotations are not gone by.
    pub refused: Option<TableFault>,
    /// Why the cluster is not gone by.
    pub strange: Option<StrangeCluster>,
    /// Why the last endpoint was lost.
    pub lost: Option<String>,
    /// What the user of etcd may not do.
    pub denied: Option<String>,
    /// Whether it has a lease.
    pub has_lease: bool,
    /// Another process that says it is this gateway.
    pub twin: Option<String>,
}

impl MemberStatus {
    /// Why the directory is not gone by: its cluster, or its keys. Empty: it is.
    pub fn refusal(&self) -> String {
        let strange = self.strange.map(|strange| strange.to_string());
        let refused = self.refused.as_ref().map(ToString::to_string);
        strange.or(refused).unwrap_or_default()
    }

    /// Why the directory gives nothing.
    pub fn why(&self) -> String {
        let refusal = self.refusal();
        if refusal.is_empty() { self.lost.clone().unwrap_or_default() } else { refusal }
    }
}

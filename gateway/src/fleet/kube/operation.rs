//! What a member's request comes to in Kubernetes: one call after another, until it is answered.

use super::super::exchange::{FleetEvent, StoreHead};
use super::super::record::{FleetAlive, FleetEntry};
use super::exchange::{KubeAnswer, KubeCall, KubeMethod, KubeRefusal};
use super::object::{KubeCollection, KubeNames, LeaseRead, name, version};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use stoq::limits::{FLEET_KUBE_CONFLICTS_LEN_MAX, FLEET_KUBE_LEASE_S};
use stoq::tls::NodeId;

/// How long a lease of Kubernetes counts.
pub(super) const LEASE: Duration = Duration::from_secs(FLEET_KUBE_LEASE_S);

/// The gateway's own Lease as it last was there.
#[derive(Clone, Debug)]
pub(super) struct OwnLease {
    uid: String,
    version: String,
}

/// What was listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) cursors: [u64; 3],
    pub(super) entries: Vec<FleetEntry>,
    pub(super) leases: Vec<LeaseRead>,
}

/// What is being done for a request.
#[derive(Debug)]
pub(super) enum Operation {
    /// The fleet's own object is looked at: its ID tells the directory from another one.
    Probe,
    /// The objects are listed, one kind after another.
    List(Listing, usize),
    /// The gateway's lease is renewed or, with `is_new`, put. It says this.
    Renew { alive: Arc<FleetAlive>, is_new: bool, step: RenewStep, conflicts: usize },
    /// The gateway's lease is deleted.
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RenewStep {
    Look,
    Make,
    Replace,
}

/// What an answer comes to.
#[derive(Debug)]
pub(super) enum KubeOutcome {
    /// The next call.
    Next(Operation),
    /// This event.
    Event(FleetEvent),
    /// The directory is this one.
    Probed(StoreHead),
    /// The objects are listed.
    Listed(Listing),
    /// The same call again, after these seconds.
    Later(Operation, u64),
}

/// Whose operation it is, and what is known of its lease.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) names: KubeNames,
    pub(super) node: NodeId,
    pub(super) own: Option<OwnLease>,
}

impl Operator {
    /// A renewal of the lease.
    pub(super) fn renew(&self, alive: Arc<FleetAlive>, is_new: bool) -> Operation {
        let step = if self.own.is_some() { RenewStep::Replace } else { RenewStep::Look };
        Operation::Renew { alive, is_new, step, conflicts: 0 }
    }

    /// The call that is to be made now, at `unix_us`, microseconds since 1970.
    pub(super) fn call(&self, operation: &Operation, unix_us: u64) -> KubeCall {
        let leases = self.names.path(KubeCollection::Leases);
        let own = format!("{leases}/{}", self.names.lease(&self.node));
        match operation {
            Operation::Probe => KubeCall::get(self.names.list(KubeCollection::Fleets)),
            Operation::List(_, at) => KubeCall::get(self.names.list(KubeCollection::ALL[*at])),
            Operation::Renew { step: RenewStep::Look, .. } => KubeCall::get(own),
            Operation::Renew { step: RenewStep::Make, alive, .. } => {
                let lease = self.names.own_lease(&self.node, alive, unix_us, None);
                KubeCall::send(KubeMethod::Post, leases, lease)
            }
            Operation::Renew { step: RenewStep::Replace, alive, .. } => {
                let version = self.own.as_ref().map(|own| own.version.as_str());
                let lease = self.names.own_lease(&self.node, alive, unix_us, version);
                KubeCall::send(KubeMethod::Put, own, lease)
            }
            Operation::Delete => {
                let held =
                    self.own.as_ref().map(|own| json!({ "uid": own.uid, "resourceVersion": own.version }));
                let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": held });
                KubeCall::send(KubeMethod::Delete, own, options)
            }
        }
    }

    /// What the answer comes to.
    pub(super) fn answered(&mut self, operation: Operation, answer: &KubeAnswer) -> KubeOutcome {
        let object = match answer.object() {
            Err(KubeRefusal::Later(seconds)) => return KubeOutcome::Later(operation, seconds),
            object => object,
        };
        let lost = |why: String| KubeOutcome::Event(FleetEvent::Lost(why));
        match operation {
            Operation::Probe => match object {
                Ok(list) => self.probed(&list),
                Err(refusal) => refused(refusal),
            },
            Operation::List(listing, at) => match object {
                Ok(list) => self.listed(listing, at, &list),
                Err(refusal) => refused(refusal),
            },
            Operation::Renew { alive, is_new, step, conflicts } => {
                self.renewed(alive, is_new, step, conflicts, object)
            }
            Operation::Delete => {
                self.own = None;
                match object {
                    Ok(_) | Err(KubeRefusal::Missing | KubeRefusal::Conflict) => {
                        KubeOutcome::Event(FleetEvent::Revoked)
                    }
                    Err(refusal) => lost(refusal.to_string()),
                }
            }
        }
    }

    fn probed(&self, list: &Value) -> KubeOutcome {
        let lost = |why: String| KubeOutcome::Event(FleetEvent::Lost(why));
        let Some(revision) = version(list) else {
            return lost("its resourceVersion is no number, as that of etcd is".into());
        };
        let found = items(list).find(|object| name(object) == Some(&self.names.fleet));
        let Some(cluster) = found.and_then(cluster) else {
            let KubeNames { fleet, namespace } = &self.names;
            return lost(format!(
                "there is no StoqFleet {fleet} in the namespace {namespace}; `stoq-gateway fleet rotate-cid` makes it"
            ));
        };
        KubeOutcome::Probed(StoreHead { cluster, revision })
    }

    fn listed(&self, mut listing: Listing, at: usize, list: &Value) -> KubeOutcome {
        let Some(revision) = version(list) else {
            return KubeOutcome::Event(FleetEvent::Lost("its list has no resourceVersion".into()));
        };
        listing.cursors[at] = revision;
        let collection = KubeCollection::ALL[at];
        match collection {
            KubeCollection::Leases => {
                listing.leases = items(list).filter_map(|object| self.names.read_lease(object)).collect();
            }
            _ => listing
                .entries
                .extend(items(list).filter_map(|object| entry(&self.names, collection, object))),
        }
        match at + 1 {
            at if at < KubeCollection::ALL.len() => KubeOutcome::Next(Operation::List(listing, at)),
            _ => KubeOutcome::Listed(listing),
        }
    }

    fn renewed(
        &mut self,
        alive: Arc<FleetAlive>,
        is_new: bool,
        step: RenewStep,
        conflicts: usize,
        object: Result<Value, KubeRefusal>,
    ) -> KubeOutcome {
        let next =
            |alive, step, conflicts| KubeOutcome::Next(Operation::Renew { alive, is_new, step, conflicts });
        match object {
            Ok(lease) => {
                let text = |field: &str| lease["metadata"][field].as_str().unwrap_or_default().to_owned();
                self.own = Some(OwnLease { uid: text("uid"), version: text("resourceVersion") });
                match step {
                    RenewStep::Look => next(alive, RenewStep::Replace, conflicts),
                    _ if is_new => KubeOutcome::Event(FleetEvent::Put),
                    _ => KubeOutcome::Event(FleetEvent::KeptAlive(LEASE)),
                }
            }
            Err(KubeRefusal::Missing) if step != RenewStep::Make => {
                self.own = None;
                match is_new {
                    true => next(alive, RenewStep::Make, conflicts),
                    false => KubeOutcome::Event(FleetEvent::LeaseGone),
                }
            }
            // Another process has the lease, or the answer to the last renewal was lost.
            Err(KubeRefusal::Conflict) => {
                self.own = None;
                match conflicts {
                    FLEET_KUBE_CONFLICTS_LEN_MAX.. => KubeOutcome::Event(FleetEvent::Lost(
                        "the gateway's Lease is changed by others all the time".into(),
                    )),
                    _ => next(alive, RenewStep::Look, conflicts + 1),
                }
            }
            Err(refusal) => refused(refusal),
        }
    }
}

fn refused(refusal: KubeRefusal) -> KubeOutcome {
    KubeOutcome::Event(match refusal {
        KubeRefusal::Denied(why) => FleetEvent::Denied(why),
        refusal => FleetEvent::Lost(refusal.to_string()),
    })
}

/// The objects of a list.
pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// What an object of the operator says.
pub(super) fn entry(names: &KubeNames, collection: KubeCollection, object: &Value) -> Option<FleetEntry> {
    let key = names.key(collection, name(object)?);
    Some(FleetEntry { key, revision: version(object)?, record: names.read(collection, object)? })
}

/// The number of a directory, by the ID of the fleet's own object: one that is made anew has another.
pub(super) fn cluster(object: &Value) -> Option<u64> {
    let uid = object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty())?;
    let hash = blake3::hash(uid.as_bytes());
    Some(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash is longer")))
}

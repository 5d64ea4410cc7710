//! A command that asks Kubernetes a few things, one after another.

use super::super::exchange::StoreHead;
use super::super::orders::{SERVER_IDS, StoreCondition, StoreSnapshot, StoreTransaction, StoredKey};
use super::super::record::{ALIVE, FLEET_KEY, GATEWAYS};
use super::exchange::{KubeCall, KubeMethod, KubeRefusal};
use super::object::{KUBE_GROUP, KubeCollection, name, spec, value, version};
use super::operation::{cluster, items};
use super::{KubeAsker, KubeNames, KubeSettings};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use stoq::limits::FLEET_ANSWER_MS_MAX;
use tokio::runtime::Runtime;

/// Why Kubernetes gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeFault {
    /// The account may not do what was asked.
    #[error(
        "{0}; give --token-file of an account that may, or change the object by kubectl (docs/kubernetes.md)"
    )]
    Denied(String),
    /// The API does not answer.
    #[error("the API of Kubernetes does not answer ({0}); `stoq-gateway fleet check` looks at it")]
    Lost(String),
    /// The API was lost after it was told to change something.
    #[error(
        "the API of Kubernetes was lost before it confirmed the change ({0}); look whether it is there by `stoq-gateway fleet status`, and run this again if not"
    )]
    Unsure(String),
    /// A change of several objects, which Kubernetes does not take at once.
    #[error("one object of Kubernetes is changed at a time, and this changes {0}; change them by kubectl")]
    Several(usize),
}

/// Asks Kubernetes.
pub struct KubeClient {
    runtime: Runtime,
    names: KubeNames,
    asker: KubeAsker,
}

impl KubeClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// The system gives no events.
    pub fn new(settings: KubeSettings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (names, asker) = (settings.names.clone(), KubeAsker::new(Arc::new(settings)));
        Ok(Self { runtime, names, asker })
    }

    /// Every object of the fleet, as the keys that a directory in etcd has.
    ///
    /// # Errors
    /// [`KubeFault`]: the API does not answer, or the account may not read the objects.
    pub fn snapshot(&mut self) -> Result<StoreSnapshot, KubeFault> {
        let (mut head, mut keys) = (StoreHead { cluster: 0, revision: 0 }, Vec::new());
        for collection in KubeCollection::ALL {
            let list = self.read(KubeCall::get(self.names.list(collection)))?;
            let strange = || KubeFault::Lost("its answer is none of Kubernetes'".into());
            head.revision = head.revision.max(version(&list).ok_or_else(strange)?);
            for object in items(&list) {
                if collection == KubeCollection::Fleets && name(object) == Some(&self.names.fleet) {
                    head.cluster = cluster(object).unwrap_or(0);
                }
                keys.extend(stored(&self.names, collection, object));
            }
        }
        Ok(StoreSnapshot { head, keys })
    }

    /// Has Kubernetes take a transaction, which must be one object. Returns whether its conditions were so.
    ///
    /// # Errors
    /// [`KubeFault`]: the account may not write this, or the API was lost.
    pub fn commit(&mut self, transaction: &StoreTransaction) -> Result<bool, KubeFault> {
        let mut former = None;
        for condition in &transaction.conditions {
            match condition {
                StoreCondition::Unchanged(_, revision) => former = Some(*revision),
                // A name that is there is refused by the API itself.
                StoreCondition::Absent(_) => {}
                StoreCondition::NonePut(below, revision) => {
                    let snapshot = self.snapshot()?;
                    if snapshot.keys.iter().any(|key| key.key.starts_with(below) && key.revision > *revision)
                    {
                        return Ok(false);
                    }
                }
            }
        }
        // A server ID is claimed by the name of its gateway's object.
        let puts: Vec<_> = transaction.puts.iter().filter(|(key, _)| !key.starts_with(SERVER_IDS)).collect();
        let [(key, stored)] = puts[..] else { return Err(KubeFault::Several(puts.len())) };
        let mut fields = spec(stored);
        let (collection, object) = match key.strip_prefix(GATEWAYS) {
            Some(node) => {
                fields["nodeId"] = node.into();
                let server_id = fields["serverId"].as_str().unwrap_or_default();
                (KubeCollection::Gateways, format!("{}-{server_id}", self.names.fleet))
            }
            None => (KubeCollection::Fleets, self.names.fleet.clone()),
        };
        let body = self.names.object(collection, &object, fields, former);
        let path = self.names.path(collection);
        let call = match former {
            Some(_) => KubeCall::send(KubeMethod::Put, format!("{path}/{object}"), body),
            None => KubeCall::send(KubeMethod::Post, path, body),
        };
        match self.ask(&call) {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(KubeRefusal::Conflict)) => Ok(false),
            Ok(Err(KubeRefusal::Denied(why))) => Err(KubeFault::Denied(why)),
            Ok(Err(refusal)) => Err(KubeFault::Lost(refusal.to_string())),
            Err(why) => Err(KubeFault::Unsure(why)),
        }
    }

    /// Whether the account may do this to the objects of a kind. Nothing is written.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn may(&mut self, verb: &str, collection: KubeCollection) -> Result<bool, KubeFault> {
        let attributes = json!({
            "namespace": self.names.namespace, "verb": verb, "group": collection.group(), "resource": collection.plural(),
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
        let answer = self.read(KubeCall::send(KubeMethod::Post, path, review))?;
        Ok(answer["status"]["allowed"] == true)
    }

    fn read(&mut self, call: KubeCall) -> Result<Value, KubeFault> {
        match self.ask(&call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(KubeRefusal::Denied(why))) => Err(KubeFault::Denied(why)),
            Ok(Err(refusal)) => Err(KubeFault::Lost(refusal.to_string())),
            Err(why) => Err(KubeFault::Lost(why)),
        }
    }

    fn ask(&mut self, call: &KubeCall) -> Result<Result<Value, KubeRefusal>, String> {
        let limit = Duration::from_millis(FLEET_ANSWER_MS_MAX);
        let asker = &mut self.asker;
        let asked = self.runtime.block_on(async { tokio::time::timeout(limit, asker.ask(call)).await });
        let silent = |_| format!("no answer within {FLEET_ANSWER_MS_MAX} ms");
        Ok(asked.map_err(silent)??.object())
    }
}

/// The keys of etcd that say what an object says.
fn stored(names: &KubeNames, collection: KubeCollection, object: &Value) -> Vec<StoredKey> {
    let (Some(name), Some(revision)) = (name(object), version(object)) else { return Vec::new() };
    let key = |key: String, value: Vec<u8>| StoredKey { key: key.into(), value, revision };
    let fields = object["spec"].as_object().cloned().unwrap_or_default();
    match collection {
        KubeCollection::Fleets if name == names.fleet => vec![key(FLEET_KEY.to_owned(), value(&fields))],
        KubeCollection::Gateways if names.read(collection, object).is_some() => {
            let node = fields.get("nodeId").and_then(Value::as_str).unwrap_or_default().to_owned();
            let claim = name.rsplit('-').next().unwrap_or_default();
            let (row, claim) = (format!("{GATEWAYS}{node}"), format!("{SERVER_IDS}{claim}"));
            vec![key(row, value(&fields)), key(claim, node.into_bytes())]
        }
        KubeCollection::Leases => {
            let held = names.read_lease(object).filter(|lease| lease.record.is_some());
            let said = object["metadata"]["annotations"][format!("{KUBE_GROUP}/alive")].as_str();
            let node = name.rsplit('-').next().unwrap_or_default();
            let said = held.and(said).map(|said| key(format!("{ALIVE}{node}"), said.as_bytes().to_vec()));
            said.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

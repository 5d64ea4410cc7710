//! The objects of a fleet in Kubernetes: where they are, and what they say.
//!
//! `StoqFleet NAME` has the rotations, `StoqGateway NAME-SERVERID` a gateway as the operator wants it, and `Lease stoq-NAME-NODEID` what the gateway
//! itself says. A gateway's server ID is in its object's name, so that no two have the same. The specs have the fields of
//! [`super::super::record`], in the letters that Kubernetes uses.

use super::super::record::{ALIVE, FLEET_KEY, FleetAlive, FleetRecord, GATEWAYS, RecordFault, read_record};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use stoq::limits::FLEET_KUBE_LEASE_S;
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;

/// The group of the custom resources.
pub const KUBE_GROUP: &str = "stoq-transport.example";
/// The value of a key of etcd has a version, which an object has in its `apiVersion`.
const VERSION: u64 = 1;
/// The fields that Kubernetes spells in another way: there, and in a record.
const RENAMED: [(&str, &str); 3] =
    [("serverId", "server_id"), ("nodeId", "node_id"), ("steppedS", "stepped_s")];

/// The objects of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KubeCollection {
    /// The rotations of the fleet's keys.
    Fleets,
    /// The gateways, as the operator wants them.
    Gateways,
    /// What gateways say of themselves.
    Leases,
}

impl KubeCollection {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fleets, Self::Gateways, Self::Leases];

    /// Its name in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Fleets => "stoqfleets",
            Self::Gateways => "stoqgateways",
            Self::Leases => "leases",
        }
    }

    /// The group of the API that has it.
    pub fn group(self) -> &'static str {
        if self == Self::Leases { "coordination.k8s.io" } else { KUBE_GROUP }
    }
}

/// Whose objects they are.
#[derive(Clone, Debug)]
pub struct KubeNames {
    /// The name of the fleet.
    pub fleet: String,
    /// The namespace.
    pub namespace: String,
}

/// What a Lease says.
#[derive(Debug)]
pub(super) struct LeaseRead {
    /// The key of what the gateway says.
    pub(super) key: Arc<str>,
    /// What it says; `None`: the lease was given up.
    pub(super) record: Option<FleetRecord>,
    /// How long it counts without a renewal.
    pub(super) lasts: Duration,
}

impl KubeNames {
    /// The path of all objects of a kind.
    pub fn path(&self, collection: KubeCollection) -> String {
        let (group, plural) = (collection.group(), collection.plural());
        format!("/apis/{group}/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// The path of the objects of this fleet alone, as far as Kubernetes can tell them apart.
    pub(super) fn list(&self, collection: KubeCollection) -> String {
        let path = self.path(collection);
        match collection {
            KubeCollection::Fleets => format!("{path}?fieldSelector=metadata.name%3D{}", self.fleet),
            KubeCollection::Gateways => format!("{path}?"),
            KubeCollection::Leases => format!("{path}?labelSelector={KUBE_GROUP}%2Ffleet%3D{}", self.fleet),
        }
    }

    /// The name of a gateway's Lease.
    pub fn lease(&self, node: &NodeId) -> String {
        format!("stoq-{}-{node}", self.fleet)
    }

    /// The key by which a member knows a gateway's Lease.
    pub fn own_key(&self, node: &NodeId) -> Arc<str> {
        self.key(KubeCollection::Leases, &self.lease(node))
    }

    /// The key by which a member knows an object: as `kubectl` names it.
    pub(super) fn key(&self, collection: KubeCollection, name: &str) -> Arc<str> {
        format!("{}/{}", collection.plural(), name.escape_debug()).into()
    }

    /// The server ID in the name of a gateway's object; `None`: it is of another fleet.
    fn server_id(&self, name: &str) -> Option<ServerId> {
        name.strip_prefix(&self.fleet)?.strip_prefix('-')?.parse().ok()
    }

    /// What an object of the operator says; `None`: it is of another fleet.
    pub(super) fn read(&self, collection: KubeCollection, object: &Value) -> Option<FleetRecord> {
        let name = name(object)?;
        let spec = object["spec"].as_object().cloned().unwrap_or_default();
        match collection {
            KubeCollection::Fleets if name == self.fleet => read_record(FLEET_KEY, &value(&spec)),
            KubeCollection::Gateways => {
                let server_id = self.server_id(name)?;
                let node = spec.get("nodeId").and_then(Value::as_str).unwrap_or_default();
                let fault = if spec.get("serverId") != Some(&json!(server_id)) {
                    format!("spec.serverId is not {server_id}, by which the object is named")
                } else if node.parse::<NodeId>().is_err() {
                    "spec.nodeId is no node ID".to_owned()
                } else {
                    return read_record(&format!("{GATEWAYS}{node}"), &value(&spec));
                };
                Some(FleetRecord::Fault(Arc::new(RecordFault::Value(fault))))
            }
            KubeCollection::Fleets | KubeCollection::Leases => None,
        }
    }

    /// What a Lease says; `None`: it is none of this fleet.
    pub(super) fn read_lease(&self, object: &Value) -> Option<LeaseRead> {
        let name = name(object)?;
        let node = name.strip_prefix("stoq-")?.strip_prefix(&self.fleet)?.strip_prefix('-')?;
        node.parse::<NodeId>().ok()?;
        let spec = &object["spec"];
        let is_held = spec["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty());
        let said = object["metadata"]["annotations"][annotation()].as_str().unwrap_or_default();
        let record = is_held.then(|| read_record(&format!("{ALIVE}{node}"), said.as_bytes())).flatten();
        let lasts = spec["leaseDurationSeconds"].as_u64().unwrap_or(FLEET_KUBE_LEASE_S);
        let lasts = Duration::from_secs(lasts.min(FLEET_KUBE_LEASE_S));
        Some(LeaseRead { key: self.key(KubeCollection::Leases, name), record, lasts })
    }

    /// A gateway's Lease, renewed at `unix_us`, microseconds since 1970. `version` is that of the object it replaces.
    pub(super) fn own_lease(
        &self,
        node: &NodeId,
        alive: &FleetAlive,
        unix_us: u64,
        version: Option<&str>,
    ) -> Value {
        let mut metadata = json!({
            "name": self.lease(node), "namespace": self.namespace,
            "labels": { format!("{KUBE_GROUP}/fleet"): self.fleet },
            "annotations": { annotation(): String::from_utf8_lossy(&alive.value()) },
        });
        if let Some(version) = version {
            metadata["resourceVersion"] = version.into();
        }
        let spec = json!({
            "holderIdentity": alive.boot, "leaseDurationSeconds": FLEET_KUBE_LEASE_S, "renewTime": micro_time(unix_us),
        });
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec })
    }

    /// An object of the operator with this spec. `version` is that of the object it replaces.
    pub(super) fn object(
        &self,
        collection: KubeCollection,
        name: &str,
        spec: Value,
        version: Option<u64>,
    ) -> Value {
        let kind = if collection == KubeCollection::Fleets { "StoqFleet" } else { "StoqGateway" };
        let mut metadata = json!({ "name": name, "namespace": self.namespace });
        if let Some(version) = version {
            metadata["resourceVersion"] = version.to_string().into();
        }
        json!({ "apiVersion": format!("{KUBE_GROUP}/v1"), "kind": kind, "metadata": metadata, "spec": spec })
    }
}

fn annotation() -> String {
    format!("{KUBE_GROUP}/alive")
}

/// The name of an object.
pub(super) fn name(object: &Value) -> Option<&str> {
    object["metadata"]["name"].as_str()
}

/// The version of an object or of a list. Those of one cluster are compared as numbers.
pub(super) fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// The value that a key of etcd would have with this spec.
pub(super) fn value(spec: &Map<String, Value>) -> Vec<u8> {
    let mut fields = renamed(spec, |(there, here)| (there, here));
    fields.remove("node_id");
    fields.insert("v".to_owned(), VERSION.into());
    Value::from(fields).to_string().into_bytes()
}

/// The spec of an object with this value of a key of etcd.
pub(super) fn spec(value: &[u8]) -> Value {
    let fields = serde_json::from_slice(value).unwrap_or_default();
    let mut spec = renamed(&fields, |(there, here)| (here, there));
    spec.remove("v");
    spec.into()
}

fn renamed(
    fields: &Map<String, Value>,
    order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Map<String, Value> {
    let rename = |field: &String| {
        let found = RENAMED.into_iter().map(&order).find(|(from, _)| from == field);
        found.map_or_else(|| field.clone(), |(_, to)| to.to_owned())
    };
    fields.iter().map(|(field, value)| (rename(field), value.clone())).collect()
}

/// A time as Kubernetes writes it.
fn micro_time(unix_us: u64) -> String {
    let (seconds, us) = (unix_us / 1_000_000, unix_us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The era of 400 years begins on the first of March, so that a leap day is the last of its year.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, after) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + after;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> KubeNames {
        KubeNames { fleet: "eu".into(), namespace: "stoq".into() }
    }

    fn gateway(name: &str, server_id: &str, node: &str) -> Value {
        json!({ "metadata": { "name": name, "resourceVersion": "7" },
            "spec": { "name": "a1", "serverId": server_id, "nodeId": node, "addresses": ["192.0.2.1:4433"], "later": 1 } })
    }

    #[test]
    fn a_gateways_object_is_named_by_its_server_id_and_those_of_other_fleets_are_passed_over() {
        let (names, node) = (names(), "a".repeat(52));
        let read = |name: &str, server_id: &str, node: &str| {
            names.read(KubeCollection::Gateways, &gateway(name, server_id, node))
        };
        let Some(FleetRecord::Gateway(row)) = read("eu-000001", "000001", &node) else { panic!() };
        assert_eq!((row.name.as_str(), row.node_id.to_string()), ("a1", node.clone()));
        assert!(read("eu-west-000001", "000001", &node).is_none(), "it is of the fleet eu-west");
        for (server_id, node, part) in
            [("000002", &*node, "spec.serverId is not 000001"), ("000001", "a1", "spec.nodeId is no node ID")]
        {
            let Some(FleetRecord::Fault(fault)) = read("eu-000001", server_id, node) else { panic!() };
            assert!(fault.to_string().contains(part), "{fault}");
        }
        let spec = gateway("", "000001", &node)["spec"].clone();
        let mut again = super::spec(&value(spec.as_object().unwrap()));
        again["nodeId"] = spec["nodeId"].clone();
        assert_eq!(again, spec, "unknown fields stay");
    }

    #[test]
    fn a_lease_says_what_its_gateway_says_as_long_as_it_is_held() {
        let (names, node) = (names(), "a".repeat(52).parse().unwrap());
        let alive = FleetAlive { boot: "b".into(), version: "1".into(), ready: true, keys: 7, since_s: 9 };
        let mut lease = names.own_lease(&node, &alive, 1_796_033_169_000_042, Some("8"));
        assert_eq!(lease["spec"]["renewTime"], "2026-11-30T10:06:09.000042Z");
        assert_eq!(lease["metadata"]["resourceVersion"], "8");
        let read = names.read_lease(&lease).unwrap();
        assert_eq!((&read.key, read.lasts.as_secs()), (&names.own_key(&node), 15));
        assert!(matches!(read.record, Some(FleetRecord::Alive(_, said)) if *said == alive));
        lease["spec"]["holderIdentity"] = "".into();
        assert!(names.read_lease(&lease).unwrap().record.is_none());
        lease["metadata"]["name"] = "another-controller".into();
        assert!(names.read_lease(&lease).is_none());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_s, shown) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(micro_time(unix_s * 1_000_000), shown);
        }
    }
}

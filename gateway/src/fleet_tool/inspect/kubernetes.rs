//! What a directory in Kubernetes needs.

use super::super::OperatorArgs;
use super::findings::FleetFindings;
use super::rows::directory;
use crate::config::FleetConfig;
use crate::fleet::exchange::{StoreHead, StrangeCluster};
use crate::fleet::kube::{KubeClient, KubeCollection, KubeFault};
use crate::fleet::orders::StoreSnapshot;
use crate::fleet::record::FLEET_KEY;
use crate::fleet::saved::saved_table;
use stoq::tls::NodeId;

/// What a gateway must be able to do.
const NEEDED: [(KubeCollection, &[&str]); 3] = [
    (KubeCollection::Fleets, &["list", "watch"]),
    (KubeCollection::Gateways, &["list", "watch"]),
    (KubeCollection::Leases, &["list", "watch", "get", "create", "update", "delete"]),
];

/// Looks at the directory.
pub(super) fn look(operator: &OperatorArgs, fleet: &FleetConfig, own: NodeId, findings: &mut FleetFindings) {
    let settings = match operator.kubernetes(fleet) {
        Ok(settings) => settings,
        Err(error) => return findings.fail("files", format!("{error:#}"), "follow the line above"),
    };
    let client = KubeClient::new(settings).map_err(|error| KubeFault::Lost(error.to_string()));
    let read = client.and_then(|mut client| Ok((client.snapshot()?, client)));
    let (snapshot, mut client) = match read {
        Ok(read) => read,
        Err(fault) => return lost(&fault, findings),
    };
    findings.ok("API", format!("revision {}", snapshot.head.revision));
    strange(&snapshot, fleet, findings);
    match rights(&mut client, operator) {
        Err(fault) => findings.fail("rights", fault.to_string(), "run this again"),
        Ok((missing, _)) if !missing.is_empty() => findings.fail(
            "rights",
            format!("the account may not {}", missing.join(", ")),
            "give it the Role of the chart (charts/stoq/templates/rbac.yaml)",
        ),
        Ok((_, true)) => findings.warn(
            "rights",
            "the account may change the fleet's gateways, which a gateway need not",
            "give the gateway the Role of the chart alone",
        ),
        Ok(_) => findings.ok("rights", "reads the fleet's objects and writes its Lease"),
    }
    directory(&snapshot, fleet, own, findings);
}

fn lost(fault: &KubeFault, findings: &mut FleetFindings) {
    let found = fault.to_string();
    let fix = if found.contains("certificate") {
        "give the certificates of the cluster's authority in fleet.kubernetes.ca, and a server of their name"
    } else if found.contains("token") {
        "give a token that is valid: in a pod, that of its service account"
    } else if found.contains("CRDs") {
        "kubectl apply -f charts/stoq/crds"
    } else if matches!(fault, KubeFault::Denied(_)) {
        "give the account the Role of the chart (charts/stoq/templates/rbac.yaml)"
    } else {
        "look at fleet.kubernetes.server, and open the way to it"
    };
    findings.fail("API", found, fix);
}

/// Whether the directory is the one by which the gateway went.
fn strange(snapshot: &StoreSnapshot, fleet: &FleetConfig, findings: &mut FleetFindings) {
    if snapshot.get(FLEET_KEY).is_none() {
        let found = "there is no StoqFleet of this name";
        return findings.fail("fleet", found, "run `stoq-gateway fleet rotate-cid`, which makes it");
    }
    let saved = fleet.saved.as_deref().and_then(|saved| saved_table(saved).ok().flatten());
    let Some((cluster, table)) = saved else { return };
    let known = StoreHead { cluster, revision: table.roster.revision };
    if let Some(strange) = StrangeCluster::of(snapshot.head, known) {
        findings.fail("fleet", strange.to_string(), "follow the line above");
    }
}

/// What the account may not do and must, and whether it may do what a gateway need not.
fn rights(client: &mut KubeClient, operator: &OperatorArgs) -> Result<(Vec<String>, bool), KubeFault> {
    let mut missing = Vec::new();
    for (collection, verbs) in NEEDED {
        for verb in verbs {
            if !client.may(verb, collection)? {
                missing.push(format!("{verb} {}", collection.plural()));
            }
        }
    }
    let is_operator = operator.token_file.is_some();
    Ok((missing, !is_operator && client.may("update", KubeCollection::Gateways)?))
}

//! `stoq-gateway fleet check`: what a gateway's directory needs, and the fix of each fault.

mod findings;
mod kubernetes;
mod rows;

use self::findings::FleetFindings;
use self::rows::{directory, rows};
use super::{OperatorArgs, own};
use crate::check::report;
use crate::config::{FleetConfig, FleetEtcdConfig, FleetProvider};
use crate::fleet::etcd::{EtcdClient, EtcdFault, EtcdSettings, EtcdSight};
use crate::fleet::exchange::{StoreHead, StrangeCluster};
use crate::fleet::file::read_fleet_file;
use crate::fleet::orders::StoreSnapshot;
use crate::fleet::read_key;
use crate::fleet::record::ALIVE;
use crate::fleet::saved::saved_table;
use std::process::ExitCode;
use std::time::SystemTime;
use stoq::limits::FLEET_CLOCK_S_MAX;
use stoq::tls::{NodeId, read_certificates};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::ExtendedKeyUsage;

const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// Checks, and prints what is found; the exit code is 1 if a check failed.
///
/// # Errors
/// The configuration cannot be read, or standard output is closed or full.
pub(super) fn check(operator: &OperatorArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (config, fleet) = operator.load()?;
    let own = own(&config)?;
    let mut findings = FleetFindings::default();
    match read_key(&fleet.key_file) {
        Ok(_) => findings.ok("key file", fleet.key_file.display().to_string()),
        Err(error) => findings.fail("key file", format!("{error:#}"), "follow the line above"),
    }
    match (fleet.provider, &fleet.file, &fleet.etcd) {
        (Some(FleetProvider::File), Some(file), _) => match read_fleet_file(file, None) {
            Ok(table) => rows(table.roster.gateways.values(), &fleet, own, &mut findings),
            Err(error) => findings.fail("table", error.to_string(), "follow the line above"),
        },
        (Some(FleetProvider::Etcd), _, Some(etcd)) => {
            etcd_directory(operator, &fleet, etcd, own, &mut findings);
        }
        (Some(FleetProvider::Kubernetes), ..) => kubernetes::look(operator, &fleet, own, &mut findings),
        _ => findings.ok("directory", "none: the rotations stand in the configuration"),
    }
    Ok(report(&findings.0, json)?)
}

fn etcd_directory(
    operator: &OperatorArgs,
    fleet: &FleetConfig,
    etcd: &FleetEtcdConfig,
    own: NodeId,
    findings: &mut FleetFindings,
) {
    let settings = match EtcdSettings::read(fleet, etcd) {
        Ok(settings) => settings,
        Err(error) => return findings.fail("files", format!("{error:#}"), "follow the line above"),
    };
    own_certificate(etcd, findings);
    let mut answered: Option<(EtcdClient, StoreSnapshot)> = None;
    for (at, url) in etcd.endpoints.iter().enumerate() {
        let one = EtcdSettings { endpoints: vec![settings.endpoints[at].clone()], ..settings.clone() };
        let read = EtcdClient::new(one).map_err(|error| EtcdFault::Lost(error.to_string()));
        let read = read.and_then(|mut client| Ok((client.snapshot()?, client)));
        match read {
            Err(fault) => lost(url, &fault, etcd, settings.prefix.as_str(), findings),
            Ok((snapshot, client)) => {
                findings.ok("endpoint", format!("{url}: revision {}", snapshot.head.revision));
                seen(url, &client.sight(), SystemTime::now(), findings);
                match &answered {
                    Some((_, first)) if first.head.cluster != snapshot.head.cluster => {
                        let found = format!("{url} is of another cluster than the endpoints before it");
                        findings.fail(
                            "endpoint",
                            found,
                            "name the members of one cluster in fleet.etcd.endpoints",
                        );
                    }
                    Some(_) => {}
                    None => answered = Some((client, snapshot)),
                }
            }
        }
    }
    let Some((mut client, snapshot)) = answered else { return };
    if let Some((cluster, table)) = fleet.saved.as_deref().and_then(|saved| saved_table(saved).ok().flatten())
    {
        let known = StoreHead { cluster, revision: table.roster.revision };
        if let Some(strange) = StrangeCluster::of(snapshot.head, known) {
            findings.fail("cluster", strange.to_string(), "follow the line above");
        }
    }
    rights(operator, etcd, &mut client, &settings.prefix, own, findings);
    directory(&snapshot, fleet, own, findings);
}

/// The certificate that the gateway shows: etcd takes its common name for that of a user.
fn own_certificate(etcd: &FleetEtcdConfig, findings: &mut FleetFindings) {
    let chain = etcd.certificate.as_deref().and_then(|file| read_certificates(file).ok());
    let first = chain.as_deref().and_then(<[_]>::first);
    let Some(certificate) = first.and_then(|first| Certificate::from_der(first).ok()) else { return };
    let name = certificate.tbs_certificate().subject().common_name().ok().flatten();
    if let (Some(name), Some(_)) = (name, &etcd.user) {
        let found = format!(
            "fleet.etcd.certificate has the common name {:?}, which etcd refuses beside a user",
            name.value()
        );
        findings.fail("certificate", found, "make one whose subject has no common name, such as /O=stoq");
    } else if !has_usage(&certificate, CLIENT_AUTH) {
        let found = "fleet.etcd.certificate is not for clients";
        findings.fail("certificate", found, "make one with extendedKeyUsage = clientAuth");
    } else {
        findings.ok("certificate", "fleet.etcd.certificate is for clients");
    }
}

/// Whether a certificate is for this use: one that names none is for all.
fn has_usage(certificate: &Certificate, usage: ObjectIdentifier) -> bool {
    let usages = certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>();
    usages.is_ok_and(|usages| usages.is_none_or(|(_, usages)| usages.0.contains(&usage)))
}

/// Says why an endpoint gives nothing.
fn lost(url: &str, fault: &EtcdFault, etcd: &FleetEtcdConfig, prefix: &str, findings: &mut FleetFindings) {
    let why = match fault {
        EtcdFault::Denied(why) => {
            let user = etcd.user.as_deref().unwrap_or("ROLE");
            let fix = format!("etcdctl role grant-permission {user} --prefix=true read {prefix}");
            return findings.fail("rights", format!("{url}: {why}"), fix);
        }
        EtcdFault::Lost(why) | EtcdFault::Unsure(why) => why,
    };
    let fix = if why.contains("not taken") || why.contains("authentication") {
        "set fleet.etcd.user and the password in fleet.etcd.password_file to those of etcdctl user add"
    } else if why.contains("certificate") {
        "give etcd a certificate of the authority in fleet.etcd.ca, for the host in fleet.etcd.endpoints, with extendedKeyUsage = serverAuth,clientAuth"
    } else if why.contains("connection closed") || why.contains("transport") {
        "give etcd's own certificate extendedKeyUsage = serverAuth,clientAuth: its gateway connects to itself"
    } else if why.contains("no answer within") || why.contains("leader") {
        "look whether a majority of etcd's members is up: etcdctl endpoint status --cluster"
    } else {
        "start etcd there, open the way to it, or take it out of fleet.etcd.endpoints"
    };
    findings.fail("endpoint", format!("{url}: {why}"), fix);
}

/// Holds what was seen of an endpoint against what it must be.
fn seen(url: &str, sight: &EtcdSight, now: SystemTime, findings: &mut FleetFindings) {
    let shown = sight.certificate.as_ref().and_then(|shown| Certificate::from_der(shown).ok());
    if shown.is_some_and(|shown| !has_usage(&shown, SERVER_AUTH) || !has_usage(&shown, CLIENT_AUTH)) {
        let found = format!(
            "{url}: its certificate is not for both servers and clients, and its gateway connects to itself"
        );
        findings.fail("certificate", found, "make one with extendedKeyUsage = serverAuth,clientAuth");
    }
    let Some(date) = sight.date else { return };
    let apart =
        date.duration_since(now).or_else(|_| now.duration_since(date)).map_or(0, |apart| apart.as_secs());
    if apart > FLEET_CLOCK_S_MAX {
        let found = format!("this machine's clock and that of {url} are {apart} s apart");
        findings.fail("clock", found, "set both clocks, by NTP: timedatectl set-ntp true");
    }
}

/// What the user of etcd may do. Nothing is written.
fn rights(
    operator: &OperatorArgs,
    etcd: &FleetEtcdConfig,
    client: &mut EtcdClient,
    prefix: &str,
    own: NodeId,
    findings: &mut FleetFindings,
) {
    let Some(user) = &etcd.user else {
        let fix = "make a user for each gateway, as docs/fleet.md shows";
        return findings.warn(
            "rights",
            "etcd is asked without a user: each client that reaches it may write the fleet's keys",
            fix,
        );
    };
    let alive = format!("{ALIVE}{own}");
    let (own_word, all) = (client.may_write(&alive), client.may_write("fleet"));
    match (own_word, all) {
        (Err(fault), _) | (_, Err(fault)) => findings.fail("rights", fault.to_string(), "run this again"),
        (Ok(false), _) => {
            let fix = format!("etcdctl role grant-permission {user} readwrite {prefix}{alive}");
            findings.fail(
                "rights",
                format!("user {user} may not write the gateway's word that it is alive"),
                fix,
            );
        }
        (_, Ok(true)) if operator.user.is_none() => {
            let fix = format!("give the gateway a role that writes {prefix}{alive} alone");
            findings.warn(
                "rights",
                format!("user {user} may write the fleet's keys, which a gateway need not"),
                fix,
            );
        }
        _ => findings.ok("rights", format!("user {user} reads {prefix} and writes {alive}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
    use std::time::Duration;

    fn certificate(usages: &[ExtendedKeyUsagePurpose]) -> EtcdSight {
        let mut params = CertificateParams::new(vec!["etcd".to_owned()]).unwrap();
        params.extended_key_usages = usages.to_vec();
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        EtcdSight { certificate: Some(made.der().clone()), date: Some(SystemTime::UNIX_EPOCH) }
    }

    #[test]
    fn a_certificate_for_one_side_and_a_clock_that_is_apart_are_found() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let found = |sight: &EtcdSight, now_s: u64| {
            let mut findings = FleetFindings::default();
            seen("https://e", sight, SystemTime::UNIX_EPOCH + Duration::from_secs(now_s), &mut findings);
            findings.0.into_iter().map(|finding| finding.found).collect::<Vec<_>>()
        };
        assert!(found(&certificate(&[ServerAuth, ClientAuth]), FLEET_CLOCK_S_MAX).is_empty());
        assert!(found(&certificate(&[]), 0).is_empty(), "one that names no use is for all");
        let one = found(&certificate(&[ServerAuth]), 0);
        assert!(one.len() == 1 && one[0].contains("its gateway connects to itself"), "{one:?}");
        let apart = found(&EtcdSight { date: certificate(&[]).date, certificate: None }, 61);
        assert!(apart.len() == 1 && apart[0].contains("are 61 s apart"), "{apart:?}");
    }
}

//! Preflight: is the machine ready for this configuration? Every warning and failure names the command that fixes it.

mod opened;

use crate::anycast::{Anycast, AnycastError};
use crate::config::{FleetProvider, GatewayConfig, IdentityConfig, allowed_by};
use crate::dates::out_of_dates;
use crate::fleet::joined::DirectorySettings;
use crate::fleet::{FleetPart, read_key};
use crate::output::{self, OutputError};
use crate::{capabilities, descriptors, rights, tls};
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;
use stoq::network::process::Process;
use stoq::network::{DpdkConfig, HugePagesConfig, NetworkConfig, machine};
use stoq::nic::interface::{Interface, InterfaceState, interface_of};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No fault.
    Ok,
    /// The gateway runs, but not as well as it could.
    Warning,
    /// The gateway does not start.
    Failed,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject of the check.
    pub check: &'static str,
    /// How good the result is.
    pub level: Severity,
    /// The result in words.
    pub found: String,
    /// The command or the change that fixes it.
    pub fix: Option<String>,
}

/// Checks everything that this configuration, read from `file`, needs. The checks open what the gateway will open, and close it again. A
/// resource that this same gateway has open, because it is running, is a warning.
pub fn run(config: &GatewayConfig, file: &Path) -> Vec<Finding> {
    let mut findings = Findings::default();
    certificates(config, &mut findings);
    fleet(config, &mut findings);
    anycast(config, file, &mut findings);
    cores(config, &mut findings);
    match machine::ensure_memory(&config.network, config.memory_tier_bytes()) {
        Ok((wanted_mib, total_mib)) => {
            findings.ok("memory", format!("{wanted_mib} MiB of {total_mib} MiB wanted"))
        }
        Err(error) => {
            findings.push(
                "memory",
                Severity::Failed,
                error.to_string(),
                Some("make these keys smaller".into()),
            );
        }
    }
    files(descriptors::needed(config), descriptors::limits().1, &mut findings);
    match &config.network {
        NetworkConfig::Dpdk(dpdk) => {
            findings.add("dpdk", cfg!(feature = "dpdk"), "built with DPDK", "built without DPDK", || {
                "build with the default features (needs libdpdk-dev), or use network.kind = \"kernel-udp\"".into()
            });
            match opened::running(file) {
                Some(ours) => {
                    for port in dpdk.ports() {
                        findings.running("device", &format!("{} is in use", port.device), &ours);
                    }
                }
                None => {
                    huge_pages(dpdk, &mut findings);
                    dpdk.ports().for_each(|dpdk| port(dpdk, &mut findings));
                    // These make the port fail too, with less to say.
                    #[cfg(feature = "dpdk")]
                    if !findings.has_failed(&["cores", "memory", "huge pages", "permissions", "interface"]) {
                        opened::port(config, file, &mut findings);
                    }
                }
            }
        }
        NetworkConfig::KernelUdp(kernel) => {
            opened::sockets(kernel, config.workers.count.into(), file, &mut findings);
        }
    }
    if let Some(seed) = config.seed() {
        opened::store(seed, file, &mut findings);
    }
    allowed(config, &mut findings);
    opened::watching(config, file, &mut findings);
    opened::names(config, &mut findings);
    findings.0
}

/// Prints findings; the exit code is 1 if a check failed.
///
/// # Errors
/// Standard output is closed or full.
pub fn report(findings: &[Finding], json: bool) -> Result<ExitCode, OutputError> {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Severity::Ok);
    if json {
        output::line(serde_json::json!({ "ready": worst < Severity::Failed, "findings": findings }))?;
    } else {
        for Finding { check, level, found, fix } in findings {
            let level = match level {
                Severity::Ok => "ok     ",
                Severity::Warning => "warning",
                Severity::Failed => "FAILED ",
            };
            output::line(format_args!("{level} {check}: {found}"))?;
            if let Some(fix) = fix {
                output::line(format_args!("        fix: {fix}"))?;
            }
        }
        output::line(if worst < Severity::Failed { "ready" } else { "not ready" })?;
    }
    Ok(ExitCode::from(u8::from(worst == Severity::Failed)))
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, check: &'static str, level: Severity, found: impl Into<String>, fix: Option<String>) {
        self.0.push(Finding { check, level, found: found.into(), fix });
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, Severity::Ok, found, None);
    }

    /// A resource is in use by the gateway that this check is for.
    fn running(&mut self, check: &'static str, found: &str, ours: &Process) {
        let found = format!("{found} by {ours}, which is this gateway, already running");
        let fix = "nothing to fix; `systemctl reload` or a SIGHUP reloads its configuration";
        self.push(check, Severity::Warning, found, Some(fix.into()));
    }

    #[cfg(feature = "dpdk")]
    fn has_failed(&self, checks: &[&str]) -> bool {
        self.0.iter().any(|finding| finding.level == Severity::Failed && checks.contains(&finding.check))
    }

    fn add(&mut self, check: &'static str, good: bool, yes: &str, no: &str, fix: impl FnOnce() -> String) {
        if good {
            self.ok(check, yes);
        } else {
            self.push(check, Severity::Failed, no, Some(fix()));
        }
    }
}

/// Compares the files that the gateway can have open with the hard limit, which it raises its soft limit to.
fn files(needed: u64, limit: u64, findings: &mut Findings) {
    if needed <= limit {
        return findings.ok("open files", format!("up to {needed}, and {limit} are allowed"));
    }
    let found = format!(
        "{limit} are allowed, and the gateway can need {needed}: the store takes fewer puts at a time"
    );
    let fix = format!(
        "LimitNOFILE={needed} under [Service] (systemctl edit stoq-gateway), or `ulimit -Hn {needed}` before the start"
    );
    findings.push("open files", Severity::Warning, found, Some(fix));
}

fn certificates(config: &GatewayConfig, findings: &mut Findings) {
    match tls::server(&config.tls, &config.identity, &config.trust, None) {
        Err(error) => {
            let fix = mend_identity(&config.identity);
            findings.push("certificates", Severity::Failed, error.to_string(), Some(fix));
        }
        Ok((_, identity)) => match identity.summaries() {
            Ok(chain) => match out_of_dates(&chain, SystemTime::now()) {
                None => {
                    let until = chain.iter().min_by_key(|certificate| certificate.not_after_s);
                    let until = until.map_or("", |certificate| &certificate.not_after);
                    findings.ok("certificates", format!("node id {}, until {until}", identity.node_id()));
                }
                Some(why) => {
                    let fix = "follow the line above; the key stays, and so does the node ID";
                    findings.push("certificates", Severity::Failed, why, Some(fix.into()));
                }
            },
            Err(error) => {
                let fix = "have the certificate issued again for the same key";
                findings.push("certificates", Severity::Failed, error.to_string(), Some(fix.into()));
            }
        },
    }
}

/// Reads the key of the gateway's fleet.
fn fleet(config: &GatewayConfig, findings: &mut Findings) {
    let Some(fleet) = &config.fleet else { return };
    // Without an identity another check says so.
    let own = tls::load(&config.identity).ok().map(|identity| identity.node_id());
    if matches!(fleet.provider, Some(FleetProvider::Etcd | FleetProvider::Kubernetes)) {
        return match DirectorySettings::read(fleet)
            .and_then(|settings| read_key(&fleet.key_file).map(|_| settings))
        {
            Ok(settings) => {
                let shown = settings.as_ref().map(DirectorySettings::shown).unwrap_or_default();
                findings.ok("fleet", format!("server ID {}, {shown}", fleet.server_id));
            }
            Err(error) => {
                let fix = "follow the line above".to_owned();
                findings.push("fleet", Severity::Failed, format!("{error:#}"), Some(fix));
            }
        };
    }
    let part = FleetPart::read(fleet);
    let part = part.and_then(|part| own.map_or(Ok(()), |own| part.check_own(own)).map(|()| part));
    match part {
        Ok(FleetPart { settings, table, .. }) => {
            let numbers: Vec<_> = settings.rotations().iter().map(|r| r.number.to_string()).collect();
            let found = format!("server ID {}, rotations {}", settings.server_id(), numbers.join(", "));
            let gateways = table.as_ref().map(|table| format!(", {} gateways", table.roster.gateways.len()));
            findings.ok("fleet", found + &gateways.unwrap_or_default());
            if let Some((own, table)) = own.zip(table)
                && !table.roster.gateways.contains_key(&own)
            {
                let fix = format!("add a row with node_id = \"{own}\" to the table");
                let found = "the fleet's table does not have this gateway: the others do not know it";
                findings.push("fleet", Severity::Warning, found, Some(fix));
            }
        }
        Err(error) => {
            let fix =
                "follow the line above; a gateway with another key cannot read the others' connection IDs";
            findings.push("fleet", Severity::Failed, format!("{error:#}"), Some(fix.into()));
        }
    }
}

/// Makes the interface of `[anycast]`, and removes it.
fn anycast(config: &GatewayConfig, file: &Path, findings: &mut Findings) {
    let Some(anycast) = &config.anycast else { return };
    if config.fleet.as_ref().is_some_and(|fleet| fleet.provider.is_some() && !fleet.handover) {
        let found =
            "a connection whose flow the routers move to another gateway is lost: fleet.handover is not set";
        let fix = "set fleet.handover = true on each gateway; docs/fleet.md says what it needs";
        findings.push("anycast", Severity::Warning, found, Some(fix.into()));
    }
    match Anycast::open(anycast) {
        Ok(_) => findings.ok("anycast", format!("{} can be made", anycast.interface)),
        Err(error) => {
            let ours = matches!(error, AnycastError::Exists(_)).then(|| opened::running(file)).flatten();
            if let Some(ours) = ours {
                return findings.running("anycast", &format!("{} is in use", anycast.interface), &ours);
            }
            let fix = "follow the line above; docs/fleet.md says what the gateway needs";
            findings.push("anycast", Severity::Failed, error.to_string(), Some(fix.into()));
        }
    }
}

/// Says what each peer may do, and which sections have no effect.
fn allowed(config: &GatewayConfig, findings: &mut Findings) {
    if let Err(error) = rights::table(config) {
        let fix = "rights.authorities: name files with certificates of authorities".to_owned();
        return findings.push("rights", Severity::Failed, error.to_string(), Some(fix));
    }
    if config.rights.is_empty() {
        findings.ok("rights", "every peer that may connect may do everything");
    }
    for section in &config.rights {
        let found = format!("{}: {}", section.name, allowed_by(&section.grant()));
        match rights::without_effect(config, section) {
            Some((why, fix)) => {
                findings.push("rights", Severity::Warning, format!("{found}; {why}"), Some(fix.into()));
            }
            None => findings.ok("rights", found),
        }
    }
    for node in rights::unnamed_peer_gateways(config) {
        let found = format!("the peer gateway {node} may do nothing here: no section names it");
        let fix = "rights.node_ids: name it in the section of what it may do".to_owned();
        findings.push("rights", Severity::Warning, found, Some(fix));
    }
}

/// The command that repairs an identity. A new identity is offered only where both files are missing.
fn mend_identity(identity: &IdentityConfig) -> String {
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    // A file that this user may not look for may exist.
    let exists = |path: &Path| path.try_exists().unwrap_or(true);
    match (exists(&identity.certificate), exists(&identity.key)) {
        (false, false) => format!("stoq identity new --cert {certificate} --key {key}"),
        (false, true) => format!(
            "restore the certificate that was issued for {key}, or make one with the same node ID: \
             stoq identity renew --key {key} --cert {certificate}"
        ),
        (true, false) => format!(
            "restore {key} from the machine that made it, or from a backup; with a new key the gateway has a new node ID, and \
             every peer that trusts the old one must be given the new one"
        ),
        (true, true) => "follow the line above; keep the key, since another key means another node ID".into(),
    }
}

fn cores(config: &GatewayConfig, findings: &mut Findings) {
    let known: HashSet<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let cores = &config.workers.cores;
    let missing: Vec<_> =
        cores.iter().chain(&config.workers.verify_cores).filter(|core| !known.contains(core)).collect();
    if let Err(error) = machine::ensure_cores(config.workers.count.into()) {
        findings.push(
            "cores",
            Severity::Failed,
            error.to_string(),
            Some("make workers.count smaller".into()),
        );
    } else if !missing.is_empty() {
        let fix = format!("workers.cores and workers.verify_cores: choose among {}", list(&known));
        findings.push(
            "cores",
            Severity::Failed,
            format!("this process may not run on {missing:?}"),
            Some(fix),
        );
    } else if usize::from(config.workers.count) > known.len() {
        let found = format!("{} workers on {} cores", config.workers.count, known.len());
        findings.push(
            "cores",
            Severity::Warning,
            found,
            Some(format!("workers.count: at most {}", known.len())),
        );
    } else if cores.is_empty() {
        let fix = format!("workers.cores: name {} of {}", config.workers.count, list(&known));
        findings.push("cores", Severity::Warning, "workers are not pinned", Some(fix));
    } else {
        findings.ok("cores", format!("workers on {cores:?} of {}", list(&known)));
    }
}

fn huge_pages(dpdk: &DpdkConfig, findings: &mut Findings) {
    if dpdk.huge_pages == HugePagesConfig::None {
        return findings.ok("huge pages", "not wanted");
    }
    let level =
        if dpdk.huge_pages == HugePagesConfig::Required { Severity::Failed } else { Severity::Warning };
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (free, page_kb) = (field(&info, "HugePages_Free:"), field(&info, "Hugepagesize:"));
    let (free_mib, wanted_mib) = (free * page_kb / 1024, u64::from(dpdk.memory_mib));
    if free_mib < wanted_mib {
        let pages = (wanted_mib * 1024).div_ceil(page_kb.max(1));
        let reserved = field(&info, "HugePages_Total:");
        let fix =
            format!("as root: echo {} > /proc/sys/vm/nr_hugepages", reserved + pages.saturating_sub(free));
        findings.push(
            "huge pages",
            level,
            format!("{free_mib} MiB free of {wanted_mib} MiB wanted"),
            Some(fix),
        );
    } else {
        findings.ok("huge pages", format!("{free_mib} MiB free, {wanted_mib} MiB wanted"));
    }
}

/// Checks what a port needs.
fn port(dpdk: &DpdkConfig, findings: &mut Findings) {
    let name = dpdk.device.as_str();
    if name.starts_with("net_af_") || name.starts_with("net_tap") {
        let raw = capabilities::may_use_raw_sockets();
        let no = "this device needs root, or CAP_NET_ADMIN and CAP_NET_RAW";
        findings.add("permissions", raw, "raw sockets may be opened", no, || {
            "run the gateway as root, or, as root, `setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep` on its file".into()
        });
        // net_tap makes its interface itself.
        if let Some(name) = interface_of(name).filter(|_| name.starts_with("net_af_")) {
            interface(name, dpdk.mtu(), findings);
        }
    }
}

/// Checks the kernel's interface that a port uses.
fn interface(name: &str, mtu: u16, findings: &mut Findings) {
    let Ok(interface) = Interface::find(name) else {
        let fix = "`ip link` lists the interfaces of this network namespace".into();
        return findings.push("interface", Severity::Failed, format!("no interface {name}"), Some(fix));
    };
    let view = interface.view();
    if let Some(small) = view.mtu.filter(|&small| small < u32::from(mtu)) {
        let found = format!("interface {name} has an MTU of {small}, below network.mtu = {mtu}");
        let fix = format!("ip link set {name} mtu {mtu}  (or set network.mtu = {small})");
        findings.push("interface", Severity::Failed, found, Some(fix));
    }
    match view.state {
        InterfaceState::Up => findings.ok("interface", name),
        InterfaceState::Down => {
            let fix = format!("ip link set {name} up");
            findings.push("interface", Severity::Warning, format!("interface {name} is down"), Some(fix));
        }
        InterfaceState::NoCarrier | InterfaceState::Gone => {
            let fix =
                "plug in its cable, or bring up its other end; until then the gateway is not ready".into();
            findings.push(
                "interface",
                Severity::Warning,
                format!("interface {name} has no carrier"),
                Some(fix),
            );
        }
    }
}

fn field(info: &str, name: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn list(cores: &HashSet<usize>) -> String {
    let mut sorted: Vec<_> = cores.iter().collect();
    sorted.sort_unstable();
    format!("{sorted:?}")
}

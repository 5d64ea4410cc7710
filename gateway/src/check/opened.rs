//! Opens what the gateway will open, by the same code, and closes it again: sockets, the store, the admin endpoint, qlog, captures.

use super::{Findings, Severity};
use crate::capture;
use crate::config::{GatewayConfig, SeedConfig};
use rustix::process::getuid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use stoq::datagram::kernel::{BindError, KernelUdp, KernelUdpConfig};
use stoq::network::KernelConfig;
use stoq::network::process::{self, Process};
use stoq::quic::qlog::Qlog;
use stoq::seed::Store;

/// Reports a resource in use: a warning if this same gateway has it, because it is running; else a failure.
fn in_use(
    check: &'static str,
    found: &str,
    holders: &[Process],
    file: &Path,
    fix: &str,
    findings: &mut Findings,
) {
    // Another user's process shows its command line, and not its files.
    let ours = match holders {
        [] => running(file),
        [first, ..] => holders.iter().all(|holder| runs(holder, file)).then(|| first.clone()),
    };
    if let Some(ours) = ours {
        return findings.running(check, found, &ours);
    }
    let whose = match holders {
        [] => "by a program that this user may not see".to_owned(),
        some => format!("by {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    findings.push(check, Severity::Failed, format!("{found} {whose}"), Some(fix.into()));
}

/// The gateway that was started with this configuration file, if one runs.
pub(super) fn running(file: &Path) -> Option<Process> {
    process::all().find(|process| runs(process, file))
}

/// Opens the port as `run` does, and closes it again.
#[cfg(feature = "dpdk")]
pub(super) fn port(config: &GatewayConfig, file: &Path, findings: &mut Findings) {
    use dpdk::DpdkError;
    use stoq::network::{OpenError, OpenNetwork};

    match OpenNetwork::open(&config.network, config.workers.count.into()) {
        Ok(opened) => {
            for port in opened.ports() {
                let (device, offloads) = (port.device(), port.offloads());
                findings.ok("device", format!("the port opens: {device}"));
                if offloads.software_spread {
                    let found = "not each worker has a queue that the device fills: software spreads the flows over them";
                    findings.ok("queues", format!("{device}: {found}"));
                }
                if let Some(node) = offloads.numa_node {
                    let found =
                        format!("{device} is on node {node}: take workers.cores from `lscpu -e` there");
                    findings.ok("numa", found);
                }
            }
        }
        Err(OpenError::Dpdk(DpdkError::DeviceHeld { device, node })) => {
            let fix = "stop that program, or give another network.device";
            in_use("device", &format!("{device} is in use"), &process::of_file(&node), file, fix, findings);
        }
        Err(error) => {
            let fix = "follow the line above; DPDK's own lines on standard error may say more";
            findings.push("device", Severity::Failed, error.to_string(), Some(fix.into()));
        }
    }
}

/// Whether a process is a gateway that was started with this configuration file.
fn runs(holder: &Process, config: &Path) -> bool {
    let Some((program, arguments)) = holder.command.split_first() else { return false };
    let is_gateway = Path::new(program).file_name().is_some_and(|name| name == "stoq-gateway");
    let given = arguments.iter().enumerate().find_map(|(at, argument)| match argument.as_str() {
        "--config" | "-c" => arguments.get(at + 1).cloned(),
        other => other.strip_prefix("--config=").map(str::to_owned),
    });
    let directory = PathBuf::from(format!("/proc/{}/cwd", holder.pid));
    let same = |given: String| {
        let theirs = fs::canonicalize(directory.join(given)).ok();
        theirs.is_some() && theirs == fs::canonicalize(config).ok()
    };
    let serves = arguments.first().is_some_and(|command| command == "run");
    is_gateway && serves && given.is_some_and(same)
}

/// Binds the sockets as `run` does, first without SO_REUSEPORT: with it, they would bind beside a running gateway's and take some of its
/// datagrams.
pub(super) fn sockets(kernel: &KernelConfig, workers: usize, file: &Path, findings: &mut Findings) {
    let alone = KernelUdpConfig { reuse_port: false, buffer_bytes: kernel.buffer_bytes, hear_errors: false };
    let shared = KernelUdpConfig { reuse_port: workers > 1, ..alone };
    let opened = KernelUdp::bind(&kernel.listen, alone).and_then(|alone| {
        let missing = alone.missing().to_vec();
        drop(alone);
        let all =
            (0..workers).map(|_| KernelUdp::bind(&kernel.listen, shared)).collect::<io::Result<Vec<_>>>()?;
        drop(all);
        Ok(missing)
    });
    match opened {
        Ok(missing) if missing.is_empty() => {
            findings.ok("network", "kernel UDP sockets: the kernel is on the packet's way");
        }
        Ok(missing) => {
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            let found = format!("this host does not have the family of {}", missing.join(" "));
            let fix = "the gateway serves without it; leave the address out, or give the host that family";
            findings.push("network", Severity::Warning, found, Some(fix.into()));
        }
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<BindError>()) {
            Some(bind) if error.kind() == io::ErrorKind::AddrInUse => {
                let found = format!("UDP {} is in use", bind.address);
                let fix = "stop that program, or change network.listen";
                in_use("network", &found, &process::of_udp(bind.address), file, fix, findings);
            }
            Some(bind) => {
                let found = format!("UDP {}: {}", bind.address, bind.error);
                findings.push("network", Severity::Failed, found, Some(bind.fix.clone()));
            }
            None => findings.push(
                "network",
                Severity::Failed,
                error.to_string(),
                Some("change network.listen".into()),
            ),
        },
    }
    for (file, key) in [("rmem_max", "net.core.rmem_max"), ("wmem_max", "net.core.wmem_max")] {
        let limit = fs::read_to_string(Path::new("/proc/sys/net/core").join(file)).unwrap_or_default();
        let limit: usize = limit.trim().parse().unwrap_or(0);
        if limit < kernel.buffer_bytes {
            let found = format!("{key} is {limit}, below network.buffer_bytes = {}", kernel.buffer_bytes);
            let fix = format!("sysctl -w {key}={}", kernel.buffer_bytes);
            findings.push("socket buffers", Severity::Warning, found, Some(fix));
        }
    }
}

/// The command that gives this user a directory. A device, a file or a socket in its place, or on the way to it, keeps its owner.
fn mend_directory(directory: &Path) -> String {
    let there = directory.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?)));
    match there {
        Some((path, there)) if !there.is_dir() => {
            format!("{} is no directory; name another path in the configuration", path.display())
        }
        _ => format!("as root: mkdir -p {0} && chown {1} {0}", directory.display(), getuid().as_raw()),
    }
}

/// Checks that the store's directory can be written, and that no other process has it.
pub(super) fn store(seed: &SeedConfig, file: &Path, findings: &mut Findings) {
    let directory = &seed.directory;
    let probe = directory.join(".stoq-check");
    let written = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&probe, b""))
        .and_then(|()| fs::remove_file(&probe));
    if let Err(error) = written {
        let fix = mend_directory(directory);
        return findings.push(
            "store",
            Severity::Failed,
            format!("{}: {error}", directory.display()),
            Some(fix),
        );
    }
    match Store::is_in_use(directory) {
        Ok(None) => findings.ok("store", format!("{} can be written", directory.display())),
        Ok(Some(lock)) => {
            let found = format!("{} is in use", directory.display());
            let fix = "stop that program, or give each gateway a directory of its own";
            in_use("store", &found, &process::of_lock(&lock), file, fix, findings);
        }
        Err(error) => {
            let fix = format!("as root: chown -R {} {}", getuid().as_raw(), directory.display());
            findings.push("store", Severity::Failed, error.to_string(), Some(fix));
        }
    }
}

/// Checks that the peer gateways' names resolve. The gateway starts without their addresses, and resolves again at each dial.
pub(super) fn names(config: &GatewayConfig, findings: &mut Findings) {
    let written = config.gateway.iter().flat_map(|peer_gateway| &peer_gateway.addresses);
    for address in written.filter(|address| address.literal().is_none()) {
        match address.resolve() {
            Ok(found) => {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                findings.ok("peer gateway", format!("{address} is {}", found.join(" ")));
            }
            Err(error) => {
                let fix = "the gateway starts without it and resolves it again at each dial; correct the name or the resolver";
                findings.push("peer gateway", Severity::Warning, error.to_string(), Some(fix.into()));
            }
        }
    }
}

/// Checks the admin endpoint, the directory of qlog and the socket of captures.
pub(super) fn watching(config: &GatewayConfig, file: &Path, findings: &mut Findings) {
    if let Some(admin) = &config.admin {
        match crate::admin::check(admin) {
            Ok(()) => findings.ok("admin", format!("can listen on {}", admin.listen)),
            Err(error) if kind(&error) == Some(io::ErrorKind::AddrInUse) => {
                let found = format!("TCP {} is in use", admin.listen);
                let fix = "stop that program (`ss -tlpn` lists those that listen), or change admin.listen";
                in_use("admin", &found, &process::of_tcp(admin.listen), file, fix, findings);
            }
            Err(error) => findings.push(
                "admin",
                Severity::Failed,
                format!("{error:#}"),
                Some("correct [admin], or leave the section out".into()),
            ),
        }
    }
    if let Some(directory) = &config.qlog.directory {
        match Qlog::start(directory, config.qlog.sample, config.qlog.capacity_bytes) {
            Ok(_) => findings.ok("qlog", format!("logs into {}", directory.display())),
            Err(error) => {
                let fix = mend_directory(directory);
                findings.push(
                    "qlog",
                    Severity::Failed,
                    format!("{}: {error}", directory.display()),
                    Some(fix),
                );
            }
        }
    }
    if let Some(socket) = &config.capture.socket {
        match capture::can_listen(socket) {
            Ok(()) => findings.ok("capture", format!("can listen on {}", socket.display())),
            Err(error) if kind(&error) == Some(io::ErrorKind::AddrInUse) => {
                let found = format!("capture.socket {} is in use", socket.display());
                let fix = "give each gateway a socket of its own";
                in_use("capture", &found, &process::of_unix(socket), file, fix, findings);
            }
            Err(error) => {
                let found = format!("capture.socket {}: {error:#}", socket.display());
                let fix = "name a path in an existing directory, at which there is no file";
                findings.push("capture", Severity::Failed, found, Some(fix.into()));
            }
        }
    }
}

fn kind(error: &anyhow::Error) -> Option<io::ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_recognized_by_its_configuration_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("gateway.toml");
        fs::write(&config, "").unwrap();
        let holder = |command: &[&str]| Process {
            pid: std::process::id(),
            command: command.iter().map(|&part| part.to_owned()).collect(),
        };
        let file = config.to_str().unwrap();
        for flag in [vec!["--config", file], vec!["-c", file], vec![&*format!("--config={file}")]] {
            let command = [vec!["/usr/bin/stoq-gateway", "run"], flag].concat();
            assert!(runs(&holder(&command), &config), "{command:?}");
        }
        assert!(!runs(&holder(&["stoq-gateway", "check", "-c", file]), &config));
        assert!(!runs(&holder(&["stoq-gateway", "run", "-c", "/nowhere"]), &config));
        assert!(!runs(&holder(&["nginx", "-c", file]), &config));
        assert!(!runs(&holder(&[]), &config));
    }
}

//! `stoq-gateway check`: reports faults and their fixes.

#[cfg(feature = "dpdk")]
use crate::support::identities;
use crate::support::{Process, Site, free_port, run, stoq_gateway};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn check(config: &Path, code: i32) -> Value {
    let mut gateway = stoq_gateway();
    gateway.env("STOQ_TEST_DEVICE", "0000:ff:1f.7").args(["check", "--json", "--config"]).arg(config);
    let (stdout, _) = run(&mut gateway, code);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ready"], code == 0, "{report}");
    for finding in report["findings"].as_array().unwrap() {
        assert!(finding["check"].is_string() && finding["found"].is_string());
        let is_ok = finding["level"] == "ok";
        assert!(is_ok || finding["fix"].is_string(), "every fault has a fix: {finding}");
    }
    report
}

/// The finding that fails.
fn failed(report: &Value, name: &str) -> String {
    let findings = report["findings"].as_array().unwrap();
    let failed: Vec<_> = findings.iter().filter(|finding| finding["level"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{report}");
    assert_eq!(failed[0]["check"], name);
    format!("{} {}", failed[0]["found"].as_str().unwrap(), failed[0]["fix"].as_str().unwrap())
}

#[test]
fn a_ready_machine_is_reported_as_ready() {
    let mut site = Site::new();
    let config = site.configure();
    check(&config, 0);
    let (stdout, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 0);
    assert!(stdout.trim_end().ends_with("ready") && !stdout.contains("not ready"), "{stdout}");
    // A gateway that is reported as ready starts.
    drop(site.start());
}

#[test]
fn a_missing_certificate_is_named_with_the_command_that_makes_one() {
    let mut site = Site::new();
    site.identity = "certificate = \"none.pem\"\nkey = \"none.key\"".into();
    let config = site.configure();
    let text = failed(&check(&config, 1), "certificates");
    assert!(text.contains("none.pem") && text.contains("stoq identity new"), "{text}");
    let (stdout, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 1);
    assert!(stdout.trim_end().ends_with("not ready") && stdout.contains("        fix: "), "{stdout}");
}

#[test]
fn a_store_that_cannot_be_written_is_named_with_its_fix() {
    let mut site = Site::new();
    std::fs::write(site.path("occupied"), b"a file").unwrap();
    site.store = site.path("occupied").join("store");
    let text = failed(&check(&site.configure(), 1), "store");
    assert!(text.contains("occupied"), "{text}");
}

/// `stoq-gateway` with another limit of open files.
fn limited(ulimit: &str, arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new("sh");
    let gateway = env!("CARGO_BIN_EXE_stoq-gateway");
    command.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\""), gateway]);
    command.args(arguments).arg(config);
    command
}

#[test]
fn a_gateway_raises_its_limit_of_open_files_and_the_check_tells_a_limit_that_is_too_low() {
    let mut site = Site::new();
    let (stdout, _) = run(&mut limited("-n 500", &["check", "--json", "--config"], &site.configure()), 0);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let mut findings = report["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["check"] == "open files").unwrap();
    assert_eq!(found["level"], "warning");
    let text = format!("{} {}", found["found"], found["fix"]);
    assert!(text.contains("500 are allowed") && text.contains("LimitNOFILE="), "{text}");
    let process = loop {
        match Process::serve_by(&mut limited("-Sn 200", &["run", "--config"], &site.configure())) {
            Ok(process) => break process,
            // Another program has taken the port meanwhile.
            Err(log) if log.contains("another program") => site.port = free_port(),
            Err(log) => panic!("the gateway does not start:\n{log}"),
        }
    };
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limits: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits[0], limits[1], "{line}");
}

#[test]
fn a_missing_core_is_named_with_the_cores_of_the_machine() {
    let mut site = Site::new();
    site.more = "[workers]\ncores = [1023]\n".into();
    let text = failed(&check(&site.configure(), 1), "cores");
    assert!(text.contains("1023") && text.contains("workers.cores"), "{text}");
}

#[test]
fn a_port_in_use_is_found() {
    let site = Site::new();
    let _taken = std::net::UdpSocket::bind(site.v4()).unwrap();
    let text = failed(&check(&site.configure(), 1), "network");
    assert!(text.contains(&site.port.to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
}

#[test]
fn a_running_gateway_is_a_warning_and_another_on_its_port_or_store_a_failure() {
    let mut site = Site::new();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.more += &format!("[admin]\nlisten = \"{admin}\"\n");
    let _gateway = site.start();
    let config = site.path("gateway.toml");
    let report = check(&config, 0);
    let running: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| {
            finding["found"].as_str().unwrap().contains("which is this gateway, already running")
        })
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    assert_eq!(running, ["network", "store", "admin"], "{report}");
    // The check did not disturb the running gateway.
    run(site.client("ping").args(["--count", "1"]), 0);
    let copy = site.path("copy.toml");
    std::fs::copy(&config, &copy).unwrap();
    let report = check(&copy, 1);
    let failed = report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "failed");
    let failed: Vec<_> = failed.map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!(failed, ["network", "store", "admin"], "{report}");
}

#[test]
fn addresses_that_run_cannot_bind_are_found() {
    let site = Site::new();
    let listen = |addresses: &str| {
        let text = std::fs::read_to_string(site.configure()).unwrap();
        let line = text.lines().find(|line| line.starts_with("listen")).unwrap().to_owned();
        std::fs::write(site.path("gateway.toml"), text.replace(&line, &format!("listen = {addresses}")))
            .unwrap();
        site.path("gateway.toml")
    };
    let port = site.port;
    check(&listen(&format!("[\"0.0.0.0:{port}\", \"[::]:{port}\"]")), 0);
    check(&listen(&format!("[\"[::]:{port}\", \"127.0.0.1:{port}\"]")), 0);
    let foreign = listen(&format!("[\"192.0.2.1:{port}\"]"));
    let text = failed(&check(&foreign, 1), "network");
    assert!(text.contains("192.0.2.1") && text.contains("ip address"), "{text}");
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(&foreign), 1);
    assert!(stderr.contains("192.0.2.1") && stderr.contains("ip address"), "{stderr}");
}

#[test]
fn an_admin_address_that_cannot_be_bound_is_found() {
    let mut site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    site.more = format!("[admin]\nlisten = \"{listen}\"\n");
    let text = failed(&check(&site.configure(), 1), "admin");
    assert!(text.contains(&listen.to_string()) && text.contains("ss -tlpn"), "{text}");
}

/// A configuration on this DPDK device, on normal pages.
#[cfg(feature = "dpdk")]
fn on_dpdk(site: &Site, device: &str) -> std::path::PathBuf {
    let ids = identities();
    let config = site.path("dpdk.toml");
    let text = format!(
        "[network]\nkind = \"dpdk\"\ndevice = {device:?}\naddresses = [\"10.77.0.1/24\"]\nhuge_pages = \"none\"\n\
         [identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{}\"]\n\
         [[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n",
        ids.file("gateway.pem"),
        ids.file("gateway.key"),
        ids.client
    );
    std::fs::write(&config, text).unwrap();
    config
}

#[cfg(feature = "dpdk")]
#[test]
fn a_port_that_run_cannot_open_is_found_and_one_that_it_can_is_not() {
    let site = Site::new();
    let memif = |folder: &str| {
        let socket = site.path(folder).join("memif.sock");
        format!("net_memif0,role=server,id=0,rsize=10,socket-abstract=no,socket={}", socket.display())
    };
    for (device, expected) in [
        // The environment names the device, as an orchestrator does for a container.
        ("env:STOQ_TEST_DEVICE", "there is no PCI device 0000:ff:1f.7: `stoq-bind-nic status`"),
        ("ff:1f.7", "there is no PCI device 0000:ff:1f.7: `stoq-bind-nic status`"),
        (
            "net_nosuch0",
            "plug-in (librte_net_*.so) is installed: package librte-net-nosuch, with a number at its end (`apt-cache search librte-net`)",
        ),
        (&memif("none"), "none of a memif socket is missing: `mkdir -p"),
    ] {
        let config = on_dpdk(&site, device);
        let text = failed(&check(&config, 1), "device");
        assert!(text.contains(expected), "{text}");
        let mut gateway = stoq_gateway();
        gateway.env("STOQ_TEST_DEVICE", "0000:ff:1f.7").args(["run", "--config"]).arg(&config);
        // DPDK's own lines are beside the error.
        let output = gateway.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{stderr}");
    }
    let config = on_dpdk(&site, &memif("."));
    check(&config, 0);
    // The check has closed the port again; while the gateway has it, it is a warning.
    let _gateway = Process::serve(&config).unwrap();
    let report = check(&config, 0);
    let findings = report["findings"].as_array().unwrap();
    let device = findings.iter().find(|finding| finding["check"] == "device").unwrap();
    assert_eq!(device["level"], "warning");
    assert!(device["found"].as_str().unwrap().contains("which is this gateway, already running"), "{device}");
}

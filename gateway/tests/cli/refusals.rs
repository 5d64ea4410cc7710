//! Faults, and the messages that name the fix.

use crate::support::{Process, Site, identities, run, stoq, stoq_gateway, wait_until};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_gateway_that_is_not_the_pinned_one_is_refused() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, _) = site.file("file", 10);
    let ids = identities();
    let mut put = site.anonymous("put");
    put.arg("--cert").arg(ids.file("client.pem")).arg("--key").arg(ids.file("client.key"));
    let (_, stderr) = run(put.args(["--node-id", &ids.stranger]).arg(&path), 1);
    assert!(stderr.contains(&ids.gateway) && stderr.contains("pin"), "{stderr}");
}

#[test]
fn a_client_with_an_untrusted_certificate_is_refused_and_the_log_says_why() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let (path, _) = site.file("file", 10);
    let ids = identities();
    let mut put = site.anonymous("put");
    put.arg("--cert").arg(ids.file("stranger.pem")).arg("--key").arg(ids.file("stranger.key"));
    let (_, stderr) = run(put.args(["--node-id", &ids.gateway]).arg(&path), 1);
    assert!(stderr.contains("does not let this node in") || stderr.contains("has not pinned"), "{stderr}");
    assert_eq!(site.kept(), (vec![], vec![]));
    let (_, _) = run(site.anonymous("ping").args(["--count", "1", "--node-id", &ids.gateway]), 1);
    let ended = gateway.process.stop();
    let refused = &ended["clients_refused"];
    assert!(refused.as_u64() >= Some(2), "{ended}");
    let log = gateway.process.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("a client is refused")).collect();
    let of_the_stranger =
        |line: &&&str| line.contains(&ids.stranger) && line.contains("is not among the pinned");
    assert!(told.iter().any(|line| of_the_stranger(&line) && line.contains("remote=127.0.0.1:")), "{log}");
    let without = "the peer presented no certificate";
    assert!(told.iter().any(|line| line.contains(without) && !line.contains(&ids.stranger)), "{log}");
}

#[test]
fn a_client_without_a_certificate_learns_that_the_gateway_requires_one() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, _) = site.file("file", 10);
    for tool in ["put", "ping", "bench"] {
        let mut command = site.anonymous(tool);
        command.args(["--node-id", &identities().gateway]);
        if tool == "put" {
            command.arg(&path);
        }
        let (_, stderr) = run(&mut command, 1);
        assert!(stderr.contains("requires a client certificate"), "{tool}: {stderr}");
    }
}

#[test]
fn a_gateway_that_asks_for_no_certificates_serves_clients_without() {
    let mut site = Site::new();
    site.trust = "client_auth = \"off\"".into();
    let _gateway = site.start();
    let (path, token) = site.file("file", 1000);
    let mut put = site.anonymous("put");
    let (stdout, _) = run(put.args(["--node-id", &identities().gateway]).arg(&path), 0);
    assert_eq!(stdout.trim(), token);
}

#[test]
fn a_gateway_that_does_not_answer_is_a_timeout_with_its_address() {
    let site = Site::new();
    let (path, _) = site.file("file", 10);
    let _silent = UdpSocket::bind(site.v4()).unwrap();
    let (_, stderr) = run(site.client("put").args(["--timeout", "0.5"]).arg(&path), 1);
    assert!(stderr.contains("0.5 s") && stderr.contains(&site.v4().to_string()), "{stderr}");
}

#[test]
fn a_closed_port_is_reported_without_waiting_for_the_timeout() {
    let site = Site::new();
    for gateway in [site.v4(), site.v6()] {
        // A client that waited for this timeout would print another error.
        let (_, stderr) = run(site.client_of(gateway, "ping").args(["--timeout", "3600"]), 1);
        assert!(stderr.contains("nothing listens") && stderr.contains(&gateway.to_string()), "{stderr}");
    }
}

#[test]
fn a_client_waits_for_a_gateway_that_is_not_answering_yet() {
    let mut site = Site::new();
    let gateway = site.start();
    // The stopped gateway's port stays open, and its datagrams are not read.
    gateway.process.signal(rustix::process::Signal::STOP);
    let mut client = Process::spawn(site.client("ping").args(["--count", "1", "--timeout", "3600"]));
    wait_until("the client's first packet waits at the port", || has_datagrams(site.v4()));
    gateway.process.signal(rustix::process::Signal::CONT);
    assert!(client.end().success(), "{}", client.log());
}

/// Whether datagrams wait in the socket that is bound to this IPv4 address.
fn has_datagrams(address: SocketAddr) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let port = format!(":{:04X}", address.port());
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_bound = fields.next().is_some_and(|local| local.ends_with(&port));
        let queued = fields.nth(2).and_then(|queues| queues.split_once(':'));
        is_bound
            && queued
                .is_some_and(|(_, received)| u64::from_str_radix(received, 16).is_ok_and(|bytes| bytes > 0))
    })
}

#[test]
fn a_gateways_address_is_accepted_in_every_form() {
    let mut site = Site::new();
    let _gateway = site.start();
    for address in ["[::ffff:127.0.0.1]", "localhost", "127.0.0.1", "[::1]"] {
        let ids = identities();
        let mut ping = stoq();
        ping.args(["ping", "--count", "1", "--gateway", &format!("{address}:{}", site.port)]);
        ping.args(["--node-id", &ids.gateway]).arg("--cert").arg(ids.file("client.pem"));
        run(ping.arg("--key").arg(ids.file("client.key")), 0);
    }
    // The name of a host gives the address alone; the node ID decides about trust.
    let ids = identities();
    let mut ping = stoq();
    ping.args(["ping", "--gateway", &format!("localhost:{}", site.port), "--node-id", &ids.stranger]);
    let (_, stderr) =
        run(ping.arg("--cert").arg(ids.file("client.pem")).arg("--key").arg(ids.file("client.key")), 1);
    assert!(stderr.contains(&ids.gateway) && stderr.contains("pin"), "{stderr}");
}

#[test]
fn an_unreachable_address_is_reported_with_the_systems_error() {
    for (address, part) in [
        ("nowhere.invalid:4433", "the resolver has no address of nowhere.invalid"),
        ("[fe80::1]:4433", "%eth0"),
        ("[fe80::1%no-such]:4433", "no interface no-such"),
    ] {
        let mut ping = stoq();
        ping.args(["ping", "--timeout", "3600", "--gateway", address, "--node-id", &identities().gateway]);
        let (_, stderr) = run(&mut ping, 1);
        assert!(stderr.contains(part), "{stderr}");
    }
    let (_, stderr) = run(stoq().args(["ping", "--gateway", "::1:4433"]), 2);
    assert!(stderr.contains("[::1:4433]"), "{stderr}");
}

#[test]
fn missing_files_and_existing_outputs_are_named() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (_, stderr) = run(site.client("put").arg("/nowhere/file"), 1);
    assert!(stderr.contains("/nowhere/file"), "{stderr}");
    let (path, token) = site.file("file", 10);
    run(site.client("put").arg(&path), 0);
    let (_, stderr) = run(site.client("get").arg(&token).arg("-o").arg(&path), 1);
    assert!(stderr.contains("exists already"), "{stderr}");
    let (_, stderr) = run(site.client("get").arg(&token).args(["-o", "/nowhere/copy"]), 1);
    assert!(stderr.contains("/nowhere/copy"), "{stderr}");
    let unknown = format!("b3:{}", "0".repeat(64));
    let (_, stderr) = run(site.client("get").args([&unknown, "-o", "copy"]), 1);
    assert!(stderr.contains("not found"), "{stderr}");
    assert!(!site.path("copy").exists());
}

#[test]
fn an_unknown_key_is_refused_with_its_name_and_the_file() {
    let mut site = Site::new();
    site.more = "[quic]\nidle_timeout_seconds = 30\n".into();
    let config = site.configure();
    for command in ["run", "check"] {
        let (_, stderr) = run(stoq_gateway().arg(command).arg("--config").arg(&config), 2);
        assert!(stderr.contains("gateway.toml") && stderr.contains("idle_timeout_seconds"), "{stderr}");
        assert!(stderr.contains("idle_timeout_ms"), "what would be right: {stderr}");
    }
    let client = site.path("client.toml");
    std::fs::write(&client, "gatway = \"127.0.0.1:1\"\n").unwrap();
    let (path, _) = site.file("file", 10);
    let (_, stderr) = run(stoq().arg("put").arg("--config").arg(&client).arg(&path), 2);
    assert!(stderr.contains("client.toml") && stderr.contains("gatway"), "{stderr}");
}

#[test]
fn a_key_file_that_is_missing_or_open_to_others_is_refused() {
    let mut site = Site::new();
    let ids = identities();
    site.identity = format!("certificate = {:?}\nkey = \"missing.key\"", ids.file("gateway.pem"));
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1);
    assert!(stderr.contains("missing.key"), "{stderr}");

    let open = site.path("open.key");
    std::fs::copy(ids.file("gateway.key"), &open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    site.identity = format!("certificate = {:?}\nkey = {open:?}", ids.file("gateway.pem"));
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1);
    assert!(stderr.contains("chmod 600") && stderr.contains("open.key"), "{stderr}");

    site.identity =
        format!("certificate = {:?}\nkey = {:?}", ids.file("gateway.pem"), ids.file("client.key"));
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1);
    assert!(stderr.contains("does not belong"), "{stderr}");
}

#[test]
fn a_port_in_use_is_refused_with_its_address_and_its_owner() {
    let site = Site::new();
    let _taken = UdpSocket::bind(site.v4()).unwrap();
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1);
    assert!(stderr.contains(&site.v4().to_string()) && stderr.contains("another program"), "{stderr}");
    assert!(stderr.contains(&format!("process {}", std::process::id())), "{stderr}");
    assert_eq!(stderr.matches("cannot bind").count(), 1, "once: {stderr}");
}

#[test]
fn a_second_gateway_on_the_same_store_is_refused() {
    let mut site = Site::new();
    let _gateway = site.start();
    let mut other = Site::new();
    other.store = site.store.clone();
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(other.configure()), 1);
    assert!(stderr.contains("in use by another process"), "{stderr}");
}

#[test]
fn a_store_that_cannot_be_made_is_refused_with_its_path() {
    let mut site = Site::new();
    std::fs::write(site.path("occupied"), b"a file").unwrap();
    site.store = site.path("occupied").join("store");
    let (_, stderr) = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1);
    assert!(stderr.contains("occupied"), "{stderr}");
}

#[test]
fn a_store_without_room_refuses_the_put_and_serves_on() {
    let mut site = Site::new();
    site.seed = "capacity_bytes = 100000\n".into();
    let _gateway = site.start();
    let (large, _) = site.file("large", 200_000);
    let (_, stderr) = run(site.client("put").arg(&large), 1);
    assert!(stderr.contains("quota") && stderr.contains("no room"), "{stderr}");
    assert_eq!(site.kept(), (vec![], vec![]));
    let (small, _) = site.file("small", 50_000);
    run(site.client("put").arg(&small), 0);
}

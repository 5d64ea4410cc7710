//! Reloads of a running gateway: the keys that change, the keys that do not, and transfers that continue.

use crate::support::{Gateway, Process, Site, identities, run, stoq, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Bytes of a file whose get takes longer than a reload.
const LARGE: usize = 64 << 20;

/// Writes the site's configuration and makes the gateway reload it, which must succeed. Returns the event.
fn taken(site: &Site, gateway: &mut Gateway) -> Value {
    site.configure();
    gateway.process.reload("reloaded")
}

/// Like [`taken`], for a configuration that the gateway must refuse. Returns the error.
fn refused(site: &Site, gateway: &mut Gateway) -> String {
    site.configure();
    gateway.process.reload("reload-refused")["error"].as_str().unwrap().to_owned()
}

fn unwatched() -> Site {
    let mut site = Site::new();
    site.more = "[quic]\nidle_timeout_ms = 60000\nkeep_alive_ms = 1000\n[reload]\nwatch = false\n".into();
    site
}

/// A client with this identity that expects this gateway.
fn client_as(site: &Site, tool: &str, who: &str, gateway: &str) -> Command {
    let ids = identities();
    let mut command = site.anonymous(tool);
    let (cert, key) = (ids.file(&format!("{who}.pem")), ids.file(&format!("{who}.key")));
    command.arg("--cert").arg(cert).arg("--key").arg(key).args(["--node-id", gateway]);
    command
}

#[test]
fn a_transfer_continues_over_a_change_of_certificate_and_trust() {
    let mut site = unwatched();
    let ids = identities();
    let mut gateway = site.start();
    let (path, token) = site.file("large", LARGE);
    run(site.client("put").arg(&path), 0);
    let copy = site.path("copy");
    let mut client = Process::spawn(site.client("get").arg(&token).arg("-o").arg(&copy));
    let part = site.path("copy.part");
    wait_until("a part of it is there", || std::fs::metadata(&part).is_ok_and(|part| part.len() > 1 << 20));
    client.signal(Signal::STOP);
    assert!(!copy.exists(), "the transfer was over too early for this test");

    // The gateway becomes another node, and trusts only the node that it was before.
    site.identity =
        format!("certificate = {:?}\nkey = {:?}", ids.file("stranger.pem"), ids.file("stranger.key"));
    site.trust = format!("node_ids = [\"{}\"]", ids.gateway);
    let told = taken(&site, &mut gateway);
    assert_eq!(
        told["changed"],
        json!(["identity.certificate", "identity.key", "trust.node_ids", "certificate"]),
        "{told}"
    );
    assert_eq!(told["node_id"], ids.stranger.as_str(), "{told}");
    let (small, _) = site.file("small", 10_000);
    run(client_as(&site, "put", "gateway", &ids.stranger).arg(&small), 0);
    let (_, stderr) = run(client_as(&site, "put", "client", &ids.stranger).arg(&small), 1);
    assert!(stderr.contains("does not let this node in") || stderr.contains("has not pinned"), "{stderr}");
    let (_, stderr) = run(client_as(&site, "put", "gateway", &ids.gateway).arg(&small), 1);
    assert!(stderr.contains("pin"), "it is another node: {stderr}");

    client.signal(Signal::CONT);
    assert_eq!(client.end().code(), Some(0), "{}", client.log());
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_reload_changes_the_limits_of_the_store() {
    let mut site = unwatched();
    site.seed = "capacity_bytes = 100000\n".into();
    let mut gateway = site.start();
    let (path, _) = site.file("file", 200_000);
    run(site.client("put").arg(&path), 1);
    site.seed = "capacity_bytes = 1000000\nquota_bytes = 50000\n".into();
    taken(&site, &mut gateway);
    let (_, stderr) = run(site.client("put").arg(&path), 1);
    assert!(stderr.contains("quota_bytes"), "{stderr}");
    site.seed = "capacity_bytes = 1000000\nquota_bytes = 500000\n".into();
    let told = taken(&site, &mut gateway);
    assert_eq!(told["changed"], json!(["application.0.quota_bytes"]), "{told}");
    assert_eq!(told["needs_restart"], json!([]), "{told}");
    run(site.client("put").arg(&path), 0);
    // The running cache would have no bound.
    site.seed = String::new();
    let error = refused(&site, &mut gateway);
    assert!(error.contains("the running cache needs a capacity_bytes; set one"), "{error}");
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported() {
    let mut site = unwatched();
    let ids = identities();
    let mut gateway = site.start();
    let (path, _) = site.file("file", 10_000);
    let (good, trust) = (site.identity.clone(), site.trust.clone());
    site.trust = format!("node_ids = [\"{}\"]", ids.stranger);
    site.identity =
        format!("certificate = {:?}\nkey = {:?}", ids.file("gateway.pem"), ids.file("client.key"));
    let error = refused(&site, &mut gateway);
    assert!(error.contains("does not belong"), "{error}");
    site.identity = good.clone();
    site.trust = format!("{} and more", site.trust);
    let error = refused(&site, &mut gateway);
    assert!(error.contains("gateway.toml"), "{error}");
    site.trust = format!("ca = \"missing.pem\"\n{trust}");
    let error = refused(&site, &mut gateway);
    assert!(error.contains("missing.pem"), "{error}");
    site.trust = trust;
    site.more += "[log]\nlevel = \"stoq=loud\"\n";
    let error = refused(&site, &mut gateway);
    assert!(error.contains("stoq=loud"), "{error}");
    // The client is still trusted, and the gateway is the same node.
    run(site.client("put").arg(&path), 0);
    site.more = site.more.replace("stoq=loud", "info,stoq=debug");
    taken(&site, &mut gateway);
    run(site.client("put").arg(&path), 0);
    wait_until("the log has lines of the new level", || gateway.process.log().contains(" DEBUG "));
    let log = gateway.process.log();
    assert_eq!(log.matches(" ERROR ").count(), 4, "an operator is told, too: {log}");
}

#[test]
fn keys_that_need_a_restart_are_named_and_the_others_change() {
    let mut site = unwatched();
    let mut gateway = site.start();
    let (path, _) = site.file("file", 20_000);
    site.seed = "quota_bytes = 16384\n".into();
    site.more += "[workers]\ncount = 2\n[hops]\ncache = false\n";
    let buffer = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    assert!(buffer.contains("buffer_bytes = 1048576"));
    let told = taken(&site, &mut gateway);
    assert_eq!(told["changed"], json!(["application.0.quota_bytes"]), "{told}");
    assert_eq!(told["needs_restart"], json!(["workers.count"]), "{told}");
    run(site.client("put").arg(&path), 1);
    // Logged again, since the restart is still needed.
    site.seed.clear();
    let told = taken(&site, &mut gateway);
    assert_eq!(told["needs_restart"], json!(["workers.count"]), "{told}");
    run(site.client("put").arg(&path), 0);
    gateway.process.stop();
    let log = gateway.process.log();
    assert_eq!(log.matches("workers.count needs a restart").count(), 2, "an operator is told, too: {log}");
}

#[test]
fn a_reload_adds_and_removes_peer_gateways() {
    let ids = identities();
    let (mut near, mut far) = (unwatched(), unwatched());
    far.identity =
        format!("certificate = {:?}\nkey = {:?}", ids.file("stranger.pem"), ids.file("stranger.key"));
    near.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, ids.stranger);
    far.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, ids.gateway);
    let alone = near.more.clone();
    let mut near_gateway = near.start();
    let mut far_gateway = far.start();
    let (path, token) = near.file("file", 300_000);
    run(far.anonymous("put").args(["--node-id", &ids.stranger]).args(as_client()).arg(&path), 0);
    assert!(
        get_via(&near, &token, "first", 1).contains("no peer gateway"),
        "the peer gateway is not configured yet"
    );
    near.more =
        format!("{alone}[[gateway]]\nnode_id = \"{}\"\naddresses = [\"{}\"]\n", ids.stranger, far.v4());
    taken(&near, &mut near_gateway);
    get_via(&near, &token, "second", 0);
    assert!(std::fs::read(near.path("second")).unwrap() == std::fs::read(&path).unwrap());
    near.more = alone;
    taken(&near, &mut near_gateway);
    assert!(get_via(&near, &token, "third", 1).contains("no peer gateway"));
    for gateway in [&mut near_gateway, &mut far_gateway] {
        gateway.process.signal(Signal::TERM);
        assert_eq!(gateway.process.end().code(), Some(0));
    }
}

/// Gets by way of the other gateway. Returns standard error.
fn get_via(site: &Site, token: &str, copy: &str, code: i32) -> String {
    let mut command = site.client("get");
    run(command.args([token, "--via", &identities().stranger]).arg("-o").arg(site.path(copy)), code).1
}

fn as_client() -> [String; 4] {
    let ids = identities();
    let path = |name: &str| ids.file(name).display().to_string();
    ["--cert".into(), path("client.pem"), "--key".into(), path("client.key")]
}

/// The next reload that the gateway does by itself and takes. It may refuse one before it, between the files of a pair.
fn noticed(gateway: &mut Gateway) -> Value {
    loop {
        let event = gateway.process.event().expect("the gateway runs");
        if event["event"] == "reloaded" {
            return event;
        }
        assert_eq!(event["event"], "reload-refused", "{event}");
    }
}

#[test]
fn replaced_files_are_noticed() {
    let mut site = Site::new();
    let ids = identities();
    let copy = |name: &str, to: &Path| {
        let new = to.with_extension("new");
        // A copy keeps the permissions.
        std::fs::copy(ids.file(name), &new).unwrap();
        std::fs::rename(new, to).unwrap();
    };
    std::fs::create_dir(site.path("tls")).unwrap();
    let (cert, key) = (site.path("tls/node.pem"), site.path("tls/node.key"));
    copy("gateway.pem", &cert);
    copy("gateway.key", &key);
    site.identity = format!("certificate = {cert:?}\nkey = {key:?}");
    let mut gateway = site.start();
    let (path, _) = site.file("file", 10_000);
    run(site.client("put").arg(&path), 0);
    copy("stranger.pem", &cert);
    copy("stranger.key", &key);
    let told = noticed(&mut gateway);
    assert_eq!(told["node_id"], ids.stranger.as_str(), "{told}");
    let mut put = site.anonymous("put");
    run(put.args(["--node-id", &ids.stranger]).args(as_client()).arg(&path), 0);
    site.more = "[log]\nlevel = \"info,stoq=debug\"\n".into();
    site.configure();
    let told = noticed(&mut gateway);
    assert_eq!(told["changed"][0], "log.level", "the file itself, written in place: {told}");
}

#[test]
fn log_lines_can_be_json() {
    let mut site = Site::new();
    site.more += "[log]\nformat = \"json\"\n";
    let mut gateway = site.start();
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.end().code(), Some(0));
    let log = gateway.process.log();
    assert!(log.lines().count() > 3);
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
    // The client's tools print text all the same.
    let (_, stderr) = run(stoq().args(["get", "b3:short", "-o", "x"]), 2);
    assert!(!stderr.contains('{'), "{stderr}");
}

#[test]
fn a_reload_turns_the_log_of_connections_on_and_off() {
    let mut site = unwatched();
    let mut gateway = site.start();
    let (path, token) = site.file("file", 300_000);
    run(site.client("put").arg(&path), 0);
    let off = site.more.clone();
    site.more = format!("{off}[qlog]\ndirectory = \"qlog\"\n");
    taken(&site, &mut gateway);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 0);
    site.more = off;
    taken(&site, &mut gateway);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy-2")), 0);
    let logs = || {
        let entries = std::fs::read_dir(site.path("qlog")).unwrap();
        let texts = entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.collect::<Vec<_>>()
    };
    // The rest of the log is written once the connection has ended.
    wait_until("the log is whole", || logs().iter().any(|log| log.matches("packet_sent").count() > 100));
    let logs = logs();
    assert_eq!(logs.len(), 1, "one connection was logged");
    for record in logs[0].split('\u{1e}').skip(1) {
        serde_json::from_str::<Value>(record).unwrap();
    }
    assert!(
        logs[0].contains("packet_received") && logs[0].contains("recovery:metrics_updated"),
        "{}",
        logs[0]
    );
}

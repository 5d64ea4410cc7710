//! Rights of real peers: refusals that name the right, the first lines of a log, reloads, and what an operator sees.

use crate::support::{Process, Site, free_port, identities, json, run, stoq_gateway, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A site whose client may do this.
fn site(allow: &str) -> Site {
    let mut site = Site::new();
    site.more = format!("{}[reload]\nwatch = false\n{}", site.more, section(allow));
    site
}

fn section(allow: &str) -> String {
    let client = &identities().client;
    format!("[[rights]]\nname = \"peers\"\nnode_ids = [\"{client}\"]\n{allow}\n")
}

#[track_caller]
fn assert_refused(stderr: &str, right: &str) {
    let named = format!(
        "not authorized: right {right} is not given to this peer; have the gateway's operator allow it"
    );
    assert!(stderr.contains(&named), "{stderr}");
}

#[test]
fn a_read_only_peer_and_a_write_only_one_are_told_the_right_that_they_lack() {
    let mut reader = site("allow = [\"get\", \"locate\"]\nqueues = [1]");
    let mut writer = site("allow = [\"put\"]");
    let (_reader, _writer) = (reader.start(), writer.start());
    let (path, token) = writer.file("file", 100_000);
    run(writer.client("put").arg(&path), 0);
    let copy = writer.path("copy");
    let (_, stderr) = run(writer.client("get").arg(&token).arg("-o").arg(&copy), 1);
    assert_refused(&stderr, "get");
    let (_, stderr) = run(writer.client("locate").arg(&token), 1);
    assert_refused(&stderr, "locate");
    let (_, stderr) = run(writer.client("ping").args(["--count", "1"]), 1);
    let named =
        "right messages is not given to this peer for queue 1; have the gateway's operator add the queue";
    assert!(stderr.contains(named), "{stderr}");

    let (_, stderr) = run(reader.client("put").arg(&path), 1);
    assert_refused(&stderr, "put");
    run(reader.client("locate").arg(&token), 0);
    run(reader.client("ping").args(["--count", "1"]), 0);
    let (_, stderr) = run(reader.client("get").arg(&token).arg("-o").arg(&copy), 1);
    assert!(stderr.contains("not found"), "a reader may ask: {stderr}");
}

#[test]
fn a_reload_takes_a_right_from_an_open_connection_and_lets_its_transfer_end() {
    let mut site = site("allow = \"all\"");
    let mut gateway = site.start();
    let (path, token) = site.file("large", 64 << 20);
    run(site.client("put").arg(&path), 0);
    let (copy, part) = (site.path("copy"), site.path("copy.part"));
    let mut client = Process::spawn(site.client("get").arg(&token).arg("-o").arg(&copy));
    wait_until("a part of it is there", || std::fs::metadata(&part).is_ok_and(|part| part.len() > 1 << 20));
    client.signal(Signal::STOP);
    assert!(!copy.exists(), "the transfer was over too early for this test");
    site.more = site.more.replace("allow = \"all\"", "allow = []");
    site.configure();
    let told = gateway.process.reload("reloaded");
    assert_eq!(told["changed"], serde_json::json!(["rights"]), "{told}");
    let (_, stderr) = run(site.client("get").arg(&token).arg("-o").arg(site.path("another")), 1);
    assert_refused(&stderr, "get");
    client.signal(Signal::CONT);
    assert_eq!(client.end().code(), Some(0), "{}", client.log());
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    // A file that is wrong takes nothing and gives nothing.
    site.more = site.more.replace("allow = []", "allow = \"all\"\nauthorities = [\"none.pem\"]");
    site.configure();
    let told = gateway.process.reload("reload-refused");
    assert!(told["error"].as_str().unwrap().contains("none.pem"), "{told}");
    let (_, stderr) = run(site.client("get").arg(&token).arg("-o").arg(site.path("another")), 1);
    assert_refused(&stderr, "get");
    gateway.process.stop();
    let log = gateway.process.log();
    assert!(
        log.contains("rights: nothing") && log.contains("a peer is refused what it has no right to"),
        "{log}"
    );
}

fn fetched(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn the_sections_in_force_and_the_refusals_are_seen_and_no_peers_are() {
    let mut site = site("allow = [\"put\", \"transit\"]\nqueues = [1]\nquota_bytes = 50000");
    let port = free_port();
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    let gateway = site.start();
    let (path, token) = site.file("file", 100_000);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 1);
    let (_, stderr) = run(site.client("put").arg(&path), 1);
    assert!(stderr.contains("quota"), "{stderr}");
    let status: Value = serde_json::from_str(&fetched(port, "/status")).unwrap();
    let expected = serde_json::json!([{"name": "peers", "allow": ["put", "transit"], "queues": [1]}]);
    assert_eq!(status["rights"], expected);
    let metrics = fetched(port, "/metrics");
    for line in ["right=\"get\"} 1", "right=\"put\"} 0", "right=\"messages\"} 0"] {
        assert!(
            metrics.contains(&format!("stoq_rights_refused_total{{worker=\"0\",{line}")),
            "{line}\n{metrics}"
        );
    }
    drop(gateway);
}

#[test]
fn the_log_and_the_check_say_what_peers_may_do() {
    let mut open = Site::new();
    let mut gateway = open.start();
    gateway.process.stop();
    let log = gateway.process.log();
    assert!(log.contains("rights: every peer that may connect may do everything"), "{log}");
    let found = |site: &Site| {
        let report = json(stoq_gateway().args(["check", "--config"]).arg(site.configure()));
        let findings = report["findings"].as_array().unwrap().clone();
        let of_rights = findings.into_iter().filter(|finding| finding["check"] == "rights");
        of_rights.map(|finding| format!("{} {}", finding["level"], finding["found"])).collect::<Vec<_>>()
    };
    assert_eq!(found(&open), ["\"ok\" \"every peer that may connect may do everything\""]);
    let named = site("allow = [\"get\"]\nqueues = \"all\"");
    assert_eq!(found(&named), ["\"ok\" \"peers: get, messages\""]);
    let mut idle = site("allow = [\"transit\"]");
    idle.more += "[hops]\ntransit = \"nobody\"\n";
    let warned = found(&idle);
    assert!(warned[0].starts_with("\"warning\"") && warned[0].contains("it allows transit"), "{warned:?}");
    let mut off = site("allow = [\"get\"]");
    off.trust = "client_auth = \"off\"".into();
    let warned = found(&off);
    assert!(warned[0].contains("it names peers by their certificates"), "{warned:?}");
}

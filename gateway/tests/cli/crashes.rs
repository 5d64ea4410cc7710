//! Processes that are stopped, killed and restarted in the middle of a transfer.

use crate::support::{Process, Site, identities, json, run, stoq, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use stoq_gateway::admin::client::Remote;

/// Bytes of a file large enough to be stopped in the middle of its transfer.
const LARGE: usize = 48 << 20;

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn part_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.part", path.display()))
}

/// A get of a large file, with the gateway stopped in the middle of it.
fn get_half_way(site: &mut Site) -> (crate::support::Gateway, Process, PathBuf, PathBuf, String) {
    site.more = String::new();
    let gateway = site.start();
    let (path, token) = site.file("large", LARGE);
    run(site.client("put").arg(&path), 0);
    let copy = site.path("copy");
    let client = Process::spawn(site.client("get").arg(&token).arg("-o").arg(&copy));
    wait_until("a part of it is there", || len(&part_of(&copy)) > 1 << 20);
    gateway.process.signal(Signal::STOP);
    assert!(!copy.exists(), "the transfer was over too early for this test");
    (gateway, client, path, copy, token)
}

#[test]
fn an_interrupted_get_leaves_a_part_and_continues_where_it_stopped() {
    let mut site = Site::new();
    let (gateway, mut client, path, copy, token) = get_half_way(&mut site);
    client.signal(Signal::INT);
    assert_eq!(client.end().code(), Some(130), "{}", client.log());
    assert!(!copy.exists(), "there is no finished file");
    let have = len(&part_of(&copy));
    assert!(have > 1 << 20 && have < LARGE as u64);
    gateway.process.signal(Signal::CONT);
    let got = json(site.client("get").arg(&token).arg("-o").arg(&copy));
    assert_eq!(got["resumed_at"], have - have % 16384);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    assert!(!part_of(&copy).exists());
}

#[test]
fn a_killed_get_continues_where_it_stopped() {
    let mut site = Site::new();
    let (gateway, mut client, path, copy, token) = get_half_way(&mut site);
    client.signal(Signal::KILL);
    client.end();
    assert!(!copy.exists(), "there is no finished file");
    gateway.process.signal(Signal::CONT);
    let got = json(site.client("get").arg(&token).arg("-o").arg(&copy));
    assert!(got["resumed_at"].as_u64().unwrap() > 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_get_to_a_pipe_ends_with_the_error_when_its_gateway_is_gone() {
    let mut site = Site::new();
    let gateway = site.start();
    let (path, token) = site.file("large", LARGE);
    run(site.client("put").arg(&path), 0);
    let config = site.client_file("[quic]\nidle_timeout_ms = 2000\nkeep_alive_ms = 500\n");
    let mut get = stoq();
    get.args(["get", "--config"]).arg(&config).args([&token, "-o", "-"]);
    let mut client = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1]).unwrap();
    gateway.process.signal(Signal::KILL);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.len() + 1 < LARGE, "the transfer was over too early for this test");
    let output = client.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("ended"), "the error of the connection, not of what is asked after it: {error}");
}

#[test]
fn a_damaged_part_is_noticed_and_fetched_again() {
    let mut site = Site::new();
    let (gateway, mut client, path, copy, token) = get_half_way(&mut site);
    client.signal(Signal::INT);
    client.end();
    let mut part = std::fs::read(part_of(&copy)).unwrap();
    part[5000] ^= 1;
    std::fs::write(part_of(&copy), part).unwrap();
    gateway.process.signal(Signal::CONT);
    let (_, stderr) = run(site.client("get").arg(&token).arg("-o").arg(&copy), 1);
    assert!(stderr.contains("run the same command again"), "{stderr}");
    assert!(!copy.exists());
    let got = json(site.client("get").arg(&token).arg("-o").arg(&copy));
    assert_eq!(got["resumed_at"], 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

/// A put of a large file, with the gateway stopped in the middle of it.
fn put_half_way(site: &mut Site) -> (crate::support::Gateway, Process, PathBuf, String) {
    let gateway = site.start();
    let (path, token) = site.file("large", LARGE);
    let client = Process::spawn(site.client("put").arg(&path));
    wait_until("it is being written", || !site.kept().1.is_empty());
    gateway.process.signal(Signal::STOP);
    let (kept, temporary) = site.kept();
    assert!(kept.is_empty() && !temporary.is_empty(), "the transfer was over too early for this test");
    (gateway, client, path, token)
}

#[test]
fn a_gateway_killed_in_the_middle_of_a_put_keeps_no_part_of_it() {
    let mut site = Site::new();
    let (mut gateway, client, path, token) = put_half_way(&mut site);
    gateway.process.signal(Signal::KILL);
    gateway.process.end();
    drop(client);
    assert!(site.kept().0.is_empty());
    let _gateway = site.start();
    assert_eq!(site.kept(), (vec![], vec![]), "the incomplete payload is removed");
    let copy = site.path("copy");
    let (_, stderr) = run(site.client("get").arg(&token).arg("-o").arg(&copy), 1);
    assert!(stderr.contains("not found"), "{stderr}");
    assert!(!copy.exists());
    run(site.client("put").arg(&path), 0);
    run(site.client("get").arg(&token).arg("-o").arg(&copy), 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_restarted_gateway_resets_the_connections_of_the_killed_one() {
    let mut site = Site::new();
    // Only a reset may end the client's connection.
    let config = site.path("client.toml");
    std::fs::write(
        &config,
        format!("[trust]\nnode_ids = [\"{}\"]\n[quic]\nidle_timeout_ms = 3600000\n", identities().gateway),
    )
    .unwrap();
    site.more = "[quic]\nidle_timeout_ms = 3600000\n".into();
    let (mut gateway, at) = crate::admin::start(&mut site, "");
    let mut ping = site.client("ping");
    let mut client = Process::spawn(ping.arg("--config").arg(&config).args(["-c", "1000000", "-i", "0.1"]));
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    wait_until("the client is served", || {
        let (_, shown) = remote.get("/debug/connections").unwrap();
        let workers: Value = serde_json::from_str(&shown).unwrap();
        workers[0][0]["established"] == true && workers[0][0]["received_bytes"].as_u64() > Some(5_000)
    });
    assert!(client.is_running(), "{}", client.log());
    gateway.process.signal(Signal::KILL);
    gateway.process.end();
    let _gateway = site.start();
    assert_eq!(client.end().code(), Some(1));
    assert!(client.log().contains("stateless reset"), "{}", client.log());
}

#[test]
fn a_client_killed_in_the_middle_of_a_put_leaves_nothing_at_the_gateway() {
    let mut site = Site::new();
    let (gateway, mut client, path, _) = put_half_way(&mut site);
    client.signal(Signal::KILL);
    client.end();
    gateway.process.signal(Signal::CONT);
    wait_until("the gateway forgets it", || site.kept().1.is_empty());
    assert!(site.kept().0.is_empty());
    run(site.client("put").arg(&path), 0);
}

#[test]
fn an_interrupted_put_ends_with_130_and_leaves_nothing_at_the_gateway() {
    let mut site = Site::new();
    let (gateway, mut client, _, _) = put_half_way(&mut site);
    client.signal(Signal::INT);
    assert_eq!(client.end().code(), Some(130), "{}", client.log());
    gateway.process.signal(Signal::CONT);
    wait_until("the gateway forgets it", || site.kept().1.is_empty());
    assert!(site.kept().0.is_empty());
}

#[test]
fn a_terminated_gateway_finishes_running_requests_and_ends_with_zero() {
    let mut site = Site::new();
    site.more = "[shutdown]\ndrain_ms = 60000\n".into();
    let mut gateway = site.start();
    let (path, token) = site.file("large", LARGE);
    run(site.client("put").arg(&path), 0);
    let copy = site.path("copy");
    let mut client = Process::spawn(site.client("get").arg(&token).arg("-o").arg(&copy));
    wait_until("a part of it is there", || len(&part_of(&copy)) > 1 << 20);
    gateway.process.signal(Signal::TERM);
    assert!(gateway.process.is_running() && !copy.exists(), "the transfer was over too early for this test");
    assert_eq!(client.end().code(), Some(0), "{}", client.log());
    assert_eq!(gateway.process.end().code(), Some(0));
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    let log = gateway.process.log();
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    assert!(site.kept().1.is_empty());
    // The port and the store are free again.
    let gateway = site.start();
    drop(gateway);
}

#[test]
fn an_idle_gateway_ends_at_once_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::new();
        let mut gateway = site.start();
        gateway.process.signal(signal);
        assert_eq!(gateway.process.end().code(), Some(0));
    }
}

#[test]
fn a_gateway_keeps_its_payloads_over_a_restart() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let (path, token) = site.file("file", 3_000_000);
    run(site.client("put").arg(&path), 0);
    // A confirmed put is durable: the gateway is killed, without an orderly end.
    gateway.process.signal(Signal::KILL);
    gateway.process.end();
    let _gateway = site.start();
    let copy = site.path("copy");
    run(site.client("get").arg(&token).arg("-o").arg(&copy), 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_gateway_whose_log_reader_has_gone_serves_and_ends_in_order() {
    let mut site = Site::new();
    let mut gateway = site.start();
    gateway.process.stop_listening();
    let (path, token) = site.file("file", 300_000);
    run(site.client("put").arg(&path), 0);
    // A refused client causes a log line.
    let stranger = identities().stranger.clone();
    run(site.anonymous("put").args(["--node-id", &stranger]).arg(&path), 1);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 0);
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.end().code(), Some(0));
}

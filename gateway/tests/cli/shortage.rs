//! Bounds that peers press: a gateway serves on, and says which bound is short and who holds it.

use crate::admin::{get, start, value};
use crate::support::{Site, identities, run, wait_until};
use std::process::{Command, Stdio};
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

fn remote(at: &str) -> Remote {
    Remote::new(&format!("http://{at}"), None, None).unwrap()
}

/// What the endpoint says, whatever the status: a port counts as up after a second.
fn ready(remote: &Remote) -> String {
    remote.get("/readyz").unwrap().1
}

/// A load of stoq-pktgen, for as long as it is kept.
fn load(site: &Site, mode: &str, options: &[&str]) -> Load {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoq-pktgen"));
    command.arg(mode).args(options).args(["--seconds", "600", "--config"]).arg(site.client_file(""));
    Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_gateway_short_of_half_open_connections_says_so_and_serves() {
    let mut site = Site::new();
    let (mut gateway, at) = start(&mut site, "");
    let remote = remote(&at);
    wait_until("the gateway is ready", || ready(&remote) == "ok\n");
    let flood = load(&site, "halves", &["--rate", "2000"]);
    let told = "ok\nworker 0 is short of half-open connections: ";
    wait_until("the endpoint says what is short", || {
        let is_told = ready(&remote).starts_with(told);
        is_told && value(&parse(&get(&remote, "/metrics")), "stoq_half_open_short", &[("worker", "0")]) == 1.0
    });
    run(site.client("ping").args(["-c", "1", "--timeout", "60"]), 0);
    drop(flood);
    wait_until("it is not short any more", || ready(&remote) == "ok\n");
    gateway.process.stop();
    let log = gateway.process.log();
    assert!(log.contains("clients must prove their addresses first"), "{log}");
}

#[test]
fn a_gateway_short_of_memory_for_peers_names_the_node_that_holds_most() {
    let mut site = Site::new();
    site.more += "window_budget_bytes = 16777216\n";
    let (mut gateway, at) = start(&mut site, "");
    let remote = remote(&at);
    let held = load(&site, "goodput", &["--connections", "64", "--size", "1000", "--rate", "64"]);
    let client = &identities().client;
    wait_until("the endpoint says what is short", || {
        let ready = ready(&remote);
        let is_told = ready.starts_with("ok\nmemory for peers is short: ") && ready.contains(client.as_str());
        is_told && value(&parse(&get(&remote, "/metrics")), "stoq_window_budget_short", &[]) == 1.0
    });
    // The endpoint looks when it is asked, the log once a second; most may be held by clients that are not known yet when it does.
    let told = "the budget of memory for peers is short, and this node holds most of it";
    wait_until("the log says it", || gateway.process.log().contains(told));
    drop(held);
    wait_until("it is not short any more", || ready(&remote) == "ok\n");
    gateway.process.stop();
}

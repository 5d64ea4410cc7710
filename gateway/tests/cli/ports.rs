//! A gateway with two DPDK ports: two memifs, each with its own network.

use crate::admin::{get, value};
use crate::support::{Process, Site, identities, run, stoq, stoq_gateway, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

/// A device at one end of a memif.
fn memif(site: &Site, number: usize, socket: &str, role: &str) -> String {
    let socket = site.path(socket);
    let socket = socket.display();
    format!("device = \"net_memif{number},id=0,socket={socket},socket-abstract=no,rsize=10,role={role}\"\n")
}

/// Writes a configuration of `of`, one of the identities.
fn written(site: &Site, (file, of): (&str, &str), network: &str, more: &str) -> PathBuf {
    let ids = identities();
    let text = format!(
        "[network]\nkind = \"dpdk\"\nhuge_pages = \"none\"\nmemory_mib = 128\n{network}\n\
         [identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{}\", \"{}\"]\n{more}",
        ids.file(&format!("{of}.pem")),
        ids.file(&format!("{of}.key")),
        ids.client,
        ids.gateway,
    );
    let path = site.path(file);
    std::fs::write(&path, text).unwrap();
    path
}

/// A client on the other end of the second port, or of the first, with a queue for each of its workers.
fn client(
    site: &Site,
    (file, socket, network): (&str, &str, u8),
    workers: u8,
) -> impl Fn(&str, &str) -> Command {
    let device = memif(site, 0, socket, "client");
    let network = format!("{device}addresses = [\"10.{network}.0.2/24\"]\n");
    let more = format!("[workers]\ncount = {workers}\n[log]\nlevel = \"error\"\n");
    let config = written(site, (file, "client"), &network, &more);
    let directory = site.directory.path().to_owned();
    move |name, gateway| {
        let mut command = stoq();
        command.args([name, "--gateway", gateway]).arg("--config").arg(&config).current_dir(&directory);
        command
    }
}

/// The configuration of a gateway of two workers and two ports, the first with one queue, and its admin endpoint.
fn gateway(site: &Site) -> (PathBuf, Remote) {
    // Another program may take this free port. Then the gateway does not start, and the test fails.
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n\
         [workers]\ncount = 2\n[admin]\nlisten = \"{at}\"\n"
    );
    let network = format!(
        "{}addresses = [\"10.77.0.1/24\"]\nqueues = 1\n[[network.port]]\n{}addresses = [\"10.78.0.1/24\"]\nmtu = 1400\n",
        memif(site, 0, "a.sock", "server"),
        memif(site, 1, "b.sock", "server"),
    );
    let config = written(site, ("gateway.toml", "gateway"), &network, &more);
    (config, Remote::new(&format!("http://{at}"), None, None).unwrap())
}

#[test]
fn a_gateway_with_two_ports_is_ready_while_one_is_up() {
    let site = Site::new();
    let (config, remote) = gateway(&site);
    let gateway = Process::serve(&config).unwrap_or_else(|log| panic!("{log}"));
    let ports = gateway.up["workers"][1]["ports"].as_array().expect("the ports of worker 1");
    let shown = |port: &Value| format!("{} {}", port["local"][0].as_str().unwrap(), port["mtu"]);
    let shown: Vec<_> = ports.iter().map(shown).collect();
    assert_eq!(shown, ["10.77.0.1:4433 1500", "10.78.0.1:4433 1400"], "{}", gateway.up);
    assert_eq!(gateway.up["workers"][0]["mtu"], 1400, "all connections fit into each port");
    let (code, reasons) = remote.get("/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(reasons.contains("port net_memif0") && reasons.contains("port net_memif1"), "{reasons}");

    // Another gateway holds the other end of the first port, and connects.
    let held = format!("{}addresses = [\"10.77.0.9/24\"]\n", memif(&site, 0, "a.sock", "client"));
    let peer =
        format!("[[gateway]]\nnode_id = \"{}\"\naddresses = [\"10.77.0.1:4433\"]\n", identities().gateway);
    let holder = written(&site, ("holder.toml", "client"), &held, &peer);
    let _holder = Process::serve(&holder).unwrap_or_else(|log| panic!("{log}"));
    wait_until("the first port is up", || remote.get("/readyz").unwrap().0 == 200);
    let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
    let short = status["short"].to_string();
    assert!(short.contains("is down; the others serve on") && short.contains("net_memif1"), "{status}");
    let links: Vec<_> = status["ports"].as_array().unwrap().iter().map(|port| &port["link_up"]).collect();
    assert_eq!(links, [true, false], "{status}");
    assert_eq!(status["ports"][1]["workers"], serde_json::json!([0, 1]), "{status}");
    let counted = || {
        let all = parse(&get(&remote, "/metrics"));
        let of = |name: &str| {
            let device = |port: usize| status["ports"][port]["device"].as_str().unwrap();
            [0, 1].map(|port| value(&all, name, &[("device", device(port))]))
        };
        let [rx, tx] = ["stoq_port_rx_packets_total", "stoq_port_tx_packets_total"].map(of);
        assert_eq!((rx[1], tx[1]), (0.0, 0.0), "the second port has no peer");
        assert_eq!(of("stoq_port_mtu_bytes"), [1500.0, 1400.0]);
        rx[0] > 0.0 && tx[0] > 0.0
    };
    wait_until("the first port has counted packets", counted);
}

#[test]
fn a_payload_that_came_by_one_port_is_fetched_by_the_other() {
    let site = Site::new();
    let (config, _) = gateway(&site);
    let (checked, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 0);
    for told in [
        "the port opens: net_memif0",
        "the port opens: net_memif1",
        "net_memif0: not each worker has a queue that the device fills",
    ] {
        assert!(checked.contains(told), "{told}: {checked}");
    }
    assert!(!checked.contains("net_memif1: not each worker"), "its peer may have two queues: {checked}");

    let mut gateway = Process::serve(&config).unwrap_or_else(|log| panic!("{log}"));
    let (file, token) = site.file("payload", 300_000);
    let by_second = client(&site, ("second.toml", "b.sock", 78), 2);
    run(by_second("put", "10.78.0.1:4433").arg(&file), 0);
    let by_first = client(&site, ("first.toml", "a.sock", 77), 1);
    run(by_first("get", "10.77.0.1:4433").arg(&token).args(["-o", "back"]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());

    gateway.signal(Signal::TERM);
    let ended = gateway.event().expect("the gateway ends in order");
    let dropped: Vec<_> = ["drop_foreign", "drop_no_route", "drop_no_buffer"]
        .into_iter()
        .filter(|name| (0..2).any(|worker| ended["workers"][worker]["counters"][name].as_u64().is_some()))
        .collect();
    assert!(dropped.is_empty(), "{dropped:?}: {ended}");
    assert!(gateway.end().success());
}

//! The events of `run --json`.

use crate::support::{PATIENCE, Process, Site, identities, run, stoq_gateway, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use stoq_gateway::admin::client::Remote;

#[test]
fn the_events_tell_that_a_gateway_serves_and_its_final_counters() {
    let site = Site::new();
    let mut gateway = Process::serve(&site.configure()).unwrap();
    let up = gateway.up.clone();
    assert_eq!(
        (&up["certificate_valid"], up["node_id"].as_str()),
        (&true.into(), Some(identities().gateway.as_str())),
        "{up}"
    );
    assert_eq!(up["version"], env!("CARGO_PKG_VERSION"));
    let network = &up["workers"][0];
    assert_eq!(
        (network["kind"].as_str(), network["driver"].as_str()),
        (Some("kernel-udp"), Some("udp")),
        "{up}"
    );
    assert_eq!(network["local"][0], site.v4().to_string(), "{up}");
    for none in ["offloads", "huge_pages", "admin", "capture"] {
        assert!(up[none].is_null(), "{none}: {up}");
    }
    // The event is true: the first client is served.
    run(site.client("ping").args(["--count", "2", "--interval", "0"]), 0);
    let reloaded = gateway.reload("reloaded");
    assert_eq!(
        reloaded,
        json!({"event": "reloaded", "changed": [], "needs_restart": [], "node_id": identities().gateway})
    );
    std::fs::write(site.path("gateway.toml"), "[network").unwrap();
    let refused = gateway.reload("reload-refused");
    assert!(refused["error"].as_str().unwrap().contains("gateway.toml"), "{refused}");
    gateway.signal(Signal::TERM);
    let ended = gateway.event().unwrap();
    assert_eq!(ended["event"], "ended");
    let counted = &ended["workers"][0];
    assert!(counted["counters"]["rx_packets"].as_u64().unwrap() > 0, "{ended}");
    assert!(counted["stages"]["ns"].is_object(), "{ended}");
    assert!(gateway.event().is_none(), "nothing follows");
    assert!(gateway.end().success());
}

#[test]
fn a_service_manager_learns_that_the_gateway_is_ready_then_works_then_stops() {
    let site = Site::new();
    let (socket, config) = (site.path("notify"), site.configure());
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let len = manager.recv(&mut text).expect("the gateway tells something");
        String::from_utf8(text[..len].to_vec()).unwrap().trim().to_owned()
    };
    let serve = || {
        let mut command = stoq_gateway();
        command.args(["run", "--config"]).arg(&config);
        Process::serve_by(command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000"))
    };
    let mut gateway = serve().unwrap();
    assert_eq!(told(), "READY=1");
    assert_eq!((told(), told()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    gateway.signal(Signal::TERM);
    let last = loop {
        let told = told();
        if told != "WATCHDOG=1" {
            break told;
        }
    };
    assert_eq!(last, "STOPPING=1");
    assert_eq!(gateway.event().unwrap()["event"], "ended");
    assert!(gateway.end().success());

    // One that does not start is never ready.
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 256]).is_ok() {}
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("gateway.pem", "missing.pem"))
        .unwrap();
    assert!(serve().err().expect("there is no certificate").contains("missing.pem"));
    assert!(manager.recv(&mut [0; 256]).is_err(), "nothing is told");
}

#[test]
fn the_event_names_the_port_of_the_admin_endpoint() {
    let mut site = Site::new();
    site.more += "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let gateway = Process::serve(&site.configure()).unwrap();
    let admin = gateway.up["admin"].as_str().unwrap();
    assert!(!admin.ends_with(":0"), "{admin}");
    // The worker may not have looked at the port yet.
    let url = format!("http://{admin}");
    wait_until("ready", || stoq_gateway().args(["health", "--url", &url]).output().unwrap().status.success());
}

#[test]
fn a_reader_may_leave_after_the_first_event() {
    let mut site = Site::new();
    site.more += "[admin]\nlisten = \"127.0.0.1:0\"\n[reload]\nwatch = false\n";
    let mut command = stoq_gateway();
    command.args(["run", "--json", "--config"]).arg(site.configure());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut up = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut up).unwrap();
    let up: Value = serde_json::from_str(&up).unwrap();
    assert_eq!(up["event"], "up");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, Signal::HUP).unwrap();
    let remote = Remote::new(up["admin"].as_str().unwrap(), None, None).unwrap();
    let taken = "stoq_config_reloads_total{result=\"taken\"} 1";
    wait_until("the gateway reads its files again", || remote.get("/metrics").unwrap().1.contains(taken));
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_gateway_that_cannot_print_its_first_event_does_not_serve() {
    let site = Site::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = stoq_gateway();
    command.args(["run", "--json", "--config"]).arg(site.configure());
    let output = command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output cannot be written"), "{said}");
}

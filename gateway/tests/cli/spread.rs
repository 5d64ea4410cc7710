//! Two workers of a gateway on a DPDK port with one queue, and with two.

use crate::admin::{get, value};
use crate::support::{Process, Site, identities, run, stoq, stoq_gateway};
use rustix::process::Signal;
use std::net::TcpListener;
use std::path::PathBuf;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

/// The most clients, one after another. Each flow meets either worker with even chance: that all meet one has the chance of 2⁻⁶³.
const CLIENTS_MAX: u16 = 64;

/// A configuration on one end of a memif.
fn configured(site: &Site, name: &str, role: &str, network: &str, more: &str) -> PathBuf {
    let ids = identities();
    let peer = if name == "gateway" { &ids.client } else { &ids.gateway };
    let text = format!(
        "[network]\nkind = \"dpdk\"\nhuge_pages = \"none\"\n\
         device = \"net_memif0,id=0,socket={},socket-abstract=no,rsize=10,role={role}\"\n{network}\n\
         [identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{peer}\"]\n{more}",
        site.path("memif.sock").display(),
        ids.file(&format!("{name}.pem")),
        ids.file(&format!("{name}.key")),
    );
    let path = site.path(&format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn two_workers_on_a_port_with_one_queue_both_carry_connections() {
    let site = Site::new();
    // Another program may take this free port. Then the gateway does not start, and the test fails.
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n\
         [[application]]\nkind = \"echo\"\nqueues = [1]\n[workers]\ncount = 2\n[admin]\nlisten = \"{at}\"\n"
    );
    let network = "addresses = [\"10.77.0.1/24\"]\nqueues = 1";
    let config = configured(&site, "gateway", "server", network, &more);

    let (checked, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 0);
    let told = "not each worker has a queue that the device fills: software spreads the flows over them";
    assert!(checked.contains(told), "{checked}");

    let mut gateway = Process::serve(&config).unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(gateway.up["offloads"]["software_spread"], true, "{}", gateway.up);
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let opened = |worker: &str| {
        let all = parse(&get(&remote, "/metrics"));
        value(&all, "stoq_connections_opened_total", &[("worker", worker)])
    };
    let (file, token) = site.file("spread", 300_000);
    let mut clients = 0;
    while opened("0") == 0.0 || opened("1") == 0.0 {
        assert!(clients < CLIENTS_MAX, "one worker has carried all connections");
        let network = format!("addresses = [\"10.77.0.2/24\"]\nudp_port = {}", 5000 + clients);
        let config = configured(&site, "client", "client", &network, "[log]\nlevel = \"error\"\n");
        let tool = |name: &str| {
            let mut command = stoq();
            command.args([name, "--gateway", "10.77.0.1:4433"]).arg("--config").arg(&config);
            command.current_dir(site.directory.path());
            command
        };
        run(tool("put").arg(&file), 0);
        run(tool("get").arg(&token).args(["-o", "back"]), 0);
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());
        std::fs::remove_file(site.path("back")).unwrap();
        run(tool("ping").args(["--count", "2", "--interval", "0", "--size", "65536"]), 0);
        clients += 1;
    }

    gateway.signal(Signal::TERM);
    let ended = gateway.event().expect("the gateway ends in order");
    let count = |worker: usize, name: &str| ended["workers"][worker]["counters"][name].as_u64().unwrap_or(0);
    assert_eq!((count(0, "spread_in"), count(1, "spread_out")), (0, 0), "worker 1 has no queue: {ended}");
    assert_eq!(count(0, "spread_out"), count(1, "spread_in"), "{ended}");
    assert_eq!(count(1, "spread_in"), count(1, "rx_packets"), "{ended}");
    assert!(count(1, "tx_packets") > 0, "{ended}");
    assert_eq!(count(0, "drop_spread_full"), 0, "{ended}");
    assert!(gateway.end().success());
    assert!(gateway.log().contains("flows are spread over the workers in software"), "{}", gateway.log());
}

#[test]
fn two_workers_on_two_queues_of_a_memif_each_carry_a_connection_of_one_put_and_one_get() {
    let site = Site::new();
    let more = "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n[workers]\ncount = 2\n";
    let config = configured(&site, "gateway", "server", "addresses = [\"10.77.0.1/24\"]", more);
    let mut gateway = Process::serve(&config).unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(gateway.up["offloads"]["software_spread"], false, "{}", gateway.up);
    // Worker `w` of the client sends by queue `w`, which is queue `w` of the gateway.
    let more = "[workers]\ncount = 2\n[log]\nlevel = \"error\"\n";
    let config = configured(&site, "client", "client", "addresses = [\"10.77.0.2/24\"]", more);
    let (file, token) = site.file("payload", 3_000_000);
    let tool = |name: &str| {
        let mut command = stoq();
        command.args([name, "--gateway", "10.77.0.1:4433", "--connections", "2", "--config"]).arg(&config);
        command.current_dir(site.directory.path());
        command
    };
    run(tool("put").arg(&file), 0);
    run(tool("get").arg(&token).args(["-o", "back"]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());

    gateway.signal(Signal::TERM);
    let ended = gateway.event().expect("the gateway ends in order");
    let count = |worker: usize, name: &str| ended["workers"][worker]["counters"][name].as_u64().unwrap_or(0);
    for worker in 0..2 {
        assert!(count(worker, "rx_packets") > 100 && count(worker, "tx_packets") > 10, "{ended}");
        assert!(count(worker, "connections_opened") > 0, "{ended}");
        assert_eq!((count(worker, "spread_in"), count(worker, "drop_handover_full")), (0, 0), "{ended}");
    }
    assert!(gateway.end().success());
}

#[test]
fn a_client_of_one_queue_is_served_by_both_workers_of_a_memif_with_two() {
    let site = Site::new();
    let more = "[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"store\"\nmemory_bytes = 2097152\n\
                [[application]]\nkind = \"echo\"\nqueues = [1]\n[workers]\ncount = 2\n";
    let config = configured(&site, "gateway", "server", "addresses = [\"10.77.0.1/24\"]", more);
    let mut gateway = Process::serve(&config).unwrap_or_else(|log| panic!("{log}"));
    let config =
        configured(&site, "client", "client", "addresses = [\"10.77.0.2/24\"]", "[log]\nlevel = \"error\"\n");
    let (file, token) = site.file("payload", 3_000_000);
    let tool = |name: &str| {
        let mut command = stoq();
        command.args([name, "--gateway", "10.77.0.1:4433", "--config"]).arg(&config);
        command.current_dir(site.directory.path());
        command
    };
    run(tool("put").arg(&file).args(["--connections", "2"]), 0);
    run(tool("get").arg(&token).args(["--connections", "2", "-o", "back"]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(site.path("back")).unwrap());
    // Its client waits until the gateway has looked at the link, once a second.
    run(tool("ping").args(["--count", "30", "--interval", "0.1"]), 0);

    gateway.signal(Signal::TERM);
    let ended = gateway.event().expect("the gateway ends in order");
    let count = |worker: usize, name: &str| ended["workers"][worker]["counters"][name].as_u64().unwrap_or(0);
    assert_eq!(count(1, "rx_packets"), 0, "the client has no second queue: {ended}");
    assert!(count(1, "handovers_in") > 100 && count(1, "tx_packets") > 10, "{ended}");
    assert_eq!((count(1, "drop_no_buffer"), count(1, "drop_handover_full")), (0, 0), "{ended}");
    assert!(gateway.end().success());
    let told = "the other side of the memif has 1 of this side's 2 queues";
    assert!(gateway.log().contains(told), "{}", gateway.log());
}

//! The members of a fleet as peer gateways: they are dialed by the table, and a change of the table changes nothing else.

use crate::support::{Gateway, Site, identities, json, run, wait_until, write_secret};
use serde_json::{Value, json};
use stoq::client::{Client, ConnectOptions, Prepared};
use stoq_gateway::admin::client::Remote;

const NAMES: [&str; 2] = ["a1", "a2"];
const SERVER_IDS: [&str; 2] = ["0004d2", "000002"];

/// Two gateways whose table is a file, each with its own copy.
struct Fleet {
    sites: [Site; 2],
    ids: [String; 2],
}

impl Fleet {
    fn new() -> Self {
        let ids = identities();
        let mut sites = [Site::new(), Site::new()];
        let nodes = [ids.gateway.clone(), ids.stranger.clone()];
        for (at, site) in sites.iter_mut().enumerate() {
            let identity = ["gateway", "stranger"][at];
            let file = |ending| ids.file(&format!("{identity}.{ending}"));
            site.identity = format!("certificate = {:?}\nkey = {:?}", file("pem"), file("key"));
            site.trust = format!("node_ids = [\"{}\", \"{}\", \"{}\"]", ids.client, nodes[0], nodes[1]);
            write_secret(site.path("fleet.key"), [7; 32]);
            site.more = format!(
                "[reload]\nwatch = false\n[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"{}\"\nprovider = \"file\"\n\
                 file = \"fleet.toml\"\n",
                SERVER_IDS[at]
            );
        }
        Self { sites, ids: nodes }
    }

    /// Writes the table, with these of its rows.
    fn write(&self, rows: &[usize]) {
        let mut text =
            "[[rotation]]\nnumber = 0\nsalt = \"000102030405060708090a0b0c0d0e0f\"\nstate = \"issue\"\n"
                .to_owned();
        for &at in rows {
            let (name, id, server_id) = (NAMES[at], &self.ids[at], SERVER_IDS[at]);
            text +=
                &format!("[[gateway]]\nnode_id = \"{id}\"\nname = \"{name}\"\nserver_id = \"{server_id}\"\n");
            text += &format!("addresses = [\"{}\"]\n", self.sites[at].v4());
        }
        self.sites.iter().for_each(|site| std::fs::write(site.path("fleet.toml"), &text).unwrap());
    }

    fn start(&mut self) -> [(Gateway, String); 2] {
        self.write(&[0, 1]);
        self.sites.each_mut().map(|site| {
            let port = site.port;
            let started = crate::admin::start(site, "");
            assert_eq!(site.port, port, "another program took a port that the table names");
            started
        })
    }
}

fn status(at: &str) -> Value {
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    serde_json::from_str(&remote.get("/status").unwrap().1).unwrap()
}

/// Waits until the gateway's only peer gateway is up and has this name.
fn until_up(at: &str, name: &str) {
    wait_until("the other member is connected", || {
        let peers = status(at)["peer_gateways"].clone();
        peers.as_array().is_some_and(|peers| peers.len() == 1)
            && peers[0]["name"] == name
            && peers[0]["workers_up"] == json!([0])
    });
}

#[test]
fn members_of_a_table_are_dialed_and_a_payload_is_mirrored_from_one_to_the_other() {
    let mut fleet = Fleet::new();
    let [(mut first, at), (_second, other)] = fleet.start();
    until_up(&at, NAMES[1]);
    until_up(&other, NAMES[0]);
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let (_, metrics) = remote.get("/metrics").unwrap();
    let row = format!("stoq_peer_gateway_up{{worker=\"0\",node_id=\"{}\",name=\"a2\"}} 1", fleet.ids[1]);
    assert!(metrics.contains(&row), "{metrics}");

    let rows = [0, 1].map(|at| {
        let (name, id, address) = (NAMES[at], &fleet.ids[at], fleet.sites[at].v4());
        format!("[[gateway]]\nname = \"{name}\"\nnode_id = \"{id}\"\naddresses = [\"{address}\"]\n")
    });
    let config = fleet.sites[0].client_file(&rows.concat());
    // A payload that the second has, to be mirrored by the first.
    let mirror = |name: &str| {
        let (path, token) = fleet.sites[1].file(name, 100_000);
        run(fleet.sites[1].client("put").arg("--node-id").arg(&fleet.ids[1]).arg(&path), 0);
        let mut mirror = crate::support::stoq();
        mirror.arg("mirror").arg("--config").arg(&config).args([&token, "--on", "a1", "--from", "a2"]);
        mirror
    };
    assert_eq!(json(&mut mirror("one"))["bytes"], 100_000);

    // Without its row the other one is no peer gateway any more.
    fleet.write(&[0]);
    let told = first.process.reload("reloaded");
    assert_eq!(told["changed"], json!(["fleet.table"]), "{told}");
    wait_until("the connection to it ends", || status(&at)["peer_gateways"] == json!([]));
    let (_, refused) = run(&mut mirror("other"), 1);
    assert!(refused.contains("name peer gateways of this gateway"), "{refused}");
}

#[test]
fn a_change_of_the_table_leaves_tls_as_it_is_and_one_of_another_file_does_not() {
    let mut fleet = Fleet::new();
    fleet.sites[0].more += "[log]\nlevel = \"info\"\n";
    fleet.write(&[0, 1]);
    let (mut gateway, at) = crate::admin::start(&mut fleet.sites[0], "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let early = || {
        let (_, metrics) = remote.get("/metrics").unwrap();
        let row = "stoq_quic_handshakes_total{worker=\"0\",role=\"server\",result=\"early\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(row)).unwrap().parse::<u64>().unwrap()
    };
    let ids = identities();
    let gateway_id = ids.gateway.parse().unwrap();
    let address = fleet.sites[0].v4();
    let builder = Client::builder().identity_files(ids.file("client.pem"), ids.file("client.key"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = builder.trust_node(gateway_id).early_data(true).start().unwrap();
        let payload = Prepared::bytes("kept");
        client.connect(address).await.unwrap().put(&payload).await.unwrap();
        let fetched_early = async || {
            let before = early();
            let options = ConnectOptions { early: true, ..Default::default() };
            let peer = client.connect_with(address, options).await.unwrap();
            // The session of the next connection arrives behind the handshake, before the second answer.
            for _ in 0..2 {
                assert_eq!(peer.fetch(payload.token).await.unwrap().bytes(100).await.unwrap(), "kept");
            }
            early() > before
        };
        assert!(fetched_early().await);
        fleet.write(&[0]);
        assert_eq!(gateway.process.reload("reloaded")["changed"], json!(["fleet.table"]));
        assert!(fetched_early().await, "the client's session is known still");
        fleet.sites[0].more = fleet.sites[0].more.replace("level = \"info\"", "level = \"warn\"");
        fleet.sites[0].configure();
        assert_eq!(gateway.process.reload("reloaded")["changed"], json!(["log.level"]));
        assert!(!fetched_early().await, "a whole reload forgets sessions");
    });
}

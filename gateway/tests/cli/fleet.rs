//! A gateway with a fleet's key: the key file, resets after a kill, and rotations while it runs.

use crate::support::{Gateway, Process, Site, identities, run, stoq_gateway, wait_until, write_secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use stoq_gateway::admin::client::Remote;

const SALTS: [&str; 2] = ["000102030405060708090a0b0c0d0e0f", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"];

/// A site with a key file, whose gateway reloads only when it is told to.
fn site() -> Site {
    let mut site = Site::new();
    site.more = String::new();
    write_secret(site.path("fleet.key"), [7; 32]);
    site
}

/// The section of a gateway with these rotations, each with its state.
fn section(rotations: &[(usize, &str)]) -> String {
    let mut text =
        "[reload]\nwatch = false\n[quic]\nidle_timeout_ms = 3600000\n[fleet]\nkey_file = \"fleet.key\"\n\
        server_id = \"0004d2\"\n"
            .to_owned();
    for (number, state) in rotations {
        let salt = SALTS[*number];
        text += &format!("[[fleet.rotation]]\nnumber = {number}\nsalt = \"{salt}\"\nstate = \"{state}\"\n");
    }
    text
}

/// A ping that goes on until its connection ends, which only a reset or a close can do; the gateway has either identity.
fn pinging(site: &Site) -> Process {
    let ids = identities();
    let text = format!(
        "[trust]\nnode_ids = [\"{}\", \"{}\"]\n[quic]\nidle_timeout_ms = 3600000\n",
        ids.gateway, ids.stranger
    );
    let config = site.path("client.toml");
    std::fs::write(&config, text).unwrap();
    let mut ping = site.client("ping");
    Process::spawn(ping.arg("--config").arg(&config).args(["-c", "1000000", "-i", "0.1"]))
}

/// Waits until the gateway has received these bytes more of its first connection, which is established.
fn until_served(at: &str, bytes: u64) {
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let received = || {
        let (_, shown) = remote.get("/debug/connections").unwrap();
        let workers: Value = serde_json::from_str(&shown).unwrap();
        let is_established = workers[0][0]["established"] == true;
        workers[0][0]["received_bytes"].as_u64().filter(|_| is_established).unwrap_or(0)
    };
    let before = received();
    wait_until("the client is served", || received() > before + bytes);
}

/// The configuration must not start a gateway. Returns the error.
fn refused(site: &Site) -> String {
    let config = site.configure();
    let (_, stderr) = run(stoq_gateway().args(["run", "--config"]).arg(&config), 1);
    let (found, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 1);
    assert!(found.contains("FAILED  fleet: fleet.key_file"), "{found}");
    stderr
}

#[test]
fn a_killed_gateways_connections_are_reset_by_the_fleets_key_though_its_identity_has_changed() {
    let mut site = site();
    let ids = identities();
    site.more = section(&[(0, "issue")]);
    let (mut gateway, at) = crate::admin::start(&mut site, "");
    let mut client = pinging(&site);
    until_served(&at, 5_000);
    assert!(client.is_running(), "{}", client.log());
    gateway.process.signal(Signal::KILL);
    gateway.process.end();
    site.identity =
        format!("certificate = {:?}\nkey = {:?}", ids.file("stranger.pem"), ids.file("stranger.key"));
    let _gateway = site.start();
    assert_eq!(client.end().code(), Some(1));
    assert!(client.log().contains("stateless reset"), "{}", client.log());
}

#[test]
fn the_key_of_a_fleet_is_rotated_by_reloads_and_no_step_can_be_left_out() {
    let mut site = site();
    site.more = section(&[(0, "issue")]);
    let (mut gateway, at) = crate::admin::start(&mut site, "");
    let admin = site.more[site.more.find("[admin]").unwrap()..].to_owned();
    let mut client = pinging(&site);
    until_served(&at, 5_000);
    let mut reload = |gateway: &mut Gateway, rotations: &[(usize, &str)], kind: &str| {
        site.more = section(rotations) + &admin;
        site.configure();
        gateway.process.reload(kind)
    };
    let told = reload(&mut gateway, &[(0, "accept"), (1, "issue")], "reload-refused");
    let error = told["error"].as_str().unwrap();
    assert!(
        error.contains("rotation 1 was not accepted before") && error.contains("\"accept\" first"),
        "{told}"
    );
    let told = reload(&mut gateway, &[(0, "issue"), (1, "accept")], "reloaded");
    assert_eq!(told["changed"], json!(["fleet.rotation"]), "{told}");
    assert_eq!(told["needs_restart"], json!([]), "{told}");
    reload(&mut gateway, &[(0, "accept"), (1, "issue")], "reloaded");
    let told = reload(&mut gateway, &[(1, "issue")], "reload-refused");
    assert!(told["error"].as_str().unwrap().contains("keep it with state = \"accept\" for"), "{told}");
    // The connection has gone on, and one that begins now is served too.
    let (path, _) = site.file("file", 100_000);
    run(site.client("put").arg(&path), 0);
    assert!(client.is_running(), "{}", client.log());
    until_served(&at, 500);
    assert!(client.is_running(), "{}", client.log());
}

#[test]
fn a_key_file_is_made_once_for_its_user_alone_and_a_gateway_starts_by_the_section_that_is_printed() {
    let mut site = Site::new();
    site.more = String::new();
    let key = site.path("made.key");
    let make = |code| run(stoq_gateway().args(["fleet", "key"]).arg(&key), code);
    let (section, _) = make(0);
    let made = std::fs::metadata(&key).unwrap();
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (32, 0o600));
    let before = std::fs::read(&key).unwrap();
    let (_, stderr) = make(1);
    assert!(stderr.contains("know each other's connections by it; give a new name"), "{stderr}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
    site.more = section;
    drop(site.start());
    let (found, _) = run(stoq_gateway().args(["check", "--config"]).arg(site.path("gateway.toml")), 0);
    assert!(found.contains("fleet: server ID 000001, rotations 0"), "{found}");
    let (salt, _) = run(stoq_gateway().args(["fleet", "salt"]), 0);
    assert_eq!(salt.trim().len(), 32);
    let (_, stderr) = run(stoq_gateway().args(["fleet", "key", "missing/fleet.key"]), 1);
    assert!(stderr.contains("cannot be made; check the directory"), "{stderr}");
}

#[test]
fn a_key_file_that_is_missing_open_to_others_or_of_another_length_starts_no_gateway() {
    let mut site = site();
    site.more = section(&[(0, "issue")]);
    let key = site.path("fleet.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&site);
    assert!(
        error.contains("is readable by other users (mode 0644)") && error.contains("chmod 600"),
        "{error}"
    );
    write_secret(&key, [7; 31]);
    assert!(refused(&site).contains("has not the 32 octets"));
    std::fs::remove_file(&key).unwrap();
    assert!(refused(&site).contains("copy it from another gateway"));
}

/// A row of the table for this node.
fn row(node: &str, name: &str, server_id: &str) -> String {
    format!(
        "[[gateway]]\nnode_id = \"{node}\"\nname = \"{name}\"\nserver_id = \"{server_id}\"\nzone = \"ams\"\n\
         addresses = [\"192.0.2.11:4433\"]\n"
    )
}

#[test]
fn a_table_in_a_file_is_taken_at_a_reload_or_refused_with_its_row_and_a_gateway_that_it_does_not_fit_starts_not()
 {
    let mut site = site();
    let ids = identities();
    let rotation = format!("[[rotation]]\nnumber = 0\nsalt = \"{}\"\nstate = \"issue\"\n", SALTS[0]);
    let (own, other) = (row(&ids.gateway, "a1", "0004d2"), row(&ids.stranger, "a2", "000002"));
    let table = site.path("fleet.toml");
    let write = |rows: &[&str]| std::fs::write(&table, rotation.clone() + &rows.concat()).unwrap();
    write(&[&own]);
    site.more = "[reload]\nwatch = false\n[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"0004d2\"\n\
        provider = \"file\"\nfile = \"fleet.toml\"\n"
        .to_owned();
    let (mut gateway, at) = crate::admin::start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let fleet = || {
        let (_, shown) = remote.get("/status").unwrap();
        serde_json::from_str::<Value>(&shown).unwrap()["fleet"].clone()
    };
    assert_eq!((&fleet()["revision"], fleet()["gateways"].as_array().unwrap().len()), (&json!(1), 1));

    write(&[&own, &other]);
    let told = gateway.process.reload("reloaded");
    assert_eq!(told["changed"], json!(["fleet.table"]), "{told}");
    assert_eq!(fleet()["gateways"].as_array().unwrap().len(), 2);
    let (_, metrics) = remote.get("/metrics").unwrap();
    assert!(metrics.contains("\nstoq_fleet_gateways 2") && metrics.contains("\nstoq_fleet_table_revision 2"));
    assert!(
        metrics.contains("\nstoq_fleet_rotations 1") && !metrics.contains("stoq_fleet_lease"),
        "a file has no leases"
    );

    // Faults change nothing: of a row, and of a row that does not fit this gateway.
    let twin = other.replace("000002", "0004d2");
    write(&[&own, &twin]);
    let told = gateway.process.reload("reload-refused");
    assert!(
        told["error"].as_str().unwrap().contains("[[gateway]] 2 \"a2\": server_id 0004d2 is that of"),
        "{told}"
    );
    let moved = own.replace("0004d2", "0004d3");
    write(&[&moved, &other]);
    let told = gateway.process.reload("reload-refused");
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("is 0004d2, and the fleet's table gives this gateway 0004d3; set one"), "{told}");
    assert_eq!(fleet()["revision"], 2);
    drop(gateway);

    write(&[&twin]);
    let config = site.configure();
    let check = |code| run(stoq_gateway().args(["check", "--config"]).arg(&config), code).0;
    assert!(check(1).contains("is that of the gateway \"a2\" in the fleet's table; give this one another"));
    let (_, stderr) = run(stoq_gateway().args(["run", "--config"]).arg(&config), 1);
    assert!(stderr.contains("give this one another"), "{stderr}");
    write(&[&other]);
    let found = check(0);
    assert!(
        found.contains("rotations 0, 1 gateways") && found.contains("add a row with node_id = "),
        "{found}"
    );
}

#[test]
fn a_first_start_without_etcd_waits_and_then_says_what_is_missing() {
    let mut site = site();
    // A port at which nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more = format!(
        "[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"0004d2\"\nprovider = \"etcd\"\nname = \"eu\"\n\
         saved = \"fleet.json\"\n[fleet.etcd]\nendpoints = [\"http://127.0.0.1:{port}\"]\n"
    );
    let config = site.configure();
    let (_, stderr) = run(stoq_gateway().args(["run", "--config"]).arg(&config), 1);
    assert!(
        stderr.contains("the directory has given no table of the fleet, and none is kept in fleet.saved"),
        "{stderr}"
    );
    let (found, _) = run(stoq_gateway().args(["check", "--config"]).arg(&config), 0);
    assert!(found.contains("fleet: server ID 0004d2, 1 endpoints of etcd"), "{found}");
    run(stoq_gateway().args(["fleet", "adopt", "--config"]).arg(&config), 0);
    assert!(site.path("fleet.adopt").exists());
    site.more = section(&[(0, "issue")]);
    let config = site.configure();
    let (_, stderr) = run(stoq_gateway().args(["fleet", "adopt", "--config"]).arg(&config), 2);
    assert!(
        stderr.contains("this gateway goes by no etcd and no Kubernetes; set fleet.provider to one of them"),
        "{stderr}"
    );
}

#[test]
fn the_commands_of_a_fleet_say_what_is_there_and_what_is_missing_without_etcd() {
    let mut site = site();
    let ids = identities();
    let rotation = format!("[[rotation]]\nnumber = 0\nsalt = \"{}\"\nstate = \"issue\"\n", SALTS[0]);
    let rows =
        row(&ids.gateway, "a1", "0004d2") + "state = \"drain\"\n" + &row(&ids.stranger, "a2", "000002");
    std::fs::write(site.path("fleet.toml"), rotation + &rows).unwrap();
    let of_file = "[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"0004d2\"\nprovider = \"file\"\nfile = \"fleet.toml\"\n";
    site.more = of_file.to_owned();
    let mut config = site.configure();
    let command = |config: &std::path::Path, words: &[&str], code| {
        let (stdout, stderr) = run(stoq_gateway().arg("fleet").args(words).arg("--config").arg(config), code);
        stdout + &stderr
    };
    let shown = command(&config, &["status"], 0);
    assert!(
        shown.starts_with("directory: file, changed ") && shown.contains("a1    0004d2     ams   drain"),
        "{shown}"
    );
    let shown: Value = serde_json::from_str(&command(&config, &["status", "--json"], 0)).unwrap();
    assert_eq!((&shown["provider"], &shown["gateways"][0]["alive"]), (&json!("file"), &Value::Null));
    let found = command(&config, &["check"], 0);
    assert!(found.contains("table: 2 gateways, this one as a1"), "{found}");
    let refused = command(&config, &["out", "a2"], 2);
    assert!(refused.contains("edit the file of fleet.file on each gateway and reload, or set"), "{refused}");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more = of_file.replace(
        "provider = \"file\"\nfile = \"fleet.toml\"",
        "provider = \"etcd\"\nname = \"eu\"\nsaved = \"fleet.json\"",
    ) + &format!("[fleet.etcd]\nendpoints = [\"http://127.0.0.1:{port}\"]\n");
    config = site.configure();
    let lost = command(&config, &["rotate-cid"], 1);
    assert!(
        lost.contains("etcd does not answer (127.0.0.1:")
            && lost.contains("fleet check` looks at each endpoint"),
        "{lost}"
    );
    assert!(command(&config, &["status"], 1).contains("etcd does not answer"));
    let found = command(&config, &["check"], 1);
    assert!(
        found.contains("FAILED  endpoint: http://127.0.0.1:") && found.contains("fix: start etcd there"),
        "{found}"
    );
    let saved = format!(
        r#"{{"v":1,"cluster":1,"revision":9,"keys_revision":5,"saved_s":1,"table":{{"rotation":[{{"number":0,"salt":"{}","state":"issue"}}],"gateway":[]}}}}"#,
        SALTS[0]
    );
    std::fs::write(site.path("fleet.json"), saved).unwrap();
    let shown = command(&config, &["status"], 0);
    assert!(
        shown.contains("the table kept on the disk") && shown.contains("rotations of revision 5"),
        "{shown}"
    );
    site.more = String::new();
    config = site.configure();
    let none = command(&config, &["status"], 2);
    assert!(none.contains("the configuration has no [fleet]; write it as docs/fleet.md shows"), "{none}");
}

#[test]
fn a_gateway_whose_row_says_drain_turns_connections_away_until_it_is_active_again() {
    let mut site = site();
    let ids = identities();
    let rotation = format!("[[rotation]]\nnumber = 0\nsalt = \"{}\"\nstate = \"issue\"\n", SALTS[0]);
    let table = site.path("fleet.toml");
    let write = |state: &str| {
        let row = row(&ids.gateway, "a1", "0004d2");
        std::fs::write(&table, format!("{rotation}{row}state = \"{state}\"\n")).unwrap();
    };
    write("active");
    site.more = "[reload]\nwatch = false\n[quic]\nidle_timeout_ms = 3600000\n[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"0004d2\"\n\
        provider = \"file\"\nfile = \"fleet.toml\"\n"
        .to_owned();
    let (mut gateway, at) = crate::admin::start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let mut client = pinging(&site);
    until_served(&at, 500);
    for state in ["drain", "out"] {
        write(state);
        gateway.process.reload("reloaded");
        let (status, why) = remote.get("/readyz").unwrap();
        assert!(status == 503 && why.contains("drained by the fleet's table"), "{status} {why}");
        let (_, metrics) = remote.get("/metrics").unwrap();
        assert!(metrics.contains("\nstoq_draining 1") && metrics.contains("\nstoq_ready 0"));
        run(site.client("ping").args(["-c", "1"]), 1);
        until_served(&at, 500);
    }
    write("active");
    gateway.process.reload("reloaded");
    assert_eq!(remote.get("/readyz").unwrap().0, 200);
    run(site.client("ping").args(["-c", "1"]), 0);
    assert!(client.is_running(), "{}", client.log());
}

#[test]
fn an_anycast_address_in_a_fleet_without_hand_over_is_a_warning() {
    let mut site = site();
    let row = row(&identities().gateway, "a1", "0004d2");
    let rotation = format!("[[rotation]]\nnumber = 0\nsalt = \"{}\"\nstate = \"issue\"\n", SALTS[0]);
    std::fs::write(site.path("fleet.toml"), rotation + &row).unwrap();
    let mut warned = |handover| {
        site.more = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[anycast]\ninterface = \"stoqw{}\"\naddresses = [\"203.0.113.77\"]\n[fleet]\nkey_file = \"fleet.key\"\n\
             server_id = \"0004d2\"\nprovider = \"file\"\nfile = \"fleet.toml\"\nhandover = {handover}\n",
            std::process::id() % 1_000_000_000
        );
        let config = site.configure();
        // It depends on the user whether the interface can be made.
        let output = stoq_gateway().args(["check", "--config"]).arg(&config).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("server ID 0004d2"), "{said}");
        said.contains("fleet.handover is not set")
    };
    assert!(warned(false) && !warned(true));
}

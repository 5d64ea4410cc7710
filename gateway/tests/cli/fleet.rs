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

//! Four peer gateways: shards are put at one, lanes are mirrored to others, and a set is gathered from the gateways that are left.

use crate::support::{Gateway, Process, Site, identities, json, make_identity, run, stoq, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The timeout of a connection to a dead gateway, and the bound within which a get must end without that wait. They are far apart, for
/// busy machines.
const DEAD_GATEWAY_S: &str = "3600";
const NO_TIMEOUT_WAITED_FOR: Duration = Duration::from_secs(600);

/// The identities of the four, made once for all tests.
struct Nodes {
    directory: TempDir,
    ids: [String; 4],
}

fn nodes() -> &'static Nodes {
    static MADE: OnceLock<Nodes> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let ids = NAMES.map(|name| make_identity(directory.path(), name));
        Nodes { directory, ids }
    })
}

impl Nodes {
    fn id(&self, name: &str) -> &str {
        &self.ids[at(name)]
    }

    fn identity(&self, name: &str) -> String {
        let file = |ending| self.directory.path().join(format!("{name}.{ending}"));
        format!("certificate = {:?}\nkey = {:?}", file("pem"), file("key"))
    }
}

fn at(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}

/// The four, running, and a client that knows all of them by name and is connected to the first.
struct Mesh {
    sites: [Site; 4],
    gateways: [Gateway; 4],
    client: PathBuf,
}

impl Mesh {
    fn start() -> Self {
        Self::start_with("")
    }

    /// Starts them with these additional lines in the section of every gateway's seed.
    fn start_with(seed: &str) -> Self {
        let (nodes, ids) = (nodes(), identities());
        let mut sites = NAMES.map(|_| Site::new());
        let trusted = |separator: &str| nodes.ids.join(separator);
        let peer_gateways: Vec<_> = NAMES
            .iter()
            .zip(&sites)
            .map(|(name, site)| {
                let (id, address) = (nodes.id(name), site.v4());
                format!("[[gateway]]\nname = \"{name}\"\nnode_id = \"{id}\"\naddresses = [\"{address}\"]\n")
            })
            .collect();
        for (own, site) in sites.iter_mut().enumerate() {
            site.identity = nodes.identity(NAMES[own]);
            site.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, trusted("\", \""));
            site.seed = format!("capacity_bytes = 1000000000\n{seed}");
            let others = peer_gateways.iter().enumerate().filter(|(other, _)| *other != own);
            site.more.extend(others.map(|(_, peer_gateway)| peer_gateway.as_str()));
        }
        let gateways = sites.each_mut().map(|site| {
            let port = site.port;
            let gateway = site.start();
            assert_eq!(site.port, port, "another program took a port that the peer gateways know");
            gateway
        });
        let client = sites[0].path("client.toml");
        let text = format!(
            "connect = \"{}\"\n[identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{}\"]\n\
             [network]\nkind = \"kernel-udp\"\nlisten = [\"127.0.0.1:0\"]\n{}",
            sites[0].v4(),
            ids.file("client.pem"),
            ids.file("client.key"),
            trusted("\", \""),
            peer_gateways.concat(),
        );
        std::fs::write(&client, text).unwrap();
        Self { sites, gateways, client }
    }

    fn tool(&self, tool: &str) -> Command {
        let mut command = stoq();
        command.arg(tool).arg("--config").arg(&self.client).current_dir(self.sites[0].directory.path());
        command
    }

    fn get(&self, token: &str, copy: &str) -> Command {
        let mut command = self.tool("get");
        command.args([token, "-o", copy]);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sites[0].path(name)
    }

    fn kill(&mut self, name: &str) {
        let gateway = &mut self.gateways[at(name)];
        gateway.process.signal(Signal::KILL);
        gateway.process.end();
    }

    /// Puts a file at the first gateway as 4+2 shards. Returns its path and both tokens.
    fn put_shards(&self, len: usize) -> (PathBuf, String, String) {
        let (path, token) = self.sites[0].file("file", len);
        let put = json(self.tool("put").arg(&path).args(["--shards", "4+2@16384"]));
        assert_keys(&put, "operation bytes verified seconds gbit_per_s already_kept hash_seconds gateway");
        assert_keys(&put, "network workers cipher version");
        assert_eq!((&put["token"], &put["lanes"]), (&token.as_str().into(), &"0-5".into()), "{put}");
        (path, token, put["set"].as_str().unwrap().to_owned())
    }

    /// Mirrors two lanes to each of these gateways.
    fn mirror_lanes(&self, set: &str) {
        for (name, lanes) in [("b", "0,1"), ("c", "2,3"), ("d", "4,5")] {
            let mut mirror = self.tool("mirror");
            mirror.args([set, "--on", name, "--lanes", lanes, "--from", "a"]);
            let done = json(&mut mirror);
            assert_keys(&done, "lanes lease_s version");
            assert_eq!((&done["operation"], &done["token"]), (&"mirror".into(), &set.into()));
            assert_eq!(done["on"], nodes().id(name));
            assert!(done["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{done}");
        }
    }

    /// The node IDs and coverage of the holders that the first gateway knows, once it knows `count`.
    fn located(&self, token: &str, count: usize) -> Vec<(String, String)> {
        let mut holders = Vec::new();
        wait_until("the peer gateways have told what they hold", || {
            let located = json(self.tool("locate").arg(token));
            assert_keys(&located, "operation token gateway version");
            let text = |holder: &Value, key: &str| holder[key].as_str().unwrap().to_owned();
            let listed = located["holders"].as_array().unwrap().iter();
            listed.clone().for_each(|holder| assert_keys(holder, "expires_s"));
            holders = listed.map(|holder| (text(holder, "node"), text(holder, "coverage"))).collect();
            holders.len() == count
        });
        holders
    }
}

#[track_caller]
fn assert_keys(result: &Value, keys: &str) {
    let missing: Vec<_> = keys.split(' ').filter(|key| result.get(key).is_none()).collect();
    assert!(missing.is_empty(), "no {missing:?} in {result}");
}

#[track_caller]
fn assert_same(copy: &Path, original: &Path) {
    assert!(std::fs::read(copy).unwrap() == std::fs::read(original).unwrap(), "another file came back");
}

fn bytes_of(result: &Value, name: &str) -> u64 {
    let holders = result["holders"].as_array().unwrap();
    let its = holders.iter().find(|holder| holder["node"] == nodes().id(name));
    its.map_or(0, |holder| holder["bytes"].as_u64().unwrap())
}

#[test]
fn lanes_are_mirrored_located_and_gathered_until_too_few_holders_are_left() {
    let mut mesh = Mesh::start();
    let (path, token, set) = mesh.put_shards(3_000_001);
    mesh.mirror_lanes(&set);

    let holders = mesh.located(&set, 4);
    assert_eq!(
        holders[0],
        (nodes().id("a").to_owned(), "all".to_owned()),
        "the one that was asked comes first"
    );
    for (name, lanes) in [("b", "lanes 0-1"), ("c", "lanes 2-3"), ("d", "lanes 4-5")] {
        assert!(holders.contains(&(nodes().id(name).to_owned(), lanes.to_owned())), "{name}: {holders:?}");
    }
    // A holder of lanes alone does not announce the payload.
    assert_eq!(mesh.located(&token, 1)[0].0, nodes().id("a"));

    let got = json(mesh.get(&set, "all").args(["--from", "b,c,d"]));
    assert_same(&mesh.path("all"), &path);
    assert_eq!((&got["bytes"], &got["verified"]), (&3_000_001.into(), &true.into()));
    assert_eq!(got["unreached"], Value::Array(vec![]), "{got}");
    assert_keys(&got, "operation token decoded seconds gbit_per_s network workers cipher version");
    for key in ["node", "remote", "bytes", "requests", "strikes", "state"] {
        assert!(!got["holders"][0][key].is_null(), "holders.{key}: {got}");
    }

    mesh.kill("c");
    let started = Instant::now();
    let got = json(mesh.get(&set, "four-lanes").args(["--from", "b,c,d", "--timeout", DEAD_GATEWAY_S]));
    assert!(started.elapsed() < NO_TIMEOUT_WAITED_FOR, "{:?}", started.elapsed());
    assert_same(&mesh.path("four-lanes"), &path);
    assert_eq!(got["decoded"], true, "{got}");
    assert!(bytes_of(&got, "b") > 0 && bytes_of(&got, "d") > 0 && bytes_of(&got, "c") == 0, "{got}");

    mesh.kill("d");
    let mut get = mesh.get(&set, "two-lanes");
    let (_, stderr) = run(get.args(["--from", "b,c,d", "--timeout", "1"]), 1);
    assert!(stderr.contains("too few holders") && stderr.contains("does not have the lanes 2-5"), "{stderr}");
    assert!(stderr.contains("c cannot be asked") && stderr.contains("d cannot be asked"), "{stderr}");
    let at = format!("{} at {} gave", nodes().id("b"), mesh.sites[1].v4());
    assert!(stderr.contains(&at), "{stderr}");
    assert!(!mesh.path("two-lanes").exists());
    let (_, stderr) = run(mesh.get(&set, "none").args(["--from", "c,d", "--timeout", "1"]), 1);
    assert!(stderr.contains("c cannot be asked") && stderr.contains("there is no holder"), "{stderr}");
    // The first gateway still has the payload.
    run(&mut mesh.get(&set, "from-the-gateway"), 0);
    assert_same(&mesh.path("from-the-gateway"), &path);
}

#[test]
fn a_get_survives_the_death_of_a_holder_in_the_middle() {
    let mut mesh = Mesh::start();
    let (path, token) = mesh.sites[0].file("file", 48 << 20);
    for address in [mesh.sites[1].v4(), mesh.sites[2].v4()] {
        run(mesh.tool("put").arg(&path).args(["--gateway", &address.to_string()]), 0);
    }
    let (copy, part) = (mesh.path("copy"), mesh.path("copy.part"));
    let mut client = loop {
        let mut client = Process::spawn(mesh.get(&token, "copy").args(["--from", "b,c"]));
        let has_part = || std::fs::metadata(&part).is_ok_and(|file| file.len() > 1 << 20);
        wait_until("a part of it is there", || has_part() || copy.exists());
        // It stands still while the holder dies.
        client.signal(Signal::STOP);
        if !copy.exists() {
            break client;
        }
        // This time it was over before.
        client.signal(Signal::CONT);
        client.end();
        std::fs::remove_file(&copy).unwrap();
    };
    mesh.kill("b");
    client.signal(Signal::CONT);
    assert_eq!(client.end().code(), Some(0), "{}", client.log());
    assert_same(&mesh.path("copy"), &path);
    assert!(!part.exists());
}

#[test]
fn a_payload_is_fetched_from_two_gateways_and_from_a_cache_on_the_route() {
    let mesh = Mesh::start();
    // Large enough that neither holder gives all of it before the other has begun.
    let (path, token) = mesh.sites[0].file("file", 60_000_000);
    for address in [mesh.sites[1].v4(), mesh.sites[2].v4()] {
        run(mesh.tool("put").arg(&path).args(["--gateway", &address.to_string()]), 0);
    }
    let got = json(mesh.get(&token, "copy").args(["--from", "b,c"]));
    assert_same(&mesh.path("copy"), &path);
    assert_eq!((&got["bytes"], &got["decoded"]), (&60_000_000.into(), &false.into()), "{got}");
    assert!(bytes_of(&got, "b") > 0 && bytes_of(&got, "c") > 0, "{got}");
    // A gateway without the payload leaves it to the others.
    run(mesh.get(&token, "second").args(["--from", "d,b"]), 0);
    assert_same(&mesh.path("second"), &path);
    // Each connection is a holder.
    let got = json(mesh.get(&token, "third").args(["--from", "b", "--connections", "3"]));
    assert_same(&mesh.path("third"), &path);
    let given: Vec<_> =
        got["holders"].as_array().unwrap().iter().map(|held| held["bytes"].as_u64().unwrap()).collect();
    // What one of them is slow with is asked of another too.
    assert!(given.len() == 3 && given.iter().sum::<u64>() >= 60_000_000, "{got}");
    assert!(given.iter().filter(|bytes| **bytes > 0).count() > 1, "{got}");

    // The route leads over two gateways to the holder. Without the flag neither keeps the payload.
    json(mesh.get(&token, "routed").args(["--via", "a,d,c"]));
    assert_same(&mesh.path("routed"), &path);
    assert!(mesh.sites[0].kept().0.is_empty() && mesh.sites[3].kept().0.is_empty());
    json(mesh.get(&token, "cached").args(["--via", "a,d,c", "--cache"]));
    assert_same(&mesh.path("cached"), &path);
    let got = json(mesh.get(&token, "fourth").args(["--connections", "2"]));
    assert_same(&mesh.path("fourth"), &path);
    assert_eq!(got["holders"].as_array().unwrap().len(), 2, "{got}");
    let got = json(mesh.get(&token, "fifth").args(["--connections", "auto"]));
    assert_same(&mesh.path("fifth"), &path);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(got["workers"], cores.min(4), "{got}");
    assert_eq!(got["holders"].as_array().unwrap().len(), cores.min(4), "{got}");
    for wrong in ["0", "65", "all"] {
        let (_, stderr) = run(mesh.get(&token, "sixth").args(["--connections", wrong]), 2);
        assert!(stderr.contains("give a number from 1 to 64, or \"auto\""), "{stderr}");
    }
    let mut piped = mesh.tool("get");
    let (_, stderr) = run(piped.args([&token, "-o", "-", "--connections", "2"]), 2);
    assert!(stderr.contains("writes in any order; give a file"), "{stderr}");
    let holders = mesh.located(&token, 4);
    for (node, coverage) in NAMES.map(|name| (nodes().id(name).to_owned(), "all".to_owned())) {
        assert!(holders.contains(&(node, coverage)), "{holders:?}");
    }
}

#[test]
fn a_payload_is_mirrored_from_lanes_of_which_some_are_parity() {
    let mesh = Mesh::start();
    let (path, token) = mesh.sites[0].file("file", 700_001);
    let (stdout, _) = run(mesh.tool("put").arg(&path).args(["--shards", "4+2@16384", "--lanes", "2-5"]), 0);
    let set = stdout.lines().last().unwrap();
    let mirrored = json(mesh.tool("mirror").args([set, "--on", "b", "--from", "a"]));
    assert!(mirrored["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{mirrored}");
    let far = mesh.sites[1].v4().to_string();
    run(mesh.get(&token, "copy").args(["--gateway", &far]), 0);
    assert_same(&mesh.path("copy"), &path);
}

#[test]
fn a_payload_with_an_expired_lease_is_removed_and_withdrawn_at_the_peer_gateways() {
    let mesh = Mesh::start();
    let (path, token) = mesh.sites[1].file("file", 100_000);
    let far = mesh.sites[1].v4().to_string();
    let put = |file: &Path, lease: &str| {
        run(mesh.tool("put").arg(file).args(["--gateway", &far, "--lease", lease]), 0);
    };
    let (other, stays) = mesh.sites[1].file("other", 100_000);
    put(&other, "1h");
    put(&path, "2s");
    wait_until("the store is empty of it", || mesh.sites[1].kept().0.len() == 1);
    let (_, stderr) = run(mesh.get(&token, "copy").args(["--gateway", &far]), 1);
    assert!(stderr.contains("not found"), "{stderr}");
    assert_eq!(mesh.located(&stays, 1)[0].0, nodes().id("b"));
    assert!(mesh.located(&token, 0).is_empty());
}

#[test]
fn a_put_beyond_the_quota_is_refused_with_the_fix() {
    let mut mesh = Mesh::start_with("quota_bytes = 500000\n");
    let (small, _) = mesh.sites[0].file("small", 400_000);
    let (large, _) = mesh.sites[0].file("large", 200_000);
    run(mesh.tool("put").arg(&small), 0);
    let (_, stderr) = run(mesh.tool("put").arg(&large), 1);
    assert!(stderr.contains("quota") && stderr.contains("raise quota_bytes"), "{stderr}");
    mesh.gateways[0].process.stop();
    // The operator's log names the peer and the bytes.
    let log = mesh.gateways[0].process.log();
    assert!(
        log.contains(&identities().client) && log.contains("500000") && log.contains("raise the quota"),
        "{log}"
    );
}

#[test]
fn lanes_outside_the_set_are_refused_and_some_lanes_may_be_put_alone() {
    let mesh = Mesh::start();
    let (path, token) = mesh.sites[0].file("file", 500_000);
    let sharded = ["--shards", "4+2@16384"];
    let (stdout, _) = run(stoq().arg("token").arg(&path).args(sharded), 0);
    let [content, set] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(content, token);

    for lanes in ["6", "0-6"] {
        let (_, stderr) = run(mesh.tool("put").arg(&path).args(sharded).args(["--lanes", lanes]), 2);
        assert!(stderr.contains("--lanes") && stderr.contains("0-5"), "{stderr}");
    }
    assert!(mesh.sites[0].kept().0.is_empty());
    let (stdout, _) = run(mesh.tool("put").arg(&path).args(sharded).args(["--lanes", "1,4"]), 0);
    assert_eq!(stdout.lines().collect::<Vec<_>>(), [content, set], "as `stoq token --shards` prints them");
    assert_eq!(mesh.located(set, 1)[0].1, "lanes 1,4");
    let (_, stderr) = run(&mut mesh.get(set, "copy"), 1);
    assert!(stderr.contains(nodes().id("a")) && stderr.contains("does not have the lanes"), "{stderr}");
    let mirror = ["mirror", set, "--on", "b", "--from", "a", "--lanes"];
    for (lanes, text) in [("6", "bad range"), ("0", "too few holders")] {
        let mut command = mesh.tool(mirror[0]);
        let (_, stderr) = run(command.args(&mirror[1..]).arg(lanes), 1);
        assert!(stderr.contains(text), "{lanes}: {stderr}");
    }
    // With all data lanes the gateway holds the whole payload, and fetches nothing.
    run(mesh.tool("put").arg(&path).args(sharded).args(["--lanes", "0-3"]), 0);
    let mirrored = json(mesh.tool("mirror").args([set, "--on", "a", "--lease", "1h"]));
    assert_eq!(mirrored["bytes"], 0, "{mirrored}");
    let (_, stderr) = run(mesh.tool("put").arg(&path).args(["--shards", "65+2"]), 2);
    assert!(stderr.contains("give 1 to 64 data"), "{stderr}");
}

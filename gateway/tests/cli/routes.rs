//! Requests that one gateway forwards to another, and mirroring.

use crate::support::{Gateway, Site, identities, json, run, stoq};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// Two peer gateways, and a client that knows both by name and is connected to the first.
struct Pair {
    near: Site,
    far: Site,
    config: PathBuf,
    _gateways: [Gateway; 2],
}

impl Pair {
    /// Starts them. `far_is_near`: the client knows the address of the far gateway.
    fn start(far_is_near: bool) -> Self {
        let ids = identities();
        let (mut near, mut far) = (Site::new(), Site::new());
        far.identity =
            format!("certificate = {:?}\nkey = {:?}", ids.file("stranger.pem"), ids.file("stranger.key"));
        near.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, ids.stranger);
        far.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, ids.gateway);
        // By name: the family that answers is used.
        let peer_gateway = |id: &str, site: &Site| {
            format!("[[gateway]]\nnode_id = \"{id}\"\naddresses = [\"localhost:{}\"]\n", site.port)
        };
        far.more = format!("{}{}", far.more, peer_gateway(&ids.gateway, &near));
        let far_gateway = far.start();
        let to_far = peer_gateway(&ids.stranger, &far);
        write!(near.more, "[hops]\ntransit = \"authenticated\"\n{to_far}").unwrap();
        let near_gateway = near.start();
        let config = near.path("client.toml");
        let addresses =
            if far_is_near { format!("addresses = [\"localhost:{}\"]\n", far.port) } else { String::new() };
        let text = format!(
            "connect = \"{}\"\n[identity]\ncertificate = {:?}\nkey = {:?}\n[trust]\nnode_ids = [\"{3}\", \"{4}\"]\n\
             [network]\nkind = \"kernel-udp\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[gateway]]\nname = \"near\"\nnode_id = \"{3}\"\n[[gateway]]\nname = \"far\"\nnode_id = \"{4}\"\n{addresses}",
            near.v4(),
            ids.file("client.pem"),
            ids.file("client.key"),
            ids.gateway,
            ids.stranger,
        );
        std::fs::write(&config, text).unwrap();
        Self { near, far, config, _gateways: [near_gateway, far_gateway] }
    }

    fn client(&self, tool: &str) -> Command {
        let mut command = stoq();
        command.arg(tool).arg("--config").arg(&self.config).current_dir(self.near.directory.path());
        command
    }
}

#[test]
fn a_payload_is_put_and_got_through_a_gateway() {
    let pair = Pair::start(false);
    let ids = identities();
    let (path, token) = pair.near.file("file", 3_000_000);
    let put = json(pair.client("put").arg(&path).args(["--via", "far", "--lease", "1d12h"]));
    assert_eq!((&put["token"], &put["gateway"]), (&token.as_str().into(), &ids.stranger.as_str().into()));
    assert!(pair.near.kept().0.is_empty() && !pair.far.kept().0.is_empty(), "only the far gateway keeps it");
    let (_, stderr) = run(pair.client("get").arg(&token).args(["-o", "missing"]), 1);
    assert!(stderr.contains("not found"), "{stderr}");
    let copy = pair.near.path("copy");
    let via = format!("{},far", ids.gateway);
    json(pair.client("get").arg(&token).args(["--via", &via]).arg("-o").arg(&copy));
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn holders_are_listed_with_their_coverage_and_lease() {
    let pair = Pair::start(false);
    let ids = identities();
    let (path, token) = pair.near.file("file", 100_000);
    run(pair.client("put").arg(&path).args(["--via", "far", "--lease", "2h"]), 0);
    let located = json(pair.client("locate").arg(&token).args(["--via", "far"]));
    let holder = &located["holders"][0];
    assert_eq!(
        (&holder["node"], &holder["coverage"]),
        (&ids.stranger.as_str().into(), &"all".into()),
        "{located}"
    );
    let expires = holder["expires_s"].as_u64().unwrap();
    assert!((7_000..=7_200).contains(&expires), "{located}");
    let (stdout, _) = run(pair.client("locate").arg(&token).args(["--via", "far"]), 0);
    assert!(["2h", "1h59m"].iter().any(|left| stdout.contains(left)), "{stdout}");
    assert!(stdout.contains(&ids.stranger) && stdout.contains("all"), "{stdout}");
    let unknown = format!("b3:{}", "0".repeat(64));
    let (stdout, stderr) = run(pair.client("locate").arg(&unknown), 0);
    assert!(stdout.is_empty() && stderr.contains("knows no holder"), "{stderr}");
}

#[test]
fn a_gateway_mirrors_a_payload_of_another() {
    for far_is_near in [true, false] {
        let pair = Pair::start(far_is_near);
        let ids = identities();
        let (path, token) = pair.near.file("file", 500_000);
        run(pair.client("put").arg(&path), 0);
        let mirror = ["--on", "far", "--from", "near", "--lease", "1h"];
        let mirrored = json(pair.client("mirror").arg(&token).args(mirror));
        assert_eq!(
            (&mirrored["bytes"], &mirrored["on"], &mirrored["lease_s"]),
            (&500_000.into(), &ids.stranger.as_str().into(), &3_600.into())
        );
        let (copy, far) = (pair.near.path("copy"), pair.far.v4().to_string());
        run(pair.client("get").arg(&token).args(["--gateway", &far]).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    }
}

#[test]
fn unknown_gateways_and_impossible_routes_are_reported() {
    let site = Site::new();
    let unknown = format!("b3:{}", "0".repeat(64));
    for (arguments, text) in [
        (&["get", &unknown, "-o", "x", "--via", "west"][..], "\"west\""),
        (&["get", &unknown, "-o", "x", "--cache"], "--via"),
        (&["mirror", &unknown, "--on", "west"], "\"west\""),
        (&["mirror", &unknown], "--on"),
        (&["mirror", &unknown, "--on", "west", "--lanes", "0-3"], "set:"),
        (&["mirror", &unknown, "--on", "west", "--lease", "soon"], "30d"),
        (&["locate", "b3:short"], "b3:short"),
    ] {
        let mut command = site.client(arguments[0]);
        let (_, stderr) = run(command.args(&arguments[1..]), 2);
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
    let id = &identities().stranger;
    let mut twice = site.client("locate");
    let (_, stderr) = run(twice.arg(&unknown).args(["--via", &format!("{id},{id}")]), 2);
    assert!(stderr.contains("twice"), "{stderr}");
}

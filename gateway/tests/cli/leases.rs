//! What a gateway keeps: `stoq list`, `stat`, `remove`, `renew`, and `stoq-gateway store`, while it runs and when it does not.

use crate::support::{Site, free_port, identities, json, make_identity, run, stoq_gateway, write_secret};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The lines of a command's output, as JSON.
#[track_caller]
fn lines(command: &mut Command) -> Vec<Value> {
    run(command, 0).0.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The tokens in such lines. The last line is no entry.
#[track_caller]
fn tokens(lines: &[Value]) -> Vec<String> {
    let (last, entries) = lines.split_last().unwrap();
    assert_eq!((&last["operation"], last["entries"].as_u64()), (&"list".into(), Some(entries.len() as u64)));
    entries.iter().map(|entry| entry["token"].as_str().unwrap().to_owned()).collect()
}

fn sorted<const N: usize>(mut tokens: [String; N]) -> Vec<String> {
    tokens.sort();
    tokens.to_vec()
}

/// A site with a second client, whose node ID is also given.
fn two_clients() -> (Site, String) {
    let mut site = Site::new();
    let other = make_identity(site.directory.path(), "other");
    site.trust = format!("node_ids = [\"{}\", \"{other}\"]", identities().client);
    (site, other)
}

fn other(site: &Site, tool: &str) -> Command {
    let mut command = site.anonymous(tool);
    command.arg("--cert").arg(site.path("other.pem")).arg("--key").arg(site.path("other.key"));
    command.args(["--node-id", &identities().gateway]);
    command
}

fn store(config: &Path, what: &str) -> Command {
    let mut command = stoq_gateway();
    command.args(["store", what, "--config"]).arg(config);
    command
}

#[test]
fn two_owners_list_renew_and_remove_each_their_own() {
    let (mut site, other_node) = two_clients();
    let _gateway = site.start();
    let (_, stderr) = run(&mut site.client("list"), 0);
    assert!(stderr.contains("nothing is kept"), "{stderr}");
    assert_eq!(
        lines(site.client("list").arg("--json")),
        [serde_json::json!({"operation": "list", "entries": 0, "next": null})]
    );
    let [(mine, a), (both, b), (theirs, c)] = ["mine", "both", "theirs"].map(|name| site.file(name, 20_000));
    run(site.client("put").args(["--lease", "1h"]).args([&mine, &both]), 0);
    run(other(&site, "put").args(["--lease", "2d"]).args([&both, &theirs]), 0);
    assert_eq!(tokens(&lines(site.client("list").arg("--json"))), sorted([a.clone(), b.clone()]));
    assert_eq!(tokens(&lines(other(&site, "list").arg("--json"))), sorted([b.clone(), c.clone()]));
    assert_eq!(
        tokens(&lines(site.client("list").args(["--all", "--json"]))),
        sorted([a.clone(), b.clone(), c.clone()])
    );
    let of_other = lines(site.client("list").args(["--owner", &other_node, "--json"]));
    assert_eq!(tokens(&of_other), sorted([b.clone(), c.clone()]));
    assert_eq!(of_other[0]["owners"][0]["node"].as_str(), Some(other_node.as_str()));
    let ending = lines(site.client("list").args(["--all", "--ends-within", "1d", "--json"]));
    assert_eq!(tokens(&ending), [a.as_str()]);
    assert!(tokens(&lines(site.client("list").args(["--min-size", "20001", "--json"]))).is_empty());

    // One entry at a time, each list beginning where the last one ended.
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut list = site.client("list");
        list.args(["--all", "--limit", "1", "--json"]);
        if let Some(after) = &after {
            list.args(["--after", after]);
        }
        let page = lines(&mut list);
        found.extend(tokens(&page));
        match page.last().unwrap()["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(found, sorted([a.clone(), b.clone(), c.clone()]));

    let own = json(site.client("stat").args([&b]));
    assert_eq!((own["length"].as_u64(), own["leases"].as_u64()), (Some(20_000), Some(1)));
    assert_eq!(json(site.client("stat").args([&b, "--all"]))["leases"].as_u64(), Some(2));
    let (_, stderr) = run(site.client("stat").arg(&c), 1);
    assert!(stderr.contains("does not keep it for this client"), "{stderr}");
    let renewed = json(site.client("renew").args([&b, "--lease", "1d"]));
    assert!((86_000..=86_400).contains(&renewed["expires_s"].as_u64().unwrap()), "{renewed}");
    let (_, stderr) = run(site.client("renew").args([&c, "--lease", "1d"]), 1);
    assert!(stderr.contains("this node has no lease of it here"), "{stderr}");

    assert_eq!(json(site.client("remove").args([&b]))["kept"], Value::Bool(true));
    let (stdout, _) = run(site.client("remove").arg(&a), 0);
    assert!(stdout.ends_with("  removed\n"), "{stdout}");
    run(site.client("get").arg(&a).arg("-o").arg(site.path("gone")), 1);
    run(site.client("get").arg(&b).arg("-o").arg(site.path("there")), 0);
    let (stdout, _) = run(other(&site, "remove").args([&b, &c]), 0);
    assert_eq!(stdout.lines().filter(|line| line.ends_with("  removed")).count(), 2, "{stdout}");
    assert!(site.kept().0.is_empty());
    for word in ["b3:12", "set:zz", ""] {
        run(site.client("remove").arg(word), 2);
    }
}

#[test]
fn a_client_without_a_certificate_and_one_without_the_right_are_told_why_they_get_no_list() {
    let mut site = Site::new();
    site.trust += "\nclient_auth = \"optional\"";
    let client = &identities().client;
    site.more += &format!("[[rights]]\nname = \"some\"\nnode_ids = [\"{client}\"]\nallow = [\"put\"]\n");
    site.more += "[[rights]]\nname = \"rest\"\npeers = \"anyone\"\nallow = \"all\"\n";
    let _gateway = site.start();
    let (path, token) = site.file("file", 100);
    run(site.client("put").arg(&path), 0);
    assert_eq!(tokens(&lines(site.client("list").arg("--json"))), [token.as_str()]);
    for (tool, more, right) in [
        ("list", &["--all"][..], "list"),
        ("stat", &[&token, "--all"], "list"),
        ("remove", &[&token], "remove"),
    ] {
        let (_, stderr) = run(site.client(tool).args(more), 1);
        assert!(stderr.contains(&format!("right {right} is not given to this peer")), "{stderr}");
    }
    let (_, stderr) = run(site.anonymous("list").args(["--node-id", &identities().gateway]), 1);
    assert!(stderr.contains("connect with an identity"), "{stderr}");
}

#[test]
fn an_operator_sees_and_removes_what_a_running_gateway_and_a_stopped_one_keep() {
    let (mut site, other_node) = two_clients();
    let port = free_port();
    let secret = site.path("admin.token");
    write_secret(&secret, "0123456789abcdef0123456789abcdef");
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = {secret:?}\n");
    let gateway = site.start();
    let config = site.path("gateway.toml");
    let [(mine, a), (both, b), (theirs, c)] = ["mine", "both", "theirs"].map(|name| site.file(name, 20_000));
    run(site.client("put").args([&mine, &both]), 0);
    run(other(&site, "put").args([&both, &theirs]), 0);
    let mut gateway = Some(gateway);
    for runs in [true, false] {
        if !runs {
            gateway.take().unwrap().process.stop();
        }
        assert_eq!(
            tokens(&lines(store(&config, "list").arg("--json"))),
            sorted([a.clone(), b.clone(), c.clone()])
        );
        let of_other = lines(store(&config, "list").args(["--owner", &other_node, "--json"]));
        assert_eq!(tokens(&of_other), sorted([b.clone(), c.clone()]));
        assert_eq!(json(store(&config, "stat").args([&b]))["leases"].as_u64(), Some(2));
        let usage = json(store(&config, "usage").args(["--by", "owner"]));
        assert_eq!(usage["sums"]["entries"].as_u64(), Some(3));
        let owners = usage["owners"].as_array().unwrap();
        assert_eq!(owners.iter().map(|owner| owner["entries"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 2]);
        let (stdout, _) = run(store(&config, "usage").args(["--by", "owner"]), 0);
        assert!(stdout.starts_with("3 payloads and sets take ") && stdout.contains(&other_node), "{stdout}");
        let (stdout, _) = run(&mut store(&config, "list"), 0);
        assert!(stdout.lines().count() == 4 && stdout.contains(" and 1 more"), "{stdout}");
        let (_, stderr) = run(store(&config, "stat").arg(format!("b3:{}", "0".repeat(64))), 1);
        assert!(stderr.contains("the store does not keep it"), "{stderr}");
        let (stdout, _) = run(&mut store(&config, "export"), 0);
        let hash = a.strip_prefix("b3:").unwrap();
        assert!(stdout.lines().count() == 3 && stdout.contains(&format!("{hash}  {hash}\n")), "{stdout}");
        if runs {
            fs::write(site.path("manifest"), stdout).unwrap();
            run(site.client("get").args(["--manifest", "manifest", "-o", "all"]), 0);
            assert_eq!(fs::read(site.path("all").join(hash)).unwrap(), fs::read(&mine).unwrap());
        }
    }
    let (stdout, _) = run(store(&config, "remove").args([&b, "--owner", &other_node]), 0);
    assert!(stdout.ends_with("  others keep it\n"), "{stdout}");
    let (_, stderr) = run(store(&config, "remove").args([&b, "--owner", &other_node]), 1);
    assert!(stderr.contains("nothing of it is kept for this owner"), "{stderr}");
    run(store(&config, "remove").arg(&b), 0);
    let _gateway = site.start();
    assert_eq!(tokens(&lines(site.client("list").arg("--json"))), [a.as_str()]);
    run(store(&config, "remove").args([&a, &c]), 0);
    assert!(site.kept().0.is_empty());
    run(site.client("get").arg(&a).arg("-o").arg(site.path("gone")), 1);
    assert_eq!(lines(store(&config, "list").arg("--json")).len(), 1);
    let (_, stderr) = run(store(&config, "list").args(["--owner", "me"]), 2);
    assert!(stderr.contains("give a node ID"), "{stderr}");
}

#[test]
fn a_store_that_cannot_be_asked_or_opened_is_told_with_the_fix() {
    let mut site = Site::new();
    let config = site.configure();
    let (_, stderr) = run(&mut store(&config, "list"), 1);
    assert!(stderr.contains("there is no store; has this gateway ever run"), "{stderr}");
    assert!(!site.store.exists(), "a list makes no store");
    let gateway = site.start();
    let (_, stderr) = run(&mut store(&config, "list"), 1);
    assert!(stderr.contains("has no [admin] section"), "{stderr}");
    let port = free_port();
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n");
    drop(gateway);
    let mut gateway = site.start();
    let (path, token) = site.file("file", 100);
    run(site.client("put").arg(&path), 0);
    assert_eq!(tokens(&lines(store(&config, "list").arg("--json"))), [token.as_str()]);
    let (_, stderr) = run(store(&config, "remove").arg(&token), 1);
    let refused = "the admin endpoint gives status 403: an endpoint without a token removes nothing";
    assert!(stderr.contains(refused), "{stderr}");
    gateway.process.stop();

    // A version without a database.
    fs::rename(site.store.join("store.redb"), site.path("kept.redb")).unwrap();
    let (_, stderr) = run(&mut store(&config, "list"), 1);
    assert!(stderr.contains("start the gateway, which takes it over"), "{stderr}");
    assert!(!site.store.join("store.redb").exists());
    // A file that is no database of a store.
    fs::write(site.store.join("store.redb"), b"something else").unwrap();
    let (_, stderr) = run(&mut store(&config, "list"), 1);
    assert!(stderr.contains("store.redb"), "{stderr}");
    fs::rename(site.path("kept.redb"), site.store.join("store.redb")).unwrap();
    run(&mut store(&config, "list"), 0);
}

#[test]
fn the_files_of_a_manifest_are_given_up_and_one_that_is_gone_stops_no_other() {
    let (mut site, _) = two_clients();
    let _gateway = site.start();
    let files = ["first", "second", "shared", "gone"].map(|name| site.file(name, 20_000));
    run(site.client("put").args(["--manifest", "manifest"]).args(files.iter().map(|(path, _)| path)), 0);
    let [_, (_, second), (shared, shared_token), (gone, gone_token)] = &files;
    run(other(&site, "put").arg(shared), 0);
    run(site.client("remove").arg(gone_token), 0);
    // A second name of one token.
    let mut text = fs::read_to_string(site.path("manifest")).unwrap();
    text.push_str(&format!("{}  once-more\n", second.trim_start_matches("b3:")));
    fs::write(site.path("manifest"), text).unwrap();
    let (stdout, _) = run(site.client("remove").args(["--manifest", "manifest"]), 0);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let line = |end: &str| {
        let mut found = stdout.lines().filter(|line| line.ends_with(end));
        let line = found.next().unwrap_or_else(|| panic!("{end}: {stdout}"));
        assert!(found.next().is_none(), "{stdout}");
        line.to_owned()
    };
    assert_eq!(stdout.lines().count(), 5, "{stdout}");
    assert!(line("first").contains("  removed  "));
    assert!(line("second").contains("  removed  "));
    assert_eq!(line("once-more"), format!("{second}  removed  once-more"));
    assert!(line(&name(shared)).starts_with(&format!("{shared_token}  given up; others keep it  ")));
    assert!(line(&name(gone)).starts_with(&format!("{gone_token}  was not kept  ")));
    // A second run finds nothing to do.
    let again = lines(site.client("remove").args(["--json", "--manifest", "manifest"]));
    assert_eq!(
        again,
        [
            serde_json::json!({"operation": "remove", "files": 5, "removed": 0, "kept": 0, "absent": 5, "failed": 0})
        ]
    );
    assert!(tokens(&lines(site.client("list").arg("--json"))).is_empty());
    assert_eq!(tokens(&lines(other(&site, "list").arg("--json"))), [shared_token.as_str()]);
    let counted = lines(site.client("put").args(["--json", "--manifest", "again"]).arg(&files[0].0));
    assert_eq!(counted.len(), 1);
    let removed = lines(site.client("remove").args(["--json", "--manifest", "again"]));
    assert_eq!(
        removed,
        [
            serde_json::json!({"operation": "remove", "files": 1, "removed": 1, "kept": 0, "absent": 0, "failed": 0})
        ]
    );
    let (_, stderr) = run(site.client("remove").args(["--manifest", "again", shared_token]), 2);
    assert!(stderr.contains("cannot be used with"), "{stderr}");
}

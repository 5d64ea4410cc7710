//! The results and the output of the tools, without faults.

use crate::support::{Site, identities, json, run, stoq, stoq_gateway};
use serde_json::Value;

#[track_caller]
fn assert_network(result: &Value) {
    let network = &result["network"];
    assert_eq!(network["kind"], "kernel-udp", "{result}");
    for key in ["driver", "device"] {
        assert!(network[key].is_string(), "network.{key}: {result}");
    }
    assert!(network["mtu"].as_u64().is_some_and(|mtu| mtu >= 1280), "{result}");
    assert_eq!(result["workers"], 1);
    assert_eq!(result["cipher"], "aes-128-gcm");
    assert!(result["version"].is_string());
}

#[test]
fn a_file_is_put_and_got_over_both_families() {
    let mut site = Site::new();
    let _gateway = site.start();
    for (n, address) in [site.v4(), site.v6()].into_iter().enumerate() {
        let (path, token) = site.file(&format!("file{n}"), 1_000_000 + n);
        let put = json(site.client_of(address, "put").arg(&path));
        assert_eq!(
            (&put["operation"], &put["token"], &put["verified"]),
            (&"put".into(), &token.as_str().into(), &true.into())
        );
        assert_eq!(put["bytes"], 1_000_000 + n);
        assert_eq!(put["gateway"], identities().gateway.as_str());
        assert_network(&put);

        let copy = site.path(&format!("copy{n}"));
        let get = json(site.client_of(address, "get").arg(&token).arg("-o").arg(&copy));
        assert_eq!(
            (&get["operation"], &get["bytes"], &get["resumed_at"]),
            (&"get".into(), &put["bytes"], &0.into())
        );
        assert_network(&get);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
        assert!(
            !site.path(&format!("copy{n}.part")).exists()
                && !site.path(&format!("copy{n}.part.json")).exists()
        );
    }
    let (kept, temporary) = site.kept();
    assert_eq!(
        (kept.len(), temporary.len()),
        (2, 0),
        "of each: the payload; its hash pairs are in the database"
    );
}

#[test]
fn text_output_gives_the_token_alone_on_standard_output() {
    let mut site = Site::new();
    let _gateway = site.start();
    for len in [0, 1, 16 * 1024, 16 * 1024 + 1] {
        let (path, token) = site.file(&format!("file{len}"), len);
        let (stdout, stderr) = run(site.client("put").arg(&path), 0);
        assert_eq!(stdout.trim(), token);
        assert!(stderr.contains("kept by the gateway") && stderr.contains("kernel UDP"), "{stderr}");
        let copy = site.path(&format!("copy{len}"));
        run(site.client("get").arg(&token).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    }
}

#[test]
fn a_second_put_of_the_same_payload_is_answered_at_once() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = site.file("file", 8 << 20);
    let first = json(site.client("put").arg(&path));
    let second = json(site.client("put").arg(&path));
    assert_eq!((&first["token"], &second["token"]), (&token.as_str().into(), &token.as_str().into()));
    assert_eq!(site.kept().0.len(), 2, "one payload and its outboard");
}

#[test]
fn ping_measures_round_trips() {
    let mut site = Site::new();
    let _gateway = site.start();
    for size in ["0", "64", "65536"] {
        let result = json(site.client("ping").args(["--count", "3", "--interval", "0", "--size", size]));
        assert_eq!((&result["operation"], &result["round_trips"]), (&"ping".into(), &3.into()));
        let us = |key: &str| result[key].as_f64().unwrap();
        assert!(
            us("min_us") > 0.0 && us("min_us") <= us("p50_us") && us("p50_us") <= us("max_us"),
            "{result}"
        );
        assert_network(&result);
    }
    let (stdout, _) = run(site.client("ping").args(["-c", "2", "-i", "0.01"]), 0);
    assert!(stdout.contains("seq=2") && stdout.contains("2 round trips"), "{stdout}");
    let loaded = json(site.client("ping").args(["-c", "20", "-i", "0", "--load", "2"]));
    assert_eq!((&loaded["under_load"], &loaded["round_trips"]), (&true.into(), &20.into()));
    let (_, stderr) = run(site.client("ping").args(["--size", "65537"]), 2);
    assert!(stderr.contains("65536"), "{stderr}");
}

#[test]
fn bench_reports_the_count_of_the_gateway() {
    let mut site = Site::new();
    let _gateway = site.start();
    let result = json(site.client("bench").args(["--bytes", "3000001", "--size", "10000"]));
    assert_eq!((&result["bytes"], &result["messages"]), (&3_000_001.into(), &301.into()));
    assert!(result["gbit_per_s"].as_f64().unwrap() > 0.0);
    let stages = &result["stages"][0];
    assert!(stages["turns"].as_u64().unwrap() > 0 && stages["ns"]["emit"].as_u64().unwrap() > 0, "{stages}");
    assert_network(&result);
    let spent: f64 = result["limited_s"].as_object().unwrap().values().filter_map(|time| time.as_f64()).sum();
    assert!(spent >= result["seconds"].as_f64().unwrap(), "{result}");
    let (text, _) = run(site.client("bench").args(["--bytes", "3000001"]), 0);
    assert!(text.contains("; limited by "), "{text}");
}

#[test]
fn bench_spreads_its_load_over_connections_and_streams() {
    let mut site = Site::new();
    site.more += "[[application]]\nkind = \"discard\"\nqueues = [4]\nverify = false\n";
    let _gateway = site.start();
    let (path, token) = site.file("file", 100_000);
    run(site.client("put").arg(&path), 0);
    let wide = |more: &[&str]| {
        let result = json(site.client("bench").args(["--connections", "20", "--streams", "2"]).args(more));
        assert_eq!((&result["connections"], &result["streams"]), (&20.into(), &2.into()));
        result
    };
    assert_eq!(wide(&["--bytes", "4000000"])["bytes"], 4_000_000);
    let put = wide(&["--put", "--bytes", "4000000"]);
    assert_eq!((&put["bytes"], &put["puts"]), (&4_000_000.into(), &40.into()));
    assert!(put["answer"].as_str().unwrap().starts_with("checked"), "{put}");
    let put = wide(&["--put", "--bytes", "4000000", "--queue", "4"]);
    assert!(put["answer"].as_str().unwrap().starts_with("dropped unchecked"), "{put}");
    assert_eq!(wide(&["--get", &token])["bytes"], 4_000_000);
    assert_eq!(wide(&["--get", &token, "--round-trips", "3"])["round_trips"], 120);
    let (_, stderr) = run(site.client("bench").args(["--put", "--bytes", "1000", "--queue", "0"]), 1);
    assert!(stderr.contains("keeps payloads: give a queue"), "{stderr}");
    let (_, stderr) = run(site.client("bench").args(["--put", "--bytes", "1000", "--queue", "1"]), 1);
    assert!(stderr.contains("keeps no payloads"), "{stderr}");
    let stranger = identities().stranger.clone();
    let (_, stderr) = run(site.client("bench").args(["--via", &stranger]), 2);
    assert!(stderr.contains("--via: messages go to the connected gateway alone"), "{stderr}");
}

#[test]
fn bench_puts_payloads_that_the_store_keeps() {
    let mut site = Site::new();
    let _gateway = site.start();
    let put = |more: &[&str]| {
        let mut put = site.client("bench");
        put.args(["--put", "--connections", "2", "--streams", "2"]).args(more);
        put
    };
    let kept = json(&mut put(&["--keep", "1h", "--payload", "1000", "--bytes", "20000"]));
    assert_eq!((&kept["operation"], &kept["puts"]), (&"put-keep".into(), &20.into()));
    assert_eq!((&kept["payload_bytes"], &kept["bytes"]), (&1000.into(), &20_000.into()));
    for key in ["puts_per_s", "p50_us", "p99_us"] {
        assert!(kept[key].as_f64().unwrap() > 0.0, "{kept}");
    }
    let (list, _) = run(site.client("list").arg("--json"), 0);
    assert_eq!(list.matches("\"length\":1000").count(), 20, "{list}");
    let (text, _) = run(&mut put(&["--keep", "90s", "--bytes", "4000000"]), 0);
    assert!(text.starts_with("4000000 bytes in 4 PUTs, all kept by the gateway: "), "{text}");
    let dropped = json(&mut put(&["--payload", "1000", "--bytes", "20000"]));
    assert_eq!((&dropped["operation"], &dropped["puts"]), (&"put-discard".into(), &20.into()));
    let (_, stderr) = run(&mut put(&["--keep", "1h", "--queue", "2", "--bytes", "4000"]), 1);
    assert!(stderr.contains("queue 2 drops payloads: give a queue of a seed application"), "{stderr}");
    let (_, stderr) = run(&mut put(&["--payload", "1000", "--bytes", "3999"]), 2);
    assert!(
        stderr.contains("3999 are fewer than a payload of 1000 on each of 4 streams; give at least 4000"),
        "{stderr}"
    );
}

#[test]
fn a_path_is_measured_with_its_limits_and_what_to_set() {
    let mut site = Site::new();
    let _gateway = site.start();
    let path = ["--time-limit", "60", "--bytes", "20000000"];
    let result = json(site.client("path").args(path));
    assert_eq!((&result["operation"], &result["forth"]["bytes"]), (&"path".into(), &20_000_000.into()));
    for (of, key) in [("idle", "p50_us"), ("forth", "bits_per_s"), ("back", "bits_per_s")] {
        assert!(result[of][key].as_f64().unwrap() > 0.0, "{result}");
    }
    assert!(result["udp_payload_bytes"].as_u64() >= Some(1200) && result["advice"].is_array(), "{result}");
    assert!(result["forth"]["limited_s"]["congestion"].is_number(), "{result}");
    let (text, stderr) = run(site.client("path").args(path), 0);
    for word in ["delay ", "size ", "forth ", "limited by ", "back ", "unseen ", "set "] {
        assert!(text.contains(word), "{text}");
    }
    assert!(text.lines().count() < 20 && stderr.contains("loading the way back"), "{text}{stderr}");
}

#[test]
fn a_path_without_its_applications_names_the_fix() {
    let mut site = Site::new();
    let _gateway = site.start();
    for (option, kind) in [("--echo", "echo"), ("--discard", "discard")] {
        let short = ["--time-limit", "10", "--timeout", "2", option, "9"];
        let (_, stderr) = run(site.client("path").args(short), 1);
        assert!(stderr.contains(&format!("[[application]] kind = \"{kind}\", queues = [9]")), "{stderr}");
        assert_eq!(stderr.matches("no answer from queue 9").count(), 1, "{stderr}");
    }
    let (_, stderr) = run(site.client("path").args(["--time-limit", "4"]), 2);
    assert!(stderr.contains("--time-limit"), "{stderr}");
}

#[test]
fn a_bench_without_a_discard_application_names_its_queue() {
    let mut site = Site::new();
    let _gateway = site.start();
    let refusal = |queue: &str, more: &[&str]| {
        run(site.client("bench").args(["--bytes", "1000", "--queue", queue]).args(more), 1).1
    };
    let messages = refusal("9", &[]);
    assert!(messages.contains("the gateway takes no messages on queue 9 (not found)"), "{messages}");
    assert!(messages.contains("[[application]] kind = \"discard\", queues = [9]"), "{messages}");
    // A queue whose application answers no messages is silent.
    let silent = refusal("0", &["--time-limit", "1"]);
    assert!(
        silent.contains("no result within 1 s: does the gateway have a discard application on queue 0?"),
        "{silent}"
    );
    let puts = refusal("9", &["--put"]);
    assert!(puts.contains("no application takes queue 9"), "{puts}");
}

#[test]
fn two_workers_on_either_side_serve() {
    let mut site = Site::new();
    site.more += "[workers]\ncount = 2\n";
    let _gateway = site.start();
    let config = site.client_file("[workers]\ncount = 2\n");
    let (path, token) = site.file("file", 500_000);
    for n in 0..4 {
        run(stoq().arg("put").arg("--config").arg(&config).arg(&path), 0);
        let copy = site.path(&format!("copy{n}"));
        run(stoq().arg("get").arg("--config").arg(&config).arg(&token).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    }
    let result = json(stoq().arg("bench").arg("--config").arg(&config).args(["--bytes", "2000000"]));
    assert_eq!((&result["workers"], &result["bytes"]), (&2.into(), &2_000_000.into()));
}

#[test]
fn token_names_a_file_without_a_network() {
    let site = Site::new();
    let (path, token) = site.file("file", 123_456);
    assert_eq!(run(stoq().arg("token").arg(&path), 0).0.trim(), token);
    let (_, stderr) = run(stoq().args(["token", "/nowhere/file"]), 1);
    assert!(stderr.contains("/nowhere/file"), "{stderr}");
}

#[test]
fn identities_are_made_once_and_shown() {
    let site = Site::new();
    let (cert, key) = (site.path("new.pem"), site.path("new.key"));
    let new = || {
        let mut command = stoq();
        command.args(["identity", "new", "--name", "node seven", "--cert"]).arg(&cert).arg("--key").arg(&key);
        command
    };
    let id = run(&mut new(), 0).0.trim().to_owned();
    assert_eq!(id.len(), 52);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(stoq().args(["identity", "show", "--id"]).arg(&cert), 0).0.trim(), id);
    let shown = json(stoq().args(["identity", "show"]).arg(&cert));
    assert_eq!(shown["node_id"], id.as_str());
    let (stdout, _) = run(stoq().args(["identity", "show"]).arg(&cert), 0);
    assert!(stdout.contains(&id) && stdout.contains("node seven"), "{stdout}");
    // A key is never overwritten.
    let before = std::fs::read(&key).unwrap();
    let (_, stderr) = run(&mut new(), 1);
    assert!(stderr.contains("new.key") || stderr.contains("new.pem"), "{stderr}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn wrong_usage_ends_with_code_2_and_help_with_0() {
    for arguments in
        [&["frobnicate"][..], &["get", "b3:short", "-o", "x"], &["put"], &["put", "x", "--timeout"]]
    {
        run(stoq().args(arguments), 2);
    }
    run(stoq_gateway().arg("run"), 2);
    for command in [&mut stoq(), &mut stoq_gateway()] {
        let (stdout, _) = run(command.arg("--help"), 0);
        assert!(stdout.contains("Exit codes"), "{stdout}");
    }
    let site = Site::new();
    let (path, _) = site.file("file", 10);
    let (_, stderr) = run(stoq().arg("put").arg(&path), 2);
    assert!(stderr.contains("--node-id") || stderr.contains("--gateway"), "{stderr}");
}

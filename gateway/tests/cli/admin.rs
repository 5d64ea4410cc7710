//! The admin endpoint of a real gateway: metrics, health, status, and its guards.

use crate::support::{Gateway, Site, identities, run, stoq_gateway, wait_until, write_secret};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use stoq::counters::Counter;
use stoq::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_S};
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::{Sample, parse};

/// A gateway with this admin section beside `listen`, and its endpoint's URL without the scheme.
pub(crate) fn start(site: &mut Site, admin: &str) -> (Gateway, String) {
    // Another program may take this free port. Then the gateway does not start, and the test fails.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n{admin}\n");
    (site.start(), format!("127.0.0.1:{port}"))
}

pub(crate) fn get(remote: &Remote, path: &str) -> String {
    let (code, body) = remote.get(path).unwrap();
    assert_eq!(code, 200, "{path}: {body}");
    body
}

fn samples<'s>(samples: &'s [Sample], name: &str, labels: &[(&str, &str)]) -> Vec<&'s Sample> {
    let is = |s: &&Sample| {
        s.name == name && labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value))
    };
    samples.iter().filter(is).collect()
}

#[track_caller]
pub(crate) fn value(all: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = samples(all, name, labels);
    assert_eq!(found.len(), 1, "{name} {labels:?}");
    found[0].value
}

/// Asserts that every metric named by the documents, the alerts, the dashboard and the page is served.
#[track_caller]
fn assert_known(metrics: &str) {
    // Metrics of DPDK ports, of bounded stores, of gateways with peer gateways, fleets and anycast addresses: this gateway has none of them.
    let elsewhere = [
        "stoq_port_",
        "stoq_capture_dropped_total",
        "stoq_store_capacity_bytes",
        "stoq_peer_gateway_up",
        "stoq_fleet_",
        "stoq_anycast_",
        "stoq_exception_path_",
    ];
    let texts = [
        include_str!("../../../docs/admin.md"),
        include_str!("../../../configs/prometheus-alerts.yml"),
        include_str!("../../../configs/grafana-dashboard.json"),
        include_str!("../../src/admin/page.html"),
    ];
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut seen = 0;
    for name in texts.iter().flat_map(|text| text.split(|c| !is_name(c))) {
        if !name.starts_with("stoq_")
            || name.ends_with('_')
            || elsewhere.iter().any(|other| name.starts_with(other))
        {
            continue;
        }
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_served = |name: &str| metrics.contains(&format!("# TYPE {name} "));
        assert!(is_served(name) || family.is_some_and(is_served), "{name} is named and not served");
        seen += 1;
    }
    assert!(seen > 100, "{seen} names");
}

#[test]
fn the_metrics_count_what_clients_did() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let (file, token) = site.file("payload", 300_000);
    run(site.client("put").arg(&file), 0);
    run(site.client("get").arg(&token).arg("-o").arg(site.path("back")), 0);
    run(site.client("get").arg(format!("b3:{}", "0".repeat(64))).arg("-o").arg(site.path("none")), 1);
    let mut all = Vec::new();
    // Workers add a connection's packets to the counters once a second, and at its end.
    wait_until("connections are counted", || {
        all = parse(&get(&remote, "/metrics"));
        value(&all, "stoq_quic_sent_packets_total", &[]) > 10.0 && value(&all, "stoq_link_up", &[]) == 1.0
    });
    let text = get(&remote, "/metrics");
    for sample in &all {
        let family = ["_bucket", "_sum", "_count"].iter().fold(sample.name.as_str(), |name, end| {
            let family = name.strip_suffix(end).unwrap_or(name);
            if text.contains(&format!("# TYPE {family} histogram\n")) { family } else { name }
        });
        assert_eq!(text.matches(&format!("# HELP {family} ")).count(), 1, "{family}");
        assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{family}");
        assert!(
            include_str!("../../../docs/admin.md").contains(&format!("`{family}`")),
            "{family} is documented"
        );
    }
    assert_known(&text);
    // Every counter is there, under its own name or as a label of its family.
    for &counter in Counter::ALL {
        let name = counter.name();
        let plain = format!("stoq_{name}_total");
        let parts: Vec<_> = name.split('_').collect();
        let shown = match parts[..] {
            ["drop", ..] => samples(&all, "stoq_drops_total", &[("reason", &parts[1..].join("_"))]),
            ["handshakes", role, result] => {
                samples(&all, "stoq_quic_handshakes_total", &[("role", role), ("result", result)])
            }
            ["requests", kind, result] => {
                samples(&all, "stoq_requests_total", &[("kind", kind), ("result", result)])
            }
            ["rights", "refused", right] => samples(&all, "stoq_rights_refused_total", &[("right", right)]),
            ["hops", result] => samples(&all, "stoq_hops_total", &[("result", result)]),
            [result, "polls"] => samples(&all, "stoq_polls_total", &[("result", result)]),
            _ => samples(&all, &plain, &[("worker", "0")]),
        };
        assert_eq!(shown.len(), 1, "{name}");
    }
    let requests = |kind, result| value(&all, "stoq_requests_total", &[("kind", kind), ("result", result)]);
    assert_eq!(
        (requests("put", "ok"), requests("fetch", "ok"), requests("fetch", "refused")),
        (1.0, 1.0, 1.0)
    );
    let handshakes =
        |result| value(&all, "stoq_quic_handshakes_total", &[("role", "server"), ("result", result)]);
    assert_eq!((handshakes("completed") + handshakes("early"), handshakes("failed")), (3.0, 0.0));
    assert_eq!(value(&all, "stoq_verified_bytes_total", &[]), 300_000.0);
    assert_eq!(value(&all, "stoq_store_entries", &[]), 1.0);
    assert!(value(&all, "stoq_store_usage_bytes", &[]) >= 300_000.0);
    assert!(value(&all, "stoq_rx_packets_total", &[]) >= value(&all, "stoq_rx_burst_packets_count", &[]));
    assert!(value(&all, "stoq_certificate_expiry_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!((value(&all, "stoq_ready", &[]), value(&all, "stoq_draining", &[])), (1.0, 0.0));
}

#[test]
fn status_shows_the_parts_of_the_gateway_and_its_connections() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    wait_until("the gateway is ready", || remote.get("/readyz").unwrap().0 == 200);
    assert_eq!(get(&remote, "/livez"), "ok\n");
    let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
    let file = std::fs::read(site.path("gateway.toml")).unwrap();
    assert_eq!(status["configuration"]["blake3"], blake3::hash(&file).to_hex().to_string());
    assert_eq!(status["node_id"], identities().gateway);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["ready"], &status["draining"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(status["certificate"]["expires_in_s"].as_i64().unwrap() > 0);
    let port = &status["ports"][0];
    assert_eq!((&port["kind"], &port["link_up"]), (&"kernel-udp".into(), &Value::Bool(true)));
    assert!(port["mtu"].as_u64().unwrap() >= 1280 && port["offloads"].is_null());
    let worker = &status["workers"][0];
    assert!(worker["limited_s"]["application"].is_number(), "{worker}");
    assert_eq!((worker["worker"].as_u64(), worker["connections"].as_u64()), (Some(0), Some(0)));
    assert!((0.0..=1.0).contains(&worker["load"].as_f64().unwrap()));
    assert_eq!(
        (&status["store"]["writable"], &status["peer_gateways"]),
        (&Value::Bool(true), &Value::Array(vec![]))
    );

    let mut ping = crate::support::Process::spawn(site.client("ping").args(["--count", "1000000"]));
    let mut seen = Value::Null;
    wait_until("the connection is shown", || {
        let workers: Value = serde_json::from_str(&get(&remote, "/debug/connections")).unwrap();
        seen = workers[0][0].clone();
        seen["established"] == true && seen["received_bytes"].as_u64() > Some(10_000)
    });
    assert!(ping.is_running());
    let (top, _) =
        run(stoq_gateway().args(["top", "--once", "--interval", "0.2", "--url", &format!("{at}/")]), 0);
    let worker = top.lines().find(|line| line.starts_with("0 ")).unwrap();
    assert_eq!(worker.split_whitespace().nth(5), Some("1"), "one connection: {top}");
    assert!(top.contains(&identities().gateway) && top.contains("ready"), "{top}");
    let (_, error) = run(stoq_gateway().args(["top", "--url", "http://127.0.0.1:1"]), 1);
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert_eq!(seen["node"], identities().client);
    assert_eq!((&seen["outgoing"], &seen["worker"]), (&Value::Bool(false), &0.into()));
    assert!(seen["window_bytes"].as_u64().unwrap() > 0 && seen["mtu_bytes"].as_u64().unwrap() >= 1200);
    assert!(get(&remote, "/").starts_with("<!doctype html>"));
    assert_eq!(remote.get("/nothing").unwrap().0, 404);
}

#[test]
fn a_draining_gateway_is_alive_and_not_ready() {
    let mut site = Site::new();
    site.more = "[shutdown]\ndrain_ms = 30000\n".into();
    let (mut gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let health = |path: &str, code| {
        let url = format!("http://{at}{path}");
        run(stoq_gateway().args(["health", "--url", &url]), code).1
    };
    wait_until("the gateway is ready", || remote.get("/readyz").unwrap().0 == 200);
    for path in ["/readyz", "/readyz/", "", "/"] {
        health(path, 0);
    }
    run(stoq_gateway().args(["health", "--url", &at]), 0);
    let figures = health("/status", 1);
    assert!(figures.contains("/readyz"), "any gateway that runs gives these: {figures}");
    let (file, token) = site.file("payload", 32 << 20);
    run(site.client("put").arg(&file), 0);
    // The test does not read the fetched bytes yet, so the request stays in flight.
    let mut get_payload = site.client("get");
    get_payload
        .arg(&token)
        .args(["-o", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut fetching = get_payload.spawn().unwrap();
    wait_until("the request is in flight", || {
        let workers: Value = serde_json::from_str(&get(&remote, "/debug/connections")).unwrap();
        workers[0].as_array().unwrap().iter().any(|connection| connection["requests"].as_u64() > Some(0))
    });
    gateway.process.signal(Signal::TERM);
    wait_until("the drain is seen", || remote.get("/readyz").is_ok_and(|(code, _)| code == 503));
    let (code, reasons) = remote.get("/readyz").unwrap();
    assert_eq!((code, reasons.as_str()), (503, "draining\n"));
    assert_eq!(get(&remote, "/livez"), "ok\n");
    health("/livez", 0);
    for path in ["/readyz", "", "/"] {
        let text = health(path, 1);
        assert!(text.contains("the gateway is not ready: draining"), "{path:?}: {text}");
    }
    assert!(run(stoq_gateway().args(["health", "--url", &at]), 1).1.contains("draining"));
    let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
    assert_eq!((&status["draining"], &status["ready"]), (&Value::Bool(true), &Value::Bool(false)));
    let mut fetched = Vec::new();
    fetching.stdout.take().unwrap().read_to_end(&mut fetched).unwrap();
    assert!(fetching.wait().unwrap().success());
    assert_eq!(format!("b3:{}", blake3::hash(&fetched).to_hex()), token, "the running request is finished");
    assert!(gateway.process.end().success());
    assert!(remote.get("/livez").is_err(), "the endpoint ended with the gateway");
    assert!(health("/livez", 1).contains("does the gateway run"));
}

#[test]
fn without_the_token_guarded_paths_are_refused() {
    let mut site = Site::new();
    let certified = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
    let (cert, key) = (site.path("admin.pem"), site.path("admin.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    write_secret(&key, certified.signing_key.serialize_pem());
    let (right, wrong) = (site.path("right.token"), site.path("wrong.token"));
    write_secret(&right, "0123456789abcdef0123\n");
    write_secret(&wrong, "0123456789abcdef0124\n");
    let admin = "certificate = \"admin.pem\"\nkey = \"admin.key\"\ntoken_file = \"right.token\"";
    let (_gateway, at) = start(&mut site, admin);
    let url = format!("https://{at}");
    let remote = |token| Remote::new(&url, Some(&cert), token).unwrap();
    for path in ["/metrics", "/status", "/debug/connections"] {
        assert_eq!(remote(Some(&right)).get(path).unwrap().0, 200, "{path}");
        assert_eq!(remote(Some(&wrong)).get(path).unwrap().0, 401, "{path}");
        let (code, body) = remote(None).get(path).unwrap();
        assert_eq!(code, 401, "{path}");
        assert!(!body.contains("stoq"), "{body}");
    }
    // Probes and browsers send no token. These paths show health alone.
    for path in ["/livez", "/"] {
        assert_eq!(remote(None).get(path).unwrap().0, 200, "{path}");
    }
    let plain = Remote::new(&format!("http://{at}"), None, Some(&right)).unwrap();
    assert!(plain.get("/metrics").is_err(), "no answer in the clear");
}

#[test]
fn peer_gateways_are_shown_by_their_names() {
    let ids = identities();
    let identity = |who: &str| {
        let (cert, key) = (ids.file(&format!("{who}.pem")), ids.file(&format!("{who}.key")));
        format!("certificate = {cert:?}\nkey = {key:?}")
    };
    let mut far = Site::new();
    far.identity = identity("stranger");
    far.trust = format!("node_ids = [\"{}\"]", ids.gateway);
    let far_gateway = far.start();
    let mut site = Site::new();
    site.trust = format!("node_ids = [\"{}\", \"{}\"]", ids.client, ids.stranger);
    let (id, address) = (&ids.stranger, far.v4());
    site.more +=
        &format!("[[gateway]]\nname = \"far<b>\"\nnode_id = \"{id}\"\naddresses = [\"{address}\"]\n");
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let labels = [("name", "far<b>"), ("node_id", id.as_str())];
    // Workers sample their peer gateways once a second.
    let is = |expected: f64| {
        let all = parse(&get(&remote, "/metrics"));
        samples(&all, "stoq_peer_gateway_up", &labels).iter().any(|sample| sample.value == expected)
    };
    wait_until("the peer gateway is up", || is(1.0));
    let text = get(&remote, "/status");
    assert!(!text.contains(['<', '>']), "{text}");
    let status: Value = serde_json::from_str(&text).unwrap();
    let peer_gateway = &status["peer_gateways"][0];
    assert_eq!((&peer_gateway["name"], &peer_gateway["node_id"]), (&"far<b>".into(), &id.as_str().into()));
    assert_eq!(peer_gateway["workers_up"], serde_json::json!([0]));
    far_gateway.process.signal(Signal::KILL);
    wait_until("the peer gateway is down", || is(0.0));
}

#[test]
fn a_reload_is_shown_and_changes_certificate_and_token() {
    let mut site = Site::new();
    site.more = "[reload]\nwatch = false\n".into();
    let certify = || rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    let (cert, key, token) = (site.path("admin.pem"), site.path("admin.key"), site.path("token"));
    let write = |certified: &rcgen::CertifiedKey<rcgen::KeyPair>, text: &str| {
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        write_secret(&key, certified.signing_key.serialize_pem());
        write_secret(&token, text);
    };
    write(&certify(), "the-first-of-the-tokens\n");
    let admin = "certificate = \"admin.pem\"\nkey = \"admin.key\"\ntoken_file = \"token\"";
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.more += &format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n{admin}\n");
    let (plain, url) = (site.more.clone(), format!("https://127.0.0.1:{port}"));
    let (first_cert, first_token) = (site.path("first.pem"), site.path("first.token"));
    std::fs::copy(&cert, &first_cert).unwrap();
    std::fs::copy(&token, &first_token).unwrap();
    let mut gateway = site.start();
    let mut reload = |site: &Site, kind: &str| {
        site.configure();
        gateway.process.reload(kind)
    };
    let first = Remote::new(&url, Some(&first_cert), Some(&first_token)).unwrap();
    let reloads = |remote: &Remote| {
        let all = parse(&get(remote, "/metrics"));
        let of = |result| value(&all, "stoq_config_reloads_total", &[("result", result)]);
        (of("taken"), of("refused"), value(&all, "stoq_config_last_reload_successful", &[]))
    };
    assert_eq!(reloads(&first), (0.0, 0.0, 1.0));

    site.more = format!("{plain}[log]\nlevel = \"stoq=loud\"\n");
    reload(&site, "reload-refused");
    assert_eq!(reloads(&first), (0.0, 1.0, 0.0));

    site.more = format!("{plain}[log]\nlevel = \"info\"\n");
    write(&certify(), "the-second-of-the-tokens\n");
    reload(&site, "reloaded");
    assert!(first.get("/metrics").is_err(), "the certificate has changed");
    let late = Remote::new(&url, Some(&cert), Some(&first_token)).unwrap();
    assert_eq!(late.get("/metrics").unwrap().0, 401, "the token has changed");
    let second = Remote::new(&url, Some(&cert), Some(&token)).unwrap();
    assert_eq!(reloads(&second), (1.0, 1.0, 1.0));
    let status: Value = serde_json::from_str(&get(&second, "/status")).unwrap();
    let file = std::fs::read(site.path("gateway.toml")).unwrap();
    assert_eq!(status["configuration"]["blake3"], blake3::hash(&file).to_hex().to_string());

    // A bad token file changes nothing at all.
    std::fs::write(&token, "short").unwrap();
    let refused = reload(&site, "reload-refused");
    assert!(refused["error"].as_str().unwrap().contains("admin.token_file"), "{refused}");
    std::fs::write(&token, "the-second-of-the-tokens\n").unwrap();
    assert_eq!(reloads(&second), (1.0, 2.0, 0.0));
}

#[test]
fn an_unguarded_or_broken_endpoint_is_refused() {
    let mut site = Site::new();
    let front = site.more.clone();
    let mut refusal = |admin: &str, code: i32| {
        site.more = format!("{front}[admin]\n{admin}\n");
        run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), code).1
    };
    let text = refusal("listen = \"0.0.0.0:9464\"", 2);
    assert!(text.contains("admin.listen") && text.contains("insecure"), "{text}");
    let text = refusal("token_file = \"none.token\"", 1);
    assert!(text.contains("none.token"), "{text}");
    let text = refusal("certificate = \"none.pem\"\nkey = \"none.key\"", 1);
    assert!(text.contains("none.pem"), "{text}");
    write_secret(site.path("short.token"), "short");
    site.more = format!("{front}[admin]\ntoken_file = \"short.token\"\n");
    let text = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1).1;
    assert!(text.contains("openssl rand"), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    site.more = format!("{front}[admin]\nlisten = \"{}\"\n", taken.local_addr().unwrap());
    let text = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1).1;
    assert!(text.contains("another program"), "{text}");
}

#[test]
fn connections_that_drip_a_head_silence_no_probe() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    wait_until("the gateway is ready", || remote.get("/readyz").unwrap().0 == 200);
    let mut dripping: Vec<_> = (0..3 * ADMIN_CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = TcpStream::connect(&at).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(get(&remote, "/livez"), "ok\n");
        run(stoq_gateway().args(["health", "--url", &at]), 0);
        dripping.iter_mut().for_each(|stream| drop(stream.write_all(b"s")));
    }
    // The oldest have ended for the newest.
    let mut rest = Vec::new();
    assert!(matches!(dripping[0].read_to_end(&mut rest), Ok(0) | Err(_)) && rest.is_empty());
    // A head that goes no further ends by its deadline.
    let mut last = dripping.pop().unwrap();
    last.set_read_timeout(Some(std::time::Duration::from_secs(10 * ADMIN_HEAD_S))).unwrap();
    let ended = last.read_to_end(&mut rest);
    assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it goes on");
}

#[test]
fn an_endpoint_without_a_token_answers_to_known_names_alone() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "hosts = [\"gateway.example\"]");
    let asked = |host: &str, path: &str| {
        let mut stream = TcpStream::connect(&at).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/status", "/recent", "/metrics", "/debug/connections"] {
        for host in [at.as_str(), "localhost:9464", "gateway.example"] {
            assert!(asked(host, path).starts_with("HTTP/1.1 200"), "{host}{path}");
        }
        let answer = asked("attacker.example:9464", path);
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("admin.hosts"), "{answer}");
        assert!(!answer.contains(&identities().gateway), "{answer}");
    }
    assert!(asked("attacker.example", "/livez").starts_with("HTTP/1.1 200"), "probes read no figures");
}

#[test]
fn a_key_or_token_that_others_can_read_is_refused_with_the_fix() {
    let mut site = Site::new();
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(site.path("admin.pem"), made.cert.pem()).unwrap();
    write_secret(site.path("admin.key"), made.signing_key.serialize_pem());
    write_secret(site.path("admin.token"), "0123456789abcdef0123\n");
    let front = site.more.clone();
    for (file, said) in [
        ("admin.key", "the private key is open to other users (mode 0644); run: chmod 600 "),
        ("admin.token", "other users can read the token in "),
    ] {
        let path = site.path(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let keys = "certificate = \"admin.pem\"\nkey = \"admin.key\"\ntoken_file = \"admin.token\"";
        site.more = format!("{front}[admin]\n{keys}\n");
        let text = run(stoq_gateway().arg("run").arg("--config").arg(site.configure()), 1).1;
        assert!(
            text.contains(said) && text.contains("(mode 0644); run: chmod 600 ") && text.contains(file),
            "{text}"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    let token = site.path("admin.token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o604)).unwrap();
    let args = ["top", "--once", "--url", "127.0.0.1:1", "--token-file"];
    let text = run(stoq_gateway().args(args).arg(&token), 1).1;
    assert!(text.contains("--token-file: other users can read the token in "), "{text}");
}

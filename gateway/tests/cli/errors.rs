//! Every error that a user can bring about without a NIC, and that no other test expects: by the command line, by files, by a gateway that
//! is another one or none. `tests/tidy/errors/list.txt` lists all of them; [`run`] checks the form of each.

use crate::support::{
    Process, Site, free_port, identities, run, stoq, stoq_gateway, wait_until, write_secret,
};
use crate::wording::assert_well_said;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

/// Runs a command in this directory; its error has these parts.
#[track_caller]
fn said(site: &Site, command: &mut Command, code: i32, parts: &[&str]) {
    let (_, stderr) = run(command.current_dir(site.directory.path()), code);
    for part in parts {
        assert!(stderr.contains(part), "{command:?} does not say {part:?}: {stderr}");
    }
}

fn pktgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stoq-pktgen"))
}

/// A node ID of these letters.
fn node(letter: char) -> String {
    format!("{}a", letter.to_string().repeat(51))
}

#[test]
fn a_wrong_command_line_is_refused_with_the_right_form() {
    let site = Site::new();
    std::fs::write(site.path("file"), b"bytes").unwrap();
    std::fs::File::create(site.path("large")).unwrap().set_len(5 << 20).unwrap();
    let token = format!("b3:{}", "0".repeat(64));
    let rows: &[(&[&str], i32, &[&str])] = &[
        (&["get", "x", "-o", "copy"], 2, &["a token is `b3:` and 64 hexadecimal digits"]),
        (&["put", "file", "--shards", "16"], 2, &["shards are written as data+parity"]),
        (&["put", "file", "--shards", "2+1", "--lanes", "x"], 2, &["lanes are numbers from 0 to 127"]),
        (&["put", "file", "--shards", "2+1", "--lanes", "5"], 2, &["--lanes 5: the set has the lanes 0-2"]),
        (&["ping", "--node-id", "x"], 2, &["not a node ID: expected 52 characters"]),
        (&["ping", "--congestion-control", "reserved"], 2, &["--congestion-control reserved needs the rate"]),
        (&["ping"], 2, &["no gateway is trusted: give --ca FILE"]),
        (&["ping", "--node-id", &node('b')], 2, &["no gateway: give --gateway HOST[:PORT]"]),
        (&["ping", "--count", "ten"], 2, &["invalid value 'ten' for '--count", "is no number; give"]),
        (&["ping", "--count", "1.5"], 2, &["1.5 is no whole number"]),
        (
            &["mirror", &token, "--on", "a", "--lanes", "1"],
            2,
            &["--lanes: a payload has none; give the token"],
        ),
        (
            &["identity", "new", "--cert", "a", "--key", "b", "--algorithm", "rsa"],
            2,
            &["no Falcon algorithm is called"],
        ),
        (
            &["identity", "new", "--cert", "a", "--key", "b", "--san", "a b"],
            2,
            &["is neither an IP address nor a DNS name"],
        ),
        (
            &["identity", "new", "--cert", "a", "--key", "b", "--algorithm", "falcon512"],
            2,
            &["keys are verified only"],
        ),
        (&["identity", "show", "large"], 1, &["large: larger than ", "this is no PEM file"]),
    ];
    for (args, code, parts) in rows {
        said(&site, stoq().args(*args), *code, parts);
    }
    let rows: &[(&[&str], &[&str])] = &[
        (&["health", "--url", "127.0.0.1:1/metrics"], &["does not tell whether a gateway is ready"]),
        (&["top", "--url", "127.0.0.1:1/x"], &["there is no /x; give the address of the endpoint alone"]),
        (&["top", "--url", "https://127.0.0.1:1"], &["give the authority's certificates with --ca"]),
        (&["top", "--url", "ftp://127.0.0.1:1"], &["is not supported; give http or https"]),
        (&["top", "--url", "127.0.0.1:1", "--token-file", "none"], &["--token-file: the token file none"]),
    ];
    let capture = ["capture", "--socket", "none", "-o", "out", "--filter", "nope"];
    said(&site, stoq_gateway().args(capture), 2, &["no filter: \"nope\"; give terms"]);
    for (args, parts) in rows {
        said(&site, stoq_gateway().args(*args), 1, parts);
    }
}

#[test]
fn an_impossible_route_is_refused_before_a_connection() {
    let site = Site::new();
    let many: Vec<_> = ('a'..='z').map(node).collect();
    for (via, part) in [
        ("north", "\"north\" is neither a node ID nor a name in a [[gateway]] section"),
        (&*[node('b'), node('b')].join(","), "--via: the route visits "),
        (&many.join(","), "--via: a route has at most "),
    ] {
        let token = format!("b3:{}", "0".repeat(64));
        said(&site, site.client("locate").args([&token, "--via", via]), 2, &[part]);
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_fix() {
    let site = Site::new();
    let ids = identities();
    std::fs::write(site.path("bad.pem"), "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    said(
        &site,
        stoq().args(["identity", "show", "bad.pem"]),
        1,
        &["bad.pem: certificate number 1: ", "have it issued again"],
    );
    let level = |command: &mut Command| {
        let text = "STOQ_LOG: `loud=loud` is no log level";
        said(&site, command.env("STOQ_LOG", "loud=loud"), 2, &[text, "module=level"]);
    };
    level(&mut site.client("ping"));
    let config = site.configure();
    level(stoq_gateway().arg("run").arg("--config").arg(&config));
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = |from: &str, to: &str| std::fs::write(&config, text.replace(from, to)).unwrap();
    changed("127.0.0.1:", "192.0.2.1:");
    let mut start = stoq_gateway();
    start.arg("run").arg("--config").arg(&config);
    said(&site, &mut start, 1, &["cannot bind UDP 192.0.2.1", "no interface of this host has it"]);
    std::fs::write(&config, text.split("[[application]]").next().unwrap()).unwrap();
    let mut trust = stoq_gateway();
    trust.args(["store", "trust-clock", "--config"]).arg(&config);
    said(&site, &mut trust, 1, &["this gateway has no store", "give the file of one that has"]);
    // The files of the admin endpoint.
    write_secret(site.path("short"), "secret");
    let [pem, key] = ["gateway.pem", "gateway.key"].map(|name| ids.file(name));
    let tls = |certificate: &std::path::Path, key: &std::path::Path| {
        format!("certificate = {certificate:?}\nkey = {key:?}")
    };
    let pairs = ["one", "other"].map(|name| {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let (pem, key) = (site.path(&format!("{name}.pem")), site.path(&format!("{name}.key")));
        std::fs::write(&pem, made.cert.pem()).unwrap();
        write_secret(&key, made.signing_key.serialize_pem());
        (pem, key)
    });
    for (keys, part) in [
        (tls(&pairs[0].0, &pairs[1].1), "admin.key does not belong to admin.certificate"),
        (tls(&pem, &key), "admin.key is no RSA, ECDSA or Ed25519 key"),
        (tls(&pem, &pem), "this is the certificate: give the key file here"),
        (tls(&key, &key), "this is the key: give the certificate file here"),
        ("token_file = \"short\"".into(), "`openssl rand -hex 32` makes one"),
    ] {
        std::fs::write(&config, format!("{text}[admin]\nlisten = \"127.0.0.1:{}\"\n{keys}\n", free_port()))
            .unwrap();
        said(&site, &mut start, 1, &[part]);
    }
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn a_build_without_dpdk_says_so() {
    let site = Site::new();
    let config = site.configure();
    let text = std::fs::read_to_string(&config).unwrap();
    let (network, rest) = text.split_once("[identity]").unwrap();
    assert!(network.contains("kernel-udp"));
    let port = "[network]\nkind = \"dpdk\"\ndevice = \"net_null0\"\naddresses = [\"10.77.0.1/24\"]\n";
    std::fs::write(&config, format!("{port}[identity]{rest}")).unwrap();
    let mut start = stoq_gateway();
    start.arg("run").arg("--config").arg(&config);
    said(&site, &mut start, 1, &["this build has no DPDK: build with the feature `dpdk`"]);
}

/// Answers each connection with these bytes, until the process ends.
fn service(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut asked, mut byte) = (Vec::new(), [0]);
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                asked.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn an_endpoint_that_does_not_answer_is_named() {
    let site = Site::new();
    let refused =
        ["127.0.0.1:1: Connection refused", "does the gateway run, and is this its `[admin] listen`?"];
    for tool in ["top", "health"] {
        said(&site, stoq_gateway().args([tool, "--url", "127.0.0.1:1"]), 1, &refused);
        said(
            &site,
            stoq_gateway().args([tool, "--url", "http://a b"]),
            1,
            &["a b: no host and port; give one such as"],
        );
        let ca = [tool, "--url", "https://127.0.0.1:1", "--ca", "none.pem"];
        said(&site, stoq_gateway().args(ca), 1, &["none.pem", "No such file or directory"]);
    }
}

#[test]
fn another_service_at_the_admin_address_is_told_from_a_gateway() {
    let site = Site::new();
    let (absent, page) =
        (service("HTTP/1.0 404 Not Found\r\n\r\nnone\n"), service("HTTP/1.0 200 OK\r\n\r\nhello\n"));
    let other = service("220 a mail server\r\n\r\n");
    for (tool, url, parts) in [
        ("health", &absent, &["/readyz gives status 404: none; is this a gateway's"][..]),
        ("top", &absent, &["/status gives status 404: give the `[admin] listen` of a gateway"]),
        ("top", &page, &["/status is no JSON, as that of a gateway's"]),
        ("top", &other, &["the answer is not HTTP; does the gateway run, and is this its"]),
    ] {
        said(&site, stoq_gateway().args([tool, "--url", url]), 1, parts);
    }
}

#[test]
fn a_screen_without_its_token_or_terminal_names_the_option() {
    let mut site = Site::new();
    write_secret(site.path("token"), "a-token-that-is-long-enough-for-an-endpoint");
    write_secret(site.path("other"), "another-token-that-is-long-enough");
    let url = format!("127.0.0.1:{}", free_port());
    site.more += &format!("[admin]\nlisten = \"{url}\"\ntoken_file = \"token\"\n");
    let _gateway = site.start();
    let top = |more: &[&str], part: &str| {
        said(&site, stoq_gateway().args(["top", "--url", &url]).args(more), 1, &[part]);
    };
    top(&[], "a token is needed: give --token-file");
    write_secret(site.path("blank"), "a token with blanks that is long enough");
    top(&["--token-file", "blank"], "--token-file: the token has blanks");
    top(&["--token-file", "other"], "is another than the gateway's; give that");
    top(&["--token-file", "token"], "standard output is no terminal; give --once");
}

#[test]
fn a_gateway_without_the_application_or_the_payload_is_an_error_with_the_fix() {
    let mut site = Site::new();
    let _gateway = site.start();
    let ids = identities();
    let token = format!("b3:{}", "0".repeat(64));
    let mut ping = site.client("ping");
    said(
        &site,
        ping.args(["--queue", "0", "--timeout", "3", "--interval", "0"]),
        1,
        &["no echo from 127.0.0.1", "an echo application on queue 0?"],
    );
    let untaken =
        ["the gateway takes no messages on queue 9", "[[application]] kind = \"echo\", queues = [9]"];
    said(&site, site.client("ping").args(["--queue", "9"]), 1, &untaken);
    let mut get = site.client("get");
    get.args([&token, "-o", "copy", "--from", "127.0.0.1:1"]);
    said(&site, &mut get, 1, &["not every byte was fetched: ", "; cannot connect to 127.0.0.1:1: "]);
    let peer = format!(
        "[[gateway]]\nname = \"b\"\nnode_id = \"{}\"\naddresses = [\"{}\"]\n",
        ids.stranger,
        site.v4()
    );
    let config = site.client_file(&peer);
    let mut mirror = stoq();
    mirror.args(["mirror", &token, "--on", "b", "--config"]).arg(&config);
    said(&site, &mut mirror, 1, &[&ids.gateway, "correct its [[gateway]] section"]);
    let mut goodput = pktgen();
    goodput.args([
        "goodput",
        "--queue",
        "9",
        "--connections",
        "1",
        "--count",
        "1",
        "--patience",
        "1",
        "--config",
    ]);
    said(
        &site,
        goodput.arg(&config),
        1,
        &["did not count the messages within 1 s", "discard application on queue 9?"],
    );
}

#[test]
fn connections_that_come_up_too_late_are_counted() {
    let site = Site::new();
    let _silent = UdpSocket::bind(site.v4()).unwrap();
    let config = site.client_file("");
    let mut goodput = pktgen();
    goodput.args(["goodput", "--connections", "2", "--count", "1", "--patience", "0.2", "--config"]);
    said(&site, goodput.arg(&config), 1, &["0 of 2 connections to 127.0.0.1", "give fewer --connections"]);
    let mut storm = pktgen();
    storm.args(["handshakes", "--count", "1", "--patience", "0.2", "--config"]);
    said(&site, storm.arg(&config), 1, &["no handshake was completed: no answer from 127.0.0.1"]);
}

#[test]
fn an_interrupted_measurement_ends_with_code_130() {
    let mut site = Site::new();
    let _gateway = site.start();
    for (tool, args) in [
        ("bench", &["--queue", "0", "--time-limit", "3600"][..]),
        ("ping", &["--queue", "0", "--timeout", "3600"]),
        ("ping", &["--count", "1000000", "--interval", "3600"]),
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            let mut command = site.client(tool);
            let mut measurement = Process::spawn(command.args(args));
            wait_until("it handles signals", || measurement.handles(signal));
            measurement.signal(signal);
            assert_eq!(measurement.end().code(), Some(130), "{}", measurement.log());
            let log = measurement.log();
            assert!(log.ends_with("stoq: interrupted\n"), "{log}");
            assert_well_said(&command, 130, &log);
        }
    }
}

#[test]
fn no_error_proposes_to_replace_a_path_that_is_no_file() {
    let mut site = Site::new();
    std::fs::create_dir(site.path("directory")).unwrap();
    std::os::unix::fs::symlink("nowhere", site.path("link")).unwrap();
    for path in ["/dev/null", "directory", "link"] {
        let mut new = stoq();
        new.args(["identity", "new", "--key", "new.key", "--cert", path]);
        said(&site, &mut new, 1, &[path, "is no file, and is not replaced; choose another name"]);
        assert!(!site.path("new.key").exists(), "no key without its certificate");
    }
    // A directory that is a device keeps its owner.
    let check = |site: &Site, part: &str| {
        let (stdout, _) = run(stoq_gateway().args(["check", "--config"]).arg(site.configure()), 1);
        assert!(stdout.contains(part) && !stdout.contains("chown") && !stdout.contains("chmod"), "{stdout}");
    };
    for path in ["/dev/null", "/dev/null/store"] {
        site.store = path.into();
        check(&site, "/dev/null is no directory; name another path");
    }
    site.store = site.path("store");
    let more = std::mem::take(&mut site.more);
    site.more = format!("{more}[qlog]\ndirectory = \"/dev/null\"\n");
    check(&site, "/dev/null is no directory; name another path");
    site.more = format!("{more}[admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"/dev/zero\"\n");
    check(&site, "/dev/zero is no file, and other users can read it; give a file");
}

#[test]
fn a_configuration_with_a_byte_order_mark_is_read() {
    let site = Site::new();
    let path = site.configure();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
    run(stoq_gateway().args(["check", "--config"]).arg(&path), 0);
}

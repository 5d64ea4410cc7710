//! The example configurations load and show every option, and faults of a file are reported with their fix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use stoq_gateway::config::{ConfigError, load_client, load_gateway};
use stoq_gateway::ranges::{Bounds, KEYS, key};

const GATEWAY: &str = r#"
[network]
kind = "kernel-udp"
listen = ["127.0.0.1:4433"]
[identity]
certificate = "gateway.pem"
key = "gateway.key"
[trust]
client_auth = "off"
"#;

const DPDK: &str = r#"
[network]
kind = "dpdk"
device = "net_null0"
addresses = ["10.77.0.1/24"]
[identity]
certificate = "gateway.pem"
key = "gateway.key"
[trust]
client_auth = "off"
"#;

const CLIENT: &str = "[trust]\nca = \"ca.pem\"\n";
const FLEET: &str = "[fleet]\nkey_file = \"k\"\nserver_id = \"000001\"\n[[fleet.rotation]]\nstate = \"issue\"\nsalt = \"00000000000000000000000000000000\"\n";
const ANYCAST: &str =
    "[admin]\nlisten = \"127.0.0.1:0\"\n[anycast]\ninterface = \"stoq0\"\naddresses = [\"10.77.0.1\"]\n";

fn configs() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs")).into()
}

/// Loads this text as a gateway's or a client's file.
fn load(text: &str, gateway: bool) -> Result<(), ConfigError> {
    let file = tempfile::Builder::new().prefix("stoq-config").suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let result =
        if gateway { load_gateway(file.path()).map(drop) } else { load_client(file.path()).map(drop) };
    if let Err(error) = &result {
        let (text, name) = (error.to_string(), file.path().display().to_string());
        assert!(text.contains(&name), "the file is named: {text}");
    }
    result
}

#[track_caller]
fn refusal(text: &str, gateway: bool) -> String {
    load(text, gateway).expect_err("this file is wrong").to_string()
}

/// The keys that may stand where `zzz` stands in this text.
#[track_caller]
fn allowed(text: &str, gateway: bool) -> BTreeSet<String> {
    let error = refusal(text, gateway);
    assert!(error.contains("unknown field `zzz`"), "{error}");
    let (_, expected) = error.split_once("unknown field `zzz`").unwrap();
    let names = expected.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// The keys that a file shows, also in comments, by section; a section of several kinds is `section kind`.
fn shown(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut sections = BTreeMap::<String, BTreeSet<String>>::new();
    let mut section = String::new();
    for line in text.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next())
            && line.ends_with(']')
        {
            // A section of a section is a key of the one above it.
            let name = name.trim_start_matches('[');
            // The owner may be of several kinds, or have another section of its own above this one.
            let owner = if section.contains('.') { name.split('.').next().unwrap_or("") } else { &section };
            let (owner, key) = name.split_once('.').map_or(("", name), |(_, key)| (owner, key));
            sections.entry(owner.to_owned()).or_default().insert(key.to_owned());
            section = name.to_owned();
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            continue;
        }
        if key == "kind" {
            section = format!(
                "{} {}",
                section.split(' ').next().unwrap_or_default(),
                value.split('"').nth(1).unwrap()
            );
            sections.entry(section.clone()).or_default();
        } else {
            sections.entry(section.clone()).or_default().insert(key.to_owned());
        }
    }
    sections
}

#[test]
fn every_example_loads() {
    let mut seen = 0;
    for entry in std::fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".toml") {
            continue;
        }
        seen += 1;
        let result = match name {
            _ if name.starts_with("gateway") => load_gateway(&path).map(drop),
            _ if name.starts_with("client") => load_client(&path).map(drop),
            _ => panic!("{name} is neither a gateway's nor a client's"),
        };
        result.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(seen >= 3, "{seen} examples");
}

#[test]
fn the_gateways_of_the_package_and_of_the_manifests_load() {
    load(&std::fs::read_to_string(configs().join("../packaging/gateway.toml")).unwrap(), true).unwrap();
    for (name, pods, device) in [
        ("gateway.yaml", 1, "env:PCIDEVICE_EXAMPLE_COM_STOQ_VF"),
        ("memif-sidecar.yaml", 1, "net_memif0"),
        ("fleet.yaml", 3, "env:PCIDEVICE_EXAMPLE_COM_STOQ_VF"),
    ] {
        let manifest = std::fs::read_to_string(configs().join("kubernetes").join(name)).unwrap();
        let blocks: Vec<_> = manifest.split(".toml: |\n").skip(1).collect();
        assert_eq!(blocks.len(), pods, "{name}");
        for block in blocks {
            let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
            let block: String = lines.map(|line| format!("{}\n", line.trim_start())).collect();
            assert!(block.contains(device) && block.contains("[admin]"), "{name}: {block}");
            assert_eq!(block.contains("provider = \"kubernetes\""), pods > 1, "{name}: {block}");
            // The plugin sets a variable that a test does not have.
            load(&block.replace("env:PCIDEVICE_EXAMPLE_COM_STOQ_VF", "0000:3b:02.0"), true).unwrap();
        }
    }
}

#[test]
fn the_gateways_example_shows_every_option_and_no_other() {
    let text = std::fs::read_to_string(configs().join("gateway.toml")).unwrap();
    let shown = shown(&text);
    let sections: BTreeSet<_> = shown[""].clone();
    assert_eq!(sections, allowed(&format!("zzz = 1\n{GATEWAY}"), true));

    let plain = |section: &str| {
        let header = format!("[{section}]\n");
        let text = match GATEWAY.contains(&header) {
            true => GATEWAY.replace(&header, &format!("{header}zzz = 1\n")),
            false => format!("{GATEWAY}\n{header}zzz = 1\n"),
        };
        allowed(&text, true)
    };
    for section in [
        "workers", "identity", "trust", "tls", "quic", "hops", "admin", "shutdown", "reload", "log",
        "capture", "qlog", "fleet",
    ] {
        assert_eq!(shown[section], plain(section), "[{section}]");
    }
    assert_eq!(shown["network kernel-udp"], plain("network"));
    assert_eq!(shown["network dpdk"], allowed(&DPDK.replace("[network]", "[network]\nzzz = 1"), true));
    for kind in ["seed", "echo", "discard"] {
        let text = format!(
            "{GATEWAY}\n[[application]]\nkind = \"{kind}\"\nqueues = [0]\ndirectory = \"d\"\nzzz = 1\n"
        );
        let text = if kind == "seed" { text } else { text.replace("directory = \"d\"\n", "") };
        assert_eq!(shown[&format!("application {kind}")], allowed(&text, true), "[[application]] {kind}");
    }
    let kubernetes = format!("{GATEWAY}{FLEET}[fleet.kubernetes]\nzzz = 1\n");
    assert_eq!(shown["fleet.kubernetes"], allowed(&kubernetes, true));
    let etcd = format!("{GATEWAY}{FLEET}[fleet.etcd]\nzzz = 1\n");
    assert_eq!(shown["fleet.etcd"], allowed(&etcd, true));
    assert_eq!(shown["fleet.rotation"], allowed(&format!("{GATEWAY}{FLEET}zzz = 1\n"), true));
    assert_eq!(shown["rights"], allowed(&format!("{GATEWAY}\n[[rights]]\nzzz = 1\n"), true), "[[rights]]");
}

#[test]
fn every_commented_option_of_an_example_can_be_uncommented_as_it_stands() {
    for name in
        ["gateway.toml", "gateway-kernel.toml", "gateway-rights.toml", "gateway-transit.toml", "client.toml"]
    {
        let text = std::fs::read_to_string(configs().join(name)).unwrap();
        let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let commented = text.lines().filter_map(|line| line.strip_prefix("# "));
        for line in commented.filter(|line| line.split_once(" = ").is_some_and(|(key, _)| is_key(key))) {
            let parsed = line.parse::<toml::Table>();
            assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
        }
    }
}

/// Every number that the gateway's example shows, with its key and the rest of its line.
fn numbers_shown() -> Vec<(String, toml::Value, String)> {
    let text = std::fs::read_to_string(configs().join("gateway.toml")).unwrap();
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in text.lines().map(|line| line.trim_start_matches(['#', ' '])) {
        if line.starts_with('[') && line.split(' ').next().unwrap().ends_with(']') {
            section = line.split(' ').next().unwrap().trim_matches(['[', ']']).to_owned();
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let Ok(table) = format!("value = {value}").parse::<toml::Table>() else { continue };
        let number = match &table["value"] {
            toml::Value::Array(values) => values.first().cloned(),
            value => Some(value.clone()),
        };
        let number = number.filter(|number| number.is_integer() || number.is_float());
        if let Some(number) = number {
            let comment = value.split_once('#').map_or("", |(_, comment)| comment).trim();
            found.push((format!("{section}.{key}"), number, comment.to_owned()));
        }
    }
    found
}

#[test]
fn every_number_of_the_example_has_a_range_that_is_written_beside_it() {
    // Another test checks that the example shows every key, so no number lacks a range.
    let shown = numbers_shown();
    for (name, _, comment) in &shown {
        let range = key(name).unwrap_or_else(|| panic!("{name} has no row in stoq_gateway::ranges::KEYS"));
        assert!(
            comment.starts_with(&range.to_string()),
            "{name}: the comment {comment:?} begins with \"{range}\""
        );
    }
    let shown: BTreeSet<_> = shown.into_iter().map(|(name, ..)| name).collect();
    let ranges: BTreeSet<_> = KEYS.iter().map(|range| range.name.to_owned()).collect();
    assert_eq!(ranges.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "ranges of no key");
}

/// The node ID of a peer.
const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A gateway's file with this number.
fn with_number(name: &str, value: &str) -> String {
    let (section, key) = name.split_once('.').unwrap();
    let is_list =
        ["workers.cores", "workers.verify_cores", "application.queues", "rights.queues"].contains(&name);
    let value = if is_list { format!("[{value}]") } else { value.to_owned() };
    match section {
        "network" if key == "buffer_bytes" => {
            GATEWAY.replace("[network]", &format!("[network]\n{key} = {value}"))
        }
        "network" => DPDK.replace("[network]", &format!("[network]\n{key} = {value}")),
        "workers" if key == "verify_cores" => {
            format!("{GATEWAY}[workers]\nverify_threads = 1\n{key} = {value}\n")
        }
        "application" if key == "queues" => {
            format!("{GATEWAY}[[application]]\nkind = \"echo\"\n{key} = {value}\n")
        }
        "application" => {
            format!(
                "{GATEWAY}[[application]]\nkind = \"seed\"\nqueues = [0]\ndirectory = \"d\"\n{key} = {value}\n"
            )
        }
        "rights" => {
            format!("{GATEWAY}[[rights]]\nname = \"x\"\npeers = \"anyone\"\nallow = []\n{key} = {value}\n")
        }
        "anycast" => format!("{GATEWAY}{ANYCAST}{key} = {value}\n"),
        "fleet" if key == "rotation.number" => format!("{GATEWAY}{FLEET}number = {value}\n"),
        "fleet" => format!(
            "{GATEWAY}[fleet]\nkey_file = \"k\"\nserver_id = \"000001\"\nprovider = \"file\"\nfile = \"f\"\nhandover = true\n{key} = {value}\n"
        ),
        "gateway" => {
            let trusting = GATEWAY.replace("client_auth", &format!("node_ids = [\"{NODE}\"]\nclient_auth"));
            format!(
                "{trusting}[[gateway]]\nnode_id = \"{NODE}\"\naddresses = [\"10.0.0.1:4433\"]\n{key} = {value}\n"
            )
        }
        // Keys that are checked against this one must not forbid its borders.
        "quic" if key == "idle_timeout_ms" => {
            format!("{GATEWAY}[quic]\nkeep_alive_ms = 0\n{key} = {value}\n")
        }
        "quic" if key == "keep_alive_ms" => {
            format!("{GATEWAY}[quic]\nidle_timeout_ms = 0\n{key} = {value}\n")
        }
        "quic" if key == "receive_window_bytes" => {
            format!("{GATEWAY}[quic]\nstream_receive_window_bytes = 131072\n{key} = {value}\n")
        }
        "quic" if key == "stream_receive_window_bytes" => {
            format!("{GATEWAY}[quic]\nreceive_window_bytes = 1073741824\n{key} = {value}\n")
        }
        _ => format!("{GATEWAY}[{section}]\n{key} = {value}\n"),
    }
}

#[test]
fn the_border_values_of_every_key_load_and_values_beyond_are_refused_with_the_range() {
    for range in KEYS {
        let Bounds::Whole(min, max) = range.bounds else { panic!("{range:?}: no key has fractions") };
        let file = |value: &dyn ToString| with_number(range.name, &value.to_string());
        let good = [Some(min), Some(max), range.zero.map(|_| 0)];
        for value in good.into_iter().flatten() {
            // Another key may forbid the value; the range does not.
            if let Err(error) = load(&file(&value), true) {
                let relation = ["network.mbufs", "network.rx_descriptors"].contains(&range.name)
                    || (range.name == "workers.cores" && value > 0);
                assert!(relation && !error.to_string().contains(&range.to_string()), "{error}");
            }
        }
        let mut bad = vec![i128::from(max) + 1, -1, i64::MIN.into()];
        if min > 0 && !(min == 1 && range.zero.is_some()) {
            bad.push(i128::from(min) - 1);
        }
        for value in bad {
            let error = refusal(&file(&value), true);
            assert!(error.contains(&format!("key `{}`: {value} is too", range.name)), "{error}");
            assert!(error.contains(&format!("give {range}")), "{error}");
        }
        for value in ["1.5", "nan", "inf", "-inf"] {
            let error = refusal(&file(&value), true);
            assert!(
                error.contains(&format!("key `{}`", range.name)) && error.contains("whole number"),
                "{error}"
            );
        }
        // Larger than any number of TOML.
        let error = refusal(&file(&"99999999999999999999"), true);
        assert!(error.contains("99999999999999999999"), "{error}");
    }
}

#[test]
fn a_client_refuses_unknown_keys_in_every_section() {
    for section in ["workers", "network", "identity", "trust", "tls", "quic", "log"] {
        let front = match section {
            "trust" => CLIENT.to_owned(),
            "network" => format!("{CLIENT}[network]\nkind = \"kernel-udp\"\n"),
            _ => format!("{CLIENT}[{section}]\n"),
        };
        let allowed = allowed(&format!("{front}zzz = 1\n"), false);
        assert!(!allowed.is_empty());
    }
    assert!(allowed(&format!("zzz = 1\n{CLIENT}"), false).contains("connect"));
    let peer_gateway = format!("{CLIENT}[[gateway]]\nnode_id = \"{}\"\nzzz = 1\n", "a".repeat(52));
    let text = std::fs::read_to_string(configs().join("client.toml")).unwrap();
    let mut allowed = allowed(&peer_gateway, false);
    // A client is told to write them elsewhere.
    for key in ["congestion_control", "rate_bits_per_s"] {
        assert!(allowed.remove(key));
    }
    assert_eq!(shown(&text)["gateway"], allowed);
    // Sections that only a gateway has.
    for section in ["[shutdown]\ndrain_ms = 1\n", "[[application]]\nkind = \"echo\"\nqueues = [1]\n"] {
        assert!(refusal(&format!("{CLIENT}{section}"), false).contains("unknown field"));
    }
}

#[test]
fn the_shortest_files_load() {
    let guarded = "listen = \"0.0.0.0:9464\"\ncertificate = \"c\"\nkey = \"k\"\ntoken_file = \"t\"";
    for admin in ["", "listen = \"[::1]:0\"", "listen = \"0.0.0.0:9464\"\ninsecure = true", guarded] {
        load(&format!("{GATEWAY}\n[admin]\n{admin}\n"), true).unwrap();
    }
    load(GATEWAY, true).unwrap();
    load(DPDK, true).unwrap();
    load(CLIENT, false).unwrap();
    for both in [
        "[\"0.0.0.0:4433\", \"[::]:4433\"]",
        "[\"[::]:4433\", \"127.0.0.1:4433\"]",
        "[\"127.0.0.1:1\", \"0.0.0.0:2\"]",
    ] {
        load(&GATEWAY.replace("[\"127.0.0.1:4433\"]", both), true).unwrap();
    }
}

#[test]
fn a_value_that_cannot_work_is_refused_with_its_key_and_its_fix() {
    let workers = |text: &str| format!("{GATEWAY}\n[workers]\n{text}\n");
    let applications = |text: &str| format!("{GATEWAY}\n{text}\n");
    let quic = |text: &str| applications(&format!("[quic]\n{text}"));
    let listen = |addresses: &str| GATEWAY.replace("[\"127.0.0.1:4433\"]", addresses);
    let dpdk = |from: &str, to: &str| DPDK.replace(from, to);
    let seed = "[[application]]\nkind = \"seed\"\nqueues = [7]\ndirectory = \"d\"\n";
    let peer_gateway = |letter: char, addresses: &str| {
        let node_id = letter.to_string().repeat(52);
        format!("[[gateway]]\nnode_id = \"{node_id}\"\naddresses = {addresses}\n")
    };
    let cases = [
        (workers("count = 0"), "workers.count", "give 1 to 1024 workers"),
        (applications("[admin]\nlisten = \"0.0.0.0:9464\""), "admin.listen", "can be reached by others"),
        (
            applications("[admin]\nlisten = \"[::]:9464\"\ntoken_file = \"t\""),
            "admin.listen",
            "can be reached by others",
        ),
        (applications("[admin]\ncertificate = \"c.pem\""), "admin.key", "a certificate needs its key"),
        (applications("[admin]\nkey = \"c.key\""), "admin.certificate", "a key needs its certificate"),
        (workers("count = 1025"), "workers.count", "give 1 to"),
        (workers("count = 2\ncores = [1]"), "workers.cores", "for 2 workers; name one core each"),
        (workers("count = 2\ncores = [1, 1]"), "workers.cores", "core 1 is named twice"),
        (GATEWAY.replace("[\"127.0.0.1:4433\"]", "[]"), "network.listen", "give at least one address"),
        (GATEWAY.replace(":4433", ":0"), "network.listen", "needs a fixed port"),
        (listen("[\"127.0.0.1:4433\", \"127.0.0.1:4433\"]"), "network.listen", "leave one out"),
        (listen("[\"127.0.0.1:4433\", \"0.0.0.0:4433\"]"), "network.listen", "leave one out"),
        (listen("[\"[::]:4433\", \"[::1]:4433\"]"), "network.listen", "leave one out"),
        (listen("[\"[::ffff:127.0.0.1]:4433\", \"127.0.0.1:4433\"]"), "network.listen", "leave one out"),
        (GATEWAY.replace("client_auth = \"off\"", ""), "trust", "no peer is trusted; give `ca = "),
        (dpdk("[\"10.77.0.1/24\"]", "[]"), "network.addresses", "at least one"),
        (dpdk("[identity]", "mtu = 1279\n[identity]"), "network.mtu", "1280"),
        (dpdk("[identity]", "vlan = 4095\n[identity]"), "network.vlan", "give 1 to 4094"),
        (dpdk("[identity]", "vlan = 0\n[identity]"), "network.vlan", "1 to 4094"),
        (dpdk("[identity]", "udp_port = 0\n[identity]"), "network.udp_port", "1 to 65535"),
        (
            applications(&format!("{seed}[[application]]\nkind = \"echo\"\nqueues = [7]")),
            "application.queues",
            "belongs to two applications; remove it",
        ),
        (
            applications(&format!("{seed}{}", seed.replace('7', "8"))),
            "application",
            "and a gateway has one store",
        ),
        (applications(&peer_gateway('a', "[]")), "gateway.addresses", "has none; give at least one"),
        (
            applications(&format!(
                "{}{}",
                peer_gateway('a', "[\"10.0.0.1:1\"]"),
                peer_gateway('a', "[\"10.0.0.2:1\"]")
            )),
            "gateway.node_id",
            "name every peer gateway once",
        ),
        (applications("[hops]\nconnections_max = 0"), "hops.connections_max", "give 1 to"),
        (applications("[hops]\nbudget_max_bytes = 0"), "hops.budget_max_bytes", "give 65536 to"),
        (applications(&format!("{seed}[hops]\ncache = true")), "hops.cache", "a cache without a bound"),
        (
            quic("receive_window_bytes = 16000000"),
            "quic.receive_window_bytes",
            "all others; give at least 16777216",
        ),
        (quic("idle_timeout_ms = 5000"), "quic.keep_alive_ms", "1666 or less"),
        (
            format!("{DPDK}[quic]\ninitial_udp_payload_bytes = 1473"),
            "quic.initial_udp_payload_bytes",
            "is more than a port with network.mtu = 1500",
        ),
        (
            dpdk("[identity]", "mbufs = 1535\n[identity]"),
            "network.mbufs",
            "receive descriptors; give at least 1536",
        ),
        (
            applications(&format!("{seed}capacity_bytes = 20000\nquota_bytes = 20001")),
            "application.quota_bytes",
            "is more than application.capacity_bytes, 20000",
        ),
        (
            applications(&format!("{seed}lease_default_s = 61\nlease_max_s = 60")),
            "application.lease_default_s",
            "is more than application.lease_max_s, 60",
        ),
        (applications("[qlog]\nsample = 0"), "qlog.sample", "give 1 to"),
        (applications("[capture]\nsocket = \"s\""), "capture.socket", "the kernel's tools, such as tcpdump"),
        (format!("{DPDK}\n[capture]\nkey_log = true"), "capture.key_log", "needs capture.socket, such as"),
    ];
    for (text, key, fix) in cases {
        let error = refusal(&text, true);
        assert!(error.contains(&format!(": key `{key}`: ")), "the key {key} is named: {error}");
        assert!(error.contains(fix), "{fix:?} stands in: {error}");
    }
    for (text, part) in [("", "trust"), ("[trust]\n", "`trust`"), ("[trust]\n", "node_ids")] {
        assert!(refusal(text, false).contains(part), "{part}");
    }
}

#[test]
fn values_of_the_wrong_type_or_name_are_refused_with_their_place() {
    for (text, part) in [
        (format!("{GATEWAY}\n[quic]\ncongestion_control = \"reno\"\n"), "newreno"),
        (format!("{GATEWAY}\n[tls]\ncipher = \"rc4\"\n"), "no cipher suite is called"),
        (format!("{GATEWAY}\n[workers]\nidle = \"sleep\"\n"), "adaptive"),
        (format!("{GATEWAY}\n[quic]\nidle_timeout_ms = -1\n"), "idle_timeout_ms"),
        (GATEWAY.replace("kernel-udp", "carrier-pigeon"), "dpdk"),
        (GATEWAY.replace("127.0.0.1:4433", "localhost"), "listen"),
        (DPDK.replace("[identity]", "udp_port = 70000\n[identity]"), "udp_port"),
        (format!("{GATEWAY}\n[[application]]\nkind = \"echo\"\nqueues = \"all\"\n"), "queues"),
        (format!("{GATEWAY}\n[[application]]\nqueues = [1]\n"), "kind"),
        (GATEWAY.replace("client_auth = \"off\"", "node_ids = [\"short\"]"), "not a node ID: expected 52"),
        (DPDK.replace("10.77.0.1/24", "10.77.0.1"), "has no prefix length: write"),
        (DPDK.replace("10.77.0.1/24", "x/24"), "is no IP address: write one"),
        (DPDK.replace("10.77.0.1/24", "10.77.0.1/x"), "is no prefix length: write a number"),
        (DPDK.replace("10.77.0.1/24", "10.77.0.1/33"), "a prefix of 33 bits is too long"),
        (DPDK.replace("10.77.0.1/24", "224.0.0.1/24"), "cannot be a host's address"),
        (GATEWAY.replace("\"kernel-udp\"", "1"), "`kind` must be a string"),
        (format!("{GATEWAY}\n[[application]]\nkind = \"cache\"\nqueues = [1]\n"), "seed"),
        ("not toml at all".to_owned(), "its first line is neither a section"),
        (format!("{GATEWAY}\nnot toml at all\n"), "parse error at line"),
    ] {
        let error = refusal(&text, true);
        assert!(error.contains(part), "{part:?} stands in: {error}");
    }
}

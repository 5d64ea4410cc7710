//! Refused values of configuration files, each with its fix: pairs of keys, addresses, and files that are missing.

use std::path::Path;
use stoq_gateway::config::{load_client, load_gateway};

const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A gateway's file.
fn gateway(rest: &str) -> String {
    format!(
        "[network]\nkind = \"kernel-udp\"\nlisten = [\"127.0.0.1:4433\"]\n[identity]\ncertificate = \"c\"\nkey = \"k\"\n\
         [trust]\nnode_ids = [\"{NODE}\"]\n{rest}"
    )
}

/// A client's file.
fn client(rest: &str) -> String {
    format!("[trust]\nca = \"ca.pem\"\n{rest}")
}

/// The fault of this file; none: it loads.
fn fault(text: &str, of_gateway: bool) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let loaded =
        if of_gateway { load_gateway(file.path()).map(drop) } else { load_client(file.path()).map(drop) };
    loaded.err().map(|error| error.to_string())
}

#[test]
fn a_client_connects_to_names_and_to_addresses() {
    for written in ["gateway.example.org", "[fe80::1%eth0]:4433", "192.0.2.1"] {
        assert_eq!(fault(&format!("connect = \"{written}\"\n{}", client("")), false), None);
    }
}

#[test]
fn a_congestion_control_that_cannot_work_is_refused_with_the_right_keys() {
    let peer = |keys: &str| {
        gateway(&format!("[[gateway]]\nnode_id = \"{NODE}\"\naddresses = [\"10.0.0.1:4433\"]\n{keys}"))
    };
    let reserved = "congestion_control = \"reserved\"\n";
    let with_rate = "congestion_control = \"reserved\"\nrate_bits_per_s = 1000000000\n";
    let of_client = format!("[[gateway]]\nnode_id = \"{NODE}\"\nrate_bits_per_s = 1000000\n");
    for (text, of_gateway, parts) in [
        (
            gateway("[quic]\ncongestion_control = \"bbr\"\n"),
            true,
            ["loses a third of what it sends", "write \"model\""],
        ),
        (gateway(&format!("[quic]\n{reserved}")), true, ["quic.rate_bits_per_s", "give rate"]),
        (client(&format!("[quic]\n{reserved}")), false, ["quic.rate_bits_per_s", "give rate"]),
        (peer(reserved), true, ["gateway.rate_bits_per_s", "give rate"]),
        (client(&of_client), false, ["gateway.rate_bits_per_s", "write it as quic.rate_bits_per_s"]),
    ] {
        let error = fault(&text, of_gateway).expect("this file is wrong");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} stand in: {error}");
    }
    assert_eq!(fault(&gateway(&format!("[quic]\n{with_rate}")), true), None);
    assert_eq!(fault(&client(&format!("[quic]\n{with_rate}")), false), None);
    assert_eq!(fault(&peer(with_rate), true), None);
}

/// The provider etcd, but for its section.
const ETCD: &str = "provider = \"etcd\"\nname = \"eu\"\nsaved = \"f\"\n";

/// The provider kubernetes with these keys.
fn kubernetes(keys: &str) -> String {
    format!("{}[fleet.kubernetes]\n{keys}\n", ETCD.replace("\"etcd\"", "\"kubernetes\""))
}

/// The provider etcd with these endpoints.
fn etcd(endpoints: &str, more: &str) -> String {
    format!("{ETCD}[fleet.etcd]\nendpoints = {endpoints}\n{more}")
}

const SALTS: [&str; 2] = ["000102030405060708090a0b0c0d0e0f", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"];

fn rotation(number: u8, salt: usize, state: &str) -> String {
    format!("[[fleet.rotation]]\nnumber = {number}\nsalt = \"{}\"\nstate = \"{state}\"\n", SALTS[salt])
}

/// A gateway with a fleet's section.
fn fleet(server_id: &str, rotations: &str) -> String {
    gateway(&format!("[fleet]\nkey_file = \"fleet.key\"\nserver_id = \"{server_id}\"\n{rotations}"))
}

fn assert_refused(cases: &[(String, &str)]) {
    for (text, part) in cases {
        let error = fault(text, true).expect("this file is wrong");
        assert!(error.contains(part), "{part:?} stands in: {error}");
    }
}

#[test]
fn a_fleets_section_that_cannot_work_is_refused_with_the_fix() {
    let good = rotation(0, 0, "issue");
    assert_refused(&[
        (fleet("4d2", &good), "give each gateway of the fleet a number of its own"),
        (fleet("000001", &good.replace("0001", "00")), "give what `stoq-gateway fleet salt` prints"),
        (fleet("000001", &good.replace("issue", "stop")), "expected `issue` or `accept`"),
        (fleet("000001", &rotation(7, 0, "issue")), "give 0 to 6"),
        (fleet("000001", "rotation = []\n"), "0 rotations issue; let exactly one"),
        (fleet("000001", &(good.clone() + &rotation(1, 1, "issue"))), "2 rotations issue; let exactly one"),
        (fleet("000001", &(good.clone() + &rotation(0, 1, "accept"))), "give each a number of its own"),
        (fleet("000001", &(good.clone() + &rotation(1, 0, "accept"))), "have the same salt"),
        (fleet("000001", ""), "0 rotations issue; let exactly one"),
        (fleet("000001", "file = \"f\"\n"), "it is not read; set fleet.provider = \"file\""),
        (fleet("000001", "provider = \"file\"\n"), "the provider \"file\" needs the table's file; name it"),
        (fleet("000001", "name = \"eu\"\n"), "it is not read; set fleet.provider = \"etcd\""),
        (fleet("000001", "provider = \"etcd\"\nname = \"EU\"\n"), "1 to 64 of a-z, 0-9 and -; give one"),
        (
            fleet("000001", "provider = \"etcd\"\nname = \"eu\"\n"),
            "keeps the last good table in a file; name one",
        ),
        (fleet("000001", ETCD), "needs this section; write it"),
        (fleet("000001", &etcd("[]", "")), "name etcd's members, each such as"),
        (fleet("000001", &etcd("[\"10.0.0.1:2379\"]", "")), "name etcd's members, each such as"),
        (fleet("000001", &etcd("[\"https://10.0.0.1:2379\"]", "")), "name their file"),
        (
            fleet("000001", &etcd("[\"http://10.0.0.1:2379\"]", "user = \"a\"\n")),
            "would pass unencrypted; give",
        ),
        (
            fleet("000001", &etcd("[\"http://10.0.0.1:2379\"]", "key = \"a\"\n")),
            "a certificate and its key belong together",
        ),
        (
            fleet("000001", &etcd("[\"http://10.0.0.1:2379\"]", "password_file = \"a\"\n")),
            "a user and its password belong together",
        ),
        (fleet("000001", "provider = \"zookeeper\"\n"), "unknown variant `zookeeper`"),
        (
            fleet("000001", &format!("provider = \"file\"\nfile = \"f\"\n{good}")),
            "the fleet's table has the rotations; move them there",
        ),
    ]);
    assert_eq!(fault(&fleet("0004d2", &(good + &rotation(1, 1, "accept"))), true), None);
}

#[test]
fn hand_overs_and_kubernetes_need_what_they_go_by() {
    let good = rotation(0, 0, "issue");
    let handed_over = fleet("000001", "provider = \"file\"\nfile = \"f\"\nhandover = true\n");
    assert_eq!(fault(&handed_over, true), None);
    assert_refused(&[
        (handed_over.replace(":4433", ":6080"), "6080 is the port of fleet.handover; give another"),
        (
            fleet("000001", &format!("handover = true\n{good}")),
            "gateways find each other by the fleet's table",
        ),
        (
            fleet("000001", "provider = \"file\"\nfile = \"f\"\nfabric_mtu = 1600\n"),
            "it is not read; set fleet.handover = true",
        ),
        (
            fleet("000001", "provider = \"kubernetes\"\n"),
            "the provider \"kubernetes\" needs the fleet's name",
        ),
        (
            fleet("000001", &format!("{good}[fleet.kubernetes]\n")),
            "it is not read; set fleet.provider = \"kubernetes\"",
        ),
        (fleet("000001", &kubernetes("server = \"10.0.0.1\"")), "name the API's server, such as"),
        (
            fleet("000001", &kubernetes("server = \"http://10.0.0.1:80\"\ntoken_file = \"t\"")),
            "the token would pass unencrypted; give a server with https",
        ),
        (fleet("000001", &kubernetes("namespace = \"Stoq\"")), "it is no name of a namespace"),
    ]);
}

#[test]
fn a_gateway_has_one_section_and_one_name() {
    let peer =
        |name: &str, id: &str| format!("[[gateway]]\nname = \"{name}\"\nnode_id = \"{}\"\n", id.repeat(52));
    let both = |first: String, second: String| client(&format!("{first}{second}"));
    let nameless = peer("south", "q").replace("name = \"south\"\n", "");
    assert_eq!(fault(&both(peer("north", "a"), nameless), false), None);
    for (text, key, fix) in [
        (both(peer("north", "a"), peer("south", "a")), "gateway.node_id", "name every peer gateway once"),
        (
            both(peer("north", "a"), peer("north", "q")),
            "gateway.name",
            "two peer gateways have the same name",
        ),
        (both(peer("", "a"), String::new()), "gateway.name", "or reads as a list, an address"),
        (both(peer("a,b", "a"), String::new()), "gateway.name", "or reads as a list, an address"),
        (both(peer("no\\u001b[2Jrth", "a"), String::new()), "gateway.name", "has letters that are not seen"),
        (both(peer("no\\u202erth", "a"), String::new()), "gateway.name", "has letters that are not seen"),
        (both(peer("10.0.0.1:1", "a"), String::new()), "gateway.name", "or reads as a list, an address"),
    ] {
        let error = fault(&text, false).expect("this file is wrong");
        assert!(error.contains(&format!("`{key}`")) && error.contains(fix), "{error}");
    }
    let error = fault(&client("[[gateway]]\nname = \"north\"\n"), false).expect("it has no node ID");
    assert!(error.contains("node_id"), "{error}");
}

#[test]
fn an_impossible_gateway_address_is_refused_with_the_right_form() {
    for (written, part) in [
        ("2001:db8::1", "an IPv6 address stands in brackets"),
        ("[2001:db8::1", "the bracket is not closed"),
        ("[2001:db8::1]x", "a colon and the port follow the bracket"),
        ("[10.0.0.1]:1", "brackets hold an IPv6 address"),
        ("[fe80::1%]:1", "the interface is missing after the %"),
        ("[2001:db8::1%eth0]:1", "an interface belongs to link-local addresses"),
        ("gäte.example", "a host name is written in its ASCII form"),
        ("1.2.3", "an IPv4 address has four numbers"),
        ("https://a.example", "a port is 1 to 65535"),
        ("10.0.0.1:0", "a port is 1 to 65535"),
        ("", "a host name has letters"),
    ] {
        let error =
            fault(&format!("connect = \"{written}\"\n{}", client("")), false).expect("this address is wrong");
        assert!(error.contains("is no address of a gateway: ") && error.contains(part), "{error}");
    }
}

#[test]
fn a_missing_file_is_named_with_the_fix() {
    for error in [
        load_gateway(Path::new("/nowhere/g.toml")).map(drop),
        load_client(Path::new("/nowhere/g.toml")).map(drop),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/nowhere/g.toml") && error.contains("--config"), "{error}");
    }
}

#[test]
fn stations_are_those_of_neighbors() {
    let dpdk = |stations: &str| {
        gateway("").replace(
            "kind = \"kernel-udp\"\nlisten = [\"127.0.0.1:4433\"]",
            &format!(
                "kind = \"dpdk\"\ndevice = \"net_null0\"\naddresses = [\"10.77.0.1/24\", \"fd77::1/64\"]\nstations = {{ {stations} }}"
            ),
        )
    };
    let right = r#""10.77.0.254" = "02:00:00:00:00:fe", "fd77::fe" = "02:00:00:00:00:fe", "fe80::fe" = "02:00:00:00:00:fe""#;
    assert_eq!(fault(&dpdk(right), true), None);
    let many: Vec<_> =
        (0..257).map(|number| format!("\"fd77::1:{number:x}\" = \"02:00:00:00:00:fe\"")).collect();
    for (stations, part) in [
        (r#""10.77.0.254" = "03:00:00:00:00:fe""#, "is no address of one station: write six bytes"),
        (r#""10.77.0.254" = "02-00-00-00-00-fe""#, "the first of them even, such as 02:00"),
        (
            r#""10.78.0.254" = "02:00:00:00:00:fe""#,
            "is no other host on a network of the interface: give a neighbor",
        ),
        (r#""10.77.0.1" = "02:00:00:00:00:fe""#, "give a neighbor's address, or leave it out"),
        (&many.join(", "), "257 stations are too many; give 256 at most"),
    ] {
        let error = fault(&dpdk(stations), true).expect("this file is wrong");
        assert!(error.contains(part), "{part} stands in: {error}");
    }
}

#[test]
fn ports_have_devices_and_networks_of_their_own() {
    let dpdk = |first: &str, ports: &[&str]| {
        let network =
            format!("kind = \"dpdk\"\ndevice = \"0000:3b:00.0\"\naddresses = [\"10.77.0.1/24\"]\n{first}");
        let text = gateway("").replace("kind = \"kernel-udp\"\nlisten = [\"127.0.0.1:4433\"]", &network);
        text + &ports.iter().map(|keys| format!("[[network.port]]\n{keys}\n")).collect::<String>()
    };
    let port = |device: u32, network: u32, more: &str| {
        format!("device = \"0000:3b:01.{device}\"\naddresses = [\"10.{network}.0.1/24\"]\n{more}")
    };
    let whole = port(0, 78, "next_hop_v4 = \"10.78.0.254\"\nmtu = 9000\nqueues = 2\nvlan = 7");
    assert_eq!(fault(&dpdk("memory_mib = 512", &[&whole, &port(1, 79, "")]), true), None);
    let many: Vec<_> = (0..16).map(|number| port(number, 100 + number, "")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(fault(&dpdk("", &many[1..]), true), None);
    for (first, ports, parts) in [
        (
            "",
            vec!["device = \"3b:00.0\"\naddresses = [\"10.78.0.1/24\"]"],
            ["network.port.device", "has the device of another port"],
        ),
        ("", vec![&*port(0, 78, ""), &*port(0, 79, "")], ["network.port.device", "give each port its own"]),
        ("", vec![&*port(0, 77, "")], ["network.port.addresses", "give each port networks of its own"]),
        (
            "",
            vec!["device = \"net_null0\"\naddresses = [\"10.0.0.1/8\"]"],
            ["10.77.0.1/24 are on one network", "a route names one port"],
        ),
        ("", vec!["device = \"net_null0\"\naddresses = []"], ["network.port.addresses", "give at least one"]),
        ("", vec!["device = \"net_null0\""], ["missing field", "addresses"]),
        (
            "",
            vec![&*port(0, 78, "memory_mib = 512")],
            ["`memory_mib` of a [[network.port]]", "write it under [network]"],
        ),
        (
            "",
            vec![&*port(0, 78, "[[network.port.port]]")],
            ["has no ports of its own", "write each beside it"],
        ),
        ("", vec![&*port(0, 78, "mtu = 1279")], ["network.port.mtu", "1279 is too small"]),
        ("", vec![&*port(0, 78, "mtu_bytes = 1500")], ["mtu_bytes", "unknown field"]),
        ("", vec![&*port(0, 78, "mbufs = 1000")], ["network.port.mbufs", "give at least"]),
        (
            "",
            vec![&*port(0, 78, "stations = { \"10.77.0.9\" = \"02:00:00:00:00:fe\" }")],
            ["network.port.stations", "is no other host"],
        ),
        ("", many, ["network.port`", "17 ports are too many; give 16 at most"]),
        (
            "mtu = 9000\n",
            vec![&*port(0, 78, "[quic]\ninitial_udp_payload_bytes = 8000")],
            ["quic.initial_udp_payload_bytes", "network.mtu = 1500"],
        ),
    ] {
        let error = fault(&dpdk(first, &ports), true).expect("this file is wrong");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} stand in: {error}");
    }
}

#[test]
fn verify_threads_have_cores_of_their_own_or_none() {
    for (keys, part) in [
        (
            "verify_threads = 2\nverify_cores = [3]",
            "`workers.verify_cores`: 1 cores for 2 verify threads; name one",
        ),
        ("verify_cores = [3]", "1 cores for 0 verify threads"),
        (
            "cores = [1]\nverify_threads = 1\nverify_cores = [1]",
            "core 1 is named twice; a worker or verify thread needs its own",
        ),
    ] {
        let text = gateway(&format!("[workers]\n{keys}\n"));
        let fault = fault(&text, true).unwrap();
        assert!(fault.contains(part), "{fault}");
    }
    let keys = "[workers]\ncores = [1]\nverify_threads = 2\nverify_cores = [0, 2]\n";
    assert_eq!((fault(&gateway(keys), true), fault(&client(keys), false)), (None, None));
}

#[test]
fn a_section_of_rights_names_peers_once_and_words_that_are_rights() {
    let rights = |keys: &str| format!("[[rights]]\n{keys}\n");
    let readers = rights("name = \"readers\"\npeers = \"authenticated\"\nallow = [\"get\"]");
    let node = |name: &str| {
        rights(&format!("name = \"{name}\"\nnode_ids = [\"{NODE}\"]\nallow = \"all\"\nqueues = [1]"))
    };
    let authority = rights("name = \"ingest\"\nauthorities = [\"ca.pem\"]\nallow = [\"put\"]");
    assert_eq!(fault(&gateway(&format!("{readers}{}{authority}", node("operators"))), true), None);
    for (text, key, part) in [
        (
            rights("name = \"x\"\nallow = [\"get\"]"),
            "key `rights`",
            "names no peer; give node_ids, authorities, or peers",
        ),
        (
            rights("name = \"\"\npeers = \"anyone\"\nallow = []"),
            "key `rights.name`",
            "give one word, such as",
        ),
        (
            rights("name = \"a b\"\npeers = \"anyone\"\nallow = []"),
            "key `rights.name`",
            "has spaces or letters that are not seen; give one word",
        ),
        (
            format!("{readers}{readers}"),
            "key `rights.name`",
            "two sections are called \"readers\"; rename one",
        ),
        (
            format!("{readers}{}", readers.replace("\"readers\"", "\"others\"")),
            "key `rights.peers`",
            "two sections are for the same peers; remove one",
        ),
        (
            format!("{}{}", node("a"), node("b")),
            "key `rights.node_ids`",
            "has rights twice; name it in one section",
        ),
        (
            rights("name = \"x\"\npeers = \"anyone\"\nallow = [\"fetch\"]"),
            "allow",
            "or a list of \"put\", \"get\"",
        ),
        (rights("name = \"x\"\npeers = \"trusted\"\nallow = []"), "peers", "authenticated"),
        (
            rights("name = \"x\"\npeers = \"anyone\"\nallow = []\nqueues = \"none\""),
            "queues",
            "or a list of queue numbers",
        ),
        (rights("name = \"x\"\npeers = \"anyone\""), "allow", "missing field"),
    ] {
        let error = fault(&gateway(&text), true).expect("this file is wrong");
        assert!(error.contains(key) && error.contains(part), "{key}, {part}: {error}");
    }
}

#[test]
fn anycast_addresses_that_cannot_be_announced_are_refused() {
    const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let anycast = |interface: &str, addresses: &str| {
        format!("[anycast]\ninterface = \"{interface}\"\naddresses = [{addresses}]\n")
    };
    let good = anycast("stoq0", "\"203.0.113.1\", \"2001:db8::1\"");
    for (text, key, fix) in [
        (good.clone(), "`anycast`", "add an [admin] section"),
        (format!("{ADMIN}{}", anycast("", "\"203.0.113.1\"")), "anycast.interface", "such as \"stoq0\""),
        (format!("{ADMIN}{}", anycast("a/b", "\"203.0.113.1\"")), "anycast.interface", "names no interface"),
        (
            format!("{ADMIN}{}", anycast("sixteen-letters-", "\"203.0.113.1\"")),
            "anycast.interface",
            "1 to 15",
        ),
        (format!("{ADMIN}{}", anycast("stoq0", "")), "anycast.addresses", "at least one address"),
        (format!("{ADMIN}{}", anycast("stoq0", "\"224.0.0.1\"")), "anycast.addresses", "unicast address"),
        (format!("{ADMIN}{}", anycast("stoq0", "\"fe80::1\"")), "anycast.addresses", "unicast address"),
        (format!("{ADMIN}{good}settle_ms = 60001\n"), "anycast.settle_ms", "60000"),
        (format!("{ADMIN}{good}exception_path = true\n"), "anycast.exception_path", "for a DPDK port"),
    ] {
        let error = fault(&gateway(&text), true).expect("this file is wrong");
        assert!(error.contains(key) && error.contains(fix), "{key} and {fix} stand in: {error}");
    }
    let file = gateway(&format!("{ADMIN}{good}"));
    assert_eq!(fault(&file, true), None);
    let sockets = "kind = \"kernel-udp\"\nlisten = [\"127.0.0.1:4433\"]";
    let port = |more: &str| {
        let port = format!("kind = \"dpdk\"\ndevice = \"net_null0\"\naddresses = [\"10.77.0.1/24\"{more}]");
        fault(&format!("{}exception_path = true\n", file.replace(sockets, &port)), true)
    };
    let error = port(", \"203.0.113.1/32\"").expect("one address is missing");
    assert!(error.contains("add \"2001:db8::1/128\" to network.addresses"), "{error}");
    assert_eq!(port(", \"203.0.113.1/32\", \"2001:db8::1/128\""), None);
}

#[test]
fn a_device_of_an_unset_variable_is_refused_with_the_variables_name() {
    let sockets = "kind = \"kernel-udp\"\nlisten = [\"127.0.0.1:4433\"]";
    let port = "kind = \"dpdk\"\ndevice = \"env:STOQ_NO_SUCH_VARIABLE\"\naddresses = [\"10.77.0.1/24\"]";
    let error = fault(&gateway("").replace(sockets, port), true).expect("this file is wrong");
    assert!(
        error.contains("STOQ_NO_SUCH_VARIABLE\", and that environment variable names no device"),
        "{error}"
    );
}

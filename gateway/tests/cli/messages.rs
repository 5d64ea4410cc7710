//! The errors of the executables: each contains its cause, once.

use crate::support::{Site, free_port, identities, run, stoq, stoq_gateway};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

#[track_caller]
fn assert_said_once(command: &mut Command, code: i32, parts: &[&str]) {
    let (_, text) = run(command, code);
    for part in parts {
        assert!(text.contains(part), "{command:?} does not say {part:?}: {text}");
    }
}

#[test]
fn a_fault_of_a_file_is_reported_once_with_its_cause() {
    let site = Site::new();
    let ids = identities();
    for name in ["client.pem", "client.key"] {
        std::fs::copy(ids.file(name), site.path(name)).unwrap();
    }
    let pem = std::fs::read_to_string(site.path("client.pem")).unwrap();
    std::fs::write(site.path("short.pem"), &pem[..200]).unwrap();
    std::fs::write(site.path("bad.toml"), "x = [\n").unwrap();
    std::fs::write(site.path("key.toml"), "gatway = 1\n").unwrap();
    std::fs::write(site.path("file"), b"").unwrap();
    let (none, toml) = ("No such file or directory (os error 2)", "TOML parse error at line 1, column 6");
    let pktgen = || Command::new(env!("CARGO_BIN_EXE_stoq-pktgen"));
    let rows: &[(Command, &[&str], i32, &[&str])] = &[
        (stoq_gateway(), &["run", "-c", "none.toml"], 2, &["none.toml", none, "--config"]),
        (stoq_gateway(), &["run", "-c", "bad.toml"], 2, &["bad.toml", toml]),
        (stoq_gateway(), &["check", "-c", "bad.toml"], 2, &["bad.toml", toml]),
        (stoq(), &["ping", "--config", "none.toml"], 2, &["none.toml", none]),
        (stoq(), &["ping", "--config", "bad.toml"], 2, &["bad.toml", toml]),
        (stoq(), &["ping", "--config", "key.toml"], 2, &["key.toml", "unknown field `gatway`"]),
        (pktgen(), &["garbage", "--config", "bad.toml"], 2, &["bad.toml", toml]),
        (stoq(), &["token", "none"], 1, &["none", none]),
        (stoq(), &["identity", "show", "none.pem"], 1, &["none.pem", none]),
        (stoq(), &["identity", "show", "short.pem"], 1, &["short.pem: damaged PEM: ", "cut short"]),
        (
            stoq(),
            &["identity", "show", "file"],
            1,
            &["file: has no section \"BEGIN CERTIFICATE\"", "the file is empty"],
        ),
        (
            stoq(),
            &["identity", "new", "--cert", "client.pem", "--key", "client.key"],
            1,
            &["client.key: exists already"],
        ),
        (
            stoq(),
            &["identity", "new", "--cert", "a", "--key", "none/b"],
            1,
            &["none/b", none, "check the directory and its permissions"],
        ),
        (
            stoq(),
            &["identity", "new", "--cert", "a", "--key", "b", "--name", ""],
            2,
            &["the common name must have 1 to"],
        ),
        (
            stoq_gateway(),
            &["capture", "--socket", "none", "-o", "out"],
            1,
            &["none: no gateway serves captures there", none],
        ),
        (
            stoq_gateway(),
            &["capture", "--socket", "none", "-o", "file"],
            1,
            &["exists", "give --output a new file"],
        ),
    ];
    for (program, args, code, parts) in rows {
        let mut command = Command::new(program.get_program());
        assert_said_once(command.args(*args).current_dir(site.directory.path()), *code, parts);
    }
}

#[test]
fn a_failed_start_is_reported_once_with_its_cause() {
    let ids = identities();
    let refused = |change: &dyn Fn(&mut Site), code: i32, parts: &[&str]| {
        let mut site = Site::new();
        for name in ["gateway.pem", "gateway.key", "client.key"] {
            std::fs::copy(ids.file(name), site.path(name)).unwrap();
        }
        std::fs::write(site.path("file"), b"").unwrap();
        site.identity = "certificate = \"gateway.pem\"\nkey = \"gateway.key\"".into();
        site.store = "store".into();
        change(&mut site);
        site.configure();
        let mut run = stoq_gateway();
        run.args(["run", "-c", "gateway.toml"]).current_dir(site.directory.path());
        assert_said_once(&mut run, code, parts);
    };
    let none = "No such file or directory (os error 2)";
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (udp, tcp) =
        (udp.local_addr().map(|at| (udp, at)).unwrap(), tcp.local_addr().map(|at| (tcp, at)).unwrap());
    let in_use = "Address already in use (os error 98)";
    refused(
        &|site| site.port = udp.1.port(),
        1,
        &["cannot bind UDP ", &udp.1.to_string(), in_use, "another program is on this port"],
    );
    let admin = format!("[admin]\nlisten = \"{}\"\n", tcp.1);
    refused(
        &|site| site.more += &admin,
        1,
        &["admin.listen: cannot listen on ", &tcp.1.to_string(), in_use, "is another program on"],
    );
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let tls = format!("{admin}certificate = \"none.pem\"\nkey = \"none.key\"\n");
    refused(&|site| site.more += &tls, 1, &["none.pem", none]);
    let token = format!("{admin}token_file = \"none\"\n");
    refused(&|site| site.more += &token, 1, &["admin.token_file: the token file ", "none", none]);
    refused(
        &|site| site.identity = "certificate = \"none\"\nkey = \"gateway.key\"".into(),
        1,
        &["none", none],
    );
    let other = "certificate = \"gateway.pem\"\nkey = \"client.key\"";
    refused(&|site| site.identity = other.into(), 1, &["client.key", "does not belong"]);
    refused(&|site| site.trust = "ca = \"file\"".into(), 1, &["file", "the file is empty"]);
    refused(&|site| site.trust = String::new(), 2, &["no peer is trusted"]);
    refused(
        &|site| site.store = "file/store".into(),
        1,
        &["the seed store cannot make", "file/store", "Not a directory"],
    );
    refused(
        &|site| site.more += "[log]\nlevel = \"loud=loud\"\n",
        2,
        &["log.level: `loud=loud` is no log level", "module=level"],
    );
    refused(&|site| site.more += "[qlog]\ndirectory = \"file\"\n", 1, &["qlog.directory: ", "file"]);
}

#[test]
fn a_failed_connection_is_reported_once_with_its_cause() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (path, token) = site.file("file", 10);
    let ids = identities();
    let (address, gateway) = (site.v4().to_string(), ids.gateway.as_str());
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    // The address, the trusted node ID, whether the client has an identity, the timeout, the exit code, parts of the message.
    #[expect(clippy::type_complexity, reason = "it is a table")]
    let rows: &[(&str, &str, bool, &str, i32, &[&str])] = &[
        (&address, &ids.stranger, true, "60", 1, &[&address, gateway, "not among the pinned"]),
        (
            &address,
            gateway,
            false,
            "60",
            1,
            &[&address, "the connection to 127.0.0.1", "requires a client certificate"],
        ),
        ("0.0.0.0:1", gateway, true, "60", 1, &["0.0.0.0:1 is no address to connect to"]),
        (
            "127.0.0.1:1",
            gateway,
            true,
            "60",
            1,
            &["cannot connect to 127.0.0.1:1: ", "nothing listens on this UDP port"],
        ),
        ("nowhere.invalid", gateway, true, "60", 1, &["the resolver has no address of nowhere.invalid"]),
        ("[fe80::1%none0]", gateway, true, "60", 1, &["this host has no interface none0"]),
        (&silent_at, gateway, true, "0.2", 1, &["no answer from", &silent_at, "within 0.2 s"]),
    ];
    for tool in ["ping", "bench", "put", "locate"] {
        for &(to, node, known, seconds, code, parts) in rows {
            let mut command = stoq();
            command.args([tool, "--gateway", to, "--node-id", node, "--timeout", seconds]);
            if known {
                command.arg("--cert").arg(ids.file("client.pem")).arg("--key").arg(ids.file("client.key"));
            }
            match tool {
                "put" => command.arg(&path),
                "locate" => command.arg(&token),
                _ => &mut command,
            };
            assert_said_once(&mut command, code, parts);
        }
    }
}

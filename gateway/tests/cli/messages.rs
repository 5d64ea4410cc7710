//! The errors of the executables: each contains its cause, once.

use crate::support::{Site, free_port, identities, stoq, stoq_gateway};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};

/// A phrase of 20 characters or more that stands twice in a message.
fn said_twice(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.windows(20).enumerate().find_map(|(at, phrase)| {
        let again = chars[at + 20..].windows(20).any(|other| other == phrase);
        again.then(|| phrase.iter().collect())
    })
}

#[track_caller]
fn assert_said_once(command: &mut Command, code: i32, parts: &[&str]) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{command:?} does not say {part:?}: {text}");
    }
    // Lines of the gateway's log are not part of the message.
    let message: String =
        text.lines().skip_while(|line| !line.starts_with("stoq")).collect::<Vec<_>>().join("\n");
    assert!(!message.is_empty(), "{text}");
    assert_eq!(said_twice(&message), None, "{command:?} says it twice: {message}");
}

#[test]
fn a_phrase_that_stands_twice_is_found() {
    assert_eq!(
        said_twice("x.toml: TOML parse error: x.toml: TOML parse error").unwrap(),
        "x.toml: TOML parse e"
    );
    assert_eq!(said_twice("a file: no such file"), None);
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
        (stoq(), &["identity", "show", "short.pem"], 1, &["short.pem", "cut short"]),
        (stoq(), &["identity", "show", "file"], 1, &["file", "the file is empty"]),
        (
            stoq(),
            &["identity", "new", "--cert", "client.pem", "--key", "client.key"],
            1,
            &["client.key: exists already"],
        ),
        (stoq(), &["identity", "new", "--cert", "a", "--key", "none/b"], 1, &["none/b", none]),
        (stoq(), &["identity", "new", "--cert", "a", "--key", "b", "--name", ""], 1, &["common name"]),
        (stoq_gateway(), &["capture", "--socket", "none", "-o", "out"], 1, &["none", none]),
        (stoq_gateway(), &["capture", "--socket", "none", "-o", "file"], 1, &["file", "exists"]),
        (stoq_gateway(), &["top", "--url", "127.0.0.1:1"], 1, &["127.0.0.1:1", "Connection refused"]),
        (stoq_gateway(), &["top", "--url", "http://a b"], 1, &["a b", "no host and port"]),
        (stoq_gateway(), &["health", "--url", "127.0.0.1:1"], 1, &["127.0.0.1:1", "Connection refused"]),
        (
            stoq_gateway(),
            &["health", "--url", "https://127.0.0.1:1", "--ca", "none.pem"],
            1,
            &["none.pem", none],
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
    refused(&|site| site.port = udp.1.port(), 1, &[&udp.1.to_string(), in_use, "another program"]);
    let admin = format!("[admin]\nlisten = \"{}\"\n", tcp.1);
    refused(&|site| site.more += &admin, 1, &[&tcp.1.to_string(), in_use, "another program"]);
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let tls = format!("{admin}certificate = \"none.pem\"\nkey = \"none.key\"\n");
    refused(&|site| site.more += &tls, 1, &["none.pem", none]);
    let token = format!("{admin}token_file = \"none\"\n");
    refused(&|site| site.more += &token, 1, &["admin.token_file", "none", none]);
    refused(
        &|site| site.identity = "certificate = \"none\"\nkey = \"gateway.key\"".into(),
        1,
        &["none", none],
    );
    let other = "certificate = \"gateway.pem\"\nkey = \"client.key\"";
    refused(&|site| site.identity = other.into(), 1, &["client.key", "does not belong"]);
    refused(&|site| site.trust = "ca = \"file\"".into(), 1, &["file", "the file is empty"]);
    refused(&|site| site.trust = String::new(), 2, &["no peer is trusted"]);
    refused(&|site| site.store = "file/store".into(), 1, &["file/store", "Not a directory"]);
    refused(
        &|site| site.more += "[log]\nlevel = \"loud=loud\"\n",
        1,
        &["log level `loud=loud`", "module=level"],
    );
    refused(&|site| site.more += "[qlog]\ndirectory = \"file\"\n", 1, &["qlog.directory", "file"]);
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
        (&address, gateway, false, "60", 1, &[&address, "requires a client certificate"]),
        ("127.0.0.1:1", gateway, true, "60", 1, &["127.0.0.1:1", "nothing listens on this UDP port"]),
        ("nowhere.invalid", gateway, true, "60", 1, &["the resolver has no address of nowhere.invalid"]),
        ("[fe80::1%none0]", gateway, true, "60", 1, &["no interface none0"]),
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
                // `bench` waits for a report, not for --timeout.
                "bench" => command.args(["--time-limit", "60"]),
                _ => &mut command,
            };
            if tool != "bench" || seconds == "60" {
                assert_said_once(&mut command, code, parts);
            }
        }
    }
}

/// A library error contains its cause's text and then has no `source`: a printed chain would contain that text twice.
#[test]
fn no_error_has_a_source_that_its_text_contains() {
    let mut files = vec!["src".into(), "../src".into(), "../dpdk/src".into()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        let path: std::path::PathBuf = path;
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for variant in text.split("#[error(").skip(1) {
            seen += 1;
            // The attribute, and the fields up to the next variant or the end.
            let variant = variant.split("\n}").next().unwrap_or_default();
            let (attribute, fields) = variant.split_once(")]").unwrap_or_default();
            assert!(
                !says_its_source(attribute, fields),
                "{}: {attribute}\nwrite the field `r#source`",
                path.display()
            );
        }
    }
    assert!(seen > 100, "the errors were found: {seen}");
}

/// Whether an error's text contains the field that is its source.
fn says_its_source(attribute: &str, fields: &str) -> bool {
    // A field's name follows its attribute; a tuple's field has no name.
    let marked = fields.split(['#', '\n']).collect::<Vec<_>>();
    let mut sources: Vec<&str> = Vec::new();
    for (at, part) in marked.iter().enumerate() {
        if part.starts_with("[from]") || part.starts_with("[source]") {
            let rest = part.split_once(']').map_or("", |(_, rest)| rest).trim();
            let field =
                if rest.is_empty() { marked.get(at + 1).map_or("", |next| next.trim()) } else { rest };
            sources
                .push(field.split_once(": ").map_or("0", |(name, _)| name.trim().trim_start_matches("pub ")));
        }
    }
    if fields.contains(" source:") {
        sources.push("source");
    }
    sources.iter().any(|name| {
        let shapes = [format!("{{{name}}}"), format!("{{{name}:"), format!("{{{name}."), format!(".{name}")];
        shapes.iter().any(|shape| attribute.contains(shape.as_str()))
    })
}

#[test]
fn a_source_that_the_text_contains_is_found_in_every_shape_of_error() {
    for (attribute, fields, said) in [
        ("\"{0}\"", "\n    A(#[from] io::Error),", true),
        ("\"cannot: {0}\"", "\n    A(#[source] io::Error),", true),
        ("\"{path}: {source}\"", "\n    A { path: String, source: io::Error },", true),
        ("\"{path}: {error}\"", "\n    A {\n        #[source]\n        error: io::Error,\n    },", true),
        ("\"{}\", .error", "\n    A { #[from] error: io::Error },", true),
        ("transparent", "\n    A(#[from] io::Error),", false),
        ("\"cannot: {0}\"", "\n    A(io::Error),", false),
        ("\"{path}: {source}\"", "\n    A { path: String, r#source: io::Error },", false),
        ("\"{path} is no file\"", "\n    A { path: String, source: io::Error },", false),
    ] {
        assert_eq!(says_its_source(attribute, fields), said, "{attribute} {fields}");
    }
}

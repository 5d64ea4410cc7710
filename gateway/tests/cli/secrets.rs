//! Keys that cannot be used, and no byte of them in any output; the secrets of connections, where they are asked for.

use crate::support::{Site, free_port, identities, run, stoq, stoq_gateway, write_secret};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Bytes of a secret in a row that an output must not have.
const RUN: usize = 6;

#[test]
fn the_secrets_of_a_tools_connections_go_to_the_file_that_the_environment_names() {
    let mut site = Site::new();
    let _gateway = site.start();
    let (file, token) = site.file("payload", 100_000);
    let log = site.path("secrets.txt");
    run(site.client("put").arg(&file).env("SSLKEYLOGFILE", &log), 0);
    run(site.client("get").args([&token, "-o", "copy"]).env("SSLKEYLOGFILE", ""), 0);
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    // NSS's format: a label, the client's random, the secret. Each connection has these four.
    let labels = [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ];
    let randoms = || {
        let text = fs::read_to_string(&log).unwrap();
        let mut randoms = Vec::new();
        for line in text.lines() {
            let [label, random, secret] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            assert!(random.len() == 64 && secret.len() >= 64, "{line}");
            assert!(is_hex(random) && is_hex(secret), "{line}");
            randoms.extend((label == labels[0]).then(|| random.to_owned()));
        }
        for random in &randoms {
            assert!(labels.iter().all(|label| text.contains(&format!("{label} {random} "))), "{text}");
        }
        randoms
    };
    assert_eq!(randoms().len(), 1, "an empty name names no file");
    run(site.client("ping").args(["--count", "1"]).env("SSLKEYLOGFILE", &log), 0);
    let [first, second] = &randoms()[..] else { panic!("not one of each connection") };
    assert_ne!(first, second);
    let (_, error) = run(site.client("ping").env("SSLKEYLOGFILE", site.directory.path()), 1);
    assert!(error.contains("let SSLKEYLOGFILE name a writable one, or unset it"), "{error}");
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A key: its PEM text and its bytes.
struct Secret {
    pem: String,
    body: String,
    der: Vec<u8>,
}

impl Secret {
    fn of(pem: &str) -> Self {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Self { pem: pem.into(), der: decoded(&body), body }
    }

    /// A run of the secret's bytes in this output: as they are, in base64, in hexadecimal digits or as decimal numbers.
    fn found_in(&self, output: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(output);
        let words = || text.split(|letter: char| !letter.is_ascii_alphanumeric());
        let decimal: Vec<u8> = words().filter_map(|word| word.parse().ok()).collect();
        let hex = |word: &str| {
            (word.len() <= 4).then(|| u8::from_str_radix(word.trim_start_matches("0x"), 16).ok())?
        };
        let spaced: Vec<u8> = words().filter_map(hex).collect();
        let digits = text.to_ascii_lowercase();
        let has = |output: &[u8], run: &[u8]| output.windows(RUN).any(|part| part == run);
        let shown = |run: &[u8]| {
            let plain: String = run.iter().map(|byte| format!("{byte:02x}")).collect();
            has(output, run) || has(&decimal, run) || has(&spaced, run) || digits.contains(&plain)
        };
        let runs = self.body.as_bytes().windows(RUN).chain(self.der.windows(RUN));
        runs.into_iter().find(|run| shown(run)).map(|run| format!("{run:?}"))
    }
}

/// The bytes of a base64 text.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        bits = bits << 6 | LETTERS.iter().position(|known| *known == letter).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A malformed key: how it is malformed, its file, and a part of the error.
type Form = (&'static str, Vec<u8>, &'static str);

/// The forms in which a key cannot be used. `label` is the key's own.
fn forms(secret: &Secret) -> Vec<Form> {
    let pem = &secret.pem;
    let middle = pem.len() / 2;
    vec![
        ("one line", pem.replace('\n', "").into(), "has no line ends"),
        ("blanks for line ends", pem.replace('\n', " ").into(), "has no line ends"),
        ("one line, cut off", pem.replace('\n', "")[..middle].into(), "has no line ends"),
        (
            "one line and a byte order mark",
            format!("\u{feff}{}", pem.replace('\n', "")).into(),
            "has no line ends",
        ),
        ("line ends as letters", pem.replace('\n', "\\n").into(), "line ends are written as"),
        ("cut off", pem.as_bytes()[..middle].into(), "cut short"),
        ("no BEGIN", secret.body.clone().into(), "no PEM at all"),
        ("DER", secret.der.clone(), "if it is DER"),
        ("changed", pem.replacen("AA", "!!", 1).replacen("MI", "!!", 1).into(), "no base64"),
        ("another label", pem.replace("PRIVATE KEY", "CERTIFICATE").into(), "this is the certificate"),
        ("an unknown label", pem.replace("PRIVATE KEY", "SECRET").into(), "a section of another kind"),
    ]
}

/// The outputs of a command that must fail.
#[track_caller]
fn outputs(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{command:?}: {output:?}");
    [output.stdout, output.stderr].concat()
}

/// Fails if the output has bytes of the secret, or not this part of the error.
#[track_caller]
fn judge(secret: &Secret, output: &[u8], what: &str, part: &str) {
    let text = String::from_utf8_lossy(output);
    assert!(text.contains(part), "{what} does not say {part:?}: {text}");
    assert_eq!(secret.found_in(output), None, "{what}: {text}");
}

fn node_key() -> Secret {
    Secret::of(&fs::read_to_string(identities().file("gateway.key")).unwrap())
}

#[test]
fn bytes_of_a_key_are_found_in_every_notation() {
    let secret = node_key();
    let run = &secret.der[100..100 + RUN];
    let listed = |each: fn(&u8) -> String| run.iter().map(each).collect::<Vec<_>>();
    for output in [
        secret.body[200..200 + RUN].to_owned(),
        format!("{:?}", &secret.body.as_bytes()[200..220]),
        format!("{run:?}"),
        listed(|byte| format!("{byte:02x}")).concat(),
        listed(|byte| format!("{byte:02X}")).join(":"),
        listed(|byte| format!("{byte:#04x}")).join(", "),
    ] {
        assert!(secret.found_in(format!("an error: {output}.").as_bytes()).is_some(), "{output}");
    }
    assert_eq!(secret.found_in(b"it has no line ends: BEGIN and the bytes after it stand on one line"), None);
}

#[test]
fn no_tool_shows_bytes_of_a_key_that_it_cannot_use() {
    let mut site = Site::new();
    let (ids, secret) = (identities(), node_key());
    let key = site.path("own.key");
    site.identity = format!("certificate = {:?}\nkey = {key:?}", ids.file("gateway.pem"));
    let front = site.more.clone();
    for (form, bytes, part) in forms(&secret) {
        write_secret(&key, &bytes);
        let mut ping = stoq();
        ping.args(["ping", "--gateway", "127.0.0.1:1", "--node-id", &ids.gateway, "--cert"]);
        ping.arg(ids.file("gateway.pem")).arg("--key").arg(&key);
        let mut renew = stoq();
        renew.args(["identity", "renew", "--cert"]).arg(site.path("new.pem")).arg("--key").arg(&key);
        for mut command in [ping, renew] {
            judge(&secret, &outputs(&mut command), &format!("{form}: {command:?}"), part);
        }
        for format in ["text", "json"] {
            site.more = format!("{front}[log]\nformat = \"{format}\"\nlevel = \"trace\"\n");
            let config = site.configure();
            for args in [&["check"][..], &["check", "--json"], &["run"], &["run", "--json"]] {
                let mut command = stoq_gateway();
                command.args(args).arg("--config").arg(&config);
                judge(&secret, &outputs(&mut command), &format!("{form}: {args:?}, {format}"), part);
            }
        }
        // In the place of public files, and of a configuration.
        for args in [["identity", "show"], ["ping", "--config"]] {
            let mut command = stoq();
            command.args(args).arg(&key);
            judge(&secret, &outputs(&mut command), &format!("{form}: {args:?}"), "own.key");
        }
    }
    write_secret(&key, secret.body.as_bytes());
    let mut command = stoq();
    command.args(["ping", "--config"]).arg(&key);
    judge(&secret, &outputs(&mut command), "a configuration", "its first line is neither a section");
}

#[test]
fn no_reload_shows_bytes_of_a_key_that_it_cannot_use() {
    for format in ["text", "json"] {
        let (ids, secret) = (identities(), node_key());
        let mut site = Site::new();
        let key = site.path("own.key");
        write_secret(&key, secret.pem.as_bytes());
        site.identity = format!("certificate = {:?}\nkey = {key:?}", ids.file("gateway.pem"));
        site.more += &format!("[reload]\nwatch = false\n[log]\nformat = \"{format}\"\n");
        let mut gateway = site.start();
        for (form, bytes, part) in forms(&secret) {
            write_secret(&key, &bytes);
            let event = gateway.process.reload("reload-refused").to_string();
            judge(&secret, event.as_bytes(), form, &part.replace('\\', "\\\\"));
        }
        gateway.process.stop();
        judge(&secret, gateway.process.log().as_bytes(), format, "has no line ends");
    }
}

#[test]
fn no_error_shows_bytes_of_the_admin_endpoints_key_or_token() {
    let mut site = Site::new();
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let secret = Secret::of(&made.signing_key.serialize_pem());
    let (cert, key) = (site.path("admin.pem"), site.path("admin.key"));
    fs::write(&cert, made.cert.pem()).unwrap();
    let front = site.more.clone();
    for (form, bytes, part) in forms(&secret) {
        write_secret(&key, &bytes);
        let listen = format!("127.0.0.1:{}", free_port());
        for format in ["text", "json"] {
            let endpoint = |files: String| {
                format!("{front}[log]\nformat = \"{format}\"\n[admin]\nlisten = {listen:?}\n{files}\n")
            };
            site.more = endpoint(format!("certificate = {cert:?}\nkey = {key:?}"));
            let mut command = stoq_gateway();
            command.arg("run").arg("--config").arg(site.configure());
            judge(&secret, &outputs(&mut command), form, part);
            // The key as the certificate, and the text in the place of a path.
            site.more = endpoint(format!("certificate = {key:?}\nkey = {key:?}"));
            command = stoq_gateway();
            command.arg("run").arg("--config").arg(site.configure());
            judge(&secret, &outputs(&mut command), form, "admin.");
        }
    }
    site.more = format!("{front}[admin]\ncertificate = {cert:?}\nkey = '''{}'''\n", secret.pem);
    for args in [&["run"][..], &["check"]] {
        let mut command = stoq_gateway();
        command.args(args).arg("--config").arg(site.configure());
        judge(&secret, &outputs(&mut command), "a key as a path", "holds a private key");
    }
    for (key, part) in [
        ([format!("--key={}", secret.pem), "--json".into()], "where the path of its file belongs"),
        (["--key".into(), secret.pem.clone()], "an argument is a private key"),
    ] {
        let mut command = stoq();
        command.args(["ping", "--gateway", "127.0.0.1:1", "--node-id", &identities().gateway, "--cert"]);
        command.arg(&cert).args(key);
        judge(&secret, &outputs(&mut command), "a key as an option", part);
    }
}

/// The command that an error names mends a key that lost its line ends.
#[test]
fn a_key_without_line_ends_is_mended_by_the_command_of_the_error() {
    let (site, secret) = (Site::new(), node_key());
    let (broken, mended) = (site.path("FILE"), site.path("NEW_FILE"));
    for blank in ["", " "] {
        write_secret(&broken, secret.pem.replace('\n', blank).as_bytes());
        write_secret(&mended, b"");
        let mut renew = stoq();
        renew.args(["identity", "renew", "--cert"]).arg(site.path("new.pem")).arg("--key").arg(&broken);
        let text = String::from_utf8(outputs(&mut renew)).unwrap();
        let fix = text.trim_end().split_once("line of its own: ").unwrap().1;
        let shell = Command::new("sh").args(["-c", fix]).current_dir(site.directory.path()).status().unwrap();
        assert!(shell.success());
        let mut renew = stoq();
        renew.args(["identity", "renew", "--cert"]).arg(site.path(&format!("new{}.pem", blank.len())));
        assert!(renew.arg("--key").arg(&mended).output().unwrap().status.success(), "{fix}");
    }
}

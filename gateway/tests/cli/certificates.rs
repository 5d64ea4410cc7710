//! Certificates outside their dates, and damaged or incomplete identities.

use crate::support::{Process, Site, identities, run, stoq, stoq_gateway, wait_until};
use data_encoding::BASE64;
use std::path::Path;
use stoq_gateway::admin::client::Remote;

/// The certificate of this file with other years in its dates. Its signature is invalid then; a node does not verify its own.
fn with_years(pem: &Path, not_before: &[u8; 2], not_after: &[u8; 2]) -> String {
    let text = std::fs::read_to_string(pem).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = BASE64.decode(lines.as_bytes()).unwrap();
    // UTCTime, 13 characters: the first two are not_before and not_after.
    let at: Vec<_> = (0..der.len()).filter(|&at| der[at..].starts_with(&[0x17, 13])).take(2).collect();
    der[at[0] + 2..at[0] + 4].copy_from_slice(not_before);
    der[at[1] + 2..at[1] + 4].copy_from_slice(not_after);
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(&der))
}

/// A gateway with a certificate of these years, its endpoint, and a site whose `own.pem` and `own.key` it uses.
fn start(site: &mut Site, not_before: &[u8; 2], not_after: &[u8; 2]) -> (Process, Remote) {
    let ids = identities();
    std::fs::copy(ids.file("gateway.key"), site.path("own.key")).unwrap();
    std::fs::write(site.path("own.pem"), with_years(&ids.file("gateway.pem"), not_before, not_after))
        .unwrap();
    site.identity = "certificate = \"own.pem\"\nkey = \"own.key\"".into();
    site.more += "[admin]\nlisten = \"127.0.0.1:0\"\n[reload]\nwatch = false\n";
    let gateway = Process::serve(&site.configure()).unwrap();
    assert_eq!(gateway.up["certificate_valid"], false);
    let remote = Remote::new(gateway.up["admin"].as_str().unwrap(), None, None).unwrap();
    (gateway, remote)
}

#[test]
fn a_gateway_with_an_expired_certificate_reports_it_and_a_renewal_makes_it_ready() {
    let mut site = Site::new();
    let (mut gateway, remote) = start(&mut site, b"19", b"20");
    let (code, why) = remote.get("/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(why.contains("has expired: it was valid until 2020-"), "{why}");
    let (report, _) = run(stoq_gateway().args(["check", "-c"]).arg(site.path("gateway.toml")), 1);
    assert!(report.contains("FAILED  certificates") && report.contains("so does the node ID"), "{report}");
    let (_, refused) = run(site.client("ping").args(["--count", "1"]), 1);
    assert!(refused.contains("expired"), "{refused}");

    std::fs::remove_file(site.path("own.pem")).unwrap();
    let renew = ["identity", "renew", "--key", "own.key", "--cert", "own.pem"];
    let (node_id, _) = run(stoq().args(renew).current_dir(site.directory.path()), 0);
    assert_eq!(node_id.trim(), identities().gateway, "the key is the node");
    gateway.reload("reloaded");
    wait_until("the gateway is ready", || remote.get("/readyz").unwrap().0 == 200);
    run(site.client("ping").args(["--count", "1"]), 0);
    let (_, there) = run(stoq().args(renew).current_dir(site.directory.path()), 1);
    assert!(there.contains("own.pem: exists already"), "{there}");
    gateway.stop();
    let log = gateway.log();
    assert!(
        log.contains("has expired") && log.contains("not ready") && !log.contains("gateway ready"),
        "{log}"
    );
}

#[test]
fn the_shipped_unit_starts_a_gateway_whose_certificate_has_expired() {
    let mut site = Site::new();
    drop(start(&mut site, b"19", b"20"));
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/stoq-gateway.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let config = site.path("gateway.toml");
    let command = |line: &str| {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("/usr/bin/stoq-gateway"), "{line}");
        let mut command = stoq_gateway();
        for word in words {
            if word == "/etc/stoq/gateway.toml" {
                command.arg(&config)
            } else {
                command.arg(word)
            };
        }
        command
    };
    // systemd.service(5): a failed command keeps the unit down, unless a dash precedes it.
    let mut before = 0;
    for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStartPre=")) {
        let (may_fail, line) = line.strip_prefix('-').map_or((false, line), |line| (true, line));
        let output = command(line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("FAILED  certificates"), "it is in the journal: {said}");
        assert!(may_fail || output.status.success(), "{line} keeps the unit down: {said}");
        before += 1;
    }
    assert_eq!(before, 1);
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut gateway = Process::serve_by(&mut command(line)).unwrap();
    assert_eq!(gateway.up["certificate_valid"], false);
    gateway.stop();
}

#[test]
fn a_certificate_that_is_not_valid_yet_names_the_clock() {
    let mut site = Site::new();
    let (mut gateway, remote) = start(&mut site, b"48", b"49");
    let (_, why) = remote.get("/readyz").unwrap();
    gateway.stop();
    let log = gateway.log();
    for part in ["is not valid before 2048-", "this host's clock is wrong: it says 20"] {
        assert!(why.contains(part) && log.contains(part), "{part}: {why} {log}");
    }
}

#[test]
fn a_new_identity_is_offered_only_if_both_files_are_missing() {
    let ids = identities();
    let fix = |cert: Option<&str>, key: Option<&str>| {
        let mut site = Site::new();
        site.identity = "certificate = \"own.pem\"\nkey = \"own.key\"".into();
        for (name, from) in [("own.pem", cert), ("own.key", key)] {
            if let Some(from) = from {
                std::fs::copy(ids.file(from), site.path(name)).unwrap();
            }
        }
        if key == Some("gateway.key") && cert == Some("gateway.pem") {
            let text = std::fs::read_to_string(site.path("own.key")).unwrap();
            std::fs::write(site.path("own.key"), &text[..text.len() / 2]).unwrap();
        }
        run(stoq_gateway().args(["check", "-c"]).arg(site.configure()), 1).0
    };
    assert!(fix(None, None).contains("stoq identity new"));
    let (no_key, no_certificate) = (fix(Some("gateway.pem"), None), fix(None, Some("gateway.key")));
    let (damaged, other) =
        (fix(Some("gateway.pem"), Some("gateway.key")), fix(Some("gateway.pem"), Some("client.key")));
    assert!(no_key.contains("backup") && no_key.contains("new node ID"), "{no_key}");
    assert!(no_certificate.contains("stoq identity renew"), "{no_certificate}");
    assert!(damaged.contains("cut short") && damaged.contains("backup"), "{damaged}");
    for text in [no_key, no_certificate, damaged, other] {
        assert!(!text.contains("identity new"), "{text}");
    }
}

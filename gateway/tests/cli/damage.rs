//! Damaged payloads on the disk of a real gateway, and its clock.

use crate::admin::{get, start, value};
use crate::support::{Site, run, stoq_gateway, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

/// The files of this kind that the store keeps.
pub(crate) fn kept(site: &Site, kind: &str) -> Vec<PathBuf> {
    let is_kind = |path: &PathBuf| path.extension().is_some_and(|extension| extension == kind);
    site.kept().0.into_iter().filter(is_kind).collect()
}

/// Inverts a bit of a file.
pub(crate) fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_at_rest_is_found_reported_and_repaired_by_a_put() {
    let mut site = Site::new();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let (file, token) = site.file("file", 8 << 20);
    run(site.client("put").arg(&file), 0);
    flip(&kept(&site, "blob")[0], 3 << 20);
    // The client of a get finds the damage, and so the gateway learns of it.
    let (_, error) = run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 1);
    assert!(error.contains("bad proof"), "{error}");
    wait_until("it is set aside", || site.kept().0.is_empty());
    // The check is over a little after its files are set aside.
    let checked =
        || value(&parse(&get(&remote, "/metrics")), "stoq_store_checks_total", &[("result", "damaged")]);
    wait_until("the check is counted", || checked() == 1.0);
    let damaged = std::fs::read_dir(site.store.join("damaged")).unwrap().count();
    assert_eq!(damaged, 2);
    let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
    let damage = &status["store"]["damage"];
    assert_eq!(
        (damage["set_aside"].as_u64(), damage["files_set_aside"].as_u64()),
        (Some(1), Some(2)),
        "{status}"
    );
    assert_eq!(
        (&damage["latest"][0]["name"], &damage["latest"][0]["outcome"]),
        (&token.clone().into(), &"set_aside".into())
    );
    assert_eq!(status["store"]["clock"]["believed"], true);
    let all = parse(&get(&remote, "/metrics"));
    assert_eq!(value(&all, "stoq_store_damage_total", &[("outcome", "set_aside")]), 1.0);
    assert_eq!(value(&all, "stoq_store_damaged_files", &[]), 2.0);
    // Without a get in between, the put finds the damage.
    for round in 0..2 {
        run(site.client("put").arg(&file), 0);
        let copy = site.path(&format!("copy{round}"));
        run(site.client("get").arg(&token).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&file).unwrap());
        if round == 0 {
            flip(&kept(&site, "blob")[0], 8 << 19);
        }
    }
    assert_eq!(std::fs::read_dir(site.store.join("damaged")).unwrap().count(), 4);
}

#[test]
fn a_get_restores_an_outboard_and_names_the_files_set_aside() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let (file, token) = site.file("file", 3_000_000);
    run(site.client("put").arg(&file), 0);
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    std::fs::write(&kept(&site, "obao")[0], b"").unwrap();
    let mut gateway = site.start();
    run(site.client("get").arg(&token).arg("-o").arg(site.path("copy")), 0);
    assert!(std::fs::read(site.path("copy")).unwrap() == std::fs::read(&file).unwrap());
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    let log = gateway.process.log();
    assert!(log.contains("made whole again") && log.contains(&token), "{log}");
    std::fs::write(&kept(&site, "blob")[0], b"").unwrap();
    let mut gateway = site.start();
    run(site.client("get").arg(&token).arg("-o").arg(site.path("other")), 1);
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    let log = gateway.process.log();
    assert!(log.contains("set aside") && log.contains(&token), "{log}");
}

#[test]
fn an_operator_vouches_for_the_clock_by_a_command() {
    let mut site = Site::new();
    let trust = |site: &Site, code| {
        let config = site.configure();
        run(stoq_gateway().args(["store", "trust-clock", "--config"]).arg(config), code)
    };
    assert!(trust(&site, 1).1.contains("store's directory"), "there is no store yet");
    // A store of an earlier version has no note of the time.
    let mut gateway = site.start();
    let (file, _) = site.file("file", 3000);
    run(site.client("put").arg(&file).args(["--lease", "1h"]), 0);
    gateway.process.signal(Signal::TERM);
    gateway.process.end();
    std::fs::remove_file(site.store.join("clock")).unwrap();
    let (_gateway, at) = start(&mut site, "");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    let believed = || {
        let status: Value = serde_json::from_str(&get(&remote, "/status")).unwrap();
        status["store"]["clock"]["believed"] == true
    };
    wait_until("the clock was looked at", || site.store.join("clock").exists());
    assert!(!believed());
    assert!(trust(&site, 0).0.contains("the clock is right"));
    wait_until("the clock is believed", believed);
    assert!(!site.store.join("trust-clock").exists());
}

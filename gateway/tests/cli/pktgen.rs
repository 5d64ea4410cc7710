//! `stoq-pktgen` against a gateway, and the options that it refuses.

use crate::support::{Site, json, run, wait_until};
use std::process::Command;

fn stoq_pktgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stoq-pktgen"))
}

#[test]
fn a_gateway_counts_garbage_and_serves_on() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let config = site.client_file("");
    // No more than the kernel's buffer holds, however late the gateway reads.
    let mut flood = stoq_pktgen();
    flood.args(["--rate", "20000"]).arg("--config").arg(&config);
    let result = json(flood.args(["garbage", "--size", "64", "--count", "150"]));
    assert_eq!(result["mode"], "garbage");
    let count = |name: &str| result[name].as_u64().unwrap();
    assert_eq!((count("offered"), count("sent"), count("refused")), (150, 150, 0), "{result}");
    run(site.client("ping").args(["-c", "1"]), 0);
    let counted = gateway.process.stop();
    assert_eq!(counted["drop_not_quic"], count("sent") + count("warm_up"), "{result}");
}

#[test]
fn a_storm_with_a_count_completes_that_number_of_handshakes() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let config = site.client_file("");
    for resume in [false, true] {
        let mut storm = stoq_pktgen();
        storm.args(["handshakes", "--count", "12", "--concurrency", "4", "--patience", "60"]);
        if resume {
            storm.arg("--resume");
        }
        let result = json(storm.arg("--config").arg(&config));
        assert_eq!(
            (result["completed"].as_u64(), result["failed"].as_u64()),
            (Some(12), Some(0)),
            "{result}"
        );
        assert!(result["p99_us"].as_f64() >= result["p50_us"].as_f64());
        // The first handshakes have no session to resume.
        let full = result["full"].as_u64().unwrap();
        assert!(if resume { (1..=8).contains(&full) } else { full == 12 }, "{result}");
    }
    assert_eq!(gateway.process.stop()["connections_opened"], 24);
}

#[test]
fn goodput_reports_the_count_of_the_gateway() {
    let mut site = Site::new();
    let _gateway = site.start();
    let config = site.client_file("");
    let mut goodput = stoq_pktgen();
    goodput.args(["goodput", "--connections", "3", "--size", "500", "--rate", "2000", "--count", "1000"]);
    goodput.args(["--patience", "60"]);
    let result = json(goodput.arg("--config").arg(&config));
    let count = |name: &str| result[name].as_u64().unwrap();
    assert_eq!((count("received"), count("connections")), (count("sent"), 3), "{result}");
    assert_eq!(count("received_bytes"), 500 * count("received"));
    assert_eq!(count("sent"), 1000, "{result}");
    assert!(count("sent") + count("refused") + count("late") <= count("intended"), "{result}");
}

#[test]
fn initials_and_replays_are_answered_and_hold_no_more_than_attempts() {
    let mut site = Site::new();
    let mut gateway = site.start();
    let config = site.client_file("");
    for mode in ["initials", "replay", "halves", "gaps"] {
        // A flood does not wait for a late answer; the next flood receives it.
        wait_until("an Initial is answered", || {
            let mut flood = stoq_pktgen();
            flood.args([mode, "--rate", "500", "--count", "20"]);
            let result = json(flood.arg("--config").arg(&config));
            let count = |name: &str| result[name].as_u64().unwrap();
            assert!(count("sent") >= 20 && count("sent") == count("offered"), "{result}");
            count("answers") > 0
        });
    }
    run(site.client("ping").args(["-c", "1"]), 0);
    assert_eq!(gateway.process.stop()["connections_opened"], 1, "the ping's");
}

#[test]
fn impossible_loads_are_refused_with_the_option_to_change() {
    let site = Site::new();
    let config = site.client_file("");
    let with = |args: &[&str]| run(stoq_pktgen().args(args).arg("--config").arg(&config), 2).1;
    for (args, text) in [
        (&["garbage", "--size", "40"][..], "--size: a frame of 40 bytes has no room"),
        (&["garbage", "--size", "9000"], "larger than the device takes"),
        (&["garbage", "--size", "large"], "--size takes bytes, such as 64"),
        (&["garbage", "--rate=-1"], "--rate"),
        (&["garbage", "--rate", "nan"], "--rate"),
        (&["garbage", "--seconds", "0"], "--seconds"),
        (&["goodput", "--size", "65537"], "--size"),
        (&["goodput", "--connections", "0"], "--connections"),
        (&["handshakes", "--concurrency", "0"], "--concurrency"),
        (&["flood"], "unrecognized subcommand"),
    ] {
        let stderr = with(args);
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
    assert!(run(stoq_pktgen().arg("garbage"), 2).1.contains("no configuration: give --config FILE"));
    assert!(run(stoq_pktgen().args(["garbage", "--config", "/nowhere.toml"]), 2).1.contains("/nowhere.toml"));
}

#[test]
fn an_absent_gateway_is_an_error_without_a_result() {
    let site = Site::new();
    let config = site.client_file("");
    let mut storm = stoq_pktgen();
    storm.args(["handshakes", "--count", "1", "--patience", "0.3"]);
    let (_, stderr) = run(storm.arg("--config").arg(&config), 1);
    assert!(stderr.contains("no handshake was completed: "), "{stderr}");
}

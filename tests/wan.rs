//! The benchmark of long paths, `benches/wan`, over short ones: its results are true, and it refuses unknown settings.

#[path = "../benches/wan/bench/mod.rs"]
mod bench;

use bench::{Options, Transfer};
use serde_json::Value;
use std::collections::BTreeSet;

fn options(arguments: &str) -> anyhow::Result<Options> {
    Options::parse(arguments.split_whitespace().map(str::to_owned))
}

/// What the benchmark prints, a line each.
fn printed(arguments: &str) -> Vec<String> {
    let mut lines = Vec::new();
    bench::run(&options(arguments).unwrap(), |text| lines.push(text.to_owned())).unwrap();
    lines
}

/// Whole runs, each of this transfer.
fn outcome(arguments: &str, transfer: Transfer) -> Value {
    let lines = printed(&format!("{arguments} --run {transfer}:1"));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    serde_json::from_str(line).unwrap()
}

fn refused(arguments: &str) -> String {
    let error = options(arguments).and_then(|options| options.rows().map(|_| ())).unwrap_err();
    format!("{error:#}")
}

#[test]
fn a_short_path_without_losses_is_full_in_every_transfer() {
    for transfer in Transfer::ALL {
        let found = outcome("--rate 50M --rtt 10ms --warm 300ms --seconds 300ms", transfer);
        let of_link = found["of_link"].as_f64().unwrap();
        assert!((0.9..1.02).contains(&of_link), "{transfer}: {found:#}");
        assert_eq!(found["limited_by"], "link", "{transfer}: {found:#}");
        assert_eq!(found["failures"], Value::Array(Vec::new()), "{transfer}");
        assert!(found["full_s"].as_f64().is_some_and(|full_s| full_s < 0.6), "{transfer}: {found:#}");
    }
}

#[test]
fn a_window_that_stays_small_limits_and_is_named() {
    let path = "--rate 50M --rtt 40ms --quic send_window_bytes=65536 --warm 600ms --seconds 300ms";
    let found = outcome(&format!("{path} --quic send_window_max_bytes=65536"), Transfer::Message);
    // 65,536 bytes a round trip are 13 Mbit/s.
    assert!((0.1..0.35).contains(&found["of_link"].as_f64().unwrap()), "{found:#}");
    assert_eq!(found["limited_by"], "window", "{found:#}");
    // One that may grow does.
    let found = outcome(path, Transfer::Message);
    assert!(found["of_link"].as_f64() > Some(0.9), "{found:#}");
    assert_eq!(found["limited_by"], "link", "{found:#}");
}

#[test]
fn losses_and_an_outage_are_seen() {
    let arguments = "--rate 20M --rtt 10ms --loss 1% --outage 300ms:200ms --warm 200ms --seconds 800ms";
    let found = outcome(arguments, Transfer::Message);
    assert!(found["lost_packets"].as_u64() > Some(0), "{found:#}");
    assert!(found["dropped_frames"].as_u64() > Some(0), "{found:#}");
    assert!(found["of_link"].as_f64() < Some(0.8), "{found:#}");
}

#[test]
fn flows_share_one_bottleneck() {
    let found =
        outcome("--rate 20M --rtt 10ms --flows 0s,cubic@100ms --warm 1s --seconds 2s", Transfer::Message);
    let shares = found["shares_gbit_s"].as_array().unwrap();
    assert!(shares.len() == 2 && shares.iter().all(|share| share.as_f64() > Some(0.0)), "{found:#}");
    // A message counts when it is whole: one of each flow may have begun before the span.
    assert!((0.9..1.1).contains(&found["of_link"].as_f64().unwrap()), "{found:#}");
}

#[test]
fn every_row_has_a_name_of_its_own_and_a_path_that_may_be() {
    let rows = bench::rows();
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len());
    for row in &rows {
        options(&format!("--only {}", row.name)).unwrap().rows().unwrap();
    }
    assert_eq!(printed("--list").len(), rows.len());
}

#[test]
fn unknown_settings_are_refused_with_their_names() {
    assert!(refused("--controller warp").contains("no congestion controller is called \"warp\""));
    assert!(refused("--quic warp=1").contains("unknown field `warp`"));
    assert!(refused("--flows warp@0s").contains("no congestion controller is called \"warp\""));
    assert!(refused("--only warp").contains("there is no row warp: see --list"));
    assert!(refused("--warp 1").contains("there is no option --warp: see --help"));
    assert!(refused("--loss 2").contains("a probability is 0 to 1"));
    assert!(refused("--rate").contains("--rate needs a value"));
    assert!(refused("--seconds 0").contains("nothing would be measured"));
}

//! The library's dependencies: a program that embeds the library builds no crate that it does not need.

use crate::root;
use std::process::Command;

/// Crates of the executables, by the beginnings of their names.
const OF_THE_EXECUTABLES: &[&str] = &[
    "anyhow",
    "axum",
    "clap",
    "hyper",
    "indicatif",
    "notify",
    "ratatui",
    "signal-hook",
    "toml",
    "tokio-rustls",
    "tracing-subscriber",
];

/// The names of the crates that are linked into a program which uses the library with these `features`.
fn dependencies(features: &[&str]) -> Vec<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "tree",
        "--package",
        "stoq",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--offline",
        "--locked",
    ]);
    let output = cargo.args(features).current_dir(root()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree: {said}");
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn the_library_needs_no_crate_of_the_executables() {
    for features in [&[][..], &["--features", "dpdk"]] {
        let tree = dependencies(features);
        assert!(tree.iter().any(|name| name == "quinn-proto"), "the tree was read: {tree:?}");
        for name in OF_THE_EXECUTABLES {
            assert!(!tree.iter().any(|found| found.starts_with(name)), "stoq depends on {name}");
        }
    }
}

#[test]
fn the_library_needs_libdpdk_only_with_its_feature() {
    let has_dpdk = |features: &[&str]| dependencies(features).iter().any(|name| name == "dpdk-sys");
    assert!(!has_dpdk(&[]));
    assert!(has_dpdk(&["--features", "dpdk"]));
}

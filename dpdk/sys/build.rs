//! Compiles the C files of this directory against the installed DPDK and links its libraries.

use std::{env, process::Command};

fn main() {
    for file in ["shim.c", "memif.c", "events.c", "multicast.c", "rss.c", "gate.h", "rss.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");

    let library =
        pkg_config::Config::new().atleast_version("22.11").probe("libdpdk").unwrap_or_else(|error| {
            panic!(
                "\n\nDPDK 22.11 or later was not found.\n\
             Install it with `apt-get install libdpdk-dev pkg-config`, \
             or build without it: `--no-default-features`.\n\n{error}\n"
            )
        });

    let mut build = cc::Build::new();
    build
        .files(["shim.c", "memif.c", "events.c", "multicast.c", "rss.c"])
        .opt_level(3)
        .std("gnu11")
        .includes(&library.include_paths);
    // DPDK's headers are not clean under -Wextra on every compiler; they are not ours to warn about.
    build.flag("-Wno-unused-parameter").flag("-Wno-sign-compare");
    for flag in other_cflags() {
        build.flag(flag);
    }
    build.compile("stoq_dpdk");
}

/// The flags of pkg-config beside include paths: `-include rte_config.h`, without which DPDK's headers
/// have another layout, and the instruction set that its inline functions need (never the build machine's own).
fn other_cflags() -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(&program)
        .args(["--cflags-only-other", "libdpdk"])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    assert!(output.status.success(), "{} --cflags-only-other libdpdk failed", program.display());
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

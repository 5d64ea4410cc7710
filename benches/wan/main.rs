//! Goodput over long paths, under virtual time: real workers, sessions, TLS and verified encodings over the simulated link.
//!
//! `cargo bench --bench wan -- --help` says how to run it, docs/wan.md what it shows and what it cannot show.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

mod bench;

use bench::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = Options::parse(std::env::args().skip(1))
        .and_then(|options| bench::run(&options, |text| println!("{text}")));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("wan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

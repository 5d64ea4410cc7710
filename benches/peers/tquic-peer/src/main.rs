//! tquic over kernel UDP sockets, as fast as its own settings and an event loop of whole bursts make it.
//!
//! `tquic-peer server` takes connections until it is ended. `tquic-peer client` sends bytes on one unidirectional stream and
//! waits for the count that the server answers with. Both run on one thread; pin them from outside.

mod client;
mod server;
mod setup;

use clap::Parser;
use peer_common::cli::Command;

#[derive(Parser)]
#[command(version, about = "tquic over kernel UDP sockets, for comparison")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Server(args) => server::run(args),
        Command::Client(args) => client::run(args),
    }
}

//! s2n-quic over kernel UDP sockets, as fast as its own settings make it.
//!
//! `s2n-quic-peer server` takes connections until it is ended. `s2n-quic-peer client` sends bytes on one unidirectional stream
//! and waits for the count that the server answers with. Both run on one thread; pin them from outside.

mod client;
mod server;
mod setup;

use clap::Parser;
use peer_common::cli::Command;

#[derive(Parser)]
#[command(version, about = "s2n-quic over kernel UDP sockets, for comparison")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Server(args) => runtime.block_on(server::run(args)),
        Command::Client(args) => runtime.block_on(client::run(args)),
    }
}

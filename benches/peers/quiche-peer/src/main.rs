//! quiche over kernel UDP sockets, as fast as its own settings and an event loop of whole bursts make it.
//!
//! `quiche-peer server` takes connections until it is ended. `quiche-peer client` sends bytes on one unidirectional stream and
//! waits for the count that the server answers with. Both run on one thread; pin them from outside.

mod client;
mod server;
mod setup;

use clap::Parser;
use peer_common::cli::Command;

#[derive(Parser)]
#[command(version, about = "quiche over kernel UDP sockets, for comparison")]
struct Cli {
    /// Control congestion by BBR2 and pace by it; without it CUBIC, unpaced.
    #[arg(long, global = true)]
    bbr2: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> anyhow::Result<()> {
    let Cli { bbr2, command } = Cli::parse();
    match command {
        Command::Server(args) => server::run(args, bbr2),
        Command::Client(args) => client::run(args, bbr2),
    }
}

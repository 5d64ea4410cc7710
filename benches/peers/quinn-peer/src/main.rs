//! quinn over kernel UDP sockets, as fast as its own settings make it: the peer with which STOQ is compared.
//!
//! `quinn-peer server` takes connections until it is ended. `quinn-peer client` sends bytes on one unidirectional stream and
//! waits for the count that the server answers with, or, with `--round-trips`, sends a small message back and forth on one
//! bidirectional stream. Both run on one thread; pin them from outside.

mod client;
mod server;
mod setup;

use clap::{Parser, Subcommand};
use peer_common::cli::{ClientArgs, ServerArgs};

#[derive(Parser)]
#[command(version, about = "quinn over kernel UDP sockets, for comparison")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count the bytes of unidirectional streams; send back those of bidirectional ones.
    Server(Server),
    /// Send bytes, or messages back and forth, and print the rate or the times.
    Client(Client),
}

#[derive(clap::Args)]
struct Server {
    #[command(flatten)]
    common: ServerArgs,
    #[command(flatten)]
    sleep: Sleep,
}

#[derive(clap::Args)]
struct Client {
    #[command(flatten)]
    common: ClientArgs,
    /// Instead of bulk bytes: this number of round trips of a small message.
    #[arg(long, value_name = "COUNT")]
    round_trips: Option<usize>,
    /// Bytes of a round trip's message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[command(flatten)]
    sleep: Sleep,
}

#[derive(clap::Args, Clone, Copy)]
struct Sleep {
    /// Never sleep: poll the socket, like a poll-mode driver.
    #[arg(long)]
    busy: bool,
}

fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    let (Command::Server(Server { sleep, .. }) | Command::Client(Client { sleep, .. })) = &command;
    let busy = sleep.busy;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all();
    if busy {
        // Look at the socket after each turn, not after each 61st.
        runtime.event_interval(1);
    }
    runtime.build()?.block_on(async {
        if busy {
            // A task that is always ready keeps the runtime from waiting in epoll.
            tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        match command {
            Command::Server(args) => server::run(args.common).await,
            Command::Client(args) => client::run(args).await,
        }
    })
}

//! quinn over kernel UDP sockets, as fast as its own settings make it: the peer that STOQ's figures stand beside.
//!
//! `quinn-peer server` takes connections until it is ended. `quinn-peer client` sends bytes on one unidirectional stream and
//! waits for the count that the server answers with, or, with `--round-trips`, sends a small message back and forth on one
//! bidirectional stream. Both run on one thread; pin them from outside.

mod client;
mod server;
mod setup;

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Parser)]
#[command(version, about = "quinn over kernel UDP sockets, for comparison")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count what comes on unidirectional streams; send back what comes on bidirectional ones.
    Server(ServerArgs),
    /// Send bytes, or messages back and forth, and print how fast that was.
    Client(ClientArgs),
}

#[derive(clap::Args)]
struct ServerArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Where to write the certificate made at start (DER), for the client to trust.
    #[arg(long, value_name = "FILE", default_value = "quinn-peer.der")]
    cert: PathBuf,
    #[command(flatten)]
    tuning: Tuning,
}

#[derive(clap::Args)]
struct ClientArgs {
    /// The server.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// The server's certificate (DER); nothing else is trusted.
    #[arg(long, value_name = "FILE", default_value = "quinn-peer.der")]
    cert: PathBuf,
    /// Payload bytes to send.
    #[arg(long, default_value_t = 4_000_000_000)]
    bytes: u64,
    /// Instead of bulk bytes: so many round trips of a small message.
    #[arg(long, value_name = "COUNT")]
    round_trips: Option<usize>,
    /// Bytes of a round trip's message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tuning: Tuning,
}

/// What both sides set alike.
#[derive(clap::Args, Clone, Copy)]
struct Tuning {
    /// UDP payload of a full packet, bytes; path MTU discovery is off.
    #[arg(long, default_value_t = 1472)]
    mtu: u16,
    /// Congestion window at the start, bytes.
    #[arg(long, default_value_t = 4 << 20)]
    initial_window: u64,
    /// Socket buffers, each way, bytes; net.core.rmem_max and wmem_max bound them.
    #[arg(long, default_value_t = 16 << 20)]
    socket_buffer: usize,
    /// Never sleep: ask the socket again and again, as a poll-mode driver does.
    #[arg(long)]
    busy: bool,
}

fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    let (Command::Server(ServerArgs { tuning, .. }) | Command::Client(ClientArgs { tuning, .. })) = &command;
    let busy = tuning.busy;
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
            Command::Server(args) => server::run(args).await,
            Command::Client(args) => client::run(args).await,
        }
    })
}

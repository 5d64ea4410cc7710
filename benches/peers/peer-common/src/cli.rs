//! The command line.

use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The two sides of a peer that only moves bulk bytes.
#[derive(Subcommand)]
pub enum Command {
    /// Count the bytes of unidirectional streams.
    Server(ServerArgs),
    /// Send bytes and print the rate.
    Client(ClientArgs),
}

#[derive(Args)]
pub struct ServerArgs {
    /// The address to listen on.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where to write the certificate made at start (PEM), for the client to trust.
    #[arg(long, value_name = "FILE", default_value = "peer.pem")]
    pub cert: PathBuf,
    /// Print what has been received, at most once in this number of milliseconds.
    #[arg(long, value_name = "MS")]
    pub count_every_ms: Option<u64>,
    #[command(flatten)]
    pub tuning: Tuning,
}

#[derive(Args)]
pub struct ClientArgs {
    /// The server.
    #[arg(long, value_name = "ADDR:PORT")]
    pub connect: SocketAddr,
    /// The server's certificate (PEM); nothing else is trusted.
    #[arg(long, value_name = "FILE", default_value = "peer.pem")]
    pub cert: PathBuf,
    /// Payload bytes to send.
    #[arg(long, default_value_t = 4_000_000_000)]
    pub bytes: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Settings that are equal on both sides.
#[derive(Args, Clone, Copy)]
pub struct Tuning {
    /// UDP payload of a full packet, bytes; the search for a larger one is off where the stack allows.
    #[arg(long, default_value_t = 1472)]
    pub mtu: u16,
    /// Congestion window at the start, bytes.
    #[arg(long, default_value_t = 4 << 20)]
    pub initial_window: u32,
    /// Flow control window of one stream, bytes; a connection has twice that.
    #[arg(long, default_value_t = 64 << 20)]
    pub receive_window: u32,
    /// Socket buffers, each way, bytes; net.core.rmem_max and wmem_max bound them.
    #[arg(long, default_value_t = 16 << 20)]
    pub socket_buffer: usize,
}

impl Tuning {
    /// Flow control of one stream, bytes.
    pub fn stream_window(&self) -> u64 {
        self.receive_window.into()
    }

    /// Flow control of a connection, bytes.
    pub fn connection_window(&self) -> u64 {
        2 * self.stream_window()
    }

    /// The initial window in packets, for stacks that count packets.
    pub fn initial_window_packets(&self) -> usize {
        self.initial_window as usize / usize::from(self.mtu.max(1))
    }
}

//! STOQ: Secure Tokenization Over QUIC.
//!
//! ```text
//!             worker q (one thread, one core, owns everything it touches)
//!  ┌──────────────────────────────────────────────────────────────────────────────────┐
//!  │ nic ──rx_burst──▶ wire ──datagram──▶ quic ──stream bytes──▶ record ──verified──▶ queue ──▶ application
//!  │                    │ ARP/NDP/ICMP      │ CID of another                            │     (echo, discard, seed,
//!  │                 neighbor               ▼ worker: hand over                         │      your own)
//!  │ nic ◀─tx_burst── wire ◀──datagram─── quic ◀──stream bytes── record ◀───────────── queue ◀── application
//!  └──────────────────────────────────────────────────────────────────────────────────┘
//!  control thread: configuration, signals, status; never on the packet's way
//! ```
//!
//! The modules stand in packet order.

#![forbid(unsafe_code)]

pub mod counters;
pub mod histogram;
pub mod limits;
pub mod names;

// The way of a packet.
pub mod nic;
pub mod wire;

pub mod neighbor;

pub mod datagram;
pub mod quic;
pub mod stages;
pub mod tls;

pub mod gather;
pub mod hop;
pub mod record;
pub mod session;
pub mod shard;
pub mod token;

pub mod queue;

pub mod application;
pub mod relay;
pub mod seed;

pub mod worker;

// Around it.
pub mod client;
pub mod download;
pub mod gathered_file;
pub mod network;
pub mod node;
mod part_file;
mod token_bucket;

pub use client::Client;

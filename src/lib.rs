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
//!  exception path: what wire refuses and this host's kernel may want (BGP, BFD) ⇄ rings ⇄ an interface of the kernel
//! ```
//!
//! A program that moves payloads needs [`client`] alone:
//!
//! ```
//! # mod loopback { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/mod.rs")); }
//! use stoq::client::{Client, Prepared};
//!
//! # let there = loopback::Gateway::start();
//! # let ((certificate, key), gateway_id, address) = (there.client_files(), there.id, there.address());
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let client = Client::builder().identity_files(certificate, key).trust_node(gateway_id).start()?;
//! let gateway = client.connect(address).await?; // Or "gateway.example.org:4433".
//! let payload = Prepared::bytes("hello");
//! gateway.put(&payload).await?; // It is checked and durable there.
//! let back = gateway.fetch(payload.token).await?.bytes(1 << 20).await?; // Every byte is checked.
//! assert_eq!(back, "hello");
//! # Ok::<_, stoq::client::ClientError>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! One that answers requests or messages writes an [`application::Application`] and hosts it on a [`node::Node`].
//!
//! The modules are listed in the order in which a packet passes them. Each imports only modules above it: `tests/tidy` checks that.

#![forbid(unsafe_code)]

// Units, codes, counters and bounds that every module uses.
pub mod limits;

mod sync;

pub mod histogram;
pub mod send_limit;
pub mod stages;

pub mod counters;

mod memory;
mod token_bucket;

pub mod names;
pub mod peer_text;

// The way of a packet: frames, devices, datagrams, QUIC, records, streams, rings, applications.
pub mod wire;

pub mod nic;

pub mod neighbor;

pub mod datagram;

pub mod quic;
pub mod tls;

pub mod error_code;
pub mod varint;

pub mod token;

pub mod manifest;

pub mod shard;

pub mod record;

pub mod hop;
pub mod rights;

pub mod queue;

pub mod application;
pub mod gather;
pub mod session;

pub mod seed;

// The loop that moves packets, and the modules built on it.
pub mod worker;

pub mod relay;

pub mod node;

pub mod client;

mod part_file;

pub mod download;
pub mod gathered_file;
pub mod output_tree;

pub mod network;

pub use client::Client;

/// The example of the README, compiled with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

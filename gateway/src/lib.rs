//! The STOQ appliance and its tools, around the library [`stoq`]: this code runs beside the workers and never on
//! a packet's way.
//!
//! The modules stand bottom up: each imports only modules that stand above it. The executables `stoq`, `stoq-gateway` and
//! `stoq-pktgen` stand in `src/bin`.

#![forbid(unsafe_code)]

// Values that people write, and text that they read.
pub mod durations;
pub mod faults;
pub mod interrupt;
pub mod output;

pub mod leases;

pub mod events;

pub mod ranges;

pub mod config;
pub mod manuals;

// The process and its surroundings.
pub mod periodic;

pub mod capabilities;
pub mod dates;
pub mod descriptors;
pub mod logging;
pub mod panics;
pub mod port_watch;
pub mod reloads;
pub mod service;
pub mod tls;

mod peer_list;

pub mod fleet;

pub mod watch;

pub mod capture;

pub mod anycast;

pub mod admin;

// The gateway, made of the modules above.
mod rights;

pub mod check;

mod renewable;

pub mod reload;

pub mod run;
pub mod fleet_tool;
pub mod store_tool;
pub mod store_salvage;
pub mod store_verify;

// Load and measurements: applications of a client's node.
pub mod pktgen;
pub mod probe;

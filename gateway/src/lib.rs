//! The STOQ appliance and its tools, around the library [`stoq`]: what runs beside the workers, never on the way of a packet.
//!
//! The modules stand bottom up: each imports only modules that stand above it. The executables `stoq`, `stoq-gateway` and
//! `stoq-pktgen` stand in `src/bin`.

#![forbid(unsafe_code)]

// What people give and are shown.
pub mod durations;
pub mod output;

pub mod events;

pub mod ranges;

pub mod config;
pub mod manuals;

// A process, and what it looks at.
pub mod capabilities;
pub mod dates;
pub mod logging;
pub mod port_watch;
pub mod reloads;
pub mod tls;
pub mod watch;

pub mod capture;

pub mod admin;

// The gateway that is made of all this.
pub mod check;

mod renewable;

pub mod reload;

pub mod run;

// Load and measurements: applications of a client's node.
pub mod pktgen;
pub mod probe;

//! The real executables over the kernel's sockets on the loopback interface.

#[path = "../../../tests/data/mod.rs"]
mod data;
#[path = "../fleet/api.rs"]
#[allow(dead_code, reason = "tests/fleet uses the rest")]
mod api;
mod support;
mod wording;

mod admin;
mod borders;
mod certificates;
mod crashes;
mod damage;
mod errors;
mod events;
mod fleet;
mod hosts;
mod isolation;
mod kubernetes;
mod leases;
mod lies;
mod members;
mod mesh;
mod messages;
mod outputs;
mod pktgen;
mod preflight;
mod refusals;
mod reload;
mod rights;
mod routes;
mod scrub;
mod secrets;
mod shipped;
mod shortage;
mod sources;
#[cfg(feature = "dpdk")]
mod ports;
#[cfg(feature = "dpdk")]
mod spread;
mod streams;
mod tools;
mod trees;
mod verify;
mod wide;

//! Whole gateways and clients on a simulated link, under virtual time: real workers, real QUIC, real stores, no NIC.

#[allow(dead_code, reason = "the worlds use the rest")]
#[path = "../forged/mod.rs"]
mod forged;
mod support;

mod admission;
mod chains;
mod congestion;
mod damage;
mod datagrams;
mod deaf;
mod early;
mod fleet;
mod gather;
mod handover;
mod hops;
mod hostile;
mod hostile_hops;
mod hostile_store;
mod leases;
mod lifecycle;
mod limits;
mod merging;
mod mirror;
mod mtu;
mod oceans;
mod passing;
mod paths;
mod ports;
mod pressure;
mod ranges;
mod refusals;
mod rights;
mod scrub;
mod seats;
mod silence;
mod skew;
mod spreading;
mod steering;
mod telling;
mod transfers;
mod unreachable;
mod unsettled;
mod verifying;
mod wide;
mod windows;
mod workers;

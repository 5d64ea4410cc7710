//! The shared parts of the TLS tests: an authority that issues certificates, and two endpoints on a wire without a network.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

pub mod authority;
pub mod strangers;
pub mod wire;

//! Shards: how a payload is cut into stripes and lanes, and the erasure coding that protects it against the loss of holders.

mod lanes;

pub use lanes::Lanes;

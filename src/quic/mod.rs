//! QUIC with quinn-proto's state machines: one endpoint for each worker.

pub mod admission;
pub mod cid;
pub mod congestion;
mod hole;
pub mod keys;
pub mod qlog;
pub mod release;
pub(crate) mod timers;
pub mod transport;

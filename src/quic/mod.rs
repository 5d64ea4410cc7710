//! QUIC with quinn-proto's state machines: one endpoint for each worker.

pub mod admission;
pub mod cid;
pub mod congestion;
pub mod fleet;
pub mod fleet_members;
pub mod fleet_settings;
mod hole;
pub mod keys;
pub mod qlog;
pub mod release;
pub mod routable;
pub(crate) mod timers;
pub mod transport;

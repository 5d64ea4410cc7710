//! QUIC, as quinn-proto's state machines speak it: one endpoint a worker.

pub mod admission;
pub mod cid;
pub mod qlog;
pub(crate) mod timers;
pub mod transport;

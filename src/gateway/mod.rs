//! The slow side: what runs beside the workers, never on the way of a packet.

pub mod capabilities;
pub mod check;
pub mod health;
pub mod logging;
pub mod network;
#[cfg(feature = "dpdk")]
pub mod port;
pub mod run;
pub mod tls;

//! The slow side: what runs beside the workers, never on the way of a packet.

pub mod check;
pub mod logging;
pub mod network;
pub mod run;
pub mod tls;

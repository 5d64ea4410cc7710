//! The slow side: what runs beside the workers, never on the way of a packet.

pub mod capabilities;
pub mod capture;
pub mod check;
pub mod dates;
pub mod holder;
pub mod logging;
pub mod machine;
pub mod network;
#[cfg(feature = "dpdk")]
pub mod port;
pub mod port_watch;
pub mod reload;
pub mod run;
pub mod tls;
pub mod watch;

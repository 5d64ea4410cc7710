//! Safe, owned handles over DPDK: the only crate of the workspace with unsafe code.
//!
//! ```text
//! Eal ──▶ Port ──▶ QueuePair { RxQueue, TxQueue }     a queue keeps its port, a port keeps its Eal
//!                      │            │
//!                   RxBatch     frames written in place, pending until the device takes them
//! SlabPool ──▶ SlabBlock ──▶ Bytes                    huge pages for data that outlives a packet
//! ```
//!
//! Ownership is the type. A received batch frees its mbufs once, when it is dropped. A queue may move to
//! another thread but is never shared ([`Send`], not [`Sync`]). Ports close after their queues, and DPDK's
//! environment is cleaned up after its ports, in whatever order the handles are dropped.

mod device;
mod eal;
mod error;
mod gate;
mod hugepages;
mod pair;
mod pci;
mod plug_in;
mod pool;
mod port;
mod queue;
mod ring;
mod rss;
mod settings;
mod slab;
mod stash;

pub use eal::{Eal, EalConfig, HugePages, LogLevel, Pages, RegisteredThread, log_writes_lost};
pub use error::DpdkError;
pub use pair::QueuePair;
pub use port::Port;
pub use queue::{BURST_LEN_MAX, Checksum, RxBatch, RxFrame, RxQueue, TxOffload, TxQueue};
pub use ring::{RING_LEN, RxInlet, RxRing, TxFeeder, TxRing};
pub use settings::{
    Multicast, PortConfig, PortFault, PortInfo, PortStats, QueueMismatch, RSS_KEY_BYTES, RssInfo,
};
pub use slab::{Backing, SlabBlock, SlabPool, SlabStats};

/// Cycles of the processor's time-stamp counter in a second, by DPDK's calibration. Needs a live [`Eal`].
pub fn tsc_hz(_eal: &Eal) -> u64 {
    // SAFETY: EAL is initialized, as `_eal` proves; the function only reads a calibrated value.
    unsafe { dpdk_sys::stoq_tsc_hz() }
}

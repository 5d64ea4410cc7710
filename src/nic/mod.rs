//! Frames in and out of one queue pair of a network device, without the kernel.

use crate::wire::ChecksumBy;
use std::time::Instant;

pub use crate::wire::{RxChecksum, TxKind};

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod interface;
mod left_queues;
pub mod rss;
pub mod simulated;
pub mod spread;
pub mod share;
mod stall;
pub mod tap;

/// A device and its abilities, as found when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicInfo {
    /// The device's name: a PCI address or a vdev name.
    pub device: String,
    /// The driver's own name, such as `net_memif`.
    pub driver: String,
    /// Largest layer-3 packet, bytes (an Ethernet MTU).
    pub mtu: u16,
    /// The station address.
    pub mac: [u8; 6],
    /// Whether the device fills in IPv4 header and UDP checksums as [`TxKind`] asks.
    pub tx_checksum: bool,
    /// Whether the device checks IPv4 header and UDP checksums.
    pub rx_checksum: bool,
}

impl NicInfo {
    /// The side that fills in the checksums of sent frames.
    #[inline]
    pub fn tx_checksum_by(&self) -> ChecksumBy {
        if self.tx_checksum { ChecksumBy::Device } else { ChecksumBy::Software }
    }
}

/// A device's offloads and its place.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Offloads {
    /// Whether it checks IPv4 header and UDP checksums.
    pub rx_checksum: bool,
    /// Whether it fills in IPv4 header and UDP checksums.
    pub tx_checksum: bool,
    /// Whether it spreads flows over its queues.
    pub rss: bool,
    /// Whether software spreads them over the workers.
    pub software_spread: bool,
    /// The NUMA node that it is attached to, if there is one.
    pub numa_node: Option<u32>,
}

/// What a queue did for other workers, and they for it, frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpreadCounts {
    /// Received here, and given to the worker of their flow.
    pub given: u64,
    /// Received by others, and taken here.
    pub taken: u64,
    /// Received here, and dropped because the worker of their flow had no room.
    pub refused: u64,
    /// Written by workers, and queued for the device here.
    pub carried: u64,
}

impl SpreadCounts {
    /// Frames that were moved for other workers: none of them is among those that [`Nic::rx_burst`] returns.
    #[inline]
    pub fn moved(&self) -> u64 {
        self.given + self.refused + self.carried
    }
}

/// One queue pair, owned by one worker. Bursts only; nothing blocks.
pub trait Nic {
    /// Takes up to [`crate::limits::RX_BURST_LEN`] frames and shows each to `frame`. Returns their number.
    fn rx_burst(&mut self, now: Instant, frame: impl FnMut(&[u8], RxChecksum)) -> usize;

    /// The number of frames that [`Nic::tx_frame`] would take now.
    fn tx_room(&self) -> usize;

    /// Queues one frame of `len` bytes, which `fill` writes straight into the packet buffer. The buffer's old content is
    /// unspecified: `fill` writes every byte. Returns false, without calling `fill`, if no buffer is free,
    /// `tx_room` is 0 or `len` is larger than the device takes; the caller counts the drop.
    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool;

    /// Gives queued frames to the device. Returns the number of frames that it has not taken yet; they stay
    /// queued, in order.
    fn tx_flush(&mut self, now: Instant) -> usize;

    /// The frames given up since the last call: the device refused them, or took none for
    /// [`crate::limits::TX_STALL_MS_MAX`]. The caller counts them.
    fn take_drops(&mut self) -> u64 {
        0
    }

    /// What was done since the last call for other workers that share the device.
    #[inline]
    fn take_spread(&mut self) -> SpreadCounts {
        SpreadCounts::default()
    }

    /// The device's description.
    fn info(&self) -> &NicInfo;

    /// Whether the link was up when the device last looked.
    fn link_up(&self) -> bool;
}

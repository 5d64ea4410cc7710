//! A worker's share of a device: a queue of its own, or one that software spreads over the workers.

use super::rss::Rss;
use super::spread::{SharedNic, SpreadNic, spread};
use super::{Nic, NicInfo, RxChecksum, SpreadCounts, TxKind};
use std::time::Instant;

/// A worker's share of a device, of either kind: for workers whose ports differ in it.
pub enum ShareNic<D: SharedNic> {
    /// A queue pair of its own.
    Own(D),
    /// A share of queues that are too few, or filled unevenly.
    Spread(SpreadNic<D>),
}

impl<D: SharedNic> ShareNic<D> {
    /// The shares of `workers` workers in these queues, of which each has one, unless they are spread by this hash.
    pub fn all(queues: Vec<D>, workers: usize, spread_by: Option<Rss>) -> Vec<Self> {
        match spread_by {
            Some(rss) => spread(queues, workers, rss).into_iter().map(Self::Spread).collect(),
            None => queues.into_iter().map(Self::Own).collect(),
        }
    }
}

impl<D: SharedNic> Nic for ShareNic<D> {
    fn rx_burst(&mut self, now: Instant, frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        match self {
            Self::Own(nic) => nic.rx_burst(now, frame),
            Self::Spread(nic) => nic.rx_burst(now, frame),
        }
    }

    fn tx_room(&self) -> usize {
        match self {
            Self::Own(nic) => nic.tx_room(),
            Self::Spread(nic) => nic.tx_room(),
        }
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        match self {
            Self::Own(nic) => nic.tx_frame(kind, len, fill),
            Self::Spread(nic) => nic.tx_frame(kind, len, fill),
        }
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        match self {
            Self::Own(nic) => nic.tx_flush(now),
            Self::Spread(nic) => nic.tx_flush(now),
        }
    }

    fn take_drops(&mut self) -> u64 {
        match self {
            Self::Own(nic) => nic.take_drops(),
            Self::Spread(nic) => nic.take_drops(),
        }
    }

    fn take_spread(&mut self) -> SpreadCounts {
        match self {
            Self::Own(nic) => nic.take_spread(),
            Self::Spread(nic) => nic.take_spread(),
        }
    }

    fn info(&self) -> &NicInfo {
        match self {
            Self::Own(nic) => nic.info(),
            Self::Spread(nic) => nic.info(),
        }
    }

    fn link_up(&self) -> bool {
        match self {
            Self::Own(nic) => nic.link_up(),
            Self::Spread(nic) => nic.link_up(),
        }
    }
}

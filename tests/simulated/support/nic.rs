//! A worker's share of a station: a queue of its own, or one that it shares.

use std::time::Instant;
use stoq::nic::rss::{RSS_TABLE_LEN, Rss, RssKey};
use stoq::nic::simulated::{SimulatedLink, SimulatedNic};
use stoq::nic::spread::{SpreadNic, spread};
use stoq::nic::{Nic, NicInfo, RxChecksum, SpreadCounts, TxKind};
use stoq::wire::Mac;

pub(crate) enum StationNic {
    Own(SimulatedNic),
    Shared(SpreadNic<SimulatedNic>),
}

impl StationNic {
    /// A new station's workers, which share its queues if these are fewer.
    pub(crate) fn station(link: &SimulatedLink, mac: Mac, queues: usize, workers: usize) -> Vec<Self> {
        let own = link.add_station(mac, queues);
        if queues == workers {
            return own.into_iter().map(Self::Own).collect();
        }
        let rss = Rss::new(&RssKey::known(), RSS_TABLE_LEN);
        spread(own, workers, rss).into_iter().map(Self::Shared).collect()
    }
}

impl Nic for StationNic {
    fn rx_burst(&mut self, now: Instant, frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        match self {
            Self::Own(nic) => nic.rx_burst(now, frame),
            Self::Shared(nic) => nic.rx_burst(now, frame),
        }
    }

    fn tx_room(&self) -> usize {
        match self {
            Self::Own(nic) => nic.tx_room(),
            Self::Shared(nic) => nic.tx_room(),
        }
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        match self {
            Self::Own(nic) => nic.tx_frame(kind, len, fill),
            Self::Shared(nic) => nic.tx_frame(kind, len, fill),
        }
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        match self {
            Self::Own(nic) => nic.tx_flush(now),
            Self::Shared(nic) => nic.tx_flush(now),
        }
    }

    fn take_drops(&mut self) -> u64 {
        match self {
            Self::Own(nic) => nic.take_drops(),
            Self::Shared(nic) => nic.take_drops(),
        }
    }

    fn take_spread(&mut self) -> SpreadCounts {
        match self {
            Self::Own(nic) => nic.take_spread(),
            Self::Shared(nic) => nic.take_spread(),
        }
    }

    fn info(&self) -> &NicInfo {
        match self {
            Self::Own(nic) => nic.info(),
            Self::Shared(nic) => nic.info(),
        }
    }

    fn link_up(&self) -> bool {
        match self {
            Self::Own(nic) => nic.link_up(),
            Self::Shared(nic) => nic.link_up(),
        }
    }
}

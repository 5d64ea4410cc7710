//! A worker's network: its share of a station, or of two stations on two switches.

use super::Station;
use quinn_proto::Transmit;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use stoq::counters::Counters;
use stoq::datagram::port_set::PortSet;
use stoq::datagram::{Datagram, GueTransmit, Network, NetworkInfo, Unreachable};
use stoq::nic::rss::{RSS_TABLE_LEN, Rss, RssKey};
use stoq::nic::share::ShareNic;
use stoq::nic::simulated::{SimulatedLink, SimulatedNic};
use stoq::wire::Mac;

/// A worker's share of a station: a queue of its own, or one that it shares.
pub(crate) type StationNic = ShareNic<SimulatedNic>;

/// A new station's workers, which share its queues if these are fewer.
pub(crate) fn shares(link: &SimulatedLink, mac: Mac, queues: usize, workers: usize) -> Vec<StationNic> {
    let spread_by = (queues < workers).then(|| Rss::new(&RssKey::known(), RSS_TABLE_LEN));
    ShareNic::all(link.add_station(mac, queues), workers, spread_by)
}

/// The network of a worker with one port or with two.
pub(crate) enum Attached {
    One(Box<Station>),
    Two(PortSet<StationNic>),
}

impl Network for Attached {
    fn receive(&mut self, now: Instant, counters: &Counters, deliver: impl FnMut(Datagram<'_>)) -> usize {
        match self {
            Self::One(network) => network.receive(now, counters, deliver),
            Self::Two(network) => network.receive(now, counters, deliver),
        }
    }

    fn can_send(&self) -> bool {
        match self {
            Self::One(network) => network.can_send(),
            Self::Two(network) => network.can_send(),
        }
    }

    fn can_send_to(&mut self, addresses: impl FnOnce() -> (SocketAddr, Option<IpAddr>)) -> bool {
        match self {
            Self::One(network) => network.can_send_to(addresses),
            Self::Two(network) => network.can_send_to(addresses),
        }
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        match self {
            Self::One(network) => network.send(now, counters, transmit, contents),
            Self::Two(network) => network.send(now, counters, transmit, contents),
        }
    }

    fn open_gue(&mut self) -> io::Result<()> {
        match self {
            Self::One(network) => network.open_gue(),
            Self::Two(network) => network.open_gue(),
        }
    }

    fn send_gue(&mut self, now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        match self {
            Self::One(network) => network.send_gue(now, counters, transmit, packet),
            Self::Two(network) => network.send_gue(now, counters, transmit, packet),
        }
    }

    fn flush(&mut self, now: Instant, counters: &Counters) -> usize {
        match self {
            Self::One(network) => network.flush(now, counters),
            Self::Two(network) => network.flush(now, counters),
        }
    }

    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        match self {
            Self::One(network) => network.poll_unreachable(),
            Self::Two(network) => network.poll_unreachable(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::One(network) => network.poll_timeout(),
            Self::Two(network) => network.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant, counters: &Counters) {
        match self {
            Self::One(network) => network.handle_timeout(now, counters),
            Self::Two(network) => network.handle_timeout(now, counters),
        }
    }

    fn info(&self) -> NetworkInfo {
        match self {
            Self::One(network) => network.info(),
            Self::Two(network) => network.info(),
        }
    }

    fn link_up(&self) -> bool {
        match self {
            Self::One(network) => network.link_up(),
            Self::Two(network) => network.link_up(),
        }
    }

    fn links_down(&self) -> u32 {
        match self {
            Self::One(network) => network.links_down(),
            Self::Two(network) => network.links_down(),
        }
    }
}

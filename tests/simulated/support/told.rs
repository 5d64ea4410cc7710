//! A station's network to which a test also reports unreachable destinations, as ICMP does to kernel sockets, and whose device it can slow
//! down.

use super::Station;
use quinn_proto::Transmit;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stoq::counters::Counters;
use stoq::datagram::{Datagram, Network, NetworkInfo, Obstacle, Unreachable};

/// A test's reports to a host; clones report to the same host.
#[derive(Clone, Default)]
pub(crate) struct Teller(Arc<Mutex<VecDeque<Unreachable>>>, Arc<AtomicBool>);

/// A device that was slowed down takes one batch of datagrams in this time.
const BATCH_SPAN: Duration = Duration::from_millis(10);

impl Teller {
    pub(crate) fn tell(&self, destination: SocketAddr, obstacle: Obstacle) {
        self.0.lock().unwrap().push_back(Unreachable { destination, obstacle });
    }

    /// Lets the device take little from now on, and be full in between.
    pub(crate) fn slow_the_device(&self) {
        self.1.store(true, Relaxed);
    }
}

/// The network of a simulated host.
pub(crate) struct Told {
    station: Station,
    pub(super) teller: Teller,
    /// When a slow device takes its next batch.
    free: Option<Instant>,
}

impl Told {
    pub(super) fn new(station: Station) -> Self {
        Self { station, teller: Teller::default(), free: None }
    }
}

impl Network for Told {
    fn receive(&mut self, now: Instant, counters: &Counters, deliver: impl FnMut(Datagram<'_>)) -> usize {
        self.free = self.free.filter(|free| now < *free);
        self.station.receive(now, counters, deliver)
    }

    fn can_send(&self) -> bool {
        self.free.is_none() && self.station.can_send()
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        if self.teller.1.load(Relaxed) {
            self.free = Some(now + BATCH_SPAN);
        }
        self.station.send(now, counters, transmit, contents);
    }

    fn flush(&mut self, now: Instant, counters: &Counters) -> usize {
        self.station.flush(now, counters)
    }

    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        self.teller.0.lock().unwrap().pop_front().or_else(|| self.station.poll_unreachable())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.station.poll_timeout().into_iter().chain(self.free).min()
    }

    fn handle_timeout(&mut self, now: Instant, counters: &Counters) {
        self.station.handle_timeout(now, counters);
    }

    fn info(&self) -> NetworkInfo {
        self.station.info()
    }

    fn link_up(&self) -> bool {
        self.station.link_up()
    }
}

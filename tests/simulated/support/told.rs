//! A station's network to which a test also reports unreachable destinations, as ICMP does to kernel sockets, whose device it can slow
//! down, and before which it can put a NAT that rebinds.

use super::nic::Attached;
use super::{UDP_PORT, gateway_v4, gateway_v6};
use quinn_proto::Transmit;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use stoq::counters::Counters;
use stoq::datagram::{Datagram, GueTransmit, Network, NetworkInfo, Obstacle, Unreachable};

/// A test's reports to a host; clones report to the same host.
#[derive(Clone, Default)]
pub(crate) struct Teller(
    Arc<Mutex<VecDeque<Unreachable>>>,
    Arc<AtomicBool>,
    Arc<Mutex<Bindings>>,
    KeptDatagrams,
);

/// The datagrams that a host keeps without a charge; none: it keeps no datagram.
type KeptDatagrams = Arc<Mutex<Option<Vec<Vec<u8>>>>>;

/// The addresses by which a NAT shows the stations behind it.
type Bindings = HashMap<IpAddr, SocketAddr>;

/// The buffer of a kept datagram, bytes: that of a packet of DPDK for an MTU of 9000.
const PACKET_BUFFER_BYTES: usize = 10_240;

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

    /// Lets the host keep the buffer of each datagram that it receives from now on.
    #[allow(dead_code, reason = "a mutant of the worlds")]
    pub(crate) fn keep_datagrams(&self) {
        self.3.lock().unwrap().get_or_insert_default();
    }

    /// Shows the station at `of` with this port from now on. What is sent to its earlier ports is lost.
    #[allow(dead_code, reason = "the worlds have a NAT")]
    pub(crate) fn rebind(&self, of: IpAddr, port: u16) {
        self.show(of, SocketAddr::new(of, port));
    }

    /// Shows the station at `of` by this address from now on, of either family. What is sent to its earlier ones is lost.
    #[allow(dead_code, reason = "not every suite moves clients")]
    pub(crate) fn show(&self, of: IpAddr, by: SocketAddr) {
        self.2.lock().unwrap().insert(of, by);
    }

    /// One that reports to another worker of the host, behind the same NAT.
    pub(super) fn beside(&self) -> Self {
        Self(Arc::default(), Arc::default(), self.2.clone(), Arc::default())
    }

    /// The address by which a station is shown.
    fn shown(&self, of: IpAddr) -> Option<SocketAddr> {
        self.2.lock().unwrap().get(&of).copied()
    }

    /// The station that is shown by an address: itself, one behind the NAT, or none.
    fn station(&self, shown: SocketAddr) -> Option<SocketAddr> {
        let bindings = self.2.lock().unwrap();
        match bindings.iter().find(|(_, by)| **by == shown) {
            Some((of, _)) => Some(SocketAddr::new(*of, UDP_PORT)),
            None if bindings.iter().any(|(of, by)| [*of, by.ip()].contains(&shown.ip())) => None,
            None => Some(shown),
        }
    }
}

/// The network of a simulated host.
pub(crate) struct Told {
    station: Attached,
    pub(super) teller: Teller,
    /// When a slow device takes its next batch.
    free: Option<Instant>,
}

impl Told {
    pub(super) fn new(station: Attached, teller: Teller) -> Self {
        Self { station, teller, free: None }
    }
}

impl Network for Told {
    fn receive(&mut self, now: Instant, counters: &Counters, mut deliver: impl FnMut(Datagram<'_>)) -> usize {
        self.free = self.free.filter(|free| now < *free);
        let teller = &self.teller;
        self.station.receive(now, counters, |mut datagram| {
            if let Some(shown) = teller.shown(datagram.remote.ip()) {
                datagram.remote = shown;
                let own = [gateway_v4().ip(), gateway_v6().ip()];
                datagram.local_ip = own.into_iter().find(|ip| ip.is_ipv4() == shown.is_ipv4());
            }
            if let Some(kept) = &mut *teller.3.lock().unwrap() {
                let mut buffer = Vec::with_capacity(PACKET_BUFFER_BYTES);
                buffer.extend_from_slice(datagram.payload);
                kept.push(buffer);
            }
            deliver(datagram);
        })
    }

    fn can_send(&self) -> bool {
        self.free.is_none() && self.station.can_send()
    }

    fn can_send_to(&mut self, addresses: impl FnOnce() -> (SocketAddr, Option<IpAddr>)) -> bool {
        self.free.is_none() && self.station.can_send_to(addresses)
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        if self.teller.1.load(Relaxed) {
            self.free = Some(now + BATCH_SPAN);
        }
        let Some(destination) = self.teller.station(transmit.destination) else { return };
        if destination == transmit.destination {
            return self.station.send(now, counters, transmit, contents);
        }
        let Transmit { ecn, size, segment_size, .. } = *transmit;
        let transmit = Transmit { destination, ecn, size, segment_size, src_ip: None };
        self.station.send(now, counters, &transmit, contents);
    }

    fn open_gue(&mut self) -> io::Result<()> {
        self.station.open_gue()
    }

    fn send_gue(&mut self, now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        self.station.send_gue(now, counters, transmit, packet);
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

    fn links_down(&self) -> u32 {
        self.station.links_down()
    }
}

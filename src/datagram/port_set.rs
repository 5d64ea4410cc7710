//! One network of the queues that a worker has at several ports.
//!
//! Each worker has a queue at each port. A datagram may therefore arrive by any port, and its connection's worker sends by any port. The route
//! names the port, not the connection: a connection goes on when the way to its peer changes ports, in either direction.
//!
//! Each port takes datagrams for the addresses of all, since a router may send them by another port than that of the address. It tells
//! neighbors of its own addresses only.

use super::exception_path::ExceptionPath;
use super::user_space::UserSpace;
use super::{Datagram, GueTransmit, Network, NetworkInfo, Unreachable};
use crate::counters::Counters;
use crate::limits::{EXCEPTIONS_BURST, PATHS_LEN_MAX, PORTS_LEN_MAX};
use crate::neighbor::route::is_link_local;
use crate::nic::Nic;
use crate::wire::exception::ExceptionPacket;
use quinn_proto::Transmit;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// A destination, and the address to send from if that is given.
type Way = (IpAddr, Option<IpAddr>);

/// A worker's queues at several ports.
pub struct PortSet<N> {
    ports: Vec<UserSpace<N>>,
    /// The ports whose links were down in this turn, a bit each.
    links_down: u32,
    /// The port of each way in use. Peers choose their addresses: the map's hash has a random key.
    chosen: HashMap<Way, Option<usize>>,
    last: Option<(Way, Option<usize>)>,
    /// The exception path whose packets of the kernel leave here.
    exceptions: Option<Arc<ExceptionPath>>,
}

impl<N: Nic> PortSet<N> {
    /// These ports, in the order in which they are preferred.
    ///
    /// # Panics
    /// If there is none, or more than [`PORTS_LEN_MAX`].
    pub fn new(ports: Vec<UserSpace<N>>) -> Self {
        assert!((1..=PORTS_LEN_MAX).contains(&ports.len()), "a worker has a port, and each port a bit");
        let own = |port: &UserSpace<N>| -> Vec<IpAddr> {
            let all = port.info().local.into_iter().map(|local| local.ip());
            all.filter(|ip| !is_link_local(*ip)).collect()
        };
        let addresses: Vec<_> = ports.iter().map(own).collect();
        let ports = ports.into_iter().enumerate().map(|(at, port)| {
            let elsewhere = addresses.iter().enumerate().filter(|(other, _)| *other != at);
            port.with_elsewhere(&elsewhere.flat_map(|(_, ips)| ips).copied().collect::<Vec<_>>())
        });
        let mut set = Self {
            ports: ports.collect(),
            links_down: 0,
            chosen: HashMap::new(),
            last: None,
            exceptions: None,
        };
        set.look();
        set
    }

    /// Sends the kernel's packets. Each port gives it those that it receives.
    #[must_use]
    pub fn with_exceptions(mut self, path: Arc<ExceptionPath>) -> Self {
        self.exceptions = Some(path);
        self
    }

    /// Sends the kernel's packets that wait, each by the port of its way. Those to groups leave by the first port.
    #[cold]
    fn send_exceptions(&mut self, now: Instant, counters: &Counters, path: &ExceptionPath) {
        for _ in 0..EXCEPTIONS_BURST {
            if !self.can_send() {
                return;
            }
            let Some(bytes) = path.take() else { return };
            let packet = ExceptionPacket::parse(&bytes);
            let port = packet.and_then(|packet| self.port(packet.destination, Some(packet.source)));
            self.ports[port.unwrap_or(0)].send_exception(now, counters, &bytes);
        }
    }

    /// Reads the links. Ways are chosen anew where one has changed.
    fn look(&mut self) {
        let links_down =
            self.ports.iter().enumerate().map(|(at, port)| u32::from(!port.link_up()) << at).sum();
        if links_down != self.links_down {
            self.links_down = links_down;
            self.chosen.clear();
            self.last = None;
        }
    }

    /// The port for packets to `destination`; `None` where no route leads there.
    #[inline]
    fn port(&mut self, destination: IpAddr, source: Option<IpAddr>) -> Option<usize> {
        let way = (destination, source);
        match self.last {
            Some((last, port)) if last == way => port,
            _ => self.choose(way),
        }
    }

    fn choose(&mut self, way: Way) -> Option<usize> {
        if self.chosen.len() >= PATHS_LEN_MAX {
            self.chosen.clear();
        }
        let Self { ports, links_down, chosen, .. } = self;
        let port = *chosen.entry(way).or_insert_with(|| best(ports, *links_down, way));
        self.last = Some((way, port));
        port
    }
}

/// The best port for a way: one whose link is up, rather on the destination's own network than by a router, and rather one that has the
/// source's address than another; then the first.
fn best<N: Nic>(ports: &[UserSpace<N>], links_down: u32, (destination, source): Way) -> Option<usize> {
    let (destination, source) = (destination.to_canonical(), source.map(|source| source.to_canonical()));
    // A peer that moved to the other family is answered from an address of that one.
    let source = source.filter(|source| source.is_ipv4() == destination.is_ipv4());
    // No port sends to an address of this host, or to the broadcast address of another port's network.
    if !ports.iter().all(|port| port.is_other_host(destination)) {
        return None;
    }
    let rank = |(at, port): (usize, &UserSpace<N>)| {
        let route = port.route(destination, source)?;
        let is_up = links_down & 1 << at == 0;
        let is_on_link = route.next_hop == destination;
        let has_source = source.is_some_and(|source| port.has(source));
        Some((Reverse((is_up, is_on_link, has_source)), at))
    };
    ports.iter().enumerate().filter_map(rank).min().map(|(_, at)| at)
}

impl<N: Nic> Network for PortSet<N> {
    fn receive(&mut self, now: Instant, counters: &Counters, mut deliver: impl FnMut(Datagram<'_>)) -> usize {
        let taken = self.ports.iter_mut().map(|port| port.receive(now, counters, &mut deliver)).sum();
        if let Some(path) = self.exceptions.as_ref().filter(|path| path.has_waiting()).cloned() {
            self.send_exceptions(now, counters, &path);
        }
        self.look();
        taken
    }

    fn can_send(&self) -> bool {
        self.ports.iter().any(Network::can_send)
    }

    #[inline]
    fn can_send_to(&mut self, addresses: impl FnOnce() -> (SocketAddr, Option<IpAddr>)) -> bool {
        let (destination, source) = addresses();
        // Without a route there is nothing to wait for: the datagrams are dropped.
        self.port(destination.ip(), source).is_none_or(|port| self.ports[port].can_send())
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        // Without a route, the first port counts the drop.
        let port = self.port(transmit.destination.ip(), transmit.src_ip).unwrap_or(0);
        self.ports[port].send(now, counters, transmit, contents);
    }

    fn open_gue(&mut self) -> io::Result<()> {
        self.ports.iter_mut().try_for_each(Network::open_gue)
    }

    fn send_gue(&mut self, now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        let port = self.port(transmit.destination, Some(transmit.source)).unwrap_or(0);
        self.ports[port].send_gue(now, counters, transmit, packet);
    }

    fn flush(&mut self, now: Instant, counters: &Counters) -> usize {
        self.ports.iter_mut().map(|port| port.flush(now, counters)).sum()
    }

    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        self.ports.iter_mut().find_map(Network::poll_unreachable)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.ports.iter().filter_map(Network::poll_timeout).min()
    }

    fn handle_timeout(&mut self, now: Instant, counters: &Counters) {
        self.ports.iter_mut().for_each(|port| port.handle_timeout(now, counters));
    }

    fn info(&self) -> NetworkInfo {
        let ports: Vec<_> = self.ports.iter().map(Network::info).collect();
        let joined = |of: fn(&NetworkInfo) -> &str| {
            let mut names: Vec<_> = ports.iter().map(of).collect();
            names.dedup();
            names.join(" + ")
        };
        NetworkInfo {
            kind: ports[0].kind,
            driver: joined(|port| &port.driver),
            device: joined(|port| &port.device),
            mtu: ports.iter().map(|port| port.mtu).min().unwrap_or_default(),
            local: ports.iter().flat_map(|port| port.local.clone()).collect(),
            ports,
        }
    }

    fn link_up(&self) -> bool {
        self.ports.iter().any(Network::link_up)
    }

    fn links_down(&self) -> u32 {
        self.links_down
    }
}

#[cfg(test)]
mod tests;

//! UDP datagrams over a device queue, with our own wire format, neighbors and routes, and without the kernel.
//!
//! Sending a datagram costs one look at the last destination's headers, one copy into the packet buffer and
//! one checksum. A received datagram is shown in place. Other packets (ARP, NDP, echo) are noted during the
//! burst and answered after it, since the device is busy with the burst.

use super::{Datagram, GueTransmit, Heard, Network, NetworkInfo, NetworkKind, Obstacle, Unreachable};
use crate::counters::{Counter, Counters};
use crate::limits::{ECHO_REPLIES_BURST, ECHO_REPLIES_PER_S, TX_SEGMENTS_LEN_MAX};
use crate::neighbor::exchange::ExchangePort;
use crate::neighbor::route::{IpRoute, IpRoutes};
use crate::neighbor::{NeighborOutput, Neighbors, Pending, Resolution};
use crate::nic::{Nic, RxChecksum, SpreadCounts, TxKind};
use crate::stages::LoopStage;
use crate::token_bucket::TokenBucket;
use crate::wire::udp::{Udp, UdpTemplate};
use crate::wire::{self, ControlFrame, Mac, Station, WireError, ip::Addresses};
use config::VLAN_ID_MAX;
pub use config::{InterfaceConfig, InterfaceError};
use exceptions::Exceptions;
pub use exceptions::KernelPackets;
use path::{Path, Paths};
use quinn_proto::{EcnCodepoint, Transmit};
use replies::Replies;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::slice::Chunks;
use std::time::Instant;

mod config;
mod exceptions;
mod gue;
mod kernel_packets;
mod path;
mod replies;

#[cfg(test)]
mod tests;

/// The network of one device queue.
pub struct UserSpace<N> {
    nic: N,
    kind: NetworkKind,
    host: Host,
    paths: Paths,
    heard: Heard,
}

/// Everything of the network except the device and the paths.
struct Host {
    station: Station,
    neighbors: Neighbors,
    exchange: Option<ExchangePort>,
    exceptions: Option<Box<Exceptions>>,
    replies: Replies,
    echo_replies: TokenBucket,
    mtu: usize,
    udp_checksum: bool,
}

impl<N: Nic> UserSpace<N> {
    /// The interface `config` on the device `nic`; `kind` appears in [`Network::info`].
    ///
    /// # Errors
    ///
    /// See [`InterfaceError`].
    pub fn new(nic: N, config: &InterfaceConfig, kind: NetworkKind) -> Result<Self, InterfaceError> {
        let (mac, mtu) = (nic.info().mac, nic.info().mtu);
        if let Some(id) = config.vlan.filter(|id| !(1..=VLAN_ID_MAX).contains(id)) {
            return Err(InterfaceError::Vlan(id));
        }
        if config.udp_port == 0 {
            return Err(InterfaceError::Port);
        }
        // RFC 9000 §14: paths carry UDP payloads of 1200 bytes, and RFC 8200 §5: IPv6 links carry packets of 1280.
        if mtu < 1280 {
            return Err(InterfaceError::Mtu(mtu));
        }
        let routes = IpRoutes::new(mac, &config.addresses, config.next_hop_v4, config.next_hop_v6)?;
        let station = Station {
            mac,
            vlan: config.vlan,
            addresses: routes.addresses().collect(),
            udp_port: config.udp_port,
            takes_gue: false,
        };
        let host = Host {
            neighbors: Neighbors::new(mac, routes),
            replies: Replies::new(mac, config.vlan),
            echo_replies: TokenBucket::new(ECHO_REPLIES_PER_S, ECHO_REPLIES_BURST),
            station,
            exchange: None,
            exceptions: None,
            mtu: usize::from(mtu),
            udp_checksum: config.udp_checksum,
        };
        Ok(Self { nic, kind, host, paths: Paths::default(), heard: Heard::default() })
    }

    /// Shares claims about neighbors with the workers of the device's other queues. A device with more than one queue needs this.
    #[must_use]
    pub fn with_exchange(mut self, port: ExchangePort) -> Self {
        self.host.exchange = Some(port);
        self
    }

    /// Fixes the stations of these neighbors: they are never asked for, and no packet changes them.
    ///
    /// # Errors
    /// [`InterfaceError::IpRoute`] for one that is no other host on a network of the interface.
    pub fn with_stations(
        mut self,
        stations: impl IntoIterator<Item = (IpAddr, Mac)>,
    ) -> Result<Self, InterfaceError> {
        self.host.neighbors.fix(stations)?;
        Ok(self)
    }

    /// Takes datagrams and echo requests for these addresses too, which this host has at other ports, and sends from them. Neighbors are
    /// not told of them: only packets that a router sends here arrive.
    #[must_use]
    pub(crate) fn with_elsewhere(mut self, addresses: &[IpAddr]) -> Self {
        self.host.station.addresses.extend(addresses);
        self.host.neighbors.add_elsewhere(addresses.iter().copied());
        self
    }

    /// The way of packets to `destination` over this port, from `source` if that is given.
    pub(crate) fn route(&self, destination: IpAddr, source: Option<IpAddr>) -> Option<IpRoute> {
        self.host.neighbors.routes().route(destination, source)
    }

    /// Whether `address` may be one other host, here or beyond.
    pub(crate) fn is_other_host(&self, address: IpAddr) -> bool {
        self.host.neighbors.routes().is_other_host(address)
    }

    /// Whether the port itself has this address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.host.neighbors.routes().has(address)
    }

    /// The device.
    pub fn nic(&self) -> &N {
        &self.nic
    }

    /// Finds or builds the headers to `transmit`'s destination and selects them.
    #[inline]
    fn path(&mut self, now: Instant, counters: &Counters, transmit: &Transmit) -> Result<(), NoPath> {
        if self.paths.select(transmit, now, self.host.neighbors.generation()) {
            return Ok(());
        }
        self.build_path(now, counters, transmit)
    }

    #[cold]
    fn build_path(&mut self, now: Instant, counters: &Counters, transmit: &Transmit) -> Result<(), NoPath> {
        let neighbors = &mut self.host.neighbors;
        let destination =
            SocketAddr::new(transmit.destination.ip().to_canonical(), transmit.destination.port());
        // A peer that moved to the other family is answered from an address of that one.
        let source = transmit.src_ip.map(|source| source.to_canonical());
        let source = source.filter(|source| source.is_ipv4() == destination.is_ipv4());
        let route = neighbors.routes().route(destination.ip(), source).ok_or(NoPath::NoRoute)?;
        let addresses = Addresses::new(route.source, destination.ip()).ok_or(NoPath::NoRoute)?;
        let station = &self.host.station;
        let ports = Udp { source_port: station.udp_port, destination_port: destination.port() };
        let template = |mac: Mac| {
            let template = UdpTemplate::new(station.mac, mac, station.vlan, addresses, ports);
            Box::new(if self.host.udp_checksum { template } else { template.without_udp_checksum() })
        };
        match neighbors.lookup(now, counters, route.next_hop) {
            Resolution::Known { mac, recheck_at } => {
                let generation = neighbors.generation();
                self.paths.insert(transmit, Path { template: *template(mac), recheck_at, generation });
                Ok(())
            }
            Resolution::Resolving => {
                Err(NoPath::Resolving { next_hop: route.next_hop, template: template([0; 6]) })
            }
            Resolution::Unreachable => Err(NoPath::Unreachable),
            Resolution::Limited => Err(NoPath::Limited),
        }
    }

    /// Writes `segments` into the device's buffers, each behind the headers of the selected path.
    #[inline]
    fn send_now(&mut self, counters: &Counters, ecn: u8, segments: Chunks<'_, u8>) {
        let Self { nic, host, paths, .. } = self;
        let Some(Path { template, .. }) = paths.selected() else { return };
        let filled = nic.info().tx_checksum_by();
        let (kind, header_len) = (template.kind(filled), template.header_len());
        let payload_len_max = host.payload_len_max(template);
        let (mut packets, mut bytes) = (0, 0);
        for segment in segments {
            if segment.len() > payload_len_max {
                counters.add(Counter::DropTooBig, 1);
                continue;
            }
            let len = header_len + segment.len();
            if nic.tx_frame(kind, len, |frame| template.emit(ecn, segment, filled, frame)) {
                packets += 1;
                bytes += segment.len() as u64;
            } else {
                counters.add(Counter::DropNoBuffer, 1);
            }
        }
        counters.add(Counter::TxPackets, packets);
        counters.add(Counter::TxBytes, bytes);
    }

    /// Keeps `segments` as frames until `next_hop` has answered.
    fn send_later(
        &mut self,
        counters: &Counters,
        ecn: u8,
        segments: Chunks<'_, u8>,
        next_hop: IpAddr,
        template: &UdpTemplate,
    ) {
        let Self { nic, host, .. } = self;
        let filled = nic.info().tx_checksum_by();
        let payload_len_max = host.payload_len_max(template);
        for segment in segments {
            if segment.len() > payload_len_max {
                counters.add(Counter::DropTooBig, 1);
                continue;
            }
            let mut frame = vec![0; template.header_len() + segment.len()];
            template.emit(ecn, segment, filled, &mut frame);
            let packet = Pending { kind: template.kind(filled), frame, payload_len: segment.len() };
            host.neighbors.enqueue(counters, next_hop, packet);
        }
    }

    /// Sends the packets of ARP, NDP and echo.
    fn send_control(&mut self, counters: &Counters) {
        let Self { nic, host, .. } = self;
        while let Some(output) = host.neighbors.poll_output() {
            match output {
                NeighborOutput::Arp { destination, arp } => host.replies.arp(destination, &arp),
                NeighborOutput::Ndp { destination, addresses, ndp } => {
                    host.replies.ndp(destination, addresses, &ndp);
                }
                NeighborOutput::Frame(Pending { kind, frame, payload_len }) => {
                    if nic.tx_frame(kind, frame.len(), |out| out.copy_from_slice(&frame)) {
                        counters.add(Counter::TxPackets, 1);
                        counters.add(Counter::TxBytes, payload_len as u64);
                    } else {
                        counters.add(Counter::DropNoBuffer, 1);
                    }
                }
            }
        }
        host.replies.drain(|frame| {
            let taken = nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(frame));
            counters.add(if taken { Counter::TxPackets } else { Counter::DropNoBuffer }, 1);
        });
    }

    fn take_exchanged(&mut self, now: Instant, counters: &Counters) {
        if let Some(port) = &self.host.exchange {
            while let Some(claim) = port.take() {
                self.host.neighbors.handle_claim(now, counters, claim);
            }
        }
    }
}

/// Why a datagram cannot be sent right now.
enum NoPath {
    NoRoute,
    Resolving { next_hop: IpAddr, template: Box<UdpTemplate> },
    Unreachable,
    Limited,
}

impl NoPath {
    /// The counter of a datagram that is dropped for it. One whose next hop is asked for is not.
    fn counter(&self) -> Counter {
        match self {
            Self::NoRoute => Counter::DropNoRoute,
            Self::Unreachable | Self::Resolving { .. } => Counter::DropNeighborUnreachable,
            Self::Limited => Counter::DropNeighborLimited,
        }
    }
}

impl Host {
    /// The largest UDP payload behind these headers, bytes.
    fn payload_len_max(&self, template: &UdpTemplate) -> usize {
        self.mtu - (template.header_len() - template.l2_len())
    }

    /// Shows a datagram to `deliver`; answers or counts anything else.
    #[inline]
    fn handle_frame(
        &mut self,
        now: Instant,
        counters: &Counters,
        frame: &[u8],
        checksum: RxChecksum,
        deliver: &mut impl FnMut(Datagram<'_>),
    ) {
        counters.stages.enter(LoopStage::Parse);
        let shown = self.station.parse(frame, checksum, |remote, destination, ecn, payload| {
            counters.add(Counter::RxBytes, payload.len() as u64);
            let (local_ip, ecn) = (Some(destination), EcnCodepoint::from_bits(ecn));
            deliver(Datagram { remote, local_ip, ecn, payload, is_gue: false });
        });
        match shown {
            Ok(None) => return,
            Ok(Some(ControlFrame::Gue { source, destination, ecn, packet })) => {
                counters.add(Counter::RxBytes, packet.len() as u64);
                let (local_ip, ecn) = (Some(destination), EcnCodepoint::from_bits(ecn));
                deliver(Datagram { remote: source, local_ip, ecn, payload: packet, is_gue: true });
                return;
            }
            Ok(Some(control)) => self.handle_control(now, counters, control),
            Err(error) => counters.add(self.refused(now, frame, error), 1),
        }
        // The consumer of a datagram has marked its own stages already.
        counters.stages.enter(LoopStage::Receive);
    }

    /// The counter of a frame that was refused.
    #[cold]
    fn refused(&mut self, now: Instant, frame: &[u8], error: WireError) -> Counter {
        let Self { exceptions, station, neighbors, .. } = self;
        let given = exceptions
            .as_mut()
            .and_then(|exceptions| exceptions.offer(now, station, neighbors.routes(), (frame, error)));
        given.unwrap_or(error.counter())
    }

    #[cold]
    fn handle_control(&mut self, now: Instant, counters: &Counters, control: ControlFrame<'_>) {
        counters.add(Counter::NeighborPackets, 1);
        let claim = match control {
            ControlFrame::Arp { arp, .. } => self.neighbors.handle_arp(now, counters, &arp),
            ControlFrame::Ndp { source_mac, source, ndp } => {
                self.neighbors.handle_ndp(now, counters, source_mac, source, &ndp)
            }
            ControlFrame::EchoRequest { source_mac, destination_mac, addresses, echo } => {
                // RFC 1122 §3.2.2.6, RFC 4443 §4.2 allow silence for groups: every member would answer at once, or be told to.
                let is_unicast = destination_mac == self.station.mac
                    && wire::is_unicast(source_mac)
                    && self.neighbors.routes().is_other_host(addresses.source());
                // The reply carries all of the request's data, or is not sent.
                counters.add(
                    if !is_unicast {
                        Counter::DropEchoNotUnicast
                    } else if !self.echo_replies.take(now) {
                        Counter::DropReplyLimited
                    } else if self.replies.echo(source_mac, addresses, echo, self.mtu) {
                        Counter::IcmpEchoReplies
                    } else {
                        Counter::DropTooBig
                    },
                    1,
                );
                None
            }
            ControlFrame::Gue { .. } => None,
        };
        if let (Some(claim), Some(port)) = (claim, &self.exchange) {
            port.tell(claim);
        }
    }
}

impl<N: Nic> Network for UserSpace<N> {
    fn receive(&mut self, now: Instant, counters: &Counters, mut deliver: impl FnMut(Datagram<'_>)) -> usize {
        self.take_exchanged(now, counters);
        let Self { nic, host, .. } = self;
        let count = nic.rx_burst(now, |frame, checksum| {
            host.handle_frame(now, counters, frame, checksum, &mut deliver);
        });
        if count > 0 {
            counters.add(Counter::RxPackets, count as u64);
        }
        let spread = nic.take_spread();
        if spread != SpreadCounts::default() {
            counters.add(Counter::SpreadOut, spread.given);
            counters.add(Counter::SpreadIn, spread.taken);
            counters.add(Counter::DropSpreadFull, spread.refused);
            counters.add(Counter::SpreadSent, spread.carried);
        }
        self.send_exceptions(now, counters);
        self.send_control(counters);
        count + spread.moved() as usize
    }

    fn can_send(&self) -> bool {
        self.nic.tx_room() >= TX_SEGMENTS_LEN_MAX
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        let segment_size = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
        let segments = contents.chunks(segment_size);
        match self.path(now, counters, transmit) {
            Ok(()) => self.send_now(counters, ecn, segments),
            Err(NoPath::Resolving { next_hop, template }) => {
                self.send_later(counters, ecn, segments, next_hop, &template);
            }
            Err(no_path) => {
                if matches!(no_path, NoPath::NoRoute) && transmit.src_ip.is_none() {
                    self.heard.add(transmit.destination, Obstacle::NoNextHop);
                }
                counters.add(no_path.counter(), segments.len() as u64);
            }
        }
    }

    fn open_gue(&mut self) -> io::Result<()> {
        self.host.station.takes_gue = true;
        Ok(())
    }

    fn send_gue(&mut self, now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        self.send_from(now, counters, transmit, packet);
    }

    fn flush(&mut self, now: Instant, counters: &Counters) -> usize {
        self.send_control(counters);
        let pending = self.nic.tx_flush(now);
        let dropped = self.nic.take_drops();
        if dropped > 0 {
            counters.add(Counter::DropTxStalled, dropped);
        }
        pending
    }

    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        self.heard.take()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.host.neighbors.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, counters: &Counters) {
        self.take_exchanged(now, counters);
        self.host.neighbors.handle_timeout(now, counters);
        self.send_control(counters);
    }

    fn info(&self) -> NetworkInfo {
        let nic = self.nic.info();
        let port = self.host.station.udp_port;
        NetworkInfo {
            kind: self.kind,
            driver: nic.driver.clone(),
            device: nic.device.clone(),
            mtu: nic.mtu,
            local: self.host.neighbors.routes().addresses().map(|ip| SocketAddr::new(ip, port)).collect(),
            ports: Vec::new(),
        }
    }

    fn link_up(&self) -> bool {
        self.nic.link_up()
    }
}

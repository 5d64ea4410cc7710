//! A worker's view of a network: batches of received and sent UDP datagrams.
//!
//! There are two networks: [`user_space`] (a device queue, with our own wire format and neighbors) and [`kernel`] (UDP sockets).
//! [`port_set`] makes one network of the queues that a worker has at several devices.

use crate::counters::Counters;
use quinn_proto::{EcnCodepoint, Transmit};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::time::{Duration, Instant};

pub mod exception_path;
pub mod kernel;
pub mod port_set;
mod unreachable;
pub mod user_space;

pub(crate) use unreachable::Heard;
pub use unreachable::{Obstacle, Unreachable};

/// One received UDP datagram, borrowed from the network's own buffer.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its sender.
    pub remote: SocketAddr,
    /// The local address that it was sent to, if the network knows it.
    pub local_ip: Option<IpAddr>,
    /// The ECN bits of its IP header.
    pub ecn: Option<EcnCodepoint>,
    /// The UDP payload.
    pub payload: &'a [u8],
    /// Whether it came to the port of GUE: its payload is a packet of [`crate::wire::gue`].
    pub is_gue: bool,
}

/// A packet of GUE on its way to another gateway.
#[derive(Clone, Copy, Debug)]
pub struct GueTransmit {
    /// The gateway.
    pub destination: IpAddr,
    /// This gateway's address, of the same family.
    pub source: IpAddr,
    /// The ECN bits of its IP header.
    pub ecn: Option<EcnCodepoint>,
    /// The port that it leaves by, of the flow inside: devices spread packets by it. A kernel socket has one port.
    pub source_port: u16,
}

/// The network that a program is on. Shown at start, in status output and in `--json` results.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NetworkInfo {
    /// `dpdk`, `kernel-udp` or `simulated`.
    pub kind: NetworkKind,
    /// The driver: a DPDK driver's name, or `udp` for sockets.
    pub driver: String,
    /// The device: a PCI address, vdev name or socket address.
    pub device: String,
    /// Largest layer-3 packet, bytes. For kernel sockets, the limit of path MTU discovery.
    pub mtu: u16,
    /// Addresses that this network answers to.
    pub local: Vec<SocketAddr>,
    /// Each of its ports, if it has several. The fields above are then those of all of them: the smallest MTU, all addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkInfo>,
}

impl NetworkInfo {
    /// Its ports: itself, if it has one.
    pub fn ports(&self) -> &[Self] {
        if self.ports.is_empty() { slice::from_ref(self) } else { &self.ports }
    }
}

/// The three kinds of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// A DPDK port: the kernel is not on the packet's way.
    Dpdk,
    /// UDP sockets of the kernel.
    KernelUdp,
    /// The simulated link of the tests.
    Simulated,
}

impl fmt::Display for NetworkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            NetworkKind::Dpdk => "DPDK",
            NetworkKind::KernelUdp => "kernel UDP",
            NetworkKind::Simulated => "simulated link",
        };
        write!(f, "{kind} {} ({}), MTU {}", self.driver, self.device, self.mtu)
    }
}

/// A worker's access to the network. Only [`Network::wait`] may block.
pub trait Network {
    /// Takes one burst and shows each datagram to `deliver`. Other packets (ARP, echo requests, malformed
    /// frames) are answered here, or dropped under a counter. Returns the number of packets taken from the
    /// device: 0 means the queue was empty.
    fn receive(&mut self, now: Instant, counters: &Counters, deliver: impl FnMut(Datagram<'_>)) -> usize;

    /// Whether [`Network::send`] would take a batch of [`crate::limits::TX_SEGMENTS_LEN_MAX`] datagrams now, to some destination.
    fn can_send(&self) -> bool;

    /// The same of a batch to this destination, from this address. A network of several ports may have room at some of them.
    #[inline]
    fn can_send_to(&mut self, addresses: impl FnOnce() -> (SocketAddr, Option<IpAddr>)) -> bool {
        let _ = addresses;
        self.can_send()
    }

    /// Queues the datagrams of one batch: `contents` cut every `transmit.segment_size` bytes. Call it only
    /// while [`Network::can_send`]; a datagram that cannot be sent is dropped under a counter, as on a wire.
    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]);

    /// Gives queued packets to the device. Returns the number of packets still queued.
    fn flush(&mut self, now: Instant, counters: &Counters) -> usize;

    /// Takes packets of GUE from now on, too.
    ///
    /// # Errors
    /// A socket cannot be opened; with the fix.
    fn open_gue(&mut self) -> io::Result<()>;

    /// Sends a packet of GUE, while [`Network::can_send`]. One that cannot be sent is dropped under a counter.
    fn send_gue(&mut self, now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]);

    /// Destinations that turned out unreachable, one at a time.
    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        None
    }

    /// When [`Network::handle_timeout`] must be called next (neighbor resolution).
    fn poll_timeout(&self) -> Option<Instant>;

    /// Runs the timers that are due at `now`.
    fn handle_timeout(&mut self, now: Instant, counters: &Counters);

    /// Waits until a packet may have arrived or `limit` has passed, if the network can wait; otherwise returns at once, and the worker
    /// sleeps in short steps. Returns whether the network could wait.
    fn wait(&mut self, limit: Duration) -> bool {
        let _ = limit;
        false
    }

    /// The description of this network.
    fn info(&self) -> NetworkInfo;

    /// Whether a link is up.
    fn link_up(&self) -> bool;

    /// The ports whose links are down, a bit each, by the order of [`NetworkInfo::ports`].
    fn links_down(&self) -> u32 {
        u32::from(!self.link_up())
    }
}

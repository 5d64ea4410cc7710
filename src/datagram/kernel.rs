//! UDP datagrams over the kernel's sockets, for hosts without DPDK.
//!
//! quinn-udp does the system calls: segmentation offload on the way out (UDP_SEGMENT), many messages of many datagrams each
//! on the way in (recvmmsg, UDP_GRO), with ECN bits and local addresses.

use super::{Datagram, GueTransmit, Heard, Network, NetworkInfo, NetworkKind, Obstacle, Unreachable};
use crate::counters::{Counter, Counters};
use crate::limits::{PEER_ANSWERED_S, PEERS_CONNECTED_MAX, TX_PENDING_LEN_MAX, TX_SEGMENTS_LEN_MAX};
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

mod bind;
mod errors;
mod gue;
mod mtu;
#[cfg(test)]
mod tests;

pub use bind::{BindError, KernelUdpConfig};
use bind::{Bound, is_link_local};
use gue::GueSockets;

/// The longest message that the kernel joins, bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The longest message of one send, bytes: an IPv4 packet without its headers.
const SEND_BYTES_MAX: usize = 65_507;
/// EMSGSIZE, on every system that quinn-udp knows.
const TOO_BIG: i32 = Errno::MSGSIZE.raw_os_error();

/// The granted buffers, as the kernel counts: on Linux twice the requested size, since its own bookkeeping is
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketBuffers {
    /// The smallest send buffer of any socket, bytes.
    pub send_bytes: usize,
    /// The smallest receive buffer of any socket, bytes.
    pub receive_bytes: usize,
}

/// One worker's UDP sockets.
pub struct KernelUdp {
    /// First the sockets bound to configured addresses, then the connected ones.
    sockets: Vec<Bound>,
    config: KernelUdpConfig,
    /// How many are bound and not connected.
    bound_len: usize,
    /// The number of sockets connected so far.
    connected: usize,
    /// Peers that answered recently, each with the index of its bound socket and the time at which its answer was noticed.
    answered: VecDeque<((SocketAddr, usize), Instant)>,
    /// One buffer for all messages of a burst, one after another.
    inbox: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    /// Sends that the kernel has not taken yet.
    pending: VecDeque<PendingSend>,
    pending_datagrams: usize,
    /// The first socket to read in the next burst.
    turn: usize,
    buffers: SocketBuffers,
    missing: Vec<SocketAddr>,
    heard: Heard,
    mtu: u16,
    gue: GueSockets,
}

struct PendingSend {
    socket: usize,
    destination: SocketAddr,
    ecn: Option<quinn_udp::EcnCodepoint>,
    src_ip: Option<IpAddr>,
    segment_size: usize,
    contents: Vec<u8>,
    sent: usize,
}

/// The outcome of a send.
enum Sent {
    /// Every byte was sent, or dropped for good.
    All,
    /// The kernel's buffer is full; this many bytes were sent before.
    Part(usize),
}

impl Sent {
    fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl KernelUdp {
    /// Opens a socket on each of `addresses`. An IPv6 socket takes IPv6 only, with one exception: `[::]`
    /// without an IPv4 address on the same port takes both. On a host that lacks a family, an unspecified
    /// address of that family is left out where another remains, and `[::]` alone becomes `0.0.0.0`; see
    /// [`KernelUdp::missing`].
    ///
    /// # Errors
    ///
    /// The kernel's error, with the address and the fix in the text; [`io::ErrorKind::InvalidInput`] when
    /// there is no address.
    pub fn bind(addresses: &[SocketAddr], config: KernelUdpConfig) -> io::Result<Self> {
        Self::of(bind::open_all(addresses, config, bind::make)?, config)
    }

    fn of((sockets, missing): bind::BoundSockets, config: KernelUdpConfig) -> io::Result<Self> {
        let mut buffers = SocketBuffers { send_bytes: usize::MAX, receive_bytes: usize::MAX };
        for bound in &sockets {
            let socket = SockRef::from(&bound.socket);
            buffers.send_bytes = buffers.send_bytes.min(socket.send_buffer_size()?);
            buffers.receive_bytes = buffers.receive_bytes.min(socket.recv_buffer_size()?);
        }
        Ok(Self {
            mtu: mtu::of(sockets.iter().map(|bound| bound.local.ip())),
            bound_len: sockets.len(),
            connected: 0,
            answered: VecDeque::new(),
            config,
            sockets,
            inbox: vec![0; BATCH_SIZE * MESSAGE_BYTES_MAX],
            metas: [RecvMeta::default(); BATCH_SIZE],
            pending: VecDeque::new(),
            pending_datagrams: 0,
            turn: 0,
            buffers,
            missing,
            heard: Heard::default(),
            gue: GueSockets::default(),
        })
    }

    /// The buffers that the kernel granted.
    pub fn buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// The unspecified addresses that were left out, because this host does not have their family.
    pub fn missing(&self) -> &[SocketAddr] {
        &self.missing
    }

    /// Datagrams that one system call can send; 1 if the kernel or the interface does not segment.
    pub fn segments_len_max(&self) -> usize {
        self.sockets.iter().map(|bound| bound.state.max_gso_segments()).min().unwrap_or(1)
    }

    /// The socket to send from: bound to `source`, or else to any address, of the destination's family.
    fn choose(&self, destination: IpAddr, source: Option<IpAddr>) -> Option<usize> {
        let fits = |bound: &Bound| bound.local.is_ipv4() == destination.is_ipv4() || bound.dual;
        let exact = |bound: &Bound| source.is_some_and(|source| bound.local.ip() == source);
        let any = |bound: &Bound| source.is_none() || bound.local.ip().is_unspecified();
        let sockets = || self.sockets[..self.bound_len].iter();
        sockets()
            .position(|bound| fits(bound) && exact(bound))
            .or_else(|| sockets().position(|bound| fits(bound) && any(bound)))
    }

    /// The socket that is connected to `peer`: an open one, or a new one on the address of the socket at
    /// `place`, replacing the oldest. `None` if the peer has answered lately, or if the kernel has no way
    /// to it: the send then reports the reason.
    fn connected(&mut self, now: Instant, place: usize, peer: SocketAddr) -> Option<usize> {
        let of_peer = Some((peer, place));
        let known = self.sockets[self.bound_len..].iter().position(|socket| socket.peer == of_peer);
        if let Some(at) = known {
            return Some(self.bound_len + at);
        }
        let lately = |at: &Instant| now.saturating_duration_since(*at).as_secs() < PEER_ANSWERED_S;
        if self.answered.iter().any(|(answered, at)| Some(*answered) == of_peer && lately(at)) {
            return None;
        }
        let socket = self.sockets[place].connected_to(peer, place, self.config).ok()?;
        let at = self.bound_len + self.connected % PEERS_CONNECTED_MAX;
        self.connected += 1;
        if at < self.sockets.len() {
            self.sockets[at] = socket;
            return Some(at);
        }
        self.sockets.push(socket);
        Some(self.sockets.len() - 1)
    }

    /// Closes sockets whose peers have answered and that are empty. The kernel keeps delivering to a
    /// connected socket although the host takes another path, so it must not stay.
    fn close_answered(&mut self, now: Instant, empty: &[usize]) {
        // A waiting send names its socket by its index.
        if !self.pending.is_empty() {
            return;
        }
        for &at in empty.iter().rev() {
            let Some(socket) = self.sockets.get(at).filter(|socket| socket.answered) else { continue };
            let Some(peer) = socket.peer else { continue };
            self.answered.retain(|(answered, _)| *answered != peer);
            if self.answered.len() == PEERS_CONNECTED_MAX {
                self.answered.pop_front();
            }
            self.answered.push_back((peer, now));
            self.sockets.remove(at);
        }
    }

    fn keep(&mut self, counters: &Counters, send: PendingSend) {
        let datagrams = send.datagrams();
        if self.pending_datagrams + datagrams > TX_PENDING_LEN_MAX {
            counters.add(Counter::DropTxStalled, datagrams as u64);
            return;
        }
        self.pending_datagrams += datagrams;
        self.pending.push_back(send);
    }
}

impl PendingSend {
    fn datagrams(&self) -> usize {
        (self.contents.len() - self.sent).div_ceil(self.segment_size)
    }
}

impl Bound {
    /// Sends `contents` cut every `segment_size` bytes, in as few calls as the kernel allows.
    fn send(
        &self,
        counters: &Counters,
        heard: &mut Heard,
        transmit: &quinn_udp::Transmit<'_>,
        contents: &[u8],
        segment_size: usize,
    ) -> Sent {
        let (mut at, mut again) = (0, true);
        while at < contents.len() {
            let offload = self.state.max_gso_segments();
            let segments = offload.min((SEND_BYTES_MAX / segment_size).max(1));
            let end = contents.len().min(at + segments * segment_size);
            let part = &contents[at..end];
            let count = part.len().div_ceil(segment_size) as u64;
            let result = self.state.try_send(
                (&self.socket).into(),
                &quinn_udp::Transmit {
                    contents: part,
                    segment_size: (part.len() > segment_size).then_some(segment_size),
                    ..transmit.clone()
                },
            );
            match result {
                Ok(()) => {
                    counters.add(Counter::TxPackets, count);
                    counters.add(Counter::TxBytes, part.len() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Part(at),
                // The kernel cannot segment for this interface, and quinn-udp has noted it: send again, one
                // by one.
                Err(_) if count > 1 && self.state.max_gso_segments() < offload => continue,
                // An ICMP error of a connected socket fails its next send; this datagram was not sent.
                Err(error) if again && self.hear(heard, &error) => {
                    again = false;
                    continue;
                }
                Err(error) if error.raw_os_error() == Some(TOO_BIG) => {
                    counters.add(Counter::DropTooBig, count);
                }
                Err(error) => {
                    if let Some(obstacle) = errors::by_send(&error) {
                        heard.add(canonical(transmit.destination), obstacle);
                    }
                    counters.add(Counter::DropSocketError, count);
                }
            }
            (at, again) = (end, true);
        }
        Sent::All
    }

    /// Notes an ICMP error that a connected socket received about its peer. False for other sockets and
    /// errors.
    fn hear(&self, heard: &mut Heard, error: &io::Error) -> bool {
        let (Some((peer, _)), Some(obstacle)) = (self.peer, errors::by_icmp(error)) else { return false };
        heard.add(peer, obstacle);
        true
    }

    /// Takes one burst. Returns the number of datagrams in it.
    fn receive(
        &self,
        inbox: &mut [u8],
        metas: &mut [RecvMeta; BATCH_SIZE],
        counters: &Counters,
        heard: &mut Heard,
        deliver: &mut impl FnMut(Datagram<'_>),
    ) -> usize {
        let mut rest = &mut *inbox;
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            let (message, after) = std::mem::take(&mut rest).split_at_mut(MESSAGE_BYTES_MAX);
            rest = after;
            IoSliceMut::new(message)
        });
        let messages = match self.state.recv((&self.socket).into(), &mut slices, metas) {
            Ok(messages) => messages,
            Err(error) => {
                // A queued ICMP error is reported here once; waiting datagrams are read in the next turn.
                if error.kind() != io::ErrorKind::WouldBlock {
                    counters.add(Counter::DropSocketError, 1);
                    self.hear(heard, &error);
                }
                return 0;
            }
        };
        let (mut datagrams, mut bytes) = (0, 0);
        for (meta, message) in metas.iter().zip(inbox.chunks(MESSAGE_BYTES_MAX)).take(messages) {
            let remote = canonical(meta.addr);
            let local_ip = match meta.dst_ip.map(|ip| ip.to_canonical()) {
                None if !self.local.ip().is_unspecified() => Some(self.local.ip()),
                local_ip => local_ip,
            };
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            // An empty datagram has stride 0 and nothing to cut.
            for payload in message[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                bytes += payload.len() as u64;
                deliver(Datagram { remote, local_ip, ecn, payload, is_gue: self.is_gue });
            }
        }
        counters.add(Counter::RxPackets, datagrams as u64);
        counters.add(Counter::RxBytes, bytes);
        datagrams
    }
}

impl Network for KernelUdp {
    fn receive(&mut self, now: Instant, counters: &Counters, mut deliver: impl FnMut(Datagram<'_>)) -> usize {
        let count = self.sockets.len();
        self.turn = (self.turn + 1) % count;
        let mut datagrams = 0;
        let mut empty = smallvec::SmallVec::<[usize; 4]>::new();
        for i in 0..count {
            let at = (self.turn + i) % count;
            let bound = &mut self.sockets[at];
            let taken =
                bound.receive(&mut self.inbox, &mut self.metas, counters, &mut self.heard, &mut deliver);
            datagrams += taken;
            if bound.peer.is_some() {
                bound.answered |= taken > 0;
                if bound.answered && taken == 0 {
                    empty.push(at);
                }
            }
        }
        if !empty.is_empty() {
            empty.sort_unstable();
            self.close_answered(now, &empty);
        }
        datagrams + self.receive_gue(counters, &mut deliver)
    }

    fn can_send(&self) -> bool {
        self.pending.is_empty()
    }

    fn send(&mut self, now: Instant, counters: &Counters, transmit: &Transmit, contents: &[u8]) {
        let segment_size = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let datagrams = contents.len().div_ceil(segment_size);
        debug_assert!(datagrams <= TX_SEGMENTS_LEN_MAX);
        let target = transmit.destination.ip().to_canonical();
        // A peer that moved to the other family is answered from an address of that one.
        let source = transmit.src_ip.map(|source| source.to_canonical());
        let source = source.filter(|source| source.is_ipv4() == target.is_ipv4());
        let Some(socket) = self.choose(target, source) else {
            counters.add(Counter::DropNoRoute, datagrams as u64);
            if source.is_none() {
                let obstacle = Obstacle::NoFamily { v6: target.is_ipv6() };
                self.heard.add(canonical(transmit.destination), obstacle);
            }
            return;
        };
        // Checked here: quinn-udp would take the kernel's EINVAL for missing segmentation, for good.
        if is_link_local(transmit.destination) && source.is_none() {
            counters.add(Counter::DropNoRoute, datagrams as u64);
            self.heard.add(transmit.destination, Obstacle::NoZone);
            return;
        }
        let socket = if self.config.hear_errors {
            self.connected(now, socket, canonical(transmit.destination)).unwrap_or(socket)
        } else {
            socket
        };
        let bound = &self.sockets[socket];
        let destination = match (target, transmit.destination) {
            (IpAddr::V4(v4), to) if bound.dual => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            (IpAddr::V4(v4), to) => SocketAddr::new(v4.into(), to.port()),
            (IpAddr::V6(_), to) => to,
        };
        let ecn = transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
        let first =
            quinn_udp::Transmit { destination, ecn, contents: &[], segment_size: None, src_ip: source };
        let sent = if self.pending.is_empty() {
            match bound.send(counters, &mut self.heard, &first, contents, segment_size) {
                Sent::All => return,
                Sent::Part(sent) => sent,
            }
        } else {
            0
        };
        let contents = contents[sent..].to_vec();
        let send = PendingSend { socket, destination, ecn, src_ip: source, segment_size, contents, sent: 0 };
        self.keep(counters, send);
    }

    fn open_gue(&mut self) -> io::Result<()> {
        let ips = self.sockets[..self.bound_len].iter().map(|bound| bound.local.ip());
        self.gue = GueSockets::bind(ips, self.config)?;
        Ok(())
    }

    fn send_gue(&mut self, _now: Instant, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        self.send_gue_now(counters, transmit, packet);
    }

    fn flush(&mut self, _now: Instant, counters: &Counters) -> usize {
        while let Some(send) = self.pending.front_mut() {
            let transmit = quinn_udp::Transmit {
                destination: send.destination,
                ecn: send.ecn,
                contents: &[],
                segment_size: None,
                src_ip: send.src_ip,
            };
            let bound = &self.sockets[send.socket];
            let before = send.datagrams();
            let rest = &send.contents[send.sent..];
            match bound.send(counters, &mut self.heard, &transmit, rest, send.segment_size) {
                Sent::All => {
                    self.pending_datagrams -= before;
                    self.pending.pop_front();
                }
                Sent::Part(bytes) => {
                    send.sent += bytes;
                    self.pending_datagrams -= before - send.datagrams();
                    break;
                }
            }
        }
        self.pending_datagrams
    }

    fn poll_unreachable(&mut self) -> Option<Unreachable> {
        self.heard.take()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _now: Instant, _counters: &Counters) {}

    fn wait(&mut self, limit: Duration) -> bool {
        let blocked = self.pending.front().map(|send| send.socket);
        let mut fds: smallvec::SmallVec<[PollFd<'_>; 4]> = self
            .sockets
            .iter()
            .enumerate()
            .map(|(i, bound)| {
                let writable = if blocked == Some(i) { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::new(&bound.socket, PollFlags::IN | writable)
            })
            .chain(self.gue.sockets().map(|bound| PollFd::new(&bound.socket, PollFlags::IN)))
            .collect();
        let limit = Timespec::try_from(limit).ok();
        // A signal may end the wait early: the worker checks for datagrams and waits again.
        let _ = poll(&mut fds, limit.as_ref());
        true
    }

    fn info(&self) -> NetworkInfo {
        let local: Vec<_> = self.sockets[..self.bound_len].iter().map(|bound| bound.local).collect();
        NetworkInfo {
            kind: NetworkKind::KernelUdp,
            driver: "udp".to_owned(),
            device: local.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", "),
            mtu: self.mtu,
            local,
            ports: Vec::new(),
        }
    }

    fn link_up(&self) -> bool {
        true
    }
}

/// IPv4-mapped addresses as IPv4. IPv6 unchanged: a link-local address is reachable only with its interface.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

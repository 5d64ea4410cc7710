//! A kernel UDP socket for stacks without one: sends whole bursts by GSO, receives whole bursts by GRO.

use crate::cli::Tuning;
use anyhow::Context;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use nix::sys::time::TimeSpec;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, SockRef, Type};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The most that one UDP send may hold, bytes.
pub const BURST_BYTES_MAX: usize = 65_507;
/// The most segments that the kernel cuts one send into.
pub const BURST_PACKETS_MAX: usize = 64;
/// The largest UDP payload that GRO hands up.
const RECEIVE_BYTES_MAX: usize = u16::MAX as usize;

/// A non-blocking socket with buffers of `size` bytes each way, and the sizes that it got: receive, then send.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr, size: usize) -> anyhow::Result<(UdpSocket, [usize; 2])> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(size)?;
    socket.set_send_buffer_size(size)?;
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address}"))?;
    socket.set_nonblocking(true)?;
    let socket = socket.into();
    let buffers = buffers(&socket)?;
    Ok((socket, buffers))
}

/// The address that a client binds to reach `remote`.
pub fn any_for(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn buffers(socket: &UdpSocket) -> io::Result<[usize; 2]> {
    let socket = SockRef::from(socket);
    // The kernel doubles the requested size for its own bookkeeping, and reports the double.
    Ok([socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2])
}

/// The socket of an event loop.
pub struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    pub local: SocketAddr,
    /// Receive buffer and send buffer, bytes.
    pub buffers: [usize; 2],
    pub datagrams_sent: u64,
    pub send_calls: u64,
}

/// The buffers of received datagrams.
pub struct Inbox(Vec<u8>);

impl Default for Inbox {
    fn default() -> Self {
        Self(vec![0; BATCH_SIZE * RECEIVE_BYTES_MAX])
    }
}

impl Socket {
    /// # Errors
    /// The address cannot be bound.
    pub fn new(address: SocketAddr, tuning: Tuning) -> anyhow::Result<Self> {
        let (socket, buffers) = bind(address, tuning.socket_buffer)?;
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        Ok(Self { socket, state, local, buffers, datagrams_sent: 0, send_calls: 0 })
    }

    /// Passes each datagram of one system call to `take`. Returns whether there were any.
    ///
    /// # Errors
    /// The kernel's, except for an empty socket.
    pub fn receive(
        &self,
        inbox: &mut Inbox,
        mut take: impl FnMut(&mut [u8], SocketAddr),
    ) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slots = inbox.0.chunks_mut(RECEIVE_BYTES_MAX);
        let mut slots: [_; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        let received = match self.state.recv((&self.socket).into(), &mut slots, &mut metas) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for (slot, meta) in slots.iter_mut().zip(&metas[..received]) {
            for datagram in slot[..meta.len].chunks_mut(meta.stride.max(1)) {
                take(datagram, meta.addr);
            }
        }
        Ok(received > 0)
    }

    /// Sends `pieces` one after another as packets of `segment` bytes, the last of them perhaps shorter. Waits while the
    /// socket's buffer is full.
    ///
    /// # Errors
    /// The kernel's, except for a full buffer.
    pub fn send(&mut self, to: SocketAddr, pieces: &[IoSlice<'_>], segment: usize) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let size = u16::try_from(segment).map_err(io::Error::other)?;
        let cut = [ControlMessage::UdpGsoSegments(&size)];
        // A single packet needs no cutting.
        let control = if bytes > segment { &cut[..] } else { &[] };
        let to = SockaddrStorage::from(to);
        loop {
            match sendmsg(self.socket.as_raw_fd(), pieces, control, MsgFlags::MSG_DONTWAIT, Some(&to)) {
                Ok(_) => break,
                Err(nix::errno::Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, None)?,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.datagrams_sent += bytes.div_ceil(segment.max(1)) as u64;
        self.send_calls += 1;
        Ok(())
    }

    /// Sleeps until a datagram can be received, or until the timeout.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLIN, timeout)
    }

    fn wait(&self, what: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        let mut sockets = [PollFd::new(self.socket.as_fd(), what)];
        match nix::poll::ppoll(&mut sockets, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

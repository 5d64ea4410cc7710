//! Sockets from addresses: the families of each one, and the sockets of a host that has only one family.

use quinn_udp::UdpSocketState;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// How sockets are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelUdpConfig {
    /// Let other sockets, such as the other workers', bind the same addresses (SO_REUSEPORT): the kernel
    /// spreads datagrams over them by a hash of addresses and ports.
    pub reuse_port: bool,
    /// Requested size of each socket's send buffer and receive buffer, bytes. The kernel grants up to
    /// `net.core.wmem_max` and `net.core.rmem_max`; [`super::KernelUdp::buffers`] gives the granted sizes.
    pub buffer_bytes: usize,
    /// Give a destination that has not answered a socket of its own on the same port, connected to it. The
    /// kernel tells such a socket about ICMP errors, so that a handshake with a closed port ends early. At
    /// most [`crate::limits::PEERS_CONNECTED_MAX`] at once, the newest ones. For clients: a gateway answers
    /// thousands of addresses.
    pub hear_errors: bool,
}

impl Default for KernelUdpConfig {
    fn default() -> Self {
        Self { reuse_port: false, buffer_bytes: 16 << 20, hear_errors: true }
    }
}

/// A socket and its purpose.
pub(super) struct Bound {
    pub(super) socket: UdpSocket,
    pub(super) state: UdpSocketState,
    pub(super) local: SocketAddr,
    /// Whether it takes and sends IPv4 as well, as IPv4-mapped addresses.
    pub(super) dual: bool,
    /// The connected destination, and the place of the bound socket whose address this one shares.
    pub(super) peer: Option<(SocketAddr, usize)>,
    /// Whether its peer has sent a datagram.
    pub(super) answered: bool,
    /// Whether it takes packets of GUE, and no datagrams of QUIC.
    pub(super) is_gue: bool,
}

/// The open sockets, and the unspecified addresses whose family this host lacks.
pub(super) type BoundSockets = (Vec<Bound>, Vec<SocketAddr>);

/// Opens a socket on each of `addresses`; `make` makes sockets of a family.
///
/// `[::]` takes IPv4 too, unless an IPv4 address with the same port is listed. An unspecified address of a
/// family that the host lacks is left out if another address remains; `[::]` alone then becomes `0.0.0.0`.
pub(super) fn open_all(
    addresses: &[SocketAddr],
    config: KernelUdpConfig,
    make: impl Fn(Domain) -> io::Result<Socket>,
) -> io::Result<BoundSockets> {
    if addresses.is_empty() {
        let text = "no address to bind: give at least one, such as 0.0.0.0:4433";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let canonical = |at: &SocketAddr| match at.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, at.port()),
        IpAddr::V6(_) => *at,
    };
    let addresses: Vec<_> = addresses.iter().map(canonical).collect();
    let (mut sockets, mut missing, mut last) = (Vec::new(), Vec::new(), None);
    for &address in &addresses {
        let wildcard = address.ip().is_unspecified();
        let v4_beside = || addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        let dual = address.is_ipv6() && wildcard && !v4_beside();
        let opened = match Bound::open(address, dual, config, &make) {
            Err(error) if wildcard && is_no_family(&error) => {
                missing.push(address);
                if !dual {
                    last = Some((address, error));
                    continue;
                }
                let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                Bound::open(v4, false, config, &make)
            }
            opened => opened,
        };
        sockets.push(opened.map_err(|error| explained(address, &error))?);
    }
    match last {
        Some((address, error)) if sockets.is_empty() => Err(explained(address, &error)),
        _ => Ok((sockets, missing)),
    }
}

/// A socket of the kernel.
pub(super) fn make(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
}

impl Bound {
    fn open(
        address: SocketAddr,
        dual: bool,
        config: KernelUdpConfig,
        make: impl Fn(Domain) -> io::Result<Socket>,
    ) -> io::Result<Self> {
        let socket = make(Domain::for_address(address))?;
        if address.is_ipv6() {
            socket.set_only_v6(!dual)?;
        }
        if config.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        // From here on, sockets of this program may share the address; those of another program only if they set the same option.
        socket.set_reuse_address(config.hear_errors)?;
        Self::of(socket, dual, config)
    }

    /// Another socket on the address of this one, connected to `peer`.
    pub(super) fn connected_to(
        &self,
        peer: SocketAddr,
        place: usize,
        config: KernelUdpConfig,
    ) -> io::Result<Self> {
        let socket = make(Domain::for_address(self.local))?;
        if self.local.is_ipv6() {
            socket.set_only_v6(!self.dual)?;
        }
        if config.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&self.local.into())?;
        let mapped = match peer.ip() {
            IpAddr::V4(v4) if self.local.is_ipv6() => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), peer.port())
            }
            _ => peer,
        };
        socket.connect(&mapped.into())?;
        Ok(Self { peer: Some((peer, place)), ..Self::of(socket, self.dual, config)? })
    }

    fn of(socket: Socket, dual: bool, config: KernelUdpConfig) -> io::Result<Self> {
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        // A refused or smaller buffer is no failure: the granted size is read back.
        let _ = state.set_send_buffer_size((&socket).into(), config.buffer_bytes);
        let _ = state.set_recv_buffer_size((&socket).into(), config.buffer_bytes);
        Ok(Self {
            local: socket.local_addr()?,
            socket,
            state,
            dual,
            peer: None,
            answered: false,
            is_gue: false,
        })
    }
}

/// Whether the host lacks this family, or has disabled it.
fn is_no_family(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|no| error.raw_os_error() == Some(no.raw_os_error()))
}

/// The same error with the address and the fix.
fn explained(address: SocketAddr, error: &io::Error) -> io::Error {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let fix = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AFNOSUPPORT) => format!("this host has no {family}; leave the address out"),
        Some(Errno::ADDRNOTAVAIL) => {
            "no interface of this host has it; `ip address` lists the addresses".to_owned()
        }
        Some(Errno::ADDRINUSE) => {
            format!("another program is on this port; `ss -ulpn sport = :{}` names it", address.port())
        }
        Some(Errno::ACCESS) => format!(
            "ports below {} are the system's; take another, or grant CAP_NET_BIND_SERVICE",
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                .map_or_else(|_| "1024".into(), |text| text.trim().to_owned())
        ),
        Some(Errno::INVAL) if is_link_local(address) => {
            "a link-local address needs its interface; write it with its number, as `ip link` shows it: [fe80::1%2]:4433".into()
        }
        _ => "change the address".into(),
    };
    io::Error::new(error.kind(), BindError { address, error: error.to_string(), fix })
}

/// An address that cannot be bound. The errors of [`super::KernelUdp::bind`] contain it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot bind UDP {address}: {error}; {fix}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The kernel's error.
    pub error: String,
    /// The fix.
    pub fix: String,
}

/// Whether this is an IPv6 link-local address without its interface.
pub(super) fn is_link_local(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

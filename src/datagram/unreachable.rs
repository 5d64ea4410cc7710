//! Destinations that datagrams do not reach, and the reasons.

use crate::limits::UNREACHABLE_LEN_MAX;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A destination that datagrams do not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The destination.
    pub destination: SocketAddr,
    /// The reason.
    pub obstacle: Obstacle,
}

/// Why datagrams do not reach a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// This network has no address of the destination's family.
    #[error(
        "there is no {} here: the host does not have it, or network.listen names no such address; give an address of the gateway \
         of the other family",
        if *.v6 { "IPv6" } else { "IPv4" }
    )]
    NoFamily {
        /// IPv6; otherwise IPv4.
        v6: bool,
    },
    /// The kernel has no route.
    #[error(
        "no route leads there (network is unreachable); `ip route get` with this address shows what the kernel would do"
    )]
    NoRoute,
    /// The destination is on no network of this port, and there is no next hop for others.
    #[error(
        "no route leads there: network.addresses has no network with this address, and there is no network.next_hop_v4 or next_hop_v6 for it; add one of them"
    )]
    NoNextHop,
    /// A link-local address without an interface.
    #[error("a link-local address needs the interface that leads there, such as [fe80::1%eth0]:4433")]
    NoZone,
    /// This host's firewall forbids it.
    #[error(
        "this host's firewall does not let it out (operation not permitted); `nft list ruleset` shows its rules"
    )]
    Forbidden,
    /// The kernel refuses the destination for another reason.
    #[error("the kernel does not send there: {0}")]
    Local(String),
    /// ICMP: nothing listens on this port.
    #[error(
        "nothing listens on this UDP port there (port unreachable); does the gateway run, and on this port?"
    )]
    PortClosed,
    /// ICMP: forbidden.
    #[error("a firewall refuses it (administratively prohibited); let UDP to this port pass")]
    Prohibited,
    /// ICMP: the host accepts no UDP.
    #[error("the host takes no UDP (protocol unreachable); is the address right?")]
    NoWay,
}

impl Obstacle {
    /// Whether this host finds the obstacle by itself. ICMP messages prove nothing (RFC 9000 §21.5, RFC 8085 §5.2):
    /// any host on the path can send one, and a gateway that restarts has a closed port for a moment.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::PortClosed | Self::Prohibited | Self::NoWay)
    }
}

/// Obstacles that were noticed and not polled yet.
#[derive(Debug, Default)]
pub(crate) struct Heard(VecDeque<Unreachable>);

impl Heard {
    pub(crate) fn add(&mut self, destination: SocketAddr, obstacle: Obstacle) {
        let unreachable = Unreachable { destination, obstacle };
        // One report of an obstacle is enough. Past the bound, the handshakes' own timeouts report it.
        if self.0.len() < UNREACHABLE_LEN_MAX && !self.0.contains(&unreachable) {
            self.0.push_back(unreachable);
        }
    }

    pub(crate) fn take(&mut self) -> Option<Unreachable> {
        self.0.pop_front()
    }
}

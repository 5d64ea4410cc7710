//! How an interface is addressed, and why it cannot be.

use crate::neighbor::route::IpRouteError;
use crate::wire::prefix::Prefix;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The largest VLAN identifier (IEEE 802.1Q §9.6: 0 and 4095 are reserved).
pub(super) const VLAN_ID_MAX: u16 = 4094;

/// How a device's interface is addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The interface's addresses with their networks' prefixes, of both families, at least one. The first of
    /// a family is the source of packets to other networks.
    pub addresses: Vec<Prefix>,
    /// The next hop of IPv4 packets to other networks; `None`: other networks cannot be reached.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The next hop of IPv6 packets to other networks; `None`: other networks cannot be reached. It may be link-local.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// The 802.1Q VLAN of all frames, sent and received; `None`: untagged.
    pub vlan: Option<u16>,
    /// The UDP port, for both directions.
    pub udp_port: u16,
    /// Whether datagrams over IPv4 get a UDP checksum if the device fills in none; those over IPv6 always do.
    pub udp_checksum: bool,
}

/// Why an interface cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// Addresses and next hops do not fit together.
    #[error(transparent)]
    IpRoute(#[from] IpRouteError),
    /// The VLAN identifier is out of range.
    #[error("{0} is no VLAN identifier: give one from 1 to 4094, or none for untagged frames")]
    Vlan(u16),
    /// Port 0.
    #[error("UDP port 0 cannot be listened on: give one from 1 to 65535")]
    Port,
    /// A device too small for QUIC.
    #[error("the device's MTU is {0} bytes and QUIC needs 1280: raise it")]
    Mtu(u16),
}

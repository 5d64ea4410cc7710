//! What goes into the table of neighbors and comes out of it: claims, packets, and the state of a next hop.

use crate::nic::TxKind;
use crate::wire::Mac;
use crate::wire::arp::Arp;
use crate::wire::ip::Addresses;
use crate::wire::ndp::Ndp;
use std::net::IpAddr;
use std::time::Instant;

/// A complete frame without its destination station.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    /// The frame's kind for the device.
    pub kind: TxKind,
    /// The frame; the first six bytes are filled in when the neighbor is known.
    pub frame: Vec<u8>,
    /// Bytes of its UDP payload.
    pub payload_len: usize,
}

/// A packet to send.
#[derive(Debug, PartialEq, Eq)]
pub enum NeighborOutput {
    /// An ARP packet.
    Arp {
        /// Its destination station, or all stations.
        destination: Mac,
        /// The packet.
        arp: Arp,
    },
    /// A neighbor discovery message.
    Ndp {
        /// Its destination station or group.
        destination: Mac,
        /// From one of our addresses to its receiver.
        addresses: Addresses,
        /// The message.
        ndp: Ndp,
    },
    /// A frame that waited for its neighbor.
    Frame(Pending),
}

/// The state of a next hop, by [`Neighbors::lookup`](super::Neighbors::lookup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send to this station.
    Known {
        /// The neighbor's station address.
        mac: Mac,
        /// Look it up again from this instant on.
        recheck_at: Instant,
    },
    /// Being resolved: [`Neighbors::enqueue`](super::Neighbors::enqueue) the packet.
    Resolving,
    /// It did not answer lately.
    Unreachable,
    /// It is unknown, and not asked for: questions are limited in rate, and stations in use keep their places.
    Limited,
}

/// A packet's statement about a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The neighbor.
    pub address: IpAddr,
    /// Its station address; an answer may omit it when nothing changed.
    pub mac: Option<Mac>,
    /// It answers a question of this host: the neighbor hears us.
    pub solicited: bool,
    /// It replaces a known station address.
    pub overrides: bool,
    /// It asks for one of our addresses: we are about to send to this neighbor.
    pub asks_us: bool,
}

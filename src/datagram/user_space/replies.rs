//! Frames to send once the receive burst is over.

use crate::wire::arp::Arp;
use crate::wire::ethernet::Ethernet;
use crate::wire::icmp::IcmpEcho;
use crate::wire::ip::{Addresses, Ip};
use crate::wire::ndp::{NDP_HOP_LIMIT, Ndp};
use crate::wire::{HOP_LIMIT, Mac};
use smoltcp::wire::{EthernetProtocol, IpProtocol};

/// Frames one after another in one reused buffer. Each frame of a burst adds at most one.
pub(super) struct Replies {
    mac: Mac,
    vlan: Option<u16>,
    bytes: Vec<u8>,
    lens: Vec<usize>,
}

impl Replies {
    pub(super) fn new(mac: Mac, vlan: Option<u16>) -> Self {
        Self { mac, vlan, bytes: Vec::new(), lens: Vec::new() }
    }

    /// Writes an ARP packet to the station `destination`.
    pub(super) fn arp(&mut self, destination: Mac, arp: &Arp) {
        self.frame(destination, EthernetProtocol::Arp, arp.encoded_len(), |out| arp.emit(out));
    }

    /// Writes a neighbor discovery message to the station or group `destination`.
    pub(super) fn ndp(&mut self, destination: Mac, addresses: Addresses, ndp: &Ndp) {
        let ip = Ip { hop_limit: NDP_HOP_LIMIT, ..Ip::outgoing(addresses, IpProtocol::Icmpv6) };
        self.packet(destination, &ip, ndp.encoded_len(), |out| ndp.emit(&addresses, out));
    }

    /// Writes the reply to an echo request that the station `destination` sent between `addresses`. Returns false when it
    /// would not fit a packet of `mtu` bytes.
    pub(super) fn echo(
        &mut self,
        destination: Mac,
        addresses: Addresses,
        request: IcmpEcho<'_>,
        mtu: usize,
    ) -> bool {
        let (back, protocol) = match addresses {
            Addresses::V4 { source, destination } => {
                (Addresses::V4 { source: destination, destination: source }, IpProtocol::Icmp)
            }
            Addresses::V6 { source, destination } => {
                (Addresses::V6 { source: destination, destination: source }, IpProtocol::Icmpv6)
            }
        };
        let reply = IcmpEcho { reply: true, ..request };
        let ip = Ip { hop_limit: HOP_LIMIT, ..Ip::outgoing(back, protocol) };
        if ip.encoded_len() + reply.encoded_len() > mtu {
            return false;
        }
        self.packet(destination, &ip, reply.encoded_len(), |out| reply.emit(&back, out));
        true
    }

    /// Shows every frame to `send`, and forgets them.
    pub(super) fn drain(&mut self, mut send: impl FnMut(&[u8])) {
        let mut rest = &self.bytes[..];
        for &len in &self.lens {
            let (frame, after) = rest.split_at(len);
            send(frame);
            rest = after;
        }
        self.bytes.clear();
        self.lens.clear();
    }

    fn packet(&mut self, destination: Mac, ip: &Ip, len: usize, fill: impl FnOnce(&mut [u8])) {
        let protocol = ip.addresses.ethernet_protocol();
        self.frame(destination, protocol, ip.encoded_len() + len, |out| {
            ip.emit(len, out);
            fill(&mut out[ip.encoded_len()..]);
        });
    }

    fn frame(
        &mut self,
        destination: Mac,
        protocol: EthernetProtocol,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let ethernet = Ethernet { destination, source: self.mac, vlan: self.vlan, protocol };
        let (start, len) = (self.bytes.len(), ethernet.encoded_len() + len);
        self.bytes.resize(start + len, 0);
        let out = &mut self.bytes[start..];
        ethernet.emit(out);
        fill(&mut out[ethernet.encoded_len()..]);
        self.lens.push(len);
    }
}

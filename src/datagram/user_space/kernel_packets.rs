//! Packets of the kernel on the exception path: they get Ethernet headers, and leave as datagrams do.

use super::UserSpace;
use super::exceptions::{Exceptions, KernelPackets};
use crate::counters::{Counter, Counters};
use crate::datagram::exception_path::ExceptionPath;
use crate::limits::EXCEPTIONS_BURST;
use crate::neighbor::{Pending, Resolution};
use crate::nic::{Nic, TxKind};
use crate::wire::ethernet::Ethernet;
use crate::wire::exception::{ExceptionPacket, group_mac};
use crate::wire::{Mac, Station};
use std::sync::Arc;
use std::time::Instant;

impl<N: Nic> UserSpace<N> {
    /// Gives what is for this host and none of STOQ's to the kernel. The kernel's packets leave by this queue, or by another.
    #[must_use]
    pub fn with_exceptions(mut self, path: Arc<ExceptionPath>, kernel_packets: KernelPackets) -> Self {
        self.host.exceptions = Some(Box::new(Exceptions::new(path, kernel_packets)));
        self
    }

    /// Sends the kernel's packets that wait, as far as the device has room.
    #[inline]
    pub(super) fn send_exceptions(&mut self, now: Instant, counters: &Counters) {
        if let Some(path) = self.host.exceptions.as_ref().and_then(|exceptions| exceptions.waiting()) {
            self.send_waiting(now, counters, &path);
        }
    }

    #[cold]
    fn send_waiting(&mut self, now: Instant, counters: &Counters, path: &ExceptionPath) {
        // One turn takes no more: the kernel may write faster than the port sends.
        for _ in 0..EXCEPTIONS_BURST {
            if self.nic.tx_room() == 0 {
                return;
            }
            let Some(packet) = path.take() else { return };
            self.send_exception(now, counters, &packet);
        }
    }

    /// Sends a packet of the kernel from one of this port's addresses.
    pub(crate) fn send_exception(&mut self, now: Instant, counters: &Counters, bytes: &[u8]) {
        let routes = self.host.neighbors.routes();
        // A host sends from its own addresses: the kernel may not use the port as a router's.
        let packet = ExceptionPacket::parse(bytes).filter(|packet| routes.is_source(packet.source));
        let Some(packet) = packet else { return counters.add(Counter::DropExceptionSource, 1) };
        if packet.packet.len() > self.host.mtu {
            return counters.add(Counter::DropTooBig, 1);
        }
        let next_hop = match group_mac(packet.destination) {
            Some(group) => return self.send_to(counters, group, &packet),
            None => routes.route(packet.destination, Some(packet.source)).map(|route| route.next_hop),
        };
        let Some(next_hop) = next_hop else { return counters.add(Counter::DropNoRoute, 1) };
        match self.host.neighbors.lookup(now, counters, next_hop) {
            Resolution::Known { mac, .. } => self.send_to(counters, mac, &packet),
            Resolution::Resolving => {
                let ethernet = self.host.ethernet([0; 6], &packet);
                let mut frame = vec![0; ethernet.encoded_len()];
                ethernet.emit(&mut frame);
                frame.extend(packet.packet);
                let pending = Pending { kind: TxKind::Plain, frame, payload_len: 0 };
                self.host.neighbors.enqueue(counters, next_hop, pending);
            }
            Resolution::Unreachable => counters.add(Counter::DropNeighborUnreachable, 1),
            Resolution::Limited => counters.add(Counter::DropNeighborLimited, 1),
        }
    }

    fn send_to(&mut self, counters: &Counters, mac: Mac, packet: &ExceptionPacket<'_>) {
        let ethernet = self.host.ethernet(mac, packet);
        let header_len = ethernet.encoded_len();
        let sent = self.nic.tx_frame(TxKind::Plain, header_len + packet.packet.len(), |frame| {
            ethernet.emit(frame);
            frame[header_len..].copy_from_slice(packet.packet);
        });
        if sent {
            counters.add(Counter::TxPackets, 1);
            counters.add(Counter::ExceptionsOut, 1);
        } else {
            counters.add(Counter::DropNoBuffer, 1);
        }
    }
}

impl super::Host {
    fn ethernet(&self, destination: Mac, packet: &ExceptionPacket<'_>) -> Ethernet {
        let Station { mac: source, vlan, .. } = self.station;
        Ethernet { destination, source, vlan, protocol: packet.ethernet_protocol() }
    }
}

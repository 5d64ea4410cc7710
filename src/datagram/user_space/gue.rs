//! Packets of GUE: datagrams for other gateways' connections, by the same headers as other datagrams but for their ports.

use super::path::Path;
use super::{NoPath, UserSpace};
use crate::counters::{Counter, Counters};
use crate::datagram::GueTransmit;
use crate::nic::Nic;
use crate::wire::gue::GUE_PORT;
use quinn_proto::Transmit;
use std::net::SocketAddr;
use std::time::Instant;

impl<N: Nic> UserSpace<N> {
    /// Sends a packet of GUE from the port that `transmit` names.
    pub(super) fn send_from(
        &mut self,
        now: Instant,
        counters: &Counters,
        transmit: &GueTransmit,
        packet: &[u8],
    ) {
        let &GueTransmit { destination, source, ecn, source_port } = transmit;
        let destination = SocketAddr::new(destination, GUE_PORT);
        let outer =
            Transmit { destination, ecn, size: packet.len(), segment_size: None, src_ip: Some(source) };
        let ecn = ecn.map_or(0, |ecn| ecn as u8);
        match self.path(now, counters, &outer) {
            Ok(()) => {
                let Some(Path { template, .. }) = self.paths.selected() else { return };
                let template = template.from_port(source_port);
                let Self { nic, host, .. } = self;
                if packet.len() > host.payload_len_max(&template) {
                    counters.add(Counter::DropTooBig, 1);
                    return;
                }
                let (filled, len) = (nic.info().tx_checksum_by(), template.header_len() + packet.len());
                let sent = nic.tx_frame(template.kind(filled), len, |frame| {
                    template.emit(ecn, packet, filled, frame);
                });
                if !sent {
                    counters.add(Counter::DropNoBuffer, 1);
                    return;
                }
                counters.add(Counter::TxPackets, 1);
                counters.add(Counter::TxBytes, packet.len() as u64);
            }
            Err(NoPath::Resolving { next_hop, template }) => {
                let segments = packet.chunks(packet.len().max(1));
                self.send_later(counters, ecn, segments, next_hop, &template.from_port(source_port));
            }
            Err(no_path) => counters.add(no_path.counter(), 1),
        }
    }
}

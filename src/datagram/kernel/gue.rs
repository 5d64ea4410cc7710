//! Sockets on the port of GUE, beside those of QUIC.

use super::KernelUdp;
use super::bind::{self, Bound, KernelUdpConfig};
use crate::counters::{Counter, Counters};
use crate::datagram::{Datagram, GueTransmit};
use crate::wire::gue::GUE_PORT;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Turns between two looks at these sockets while they are quiet: a look is a system call.
const QUIET_TURNS: u32 = 8;

/// One worker's sockets on the port of GUE, on the addresses on which it listens.
#[derive(Default)]
pub(super) struct GueSockets {
    bound: Vec<Bound>,
    /// Turns until they are looked at.
    turns: u32,
}

impl GueSockets {
    pub(super) fn bind(ips: impl Iterator<Item = IpAddr>, config: KernelUdpConfig) -> io::Result<Self> {
        let mut addresses: Vec<_> = ips.map(|ip| SocketAddr::new(ip, GUE_PORT)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let (mut bound, _) = bind::open_all(&addresses, config, bind::make)?;
        bound.iter_mut().for_each(|bound| bound.is_gue = true);
        Ok(Self { bound, turns: 0 })
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &Bound> {
        self.bound.iter()
    }

    /// The socket that sends from `source`.
    fn of(&self, source: IpAddr) -> Option<&Bound> {
        let fits = |bound: &&Bound| bound.local.is_ipv4() == source.is_ipv4() || bound.dual;
        let sends = |bound: &&Bound| bound.local.ip() == source || bound.local.ip().is_unspecified();
        self.sockets().find(|bound| fits(bound) && sends(bound))
    }
}

impl KernelUdp {
    /// Takes packets of GUE, if it is time to look.
    pub(super) fn receive_gue(
        &mut self,
        counters: &Counters,
        deliver: &mut impl FnMut(Datagram<'_>),
    ) -> usize {
        let Self { gue: GueSockets { bound, turns }, inbox, metas, heard, .. } = self;
        if *turns > 0 || bound.is_empty() {
            *turns = turns.saturating_sub(1);
            return 0;
        }
        let taken = bound.iter().map(|bound| bound.receive(inbox, metas, counters, heard, deliver)).sum();
        *turns = if taken == 0 { QUIET_TURNS } else { 0 };
        taken
    }

    /// Sends a packet of GUE, or drops it: it does not wait for room in the kernel's buffer.
    pub(super) fn send_gue_now(&mut self, counters: &Counters, transmit: &GueTransmit, packet: &[u8]) {
        let &GueTransmit { destination, source, ecn, .. } = transmit;
        let Some(bound) = self.gue.of(source) else { return counters.add(Counter::DropNoRoute, 1) };
        let destination = match destination {
            IpAddr::V4(v4) if bound.dual => v4.to_ipv6_mapped().into(),
            other => other,
        };
        let ecn = ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
        let outer = quinn_udp::Transmit {
            destination: SocketAddr::new(destination, GUE_PORT),
            ecn,
            contents: &[],
            segment_size: None,
            src_ip: Some(source),
        };
        if !bound.send(counters, &mut self.heard, &outer, packet, packet.len().max(1)).is_all() {
            counters.add(Counter::DropTxStalled, 1);
        }
    }
}

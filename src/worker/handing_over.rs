//! Datagrams that arrive at one gateway of a fleet and belong to another one's connection.
//!
//! Such a datagram goes to that gateway in GUE, once: what came in GUE is fed to a connection that there is, or dropped. It opens none
//! and gets no answer, so a forged one gains nothing. A gateway whose lease is gone is asked whether it is there. If it is silent, its
//! peers are told by its stateless resets, which every gateway of the fleet can compute.

use super::Core;
use super::gone::GoneMembers;
use super::handed_flows::{HandedFlow, HandedFlows};
use super::shared::Handover;
use crate::counters::{Counter, Counters};
use crate::datagram::{Datagram, GueTransmit, Network};
use crate::limits::{HANDOVER_BURST_DIVISOR_LEN, HANDOVER_NET_LEN_MAX};
use crate::quic::admission;
use crate::quic::fleet_members::{FleetMembers, MemberWay};
use crate::quic::routable::ServerId;
use crate::token_bucket::TokenBucket;
use crate::wire::gue::{Gue, InnerDatagram, combined_ecn};
use bytes::BytesMut;
use quinn_proto::{DatagramEvent, EcnCodepoint};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// The first of the dynamic ports (RFC 6335 §6): packets of GUE leave by the one of their flow.
const FLOW_PORT_MIN: u16 = 0xc000;

/// What a worker hands over.
#[derive(Debug)]
pub(super) struct HandingOver {
    /// The number of the last table taken.
    seen: u32,
    pub(super) members: Arc<FleetMembers>,
    pace: TokenBucket,
    /// Packets on their way to other gateways.
    leaving: VecDeque<(GueTransmit, Vec<u8>)>,
    pub(super) gone: GoneMembers,
    /// The flows handed over lately.
    pub(super) flows: HandedFlows,
    /// Spreads flows over ports, by a key of its own.
    ports: RandomState,
    /// The changes of the signs of life that are taken.
    pub(super) signs: u32,
    /// The port on which this gateway listens.
    udp_port: u16,
}

impl HandingOver {
    pub(super) fn new(udp_port: u16) -> Self {
        Self {
            seen: 0,
            members: Arc::default(),
            pace: TokenBucket::new(1, 1),
            leaving: VecDeque::new(),
            gone: GoneMembers::default(),
            flows: HandedFlows::default(),
            ports: RandomState::new(),
            signs: 0,
            udp_port,
        }
    }

    fn port(&self, flow: impl std::hash::Hash) -> u16 {
        FLOW_PORT_MIN | self.ports.hash_one(flow) as u16
    }

    /// When gateways that are silent, or their clients, are to be minded.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.gone.poll_timeout()
    }

    fn send(&mut self, transmit: GueTransmit, gue: &Gue<'_>) {
        let mut packet = vec![0; gue.encoded_len()];
        gue.emit(&mut packet);
        self.leaving.push_back((transmit, packet));
    }
}

impl Core {
    /// Goes by a new table of the fleet's gateways, if there is one.
    #[inline]
    pub(super) fn take_members(&mut self, now: Instant) {
        if let Some(members) = self.desk.shared.newer_members(&mut self.handing.seen) {
            self.use_members(members, now);
        }
    }

    #[cold]
    fn use_members(&mut self, members: Arc<FleetMembers>, now: Instant) {
        let pps = members.handover_pps_max();
        if pps != self.handing.members.handover_pps_max() {
            self.handing.pace = TokenBucket::new(pps, (pps / HANDOVER_BURST_DIVISOR_LEN).max(1));
        }
        self.handing.gone.keep(|server_id| members.way(server_id).is_some_and(|way| way.is_gone));
        let before = std::mem::replace(&mut self.handing.members, members.clone());
        for (server_id, way) in members.ways() {
            if way.is_gone {
                // By the time its peers send again, it is known whether it is there.
                self.may_be_there(now, server_id, &way);
            } else if before.way(server_id).is_none_or(|before| before.destination != way.destination) {
                // The network looks for its station now, and not when flows move here.
                self.ask(&way, GoneMembers::number(self.index));
            }
        }
    }

    /// Whether a gateway whose lease is gone may still be reached. It is asked now and then.
    fn may_be_there(&mut self, now: Instant, server_id: ServerId, way: &MemberWay) -> bool {
        self.take_signs(now);
        let (may_be, question) = self.handing.gone.may_be_there(now, server_id, self.index);
        if let Some(number) = question {
            self.ask(way, number);
        }
        may_be
    }

    /// Asks a gateway whether it is there. A question is never left out: its silence would mean something.
    pub(super) fn ask(&mut self, way: &MemberWay, number: u64) {
        let &MemberWay { destination, source, .. } = way;
        let source_port = self.handing.port((destination, number));
        self.handing.send(GueTransmit { destination, source, ecn: None, source_port }, &Gue::Ask(number));
        self.desk.status.counters.add(Counter::FleetQuestionsSent, 1);
    }

    /// Hands a datagram over to the gateway of its connection, if another one of the fleet has issued its connection ID. Returns whether
    /// this gateway has nothing to do with it now.
    #[inline(never)]
    pub(super) fn hand_over(&mut self, now: Instant, datagram: &Datagram<'_>) -> bool {
        let &Datagram { remote, local_ip, ecn, payload, .. } = datagram;
        let Some((server_id, cid)) = self.cids.elsewhere(payload) else { return false };
        let Some(way) = self.handing.members.way(server_id) else { return false };
        let Some(local_ip) = local_ip.filter(|ip| ip.is_ipv4() == remote.is_ipv4()) else { return false };
        if way.is_gone && !self.may_be_there(now, server_id, &way) {
            self.desk.status.counters.add(Counter::DropHandoverGone, 1);
            self.reset_for_gone(now, (remote, local_ip), (server_id, cid), payload);
            return true;
        }
        let handing = &mut self.handing;
        if handing.leaving.len() >= HANDOVER_NET_LEN_MAX || !handing.pace.take(now) {
            self.desk.status.counters.add(Counter::DropHandoverLimited, 1);
            return true;
        }
        let MemberWay { destination, source, .. } = way;
        let source_port = handing.port((remote, local_ip));
        let inner = InnerDatagram {
            source: remote,
            destination: SocketAddr::new(local_ip, handing.udp_port),
            ecn: ecn.map_or(0, |ecn| ecn as u8),
            payload,
        };
        if admission::is_short(payload) {
            let datagram_len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            handing.flows.note(cid, HandedFlow { server_id, remote, local_ip, datagram_len, at: now });
        }
        handing.send(GueTransmit { destination, source, ecn, source_port }, &Gue::Inner(inner));
        self.desk.status.counters.add(Counter::HandoversNetOut, 1);
        true
    }

    /// Takes a packet of GUE.
    #[inline(never)]
    pub(super) fn take_gue(&mut self, now: Instant, datagram: &Datagram<'_>) {
        if let Err(counter) = self.gue(now, datagram) {
            self.desk.status.counters.add(counter, 1);
        }
    }

    fn gue(&mut self, now: Instant, datagram: &Datagram<'_>) -> Result<(), Counter> {
        let &Datagram { remote, local_ip, ecn, payload, .. } = datagram;
        let sender = self.handing.members.at(remote.ip()).ok_or(Counter::DropHandoverStranger)?;
        let inner = match Gue::parse(payload).map_err(|_| Counter::DropHandoverMalformed)? {
            Gue::Inner(inner) => inner,
            Gue::Ask(number) => {
                self.heard_from(now, sender);
                let source = local_ip.ok_or(Counter::DropHandoverMalformed)?;
                if self.handing.leaving.len() >= HANDOVER_NET_LEN_MAX {
                    return Err(Counter::DropHandoverLimited);
                }
                let (destination, source_port) = (remote.ip(), self.handing.port((remote, number)));
                let transmit = GueTransmit { destination, source, ecn: None, source_port };
                self.handing.send(transmit, &Gue::Answer(number));
                return Ok(());
            }
            Gue::Answer(number) => {
                let asker = GoneMembers::asker(number);
                if asker != self.index {
                    return self.pass_gue(asker, datagram);
                }
                self.handing.gone.answered(number);
                return Ok(());
            }
        };
        if !admission::may_be_quic(inner.payload) {
            return Err(Counter::DropHandoverMalformed);
        }
        self.heard_from(now, sender);
        // One that names yet another gateway is not handed over again.
        let owner = self.cids.owner(inner.payload, self.desk.shared.workers);
        let owner = owner.ok_or(Counter::DropHandoverForeign)?;
        if owner != self.index {
            return self.pass_gue(owner, datagram);
        }
        let outer = ecn.map_or(0, |ecn| ecn as u8);
        let ecn = combined_ecn(inner.ecn, outer).ok_or(Counter::DropHandoverMalformed)?;
        let data = self.received.copy(inner.payload);
        let from = (inner.source, Some(inner.destination.ip()), EcnCodepoint::from_bits(ecn));
        self.feed_known(now, from, data)?;
        self.desk.status.counters.add(Counter::HandoversNetIn, 1);
        Ok(())
    }

    /// Passes a packet of GUE on to the worker that it is for.
    fn pass_gue(&mut self, worker: u16, datagram: &Datagram<'_>) -> Result<(), Counter> {
        let &Datagram { remote, local_ip, ecn, payload, is_gue } = datagram;
        let ring = self.desk.shared.handovers.get(usize::from(worker)).ok_or(Counter::DropHandoverForeign)?;
        let payload = self.received.copy(payload);
        ring.push(Handover { remote, local_ip, ecn, payload, is_gue })
            .map_err(|_| Counter::DropHandoverFull)?;
        self.desk.status.counters.add(Counter::HandoversOut, 1);
        Ok(())
    }

    /// Feeds a datagram to the connection that it belongs to. It opens none and is not answered.
    fn feed_known(
        &mut self,
        now: Instant,
        (remote, local_ip, ecn): (SocketAddr, Option<IpAddr>, Option<EcnCodepoint>),
        data: BytesMut,
    ) -> Result<(), Counter> {
        self.send_buf.clear();
        match self.endpoint.handle(now, remote, local_ip, ecn, data, &mut self.send_buf) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                self.connection_event(handle, event);
                return Ok(());
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            Some(DatagramEvent::Response(_)) | None => {}
        }
        Err(Counter::DropHandoverNoConnection)
    }

    /// Gives packets of GUE to the network.
    #[inline]
    pub(super) fn transmit_gue<N: Network>(
        &mut self,
        network: &mut N,
        now: Instant,
        counters: &Counters,
    ) -> bool {
        let mut worked = false;
        while !self.handing.leaving.is_empty()
            && network.can_send()
            && let Some((transmit, packet)) = self.handing.leaving.pop_front()
        {
            network.send_gue(now, counters, &transmit, &packet);
            worked = true;
        }
        worked
    }
}

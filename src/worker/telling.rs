//! Clients of a gateway that is gone are told by its stateless resets: when they send, and the others once, unasked, by what this worker
//! remembers of them.

use super::Core;
use crate::counters::Counter;
use crate::limits::INCOMING_LEN_MAX;
use crate::quic::admission;
use crate::quic::routable::{RoutableCid, ServerId};
use quinn_proto::Transmit;
use rand::RngCore;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

impl Core {
    /// Answers a datagram for the connection of a gateway that is gone by that gateway's stateless reset, if that is due.
    pub(super) fn reset_for_gone(
        &mut self,
        now: Instant,
        flow: (SocketAddr, IpAddr),
        of: (ServerId, &RoutableCid),
        payload: &[u8],
    ) {
        // A peer has a token only once its handshake is over.
        if admission::is_short(payload) {
            self.send_reset(now, flow, of, payload.len());
        }
    }

    /// Sends a stateless reset for a datagram of this length. Returns whether one was due.
    fn send_reset(
        &mut self,
        now: Instant,
        (remote, local_ip): (SocketAddr, IpAddr),
        (server_id, cid): (ServerId, &RoutableCid),
        datagram_len: usize,
    ) -> bool {
        let Some(reset_len) = self.handing.gone.reset_len(now, cid, datagram_len) else { return false };
        let Some(token) = self.cids.reset_of(server_id, cid) else { return false };
        // RFC 9000 §10.3: it looks like a packet with a short header, and ends in the token.
        self.send_buf.clear();
        self.send_buf.resize(reset_len, 0);
        rand::rng().fill_bytes(&mut self.send_buf[..reset_len - token.len()]);
        self.send_buf[0] = self.send_buf[0] & 0x3f | 0x40;
        self.send_buf[reset_len - token.len()..].copy_from_slice(&token);
        self.desk.status.counters.add(Counter::FleetResetsSent, 1);
        self.respond(Transmit {
            destination: remote,
            ecn: None,
            size: reset_len,
            segment_size: None,
            src_ip: Some(local_ip),
        });
        true
    }

    /// A question or a datagram has arrived from a gateway. If its lease is gone, this is a sign of life, which all workers are to know.
    #[inline]
    pub(super) fn heard_from(&mut self, now: Instant, server_id: ServerId) {
        if self.handing.gone.are_there() && self.handing.gone.is_news(now, server_id) {
            self.desk.shared.signs.note(server_id, now);
            self.take_signs(now);
        }
    }

    /// Takes the signs of life that are new, and asks those gateways that were silent.
    pub(super) fn take_signs(&mut self, now: Instant) {
        for (server_id, at) in self.desk.shared.signs.newer(&mut self.handing.signs) {
            if let Some(number) = self.handing.gone.heard(now, server_id, at, self.index) {
                self.ask_member(server_id, number);
            }
        }
    }

    fn ask_member(&mut self, server_id: ServerId, number: u64) {
        if let Some(way) = self.handing.members.way(server_id) {
            self.ask(&way, number);
        }
    }

    /// Asks gateways that are silent once more, and tells the clients of those that stay silent.
    #[inline]
    pub(super) fn mind_gone(&mut self, now: Instant) {
        if self.handing.poll_timeout().is_some_and(|at| at <= now) {
            self.mind_silent(now);
        }
    }

    #[cold]
    fn mind_silent(&mut self, now: Instant) {
        self.take_signs(now);
        let (again, silent) = self.handing.gone.overdue(now, self.index);
        for (server_id, number) in again {
            self.ask_member(server_id, number);
        }
        for server_id in silent {
            let flows = self.handing.flows.take(now, server_id);
            self.handing.gone.tell(flows);
        }
        while self.responses.len() < INCOMING_LEN_MAX
            && let Some((cid, flow)) = self.handing.gone.next_told(now)
        {
            let of = (flow.server_id, &cid);
            let is_sent =
                self.send_reset(now, (flow.remote, flow.local_ip), of, usize::from(flow.datagram_len));
            self.desk.status.counters.add(Counter::FleetResetsUnasked, u64::from(is_sent));
        }
    }
}

//! The changes that a reload makes on a worker: TLS and transport of new connections, and the peers' rights; and other peer gateways, which a
//! fleet's table may bring without a reload.

use super::Core;
use super::conn::Origin;
use super::gateways::PeerGatewayList;
use super::shared::Renewal;
use crate::queue::CloseReason;
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::ServerConfig;
use std::sync::Arc;
use std::time::Instant;

impl Core {
    /// Takes a new renewal, new keys and a new table of the fleet, if there are some, minds gateways that are gone, and closes connections that are no
    /// longer needed since an earlier one.
    pub(super) fn take_renewal(&mut self, now: Instant) {
        if let Some(renewal) = self.desk.shared.renewed(&mut self.renewed) {
            self.renew(&renewal);
        }
        if let Some(list) = self.desk.shared.renewed_peer_gateways(&mut self.renewed_peer_gateways) {
            self.renew_peer_gateways(PeerGatewayList::clone(&list), now);
        }
        let keys_changed = self.desk.shared.keys_changed();
        if keys_changed != self.keys_changed {
            self.keys_changed = keys_changed;
            self.cids = self.desk.shared.keys.cids.reader();
        }
        self.take_members(now);
        self.mind_gone(now);
        self.close_leaving(now);
    }

    fn renew(&mut self, renewal: &Renewal) {
        if let (Some(old), Some(new)) = (&self.server, &renewal.quic.server) {
            // The old key stays: tokens of Retry packets on their way remain valid.
            self.server = Some(old.zip(new, |old, new| {
                let mut config = ServerConfig::clone(old);
                (config.transport, config.crypto) = (new.transport.clone(), new.crypto.clone());
                Arc::new(config)
            }));
            self.endpoint.set_server_config(self.server.as_ref().map(|server| server.v4.clone()));
        }
        self.client = renewal.quic.client.clone();
        self.qlog = renewal.quic.qlog.clone();
        self.transports = renewal.quic.transports.clone();
        self.windows = renewal.quic.windows;
        self.silence = renewal.quic.silence;
        self.desk.rights.renew(&renewal.rights);
    }

    fn renew_peer_gateways(&mut self, list: PeerGatewayList, now: Instant) {
        let gone = self.gateways.renew(list, now);
        for slot in self.connections.slots() {
            let Some(mut conn) = self.connections.at(slot) else { continue };
            let Origin::PeerGateway { index, node } = &mut conn.origin else { continue };
            if !gone.contains(&slot)
                && let Some(place) = self.gateways.place(node)
            {
                *index = place;
                continue;
            }
            // It is not dialed again after its end.
            conn.origin = Origin::Peer;
            conn.go_away(&self.desk.cx(now));
            conn.touched();
            let id = conn.session.id();
            self.connections.leave(id);
        }
    }

    fn close_leaving(&mut self, now: Instant) {
        self.connections.next_leaving(|conn| {
            if conn.session.requests() > 0 || conn.session.answered_lately(now) {
                return true;
            }
            if conn.phase.reached().is_known() {
                conn.session.closed(&CloseReason::Unlisted, &mut self.desk.cx(now));
            }
            conn.close(now, ErrorCode::None, Bytes::new());
            conn.touched();
            false
        });
    }
}

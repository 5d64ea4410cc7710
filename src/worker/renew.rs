//! The changes that a reload makes on a worker: TLS and transport of new connections, and the peer gateways.

use super::Core;
use super::conn::Origin;
use super::shared::Renewal;
use crate::queue::{CloseReason, ConnectionId};
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::ServerConfig;
use std::sync::Arc;
use std::time::Instant;

impl Core {
    /// Takes a new renewal, if there is one, and closes connections that are no longer needed since an earlier one.
    pub(super) fn take_renewal(&mut self, now: Instant) {
        if let Some(renewal) = self.desk.shared.renewed(&mut self.renewed) {
            self.renew(&renewal, now);
        }
        if !self.leaving.is_empty() {
            self.close_leaving(now);
        }
    }

    fn renew(&mut self, renewal: &Renewal, now: Instant) {
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
        self.windows = renewal.quic.windows;
        let gone =
            self.gateways.renew(renewal.peer_gateways.clone(), renewal.peer_gateway_connections_max, now);
        for (slot, conn) in self.conns.iter_mut().enumerate() {
            let Some(conn) = conn else { continue };
            let Origin::PeerGateway { index, node } = &mut conn.origin else { continue };
            if !gone.contains(&(slot as u32))
                && let Some(place) = self.gateways.place(node)
            {
                *index = place;
                continue;
            }
            // It is not dialed again after its end.
            conn.origin = Origin::Peer;
            let cx = self.desk.cx(now);
            if !conn.going_away {
                conn.going_away = true;
                conn.session.go_away(&mut conn.quic, 0, &cx);
            }
            self.run_queues.touched(conn, slot);
            let (worker, generation) = (self.index, conn.generation);
            self.leaving.push(ConnectionId { worker, slot: slot as u32, generation });
        }
    }

    fn close_leaving(&mut self, now: Instant) {
        for at in (0..self.leaving.len()).rev() {
            let id = self.leaving[at];
            let conn = self.conns.get_mut(id.slot as usize).and_then(Option::as_mut);
            let Some(conn) = conn.filter(|conn| conn.generation == id.generation) else {
                self.leaving.swap_remove(at);
                continue;
            };
            if conn.session.requests() > 0 || conn.session.answered_lately(now) {
                continue;
            }
            self.leaving.swap_remove(at);
            let mut cx = self.desk.cx(now);
            if conn.announced {
                conn.session.closed(&CloseReason::Unlisted, &mut cx);
            }
            conn.quic.close(now, ErrorCode::None.into(), Bytes::new());
            self.run_queues.touched(conn, id.slot as usize);
        }
    }
}

//! Handshakes that end early: their packets do not arrive, or their application has given them up.

use super::Core;
use super::conn::Change;
use crate::counters::Counter;
use crate::datagram::Network;
use crate::limits::UNREACHABLE_LEN_PER_TURN_MAX;
use crate::record::ErrorCode;
use bytes::Bytes;
use std::time::Instant;

impl Core {
    /// Ends a handshake that its application has given up.
    pub(super) fn abandon(&mut self, now: Instant, app: usize, tag: u64) {
        let Some(mut conn) = self.dials.tagged((app, tag)).and_then(|slot| self.connections.at(slot)) else {
            return;
        };
        if conn.phase.is_handshaking() && !conn.phase.reached().is_known() {
            self.desk.status.counters.add(Counter::HandshakesClientFailed, 1);
            conn.close(now, ErrorCode::None, Bytes::new());
            conn.touched();
        }
    }

    /// Ends the handshakes whose packets do not arrive.
    pub(super) fn take_unreachable<N: Network>(&mut self, network: &mut N, now: Instant) {
        for _ in 0..UNREACHABLE_LEN_PER_TURN_MAX {
            let Some(unreachable) = network.poll_unreachable() else { return };
            if self.client.is_none() {
                continue;
            }
            for slot in self.dials.with(unreachable.destination) {
                let Some(mut conn) = self.connections.at(slot) else { continue };
                let mut cx = self.desk.cx(now);
                let Some(change) = conn.unreachable(&unreachable.obstacle, &mut cx) else { continue };
                if let Some(Change::PeerGatewayLost(index)) = change {
                    self.gateways.failed(index, Some(slot), now);
                }
                conn.touched();
            }
        }
    }
}

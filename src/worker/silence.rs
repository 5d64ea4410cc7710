//! Peers that this side connected to, and that do not go on: with the handshake, with SETTINGS, with requests. A survey looks at each.

use super::Core;
use super::conn::Origin;
use crate::limits::HANDSHAKE_MS_MAX;
use crate::queue::CloseReason;
use crate::record::ErrorCode;
use bytes::Bytes;
use quinn_proto::Side;
use std::time::{Duration, Instant};

impl Core {
    /// Looks at the connection in this slot. Returns whether silence of its peer may end something at a later look.
    pub(super) fn look_for_silence(&mut self, slot: u32, now: Instant) -> bool {
        let Some(mut entry) = self.connections.at(slot) else { return false };
        if entry.quic.side() != Side::Client || entry.quic.is_closed() {
            return false;
        }
        let conn = &mut *entry;
        let mut cx = self.desk.cx(now);
        // An application that connects has a time of its own.
        if let Origin::PeerGateway { index, .. } = conn.origin
            && conn.phase.is_handshaking()
        {
            let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
            if now < conn.begun + limit {
                return true;
            }
            conn.ended(&CloseReason::SlowHandshake(limit), &mut cx);
            conn.quic.close(now, ErrorCode::None.into(), Bytes::new());
            entry.touched();
            self.gateways.failed(index, Some(slot), now);
            return false;
        }
        let waits = conn.session.look_for_silence(&mut conn.quic, self.silence, &mut cx);
        entry.touched();
        waits
    }
}

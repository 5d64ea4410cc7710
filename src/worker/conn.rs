//! A connection as its worker holds it.

use crate::counters::Counter;
use crate::queue::Delivery;
use crate::quic::timers::Timer;
use crate::session::{Context, Session, own_settings};
use crate::tls;
use quinn_proto::{Connection, Event};
use std::collections::VecDeque;

/// One connection on its worker.
pub(super) struct Conn {
    pub(super) quic: Connection,
    pub(super) session: Session,
    pub(super) timer: Timer,
    pub(super) generation: u32,
    /// In the list of connections that this turn serves.
    pub(super) dirty: bool,
    pub(super) connected: bool,
    pub(super) going_away: bool,
    /// The application and tag that asked for it.
    pub(super) asked: Option<(usize, u64)>,
}

impl Conn {
    pub(super) fn event(&mut self, event: Event, cx: &mut Context<'_>) {
        match event {
            Event::Connected => self.connected(cx),
            Event::ConnectionLost { reason } => {
                let text =
                    tls::explain(&reason).map_or_else(|| reason.to_string(), |refusal| refusal.to_string());
                if self.connected {
                    self.session.closed(&text, cx);
                } else {
                    cx.counters.add(Counter::HandshakesFailed, 1);
                    if let Some((app, tag)) = self.asked {
                        cx.ports[app].deliver(Delivery::ConnectFailed { tag, reason: text });
                    }
                }
            }
            Event::Stream(event) => self.session.stream_event(&mut self.quic, event, cx),
            Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn connected(&mut self, cx: &mut Context<'_>) {
        self.connected = true;
        cx.counters.add(Counter::ConnectionsOpened, 1);
        self.session.start(&mut self.quic, &own_settings(), cx);
        let node = tls::peer_node_id(&self.quic);
        let (side, remote) = (self.quic.side(), self.quic.remote_address());
        let (connection, credit) = (self.session.id(), self.session.message_credit());
        let tag = self.asked.map(|(_, tag)| tag);
        let delivery = || Delivery::Connected { connection, tag, side, node, remote, credit: credit.clone() };
        self.session.connected(delivery, cx);
    }
}

/// Puts a connection on the list of those that this turn serves.
pub(super) fn mark(dirty: &mut VecDeque<u32>, conn: &mut Conn, slot: usize) {
    if !std::mem::replace(&mut conn.dirty, true) {
        dirty.push_back(slot as u32);
    }
}

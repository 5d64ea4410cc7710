//! The session's state that reading one stream needs.

use super::fault::Fault;
use super::flow::FlowControl;
use super::{Context, PeerState};
use crate::queue::{ConnectionId, Delivery, RequestId};
use crate::record::ErrorCode;
use crate::rights::Right;
use crate::stages::LoopStage;
use quinn_proto::StreamId;

/// The session's state that reading one stream needs, beside the stream itself.
pub(super) struct Reading<'a, 'c> {
    pub(super) connection: ConnectionId,
    pub(super) stream: StreamId,
    pub(super) owner: Option<usize>,
    pub(super) peer: &'a mut PeerState,
    pub(super) flow: &'a mut FlowControl,
    /// Whether this side has sent GOAWAY.
    pub(super) leaving: bool,
    pub(super) cx: &'a mut Context<'c>,
}

impl Reading<'_, '_> {
    pub(super) fn peer_request(&self) -> RequestId {
        RequestId::peer(self.connection, self.stream.into())
    }

    pub(super) fn queue(&self, queue: u64) -> Result<usize, Fault> {
        self.owner.or_else(|| self.cx.routes.queues.get(&queue).copied()).ok_or_else(|| {
            Fault::new(ErrorCode::NotFound, format!("no application takes queue {queue} here"))
        })
    }

    pub(super) fn store(&self) -> Result<usize, Fault> {
        let nothing = || Fault::new(ErrorCode::NotFound, "no application keeps payloads here");
        self.owner.or(self.cx.routes.store).ok_or_else(nothing)
    }

    /// Whether the peer has this right.
    pub(super) fn may(&self, right: Right) -> bool {
        self.peer.grant.allowed.contains(right)
    }

    /// Refuses what the peer has no right to.
    pub(super) fn require(&mut self, right: Right) -> Result<(), Fault> {
        if self.may(right) { Ok(()) } else { Err(self.lacks(right)) }
    }

    /// Refuses what the peer has none of these rights to.
    pub(super) fn require_one_of(&mut self, rights: &[Right]) -> Result<(), Fault> {
        match rights.first() {
            Some(first) if !rights.iter().any(|right| self.may(*right)) => Err(self.lacks(*first)),
            _ => Ok(()),
        }
    }

    /// The refusal of what the peer has no right to.
    #[cold]
    pub(super) fn lacks(&mut self, right: Right) -> Fault {
        self.cx.counters.add(right.refused(), 1);
        let (node, section) = (self.peer.node, self.peer.grant.section.as_deref());
        tracing::info!(?node, section, %right, "a peer is refused what it has no right to");
        Fault::new(
            ErrorCode::NotAuthorized,
            format!(
                "right {right} is not given to this peer; have the gateway's operator allow it in [[rights]]"
            ),
        )
    }

    /// Tells an application of the connection before it gets a message in early data: the handshake is not complete, and no application knows
    /// of it.
    pub(super) fn introduce(&mut self, app: usize) {
        let Some(early) = &mut self.peer.early else { return };
        if !early.told.contains(&app) {
            early.told.push(app);
            let event = early.connected();
            self.deliver(app, Delivery::Connection(self.connection, event));
        }
    }

    /// Whether the application takes a message of this connection now.
    pub(super) fn takes_message(&mut self, app: usize) -> bool {
        let port = &self.cx.ports[app];
        port.room() > 0 && self.peer.untaken.has_room(app, port)
    }

    /// Messages of this many bytes, with their cost, were delivered.
    pub(super) fn count_untaken(&mut self, app: usize, bytes: usize) {
        self.peer.untaken.add(app, bytes, &self.cx.ports[app]);
    }

    pub(super) fn deliver(&mut self, app: usize, delivery: Delivery) {
        self.cx.counters.stages.enter(LoopStage::Rings);
        self.cx.ports[app].deliver(delivery);
        self.cx.counters.stages.enter(LoopStage::Records);
    }
}

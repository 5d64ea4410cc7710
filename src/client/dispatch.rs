//! The worker's side of a client: an application that carries the tasks' calls to the rings, and the answers back to the tasks.
//!
//! It runs on the worker's own thread, one instance for each worker, and never waits. Everything that it keeps is bounded: requests by
//! their number, fetched bytes by each request's credit, bytes of a PUT by a short channel, messages by a [`InboxRoom`] for each connection.

use super::call::{Call, ConnectionUp, HostedGather};
use super::dial::{Attempt, Dials};
use super::inbox::InboxRoom;
use super::rotation::Rotation;
use super::tasks::Tasks;
use crate::application::{Application, Outbox, Received};
use crate::queue::{
    AppPort, CloseReason, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit, Delivery,
};
use crate::record::{ErrorCode, ErrorRecord, Payload};
use crate::tls::NodeId;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// The owner of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// The task that holds this ticket.
    Task(u64),
    /// The gathering of this ID.
    Gather(u64),
}

/// The client's application on one worker.
pub(super) struct Dispatch {
    calls: mpsc::UnboundedReceiver<Call>,
    dials: Dials,
    connections: FxHashMap<ConnectionId, Connection>,
    /// While a command waits in it, no call and no delivery is taken.
    outbox: Outbox<Owner>,
    /// A message that found its connection's inbox full. No delivery is taken until it fits.
    blocked: Option<(ConnectionId, u64, Payload)>,
    /// Connections with messages that wait to be sent.
    talking: Rotation<ConnectionId>,
    tasks: Tasks,
    gathers: FxHashMap<u64, HostedGather>,
}

struct Connection {
    credit: Credit,
    /// Opened for early data: the peer may refuse a request as too early.
    early: bool,
    closed: watch::Sender<Option<CloseReason>>,
    messages: mpsc::UnboundedSender<(u64, Payload)>,
    room: Arc<InboxRoom>,
    outbox: VecDeque<(u64, Bytes, OwnedSemaphorePermit)>,
}

impl Dispatch {
    pub(super) fn new(calls: mpsc::UnboundedReceiver<Call>) -> Self {
        Self {
            calls,
            dials: Dials::default(),
            connections: FxHashMap::default(),
            outbox: Outbox::default(),
            blocked: None,
            talking: Rotation::default(),
            tasks: Tasks::default(),
            gathers: FxHashMap::default(),
        }
    }

    fn send(&mut self, port: &mut AppPort, command: Command) {
        self.outbox.send(port, command);
    }

    fn take_calls(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while self.outbox.flush(port)
            && let Ok(call) = self.calls.try_recv()
        {
            worked = true;
            self.call(port, call);
        }
        worked
    }

    fn call(&mut self, port: &mut AppPort, call: Call) {
        match call {
            Call::Connect(dial) => self.dials.begin(dial),
            Call::Resolved { dial, found } => self.dials.resolved(dial, found),
            // If the connection is gone, the answer's channel ends here, and the task learns why.
            Call::Ask { connection, ticket, ask, answer } => {
                let Some(Connection { early, .. }) = self.connections.get(&connection) else { return };
                self.tasks.ask(port, &mut self.outbox, (connection, *early), (ticket, ask), answer);
            }
            Call::Cancel { ticket } => self.tasks.cancel(port, &mut self.outbox, ticket),
            Call::Message { connection: id, queue, payload, place } => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if connection.outbox.is_empty() {
                    self.talking.push(id);
                }
                connection.outbox.push_back((queue, payload, place));
            }
            Call::Datagram { connection, queue, payload, place } => {
                if self.connections.contains_key(&connection) {
                    let datagram = ConnectionCommand::Datagram { queue, payload };
                    self.send(port, Command::On(connection, datagram));
                }
                // The worker sends or drops the datagram in this turn.
                drop(place);
            }
            Call::Gather(hosted) => drop(self.gathers.insert(hosted.id, *hosted)),
            Call::Disconnect { connection } => {
                if self.connections.contains_key(&connection) {
                    self.send(port, Command::On(connection, ConnectionCommand::Disconnect));
                }
            }
        }
    }

    fn take_deliveries(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while self.unblock()
            && let Some(received) = self.outbox.receive(port)
        {
            worked = true;
            match received {
                Received::Own(Owner::Task(ticket), delivery) => {
                    self.tasks.deliver(port, &mut self.outbox, ticket, delivery);
                }
                Received::Own(Owner::Gather(id), delivery) => {
                    if let Some(hosted) = self.gathers.get(&id) {
                        hosted.gather().handle(now, delivery);
                    }
                }
                Received::Other(delivery) => self.deliver(port, delivery),
            }
        }
        worked
    }

    /// Retries the message that waits for its inbox. Returns whether no message waits now.
    fn unblock(&mut self) -> bool {
        if let Some((connection, queue, payload)) = self.blocked.take() {
            self.message(connection, queue, payload);
        }
        self.blocked.is_none()
    }

    fn message(&mut self, id: ConnectionId, queue: u64, payload: Payload) {
        let Some(connection) = self.connections.get(&id) else { return };
        // The task that took messages is gone.
        if connection.messages.is_closed() {
            return;
        }
        if connection.room.is_full() {
            self.blocked = Some((id, queue, payload));
            return;
        }
        connection.room.take(payload.len());
        let _ = connection.messages.send((queue, payload));
    }

    fn deliver(&mut self, port: &mut AppPort, delivery: Delivery) {
        match delivery {
            Delivery::Connection(connection, event) => self.heard(port, connection, event),
            Delivery::ConnectFailed { tag, reason } => self.dials.failed(tag, reason),
            Delivery::Asked(request, _) | Delivery::Forward(request, _) => {
                let failure = ErrorRecord::new(ErrorCode::NotAuthorized, 0, "a client serves no requests");
                self.send(port, Command::refuse(request, failure));
            }
            // Deliveries of a request that was refused.
            Delivery::Answered(..)
            | Delivery::Unreachable(_)
            | Delivery::Piece { .. }
            | Delivery::Ended(..)
            | Delivery::Raw(..)
            | Delivery::Stopped(..) => {}
        }
    }

    fn heard(&mut self, port: &mut AppPort, id: ConnectionId, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { tag: Some(tag), node, remote, credit, .. } => {
                self.connected(port, id, tag, (node, remote), credit);
            }
            ConnectionEvent::Message { queue, payload } => self.message(id, queue, payload),
            ConnectionEvent::Closed { reason } => self.closed(id, &reason),
            // A client has only connections that it opened, and keeps no directory of holdings.
            ConnectionEvent::Connected { tag: None, .. }
            | ConnectionEvent::Have { .. }
            | ConnectionEvent::MessagesStopped { .. } => {}
        }
    }

    fn connected(
        &mut self,
        port: &mut AppPort,
        id: ConnectionId,
        tag: u64,
        (node, remote): (Option<NodeId>, SocketAddr),
        credit: Credit,
    ) {
        let Some(dial) = self.dials.connected(tag) else {
            // The connection came up after the dial had ended.
            return self.send(port, Command::On(id, ConnectionCommand::Disconnect));
        };
        let (tell_closed, closed) = watch::channel(None);
        let (give_messages, messages) = mpsc::unbounded_channel();
        let room = Arc::<InboxRoom>::default();
        let connection = Connection {
            credit,
            early: dial.early,
            closed: tell_closed,
            messages: give_messages,
            room: room.clone(),
            outbox: VecDeque::new(),
        };
        self.connections.insert(id, connection);
        if dial.reply.send(Ok(ConnectionUp { connection: id, node, remote, closed, messages, room })).is_err()
        {
            self.send(port, Command::On(id, ConnectionCommand::Disconnect));
        }
    }

    fn closed(&mut self, id: ConnectionId, reason: &CloseReason) {
        // The reason is stored first: a task that sees its channel end looks for it.
        let gone = self.connections.remove(&id);
        if let Some(connection) = &gone {
            connection.closed.send_replace(Some(reason.clone()));
        }
        for (_, owner) in self.outbox.closed(id) {
            if let Owner::Task(ticket) = owner {
                self.tasks.lost(ticket);
            }
        }
        // Every gathering learns of it, also one that has no request on this connection.
        self.gathers.values().for_each(|hosted| hosted.gather().closed(id, reason));
    }

    fn poll_gathers(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        let outbox = &mut self.outbox;
        self.gathers.retain(|id, hosted| {
            let (did, goes_on) = hosted.poll(now, &mut outbox.asker(port, Owner::Gather(*id)));
            worked |= did;
            goes_on
        });
        worked
    }

    /// Sends messages of a few connections. Returns whether any were sent, or connections are left to look at.
    fn send_messages(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        let connections = &mut self.connections;
        let goes_on = self.talking.look(|id| {
            let Some(connection) = connections.get_mut(id) else { return false };
            while let Some((queue, payload, place)) = connection.outbox.pop_front() {
                if let Err(payload) = port.send_message(*id, &connection.credit, queue, payload) {
                    connection.outbox.push_front((queue, payload, place));
                    return true;
                }
                worked = true;
            }
            false
        });
        worked || goes_on
    }

    /// The entries of lists that were looked at so far.
    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.tasks.looks() + self.talking.looks + self.dials.looks()
    }

    /// Makes the attempts that are due, as long as the ring has room, and ends abandoned ones.
    fn dial(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.dials.expire(now);
        while self.outbox.flush(port)
            && let Some(tag) = self.dials.next_abandoned()
        {
            worked = true;
            self.send(port, Command::Abandon { tag });
        }
        while self.outbox.flush(port)
            && let Some(Attempt { tag, remote, early }) = self.dials.next_attempt(now)
        {
            worked = true;
            self.send(port, Command::Connect { tag, remote, early });
        }
        worked
    }
}

impl Application for Dispatch {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.take_calls(port);
        let delivered = self.take_deliveries(now, port);
        worked |= delivered;
        if self.outbox.is_empty() {
            worked |= self.tasks.put(port, &mut self.outbox);
            worked |= self.send_messages(port);
            worked |= self.poll_gathers(now, port);
        }
        worked |= self.dial(now, port);
        // After a turn without deliveries, the tasks get the events held so far.
        if !delivered && self.tasks.is_holding() {
            self.tasks.flush();
            worked = true;
        }
        worked
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let gathers = self.gathers.values().filter_map(|hosted| hosted.gather().poll_timeout());
        self.dials.poll_timeout().into_iter().chain(gathers).min()
    }
}

//! The two ends of a pair of rings.

use super::{
    Charge, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit, Delivery, RequestId, Sleeper,
    Waker,
};
use crate::limits::{COMMAND_RING_LEN, DELIVERY_RING_LEN, MESSAGE_COST_BYTES};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Deliveries that are collected before a busy worker wakes their application.
const WAKE_LEN: usize = 16;

/// The application's ends of its two rings to one worker.
#[derive(Debug)]
pub struct AppPort {
    deliveries: Arc<ArrayQueue<Delivery>>,
    commands: Arc<ArrayQueue<Command>>,
    worker: Waker,
    sleeper: Sleeper,
    pushed: bool,
}

/// The worker's ends of the same rings. In an application's tests, the test plays the worker with it.
#[derive(Debug)]
pub struct WorkerPort {
    deliveries: Arc<ArrayQueue<Delivery>>,
    commands: Arc<ArrayQueue<Command>>,
    application: Waker,
    /// Deliveries that found the ring full: at most a few for each open connection and request. While any wait,
    /// no stream is read for this application.
    held: VecDeque<Delivery>,
    /// The number of held deliveries at which those of connections that came and went meanwhile are dropped.
    held_max: usize,
    /// Deliveries so far.
    delivered: u64,
    /// Whether anything changed for the application in this turn.
    touched: bool,
    /// Whether the application may be waiting for the change.
    pub(crate) urgent: bool,
}

/// Makes the two rings of one application on one worker.
pub fn rings(worker: Waker) -> (AppPort, WorkerPort) {
    let deliveries = Arc::new(ArrayQueue::new(DELIVERY_RING_LEN));
    let commands = Arc::new(ArrayQueue::new(COMMAND_RING_LEN));
    let sleeper = Sleeper::default();
    let application = sleeper.waker();
    (
        AppPort {
            deliveries: deliveries.clone(),
            commands: commands.clone(),
            worker,
            sleeper,
            pushed: false,
        },
        WorkerPort {
            deliveries,
            commands,
            application,
            held: VecDeque::new(),
            held_max: DELIVERY_RING_LEN,
            delivered: 0,
            touched: false,
            urgent: false,
        },
    )
}

impl AppPort {
    /// The next delivery, if one waits.
    pub fn receive(&mut self) -> Option<Delivery> {
        // A check is cheaper than an attempt, which has a fence, and most checks find the ring empty.
        if self.deliveries.is_empty() {
            return None;
        }
        let delivery = self.deliveries.pop();
        // The worker may have stopped reading because this ring was full.
        self.pushed |= delivery.is_some();
        delivery
    }

    /// Gives credit back for bytes that are kept no more, and has the worker look whether their stream may be read on.
    pub fn give_back(&mut self, charge: Charge) {
        drop(charge);
        self.pushed = true;
    }

    /// The number of commands that the ring takes now.
    pub fn room(&self) -> usize {
        self.commands.capacity() - self.commands.len()
    }

    /// Gives the worker a command.
    ///
    /// # Errors
    /// The command, if the ring is full: keep it and try again at the next poll.
    pub fn send(&mut self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        self.pushed = true;
        Ok(())
    }

    /// Sends payload bytes of a request, and takes their credit.
    ///
    /// # Errors
    /// The bytes, if the ring is full or the credit is spent.
    pub fn send_data(&mut self, request: RequestId, credit: &Credit, bytes: Bytes) -> Result<(), Bytes> {
        if self.commands.is_full() || !credit.has_room() {
            return Err(bytes);
        }
        credit.take(bytes.len());
        self.push(Command::Bytes(request, bytes));
        Ok(())
    }

    /// Sends a message, and takes its credit: its bytes, and [`MESSAGE_COST_BYTES`].
    ///
    /// # Errors
    /// The payload, if the ring is full or the credit is spent.
    pub fn send_message(
        &mut self,
        connection: ConnectionId,
        credit: &Credit,
        queue: u64,
        payload: Bytes,
    ) -> Result<(), Bytes> {
        if self.commands.is_full() || !credit.has_room() {
            return Err(payload);
        }
        credit.take(payload.len() + MESSAGE_COST_BYTES);
        self.push(Command::On(connection, ConnectionCommand::Message { queue, payload }));
        Ok(())
    }

    /// Gives the worker a command for which the ring has room: only this side pushes, so that the room can only grow.
    #[inline]
    fn push(&mut self, command: Command) {
        let pushed = self.commands.push(command);
        debug_assert!(pushed.is_ok(), "the ring had room");
        self.pushed = true;
    }

    /// Wakes the worker if anything was pushed or taken since the last call. The host of an application calls this after
    /// every poll.
    pub fn notify(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.worker.wake();
        }
    }

    /// Polls the application once more, and sleeps if that did nothing: until the worker or another thread wakes it, at most for `limit`. The
    /// poll is done when wakes count already, so that none is lost between it and the sleep.
    pub fn poll_and_wait(&mut self, limit: Duration, poll: impl FnOnce(&mut Self) -> bool) {
        self.sleeper.begin();
        let worked = poll(self);
        self.notify();
        if !worked {
            self.sleeper.park(limit);
        }
        self.sleeper.end();
    }

    /// Ends [`AppPort::poll_and_wait`] from another thread.
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }
}

impl WorkerPort {
    /// The number of deliveries that the ring takes now. Only the worker pushes: the room can only grow meanwhile.
    pub(crate) fn room(&self) -> usize {
        if self.held.is_empty() { self.deliveries.capacity() - self.deliveries.len() } else { 0 }
    }

    /// Delivers, in order. Stream data is delivered only while `WorkerPort::room` allows it; events are always.
    pub fn deliver(&mut self, delivery: Delivery) {
        self.touched = true;
        self.delivered += 1;
        if !self.held.is_empty() {
            self.held.push_back(delivery);
            self.push_held();
        } else if let Err(delivery) = self.deliveries.push(delivery) {
            self.held.push_back(delivery);
        }
        if self.held.len() >= self.held_max {
            self.forget_passed();
        }
    }

    /// Drops the held deliveries of connections that the application has not heard of and that have ended. What is held then belongs to
    /// connections that are open, or that the application knows.
    #[cold]
    fn forget_passed(&mut self) {
        let mut passed = FxHashMap::default();
        for delivery in &self.held {
            match delivery {
                Delivery::Connection(id, ConnectionEvent::Connected { .. }) => {
                    passed.insert(*id, false);
                }
                Delivery::Connection(id, ConnectionEvent::Closed { .. }) => {
                    passed.entry(*id).and_modify(|has_ended| *has_ended = true);
                }
                _ => {}
            }
        }
        self.held.retain(|delivery| {
            let has_ended = delivery.connection().and_then(|id| passed.get(&id));
            !has_ended.is_some_and(|has_ended| *has_ended)
        });
        // The next look is at twice as many: each delivery is looked at about once.
        self.held_max = (2 * self.held.len()).max(DELIVERY_RING_LEN);
    }

    /// The number of the last delivery.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The number of the last delivery that the application has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.delivered - (self.deliveries.len() + self.held.len()) as u64
    }

    /// Moves held deliveries to the ring. Returns whether the ring has room again.
    pub(crate) fn push_held(&mut self) -> bool {
        while let Some(delivery) = self.held.pop_front() {
            if let Err(delivery) = self.deliveries.push(delivery) {
                self.held.push_front(delivery);
                return false;
            }
        }
        !self.deliveries.is_full()
    }

    /// The next command, if one waits.
    pub fn command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            return None;
        }
        let was_full = self.commands.is_full();
        let command = self.commands.pop();
        self.touched |= command.is_some();
        self.urgent |= was_full;
        command
    }

    /// The numbers of deliveries that wait for the application, and of commands that wait for the worker.
    pub(crate) fn depths(&self) -> (usize, usize) {
        (self.deliveries.len() + self.held.len(), self.commands.len())
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Wakes the application if anything changed for it. While the worker is busy, deliveries are collected
    /// first: one wake, with its two context switches, then serves many of them. The first idle turn wakes it.
    pub(crate) fn notify(&mut self, busy: bool) {
        if self.urgent || self.touched && (!busy || self.deliveries.len() >= WAKE_LEN) {
            (self.touched, self.urgent) = (false, false);
            self.application.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::CloseReason;
    use quinn_proto::Side;

    fn id(generation: u32) -> ConnectionId {
        ConnectionId { worker: 0, slot: 0, generation }
    }

    fn come(port: &mut WorkerPort, generation: u32) {
        let event = ConnectionEvent::Connected {
            tag: None,
            side: Side::Server,
            node: None,
            peer_gateway: false,
            remote: ([192, 0, 2, 1], 4433).into(),
            credit: Credit::default(),
        };
        port.deliver(Delivery::Connection(id(generation), event));
    }

    fn leave(port: &mut WorkerPort, generation: u32) {
        let closed = ConnectionEvent::Closed { reason: CloseReason::Local };
        port.deliver(Delivery::Connection(id(generation), closed));
    }

    #[test]
    fn a_wake_during_the_last_poll_ends_the_wait() {
        let (mut app, _port) = rings(Sleeper::default().waker());
        let waker = app.waker();
        app.poll_and_wait(Duration::MAX, |_| {
            waker.wake();
            false
        });
    }

    #[test]
    fn connections_that_come_and_go_do_not_grow_the_queue_of_an_application_that_takes_nothing() {
        let (mut app, mut port) = rings(Sleeper::default().waker());
        // The first ones are in the ring: the application will hear of them.
        let known = DELIVERY_RING_LEN as u32;
        (0..known).for_each(|generation| come(&mut port, generation));
        for generation in known..known + 100_000 {
            come(&mut port, generation);
            if generation != known + 7 {
                leave(&mut port, generation);
            }
            assert!(port.held.len() <= DELIVERY_RING_LEN + 1, "{} deliveries are held", port.held.len());
        }
        (0..known).for_each(|generation| leave(&mut port, generation));
        let mut open = std::collections::BTreeSet::new();
        loop {
            while let Some(delivery) = app.receive() {
                match delivery {
                    Delivery::Connection(id, ConnectionEvent::Connected { .. }) => assert!(open.insert(id)),
                    Delivery::Connection(id, _) => assert!(open.remove(&id), "an end without a beginning"),
                    other => panic!("{other:?}"),
                }
            }
            if port.held.is_empty() {
                break;
            }
            port.push_held();
        }
        assert_eq!(open.into_iter().collect::<Vec<_>>(), [id(known + 7)]);
    }
}

//! What sits at the end of the rings: an application, and the two that need no storage.

use crate::queue::{AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery, End, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Payload, Request};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::Instant;

/// Something that takes deliveries and gives commands. One instance serves one worker.
///
/// It runs on the worker's own thread ([`Placement::Worker`]: lowest latency, must never block) or on a thread of its own
/// ([`Placement::Thread`]: may block, on disks for one).
pub trait Application: Send {
    /// Does what there is to do without waiting: takes deliveries, sends commands. Returns whether it did anything.
    ///
    /// What the port does not take (ring or credit spent) the application keeps, and tries again at its next poll. An
    /// application that stops taking deliveries stops its senders: that is the way to push back.
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool;

    /// When [`Application::poll`] has something to do though nothing is delivered; none: not before.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Where an application runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// On the worker's thread, once a turn.
    Worker,
    /// On a thread of its own.
    Thread,
}

/// Commands on their way to a ring: in order, and kept while it is full. Who has one takes no deliveries until it is empty.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<Command>);

impl Outbox {
    /// Sends a command, after those that wait.
    pub(crate) fn send(&mut self, port: &mut AppPort, command: Command) {
        if !self.0.is_empty() {
            self.0.push_back(command);
        } else if let Err(command) = port.send(command) {
            self.0.push_back(command);
        }
    }

    /// Sends what waits. Returns whether nothing does any more.
    pub(crate) fn flush(&mut self, port: &mut AppPort) -> bool {
        while let Some(command) = self.0.pop_front() {
            if let Err(command) = port.send(command) {
                self.0.push_front(command);
                return false;
            }
        }
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The caller has made sure that the ring has room.
fn refuse_put(port: &mut AppPort, request: RequestId, reason: &'static str) {
    let failure = ErrorRecord::new(ErrorCode::NotFound, 0, reason);
    let _ = port.send(Command::refuse(request, failure));
}

/// Peers, and the one answer that waits for room: what [`Echo`] and [`Discard`] have in common.
#[derive(Debug, Default)]
struct Answers<T> {
    peers: FxHashMap<ConnectionId, (Credit, T)>,
    /// Payloads that are put here are taken and checked, then refused; without it they are refused at once.
    takes_payloads: bool,
    waiting: Option<(ConnectionId, u64, Bytes)>,
}

impl<T: Default> Answers<T> {
    /// Takes deliveries and sends what `answer` makes of each message, on the queue it came by.
    fn poll(&mut self, port: &mut AppPort, mut answer: impl FnMut(&mut T, Payload) -> Option<Bytes>) -> bool {
        let mut worked = false;
        loop {
            // Only one answer waits: until it is gone nothing more is taken, so the sender is stopped by flow control.
            if let Some((connection, queue, payload)) = self.waiting.take()
                && let Some((credit, _)) = self.peers.get(&connection)
                && let Err(payload) = port.send_message(connection, credit, queue, payload)
            {
                self.waiting = Some((connection, queue, payload));
                return worked;
            }
            // A refusal finds room: one delivery brings one command at the most.
            if port.room() == 0 {
                return worked;
            }
            let Some(delivery) = port.receive() else { return worked };
            worked = true;
            match delivery {
                Delivery::Asked(request, asked) if matches!(asked.request, Request::Put(_)) => {
                    if self.takes_payloads {
                        let _ = port.send(Command::accept(request));
                    } else {
                        refuse_put(port, request, "the application on this queue keeps no payloads");
                    }
                }
                Delivery::Ended(request, End::Checked) => refuse_put(port, request, CHECKED),
                Delivery::Ended(request, End::Raw) => refuse_put(port, request, UNCHECKED),
                Delivery::Connection(connection, ConnectionEvent::Connected { credit, .. }) => {
                    self.peers.insert(connection, (credit, T::default()));
                }
                Delivery::Connection(connection, ConnectionEvent::Closed { .. }) => {
                    self.peers.remove(&connection);
                }
                Delivery::Connection(connection, ConnectionEvent::Message { queue, payload }) => {
                    let Some((_, peer)) = self.peers.get_mut(&connection) else { continue };
                    self.waiting = answer(peer, payload).map(|payload| (connection, queue, payload));
                }
                _ => {}
            }
        }
    }
}

/// What is said of a payload that was put to [`Discard`], as its node took it.
const CHECKED: &str = "checked and dropped: the application on this queue keeps no payloads";
const UNCHECKED: &str = "dropped unchecked: the application on this queue keeps no payloads";

/// Sends every message back on the queue it came by (RFC 862 in spirit).
#[derive(Debug, Default)]
pub struct Echo(Answers<()>);

impl Application for Echo {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        self.0.poll(port, |(), payload| Some(payload.to_bytes()))
    }
}

/// Counts messages and drops them (RFC 863 in spirit). An empty message is answered with what was counted on its connection
/// since the last empty one: bytes and messages, two big-endian 64-bit numbers. Payloads that are put are taken, checked where
/// the node checks for its queues, and dropped; the answer is then 05, for nothing is kept. That makes it the far end of a benchmark.
#[derive(Debug)]
pub struct Discard(Answers<Tally>);

impl Default for Discard {
    fn default() -> Self {
        Self(Answers { takes_payloads: true, ..Answers::default() })
    }
}

#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    messages: u64,
}

impl Application for Discard {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        self.0.poll(port, |tally, payload| {
            if !payload.is_empty() {
                tally.bytes += payload.len() as u64;
                tally.messages += 1;
                return None;
            }
            let Tally { bytes, messages } = std::mem::take(tally);
            Some(Bytes::from([bytes.to_be_bytes(), messages.to_be_bytes()].concat()))
        })
    }
}

//! Applications at the end of the rings: their trait, their outbox, and the two that need no storage.

mod outbox;

pub use outbox::{Asker, Outbox, Received};

use crate::queue::{AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery, End, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Payload, Request};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::time::Instant;

/// Code that takes deliveries and gives commands. One instance serves one worker.
///
/// It runs on the worker's own thread ([`Placement::Worker`]: lowest latency, must never block) or on a thread of its own
/// ([`Placement::Thread`]: may block, for example on a disk).
pub trait Application: Send {
    /// Takes deliveries and sends commands, without waiting. Returns whether it did anything.
    ///
    /// A command that the port does not take (ring or credit spent) is kept and tried again at the next poll: an [`Outbox`] does both. An
    /// application that stops taking deliveries stops its senders.
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool;

    /// When [`Application::poll`] has work even without a delivery; `None`: not before one.
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

/// The common part of [`Echo`] and [`Discard`]: they answer messages, and keep no payloads.
#[derive(Debug, Default)]
struct Answers<T> {
    peers: FxHashMap<ConnectionId, (Credit, T)>,
    /// Whether payloads put here are read and checked, and then refused. Otherwise they are refused at once.
    takes_payloads: bool,
    outbox: Outbox,
}

impl<T: Default> Answers<T> {
    /// Takes deliveries, and sends the result of `answer` for each message on the message's queue.
    fn poll(&mut self, port: &mut AppPort, mut answer: impl FnMut(&mut T, Payload) -> Option<Bytes>) -> bool {
        let mut worked = false;
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            let Received::Other(delivery) = received else { continue };
            match delivery {
                Delivery::Asked(request, asked) if matches!(asked.request, Request::Put(_)) => {
                    if self.takes_payloads {
                        self.outbox.send(port, Command::accept(request));
                    } else {
                        self.refuse(port, request, "the application on this queue keeps no payloads");
                    }
                }
                Delivery::Ended(request, End::Checked) => self.refuse(port, request, CHECKED),
                Delivery::Ended(request, End::Raw) => self.refuse(port, request, UNCHECKED),
                Delivery::Connection(connection, ConnectionEvent::Connected { credit, .. }) => {
                    self.peers.insert(connection, (credit, T::default()));
                }
                Delivery::Connection(connection, ConnectionEvent::Closed { .. }) => {
                    self.peers.remove(&connection);
                }
                Delivery::Connection(connection, ConnectionEvent::Message { queue, payload }) => {
                    let Some((credit, peer)) = self.peers.get_mut(&connection) else { continue };
                    if let Some(answer) = answer(peer, payload) {
                        self.outbox.answer_message(port, connection, credit, queue, answer);
                    }
                }
                _ => {}
            }
        }
        worked
    }

    fn refuse(&mut self, port: &mut AppPort, request: RequestId, reason: &'static str) {
        let failure = ErrorRecord::new(ErrorCode::NotFound, 0, reason);
        self.outbox.send(port, Command::refuse(request, failure));
    }
}

/// The refusals of a payload put to [`Discard`], by whether the node checked it.
const CHECKED: &str = "checked and dropped: the application on this queue keeps no payloads";
const UNCHECKED: &str = "dropped unchecked: the application on this queue keeps no payloads";

/// Sends every message back on its queue (RFC 862 in spirit).
#[derive(Debug, Default)]
pub struct Echo(Answers<()>);

impl Application for Echo {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        self.0.poll(port, |(), payload| Some(payload.to_bytes()))
    }
}

/// Counts messages and drops them (RFC 863 in spirit). An empty message is answered with the counts of its connection since the last
/// empty one: bytes and messages, two big-endian 64-bit numbers. Payloads that are put are read, checked if the node checks payloads
/// of the queue, and dropped. They are then refused with code 05, since nothing is kept. Benchmarks use it as the far end.
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

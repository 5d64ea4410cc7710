//! What sits at the end of the rings: an application, and the two that need no storage.

use crate::queue::{AppPort, Command, ConnectionId, Credit, Delivery, RequestId};
use crate::record::{ErrorCode, ErrorRecord};
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

/// The caller has made sure that the ring has room.
fn refuse_put(port: &mut AppPort, request: RequestId) {
    let failure = ErrorRecord::new(ErrorCode::NotFound, 0, "the application on this queue keeps no payloads");
    let _ = port.send(Command::Refuse { request, failure });
}

/// Sends every message back on the queue it came by (RFC 862 in spirit).
#[derive(Debug, Default)]
pub struct Echo {
    peers: FxHashMap<ConnectionId, Credit>,
    waiting: VecDeque<(ConnectionId, u64, Bytes)>,
}

impl Application for Echo {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        loop {
            // Only one message waits: until it is gone nothing more is taken, so the sender is stopped by flow control.
            if let Some((connection, queue, payload)) = self.waiting.pop_front()
                && let Some(credit) = self.peers.get(&connection)
                && let Err(payload) = port.send_message(connection, credit, queue, payload)
            {
                self.waiting.push_front((connection, queue, payload));
                return worked;
            }
            // A refusal finds room: one delivery brings one command at the most.
            if port.room() == 0 {
                return worked;
            }
            let Some(delivery) = port.receive() else { return worked };
            worked = true;
            match delivery {
                Delivery::Put { request, .. } => refuse_put(port, request),
                Delivery::Connected { connection, credit, .. } => {
                    self.peers.insert(connection, credit);
                }
                Delivery::Closed { connection, .. } => {
                    self.peers.remove(&connection);
                }
                Delivery::Message { connection, queue, payload } => {
                    self.waiting.push_back((connection, queue, payload.to_bytes()));
                }
                _ => {}
            }
        }
    }
}

/// Counts messages and drops them (RFC 863 in spirit). An empty message is answered with what was counted on its connection
/// since the last empty one: bytes and messages, two big-endian 64-bit numbers. That makes it the far end of a benchmark.
#[derive(Debug, Default)]
pub struct Discard {
    peers: FxHashMap<ConnectionId, Tally>,
    waiting: VecDeque<(ConnectionId, u64, Bytes)>,
}

#[derive(Debug)]
struct Tally {
    credit: Credit,
    bytes: u64,
    messages: u64,
}

impl Application for Discard {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        loop {
            if let Some((connection, queue, payload)) = self.waiting.pop_front()
                && let Some(tally) = self.peers.get(&connection)
                && let Err(payload) = port.send_message(connection, &tally.credit, queue, payload)
            {
                self.waiting.push_front((connection, queue, payload));
                return worked;
            }
            if port.room() == 0 {
                return worked;
            }
            let Some(delivery) = port.receive() else { return worked };
            worked = true;
            match delivery {
                Delivery::Put { request, .. } => refuse_put(port, request),
                Delivery::Connected { connection, credit, .. } => {
                    self.peers.insert(connection, Tally { credit, bytes: 0, messages: 0 });
                }
                Delivery::Closed { connection, .. } => {
                    self.peers.remove(&connection);
                }
                Delivery::Message { connection, queue, payload } => {
                    let Some(tally) = self.peers.get_mut(&connection) else { continue };
                    if payload.is_empty() {
                        let mut report = [0; 16];
                        report[..8].copy_from_slice(&tally.bytes.to_be_bytes());
                        report[8..].copy_from_slice(&tally.messages.to_be_bytes());
                        (tally.bytes, tally.messages) = (0, 0);
                        self.waiting.push_back((connection, queue, Bytes::copy_from_slice(&report)));
                    } else {
                        tally.bytes += payload.len() as u64;
                        tally.messages += 1;
                    }
                }
                _ => {}
            }
        }
    }
}

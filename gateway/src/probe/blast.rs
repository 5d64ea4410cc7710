//! The goodput of messages.

use super::links::{LinkUp, Links, Remotes};
use super::report::{Report, Width};
use bytes::Bytes;
use std::sync::mpsc::Sender;
use std::time::Instant;
use stoq::application::Application;
use stoq::queue::{AppPort, ConnectionEvent, Delivery};

/// The most streams that one poll finds blocked.
const STREAMS_ASKED_LEN: usize = 64;

/// Sends messages as fast as flow control allows, to a [`stoq::application::Discard`] that counts them.
#[derive(Debug)]
pub struct Blast {
    queue: u64,
    message: Bytes,
    width: Width,
    bytes: u64,
    links: Links,
    streams: Vec<ProbeStream>,
    /// The stream whose turn it is.
    turn: usize,
    started: Option<Instant>,
    answers: usize,
    counted: (u64, u64),
}

/// One stream of messages. All messages for one queue travel on one stream.
#[derive(Debug)]
struct ProbeStream {
    up: usize,
    queue: u64,
    bytes_left: u64,
    asked: bool,
}

impl Blast {
    /// Sends `bytes` in all, in messages of `message_bytes`, to the discarding application on `queue`. Each stream of a connection has a
    /// queue of its own, counted from `queue`; all must belong to that application.
    pub fn new(
        remotes: impl Into<Remotes>,
        queue: u64,
        message_bytes: usize,
        bytes: u64,
        width: Width,
        reports: Sender<Report>,
    ) -> Self {
        let message = Bytes::from(vec![0x5a; message_bytes]);
        let links = Links::new(remotes, width.connections, reports);
        let (streams, turn, started, answers, counted) = (Vec::new(), 0, None, 0, (0, 0));
        Self { queue, message, width, bytes, links, streams, turn, started, answers, counted }
    }

    fn start(&mut self, now: Instant) {
        if self.started.is_some() {
            return;
        }
        self.started = Some(now);
        let count = self.width.total_streams() as u64;
        let stream = |index: u64| ProbeStream {
            up: (index / self.width.streams as u64) as usize,
            queue: self.queue + index % self.width.streams as u64,
            bytes_left: self.bytes / count + u64::from(index < self.bytes % count),
            asked: false,
        };
        self.streams = (0..count).map(stream).collect();
    }

    /// Sends one message a stream, in turn, until [`STREAMS_ASKED_LEN`] of them, one behind the other, cannot send. The next call goes on with the
    /// next stream: a call costs the same whatever the number of streams.
    fn send(&mut self, port: &mut AppPort) -> bool {
        let (mut worked, mut idle) = (false, 0);
        while idle < self.streams.len().min(STREAMS_ASKED_LEN) {
            let stream = &mut self.streams[self.turn];
            let sent = stream.send(&self.links.up[stream.up], &self.message, port);
            self.turn = (self.turn + 1) % self.streams.len();
            idle = if sent { 0 } else { idle + 1 };
            worked |= sent;
        }
        worked
    }

    fn answered(&mut self, count: u128) {
        self.counted.0 += (count >> 64) as u64;
        self.counted.1 += count as u64;
        self.answers += 1;
        if let Some(started) = self.started
            && self.answers == self.streams.len()
        {
            let ((bytes, messages), elapsed) = (self.counted, started.elapsed());
            self.links.report(Report::Goodput { bytes, messages, elapsed });
        }
    }
}

impl ProbeStream {
    /// Sends the next message, and an empty one after the last. The empty message asks the peer for its count, and arrives after all others
    /// of the stream.
    fn send(&mut self, up: &LinkUp, message: &Bytes, port: &mut AppPort) -> bool {
        if self.asked {
            return false;
        }
        let len = self.bytes_left.min(message.len() as u64);
        if port.send_message(up.connection, &up.credit, self.queue, message.slice(..len as usize)).is_err() {
            return false;
        }
        self.bytes_left -= len;
        self.asked = len == 0;
        true
    }
}

impl Application for Blast {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.links.dial(now, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.links.heard(&delivery);
            self.links.needs("discard", &delivery);
            if let Delivery::Connection(_, ConnectionEvent::Message { payload, .. }) = delivery
                && let Ok(count) = <[u8; 16]>::try_from(&payload.to_bytes()[..])
            {
                self.answered(u128::from_be_bytes(count));
            }
        }
        if self.links.is_ready() {
            self.start(now);
            worked |= self.send(port);
        }
        worked
    }
}

//! Applications that measure: the round trip of a small message, and message goodput. They run on the worker's own thread, so
//! that what they show is the transport and not the scheduler.

use crate::application::Application;
use crate::hop::Route;
use crate::queue::{AppPort, Command, ConnectionId, Credit, Delivery, RequestId};
use crate::record::{Fetch, Record};
use crate::tls::NodeId;
use crate::token::{AnyToken, Ranges};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// What a probe reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The connection is up.
    Connected,
    /// One round trip.
    RoundTrip(Duration),
    /// All messages have arrived at the far application: its own count, and the time from the first to its answer.
    Goodput {
        /// Payload bytes that the far side counted.
        bytes: u64,
        /// Messages that it counted.
        messages: u64,
        /// From the first message's sending to the answer.
        elapsed: Duration,
    },
    /// The probe is over before its end.
    Failed(String),
}

/// A connection being made by a probe.
#[derive(Debug)]
enum Link {
    New,
    Asked,
    Up { connection: ConnectionId, node: Option<NodeId>, credit: Credit },
    Over,
}

impl Link {
    fn connect(&mut self, remote: SocketAddr, port: &mut AppPort) -> bool {
        if matches!(self, Self::New) && port.send(Command::Connect { tag: 0, remote, early: false }).is_ok() {
            *self = Self::Asked;
            return true;
        }
        false
    }

    fn heard(&mut self, delivery: &Delivery, reports: &Sender<Report>) {
        // A receiver that is gone wants no more reports.
        match delivery {
            Delivery::Connected { connection, node, credit, .. } => {
                *self = Self::Up { connection: *connection, node: *node, credit: credit.clone() };
                let _ = reports.send(Report::Connected);
            }
            Delivery::ConnectFailed { reason, .. } | Delivery::Closed { reason, .. } => {
                *self = Self::Over;
                let _ = reports.send(Report::Failed(reason.clone()));
            }
            _ => {}
        }
    }
}

/// Sends a message, waits for its echo, sends the next.
#[derive(Debug)]
pub struct Ping {
    remote: SocketAddr,
    queue: u64,
    payload: Bytes,
    interval: Duration,
    count: u64,
    link: Link,
    sent: Option<Instant>,
    next: Option<Instant>,
    reports: Sender<Report>,
}

impl Ping {
    /// `count` round trips of `payload` to the echo application on `queue`, begun `interval` apart at the least.
    pub fn new(
        remote: SocketAddr,
        queue: u64,
        payload: Bytes,
        interval: Duration,
        count: u64,
        reports: Sender<Report>,
    ) -> Self {
        Self { remote, queue, payload, interval, count, link: Link::New, sent: None, next: None, reports }
    }
}

impl Application for Ping {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.link.connect(self.remote, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.link.heard(&delivery, &self.reports);
            if let Delivery::Message { .. } = delivery
                && let Some(sent) = self.sent.take()
            {
                let _ = self.reports.send(Report::RoundTrip(sent.elapsed()));
                self.next = Some(now + self.interval);
            }
        }
        if let Link::Up { connection, credit, .. } = &self.link
            && self.sent.is_none()
            && self.count > 0
            && self.next.is_none_or(|at| now >= at)
            && port.send_message(*connection, credit, self.queue, self.payload.clone()).is_ok()
        {
            self.count -= 1;
            self.sent = Some(Instant::now());
            worked = true;
        }
        worked
    }
}

/// Sends messages as fast as flow control lets it, to a [`crate::application::Discard`] that counts them.
#[derive(Debug)]
pub struct Blast {
    remote: SocketAddr,
    queue: u64,
    message: Bytes,
    bytes_left: u64,
    started: Option<Instant>,
    asked: bool,
    link: Link,
    reports: Sender<Report>,
}

impl Blast {
    /// Sends `bytes` in messages of `message_bytes` to the discarding application on `queue`.
    pub fn new(
        remote: SocketAddr,
        queue: u64,
        message_bytes: usize,
        bytes: u64,
        reports: Sender<Report>,
    ) -> Self {
        let message = Bytes::from(vec![0x5a; message_bytes]);
        Self {
            remote,
            queue,
            message,
            bytes_left: bytes,
            started: None,
            asked: false,
            link: Link::New,
            reports,
        }
    }
}

impl Application for Blast {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.link.connect(self.remote, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.link.heard(&delivery, &self.reports);
            if let (Delivery::Message { payload, .. }, Some(started)) = (delivery, self.started)
                && let Ok(count) = <[u8; 16]>::try_from(&payload.to_bytes()[..])
            {
                let count = u128::from_be_bytes(count);
                let (bytes, messages) = ((count >> 64) as u64, count as u64);
                let elapsed = started.elapsed();
                let _ = self.reports.send(Report::Goodput { bytes, messages, elapsed });
            }
        }
        let Link::Up { connection, credit, .. } = &self.link else { return worked };
        self.started.get_or_insert(now);
        while self.bytes_left > 0 {
            let len = self.bytes_left.min(self.message.len() as u64);
            if port.send_message(*connection, credit, self.queue, self.message.slice(..len as usize)).is_err()
            {
                return worked;
            }
            self.bytes_left -= len;
            worked = true;
        }
        // An empty message asks the far side for its count: it comes after all others on the same stream.
        if !self.asked && port.send_message(*connection, credit, self.queue, Bytes::new()).is_ok() {
            self.asked = true;
            worked = true;
        }
        worked
    }
}

/// What a [`Pull`] asks for.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The payload.
    pub token: AnyToken,
    /// Which groups of it.
    pub ranges: Ranges,
    /// By which gateways, if not the peer alone.
    pub route: Option<Route>,
    /// Check every byte. Without it the answer is read as a relay reads it: what checking costs is the difference.
    pub verified: bool,
    /// How often, one after the other.
    pub times: u64,
}

/// Fetches, counts and drops. Reports a round trip for each answer, and all of them as goodput.
#[derive(Debug)]
pub struct Pull {
    remote: SocketAddr,
    pulled: Pulled,
    link: Link,
    /// Requests so far.
    asked: u64,
    /// When the request that runs was made.
    running: Option<Instant>,
    started: Option<Instant>,
    bytes: u64,
    reports: Sender<Report>,
}

impl Pull {
    /// From this gateway.
    pub fn new(remote: SocketAddr, pulled: Pulled, reports: Sender<Report>) -> Self {
        let (link, bytes) = (Link::New, 0);
        Self { remote, pulled, link, asked: 0, running: None, started: None, bytes, reports }
    }

    fn ask(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let Link::Up { connection, node, .. } = &self.link else { return false };
        if self.running.is_some() || self.asked == self.pulled.times || port.room() < 4 {
            return false;
        }
        let hop = match self.pulled.route.as_ref().map(|route| route.starting_at(*node)).transpose() {
            Ok(route) => route.map(|route| Box::new(route.hop())),
            Err(error) => {
                let _ = self.reports.send(Report::Failed(error.to_string()));
                self.link = Link::Over;
                return true;
            }
        };
        self.asked += 1;
        let request = RequestId::local(*connection, self.asked);
        let Pulled { token, ranges, verified, .. } = self.pulled.clone();
        let commands = if verified {
            let (lanes, max_bytes, describe, pace) = (None, 0, false, None);
            vec![Command::Fetch { request, hop, token, lanes, ranges, max_bytes, describe, pace }]
        } else {
            let mut front = Vec::new();
            if let Some(hop) = hop {
                hop.emit_record(&mut front);
            }
            Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false }.emit_record(&mut front);
            let (credit, pace) = (Credit::default(), Credit::default());
            vec![
                Command::Open { request, credit, pace },
                Command::Raw { request, bytes: Bytes::from(front).into() },
                Command::Finish { request },
            ]
        };
        // There is room for all of them.
        commands.into_iter().for_each(|command| drop(port.send(command)));
        self.running = Some(now);
        self.started.get_or_insert(now);
        true
    }

    fn answered(&mut self) {
        let (Some(running), Some(started)) = (self.running.take(), self.started) else { return };
        let _ = self.reports.send(Report::RoundTrip(running.elapsed()));
        if self.asked == self.pulled.times {
            let (bytes, messages, elapsed) = (self.bytes, self.asked, started.elapsed());
            let _ = self.reports.send(Report::Goodput { bytes, messages, elapsed });
        }
    }
}

impl Application for Pull {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.link.connect(self.remote, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.link.heard(&delivery, &self.reports);
            match delivery {
                Delivery::Piece { piece, .. } => self.bytes += piece.data.len() as u64,
                Delivery::Raw { bytes, .. } => self.bytes += bytes.len() as u64,
                Delivery::Complete { .. } | Delivery::RawEnd { .. } => self.answered(),
                Delivery::Failed { failure, .. } => {
                    let reason = format!("{}: {}", failure.code.name(), failure.reason());
                    let _ = self.reports.send(Report::Failed(reason));
                }
                _ => {}
            }
        }
        worked | self.ask(now, port)
    }
}

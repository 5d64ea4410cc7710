//! The goodput of payloads that are fetched, and the time of a small fetch.

use super::links::{Links, Remotes};
use super::report::{Report, Width};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::application::{Application, Outbox, Received};
use stoq::client::ClientError;
use stoq::hop::{Route, RouteError};
use stoq::queue::{AppPort, Ask, Command, ConnectionId, Credit, Delivery, End, Ending};
use stoq::record::{Fetch, Routed};
use stoq::token::{AnyToken, Ranges};

/// The fetch that a [`Pull`] repeats.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The payloads: each stream fetches the next of them, and after the last the first again.
    pub tokens: Vec<AnyToken>,
    /// The groups of each payload.
    pub ranges: Ranges,
    /// The gateways on the way; none if the peer itself answers.
    pub route: Option<Route>,
    /// Check every byte. Without the check the answer is read as a relay reads it; the difference is the cost of checking.
    pub verified: bool,
    /// Fetches on each stream, one after another.
    pub times: u64,
}

/// Fetches a payload, counts its bytes and drops them. Reports the time of each answer, and the goodput of all answers at the end.
#[derive(Debug)]
pub struct Pull {
    pulled: Pulled,
    width: Width,
    links: Links,
    streams: Vec<ProbeStream>,
    /// The owner of a request is the index of its stream.
    outbox: Outbox<usize>,
    started: Option<Instant>,
    answers: u64,
    bytes: u64,
    /// The time of each answer.
    trips: Vec<Duration>,
}

/// A sequence of requests, of which one runs at a time.
#[derive(Clone, Debug, Default)]
struct ProbeStream {
    asked: u64,
    /// When the running request was made.
    running: Option<Instant>,
}

impl Pull {
    /// Fetches from the gateway at `remotes`.
    pub fn new(remotes: impl Into<Remotes>, pulled: Pulled, width: Width, reports: Sender<Report>) -> Self {
        let links = Links::new(remotes, width.connections, reports);
        let streams = vec![ProbeStream::default(); width.total_streams()];
        let outbox = Outbox::default();
        Self { pulled, width, links, streams, outbox, started: None, answers: 0, bytes: 0, trips: Vec::new() }
    }

    /// Makes the next request on every idle stream.
    fn ask(&mut self, now: Instant, port: &mut AppPort) -> Result<bool, RouteError> {
        let mut worked = false;
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if stream.running.is_some() || stream.asked == self.pulled.times {
                continue;
            }
            if !self.outbox.flush(port) {
                break;
            }
            let up = &self.links.up[index / self.width.streams];
            stream.asked += 1;
            stream.running = Some(now);
            let route = self.pulled.route.as_ref().map(|route| route.starting_at(up.node)).transpose()?;
            self.pulled.ask(port, &mut self.outbox, up.connection, route, index);
            self.started.get_or_insert(now);
            worked = true;
        }
        Ok(worked)
    }

    fn answered(&mut self, index: usize) {
        let Some(asked_at) = self.streams[index].running.take() else { return };
        self.trips.push(asked_at.elapsed());
        self.answers += 1;
        if let Some(started) = self.started
            && self.answers == self.pulled.times * self.streams.len() as u64
        {
            let (bytes, messages, elapsed) = (self.bytes, self.answers, started.elapsed());
            // A report of each would wake its reader, and its reader may share the core.
            self.links.report(Report::RoundTrips(std::mem::take(&mut self.trips)));
            self.links.report(Report::Goodput { bytes, messages, elapsed });
        }
    }
}

impl Pulled {
    fn ask(
        &self,
        port: &mut AppPort,
        outbox: &mut Outbox<usize>,
        connection: ConnectionId,
        route: Option<Route>,
        index: usize,
    ) {
        let hop = route.map(|route| Box::new(route.hop()));
        let Some(&token) = self.tokens.get(index % self.tokens.len().max(1)) else { return };
        let (ranges, verified) = (self.ranges.clone(), self.verified);
        let fetch = Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false };
        if verified {
            outbox.ask(port, connection, Ask::new(fetch).by(hop), index);
            return;
        }
        let mut front = Vec::new();
        Routed { hop, request: fetch.into() }.emit_records(&mut front);
        let request = outbox.open(port, connection, (Credit::default(), Credit::default()), index);
        outbox.send(port, Command::Bytes(request, front.into()));
        outbox.send(port, Command::End(request, Ending::Finish));
    }
}

impl Application for Pull {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.links.dial(now, port);
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            let (index, delivery) = match received {
                Received::Own(index, delivery) => (index, delivery),
                Received::Other(delivery) => {
                    self.links.heard(&delivery);
                    continue;
                }
            };
            match delivery {
                Delivery::Piece { piece, .. } => self.bytes += piece.data.len() as u64,
                Delivery::Raw(_, bytes) => self.bytes += bytes.len() as u64,
                Delivery::Ended(_, End::Failed(failure)) => {
                    self.links.fail(ClientError::Refused(failure));
                }
                Delivery::Ended(_, End::Silent(silence)) => self.links.fail(ClientError::Silent(silence)),
                Delivery::Ended(..) => self.answered(index),
                _ => {}
            }
        }
        if self.links.is_ready() {
            worked |= self.ask(now, port).unwrap_or_else(|error| {
                self.links.fail(error);
                true
            });
        }
        worked
    }
}

//! The goodput of payloads that are fetched, and the time of a small fetch.

use super::{Links, Remotes, Report, Width};
use bytes::Bytes;
use std::sync::mpsc::Sender;
use std::time::Instant;
use stoq::application::Application;
use stoq::hop::{Route, RouteError};
use stoq::queue::{AppPort, Ask, Command, Credit, Delivery, End, Ending, RequestId};
use stoq::record::{Fetch, Routed};
use stoq::token::{AnyToken, Ranges};

/// Commands that one request takes at most.
const COMMANDS_A_REQUEST: usize = 3;

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
    /// How often on each stream, one after the other.
    pub times: u64,
}

/// Fetches, counts and drops. Reports a round trip for each answer, and all of them as goodput.
#[derive(Debug)]
pub struct Pull {
    pulled: Pulled,
    width: Width,
    links: Links,
    streams: Vec<ProbeStream>,
    started: Option<Instant>,
    answers: u64,
    bytes: u64,
}

/// Requests of which one runs at a time.
#[derive(Clone, Debug, Default)]
struct ProbeStream {
    asked: u64,
    /// The request that runs, and when it was made.
    running: Option<(RequestId, Instant)>,
}

impl Pull {
    /// From this gateway.
    pub fn new(remotes: impl Into<Remotes>, pulled: Pulled, width: Width, reports: Sender<Report>) -> Self {
        let links = Links::new(remotes, width.connections, reports);
        let streams = vec![ProbeStream::default(); width.total_streams()];
        Self { pulled, width, links, streams, started: None, answers: 0, bytes: 0 }
    }

    /// Asks on every stream that has nothing running.
    fn ask(&mut self, now: Instant, port: &mut AppPort) -> Result<bool, RouteError> {
        let mut worked = false;
        let count = self.streams.len() as u64;
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if stream.running.is_some() || stream.asked == self.pulled.times {
                continue;
            }
            if port.room() < COMMANDS_A_REQUEST {
                break;
            }
            let up = &self.links.up[index / self.width.streams];
            let request = RequestId::local(up.connection, index as u64 + stream.asked * count);
            stream.asked += 1;
            stream.running = Some((request, now));
            let route = self.pulled.route.as_ref().map(|route| route.starting_at(up.node)).transpose()?;
            // There is room for all of them.
            for command in self.pulled.commands(request, route) {
                let _ = port.send(command);
            }
            self.started.get_or_insert(now);
            worked = true;
        }
        Ok(worked)
    }

    fn answered(&mut self, request: RequestId) {
        let is_its =
            |stream: &&mut ProbeStream| stream.running.is_some_and(|(running, _)| running == request);
        let Some((_, asked_at)) =
            self.streams.iter_mut().find(is_its).and_then(|stream| stream.running.take())
        else {
            return;
        };
        self.links.report(Report::RoundTrip(asked_at.elapsed()));
        self.answers += 1;
        if let Some(started) = self.started
            && self.answers == self.pulled.times * self.streams.len() as u64
        {
            let (bytes, messages, elapsed) = (self.bytes, self.answers, started.elapsed());
            self.links.report(Report::Goodput { bytes, messages, elapsed });
        }
    }
}

impl Pulled {
    fn commands(&self, request: RequestId, route: Option<Route>) -> Vec<Command> {
        let hop = route.map(|route| Box::new(route.hop()));
        let Self { token, ranges, verified, .. } = self.clone();
        let fetch = Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false };
        if verified {
            return vec![Command::Ask(request, Box::new(Ask::by(hop, fetch)))];
        }
        let mut front = Vec::new();
        Routed { hop, request: fetch.into() }.emit_records(&mut front);
        let (credit, pace) = (Credit::default(), Credit::default());
        vec![
            Command::Open { request, credit, pace },
            Command::Bytes(request, Bytes::from(front).into()),
            Command::End(request, Ending::Finish),
        ]
    }
}

impl Application for Pull {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.links.dial(now, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.links.heard(&delivery);
            match delivery {
                Delivery::Piece { piece, .. } => self.bytes += piece.data.len() as u64,
                Delivery::Raw(_, bytes) => self.bytes += bytes.len() as u64,
                Delivery::Ended(_, End::Failed(failure)) => {
                    self.links.fail(format!("{}: {}", failure.code.name(), failure.reason()));
                }
                Delivery::Ended(request, _) => self.answered(request),
                _ => {}
            }
        }
        if self.links.is_ready() {
            worked |= self.ask(now, port).unwrap_or_else(|error| {
                self.links.fail(error.to_string());
                true
            });
        }
        worked
    }
}

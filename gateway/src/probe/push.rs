//! The goodput of payloads that are put.

use super::links::{Links, Remotes};
use super::report::{ProbeError, Report, Width};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;
use stoq::application::{Application, Outbox, Received};
use stoq::client::{ClientError, Prepared, PutSource};
use stoq::hop::Route;
use stoq::queue::{Answer, AppPort, Ask, Command, Credit, Delivery, End, Ending, RequestId};
use stoq::record::{ErrorCode, Put};

/// Puts one payload on every stream, to a [`stoq::application::Discard`] that receives and drops it.
pub struct Push {
    queue: u64,
    payload: Arc<Prepared>,
    route: Option<Route>,
    width: Width,
    links: Links,
    streams: Vec<ProbeStream>,
    /// The owner of a request is the index of its stream.
    outbox: Outbox<usize>,
    started: Option<Instant>,
    answers: usize,
}

/// One PUT.
struct ProbeStream {
    request: RequestId,
    credit: Credit,
    state: State,
    unsent: VecDeque<Bytes>,
}

/// The progress of a PUT.
enum State {
    /// The peer has not accepted the PUT yet.
    Asked,
    /// The peer has accepted the PUT; the source has more to read.
    Sending(PutSource<Arc<Prepared>>),
    /// All bytes are handed to the ring.
    Sent,
}

impl Push {
    /// Puts `payload` once on each stream of `width`, to the discarding application on `queue` of the peer, or of the last gateway of `route`.
    pub fn new(
        remotes: impl Into<Remotes>,
        queue: u64,
        payload: Arc<Prepared>,
        route: Option<Route>,
        width: Width,
        reports: Sender<Report>,
    ) -> Self {
        let links = Links::new(remotes, width.connections, reports);
        let (streams, outbox) = (Vec::new(), Outbox::default());
        Self { queue, payload, route, width, links, streams, outbox, started: None, answers: 0 }
    }

    fn start(&mut self, now: Instant, port: &mut AppPort) -> Result<bool, ClientError> {
        if self.streams.len() == self.width.total_streams() {
            return Ok(false);
        }
        self.started.get_or_insert(now);
        while self.streams.len() < self.width.total_streams() && port.room() > 0 {
            let index = self.streams.len();
            let up = &self.links.up[index / self.width.streams];
            let route = self.route.as_ref().map(|route| route.starting_at(up.node)).transpose()?;
            let hop = route.map(|route| Box::new(route.hop()));
            let credit = Credit::default();
            let ask = Ask::new(self.put()?).by(hop).with_credit(credit.clone());
            let request = self.outbox.ask(port, up.connection, ask, index);
            self.streams.push(ProbeStream { request, credit, state: State::Asked, unsent: VecDeque::new() });
        }
        Ok(true)
    }

    fn put(&self) -> Result<Put, ClientError> {
        Ok(Put { queue: self.queue, lease_s: 0, descriptor: self.payload.descriptor()?, lanes: None })
    }

    fn answered(&mut self, index: usize, delivery: Delivery) -> Result<(), ClientError> {
        match delivery {
            Delivery::Answered(_, Answer::Ok(_)) => {
                let payload = self.payload.clone();
                let source = PutSource::new(payload, &self.put()?)?;
                self.streams[index].state = State::Sending(source);
            }
            // A discarding application ends a PUT that it has received whole with "not found", since it keeps nothing.
            Delivery::Ended(_, End::Failed(failure)) => {
                let sent = matches!(self.streams[index].state, State::Sent);
                let reason = failure.reason().to_string();
                if failure.code != ErrorCode::NotFound || !sent {
                    self.links.fail(ClientError::Refused(failure));
                    return Ok(());
                }
                self.answers += 1;
                if let Some(started) = self.started
                    && self.answers == self.width.total_streams()
                {
                    let (messages, elapsed) = (self.answers as u64, started.elapsed());
                    let bytes = self.payload.length * messages;
                    self.links.report(Report::Dropped(reason));
                    self.links.report(Report::Goodput { bytes, messages, elapsed });
                }
            }
            Delivery::Ended(_, End::Silent(silence)) => self.links.fail(ClientError::Silent(silence)),
            Delivery::Answered(_, Answer::Done(_)) => {
                self.links.fail(ProbeError::Keeps(self.queue));
            }
            _ => {}
        }
        Ok(())
    }

    fn turn(&mut self, now: Instant, port: &mut AppPort) -> Result<bool, ClientError> {
        let mut worked = self.links.dial(now, port);
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            match received {
                Received::Own(index, delivery) => self.answered(index, delivery)?,
                Received::Other(delivery) => self.links.heard(&delivery),
            }
        }
        if self.links.is_ready() {
            worked |= self.start(now, port)?;
            for stream in &mut self.streams {
                worked |= stream.send(port)?;
            }
        }
        Ok(worked)
    }
}

impl ProbeStream {
    /// Sends as much as the ring and the credit allow.
    fn send(&mut self, port: &mut AppPort) -> Result<bool, ClientError> {
        let mut worked = false;
        while let State::Sending(source) = &mut self.state {
            let Some(bytes) = self.unsent.pop_front() else {
                match source.next_batch()? {
                    Some(batch) => self.unsent = batch.into(),
                    None if port.send(Command::End(self.request, Ending::Finish)).is_ok() => {
                        self.state = State::Sent;
                    }
                    None => break,
                }
                continue;
            };
            if let Err(bytes) = port.send_data(self.request, &self.credit, bytes) {
                self.unsent.push_front(bytes);
                break;
            }
            worked = true;
        }
        Ok(worked)
    }
}

impl Application for Push {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        self.turn(now, port).unwrap_or_else(|error| {
            self.links.fail(error);
            true
        })
    }
}

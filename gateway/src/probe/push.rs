//! The goodput of payloads that are put, and the time of each put.

use super::links::{Links, Remotes};
use super::report::{ProbeError, Report, Width};
use bytes::Bytes;
use rand::RngCore;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::application::{Application, Outbox, Received};
use stoq::client::{ClientError, Prepared, PutSource};
use stoq::hop::Route;
use stoq::queue::{Answer, AppPort, Ask, Command, Credit, Delivery, End, Ending, RequestId};
use stoq::record::{ErrorCode, ErrorRecord, Put};

/// The first bytes of a payload to be kept, which no other has.
const OWN_BYTES: usize = 16;
/// Payloads up to this length have all other bytes in common; longer ones are drawn whole.
const SHARED_BYTES_MAX: usize = 1 << 20;

/// The put that a [`Push`] repeats.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The queue of the peer's application, or of that of the last gateway on the way.
    pub queue: u64,
    /// What is put.
    pub payload: PushedPayload,
    /// The gateways on the way; none if the peer itself answers.
    pub route: Option<Route>,
    /// Puts on each stream, one after another.
    pub times: u64,
}

/// What is put, and what becomes of it.
#[derive(Clone, Debug)]
pub enum PushedPayload {
    /// The same payload each time, to a [`stoq::application::Discard`] that receives and drops it.
    Dropped(Arc<Prepared>),
    /// Payloads of random bytes, each with first bytes of its own, to an application that keeps them.
    Kept {
        /// Bytes of each.
        len: usize,
        /// The lease that is asked for, seconds.
        lease_s: u64,
    },
}

/// Puts payloads. Reports the time of each put that is kept, and the goodput of all at the end.
pub struct Push {
    pushed: Pushed,
    width: Width,
    links: Links,
    streams: Vec<ProbeStream>,
    /// The streams without a PUT that have one to make.
    idle: Vec<usize>,
    /// The streams whose PUT has bytes to send.
    sending: Vec<usize>,
    /// The owner of a request is the index of its stream.
    outbox: Outbox<usize>,
    payloads: Payloads,
    started: Option<Instant>,
    answers: u64,
    bytes: u64,
    /// The time of each PUT that is kept.
    trips: Vec<Duration>,
}

/// Makes the payloads.
struct Payloads {
    payload: PushedPayload,
    /// The bytes that short payloads to be kept have in common.
    random: Vec<u8>,
}

/// A sequence of PUTs, of which one runs at a time.
struct ProbeStream {
    asked: u64,
    /// The payload of the first PUT, prepared before the first connection; large ones take their time.
    first: Option<Arc<Prepared>>,
    running: Option<RunningPut>,
}

/// One PUT.
struct RunningPut {
    asked_at: Instant,
    payload: Arc<Prepared>,
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

impl Payloads {
    fn new(payload: PushedPayload) -> Self {
        let mut random = Vec::new();
        if let PushedPayload::Kept { len: len @ ..=SHARED_BYTES_MAX, .. } = payload {
            random.resize(len, 0);
            rand::rng().fill_bytes(&mut random);
        }
        Self { payload, random }
    }

    /// The payload of the next PUT. Of a short one random bytes are drawn for its start alone: drawing all would take longer than hashing them.
    fn next(&self) -> Arc<Prepared> {
        let len = match &self.payload {
            PushedPayload::Dropped(payload) => return payload.clone(),
            PushedPayload::Kept { len, .. } => *len,
        };
        let is_short = len <= SHARED_BYTES_MAX;
        let mut bytes = if is_short { self.random.clone() } else { vec![0; len] };
        let drawn = if is_short { len.min(OWN_BYTES) } else { len };
        rand::rng().fill_bytes(&mut bytes[..drawn]);
        Arc::new(Prepared::bytes(bytes))
    }
}

impl Pushed {
    fn put(&self, payload: &Prepared) -> Result<Put, ClientError> {
        let lease_s = if let PushedPayload::Kept { lease_s, .. } = self.payload { lease_s } else { 0 };
        Ok(Put { queue: self.queue, lease_s, descriptor: payload.descriptor()?, lanes: None })
    }
}

impl Push {
    /// Puts to the gateway at `remotes`.
    pub fn new(remotes: impl Into<Remotes>, pushed: Pushed, width: Width, reports: Sender<Report>) -> Self {
        let payloads = Payloads::new(pushed.payload.clone());
        let stream = |_| ProbeStream { asked: 0, first: Some(payloads.next()), running: None };
        let streams: Vec<_> = (0..width.total_streams()).map(stream).collect();
        Self {
            links: Links::new(remotes, width.connections, reports),
            idle: if pushed.times == 0 { Vec::new() } else { (0..streams.len()).rev().collect() },
            pushed,
            width,
            streams,
            sending: Vec::new(),
            outbox: Outbox::default(),
            payloads,
            started: None,
            answers: 0,
            bytes: 0,
            trips: Vec::new(),
        }
    }

    /// Makes the next PUT on every idle stream.
    fn ask(&mut self, now: Instant, port: &mut AppPort) -> Result<bool, ClientError> {
        let mut worked = false;
        while port.room() > 0
            && let Some(index) = self.idle.pop()
        {
            let stream = &mut self.streams[index];
            self.started.get_or_insert(now);
            let payload = stream.first.take().unwrap_or_else(|| self.payloads.next());
            let up = &self.links.up[index / self.width.streams];
            let route = self.pushed.route.as_ref().map(|route| route.starting_at(up.node)).transpose()?;
            let hop = route.map(|route| Box::new(route.hop()));
            let credit = Credit::default();
            let ask = Ask::new(self.pushed.put(&payload)?).by(hop).with_credit(credit.clone());
            let request = self.outbox.ask(port, up.connection, ask, index);
            stream.asked += 1;
            let (state, unsent) = (State::Asked, VecDeque::new());
            stream.running = Some(RunningPut { asked_at: now, payload, request, credit, state, unsent });
            worked = true;
        }
        Ok(worked)
    }

    fn answered(&mut self, index: usize, delivery: Delivery) -> Result<(), ClientError> {
        let Some(running) = &mut self.streams[index].running else { return Ok(()) };
        match delivery {
            Delivery::Answered(_, Answer::Ok(_)) => {
                let payload = running.payload.clone();
                let put = self.pushed.put(&payload)?;
                running.state = State::Sending(PutSource::new(payload, &put)?);
                self.sending.push(index);
            }
            Delivery::Answered(_, Answer::Done(_)) => match self.pushed.payload {
                PushedPayload::Kept { .. } => self.over(index, None),
                PushedPayload::Dropped(_) => self.links.fail(ProbeError::Keeps(self.pushed.queue)),
            },
            // A discarding application ends a PUT that it has received whole with "not found", since it keeps nothing.
            Delivery::Ended(_, End::Failed(failure)) => {
                let is_dropped = failure.code == ErrorCode::NotFound && matches!(running.state, State::Sent);
                match self.pushed.payload {
                    PushedPayload::Dropped(_) if is_dropped => self.over(index, Some(&failure)),
                    PushedPayload::Kept { .. } if is_dropped => {
                        self.links.fail(ProbeError::Drops(self.pushed.queue));
                    }
                    _ => self.links.fail(ClientError::Refused(failure)),
                }
            }
            Delivery::Ended(_, End::Silent(silence)) => self.links.fail(ClientError::Silent(silence)),
            _ => {}
        }
        Ok(())
    }

    /// A PUT has ended as it should: kept, or dropped with these words.
    fn over(&mut self, index: usize, dropped: Option<&ErrorRecord>) {
        let stream = &mut self.streams[index];
        let Some(put) = stream.running.take() else { return };
        if stream.asked < self.pushed.times {
            self.idle.push(index);
        }
        if dropped.is_none() {
            self.trips.push(put.asked_at.elapsed());
        }
        self.answers += 1;
        self.bytes += put.payload.length;
        if let Some(started) = self.started
            && self.answers == self.pushed.times * self.streams.len() as u64
        {
            let (bytes, messages, elapsed) = (self.bytes, self.answers, started.elapsed());
            if let Some(failure) = dropped {
                self.links.report(Report::Dropped(failure.reason().to_string()));
            }
            // A report of each would wake its reader, and its reader shares the core.
            self.links.report(Report::RoundTrips(std::mem::take(&mut self.trips)));
            self.links.report(Report::Goodput { bytes, messages, elapsed });
        }
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
            worked |= self.ask(now, port)?;
            worked |= self.send(port)?;
        }
        Ok(worked)
    }

    /// Sends what the ring and the credits allow.
    fn send(&mut self, port: &mut AppPort) -> Result<bool, ClientError> {
        let mut worked = false;
        let mut at = 0;
        while let Some(&index) = self.sending.get(at) {
            let mut is_sending = false;
            if let Some(put) = &mut self.streams[index].running {
                worked |= put.send(port)?;
                is_sending = matches!(put.state, State::Sending(_));
            }
            if is_sending {
                at += 1;
            } else {
                self.sending.swap_remove(at);
            }
        }
        Ok(worked)
    }
}

impl RunningPut {
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

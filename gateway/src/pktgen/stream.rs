//! Messages at a rate on many connections, to an application that counts and drops them.

use super::Pace;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::application::Application;
use stoq::client::{ClientError, DialFailure};
use stoq::queue::{AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery};

/// The most messages made in one turn.
const TURN_LEN_MAX: u64 = 64;

/// Opens connections, then sends messages at a rate on each in turn to a [`stoq::application::Discard`], and
/// requests its count at the end.
///
/// Streams lose nothing: a path that is too slow shows as messages that flow control did not take, which are `refused`.
#[derive(Debug)]
pub struct MessageStream {
    plan: StreamPlan,
    message: Bytes,
    connections: Vec<Link>,
    asked: usize,
    /// The index of the connection that sends next.
    next: usize,
    begun: Option<Instant>,
    pace: Option<Pace>,
    ended: Option<Instant>,
    report: StreamReport,
    reports: Option<Sender<StreamReport>>,
}

/// The plan of the messages.
#[derive(Clone, Copy, Debug)]
pub struct StreamPlan {
    /// A gateway with a discard application on [`StreamPlan::queue`].
    pub remote: SocketAddr,
    /// That queue.
    pub queue: u64,
    /// Bytes of each message.
    pub message_bytes: usize,
    /// Connections, which send in turn.
    pub connections: usize,
    /// Messages a second, all connections together; 0: as many as flow control takes.
    pub rate_per_s: f64,
    /// The number of messages; none: as many as the time allows.
    pub count: Option<u64>,
    /// The longest sending time.
    pub duration: Duration,
    /// How long the connections may take to come up, and the gateway to count the messages in flight at the end.
    pub patience: Duration,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    credit: Credit,
    counted: bool,
    /// Its count is requested.
    asked: bool,
}

/// Why the result of the messages is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A connection was refused or lost.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Some connections came up too late.
    #[error("{came} of {wanted} connections to {remote} came up within {} s; give fewer --connections, or a longer --patience", .patience.as_secs_f32())]
    Late {
        /// Connections that came up.
        came: usize,
        /// The planned connections.
        wanted: usize,
        /// The gateway.
        remote: SocketAddr,
        /// The time given.
        patience: Duration,
    },
    /// The gateway's application has not counted the messages in time.
    #[error("{remote} did not count the messages within {} s: does the gateway have a discard application on queue {queue}?", .patience.as_secs_f32())]
    Uncounted {
        /// The gateway.
        remote: SocketAddr,
        /// The queue.
        queue: u64,
        /// The time given.
        patience: Duration,
    },
}

/// The result of the messages.
#[derive(Debug, Default)]
pub struct StreamReport {
    /// Connections that came up.
    pub connections: u64,
    /// Messages at the planned rate; without a rate, those that were sent.
    pub intended: u64,
    /// Taken by the connections.
    pub sent: u64,
    /// Not taken in time: flow control or congestion control of every connection held them back.
    pub refused: u64,
    /// Never made in time: this side was too slow.
    pub late: u64,
    /// Counted by the gateway's application.
    pub received: u64,
    /// Bytes of these messages.
    pub received_bytes: u64,
    /// From the first message to the end of the sending.
    pub elapsed: Duration,
    /// From the end of the sending to the last count: the time of the messages in flight.
    pub drain: Duration,
    /// Why the result is incomplete.
    pub failure: Option<StreamError>,
}

impl MessageStream {
    /// Sends messages by this plan.
    pub fn new(plan: StreamPlan, reports: Sender<StreamReport>) -> Self {
        Self {
            plan,
            message: Bytes::from(vec![0x5a; plan.message_bytes]),
            connections: Vec::with_capacity(plan.connections),
            asked: 0,
            next: 0,
            begun: None,
            pace: None,
            ended: None,
            report: StreamReport::default(),
            reports: Some(reports),
        }
    }

    fn hear(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            match delivery {
                Delivery::Connection(id, ConnectionEvent::Connected { credit, tag: Some(_), .. }) => {
                    self.connections.push(Link { id, credit, counted: false, asked: false });
                }
                Delivery::Connection(connection, ConnectionEvent::Message { payload, .. }) => {
                    let link = self.connections.iter_mut().find(|link| link.id == connection);
                    if let (Some(link), Ok(count)) = (link, <[u8; 16]>::try_from(&payload.to_bytes()[..])) {
                        let count = u128::from_be_bytes(count);
                        link.counted = true;
                        self.report.received_bytes += (count >> 64) as u64;
                        self.report.received += count as u64;
                    }
                }
                Delivery::ConnectFailed { reason, .. } => {
                    let (address, remote) = (self.plan.remote, self.plan.remote.to_string());
                    let failures = vec![DialFailure { address, reason }];
                    self.fail(ClientError::Connect { remote, failures });
                }
                Delivery::Connection(_, ConnectionEvent::Closed { reason }) => {
                    self.fail(ClientError::Lost { remote: self.plan.remote, reason });
                }
                _ => {}
            }
        }
        worked
    }

    /// Notes the first failure.
    fn fail(&mut self, failure: impl Into<StreamError>) {
        self.report.failure.get_or_insert_with(|| failure.into());
    }

    fn connect(&mut self, port: &mut AppPort) -> bool {
        let before = self.asked;
        while self.asked < self.plan.connections {
            let command = Command::Connect { tag: self.asked as u64, remote: self.plan.remote, early: false };
            if port.send(command).is_err() {
                break;
            }
            self.asked += 1;
        }
        self.asked > before
    }

    fn send(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let pace = self.pace.get_or_insert_with(|| Pace::new(self.plan.rate_per_s, now));
        let left = self.plan.count.map_or(u64::MAX, |count| count - self.report.sent);
        let due = pace.due(now, left.min(TURN_LEN_MAX));
        let (mut sent, mut full) = (0, 0);
        while sent < due && full < self.connections.len() {
            let Link { id, credit, .. } = &self.connections[self.next];
            self.next = (self.next + 1) % self.connections.len();
            match port.send_message(*id, credit, self.plan.queue, self.message.clone()) {
                Ok(()) => (sent, full) = (sent + 1, 0),
                Err(_) => full += 1,
            }
        }
        pace.made(sent);
        self.report.sent += sent;
        let given_up = pace.give_up(now);
        // Messages are refused only if every connection held them back.
        if full >= self.connections.len() {
            self.report.refused += given_up;
        } else {
            self.report.late += given_up;
        }
        sent > 0
    }

    /// Requests each connection's count by an empty message, which arrives after all others on the stream.
    fn ask(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        for link in self.connections.iter_mut().filter(|link| !link.asked) {
            link.asked = port.send_message(link.id, &link.credit, self.plan.queue, Bytes::new()).is_ok();
            worked |= link.asked;
        }
        worked
    }

    fn finish(&mut self, now: Instant) {
        self.report.connections = self.connections.len() as u64;
        if let Some(ended) = self.ended {
            self.report.drain = now - ended;
        }
        if let Some(reports) = self.reports.take() {
            // A dropped receiver needs no report.
            let _ = reports.send(std::mem::take(&mut self.report));
        }
    }
}

impl Application for MessageStream {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.hear(port);
        if self.reports.is_none() {
            return worked;
        }
        let begun = *self.begun.get_or_insert(now);
        if self.report.failure.is_some() {
            self.finish(now);
            return true;
        }
        if self.connections.len() < self.plan.connections {
            worked |= self.connect(port);
            if now >= begun + self.plan.patience {
                let (came, StreamPlan { remote, patience, connections: wanted, .. }) =
                    (self.connections.len(), self.plan);
                self.fail(StreamError::Late { came, wanted, remote, patience });
            }
            return worked;
        }
        if self.ended.is_none() {
            // The last turn sends as well, or its due messages would count as not sent.
            worked |= self.send(now, port);
            let started = self.pace.as_ref().map(Pace::started);
            let counted = self.plan.count == Some(self.report.sent);
            if !counted && started.is_none_or(|started| now < started + self.plan.duration) {
                return worked;
            }
        }
        let ended = *self.ended.get_or_insert(now);
        if let (Some(pace), true) = (&self.pace, ended == now) {
            self.report.elapsed = now - pace.started();
            self.report.intended = pace.intended(now).unwrap_or(self.report.sent);
        }
        worked |= self.ask(port);
        if self.connections.iter().all(|link| link.counted) {
            self.finish(now);
        } else if now >= ended + self.plan.patience {
            let StreamPlan { remote, queue, patience, .. } = self.plan;
            self.fail(StreamError::Uncounted { remote, queue, patience });
        }
        worked
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.reports.as_ref()?;
        let waits = self.ended.or(self.begun).map(|at| at + self.plan.patience);
        if self.ended.is_some() { waits } else { self.pace.as_ref().map_or(waits, Pace::next) }
    }
}

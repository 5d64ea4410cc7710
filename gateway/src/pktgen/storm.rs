//! Handshakes: each opens a connection, which is closed as soon as both sides have it.

use super::Pace;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use stoq::application::Application;
use stoq::client::{ClientError, CloseReason, DialFailure};
use stoq::queue::{AppPort, Command, ConnectionCommand, ConnectionEvent, ConnectionId, Credit, Delivery};

/// Deliveries and commands that one handshake has on the rings at a time, with some to spare.
const ROOM: usize = 8;

/// Opens connections at a rate, with a bound on the opening ones, and closes each when it is up. Reports
/// once, at the end.
///
/// A client has a connection before its server has verified its certificate (RFC 8446 §4.4.2), and a close then
/// would spare the server the rest of the handshake. Therefore each connection requests the count of a
/// [`stoq::application::Discard`], which is 0, and is complete when the answer has arrived.
#[derive(Debug)]
pub struct Storm {
    plan: StormPlan,
    pace: Option<Pace>,
    ended: Option<Instant>,
    /// Requested, not yet up.
    running: FxHashMap<u64, Instant>,
    /// Up, and not yet answered.
    up: FxHashMap<ConnectionId, Instant>,
    asking: VecDeque<(ConnectionId, Credit)>,
    closing: VecDeque<ConnectionId>,
    report: StormReport,
    reports: Option<Sender<StormReport>>,
}

/// The plan of a storm.
#[derive(Clone, Copy, Debug)]
pub struct StormPlan {
    /// A gateway with a discard application on [`StormPlan::queue`].
    pub remote: SocketAddr,
    /// That queue.
    pub queue: u64,
    /// Handshakes a second; 0: the highest possible rate.
    pub rate_per_s: f64,
    /// The most that open at one time.
    pub concurrency: usize,
    /// The number of handshakes; none: as many as the time allows.
    pub count: Option<u64>,
    /// How long new handshakes are begun.
    pub duration: Duration,
    /// How much longer running handshakes may then take.
    pub patience: Duration,
}

/// The result of a storm.
#[derive(Debug, Default)]
pub struct StormReport {
    /// Handshakes at the planned rate; without a rate, those that were begun.
    pub intended: u64,
    /// Begun.
    pub begun: u64,
    /// Begun and completed: each side has verified the other, and the server's application has answered.
    pub completed: u64,
    /// Begun and refused or timed out.
    pub failed: u64,
    /// Begun and still running at the end.
    pub unfinished: u64,
    /// The last failure.
    pub failure: Option<ClientError>,
    /// From the request to the connection on this side.
    pub trips: Vec<Duration>,
    /// From the first handshake's beginning to the end of the last.
    pub elapsed: Duration,
}

impl Storm {
    /// Makes a storm of this plan.
    pub fn new(plan: StormPlan, reports: Sender<StormReport>) -> Self {
        Self {
            plan,
            pace: None,
            ended: None,
            running: FxHashMap::default(),
            up: FxHashMap::default(),
            asking: VecDeque::new(),
            closing: VecDeque::new(),
            report: StormReport::default(),
            reports: Some(reports),
        }
    }

    fn hear(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            match delivery {
                Delivery::Connection(
                    connection,
                    ConnectionEvent::Connected { tag: Some(tag), credit, .. },
                ) => {
                    if let Some(asked) = self.running.remove(&tag) {
                        self.report.trips.push(now - asked);
                        self.up.insert(connection, asked);
                        self.asking.push_back((connection, credit));
                    }
                }
                Delivery::Connection(connection, ConnectionEvent::Message { .. })
                    if self.up.remove(&connection).is_some() =>
                {
                    self.report.completed += 1;
                    self.closing.push_back(connection);
                }
                Delivery::ConnectFailed { tag, reason } if self.running.remove(&tag).is_some() => {
                    self.failed(Self::unconnected(self.plan.remote, reason));
                }
                Delivery::Connection(connection, ConnectionEvent::Closed { reason })
                    if self.up.remove(&connection).is_some() =>
                {
                    self.failed(ClientError::Lost { remote: self.plan.remote, reason });
                }
                _ => {}
            }
        }
        worked
    }

    fn unconnected(address: SocketAddr, reason: CloseReason) -> ClientError {
        ClientError::Connect { remote: address.to_string(), failures: vec![DialFailure { address, reason }] }
    }

    fn failed(&mut self, failure: ClientError) {
        self.report.failed += 1;
        self.report.failure = Some(failure);
    }

    fn ask(&mut self, port: &mut AppPort) -> bool {
        let before = self.asking.len();
        while let Some((connection, credit)) = self.asking.front()
            && port.send_message(*connection, credit, self.plan.queue, Bytes::new()).is_ok()
        {
            self.asking.pop_front();
        }
        self.asking.len() < before
    }

    /// Unfinished handshakes.
    fn unfinished(&self) -> usize {
        self.running.len() + self.up.len()
    }

    fn close(&mut self, port: &mut AppPort) -> bool {
        let before = self.closing.len();
        while let Some(&connection) = self.closing.front()
            && port.send(Command::On(connection, ConnectionCommand::Disconnect)).is_ok()
        {
            self.closing.pop_front();
        }
        self.closing.len() < before
    }

    fn begin(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let unfinished = self.unfinished();
        let pace = self.pace.get_or_insert_with(|| Pace::new(self.plan.rate_per_s, now));
        let left = self.plan.count.map_or(u64::MAX, |count| count - self.report.begun);
        let free = self.plan.concurrency.saturating_sub(unfinished).min(port.room().saturating_sub(ROOM));
        let due = pace.due(now, left.min(free as u64));
        for _ in 0..due {
            let tag = self.report.begun;
            // The ring has room for `free` commands.
            if port.send(Command::Connect { tag, remote: self.plan.remote, early: false }).is_err() {
                break;
            }
            self.running.insert(tag, now);
            self.report.begun += 1;
            pace.made(1);
        }
        due > 0
    }

    fn over(&mut self, now: Instant) {
        let Some(pace) = &self.pace else { return };
        let asked = self.plan.count == Some(self.report.begun);
        if self.ended.is_none() && (asked || now >= pace.started() + self.plan.duration) {
            self.ended = Some(now);
            let intended = pace.intended(now).unwrap_or(self.report.begun);
            self.report.intended = self.plan.count.map_or(intended, |count| intended.min(count));
        }
        let Some(ended) = self.ended else { return };
        if (self.unfinished() == 0 || now >= ended + self.plan.patience)
            && let Some(reports) = self.reports.take()
        {
            self.report.unfinished = self.unfinished() as u64;
            self.report.elapsed = now - pace.started();
            // A dropped receiver needs no report.
            let _ = reports.send(std::mem::take(&mut self.report));
        }
    }
}

impl Application for Storm {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.hear(now, port);
        if self.reports.is_some() && self.ended.is_none() {
            // Due handshakes begin before the end is noted, or the last of them would count as not begun.
            worked |= self.begin(now, port);
        }
        if self.reports.is_some() {
            self.over(now);
        }
        worked |= self.ask(port);
        worked | self.close(port)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.reports.as_ref()?;
        match (self.ended, &self.pace) {
            (Some(ended), _) => Some(ended + self.plan.patience),
            (None, Some(pace)) if self.unfinished() < self.plan.concurrency => pace.next(),
            (None, Some(pace)) => Some(pace.started() + self.plan.duration),
            (None, None) => None,
        }
    }
}

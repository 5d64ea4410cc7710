//! Handshakes, one connection each, closed as soon as it is up.

use super::Pace;
use crate::application::Application;
use crate::queue::{AppPort, Command, ConnectionId, Delivery};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Deliveries and commands that one handshake has on the rings at a time, with some to spare.
const ROOM: usize = 8;

/// Opens connections at a rate, so many at a time, and closes each when it is up. Says once what came of them.
#[derive(Debug)]
pub struct Storm {
    remote: SocketAddr,
    rate_per_s: f64,
    concurrency: usize,
    /// So many and no more; none: as many as the time allows.
    count: Option<u64>,
    duration: Duration,
    /// How long those that run at the end may take.
    patience: Duration,
    pace: Option<Pace>,
    ended: Option<Instant>,
    running: FxHashMap<u64, Instant>,
    closing: VecDeque<ConnectionId>,
    report: StormReport,
    reports: Option<Sender<StormReport>>,
}

/// What came of a storm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StormReport {
    /// Handshakes that the rate asked for; without a rate, those that were begun.
    pub intended: u64,
    /// Begun.
    pub begun: u64,
    /// Begun and completed: the server has authenticated itself, and this side has shown who it is.
    pub completed: u64,
    /// Begun and refused or timed out.
    pub failed: u64,
    /// Begun and still running when patience was over.
    pub unfinished: u64,
    /// Why the last one that failed did.
    pub reason: Option<String>,
    /// From the asking to the connection, those that were completed.
    pub trips: Vec<Duration>,
    /// From the first handshake's beginning to the end of the last.
    pub elapsed: Duration,
}

impl Storm {
    /// `rate_per_s` handshakes a second (0: as many as can be) with `remote`, `concurrency` at a time at the most, for `duration`
    /// or `count` of them. What runs then may take `patience` more.
    pub fn new(
        remote: SocketAddr,
        rate_per_s: f64,
        concurrency: usize,
        count: Option<u64>,
        duration: Duration,
        patience: Duration,
        reports: Sender<StormReport>,
    ) -> Self {
        Self {
            remote,
            rate_per_s,
            concurrency,
            count,
            duration,
            patience,
            pace: None,
            ended: None,
            running: FxHashMap::default(),
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
                Delivery::Connected { connection, tag: Some(tag), .. } => {
                    if let Some(asked) = self.running.remove(&tag) {
                        self.report.completed += 1;
                        self.report.trips.push(now - asked);
                    }
                    self.closing.push_back(connection);
                }
                Delivery::ConnectFailed { tag, reason } if self.running.remove(&tag).is_some() => {
                    self.report.failed += 1;
                    self.report.reason = Some(reason);
                }
                _ => {}
            }
        }
        worked
    }

    fn close(&mut self, port: &mut AppPort) -> bool {
        let before = self.closing.len();
        while let Some(&connection) = self.closing.front()
            && port.send(Command::Disconnect { connection }).is_ok()
        {
            self.closing.pop_front();
        }
        self.closing.len() < before
    }

    fn begin(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let pace = self.pace.get_or_insert_with(|| Pace::new(self.rate_per_s, now));
        let left = self.count.map_or(u64::MAX, |count| count - self.report.begun);
        let free = self.concurrency.saturating_sub(self.running.len()).min(port.room().saturating_sub(ROOM));
        let due = pace.due(now, left.min(free as u64));
        for _ in 0..due {
            let tag = self.report.begun;
            // There is room.
            if port.send(Command::Connect { tag, remote: self.remote, early: false }).is_err() {
                break;
            }
            self.running.insert(tag, now);
            self.report.begun += 1;
            pace.made(1);
        }
        due > 0
    }

    fn over(&mut self, now: Instant) -> bool {
        let Some(pace) = &self.pace else { return false };
        let asked = self.count == Some(self.report.begun);
        if self.ended.is_none() && (asked || now >= pace.started() + self.duration) {
            self.ended = Some(now);
            let intended = pace.intended(now).unwrap_or(self.report.begun);
            self.report.intended = self.count.map_or(intended, |count| intended.min(count));
        }
        let Some(ended) = self.ended else { return false };
        if (self.running.is_empty() || now >= ended + self.patience)
            && let Some(reports) = self.reports.take()
        {
            self.report.unfinished = self.running.len() as u64;
            self.report.elapsed = now - pace.started();
            // A receiver that is gone wants no report.
            let _ = reports.send(std::mem::take(&mut self.report));
        }
        true
    }
}

impl Application for Storm {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.hear(now, port);
        if self.reports.is_some() && !self.over(now) {
            worked |= self.begin(now, port);
        }
        worked | self.close(port)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.reports.as_ref()?;
        match (self.ended, &self.pace) {
            (Some(ended), _) => Some(ended + self.patience),
            (None, Some(pace)) if self.running.len() < self.concurrency => pace.next(),
            (None, Some(pace)) => Some(pace.started() + self.duration),
            (None, None) => None,
        }
    }
}

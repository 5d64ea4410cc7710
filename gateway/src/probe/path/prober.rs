//! The traffic of a measurement.

use super::plan::{PathEvent, PathPhase, PathPlan};
use crate::probe::links::{Links, Remotes};
use crate::probe::report::Report;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use stoq::application::Application;
use stoq::limits::MESSAGE_BYTES_MAX;
use stoq::queue::{AppPort, ConnectionEvent, ConnectionId, Delivery};

/// The bytes of a round trip's message.
const PING_BYTES: usize = 64;
/// Round trips without load, at most, and the pause after each.
const IDLE_TRIPS: u32 = 100;
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// Between two round trips under load.
const LOADED_PAUSE: Duration = Duration::from_millis(50);
/// What may be on its way at first, bytes, and as a multiple of what arrived in the last round trip: enough for the windows to be what limits,
/// and little enough that nothing waits long when the load ends.
const FIRST_BYTES: u64 = 256 << 10;
const TRIPS_AHEAD: u64 = 4;
/// The shortest span of which the arrivals count as those of a round trip.
const SPAN_MIN: Duration = Duration::from_millis(50);
/// Between two requests for the count of the discard application.
const MARK_BYTES: u64 = 256 << 10;
const MARK_PAUSE: Duration = Duration::from_millis(20);

/// The connections: of the round trips, and of the load of each way, which begins cold.
const TRIPS_LINK: usize = 0;
const FORTH_LINK: usize = 1;
const BACK_LINK: usize = 2;
const LINKS: usize = 3;

/// The application that loads a path.
#[derive(Debug)]
pub struct PathProbe {
    plan: PathPlan,
    links: Links,
    reports: Receiver<Report>,
    events: Sender<PathEvent>,
    message: Bytes,
    step: ProbeStep,
    phase: PathPhase,
    began: Option<Instant>,
    ping: PingState,
    load: LoadState,
}

/// The progress in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeStep {
    Connecting,
    Running,
    /// No more is sent; what is on its way arrives.
    Draining,
    Over,
}

#[derive(Debug, Default)]
struct PingState {
    sent: Option<Instant>,
    next: Option<Instant>,
    count: u32,
    last: Duration,
}

#[derive(Debug, Default)]
struct LoadState {
    sent_bytes: u64,
    arrived_bytes: u64,
    marked_bytes: u64,
    marked: Option<Instant>,
    /// When the first byte without an answer left, or the last answer came.
    heard: Option<Instant>,
    /// Arrivals of the last round trip.
    recent: VecDeque<(Instant, u64)>,
}

impl LoadState {
    fn on_its_way(&self) -> u64 {
        self.sent_bytes.saturating_sub(self.arrived_bytes)
    }

    /// What may be on its way now, bytes.
    fn allowed_bytes(&mut self, now: Instant, trip: Duration) -> u64 {
        let span = trip.max(SPAN_MIN);
        while self.recent.front().is_some_and(|(at, _)| *at + span < now) {
            self.recent.pop_front();
        }
        let before = self.recent.front().map_or(self.arrived_bytes, |(_, before)| *before);
        FIRST_BYTES + TRIPS_AHEAD * (self.arrived_bytes - before)
    }

    fn arrived(&mut self, now: Instant, bytes: u64) {
        self.recent.push_back((now, self.arrived_bytes));
        self.arrived_bytes += bytes;
        self.heard = Some(now);
    }
}

impl PathProbe {
    /// Measures the path to the gateway at `remotes`.
    pub fn new(remotes: impl Into<Remotes>, plan: PathPlan, events: Sender<PathEvent>) -> Self {
        let (told, reports) = channel();
        Self {
            plan,
            links: Links::new(remotes, LINKS, told),
            reports,
            events,
            message: Bytes::from(vec![0x5a; MESSAGE_BYTES_MAX as usize]),
            step: ProbeStep::Connecting,
            phase: PathPhase::Idle,
            began: None,
            ping: PingState::default(),
            load: LoadState::default(),
        }
    }

    fn tell(&self, event: PathEvent) {
        // A receiver that has gone needs no event.
        let _ = self.events.send(event);
    }

    fn begin(&mut self, now: Instant, phase: PathPhase) {
        (self.phase, self.step, self.began) = (phase, ProbeStep::Running, Some(now));
        self.load = LoadState { heard: Some(now), ..LoadState::default() };
        self.ping.count = 0;
        self.tell(PathEvent::Began(phase, now));
    }

    fn fail(&mut self, reason: String) {
        self.step = ProbeStep::Over;
        self.tell(PathEvent::Failed(reason));
    }

    /// How long the phase may last.
    fn span(&self) -> Duration {
        if self.phase == PathPhase::Idle { self.plan.idle } else { self.plan.load }
    }

    fn ends(&self) -> Option<Instant> {
        self.began.map(|began| began + self.span())
    }

    /// When the answers of the gateway are missed, and to what.
    fn missed(&self) -> impl Iterator<Item = (Instant, bool)> + use<> {
        let patience = self.plan.patience;
        let load = self.load.heard.filter(|_| self.load.on_its_way() > 0).map(|at| (at + patience, false));
        self.ping.sent.map(|at| (at + patience, true)).into_iter().chain(load)
    }

    fn message(&mut self, now: Instant, connection: ConnectionId, payload: &[u8]) {
        let is_trip = self.links.up.get(TRIPS_LINK).is_some_and(|up| up.connection == connection);
        if is_trip {
            if let Some(sent) = self.ping.sent.take() {
                let trip = now.saturating_duration_since(sent);
                let pause = if self.phase == PathPhase::Idle { IDLE_PAUSE } else { LOADED_PAUSE };
                (self.ping.last, self.ping.next) = (trip, Some(now + pause));
                self.ping.count += 1;
                self.tell(PathEvent::RoundTrip(self.phase, trip));
            }
            return;
        }
        let bytes = match (self.phase, <[u8; 16]>::try_from(payload)) {
            // The discard application counts the bytes since it was asked last.
            (PathPhase::Forth, Ok(count)) => (u128::from_be_bytes(count) >> 64) as u64,
            (PathPhase::Back, _) => payload.len() as u64,
            _ => return,
        };
        self.load.arrived(now, bytes);
        self.tell(PathEvent::Arrived(self.phase, now, self.load.arrived_bytes));
    }

    fn send_ping(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let Some(up) = self.links.up.get(TRIPS_LINK) else { return false };
        let due = self.ping.sent.is_none() && self.ping.next.is_none_or(|at| now >= at);
        let message = self.message.slice(..PING_BYTES);
        if !due || port.send_message(up.connection, &up.credit, self.plan.echo_queue, message).is_err() {
            return false;
        }
        self.ping.sent = Some(now);
        true
    }

    /// Sends as much load as is allowed now.
    fn send_load(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let (queue, link) = match self.phase {
            PathPhase::Idle => return false,
            PathPhase::Forth => (self.plan.discard_queue, FORTH_LINK),
            PathPhase::Back => (self.plan.echo_queue, BACK_LINK),
        };
        let (allowed, mut worked) = (self.load.allowed_bytes(now, self.ping.last), false);
        while self.load.on_its_way() < allowed
            && self.load.sent_bytes < self.plan.bytes_max
            && let Some(up) = self.links.up.get(link)
        {
            let left = self.plan.bytes_max - self.load.sent_bytes;
            let message = self.message.slice(..left.min(self.message.len() as u64) as usize);
            let len = message.len() as u64;
            if port.send_message(up.connection, &up.credit, queue, message).is_err() {
                break;
            }
            self.load.sent_bytes += len;
            self.mark(now, port);
            worked = true;
        }
        worked
    }

    /// Asks the discard application for its count, which arrives there behind what was sent before.
    fn mark(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let load = &mut self.load;
        let unmarked = load.sent_bytes - load.marked_bytes;
        let is_due = unmarked >= MARK_BYTES || load.marked.is_none_or(|at| now >= at + MARK_PAUSE);
        let (true, true, Some(up)) =
            (self.phase == PathPhase::Forth && unmarked > 0, is_due, self.links.up.get(FORTH_LINK))
        else {
            return false;
        };
        let is_sent =
            port.send_message(up.connection, &up.credit, self.plan.discard_queue, Bytes::new()).is_ok();
        if is_sent {
            (load.marked_bytes, load.marked) = (load.sent_bytes, Some(now));
        }
        is_sent
    }

    fn advance(&mut self, now: Instant) -> bool {
        let is_due = self.ends().is_some_and(|at| now >= at);
        match (self.step, self.phase) {
            (ProbeStep::Connecting, _) if self.links.is_ready() => {
                let slot = |link: usize| self.links.up.get(link).map_or(0, |up| up.connection.slot);
                let (forth_slot, back_slot) = (slot(FORTH_LINK), slot(BACK_LINK));
                self.tell(PathEvent::Connected { forth_slot, back_slot });
                self.begin(now, PathPhase::Idle);
            }
            (ProbeStep::Running, PathPhase::Idle)
                if self.ping.count >= IDLE_TRIPS || (is_due && self.ping.count > 0) =>
            {
                self.tell(PathEvent::Ended(PathPhase::Idle, now));
                self.begin(now, PathPhase::Forth);
            }
            (ProbeStep::Running, phase @ (PathPhase::Forth | PathPhase::Back))
                if is_due || self.load.arrived_bytes >= self.plan.bytes_max =>
            {
                self.tell(PathEvent::Ended(phase, now));
                self.step = ProbeStep::Draining;
            }
            (ProbeStep::Draining, phase) if self.load.on_its_way() == 0 => match phase {
                PathPhase::Forth => self.begin(now, PathPhase::Back),
                _ => {
                    self.step = ProbeStep::Over;
                    self.tell(PathEvent::Over);
                }
            },
            _ => return false,
        }
        true
    }

    /// Ends the measurement if an answer is missing for too long.
    fn give_up(&mut self, now: Instant) {
        let Some((_, is_ping)) = self.missed().find(|(at, _)| now >= *at) else { return };
        let (kind, queue, option) = if is_ping || self.phase == PathPhase::Back {
            ("echo", self.plan.echo_queue, "--echo")
        } else {
            ("discard", self.plan.discard_queue, "--discard")
        };
        let patience_s = self.plan.patience.as_secs_f64();
        self.fail(format!(
            "no answer from queue {queue} within {patience_s} s: give the queue of the gateway's {kind} application by {option}, or add one \
             to its configuration: [[application]] kind = \"{kind}\", queues = [{queue}]"
        ));
    }
}

impl Application for PathProbe {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        if self.step == ProbeStep::Over {
            while port.receive().is_some() {}
            return false;
        }
        let mut worked = self.links.dial(now, port);
        while let Some(delivery) = port.receive() {
            worked = true;
            self.links.heard(&delivery);
            if let Delivery::Connection(connection, ConnectionEvent::Message { payload, .. }) = delivery {
                self.message(now, connection, &payload.to_bytes());
            }
        }
        while let Ok(report) = self.reports.try_recv() {
            if let Report::Failed(reason) = report {
                self.fail(reason.to_string());
                return true;
            }
        }
        worked |= self.advance(now);
        match self.step {
            ProbeStep::Running => {
                worked |= self.send_ping(now, port) | self.send_load(now, port) | self.mark(now, port)
            }
            ProbeStep::Draining => worked |= self.mark(now, port),
            ProbeStep::Connecting | ProbeStep::Over => {}
        }
        if self.step != ProbeStep::Over {
            self.give_up(now);
        }
        worked
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.step, ProbeStep::Connecting | ProbeStep::Over) {
            return None;
        }
        let next = self.ping.next.filter(|_| self.ping.sent.is_none() && self.step == ProbeStep::Running);
        let ends = self.ends().filter(|_| self.step == ProbeStep::Running);
        let load = &self.load;
        let mark =
            load.marked.filter(|_| self.phase == PathPhase::Forth && load.sent_bytes > load.marked_bytes);
        let missed = self.missed().map(|(at, _)| at);
        next.into_iter().chain(ends).chain(mark.map(|at| at + MARK_PAUSE)).chain(missed).min()
    }
}

//! From events and looks at the connection to a report.

use super::advice::advise;
use super::plan::{PathEvent, PathPhase};
use super::report::{BackReport, ForthReport, NOT_VISIBLE, PathReport, Trips};

use std::time::{Duration, Instant};
use stoq::quic::transport::QuicConfig;
use stoq::worker::ConnectionView;

/// The part of a load at its beginning of which the rate is not counted: a third.
const WARM_PART: u32 = 3;
/// A way back this close to the way forth may be bounded by it.
const BOUNDED: f64 = 0.8;

/// Collects what a [`super::PathProbe`] tells.
#[derive(Debug, Default)]
pub struct PathSurvey {
    phase: Option<PathPhase>,
    idle: Vec<Duration>,
    forth: Way,
    back: Way,
    is_over: bool,
    failed: Option<String>,
}

/// One way under load.
#[derive(Debug, Default)]
struct Way {
    slot: Option<u32>,
    trips: Vec<Duration>,
    began: Option<Instant>,
    ended: Option<Instant>,
    arrived: Vec<(Instant, u64)>,
    views: Vec<(Instant, ConnectionView)>,
    held_bytes_max: u64,
}

impl Way {
    fn span(&self) -> Duration {
        match (self.began, self.ended) {
            (Some(began), Some(ended)) => ended.saturating_duration_since(began),
            _ => Duration::ZERO,
        }
    }

    fn bytes(&self) -> u64 {
        self.arrived.last().map_or(0, |(_, bytes)| *bytes)
    }

    /// When the part begins that is counted.
    fn warm(&self) -> Option<Instant> {
        self.began.map(|began| began + self.span() / WARM_PART)
    }

    /// The connection at the first look, at the first of the part that is counted, and at the last.
    fn looks(&self) -> Option<[&ConnectionView; 3]> {
        let ((_, first), (_, last)) = (self.views.first()?, self.views.last()?);
        let warm = self.views.iter().find(|(at, _)| Some(*at) >= self.warm()).map_or(first, |(_, view)| view);
        Some([first, warm, last])
    }

    /// Bits a second, of what arrived while the load lasted, without its beginning.
    fn bits_per_s(&self) -> f64 {
        let (Some(began), Some(ended), Some(warm)) = (self.began, self.ended, self.warm()) else {
            return 0.0;
        };
        let loaded: Vec<_> = self.arrived.iter().filter(|(at, _)| *at <= ended).collect();
        let counted: Vec<_> = loaded.iter().filter(|(at, _)| *at >= warm).collect();
        // A load that is over at once is counted from its beginning.
        let (first, last) = match (&counted[..], loaded.last()) {
            ([first, .., last], _) => (***first, ***last),
            (_, Some(last)) => ((began, 0), **last),
            _ => return 0.0,
        };
        let span = last.0.saturating_duration_since(first.0).as_secs_f64();
        if span > 0.0 { (last.1 - first.1) as f64 * 8.0 / span } else { 0.0 }
    }
}

impl PathSurvey {
    /// Takes an event.
    pub fn event(&mut self, event: PathEvent) {
        match event {
            PathEvent::Connected { forth_slot, back_slot } => {
                (self.forth.slot, self.back.slot) = (Some(forth_slot), Some(back_slot));
            }
            PathEvent::Began(phase, at) => {
                self.phase = Some(phase);
                if let Some(way) = self.way(phase) {
                    way.began = Some(at);
                }
            }
            PathEvent::RoundTrip(phase, trip) => match self.way(phase) {
                Some(way) => way.trips.push(trip),
                None => self.idle.push(trip),
            },
            PathEvent::Arrived(phase, at, bytes) => {
                if let Some(way) = self.way(phase) {
                    way.arrived.push((at, bytes));
                }
            }
            PathEvent::Ended(phase, at) => {
                self.phase = None;
                if let Some(way) = self.way(phase) {
                    way.ended = Some(at);
                }
            }
            PathEvent::Over => self.is_over = true,
            PathEvent::Failed(reason) => self.failed = Some(reason),
        }
    }

    /// Takes a look at the client's connections at `now`: one is due every tenth of a second or so.
    pub fn look(&mut self, now: Instant, views: &[ConnectionView]) {
        let Some(way) = self.phase.and_then(|phase| self.way(phase)) else { return };
        if let Some(view) = views.iter().find(|view| Some(view.slot) == way.slot) {
            way.held_bytes_max = way.held_bytes_max.max(view.held_bytes);
            way.views.push((now, view.clone()));
        }
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.is_over || self.failed.is_some()
    }

    /// The phase that runs.
    pub fn phase(&self) -> Option<PathPhase> {
        self.phase
    }

    fn way(&mut self, phase: PathPhase) -> Option<&mut Way> {
        match phase {
            PathPhase::Idle => None,
            PathPhase::Forth => Some(&mut self.forth),
            PathPhase::Back => Some(&mut self.back),
        }
    }

    /// The report of a client with this configuration.
    ///
    /// # Errors
    /// Why the measurement ended early.
    pub fn report(self, quic: &QuicConfig) -> Result<PathReport, String> {
        if let Some(reason) = self.failed {
            return Err(reason);
        }
        let Self { idle, forth, back, .. } = self;
        let (forth_rate, back_rate) = (forth.bits_per_s(), back.bits_per_s());
        let mut report = PathReport {
            congestion_control: quic.congestion_control.name(),
            rate_bits_per_s: quic.rate_bits_per_s,
            idle: Trips::of(idle),
            udp_payload_bytes: back
                .views
                .iter()
                .chain(&forth.views)
                .map(|(_, view)| view.mtu_bytes)
                .max()
                .unwrap_or(0),
            forth: ForthReport {
                bits_per_s: forth_rate,
                bytes: forth.bytes(),
                seconds: forth.span().as_secs_f64(),
                round_trips: Trips::of(forth.trips.clone()),
                ..ForthReport::default()
            },
            back: BackReport {
                bits_per_s: back_rate,
                is_bounded_by_forth: back_rate >= BOUNDED * forth_rate,
                bytes: back.bytes(),
                seconds: back.span().as_secs_f64(),
                round_trips: Trips::of(back.trips.clone()),
                held_bytes_max: back.held_bytes_max,
                receive_window_bytes: back.looks().map_or(0, |[_, _, last]| last.receive_window_bytes),
            },
            not_visible: NOT_VISIBLE,
            advice: Vec::new(),
        };
        if let Some([first, warm, last]) = forth.looks() {
            let found = &mut report.forth;
            found.sent_packets = last.sent_packets.saturating_sub(warm.sent_packets);
            found.lost_packets = last.lost_packets.saturating_sub(warm.lost_packets);
            found.start_lost_packets = warm.lost_packets.saturating_sub(first.lost_packets);
            found.loss = found.lost_packets as f64 / found.sent_packets.max(1) as f64;
            found.congestion_events = last.congestion_events.saturating_sub(warm.congestion_events);
            found.congestion_window_bytes = last.window_bytes;
            found.send_window_bytes = last.send_window_bytes;
            found.limited_s = last.limited_s.since(&warm.limited_s);
        }
        report.advice = advise(&report, quic);
        Ok(report)
    }
}

//! One run: the clock, the path and what is measured.

use super::content::Content;
use super::path::{Disturbance, Path, Transfer};
use super::sides::{Pair, QuicKeys, quic};
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};
use stoq::nic::simulated::{LinkConfig, SimulatedLink};
use stoq::worker::ConnectionView;
use tokio::sync::oneshot;

/// The least that the clock jumps: frames that arrive within it arrive together.
const STEP: Duration = Duration::from_micros(20);
/// Between two samples of what has arrived.
const SAMPLE: Duration = Duration::from_millis(10);
/// The least span over which a rate counts as reached.
const SPAN_MIN: Duration = Duration::from_millis(50);
/// The share of the link at which it counts as full.
const FULL: f64 = 0.9;
/// How often a connection's state is looked at, samples.
const VIEW_SAMPLES: usize = 5;

/// What a run found. Times in seconds of virtual time, sizes in MB of 10^6 bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The share of what the link can carry as payload, over the measured span.
    pub(crate) of_link: f64,
    pub(crate) goodput_gbit_s: f64,
    /// Of each flow, in Gbit/s, and Jain's index of them.
    pub(crate) shares_gbit_s: Vec<f64>,
    pub(crate) jain: f64,
    /// From the start, until 0.9 of the link was reached.
    pub(crate) full_s: Option<f64>,
    /// From the end of an outage, or the beginning of a hole, until 0.9 of the link was reached again.
    pub(crate) recovered_s: Option<f64>,
    /// QUIC packets that the senders sent and deemed lost.
    pub(crate) sent_packets: u64,
    pub(crate) lost_packets: u64,
    /// Frames that the path dropped, both ways: no room in a buffer, by chance, too large.
    pub(crate) dropped_frames: u64,
    pub(crate) queue_mb: f64,
    /// Resident memory that the run added at most, both sides, less what was on the path.
    pub(crate) memory_mb: f64,
    pub(crate) window_mb: f64,
    pub(crate) rtt_ms: f64,
    pub(crate) mtu_bytes: u16,
    pub(crate) limited_by: String,
    /// What went wrong: connections that closed, requests that failed.
    pub(crate) failures: Vec<String>,
    /// Real time of this run.
    pub(crate) real_s: f64,
}

/// A run before it begins.
pub(crate) struct Run<'a> {
    path: &'a Path,
    transfer: Transfer,
    seed: u64,
    keys: &'a QuicKeys,
}

/// What is seen at one instant.
#[derive(Debug)]
struct Sample {
    at: Duration,
    bytes: Vec<u64>,
    queue_bytes: u64,
}

/// A run that goes on.
struct Running<'a> {
    path: &'a Path,
    forth: LinkConfig,
    back: LinkConfig,
    link: SimulatedLink,
    pairs: Vec<Pair>,
    begun: Instant,
    now: Instant,
    samples: Vec<Sample>,
    asked: Vec<oneshot::Receiver<Vec<ConnectionView>>>,
    views: Vec<Option<ConnectionView>>,
    /// Sums over the measured span: windows and round trips, and how often they were seen.
    windows: (u64, u64, u64),
    /// Congestion windows moved in the measured span.
    has_moved: bool,
    on_path_bytes: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        path: &'a Path,
        transfer: Transfer,
        seed: u64,
        keys: &'a QuicKeys,
    ) -> anyhow::Result<Self> {
        path.check()?;
        quic(path, keys, None)?;
        Ok(Self { path, transfer, seed, keys })
    }

    fn start(&self, content: Option<&Content>) -> anyhow::Result<Running<'a>> {
        let path = self.path;
        let link = SimulatedLink::new(path.quiet(self.seed, 1.0));
        let pair = |number| Pair::new(&link, path, number, self.transfer, self.keys, content);
        let pairs = (0..path.flows.len()).map(pair).collect::<anyhow::Result<Vec<_>>>()?;
        for pair in &pairs[1..] {
            link.share_bottleneck(pair.client.mac, pairs[0].client.mac);
            link.share_bottleneck(pair.server.mac, pairs[0].server.mac);
        }
        for pair in &pairs {
            link.reconfigure_from(pair.receiver().mac, |way| *way = path.quiet(self.seed, path.back));
        }
        let begun = Instant::now();
        Ok(Running {
            path,
            forth: path.forth(self.seed),
            back: path.back(self.seed),
            asked: Vec::new(),
            views: vec![None; pairs.len()],
            windows: (0, 0, 0),
            has_moved: false,
            link,
            pairs,
            begun,
            now: begun,
            samples: Vec::new(),
            on_path_bytes: 0,
        })
    }

    pub(crate) fn finish(&mut self, content: &Option<Content>) -> anyhow::Result<Outcome> {
        let mut running = self.start(content.as_ref())?;
        let before_kb = Memory::begin();
        running.go(|_| ());
        let mut outcome = running.outcome();
        outcome.memory_mb = before_kb.added_mb(running.on_path_bytes);
        Ok(outcome)
    }

    /// The same, printing goodput and state by the interval.
    pub(crate) fn trace(
        &mut self,
        interval: Duration,
        content: &Option<Content>,
        print: &mut impl FnMut(&str),
    ) -> anyhow::Result<Outcome> {
        let mut running = self.start(content.as_ref())?;
        let samples = interval.div_duration_f64(SAMPLE).max(1.0) as usize;
        running.go(|running| {
            if running.samples.len() % samples == 0 {
                print(&running.line(samples));
            }
        });
        Ok(running.outcome())
    }
}

impl Running<'_> {
    /// Runs to the end.
    fn go(&mut self, mut sampled: impl FnMut(&Self)) {
        let end = self.begun + self.path.end();
        // Addresses are resolved first: a lost ARP frame would cost a second (RFC 4861's timer).
        let mut events = vec![(self.path.rtt.mul_f64(0.75), Event::Begin)];
        if let Some((at, disturbance)) = self.path.disturbance {
            events.push((at, Event::Disturb(disturbance)));
            if let Disturbance::Outage(span) = disturbance {
                events.push((at + span, Event::Recover));
            }
        }
        let mut events = events.into_iter().peekable();
        let mut sample_at = self.begun;
        while self.now < end {
            while let Some((_, event)) = events.next_if(|(at, _)| self.begun + *at <= self.now) {
                self.happen(event);
            }
            self.turn();
            if self.now >= sample_at {
                sample_at += SAMPLE;
                self.sample();
                sampled(self);
            }
            let event_at = events.peek().map(|(at, _)| self.begun + *at);
            let next = self.next().into_iter().chain(event_at).chain([sample_at, end]).min();
            self.now = next.unwrap_or(end).max(self.now + STEP);
        }
    }

    fn turn(&mut self) {
        let (now, elapsed) = (self.now, self.now - self.begun);
        let mut filled = [false; 256];
        self.link.deliver(now, |mac| filled[usize::from(mac[5])] = true);
        for pair in self.pairs.iter_mut().filter(|pair| pair.start <= elapsed) {
            let begins = self.samples.last().is_none_or(|last| last.at < pair.start);
            for side in pair.sides() {
                if begins || filled[usize::from(side.mac[5])] || side.due.is_some_and(|due| due <= now) {
                    side.turn(now);
                }
            }
        }
    }

    /// When the next thing is due.
    fn next(&self) -> Option<Instant> {
        let starts = self.pairs.iter().map(|pair| self.begun + pair.start).filter(|start| *start > self.now);
        let dues = self.pairs.iter().flat_map(|pair| [pair.client.due, pair.server.due]).flatten();
        dues.chain(starts).chain(self.link.next_delivery()).min()
    }

    fn happen(&mut self, event: Event) {
        let macs = || self.pairs.iter().flat_map(|pair| [pair.client.mac, pair.server.mac]);
        match event {
            Event::Begin => {
                for pair in &self.pairs {
                    self.link.reconfigure_from(pair.sender().mac, |way| *way = self.forth.clone());
                    self.link.reconfigure_from(pair.receiver().mac, |way| *way = self.back.clone());
                }
            }
            Event::Disturb(Disturbance::Outage(_)) => macs().for_each(|mac| self.link.mute(mac)),
            Event::Recover => macs().for_each(|mac| self.link.unmute(mac)),
            Event::Disturb(Disturbance::Hole(mtu)) => self.link.reconfigure(|way| way.path_mtu = Some(mtu)),
        }
    }

    fn sample(&mut self) {
        let at = self.now - self.begun;
        let bytes = self.pairs.iter().map(|pair| pair.meter.bytes()).collect();
        let queue_bytes = self.link.waiting_bytes(self.pairs[0].sender().mac, self.now);
        self.on_path_bytes = self.on_path_bytes.max(self.link.in_flight_bytes());
        self.samples.push(Sample { at, bytes, queue_bytes });
        if self.samples.len() % VIEW_SAMPLES != 1 {
            return;
        }
        // The workers have answered what was asked at the sample before.
        for (index, mut asked) in std::mem::take(&mut self.asked).into_iter().enumerate() {
            let Some(view) = asked.try_recv().ok().and_then(|views| views.into_iter().next()) else {
                continue;
            };
            if at >= self.path.warm {
                let (windows, rtts, count) = &mut self.windows;
                (*windows, *rtts, *count) = (*windows + view.window_bytes, *rtts + view.rtt_us, *count + 1);
                let before = self.views[index].as_ref().map(|before| before.window_bytes);
                self.has_moved |= *count > 1 && before.is_some_and(|before| before != view.window_bytes);
            }
            self.views[index] = Some(view);
        }
        let status = |pair: &Pair| pair.sender().worker.status();
        self.asked = self.pairs.iter().map(|pair| status(pair).inspection.ask()).collect();
    }

    /// What the last samples say.
    fn line(&self, samples: usize) -> String {
        let Some(last) = self.samples.last() else { return String::new() };
        let before = self.samples.iter().rev().nth(samples);
        let span_s = before.map_or(last.at, |before| last.at - before.at).as_secs_f64();
        let mut line = format!("{:7.3} s", last.at.as_secs_f64());
        for (flow, view) in self.views.iter().enumerate() {
            let bytes = last.bytes[flow] - before.map_or(0, |before| before.bytes[flow]);
            line += &format!(" | {:6.3} Gbit/s", bytes as f64 * 8e-9 / span_s.max(1e-9));
            if let Some(view) = view {
                let ConnectionView { window_bytes, rtt_us, lost_packets, mtu_bytes, .. } = view;
                let (window_mb, rtt_ms) = (*window_bytes as f64 / 1e6, *rtt_us as f64 / 1e3);
                line += &format!(
                    " window {window_mb:.2} MB rtt {rtt_ms:.2} ms lost {lost_packets} mtu {mtu_bytes}"
                );
            }
        }
        line + &format!(" | queue {:.2} MB", last.queue_bytes as f64 / 1e6)
    }

    fn outcome(&self) -> Outcome {
        let path = self.path;
        let full = path.full_bits_per_s();
        let measured: Vec<_> = self.samples.iter().filter(|sample| sample.at >= path.warm).collect();
        let (Some(first), Some(last)) = (measured.first(), measured.last()) else {
            return Outcome::default();
        };
        let span_s = (last.at - first.at).as_secs_f64().max(1e-9);
        let shares: Vec<f64> = (0..self.pairs.len())
            .map(|flow| (last.bytes[flow] - first.bytes[flow]) as f64 * 8e-9 / span_s)
            .collect();
        let total: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        let mean = |sum: u64, count: u64| sum as f64 / count.max(1) as f64;
        let queue = measured.iter().map(|sample| sample.queue_bytes).sum();
        let views = || self.views.iter().flatten();
        let stats = self.link.stats();
        let (windows, rtts, count) = self.windows;
        let recovers_from = path.disturbance.map(|(at, disturbance)| match disturbance {
            Disturbance::Outage(span) => at + span,
            // What was on its way has arrived two round trips later.
            Disturbance::Hole(_) => at + 2 * path.rtt,
        });
        let mut outcome = Outcome {
            of_link: total * 1e9 / full,
            goodput_gbit_s: total,
            jain: if squares > 0.0 { total * total / (shares.len() as f64 * squares) } else { 0.0 },
            shares_gbit_s: shares,
            full_s: self.full_after(Duration::ZERO),
            recovered_s: recovers_from.and_then(|from| self.full_after(from)),
            sent_packets: views().map(|view| view.sent_packets).sum(),
            lost_packets: views().map(|view| view.lost_packets).sum(),
            dropped_frames: stats.tail_dropped + stats.lost + stats.too_large,
            queue_mb: mean(queue, measured.len() as u64) / 1e6,
            window_mb: mean(windows, count) / 1e6,
            rtt_ms: mean(rtts, count) / 1e3,
            mtu_bytes: views().map(|view| view.mtu_bytes).min().unwrap_or(0),
            failures: self.pairs.iter().flat_map(|pair| pair.meter.notes()).collect(),
            real_s: self.begun.elapsed().as_secs_f64(),
            ..Outcome::default()
        };
        outcome.limited_by = self.limit(&outcome).into();
        outcome
    }

    /// What kept the connections from more. Flow control and the application are not told apart. A congestion window that is not used
    /// up stays as it is (RFC 9002 §7.8).
    fn limit(&self, outcome: &Outcome) -> &'static str {
        let in_flight_mb = outcome.goodput_gbit_s / self.pairs.len() as f64 * outcome.rtt_ms / 8.0;
        // The receiver's own send window stays as it was at first: the sender's is the larger one.
        let views = self.views.iter().flatten();
        let send_window_mb = views.map(|view| view.send_window_bytes).max().unwrap_or(u64::MAX) as f64 / 1e6;
        match () {
            () if !outcome.failures.is_empty() => "failure",
            () if outcome.of_link >= FULL => "link",
            () if in_flight_mb >= 0.6 * send_window_mb => "window",
            () if self.has_moved && in_flight_mb >= 0.6 * outcome.window_mb => "congestion",
            () => "window",
        }
    }

    /// From this instant until 0.9 of the link was reached, seconds.
    fn full_after(&self, from: Duration) -> Option<f64> {
        let span = self.path.rtt.max(SPAN_MIN).div_duration_f64(SAMPLE).ceil() as usize;
        let full = self.path.full_bits_per_s() * FULL;
        let reached = self.samples.windows(span + 1).find_map(|samples| {
            let (first, last) = (&samples[0], &samples[span]);
            let bytes = last.bytes.iter().sum::<u64>() - first.bytes.iter().sum::<u64>();
            let rate = bytes as f64 * 8.0 / (last.at - first.at).as_secs_f64();
            (first.at >= from && rate >= full).then_some(last.at)
        });
        reached.map(|at| (at - from).as_secs_f64())
    }
}

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Losses by chance.
    Begin,
    Disturb(Disturbance),
    Recover,
}

/// Memory of this process.
struct Memory {
    before_kb: u64,
}

impl Memory {
    fn begin() -> Self {
        // proc(5): from then on VmHWM is the most since now. Where it cannot be written, VmHWM counts from the start.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self { before_kb: Self::read("VmRSS:") }
    }

    fn read(key: &str) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn added_mb(&self, on_path_bytes: u64) -> f64 {
        let added = Self::read("VmHWM:").saturating_sub(self.before_kb) as f64 * 1024.0;
        (added - on_path_bytes as f64).max(0.0) / 1e6
    }
}

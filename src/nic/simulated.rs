//! A simulated Ethernet link: stations around one switch, in one process, for tests.
//!
//! Time is the [`Instant`] that callers pass. A test may jump to [`SimulatedLink::next_delivery`]; passing
//! [`Instant::now`] makes it a real-time link. The same seed, calls and instants give the same losses.

mod flight;
mod frame;
mod shared;
mod tamper;

use super::rss::{RSS_TABLE_LEN, Rss, RssKey};
use super::{Nic, NicInfo, RxChecksum, TxKind};
use crate::limits::{RX_BURST_LEN, TX_PENDING_LEN_MAX};
use crate::wire::Mac;
use crate::wire::ethernet::HEADER_BYTES;
use flight::{Flight, InFlight};
use frame::{mark_congestion, turn_over, written};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tamper::Router;

/// How the link treats frames. The default is a perfect link of MTU 1500.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Seeds every random choice.
    pub seed: u64,
    /// Largest layer-3 packet, bytes.
    pub mtu: u16,
    /// Probability of losing a frame, 0 to 1.
    pub loss: f64,
    /// Probability of delivering a frame twice, 0 to 1.
    pub duplication: f64,
    /// Probability of holding a frame back by up to [`LinkConfig::reordering_delay`], 0 to 1.
    pub reordering: f64,
    /// The longest delay of a held-back frame.
    pub reordering_delay: Duration,
    /// Probability of inverting one random bit of a frame, 0 to 1.
    pub corruption: f64,
    /// From one station to another.
    pub delay: Duration,
    /// Probability that a run of losses begins at a frame, 0 to 1.
    pub burst: f64,
    /// The mean length of such a run, frames; at least 1.
    pub burst_len: f64,
    /// The longest time of such a run, where few frames are sent; none: it ends by frames alone.
    pub burst_time: Option<Duration>,
    /// A station's rate of sending, bits a second; none: unbounded.
    pub bandwidth_bits_per_s: Option<u64>,
    /// The most bytes of one station that wait for [`LinkConfig::bandwidth_bits_per_s`]; frames that find no room are lost. None:
    /// without bound.
    pub buffer_bytes: Option<u64>,
    /// What the medium needs for a frame beside its bytes, of [`LinkConfig::bandwidth_bits_per_s`] and [`LinkConfig::buffer_bytes`]: 24
    /// bytes of preamble, checksum and gap on Ethernet (IEEE 802.3).
    pub overhead_bytes: u64,
    /// Frames of ECN-capable packets that find more than this waiting are marked (RFC 3168), bytes; none: never.
    pub mark_bytes: Option<u64>,
    /// The largest layer-3 packet that arrives, bytes, where it is smaller than [`LinkConfig::mtu`]: larger ones are lost in silence.
    pub path_mtu: Option<u16>,
    /// Frames that a receive queue holds; more are lost, as on a device whose descriptors ran out.
    pub queue_len_max: usize,
    /// Whether devices fill in checksums, as [`TxKind`] asks.
    pub tx_checksum: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            mtu: 1500,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            reordering_delay: Duration::from_millis(1),
            corruption: 0.0,
            delay: Duration::ZERO,
            burst: 0.0,
            burst_len: 1.0,
            burst_time: None,
            bandwidth_bits_per_s: None,
            buffer_bytes: None,
            overhead_bytes: 0,
            mark_bytes: None,
            path_mtu: None,
            queue_len_max: 4096,
            tx_checksum: false,
        }
    }
}

/// Counts of the link, frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Put on the link by a station.
    pub sent: u64,
    /// Taken by a station's queue; a broadcast counts once for each.
    pub delivered: u64,
    /// Lost by chance or while the link was down.
    pub lost: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Changed by one bit.
    pub corrupted: u64,
    /// Lost because a receive queue was full.
    pub overflowed: u64,
    /// Lost because a station's buffer was full.
    pub tail_dropped: u64,
    /// Lost because the path does not carry their size.
    pub too_large: u64,
    /// Marked as having met congestion.
    pub marked: u64,
}

/// Chooses a queue for a received frame, from the frame and the station's number of queues.
pub type Steering = Box<dyn FnMut(&[u8], usize) -> usize + Send>;

/// A switch that stations are plugged into. Clones are the same switch.
#[derive(Clone)]
pub struct SimulatedLink(Arc<Mutex<Switch>>);

struct Switch {
    /// The configuration of new stations.
    config: LinkConfig,
    up: bool,
    random: StdRng,
    stations: Vec<Port>,
    in_flight: Flight,
    router: Option<Router>,
    sequence: u64,
    stats: LinkStats,
}

struct Port {
    mac: Mac,
    /// How the link treats the frames that this station sends.
    config: LinkConfig,
    /// When the run of losses began that goes on.
    in_burst: Option<Instant>,
    queues: Vec<VecDeque<Vec<u8>>>,
    steering: Steering,
    /// The station whose bottleneck its frames pass: itself, where it shares none.
    bottleneck: usize,
    busy_until: Option<Instant>,
    /// Whether the frames that it sends are lost.
    muted: bool,
    /// Whether its device takes no frames.
    held: bool,
}

impl SimulatedLink {
    /// A switch without stations.
    pub fn new(config: LinkConfig) -> Self {
        Self(Arc::new(Mutex::new(Switch {
            random: StdRng::seed_from_u64(config.seed),
            config,
            up: true,
            stations: Vec::new(),
            in_flight: Flight::default(),
            router: None,
            sequence: 0,
            stats: LinkStats::default(),
        })))
    }

    /// Plugs in a station with `queues` queues, and gives its queues. Frames are spread over them by receive-side scaling with the key
    /// [`RssKey::known`], as [`Rss::queue`] predicts; frames that are no UDP datagrams go to the first. It replaces a station of the
    /// same MAC.
    pub fn add_station(&self, mac: Mac, queues: usize) -> Vec<SimulatedNic> {
        let mut switch = self.lock();
        let station = switch.stations.len();
        // The replaced station receives nothing: no frame is for a multicast address that is zero except for
        // its group bit.
        for port in switch.stations.iter_mut().filter(|port| port.mac == mac) {
            port.mac = [1, 0, 0, 0, 0, 0];
        }
        let config = switch.config.clone();
        let rss = Rss::new(&RssKey::known(), RSS_TABLE_LEN);
        switch.stations.push(Port {
            mac,
            config,
            in_burst: None,
            queues: (0..queues).map(|_| VecDeque::new()).collect(),
            steering: Box::new(move |frame, queues| rss.queue(frame, queues).unwrap_or(0)),
            bottleneck: station,
            busy_until: None,
            muted: false,
            held: false,
        });
        switch.in_flight.add_station();
        let info = NicInfo {
            device: format!("station{station}"),
            driver: "simulated".to_owned(),
            mtu: switch.config.mtu,
            mac,
            tx_checksum: switch.config.tx_checksum,
            rx_checksum: false,
        };
        (0..queues)
            .map(|queue| SimulatedNic {
                link: self.clone(),
                station,
                queue,
                info: info.clone(),
                queued: VecDeque::new(),
                received: Vec::new(),
            })
            .collect()
    }

    /// Chooses the queues of the station `mac` from now on; an answer past the last queue means the last. Does nothing when
    /// there is no such station.
    pub fn steer(&self, mac: Mac, steering: impl FnMut(&[u8], usize) -> usize + Send + 'static) {
        if let Some(port) = self.lock().stations.iter_mut().find(|port| port.mac == mac) {
            port.steering = Box::new(steering);
        }
    }

    /// Treats later frames differently. MTU, checksums and the seed stay the same.
    pub fn reconfigure(&self, change: impl Fn(&mut LinkConfig)) {
        let mut switch = self.lock();
        change(&mut switch.config);
        switch.stations.iter_mut().for_each(|port| change(&mut port.config));
    }

    /// The same for the frames of one station: a link that is lopsided. Does nothing when there is no such station.
    pub fn reconfigure_from(&self, mac: Mac, change: impl FnOnce(&mut LinkConfig)) {
        if let Some(port) = self.lock().stations.iter_mut().find(|port| port.mac == mac) {
            change(&mut port.config);
        }
    }

    /// Lets the frames of the station `mac` wait in the buffer of the station `of` and leave at its rate. Does nothing when one of them
    /// does not exist.
    pub fn share_bottleneck(&self, mac: Mac, of: Mac) {
        let mut switch = self.lock();
        let Some(shared) = switch.stations.iter().position(|port| port.mac == of) else { return };
        if let Some(port) = switch.stations.iter_mut().find(|port| port.mac == mac) {
            port.bottleneck = shared;
        }
    }

    /// What waits for the bandwidth of the station `mac`, bytes; 0 when there is no such station.
    pub fn waiting_bytes(&self, mac: Mac, now: Instant) -> u64 {
        self.lock().stations.iter().find(|port| port.mac == mac).map_or(0, |port| port.waiting_bytes(now))
    }

    /// Moves the frames that have arrived into their queues, and names each station that has some.
    pub fn deliver(&self, now: Instant, mut waits: impl FnMut(Mac)) {
        let mut switch = self.lock();
        switch.deliver(now);
        let filled = switch.stations.iter().filter(|port| port.queues.iter().any(|queue| !queue.is_empty()));
        filled.for_each(|port| waits(port.mac));
    }

    /// Takes the link down, or up again. Frames sent while it is down are lost.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
    }

    /// When the next frame in flight arrives; none when no frame is in flight. Frames that wait in a queue
    /// have arrived.
    pub fn next_delivery(&self) -> Option<Instant> {
        self.lock().in_flight.next()
    }

    /// Frames in flight, bytes.
    pub fn in_flight_bytes(&self) -> u64 {
        self.lock().in_flight.bytes()
    }

    /// Counts of the link.
    pub fn stats(&self) -> LinkStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, Switch> {
        // A test that panicked elsewhere has its own report. The switch is usable between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    fn send(&mut self, now: Instant, from: usize, mut frame: Vec<u8>) {
        self.stats.sent += 1;
        if self.stations[from].muted {
            self.stats.lost += 1;
            return;
        }
        let Some(sent_at) = self.pass_bottleneck(now, from, &mut frame) else { return };
        let Some(destination) = self.destination(&mut frame) else { return };
        match self.stations.iter().position(|port| port.mac == destination) {
            Some(to) if to != from => self.carry(sent_at, from, to, frame),
            Some(_) => {}
            // A switch floods frames to groups and to unknown stations.
            None => (0..self.stations.len())
                .filter(|to| *to != from)
                .for_each(|to| self.carry(sent_at, from, to, frame.clone())),
        }
    }

    /// When a frame has left its station; none when there is no room for it.
    fn pass_bottleneck(&mut self, now: Instant, from: usize, frame: &mut [u8]) -> Option<Instant> {
        let bottleneck = self.stations[from].bottleneck;
        let port = &mut self.stations[bottleneck];
        let Some(bits_per_s) = port.config.bandwidth_bits_per_s.map(|rate| rate.max(1)) else {
            return Some(now);
        };
        let waiting_bytes = port.waiting_bytes(now);
        let wire_bytes = frame.len() as u64 + port.config.overhead_bytes;
        if port.config.buffer_bytes.is_some_and(|bytes| waiting_bytes + wire_bytes > bytes) {
            self.stats.tail_dropped += 1;
            return None;
        }
        if port.config.mark_bytes.is_some_and(|bytes| waiting_bytes > bytes) && mark_congestion(frame) {
            self.stats.marked += 1;
        }
        let start = port.busy_until.map_or(now, |busy| busy.max(now));
        let end = start + Duration::from_nanos(wire_bytes * 8 * 1_000_000_000 / bits_per_s);
        port.busy_until = Some(end);
        Some(end)
    }

    /// Whether a frame is one of a run of losses.
    fn bursts(&mut self, now: Instant, from: usize) -> bool {
        let LinkConfig { burst, burst_len, burst_time, .. } = self.stations[from].config;
        if burst == 0.0 {
            return false;
        }
        let goes_on = |began: &Instant| burst_time.is_none_or(|most| now < *began + most);
        let began = match self.stations[from].in_burst.filter(goes_on) {
            Some(began) => (!self.chance(1.0 / burst_len.max(1.0))).then_some(began),
            None => self.chance(burst).then_some(now),
        };
        self.stations[from].in_burst = began;
        began.is_some()
    }

    fn carry(&mut self, sent_at: Instant, from: usize, to: usize, mut frame: Vec<u8>) {
        let LinkConfig { loss, corruption, duplication, path_mtu, .. } = self.stations[from].config;
        if path_mtu.is_some_and(|mtu| frame.len() > usize::from(mtu) + HEADER_BYTES) {
            self.stats.too_large += 1;
            return;
        }
        if !self.up || self.bursts(sent_at, from) || self.chance(loss) {
            self.stats.lost += 1;
            return;
        }
        if self.chance(corruption) {
            self.stats.corrupted += 1;
            let bit = self.random.random_range(0..frame.len() * 8);
            if !turn_over(&mut frame, bit) {
                return;
            }
        }
        if self.chance(duplication) {
            self.stats.duplicated += 1;
            self.schedule(sent_at, from, to, frame.clone());
        }
        self.schedule(sent_at, from, to, frame);
    }

    fn schedule(&mut self, sent_at: Instant, from: usize, to: usize, frame: Vec<u8>) {
        let LinkConfig { delay, reordering, reordering_delay, .. } = self.stations[from].config;
        let mut at = sent_at + delay;
        let held_back = self.chance(reordering);
        if held_back {
            self.stats.reordered += 1;
            at += reordering_delay.mul_f64(self.random.random_range(0.0..=1.0));
        }
        self.sequence += 1;
        self.in_flight.push(from, InFlight { at, sequence: self.sequence, to, frame }, held_back);
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random_bool(probability.min(1.0))
    }

    fn deliver(&mut self, now: Instant) {
        while let Some(InFlight { to, frame, .. }) = self.in_flight.pop(now) {
            let port = &mut self.stations[to];
            let last = port.queues.len() - 1;
            let queue = (port.steering)(&frame, last + 1).min(last);
            let queue = &mut port.queues[queue];
            if queue.len() < port.config.queue_len_max {
                queue.push_back(frame);
                self.stats.delivered += 1;
            } else {
                self.stats.overflowed += 1;
            }
        }
    }
}

impl Port {
    /// What waits for its bandwidth, bytes.
    fn waiting_bytes(&self, now: Instant) -> u64 {
        let (Some(busy_until), Some(bits_per_s)) = (self.busy_until, self.config.bandwidth_bits_per_s) else {
            return 0;
        };
        let waits = busy_until.saturating_duration_since(now);
        (waits.as_nanos() * u128::from(bits_per_s.max(1)) / 8_000_000_000).try_into().unwrap_or(u64::MAX)
    }
}

/// One queue of a station.
pub struct SimulatedNic {
    link: SimulatedLink,
    station: usize,
    queue: usize,
    info: NicInfo,
    queued: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

impl Nic for SimulatedNic {
    fn rx_burst(&mut self, now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        {
            let mut switch = self.link.lock();
            switch.deliver(now);
            let queue = &mut switch.stations[self.station].queues[self.queue];
            let count = queue.len().min(RX_BURST_LEN);
            self.received.extend(queue.drain(..count));
        }
        for bytes in &self.received {
            frame(bytes, RxChecksum::Unknown);
        }
        let count = self.received.len();
        self.received.clear();
        count
    }

    fn tx_room(&self) -> usize {
        TX_PENDING_LEN_MAX - self.queued.len()
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if self.tx_room() == 0 {
            return false;
        }
        let frame = written(self.info.mtu, kind, len, fill);
        let is_written = frame.is_some();
        self.queued.extend(frame);
        is_written
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        let mut switch = self.link.lock();
        if switch.stations[self.station].held {
            return self.queued.len();
        }
        for frame in self.queued.drain(..) {
            switch.send(now, self.station, frame);
        }
        0
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        self.link.lock().up
    }
}

#[cfg(test)]
mod tests;

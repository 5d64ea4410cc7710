//! A simulated Ethernet link: stations around one switch, in one process, for tests.
//!
//! Time is the [`Instant`] that callers pass. A test may jump to [`SimulatedLink::next_delivery`]; passing
//! [`Instant::now`] makes it a real-time link. The same seed, calls and instants give the same losses.

use super::{Nic, NicInfo, RxChecksum, TxKind};
use crate::limits::{RX_BURST_LEN, TX_PENDING_LEN_MAX};
use crate::wire::ethernet::{Ethernet, HEADER_BYTES, VLAN_TAG_BYTES};
use crate::wire::ip::Ip;
use crate::wire::{Mac, checksum::Sum};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustc_hash::FxHasher;
use smoltcp::wire::{EthernetProtocol, IpProtocol};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// A station's rate of sending, bits a second; none: unbounded.
    pub bandwidth_bits_per_s: Option<u64>,
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
            bandwidth_bits_per_s: None,
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
}

/// Chooses a queue for a received frame, from the frame and the station's number of queues.
pub type Steering = Box<dyn FnMut(&[u8], usize) -> usize + Send>;

/// A switch that stations are plugged into. Clones are the same switch.
#[derive(Clone)]
pub struct SimulatedLink(Arc<Mutex<Switch>>);

/// Arrival, place among the frames of that instant, station, bytes.
type InFlight = (Instant, u64, usize, Vec<u8>);

struct Switch {
    config: LinkConfig,
    up: bool,
    random: StdRng,
    stations: Vec<Port>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    sequence: u64,
    stats: LinkStats,
}

struct Port {
    mac: Mac,
    queues: Vec<VecDeque<Vec<u8>>>,
    steering: Steering,
    busy_until: Option<Instant>,
    /// What it sends is lost.
    muted: bool,
}

impl SimulatedLink {
    /// A switch without stations.
    pub fn new(config: LinkConfig) -> Self {
        Self(Arc::new(Mutex::new(Switch {
            random: StdRng::seed_from_u64(config.seed),
            config,
            up: true,
            stations: Vec::new(),
            in_flight: BinaryHeap::new(),
            sequence: 0,
            stats: LinkStats::default(),
        })))
    }

    /// Plugs in a station with `queues` queues, and gives its queues. Frames are spread over them by a hash
    /// of addresses and ports, like receive-side scaling; frames without IP go to the first. It replaces a
    /// station of the same MAC.
    pub fn add_station(&self, mac: Mac, queues: usize) -> Vec<SimulatedNic> {
        let mut switch = self.lock();
        let station = switch.stations.len();
        // The replaced station receives nothing: no frame is for a multicast address that is zero except for
        // its group bit.
        for port in switch.stations.iter_mut().filter(|port| port.mac == mac) {
            port.mac = [1, 0, 0, 0, 0, 0];
        }
        switch.stations.push(Port {
            mac,
            queues: (0..queues).map(|_| VecDeque::new()).collect(),
            steering: Box::new(spread),
            busy_until: None,
            muted: false,
        });
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
    pub fn reconfigure(&self, change: impl FnOnce(&mut LinkConfig)) {
        change(&mut self.lock().config);
    }

    /// Loses all frames of the station `mac` from now on, though its device takes them; or stops losing them.
    pub fn mute(&self, mac: Mac, muted: bool) {
        if let Some(port) = self.lock().stations.iter_mut().find(|port| port.mac == mac) {
            port.muted = muted;
        }
    }

    /// Takes the link down, or up again. Frames sent while it is down are lost.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
    }

    /// When the next frame in flight arrives; none when no frame is in flight. Frames that wait in a queue
    /// have arrived.
    pub fn next_delivery(&self) -> Option<Instant> {
        self.lock().in_flight.peek().map(|Reverse((at, ..))| *at)
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
    fn send(&mut self, now: Instant, from: usize, frame: Vec<u8>) {
        self.stats.sent += 1;
        if self.stations[from].muted {
            self.stats.lost += 1;
            return;
        }
        let sent_at = match self.config.bandwidth_bits_per_s {
            None => now,
            Some(bits_per_s) => {
                let start = self.stations[from].busy_until.map_or(now, |busy| busy.max(now));
                let nanos = frame.len() as u64 * 8 * 1_000_000_000 / bits_per_s.max(1);
                let end = start + Duration::from_nanos(nanos);
                self.stations[from].busy_until = Some(end);
                end
            }
        };
        let Some(&destination) = frame.first_chunk::<6>() else { return };
        let known = self.stations.iter().position(|port| port.mac == destination);
        for to in 0..self.stations.len() {
            // A switch floods frames to groups and to unknown stations.
            if to != from && known.is_none_or(|known| known == to) {
                self.carry(sent_at, to, frame.clone());
            }
        }
    }

    fn carry(&mut self, sent_at: Instant, to: usize, mut frame: Vec<u8>) {
        if !self.up || self.chance(self.config.loss) {
            self.stats.lost += 1;
            return;
        }
        if self.chance(self.config.corruption) {
            self.stats.corrupted += 1;
            let bit = self.random.random_range(0..frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        if self.chance(self.config.duplication) {
            self.stats.duplicated += 1;
            self.schedule(sent_at, to, frame.clone());
        }
        self.schedule(sent_at, to, frame);
    }

    fn schedule(&mut self, sent_at: Instant, to: usize, frame: Vec<u8>) {
        let mut at = sent_at + self.config.delay;
        if self.chance(self.config.reordering) {
            self.stats.reordered += 1;
            at += self.config.reordering_delay.mul_f64(self.random.random_range(0.0..=1.0));
        }
        self.sequence += 1;
        self.in_flight.push(Reverse((at, self.sequence, to, frame)));
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random_bool(probability.min(1.0))
    }

    fn deliver(&mut self, now: Instant) {
        while self.in_flight.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, _, to, frame))) = self.in_flight.pop() else { return };
            let port = &mut self.stations[to];
            let last = port.queues.len() - 1;
            let queue = (port.steering)(&frame, last + 1).min(last);
            let queue = &mut port.queues[queue];
            if queue.len() < self.config.queue_len_max {
                queue.push_back(frame);
                self.stats.delivered += 1;
            } else {
                self.stats.overflowed += 1;
            }
        }
    }
}

/// A queue by addresses and UDP ports; the first for frames without them.
fn spread(frame: &[u8], queues: usize) -> usize {
    let Ok((ethernet, payload)) = Ethernet::parse(frame) else { return 0 };
    let parsed = match ethernet.protocol {
        EthernetProtocol::Ipv4 => Ip::parse_v4(payload, false),
        EthernetProtocol::Ipv6 => Ip::parse_v6(payload),
        _ => return 0,
    };
    let Ok((ip, payload)) = parsed else { return 0 };
    let mut hasher = FxHasher::default();
    std::hash::Hash::hash(&(ip.addresses.source(), ip.addresses.destination()), &mut hasher);
    if ip.protocol == IpProtocol::Udp
        && let Some(ports) = payload.first_chunk::<4>()
    {
        hasher.write(ports);
    }
    (hasher.finish() >> 32) as usize % queues
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
        let len_max = usize::from(self.info.mtu) + HEADER_BYTES + VLAN_TAG_BYTES;
        if self.tx_room() == 0 || len > len_max {
            return false;
        }
        // A pattern that shows bytes that `fill` missed.
        let mut frame = vec![0xa5; len];
        fill(&mut frame);
        fill_checksums(kind, &mut frame);
        self.queued.push_back(frame);
        true
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        let mut switch = self.link.lock();
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

/// Does a device's work for [`TxKind`].
fn fill_checksums(kind: TxKind, frame: &mut [u8]) {
    let udp_at = match kind {
        TxKind::Plain => return,
        TxKind::UdpV4 { l2_len } => {
            let ip = usize::from(l2_len);
            let checksum = Sum::default().bytes(&frame[ip..ip + 20]).checksum();
            frame[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
            ip + 20
        }
        TxKind::UdpV6 { l2_len } => usize::from(l2_len) + 40,
    };
    // The pseudo-header sum stands in the field and is summed with the rest.
    let checksum = Sum::default().bytes(&frame[udp_at..]).udp_checksum();
    frame[udp_at + 6..udp_at + 8].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn send(nic: &mut SimulatedNic, now: Instant, tag: u8) {
        let fill = |frame: &mut [u8]| {
            frame[..6].copy_from_slice(&B);
            frame[6..12].copy_from_slice(&A);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame[14..].fill(tag);
        };
        assert!(nic.tx_frame(TxKind::Plain, 100, fill));
        nic.tx_flush(now);
    }

    fn received(nic: &mut SimulatedNic, now: Instant) -> Vec<u8> {
        let mut tags = Vec::new();
        while nic.rx_burst(now, |frame, _| tags.push(frame[14])) > 0 {}
        tags
    }

    fn run(config: LinkConfig) -> (Vec<u8>, LinkStats) {
        let link = SimulatedLink::new(config);
        let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
        let start = Instant::now();
        for tag in 0..200 {
            send(&mut a, start, tag);
        }
        let mut tags = Vec::new();
        while let Some(at) = link.next_delivery() {
            tags.extend(received(&mut b, at));
        }
        (tags, link.stats())
    }

    #[test]
    fn the_default_link_delivers_everything_in_order() {
        assert_eq!(run(LinkConfig::default()).0, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn the_same_seed_makes_the_same_trouble() {
        let trouble = || LinkConfig {
            seed: 7,
            loss: 0.1,
            duplication: 0.1,
            reordering: 0.3,
            corruption: 0.1,
            ..LinkConfig::default()
        };
        let (first, stats) = run(trouble());
        assert_eq!((first, stats), run(trouble()));
        assert!(stats.lost > 0 && stats.duplicated > 0 && stats.reordered > 0 && stats.corrupted > 0);
        assert_ne!(stats, run(LinkConfig { seed: 8, ..trouble() }).1);
    }

    #[test]
    fn a_frame_arrives_after_its_time_on_the_wire_and_the_delay() {
        let link = SimulatedLink::new(LinkConfig {
            delay: Duration::from_millis(5),
            bandwidth_bits_per_s: Some(800_000),
            ..LinkConfig::default()
        });
        let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
        let start = Instant::now();
        send(&mut a, start, 1);
        send(&mut a, start, 2);
        assert_eq!(link.next_delivery(), Some(start + Duration::from_millis(6)));
        assert!(received(&mut b, start + Duration::from_millis(5)).is_empty());
        assert_eq!(received(&mut b, start + Duration::from_millis(6)), [1]);
        assert_eq!(received(&mut b, start + Duration::from_millis(7)), [2]);
    }

    #[test]
    fn steering_chooses_the_queue() {
        let link = SimulatedLink::new(LinkConfig::default());
        let mut a = link.add_station(A, 1).remove(0);
        let mut b = link.add_station(B, 4);
        link.steer(B, |frame, _| usize::from(frame[14]));
        let now = Instant::now();
        for tag in [0, 3, 9] {
            send(&mut a, now, tag);
        }
        assert_eq!(received(&mut b[0], now), [0]);
        assert_eq!(received(&mut b[3], now), [3, 9]);
    }

    #[test]
    fn nothing_passes_a_link_that_is_down() {
        let link = SimulatedLink::new(LinkConfig::default());
        let (mut a, mut b) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
        link.set_up(false);
        assert!(!a.link_up());
        send(&mut a, Instant::now(), 1);
        assert!(received(&mut b, Instant::now()).is_empty());
        assert_eq!(link.stats().lost, 1);
    }

    #[test]
    fn a_frame_larger_than_the_link_takes_is_refused() {
        let link = SimulatedLink::new(LinkConfig::default());
        let mut a = link.add_station(A, 1).remove(0);
        assert!(!a.tx_frame(TxKind::Plain, 1519, |_| unreachable!()));
        assert!(a.tx_frame(TxKind::Plain, 1518, |frame| frame.fill(0)));
    }
}

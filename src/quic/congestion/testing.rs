//! Flows through one bottleneck, packet by packet, without QUIC: for the controllers' tests.

use super::algorithm::CongestionAlgorithm;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// UDP payload of each packet, and its frame, bytes.
pub(super) const PACKET_BYTES: u64 = 1472;
pub(super) const FRAME_BYTES: u64 = PACKET_BYTES + 42;
/// As in STOQ: what one acknowledgment covers, and its delay.
const PACKETS_PER_ACK: usize = 10;
const ACK_DELAY: Duration = Duration::from_millis(2);
const PACKET_THRESHOLD: u64 = 128;
/// Packets that leave at once, and the longest gap that the pacer makes up for.
const BURST: f64 = 16.0;
/// Windows a round trip that quinn-proto's pacer lets leave.
const QUINN_PACING: f64 = 1.25;

/// A path with a drop-tail queue.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) bits_per_s: u64,
    pub(super) delay: Duration,
    pub(super) buffer_bytes: u64,
    /// The share of packets that is lost by chance.
    pub(super) loss: f64,
    /// The chance of a run of 30 losses.
    pub(super) burst: f64,
    /// Packets that find a longer queue are marked.
    pub(super) mark_bytes: Option<u64>,
    /// Everything that arrives in this span is lost.
    pub(super) outage: Option<(Duration, Duration)>,
    /// The sender's worker does not run for up to the second of these at the beginning of each of the first.
    pub(super) late: Option<(Duration, Duration)>,
    pub(super) seed: u64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            bits_per_s: 100_000_000,
            delay: Duration::from_millis(25),
            buffer_bytes: 625_000,
            loss: 0.0,
            burst: 0.0,
            mark_bytes: None,
            outage: None,
            late: None,
            seed: 1,
        }
    }
}

/// Hides which algorithm a flow has.
pub(super) trait Controls {
    fn on_sent(&mut self, now: Instant, bytes: u64);
    fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64);
    fn on_ack_end(&mut self, now: Instant, in_flight: u64, app_limited: bool);
    fn on_lost(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool);
    fn on_marked(&mut self, now: Instant, sent: Instant);
    fn window(&self) -> u64;
    fn pacing_bytes_per_s(&self) -> Option<f64>;
}

impl<A: CongestionAlgorithm> Controls for A {
    fn on_sent(&mut self, now: Instant, bytes: u64) {
        CongestionAlgorithm::on_sent(self, now, bytes);
    }
    fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        CongestionAlgorithm::on_acked(self, now, sent, bytes);
    }
    fn on_ack_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        CongestionAlgorithm::on_ack_end(self, now, in_flight, app_limited);
    }
    fn on_lost(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        CongestionAlgorithm::on_lost(self, now, sent, bytes, persistent);
    }
    fn on_marked(&mut self, now: Instant, sent: Instant) {
        CongestionAlgorithm::on_marked(self, now, sent);
    }
    fn window(&self) -> u64 {
        CongestionAlgorithm::window(self)
    }
    fn pacing_bytes_per_s(&self) -> Option<f64> {
        CongestionAlgorithm::pacing_bytes_per_s(self)
    }
}

/// A sender, and its receiver.
pub(super) struct Flow {
    pub(super) control: Box<dyn Controls>,
    start: Duration,
    /// Packets of each of its messages, if it sends the next one when all of the last has arrived; else it always has something to send.
    message: Option<u64>,
    /// Packets of the message that have not left.
    unsent: u64,
    /// Bytes that arrived.
    pub(super) delivered: u64,
    /// Packets that were lost.
    pub(super) lost: u64,
    next: u64,
    in_flight: u64,
    /// Time of sending, and whether it is still in flight, of each packet from `next - sent.len()` on.
    sent: VecDeque<(Instant, bool)>,
    largest_acked: u64,
    rtt: Duration,
    tokens: f64,
    filled: Instant,
    last_ack: Instant,
    /// At the receiver: what is not acknowledged, and whether one was marked.
    received: Vec<u64>,
    marked: bool,
    wake: Option<Instant>,
}

impl Flow {
    pub(super) fn new(control: impl Controls + 'static) -> Self {
        let now = Instant::now();
        Self {
            control: Box::new(control),
            start: Duration::ZERO,
            message: None,
            unsent: u64::MAX,
            delivered: 0,
            lost: 0,
            next: 1,
            in_flight: 0,
            sent: VecDeque::new(),
            largest_acked: 0,
            rtt: Duration::from_millis(333),
            tokens: 0.0,
            filled: now,
            last_ack: now,
            received: Vec::new(),
            marked: false,
            wake: None,
        }
    }

    /// The same, beginning this long after the others.
    pub(super) fn starting(mut self, at: Duration) -> Self {
        self.start = at;
        self
    }

    /// The same, with messages of this many packets, one after the other.
    pub(super) fn of_messages(mut self, packets: u64) -> Self {
        (self.message, self.unsent) = (Some(packets), packets);
        self
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Acknowledge { flow: usize },
    Acked { flow: usize, numbers: Vec<u64>, marked: bool },
    Wake { flow: usize },
}

pub(super) struct Simulation {
    pub(super) flows: Vec<Flow>,
    /// Packets that found no room.
    pub(super) dropped: u64,
    /// Bytes of frames that entered the link.
    pub(super) carried: u64,
    path: Path,
    begun: Instant,
    now: Instant,
    busy_until: Instant,
    in_burst: bool,
    random: u64,
    /// What is on the path: when it arrives, its flow, its number, whether it was marked.
    arriving: VecDeque<(Instant, usize, u64, bool)>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sequence: u64,
    queue_sum: f64,
    queue_count: u64,
}

impl Simulation {
    pub(super) fn new(path: Path, mut flows: Vec<Flow>) -> Self {
        let now = Instant::now();
        let mut events = BinaryHeap::new();
        for (index, flow) in flows.iter_mut().enumerate() {
            (flow.filled, flow.last_ack) = (now + flow.start, now + flow.start);
            events.push(Reverse((now + flow.start, index as u64, Event::Wake { flow: index })));
        }
        let sequence = flows.len() as u64;
        Self {
            random: path.seed,
            flows,
            dropped: 0,
            carried: 0,
            path,
            begun: now,
            now,
            busy_until: now,
            in_burst: false,
            arriving: VecDeque::new(),
            events,
            sequence,
            queue_sum: 0.0,
            queue_count: 0,
        }
    }

    /// Runs until this long after the beginning.
    pub(super) fn run(&mut self, until: Duration) {
        let until = self.begun + until;
        loop {
            let arrival = self.arriving.front().map(|(at, ..)| *at);
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let Some(at) = arrival.into_iter().chain(event).min().filter(|at| *at <= until) else { return };
            self.now = at;
            if arrival == Some(at) {
                let arrived = self.arriving.pop_front();
                arrived.into_iter().for_each(|(_, flow, number, marked)| self.arrive(flow, number, marked));
            } else if let Some(Reverse((.., event))) = self.events.pop() {
                self.event(event);
            }
        }
    }

    /// What waited at the bottleneck since the last call, bytes on average.
    pub(super) fn mean_queue(&mut self) -> f64 {
        let mean = self.queue_sum / self.queue_count.max(1) as f64;
        (self.queue_sum, self.queue_count) = (0.0, 0);
        mean
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) as f64) < probability * (1_u64 << 31) as f64
    }

    /// When the sender's worker runs that should run at this time.
    fn awake(&self, at: Instant) -> Instant {
        let Some((every, most)) = self.path.late else { return at };
        let slot = (at - self.begun).as_nanos() / every.as_nanos();
        let random = (slot as u64 + self.path.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let until = every * slot as u32 + most.mul_f64(random as f64 / (1_u64 << 24) as f64);
        at.max(self.begun + until)
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        let at = if matches!(event, Event::Acknowledge { .. }) { at } else { self.awake(at) };
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn arrive(&mut self, flow: usize, number: u64, marked: bool) {
        let receiver = &mut self.flows[flow];
        receiver.delivered += PACKET_BYTES;
        receiver.received.push(number);
        receiver.marked |= marked;
        if receiver.received.len() >= PACKETS_PER_ACK || marked {
            self.acknowledge(flow);
        } else if receiver.received.len() == 1 {
            self.schedule(self.now + ACK_DELAY, Event::Acknowledge { flow });
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Acknowledge { flow } => self.acknowledge(flow),
            Event::Acked { flow, numbers, marked } => self.acked(flow, &numbers, marked),
            // An earlier time replaced the other ones.
            Event::Wake { flow } if self.flows[flow].wake.is_none_or(|wake| self.awake(wake) == self.now) => {
                self.flows[flow].wake = None;
                self.time_out(flow);
                self.send(flow);
            }
            Event::Wake { .. } => {}
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        let numbers = std::mem::take(&mut self.flows[flow].received);
        let marked = std::mem::take(&mut self.flows[flow].marked);
        if !numbers.is_empty() {
            self.schedule(self.now + self.path.delay, Event::Acked { flow, numbers, marked });
        }
    }

    fn acked(&mut self, index: usize, numbers: &[u64], marked: bool) {
        let (now, flow) = (self.now, &mut self.flows[index]);
        let mut newest = None;
        for number in numbers {
            let first = flow.next - flow.sent.len() as u64;
            if let Some(at) = number.checked_sub(first)
                && let Some((sent, flying @ true)) = flow.sent.get_mut(at as usize)
            {
                *flying = false;
                flow.control.on_acked(now, *sent, PACKET_BYTES);
                flow.in_flight -= PACKET_BYTES;
                newest = newest.max(Some(*sent));
            }
            flow.largest_acked = flow.largest_acked.max(*number);
        }
        if let Some(sent) = newest {
            let rtt = now - sent;
            flow.rtt = if flow.last_ack == self.begun { rtt } else { (flow.rtt * 7 + rtt) / 8 };
            flow.control.on_ack_end(now, flow.in_flight, flow.unsent == 0);
            if marked {
                flow.control.on_marked(now, sent);
            }
        }
        let persistent = now - flow.last_ack > Duration::from_secs(1) && flow.in_flight > 0;
        flow.last_ack = now;
        self.detect_losses(index, persistent);
        let flow = &mut self.flows[index];
        if let Some(packets) = flow.message.filter(|_| flow.unsent + flow.in_flight == 0) {
            flow.unsent = packets;
        }
        self.send(index);
    }

    fn detect_losses(&mut self, index: usize, persistent: bool) {
        let (now, flow) = (self.now, &mut self.flows[index]);
        let delay = flow.rtt.mul_f64(1.125).max(Duration::from_millis(1));
        let (mut lost, mut last) = (0, now);
        let first = flow.next - flow.sent.len() as u64;
        for (number, (sent, flying)) in (first..).zip(&mut flow.sent) {
            let sent = *sent;
            let by_number = number + PACKET_THRESHOLD <= flow.largest_acked;
            if number >= flow.largest_acked || !(by_number || now - sent >= delay) {
                break;
            }
            if std::mem::take(flying) {
                (lost, last) = (lost + 1, sent);
            }
        }
        while flow.sent.front().is_some_and(|(_, flying)| !flying) {
            flow.sent.pop_front();
        }
        if lost > 0 {
            flow.in_flight -= lost * PACKET_BYTES;
            flow.lost += lost;
            flow.unsent = flow.unsent.saturating_add(lost);
            flow.control.on_lost(now, last, lost * PACKET_BYTES, persistent);
        }
    }

    /// A probe, where nothing is heard.
    fn time_out(&mut self, index: usize) {
        let flow = &self.flows[index];
        if flow.in_flight > 0 && self.now - flow.last_ack > flow.rtt * 2 + Duration::from_millis(10) {
            self.transmit(index);
        }
    }

    fn send(&mut self, index: usize) {
        let now = self.now;
        let flow = &mut self.flows[index];
        let window = flow.control.window();
        // quinn-proto's pacer runs beside the worker's.
        let most = QUINN_PACING * window as f64 / flow.rtt.as_secs_f64();
        let rate = flow.control.pacing_bytes_per_s().map_or(most, |rate| rate.min(most)).max(1.0);
        let most = BURST * PACKET_BYTES as f64 + rate * 0.001;
        flow.tokens = (flow.tokens + (now - flow.filled).as_secs_f64() * rate).min(most);
        flow.filled = now;
        let mut paced = false;
        while self.flows[index].unsent > 0 && self.flows[index].in_flight + PACKET_BYTES < window {
            if self.flows[index].tokens < PACKET_BYTES as f64 {
                paced = true;
                break;
            }
            self.flows[index].tokens -= PACKET_BYTES as f64;
            self.flows[index].unsent -= 1;
            self.transmit(index);
        }
        let burst = (BURST * PACKET_BYTES as f64).min((rate * 0.001).max(2.0 * PACKET_BYTES as f64));
        let wait = if paced {
            Duration::from_secs_f64((burst - self.flows[index].tokens).max(1.0) / rate)
        } else {
            Duration::from_millis(200)
        };
        let at = now + wait;
        let flow = &mut self.flows[index];
        if flow.wake.is_none_or(|wake| at < wake) {
            flow.wake = Some(at);
            self.schedule(at, Event::Wake { flow: index });
        }
    }

    fn transmit(&mut self, index: usize) {
        let now = self.now;
        let flow = &mut self.flows[index];
        let number = flow.next;
        flow.next += 1;
        flow.in_flight += PACKET_BYTES;
        flow.sent.push_back((now, true));
        flow.control.on_sent(now, PACKET_BYTES);
        let start = self.busy_until.max(now);
        let queue = (start - now).as_secs_f64() * self.path.bits_per_s as f64 / 8.0;
        self.queue_sum += queue;
        self.queue_count += 1;
        if queue as u64 + FRAME_BYTES > self.path.buffer_bytes {
            self.dropped += 1;
            return;
        }
        let marked = self.path.mark_bytes.is_some_and(|most| queue as u64 > most);
        self.busy_until = start + Duration::from_nanos(FRAME_BYTES * 8_000_000_000 / self.path.bits_per_s);
        self.carried += FRAME_BYTES;
        let (loss, burst) = (self.path.loss, self.path.burst);
        self.in_burst = if self.in_burst { !self.chance(1.0 / 30.0) } else { self.chance(burst) };
        let out = self.path.outage.is_some_and(|(from, to)| (from..to).contains(&(now - self.begun)));
        if self.in_burst || out || self.chance(loss) {
            return;
        }
        self.arriving.push_back((self.busy_until + self.path.delay, index, number, marked));
    }
}

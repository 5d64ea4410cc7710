//! A worker's time by stage of the loop, from the core's cycle counter, in one turn of [`SAMPLE_TURNS`].
//!
//! A turn that is not sampled pays one load and one branch a mark. Written by the worker alone, read by any
//! thread.

use crate::histogram::Histogram;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// One turn in this number is measured: the marks then cost well under 1 % of the whole.
pub const SAMPLE_TURNS: u64 = 64;

/// A stage of the loop. Time in a nested stage is not charged to the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum LoopStage {
    /// The device's burst, and its buffers given back.
    Receive,
    /// Frames to fields.
    Parse,
    /// Datagrams into connections: copied, decrypted, acknowledged, reassembled.
    Quic,
    /// Stream bytes to records and checked groups.
    Records,
    /// Deliveries and commands.
    Rings,
    /// Applications on the worker's thread.
    Application,
    /// QUIC packets built and sealed.
    Emit,
    /// Packets into the device's buffers, behind their headers.
    Frame,
    /// The device's burst out.
    Transmit,
    /// Timers and everything else.
    Other,
}

impl LoopStage {
    /// Every stage, in the order of a turn.
    pub const ALL: [LoopStage; 10] = [
        Self::Receive,
        Self::Parse,
        Self::Quic,
        Self::Records,
        Self::Rings,
        Self::Application,
        Self::Emit,
        Self::Frame,
        Self::Transmit,
        Self::Other,
    ];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::Quic => "quic",
            Self::Records => "records",
            Self::Rings => "rings",
            Self::Application => "application",
            Self::Emit => "emit",
            Self::Frame => "frame",
            Self::Transmit => "transmit",
            Self::Other => "other",
        }
    }
}

/// One worker's stages.
#[derive(Debug)]
pub struct Stages {
    clock: quanta::Clock,
    sampling: AtomicBool,
    turn: AtomicU64,
    stage: AtomicUsize,
    since: AtomicU64,
    /// Cycles of the current sampled turn.
    running: [AtomicU64; LoopStage::ALL.len()],
    /// Cycles of all sampled busy turns.
    total: [AtomicU64; LoopStage::ALL.len()],
    sampled: [AtomicU64; 3],
    /// How long those turns took, nanoseconds.
    pub turns: Histogram,
}

/// The samples so far.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Sampled {
    /// Busy turns.
    pub turns: u64,
    /// Packets received in them.
    pub rx_packets: u64,
    /// Packets sent in them.
    pub tx_packets: u64,
    /// Nanoseconds in them, by stage in the order of [`LoopStage::ALL`].
    #[serde(serialize_with = "by_name")]
    pub ns: [u64; LoopStage::ALL.len()],
}

fn by_name<S: serde::Serializer>(ns: &[u64; LoopStage::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(LoopStage::ALL.iter().map(|stage| (stage.name(), ns[*stage as usize])))
}

impl Default for Stages {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            clock: quanta::Clock::new(),
            sampling: AtomicBool::new(false),
            turn: zero(),
            stage: AtomicUsize::new(LoopStage::Other as usize),
            since: zero(),
            running: std::array::from_fn(|_| zero()),
            total: std::array::from_fn(|_| zero()),
            sampled: std::array::from_fn(|_| zero()),
            turns: Histogram::default(),
        }
    }
}

/// One writer: a plain load and store, never a locked instruction.
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Stages {
    /// Begins a turn.
    #[inline]
    pub(crate) fn begin(&self, stage: LoopStage) {
        let turn = self.turn.load(Relaxed);
        self.turn.store(turn.wrapping_add(1), Relaxed);
        if turn.is_multiple_of(SAMPLE_TURNS) {
            self.start(stage);
        }
    }

    #[cold]
    fn start(&self, stage: LoopStage) {
        self.running.iter().for_each(|cell| cell.store(0, Relaxed));
        self.stage.store(stage as usize, Relaxed);
        self.since.store(self.clock.raw(), Relaxed);
        self.sampling.store(true, Relaxed);
    }

    /// Charges the time from here on to this stage.
    #[inline]
    pub(crate) fn enter(&self, stage: LoopStage) {
        if self.sampling.load(Relaxed) {
            self.charge(stage);
        }
    }

    #[cold]
    fn charge(&self, stage: LoopStage) {
        let now = self.clock.raw();
        let left = self.stage.load(Relaxed);
        add(&self.running[left], now.saturating_sub(self.since.load(Relaxed)));
        self.since.store(now, Relaxed);
        self.stage.store(stage as usize, Relaxed);
    }

    /// Ends the turn; it counts if it was busy.
    #[inline]
    pub(crate) fn end(&self, worked: bool, packets: impl FnOnce() -> (u64, u64)) {
        if self.sampling.load(Relaxed) {
            self.charge(LoopStage::Other);
            self.sampling.store(false, Relaxed);
            if worked {
                let (rx, tx) = packets();
                self.running.iter().zip(&self.total).for_each(|(ran, total)| add(total, ran.load(Relaxed)));
                self.sampled.iter().zip([1, rx, tx]).for_each(|(cell, n)| add(cell, n));
                let cycles = self.running.iter().map(|ran| ran.load(Relaxed)).sum();
                self.turns.record(self.clock.delta_as_nanos(0, cycles));
            }
        }
    }

    /// Whether the current turn is measured.
    pub(crate) fn is_sampling(&self) -> bool {
        self.sampling.load(Relaxed)
    }

    /// The worker's total busy time, extrapolated from the sampled turns, nanoseconds.
    pub fn busy_ns(&self) -> u64 {
        self.turns.sum().saturating_mul(SAMPLE_TURNS)
    }

    /// The samples so far.
    pub fn sampled(&self) -> Sampled {
        let [turns, rx_packets, tx_packets] = self.sampled.each_ref().map(|cell| cell.load(Relaxed));
        let ns = self.total.each_ref().map(|cell| self.clock.delta_as_nanos(0, cell.load(Relaxed)));
        Sampled { turns, rx_packets, tx_packets, ns }
    }
}

impl Sampled {
    /// Nanoseconds of a stage.
    pub fn ns(&self, stage: LoopStage) -> u64 {
        self.ns[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn spin(time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {}
    }

    #[test]
    fn a_sampled_turn_charges_each_stage_its_own_time() {
        let stages = Stages::default();
        stages.begin(LoopStage::Receive);
        spin(Duration::from_millis(2));
        stages.enter(LoopStage::Parse);
        spin(Duration::from_millis(6));
        stages.enter(LoopStage::Receive);
        spin(Duration::from_millis(2));
        stages.end(true, || (3, 1));
        let sampled = stages.sampled();
        assert_eq!((sampled.turns, sampled.rx_packets, sampled.tx_packets), (1, 3, 1));
        assert!(sampled.ns(LoopStage::Receive) >= 3_900_000 && sampled.ns(LoopStage::Parse) >= 5_900_000);
        assert_eq!(sampled.ns(LoopStage::Emit), 0);
    }

    #[test]
    fn one_turn_of_many_is_sampled_and_idle_turns_count_nothing() {
        let stages = Stages::default();
        for turn in 0..10 * SAMPLE_TURNS {
            stages.begin(LoopStage::Receive);
            assert_eq!(stages.is_sampling(), turn % SAMPLE_TURNS == 0);
            stages.end(turn >= 5 * SAMPLE_TURNS, || (1, 0));
        }
        let sampled = stages.sampled();
        assert_eq!((sampled.turns, sampled.rx_packets), (5, 5));
    }
}

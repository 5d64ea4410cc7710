//! A device shared by more workers than it has queues, or whose queues are not filled evenly: its flows are spread in software.
//!
//! ```text
//!  device ──queue 0──▶ worker 0 ──own flows──▶ its connections      (frames without a flow as well: ARP, NDP, echo)
//!                        │ └──inlets──▶ worker 1, 2, …              each flow's worker by Toeplitz's hash
//!  device ◀─queue 0──  worker 0 ◀─feeders── worker 0, 1, 2, …       in turn, so that none keeps the others out
//! ```
//!
//! The buffers themselves change hands. A worker that ends, in whatever way, leaves its queues behind; another one takes them over in its next
//! burst, or the packets that close the others' connections would not leave.

use super::left_queues::LeftQueues;
use super::rss::Rss;
use super::stall::Stall;
use super::{Nic, NicInfo, RxChecksum, SpreadCounts, TxKind};
use crate::limits::SPREAD_CARRY_LEN;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The number of frames of one burst that stayed, and that went to other workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedBurst {
    /// Shown to the worker that took the burst.
    pub shown: usize,
    /// Given to other workers.
    pub given: usize,
    /// Dropped, because their worker's inlet was full.
    pub refused: usize,
}

/// A queue pair whose frames may change workers.
pub trait SharedNic: Nic + Send {
    /// Received frames on their way to one worker.
    type RxRing: Send + Sync;
    /// The end at which that worker takes them.
    type Inlet: Inlet + Send;
    /// Frames on their way from one worker to a queue.
    type TxRing: Send + Sync;
    /// The end at which that worker writes them.
    type Feeder: Feeder + Send;

    /// A ring for received frames of the device.
    fn rx_ring(&self) -> (Arc<Self::RxRing>, Self::Inlet);

    /// A ring for frames that this queue is to send.
    fn tx_ring(&self) -> (Arc<Self::TxRing>, Self::Feeder);

    /// As [`Nic::rx_burst`]; frames for which `place` names a ring go there.
    fn rx_share<'r>(
        &mut self,
        now: Instant,
        place: impl Fn(&[u8]) -> Option<&'r Self::RxRing>,
        frame: impl FnMut(&[u8], RxChecksum),
    ) -> SharedBurst
    where
        Self::RxRing: 'r;

    /// Queues up to `max` frames of a ring, as far as there is room. Returns their number.
    fn carry(&mut self, ring: &Self::TxRing, max: usize) -> usize;
}

/// Where a worker takes frames that others received.
pub trait Inlet {
    /// Takes up to [`crate::limits::RX_BURST_LEN`] frames and shows each to `frame`. Returns their number.
    fn take(&mut self, frame: impl FnMut(&[u8], RxChecksum)) -> usize;
}

/// Where a worker writes frames that another one sends.
pub trait Feeder {
    /// As [`Nic::tx_room`].
    fn room(&self) -> usize;

    /// As [`Nic::tx_frame`].
    fn frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool;

    /// Frames that the queue has not taken yet.
    fn pending(&self) -> usize;

    /// Drops them. Returns their number.
    fn drop_pending(&mut self) -> usize;
}

/// One worker's share of a device. All frames of a flow go to one worker.
pub struct SpreadNic<D: SharedNic> {
    worker: usize,
    info: NicInfo,
    /// The queues that this worker polls, by their numbers.
    devices: Vec<(usize, D)>,
    inlet: D::Inlet,
    feeder: D::Feeder,
    stall: Stall,
    /// Frames written to the feeder so far, and those of them that had been taken at the last flush.
    fed: usize,
    fed_taken: usize,
    drops: u64,
    counts: SpreadCounts,
    crew: Arc<Crew<D>>,
}

/// What the workers of a device share.
struct Crew<D: SharedNic> {
    rss: Rss,
    /// Of each worker.
    inlets: Vec<Arc<D::RxRing>>,
    /// Of each queue, and whether its link was up.
    queues: Vec<(Vec<Arc<D::TxRing>>, AtomicBool)>,
    /// Those whose workers have ended.
    left: LeftQueues<(usize, D)>,
}

impl<D: SharedNic> Crew<D> {
    /// The inlet of the worker that a frame belongs to, if it is not `worker`.
    #[inline]
    fn place(&self, frame: &[u8], worker: usize) -> Option<&D::RxRing> {
        let at = self.rss.queue(frame, self.inlets.len()).filter(|at| *at != worker)?;
        Some(&self.inlets[at])
    }
}

/// Spreads the flows of a device with these queues over `workers`, by the hash of `rss`. Worker `w` sends by queue `w` modulo their number, and
/// polls queue `w` if there is one.
///
/// # Panics
/// If there is no queue, or more than workers.
pub fn spread<D: SharedNic>(queues: Vec<D>, workers: usize, rss: Rss) -> Vec<SpreadNic<D>> {
    assert!((1..=workers).contains(&queues.len()), "a device has a queue, and each queue a worker");
    let (inlets, takers): (Vec<_>, Vec<_>) = (0..workers).map(|_| queues[0].rx_ring()).unzip();
    let (feeds, feeders): (Vec<_>, Vec<_>) =
        (0..workers).map(|worker| queues[worker % queues.len()].tx_ring()).unzip();
    let of_queue = |queue| feeds.iter().skip(queue).step_by(queues.len()).cloned().collect();
    let rings = queues.iter().enumerate().map(|(queue, nic)| (of_queue(queue), nic.link_up().into()));
    let crew = Arc::new(Crew { rss, inlets, queues: rings.collect(), left: LeftQueues::default() });
    let info = queues[0].info().clone();
    let mut queues = queues.into_iter().enumerate();
    takers
        .into_iter()
        .zip(feeders)
        .enumerate()
        .map(|(worker, (inlet, feeder))| SpreadNic {
            worker,
            info: info.clone(),
            devices: queues.next().into_iter().collect(),
            inlet,
            feeder,
            stall: Stall::default(),
            fed: 0,
            fed_taken: 0,
            drops: 0,
            counts: SpreadCounts::default(),
            crew: crew.clone(),
        })
        .collect()
}

impl<D: SharedNic> SpreadNic<D> {
    /// Queues the frames of all workers that send by the queues of this one: a few of each in turn, until no more fit or are left.
    fn carry(&mut self) {
        for (queue, device) in &mut self.devices {
            let (rings, _) = &self.crew.queues[*queue];
            loop {
                let carried: usize = rings.iter().map(|ring| device.carry(ring, SPREAD_CARRY_LEN)).sum();
                self.counts.carried += carried as u64;
                if carried == 0 {
                    break;
                }
            }
        }
    }
}

impl<D: SharedNic> Nic for SpreadNic<D> {
    fn rx_burst(&mut self, now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        self.crew.left.take_over(&mut self.devices);
        self.carry();
        let Self { worker, devices, inlet, counts, crew, .. } = self;
        let mut shown = 0;
        for (queue, device) in devices {
            let shared = device.rx_share(now, |bytes| crew.place(bytes, *worker), &mut frame);
            shown += shared.shown;
            counts.given += shared.given as u64;
            counts.refused += shared.refused as u64;
            let (_, link) = &crew.queues[*queue];
            if link.load(Ordering::Relaxed) != device.link_up() {
                link.store(device.link_up(), Ordering::Relaxed);
            }
        }
        let taken = inlet.take(frame);
        counts.taken += taken as u64;
        shown + taken
    }

    fn tx_room(&self) -> usize {
        self.feeder.room()
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let is_written = self.feeder.frame(kind, len, fill);
        self.fed += usize::from(is_written);
        is_written
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        self.crew.left.take_over(&mut self.devices);
        self.carry();
        let mut left = 0;
        for (_, device) in &mut self.devices {
            left += device.tx_flush(now);
            self.drops += device.take_drops();
        }
        let pending = self.feeder.pending();
        let taken = self.fed - pending;
        let has_progressed = pending == 0 || taken != self.fed_taken;
        self.fed_taken = taken;
        if self.stall.is_over_bound(has_progressed, now) {
            let dropped = self.feeder.drop_pending();
            self.drops += dropped as u64;
            return left;
        }
        left + pending
    }

    fn take_drops(&mut self) -> u64 {
        std::mem::take(&mut self.drops)
    }

    fn take_spread(&mut self) -> SpreadCounts {
        std::mem::take(&mut self.counts)
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        let queues = &self.crew.queues;
        queues[self.worker % queues.len()].1.load(Ordering::Relaxed)
    }
}

impl<D: SharedNic> Drop for SpreadNic<D> {
    fn drop(&mut self) {
        self.crew.left.leave(&mut self.devices);
    }
}

#[cfg(test)]
mod tests;

//! Queues of a simulated station that several workers share.

use super::SimulatedNic;
use super::frame::written;
use crate::limits::{RX_BURST_LEN, SPREAD_RING_LEN, TX_PENDING_LEN_MAX};
use crate::nic::spread::{Feeder, Inlet, SharedBurst, SharedNic};
use crate::nic::{Nic, RxChecksum, TxKind};
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::time::Instant;

/// Frames on their way between two workers.
type FrameRing = ArrayQueue<Vec<u8>>;

/// Where a worker takes frames that another one received.
pub struct SimulatedInlet(Arc<FrameRing>);

/// Where a worker writes frames that another one sends.
pub struct SimulatedFeeder {
    ring: Arc<FrameRing>,
    mtu: u16,
}

impl SharedNic for SimulatedNic {
    type RxRing = FrameRing;
    type Inlet = SimulatedInlet;
    type TxRing = FrameRing;
    type Feeder = SimulatedFeeder;

    fn rx_ring(&self) -> (Arc<FrameRing>, SimulatedInlet) {
        let ring = Arc::new(FrameRing::new(SPREAD_RING_LEN));
        (ring.clone(), SimulatedInlet(ring))
    }

    fn tx_ring(&self) -> (Arc<FrameRing>, SimulatedFeeder) {
        let ring = Arc::new(FrameRing::new(SPREAD_RING_LEN));
        (ring.clone(), SimulatedFeeder { ring, mtu: self.info.mtu })
    }

    fn rx_share<'r>(
        &mut self,
        now: Instant,
        place: impl Fn(&[u8]) -> Option<&'r FrameRing>,
        mut frame: impl FnMut(&[u8], RxChecksum),
    ) -> SharedBurst {
        let mut shared = SharedBurst::default();
        self.rx_burst(now, |bytes, checksum| match place(bytes) {
            None => {
                frame(bytes, checksum);
                shared.shown += 1;
            }
            Some(ring) if ring.push(bytes.to_vec()).is_ok() => shared.given += 1,
            Some(_) => shared.refused += 1,
        });
        shared
    }

    fn carry(&mut self, ring: &FrameRing, max: usize) -> usize {
        let mut carried = 0;
        while carried < max
            && self.queued.len() < TX_PENDING_LEN_MAX
            && let Some(frame) = ring.pop()
        {
            self.queued.push_back(frame);
            carried += 1;
        }
        carried
    }
}

impl Inlet for SimulatedInlet {
    fn take(&mut self, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let frames = std::iter::from_fn(|| self.0.pop()).take(RX_BURST_LEN);
        frames.map(|bytes| frame(&bytes, RxChecksum::Unknown)).count()
    }
}

impl Feeder for SimulatedFeeder {
    fn room(&self) -> usize {
        SPREAD_RING_LEN - self.ring.len()
    }

    fn frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        self.room() > 0
            && written(self.mtu, kind, len, fill).is_some_and(|frame| self.ring.push(frame).is_ok())
    }

    fn pending(&self) -> usize {
        self.ring.len()
    }

    fn drop_pending(&mut self) -> usize {
        std::iter::from_fn(|| self.ring.pop()).count()
    }
}

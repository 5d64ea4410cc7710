//! A tap on a network device: copies of passing frames, all or a sample, for a capture.
//!
//! Workers copy into a bounded ring and never wait for its reader: a copy that finds the ring full is dropped
//! and counted. Without a capture, a tapped device costs one relaxed load for each burst. Without the
//! capture option a device is not tapped at all.

use super::{Nic, NicInfo, RxChecksum, SpreadCounts, TxKind};
use crate::limits::{CAPTURE_RING_LEN, CAPTURE_SECRETS_LEN};
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// A frame that passed a tapped queue.
#[derive(Debug)]
pub struct Copied {
    /// The turn in which it passed.
    pub at: Instant,
    /// The port of the gateway, counted from 0.
    pub port: u16,
    /// Whether it was sent by this side.
    pub sent: bool,
    /// The whole frame, from the Ethernet header on. Checksums that the device fills in are still missing.
    pub frame: Box<[u8]>,
}

/// The place where all queues of a gateway's ports put their copies.
#[derive(Debug)]
pub struct Tap {
    /// Every `sample`-th frame is copied; 0: none.
    sample: AtomicU32,
    frames: ArrayQueue<Copied>,
    dropped: AtomicU64,
    secrets: ArrayQueue<String>,
}

impl Default for Tap {
    fn default() -> Self {
        Self {
            sample: AtomicU32::new(0),
            frames: ArrayQueue::new(CAPTURE_RING_LEN),
            dropped: AtomicU64::new(0),
            secrets: ArrayQueue::new(CAPTURE_SECRETS_LEN),
        }
    }
}

impl Tap {
    /// Copies one of `sample` frames of each queue from now on; 0: none.
    pub fn set_sample(&self, sample: u32) {
        self.sample.store(sample, Ordering::Relaxed);
    }

    /// The next frame, in each queue's order.
    pub fn take(&self) -> Option<Copied> {
        self.frames.pop()
    }

    /// The number of frames and secrets that found their ring full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Keeps a line of a TLS key log during a capture.
    pub fn add_secret(&self, line: impl FnOnce() -> String) {
        if self.sample.load(Ordering::Relaxed) > 0 && self.secrets.push(line()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next line of the key log.
    pub fn take_secret(&self) -> Option<String> {
        self.secrets.pop()
    }
}

/// A queue pair with a tap on it.
pub struct Tapped<N> {
    nic: N,
    tap: Arc<Tap>,
    view: View,
}

/// A queue's view of the tap for this turn.
struct View {
    port: u16,
    sample: u32,
    passed: u32,
    now: Instant,
}

impl View {
    fn see(&mut self, tap: &Tap, sent: bool, frame: &[u8]) {
        self.passed += 1;
        if self.passed < self.sample {
            return;
        }
        self.passed = 0;
        let copied = Copied { at: self.now, port: self.port, sent, frame: frame.into() };
        if tap.frames.push(copied).is_err() {
            tap.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<N> Tapped<N> {
    /// Puts a tap on this queue of a port; `now` is any instant before the first burst.
    pub fn new(nic: N, tap: Arc<Tap>, port: u16, now: Instant) -> Self {
        Self { nic, tap, view: View { port, sample: 0, passed: 0, now } }
    }
}

impl<N: Nic> Nic for Tapped<N> {
    fn rx_burst(&mut self, now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let Self { nic, tap, view } = self;
        (view.sample, view.now) = (tap.sample.load(Ordering::Relaxed), now);
        if view.sample == 0 {
            return nic.rx_burst(now, frame);
        }
        nic.rx_burst(now, |bytes, checksum| {
            view.see(tap, false, bytes);
            frame(bytes, checksum);
        })
    }

    fn tx_room(&self) -> usize {
        self.nic.tx_room()
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Self { nic, tap, view } = self;
        if view.sample == 0 {
            return nic.tx_frame(kind, len, fill);
        }
        nic.tx_frame(kind, len, |frame| {
            fill(frame);
            view.see(tap, true, frame);
        })
    }

    fn tx_flush(&mut self, now: Instant) -> usize {
        self.nic.tx_flush(now)
    }

    fn take_drops(&mut self) -> u64 {
        self.nic.take_drops()
    }

    fn take_spread(&mut self) -> SpreadCounts {
        self.nic.take_spread()
    }

    fn info(&self) -> &NicInfo {
        self.nic.info()
    }

    fn link_up(&self) -> bool {
        self.nic.link_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    fn frame(number: u8) -> Vec<u8> {
        let mut frame = [&B[..], &A[..], &[0x88, 0xb5]].concat();
        frame.resize(64, number);
        frame
    }

    fn pair(tap: &Arc<Tap>) -> (Tapped<SimulatedNic>, SimulatedNic) {
        let link = SimulatedLink::new(LinkConfig::default());
        let (near, far) = (link.add_station(A, 1).remove(0), link.add_station(B, 1).remove(0));
        (Tapped::new(near, tap.clone(), 3, Instant::now()), far)
    }

    fn send(nic: &mut impl Nic, number: u8, now: Instant) {
        assert!(nic.tx_frame(TxKind::Plain, 64, |out| out.copy_from_slice(&frame(number))));
        assert_eq!(nic.tx_flush(now), 0);
    }

    #[test]
    fn both_directions_are_copied_during_a_capture() {
        let tap = Arc::new(Tap::default());
        let (mut near, mut far) = pair(&tap);
        let now = Instant::now();
        near.rx_burst(now, |_, _| ());
        send(&mut near, 0, now);
        assert!(tap.take().is_none(), "there is no capture yet");
        tap.set_sample(1);
        assert_eq!(near.rx_burst(now, |_, _| ()), 0);
        send(&mut near, 1, now);
        let mut back = frame(2);
        back[..6].copy_from_slice(&A);
        back[6..12].copy_from_slice(&B);
        assert!(far.tx_frame(TxKind::Plain, 64, |out| out.copy_from_slice(&back)));
        far.tx_flush(now);
        let mut seen = Vec::new();
        assert_eq!(near.rx_burst(now, |bytes, _| seen = bytes.to_vec()), 1);
        let (first, second) = (tap.take().unwrap(), tap.take().unwrap());
        assert_eq!((first.sent, first.port, first.at, &first.frame[..]), (true, 3, now, &frame(1)[..]));
        assert_eq!((second.sent, &second.frame[..]), (false, &seen[..]));
    }

    #[test]
    fn one_of_every_three_frames_is_copied_and_a_full_ring_is_counted() {
        let tap = Arc::new(Tap::default());
        let (mut near, _far) = pair(&tap);
        let now = Instant::now();
        tap.set_sample(3);
        near.rx_burst(now, |_, _| ());
        (1..=9).for_each(|number| send(&mut near, number, now));
        let copied: Vec<_> = std::iter::from_fn(|| tap.take()).map(|copied| copied.frame[63]).collect();
        assert_eq!(copied, [3, 6, 9]);
        tap.set_sample(1);
        near.rx_burst(now, |_, _| ());
        (0..CAPTURE_RING_LEN + 5).for_each(|_| send(&mut near, 1, now));
        assert_eq!(tap.dropped(), 5);
    }
}

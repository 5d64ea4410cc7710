//! The path between the two ends, under the clock that callers pass.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use stoq::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use stoq::nic::{Nic, TxKind};
use stoq::wire::Mac;

/// The largest Ethernet frame of MTU 1500, without its check sequence.
const FRAME_BYTES_MAX: usize = 1514;
/// Preamble, frame check sequence and gap, bytes a frame (IEEE 802.3).
const OVERHEAD_BYTES: u64 = 24;
/// A frame that is released later than this after its time is late.
const LATE: Duration = Duration::from_millis(1);
/// Names of the ends for the simulated switch. No frame has them: it floods each frame to the other end.
const NAMES: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// What a path does. It is the same both ways, but for loss and reordering, which the way from the first end to the second has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The rate of the bottleneck, bits of Ethernet frames a second, with preamble, check sequence and gap.
    pub(crate) rate_bits_per_s: u64,
    /// One way, microseconds.
    pub(crate) delay_us: u64,
    /// What waits for the bottleneck at most, bytes; frames that find no room are dropped.
    pub(crate) buffer_bytes: u64,
    /// Probability of losing a frame, 0 to 1.
    pub(crate) loss: f64,
    /// Probability of holding a frame back, 0 to 1.
    pub(crate) reordering: f64,
    /// For how long at most, microseconds.
    pub(crate) reordering_us: u64,
    /// Seeds the losses.
    pub(crate) seed: u64,
}

impl Settings {
    /// Whether there can be such a path.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let frame = FRAME_BYTES_MAX as u64 + OVERHEAD_BYTES;
        anyhow::ensure!(self.rate_bits_per_s > 0, "rate_bits_per_s is 0: give the rate of the bottleneck");
        anyhow::ensure!(
            self.buffer_bytes >= frame,
            "buffer_bytes is {}: give at least {frame}, a frame",
            self.buffer_bytes
        );
        for (name, probability) in [("loss", self.loss), ("reordering", self.reordering)] {
            anyhow::ensure!(
                (0.0..=1.0).contains(&probability),
                "{name} is {probability}: give a probability, 0 to 1"
            );
        }
        Ok(())
    }
}

/// What has passed, frames of both ways, and whether all of it was in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Since the start, seconds.
    pub(crate) at_s: f64,
    pub(crate) taken: u64,
    pub(crate) released: u64,
    /// Dropped because the buffer was full.
    pub(crate) tail_dropped: u64,
    /// Lost by chance.
    pub(crate) lost: u64,
    pub(crate) held_back: u64,
    /// Larger than the MTU: an offload is on that must not be.
    pub(crate) too_large: u64,
    /// Refused by the other end's device, or by a queue of the path.
    pub(crate) refused: u64,
    /// Released later than [`LATE`] after their time.
    pub(crate) late: u64,
    /// The longest time by which a frame was late since the report before, microseconds.
    pub(crate) late_us_max: u64,
}

/// The path with both its ends.
pub(crate) struct LongPath {
    link: SimulatedLink,
    ends: Vec<SimulatedNic>,
    counted: Report,
}

impl LongPath {
    pub(crate) fn new(settings: &Settings) -> Self {
        let link = SimulatedLink::new(LinkConfig {
            seed: settings.seed,
            delay: Duration::from_micros(settings.delay_us),
            bandwidth_bits_per_s: Some(settings.rate_bits_per_s),
            buffer_bytes: Some(settings.buffer_bytes),
            overhead_bytes: OVERHEAD_BYTES,
            ..LinkConfig::default()
        });
        let ends = NAMES.iter().flat_map(|name| link.add_station(*name, 1)).collect();
        link.reconfigure_from(NAMES[0], |forth| {
            (forth.loss, forth.reordering) = (settings.loss, settings.reordering);
            forth.reordering_delay = Duration::from_micros(settings.reordering_us);
        });
        Self { link, ends, counted: Report::default() }
    }

    /// A frame that arrived at the end `from`.
    pub(crate) fn take(&mut self, now: Instant, from: usize, frame: &[u8]) {
        self.counted.taken += 1;
        if frame.len() > FRAME_BYTES_MAX {
            self.counted.too_large += 1;
            return;
        }
        let end = &mut self.ends[from];
        if !end.tx_frame(TxKind::Plain, frame.len(), |to| to.copy_from_slice(frame)) {
            self.counted.refused += 1;
        }
        end.tx_flush(now);
    }

    /// Gives each frame that is due to the end that it is for, in order; `send` says whether the end's device took it.
    pub(crate) fn release(&mut self, now: Instant, mut send: impl FnMut(usize, &[u8]) -> bool) {
        while let Some(due) = self.link.next_delivery().filter(|due| *due <= now) {
            let (late, counted) = (now - due, &mut self.counted);
            counted.late_us_max = counted.late_us_max.max(late.as_micros() as u64);
            for (to, end) in self.ends.iter_mut().enumerate() {
                let mut pass = |frame: &[u8]| {
                    counted.late += u64::from(late > LATE);
                    if send(to, frame) {
                        counted.released += 1;
                    } else {
                        counted.refused += 1;
                    }
                };
                while end.rx_burst(due, |frame, _| pass(frame)) > 0 {}
            }
        }
    }

    /// When the next frame is due.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.link.next_delivery()
    }

    /// Everything until now.
    pub(crate) fn report(&mut self, at: Duration) -> Report {
        let stats = self.link.stats();
        let report = Report {
            at_s: at.as_secs_f64(),
            tail_dropped: stats.tail_dropped,
            lost: stats.lost,
            held_back: stats.reordered,
            refused: self.counted.refused + stats.overflowed,
            ..self.counted
        };
        self.counted.late_us_max = 0;
        report
    }
}

#[cfg(test)]
mod tests;

//! The load that a worker shows to the others.

use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// The load of one worker, for the others: its packets, averaged, and [`LOAD_CONNECTION_LEN`] for each connection. A word that the
/// worker alone writes: the number of the publication (16 bits), the load (47 bits), and whether clients must prove their addresses there
/// or are refused.
#[derive(Debug, Default)]
pub(super) struct PublishedLoad(CachePadded<AtomicU64>);

const ROUND_BITS: u32 = 16;
pub(super) const LOAD_MAX: u64 = (1 << (63 - ROUND_BITS)) - 1;

/// A load as it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoadView {
    pub(super) round: u16,
    pub(super) load: u64,
    pub(super) must_prove: bool,
}

impl PublishedLoad {
    pub(super) fn store(&self, LoadView { round, load, must_prove }: LoadView) {
        let word = u64::from(round) << (64 - ROUND_BITS) | load.min(LOAD_MAX) << 1 | u64::from(must_prove);
        self.0.store(word, Ordering::Relaxed);
    }

    pub(super) fn view(&self) -> LoadView {
        let word = self.0.load(Ordering::Relaxed);
        LoadView {
            round: (word >> (64 - ROUND_BITS)) as u16,
            load: word >> 1 & LOAD_MAX,
            must_prove: word & 1 == 1,
        }
    }
}

//! How a payload or set is cut into windows.

use super::Want;
use crate::limits::GATHER_WINDOW_BYTES;
use crate::shard::{Descriptor, Lanes};
use crate::token::GROUP_BYTES_U64;

/// The windows of a payload or set whose description is known.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) length: u64,
    pub(super) descriptor: Option<Box<Descriptor>>,
    /// The number of groups, or of stripes.
    units: u64,
    units_a_window: u64,
    pub(super) windows: u64,
    /// The holder that claims the length, until the piece at the payload's end proves it.
    pub(super) claimed_by: Option<usize>,
}

impl Shape {
    /// The windows of `want` for a payload of `length` bytes; `None` if the description does not fit `want`.
    pub(super) fn new(want: Want, length: u64, set: Option<Box<Descriptor>>) -> Option<Self> {
        let (units, units_a_window) = match (want, &set) {
            (Want::Payload, _) => {
                (length.div_ceil(GROUP_BYTES_U64).max(1), GATHER_WINDOW_BYTES / GROUP_BYTES_U64)
            }
            (Want::AnyLanes, Some(set)) => (set.stripes(), GATHER_WINDOW_BYTES / set.stripe_bytes()),
            (Want::Lanes(lanes), Some(set)) if set.lanes().contains_all(lanes) => {
                (set.stripes(), GATHER_WINDOW_BYTES / (set.shard_bytes() * u64::from(lanes.len().max(1))))
            }
            _ => return None,
        };
        let units_a_window = units_a_window.max(1);
        let windows = units.div_ceil(units_a_window);
        Some(Self { length, descriptor: set, units, units_a_window, windows, claimed_by: None })
    }

    /// The first unit of a window and its number of units.
    pub(super) fn span(&self, window: u64) -> (u64, u64) {
        let start = window * self.units_a_window;
        (start, self.units_a_window.min(self.units - start))
    }

    /// Lanes without a byte in these stripes: the data lanes past the end of the payload.
    pub(super) fn absent(&self, start: u64, count: u64) -> Lanes {
        let Some(set) = self.descriptor.as_ref().filter(|_| count == 1 && start + 1 == self.units) else {
            return Lanes::NONE;
        };
        let left = set.length_bytes().saturating_sub(start * set.stripe_bytes());
        let present = left.div_ceil(set.shard_bytes()).min(set.k().into()) as u32;
        Lanes::first(set.k().into()).without(Lanes::first(present))
    }

    /// Whether these lanes restore the stripes.
    pub(super) fn enough(&self, got: Lanes, start: u64, count: u64) -> bool {
        let k = self.descriptor.as_ref().map_or(1, |set| u32::from(set.k()));
        got.union(self.absent(start, count)).len() >= k
    }
}

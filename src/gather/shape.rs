//! How a payload or set is cut into windows.

use super::Want;
use crate::shard::{Descriptor, Lanes};
use crate::token::{GROUP_BYTES_U64, groups_of};
use std::ops::Range;

/// A payload or set whose description is known: what its windows are cut of.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) length: u64,
    pub(super) descriptor: Option<Box<Descriptor>>,
    /// The wanted groups, or stripes.
    pub(super) units: Range<u64>,
    /// The bytes of one, of all wanted lanes.
    unit_bytes: u64,
    /// The holder that claims the length, until the piece at the payload's end proves it.
    pub(super) claimed_by: Option<usize>,
}

impl Shape {
    /// The windows of `want` for a payload of `length` bytes; `None` if the description does not fit `want`.
    pub(super) fn new(want: Want, length: u64, set: Option<Box<Descriptor>>) -> Option<Self> {
        let (units, unit_bytes) = match (want, &set) {
            (Want::Payload, _) => (groups_of(length), GROUP_BYTES_U64),
            (Want::AnyLanes, Some(set)) => (set.stripes(), set.stripe_bytes()),
            (Want::Lanes(lanes), Some(set)) if set.lanes().contains_all(lanes) => {
                (set.stripes(), set.shard_bytes() * u64::from(lanes.len().max(1)))
            }
            _ => return None,
        };
        Some(Self { length, descriptor: set, units: 0..units, unit_bytes, claimed_by: None })
    }

    /// The units of a window of about `bytes`.
    pub(super) fn units_of(&self, bytes: u64) -> u64 {
        (bytes / self.unit_bytes.max(1)).max(1)
    }

    /// The bytes of some units, of all wanted lanes.
    pub(super) fn bytes_of(&self, units: u64) -> u64 {
        units * self.unit_bytes
    }

    /// The bytes of some units of one lane.
    pub(super) fn lane_bytes_of(&self, units: u64) -> u64 {
        let lane = self.descriptor.as_ref().map_or(GROUP_BYTES_U64, |set| set.shard_bytes());
        units * lane
    }

    /// Lanes without a byte in these stripes: the data lanes past the end of the payload.
    pub(super) fn absent(&self, start: u64, count: u64) -> Lanes {
        let Some(set) = self.descriptor.as_ref().filter(|_| count == 1 && start + 1 == self.units.end) else {
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

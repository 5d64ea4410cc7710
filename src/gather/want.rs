//! The wanted part of a payload or set.

use crate::shard::Lanes;

/// The part that a gathering fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The payload itself, from holders that have all of it.
    Payload,
    /// Shards of any k lanes, stripe by stripe: enough to restore the payload.
    AnyLanes,
    /// All shards of these lanes; [`Lanes::NONE`]: of the data lanes.
    Lanes(Lanes),
}

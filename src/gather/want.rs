//! What is fetched.

use crate::shard::Lanes;

/// What is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The payload itself, from holders that have all of it.
    Payload,
    /// Shards of any k lanes, stripe by stripe: what the payload can be made of.
    AnyLanes,
    /// All shards of these lanes; of none: of the data lanes.
    Lanes(Lanes),
}

//! What of a set's two blobs a request carries.

use crate::token::{Selection, Token};

/// One of the two byte strings of a set, each with a token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blob {
    /// The payload: the data shards, stripe by stripe.
    Content,
    /// The parity shards, stripe by stripe.
    Parity,
}

/// Some of one blob, as one verified encoding carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which blob.
    pub blob: Blob,
    /// The blob's token.
    pub token: Token,
    /// The blob's length, bytes.
    pub length: u64,
    /// Which of its groups.
    pub selection: Selection,
    /// Bytes selected, hashes not counted; never 0.
    pub bytes: u64,
}

/// The place of a shard in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex {
    /// Its lane: below k a data shard, from k on a parity shard.
    pub lane: u8,
    /// Its stripe.
    pub stripe: u64,
}

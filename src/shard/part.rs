//! The parts of a set's two blobs that a request carries.

use crate::token::{Selection, Token};

/// One of the two byte strings of a set, each with a token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blob {
    /// The payload: the data shards, stripe by stripe.
    Content,
    /// The parity shards, stripe by stripe.
    Parity,
}

/// A selection of one blob: the contents of one verified encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The blob.
    pub blob: Blob,
    /// The blob's token.
    pub token: Token,
    /// The blob's length, bytes.
    pub length: u64,
    /// The selected groups.
    pub selection: Selection,
    /// Selected bytes without hashes; never 0.
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

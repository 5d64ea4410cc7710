//! What is counted of the memory tier.

/// The counts and contents of a [`super::MemoryTier`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryStats {
    /// Reads that found their block in memory.
    pub hits: u64,
    /// Reads that went to the disk, or waited for a read that was on its way.
    pub misses: u64,
    /// The misses for which no memory was free: their bytes were read into memory of their own and not kept.
    pub unpooled: u64,
    /// Payload bytes in memory.
    pub held_bytes: u64,
    /// Blocks of payloads in memory.
    pub blocks: u64,
    /// Blocks of 2 MiB in huge pages.
    pub huge_blocks: u64,
    /// Memory that readers hold a part of. It stays until the reader's bytes are sent.
    pub lent_bytes: u64,
    /// Reads that got a copy, since half of the memory was lent.
    pub copied: u64,
    /// Blocks that are being read.
    pub coming: u64,
    /// Blocks that were asked for before a request needed them.
    pub ahead: u64,
    /// Those of them that a request then read, or waited for.
    pub ahead_hits: u64,
    /// Those of them that made room for others unread, or could not be read.
    pub ahead_wasted: u64,
}

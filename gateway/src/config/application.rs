//! The applications of a gateway.

use super::tagged::{section, tagged};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;
use stoq::application::Placement;
use stoq::limits::{NODE_ENTRIES_LEN, SCRUB_BYTES_PER_S, SCRUB_S, STORE_ENTRIES_LEN};

/// One application of a gateway.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ApplicationConfig {
    /// Sends every message back.
    Echo(EchoConfig),
    /// Counts messages and drops them: the far end of benchmarks.
    Discard(DiscardConfig),
    /// Keeps payloads and serves them.
    Seed(SeedConfig),
}

impl ApplicationConfig {
    /// Queue numbers whose messages and PUTs it takes.
    pub fn queues(&self) -> &[u64] {
        match self {
            Self::Echo(echo) => &echo.queues,
            Self::Discard(discard) => &discard.queues,
            Self::Seed(seed) => &seed.queues,
        }
    }
}

/// The application that sends every message back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EchoConfig {
    /// Queue numbers whose messages it takes.
    pub queues: Vec<u64>,
    /// On the worker's thread or on one of its own.
    #[serde(default = "default_plain_placement")]
    pub placement: Placement,
    /// Take messages in early data too, where they could be replayed.
    #[serde(default)]
    pub replay_safe: bool,
}

/// The application that counts and drops.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscardConfig {
    /// Queue numbers whose messages and PUTs it takes.
    pub queues: Vec<u64>,
    /// On the worker's thread or on one of its own.
    #[serde(default = "default_plain_placement")]
    pub placement: Placement,
    /// Take messages in early data too, where they could be replayed.
    #[serde(default)]
    pub replay_safe: bool,
    /// Check the payloads of PUTs before they are dropped. Without it they are dropped unchecked, which shows
    /// the cost of checking. No payload is kept either way.
    #[serde(default = "default_true")]
    pub verify: bool,
}

/// The application that keeps payloads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedConfig {
    /// Queue numbers whose PUTs it takes.
    pub queues: Vec<u64>,
    /// On a thread of its own, since disks block; on the worker's only where the directory is in memory.
    #[serde(default = "default_seed_placement")]
    pub placement: Placement,
    /// The directory; made if it is missing.
    pub directory: PathBuf,
    /// Bytes of disk that it may hold; none: the disk is the bound.
    pub capacity_bytes: Option<u64>,
    /// Bytes that it may keep for one peer; none: no bound.
    pub quota_bytes: Option<u64>,
    /// Payloads and sets that it may hold.
    #[serde(default = "default_capacity_entries")]
    pub capacity_entries: u64,
    /// Payloads and sets that it may keep for one peer.
    #[serde(default = "default_quota_entries")]
    pub quota_entries: u64,
    /// The lease of payloads whose peer names none, seconds; 0: without end.
    #[serde(default)]
    pub lease_default_s: u64,
    /// The longest lease, seconds; 0: as requested.
    #[serde(default)]
    pub lease_max_s: u64,
    /// Days within which everything held is read and compared with its token; 0: only when an operator asks for it.
    #[serde(default = "default_scrub_days")]
    pub scrub_days: u64,
    /// The highest rate at which that is read, bytes a second.
    #[serde(default = "default_scrub_bytes_per_s")]
    pub scrub_bytes_per_s: u64,
    /// Bytes of memory for hot payloads, in huge pages where they are reserved.
    #[serde(default = "default_memory_bytes")]
    pub memory_bytes: u64,
}

impl<'de> Deserialize<'de> for ApplicationConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, keys) = tagged(deserializer)?;
        match kind.as_str() {
            "echo" => section(keys).map(Self::Echo),
            "discard" => section(keys).map(Self::Discard),
            "seed" => section(keys).map(Self::Seed),
            _ => Err(D::Error::unknown_variant(&kind, &["echo", "discard", "seed"])),
        }
    }
}

fn default_memory_bytes() -> u64 {
    512 << 20
}
fn default_scrub_days() -> u64 {
    SCRUB_S / 86_400
}
fn default_scrub_bytes_per_s() -> u64 {
    SCRUB_BYTES_PER_S
}
fn default_capacity_entries() -> u64 {
    STORE_ENTRIES_LEN
}
fn default_quota_entries() -> u64 {
    NODE_ENTRIES_LEN
}
fn default_plain_placement() -> Placement {
    Placement::Worker
}
fn default_seed_placement() -> Placement {
    Placement::Thread
}
fn default_true() -> bool {
    true
}

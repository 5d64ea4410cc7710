//! The seed's storage: payloads and lanes of sets on disk ([`Store`]), and their most used blocks in memory ([`MemoryTier`]).

mod accounts;
mod announce;
mod app;
mod blocks;
mod cache;
mod check;
mod checking;
mod checks;
mod clock;
mod commit;
mod committer;
mod config;
mod damage;
mod database;
mod directory;
mod disk;
mod entry;
mod error;
mod eviction;
mod holdings;

mod index;
mod inner;
mod layout;
mod lease;
mod loans;
mod lock;
mod lookup;
pub mod memory;
mod memory_stats;
mod migration;
mod mirror;
mod open_files;
mod open_payload;
mod outgoing;
mod pool;
mod putting;
mod reader;
mod recovery;
mod refusals;
mod reservation;
mod saved_time;
mod serve;
#[cfg(test)]
mod tests;

pub mod store;
mod terms;
mod tier;
mod time;
mod verify;

mod writing;

pub use crate::record::Coverage;
pub use app::{Seed, SeedParts};
pub use cache::{Cache, Passing};
pub use check::CheckResult;
pub use checks::{CheckState, Urgency};
pub use clock::{ClockReading, ClockState, Clocks, Moment};
pub use config::StoreConfig;
pub use damage::{DamageOutcome, DamageState, Damaged};
pub use directory::Directory;
pub use disk::{Disk, MachineDisk};
pub use error::StoreError;
pub use holdings::{Census, Holding, HoldingChange, HoldingChanges};
pub use lease::Lease;
pub use memory::MemoryTier;
pub use memory_stats::MemoryStats;
pub use open_payload::{OpenPayload, OpenSet};
pub use pool::MemoryPages;
pub use reader::{ReadState, ReadsBy};
pub use refusals::StoreBound;
pub use store::Store;
pub use writing::{PayloadWriter, SetWriter};

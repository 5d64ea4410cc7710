//! The seed's keeping: payloads on disk ([`Store`]) and the blocks of them that are asked for most in memory
//! ([`MemoryTier`]).

mod app;
pub mod memory;
pub mod store;
mod writer;

pub use app::Seed;
pub use memory::{MemoryStats, MemoryTier};
pub use store::{Held, Store, StoreConfig, StoreError};
pub use writer::Writer;

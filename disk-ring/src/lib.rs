//! Memory for the bytes of files, and reads into it that no thread waits for.
//!
//! [`Slabs`] divides blocks of memory into slots of one size a block. A [`Slot`] is owned by one holder, stays where it is, and goes back when it
//! is dropped. A [`Ring`] owns the slots and the files of its reads until the kernel is done with them.

mod cached;
mod fixed;
mod memory;
mod ring;
mod slabs;
mod write_back;

pub use cached::is_cached;
pub use memory::{HeapMemory, Memory, PAGE_BYTES};
pub use ring::{Ring, RingRead, RingWaker};
pub use slabs::{Slabs, SlabsStats, Slot};
pub use write_back::begin_write_back;

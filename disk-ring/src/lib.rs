//! Memory for the bytes of files, reads into it and writes that no thread waits for.
//!
//! [`Slabs`] divides blocks of memory into slots of one size a block. A [`Slot`] is owned by one holder, stays where it is, and goes back when it
//! is dropped. A [`Ring`] owns the memory and the files of its reads or writes until the kernel is done with them.

mod batch;
mod cached;
mod fixed;
mod job;
mod memory;
mod read;
mod ring;
mod slabs;
mod write;
mod write_back;

pub use batch::give_way;
pub use cached::is_cached;
pub use job::RingJob;
pub use memory::{HeapMemory, Memory, PAGE_BYTES};
pub use read::RingRead;
pub use ring::{Ring, RingWaker};
pub use slabs::{Slabs, SlabsStats, Slot};
pub use write::{RingWrite, WRITE_PARTS_LEN_MAX};
pub use write_back::begin_write_back;

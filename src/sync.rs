//! The atomics, locks and parking of the files whose threads meet without a ring or a lock around everything.
//!
//! `tests/interleavings` compiles these files with loom's types in the place of these, and tries the orders in which their threads may run. Such
//! a file imports nothing of `std::sync`, and has its unit tests in another file.

pub(crate) use crossbeam_utils::sync::{Parker, Unparker};
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use std::sync::{Arc, Mutex, PoisonError};

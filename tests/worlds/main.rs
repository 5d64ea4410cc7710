//! Runs by seeds: a store on a disk that fails and forgets (`store`), and whole worlds with such disks (`whole`). `scripts/simulate.sh` runs
//! any seed.
//!
//! A seed draws everything: the actions, the fault, and what a crash leaves. The disk is a model beside real files (`disk`): the store changes
//! files by the calls of [`stoq::seed::Disk`], which the model overrides to count them, to fail, and to note what was synced. A crash keeps
//! what the model says, in another directory, where the store is opened again. In a run of a store, time is a
//! number that the run passes. Only checks run on a thread of the store, and the run waits for each.

mod disk;
#[path = "../seed_store/earlier.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod earlier;
#[path = "../forged/mod.rs"]
mod forged;
mod samples;
mod seeds;
mod store;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../simulated/support/mod.rs"]
mod support;
mod whole;

use cap::Cap;
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

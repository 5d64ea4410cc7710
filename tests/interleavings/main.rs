//! The orders in which threads may run: loom tries them, with the code of the library itself.
//!
//! The files of `src` that import `crate::sync` are compiled here once more, with loom's atomics and locks in the place of the standard ones. A
//! model is a few threads that use them. loom runs it in every order that differs, with the stale values that relaxed loads may see, up
//! to [`PREEMPTIONS_MAX`] switches away from a thread that could go on. A sleep has no time limit here: a wake that is lost is a deadlock, which
//! fails the test.

#![allow(dead_code, unreachable_pub, reason = "a test, which uses a part of each file")]

mod client;
mod gate;
mod nic;
mod parker;
mod queue;
mod seed;
mod worker;

use std::process::Command;
use std::time::Duration;
use stoq::limits;

/// The library's module of this name, with loom's types.
mod sync {
    pub(crate) use crate::parker::{Parker, Unparker};
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::sync::{Arc, Mutex};
    pub(crate) use std::sync::PoisonError;
}

const NO_LIMIT: Duration = Duration::MAX;

/// Switches away from a thread that could go on, in one run. Faults of this kind need one or two.
const PREEMPTIONS_MAX: usize = 3;

/// Tries the orders of a model. Returns the number of runs.
fn every_order(model: impl Fn() + Send + Sync + 'static) -> usize {
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = runs.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    runs.load(std::sync::atomic::Ordering::Relaxed)
}

/// Tries the orders of a model that has a fault, in a process of its own: loom ends it where threads still hold its types. Fails if no
/// order shows the fault. `test` is the name of the calling test, and `fault` stands in the message of its failure.
fn some_order_fails(test: &str, fault: &str, model: impl FnOnce()) {
    const INSIDE: &str = "STOQ_FAULTY_MODEL";
    if std::env::var_os(INSIDE).is_some() {
        return model();
    }
    let program = std::env::current_exe().unwrap();
    let output =
        Command::new(program).args([test, "--exact", "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(fault), "{test} shows no fault: {said}");
}

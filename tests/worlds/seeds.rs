//! Runs by seeds: which ones, and which failed.

use crate::disk::DiskMutant;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

/// A fault that is put into a run to show that its checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The disk makes no file durable.
    DroppedSync,
    /// The disk makes no name durable.
    DroppedDirectorySync,
    /// Blocks are taken that no account is charged for.
    ForgottenCharge,
    /// Bytes that were not compared with their token are written into the store.
    UncheckedGroup,
    /// A client's application is not woken.
    LostWakeUp,
    /// Gateways keep the buffers of the datagrams that they receive, and charge them to no account.
    KeptDatagrams,
}

impl Mutant {
    /// Those of runs of a store; the whole worlds have two more.
    pub(crate) const OF_STORE: [Self; 4] =
        [Self::DroppedSync, Self::DroppedDirectorySync, Self::ForgottenCharge, Self::UncheckedGroup];
    pub(crate) const ALL: [Self; 6] = [
        Self::DroppedSync,
        Self::DroppedDirectorySync,
        Self::ForgottenCharge,
        Self::UncheckedGroup,
        Self::LostWakeUp,
        Self::KeptDatagrams,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DroppedSync => "dropped-sync",
            Self::DroppedDirectorySync => "dropped-directory-sync",
            Self::ForgottenCharge => "forgotten-charge",
            Self::UncheckedGroup => "unchecked-group",
            Self::LostWakeUp => "lost-wake-up",
            Self::KeptDatagrams => "kept-datagrams",
        }
    }

    pub(crate) fn on_disk(self) -> Option<DiskMutant> {
        match self {
            Self::DroppedSync => Some(DiskMutant::DroppedSync),
            Self::DroppedDirectorySync => Some(DiskMutant::DroppedDirectorySync),
            Self::ForgottenCharge => Some(DiskMutant::BlocksBehindEnds),
            Self::UncheckedGroup | Self::LostWakeUp | Self::KeptDatagrams => None,
        }
    }
}

/// The variable of a process that runs one test.
const ALONE: &str = "STOQ_ALONE";

/// Runs this test in a process of its own: what its allocator counts is the test's.
#[allow(clippy::print_stdout, reason = "a test that fails shows the output of its process")]
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let mut own = Command::new(std::env::current_exe().unwrap());
    let output = own.args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    println!("{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && shown.contains("1 passed"), "{name} fails in a process of its own");
}

/// The seeds that `STOQ_SEEDS` names.
pub(crate) fn named() -> Option<Range<u64>> {
    let given = std::env::var("STOQ_SEEDS").ok()?;
    let read = || given.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(read().filter(|seeds: &Range<u64>| !seeds.is_empty()).unwrap_or_else(|| {
        panic!("STOQ_SEEDS={given} names no seeds: write STOQ_SEEDS=1..101 for a hundred, 17..18 for one")
    }))
}

/// The mutant that `STOQ_MUTANT` names.
fn mutant() -> Option<Mutant> {
    let given = std::env::var("STOQ_MUTANT").ok()?;
    let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == given);
    let names = Mutant::ALL.map(Mutant::name);
    Some(found.unwrap_or_else(|| panic!("no mutant is called {given}: name one of {names:?}")))
}

/// Runs each of these seeds, or of those that `STOQ_SEEDS` names, and names those that fail.
#[allow(clippy::print_stdout, reason = "a test that fails shows its seeds")]
pub(crate) fn run(test: &str, fixed: Range<u64>, one: impl Fn(u64, Option<Mutant>)) {
    let mutant = mutant();
    let mut failed = Vec::new();
    for seed in named().unwrap_or(fixed) {
        if catch_unwind(AssertUnwindSafe(|| one(seed, mutant))).is_err() {
            let with = mutant.map_or(String::new(), |mutant| format!(" --mutant {}", mutant.name()));
            println!("the panic above is of: scripts/simulate.sh {test} --seeds {seed}..{}{with}", seed + 1);
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds failed: {failed:?}");
}

/// One of these seeds must fail with this mutant.
#[track_caller]
pub(crate) fn assert_caught(mutant: Mutant, mut seeds: Range<u64>, one: impl Fn(u64)) {
    let caught = seeds.any(|seed| catch_unwind(AssertUnwindSafe(|| one(seed))).is_err());
    assert!(caught, "no seed catches {}", mutant.name());
}

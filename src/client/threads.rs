//! The threads of a client's node.

use crate::node::{ThreadSetup, VerifyThreads};
use crate::worker::Idle;
use std::fmt;

/// How a client's workers, and the threads that check for them, run.
pub(super) struct Threads {
    pub(super) cores: Vec<usize>,
    pub(super) verify: VerifyThreads,
    pub(super) idle: Idle,
    pub(super) setup: Option<ThreadSetup>,
}

impl Default for Threads {
    fn default() -> Self {
        Self { cores: Vec::new(), verify: VerifyThreads::default(), idle: Idle::Adaptive, setup: None }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("cores", &self.cores)
            .field("verify", &self.verify)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

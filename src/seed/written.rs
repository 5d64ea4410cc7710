//! What the threads that write and commit tell the thread that serves.

use super::error::StoreError;
use crate::queue::{Charge, PeerRequest, RequestId, Waker};
use crate::token::AnyToken;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The request, what came of a step of it, and what counts it while it waits.
pub(super) type WriteResult = (RequestId, WriteOutcome, Arc<()>);

/// The token now held and its payload bytes, or why it is not held.
pub(super) type Committed = Result<(AnyToken, u64), StoreError>;

/// What tells results, from any thread.
#[derive(Clone)]
pub(super) struct Teller {
    pub(super) done: Sender<WriteResult>,
    pub(super) waker: Waker,
}

impl Teller {
    /// Tells these, and has them taken.
    pub(super) fn tell(&self, results: impl IntoIterator<Item = WriteResult>) {
        for result in results {
            // Sending fails only if the instance has ended.
            let _ = self.done.send(result);
        }
        self.waker.wake();
    }
}

/// What is told of a piece that was written. A file that writes it later takes it.
pub(super) struct Later<'a> {
    pub(super) teller: &'a Teller,
    pub(super) result: Option<WriteResult>,
}

/// What came of a step.
pub(super) enum WriteOutcome {
    /// Its bytes may come.
    Begun,
    /// This token is held, and is to be checked before the PUT is looked at again.
    Unchecked(AnyToken, Box<PeerRequest>),
    /// Bytes were written, or are not needed any more.
    Bytes(Charge),
    /// It is durable, or it has failed. Nothing of it is left to write.
    Ended(Committed),
}

//! What the threads that write and commit tell the thread that serves.

use super::writing::Committed;
use crate::queue::{Charge, PeerRequest, RequestId};
use crate::token::AnyToken;
use std::sync::Arc;

/// The request, what came of a step of it, and what counts it while it waits.
pub(super) type WriteResult = (RequestId, WriteOutcome, Arc<()>);

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

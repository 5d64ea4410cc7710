//! The bound of a connection's inbox.

use crate::limits::{CLIENT_MESSAGES_BYTES, CLIENT_MESSAGES_LEN};
use crate::sync::{AtomicUsize, Ordering};

/// The messages that wait in the inbox of one connection, counted.
#[derive(Debug, Default)]
pub(super) struct InboxRoom {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl InboxRoom {
    pub(super) fn is_full(&self) -> bool {
        self.messages.load(Ordering::Acquire) >= CLIENT_MESSAGES_LEN
            || self.bytes.load(Ordering::Acquire) >= CLIENT_MESSAGES_BYTES
    }

    pub(super) fn take(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Returns whether the inbox was full: then the worker may wait for room. What each subtraction found tells it: a look before them would
    /// miss a message that fills the inbox meanwhile.
    pub(super) fn give_back(&self, bytes: usize) -> bool {
        let messages_before = self.messages.fetch_sub(1, Ordering::AcqRel);
        let bytes_before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        messages_before >= CLIENT_MESSAGES_LEN || bytes_before >= CLIENT_MESSAGES_BYTES
    }
}

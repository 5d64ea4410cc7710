//! The bounds of the bytes that wait inside a worker.

use crate::limits::{OUTSTANDING_BYTES_MAX, RELAY_WINDOW_BYTES};
use crate::sync::{Arc, AtomicIsize, Ordering};

/// The bytes that an application has outstanding in one direction: given to the worker, and not yet taken by QUIC.
///
/// The application adds bytes when it sends them, and the worker subtracts them when QUIC has taken them. Credit bounds the bytes that
/// wait inside the worker for one slow peer: the command ring never has to stop for it.
#[derive(Clone, Debug, Default)]
pub struct Credit(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    bytes: AtomicIsize,
    /// Of an account that several share: their bound. Otherwise unused.
    bytes_max: AtomicIsize,
    /// The account that several on the connection share, and that these bytes are a part of: of its answers, or of its requests to other
    /// gateways.
    all: Option<Credit>,
}

impl Drop for Account {
    /// Bytes that were dropped with their stream are no longer outstanding.
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            all.0.bytes.fetch_sub(self.bytes.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }
}

impl Credit {
    /// An account for several on a connection.
    pub(crate) fn shared(bytes_max: usize) -> Self {
        let all = Self::default();
        all.set_bytes_max(bytes_max);
        all
    }

    /// Changes the bound of all of them, at most [`crate::limits::ANSWERS_BYTES_MAX`].
    pub(crate) fn set_bytes_max(&self, bytes_max: usize) {
        self.0.bytes_max.store(bytes_max as isize, Ordering::Release);
    }

    /// Credit for one of several on a connection, such as its answers: together they have at most the bytes of [`Credit::shared`] outstanding, and
    /// one has at most as much as all of them leave. So an answer that is not read leaves room for the next one.
    pub(crate) fn within(all: &Self) -> Self {
        let (bytes, bytes_max) = (AtomicIsize::new(0), AtomicIsize::new(0));
        Self(Arc::new(Account { bytes, bytes_max, all: Some(all.clone()) }))
    }

    fn bytes(&self) -> isize {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// The bytes outstanding.
    pub(crate) fn outstanding_bytes(&self) -> usize {
        self.bytes().max(0) as usize
    }

    fn bytes_max(&self) -> isize {
        self.0.bytes_max.load(Ordering::Acquire)
    }

    fn has_room_below(&self, bytes_max: usize) -> bool {
        let own = self.bytes();
        let left = || self.0.all.as_ref().is_none_or(|all| own < all.bytes_max() - all.bytes());
        own < bytes_max as isize && left()
    }

    /// Whether another send is allowed now.
    pub fn has_room(&self) -> bool {
        self.has_room_below(OUTSTANDING_BYTES_MAX)
    }

    /// Whether a relay may read on for this direction: its bound of the bytes held of one stream.
    pub(crate) fn has_relay_room(&self) -> bool {
        self.has_room_below(RELAY_WINDOW_BYTES)
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as isize, Ordering::AcqRel);
        if let Some(all) = &self.0.all {
            all.take(bytes);
        }
    }

    /// Subtracts bytes. Returns whether it is time to wake an application that waits for credit: the first half is free again, or a part of
    /// what several share.
    pub fn give_back(&self, bytes: usize) -> bool {
        const HALF: isize = OUTSTANDING_BYTES_MAX as isize / 2;
        let bytes = bytes as isize;
        let before = self.0.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let part_is_free = self.0.all.as_ref().is_some_and(|all| {
            let before = all.0.bytes.fetch_sub(bytes, Ordering::AcqRel);
            let part = (all.bytes_max() / 16).max(1);
            before / part != (before - bytes) / part
        });
        part_is_free || (before >= HALF && before - bytes < HALF)
    }

    /// Ends the credit: its connection has ended. Later bytes are dropped, and no application may wait for their credit.
    pub(crate) fn end(&self) {
        self.0.bytes.store(isize::MIN / 2, Ordering::Release);
    }
}

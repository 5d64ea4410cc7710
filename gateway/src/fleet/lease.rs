//! The lease under which a gateway says that it is alive.

use std::time::{Duration, Instant};

/// The ID of a lease of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A lease is kept alive so often within its time.
const KEPT_TIMES: u32 = 3;

/// A lease that is held, or none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldLease(Option<(LeaseId, Instant)>);

impl HeldLease {
    pub(super) fn granted(&mut self, now: Instant, id: LeaseId, ttl: Duration) {
        self.0 = Some((id, now + ttl / KEPT_TIMES));
    }

    pub(super) fn kept_alive(&mut self, now: Instant, ttl: Duration) {
        if let Some((_, keep_at)) = &mut self.0 {
            *keep_at = now + ttl / KEPT_TIMES;
        }
    }

    /// The lease, if there is one.
    pub(super) fn id(&self) -> Option<LeaseId> {
        self.0.map(|(id, _)| id)
    }

    /// When it is to be kept alive.
    pub(super) fn keep_at(&self) -> Option<Instant> {
        self.0.map(|(_, keep_at)| keep_at)
    }

    /// The lease, if it is to be kept alive now.
    pub(super) fn due(&self, now: Instant) -> Option<LeaseId> {
        self.0.filter(|(_, keep_at)| *keep_at <= now).map(|(id, _)| id)
    }
}

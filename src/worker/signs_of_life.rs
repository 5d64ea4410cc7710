//! Signs of life of the fleet's gateways whose leases are gone, as workers tell each other of them: a packet arrives at one worker, and each has
//! questions of its own.

use crate::quic::routable::ServerId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// When each gateway was last heard from. Workers look at it when they have to do with one that is gone.
#[derive(Debug, Default)]
pub(super) struct SignsOfLife {
    /// Counts the changes.
    changes: AtomicU32,
    heard: Mutex<HashMap<ServerId, Instant>>,
}

impl SignsOfLife {
    /// A packet of this gateway has arrived.
    pub(super) fn note(&self, server_id: ServerId, now: Instant) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(server_id, now);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// When each was heard from, if anything has changed since `seen`; otherwise the call costs one load.
    pub(super) fn newer(&self, seen: &mut u32) -> Vec<(ServerId, Instant)> {
        if self.changes.load(Ordering::Acquire) == *seen {
            return Vec::new();
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = self.changes.load(Ordering::Acquire);
        heard.iter().map(|(&server_id, &at)| (server_id, at)).collect()
    }

    /// Forgets the gateways that are gone no longer.
    pub(super) fn keep(&self, is_gone: impl Fn(ServerId) -> bool) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|&server_id, _| is_gone(server_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_hears_once_of_a_sign_and_of_none_of_a_gateway_that_is_gone_no_longer() {
        let (signs, now) = (SignsOfLife::default(), Instant::now());
        let (mut seen, mut other) = (0, 0);
        assert!(signs.newer(&mut seen).is_empty());
        signs.note(ServerId([0, 0, 7]), now);
        assert_eq!(signs.newer(&mut seen), [(ServerId([0, 0, 7]), now)]);
        assert!(signs.newer(&mut seen).is_empty());
        signs.keep(|_| false);
        assert!(signs.newer(&mut other).is_empty() && signs.newer(&mut other).is_empty());
    }
}

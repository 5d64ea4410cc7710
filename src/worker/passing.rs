//! Datagrams that arrive at one worker and belong to another one.
//!
//! Where the device's hash leaves most datagrams on one queue, its worker passes them on first: the others do not wait for the work on its
//! own connections. It takes further bursts while at least half of each is for others, and its own datagrams wait in its own ring.

use super::Core;
use super::shared::Handover;
use crate::counters::Counter;
use crate::datagram::Datagram;
use crate::limits::{DEFERRED_TURN_LEN, HANDOVER_RING_LEN, RX_BURST_LEN};
use std::time::Instant;

/// How a worker passes datagrams on.
#[derive(Debug, Default)]
pub(super) struct PassingOn {
    /// Datagrams of this burst that were for other workers.
    passed: usize,
    /// Whether datagrams of own connections wait in the own ring: others' go first, or earlier ones wait there.
    defers: bool,
}

impl PassingOn {
    pub(super) fn begin_burst(&mut self) {
        self.passed = 0;
    }

    /// Whether another burst is taken in this turn, after one of `taken` datagrams.
    #[inline]
    pub(super) fn goes_on(&mut self, taken: usize) -> bool {
        let goes_on = self.passed >= RX_BURST_LEN / 2 && taken >= RX_BURST_LEN;
        self.defers |= goes_on;
        goes_on
    }
}

impl Core {
    /// Passes a datagram on to the worker that owns its connection, or is to accept it, if that is another one. Returns whether this
    /// worker has nothing to do with it now.
    pub(super) fn pass_on(&mut self, now: Instant, datagram: &Datagram<'_>) -> bool {
        let &Datagram { remote, local_ip, ecn, payload, is_gue } = datagram;
        let owner = self.cids.owner(payload, self.desk.shared.workers);
        if owner.is_none() && self.hand_over(now, datagram) {
            return true;
        }
        let owner = owner.or_else(|| self.place(now, payload)).unwrap_or(self.index);
        let is_own = owner == self.index;
        if is_own && !self.passing.defers {
            return false;
        }
        let handover = Handover { remote, local_ip, ecn, payload: self.received.copy(payload), is_gue };
        self.passing.passed += usize::from(!is_own);
        let taken = self.desk.shared.handovers[usize::from(owner)].push(handover).is_ok();
        let counter = if taken { Counter::HandoversOut } else { Counter::DropHandoverFull };
        self.desk.status.counters.add(counter, 1);
        true
    }

    /// Takes the datagrams that workers passed on to this one: few of them, while it passes on others itself.
    pub(super) fn take_handovers(&mut self, now: Instant) -> bool {
        if self.desk.shared.workers == 1 {
            return false;
        }
        let most = if self.passing.defers { DEFERRED_TURN_LEN } else { HANDOVER_RING_LEN };
        let mut taken = 0;
        while taken < most
            && let Some(handover) = self.desk.shared.handovers[usize::from(self.index)].pop()
        {
            taken += 1;
            let Handover { remote, local_ip, ecn, payload, is_gue } = handover;
            if is_gue {
                self.take_gue(now, &Datagram { remote, local_ip, ecn, payload: &payload, is_gue });
            } else {
                let is_known = self.feed(now, (remote, local_ip, ecn), payload);
                self.count_unknown(is_known);
            }
        }
        // What still waits is older than the next burst.
        self.passing.defers &= taken == most;
        self.desk.status.counters.add(Counter::HandoversIn, taken as u64);
        taken > 0
    }
}

//! The memory that a process promises to its peers and holds for them: one budget, with a share for each node.

use crate::tls::NodeId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A node that grows gets at most one part in this many of the bytes by which it holds less than what is left.
const PART: u64 = 2;
/// It is short while less than one part in this many is left.
const SHORT_DIVISOR: u64 = 8;
/// Requests of a node that holds more than what is left are refused while less than one part in this many is left.
const REFUSE_DIVISOR: u64 = 16;
/// A window whose bytes begin to flow gets at most one part in this many of what is left.
const OPENING_DIVISOR: u64 = 64;
/// It gets this many bytes, as long as half of the budget is left.
const OPENING_BYTES_MIN: u64 = 1 << 20;
/// The answers on one connection get at most one part in this many of what its node may take.
const ANSWERS_DIVISOR: u64 = 8;

/// A use of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum BudgetUse {
    /// Receive windows: bytes that peers may send before they are read, records that are not whole and bytes behind gaps among them.
    Receive,
    /// Send windows: bytes that QUIC keeps until they are acknowledged.
    Send,
    /// Answers and forwarded bytes that QUIC has not taken, and bytes of PUTs that no application has written.
    Answers,
    /// Messages that QUIC has not taken, and those that applications have not taken.
    Messages,
}

impl BudgetUse {
    /// Every use.
    pub const ALL: [Self; 4] = [Self::Receive, Self::Send, Self::Answers, Self::Messages];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive_windows",
            Self::Send => "send_windows",
            Self::Answers => "answers",
            Self::Messages => "messages",
        }
    }
}

/// One budget a process. Clones are the same budget.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    total_bytes: AtomicU64,
    /// Locked when a share changes: for a connection at most once a round trip.
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    taken_bytes: u64,
    uses: [u64; BudgetUse::ALL.len()],
    /// By node; all peers without a certificate are one. The map's hashing is keyed: peers choose node IDs.
    holders: HashMap<Option<NodeId>, u64>,
}

impl Ledger {
    fn held(&self, holder: &Option<NodeId>) -> u64 {
        self.holders.get(holder).copied().unwrap_or(0)
    }

    fn add(&mut self, holder: Option<NodeId>, of: BudgetUse, bytes: u64) {
        if bytes > 0 {
            self.taken_bytes += bytes;
            self.uses[of as usize] += bytes;
            *self.holders.entry(holder).or_default() += bytes;
        }
    }

    fn subtract(&mut self, holder: Option<NodeId>, of: BudgetUse, bytes: u64) {
        self.taken_bytes -= bytes;
        self.uses[of as usize] -= bytes;
        if let Some(held) = self.holders.get_mut(&holder) {
            *held -= bytes;
            if *held == 0 {
                self.holders.remove(&holder);
            }
        }
    }
}

/// The budget as one share sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShareView {
    pub(crate) standing: ShareStanding,
    total_bytes: u64,
    left_bytes: u64,
    held_bytes: u64,
}

impl ShareView {
    /// What the answers on a connection may have prepared, within these bounds.
    pub(crate) fn answers_bytes(&self, bytes_min: usize, bytes_max: usize) -> usize {
        if self.total_bytes == 0 {
            return bytes_max;
        }
        let part = self.left_bytes.saturating_sub(self.held_bytes) / PART / ANSWERS_DIVISOR;
        usize::try_from(part).unwrap_or(usize::MAX).clamp(bytes_min, bytes_max)
    }

    /// The window that a connection gets while its bytes flow, at most `bytes_max`; 0 where half of the budget is taken.
    pub(crate) fn opening_bytes(&self, bytes_max: u64) -> u64 {
        if self.total_bytes == 0 {
            return bytes_max;
        }
        let part = (self.left_bytes / OPENING_DIVISOR).max(OPENING_BYTES_MIN);
        if self.left_bytes < self.total_bytes / 2 { 0 } else { bytes_max.min(part) }
    }
}

/// How a node stands with the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareStanding {
    /// It holds no more than what is left, or no more than its part would be if one more node had the same part.
    Within,
    /// It holds more than both: its windows shrink.
    Over,
    /// The same, and almost nothing is left: its requests are refused.
    Refused,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(total_bytes: u64) -> Self {
        let budget = Self::default();
        budget.set_total(total_bytes);
        budget
    }

    /// Changes its size, bytes. Bytes already taken stay taken. With 0 there is no budget: windows keep their sizes, and nothing is refused.
    pub fn set_total(&self, total_bytes: u64) {
        self.0.total_bytes.store(total_bytes, Relaxed);
    }

    /// Its size, bytes.
    pub fn total_bytes(&self) -> u64 {
        self.0.total_bytes.load(Relaxed)
    }

    /// The bytes that are promised or held now.
    pub fn taken_bytes(&self) -> u64 {
        self.ledger().taken_bytes
    }

    /// The part of them for one use.
    pub fn used_bytes(&self, of: BudgetUse) -> u64 {
        self.ledger().uses[of as usize]
    }

    /// The node that holds most, and what it holds, bytes. Peers without a certificate are one node, `None`.
    pub fn largest(&self) -> Option<(Option<NodeId>, u64)> {
        let ledger = self.ledger();
        ledger.holders.iter().max_by_key(|(_, held)| **held).map(|(node, held)| (*node, *held))
    }

    /// The bytes that a node holds.
    pub fn held_bytes(&self, node: Option<NodeId>) -> u64 {
        self.ledger().held(&node)
    }

    /// Whether little of it is left.
    pub fn is_short(&self) -> bool {
        let total = self.total_bytes();
        total > 0 && total.saturating_sub(self.taken_bytes()) < total / SHORT_DIVISOR
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's part of a [`Budget`], for one use. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    of: BudgetUse,
    holder: Option<NodeId>,
    bytes: u64,
}

impl Share {
    pub(crate) fn of(budget: &Budget, of: BudgetUse) -> Self {
        Self { budget: budget.clone(), of, holder: None, bytes: 0 }
    }

    /// Counts it for this node.
    pub(crate) fn set_holder(&mut self, holder: Option<NodeId>) {
        let mut ledger = self.budget.ledger();
        ledger.subtract(self.holder, self.of, self.bytes);
        ledger.add(holder, self.of, self.bytes);
        self.holder = holder;
    }

    /// Makes the share this large: the bytes are promised or held already.
    pub(crate) fn hold(&mut self, bytes: u64) {
        if bytes != self.bytes {
            let mut ledger = self.budget.ledger();
            ledger.subtract(self.holder, self.of, self.bytes);
            ledger.add(self.holder, self.of, bytes);
            self.bytes = bytes;
        }
    }

    /// Makes the share as large as `bytes`, or as large as the node's share allows; returns its size, bytes. A node takes more only while it
    /// holds less than what is left.
    pub(crate) fn resize(&mut self, bytes: u64) -> u64 {
        if bytes <= self.bytes {
            self.hold(bytes);
            return self.bytes;
        }
        let mut ledger = self.budget.ledger();
        let left = self.budget.total_bytes().saturating_sub(ledger.taken_bytes);
        let allowed = left.saturating_sub(ledger.held(&self.holder)) / PART;
        let more = (bytes - self.bytes).min(allowed);
        ledger.add(self.holder, self.of, more);
        self.bytes += more;
        self.bytes
    }

    /// Whether there is a budget.
    pub(crate) fn is_bounded(&self) -> bool {
        self.budget.total_bytes() > 0
    }

    /// The budget as its node sees it.
    pub(crate) fn view(&self) -> ShareView {
        let total_bytes = self.budget.total_bytes();
        let ledger = self.budget.ledger();
        let left_bytes = total_bytes.saturating_sub(ledger.taken_bytes);
        let fair_bytes = total_bytes / (ledger.holders.len() as u64 + 1);
        let held_bytes = ledger.held(&self.holder);
        let standing = match held_bytes > left_bytes.max(fair_bytes) && total_bytes > 0 {
            false => ShareStanding::Within,
            true if left_bytes < total_bytes / REFUSE_DIVISOR => ShareStanding::Refused,
            true => ShareStanding::Over,
        };
        ShareView { standing, total_bytes, left_bytes, held_bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<NodeId> = Some(NodeId([1; 32]));
    const OTHER: Option<NodeId> = Some(NodeId([2; 32]));

    fn share(budget: &Budget, of: BudgetUse, node: Option<NodeId>) -> Share {
        let mut share = Share::of(budget, of);
        share.set_holder(node);
        share
    }

    #[test]
    fn a_node_takes_more_only_while_it_holds_less_than_what_is_left() {
        let budget = Budget::new(1000);
        let mut first = share(&budget, BudgetUse::Receive, ONE);
        let mut second = share(&budget, BudgetUse::Send, ONE);
        let mut other = share(&budget, BudgetUse::Receive, OTHER);
        assert_eq!(first.resize(100), 100);
        assert_eq!(other.view().answers_bytes(5, 90), 56, "an eighth of what its node may take");
        assert_eq!(first.resize(2000), 500, "half of the whole");
        assert_eq!(first.view().answers_bytes(5, 90), 5);
        assert_eq!(second.resize(2000), 0, "all connections of a node together");
        assert_eq!(first.view().standing, ShareStanding::Within);
        assert_eq!(other.resize(2000), 250);
        assert_eq!(
            (first.view().standing, other.view().standing),
            (ShareStanding::Over, ShareStanding::Within)
        );
        assert_eq!(budget.largest(), Some((ONE, 500)));
        assert_eq!((budget.used_bytes(BudgetUse::Receive), budget.held_bytes(OTHER)), (750, 250));
        first.resize(50);
        assert_eq!((first.view().standing, other.resize(2000)), (ShareStanding::Within, 475));
        drop((first, other));
        assert_eq!((budget.taken_bytes(), budget.largest()), (0, None), "nodes that are gone take no memory");
    }

    #[test]
    fn what_is_held_already_is_counted_and_makes_its_node_shrink_then_be_refused() {
        let budget = Budget::new(1 << 20);
        let mut greedy = share(&budget, BudgetUse::Answers, ONE);
        let mut modest = share(&budget, BudgetUse::Send, OTHER);
        modest.hold(1 << 10);
        greedy.hold(900 << 10);
        assert!(budget.is_short());
        assert_eq!(
            (greedy.view().standing, modest.view().standing),
            (ShareStanding::Over, ShareStanding::Within)
        );
        greedy.hold(1 << 20);
        assert_eq!((greedy.view().standing, greedy.resize(2 << 20)), (ShareStanding::Refused, 1 << 20));
        modest.hold(0);
        assert_eq!(modest.view().standing, ShareStanding::Within);
        // A node that showed its certificate takes its bytes along.
        greedy.set_holder(OTHER);
        assert_eq!((budget.held_bytes(ONE), modest.view().standing), (0, ShareStanding::Refused));
    }

    #[test]
    fn a_budget_smaller_than_the_bytes_taken_gives_nothing() {
        let budget = Budget::new(1000);
        let mut share = share(&budget, BudgetUse::Receive, ONE);
        share.resize(400);
        budget.set_total(100);
        assert_eq!(share.resize(500), 400);
        assert_eq!(share.resize(300), 300);
        assert_eq!(share.resize(400), 300);
        budget.set_total(0);
        assert_eq!(
            (share.view().standing, budget.is_short()),
            (ShareStanding::Within, false),
            "no budget refuses nothing"
        );
        assert_eq!(share.view().answers_bytes(5, 90), 90);
    }
}

//! The connections whose timers are due: a heap with at most a few entries for each connection, however often its deadline moves.
//!
//! A connection's deadline moves with almost every packet, mostly later. Only a deadline earlier than the
//! armed one is pushed; an entry that fires too early is armed again for the true deadline. A turn thus costs
//! O(log n) for due connections and nothing for the others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
}

/// A connection's own part: the earliest entry in the heap, and its true deadline.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    armed: Option<Instant>,
    deadline: Option<Instant>,
}

impl Timers {
    /// Sets the deadline of the connection in `slot`.
    pub(crate) fn set(&mut self, slot: u32, timer: &mut Timer, deadline: Option<Instant>) {
        timer.deadline = deadline;
        if let Some(at) = deadline
            && timer.armed.is_none_or(|armed| at < armed)
        {
            timer.armed = Some(at);
            self.heap.push(Reverse((at, slot)));
        }
    }

    /// When [`Timers::pop`] may have an entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next expired entry, if there is one. [`Timers::fire`] tells whether its connection is really due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, u32)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Whether the connection whose entry `at` was popped is due now. Arms it again if it is not.
    pub(crate) fn fire(&mut self, (at, slot): (Instant, u32), timer: &mut Timer, now: Instant) -> bool {
        if timer.armed != Some(at) {
            // An older, later entry, or one of an earlier connection in this slot.
            return false;
        }
        timer.armed = None;
        if timer.deadline.is_some_and(|deadline| deadline <= now) {
            timer.deadline = None;
            return true;
        }
        let deadline = timer.deadline;
        self.set(slot, timer, deadline);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_deadline_that_moves_later_keeps_one_entry_and_fires_on_time() {
        let start = Instant::now();
        let (mut timers, mut timer) = (Timers::default(), Timer::default());
        for ms in 1..1000 {
            timers.set(0, &mut timer, Some(start + Duration::from_millis(ms)));
        }
        assert_eq!(timers.heap.len(), 1);
        let entry = timers.pop(start + Duration::from_millis(1)).unwrap();
        assert!(!timers.fire(entry, &mut timer, start + Duration::from_millis(1)));
        let entry = timers.pop(start + Duration::from_millis(999)).unwrap();
        assert!(timers.fire(entry, &mut timer, start + Duration::from_millis(999)));
        assert!(timers.next().is_none());
    }

    proptest! {
        #[test]
        fn every_deadline_fires_once_and_never_early(moves in proptest::collection::vec((0u32..8, 0u64..100), 1..200)) {
            let start = Instant::now();
            let mut timers = Timers::default();
            let mut table: Vec<Timer> = (0..8).map(|_| Timer::default()).collect();
            let mut wanted = [None; 8];
            for (slot, ms) in moves {
                let at = start + Duration::from_millis(ms);
                timers.set(slot, &mut table[slot as usize], Some(at));
                wanted[slot as usize] = Some(at);
            }
            for ms in 0..=100 {
                let now = start + Duration::from_millis(ms);
                while let Some(entry) = timers.pop(now) {
                    if timers.fire(entry, &mut table[entry.1 as usize], now) {
                        prop_assert_eq!(wanted[entry.1 as usize].take(), Some(now));
                    }
                }
            }
            prop_assert!(wanted.iter().all(Option::is_none));
        }
    }
}

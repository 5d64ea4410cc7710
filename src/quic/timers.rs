//! The connections whose timers are due: a heap with one entry for each connection, however often its deadline moves.
//!
//! A connection's deadline moves with almost every packet, mostly later. Only a deadline earlier than that of the entry moves the entry; one
//! that fires too early is armed again for the true deadline. A turn thus costs O(log n) for due connections and nothing for the others.

use std::time::Instant;

/// The place of a slot without an entry.
const NOWHERE: u32 = u32::MAX;

/// An entry: when it fires, and the slot of its connection.
type Entry = (Instant, u32);

#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// A binary heap, the earliest entry first: no entry is earlier than the one at half of its place.
    heap: Vec<Entry>,
    /// The place in the heap of each slot's entry.
    places: Vec<u32>,
}

/// A connection's own part: the time of its entry in the heap, and its true deadline.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    armed: Option<Instant>,
    deadline: Option<Instant>,
}

impl Timers {
    /// Sets the deadline of the connection in `slot`.
    #[inline]
    pub(crate) fn set(&mut self, slot: u32, timer: &mut Timer, deadline: Option<Instant>) {
        timer.deadline = deadline;
        if let Some(at) = deadline
            && timer.armed.is_none_or(|armed| at < armed)
        {
            timer.armed = Some(at);
            self.arm((at, slot));
        }
    }

    /// When [`Timers::pop`] may have an entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// The next expired entry, if there is one. [`Timers::fire`] tells whether its connection is really due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Entry> {
        let first = *self.heap.first().filter(|(at, _)| *at <= now)?;
        self.places[first.1 as usize] = NOWHERE;
        if let Some(last) = self.heap.pop().filter(|last| *last != first) {
            self.sink(0, last);
        }
        Some(first)
    }

    /// Whether the connection whose entry `at` was popped is due now. Arms it again if it is not.
    pub(crate) fn fire(&mut self, (at, slot): Entry, timer: &mut Timer, now: Instant) -> bool {
        if timer.armed != Some(at) {
            // An entry of an earlier connection in this slot.
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

    /// Has the slot's entry fire at this time: its own, one that an earlier connection in the slot left, or a new one.
    fn arm(&mut self, entry: Entry) {
        let slot = entry.1 as usize;
        if self.places.len() <= slot {
            self.places.resize(slot + 1, NOWHERE);
        }
        let mut place = self.places[slot] as usize;
        if place == NOWHERE as usize {
            place = self.heap.len();
            self.heap.push(entry);
        } else if self.heap[place].0 < entry.0 {
            return self.sink(place, entry);
        }
        self.raise(place, entry);
    }

    /// Puts an entry in this place, or nearer to the front.
    fn raise(&mut self, mut place: usize, entry: Entry) {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.heap[above].0 <= entry.0 {
                break;
            }
            self.put(place, self.heap[above]);
            place = above;
        }
        self.put(place, entry);
    }

    /// Puts an entry in this place, or farther from the front.
    fn sink(&mut self, mut place: usize, entry: Entry) {
        loop {
            let below = 2 * place + 1;
            let below = match (self.heap.get(below), self.heap.get(below + 1)) {
                (Some(left), Some(right)) if right.0 < left.0 => below + 1,
                (Some(_), _) => below,
                (None, _) => break,
            };
            if entry.0 <= self.heap[below].0 {
                break;
            }
            self.put(place, self.heap[below]);
            place = below;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
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

    #[test]
    fn a_connection_has_one_entry_however_often_a_near_deadline_fires_before_a_far_one() {
        let start = Instant::now();
        let (mut timers, mut table): (Timers, Vec<Timer>) =
            (Timers::default(), (0..3).map(|_| Timer::default()).collect());
        let far = |at: Instant| Some(at + Duration::from_secs(30));
        for ms in 0..1000 {
            let now = start + Duration::from_millis(2 * ms);
            let near = now + Duration::from_millis(1);
            for (slot, timer) in table.iter_mut().enumerate() {
                timers.set(slot as u32, timer, far(now));
                timers.set(slot as u32, timer, Some(near));
            }
            for _ in 0..table.len() {
                let entry = timers.pop(near).unwrap();
                assert!(timers.fire(entry, &mut table[entry.1 as usize], near));
            }
            assert!(timers.pop(near).is_none());
        }
        for (slot, timer) in table.iter_mut().enumerate() {
            timers.set(slot as u32, timer, far(start));
        }
        assert_eq!(timers.heap.len(), table.len());
    }

    #[test]
    fn a_later_connection_in_a_slot_takes_over_the_entry_of_an_earlier_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (before, after) in [(10, 20), (20, 10)] {
            let (mut timers, mut other) = (Timers::default(), Timer::default());
            timers.set(1, &mut other, Some(at(15)));
            timers.set(0, &mut Timer::default(), Some(at(before)));
            let mut timer = Timer::default();
            timers.set(0, &mut timer, Some(at(after)));
            assert_eq!(timers.heap.len(), 2);
            let fired = std::iter::from_fn(|| timers.pop(at(100))).collect::<Vec<_>>();
            assert_eq!(fired.iter().find(|(_, slot)| *slot == 0), Some(&(at(after), 0)));
            assert!(fired.is_sorted());
        }
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

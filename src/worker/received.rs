//! Memory for received datagrams. QUIC and the sessions keep references to their bytes, which keep the whole allocation.
//!
//! So a datagram never shares its allocation with another one. It is copied into a slot that is at most twice as long, or has 96 bytes, and is
//! used again once nothing refers to it. Most datagrams are read within their turn: each turn
//! begins with the same slots, which are in the cache. A slot that is still referred to is set aside, and another one takes its place.

use bytes::BytesMut;
use std::collections::VecDeque;

/// The shortest slots, bytes. Each length is twice the one before, up to that for jumbo frames.
const SLOT_BYTES_MIN: usize = 96;
const LENGTHS_LEN: usize = 8;
/// Slots of one length that are filled in a turn before the first one is tried again.
const SLOTS_LEN: usize = 64;
/// Slots of one length that are set aside: they are tried again, the oldest first, before another one is allocated.
const SLOTS_ASIDE_LEN: usize = 256;

/// The slots of a worker.
#[derive(Debug, Default)]
pub(super) struct ReceiveSlots {
    lengths: [Slots; LENGTHS_LEN],
    /// The length of the largest datagram so far, bytes.
    largest_bytes: usize,
}

/// The slots of one length.
#[derive(Debug, Default)]
struct Slots {
    ready: Vec<BytesMut>,
    /// The place of the next one.
    next: usize,
    aside: VecDeque<BytesMut>,
}

impl ReceiveSlots {
    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.lengths.iter_mut().for_each(|slots| slots.next = 0);
    }

    /// The length of the largest datagram so far, bytes.
    pub(super) fn largest_bytes(&self) -> usize {
        self.largest_bytes
    }

    /// A copy of a datagram.
    #[inline]
    pub(super) fn copy(&mut self, datagram: &[u8]) -> BytesMut {
        let len = datagram.len();
        self.largest_bytes = self.largest_bytes.max(len);
        // 0 for up to 96 bytes, 1 for up to 192 bytes, and so on.
        let place = (usize::BITS - (len.saturating_sub(1) / SLOT_BYTES_MIN).leading_zeros()) as usize;
        match self.lengths.get_mut(place) {
            Some(slots) => slots.copy(SLOT_BYTES_MIN << place, datagram),
            None => BytesMut::from(datagram),
        }
    }
}

impl Slots {
    #[inline]
    fn copy(&mut self, slot_bytes: usize, datagram: &[u8]) -> BytesMut {
        if self.next >= SLOTS_LEN {
            self.next = 0;
        }
        let at = self.next;
        self.next += 1;
        if !self.ready.get_mut(at).is_some_and(|slot| slot.try_reclaim(slot_bytes)) {
            self.exchange(at, slot_bytes);
        }
        let slot = &mut self.ready[at];
        slot.extend_from_slice(datagram);
        slot.split()
    }

    /// Puts a free slot into this place.
    #[cold]
    fn exchange(&mut self, at: usize, slot_bytes: usize) {
        let is_free = self.aside.front_mut().is_some_and(|oldest| oldest.try_reclaim(slot_bytes));
        // One that is kept for longer is left to its keeper, which frees it.
        let is_left = self.aside.len() >= SLOTS_ASIDE_LEN;
        let oldest = if is_free || is_left { self.aside.pop_front() } else { None };
        let free = oldest.filter(|_| is_free).unwrap_or_else(|| BytesMut::with_capacity(slot_bytes));
        match self.ready.get_mut(at) {
            Some(slot) => self.aside.push_back(std::mem::replace(slot, free)),
            None => self.ready.push(free),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory behind a datagram that nothing else refers to, bytes: all of its slot, once it is written from the slot's start on.
    fn memory(copy: BytesMut) -> usize {
        let len = copy.len();
        let mut whole = copy;
        whole.clear();
        (len..).find(|&bytes| !whole.try_reclaim(bytes + 1)).unwrap()
    }

    #[test]
    fn a_kept_datagram_keeps_at_most_twice_its_length() {
        for len in (1..=9216).chain([12_289, 20_000, 65_527]) {
            let mut slots = ReceiveSlots::default();
            let copy = slots.copy(&vec![7; len]);
            assert_eq!(copy.len(), len);
            drop(slots);
            let memory = memory(copy);
            assert!(memory <= (2 * len).max(SLOT_BYTES_MIN), "{memory} bytes for a datagram of {len}");
        }
    }

    #[test]
    fn datagrams_that_are_read_in_their_turn_use_the_same_slots() {
        let mut slots = ReceiveSlots::default();
        let mut places = Vec::new();
        for _ in 0..3 {
            slots.begin_turn();
            let turn: Vec<BytesMut> = (0..10).map(|_| slots.copy(&[7; 1200])).collect();
            places.push(turn.iter().map(|copy| copy.as_ptr() as usize).collect::<Vec<_>>());
        }
        assert!(places[0] == places[1] && places[1] == places[2]);
    }

    #[test]
    fn kept_bytes_stay_as_they_are_and_their_slots_come_back() {
        let mut slots = ReceiveSlots::default();
        let mut kept = Vec::new();
        for number in 0..1000_u32 {
            slots.begin_turn();
            let copy = slots.copy(&[number as u8; 1400]).freeze();
            if number % 3 == 0 {
                kept.push((number, copy.slice(100..101)));
            }
        }
        assert!(kept.iter().all(|(number, byte)| byte[..] == [*number as u8]));
        let aside = |slots: &ReceiveSlots| slots.lengths[4].aside.len();
        assert_eq!(aside(&slots), SLOTS_ASIDE_LEN);
        kept.clear();
        let before: Vec<usize> = slots.lengths[4].aside.iter().map(|slot| slot.as_ptr() as usize).collect();
        let again: Vec<BytesMut> = (0..SLOTS_LEN * 4).map(|_| slots.copy(&[7; 1400])).collect();
        let used =
            again.iter().filter(|copy| before.iter().any(|&at| at.abs_diff(copy.as_ptr() as usize) < 1536));
        assert!(used.count() > 100, "slots whose bytes nothing keeps any more are used again");
    }
}

//! The connections that a worker serves next.

use std::collections::VecDeque;

/// The connections to serve next: those with something new to read, and those that may have something to send.
///
/// They are two queues because many connections may have more to send than the device takes. Reading visits only connections
/// to which something happened, regardless of how many wait to send.
#[derive(Debug, Default)]
pub(super) struct RunQueues {
    reading: VecDeque<u32>,
    sending: VecDeque<u32>,
    /// Connections with paused streams, the one that was looked at last behind the others.
    paused: VecDeque<u32>,
}

/// The queues that one connection stands in: in each of them once. Only [`RunQueues`] changes it.
#[derive(Debug, Default)]
pub(super) struct LinePlaces {
    reading: bool,
    sending: bool,
    paused: bool,
}

impl RunQueues {
    /// Puts a connection to which something happened in both lines.
    #[inline]
    pub(super) fn touched(&mut self, places: &mut LinePlaces, slot: u32) {
        self.read(places, slot);
        self.send(places, slot);
    }

    #[inline]
    pub(super) fn read(&mut self, places: &mut LinePlaces, slot: u32) {
        if !std::mem::replace(&mut places.reading, true) {
            self.reading.push_back(slot);
        }
    }

    #[inline]
    pub(super) fn send(&mut self, places: &mut LinePlaces, slot: u32) {
        if !std::mem::replace(&mut places.sending, true) {
            self.sending.push_back(slot);
        }
    }

    /// Puts a connection first in line: the device was full before its turn was over. The rest of its batch then arrives right after
    /// the front.
    #[inline]
    pub(super) fn send_on(&mut self, places: &mut LinePlaces, slot: u32) {
        if !std::mem::replace(&mut places.sending, true) {
            self.sending.push_front(slot);
        }
    }

    /// A stream of this connection waits for its consumer.
    pub(super) fn pause(&mut self, places: &mut LinePlaces, slot: u32) {
        if !std::mem::replace(&mut places.paused, true) {
            self.paused.push_back(slot);
        }
    }

    /// How many connections have paused streams.
    pub(super) fn paused_len(&self) -> usize {
        self.paused.len()
    }

    /// The connection with paused streams that is looked at next. It is listed no more.
    pub(super) fn pop_paused(&mut self) -> Option<u32> {
        self.paused.pop_front()
    }

    /// The connection that is read next. It stands in line no more.
    #[inline]
    pub(super) fn pop_reading(&mut self) -> Option<u32> {
        self.reading.pop_front()
    }

    /// The connection that sends next. It stands in line no more.
    #[inline]
    pub(super) fn pop_sending(&mut self) -> Option<u32> {
        self.sending.pop_front()
    }

    /// How many connections wait to be read.
    pub(super) fn reading_len(&self) -> usize {
        self.reading.len()
    }

    /// How many connections wait to send.
    pub(super) fn sending_len(&self) -> usize {
        self.sending.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reading.is_empty() && self.sending.is_empty()
    }
}

impl LinePlaces {
    /// The connection was taken out of the line of those that are read.
    #[inline]
    pub(super) fn left_reading(&mut self) {
        self.reading = false;
    }

    /// The connection was taken out of the line of those that send.
    #[inline]
    pub(super) fn left_sending(&mut self) {
        self.sending = false;
    }

    /// The connection was taken out of the list of those with paused streams.
    pub(super) fn left_paused(&mut self) {
        self.paused = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stands_in_each_line_once_until_its_turn() {
        let (mut queues, mut first, mut second) =
            (RunQueues::default(), LinePlaces::default(), LinePlaces::default());
        for _ in 0..3 {
            queues.touched(&mut first, 1);
            queues.touched(&mut second, 2);
        }
        assert_eq!((queues.reading_len(), queues.sending_len()), (2, 2));
        assert_eq!(queues.pop_reading(), Some(1));
        first.left_reading();
        queues.touched(&mut first, 1);
        assert_eq!(
            [queues.pop_reading(), queues.pop_reading(), queues.pop_reading()],
            [Some(2), Some(1), None]
        );
        assert_eq!(queues.sending_len(), 2, "lines are apart");
    }

    #[test]
    fn a_turn_that_a_full_device_cut_goes_on_first() {
        let (mut queues, mut first, mut second) =
            (RunQueues::default(), LinePlaces::default(), LinePlaces::default());
        queues.send(&mut first, 1);
        queues.send(&mut second, 2);
        assert_eq!(queues.pop_sending(), Some(1));
        first.left_sending();
        queues.send_on(&mut first, 1);
        assert_eq!([queues.pop_sending(), queues.pop_sending()], [Some(1), Some(2)]);
        assert!(queues.is_empty());
    }

    #[test]
    fn paused_connections_are_listed_once_and_stand_behind_the_others_after_a_look() {
        let mut queues = RunQueues::default();
        let mut places: [LinePlaces; 3] = std::array::from_fn(|_| LinePlaces::default());
        for (slot, places) in places.iter_mut().enumerate() {
            queues.pause(places, slot as u32);
            queues.pause(places, slot as u32);
        }
        assert_eq!(queues.paused_len(), 3);
        assert_eq!(queues.pop_paused(), Some(0));
        places[0].left_paused();
        queues.pause(&mut places[1], 1);
        queues.pause(&mut places[0], 0);
        let rest = std::array::from_fn(|_| queues.pop_paused());
        assert_eq!(rest, [Some(1), Some(2), Some(0), None]);
    }
}

//! Frames between two stations, in the order in which they arrive.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// One frame on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) at: Instant,
    /// Its place among the frames of that instant.
    pub(super) sequence: u64,
    /// The station that it arrives at.
    pub(super) to: usize,
    pub(super) frame: Vec<u8>,
}

/// Everything on its way. A link of constant delay keeps the order of each station, so that a queue a station holds nearly all; what
/// is held back, or overtakes since a delay became shorter, lies in a heap.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// By the station that sent them, in order.
    in_order: Vec<VecDeque<InFlight>>,
    others: BinaryHeap<InFlight>,
    bytes: u64,
}

impl Flight {
    /// One more station.
    pub(super) fn add_station(&mut self) {
        self.in_order.push(VecDeque::new());
    }

    /// A frame of the station `from`. One that is held back is overtaken by later ones.
    pub(super) fn push(&mut self, from: usize, one: InFlight, held_back: bool) {
        self.bytes += one.frame.len() as u64;
        let queue = &mut self.in_order[from];
        if held_back || queue.back().is_some_and(|last| last.at > one.at) {
            self.others.push(one);
        } else {
            queue.push_back(one);
        }
    }

    /// Bytes of all frames.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the next frame arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        let heads = self.in_order.iter().filter_map(VecDeque::front).chain(self.others.peek());
        heads.map(|one| one.at).min()
    }

    /// The next frame that has arrived at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<InFlight> {
        let heads =
            self.in_order.iter().enumerate().filter_map(|(from, queue)| Some((queue.front()?.key(), from)));
        let first = heads.min();
        let other = self.others.peek().map(InFlight::key);
        let is_other = other.is_some_and(|other| first.is_none_or(|(first, _)| other < first));
        let (at, _) = if is_other { other? } else { first?.0 };
        let one = match first {
            _ if at > now => None,
            Some((_, from)) if !is_other => self.in_order[from].pop_front(),
            _ => self.others.pop(),
        }?;
        self.bytes -= one.frame.len() as u64;
        Some(one)
    }
}

impl InFlight {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.sequence)
    }
}

impl Ord for InFlight {
    /// The first to arrive is the greatest: a heap gives the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for InFlight {}

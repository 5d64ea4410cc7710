//! Whose bytes QUIC gets next, where its windows do not take those of all streams.
//!
//! quinn-proto wakes the streams that its windows blocked in the reverse order in which they were blocked, and it wakes all of them for room that
//! one of them fills. Written in that order, the oldest answer gets nothing while newer requests arrive. So streams with bytes left stand
//! in a line: control records and messages first, then this side's requests, then answers, each in the order in which the streams were
//! opened. A stream that has given QUIC [`SEND_TURN_BYTES`] goes behind those that wait.

use crate::limits::SEND_TURN_BYTES;
use quinn_proto::{Dir, Side, StreamId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Streams with bytes that QUIC did not take.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: FxHashMap<StreamId, WaitingStream>,
    /// Those of them that may be tried, by their places.
    line: BTreeMap<LinePlace, StreamId>,
    /// The last round in which a stream has a place.
    round: u64,
}

#[derive(Debug)]
struct WaitingStream {
    place: LinePlace,
    /// QUIC said that it takes bytes of this stream, and the stream was not tried since.
    is_writable: bool,
    /// What the stream gave in its turn, bytes.
    given_bytes: usize,
}

/// A stream's place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LinePlace {
    part: LinePart,
    /// A stream that had its turn goes into the next round; one that comes, into the last.
    round: u64,
    /// A request may come after later ones: a packet's border cuts it.
    id: StreamId,
}

/// The parts of the line, the first one first: as with the priorities of streams in QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LinePart {
    /// Control records and messages.
    Records,
    /// Requests of this side.
    Requests,
    /// Answers to the peer's requests.
    Answers,
}

impl LinePart {
    fn of(id: StreamId, side: Side) -> Self {
        match id.dir() {
            Dir::Uni => Self::Records,
            Dir::Bi if id.initiator() == side => Self::Requests,
            Dir::Bi => Self::Answers,
        }
    }
}

impl Turns {
    /// Whether no stream has bytes that QUIC did not take.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A stream has bytes for its turn.
    pub(super) fn join(&mut self, id: StreamId, side: Side) {
        if !self.waiting.contains_key(&id) {
            let place = LinePlace { part: LinePart::of(id, side), round: self.round, id };
            self.waiting.insert(id, WaitingStream { place, is_writable: false, given_bytes: 0 });
            self.line.insert(place, id);
        }
    }

    /// QUIC says that it takes bytes of this stream.
    pub(super) fn writable(&mut self, id: StreamId) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.is_writable = true;
            self.line.insert(waiting.place, id);
        }
    }

    /// The stream whose turn it is, and how many bytes of it QUIC may get before the next one has its turn.
    pub(super) fn next(&self) -> Option<(StreamId, usize)> {
        let id = *self.line.values().next()?;
        let given_bytes = self.waiting.get(&id).map_or(0, |waiting| waiting.given_bytes);
        Some((id, SEND_TURN_BYTES.saturating_sub(given_bytes)))
    }

    /// The stream has nothing left for QUIC.
    pub(super) fn leave(&mut self, id: StreamId) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.line.remove(&waiting.place);
        }
    }

    /// The stream's turn is over, and it has more.
    pub(super) fn rotate(&mut self, id: StreamId) {
        let Some(waiting) = self.waiting.get(&id) else { return };
        self.line.remove(&waiting.place);
        let place = LinePlace { round: waiting.place.round + 1, ..waiting.place };
        self.round = self.round.max(place.round);
        self.line.insert(place, id);
        self.waiting.insert(id, WaitingStream { place, is_writable: false, given_bytes: 0 });
    }

    /// QUIC took `taken_bytes` of the stream, and takes no more of it before it says so. The stream keeps its place. Returns whether QUIC takes
    /// nothing of any stream: the window of this one had room when QUIC said so.
    pub(super) fn blocked(&mut self, id: StreamId, taken_bytes: usize) -> bool {
        let Some(waiting) = self.waiting.get_mut(&id) else { return false };
        self.line.remove(&waiting.place);
        waiting.given_bytes += taken_bytes;
        std::mem::take(&mut waiting.is_writable) && taken_bytes == 0
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: Side = Side::Server;

    fn answer(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    fn joined(ids: &[StreamId]) -> Turns {
        let mut turns = Turns::default();
        ids.iter().for_each(|id| turns.join(*id, SIDE));
        turns
    }

    fn next(turns: &Turns) -> Option<StreamId> {
        turns.next().map(|(id, _)| id)
    }

    #[test]
    fn those_that_wait_keep_their_order_in_whatever_order_they_are_woken() {
        let ids: Vec<_> = (0..5).map(answer).collect();
        let mut turns = joined(&ids);
        for id in &ids {
            assert_eq!(next(&turns), Some(*id));
            assert!(!turns.blocked(*id, 0), "its own window may be what is full");
        }
        assert_eq!(next(&turns), None);
        ids.iter().rev().for_each(|id| turns.writable(*id));
        for id in &ids {
            assert_eq!(next(&turns), Some(*id));
            turns.leave(*id);
        }
        assert!(turns.is_empty());
    }

    #[test]
    fn one_that_quic_woke_for_nothing_ends_the_round() {
        let mut turns = joined(&[answer(0), answer(1)]);
        turns.blocked(answer(0), 0);
        turns.blocked(answer(1), 0);
        turns.writable(answer(1));
        turns.writable(answer(0));
        assert!(!turns.blocked(answer(0), 700), "it has filled a window, and which one is not known");
        assert!(turns.blocked(answer(1), 0));
        turns.writable(answer(0));
        assert_eq!(next(&turns), Some(answer(0)));
    }

    #[test]
    fn a_stream_gives_others_their_turn() {
        let mut turns = joined(&[answer(0), answer(1)]);
        assert_eq!(turns.next(), Some((answer(0), SEND_TURN_BYTES)));
        turns.blocked(answer(0), SEND_TURN_BYTES - 1);
        turns.writable(answer(0));
        assert_eq!(turns.next(), Some((answer(0), 1)), "its turn goes on");
        turns.rotate(answer(0));
        assert_eq!(turns.next(), Some((answer(1), SEND_TURN_BYTES)));
        turns.rotate(answer(1));
        assert_eq!(turns.next(), Some((answer(0), SEND_TURN_BYTES)));
    }

    #[test]
    fn one_that_comes_late_has_its_place_and_one_that_comes_new_goes_behind_those_that_had_a_turn() {
        let mut turns = joined(&[answer(0), answer(2), answer(1)]);
        turns.leave(answer(0));
        assert_eq!(next(&turns), Some(answer(1)));
        turns.rotate(answer(1));
        turns.join(answer(3), SIDE);
        for id in [2, 1, 3].map(answer) {
            assert_eq!(next(&turns), Some(id));
            turns.leave(id);
        }
    }

    #[test]
    fn records_go_before_requests_and_requests_before_answers() {
        let (control, request) = (StreamId::new(SIDE, Dir::Uni, 0), StreamId::new(SIDE, Dir::Bi, 0));
        let mut turns = joined(&[answer(0), request, control]);
        for id in [control, request, answer(0)] {
            assert_eq!(next(&turns), Some(id));
            turns.leave(id);
        }
    }

    #[test]
    fn a_stream_that_is_gone_holds_up_nothing() {
        let mut turns = joined(&[answer(0), answer(1)]);
        turns.blocked(answer(0), 0);
        turns.leave(answer(0));
        turns.writable(answer(0));
        assert_eq!(next(&turns), Some(answer(1)));
        turns.leave(answer(1));
        assert!(turns.is_empty() && next(&turns).is_none());
    }
}

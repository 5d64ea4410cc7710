//! Answers FETCHes: one peer's in the order of its requests, and peers in turn. An answer that waits for the disk holds up no other.

use super::lookup::PreparedAnswer;
use super::memory::Begin;
use super::outgoing::{Fetching, OutgoingAnswer, TURN_BYTES};
use super::tier::OnBytes;
use super::{MemoryTier, Store, StoreError};
use crate::limits::CONNECTION_READS_LEN_MAX;
use crate::queue::{AppPort, ConnectionId, Credit, RequestId};
use crate::token::AnyToken;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Peers that one call finds without room for a byte before it leaves the others to the next call.
const BLOCKED_LEN_MAX: usize = 64;

/// The bytes that the disk gave for a request, and what counts the request while it waits.
type DiskGave = (RequestId, Result<Bytes, StoreError>, Arc<()>);

/// All answers that are being sent.
pub(super) struct Servings {
    /// Each peer's requests in the order of their arrival. Connection IDs are of this node's choice, not of peers'.
    peers: FxHashMap<ConnectionId, VecDeque<OutgoingAnswer>>,
    /// The peers in the order of their turns; some may be gone.
    turns: VecDeque<ConnectionId>,
    done: Sender<DiskGave>,
    results: Receiver<DiskGave>,
}

impl Default for Servings {
    fn default() -> Self {
        let (done, results) = channel();
        Self { peers: FxHashMap::default(), turns: VecDeque::new(), done, results }
    }
}

/// An answer that has ended: its request, its token and its result.
pub(super) type Over = (RequestId, AnyToken, Result<(), StoreError>);

/// Where the bytes of answers come from.
#[derive(Clone, Copy)]
pub(super) struct AnswerSources<'a> {
    pub(super) memory: &'a MemoryTier,
    pub(super) store: &'a Store,
}

impl Servings {
    pub(super) fn add(
        &mut self,
        request: RequestId,
        token: AnyToken,
        credit: Credit,
        answer: PreparedAnswer,
    ) {
        let serving = OutgoingAnswer::new(request, token, credit, answer);
        match self.peers.entry(request.connection) {
            // A request may come after later ones: a packet's border cuts it.
            Entry::Occupied(requests) => {
                let requests = requests.into_mut();
                let before = |serving: &OutgoingAnswer| serving.request.number() < request.number();
                let at = requests.iter().rposition(before).map_or(0, |at| at + 1);
                requests.insert(at, serving);
            }
            Entry::Vacant(peer) => {
                self.turns.push_back(*peer.key());
                peer.insert([serving].into());
            }
        }
    }

    /// The token of a request that is being answered.
    pub(super) fn token_of(&self, request: RequestId) -> Option<AnyToken> {
        let mut servings = self.peers.get(&request.connection)?.iter();
        servings.find(|serving| serving.request == request).map(|serving| serving.token)
    }

    pub(super) fn remove(&mut self, request: RequestId) {
        if let Some(requests) = self.peers.get_mut(&request.connection) {
            requests.retain(|serving| serving.request != request);
        }
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.peers.remove(&connection);
    }

    /// Gives each peer a turn, those first for which the disk gave bytes, until [`BLOCKED_LEN_MAX`] of them, one behind the other, had no room
    /// for a byte: a call costs the same however many peers are slow. Returns whether there was work; ended answers are appended to `over`.
    pub(super) fn serve(
        &mut self,
        sources: AnswerSources<'_>,
        port: &mut AppPort,
        over: &mut Vec<Over>,
    ) -> bool {
        let (done, waker) = (self.done.clone(), port.waker());
        let waiting = move |request| -> OnBytes {
            let (done, waker, waits) = (done.clone(), waker.clone(), sources.store.wait());
            Box::new(move |read| {
                // Sending fails only if this instance has ended.
                let _ = done.send((request, read, waits));
                waker.wake();
            })
        };
        let (mut worked, mut blocked) = (false, 0);
        for peer in self.take_reads() {
            worked = true;
            if let Some(requests) = self.peers.get_mut(&peer) {
                serve_peer(requests, sources.memory, &waiting, port, over);
            }
        }
        for _ in 0..self.turns.len() {
            if port.room() == 0 || blocked == BLOCKED_LEN_MAX {
                break;
            }
            let Some(peer) = self.turns.pop_front() else { break };
            let Some(requests) = self.peers.get_mut(&peer) else { continue };
            let did = serve_peer(requests, sources.memory, &waiting, port, over);
            worked |= did;
            blocked = if did { 0 } else { blocked + 1 };
            if requests.is_empty() {
                self.peers.remove(&peer);
            } else {
                self.turns.push_back(peer);
            }
        }
        worked
    }

    /// Takes what the disk gave; returns the peers whose requests got it.
    fn take_reads(&mut self) -> SmallVec<[ConnectionId; 8]> {
        let mut peers: SmallVec<[ConnectionId; 8]> = smallvec![];
        while let Ok((request, read, _waits)) = self.results.try_recv() {
            let Some(requests) = self.peers.get_mut(&request.connection) else { continue };
            if let Some(serving) = requests.iter_mut().find(|serving| serving.request == request) {
                serving.read(read);
                if !peers.contains(&request.connection) {
                    peers.push(request.connection);
                }
            }
        }
        peers
    }
}

fn serve_peer(
    requests: &mut VecDeque<OutgoingAnswer>,
    memory: &MemoryTier,
    waiting: &dyn Fn(RequestId) -> OnBytes,
    port: &mut AppPort,
    over: &mut Vec<Over>,
) -> bool {
    let mut sent = 0;
    let mut ended: SmallVec<[usize; 8]> = smallvec![];
    let mut waits = requests.iter().filter(|serving| serving.waits()).count();
    for (index, serving) in requests.iter_mut().enumerate() {
        if sent >= TURN_BYTES || port.room() == 0 {
            break;
        }
        if serving.waits() {
            continue;
        }
        let begin = if waits < CONNECTION_READS_LEN_MAX { Begin::Read } else { Begin::Nothing };
        match serving.turn(TURN_BYTES - sent, &Fetching { memory, begin, waiting }, port) {
            Ok(turn) => {
                sent += turn.bytes;
                waits += usize::from(serving.waits());
                if turn.whole {
                    ended.push(index);
                    over.push((serving.request, serving.token, Ok(())));
                }
            }
            Err(error) => {
                ended.push(index);
                over.push((serving.request, serving.token, Err(error)));
            }
        }
    }
    for index in ended.iter().rev() {
        requests.remove(*index);
    }
    sent > 0 || !ended.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OUTSTANDING_BYTES_MAX;
    use crate::queue::{Sleeper, rings};
    use crate::record::OkRecord;
    use crate::seed::{MemoryPages, StoreConfig};
    use crate::token::Token;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        (dir, store)
    }

    fn peer(slot: u32) -> RequestId {
        RequestId::peer(ConnectionId { worker: 0, slot, generation: slot }, 0)
    }

    /// Answers of a byte to this many peers, none of which has room but the one in `free`.
    fn blocked(peers: u32, free: u32) -> Servings {
        let mut servings = Servings::default();
        let token = AnyToken::Content(Token::of(b""));
        for slot in 0..peers {
            let credit = Credit::default();
            if slot != free {
                credit.take(OUTSTANDING_BYTES_MAX);
            }
            let ok = OkRecord { length_bytes: 1, descriptor: None };
            servings.add(peer(slot), token, credit, PreparedAnswer { ok, parts: VecDeque::new() });
            let answers = servings.peers.get_mut(&peer(slot).connection).unwrap();
            answers[0].unsent = Some(Bytes::from_static(b"x"));
        }
        servings
    }

    #[test]
    fn peers_without_room_are_asked_in_parts_and_one_with_room_has_its_turn() {
        let (mut port, _worker) = rings(Sleeper::default().waker());
        let (_dir, store) = store();
        let memory = MemoryTier::new(0, MemoryPages::Ordinary);
        let sources = AnswerSources { memory: &memory, store: &store };
        let (mut servings, mut over) = (blocked(200, 150), Vec::new());
        for calls in 1..=2 {
            assert!(!servings.serve(sources, &mut port, &mut over));
            let next = (calls * BLOCKED_LEN_MAX) as u32;
            assert_eq!(servings.turns.front(), Some(&peer(next).connection), "a call asks {BLOCKED_LEN_MAX}");
        }
        assert!(servings.serve(sources, &mut port, &mut over));
        assert_eq!(over.iter().map(|(request, ..)| *request).collect::<Vec<_>>(), [peer(150)]);
        assert_eq!((servings.peers.len(), servings.turns.len()), (199, 199));
    }

    #[test]
    fn a_peer_that_is_gone_and_a_request_that_is_removed_are_found_without_a_walk() {
        let (mut port, _worker) = rings(Sleeper::default().waker());
        let (_dir, store) = store();
        let memory = MemoryTier::new(0, MemoryPages::Ordinary);
        let sources = AnswerSources { memory: &memory, store: &store };
        let (mut servings, mut over) = (blocked(3, 9), Vec::new());
        assert!(servings.token_of(peer(1)).is_some() && servings.token_of(peer(7)).is_none());
        servings.forget(peer(0).connection);
        servings.remove(peer(1));
        assert_eq!((servings.token_of(peer(0)), servings.token_of(peer(1))), (None, None));
        servings.serve(sources, &mut port, &mut over);
        assert_eq!(servings.turns, [peer(2).connection]);
        assert!(over.is_empty());
    }
}

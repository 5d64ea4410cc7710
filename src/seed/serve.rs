//! Answers FETCHes: one peer's in the order of its requests, and peers in turn.

use super::{MemoryTier, OpenPayload, OpenSet, Store, StoreError};
use crate::limits::EARLY_FETCH_BYTES_MAX;
use crate::queue::{AppPort, ConnectionId, Credit, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Fetch, OkRecord};
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, EncodedPiece, Ranges, VerifiedEncoder};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Mutex;

/// Bytes that are given to one peer before the next has its turn.
const TURN_BYTES: usize = 256 * 1024;
/// Peers that one call finds without room for a byte before it leaves the others to the next call.
const BLOCKED_LEN_MAX: usize = 64;

/// A FETCH to be looked up in a store.
pub(super) struct Lookup<'a> {
    pub(super) fetch: &'a Fetch,
    /// Whether it arrived in early data.
    pub(super) early: bool,
}

/// The answer to a FETCH: its OK record, and the encoders of its bytes.
pub(super) struct PreparedAnswer {
    pub(super) ok: OkRecord,
    parts: VecDeque<(OpenPayload, VerifiedEncoder)>,
}

/// Why a FETCH is refused.
pub(super) enum Refusal {
    Failure(ErrorRecord),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn refuse<T>(code: ErrorCode, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Failure(ErrorRecord::new(code, 0, reason)))
}

fn not_kept<T>(token: AnyToken) -> Result<T, Refusal> {
    refuse(ErrorCode::NotFound, format!("{token} is not kept here"))
}

impl Lookup<'_> {
    /// Looks up the payload or lanes.
    pub(super) fn find(&self, store: &Store) -> Result<PreparedAnswer, Refusal> {
        match self.fetch.token {
            AnyToken::Content(token) => match store.get(&token)? {
                Some(held) => self.of_payload(held, None),
                None => not_kept(token.into()),
            },
            AnyToken::Set(token) => match store.get_set(&token)? {
                Some(set) => self.of_set(set),
                None => not_kept(token.into()),
            },
        }
    }

    fn of_set(&self, set: OpenSet) -> Result<PreparedAnswer, Refusal> {
        let descriptor = set.descriptor;
        let ok = OkRecord { length_bytes: descriptor.length_bytes(), descriptor: Some(descriptor) };
        if self.fetch.describe {
            return Ok(PreparedAnswer { ok, parts: VecDeque::new() });
        }
        let wanted = self.fetch.lanes.unwrap_or_else(|| Lanes::first(descriptor.k().into()));
        if !descriptor.lanes().contains_all(wanted) {
            return refuse(ErrorCode::BadRange, format!("the set has the lanes {}", descriptor.lanes()));
        }
        if !set.lanes.contains_all(wanted) {
            let reason =
                format!("of the lanes {wanted} only {} are kept here", set.lanes.intersection(wanted));
            return refuse(ErrorCode::NotFound, reason);
        }
        if self.fetch.lanes.is_none() {
            return match set.content {
                Some(content) => self.of_payload(content, Some(descriptor)),
                // A set whose payload is empty.
                None => self.of_parts(&set, ok, wanted),
            };
        }
        self.of_parts(&set, ok, wanted)
    }

    fn of_parts(&self, set: &OpenSet, ok: OkRecord, lanes: Lanes) -> Result<PreparedAnswer, Refusal> {
        let stripes = if self.fetch.lanes.is_some() { self.fetch.ranges.clone() } else { Ranges::all() };
        let parts = match set.descriptor.parts(lanes, &stripes) {
            Ok(parts) => parts,
            Err(error) => return refuse(ErrorCode::BadRange, error.to_string()),
        };
        self.check_bytes(parts.iter().map(|part| part.bytes).sum())?;
        let mut encoders = VecDeque::new();
        for part in parts {
            let Some(held) = set.blob(part.blob) else {
                return refuse(
                    ErrorCode::NotFound,
                    match part.blob {
                        Blob::Content => "no data lane is kept here",
                        Blob::Parity => "no parity lane is kept here",
                    },
                );
            };
            match VerifiedEncoder::new(held.outboard().clone(), part.selection) {
                Ok(encoder) => encoders.push_back((held.clone(), encoder)),
                Err(error) => return refuse(ErrorCode::BadRange, error.to_string()),
            }
        }
        Ok(PreparedAnswer { ok, parts: encoders })
    }

    fn of_payload(
        &self,
        held: OpenPayload,
        descriptor: Option<Descriptor>,
    ) -> Result<PreparedAnswer, Refusal> {
        let length = held.length();
        let ok = OkRecord { length_bytes: length, descriptor };
        if self.fetch.describe {
            return Ok(PreparedAnswer { ok, parts: VecDeque::new() });
        }
        let selected = self.fetch.ranges.selected_bytes(length);
        let encoder = selected.and_then(|selected| {
            VerifiedEncoder::new(held.outboard().clone(), self.fetch.ranges.clone())
                .map(|encoder| (selected, encoder))
        });
        match encoder {
            Ok((selected, encoder)) => {
                self.check_bytes(selected)?;
                Ok(PreparedAnswer { ok, parts: [(held, encoder)].into() })
            }
            Err(error) => refuse(ErrorCode::BadRange, error.to_string()),
        }
    }

    fn check_bytes(&self, selected: u64) -> Result<(), Refusal> {
        if self.fetch.bytes_max > 0 && selected > self.fetch.bytes_max {
            let reason = format!(
                "the answer has {selected} payload bytes, more than the {} that the request allows",
                self.fetch.bytes_max
            );
            return refuse(ErrorCode::Limit, reason);
        }
        // Protocol §7: a replayed request must not cost much.
        if self.early && selected > EARLY_FETCH_BYTES_MAX {
            let reason = format!(
                "early data may ask for at most {EARLY_FETCH_BYTES_MAX} bytes; ask again after the handshake"
            );
            return refuse(ErrorCode::TooEarly, reason);
        }
        Ok(())
    }
}

/// All answers that are being sent.
#[derive(Default)]
pub(super) struct Servings {
    /// Each peer's requests in the order of their arrival. Connection IDs are of this node's choice, not of peers'.
    peers: FxHashMap<ConnectionId, VecDeque<OutgoingAnswer>>,
    /// The peers in the order of their turns; some may be gone.
    turns: VecDeque<ConnectionId>,
}

/// An answer that has ended: its request, its token and its result.
pub(super) type Over = (RequestId, AnyToken, Result<(), StoreError>);

/// One answer that is being sent.
struct OutgoingAnswer {
    request: RequestId,
    token: AnyToken,
    credit: Credit,
    parts: VecDeque<(OpenPayload, VerifiedEncoder)>,
    batch: Vec<EncodedPiece>,
    pieces: VecDeque<EncodedPiece>,
    /// Bytes that the ring or the credit did not take.
    unsent: Option<Bytes>,
}

impl Servings {
    pub(super) fn add(
        &mut self,
        request: RequestId,
        token: AnyToken,
        credit: Credit,
        answer: PreparedAnswer,
    ) {
        let serving = OutgoingAnswer {
            request,
            token,
            credit,
            parts: answer.parts,
            batch: Vec::new(),
            pieces: VecDeque::new(),
            unsent: None,
        };
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

    /// Gives each peer a turn, until [`BLOCKED_LEN_MAX`] of them, one behind the other, had no room for a byte: a call costs the same however
    /// many peers are slow. Returns whether there was work; ended answers are appended to `over`.
    pub(super) fn serve(
        &mut self,
        memory: &Mutex<MemoryTier>,
        port: &mut AppPort,
        over: &mut Vec<Over>,
    ) -> bool {
        let (mut worked, mut blocked) = (false, 0);
        for _ in 0..self.turns.len() {
            if port.room() == 0 || blocked == BLOCKED_LEN_MAX {
                break;
            }
            let Some(peer) = self.turns.pop_front() else { break };
            let Some(requests) = self.peers.get_mut(&peer) else { continue };
            let did = serve_peer(requests, memory, port, over);
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
}

fn serve_peer(
    requests: &mut VecDeque<OutgoingAnswer>,
    memory: &Mutex<MemoryTier>,
    port: &mut AppPort,
    over: &mut Vec<Over>,
) -> bool {
    let mut sent = 0;
    let mut ended: SmallVec<[usize; 8]> = smallvec![];
    for (index, serving) in requests.iter_mut().enumerate() {
        if sent >= TURN_BYTES || port.room() == 0 {
            break;
        }
        match serving.turn(TURN_BYTES - sent, memory, port) {
            Ok((bytes, whole)) => {
                sent += bytes;
                if whole {
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

impl OutgoingAnswer {
    /// Sends up to about `bytes_max`; returns the number of bytes sent, and whether the answer is complete.
    fn turn(
        &mut self,
        bytes_max: usize,
        memory: &Mutex<MemoryTier>,
        port: &mut AppPort,
    ) -> Result<(usize, bool), StoreError> {
        let mut sent = 0;
        // Nothing is read for an answer that may send nothing.
        while sent < bytes_max && (self.credit.has_room() || self.is_given()) {
            let Some(bytes) = self.next(memory)? else { return Ok((sent, true)) };
            let len = bytes.len();
            if let Err(bytes) = port.send_data(self.request, &self.credit, bytes) {
                self.unsent = Some(bytes);
                break;
            }
            sent += len;
        }
        Ok((sent, false))
    }

    /// Whether every byte was sent.
    fn is_given(&self) -> bool {
        let is_over = |(_, encoder): &(OpenPayload, VerifiedEncoder)| encoder.is_complete();
        self.unsent.is_none() && self.pieces.is_empty() && self.parts.iter().all(is_over)
    }

    fn next(&mut self, memory: &Mutex<MemoryTier>) -> Result<Option<Bytes>, StoreError> {
        if let Some(bytes) = self.unsent.take() {
            return Ok(Some(bytes));
        }
        while self.pieces.is_empty() {
            let Some((held, encoder)) = self.parts.front_mut() else { return Ok(None) };
            let failed = |source| StoreError::reading(held.token(), source);
            if encoder.next_batch(TURN_BYTES, &mut self.batch).map_err(failed)? == 0 {
                self.parts.pop_front();
                continue;
            }
            self.pieces.extend(self.batch.drain(..));
        }
        match (self.pieces.pop_front(), self.parts.front()) {
            (Some(EncodedPiece::Proof(hashes)), _) => Ok(Some(hashes)),
            (Some(EncodedPiece::Data { offset, len }), Some((held, _))) => {
                // A read ends where its block of memory ends.
                let bytes = MemoryTier::read(memory, held, offset, len)?;
                if bytes.len() < len {
                    let rest =
                        EncodedPiece::Data { offset: offset + bytes.len() as u64, len: len - bytes.len() };
                    self.pieces.push_front(rest);
                }
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OUTSTANDING_BYTES_MAX;
    use crate::queue::{Sleeper, rings};
    use crate::seed::MemoryPages;
    use crate::token::Token;

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
        let memory = Mutex::new(MemoryTier::new(0, MemoryPages::Ordinary));
        let (mut servings, mut over) = (blocked(200, 150), Vec::new());
        for calls in 1..=2 {
            assert!(!servings.serve(&memory, &mut port, &mut over));
            let next = (calls * BLOCKED_LEN_MAX) as u32;
            assert_eq!(servings.turns.front(), Some(&peer(next).connection), "a call asks {BLOCKED_LEN_MAX}");
        }
        assert!(servings.serve(&memory, &mut port, &mut over));
        assert_eq!(over.iter().map(|(request, ..)| *request).collect::<Vec<_>>(), [peer(150)]);
        assert_eq!((servings.peers.len(), servings.turns.len()), (199, 199));
    }

    #[test]
    fn a_peer_that_is_gone_and_a_request_that_is_removed_are_found_without_a_walk() {
        let (mut port, _worker) = rings(Sleeper::default().waker());
        let memory = Mutex::new(MemoryTier::new(0, MemoryPages::Ordinary));
        let (mut servings, mut over) = (blocked(3, 9), Vec::new());
        assert!(servings.token_of(peer(1)).is_some() && servings.token_of(peer(7)).is_none());
        servings.forget(peer(0).connection);
        servings.remove(peer(1));
        assert_eq!((servings.token_of(peer(0)), servings.token_of(peer(1))), (None, None));
        servings.serve(&memory, &mut port, &mut over);
        assert_eq!(servings.turns, [peer(2).connection]);
        assert!(over.is_empty());
    }
}

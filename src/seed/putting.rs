//! PUT: has the payloads and lanes written that peers send, and answers once they are durable.

use super::StoreBound;
use super::app::Seed;
use super::writer::{NewBytes, WriteStep, Writer};
use super::written::WriteOutcome;
use crate::limits::{PUT_LOOK_MS, PUT_STALL_MS, PUT_TURN_MS_MAX};
use crate::queue::{Answer, AppPort, Charge, Command, ConnectionId, Delivery, PeerRequest, RequestId};
use crate::record::{Done, ErrorCode};
use crate::shard::Blob;
use crate::token::VerifiedPiece;
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};

/// Payloads and lanes on their way from peers to the disk.
#[derive(Default)]
pub(super) struct Putting {
    /// By the request numbers of their PUTs, and of MIRRORs all of whose bytes are here.
    puts: FxHashMap<RequestId, PutState>,
    /// The look after which bytes of a PUT last arrived, for each connection with one.
    heard: FxHashMap<ConnectionId, u64>,
    /// Looks for PUTs that go no further, so far. Time is counted in looks: while this thread is stopped there are none.
    looks: u64,
    look_at: Option<Instant>,
    /// How many of them take bytes.
    receiving: usize,
    /// Started with the first of them.
    writer: Option<Writer>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutState {
    /// It is looked whether it is held, and has room.
    Beginning,
    /// Its bytes arrive.
    Receiving {
        /// The look after which they last arrived or were written.
        heard: u64,
        /// Pieces that are not written yet.
        unwritten: usize,
    },
    /// It is being made durable.
    Committing,
}

impl PutState {
    /// Whether it waits for the disk.
    fn waits(self) -> bool {
        !matches!(self, Self::Receiving { unwritten: 0, .. })
    }
}

impl Putting {
    /// Ends a request that its peer has given up. What is being made durable becomes so.
    pub(super) fn abandon(&mut self, request: RequestId) {
        if self.puts.get(&request).is_some_and(|state| *state != PutState::Committing) {
            self.forget(request);
            self.drop_files(request);
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let of_it = self.puts.keys().filter(|request| request.connection == connection);
        let gone: Vec<_> = of_it.copied().collect();
        for request in gone {
            if self.forget(request) != Some(PutState::Committing) {
                self.drop_files(request);
            }
        }
        self.heard.remove(&connection);
    }

    /// Takes a request out of the table.
    fn forget(&mut self, request: RequestId) -> Option<PutState> {
        let state = self.puts.remove(&request)?;
        self.receiving -= usize::from(matches!(state, PutState::Receiving { .. }));
        Some(state)
    }

    /// Has the files of a request that has ended removed.
    pub(super) fn drop_files(&self, request: RequestId) {
        if let Some(writer) = &self.writer {
            writer.take(request, WriteStep::Abandon);
        }
    }

    /// The requests that wait for the disk.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.puts.iter().filter(|(_, state)| state.waits()).map(|(request, _)| *request)
    }

    /// When to look for PUTs that go no further.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.receiving > 0)
    }

    /// A PUT or a MIRROR was begun. Returns whether it is a PUT that was not given up meanwhile.
    fn accept(&mut self, request: RequestId) -> bool {
        let Some(state @ PutState::Beginning) = self.puts.get_mut(&request) else { return false };
        *state = PutState::Receiving { heard: self.looks, unwritten: 0 };
        self.heard.insert(request.connection, self.looks);
        self.receiving += 1;
        true
    }

    /// Pieces of a PUT have arrived, or were written. Returns whether it takes bytes.
    fn heard(&mut self, request: RequestId, arrived: usize, written: usize) -> bool {
        let Some(PutState::Receiving { heard, unwritten }) = self.puts.get_mut(&request) else {
            return false;
        };
        *heard = self.looks;
        *unwritten = (*unwritten + arrived).saturating_sub(written);
        self.heard.insert(request.connection, self.looks);
        true
    }

    /// Every byte of a request has arrived. Returns whether it took bytes.
    fn commits(&mut self, request: RequestId) -> bool {
        let took = matches!(self.forget(request), Some(PutState::Receiving { .. }));
        if took {
            self.puts.insert(request, PutState::Committing);
        }
        took
    }

    /// The PUTs that have gone no further for too long. One whose bytes wait for the disk does not wait for its peer.
    fn stalled(&mut self, now: Instant) -> Vec<RequestId> {
        if self.receiving == 0 {
            // The next PUT begins a new count.
            self.look_at = None;
            self.heard.clear();
            return Vec::new();
        }
        let next = now + Duration::from_millis(PUT_LOOK_MS);
        if *self.look_at.get_or_insert(next) > now {
            return Vec::new();
        }
        self.look_at = Some(next);
        self.looks += 1;
        let looks = self.looks;
        for (request, state) in &mut self.puts {
            if let PutState::Receiving { heard, unwritten: 1.. } = state {
                *heard = looks;
                self.heard.insert(request.connection, looks);
            }
        }
        let is_over = |(request, state): &(&RequestId, &PutState)| {
            let PutState::Receiving { heard, .. } = state else { return false };
            let silent = looks - self.heard.get(&request.connection).copied().unwrap_or_default();
            silent > PUT_STALL_MS / PUT_LOOK_MS || looks - heard > PUT_TURN_MS_MAX / PUT_LOOK_MS
        };
        self.puts.iter().filter(is_over).map(|(request, _)| *request).collect()
    }
}

impl Seed {
    /// Gives the thread that writes a step of a request.
    pub(super) fn write(&mut self, now: Instant, port: &mut AppPort, request: RequestId, step: WriteStep) {
        let writer = match self.putting.writer.take() {
            Some(writer) => Ok(writer),
            None => Writer::start(self.parts.store.clone(), port.waker()),
        };
        match writer {
            Ok(writer) if writer.take(request, step) => {
                self.putting.writer = Some(writer);
                return;
            }
            Ok(_ended) => self.refuse(port, request, ErrorCode::Internal, "a thread of the store has ended"),
            Err(error) => {
                tracing::error!(%error, "the threads of the store that write cannot be started; allow this process more threads");
                self.refuse(port, request, ErrorCode::Internal, "a thread of the store cannot be started");
            }
        }
        self.putting.forget(request);
        self.end_mirror(now, port, request);
    }

    /// Has a PUT begun.
    pub(super) fn put(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (asked, lease_s): (Box<PeerRequest>, u64),
    ) {
        let lease = self.lease(now, (asked.node, asked.terms), lease_s);
        self.putting.puts.insert(request, PutState::Beginning);
        let over_s = self.moment(now).over_s;
        self.write(now, port, request, WriteStep::Put(asked, lease, now, over_s));
    }

    /// Has bytes of a PUT written. Bytes of other requests are ignored.
    pub(super) fn received(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (blob, piece, charge): (Option<Blob>, VerifiedPiece, Charge),
    ) {
        if self.putting.heard(request, 1, 0) {
            let bytes = match blob {
                Some(blob) => NewBytes::Shard(blob, piece),
                None => NewBytes::Piece(piece),
            };
            self.write(now, port, request, WriteStep::Bytes(bytes, charge));
        }
    }

    /// Commits a PUT all of whose bytes have arrived.
    pub(super) fn received_all(&mut self, now: Instant, port: &mut AppPort, request: RequestId) {
        if self.putting.commits(request) {
            let over_s = self.moment(now).over_s;
            self.write(now, port, request, WriteStep::Commit(over_s));
        }
    }

    /// Has a step taken after which a request is answered.
    pub(super) fn commit(&mut self, now: Instant, port: &mut AppPort, request: RequestId, step: WriteStep) {
        self.putting.puts.insert(request, PutState::Committing);
        self.write(now, port, request, step);
    }

    /// Refuses PUTs that go no further. Their files and their room are free again.
    pub(super) fn refuse_stalled(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let stalled = self.putting.stalled(now);
        for &request in &stalled {
            self.putting.abandon(request);
            self.parts.store.note_refused(StoreBound::Progress);
            let reason = format!(
                "no byte of it was proven for {} s; put it again when its bytes are at hand",
                PUT_STALL_MS / 1000
            );
            self.refuse(port, request, ErrorCode::Busy, reason);
        }
        !stalled.is_empty()
    }

    /// Takes what was begun, written and made durable.
    pub(super) fn take_written(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some((request, written)) = self.putting.writer.as_ref().and_then(Writer::poll) {
            worked = true;
            match written {
                WriteOutcome::Begun => {
                    if self.putting.accept(request) {
                        self.send(port, Command::accept(request));
                    }
                }
                WriteOutcome::Unchecked(token, asked) => {
                    if self.putting.forget(request).is_some() {
                        let delivery = Delivery::Asked(request, asked);
                        let store = &self.parts.store;
                        self.checking.wait(store, now, port.waker(), token, (request, delivery));
                    }
                }
                WriteOutcome::Bytes(charge) => {
                    self.putting.heard(request, 0, 1);
                    port.give_back(charge);
                }
                WriteOutcome::Ended(Ok((token, bytes))) => {
                    if self.putting.forget(request).is_some() {
                        if request.is_own() {
                            self.repaired(request, bytes);
                        } else {
                            let done = Answer::Done(Done { bytes, token });
                            self.send(port, Command::answer(request, done));
                        }
                    }
                }
                WriteOutcome::Ended(Err(error)) => {
                    let is_put = self.putting.forget(request).is_some();
                    if self.end_mirror(now, port, request) || is_put {
                        self.refuse_store(port, request, &error);
                    }
                }
            }
        }
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_over_when_its_connection_is_silent_or_when_others_of_it_had_all_their_turns() {
        let request = |slot, number| RequestId::peer(ConnectionId { worker: 0, slot, generation: 1 }, number);
        let [silent, idle, busy] = [request(1, 0), request(2, 0), request(2, 4)];
        let mut putting = Putting::default();
        let mut now = Instant::now();
        let begin = |putting: &mut Putting, request| {
            putting.puts.insert(request, PutState::Beginning);
            assert!(putting.accept(request));
        };
        assert!(putting.stalled(now).is_empty() && putting.poll_timeout().is_none());
        for request in [silent, idle, busy] {
            begin(&mut putting, request);
        }
        let begun = now;
        let mut over = Vec::new();
        while over.len() < 2 {
            for request in putting.stalled(now) {
                putting.abandon(request);
                over.push((request, now.duration_since(begun).as_millis() as u64));
            }
            now = putting.poll_timeout().expect("it looks while a PUT is there");
            assert!(putting.heard(busy, 0, 0));
        }
        assert!(
            matches!(over[0], (first, ms) if first == silent
            && (PUT_STALL_MS..=PUT_STALL_MS + 2 * PUT_LOOK_MS).contains(&ms)),
            "{over:?}"
        );
        assert!(
            matches!(over[1], (second, ms) if second == idle
            && (PUT_TURN_MS_MAX..=PUT_TURN_MS_MAX + 2 * PUT_LOOK_MS).contains(&ms)),
            "{over:?}"
        );
        // A thread that is stopped for long has looked once.
        putting.abandon(busy);
        begin(&mut putting, silent);
        now += Duration::from_secs(3600);
        assert!(putting.stalled(now).is_empty());
        putting.closed(silent.connection);
        assert!(putting.stalled(now).is_empty() && putting.poll_timeout().is_none());
    }

    #[test]
    fn a_put_whose_bytes_wait_for_the_disk_does_not_wait_for_its_peer() {
        let request = RequestId::peer(ConnectionId { worker: 0, slot: 1, generation: 1 }, 0);
        let mut putting = Putting::default();
        let mut now = Instant::now();
        putting.puts.insert(request, PutState::Beginning);
        assert!(putting.accept(request) && putting.heard(request, 1, 0));
        for _ in 0..10 * PUT_STALL_MS / PUT_LOOK_MS {
            assert!(putting.stalled(now).is_empty());
            now += Duration::from_millis(PUT_LOOK_MS);
        }
        assert_eq!(putting.waiting().count(), 1, "its peer is told that it is worked on");
        assert!(putting.heard(request, 0, 1));
        assert_eq!(putting.waiting().count(), 0);
        let begun = now;
        while putting.stalled(now).is_empty() {
            now += Duration::from_millis(PUT_LOOK_MS);
        }
        assert!(now - begun >= Duration::from_millis(PUT_STALL_MS), "it counts from the last write on");
    }
}

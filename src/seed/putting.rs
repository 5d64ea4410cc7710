//! PUT: writes the payloads and lanes that peers send, and answers once they are durable.

use super::Lease;
use super::StoreBound;
use super::app::Seed;
use super::committer::Committer;
use super::writing::Writing;
use crate::limits::{PUT_LOOK_MS, PUT_STALL_MS, PUT_TURN_MS_MAX};
use crate::queue::{Answer, AppPort, Command, ConnectionId, RequestId};
use crate::record::{Done, ErrorCode};
use crate::shard::{Blob, Coding, Descriptor, Lanes};
use crate::token::VerifiedPiece;
use rustc_hash::{FxHashMap, FxHashSet};
use std::time::{Duration, Instant};

/// Payloads and lanes on their way from peers to the disk.
#[derive(Default)]
pub(super) struct Putting {
    /// By the request numbers of their PUTs. A dropped writer removes its files.
    receiving: FxHashMap<RequestId, Receiving>,
    /// The look after which bytes of a PUT last arrived, for each connection with one.
    heard: FxHashMap<ConnectionId, u64>,
    /// Looks for PUTs that go no further, so far. Time is counted in looks: while the disk stops this thread there are none.
    looks: u64,
    look_at: Option<Instant>,
    /// Requests whose payloads are being made durable.
    committing: FxHashSet<RequestId>,
    /// Started with the first commit.
    committer: Option<Committer>,
}

/// One of them.
struct Receiving {
    writing: Writing,
    /// The look after which its bytes last arrived.
    heard: u64,
}

impl Putting {
    /// Ends a request that its peer has given up.
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.receiving.remove(&request);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.receiving.retain(|request, _| request.connection != connection);
        self.committing.retain(|request| request.connection != connection);
        self.heard.remove(&connection);
    }

    /// The requests whose payloads are being made durable.
    pub(super) fn committing(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.committing.iter().copied()
    }

    /// When to look for PUTs that go no further.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_at.filter(|_| !self.receiving.is_empty())
    }

    fn accept(&mut self, request: RequestId, writing: Writing) {
        self.heard.insert(request.connection, self.looks);
        self.receiving.insert(request, Receiving { writing, heard: self.looks });
    }

    /// The PUT of this request, bytes of which have arrived.
    fn heard(&mut self, request: RequestId) -> Option<&mut Writing> {
        let receiving = self.receiving.get_mut(&request)?;
        receiving.heard = self.looks;
        self.heard.insert(request.connection, self.looks);
        Some(&mut receiving.writing)
    }

    /// The PUTs that have gone no further for too long.
    fn stalled(&mut self, now: Instant) -> Vec<RequestId> {
        if self.receiving.is_empty() {
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
        let is_over = |request: &RequestId, receiving: &Receiving| {
            let silent = looks - self.heard.get(&request.connection).copied().unwrap_or_default();
            silent > PUT_STALL_MS / PUT_LOOK_MS || looks - receiving.heard > PUT_TURN_MS_MAX / PUT_LOOK_MS
        };
        let over = self.receiving.iter().filter(|(request, receiving)| is_over(request, receiving));
        over.map(|(request, _)| *request).collect()
    }
}

impl Seed {
    pub(super) fn put(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        descriptor: Box<Descriptor>,
        lease: Lease,
    ) {
        let (token, length) = (descriptor.content(), descriptor.length_bytes());
        let over_s = self.moment(now).over_s;
        if self.holding(&token.into(), over_s).is_some() {
            // It is durable, and a check has just confirmed it: no bytes need to be sent again.
            let held = Writing::Held(token.into(), length, Some(descriptor), lease);
            return self.commit(now, port, request, held);
        }
        match self.parts.store.begin(token, length, lease, over_s) {
            Ok(writer) if descriptor.coding() == Coding::None => {
                self.accept(port, request, Writing::Payload(writer));
            }
            Ok(writer) => self.accept(port, request, Writing::Coded(writer, descriptor, lease)),
            Err(error) => self.refuse_store(port, request, &error),
        }
    }

    pub(super) fn put_lanes(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        descriptor: Descriptor,
        lanes: Lanes,
        lease: Lease,
    ) {
        let over_s = self.moment(now).over_s;
        match self.parts.store.begin_set(descriptor, lanes, lease, over_s) {
            Ok(writer) if writer.parts().next().is_none() => {
                self.commit(now, port, request, Writing::set(writer));
            }
            Ok(writer) => self.accept(port, request, Writing::set(writer)),
            Err(error) => self.refuse_store(port, request, &error),
        }
    }

    fn accept(&mut self, port: &mut AppPort, request: RequestId, writing: Writing) {
        self.putting.accept(request, writing);
        self.send(port, Command::accept(request));
    }

    /// Writes bytes of a PUT. Bytes of other requests are ignored.
    pub(super) fn received(
        &mut self,
        port: &mut AppPort,
        request: RequestId,
        blob: Option<Blob>,
        piece: &VerifiedPiece,
    ) {
        let written = self.putting.heard(request).map(|writing| match blob {
            Some(blob) => writing.shard(blob, piece),
            None => writing.piece(piece),
        });
        if let Some(Err(error)) = written {
            self.putting.abandon(request);
            self.refuse_store(port, request, &error);
        }
    }

    /// Commits a PUT all of whose bytes have arrived.
    pub(super) fn received_all(&mut self, now: Instant, port: &mut AppPort, request: RequestId) {
        if let Some(receiving) = self.putting.receiving.remove(&request) {
            self.commit(now, port, request, receiving.writing);
        }
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

    /// Has it made durable. The request is answered after that.
    pub(super) fn commit(&mut self, now: Instant, port: &mut AppPort, request: RequestId, writing: Writing) {
        let over_s = self.moment(now).over_s;
        let committer = match self.putting.committer.take() {
            Some(committer) => Ok(committer),
            None => Committer::start(self.parts.store.clone(), port.waker()),
        };
        match committer {
            Ok(committer) if committer.commit(request, writing, over_s) => {
                self.putting.committer = Some(committer);
                self.putting.committing.insert(request);
            }
            Ok(_ended) => self.refuse(port, request, ErrorCode::Internal, "the store's commit thread ended"),
            Err(error) => {
                tracing::error!(%error, "the commit thread of the store cannot be started; allow this process more threads");
                self.refuse(
                    port,
                    request,
                    ErrorCode::Internal,
                    "the store's commit thread cannot be started",
                );
            }
        }
    }

    /// Answers the requests whose payloads are durable now.
    pub(super) fn take_commits(&mut self, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some((request, result)) = self.putting.committer.as_ref().and_then(Committer::poll) {
            worked = true;
            self.putting.committing.remove(&request);
            match result {
                Ok((_, bytes)) if request.is_own() => self.repaired(request, bytes),
                Ok((token, bytes)) => {
                    self.send(port, Command::answer(request, Answer::Done(Done { bytes, token })))
                }
                Err(error) => self.refuse_store(port, request, &error),
            }
        }
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Store, StoreConfig};
    use crate::token::Token;

    #[test]
    fn a_put_is_over_when_its_connection_is_silent_or_when_others_of_it_had_all_their_turns() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreConfig::default()).unwrap();
        let request = |slot, number| RequestId::peer(ConnectionId { worker: 0, slot, generation: 1 }, number);
        let [silent, idle, busy] = [request(1, 0), request(2, 0), request(2, 4)];
        let mut putting = Putting::default();
        let mut now = Instant::now();
        assert!(putting.stalled(now).is_empty() && putting.poll_timeout().is_none());
        for request in [silent, idle, busy] {
            let writer = store.begin(Token::of(b"payload"), 7, Lease::default(), 0).unwrap();
            putting.accept(request, Writing::Payload(writer));
        }
        let begun = now;
        let mut over = Vec::new();
        while over.len() < 2 {
            for request in putting.stalled(now) {
                putting.abandon(request);
                over.push((request, now.duration_since(begun).as_millis() as u64));
            }
            now = putting.poll_timeout().expect("it looks while a PUT is there");
            assert!(putting.heard(busy).is_some());
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
        // A thread that the disk stops for long has looked once.
        putting.abandon(busy);
        let writer = store.begin(Token::of(b"payload"), 7, Lease::default(), 0).unwrap();
        putting.accept(silent, Writing::Payload(writer));
        now += Duration::from_secs(3600);
        assert!(putting.stalled(now).is_empty());
        putting.closed(silent.connection);
        assert!(putting.stalled(now).is_empty() && putting.poll_timeout().is_none());
    }
}

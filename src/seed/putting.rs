//! PUT: writes the payloads and lanes that peers send, and answers once they are durable.

use super::Lease;
use super::app::Seed;
use super::committer::Committer;
use super::writing::Writing;
use crate::queue::{Answer, AppPort, Command, ConnectionId, RequestId};
use crate::record::{Done, ErrorCode};
use crate::shard::{Blob, Coding, Descriptor, Lanes};
use crate::token::VerifiedPiece;
use rustc_hash::FxHashMap;
use std::time::Instant;

/// Payloads and lanes on their way from peers to the disk.
#[derive(Default)]
pub(super) struct Putting {
    /// By the request numbers of their PUTs. A dropped writer removes its files.
    receiving: FxHashMap<RequestId, Writing>,
    /// Started with the first commit.
    committer: Option<Committer>,
}

impl Putting {
    /// Ends a request that its peer has given up.
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.receiving.remove(&request);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.receiving.retain(|request, _| request.connection != connection);
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
        self.putting.receiving.insert(request, writing);
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
        let written = self.putting.receiving.get_mut(&request).map(|writing| match blob {
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
        if let Some(writing) = self.putting.receiving.remove(&request) {
            self.commit(now, port, request, writing);
        }
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
            match result {
                Ok((token, bytes)) => {
                    self.send(port, Command::Answer(request, Answer::Done(Done { bytes, token })))
                }
                Err(error) => self.refuse_store(port, request, &error),
            }
        }
        worked
    }
}

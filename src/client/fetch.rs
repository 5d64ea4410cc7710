//! The task's side of a FETCH, piece by piece.

use super::ClientError;
use super::call::{AnswerChannel, FetchAnswer, FetchEvent};
use super::peer::{PeerLink, PendingRequest};
use crate::hop::Route;
use crate::queue::{Ask, Credit};
use crate::record;
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, Proof, Ranges, VerifiedPiece};
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Which parts of a payload or a set to fetch; the default is the whole payload from the peer itself.
#[derive(Clone, Debug, Default)]
pub struct PieceOptions {
    /// Which 16 KiB groups of the payload; with `lanes`, which of their stripes.
    pub ranges: Ranges,
    /// These lanes of a set instead of its payload. The set token proves what the set is.
    pub lanes: Option<Lanes>,
    /// Refuse an answer of more payload bytes than this; 0 for no bound.
    pub bytes_max: u64,
    /// The gateways on the way, the last of which answers; `None`: the peer itself.
    pub route: Option<Route>,
}

/// A peer's description of a payload or a set that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The payload's length, bytes, as the peer claims it. Only a set's descriptor or the payload's bytes prove it.
    pub length: u64,
    /// The set's descriptor, if the token is a set token. It matches that token.
    pub descriptor: Option<Descriptor>,
}

/// Bytes that have been checked against the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The shard and its blob, if lanes were fetched.
    pub shard: Option<(ShardIndex, Blob)>,
    /// Where the bytes belong: in the payload, or in the shard's blob.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// The hashes that proved them, in tree order: with those of every other piece, the payload's outboard.
    pub proofs: Vec<Proof>,
}

impl Piece {
    pub(super) fn new(shard: Option<(ShardIndex, Blob)>, piece: VerifiedPiece) -> Self {
        let VerifiedPiece { offset, data, proofs } = piece;
        Self { shard, offset, data, proofs }
    }
}

/// The pieces of an answer, as they arrive: [`Peer::pieces`](super::Peer::pieces). Dropping it ends the request.
///
/// Pieces wait for their reader, up to 8 MiB. Then flow control stops this request at the peer, and no other.
#[derive(Debug)]
pub struct Pieces {
    request: PendingRequest,
    length: u64,
    descriptor: Option<Descriptor>,
    credit: Credit,
    events: mpsc::UnboundedReceiver<Vec<FetchEvent>>,
    batch: std::vec::IntoIter<FetchEvent>,
    over: bool,
}

impl Pieces {
    pub(super) async fn start(
        link: &Arc<PeerLink>,
        token: AnyToken,
        options: PieceOptions,
        describe: bool,
    ) -> Result<Self, ClientError> {
        let PieceOptions { ranges, lanes, bytes_max, route } = options;
        let hop = link.hop(route.as_ref())?;
        let mut request = PendingRequest::new(link).await;
        let credit = Credit::default();
        let (give, events) = mpsc::unbounded_channel();
        let fetch = record::Fetch { token, bytes_max, lanes, ranges, describe };
        let ask = Ask::new(fetch).by(hop).with_credit(credit.clone());
        request.ask(ask, AnswerChannel::Fetch(FetchAnswer { events: give, held: Vec::new(), listed: false }));
        Self::begun(request, credit, events).await
    }

    /// Waits for the peer's word that it has the payload.
    async fn begun(
        request: PendingRequest,
        credit: Credit,
        events: mpsc::UnboundedReceiver<Vec<FetchEvent>>,
    ) -> Result<Self, ClientError> {
        let batch = Vec::new().into_iter();
        let mut fetch = Self { request, length: 0, descriptor: None, credit, events, batch, over: false };
        match fetch.event().await {
            Some(FetchEvent::Accepted(ok)) => {
                fetch.length = ok.length_bytes;
                fetch.descriptor = ok.descriptor;
                Ok(fetch)
            }
            Some(FetchEvent::Failed(error)) => {
                fetch.request.over();
                Err(error)
            }
            _ => Err(fetch.request.link().lost()),
        }
    }

    /// The next event; `None` if the connection is lost.
    async fn event(&mut self) -> Option<FetchEvent> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<FetchEvent>> {
        loop {
            if let Some(event) = self.batch.next() {
                return Poll::Ready(Some(event));
            }
            match ready!(self.events.poll_recv(cx)) {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The whole payload's length, bytes, as the peer claims it. An answer that does not fit this length fails.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The set's descriptor, if a set token was fetched. It matches that token.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    /// The next checked bytes; `None` after the last. Pieces of a payload arrive in rising order, shards in any order. The future may be
    /// dropped and called again: no piece is lost.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for bytes that do not match the token or a request that the peer gives up; [`ClientError::Lost`] or
    /// [`ClientError::Stopped`]. After an error there are no more pieces.
    pub async fn next(&mut self) -> Option<Result<Piece, ClientError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, ClientError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let end = match ready!(self.poll_event(cx)) {
            Some(FetchEvent::Piece(piece)) => {
                if self.credit.give_back(piece.data.len()) {
                    self.request.link().wake();
                }
                return Poll::Ready(Some(Ok(piece)));
            }
            Some(FetchEvent::Failed(error)) => Some(Err(error)),
            Some(FetchEvent::Complete | FetchEvent::Accepted(_)) => None,
            None => Some(Err(self.request.link().lost())),
        };
        self.over = true;
        self.request.over();
        Poll::Ready(end)
    }
}

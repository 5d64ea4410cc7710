//! Fetching one thing from several holders at once.

use super::call::{Call, Gathered};
use super::{Client, ClientError, Peer, Route, Shared};
use crate::gather::{Event, Gather, Given, Source, Want};
use crate::queue::Credit;
use crate::record::ErrorRecord;
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, VerifiedPiece};
use std::sync::Arc;
use tokio::sync::mpsc;

/// One holder to ask.
#[derive(Clone, Debug)]
pub struct HolderAt<'a> {
    /// The connection. All holders of one gathering must be connected by the same worker: see
    /// [`super::ConnectOptions::worker`].
    pub peer: &'a Peer,
    /// By which gateways, if it is not the peer itself.
    pub route: Option<Route>,
    /// The lanes it has, if that is known.
    pub lanes: Option<Lanes>,
}

/// What comes of it.
#[derive(Debug)]
pub enum Gained {
    /// What it is: first.
    Described {
        /// The payload's length, bytes.
        length: u64,
        /// What the set is, where a set was asked for.
        descriptor: Option<Descriptor>,
    },
    /// Checked bytes of the payload. Pieces come in any order, and some twice.
    Piece(VerifiedPiece),
    /// Checked bytes of a shard. Shards come in any order, and some twice.
    Shard(ShardIndex, Blob, VerifiedPiece),
    /// Of so many stripes from the first on, these lanes have come whole.
    Stripes(u64, u64, Lanes),
}

/// A payload or a set on its way from several holders. Dropping it gives it up.
#[derive(Debug)]
pub struct Gathering {
    shared: Arc<Shared>,
    worker: usize,
    id: u64,
    events: mpsc::UnboundedReceiver<Event>,
    credit: Credit,
    report: Arc<std::sync::Mutex<Vec<Given>>>,
    over: bool,
}

impl Client {
    /// Fetches `token` from several holders at once: from whoever is free, and elsewhere what is late, wrong or gone.
    ///
    /// # Errors
    /// [`ClientError::OtherWorker`] for holders on different workers, [`ClientError::Refused`] for none, a route that cannot be.
    pub fn gather(
        &self,
        token: impl Into<AnyToken>,
        want: Want,
        holders: &[HolderAt<'_>],
    ) -> Result<Gathering, ClientError> {
        let source = |holder: &HolderAt<'_>| {
            let route =
                holder.route.as_ref().map(|route| route.starting_at(holder.peer.node())).transpose()?;
            let last = route.as_ref().and_then(|route| route.nodes().last().copied());
            let (connection, node) = (holder.peer.connection(), last.or(holder.peer.node()));
            Ok(Source { connection, node, route, lanes: holder.lanes })
        };
        let sources = holders.iter().map(source).collect::<Result<Vec<_>, ClientError>>()?;
        let Some(worker) = sources.first().map(|source| source.connection.worker) else {
            let reason = "no holder to fetch it from";
            return Err(ClientError::Refused(ErrorRecord::new(
                crate::record::ErrorCode::NotFound,
                0,
                reason,
            )));
        };
        if sources.iter().any(|source| source.connection.worker != worker) {
            return Err(ClientError::OtherWorker);
        }
        let (worker, id) = (usize::from(worker), self.0.next_request());
        let (give, events) = mpsc::unbounded_channel();
        let (credit, report) = (Credit::default(), Arc::default());
        let gather = Gather::new(token.into(), want, sources);
        let gathered =
            Gathered { id, gather, events: give, credit: credit.clone(), report: Arc::clone(&report) };
        self.0.call(worker, Call::Gather(Box::new(gathered)));
        Ok(Gathering { shared: self.0.clone(), worker, id, events, credit, report, over: false })
    }
}

impl Gathering {
    /// What comes next; none when everything has come.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it cannot be had from these holders: its text says what each of them did.
    pub async fn next(&mut self) -> Option<Result<Gained, ClientError>> {
        if self.over {
            return None;
        }
        let gained = match self.events.recv().await {
            Some(Event::Described { length, descriptor }) => {
                Gained::Described { length, descriptor: descriptor.map(|descriptor| *descriptor) }
            }
            Some(Event::Piece(piece)) => {
                self.taken(&piece);
                Gained::Piece(piece)
            }
            Some(Event::Shard { shard, blob, piece }) => {
                self.taken(&piece);
                Gained::Shard(shard, blob, piece)
            }
            Some(Event::Stripes { start, count, lanes }) => Gained::Stripes(start, count, lanes),
            end => {
                self.over = true;
                return match end {
                    Some(Event::Done) => None,
                    Some(Event::Failed(failure)) => Some(Err(ClientError::Refused(failure))),
                    _ => Some(Err(ClientError::Stopped)),
                };
            }
        };
        Some(Ok(gained))
    }

    fn taken(&self, piece: &VerifiedPiece) {
        if self.credit.give_back(piece.data.len()) {
            self.shared.wake(self.worker);
        }
    }

    /// Who gave what so far, in the order of the holders; complete once [`Gathering::next`] gave the end.
    pub fn report(&self) -> Vec<Given> {
        self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        if !self.over {
            self.shared.call(self.worker, Call::EndGather { id: self.id });
        }
    }
}

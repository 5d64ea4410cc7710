//! Fetches a payload or a set from several holders at once.

use super::call::{Call, HostedGather, SharedGather};
use super::{Client, ClientError, Peer, Route, Shared};
use crate::gather::{Gather, GatherEvent, GatherSource, HolderReport, Want};
use crate::limits::HOLDERS_TOLD_LEN_MAX;
use crate::queue::Credit;
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, SetToken, VerifiedPiece};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// An event of a gathering.
#[derive(Debug)]
pub enum Gathered {
    /// The description: always the first event.
    Described {
        /// The payload's length, bytes.
        length: u64,
        /// The set's descriptor, if the token is a set token.
        descriptor: Option<Descriptor>,
    },
    /// Checked bytes of the payload. Pieces arrive in any order, and some twice.
    Piece(VerifiedPiece),
    /// Checked bytes of a shard. Shards arrive in any order, and some twice.
    Shard {
        /// Which shard.
        shard: ShardIndex,
        /// The blob that it is a part of.
        blob: Blob,
        /// The bytes, with their offset in the blob.
        piece: VerifiedPiece,
    },
    /// Lanes of some stripes are complete.
    Stripes {
        /// The first of the stripes.
        start: u64,
        /// The number of stripes.
        count: u64,
        /// The lanes.
        lanes: Lanes,
    },
}

/// The part to gather.
#[derive(Clone, Debug)]
pub struct GatherOptions {
    /// The payload, or lanes of a set.
    pub want: Want,
}

impl Default for GatherOptions {
    /// The whole payload.
    fn default() -> Self {
        Self { want: Want::Payload }
    }
}

/// The facts that the program knows of a holder; by default none.
#[derive(Clone, Debug, Default)]
pub struct HolderOptions {
    /// The route to the holder, if it is not the peer itself.
    pub route: Option<Route>,
    /// The lanes that it holds; `None`: not known.
    pub lanes: Option<Lanes>,
}

/// A payload or a set on its way from several holders. Dropping it ends the gathering.
#[derive(Debug)]
pub struct Gathering {
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<GatherEvent>,
    credit: Credit,
    report: Arc<Mutex<Vec<HolderReport>>>,
    /// Keeps the holders' connections open.
    _peers: Arc<Mutex<Vec<Peer>>>,
    over: bool,
}

/// Adds holders to a [`Gathering`] as their connections come up. The gathering waits for more holders until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct HolderAdder(Arc<Adding>);

#[derive(Debug)]
struct Adding {
    shared: Arc<Shared>,
    gather: SharedGather,
    peers: Arc<Mutex<Vec<Peer>>>,
}

impl Drop for Adding {
    fn drop(&mut self) {
        self.gather.lock().unwrap_or_else(PoisonError::into_inner).set_awaits_more(false);
        self.shared.wake_all();
    }
}

impl HolderAdder {
    /// Adds the peer as a holder.
    ///
    /// # Errors
    /// Those of [`HolderAdder::add_with`].
    pub fn add(&self, peer: &Peer) -> Result<(), ClientError> {
        self.add_with(peer, HolderOptions::default())
    }

    /// Adds a holder: the peer, or the gateway at the end of `options.route`.
    ///
    /// # Errors
    /// [`ClientError::Route`].
    pub fn add_with(&self, peer: &Peer, options: HolderOptions) -> Result<(), ClientError> {
        let HolderOptions { route, lanes } = options;
        let Adding { shared, gather, peers } = &*self.0;
        let route = route.map(|route| route.starting_at(peer.node())).transpose()?;
        let last = route.as_ref().and_then(|route| route.nodes().last().copied());
        let (connection, node) = (peer.connection(), last.or(peer.node()));
        peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer.clone());
        let source = GatherSource { connection, remote: Some(peer.remote()), node, route, lanes };
        gather.lock().unwrap_or_else(PoisonError::into_inner).add(source);
        shared.wake(connection.worker.into());
        Ok(())
    }
}

impl Client {
    /// Fetches `token` from several holders at once. A holder that is free gets the next part; a part that is late, wrong or lost is fetched
    /// from another holder. Holders are added as they are found. Each worker of this client receives and checks what its own connections bring:
    /// several connections to one gateway, on several workers, are not bound to one core.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a set whose shards did not give its payload in an earlier gathering.
    pub fn gather(
        &self,
        token: impl Into<AnyToken>,
        options: GatherOptions,
    ) -> Result<(Gathering, HolderAdder), ClientError> {
        let GatherOptions { want } = options;
        let token = token.into();
        if let AnyToken::Set(set) = token
            && self.0.is_bad(&set)
        {
            let reason = "this set's shards did not give its payload before; use another set of that payload";
            return Err(ClientError::Refused(ErrorRecord::new(ErrorCode::BadDescriptor, 0, reason)));
        }
        let id = self.0.next_request();
        let (give, events) = mpsc::unbounded_channel();
        let (credit, report, peers) = (Credit::default(), Arc::default(), Arc::default());
        let mut gather = Gather::new(token, want, Vec::new());
        gather.set_awaits_more(true);
        let gather = SharedGather::new(Mutex::new(gather));
        self.0.call_all(|worker| {
            let (gather, events) = (Arc::clone(&gather), give.clone());
            let (credit, report) = (credit.clone(), Arc::clone(&report));
            Call::Gather(Box::new(HostedGather { id, worker: worker as u16, gather, events, credit, report }))
        });
        let adding = Adding { shared: self.0.clone(), gather, peers: Arc::clone(&peers) };
        let shared = self.0.clone();
        let gathering = Gathering { shared, events, credit, report, _peers: peers, over: false };
        Ok((gathering, HolderAdder(Arc::new(adding))))
    }
}

impl Gathering {
    /// The next event; `None` after the last. The future may be dropped and called again: no event is lost.
    ///
    /// # Errors
    /// [`ClientError::Ungathered`] if these holders cannot give the whole: its text says what each of them did.
    pub async fn next(&mut self) -> Option<Result<Gathered, ClientError>> {
        if self.over {
            return None;
        }
        let gathered = match self.events.recv().await {
            Some(GatherEvent::Described { length, descriptor }) => {
                Gathered::Described { length, descriptor: descriptor.map(|descriptor| *descriptor) }
            }
            Some(GatherEvent::Piece(piece)) => {
                self.taken(&piece);
                Gathered::Piece(piece)
            }
            Some(GatherEvent::Shard { shard, blob, piece }) => {
                self.taken(&piece);
                Gathered::Shard { shard, blob, piece }
            }
            Some(GatherEvent::Stripes { start, count, lanes }) => Gathered::Stripes { start, count, lanes },
            end => {
                self.over = true;
                return match end {
                    Some(GatherEvent::Done) => None,
                    Some(GatherEvent::Failed(failure)) => Some(Err(self.failed(failure))),
                    _ => Some(Err(ClientError::Stopped)),
                };
            }
        };
        Some(Ok(gathered))
    }

    fn failed(&self, failure: ErrorRecord) -> ClientError {
        let report = self.report();
        let told = report.iter().take(HOLDERS_TOLD_LEN_MAX).map(ToString::to_string);
        ClientError::Ungathered { failure, holders: told.collect() }
    }

    fn taken(&self, piece: &VerifiedPiece) {
        if self.credit.give_back(piece.data.len()) {
            self.shared.wake_all();
        }
    }

    /// Marks a set whose shards did not give its payload. This client does not gather it again.
    pub(crate) fn mark_bad(&self, set: SetToken) {
        self.shared.mark_bad(set);
    }

    /// Each holder's bytes, errors and end, in the order of the holders; complete once [`Gathering::next`] has given the end.
    pub fn report(&self) -> Vec<HolderReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        // The workers cancel the gathering once its events' channel is closed.
        self.events.close();
        self.shared.wake_all();
    }
}

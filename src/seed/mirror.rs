//! MIRROR: fetches something from other nodes and holds it (protocol §6).

use super::writing::Writing;
use super::{Lease, Store, StoreError};
use crate::application::Asker;
use crate::gather::{Gather, GatherEvent, GatherSource, Want};
use crate::limits::RELAY_REACH_MS;
use crate::queue::{CloseReason, ConnectionId, Delivery};
use crate::record::{ErrorCode, ErrorRecord, Mirror};
use crate::shard::Descriptor;
use crate::tls::NodeId;
use crate::token::AnyToken;
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};

/// One thing that a peer asked this node to hold.
pub(super) struct Mirroring {
    mirror: Mirror,
    lease: Lease,
    stage: Stage,
}

enum Stage {
    /// For connections to the sources, or some of them.
    Waiting {
        until: Instant,
    },
    Running {
        gather: Box<Gather>,
        writing: Option<Box<Writing>>,
    },
}

/// How far it is.
pub(super) enum Outcome {
    Going,
    /// All is written: to be made durable.
    Written(Box<Writing>),
    Failed(ErrorRecord),
    Store(StoreError),
}

impl Mirroring {
    pub(super) fn new(mirror: Mirror, lease: Lease, now: Instant) -> Self {
        let until = now + Duration::from_millis(RELAY_REACH_MS);
        Self { mirror, lease, stage: Stage::Waiting { until } }
    }

    /// Takes a delivery about a request of this mirroring.
    pub(super) fn handle(&mut self, now: Instant, delivery: Delivery) {
        if let Stage::Running { gather, .. } = &mut self.stage {
            gather.handle(now, delivery);
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, connection: ConnectionId, reason: &CloseReason) {
        if let Stage::Running { gather, .. } = &mut self.stage {
            gather.closed(connection, reason);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Running { gather, .. } => gather.poll_timeout(),
        }
    }

    /// Gives up.
    pub(super) fn cancel<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) {
        if let Stage::Running { gather, .. } = &mut self.stage {
            gather.cancel();
            gather.poll(now, asker);
        }
    }

    /// Goes on; `nodes` are the connections that there are.
    pub(super) fn poll<T: Clone>(
        &mut self,
        now: Instant,
        now_s: u64,
        asker: &mut Asker<'_, T>,
        nodes: &FxHashMap<NodeId, ConnectionId>,
        store: &Store,
    ) -> (bool, Outcome) {
        if let Stage::Waiting { until } = self.stage {
            let there = |node: &NodeId| nodes.get(node).map(|connection| (*node, *connection));
            let sources: Vec<_> = self.mirror.sources.iter().filter_map(there).collect();
            if sources.len() < self.mirror.sources.len() && now < until {
                return (false, Outcome::Going);
            }
            if sources.is_empty() {
                let reason =
                    "none of the sources can be reached from here; name peer gateways of this gateway";
                return (true, Outcome::Failed(ErrorRecord::new(ErrorCode::NoRoute, 0, reason)));
            }
            self.stage = Stage::Running { gather: Box::new(self.gather(sources)), writing: None };
        }
        let Self { mirror, lease, stage: Stage::Running { gather, writing } } = self else {
            return (false, Outcome::Going);
        };
        let mut worked = gather.poll(now, asker);
        while let Some(event) = gather.poll_event() {
            worked = true;
            let written = match event {
                GatherEvent::Described { length, descriptor } => {
                    begin(mirror, *lease, store, now_s, length, descriptor).map(|begun| *writing = begun)
                }
                GatherEvent::Done => {
                    return (true, writing.take().map_or(Outcome::Going, Outcome::Written));
                }
                GatherEvent::Failed(failure) => return (true, Outcome::Failed(failure)),
                event => writing.as_mut().map_or(Ok(()), |writing| write(writing, &event)),
            };
            if let Err(error) = written {
                gather.cancel();
                gather.poll(now, asker);
                return (true, Outcome::Store(error));
            }
        }
        (worked, Outcome::Going)
    }

    fn gather(&self, sources: Vec<(NodeId, ConnectionId)>) -> Gather {
        let source =
            |(node, connection)| GatherSource { connection, node: Some(node), route: None, lanes: None };
        let want = match self.mirror.token {
            AnyToken::Content(_) => Want::Payload,
            AnyToken::Set(_) if self.mirror.lanes.is_empty() => Want::AnyLanes,
            AnyToken::Set(_) => Want::Lanes(self.mirror.lanes),
        };
        Gather::new(self.mirror.token, want, sources.into_iter().map(source).collect())
    }
}

/// Begins to write what was described.
fn begin(
    mirror: &Mirror,
    lease: Lease,
    store: &Store,
    now_s: u64,
    length: u64,
    descriptor: Option<Box<Descriptor>>,
) -> Result<Option<Box<Writing>>, StoreError> {
    let writing = match (mirror.token, descriptor) {
        (AnyToken::Content(token), _) => Writing::Payload(store.begin(token, length, lease, now_s)?),
        (AnyToken::Set(_), Some(set)) if mirror.lanes.is_empty() => {
            Writing::assembled(store, *set, lease, now_s)?
        }
        (AnyToken::Set(_), Some(set)) => Writing::set(store.begin_set(*set, mirror.lanes, lease, now_s)?),
        // The gathering itself has found out that no set was described.
        (AnyToken::Set(_), None) => return Ok(None),
    };
    Ok(Some(Box::new(writing)))
}

/// Writes what has come.
fn write(writing: &mut Writing, event: &GatherEvent) -> Result<(), StoreError> {
    match event {
        GatherEvent::Piece(piece) => writing.piece(piece),
        GatherEvent::Shard { blob, piece, .. } => writing.shard(*blob, piece),
        GatherEvent::Stripes { start, count, lanes } => writing.stripes(*start, *count, *lanes),
        GatherEvent::Described { .. } | GatherEvent::Done | GatherEvent::Failed(_) => Ok(()),
    }
}

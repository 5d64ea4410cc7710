//! MIRROR: fetches something from other nodes and holds it (protocol §6).

use super::writing::Writing;
use super::{Lease, Store, StoreError};
use crate::gather::{Gather, GatherEvent, GatherSource, Want};
use crate::limits::RELAY_REACH_MS;
use crate::queue::{AppPort, ConnectionId, Delivery, RequestId};
use crate::record::{ErrorCode, ErrorRecord, Mirror};
use crate::tls::NodeId;
use crate::token::AnyToken;
use rustc_hash::FxHashMap;
use std::time::{Duration, Instant};

/// One thing that a peer asked this node to hold.
pub(super) struct Mirroring {
    pub(super) request: RequestId,
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
    pub(super) fn new(request: RequestId, mirror: Mirror, lease: Lease, now: Instant) -> Self {
        let until = now + Duration::from_millis(RELAY_REACH_MS);
        Self { request, mirror, lease, stage: Stage::Waiting { until } }
    }

    /// Gives back what is not about it.
    pub(super) fn handle(&mut self, now: Instant, delivery: Delivery) -> Result<(), Delivery> {
        match &mut self.stage {
            Stage::Running { gather, .. } => gather.handle(now, delivery),
            Stage::Waiting { .. } => Err(delivery),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Running { gather, .. } => gather.poll_timeout(),
        }
    }

    /// Gives up.
    pub(super) fn cancel(&mut self, now: Instant, port: &mut AppPort, numbers: &mut u64) {
        if let Stage::Running { gather, .. } = &mut self.stage {
            gather.cancel();
            gather.poll(now, port, numbers);
        }
    }

    /// Goes on; `nodes` are the connections that there are.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        now_s: u64,
        port: &mut AppPort,
        numbers: &mut u64,
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
            let source =
                |(node, connection)| GatherSource { connection, node: Some(node), route: None, lanes: None };
            let sources = sources.into_iter().map(source).collect();
            let want = match self.mirror.token {
                AnyToken::Content(_) => Want::Payload,
                AnyToken::Set(_) if self.mirror.lanes.is_empty() => Want::AnyLanes,
                AnyToken::Set(_) => Want::Lanes(self.mirror.lanes),
            };
            let gather = Box::new(Gather::new(self.mirror.token, want, sources));
            self.stage = Stage::Running { gather, writing: None };
        }
        let Stage::Running { gather, writing } = &mut self.stage else { return (false, Outcome::Going) };
        let mut worked = gather.poll(now, port, numbers);
        while let Some(event) = gather.poll_event() {
            worked = true;
            let written = match event {
                GatherEvent::Described { length, descriptor } => {
                    let begun = match (self.mirror.token, descriptor) {
                        (AnyToken::Content(token), _) => {
                            store.begin(token, length, self.lease, now_s).map(Writing::Payload)
                        }
                        (AnyToken::Set(_), Some(set)) => {
                            let lanes = self.mirror.lanes;
                            if lanes.is_empty() {
                                Writing::assembled(store, *set, self.lease, now_s)
                            } else {
                                store.begin_set(*set, lanes, self.lease, now_s).map(Writing::set)
                            }
                        }
                        // The gathering itself has found out that no set was described.
                        (AnyToken::Set(_), None) => continue,
                    };
                    begun.map(|begun| *writing = Some(Box::new(begun)))
                }
                GatherEvent::Piece(piece) => writing.as_mut().map_or(Ok(()), |writing| writing.piece(&piece)),
                GatherEvent::Shard { blob, piece, .. } => {
                    writing.as_mut().map_or(Ok(()), |writing| writing.shard(blob, &piece))
                }
                GatherEvent::Stripes { start, count, lanes } => {
                    writing.as_mut().map_or(Ok(()), |writing| writing.stripes(start, count, lanes))
                }
                GatherEvent::Done => {
                    let outcome = writing.take().map_or(Outcome::Going, Outcome::Written);
                    return (true, outcome);
                }
                GatherEvent::Failed(failure) => return (true, Outcome::Failed(failure)),
            };
            if let Err(error) = written {
                gather.cancel();
                gather.poll(now, port, numbers);
                return (true, Outcome::Store(error));
            }
        }
        (worked, Outcome::Going)
    }
}

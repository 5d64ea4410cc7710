//! MIRROR: fetches a payload or lanes from other nodes and holds them (protocol §6).

use super::app::Seed;
use super::writing::Writing;
use super::{Lease, Store, StoreBound, StoreError};
use crate::application::Asker;
use crate::gather::{Gather, GatherEvent, GatherSource, Want};
use crate::limits::{MIRRORS_LEN_MAX, NODE_MIRRORS_LEN_MAX, RELAY_REACH_MS};
use crate::queue::{AppPort, CloseReason, Command, ConnectionId, Delivery, RequestId};
use crate::record::{Coverage, ErrorCode, ErrorRecord, Mirror};
use crate::rights::StoreTerms;
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::AnyToken;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One MIRROR that this node carries out.
pub(super) struct Mirroring {
    mirror: Mirror,
    /// The lease; its owner asked for the mirror.
    lease: Lease,
    stage: Stage,
}

enum Stage {
    /// Waits for connections to the sources, or to some of them.
    Waiting {
        until: Instant,
    },
    Running {
        gather: Box<Gather>,
        writing: Option<Box<Writing>>,
    },
}

/// The state of a mirroring after a turn.
pub(super) enum MirrorOutcome {
    Going,
    /// Everything is written, and is to be made durable.
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

    /// Notes that a connection has ended.
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

    /// Cancels the mirroring and its requests.
    pub(super) fn cancel<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) {
        if let Stage::Running { gather, .. } = &mut self.stage {
            gather.cancel();
            gather.poll(now, asker);
        }
    }

    /// Continues the mirroring; `nodes` are the present connections. Returns whether there was work.
    pub(super) fn poll<T: Clone>(
        &mut self,
        now: Instant,
        now_s: u64,
        asker: &mut Asker<'_, T>,
        nodes: &HashMap<NodeId, ConnectionId>,
        store: &Store,
    ) -> (bool, MirrorOutcome) {
        if let Stage::Waiting { until } = self.stage {
            let there = |node: &NodeId| nodes.get(node).map(|connection| (*node, *connection));
            let sources: Vec<_> = self.mirror.sources.iter().filter_map(there).collect();
            if sources.len() < self.mirror.sources.len() && now < until {
                return (false, MirrorOutcome::Going);
            }
            if sources.is_empty() {
                let reason =
                    "none of the sources can be reached from here; name peer gateways of this gateway";
                return (true, MirrorOutcome::Failed(ErrorRecord::new(ErrorCode::NoRoute, 0, reason)));
            }
            self.stage = Stage::Running { gather: Box::new(self.gather(sources)), writing: None };
        }
        let Self { mirror, lease, stage: Stage::Running { gather, writing } } = self else {
            return (false, MirrorOutcome::Going);
        };
        let mut worked = gather.poll(now, asker);
        while let Some(event) = gather.poll_event() {
            worked = true;
            let written = match event {
                GatherEvent::Described { length, descriptor } => {
                    begin(mirror, *lease, store, now_s, length, descriptor).map(|begun| *writing = begun)
                }
                GatherEvent::Done => {
                    return (true, writing.take().map_or(MirrorOutcome::Going, MirrorOutcome::Written));
                }
                GatherEvent::Failed(failure) => return (true, MirrorOutcome::Failed(told(gather, &failure))),
                event => writing.as_mut().map_or(Ok(()), |writing| write(writing, &event)),
            };
            if let Err(error) = written {
                gather.cancel();
                gather.poll(now, asker);
                return (true, MirrorOutcome::Store(error));
            }
        }
        (worked, MirrorOutcome::Going)
    }

    fn gather(&self, sources: Vec<(NodeId, ConnectionId)>) -> Gather {
        let source = |(node, connection)| GatherSource {
            connection,
            remote: None,
            node: Some(node),
            route: None,
            lanes: None,
        };
        let want = match self.mirror.token {
            AnyToken::Content(_) => Want::Payload,
            AnyToken::Set(_) if self.mirror.lanes.is_empty() => Want::AnyLanes,
            AnyToken::Set(_) => Want::Lanes(self.mirror.lanes),
        };
        Gather::new(self.mirror.token, want, sources.into_iter().map(source).collect())
    }
}

/// A failure with what each source did, as far as an ERROR has room for it.
fn told(gather: &Gather, failure: &ErrorRecord) -> ErrorRecord {
    let told: Vec<_> = gather.report().iter().map(ToString::to_string).collect();
    ErrorRecord::new(failure.code, failure.retry_ms, format!("{} ({})", failure.reason(), told.join("; ")))
}

impl Seed {
    /// Takes a MIRROR. If everything is held already, only the lease is committed; otherwise the missing part is fetched first.
    pub(super) fn mirror(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        request: RequestId,
        (node, terms): (Option<NodeId>, StoreTerms),
        mut mirror: Mirror,
    ) {
        if node.is_none() {
            let reason = "MIRROR needs a peer with a certificate; connect with an identity";
            return self.refuse(port, request, ErrorCode::MirrorRefused, reason);
        }
        let asked = self.mirrors.iter().filter(|(request, _)| !request.is_own());
        let of_node = asked.filter(|(_, mirroring)| mirroring.lease.owner == node).count();
        if of_node >= NODE_MIRRORS_LEN_MAX || self.mirrors.len() >= MIRRORS_LEN_MAX {
            self.parts.store.note_refused(StoreBound::Mirrors);
            return self.refuse(port, request, ErrorCode::Busy, "too many mirrors are on their way");
        }
        let lease = self.lease(now, (node, terms), mirror.lease_s);
        let over_s = self.moment(now).over_s;
        let held = match self.holding(&mirror.token, over_s) {
            Some(Coverage::All) => true,
            Some(Coverage::Lanes(lanes)) if !mirror.lanes.is_empty() => lanes.contains_all(mirror.lanes),
            Some(Coverage::Lanes(lanes)) => lanes.contains_all(self.data_lanes(&mirror.token)),
            _ => false,
        };
        if held {
            return self.commit(now, port, request, Writing::Held(mirror.token, 0, None, lease));
        }
        if mirror.sources.is_empty() {
            let own = self.own();
            let holders = self.holders(now, &mirror.token);
            mirror.sources = holders.iter().map(|holder| holder.node).filter(|n| Some(*n) != own).collect();
        }
        if mirror.sources.is_empty() {
            let reason = "no source is named, and no peer gateway is known to hold it";
            return self.refuse(port, request, ErrorCode::NotFound, reason);
        }
        for node in mirror.sources.clone() {
            if !self.nodes.contains_key(&node) {
                self.send(port, Command::Reach(node));
            }
        }
        self.mirrors.insert(request, Mirroring::new(mirror, lease, now));
    }

    /// The data lanes of a set that is held here; for any other token a selection that no holding contains.
    fn data_lanes(&self, token: &AnyToken) -> Lanes {
        let AnyToken::Set(token) = token else { return Lanes::first(u128::BITS) };
        let set = self.parts.store.get_set(token).ok().flatten();
        set.map_or(Lanes::first(u128::BITS), |set| Lanes::first(set.descriptor.k().into()))
    }

    /// Continues every mirroring.
    pub(super) fn poll_mirrors(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let over_s = self.moment(now).over_s;
        let mut worked = false;
        let mut ended = Vec::new();
        for (request, mirroring) in &mut self.mirrors {
            let asker = &mut self.outbox.asker(port, *request);
            let (did, outcome) = mirroring.poll(now, over_s, asker, &self.nodes, &self.parts.store);
            worked |= did;
            if !matches!(outcome, MirrorOutcome::Going) {
                ended.push((*request, outcome));
            }
        }
        for (request, outcome) in ended {
            self.mirrors.remove(&request);
            match outcome {
                MirrorOutcome::Written(writing) => self.commit(now, port, request, *writing),
                MirrorOutcome::Failed(failure) if request.is_own() => {
                    self.not_repaired(request, failure.reason());
                }
                MirrorOutcome::Failed(failure) => self.send(port, Command::refuse(request, failure)),
                MirrorOutcome::Store(error) => self.refuse_store(port, request, &error),
                MirrorOutcome::Going => {}
            }
        }
        worked
    }
}

/// Begins to write the described payload or set.
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
        // The gathering has failed already: no set was described.
        (AnyToken::Set(_), None) => return Ok(None),
    };
    Ok(Some(Box::new(writing)))
}

/// Writes the bytes of an event.
fn write(writing: &mut Writing, event: &GatherEvent) -> Result<(), StoreError> {
    match event {
        GatherEvent::Piece(piece) => writing.piece(piece),
        GatherEvent::Shard { blob, piece, .. } => writing.shard(*blob, piece),
        GatherEvent::Stripes { start, count, lanes } => writing.stripes(*start, *count, *lanes),
        GatherEvent::Described { .. } | GatherEvent::Done | GatherEvent::Failed(_) => Ok(()),
    }
}

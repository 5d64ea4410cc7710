//! MIRROR: fetches a payload or lanes from other nodes and holds them (protocol §6).

use super::app::Seed;
use super::writer::{MirrorBegun, NewBytes, OverTime, WriteStep};
use super::{Lease, StoreBound};
use crate::application::Asker;
use crate::gather::{Gather, GatherEvent, GatherSource, Want};
use crate::limits::{MIRRORS_LEN_MAX, NODE_MIRRORS_LEN_MAX, RELAY_REACH_MS};
use crate::queue::{AppPort, Charge, CloseReason, Command, ConnectionId, Credit, Delivery, RequestId};
use crate::record::{Coverage, ErrorCode, ErrorRecord, Mirror};
use crate::rights::StoreTerms;
use crate::shard::Lanes;
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
    /// Credit for what is not written yet.
    unwritten: Credit,
}

enum Stage {
    /// Waits for connections to the sources, or to some of them.
    Waiting { until: Instant },
    Running {
        gather: Box<Gather>,
        /// Whether it was described, and its writing begun.
        is_begun: bool,
    },
}

/// The state of a mirroring after a turn.
pub(super) enum MirrorOutcome {
    Going,
    /// Everything is here, and is to be made durable.
    Whole,
    Failed(ErrorRecord),
}

impl Mirroring {
    pub(super) fn new(mirror: Mirror, lease: Lease, now: Instant) -> Self {
        let until = now + Duration::from_millis(RELAY_REACH_MS);
        Self { mirror, lease, stage: Stage::Waiting { until }, unwritten: Credit::default() }
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

    /// Continues the mirroring; `nodes` are the present connections. What is to be written is added to `steps`. Returns whether there was work.
    pub(super) fn poll<T: Clone>(
        &mut self,
        (now, over_s): (Instant, OverTime),
        asker: &mut Asker<'_, T>,
        nodes: &HashMap<NodeId, ConnectionId>,
        steps: &mut Vec<WriteStep>,
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
            self.stage = Stage::Running { gather: Box::new(self.gather(sources)), is_begun: false };
        }
        let Self { mirror, lease, stage: Stage::Running { gather, is_begun }, unwritten } = self else {
            return (false, MirrorOutcome::Going);
        };
        let mut worked = gather.poll(now, asker);
        // What is not taken waits in the gathering, which then asks for no more.
        while unwritten.has_room()
            && let Some(event) = gather.poll_event()
        {
            worked = true;
            match event {
                GatherEvent::Described { length, descriptor } => {
                    // A set that was not described has failed.
                    if matches!(mirror.token, AnyToken::Content(_)) || descriptor.is_some() {
                        *is_begun = true;
                        let (mirror, lease) = (mirror.clone(), *lease);
                        let begun = MirrorBegun { mirror, lease, length, descriptor, over_s };
                        steps.push(WriteStep::Mirror(Box::new(begun)));
                    }
                }
                GatherEvent::Done if *is_begun => return (true, MirrorOutcome::Whole),
                GatherEvent::Done => {}
                GatherEvent::Failed(failure) => return (true, MirrorOutcome::Failed(told(gather, &failure))),
                event => steps.extend(bytes_of(event).filter(|_| *is_begun).map(|(bytes, len)| {
                    let charge = Charge::take(unwritten, len);
                    WriteStep::Bytes(bytes, charge)
                })),
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
            return self.commit(now, port, request, WriteStep::Extend(mirror.token, lease, over_s));
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
        let set = self.parts.store.descriptor(token);
        set.map_or(Lanes::first(u128::BITS), |descriptor| Lanes::first(descriptor.k().into()))
    }

    /// Continues every mirroring.
    pub(super) fn poll_mirrors(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let over_s = self.moment(now).over_s;
        let mut worked = false;
        let (mut ended, mut given) = (Vec::new(), Vec::new());
        for (request, mirroring) in &mut self.mirrors {
            let asker = &mut self.outbox.asker(port, *request);
            let mut steps = Vec::new();
            let (did, outcome) = mirroring.poll((now, over_s), asker, &self.nodes, &mut steps);
            worked |= did;
            given.extend(steps.into_iter().map(|step| (*request, step)));
            if !matches!(outcome, MirrorOutcome::Going) {
                ended.push((*request, outcome));
            }
        }
        for (request, step) in given {
            self.write(now, port, request, step);
        }
        for (request, outcome) in ended {
            // Where no thread could be started, it was refused.
            let Some(_mirroring) = self.mirrors.remove(&request) else { continue };
            match outcome {
                MirrorOutcome::Whole => self.commit(now, port, request, WriteStep::Commit(over_s)),
                MirrorOutcome::Failed(failure) => {
                    self.putting.drop_files(request);
                    if request.is_own() {
                        self.not_repaired(request, failure.reason());
                    } else {
                        self.send(port, Command::refuse(request, failure));
                    }
                }
                MirrorOutcome::Going => {}
            }
        }
        worked
    }

    /// Ends a mirroring whose bytes cannot be written. Returns whether there was one.
    pub(super) fn end_mirror(&mut self, now: Instant, port: &mut AppPort, request: RequestId) -> bool {
        let Some(mut mirroring) = self.mirrors.remove(&request) else { return false };
        mirroring.cancel(now, &mut self.outbox.asker(port, request));
        true
    }
}

/// The bytes of an event, and how many there are.
fn bytes_of(event: GatherEvent) -> Option<(NewBytes, usize)> {
    match event {
        GatherEvent::Piece(piece) => {
            let len = piece.data.len();
            Some((NewBytes::Piece(piece), len))
        }
        GatherEvent::Shard { blob, piece, .. } => {
            let len = piece.data.len();
            Some((NewBytes::Shard(blob, piece), len))
        }
        GatherEvent::Stripes { start, count, lanes } => Some((NewBytes::Stripes(start, count, lanes), 0)),
        GatherEvent::Described { .. } | GatherEvent::Done | GatherEvent::Failed(_) => None,
    }
}

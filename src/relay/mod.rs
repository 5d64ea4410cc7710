//! Forwards requests to the next gateway of their route, as their bytes arrive (protocol §5).
//!
//! It runs on the worker's thread: bytes read from one connection are written to the other in the same turn. It parses no payload
//! and holds at most a bounded window of each stream: each side is read only while the other has room. Equal FETCHes share one answer.

mod flow;
mod looks;
#[cfg(test)]
mod tests;
mod waits;

use crate::application::{Application, Outbox, Received};
use crate::counters::{Counter, Counters};
use crate::limits::{MERGE_LEN_MAX, RELAY_REACH_MS};
use crate::queue::{
    AppPort, Command, ConnectionEvent, ConnectionId, Credit, Delivery, End, Ending, Forward, RequestId,
};
use crate::record::{ErrorCode, ErrorRecord, Fetch, Payload, Record};
use crate::seed::Cache;
use crate::tls::NodeId;
use crate::token::AnyToken;
use crate::worker::WorkerStatus;
use bytes::Bytes;
use flow::{FetchKey, Flow, FlowStage, Member, Upstream};
use looks::FlowRound;
use slab::Slab;
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use waits::Waits;

/// The ring places that one delivery may need.
const COMMANDS_A_DELIVERY: usize = 8;

/// The relay of one worker. Peers choose node IDs, tokens and the numbers of their streams: tables by them are hashed with a key.
pub struct Relay {
    status: Arc<WorkerStatus>,
    cache: Option<Cache>,
    /// Connections to nodes that showed a certificate, each with whether this side opened it to a peer gateway: such a one is preferred.
    routes: HashMap<NodeId, (ConnectionId, bool)>,
    flows: Slab<Flow>,
    /// Requests of peers, with the flow of each.
    upstream: Upstream,
    /// FETCHes that equal ones may join: no byte of their answer has passed.
    joinable: HashMap<FetchKey, usize>,
    /// Flows that wait for a peer gateway that is not connected yet.
    waiting: Waits,
    /// Flows with more than one member.
    merged: BTreeSet<usize>,
    /// The looks at them.
    merged_round: FlowRound,
    /// The looks for peers that read nothing.
    stall_round: FlowRound,
    /// Flows that were looked at.
    #[cfg(test)]
    looks: usize,
    /// The owner of a request to the next gateway is its flow. While a command waits, no delivery is taken.
    outbox: Outbox<usize>,
}

impl Relay {
    /// The relay of a worker. With a cache, it keeps payloads whose routes allow it.
    pub fn new(status: Arc<WorkerStatus>, cache: Option<Cache>) -> Self {
        Self {
            status,
            cache,
            routes: HashMap::default(),
            flows: Slab::new(),
            upstream: Upstream::default(),
            joinable: HashMap::default(),
            waiting: Waits::default(),
            merged: BTreeSet::new(),
            merged_round: FlowRound::default(),
            stall_round: FlowRound::default(),
            #[cfg(test)]
            looks: 0,
            outbox: Outbox::default(),
        }
    }

    fn counters(&self) -> &Counters {
        &self.status.counters
    }

    fn send(&mut self, port: &mut AppPort, command: Command) {
        self.outbox.send(port, command);
    }

    /// Forwards bytes, and takes their credit.
    fn send_raw(&mut self, port: &mut AppPort, request: RequestId, credit: &Credit, bytes: Payload) {
        credit.take(bytes.len());
        self.send(port, Command::Raw(request, Box::new(bytes)));
    }

    /// Takes the deliveries of a flow's request to the next gateway.
    fn answer(&mut self, now: Instant, port: &mut AppPort, flow: usize, delivery: Delivery) {
        match delivery {
            Delivery::Raw(_, bytes) => self.answered(now, port, flow, bytes),
            Delivery::Ended(_, End::Failed(failure)) => self.answer_failed(port, flow, &failure),
            Delivery::Ended(_, End::Silent(_)) => {
                let reason = "the next gateway does not go on with the request";
                self.answer_failed(port, flow, &ErrorRecord::new(ErrorCode::UpstreamFailed, 0, reason));
            }
            Delivery::Ended(..) => self.answer_ended(port, flow),
            Delivery::Stopped(_, code) => self.stopped(port, flow, code),
            // The answer is not parsed here: it arrives as bytes.
            _ => {}
        }
    }

    fn deliver(&mut self, now: Instant, port: &mut AppPort, delivery: Delivery) {
        match delivery {
            Delivery::Connection(connection, event) => match event {
                ConnectionEvent::Connected { node: Some(node), peer_gateway, .. } => {
                    self.connected(now, port, node, connection, peer_gateway);
                }
                ConnectionEvent::Closed { .. } => self.closed(port, connection),
                _ => {}
            },
            Delivery::Forward(request, forward) => self.forward(now, port, request, *forward),
            Delivery::Raw(request, bytes) => self.asked(port, request, bytes),
            Delivery::Ended(request, End::Failed(_)) => self.leave(port, request),
            Delivery::Ended(request, _) => self.request_ended(port, request),
            Delivery::Unreachable(node) => self.refuse_waiting(port, node),
            // A relay makes and answers no requests of its own. A peer that stops a complete answer ends nothing here: its flow is over.
            Delivery::Stopped(..)
            | Delivery::ConnectFailed { .. }
            | Delivery::Asked(..)
            | Delivery::Answered(..)
            | Delivery::Piece { .. } => {}
        }
    }

    /// Takes bytes of a request.
    fn asked(&mut self, port: &mut AppPort, request: RequestId, bytes: Payload) {
        let Some(key) = self.upstream.get(&request) else { return };
        let flow = &mut self.flows[key];
        let Some(member) = flow.members.iter_mut().find(|member| member.request == request) else { return };
        if !member.spend(bytes.len()) {
            return self.expel_spent(port, request);
        }
        // A member that joined has sent all of its request, a FETCH.
        if flow.members[0].request != request {
            return;
        }
        match &mut flow.stage {
            FlowStage::Open(down) => {
                let (down, credit) = (*down, flow.onward.clone());
                self.send_raw(port, down, &credit, bytes);
            }
            FlowStage::Waiting { .. } => flow.hold(bytes),
        }
    }

    /// Forwards a request, or lets it wait for the answer to an equal FETCH.
    fn forward(&mut self, now: Instant, port: &mut AppPort, request: RequestId, forward: Forward) {
        let Forward { next, hop, fetch, answer, onward } = forward;
        let member = Member { request, answer, budget_left: hop.budget_bytes };
        let key = fetch.map(|fetch| {
            let route = hop.route[usize::from(hop.cursor)..].into();
            FetchKey { fetch, route, cache: hop.cache }
        });
        let other = key.as_ref().and_then(|key| self.joinable.get(key)).copied();
        if let Some(other) = other.filter(|&other| self.flows[other].members.len() < MERGE_LEN_MAX) {
            return self.join(member, other);
        }
        let passing = match &key {
            Some(FetchKey {
                fetch: Fetch { token: AnyToken::Content(token), lanes: None, ranges, .. },
                cache: true,
                ..
            }) if ranges.is_all() => self.cache.as_ref().map(|cache| cache.begin(*token)),
            _ => None,
        };
        let flow = self.flows.insert(Flow {
            next,
            hop,
            members: smallvec![member],
            onward,
            stage: FlowStage::Waiting { until: now },
            head: Payload::new(),
            ended: false,
            key: key.clone(),
            passing,
            progress: now,
        });
        self.upstream.insert(request, flow);
        if let Some(key) = key {
            // A full one is joined no more.
            if let Some(full) = self.joinable.insert(key, flow) {
                self.flows[full].key = None;
            }
        }
        self.open(now, port, flow);
    }

    /// Lets a FETCH wait for the answer to one that was forwarded before.
    fn join(&mut self, member: Member, other: usize) {
        self.upstream.insert(member.request, other);
        let joined = &mut self.flows[other];
        joined.members.push(member);
        if joined.members.len() == 2 {
            self.merged.insert(other);
        }
        self.counters().add(Counter::HopsMerged, 1);
    }

    /// Forwards a request, if its next gateway is connected; otherwise asks for a connection.
    fn open(&mut self, now: Instant, port: &mut AppPort, key: usize) {
        let flow = &mut self.flows[key];
        let Some(&(connection, _)) = self.routes.get(&flow.next) else {
            let until = now + Duration::from_millis(RELAY_REACH_MS);
            flow.stage = FlowStage::Waiting { until };
            let node = flow.next;
            if !self.waiting.push(node, (until, key)) {
                let reason = "too many requests wait for the next gateway of this route; ask again";
                return self.answer_failed(port, key, &ErrorRecord::new(ErrorCode::Busy, 0, reason));
            }
            return self.send(port, Command::Reach(node));
        };
        let (credit, pace) = (flow.onward.clone(), flow.members[0].answer.clone());
        let request = self.outbox.open(port, connection, (credit.clone(), pace), key);
        flow.stage = FlowStage::Open(request);
        let (head, ended) = (std::mem::take(&mut flow.head), flow.ended);
        let mut front = Vec::new();
        flow.hop.emit_record(&mut front);
        self.send_raw(port, request, &credit, Bytes::from(front).into());
        if !head.is_empty() {
            // Its credit was taken when it was held, and is taken once more.
            credit.give_back(head.len());
            self.send_raw(port, request, &credit, head);
        }
        if ended {
            self.send(port, Command::End(request, Ending::Finish));
        }
    }

    fn request_ended(&mut self, port: &mut AppPort, request: RequestId) {
        let Some(key) = self.upstream.get(&request) else { return };
        let flow = &mut self.flows[key];
        if flow.members[0].request != request {
            return;
        }
        flow.ended = true;
        match flow.stage {
            FlowStage::Open(down) => self.send(port, Command::End(down, Ending::Finish)),
            FlowStage::Waiting { .. } => {}
        }
    }

    /// Passes bytes of an answer to every peer that waits for it.
    fn answered(&mut self, now: Instant, port: &mut AppPort, key: usize, bytes: Payload) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.progress = now;
        if let Some(key) = flow.key.take() {
            self.joinable.remove(&key);
        }
        if flow.passing.as_mut().is_some_and(|passing| !passing.push(&bytes)) {
            flow.passing = None;
            self.status.counters.add(Counter::CacheSkipped, 1);
        }
        let mut spent: SmallVec<[RequestId; 1]> = SmallVec::new();
        let mut late: SmallVec<[RequestId; 1]> = SmallVec::new();
        let flow = &mut self.flows[key];
        for (index, member) in flow.members.iter_mut().enumerate() {
            if !member.spend(bytes.len()) {
                spent.push(member.request);
            } else if index > 0 && !member.answer.has_room() {
                late.push(member.request);
            } else {
                member.answer.take(bytes.len());
                let command = Command::Raw(member.request, Box::new(bytes.clone()));
                self.outbox.send(port, command);
            }
        }
        for request in spent {
            self.expel_spent(port, request);
        }
        for request in late {
            self.expel(port, request, ErrorCode::Busy, "too slow for an answer that others share; ask again");
        }
    }

    /// Ends a request whose route has no byte budget left.
    fn expel_spent(&mut self, port: &mut AppPort, request: RequestId) {
        self.expel(port, request, ErrorCode::Budget, "the budget of this route is spent");
    }

    fn answer_ended(&mut self, port: &mut AppPort, key: usize) {
        let Some(flow) = self.remove_flow(key) else { return };
        if let Some(passing) = flow.passing {
            passing.finish();
        }
        for (index, member) in flow.members.iter().enumerate() {
            let request = member.request;
            // Further bytes of the request would go nowhere.
            if index > 0 || !flow.ended {
                self.send(port, Command::Stop(request, ErrorCode::None));
            }
            self.send(port, Command::End(request, Ending::Finish));
        }
    }

    fn answer_failed(&mut self, port: &mut AppPort, key: usize, failure: &ErrorRecord) {
        let Some(flow) = self.remove_flow(key) else { return };
        for member in &flow.members {
            self.send(port, Command::refuse(member.request, failure.clone()));
        }
    }

    /// The next gateway reads no more of the request; the answer goes on.
    fn stopped(&mut self, port: &mut AppPort, key: usize, code: ErrorCode) {
        let Some(flow) = self.flows.get(key) else { return };
        let request = flow.members[0].request;
        self.send(port, Command::Stop(request, code));
    }

    /// Removes a flow. Its request to the next gateway is over, or its caller cancels it.
    fn remove_flow(&mut self, key_of: usize) -> Option<Flow> {
        let flow = self.flows.try_remove(key_of)?;
        if let FlowStage::Waiting { until } = flow.stage {
            self.waiting.remove(flow.next, (until, key_of));
        }
        if let Some(key) = &flow.key {
            self.joinable.remove(key);
        }
        for member in &flow.members {
            self.upstream.remove(&member.request);
        }
        self.merged.remove(&key_of);
        Some(flow)
    }

    /// Refuses one member's request; the others go on.
    fn expel(&mut self, port: &mut AppPort, request: RequestId, code: ErrorCode, reason: &str) {
        if code == ErrorCode::Budget {
            self.counters().add(Counter::HopsRefused, 1);
        }
        self.send(port, Command::refuse(request, ErrorRecord::new(code, 0, reason)));
        self.leave(port, request);
    }

    /// Removes a member. With the last one the request is given up.
    fn leave(&mut self, port: &mut AppPort, request: RequestId) {
        let Some(key) = self.upstream.remove(&request) else { return };
        let Some(flow) = self.flows.get_mut(key) else { return };
        let led = flow.members.first().is_some_and(|member| member.request == request);
        flow.members.retain(|member| member.request != request);
        let down = match flow.stage {
            FlowStage::Open(down) => Some(down),
            _ => None,
        };
        let Some(first) = flow.members.first() else {
            self.remove_flow(key);
            if let Some(down) = down {
                self.outbox.cancel(port, down);
            }
            return;
        };
        if !led {
            return;
        }
        let pace = first.answer.clone();
        // Only FETCHes are joined, and a member that joined sends no more bytes.
        let ended = std::mem::replace(&mut flow.ended, true);
        if let Some(down) = down {
            self.send(port, Command::Pace(down, pace));
            if !ended {
                self.send(port, Command::End(down, Ending::Finish));
            }
        }
    }

    fn connected(
        &mut self,
        now: Instant,
        port: &mut AppPort,
        node: NodeId,
        connection: ConnectionId,
        dialed: bool,
    ) {
        let known = self.routes.entry(node).or_insert((connection, dialed));
        if dialed || !known.1 {
            *known = (connection, dialed);
        }
        for (_, flow) in self.waiting.take(&node) {
            self.open(now, port, flow);
        }
    }

    /// Refuses the requests that wait for a peer gateway: it is not dialed while they do.
    fn refuse_waiting(&mut self, port: &mut AppPort, node: NodeId) {
        let reason = format!("{node} cannot be reached, and is not dialed again within {RELAY_REACH_MS} ms");
        let failure = ErrorRecord::new(ErrorCode::UpstreamFailed, 0, reason);
        for (_, flow) in self.waiting.take(&node) {
            self.answer_failed(port, flow, &failure);
        }
    }

    fn closed(&mut self, port: &mut AppPort, connection: ConnectionId) {
        self.routes.retain(|_, (known, _)| *known != connection);
        for request in self.upstream.of(connection) {
            self.leave(port, request);
        }
        let failure = ErrorRecord::new(ErrorCode::UpstreamFailed, 0, "the next gateway's connection ended");
        for (_, flow) in self.outbox.closed(connection) {
            self.answer_failed(port, flow, &failure);
        }
    }

    /// Refuses requests that have waited too long for their peer gateway.
    fn give_up(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some((_, flow)) = self.waiting.next_late(now) {
            worked = true;
            let reason = format!("no connection to {} within {RELAY_REACH_MS} ms", self.flows[flow].next);
            self.answer_failed(port, flow, &ErrorRecord::new(ErrorCode::UpstreamFailed, 0, reason));
        }
        worked
    }
}

impl Application for Relay {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while self.outbox.flush(port)
            && port.room() >= COMMANDS_A_DELIVERY
            && let Some(received) = self.outbox.receive(port)
        {
            worked = true;
            match received {
                Received::Own(flow, delivery) => self.answer(now, port, flow, delivery),
                Received::Other(delivery) => self.deliver(now, port, delivery),
            }
        }
        if self.waiting.poll_timeout().is_some() {
            worked |= self.give_up(now, port);
        }
        if !self.merged.is_empty() {
            worked |= self.end_held_back(now, port);
        }
        if !self.flows.is_empty() {
            worked |= self.end_stalled(now, port);
        }
        worked
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let look = self.stall_round.due().filter(|_| !self.flows.is_empty());
        let merged = self.merged_round.due().filter(|_| !self.merged.is_empty());
        self.waiting.poll_timeout().into_iter().chain(merged).chain(look).min()
    }
}

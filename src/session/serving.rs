//! A request of the peer: from its first record to its last byte.

use super::body::{Body, BodyPace, Taker};
use super::fault::{Fault, unexpected};
use super::reading::Reading;
use super::relayed::Relayed;
use super::stream::{NextRole, Reader, Readiness, Reads, Role};
use crate::counters::Counter;
use crate::hop::{Decision, HopRefusal};
use crate::queue::{Credit, Delivery, End, PeerRequest};
use crate::record::{ErrorCode, Hop, Payload, Put, Record, RecordType, Request};
use crate::rights::Right;
use crate::tls::NodeId;
use crate::token::Ranges;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct Serving {
    state: State,
    /// Whether it arrived in early data.
    early: bool,
    /// Credit for the answer.
    credit: Credit,
    /// Whether it has one of the seats of its node.
    pub(super) has_seat: bool,
    /// Whether it began with a HOP.
    has_hop: bool,
    /// Whether the peer forwards it: later bytes then come from other nodes.
    pub(super) routed: bool,
    /// Whether the application was told of its end, or has ended it.
    pub(super) over: bool,
    /// Its kind, until its outcome is counted.
    pub(super) counted: Option<RecordType>,
}

#[derive(Debug)]
enum State {
    /// The request is incomplete.
    Opening,
    /// A PUT: its verified encoding follows once the application has accepted it.
    Put {
        app: usize,
        body: Body,
        accepted: bool,
        /// It is read only while this credit has room.
        pace: Credit,
    },
    /// A request after which the peer sends no bytes.
    Asked { app: usize },
}

impl Serving {
    /// A request without any byte yet.
    pub(super) fn new(early: bool, credit: Credit) -> Self {
        Self {
            state: State::Opening,
            early,
            credit,
            has_seat: true,
            has_hop: false,
            routed: false,
            over: false,
            counted: None,
        }
    }

    /// A request that is answered here, although its route goes on.
    pub(super) fn of(
        request: Request,
        (credit, routed): (Credit, bool),
        cx: &mut Reading<'_, '_>,
    ) -> Result<Box<Role>, Fault> {
        let mut serving = Self { has_hop: true, routed, ..Self::new(false, credit) };
        serving.counted = Some(request.record_type());
        let other = serving.take(request, cx)?;
        Ok(other.unwrap_or_else(|| Box::new(Role::Serving(serving))))
    }

    /// Whether the request is incomplete.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening)
    }

    /// Accepts a PUT: its bytes may follow. False if the request has no bytes.
    pub(super) fn accept(&mut self) -> bool {
        match &mut self.state {
            State::Put { accepted, .. } => {
                *accepted = true;
                true
            }
            State::Opening | State::Asked { .. } => false,
        }
    }

    /// Whether every byte of an accepted PUT has arrived.
    pub(super) fn has_payload(&self) -> bool {
        matches!(&self.state, State::Put { body, accepted: true, .. } if body.has_arrived())
    }

    /// The body of a PUT.
    pub(super) fn body(&mut self) -> Option<&mut Body> {
        match &mut self.state {
            State::Put { body, .. } => Some(body),
            State::Opening | State::Asked { .. } => None,
        }
    }

    /// The bytes that verify threads check.
    pub(super) fn checking_bytes(&self) -> usize {
        if let State::Put { body, .. } = &self.state { body.checking_bytes() } else { 0 }
    }

    /// Notes that the request has ended, for its application.
    pub(super) fn close(&mut self) -> bool {
        if let Some(body) = self.body() {
            body.abandon();
        }
        !std::mem::replace(&mut self.over, true)
    }

    fn open(&mut self, kind: RecordType, body: &[u8], cx: &mut Reading<'_, '_>) -> NextRole {
        let is_hop = kind == RecordType::Hop;
        if !is_hop {
            self.counted = Some(kind);
        }
        if cx.leaving {
            return Err(Fault::new(ErrorCode::GoingAway, "this node takes no new requests"));
        }
        if let Some((counter, reason)) = self.shortage(cx) {
            cx.cx.counters.add(counter, 1);
            return Err(Fault::new(ErrorCode::Busy, reason));
        }
        // Protocol §7: a replay of these requests would do harm.
        if self.early && !matches!(kind, RecordType::Fetch | RecordType::Locate) {
            return Err(Fault::new(ErrorCode::TooEarly, "not in early data: ask again after the handshake"));
        }
        if is_hop && !self.has_hop {
            let hop = Hop::parse(body)?;
            self.has_hop = true;
            self.routed = is_forwarded(&hop, cx.peer.node);
            if self.routed && cx.peer.forwards_too_many_errors(cx.cx.now) {
                cx.cx.counters.add(Counter::HopsRefused, 1);
                let reason =
                    "too many requests that this gateway forwarded broke a rule; ask again in a minute";
                return Err(Fault::new(ErrorCode::Busy, reason));
            }
            return self.judge(&hop, cx);
        }
        match Request::parse(kind, body) {
            Some(request) => self.take(request?, cx),
            None => Err(unexpected(kind, "at the start of a request")),
        }
    }

    /// The bound of its node for which it is refused, if there is one.
    fn shortage(&self, cx: &Reading<'_, '_>) -> Option<(Counter, &'static str)> {
        if !self.has_seat {
            let reason =
                "this node ID has as many requests here as one may have; ask again when some have ended";
            return Some((Counter::NodeRequestsRefused, reason));
        }
        cx.peer.holds_too_much.then_some((
            Counter::MemoryRequestsRefused,
            "memory is short, and this node ID holds more of it than its share; read answers, then ask again",
        ))
    }

    /// Gives a request to its application.
    fn take(&mut self, request: Request, cx: &mut Reading<'_, '_>) -> NextRole {
        cx.require_one_of(Right::of(&request))?;
        if self.has_hop && request.is_about_leases() {
            // The lease is that of the gateway before, for all nodes behind it.
            let reason = "LIST, STAT, REMOVE and RENEW take no route: ask the gateway itself";
            return Err(Fault::new(ErrorCode::NotAuthorized, reason));
        }
        let (app, role) = match &request {
            Request::Put(put) => {
                let app = cx.queue(put.queue)?;
                if cx.cx.routes.unchecked.contains(&put.queue) {
                    let relayed =
                        Relayed::unchecked(app, cx.peer_request(), self.routed, self.counted.take());
                    (app, Some(Box::new(Role::Relayed(relayed))))
                } else {
                    let body = body_of(put)?.checked_by(cx);
                    let pace = Credit::within(&cx.peer.requests_credit);
                    self.state = State::Put { app, body, accepted: false, pace };
                    (app, None)
                }
            }
            Request::Fetch(_)
            | Request::Locate(_)
            | Request::Mirror(_)
            | Request::List(_)
            | Request::Stat(_)
            | Request::Remove(_)
            | Request::Renew(_) => {
                let app = cx.store()?;
                self.state = State::Asked { app };
                (app, None)
            }
        };
        let (node, early, credit) = (cx.peer.node, self.early, self.credit.clone());
        let asked = PeerRequest { request, node, early, credit, terms: cx.peer.grant.terms };
        cx.deliver(app, Delivery::Asked(cx.peer_request(), Box::new(asked)));
        Ok(role)
    }

    /// Judges a HOP record: the request is for this node, is forwarded, or is refused (protocol §5).
    fn judge(&mut self, hop: &Hop, cx: &mut Reading<'_, '_>) -> NextRole {
        let hops = cx.cx.routes.hops.clone();
        let routing = hops.as_ref().zip(cx.cx.routes.relay).filter(|_| cx.owner.is_none());
        let Some((hops, app)) = routing else {
            return Err(Fault::new(ErrorCode::NotAuthorized, "this node forwards no requests"));
        };
        let decision = hops.judge(hop, cx.peer.node, cx.cx.now);
        // Protocol §5: rule 6 stands before rule 7.
        if matches!(decision, Ok(Decision::Forward { .. }) | Err(HopRefusal::NoRoute(_)))
            && let Err(fault) = cx.require(Right::Transit)
        {
            cx.cx.counters.add(Counter::HopsRefused, 1);
            return Err(fault);
        }
        let refused = |refusal: HopRefusal| {
            cx.cx.counters.add(Counter::HopsRefused, 1);
            Fault::new(refusal.code(), refusal.to_string())
        };
        match decision.map_err(refused)? {
            Decision::Deliver => Ok(None),
            Decision::Forward { next, hop } => {
                cx.cx.counters.add(Counter::HopsForwarded, 1);
                let onward = (next, hop, self.routed);
                let relayed = Relayed::onward(
                    app,
                    cx.peer_request(),
                    onward,
                    (self.credit.clone(), &cx.peer.requests_credit),
                );
                Ok(Some(Box::new(Role::Relayed(relayed))))
            }
        }
    }
}

/// Whether the peer only forwards the request behind this record: the route names it in the place before this node. A request whose asker is
/// the peer itself is charged as one without a HOP.
fn is_forwarded(hop: &Hop, peer: Option<NodeId>) -> bool {
    let before = usize::from(hop.cursor).checked_sub(1).and_then(|before| hop.route.get(before));
    before.is_some_and(|before| peer == Some(*before))
}

/// The verified encoding after a PUT.
fn body_of(put: &Put) -> Result<Body, Fault> {
    let all = Ranges::all();
    match put.lanes {
        Some(lanes) => Body::lanes(Box::new(put.descriptor), lanes, &all),
        None => Body::payload(put.descriptor.content(), put.descriptor.length_bytes(), &all),
    }
}

impl Reader for Serving {
    fn app(&self) -> Option<usize> {
        match &self.state {
            State::Opening => None,
            State::Put { app, .. } | State::Asked { app } => Some(*app),
        }
    }

    fn reads(&self) -> Reads {
        if matches!(self.state, State::Opening) { Reads::Records } else { Reads::Bytes }
    }

    fn readiness(&self) -> Readiness {
        match &self.state {
            State::Put { accepted: false, .. } => Readiness::Blocked,
            State::Put { body, .. } if body.awaits_checks() => Readiness::Blocked,
            State::Put { pace, .. } if !pace.has_room() => Readiness::Paused,
            _ => Readiness::Wants,
        }
    }

    fn on_record(&mut self, kind: RecordType, body: Payload, cx: &mut Reading<'_, '_>) -> NextRole {
        self.open(kind, &body.to_bytes(), cx)
    }

    fn on_bytes(&mut self, bytes: Bytes, cx: &mut Reading<'_, '_>) -> NextRole {
        match &mut self.state {
            State::Put { body, accepted: true, .. } => {
                if body.push(&bytes)? {
                    self.settle(cx)?;
                }
                Ok(None)
            }
            State::Put { .. } => Err(Fault::malformed("payload bytes before the answer to PUT")),
            // Not even a record that could be skipped: it would pass or not by how the stream is cut.
            _ => Err(Fault::malformed("bytes after the request")),
        }
    }

    fn on_end(&mut self, _at_border: bool, _cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        match &self.state {
            State::Opening => Err(Fault::malformed("the stream ends before its request")),
            State::Asked { .. } => Ok(()),
            State::Put { body, .. } if body.is_complete() => Ok(()),
            State::Put { .. } => Err(Fault::malformed("the PUT ends before its payload is whole")),
        }
    }

    fn settle(&mut self, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if let State::Put { app, body, accepted, pace } = &mut self.state {
            let request = cx.peer_request();
            body.deliver(&Taker { app: *app, request, pace: Some(BodyPace::Delivery(pace)) }, cx)?;
            if *accepted && body.becomes_complete() {
                cx.deliver(*app, Delivery::Ended(request, End::Checked));
            }
        }
        Ok(())
    }

    fn fail(&mut self, end: End, cx: &mut Reading<'_, '_>) {
        if let Some(app) = self.app()
            && self.close()
        {
            cx.deliver(app, Delivery::Ended(cx.peer_request(), end));
        }
    }
}

#[cfg(test)]
mod tests;

//! One holder of a gathering.

use super::path::PathMeter;
use crate::hop::Route;
use crate::limits::{
    GATHER_STALL_MS, GATHER_STALLS_MAX, GATHER_STRIKES_MAX, GATHER_TRIES_MAX, GATHER_WAIT_MS,
};
use crate::queue::{CloseReason, ConnectionId};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::Lanes;
use crate::tls::NodeId;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A holder that a gathering may send requests to.
#[derive(Clone, Debug)]
pub struct GatherSource {
    /// The connection for its requests.
    pub connection: ConnectionId,
    /// The address of that connection's peer; `None`: not known.
    pub remote: Option<SocketAddr>,
    /// The holder: the node at the end of the route, if there is one.
    pub node: Option<NodeId>,
    /// The route to it; `None`: it is the peer of the connection.
    pub route: Option<Route>,
    /// Its lanes; `None`: unknown, and requests may name any lane.
    pub lanes: Option<Lanes>,
}

/// Whether a gathering still uses a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderState {
    /// The gathering uses it.
    Asked,
    /// It refused for good.
    Refused(ErrorRecord),
    /// It sent too many bad proofs.
    Wrong(String),
    /// It stalled too often.
    Stalled,
    /// Its connection ended.
    Gone(CloseReason),
}

/// A holder's part in a gathering.
#[derive(Clone, Debug)]
pub struct HolderReport {
    /// The node.
    pub node: Option<NodeId>,
    /// The address of the connection to it, or to the first gateway of its route; `None`: not known.
    pub remote: Option<SocketAddr>,
    /// Checked bytes from it.
    pub bytes: u64,
    /// Requests to it.
    pub requests: u64,
    /// Its bad proofs.
    pub strikes: u32,
    /// Its requests that got no byte for [`GATHER_STALL_MS`].
    pub stalls: u32,
    /// Lanes that it does not have.
    pub lacking: Lanes,
    /// Its last reason to put a request off; empty if there was none. It is a [`crate::peer_text::PeerText`].
    pub reason: String,
    /// Its state at the end.
    pub state: HolderState,
}

/// The holder, and what it did, for an error.
impl fmt::Display for HolderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "{node}")?,
            None => f.write_str("a gateway without a certificate")?,
        }
        if let Some(remote) = self.remote {
            write!(f, " at {remote}")?;
        }
        write!(f, " gave {} bytes in {} requests", self.bytes, self.requests)?;
        if !self.lacking.is_empty() {
            write!(f, ", does not have the lanes {}", self.lacking)?;
        }
        match &self.state {
            HolderState::Asked if !self.reason.is_empty() => {
                write!(f, ", and put another off: {}", self.reason)
            }
            HolderState::Asked => Ok(()),
            HolderState::Refused(failure) => {
                write!(f, ", then {}: {}", failure.code.name(), failure.reason())
            }
            HolderState::Wrong(reason) => write!(f, ", then was dropped: it sent a bad proof ({reason})"),
            HolderState::Stalled => {
                let (stalls, stall_s) = (self.stalls, GATHER_STALL_MS / 1000);
                write!(f, ", then was dropped: {stalls} requests got no byte of it for {stall_s} s")
            }
            HolderState::Gone(reason) => write!(f, ", then was gone: {reason}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct GatherHolder {
    pub(super) source: GatherSource,
    pub(super) running: usize,
    /// The bytes that the running requests ask for.
    pub(super) flight_bytes: u64,
    pub(super) path: PathMeter,
    /// When it last sent anything, or was asked though nothing was due from it.
    pub(super) progress: Option<Instant>,
    pub(super) requests: u64,
    pub(super) given_bytes: u64,
    strikes: u32,
    stalls: u32,
    /// The number of its BUSY answers.
    tries: u32,
    waits_until: Option<Instant>,
    state: HolderState,
    last_reason: String,
    /// Lanes that it answered NOT_FOUND for.
    lacking: Lanes,
    /// Whether its length agrees with the unproven one; `None`: not known.
    pub(super) agrees: Option<bool>,
    /// Whether requests name one lane at a time: it lacked one of several lanes.
    pub(super) one_by_one: bool,
}

impl GatherHolder {
    pub(super) fn new(source: GatherSource) -> Self {
        Self {
            source,
            running: 0,
            flight_bytes: 0,
            path: PathMeter::default(),
            progress: None,
            requests: 0,
            given_bytes: 0,
            strikes: 0,
            stalls: 0,
            tries: 0,
            waits_until: None,
            state: HolderState::Asked,
            last_reason: String::new(),
            lacking: Lanes::NONE,
            agrees: None,
            one_by_one: false,
        }
    }

    pub(super) fn given(&self) -> HolderReport {
        HolderReport {
            node: self.source.node,
            remote: self.source.remote,
            bytes: self.given_bytes,
            requests: self.requests,
            strikes: self.strikes,
            stalls: self.stalls,
            lacking: self.lacking,
            reason: self.last_reason.clone(),
            state: self.state.clone(),
        }
    }

    pub(super) fn may_still_give(&self) -> bool {
        self.state == HolderState::Asked
    }

    pub(super) fn has_not(&self) -> bool {
        matches!(&self.state, HolderState::Refused(failure) if failure.code == ErrorCode::NotFound)
    }

    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.may_still_give() && self.waits_until.is_none_or(|at| at <= now)
    }

    /// Whether it may be sent another request.
    pub(super) fn has_room(&self) -> bool {
        self.running < self.path.requests_max() && self.flight_bytes < self.path.flight_bytes()
    }

    /// When it has stalled, if it sends nothing until then. A request may wait at it while it answers others.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        let progress = self.progress.filter(|_| self.running > 0 && self.may_still_give())?;
        Some(progress + Duration::from_millis(GATHER_STALL_MS))
    }

    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.waits_until.filter(|_| self.may_still_give())
    }

    /// Whether it was busy and will be asked again later.
    pub(super) fn waits(&self) -> bool {
        self.waits_until().is_some()
    }

    /// Ends a wait whose time is over.
    pub(super) fn wake(&mut self, now: Instant) {
        self.waits_until = self.waits_until.filter(|at| *at > now);
    }

    /// The lanes to request from it, of `all`.
    pub(super) fn lanes(&self, all: Lanes) -> Lanes {
        self.source.lanes.map_or(all, |lanes| lanes.intersection(all))
    }

    pub(super) fn leave(&mut self, state: HolderState) {
        if self.state == HolderState::Asked {
            self.state = state;
        }
    }

    /// Notes that it is busy, and waits before the next request; the last try ends its use.
    pub(super) fn wait(&mut self, now: Instant, failure: &ErrorRecord) {
        self.tries += 1;
        self.last_reason = failure.reason().to_owned();
        if self.tries >= GATHER_TRIES_MAX {
            return self.leave(HolderState::Refused(failure.clone()));
        }
        let wait_ms = failure.retry_ms.clamp(GATHER_WAIT_MS, 20 * GATHER_WAIT_MS);
        self.waits_until = Some(now + Duration::from_millis(wait_ms));
    }

    /// Notes that it does not have all of these lanes.
    pub(super) fn lacks(&mut self, lanes: Lanes, failure: &ErrorRecord) {
        if lanes.len() > 1 {
            self.one_by_one = true;
            return;
        }
        self.lacking = self.lacking.union(lanes);
        let left = self.lanes(Lanes::first(u128::BITS)).without(lanes);
        self.source.lanes = Some(left);
        if left.is_empty() {
            self.leave(HolderState::Refused(failure.clone()));
        }
    }

    /// Counts a bad proof. Returns whether that was the last one allowed.
    pub(super) fn strike(&mut self, reason: &str) -> bool {
        self.strikes += 1;
        if self.strikes >= GATHER_STRIKES_MAX {
            self.leave(HolderState::Wrong(reason.into()));
        }
        self.strikes >= GATHER_STRIKES_MAX
    }

    /// Counts a request that stalled.
    pub(super) fn stall(&mut self) {
        self.stalls += 1;
        if self.stalls >= GATHER_STALLS_MAX {
            self.leave(HolderState::Stalled);
        }
    }
}

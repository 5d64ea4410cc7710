//! One holder, and what it is like.

use crate::hop::Route;
use crate::limits::{GATHER_STALLS_MAX, GATHER_STRIKES_MAX, GATHER_TRIES_MAX, GATHER_WAIT_MS};
use crate::queue::{CloseReason, ConnectionId};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::Lanes;
use crate::tls::NodeId;
use std::time::{Duration, Instant};

/// Where to ask.
#[derive(Clone, Debug)]
pub struct GatherSource {
    /// The connection to ask by.
    pub connection: ConnectionId,
    /// The node that holds it: at the end of the route, if there is one.
    pub node: Option<NodeId>,
    /// By which gateways, if it is not the peer of the connection.
    pub route: Option<Route>,
    /// The lanes it has; none: not known, so it is asked for any.
    pub lanes: Option<Lanes>,
}

/// Whether a holder is still asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderState {
    /// It is.
    Asked,
    /// It refused for good.
    Refused(ErrorRecord),
    /// It sent what proves false, too often.
    Wrong(String),
    /// It let requests stall, too often.
    Stalled,
    /// Its connection ended.
    Gone(CloseReason),
}

/// What a holder gave.
#[derive(Clone, Debug)]
pub struct HolderReport {
    /// The node.
    pub node: Option<NodeId>,
    /// Checked bytes that came from it.
    pub bytes: u64,
    /// Requests that it was sent.
    pub requests: u64,
    /// Times it sent what proves false.
    pub strikes: u32,
    /// What became of it.
    pub state: HolderState,
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) source: GatherSource,
    pub(super) running: usize,
    pub(super) requests: u64,
    pub(super) given_bytes: u64,
    strikes: u32,
    stalls: u32,
    /// Times it said that it cannot now.
    tries: u32,
    waits_until: Option<Instant>,
    state: HolderState,
    last_reason: String,
    /// Lanes that it said it has not.
    lacking: Lanes,
    /// What it says of a length that is not proven: that it is so, or not so.
    pub(super) agrees: Option<bool>,
    /// It lacked one of several lanes: it is asked for one at a time.
    pub(super) one_by_one: bool,
}

impl Holder {
    pub(super) fn new(source: GatherSource) -> Self {
        Self {
            source,
            running: 0,
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
            bytes: self.given_bytes,
            requests: self.requests,
            strikes: self.strikes,
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

    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.waits_until.filter(|_| self.may_still_give())
    }

    /// Whether it may be asked again, but not yet.
    pub(super) fn waits(&self) -> bool {
        self.waits_until().is_some()
    }

    /// Ends a wait that is over.
    pub(super) fn wake(&mut self, now: Instant) {
        self.waits_until = self.waits_until.filter(|at| *at > now);
    }

    /// The lanes it may be asked for, of `all`.
    pub(super) fn lanes(&self, all: Lanes) -> Lanes {
        self.source.lanes.map_or(all, |lanes| lanes.intersection(all))
    }

    pub(super) fn leave(&mut self, state: HolderState) {
        if self.state == HolderState::Asked {
            self.state = state;
        }
    }

    /// It cannot now, and may be asked again.
    pub(super) fn wait(&mut self, now: Instant, failure: &ErrorRecord) {
        self.tries += 1;
        self.last_reason = failure.reason().to_owned();
        if self.tries >= GATHER_TRIES_MAX {
            return self.leave(HolderState::Refused(failure.clone()));
        }
        let wait_ms = failure.retry_ms.clamp(GATHER_WAIT_MS, 20 * GATHER_WAIT_MS);
        self.waits_until = Some(now + Duration::from_millis(wait_ms));
    }

    /// It has not all of these lanes.
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

    /// Gives whether that was once too often.
    pub(super) fn strike(&mut self, reason: &str) -> bool {
        self.strikes += 1;
        if self.strikes >= GATHER_STRIKES_MAX {
            self.leave(HolderState::Wrong(reason.into()));
        }
        self.strikes >= GATHER_STRIKES_MAX
    }

    /// Gives whether that was once too often.
    pub(super) fn stall(&mut self) -> bool {
        self.stalls += 1;
        if self.stalls >= GATHER_STALLS_MAX {
            self.leave(HolderState::Stalled);
        }
        self.stalls >= GATHER_STALLS_MAX
    }

    /// What became of it, for people.
    pub(super) fn told(&self) -> String {
        let node = self.source.node.map_or_else(|| "a holder".into(), |node| node.to_string());
        let what = match &self.state {
            HolderState::Asked if !self.last_reason.is_empty() => self.last_reason.clone(),
            HolderState::Asked if !self.lacking.is_empty() => format!("has not the lanes {}", self.lacking),
            HolderState::Asked => "asked".into(),
            HolderState::Refused(failure) => format!("{}: {}", failure.code.name(), failure.reason()),
            HolderState::Wrong(reason) => format!("sent what proves false: {reason}"),
            HolderState::Stalled => "stalled".into(),
            HolderState::Gone(reason) => format!("gone: {reason}"),
        };
        format!("{node} {what}")
    }
}

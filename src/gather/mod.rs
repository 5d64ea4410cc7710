//! Fetches one payload or set from several holders at once: window by window, from each holder that is free.
//! A window that is late, wrong or lost is requested from another holder.
//!
//! The bytes in flight to a holder follow from its path: by measured rate and round trip, between a floor and a ceiling (`path.rs`).
//!
//! Sans-I/O like everything below the loop: deliveries go in, commands and [`GatherEvent`]s come out, `now`
//! is passed. It keeps no payload: checked pieces go straight to its host.

mod answers;
mod holder;
mod path;
mod plan;
mod shape;
mod want;

#[cfg(test)]
mod tests;

pub use holder::{GatherSource, HolderReport, HolderState};
pub use want::Want;

use crate::application::Asker;
use crate::queue::{Answer, CloseReason, ConnectionId, Delivery, End, RequestId};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, VerifiedPiece};
use holder::GatherHolder;
use rustc_hash::FxHashMap;
use shape::Shape;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

const ANOTHER_LENGTH: &str = "says another length than is proven";

/// An event of a gathering.
#[derive(Debug)]
pub enum GatherEvent {
    /// The length and, for a set, the descriptor: always the first event. The length is proven.
    Described {
        /// The payload's length, bytes.
        length: u64,
        /// The set's descriptor.
        descriptor: Option<Box<Descriptor>>,
    },
    /// Checked payload bytes. Two holders may give the same bytes.
    Piece(VerifiedPiece),
    /// Checked bytes of a shard. Two holders may give the same bytes.
    Shard {
        /// The shard.
        shard: ShardIndex,
        /// The blob that the piece's offset counts in.
        blob: Blob,
        /// The bytes.
        piece: VerifiedPiece,
    },
    /// These lanes of these stripes are complete: with [`Want::AnyLanes`], k of them or more.
    Stripes {
        /// The first stripe.
        start: u64,
        /// The number of stripes.
        count: u64,
        /// The complete lanes.
        lanes: Lanes,
    },
    /// Everything has arrived.
    Done,
    /// The holders cannot supply the rest. [`Gather::report`] has what each of them did.
    Failed(ErrorRecord),
}

/// One gathering.
#[derive(Debug)]
pub struct Gather {
    token: AnyToken,
    want: Want,
    holders: Vec<GatherHolder>,
    requests: FxHashMap<RequestId, WindowRequest>,
    shape: Option<Shape>,
    /// Windows that were begun and are not complete, by their first unit.
    windows: BTreeMap<u64, Window>,
    /// The first unit after those begun in order.
    begun: u64,
    /// Where units end that are begun in order: the last window is begun first. None: nothing was begun.
    begin_until: Option<u64>,
    /// Units in windows.
    open: u64,
    /// Units in complete windows.
    finished: u64,
    /// Bytes in events that the host has not taken.
    ahead_bytes: usize,
    events: VecDeque<GatherEvent>,
    /// Requests to cancel.
    given_up: Vec<RequestId>,
    /// More holders may be added: a lack of holders is no failure yet.
    awaits_more: bool,
    over: bool,
}

/// Some consecutive groups or stripes.
#[derive(Debug)]
struct Window {
    /// The number of its units.
    count: u64,
    /// Complete lanes.
    got: Lanes,
    /// Its requests in flight.
    running: SmallVec<[RequestId; 2]>,
}

/// One request in flight.
#[derive(Debug)]
struct WindowRequest {
    holder: usize,
    /// Its window; none: a description.
    window: Option<u64>,
    lanes: Lanes,
    /// The bytes that it asks for.
    bytes: u64,
    asked: Instant,
    /// What its holder had given then, bytes.
    given_before_bytes: u64,
    /// Anything came of it.
    has_begun: bool,
}

impl Gather {
    /// A gathering of `token` from `sources`; more can be added.
    pub fn new(token: AnyToken, want: Want, sources: Vec<GatherSource>) -> Self {
        Self {
            token,
            want,
            holders: sources.into_iter().map(GatherHolder::new).collect(),
            requests: FxHashMap::default(),
            shape: None,
            windows: BTreeMap::new(),
            begun: 0,
            begin_until: None,
            open: 0,
            finished: 0,
            ahead_bytes: 0,
            events: VecDeque::new(),
            given_up: Vec::new(),
            awaits_more: false,
            over: false,
        }
    }

    /// Sets whether more holders may be added. While they may, a lack of holders is no failure.
    pub fn set_awaits_more(&mut self, awaits_more: bool) {
        self.awaits_more = awaits_more;
    }

    /// Adds a holder.
    pub fn add(&mut self, source: GatherSource) {
        self.holders.push(GatherHolder::new(source));
    }

    /// The wanted lanes, once the set is described; none if any k lanes or the payload are wanted.
    pub fn lanes(&self) -> Lanes {
        match self.want {
            Want::Lanes(lanes) => lanes,
            Want::Payload | Want::AnyLanes => Lanes::NONE,
        }
    }

    /// Each holder's part, in the order in which the holders were added.
    pub fn report(&self) -> Vec<HolderReport> {
        self.holders.iter().map(GatherHolder::given).collect()
    }

    /// The next event. `None` also while the length is unproven and the gathering goes on.
    pub fn poll_event(&mut self) -> Option<GatherEvent> {
        if self.claimed_by().is_some() && !self.over {
            return None;
        }
        let event = self.events.pop_front()?;
        if let GatherEvent::Piece(piece) | GatherEvent::Shard { piece, .. } = &event {
            self.ahead_bytes -= piece.data.len();
        }
        Some(event)
    }

    /// Takes a delivery for a request of this gathering. Deliveries of canceled requests are ignored.
    pub fn handle(&mut self, now: Instant, delivery: Delivery) {
        match delivery {
            Delivery::Answered(request, Answer::Ok(ok)) => {
                self.accepted(now, request, ok.length_bytes, ok.descriptor.map(Box::new));
            }
            Delivery::Piece { request, shard, piece, .. } if self.credit(now, request, piece.data.len()) => {
                self.events.push_back(match shard {
                    Some((shard, blob)) => GatherEvent::Shard { shard, blob, piece },
                    None => GatherEvent::Piece(piece),
                });
            }
            Delivery::Ended(request, End::Failed(failure)) => self.failed(now, request, &failure),
            Delivery::Ended(request, End::Silent(_)) => self.silent(request),
            Delivery::Ended(request, End::Checked | End::Raw) => self.complete(now, request),
            // A FETCH has no other answers.
            _ => {}
        }
    }

    /// Cancels requests that are no longer of use, and sends new ones. Returns whether any command was sent. All holders are connections of
    /// the asker's worker.
    pub fn poll<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) -> bool {
        self.poll_for(now, asker, |_| true)
    }

    /// Like [`Gather::poll`], where several workers have connections to the holders: cancels and sends the requests of this worker. Each of
    /// the workers calls it.
    pub(crate) fn poll_on<T: Clone>(&mut self, worker: u16, now: Instant, asker: &mut Asker<'_, T>) -> bool {
        self.poll_for(now, asker, |connection| connection.worker == worker)
    }

    fn poll_for<T: Clone>(
        &mut self,
        now: Instant,
        asker: &mut Asker<'_, T>,
        is_own: impl Fn(ConnectionId) -> bool,
    ) -> bool {
        if !self.over {
            self.expire(now);
            self.cancel_given_up(asker, &is_own);
            self.plan(now, asker, &is_own);
        }
        self.cancel_given_up(asker, &is_own);
        asker.has_sent()
    }

    /// Cancels the requests that were given up, of the asker's own connections.
    fn cancel_given_up<T: Clone>(&mut self, asker: &mut Asker<'_, T>, is_own: impl Fn(ConnectionId) -> bool) {
        self.given_up.retain(|request| {
            let is_own = is_own(request.connection);
            if is_own {
                asker.cancel(*request);
            }
            !is_own
        });
    }

    /// Whether the gathering is over, and all its events were taken.
    pub(crate) fn is_told(&self) -> bool {
        self.over && self.events.is_empty()
    }

    /// When [`Gather::poll`] has work even without a delivery.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let waits = self.holders.iter().filter_map(GatherHolder::waits_until);
        let stalls = self.holders.iter().filter_map(GatherHolder::stalls_at);
        waits.chain(stalls).min()
    }

    fn give_up(&mut self, failure: ErrorRecord) {
        self.cancel();
        self.events.push_back(GatherEvent::Failed(failure));
    }

    /// Ends the gathering: the next [`Gather::poll`] cancels all requests.
    pub fn cancel(&mut self) {
        self.over = true;
        self.given_up.extend(self.requests.drain().map(|(request, _)| request));
    }

    /// Notes that a connection ended, and with it the requests on it.
    pub fn closed(&mut self, connection: ConnectionId, reason: &CloseReason) {
        for index in 0..self.holders.len() {
            if self.holders[index].source.connection == connection {
                self.holders[index].leave(HolderState::Gone(reason.clone()));
                self.drop_requests_of(index);
                self.doubt(index);
            }
        }
    }

    /// Takes a request that is over out of those in flight.
    fn remove(&mut self, request: RequestId) -> Option<WindowRequest> {
        let asked = self.requests.remove(&request)?;
        let holder = &mut self.holders[asked.holder];
        holder.running -= 1;
        holder.flight_bytes -= asked.bytes;
        if let Some(window) = asked.window.and_then(|start| self.windows.get_mut(&start)) {
            window.running.retain(|running| *running != request);
        }
        Some(asked)
    }

    /// Cancels a request that is no longer needed.
    fn abandon(&mut self, request: RequestId) {
        if self.remove(request).is_some() {
            self.given_up.push(request);
        }
    }

    fn abandon_all(&mut self) {
        for request in self.requests.keys().copied().collect::<Vec<_>>() {
            self.abandon(request);
        }
    }

    fn drop_requests_of(&mut self, holder: usize) {
        let its = self.requests.iter().filter(|(_, asked)| asked.holder == holder);
        for request in its.map(|(request, _)| *request).collect::<Vec<_>>() {
            self.abandon(request);
        }
    }

    /// Gives up what stalled holders were asked, and drops those that stall too often.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.holders.len() {
            if self.holders[index].stalls_at().is_none_or(|at| at > now) {
                continue;
            }
            let its = self.requests.iter().filter(|(_, asked)| asked.holder == index);
            for request in its.map(|(request, _)| *request).collect::<Vec<_>>() {
                self.abandon(request);
                self.holders[index].stall();
            }
            self.doubt(index);
        }
    }

    fn why(&self) -> ErrorRecord {
        if self.holders.is_empty() {
            return ErrorRecord::new(ErrorCode::UpstreamFailed, 0, "there is no holder");
        }
        let not_found = self.holders.iter().all(GatherHolder::has_not);
        let (code, what) = match (not_found, &self.shape) {
            (true, _) => (ErrorCode::NotFound, "none of the holders has the payload or its lanes"),
            (_, None) => (ErrorCode::UpstreamFailed, "no holder answered"),
            _ => (ErrorCode::UpstreamFailed, "too few holders are left"),
        };
        ErrorRecord::new(code, 0, what)
    }
}

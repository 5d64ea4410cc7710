//! Fetches one payload or set from several holders at once: window by window, from each holder that is free.
//! A window that is late, wrong or lost is requested from another holder.
//!
//! Sans-I/O like everything below the loop: deliveries go in, commands and [`GatherEvent`]s come out, `now`
//! is passed. It keeps no payload: checked pieces go straight to its host.

mod holder;
mod plan;
mod shape;
mod want;

pub use holder::{GatherSource, HolderReport, HolderState};
pub use want::Want;

use crate::application::Asker;
use crate::limits::GATHER_STALL_MS;
use crate::queue::{Answer, CloseReason, ConnectionId, Delivery, End, RequestId};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, VerifiedPiece};
use holder::GatherHolder;
use rustc_hash::FxHashMap;
use shape::Shape;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

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
    /// The holders cannot supply the rest.
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
    windows: BTreeMap<u64, Window>,
    /// The number of windows begun. The last window is begun first, the others in order.
    begun: u64,
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
#[derive(Debug, Default)]
struct Window {
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
    /// When its last byte arrived.
    progress: Instant,
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
            Delivery::Piece { request, shard, piece } if self.credit(now, request, piece.data.len()) => {
                self.events.push_back(match shard {
                    Some((shard, blob)) => GatherEvent::Shard { shard, blob, piece },
                    None => GatherEvent::Piece(piece),
                });
            }
            Delivery::Ended(request, End::Failed(failure)) => self.failed(now, request, &failure),
            Delivery::Ended(request, End::Checked | End::Raw) => self.complete(request),
            // A FETCH has no other answers.
            _ => {}
        }
    }

    /// Cancels requests that are no longer of use, and sends new ones. Returns whether any command was sent.
    pub fn poll<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) -> bool {
        if !self.over {
            self.expire(now);
            self.cancel_given_up(asker);
            self.plan(now, asker);
        }
        self.cancel_given_up(asker);
        asker.has_sent()
    }

    fn cancel_given_up<T: Clone>(&mut self, asker: &mut Asker<'_, T>) {
        self.given_up.drain(..).for_each(|request| asker.cancel(request));
    }

    /// When [`Gather::poll`] has work even without a delivery.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let stall = Duration::from_millis(GATHER_STALL_MS);
        let stalls = self.requests.values().map(|asked| asked.progress + stall);
        stalls.chain(self.holders.iter().filter_map(GatherHolder::waits_until)).min()
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

    /// The holder whose length is not proven.
    fn claimed_by(&self) -> Option<usize> {
        self.shape.as_ref()?.claimed_by
    }

    /// Drops a claim of length that this holder did not prove. Another holder of the same claim must prove it, or the gathering begins
    /// anew.
    fn doubt(&mut self, holder: usize) {
        let Some(shape) = self.shape.as_mut().filter(|shape| shape.claimed_by == Some(holder)) else {
            return;
        };
        self.holders[holder].agrees = None;
        let agrees = |holder: &GatherHolder| holder.agrees == Some(true) && holder.may_still_give();
        if let Some(other) = self.holders.iter().position(agrees) {
            shape.claimed_by = Some(other);
            return;
        }
        self.shape = None;
        self.events.clear();
        (self.begun, self.finished, self.ahead_bytes) = (0, 0, 0);
        self.abandon_all();
        self.windows.clear();
        self.holders.iter_mut().for_each(|holder| holder.agrees = None);
    }

    /// Marks the length as proven: the last piece was checked. Holders that denied the length get a strike.
    fn prove(&mut self) {
        if let Some(shape) = &mut self.shape {
            shape.claimed_by = None;
        }
        for index in 0..self.holders.len() {
            if self.holders[index].agrees == Some(false) {
                self.strike(index, ANOTHER_LENGTH);
            }
        }
    }

    fn credit(&mut self, now: Instant, request: RequestId, bytes: usize) -> bool {
        let Some(asked) = self.requests.get_mut(&request) else { return false };
        asked.progress = now;
        self.holders[asked.holder].given_bytes += bytes as u64;
        self.ahead_bytes += bytes;
        true
    }

    fn accepted(&mut self, now: Instant, request: RequestId, length: u64, set: Option<Box<Descriptor>>) {
        let Some(asked) = self.requests.get_mut(&request) else { return };
        asked.progress = now;
        let (holder, describes) = (asked.holder, asked.window.is_none());
        match &self.shape {
            // Two holders of one payload cannot differ in its length: one of them is wrong, and a proof shows which.
            Some(shape) => {
                let (agrees, claimed) = (shape.length == length, shape.claimed_by.is_some());
                self.holders[holder].agrees = Some(agrees);
                if !agrees && !describes {
                    self.abandon(request);
                }
                if !agrees && !claimed {
                    self.strike(holder, ANOTHER_LENGTH);
                }
            }
            None => {
                if let (Want::Lanes(Lanes::NONE), Some(set)) = (self.want, &set) {
                    self.want = Want::Lanes(Lanes::first(set.k().into()));
                }
                if let (Want::Lanes(lanes), Some(set)) = (self.want, &set)
                    && !set.lanes().contains_all(lanes)
                {
                    // The token proves the descriptor: the holder is not at fault.
                    let reason =
                        format!("lanes {lanes} are requested, but the set has the lanes {}", set.lanes());
                    return self.give_up(ErrorRecord::new(ErrorCode::BadRange, 0, reason));
                }
                match Shape::new(self.want, length, set) {
                    Some(mut shape) => {
                        // A descriptor was checked against the set token; a length alone is a claim.
                        shape.claimed_by = shape.descriptor.is_none().then_some(holder);
                        let (length, descriptor) = (shape.length, shape.descriptor.clone());
                        self.shape = Some(shape);
                        self.events.push_back(GatherEvent::Described { length, descriptor });
                    }
                    None => self.strike(holder, "describes another kind of payload or set"),
                }
            }
        }
    }

    fn complete(&mut self, request: RequestId) {
        let Some(asked) = self.requests.remove(&request) else { return };
        self.holders[asked.holder].running -= 1;
        let Some(index) = asked.window else { return };
        let Some(window) = self.windows.get_mut(&index) else { return };
        window.running.retain(|running| *running != request);
        window.got = window.got.union(asked.lanes);
        let got = window.got;
        let Some(shape) = &self.shape else { return };
        let (start, count) = shape.span(index);
        let whole = match self.want {
            Want::Payload => true,
            Want::AnyLanes => shape.enough(got, start, count),
            Want::Lanes(lanes) => got.contains_all(lanes),
        };
        if !whole {
            return;
        }
        if self.want != Want::Payload {
            let lanes = got.union(shape.absent(start, count));
            self.events.push_back(GatherEvent::Stripes { start, count, lanes });
        }
        self.finished += 1;
        if index + 1 == shape.windows && shape.claimed_by.is_some() {
            self.prove();
        }
        // Other holders' requests for the same window are not needed.
        if let Some(window) = self.windows.remove(&index) {
            for running in window.running {
                self.abandon(running);
            }
        }
    }

    /// Cancels a request that is no longer needed.
    fn abandon(&mut self, request: RequestId) {
        if let Some(asked) = self.requests.remove(&request) {
            self.holders[asked.holder].running -= 1;
            if let Some(window) = asked.window.and_then(|index| self.windows.get_mut(&index)) {
                window.running.retain(|running| *running != request);
            }
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

    fn failed(&mut self, now: Instant, request: RequestId, failure: &ErrorRecord) {
        let Some(asked) = self.requests.remove(&request) else { return };
        if let Some(window) = asked.window.and_then(|index| self.windows.get_mut(&index)) {
            window.running.retain(|running| *running != request);
        }
        let anothers_claim = self.claimed_by().is_some_and(|claims| claims != asked.holder);
        let holder = &mut self.holders[asked.holder];
        holder.running -= 1;
        match failure.code {
            ErrorCode::Busy | ErrorCode::Budget | ErrorCode::UpstreamFailed | ErrorCode::None => {
                holder.wait(now, failure);
            }
            ErrorCode::NotFound if !asked.lanes.is_empty() => holder.lacks(asked.lanes, failure),
            // The payload may end here: another holder's longer claim is not proven yet.
            ErrorCode::BadRange if anothers_claim => holder.agrees = Some(false),
            ErrorCode::BadProof | ErrorCode::BadDescriptor | ErrorCode::Malformed | ErrorCode::BadRange => {
                let reason = failure.reason().to_owned();
                self.strike(asked.holder, &reason);
            }
            _ => holder.leave(HolderState::Refused(failure.clone())),
        }
        self.doubt(asked.holder);
    }

    /// Protocol §6: three strikes drop a sender.
    fn strike(&mut self, index: usize, reason: &str) {
        if self.holders[index].strike(reason) {
            self.drop_requests_of(index);
            self.doubt(index);
        }
    }

    /// Abandons requests that stalled. A holder with too many stalls is used no more.
    fn expire(&mut self, now: Instant) {
        let stall = Duration::from_millis(GATHER_STALL_MS);
        let stalled = self.requests.iter().filter(|(_, asked)| now.duration_since(asked.progress) >= stall);
        let stalled: Vec<_> = stalled.map(|(request, asked)| (*request, asked.holder)).collect();
        for (request, holder) in stalled {
            self.abandon(request);
            if self.holders[holder].stall() {
                self.drop_requests_of(holder);
            }
            self.doubt(holder);
        }
    }

    fn why(&self) -> ErrorRecord {
        let told: Vec<_> = self.holders.iter().map(GatherHolder::told).collect();
        if told.is_empty() {
            return ErrorRecord::new(ErrorCode::UpstreamFailed, 0, "there is no holder");
        }
        let not_found = self.holders.iter().all(GatherHolder::has_not);
        let (code, what) = match (not_found, &self.shape) {
            (true, _) => (ErrorCode::NotFound, "none of the holders has the payload or its lanes"),
            (_, None) => (ErrorCode::UpstreamFailed, "no holder answered"),
            _ => (ErrorCode::UpstreamFailed, "too few holders are left"),
        };
        ErrorRecord::new(code, 0, format!("{what} ({})", told.join("; ")))
    }
}

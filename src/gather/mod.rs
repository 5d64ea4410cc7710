//! Fetches one thing from several holders at once: window by window, from whoever is free, asking elsewhere for what is
//! late, wrong or gone.
//!
//! Sans-I/O like everything below the loop: deliveries go in, commands and [`Event`]s come out, `now` is passed. It keeps no
//! payload: checked pieces go straight to whoever hosts it.

mod holder;

pub use holder::{Given, Source, State};

use crate::limits::{GATHER_AHEAD_BYTES, GATHER_PIPELINE_LEN, GATHER_STALL_MS, GATHER_WINDOW_BYTES};
use crate::queue::{AppPort, Command, ConnectionId, Delivery, RequestId};
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{AnyToken, GROUP_BYTES_U64, Ranges, VerifiedPiece};
use holder::Holder;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const ANOTHER_LENGTH: &str = "says another length than is proven";

/// What is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The payload itself, from holders that have all of it.
    Payload,
    /// Shards of any k lanes, stripe by stripe: what the payload can be made of.
    AnyLanes,
    /// All shards of these lanes; of none: of the data lanes.
    Lanes(Lanes),
}

/// What came of it so far.
#[derive(Debug)]
pub enum Event {
    /// What it is: the length in bytes, and for a set its descriptor; proven. First.
    Described {
        /// The payload's length, bytes.
        length: u64,
        /// What the set is.
        descriptor: Option<Box<Descriptor>>,
    },
    /// Payload bytes, checked. The same may come twice, from two holders.
    Piece(VerifiedPiece),
    /// Bytes of a shard, checked. The same may come twice.
    Shard {
        /// Which.
        shard: ShardIndex,
        /// The blob that the piece's offset counts in.
        blob: Blob,
        /// The bytes.
        piece: VerifiedPiece,
    },
    /// Of these stripes, these lanes have come whole: with [`Want::AnyLanes`], k of them or more.
    Stripes {
        /// The first stripe.
        start: u64,
        /// How many.
        count: u64,
        /// The lanes that are whole.
        lanes: Lanes,
    },
    /// Everything has come.
    Done,
    /// It cannot be had from these holders.
    Failed(ErrorRecord),
}

/// One thing on its way from several holders.
#[derive(Debug)]
pub struct Gather {
    token: AnyToken,
    want: Want,
    holders: Vec<Holder>,
    requests: FxHashMap<RequestId, Asked>,
    shape: Option<Shape>,
    windows: BTreeMap<u64, Window>,
    /// Windows begun, in their order; the last one first.
    begun: u64,
    finished: u64,
    /// Bytes in events that the host has not taken.
    ahead_bytes: usize,
    events: VecDeque<Event>,
    unsent: VecDeque<Command>,
    /// More holders may come: it does not fail for want of them.
    awaits_more: bool,
    over: bool,
}

/// What a description tells: how the thing is cut into windows.
#[derive(Clone, Debug)]
struct Shape {
    length: u64,
    descriptor: Option<Box<Descriptor>>,
    /// Groups, or stripes.
    units: u64,
    units_a_window: u64,
    windows: u64,
    /// The holder who says so, while nothing proves the length: the piece at the payload's end will.
    claimed_by: Option<usize>,
}

/// Some consecutive groups or stripes.
#[derive(Debug, Default)]
struct Window {
    /// Lanes that are whole.
    got: Lanes,
    /// Requests for it that run.
    running: SmallVec<[RequestId; 2]>,
}

/// One request that runs.
#[derive(Debug)]
struct Asked {
    holder: usize,
    /// Which window; none: a description.
    window: Option<u64>,
    lanes: Lanes,
    /// When the last byte of it came.
    progress: Instant,
}

impl Gather {
    /// Of `token`, from `sources`; more can be added.
    pub fn new(token: AnyToken, want: Want, sources: Vec<Source>) -> Self {
        Self {
            token,
            want,
            holders: sources.into_iter().map(Holder::new).collect(),
            requests: FxHashMap::default(),
            shape: None,
            windows: BTreeMap::new(),
            begun: 0,
            finished: 0,
            ahead_bytes: 0,
            events: VecDeque::new(),
            unsent: VecDeque::new(),
            awaits_more: false,
            over: false,
        }
    }

    /// Whether more holders may come: until none may, it does not fail for want of them.
    pub fn set_awaits_more(&mut self, awaits_more: bool) {
        self.awaits_more = awaits_more;
    }

    /// One more holder.
    pub fn add(&mut self, source: Source) {
        self.holders.push(Holder::new(source));
    }

    /// The lanes that are to be had, once the set is described.
    pub fn lanes(&self) -> Lanes {
        match self.want {
            Want::Lanes(lanes) => lanes,
            Want::Payload | Want::AnyLanes => Lanes::NONE,
        }
    }

    /// Who gave what, in the order of the sources.
    pub fn report(&self) -> Vec<Given> {
        self.holders.iter().map(Holder::given).collect()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.claimed_by().is_some() && !self.over {
            return None;
        }
        let event = self.events.pop_front()?;
        if let Event::Piece(piece) | Event::Shard { piece, .. } = &event {
            self.ahead_bytes -= piece.data.len();
        }
        Some(event)
    }

    /// Takes a delivery that is about a request of this gathering, or about a connection; gives others back.
    #[expect(clippy::result_large_err, reason = "a delivery that is not ours goes back whole")]
    pub fn handle(&mut self, now: Instant, delivery: Delivery) -> Result<(), Delivery> {
        match delivery {
            Delivery::Closed { connection, ref reason } => {
                self.lost(connection, reason);
                return Err(delivery);
            }
            Delivery::Accepted { request, length, descriptor } if self.requests.contains_key(&request) => {
                self.accepted(now, request, length, descriptor);
            }
            Delivery::Piece { request, piece } if self.requests.contains_key(&request) => {
                if self.credit(now, request, piece.data.len()) {
                    self.events.push_back(Event::Piece(piece));
                }
            }
            Delivery::Shard { request, shard, blob, piece } if self.requests.contains_key(&request) => {
                if self.credit(now, request, piece.data.len()) {
                    self.events.push_back(Event::Shard { shard, blob, piece });
                }
            }
            Delivery::Complete { request } if self.requests.contains_key(&request) => self.complete(request),
            Delivery::Failed { request, ref failure } if self.requests.contains_key(&request) => {
                self.failed(now, request, failure);
            }
            other => return Err(other),
        }
        Ok(())
    }

    /// Asks for what can be asked for. `numbers` counts the host's requests. Returns whether anything was sent.
    pub fn poll(&mut self, now: Instant, port: &mut AppPort, numbers: &mut u64) -> bool {
        let mut worked = false;
        if !self.over {
            self.expire(now);
            self.plan(now, numbers);
        }
        while let Some(command) = self.unsent.pop_front() {
            if let Err(command) = port.send(command) {
                self.unsent.push_front(command);
                break;
            }
            worked = true;
        }
        worked
    }

    /// When [`Gather::poll`] has something to do though nothing comes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let stall = Duration::from_millis(GATHER_STALL_MS);
        let stalls = self.requests.values().map(|asked| asked.progress + stall);
        stalls.chain(self.holders.iter().filter_map(Holder::waits_until)).min()
    }

    fn give_up(&mut self, failure: ErrorRecord) {
        self.cancel();
        self.events.push_back(Event::Failed(failure));
    }

    /// Gives up: cancels what runs.
    pub fn cancel(&mut self) {
        self.over = true;
        let running = std::mem::take(&mut self.requests).into_keys();
        self.unsent.extend(running.map(|request| Command::Cancel { request }));
    }

    fn lost(&mut self, connection: ConnectionId, reason: &str) {
        for index in 0..self.holders.len() {
            if self.holders[index].source.connection == connection {
                self.holders[index].leave(State::Gone(reason.into()));
                self.drop_requests_of(index);
                self.doubt(index);
            }
        }
    }

    /// Who claims what is not proven.
    fn claimed_by(&self) -> Option<usize> {
        self.shape.as_ref()?.claimed_by
    }

    /// This holder did not prove what it claims: another who says the same shall, or all begins anew.
    fn doubt(&mut self, holder: usize) {
        let Some(shape) = self.shape.as_mut().filter(|shape| shape.claimed_by == Some(holder)) else {
            return;
        };
        self.holders[holder].agrees = None;
        let agrees = |holder: &Holder| holder.agrees == Some(true) && holder.may_still_give();
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

    /// The piece at the end has come: who said another length was wrong.
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
            // Two holders of one payload cannot differ in its length: one of them lies, and proofs tell which.
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
                    // Its token has proven the descriptor: the fault is not the holder's.
                    let reason =
                        format!("lanes {lanes} are asked for, and the set has the lanes {}", set.lanes());
                    return self.give_up(ErrorRecord::new(ErrorCode::BadRange, 0, reason));
                }
                match self.describe(length, set) {
                    Some(mut shape) => {
                        // A descriptor has been checked against the set token; a length alone is a claim.
                        shape.claimed_by = shape.descriptor.is_none().then_some(holder);
                        let (length, descriptor) = (shape.length, shape.descriptor.clone());
                        self.shape = Some(shape);
                        self.events.push_back(Event::Described { length, descriptor });
                    }
                    None => self.strike(holder, "describes something else"),
                }
            }
        }
    }

    fn describe(&self, length: u64, set: Option<Box<Descriptor>>) -> Option<Shape> {
        let (units, units_a_window) = match (self.want, &set) {
            (Want::Payload, _) => {
                (length.div_ceil(GROUP_BYTES_U64).max(1), GATHER_WINDOW_BYTES / GROUP_BYTES_U64)
            }
            (Want::AnyLanes, Some(set)) => (set.stripes(), GATHER_WINDOW_BYTES / set.stripe_bytes()),
            (Want::Lanes(lanes), Some(set)) if set.lanes().contains_all(lanes) => {
                (set.stripes(), GATHER_WINDOW_BYTES / (set.shard_bytes() * u64::from(lanes.len().max(1))))
            }
            _ => return None,
        };
        let units_a_window = units_a_window.max(1);
        let windows = units.div_ceil(units_a_window);
        Some(Shape { length, descriptor: set, units, units_a_window, windows, claimed_by: None })
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
            self.events.push_back(Event::Stripes { start, count, lanes });
        }
        self.finished += 1;
        if index + 1 == shape.windows && shape.claimed_by.is_some() {
            self.prove();
        }
        // Others may still be on their way with the same: they need not.
        if let Some(window) = self.windows.remove(&index) {
            for running in window.running {
                self.abandon(running);
            }
        }
    }

    /// Gives up a request that is of no use any more.
    fn abandon(&mut self, request: RequestId) {
        if let Some(asked) = self.requests.remove(&request) {
            self.holders[asked.holder].running -= 1;
            if let Some(window) = asked.window.and_then(|index| self.windows.get_mut(&index)) {
                window.running.retain(|running| *running != request);
            }
            self.unsent.push_back(Command::Cancel { request });
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
            // The end of the payload may be where another claims that it is not.
            ErrorCode::BadRange if anothers_claim => holder.agrees = Some(false),
            ErrorCode::BadProof | ErrorCode::BadDescriptor | ErrorCode::Malformed | ErrorCode::BadRange => {
                let reason = failure.reason().to_owned();
                self.strike(asked.holder, &reason);
            }
            _ => holder.leave(State::Refused(failure.clone())),
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

    /// Leaves holders that let a request stall.
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

    /// Gives every holder that is free something to do; ends when all is here or nothing more can come.
    fn plan(&mut self, now: Instant, numbers: &mut u64) {
        if self.shape.as_ref().is_some_and(|shape| self.finished == shape.windows) {
            self.over = true;
            self.abandon_all();
            self.events.push_back(Event::Done);
            return;
        }
        self.holders.iter_mut().for_each(|holder| holder.wake(now));
        for depth in 0..GATHER_PIPELINE_LEN {
            for index in 0..self.holders.len() {
                let holder = &self.holders[index];
                if holder.is_free(now) && holder.running == depth {
                    self.ask(now, index, numbers);
                }
            }
        }
        // Nothing runs, and nobody has what could be asked for now or later.
        let host_is_behind = self.ahead_bytes >= GATHER_AHEAD_BYTES;
        let more = self.awaits_more || self.holders.iter().any(Holder::waits);
        if self.requests.is_empty() && !host_is_behind && !more {
            self.over = true;
            if self.claimed_by().is_some() {
                self.events.clear();
            }
            self.events.push_back(Event::Failed(self.why()));
        }
    }

    fn why(&self) -> ErrorRecord {
        let told: Vec<_> = self.holders.iter().map(Holder::told).collect();
        if told.is_empty() {
            return ErrorRecord::new(ErrorCode::UpstreamFailed, 0, "there is no holder to ask");
        }
        let not_found = self.holders.iter().all(Holder::has_not);
        let (code, what) = match (not_found, &self.shape) {
            (true, _) => (ErrorCode::NotFound, "none of the holders has it"),
            (_, None) => (ErrorCode::UpstreamFailed, "no holder answered"),
            _ => (ErrorCode::UpstreamFailed, "too few holders are left"),
        };
        ErrorRecord::new(code, 0, format!("{what} ({})", told.join("; ")))
    }

    /// Asks one holder for the next thing that it can give.
    fn ask(&mut self, now: Instant, index: usize, numbers: &mut u64) {
        let Some(shape) = self.shape.clone() else {
            // One description is enough; another holder is asked while the first is slow.
            let asked = self.requests.values().any(|asked| asked.window.is_none() && asked.holder == index);
            if !asked {
                self.send(now, index, None, Lanes::NONE, Ranges::all(), numbers);
            }
            return;
        };
        let Some((window, lanes)) = self.choose(&shape, index) else { return };
        let (start, count) = shape.span(window);
        let mut ranges = Ranges::all();
        if ranges.push_run(start, count).is_ok() {
            self.send(now, index, Some(window), lanes, ranges, numbers);
        }
    }

    /// A window, and which of its lanes, that this holder should be asked for.
    fn choose(&mut self, shape: &Shape, index: usize) -> Option<(u64, Lanes)> {
        let claimed = shape.claimed_by.is_some();
        if claimed && self.holders[index].agrees == Some(false) {
            return None;
        }
        let waiting = self.windows.keys().copied().collect::<SmallVec<[u64; 16]>>();
        for window in waiting {
            if let Some(lanes) = self.useful(shape, index, window, false) {
                return Some((window, lanes));
            }
        }
        while self.begun < shape.windows
            && self.ahead_bytes < GATHER_AHEAD_BYTES
            && self.windows.len() <= self.holders.len() * GATHER_PIPELINE_LEN
        {
            // The last window proves the length, so it comes first.
            let window = if self.begun == 0 { shape.windows - 1 } else { self.begun - 1 };
            self.begun += 1;
            self.windows.insert(window, Window::default());
            if let Some(lanes) = self.useful(shape, index, window, false) {
                return Some((window, lanes));
            }
            if !claimed {
                return None;
            }
        }
        // Nothing is left to begin: what others are late with may be had here.
        if self.begun < shape.windows || self.holders[index].running > 0 {
            return None;
        }
        let waiting = self.windows.keys().copied().collect::<SmallVec<[u64; 16]>>();
        waiting.into_iter().find_map(|window| Some((window, self.useful(shape, index, window, true)?)))
    }

    /// Which lanes of a window this holder should give; for a payload, none of them, but the window. `again`: though somebody
    /// is asked already.
    fn useful(&self, shape: &Shape, index: usize, window: u64, again: bool) -> Option<Lanes> {
        let state = self.windows.get(&window)?;
        let mine = state.running.iter().any(|running| self.requests[running].holder == index);
        // Who claims a length must prove it.
        let others = shape.claimed_by.is_some_and(|claims| claims != index) && window + 1 == shape.windows;
        if mine || others || (again && state.running.len() >= 2) {
            return None;
        }
        let Some(set) = shape.descriptor.as_ref().filter(|_| self.want != Want::Payload) else {
            return (state.running.is_empty() || again).then_some(Lanes::NONE);
        };
        let (start, count) = shape.span(window);
        let absent = shape.absent(start, count);
        let asked = state.running.iter().fold(Lanes::NONE, |all, r| all.union(self.requests[r].lanes));
        let here = self.holders[index].lanes(set.lanes()).without(absent).without(state.got);
        let here = if again && asked != here { here } else { here.without(asked) };
        let (wanted, missing) = match self.want {
            Want::Lanes(lanes) => (here.intersection(lanes), u32::MAX),
            _ => {
                let known = state.got.union(absent).union(if again { Lanes::NONE } else { asked });
                (here, u32::from(set.k()).saturating_sub(known.len()))
            }
        };
        // Everybody who can should give a part.
        let givers = self.holders.iter().filter(|holder| holder.may_still_give()).count().max(1) as u32;
        let share = match self.want {
            _ if self.holders[index].one_by_one => 1,
            Want::AnyLanes => u32::from(set.k()).div_ceil(givers).min(missing),
            _ => missing,
        };
        let lanes: Lanes = wanted.iter().take(share as usize).collect();
        (!lanes.is_empty()).then_some(lanes)
    }

    fn send(
        &mut self,
        now: Instant,
        index: usize,
        window: Option<u64>,
        lanes: Lanes,
        ranges: Ranges,
        numbers: &mut u64,
    ) {
        *numbers += 1;
        let holder = &mut self.holders[index];
        let request = RequestId::local(holder.source.connection, *numbers);
        holder.running += 1;
        holder.requests += 1;
        let hop = holder.source.route.as_ref().map(|route| Box::new(route.hop()));
        let descriptor = self.shape.as_ref().and_then(|shape| shape.descriptor.clone());
        let lanes_asked = descriptor.filter(|_| !lanes.is_empty()).map(|set| (lanes, set));
        let (describe, token) = (window.is_none(), self.token);
        let fetch = Command::Fetch {
            request,
            hop,
            token,
            lanes: lanes_asked,
            ranges,
            max_bytes: 0,
            describe,
            pace: None,
        };
        self.unsent.push_back(fetch);
        self.requests.insert(request, Asked { holder: index, window, lanes, progress: now });
        if let Some(window) = window.and_then(|window| self.windows.get_mut(&window)) {
            window.running.push(request);
        }
    }
}

impl Shape {
    /// The first unit of a window and how many it has.
    fn span(&self, window: u64) -> (u64, u64) {
        let start = window * self.units_a_window;
        (start, self.units_a_window.min(self.units - start))
    }

    /// Lanes that have no byte in these stripes: data lanes past the end of the payload, known to be nothing.
    fn absent(&self, start: u64, count: u64) -> Lanes {
        let Some(set) = self.descriptor.as_ref().filter(|_| count == 1 && start + 1 == self.units) else {
            return Lanes::NONE;
        };
        let left = set.length_bytes().saturating_sub(start * set.stripe_bytes());
        let present = left.div_ceil(set.shard_bytes()).min(set.k().into()) as u32;
        Lanes::first(set.k().into()).without(Lanes::first(present))
    }

    /// Whether these lanes give the stripes back.
    fn enough(&self, got: Lanes, start: u64, count: u64) -> bool {
        let k = self.descriptor.as_ref().map_or(1, |set| u32::from(set.k()));
        got.union(self.absent(start, count)).len() >= k
    }
}

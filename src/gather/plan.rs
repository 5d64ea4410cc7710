//! Which holder gets which request, and when the gathering ends.

use super::holder::GatherHolder;
use super::shape::Shape;
use super::{Gather, GatherEvent, Want, Window, WindowRequest};
use crate::application::Asker;
use crate::limits::GATHER_AHEAD_BYTES;
use crate::queue::{Ask, ConnectionId};
use crate::record::Fetch;
use crate::shard::Lanes;
use crate::token::Ranges;
use smallvec::SmallVec;
use std::time::Instant;

impl Gather {
    /// Gives each free holder a request. Ends the gathering if everything has arrived, or the rest cannot.
    ///
    /// Only holders whose connections are the asker's own get requests from it.
    pub(super) fn plan<T: Clone>(
        &mut self,
        now: Instant,
        asker: &mut Asker<'_, T>,
        is_own: impl Fn(ConnectionId) -> bool,
    ) {
        if self.shape.as_ref().is_some_and(|shape| self.finished == shape.units.end - shape.units.start) {
            self.over = true;
            self.abandon_all();
            self.events.push_back(GatherEvent::Done);
            return;
        }
        self.holders.iter_mut().for_each(|holder| holder.wake(now));
        // One request each, in turn, until no holder has room or work.
        let all = 0..self.holders.len();
        let own = |gather: &Self, index: usize| is_own(gather.holders[index].source.connection);
        loop {
            let asked = all.clone().filter(|&index| own(self, index) && self.ask(now, index, asker)).count();
            if asked == 0 {
                break;
            }
        }
        // No request is in flight, and no holder has the missing part.
        let host_is_behind = self.is_host_behind();
        let more = self.awaits_more || self.holders.iter().any(GatherHolder::waits);
        if self.requests.is_empty()
            && !host_is_behind
            && !more
            && !all.into_iter().any(|index| !own(self, index) && self.next_request(now, index).is_some())
        {
            self.over = true;
            if self.claimed_by().is_some() {
                self.events.clear();
            }
            self.events.push_back(GatherEvent::Failed(self.why()));
        }
    }

    /// Whether no new request is sent before the host takes the events that wait.
    fn is_host_behind(&self) -> bool {
        self.ahead_bytes >= GATHER_AHEAD_BYTES
    }

    /// The bytes that all holders together may have in flight.
    fn flight_bytes(&self) -> u64 {
        let usable = self.holders.iter().filter(|holder| holder.may_still_give());
        usable.map(|holder| holder.path.flight_bytes()).sum()
    }

    /// Sends a holder that is free and has room the next request that it can answer. Returns whether there was one.
    fn ask<T: Clone>(&mut self, now: Instant, index: usize, asker: &mut Asker<'_, T>) -> bool {
        let Some((window, lanes)) = self.next_request(now, index) else { return false };
        self.send(now, index, window, lanes, asker);
        true
    }

    /// The next request that a holder can answer, if it is free and has room: a window and its lanes, or a description.
    fn next_request(&mut self, now: Instant, index: usize) -> Option<(Option<(u64, u64)>, Lanes)> {
        let holder = &self.holders[index];
        if !holder.is_free(now) || !holder.has_room() {
            return None;
        }
        let Some(shape) = self.shape.clone() else {
            // One description from each holder: a further holder is asked while the first is slow.
            let asked = self.requests.values().any(|asked| asked.holder == index);
            return (!asked).then_some((None, Lanes::NONE));
        };
        let (window, lanes) = self.choose(&shape, index)?;
        Some((Some(window), lanes))
    }

    /// A window to request from this holder: its first unit and their number; and its lanes.
    fn choose(&mut self, shape: &Shape, index: usize) -> Option<((u64, u64), Lanes)> {
        let claimed = shape.claimed_by.is_some();
        if claimed && self.holders[index].agrees == Some(false) {
            return None;
        }
        if let Some(found) = self.find_useful(shape, index, false) {
            return Some(found);
        }
        while let Some(start) = self.begin_next(shape, index) {
            let window = &self.windows[&start];
            if let Some(lanes) = self.useful(shape, index, (start, window), false) {
                return Some(((start, window.count), lanes));
            }
            if !claimed {
                return None;
            }
        }
        // All windows are begun: this holder may be faster than those that are late with a window.
        if self.begin_until != Some(self.begun) || self.holders[index].running > 0 {
            return None;
        }
        self.find_useful(shape, index, true)
    }

    fn find_useful(&self, shape: &Shape, index: usize, again: bool) -> Option<((u64, u64), Lanes)> {
        self.windows.iter().find_map(|(&start, window)| {
            let lanes = self.useful(shape, index, (start, window), again)?;
            Some(((start, window.count), lanes))
        })
    }

    /// Cuts the next window for this holder, if another one may be begun. Gives its first unit.
    fn begin_next(&mut self, shape: &Shape, index: usize) -> Option<u64> {
        if shape.bytes_of(self.open) >= self.flight_bytes() || self.is_host_behind() {
            return None;
        }
        let most = shape.units_of(self.holders[index].path.range_bytes());
        let Some(until) = self.begin_until else {
            // The last window proves the length, so it comes first.
            let all = shape.units.end - shape.units.start;
            let before = all.saturating_sub(1) / most * most;
            self.begin_until = Some(shape.units.start + before);
            self.begun = shape.units.start;
            self.begin(shape.units.start + before, all - before);
            return Some(shape.units.start + before);
        };
        let start = self.begun;
        let count = most.min(until.saturating_sub(start));
        if count == 0 {
            return None;
        }
        self.begun += count;
        self.begin(start, count);
        Some(start)
    }

    /// Begins a window.
    pub(super) fn begin(&mut self, start: u64, count: u64) {
        self.windows.insert(start, Window { count, got: Lanes::NONE, running: SmallVec::new() });
        self.open += count;
    }

    /// The lanes of a window to request from this holder; for a payload, an empty selection. `again`: request them even if
    /// another holder has a request for them.
    fn useful(
        &self,
        shape: &Shape,
        index: usize,
        (start, state): (u64, &Window),
        again: bool,
    ) -> Option<Lanes> {
        let count = state.count;
        let mine = state.running.iter().any(|running| self.requests[running].holder == index);
        // The holder that claims a length must prove it itself.
        let others =
            shape.claimed_by.is_some_and(|claims| claims != index) && start + count == shape.units.end;
        if mine || others || (again && state.running.len() >= 2) {
            return None;
        }
        let Some(set) = shape.descriptor.as_ref().filter(|_| self.want != Want::Payload) else {
            return (state.running.is_empty() || again).then_some(Lanes::NONE);
        };
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
        // Every usable holder gets a part.
        let givers = self.holders.iter().filter(|holder| holder.may_still_give()).count().max(1) as u32;
        let share = match self.want {
            _ if self.holders[index].one_by_one => 1,
            Want::AnyLanes => u32::from(set.k()).div_ceil(givers).min(missing),
            _ => missing,
        };
        let lanes: Lanes = wanted.iter().take(share as usize).collect();
        (!lanes.is_empty()).then_some(lanes)
    }

    fn send<T: Clone>(
        &mut self,
        now: Instant,
        index: usize,
        window: Option<(u64, u64)>,
        lanes: Lanes,
        asker: &mut Asker<'_, T>,
    ) {
        let mut ranges = Ranges::all();
        // No window reaches past the longest payload.
        let pushed = window.map_or(Ok(()), |(start, count)| ranges.push_run(start, count));
        debug_assert_eq!(pushed, Ok(()));
        let bytes = window.zip(self.shape.as_ref()).map_or(0, |((_, count), shape)| {
            if lanes.is_empty() {
                shape.bytes_of(count)
            } else {
                shape.lane_bytes_of(count) * u64::from(lanes.len())
            }
        });
        let holder = &mut self.holders[index];
        if holder.running == 0 {
            holder.progress = Some(now);
        }
        holder.running += 1;
        holder.flight_bytes += bytes;
        holder.requests += 1;
        let hop = holder.source.route.as_ref().map(|route| Box::new(route.hop()));
        let is_set = self.shape.as_ref().is_some_and(|shape| shape.descriptor.is_some());
        let lanes_asked = (is_set && !lanes.is_empty()).then_some(lanes);
        let (describe, token) = (window.is_none(), self.token);
        let fetch = Fetch { token, bytes_max: 0, lanes: lanes_asked, ranges, describe };
        let request = asker.ask(holder.source.connection, Ask::new(fetch).by(hop));
        let window = window.map(|(start, _)| start);
        let given_before_bytes = holder.given_bytes;
        let asked = WindowRequest {
            given_before_bytes,
            holder: index,
            window,
            lanes,
            bytes,
            asked: now,
            has_begun: false,
        };
        self.requests.insert(request, asked);
        if let Some(window) = window.and_then(|window| self.windows.get_mut(&window)) {
            window.running.push(request);
        }
    }
}

//! Which holder gets which request, and when the gathering ends.

use super::holder::GatherHolder;
use super::shape::Shape;
use super::{Gather, GatherEvent, Want, Window, WindowRequest};
use crate::application::Asker;
use crate::limits::{GATHER_AHEAD_BYTES, GATHER_PIPELINE_LEN};
use crate::queue::Ask;
use crate::record::Fetch;
use crate::shard::Lanes;
use crate::token::Ranges;
use smallvec::SmallVec;
use std::time::Instant;

impl Gather {
    /// Gives each free holder a request. Ends the gathering if everything has arrived, or the rest cannot.
    pub(super) fn plan<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) {
        if self.shape.as_ref().is_some_and(|shape| self.finished == shape.windows) {
            self.over = true;
            self.abandon_all();
            self.events.push_back(GatherEvent::Done);
            return;
        }
        self.holders.iter_mut().for_each(|holder| holder.wake(now));
        for depth in 0..GATHER_PIPELINE_LEN {
            for index in 0..self.holders.len() {
                let holder = &self.holders[index];
                if holder.is_free(now) && holder.running == depth {
                    self.ask(now, index, asker);
                }
            }
        }
        // No request is in flight, and no holder has what is still missing.
        let host_is_behind = self.ahead_bytes >= GATHER_AHEAD_BYTES;
        let more = self.awaits_more || self.holders.iter().any(GatherHolder::waits);
        if self.requests.is_empty() && !host_is_behind && !more {
            self.over = true;
            if self.claimed_by().is_some() {
                self.events.clear();
            }
            self.events.push_back(GatherEvent::Failed(self.why()));
        }
    }

    /// Sends one holder the next request that it can answer.
    fn ask<T: Clone>(&mut self, now: Instant, index: usize, asker: &mut Asker<'_, T>) {
        let Some(shape) = self.shape.clone() else {
            // One description from each holder: a further holder is asked while the first is slow.
            let asked = self.requests.values().any(|asked| asked.window.is_none() && asked.holder == index);
            if !asked {
                self.send(now, index, None, Lanes::NONE, Ranges::all(), asker);
            }
            return;
        };
        let Some((window, lanes)) = self.choose(&shape, index) else { return };
        let (start, count) = shape.span(window);
        let mut ranges = Ranges::all();
        if ranges.push_run(start, count).is_ok() {
            self.send(now, index, Some(window), lanes, ranges, asker);
        }
    }

    /// A window to request from this holder, and the lanes of it.
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
        // All windows are begun: this holder may be faster than those that are late with a window.
        if self.begun < shape.windows || self.holders[index].running > 0 {
            return None;
        }
        let waiting = self.windows.keys().copied().collect::<SmallVec<[u64; 16]>>();
        waiting.into_iter().find_map(|window| Some((window, self.useful(shape, index, window, true)?)))
    }

    /// The lanes of a window to request from this holder; for a payload, an empty selection. `again`: request them even if
    /// another holder has a request for them.
    fn useful(&self, shape: &Shape, index: usize, window: u64, again: bool) -> Option<Lanes> {
        let state = self.windows.get(&window)?;
        let mine = state.running.iter().any(|running| self.requests[running].holder == index);
        // The holder that claims a length must prove it itself.
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
        window: Option<u64>,
        lanes: Lanes,
        ranges: Ranges,
        asker: &mut Asker<'_, T>,
    ) {
        let holder = &mut self.holders[index];
        holder.running += 1;
        holder.requests += 1;
        let hop = holder.source.route.as_ref().map(|route| Box::new(route.hop()));
        let is_set = self.shape.as_ref().is_some_and(|shape| shape.descriptor.is_some());
        let lanes_asked = (is_set && !lanes.is_empty()).then_some(lanes);
        let (describe, token) = (window.is_none(), self.token);
        let fetch = Fetch { token, bytes_max: 0, lanes: lanes_asked, ranges, describe };
        let request = asker.ask(holder.source.connection, Ask::new(fetch).by(hop));
        self.requests.insert(request, WindowRequest { holder: index, window, lanes, progress: now });
        if let Some(window) = window.and_then(|window| self.windows.get_mut(&window)) {
            window.running.push(request);
        }
    }
}

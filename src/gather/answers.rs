//! What becomes of answers: whose length counts, which windows are complete, and what a holder's failures mean.

use super::shape::Shape;
use super::{ANOTHER_LENGTH, Gather, GatherEvent, GatherHolder, HolderState, Want};
use crate::queue::RequestId;
use crate::record::{ErrorCode, ErrorRecord};
use crate::shard::{Descriptor, Lanes};
use std::time::Instant;

impl Gather {
    /// The holder whose length is not proven.
    pub(super) fn claimed_by(&self) -> Option<usize> {
        self.shape.as_ref()?.claimed_by
    }

    /// Drops a claim of length that this holder did not prove. Another holder of the same claim must prove it, or the gathering begins
    /// anew.
    pub(super) fn doubt(&mut self, holder: usize) {
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
        (self.begun, self.begin_until, self.finished, self.ahead_bytes) = (0, None, 0, 0);
        self.abandon_all();
        self.windows.clear();
        self.open = 0;
        self.holders.iter_mut().for_each(|holder| holder.agrees = None);
    }

    /// Marks the length as proven: the last piece was checked. Holders that denied the length get a strike.
    pub(super) fn prove(&mut self) {
        if let Some(shape) = &mut self.shape {
            shape.claimed_by = None;
        }
        for index in 0..self.holders.len() {
            if self.holders[index].agrees == Some(false) {
                self.strike(index, ANOTHER_LENGTH);
            }
        }
    }

    pub(super) fn credit(&mut self, now: Instant, request: RequestId, bytes: usize) -> bool {
        let Some(holder) = self.heard(now, request) else { return false };
        self.holders[holder].given_bytes += bytes as u64;
        self.ahead_bytes += bytes;
        true
    }

    /// Something came of a request. Gives its holder.
    pub(super) fn heard(&mut self, now: Instant, request: RequestId) -> Option<usize> {
        let asked = self.requests.get_mut(&request)?;
        let holder = &mut self.holders[asked.holder];
        holder.progress = Some(now);
        if !std::mem::replace(&mut asked.has_begun, true) {
            holder.path.answer_began(now.saturating_duration_since(asked.asked));
        }
        Some(asked.holder)
    }

    pub(super) fn accepted(
        &mut self,
        now: Instant,
        request: RequestId,
        length: u64,
        set: Option<Box<Descriptor>>,
    ) {
        let Some(holder) = self.heard(now, request) else { return };
        let describes = self.requests.get(&request).is_some_and(|asked| asked.window.is_none());
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

    pub(super) fn complete(&mut self, now: Instant, request: RequestId) {
        let Some(asked) = self.remove(request) else { return };
        let holder = &mut self.holders[asked.holder];
        let after = now.saturating_duration_since(asked.asked);
        holder.path.was_answered(now, after, holder.given_bytes - asked.given_before_bytes);
        let Some(start) = asked.window else { return };
        let Some(window) = self.windows.get_mut(&start) else { return };
        window.got = window.got.union(asked.lanes);
        let (got, count) = (window.got, window.count);
        let Some(shape) = &self.shape else { return };
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
        self.finished += count;
        self.open -= count;
        if start + count == shape.units.end && shape.claimed_by.is_some() {
            self.prove();
        }
        // Other holders' requests for the same window are not needed.
        if let Some(window) = self.windows.remove(&start) {
            for running in window.running {
                self.abandon(running);
            }
        }
    }

    pub(super) fn failed(&mut self, now: Instant, request: RequestId, failure: &ErrorRecord) {
        let Some(asked) = self.remove(request) else { return };
        self.holders[asked.holder].progress = Some(now);
        let anothers_claim = self.claimed_by().is_some_and(|claims| claims != asked.holder);
        let holder = &mut self.holders[asked.holder];
        match failure.code {
            // It answers others: it takes fewer at once.
            ErrorCode::Busy if holder.running > 0 => holder.path.was_refused(holder.running),
            ErrorCode::Busy | ErrorCode::TooEarly => holder.wait(now, failure),
            ErrorCode::Budget | ErrorCode::UpstreamFailed | ErrorCode::None => {
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

    /// The connection's own bound found the holder silent, and canceled the request.
    pub(super) fn silent(&mut self, request: RequestId) {
        let Some(asked) = self.remove(request) else { return };
        self.holders[asked.holder].stall();
        self.doubt(asked.holder);
    }

    /// Protocol §6: three strikes drop a sender.
    pub(super) fn strike(&mut self, index: usize, reason: &str) {
        if self.holders[index].strike(reason) {
            self.drop_requests_of(index);
            self.doubt(index);
        }
    }
}

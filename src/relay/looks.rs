//! Looks at the flows of a relay: in rounds, of which each turn does a part.

use super::Relay;
use crate::limits::{FLOWS_LEN_PER_TURN_MAX, MERGE_LOOK_MS, MERGE_STALL_MS, RELAY_STALL_MS};
use crate::queue::AppPort;
use crate::record::ErrorCode;
use std::time::{Duration, Instant};

/// A round of looks at everything in a list, in the order of keys, and the time of the next round.
#[derive(Debug, Default)]
pub(super) struct FlowRound {
    /// Where the present round goes on.
    next: Option<usize>,
    due: Option<Instant>,
}

impl FlowRound {
    /// The first key of the next part: of the present round, or of a new one, if it is time.
    fn begin_part(&mut self, now: Instant, interval: Duration) -> Option<usize> {
        if self.next.is_none() && self.due.is_none_or(|due| due <= now) {
            self.due = Some(now + interval);
            self.next = Some(0);
        }
        self.next
    }

    /// A part is over. The round goes on at this key, if one is left.
    fn end_part(&mut self, next: Option<usize>) {
        self.next = next;
    }

    /// Whether a round is not over.
    fn is_running(&self) -> bool {
        self.next.is_some()
    }

    /// When the next round begins.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Relay {
    /// Refuses members that the pace of another one holds back, among a few shared answers. Returns whether there were any, or are some left to
    /// look at.
    pub(super) fn end_held_back(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let interval = Duration::from_millis(MERGE_LOOK_MS);
        let Some(from) = self.merged_round.begin_part(now, interval) else { return false };
        let mut keys: Vec<usize> =
            self.merged.range(from..).take(FLOWS_LEN_PER_TURN_MAX + 1).copied().collect();
        let next = if keys.len() > FLOWS_LEN_PER_TURN_MAX { keys.pop() } else { None };
        self.merged_round.end_part(next);
        self.count_looks(keys.len());
        let mut held_back = Vec::new();
        for key in keys {
            let flow = &self.flows[key];
            if flow.members.len() < 2 {
                self.merged.remove(&key);
            } else if now.duration_since(flow.progress) >= Duration::from_millis(MERGE_STALL_MS)
                && !flow.members[0].answer.has_relay_room()
            {
                held_back.extend(flow.members[1..].iter().map(|member| member.request));
            }
        }
        for &request in &held_back {
            self.expel(
                port,
                request,
                ErrorCode::Busy,
                "another asker of the same payload held this answer back; ask again",
            );
        }
        !held_back.is_empty() || self.merged_round.is_running()
    }

    /// Refuses peers that have read nothing for long, among a few flows: their waiting bytes block the connection to the next gateway. Returns
    /// whether there were any, or flows are left to look at.
    pub(super) fn end_stalled(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let stall = Duration::from_millis(RELAY_STALL_MS);
        let Some(from) = self.stall_round.begin_part(now, stall / 10) else { return false };
        let to = (from + FLOWS_LEN_PER_TURN_MAX).min(self.flows.capacity());
        self.stall_round.end_part((to < self.flows.capacity()).then_some(to));
        self.count_looks(to - from);
        let part = (from..to).filter_map(|key| self.flows.get(key));
        let stalled = part.filter(|flow| flow.is_held_up() && now.duration_since(flow.progress) >= stall);
        let stalled: Vec<_> = stalled.map(|flow| flow.members[0].request).collect();
        let reason = "no byte of the answer was read for long, and others wait behind it; ask again";
        for &request in &stalled {
            self.expel(port, request, ErrorCode::Busy, reason);
        }
        !stalled.is_empty() || self.stall_round.is_running()
    }

    fn count_looks(&mut self, _looks: usize) {
        #[cfg(test)]
        {
            self.looks += _looks;
        }
    }
}

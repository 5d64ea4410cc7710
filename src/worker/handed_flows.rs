//! The flows that a worker handed over lately. A client that waits for an answer repeats its packets ever more rarely: when the gateway of its
//! connection turns out to be gone, it is told by what is remembered here, and not only when it sends again.

use crate::limits::{HANDED_FLOW_MS_MAX, HANDED_FLOW_NOTE_MS, HANDED_FLOWS_LEN_MAX};
use crate::quic::routable::{RoutableCid, ServerId};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A flow of another gateway's connection, as its last datagram but those of one second had it.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandedFlow {
    pub(super) server_id: ServerId,
    pub(super) remote: SocketAddr,
    pub(super) local_ip: IpAddr,
    /// The length of the datagram: what is sent for it is shorter.
    pub(super) datagram_len: u16,
    /// When it was handed over.
    pub(super) at: Instant,
}

/// The flows handed over lately, by connection ID, in two halves: the older one goes as a whole when the newer one is full or old. The hashes
/// have random keys.
#[derive(Debug, Default)]
pub(super) struct HandedFlows {
    newer: HashMap<RoutableCid, HandedFlow>,
    older: HashMap<RoutableCid, HandedFlow>,
    /// When the newer half began.
    begun: Option<Instant>,
}

impl HandedFlows {
    /// Remembers a flow, unless it was remembered within the last second.
    pub(super) fn note(&mut self, cid: &RoutableCid, flow: HandedFlow) {
        let age = |at: Instant| flow.at.saturating_duration_since(at);
        if self.newer.get(cid).is_some_and(|flow| age(flow.at) < Duration::from_millis(HANDED_FLOW_NOTE_MS)) {
            return;
        }
        let begun = *self.begun.get_or_insert(flow.at);
        let is_full = self.newer.len() >= HANDED_FLOWS_LEN_MAX / 2 && !self.newer.contains_key(cid);
        if is_full || age(begun) >= Duration::from_millis(HANDED_FLOW_MS_MAX) {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
            self.begun = Some(flow.at);
        }
        self.newer.insert(*cid, flow);
    }

    /// Takes the flows of a gateway out that were handed over lately, each once.
    pub(super) fn take(&mut self, now: Instant, server_id: ServerId) -> Vec<(RoutableCid, HandedFlow)> {
        let is_of = |_: &RoutableCid, flow: &mut HandedFlow| flow.server_id == server_id;
        let mut flows: HashMap<_, _> = self.older.extract_if(is_of).collect();
        flows.extend(self.newer.extract_if(is_of));
        let lately = Duration::from_millis(HANDED_FLOW_MS_MAX);
        flows.retain(|_, flow| now.saturating_duration_since(flow.at) < lately);
        flows.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(number: u8, datagram_len: u16, at: Instant) -> HandedFlow {
        let remote = SocketAddr::from(([192, 0, 2, 1], 7777));
        let server_id = ServerId([0, 0, number]);
        HandedFlow { server_id, remote, local_ip: [203, 0, 113, 1].into(), datagram_len, at }
    }

    fn cid(number: u32) -> RoutableCid {
        std::array::from_fn(|at| if at < 4 { number.to_be_bytes()[at] } else { 0 })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_flow_is_remembered_once_a_second_and_told_of_once() {
        let (mut flows, now) = (HandedFlows::default(), Instant::now());
        flows.note(&cid(1), flow(7, 60, now));
        flows.note(&cid(1), flow(7, 1200, now + ms(HANDED_FLOW_NOTE_MS - 1)));
        assert_eq!(flows.newer[&cid(1)].datagram_len, 60);
        flows.note(&cid(1), flow(7, 80, now + ms(HANDED_FLOW_NOTE_MS)));
        flows.note(&cid(2), flow(8, 60, now));
        // It moves to the older half, and is remembered anew.
        let later = now + ms(HANDED_FLOW_MS_MAX);
        flows.note(&cid(1), flow(7, 90, later));
        let taken = flows.take(later, ServerId([0, 0, 7]));
        assert!(matches!(taken[..], [(_, HandedFlow { datagram_len: 90, .. })]), "{taken:?}");
        assert!(flows.take(later, ServerId([0, 0, 7])).is_empty());
        assert!(flows.take(later, ServerId([0, 0, 8])).is_empty(), "too long ago");
    }

    #[test]
    fn the_flows_that_are_remembered_are_bounded_and_the_oldest_go_first() {
        let (mut flows, now) = (HandedFlows::default(), Instant::now());
        let many = 5 * HANDED_FLOWS_LEN_MAX as u32;
        for number in 0..many {
            flows.note(&cid(number), flow(7, 60, now));
            assert!(flows.newer.len() + flows.older.len() <= HANDED_FLOWS_LEN_MAX);
        }
        let taken = flows.take(now, ServerId([0, 0, 7]));
        let newest = many - HANDED_FLOWS_LEN_MAX as u32 / 2;
        for number in newest..many {
            assert!(taken.iter().any(|(taken, _)| *taken == cid(number)), "{number}");
        }
    }
}

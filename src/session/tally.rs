//! What became of the peer's requests, by kind: for the counters alone.

use super::Session;
use crate::counters::{Counter, Counters};
use crate::record::RecordType;
use quinn_proto::StreamId;

/// How a peer's request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered.
    Ok,
    /// It was answered with ERROR, or its answer was cut short here.
    Refused,
    /// The peer gave it up, or the connection ended first.
    Abandoned,
}

/// The counter of such an end; none for what is no request that is answered here.
fn counter(kind: RecordType, outcome: Outcome) -> Option<Counter> {
    let [ok, refused, abandoned] = match kind {
        RecordType::Put => {
            [Counter::RequestsPutOk, Counter::RequestsPutRefused, Counter::RequestsPutAbandoned]
        }
        RecordType::Fetch => {
            [Counter::RequestsFetchOk, Counter::RequestsFetchRefused, Counter::RequestsFetchAbandoned]
        }
        RecordType::Locate => {
            [Counter::RequestsLocateOk, Counter::RequestsLocateRefused, Counter::RequestsLocateAbandoned]
        }
        RecordType::Mirror => {
            [Counter::RequestsMirrorOk, Counter::RequestsMirrorRefused, Counter::RequestsMirrorAbandoned]
        }
        _ => return None,
    };
    Some(match outcome {
        Outcome::Ok => ok,
        Outcome::Refused => refused,
        Outcome::Abandoned => abandoned,
    })
}

impl Session {
    /// A request of the peer's ended so. What is no such request, or has ended already, counts nothing.
    pub(super) fn tally(&mut self, id: StreamId, outcome: Outcome, counters: &Counters) {
        if let Some(counter) = self.peer.asked.remove(&id).and_then(|kind| counter(kind, outcome)) {
            counters.add(counter, 1);
        }
    }

    /// All that still run end with the connection.
    pub(super) fn tally_rest(&mut self, counters: &Counters) {
        for (_, kind) in self.peer.asked.drain() {
            counter(kind, Outcome::Abandoned).into_iter().for_each(|counter| counters.add(counter, 1));
        }
    }
}

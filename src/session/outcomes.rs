//! How the peer's requests ended, by kind: only for the counters.

use super::Session;
use crate::counters::{Counter, Counters};
use crate::record::RecordType;
use quinn_proto::StreamId;

/// How a peer's request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    /// It was answered.
    Ok,
    /// It was answered with ERROR, or its answer was cut short here.
    Refused,
    /// The peer gave it up, or the connection ended first.
    Abandoned,
}

/// The counter of this outcome; `None` for a record that is no request.
fn counter(kind: RecordType, outcome: RequestOutcome) -> Option<Counter> {
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
        RecordType::List => {
            [Counter::RequestsListOk, Counter::RequestsListRefused, Counter::RequestsListAbandoned]
        }
        RecordType::Stat => {
            [Counter::RequestsStatOk, Counter::RequestsStatRefused, Counter::RequestsStatAbandoned]
        }
        RecordType::Remove => {
            [Counter::RequestsRemoveOk, Counter::RequestsRemoveRefused, Counter::RequestsRemoveAbandoned]
        }
        RecordType::Renew => {
            [Counter::RequestsRenewOk, Counter::RequestsRenewRefused, Counter::RequestsRenewAbandoned]
        }
        _ => return None,
    };
    Some(match outcome {
        RequestOutcome::Ok => ok,
        RequestOutcome::Refused => refused,
        RequestOutcome::Abandoned => abandoned,
    })
}

impl Session {
    /// Counts how a peer's request ended. Ignores ids that are no open request.
    pub(super) fn count_outcome(&mut self, id: StreamId, outcome: RequestOutcome, counters: &Counters) {
        let ended = self.streams.get_mut(&id).and_then(|stream| stream.role.take_counted());
        if let Some(counter) = ended.and_then(|kind| counter(kind, outcome)) {
            counters.add(counter, 1);
        }
    }

    /// Counts the requests that end with their connection.
    pub(super) fn count_abandoned(&mut self, counters: &Counters) {
        for kind in self.streams.values_mut().filter_map(|stream| stream.role.take_counted()) {
            counter(kind, RequestOutcome::Abandoned).into_iter().for_each(|counter| counters.add(counter, 1));
        }
    }
}

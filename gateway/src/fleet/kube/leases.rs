//! Which gateways are alive, by their Leases: a lease that is not renewed does not go away by itself.
//!
//! A lease has ended when the watch has told other things for its whole time, and no renewal of it. So the watch's own progress is the
//! clock: a silent one ends nothing, nor does one that begins. No gateway's time of day counts.

use super::super::exchange::StoreHead;
use super::super::record::{FleetChange, FleetEntry, FleetRecord};
use super::object::LeaseRead;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::limits::FLEET_KUBE_SILENT_MS_MAX;

#[derive(Debug)]
struct LeaseSeen {
    record: FleetRecord,
    lasts: Duration,
    renewed: Instant,
    is_alive: bool,
}

/// The Leases of a fleet, as a watch tells of them.
#[derive(Debug, Default)]
pub(super) struct LeaseBook {
    seen: BTreeMap<Arc<str>, LeaseSeen>,
    heard: Option<Instant>,
}

impl LeaseBook {
    /// All leases anew. Returns those that count: all that are held, each for its whole time.
    pub(super) fn listed(
        &mut self,
        now: Instant,
        leases: impl IntoIterator<Item = LeaseRead>,
        head: StoreHead,
    ) -> Vec<FleetEntry> {
        let held = leases.into_iter().filter_map(|LeaseRead { key, record, lasts }| {
            Some((key, LeaseSeen { record: record?, lasts, renewed: now, is_alive: true }))
        });
        (self.seen, self.heard) = (held.collect(), Some(now));
        let entry = |(key, seen): (&Arc<str>, &LeaseSeen)| entry(key, &seen.record, head);
        self.seen.iter().map(entry).collect()
    }

    /// A watch begins: each lease has its whole time again.
    pub(super) fn begin(&mut self, now: Instant) {
        self.seen.values_mut().for_each(|lease| lease.renewed = now);
        self.heard = Some(now);
    }

    /// The watch tells something. Returns the leases that have ended.
    pub(super) fn heard(&mut self, now: Instant) -> Vec<FleetChange> {
        let silent = Duration::from_millis(FLEET_KUBE_SILENT_MS_MAX);
        if self.heard.is_none_or(|heard| now.duration_since(heard) > silent) {
            self.begin(now);
        }
        self.heard = Some(now);
        let mut ended = Vec::new();
        for (key, lease) in &mut self.seen {
            if lease.is_alive && now.duration_since(lease.renewed) >= lease.lasts {
                lease.is_alive = false;
                ended.push(FleetChange::Gone(key.clone()));
            }
        }
        ended
    }

    /// A lease is made or renewed. Returns what is new by it.
    pub(super) fn renewed(&mut self, now: Instant, read: LeaseRead, head: StoreHead) -> Option<FleetChange> {
        let LeaseRead { key, record, lasts } = read;
        let Some(record) = record else { return self.gone(&key) };
        let former = self.seen.get(&key);
        let is_same = former.is_some_and(|former| former.is_alive && says_same(&former.record, &record));
        let change = (!is_same).then(|| FleetChange::Put(entry(&key, &record, head)));
        self.seen.insert(key, LeaseSeen { record, lasts, renewed: now, is_alive: true });
        change
    }

    /// A lease is deleted or given up. Returns what is new by it.
    pub(super) fn gone(&mut self, key: &Arc<str>) -> Option<FleetChange> {
        self.seen.remove(key).filter(|lease| lease.is_alive).map(|_| FleetChange::Gone(key.clone()))
    }
}

fn entry(key: &Arc<str>, record: &FleetRecord, head: StoreHead) -> FleetEntry {
    FleetEntry { key: key.clone(), revision: head.revision, record: record.clone() }
}

fn says_same(former: &FleetRecord, record: &FleetRecord) -> bool {
    match (former, record) {
        (FleetRecord::Alive(_, former), FleetRecord::Alive(_, alive)) => former == alive,
        (FleetRecord::AliveFault(_), FleetRecord::AliveFault(_)) => true,
        _ => false,
    }
}

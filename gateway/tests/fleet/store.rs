//! A model of etcd: one history, three nodes that may be cut off from each other, watches and leases.
//!
//! It does what etcd 3.4 was seen to do: a write and a linearizable read need a quorum; the events of a transaction arrive together; a
//! watch at a node without quorum hears nothing, and after a while, since members ask for it, that there is no leader; leases end only
//! while there is a quorum, and begin anew when it is back; what is compacted cannot be watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use stoq_gateway::fleet::exchange::StoreHead;
use stoq_gateway::fleet::lease::LeaseId;
use stoq_gateway::fleet::record::{FleetChange, FleetEntry, FleetRecord};
use stoq_gateway::fleet::table::{Roster, TableFault};

/// Nodes of the cluster.
pub(crate) const NODES: usize = 3;
/// After this time without quorum a node tells its watchers that there is no leader.
pub(crate) const NO_LEADER: Duration = Duration::from_millis(4_200);

/// A time of the world.
pub(crate) type Time = Duration;

struct Lease {
    ttl: Duration,
    ends: Time,
}

struct Stored {
    entry: FleetEntry,
    lease: Option<LeaseId>,
}

/// The cluster.
pub(crate) struct Etcd {
    pub(crate) head: StoreHead,
    kept: BTreeMap<Arc<str>, Stored>,
    /// The changes of each revision since the compaction.
    history: BTreeMap<u64, Arc<[FleetChange]>>,
    compacted: u64,
    leases: BTreeMap<LeaseId, Lease>,
    leases_made: u64,
    /// Whether each node runs and reaches the others.
    pub(crate) joined: [bool; NODES],
    /// Since when there is no quorum.
    without_quorum: Option<Time>,
    /// Since when each node has no leader.
    leaderless: [Option<Time>; NODES],
    /// What a gateway must make of the operator's keys as of each revision that changed them.
    pub(crate) rosters: BTreeMap<u64, Result<Arc<Roster>, TableFault>>,
    /// Revisions by members' puts, and by the ends of leases.
    pub(crate) put_by_members: usize,
    pub(crate) ended_leases: usize,
}

impl Etcd {
    pub(crate) fn new(cluster: u64) -> Self {
        Self {
            head: StoreHead { cluster, revision: 1 },
            kept: BTreeMap::new(),
            history: BTreeMap::new(),
            compacted: 1,
            leases: BTreeMap::new(),
            leases_made: 0,
            joined: [true; NODES],
            without_quorum: None,
            leaderless: [None; NODES],
            rosters: BTreeMap::new(),
            put_by_members: 0,
            ended_leases: 0,
        }
    }

    fn has_quorum(&self) -> bool {
        self.joined.iter().filter(|joined| **joined).count() > NODES / 2
    }

    /// Whether a node can answer what needs a quorum.
    pub(crate) fn is_led(&self, node: usize) -> bool {
        self.joined[node] && self.has_quorum()
    }

    /// Cuts a node off, or brings it back.
    pub(crate) fn set_joined(&mut self, now: Time, node: usize, joined: bool) {
        self.joined[node] = joined;
        if !self.has_quorum() {
            self.without_quorum.get_or_insert(now);
        } else if self.without_quorum.take().is_some() {
            // A new leader gives every lease its whole time.
            self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl);
        }
        for node in 0..NODES {
            if self.is_led(node) {
                self.leaderless[node] = None;
            } else {
                self.leaderless[node].get_or_insert(now);
            }
        }
    }

    /// Whether a node tells its watchers that there is no leader.
    pub(crate) fn says_no_leader(&self, now: Time, node: usize) -> bool {
        self.leaderless[node].is_some_and(|since| now >= since + NO_LEADER)
    }

    pub(crate) fn list(&self) -> Vec<FleetEntry> {
        self.kept.values().map(|stored| stored.entry.clone()).collect()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.kept.contains_key(key)
    }

    /// The revisions from this one on; `None`: they are compacted.
    pub(crate) fn since(&self, revision: u64) -> Option<Vec<(u64, Arc<[FleetChange]>)>> {
        let history = self.history.range(revision..);
        (revision > self.compacted || revision > self.head.revision)
            .then(|| history.map(|(at, changes)| (*at, changes.clone())).collect())
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.head.revision;
        self.history.clear();
    }

    pub(crate) fn grant(&mut self, now: Time, ttl: Duration) -> LeaseId {
        self.leases_made += 1;
        let id = LeaseId(self.head.cluster << 32 | self.leases_made);
        self.leases.insert(id, Lease { ttl, ends: now + ttl });
        id
    }

    /// Keeps a lease alive; `None`: there is none.
    pub(crate) fn keep_alive(&mut self, now: Time, id: LeaseId) -> Option<Duration> {
        let lease = self.leases.get_mut(&id)?;
        lease.ends = now + lease.ttl;
        Some(lease.ttl)
    }

    /// One transaction: all of it in one revision.
    pub(crate) fn write(
        &mut self,
        puts: Vec<(Arc<str>, FleetRecord)>,
        gone: &[Arc<str>],
        lease: Option<LeaseId>,
    ) {
        self.head.revision += 1;
        let revision = self.head.revision;
        let mut changes = Vec::new();
        for key in gone {
            if self.kept.remove(key).is_some() {
                changes.push(FleetChange::Gone(key.clone()));
            }
        }
        for (key, record) in puts {
            let entry = FleetEntry { key: key.clone(), revision, record };
            self.kept.insert(key, Stored { entry: entry.clone(), lease });
            changes.push(FleetChange::Put(entry));
        }
        let is_of_operator = changes.iter().any(|change| match change {
            FleetChange::Put(entry) => {
                !matches!(entry.record, FleetRecord::Alive(..) | FleetRecord::AliveFault(_))
            }
            FleetChange::Gone(key) => !key.contains("/alive/"),
        });
        if is_of_operator {
            let entries: Vec<_> = self.list();
            self.rosters.insert(revision, Roster::read(&entries, revision).map(Arc::new));
        }
        self.history.insert(revision, changes.into());
    }

    /// A put under a lease; `None`: there is no such lease.
    pub(crate) fn put_alive(&mut self, key: Arc<str>, record: FleetRecord, lease: LeaseId) -> Option<()> {
        self.leases.contains_key(&lease).then(|| {
            self.put_by_members += 1;
            self.write(vec![(key, record)], &[], Some(lease))
        })
    }

    /// Ends leases: this one, or those whose time is over.
    pub(crate) fn end_leases(&mut self, now: Time, revoked: Option<LeaseId>) {
        if !self.has_quorum() {
            return;
        }
        let is_over = |id: &LeaseId, lease: &Lease| revoked == Some(*id) || lease.ends <= now;
        let over: Vec<_> =
            self.leases.iter().filter(|(id, lease)| is_over(id, lease)).map(|(id, _)| *id).collect();
        let is_under = |stored: &Stored| stored.lease.is_some_and(|lease| over.contains(&lease));
        let gone: Vec<_> =
            self.kept.iter().filter(|(_, stored)| is_under(stored)).map(|(key, _)| key.clone()).collect();
        for id in &over {
            self.leases.remove(id);
            self.ended_leases += usize::from(revoked.is_none());
        }
        if !gone.is_empty() {
            self.write(Vec::new(), &gone, None);
        }
    }
}

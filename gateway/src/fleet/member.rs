//! A gateway as a member of its fleet's directory, which is etcd or a model of it: what it asks, when, and what it concludes.
//!
//! A member connects to one endpoint of etcd at a time. It probes, which needs a quorum; lists, once; watches from the revision that it knows; and keeps a lease
//! alive, under which it says that it is alive. When the endpoint is lost it goes on at the next one from the revision it knows. **Nothing that
//! the directory does or fails to do takes a table away**: without etcd the last one holds.
//!
//! It has no clock, no socket and no randomness but its seed. A driver calls [`FleetMember::poll`] until it gives nothing, does what is
//! asked, and hands the answers to [`FleetMember::handle`].

use super::exchange::{FleetEvent, FleetRequest, MemberSettings, MemberStatus, StoreHead, StrangeCluster};
use super::lease::HeldLease;
use super::record::{FleetAlive, FleetChange, FleetEntry, FleetRecord};
use super::table::{FleetTable, Roster, TableFault, TableOrigin};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::limits::{
    FLEET_AGAIN_MS_MAX, FLEET_ALIVE_SETTLE_MS, FLEET_ANSWER_MS_MAX, FLEET_DENIED_MS, FLEET_NEXT_MS_MAX,
    FLEET_SAY_MS_MAX, FLEET_SETTLE_MS,
};
use stoq::tls::NodeId;

#[derive(Debug)]
enum Link {
    Away { until: Instant },
    Probing,
    Up,
}

#[derive(Debug)]
enum WatchState {
    No,
    Asked { until: Instant },
    On,
}

/// A member.
#[derive(Debug)]
pub struct FleetMember {
    settings: MemberSettings,
    random: StdRng,
    cluster: Option<u64>,
    /// Up to this revision the entries are those of the directory.
    seen: u64,
    /// Whether `told` and `alive` are the directory's as of `seen`.
    is_listed: bool,
    told: BTreeMap<Arc<str>, FleetEntry>,
    alive: BTreeMap<Arc<str>, (NodeId, Arc<FleetAlive>)>,
    table: Option<Arc<FleetTable>>,
    is_new: bool,
    refused: Option<TableFault>,
    roster_at: Option<Instant>,
    alive_at: Option<Instant>,
    session: u64,
    endpoint: usize,
    /// Endpoints in a row that did not come to watch.
    failed: usize,
    link: Link,
    /// What was asked and is not answered, a watch aside.
    asked: Option<(FleetRequest, Instant)>,
    watch: WatchState,
    lease: HeldLease,
    is_leaving: bool,
    ready: bool,
    keys: u64,
    said: Option<Arc<FleetAlive>>,
    say_at: Option<Instant>,
    quiet_until: Option<Instant>,
    heard: Option<Instant>,
    strange: Option<StrangeCluster>,
    lost: Option<String>,
    denied: Option<String>,
    twin: Option<String>,
}

impl FleetMember {
    /// A member that begins at once. It serves from `saved`, a table of an earlier process and the cluster that it was of, until etcd
    /// has answered.
    pub fn new(now: Instant, settings: MemberSettings, saved: Option<(u64, Arc<FleetTable>)>) -> Self {
        let mut random = StdRng::seed_from_u64(settings.seed);
        let (cluster, table) = saved.unzip();
        Self {
            endpoint: random.random_range(0..settings.endpoints.max(1)),
            settings,
            random,
            cluster,
            seen: table.as_ref().map_or(0, |table| table.roster.revision),
            is_listed: false,
            told: BTreeMap::new(),
            alive: BTreeMap::new(),
            is_new: table.is_some(),
            table,
            refused: None,
            roster_at: None,
            alive_at: None,
            session: 0,
            failed: 0,
            link: Link::Away { until: now },
            asked: None,
            watch: WatchState::No,
            lease: HeldLease::default(),
            is_leaving: false,
            ready: false,
            keys: 0,
            said: None,
            say_at: None,
            quiet_until: None,
            heard: None,
            strange: None,
            lost: None,
            denied: None,
            twin: None,
        }
    }

    /// The table to go by, and the cluster that it is of, if it is another than at the call before.
    pub fn take_table(&mut self) -> Option<(u64, Arc<FleetTable>)> {
        let table = self.table.clone().filter(|_| std::mem::take(&mut self.is_new))?;
        Some((self.cluster.unwrap_or(0), table))
    }

    /// What it shows of itself.
    pub fn status(&self) -> MemberStatus {
        MemberStatus {
            is_up: matches!(self.link, Link::Up),
            endpoint: self.endpoint,
            heard: self.heard,
            seen: self.seen,
            refused: self.refused.clone(),
            strange: self.strange,
            lost: self.lost.clone(),
            denied: self.denied.clone(),
            has_lease: self.lease.id().is_some(),
            twin: self.twin.clone(),
        }
    }

    /// The session: another one once the endpoint is left.
    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// Whether the gateway is ready, which it says at once.
    pub fn set_ready(&mut self, now: Instant, ready: bool) {
        if std::mem::replace(&mut self.ready, ready) != ready {
            self.say_at = Some(now);
        }
    }

    /// The revision of the rotations that the gateway goes by. It says so after a pause, since all gateways do.
    pub fn set_keys(&mut self, now: Instant, keys: u64) {
        if std::mem::replace(&mut self.keys, keys) != keys {
            let at = now + self.pause(FLEET_SAY_MS_MAX);
            self.say_at.get_or_insert(at);
        }
    }

    /// Takes the cluster that answers now for the fleet's, as the operator wants it.
    pub fn adopt(&mut self, now: Instant) {
        (self.cluster, self.seen, self.is_listed) = (None, 0, false);
        self.lease = HeldLease::default();
        // Nothing of what it said is in another cluster.
        self.said = None;
        self.end_session();
        self.link = Link::Away { until: now };
    }

    /// Ends the lease, so that others see at once that the gateway leaves.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether it has left: no lease says that it is alive, or etcd does not answer.
    pub fn has_left(&self) -> bool {
        self.is_leaving && (self.lease.id().is_none() || !matches!(self.link, Link::Up))
    }

    /// Takes an event of this session.
    pub fn handle(&mut self, now: Instant, session: u64, event: FleetEvent) {
        if session != self.session || matches!(self.link, Link::Away { .. }) {
            return;
        }
        if !matches!(event, FleetEvent::Lost(_)) {
            self.heard = Some(now);
        }
        match event {
            FleetEvent::Watching => {
                self.watch = WatchState::On;
                (self.failed, self.lost) = (0, None);
            }
            FleetEvent::Changed(head, changes) => self.changed(now, head, changes),
            FleetEvent::Compacted => (self.is_listed, self.watch) = (false, WatchState::No),
            FleetEvent::Lost(why) => self.leave_endpoint(now, why),
            FleetEvent::Probed(_)
            | FleetEvent::Listed(..)
            | FleetEvent::Granted(..)
            | FleetEvent::KeptAlive(_)
            | FleetEvent::LeaseGone
            | FleetEvent::Put
            | FleetEvent::Revoked
            | FleetEvent::Denied(_) => {
                let Some((asked, _)) = self.asked.take() else { return };
                self.answered(now, asked, event);
            }
        }
    }

    fn answered(&mut self, now: Instant, asked: FleetRequest, event: FleetEvent) {
        match event {
            FleetEvent::Probed(head) => self.probed(now, head),
            FleetEvent::Listed(head, entries) => self.listed(now, head, entries),
            FleetEvent::Granted(id, ttl) => {
                self.denied = None;
                self.lease.granted(now, id, ttl);
                self.say_at = Some(now);
            }
            FleetEvent::KeptAlive(ttl) => self.lease.kept_alive(now, ttl),
            FleetEvent::LeaseGone | FleetEvent::Revoked => {
                self.lease = HeldLease::default();
                self.said = None;
            }
            FleetEvent::Put => {
                self.denied = None;
                if let FleetRequest::PutAlive(_, said) = asked {
                    self.said = Some(said);
                }
            }
            FleetEvent::Denied(why) => match asked {
                FleetRequest::Grant | FleetRequest::PutAlive(..) => {
                    self.denied = Some(why);
                    self.quiet_until = Some(now + Duration::from_millis(FLEET_DENIED_MS));
                    self.say_at = self.quiet_until;
                }
                _ => self.leave_endpoint(now, why),
            },
            _ => {}
        }
    }

    fn probed(&mut self, now: Instant, head: StoreHead) {
        if self.is_known(now, head) {
            self.link = Link::Up;
        }
    }

    /// Whether this is the cluster that the member knows, and not behind of what it was. Leaves the endpoint otherwise.
    fn is_known(&mut self, now: Instant, head: StoreHead) -> bool {
        let cluster = self.cluster.unwrap_or(head.cluster);
        let strange = StrangeCluster::of(head, StoreHead { cluster, revision: self.seen });
        self.strange = strange;
        if let Some(strange) = strange {
            self.leave_endpoint(now, strange.to_string());
        }
        strange.is_none()
    }

    fn listed(&mut self, now: Instant, head: StoreHead, entries: Vec<FleetEntry>) {
        if !self.is_known(now, head) {
            return;
        }
        (self.cluster, self.seen, self.is_listed) = (Some(head.cluster), head.revision, true);
        self.told.clear();
        self.alive.clear();
        entries.into_iter().for_each(|entry| self.put(entry));
        (self.roster_at, self.alive_at) = (Some(now), Some(now));
    }

    fn changed(&mut self, now: Instant, head: StoreHead, changes: Vec<FleetChange>) {
        if !self.is_listed || head.revision < self.seen {
            return;
        }
        self.seen = head.revision;
        for change in changes {
            let is_gone = matches!(change, FleetChange::Gone(_));
            let is_alive = match change {
                FleetChange::Put(entry) => {
                    let is_alive =
                        matches!(entry.record, FleetRecord::Alive(..) | FleetRecord::AliveFault(_));
                    if let FleetRecord::Alive(node, alive) = &entry.record
                        && *node == self.settings.node
                    {
                        self.twin = Some(alive.boot.clone()).filter(|boot| *boot != self.settings.boot);
                    }
                    self.put(entry);
                    is_alive
                }
                FleetChange::Gone(key) => {
                    if key == self.settings.own_key && self.lease.id().is_some() {
                        self.said = None;
                        self.say_at = Some(now + self.pause(FLEET_SAY_MS_MAX));
                    }
                    self.told.remove(&key).is_none() && self.alive.remove(&key).is_some()
                }
            };
            if is_alive {
                // Clients of a gateway that is gone wait for it; a fleet that starts says a thousand things.
                let settle_ms = if is_gone { FLEET_SETTLE_MS } else { FLEET_ALIVE_SETTLE_MS };
                let at = now + Duration::from_millis(settle_ms);
                self.alive_at = Some(self.alive_at.map_or(at, |before| before.min(at)));
            } else {
                self.roster_at.get_or_insert(now + Duration::from_millis(FLEET_SETTLE_MS));
            }
        }
    }

    fn put(&mut self, entry: FleetEntry) {
        match entry.record {
            FleetRecord::Alive(node, alive) => {
                self.alive.insert(entry.key, (node, alive));
            }
            FleetRecord::AliveFault(_) => {
                self.alive.remove(&entry.key);
            }
            FleetRecord::Keys(_) | FleetRecord::Gateway(_) | FleetRecord::Fault(_) => {
                self.told.insert(entry.key.clone(), entry);
            }
        }
    }

    /// Makes a table of what has settled.
    fn settle(&mut self, now: Instant) {
        let has_settled = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let has_roster = has_settled(self.roster_at);
        if !has_roster && !has_settled(self.alive_at) {
            return;
        }
        self.alive_at = None;
        let mut roster = None;
        if has_roster {
            self.roster_at = None;
            match Roster::read(self.told.values(), self.seen) {
                Ok(read) => (roster, self.refused) = (Some(Arc::new(read)), None),
                Err(fault) => self.refused = Some(fault),
            }
        }
        let of_directory = self.table.as_ref().filter(|table| table.origin == TableOrigin::Directory);
        let Some(roster) = roster.or_else(|| of_directory.map(|table| table.roster.clone())) else { return };
        let alive = self.alive.values().cloned().collect();
        self.table = Some(Arc::new(FleetTable { roster, alive, origin: TableOrigin::Directory }));
        self.is_new = true;
    }

    fn leave_endpoint(&mut self, now: Instant, why: String) {
        self.end_session();
        self.lost = Some(why);
        self.failed += 1;
        self.endpoint = (self.endpoint + 1) % self.settings.endpoints.max(1);
        let all_failed = self.failed >= self.settings.endpoints;
        let pause = self.pause(if all_failed { FLEET_AGAIN_MS_MAX } else { FLEET_NEXT_MS_MAX });
        self.link = Link::Away { until: now + pause };
    }

    fn end_session(&mut self) {
        self.session += 1;
        (self.asked, self.watch) = (None, WatchState::No);
    }

    fn pause(&mut self, ms_max: u64) -> Duration {
        Duration::from_millis(self.random.random_range(0..=ms_max))
    }

    /// The next thing to ask, if there is one now.
    pub fn poll(&mut self, now: Instant) -> Option<FleetRequest> {
        self.settle(now);
        let waits = self.asked.as_ref().map(|(_, until)| *until);
        let watch_waits = match self.watch {
            WatchState::Asked { until } => Some(until),
            WatchState::No | WatchState::On => None,
        };
        if waits.into_iter().chain(watch_waits).any(|until| until <= now) {
            self.leave_endpoint(now, format!("no answer within {FLEET_ANSWER_MS_MAX} ms"));
        }
        let until = now + Duration::from_millis(FLEET_ANSWER_MS_MAX);
        let asked = match self.link {
            Link::Away { until } if until > now => return None,
            Link::Away { .. } => {
                self.link = Link::Probing;
                return Some(FleetRequest::Connect { session: self.session, endpoint: self.endpoint });
            }
            Link::Up if self.is_listed && matches!(self.watch, WatchState::No) => {
                self.watch = WatchState::Asked { until };
                return Some(FleetRequest::WatchFrom(self.seen + 1));
            }
            Link::Probing | Link::Up if self.asked.is_some() => return None,
            Link::Probing => FleetRequest::Probe,
            Link::Up => self.wanted(now)?,
        };
        self.asked = Some((asked.clone(), until));
        Some(asked)
    }

    /// What it wants of an endpoint that is up and has nothing else to answer.
    fn wanted(&mut self, now: Instant) -> Option<FleetRequest> {
        if self.is_leaving {
            return self.lease.id().map(FleetRequest::Revoke);
        }
        if let Some(id) = self.lease.due(now) {
            return Some(FleetRequest::KeepAlive(id));
        }
        if !self.is_listed {
            return Some(FleetRequest::List);
        }
        let Some(id) = self.lease.id() else {
            let may_ask = self.quiet_until.is_none_or(|until| until <= now);
            return may_ask.then_some(FleetRequest::Grant);
        };
        if self.say_at.is_none_or(|at| at > now) {
            return None;
        }
        self.say_at = None;
        let MemberSettings { boot, version, since_s, .. } = self.settings.clone();
        let alive = FleetAlive { boot, version, ready: self.ready, keys: self.keys, since_s };
        let is_said = self.said.as_ref().is_some_and(|said| **said == alive);
        (!is_said).then(|| FleetRequest::PutAlive(id, Arc::new(alive)))
    }

    /// When to poll again, if no event comes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_link = match self.link {
            Link::Away { until } => Some(until),
            Link::Probing | Link::Up => self.asked.as_ref().map(|(_, until)| *until),
        };
        let of_watch = match self.watch {
            WatchState::Asked { until } => Some(until),
            WatchState::No | WatchState::On => None,
        };
        let is_free = matches!(self.link, Link::Up) && self.asked.is_none();
        let of_lease = match self.lease.id() {
            _ if !is_free || self.is_leaving => [None, None],
            Some(_) => [self.lease.keep_at(), self.say_at],
            None => [self.quiet_until, None],
        };
        let all = [of_link, of_watch, self.roster_at, self.alive_at].into_iter().chain(of_lease);
        all.flatten().min()
    }
}

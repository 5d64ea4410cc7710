//! Members and a model of etcd under virtual time, drawn by a seed; and a checker that looks at each table that a member takes.

use crate::schedule::Schedule;
use crate::store::{Etcd, NODES, Time};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::quic::routable::ServerId;
use stoq::tls::NodeId;
use stoq_gateway::fleet::exchange::{FleetEvent, FleetRequest, MemberSettings, StoreHead};
use stoq_gateway::fleet::member::FleetMember;
use stoq_gateway::fleet::record::{
    ALIVE, FLEET_KEY, FleetChange, FleetGateway, FleetRecord, FleetState, GATEWAYS, read_record,
};
use stoq_gateway::fleet::table::{FleetTable, TableOrigin};

/// The prefix of the fleet.
pub(crate) const PREFIX: &str = "/stoq/1/eu/";
/// Etcd looks for leases that are over so often.
const LEASE_LOOK: Duration = Duration::from_millis(500);
/// A driver's connections find out after this time that they reach nothing.
const KEPT_ALIVE: Duration = Duration::from_secs(15);
const LEASE: Duration = Duration::from_secs(10);
const ROTATIONS: &str = r#"{"v":1,"rotations":[{"number":0,"salt":"000102030405060708090a0b0c0d0e0f","state":"issue"},
    {"number":1,"salt":"f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff","state":"accept"}]}"#;

/// A fault that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The events of a revision arrive one by one, each as if it were the whole.
    TornRevision,
    /// A watch from a compacted revision is set up and passes over what is lost.
    SilentCompaction,
    /// A member is not told that its lease has ended.
    LeaseUnsaid,
    /// A member that reconnects watches from the next revision, not from the one it knows.
    WatchFromNow,
}

#[derive(Debug)]
enum Happening {
    /// A member is polled.
    Wake(usize),
    /// A request arrives at a node.
    Asked(usize, u64, usize, FleetRequest),
    /// An event arrives at a member.
    Told(usize, u64, FleetEvent),
    /// Etcd looks at its leases and its watchers.
    Look,
}

/// A member in the world.
pub(crate) struct Station {
    pub(crate) member: FleetMember,
    pub(crate) node: NodeId,
    own_key: Arc<str>,
    session: u64,
    endpoint: usize,
    wakes: Option<Time>,
    /// When the last event arrives, since events of one connection keep their order.
    arrives: Time,
    pub(crate) table: Option<Arc<FleetTable>>,
    /// When it took the table's roster.
    pub(crate) taken: Time,
    /// The session of which something was lost on the way.
    broken: Option<u64>,
    /// Nodes that it does not reach.
    pub(crate) cut: [bool; NODES],
}

pub(crate) struct World {
    pub(crate) now: Time,
    begin: Instant,
    schedule: Schedule<Happening>,
    pub(crate) random: StdRng,
    pub(crate) etcd: Etcd,
    /// Watchers at each node: by station, the session and the next revision.
    watchers: [BTreeMap<usize, (u64, u64)>; NODES],
    pub(crate) stations: Vec<Station>,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) lists: usize,
    pub(crate) faults: Vec<String>,
}

/// The gateway of this number.
pub(crate) fn gateway(number: usize) -> FleetGateway {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let [.., a, b, c] = (number as u32).to_be_bytes();
    FleetGateway {
        node_id: NodeId(id),
        name: format!("g{number}"),
        server_id: ServerId([a, b, c]),
        zone: format!("z{}", number % 7),
        weight: 1.0,
        addresses: vec!["192.0.2.1:4433".parse().unwrap()],
        state: FleetState::Active,
    }
}

/// The key and the record of a gateway.
pub(crate) fn put(gateway: FleetGateway) -> (Arc<str>, FleetRecord) {
    let key = format!("{PREFIX}{GATEWAYS}{}", gateway.node_id).into();
    (key, FleetRecord::Gateway(Arc::new(gateway)))
}

impl World {
    /// A fleet that the operator has put, and these members, which begin within ten seconds.
    pub(crate) fn new(seed: u64, members: usize) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            begin: Instant::now(),
            schedule: Schedule::default(),
            random: StdRng::seed_from_u64(seed),
            etcd: Etcd::new(0xc0ffee),
            watchers: Default::default(),
            stations: Vec::new(),
            mutant: None,
            lists: 0,
            faults: Vec::new(),
        };
        world.install(members);
        for number in 0..members {
            let node = gateway(number).node_id;
            let own_key: Arc<str> = format!("{PREFIX}{ALIVE}{node}").into();
            let settings = MemberSettings {
                node,
                own_key: own_key.clone(),
                boot: format!("{number:016x}"),
                version: "0.1.0".into(),
                since_s: 0,
                endpoints: NODES,
                seed: world.random.random(),
            };
            let begins = Duration::from_millis(world.random.random_range(0..10_000));
            let member = FleetMember::new(world.begin + begins, settings, None);
            let (session, endpoint, arrives, taken) = (0, 0, Duration::ZERO, Duration::ZERO);
            let (wakes, table, broken, cut) = (Some(begins), None, None, [false; NODES]);
            world.stations.push(Station {
                member,
                node,
                own_key,
                session,
                endpoint,
                wakes,
                arrives,
                table,
                taken,
                broken,
                cut,
            });
            world.push(begins, Happening::Wake(number));
        }
        world.push(LEASE_LOOK, Happening::Look);
        world
    }

    /// Puts the fleet's keys and these gateways.
    pub(crate) fn install(&mut self, members: usize) {
        let keys = (
            format!("{PREFIX}{FLEET_KEY}").into(),
            read_record(FLEET_KEY, ROTATIONS.as_bytes()).expect("it is a key of the fleet"),
        );
        self.operate((0..members).map(|number| put(gateway(number))).chain([keys]).collect());
    }

    fn push(&mut self, at: Time, happening: Happening) {
        self.schedule.push(at, happening);
    }

    /// A message's time on its way.
    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.random.random_range(100..5_000))
    }

    /// The operator writes, in one transaction.
    pub(crate) fn operate(&mut self, puts: Vec<(Arc<str>, FleetRecord)>) {
        self.etcd.write(puts, &[], None);
        self.spread();
    }

    /// The operator deletes keys, or an adversary does.
    pub(crate) fn delete(&mut self, keys: &[Arc<str>]) {
        self.etcd.write(Vec::new(), keys, None);
        self.spread();
    }

    /// Nodes with a leader tell their watchers of every revision that these do not know.
    fn spread(&mut self) {
        for node in (0..NODES).filter(|node| self.etcd.is_led(*node)).collect::<Vec<_>>() {
            let mut watchers = std::mem::take(&mut self.watchers[node]);
            let last = self.etcd.head.revision;
            watchers.retain(|at, (session, next)| *next > last || self.catch_up(*at, node, *session, next));
            self.watchers[node] = watchers;
        }
    }

    /// Tells one watcher of every revision from `next` on. Returns whether it goes on.
    fn catch_up(&mut self, at: usize, node: usize, session: u64, next: &mut u64) -> bool {
        let missed = self.etcd.since(*next);
        if missed.is_none() && self.mutant != Some(Mutant::SilentCompaction) {
            self.tell(at, node, session, FleetEvent::Compacted);
            return false;
        }
        for (revision, changes) in missed.unwrap_or_default() {
            self.tell_changes(at, node, session, revision, &changes);
        }
        *next = self.etcd.head.revision + 1;
        true
    }

    /// The connections of a node end.
    fn reset(&mut self, node: usize) {
        for (at, (session, _)) in std::mem::take(&mut self.watchers[node]) {
            self.tell(at, node, session, FleetEvent::Lost("reset".into()));
        }
    }

    fn tell_changes(
        &mut self,
        at: usize,
        node: usize,
        session: u64,
        revision: u64,
        changes: &Arc<[FleetChange]>,
    ) {
        let head = StoreHead { revision, ..self.etcd.head };
        if self.mutant == Some(Mutant::TornRevision) {
            for change in changes.iter() {
                self.tell(at, node, session, FleetEvent::Changed(head, vec![change.clone()]));
                // The next one comes much later.
                self.stations[at].arrives += Duration::from_secs(1);
            }
        } else {
            self.tell(at, node, session, FleetEvent::Changed(head, changes.to_vec()));
        }
    }

    fn tell(&mut self, at: usize, node: usize, session: u64, event: FleetEvent) {
        let arrives = self.now + self.delay();
        let station = &mut self.stations[at];
        if station.cut[node] && station.broken != Some(session) {
            // A connection has no gaps: it goes on whole or, as TCP's keep-alive finds out, not at all.
            station.broken = Some(session);
            self.push(
                self.now + KEPT_ALIVE,
                Happening::Told(at, session, FleetEvent::Lost("timed out".into())),
            );
            return;
        }
        if station.cut[node] || station.broken == Some(session) {
            return;
        }
        station.arrives = station.arrives.max(arrives);
        let arrives = station.arrives;
        self.push(arrives, Happening::Told(at, session, event));
    }

    /// Runs for this time.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((at, happening)) = self.schedule.pop_until(end) {
            self.now = at;
            match happening {
                Happening::Wake(at) if self.stations[at].wakes == Some(self.now) => self.turn(at),
                Happening::Wake(_) => {}
                Happening::Asked(at, session, node, request) => self.asked(at, session, node, request),
                Happening::Told(at, session, event) => {
                    let now = self.begin + self.now;
                    self.stations[at].member.handle(now, session, event);
                    self.turn(at);
                }
                Happening::Look => self.look(),
            }
        }
        self.now = end;
    }

    fn look(&mut self) {
        self.etcd.end_leases(self.now, None);
        self.spread();
        for node in 0..NODES {
            if self.etcd.says_no_leader(self.now, node) {
                for (at, (session, _)) in std::mem::take(&mut self.watchers[node]) {
                    self.tell(at, node, session, FleetEvent::Lost("no leader".into()));
                }
            }
        }
        self.push(self.now + LEASE_LOOK, Happening::Look);
    }

    /// Polls a member until it asks nothing more, and takes its table.
    pub(crate) fn turn(&mut self, at: usize) {
        let now = self.begin + self.now;
        while let Some(request) = self.stations[at].member.poll(now) {
            if let FleetRequest::Connect { session, endpoint } = request {
                for watchers in &mut self.watchers {
                    watchers.remove(&at);
                }
                let station = &mut self.stations[at];
                (station.session, station.endpoint) = (session, endpoint);
                continue;
            }
            let (session, node) = (self.stations[at].session, self.stations[at].endpoint);
            if !self.stations[at].cut[node] && self.stations[at].broken != Some(session) {
                let arrives = self.now + self.delay();
                self.push(arrives, Happening::Asked(at, session, node, request));
            }
        }
        if let Some((_, table)) = self.stations[at].member.take_table() {
            self.check(at, &table);
            let keys = table.roster.keys_revision;
            let station = &mut self.stations[at];
            if station.table.as_ref().is_none_or(|before| !Arc::ptr_eq(&before.roster, &table.roster)) {
                station.taken = self.now;
            }
            station.table = Some(table);
            station.member.set_ready(now, true);
            station.member.set_keys(now, keys);
        }
        let wakes = self.stations[at].member.poll_timeout().map(|wakes| wakes - self.begin);
        if wakes != self.stations[at].wakes {
            self.stations[at].wakes = wakes;
            if let Some(wakes) = wakes {
                self.push(wakes.max(self.now), Happening::Wake(at));
            }
        }
    }

    /// Holds a new table against the directory's history: it is the whole of one revision, and not behind of the last.
    fn check(&mut self, at: usize, table: &FleetTable) {
        let (before, now) = (&self.stations[at].table, self.now);
        let revision = table.roster.revision;
        if before.as_ref().is_some_and(|before| before.roster.revision > revision) {
            self.faults.push(format!("{now:?}: member {at} went back to {revision}"));
        }
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(&before.roster, &table.roster)) {
            return;
        }
        let expected = self.etcd.rosters.range(..=revision).next_back();
        let is_whole = expected.is_some_and(|(_, expected)| {
            expected.as_ref().is_ok_and(|expected| {
                let (ours, theirs) = (&table.roster.gateways, &expected.gateways);
                ours.len() == theirs.len()
                    && ours.values().zip(theirs.values()).all(|(a, b)| Arc::ptr_eq(a, b))
                    && expected.rotations == table.roster.rotations
            })
        });
        if table.origin != TableOrigin::Directory || !is_whole {
            self.faults.push(format!("{now:?}: member {at} has a table that is not revision {revision}"));
        }
    }

    fn asked(&mut self, at: usize, session: u64, node: usize, request: FleetRequest) {
        // What needs a quorum and has none gets no answer.
        if !self.etcd.is_led(node) && !matches!(request, FleetRequest::WatchFrom(_)) {
            return;
        }
        let (now, revision) = (self.now, self.etcd.head.revision);
        let event = match request {
            FleetRequest::Connect { .. } => unreachable!("it is no request to a node"),
            FleetRequest::Probe => FleetEvent::Probed(self.etcd.head),
            FleetRequest::List => {
                self.lists += 1;
                FleetEvent::Listed(self.etcd.head, self.etcd.list())
            }
            FleetRequest::WatchFrom(from) => return self.watch(at, session, node, from),
            FleetRequest::Grant => FleetEvent::Granted(self.etcd.grant(now, LEASE), LEASE),
            FleetRequest::KeepAlive(id) => match self.etcd.keep_alive(now, id) {
                Some(ttl) => FleetEvent::KeptAlive(ttl),
                None if self.mutant == Some(Mutant::LeaseUnsaid) => FleetEvent::KeptAlive(LEASE),
                None => FleetEvent::LeaseGone,
            },
            FleetRequest::PutAlive(lease, alive) => {
                let station = &self.stations[at];
                let record = FleetRecord::Alive(station.node, alive);
                match self.etcd.put_alive(station.own_key.clone(), record, lease) {
                    Some(_) => FleetEvent::Put,
                    None => FleetEvent::LeaseGone,
                }
            }
            FleetRequest::Revoke(lease) => {
                self.etcd.end_leases(now, Some(lease));
                FleetEvent::Revoked
            }
        };
        if self.etcd.head.revision > revision {
            self.spread();
        }
        self.tell(at, node, session, event);
    }

    fn watch(&mut self, at: usize, session: u64, node: usize, from: u64) {
        let from = match self.mutant {
            Some(Mutant::WatchFromNow) => self.etcd.head.revision + 1,
            _ => from,
        };
        self.tell(at, node, session, FleetEvent::Watching);
        // A node without quorum may not know what the others have, and says nothing.
        let mut next = from;
        if !self.etcd.is_led(node) || self.catch_up(at, node, session, &mut next) {
            self.watchers[node].insert(at, (session, next));
        }
    }

    /// Replaces etcd by another cluster, whose nodes have the same addresses.
    pub(crate) fn replace(&mut self, etcd: Etcd) {
        self.etcd = etcd;
        (0..NODES).for_each(|node| self.reset(node));
    }

    /// Cuts a node off from the others, or brings it back: then its watchers hear what they have missed.
    pub(crate) fn set_joined(&mut self, node: usize, joined: bool) {
        self.etcd.set_joined(self.now, node, joined);
        self.spread();
    }

    /// A node's process is killed: its connections end at once.
    pub(crate) fn kill(&mut self, node: usize) {
        self.etcd.set_joined(self.now, node, false);
        self.reset(node);
    }

    /// Members whose roster is not that of this revision.
    pub(crate) fn behind(&self, revision: u64) -> usize {
        let has =
            |station: &&Station| station.table.as_ref().is_none_or(|table| table.roster.revision < revision);
        self.stations.iter().filter(has).count()
    }

    /// The faults at the end: those found, and members that are not alive, or of whom a member does not know it.
    pub(crate) fn faults_at_end(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        let last = self.etcd.rosters.iter().rev().find(|(_, roster)| roster.is_ok());
        let revision = last.map_or(0, |(revision, _)| *revision);
        match self.behind(revision) {
            0 => {}
            behind => faults.push(format!("{behind} members are behind of revision {revision}")),
        }
        for station in &self.stations {
            if !self.etcd.has(&station.own_key) {
                faults.push(format!("{} is not alive", station.node));
            }
            let known = station.table.as_ref().map_or(0, |table| table.alive.len());
            if known != self.stations.len() {
                faults.push(format!("{} knows {known} alive", station.node));
            }
        }
        faults
    }
}

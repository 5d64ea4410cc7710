//! A gateway as a member of its fleet's directory in Kubernetes: a [`FleetMember`], and what its requests are there.
//!
//! Three kinds of objects are listed and watched, each from a version of its own. Kubernetes knows no change of several objects at once, so the
//! member's revision is the greatest version that it was told. Nothing of a watch is taken before all are listed.

use super::super::exchange::{FleetEvent, FleetRequest, MemberSettings, MemberStatus, StoreHead};
use super::super::lease::LeaseId;
use super::super::member::FleetMember;
use super::super::record::{FleetAlive, FleetChange};
use super::super::table::FleetTable;
use super::exchange::{KubeAnswer, KubeCall, KubeEvent, KubeRefusal, KubeRequest};
use super::leases::LeaseBook;
use super::object::{KubeCollection, KubeNames, name, version};
use super::operation::{KubeOutcome, LEASE, Listing, Operation, Operator, cluster, entry};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::limits::{
    FLEET_ANSWER_MS_MAX, FLEET_KUBE_PAUSE_S_MAX, FLEET_KUBE_WATCH_MS_MIN, FLEET_KUBE_WATCH_S,
};

/// There is one lease.
const OWN_LEASE: LeaseId = LeaseId(1);

/// A watch of one kind of objects.
#[derive(Clone, Copy, Debug, Default)]
struct KubeWatch {
    number: u64,
    state: KubeWatchState,
}

#[derive(Clone, Copy, Debug, Default)]
enum KubeWatchState {
    #[default]
    No,
    Wanted,
    Asked {
        until: Instant,
    },
    On {
        since: Instant,
    },
}

/// A member.
#[derive(Debug)]
pub struct KubeMember {
    member: FleetMember,
    operator: Operator,
    session: u64,
    /// Whether the session is still to be told to the driver.
    connects: bool,
    operation: Option<Operation>,
    /// Whether its call is made and not answered.
    is_asked: bool,
    /// Before this time Kubernetes wants no call.
    pause_until: Option<Instant>,
    watches: [KubeWatch; 3],
    watches_made: u64,
    /// Up to these versions the objects of each kind are known, once they are listed.
    cursors: Option<[u64; 3]>,
    /// The state of the directory: the fleet's own object, and the greatest version that was told.
    head: StoreHead,
    said: Option<Arc<FleetAlive>>,
    leases: LeaseBook,
}

impl KubeMember {
    /// A member that begins at once, as [`FleetMember::new`] does.
    pub fn new(
        now: Instant,
        names: KubeNames,
        settings: MemberSettings,
        saved: Option<(u64, Arc<FleetTable>)>,
    ) -> Self {
        let operator = Operator { names, node: settings.node, own: None };
        Self {
            member: FleetMember::new(now, settings, saved),
            operator,
            session: u64::MAX,
            connects: false,
            operation: None,
            is_asked: false,
            pause_until: None,
            watches: Default::default(),
            watches_made: 0,
            cursors: None,
            head: StoreHead { cluster: 0, revision: 0 },
            said: None,
            leases: LeaseBook::default(),
        }
    }

    /// The member that this one answers from Kubernetes. What it asks and what it is told pass through here.
    pub fn fleet(&mut self) -> &mut FleetMember {
        &mut self.member
    }

    /// What it shows of itself.
    pub fn status(&self) -> MemberStatus {
        self.member.status()
    }

    /// As [`FleetMember::adopt`].
    pub fn adopt(&mut self, now: Instant) {
        self.member.adopt(now);
        (self.cursors, self.operator.own) = (None, None);
    }

    /// Takes an event of this session.
    pub fn handle(&mut self, now: Instant, session: u64, event: KubeEvent) {
        if session != self.session || !self.is_live() {
            return;
        }
        let of_watch = match &event {
            KubeEvent::Watching(number)
            | KubeEvent::Refused(number, _)
            | KubeEvent::Told(number, _)
            | KubeEvent::Ended(number) => Some(*number),
            KubeEvent::Answered(_) | KubeEvent::Lost(_) => None,
        };
        let at = match of_watch {
            None => 0,
            Some(number) => match self.watches.iter().position(|watch| watch.number == number) {
                Some(at) => at,
                None => return,
            },
        };
        match event {
            KubeEvent::Answered(answer) => self.answered(now, &answer),
            KubeEvent::Watching(_) => self.begun(now, at),
            KubeEvent::Refused(_, answer) => self.refused(now, &answer),
            KubeEvent::Told(_, line) => self.told(now, at, &line),
            KubeEvent::Ended(_) => self.ended(now, at),
            KubeEvent::Lost(why) => self.lose(now, why),
        }
    }

    /// Whether the member goes on with this session.
    fn is_live(&self) -> bool {
        self.session == self.member.session()
    }

    fn tell(&mut self, now: Instant, event: FleetEvent) {
        self.member.handle(now, self.session, event);
    }

    fn lose(&mut self, now: Instant, why: String) {
        self.tell(now, FleetEvent::Lost(why));
    }

    fn answered(&mut self, now: Instant, answer: &KubeAnswer) {
        let Some(operation) = self.operation.take().filter(|_| self.is_asked) else { return };
        self.is_asked = false;
        match self.operator.answered(operation, answer) {
            KubeOutcome::Next(operation) => self.operation = Some(operation),
            KubeOutcome::Later(operation, seconds) => {
                self.operation = Some(operation);
                self.pause(now, seconds);
            }
            KubeOutcome::Event(FleetEvent::Lost(why)) => self.lose(now, why),
            KubeOutcome::Event(event) => self.tell(now, event),
            KubeOutcome::Probed(head) => {
                self.head.cluster = head.cluster;
                self.tell(now, FleetEvent::Probed(head));
            }
            KubeOutcome::Listed(listing) => self.listed(now, listing),
        }
    }

    /// Makes no call for this time. A pause that takes longer than an answer may is told.
    fn pause(&mut self, now: Instant, seconds: u64) {
        let seconds = seconds.clamp(1, FLEET_KUBE_PAUSE_S_MAX);
        self.pause_until = Some(now + Duration::from_secs(seconds));
        if seconds * 1_000 >= FLEET_ANSWER_MS_MAX {
            self.lose(now, KubeRefusal::Later(seconds).to_string());
        }
    }

    fn listed(&mut self, now: Instant, listing: Listing) {
        let Listing { cursors, mut entries, leases } = listing;
        self.cursors = Some(cursors);
        self.head.revision = cursors.into_iter().max().unwrap_or(0);
        entries.extend(self.leases.listed(now, leases, self.head));
        self.tell(now, FleetEvent::Listed(self.head, entries));
    }

    fn begun(&mut self, now: Instant, at: usize) {
        self.watches[at].state = KubeWatchState::On { since: now };
        if self.watches.iter().all(|watch| matches!(watch.state, KubeWatchState::On { .. })) {
            self.tell(now, FleetEvent::Watching);
        }
    }

    fn refused(&mut self, now: Instant, answer: &KubeAnswer) {
        match answer.object() {
            Err(KubeRefusal::Gone) => self.compacted(now),
            Err(KubeRefusal::Later(seconds)) => {
                // The watch is asked for again with the next session.
                self.pause(now, seconds.max(FLEET_ANSWER_MS_MAX.div_ceil(1_000)));
            }
            Err(refusal) => self.lose(now, refusal.to_string()),
            Ok(_) => self.lose(now, "a watch that is none of Kubernetes'".into()),
        }
    }

    /// The changes since the versions that are known are no longer there: everything is listed anew.
    fn compacted(&mut self, now: Instant) {
        (self.watches, self.cursors) = (Default::default(), None);
        self.tell(now, FleetEvent::Compacted);
    }

    fn ended(&mut self, now: Instant, at: usize) {
        let least = Duration::from_millis(FLEET_KUBE_WATCH_MS_MIN);
        match self.watches[at].state {
            KubeWatchState::On { since } if now.duration_since(since) >= least => {
                self.watches[at].state = KubeWatchState::Wanted;
            }
            _ => self.lose(now, "the watch has ended".into()),
        }
    }

    fn told(&mut self, now: Instant, at: usize, line: &[u8]) {
        let value: Value = serde_json::from_slice(line).unwrap_or_default();
        let (kind, object) = (value["type"].as_str().unwrap_or_default(), &value["object"]);
        if kind == "ERROR" {
            let why = object["message"].as_str().unwrap_or("a watch that failed").to_owned();
            return match object["code"].as_u64() {
                Some(410) => self.compacted(now),
                _ => self.lose(now, why),
            };
        }
        let (Some(version), Some(cursors)) = (version(object), &mut self.cursors) else {
            return self.lose(now, "a watch that is none of Kubernetes'".into());
        };
        cursors[at] = version;
        self.head.revision = self.head.revision.max(version);
        let (collection, head) = (KubeCollection::ALL[at], self.head);
        let mut changes = Vec::new();
        match (kind, collection) {
            ("BOOKMARK", _) => {}
            ("ADDED" | "MODIFIED", KubeCollection::Leases) => {
                let read = self.operator.names.read_lease(object);
                changes.extend(read.and_then(|read| self.leases.renewed(now, read, head)));
            }
            ("DELETED", KubeCollection::Leases) => {
                let read = self.operator.names.read_lease(object);
                changes.extend(read.and_then(|read| self.leases.gone(&read.key)));
            }
            ("ADDED" | "MODIFIED", _) => {
                let is_fleet =
                    collection == KubeCollection::Fleets && name(object) == Some(&self.operator.names.fleet);
                if is_fleet && cluster(object) != Some(head.cluster) {
                    return self.lose(now, "the fleet's own object was made anew".into());
                }
                changes.extend(entry(&self.operator.names, collection, object).map(FleetChange::Put));
            }
            ("DELETED", _) => {
                changes.extend(
                    entry(&self.operator.names, collection, object).map(|entry| FleetChange::Gone(entry.key)),
                );
            }
            _ => return self.lose(now, "a watch that is none of Kubernetes'".into()),
        }
        if collection == KubeCollection::Leases {
            changes.extend(self.leases.heard(now));
        }
        self.tell(now, FleetEvent::Changed(head, changes));
    }

    /// The next thing to ask, if there is one now. `unix_us` is the time of day, microseconds since 1970.
    pub fn poll(&mut self, now: Instant, unix_us: u64) -> Option<KubeRequest> {
        loop {
            if std::mem::take(&mut self.connects) {
                return Some(KubeRequest::Connect { session: self.session });
            }
            if self.is_live() {
                let waits = |watch: &KubeWatch| match watch.state {
                    KubeWatchState::Asked { until } => until <= now,
                    _ => false,
                };
                if self.watches.iter().any(waits) {
                    self.lose(now, format!("no watch within {FLEET_ANSWER_MS_MAX} ms"));
                }
            }
            if self.is_live() && self.pause_until.is_none_or(|until| until <= now) {
                if let Some(request) = self.watch(now) {
                    return Some(request);
                }
                if let Some(operation) = self.operation.as_ref().filter(|_| !self.is_asked) {
                    self.is_asked = true;
                    return Some(KubeRequest::Ask(self.operator.call(operation, unix_us)));
                }
            }
            let request = self.member.poll(now)?;
            self.take(now, request);
        }
    }

    /// The next watch that is wanted.
    fn watch(&mut self, now: Instant) -> Option<KubeRequest> {
        let cursors = self.cursors?;
        let at = self.watches.iter().position(|watch| matches!(watch.state, KubeWatchState::Wanted))?;
        self.watches_made += 1;
        let (number, until) = (self.watches_made, now + Duration::from_millis(FLEET_ANSWER_MS_MAX));
        self.watches[at] = KubeWatch { number, state: KubeWatchState::Asked { until } };
        let (collection, from) = (KubeCollection::ALL[at], cursors[at]);
        let path = self.operator.names.list(collection);
        let call = KubeCall::get(format!(
            "{path}&watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={FLEET_KUBE_WATCH_S}"
        ));
        Some(KubeRequest::Watch { collection, watch: number, call })
    }

    /// Begins what the member asks.
    fn take(&mut self, now: Instant, request: FleetRequest) {
        match request {
            FleetRequest::Connect { session, .. } => {
                (self.session, self.connects) = (session, true);
                (self.operation, self.is_asked, self.watches) = (None, false, Default::default());
            }
            FleetRequest::Probe => self.operation = Some(Operation::Probe),
            FleetRequest::List => self.operation = Some(Operation::List(Listing::default(), 0)),
            FleetRequest::WatchFrom(_) if self.cursors.is_none() => self.compacted(now),
            FleetRequest::WatchFrom(_) => {
                self.leases.begin(now);
                self.watches.iter_mut().for_each(|watch| watch.state = KubeWatchState::Wanted);
            }
            // The lease is made by the first word that is put under it.
            FleetRequest::Grant => self.tell(now, FleetEvent::Granted(OWN_LEASE, LEASE)),
            FleetRequest::PutAlive(_, alive) => {
                self.operation = Some(self.operator.renew(alive.clone(), true));
                self.said = Some(alive);
            }
            FleetRequest::KeepAlive(_) => match self.said.clone() {
                Some(said) => self.operation = Some(self.operator.renew(said, false)),
                None => self.tell(now, FleetEvent::LeaseGone),
            },
            FleetRequest::Revoke(_) if self.operator.own.is_none() => self.tell(now, FleetEvent::Revoked),
            FleetRequest::Revoke(_) => self.operation = Some(Operation::Delete),
        }
    }

    /// When to poll again, if no event comes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_watches =
            self.watches.iter().filter(|_| self.is_live()).filter_map(|watch| match watch.state {
                KubeWatchState::Asked { until } => Some(until),
                _ => None,
            });
        let waits = self.is_live() && !self.is_asked && self.operation.is_some();
        let of_pause = self.pause_until.filter(|_| waits);
        of_watches.chain(of_pause).chain(self.member.poll_timeout()).min()
    }
}

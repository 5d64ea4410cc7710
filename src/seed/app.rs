//! The seed application: keeps payloads that are put and mirrored, serves FETCHes, and answers LOCATE with the nodes that hold a payload.
//!
//! One instance runs for each worker; all share one store, one memory tier and one directory. Other threads open, read, write and sync files: a
//! slow disk stops no request that does not need it.

use super::announce::Announcer;
use super::checking::Checking;
use super::directory::Directory;
use super::lister::Lister;
use super::mirror::Mirroring;
use super::opening::Openings;
use super::putting::Putting;
use super::repair::Repairs;
use super::serve::{AnswerSources, Servings};
use super::{Clocks, Lease, MemoryTier, Moment, Store, StoreError};
use super::{checking, writer};
use crate::application::{Application, Outbox, Received};
use crate::hop::Hops;
use crate::limits::{EXPIRY_INTERVAL_MS, WORKING_INTERVAL_MS};
use crate::queue::{
    Answer, AppPort, CloseReason, Command, ConnectionEvent, ConnectionId, Delivery, End, Ending, PeerRequest,
    RequestId,
};
use crate::record::{Coverage, ErrorCode, ErrorRecord, Have, Holder, Holders, Locate, Put, Request};
use crate::rights::StoreTerms;
use crate::tls::NodeId;
use crate::token::AnyToken;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The parts that the seed instances of all workers share.
#[derive(Clone, Debug)]
pub struct SeedParts {
    /// The store on disk.
    pub store: Arc<Store>,
    /// The memory tier: payload blocks in memory.
    pub memory: MemoryTier,
    /// The holdings of peer gateways.
    pub directory: Arc<Mutex<Directory>>,
    /// This node's ID among the holders that LOCATE reports. `None`: the node is not reported, unless `hops` has its ID.
    pub own: Option<NodeId>,
    /// The relay's hops, which tell which nodes are peer gateways. HAVEs of other nodes are ignored.
    pub hops: Option<Arc<Hops>>,
    /// The clocks for leases.
    pub clocks: Clocks,
}

impl SeedParts {
    /// A store of its own that knows of no other node.
    pub fn alone(store: Arc<Store>, memory: MemoryTier) -> Self {
        Self { store, memory, directory: Arc::default(), own: None, hops: None, clocks: Clocks::system() }
    }
}

/// The seed application.
pub struct Seed {
    pub(super) parts: SeedParts,
    /// Whether this is the instance of a node that looks after leases and announcements.
    leads: bool,
    /// Connections to nodes that showed a certificate. If a node has several, one to it as a peer gateway is preferred.
    pub(super) nodes: HashMap<NodeId, ConnectionId>,
    pub(super) putting: Putting,
    pub(super) servings: Servings,
    pub(super) openings: Openings,
    /// By the request number of each MIRROR, which owns the requests that its mirroring makes.
    pub(super) mirrors: BTreeMap<RequestId, Mirroring>,
    pub(super) lister: Lister,
    announcer: Announcer,
    pub(super) checking: Checking,
    pub(super) repairs: Repairs,
    expire_at: Option<Instant>,
    /// When peers are told next that their requests are worked on; `None`: no request takes its time.
    tell_at: Option<Instant>,
    /// While a command waits in it, no delivery is taken.
    pub(super) outbox: Outbox<RequestId>,
}

impl Seed {
    /// The instance of worker number `worker`.
    pub fn new(parts: SeedParts, worker: usize) -> Self {
        Self {
            parts,
            leads: worker == 0,
            nodes: HashMap::default(),
            putting: Putting::default(),
            servings: Servings::default(),
            openings: Openings::default(),
            mirrors: BTreeMap::new(),
            lister: Lister::default(),
            announcer: Announcer::default(),
            checking: Checking::default(),
            repairs: Repairs::default(),
            expire_at: None,
            tell_at: None,
            outbox: Outbox::default(),
        }
    }

    /// The store's time, for leases.
    pub(super) fn moment(&self, now: Instant) -> Moment {
        self.parts.store.moment(self.parts.clocks.read(now))
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.parts.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&mut self, port: &mut AppPort, command: Command) {
        self.outbox.send(port, command);
    }

    pub(super) fn refuse(
        &mut self,
        port: &mut AppPort,
        request: RequestId,
        code: ErrorCode,
        reason: impl Into<String>,
    ) {
        if request.is_own() {
            return self.not_repaired(request, &reason.into());
        }
        self.send(port, Command::refuse(request, ErrorRecord::new(code, 0, reason)));
    }

    pub(super) fn refuse_store(&mut self, port: &mut AppPort, request: RequestId, error: &StoreError) {
        if request.is_own() {
            return self.not_repaired(request, &error.to_string());
        }
        // The error's own text names paths, which peers must not see.
        tracing::warn!(%error, "a payload cannot be kept or read");
        if let Some(bound) = error.bound() {
            self.parts.store.note_refused(bound);
        }
        self.refuse(port, request, error.code(), error.for_peers());
    }

    pub(super) fn deliver(&mut self, now: Instant, port: &mut AppPort, delivery: Delivery) {
        if let Delivery::Asked(request, asked) = &delivery
            && matches!(asked.request, Request::Mirror(_))
            && asked.node.is_some()
            && let Some(token) = checking::unchecked(&self.parts.store, now, &asked.request)
        {
            let (store, request) = (&self.parts.store, *request);
            return self.checking.wait(store, now, port.waker(), token, (request, delivery));
        }
        match delivery {
            Delivery::Asked(request, asked) => self.asked(now, port, request, asked),
            Delivery::Piece { request, shard, piece, charge } => {
                self.received(now, port, request, (shard.map(|(_, blob)| blob), piece, charge));
            }
            Delivery::Ended(request, End::Checked) => self.received_all(now, port, request),
            Delivery::Ended(request, end) => {
                if matches!(&end, End::Failed(failure) if failure.code == ErrorCode::BadProof) {
                    self.hinted(now, port, request);
                }
                self.abandon(now, port, request);
            }
            Delivery::Stopped(request, ErrorCode::BadProof) => self.hinted(now, port, request),
            Delivery::Connection(connection, event) => self.event(now, port, connection, event),
            // The answers to a mirroring's requests go to its gathering, and the store forwards no request.
            Delivery::ConnectFailed { .. }
            | Delivery::Unreachable(_)
            | Delivery::Answered(..)
            | Delivery::Forward(..)
            | Delivery::Raw(..)
            | Delivery::Stopped(..) => {}
        }
    }

    fn event(&mut self, now: Instant, port: &mut AppPort, connection: ConnectionId, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected { node: Some(node), peer_gateway, .. } => {
                self.checking.connected(connection, node);
                if peer_gateway || !self.nodes.contains_key(&node) {
                    self.nodes.insert(node, connection);
                }
                if peer_gateway && self.leads {
                    self.announcer.connected(connection, now);
                }
            }
            ConnectionEvent::Have { node, have } => self.heard(now, connection, node, &have),
            ConnectionEvent::Closed { reason } => self.forget(now, port, connection, &reason),
            ConnectionEvent::Connected { node: None, .. }
            | ConnectionEvent::Message { .. }
            | ConnectionEvent::MessagesStopped { .. } => {}
        }
    }

    /// Takes a peer's request.
    fn asked(&mut self, now: Instant, port: &mut AppPort, request: RequestId, asked: Box<PeerRequest>) {
        if let Request::Put(Put { lease_s, .. }) = asked.request {
            return self.put(now, port, request, (asked, lease_s));
        }
        let PeerRequest { request: what, node, early, credit, terms } = *asked;
        match what {
            Request::Put(_) => {}
            Request::Fetch(fetch) => self.fetch(now, port, request, (fetch, early, credit)),
            Request::Locate(Locate { token }) => {
                let holders = Holders { holders: self.holders(now, &token) };
                self.send(port, Command::answer(request, Answer::Holders(holders)));
            }
            Request::Mirror(mirror) => self.mirror(now, port, request, (node, terms), mirror),
            Request::List(_) | Request::Stat(_) | Request::Remove(_) | Request::Renew(_) => {
                self.about_leases(now, port, request, (node, terms), what);
            }
        }
    }

    /// The lease of a payload that a peer puts or mirrors, on the peer's terms.
    pub(super) fn lease(
        &self,
        now: Instant,
        (node, terms): (Option<NodeId>, StoreTerms),
        lease_s: u64,
    ) -> Lease {
        if let Some(node) = node {
            self.parts.store.note_terms(node, terms);
        }
        let moment = self.moment(now);
        let expires_s = self.parts.store.config().expiry_on(terms, lease_s, moment.now_s);
        Lease::until(expires_s, node).in_epoch(if expires_s.is_some() { moment.epoch } else { 0 })
    }

    /// Forgets a connection and everything that belongs to it. A dropped writer removes its files.
    fn forget(&mut self, now: Instant, port: &mut AppPort, connection: ConnectionId, reason: &CloseReason) {
        self.nodes.retain(|_, known| *known != connection);
        self.announcer.closed(connection);
        self.checking.closed(connection);
        self.directory().closed(connection);
        self.putting.closed(connection);
        self.openings.closed(connection);
        self.lister.closed(connection);
        self.servings.forget(connection);
        self.outbox.closed(connection);
        let gone: Vec<_> =
            self.mirrors.extract_if(.., |request, _| request.connection == connection).collect();
        for (request, mut mirroring) in gone {
            mirroring.cancel(now, &mut self.outbox.asker(port, request));
            self.putting.drop_files(request);
        }
        self.mirrors.values_mut().for_each(|mirroring| mirroring.closed(connection, reason));
    }

    /// Ends a request that the peer has given up.
    fn abandon(&mut self, now: Instant, port: &mut AppPort, request: RequestId) {
        self.putting.abandon(request);
        self.openings.abandon(request);
        self.lister.abandon(request);
        self.checking.abandon(request);
        self.servings.remove(request);
        if let Some(mut mirroring) = self.mirrors.remove(&request) {
            mirroring.cancel(now, &mut self.outbox.asker(port, request));
            self.putting.drop_files(request);
        }
    }

    fn serve(&mut self, now: Instant, port: &mut AppPort) -> bool {
        if !self.outbox.is_empty() {
            return false;
        }
        let mut over = Vec::new();
        let sources = AnswerSources { memory: &self.parts.memory, store: &self.parts.store };
        let worked = self.servings.serve(sources, port, &mut over);
        for (request, token, result) in over {
            match result {
                Ok(()) => {
                    self.send(port, Command::End(request, Ending::Finish));
                    self.checking.served(request, token);
                }
                Err(error) => {
                    self.refuse_store(port, request, &error);
                    self.checking.look_into(&self.parts.store, now, port.waker(), token);
                }
            }
        }
        worked
    }

    /// The store's holding of `token`. `None` also if its lease may end before it can be extended.
    pub(super) fn holding(&self, token: &AnyToken, over_s: u64) -> Option<Coverage> {
        writer::holding(&self.parts.store, token, over_s)
    }

    /// This node's ID. A new key can change it while the node runs.
    pub(super) fn own(&self) -> Option<NodeId> {
        self.parts.hops.as_ref().map(|hops| hops.own()).or(self.parts.own)
    }

    /// The holders of `token`: this node first, then its peer gateways.
    pub(super) fn holders(&mut self, now: Instant, token: &AnyToken) -> Vec<Holder> {
        let Moment { now_s, up_s, .. } = self.moment(now);
        let own = self.own().and_then(|node| {
            let holding = self.parts.store.holding(token)?;
            let expires_s = holding.expires_s.map_or(0, |at| at.saturating_sub(now_s).max(1));
            Some(Holder { node, coverage: holding.coverage, expires_s })
        });
        let mut holders: Vec<_> = own.into_iter().chain(self.directory().holders(token, up_s)).collect();
        holders.truncate(crate::limits::HOLDERS_LEN_MAX);
        holders
    }

    fn heard(&mut self, now: Instant, connection: ConnectionId, node: NodeId, have: &Have) {
        if self.parts.hops.as_ref().is_some_and(|hops| hops.is_peer_gateway(&node)) {
            let up_s = self.moment(now).up_s;
            self.directory().heard(connection, node, have, up_s);
        }
    }

    /// Tells peers, if it is time, that the requests are worked on whose answers take their time: opening, writing, commits, checks, mirrors.
    fn tell_working(&mut self, now: Instant, port: &mut AppPort) {
        if self.tell_at.is_some_and(|at| at > now) {
            return;
        }
        let waiting = self.putting.waiting().chain(self.checking.waiting()).chain(self.lister.waiting());
        let slow = waiting
            .chain(self.openings.waiting())
            .chain(self.mirrors.keys().copied())
            .filter(|request| !request.is_own());
        let slow: Vec<_> = slow.collect();
        let next = (!slow.is_empty()).then_some(now + Duration::from_millis(WORKING_INTERVAL_MS));
        if std::mem::replace(&mut self.tell_at, next).is_some() {
            slow.into_iter().for_each(|request| self.send(port, Command::Working(request)));
        }
    }

    /// Ends leases that are over, has the scrub go on, and begins repairs, if it is time to look.
    fn expire(&mut self, now: Instant, port: &mut AppPort) {
        if !self.leads || self.expire_at.is_some_and(|at| at > now) {
            return;
        }
        self.expire_at = Some(now + Duration::from_millis(EXPIRY_INTERVAL_MS));
        let over_s = self.moment(now).over_s;
        for token in self.parts.store.expire(over_s) {
            if let AnyToken::Content(token) = token {
                self.parts.memory.forget(&token);
            }
        }
        // Those that made room, too.
        self.parts.store.sync_removals_later();
        let now_s = self.moment(now).now_s;
        self.parts.store.scrub((now_s, now), || self.checking.on_scrubbed(port.waker()));
        self.repair(now, port);
    }
}

impl Application for Seed {
    fn poll(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = self.take_written(now, port) | self.take_opened(now, port);
        worked |= self.take_checks(now, port) | self.take_listed(port);
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            match received {
                Received::Own(mirror, delivery) => {
                    if let Some(mirroring) = self.mirrors.get_mut(&mirror) {
                        mirroring.handle(now, delivery);
                    }
                }
                Received::Other(delivery) => self.deliver(now, port, delivery),
            }
        }
        if !self.mirrors.is_empty() {
            worked |= self.poll_mirrors(now, port);
        }
        if self.outbox.is_empty() {
            worked |= self.refuse_stalled(now, port);
        }
        self.expire(now, port);
        self.tell_working(now, port);
        if self.outbox.is_empty() && self.announcer.is_due(now) {
            let now_s = self.moment(now).now_s;
            worked |= self.announcer.poll(now, now_s, &self.parts.store, port);
        }
        worked | self.serve(now, port)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let mirrors = self.mirrors.values().filter_map(Mirroring::poll_timeout);
        let due = [self.expire_at, self.tell_at, self.announcer.poll_timeout(), self.putting.poll_timeout()];
        mirrors.chain(due.into_iter().flatten()).min()
    }
}

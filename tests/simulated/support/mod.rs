//! A gateway and its clients around one simulated switch, and the clock that drives them.
//!
//! Every host is turned at `now` until none has work; then `now` jumps to the next due time. Only the stores' threads run
//! in real time: the clock stands still while a request waits for them, and [`PATIENCE`] bounds the wait.

pub(crate) mod caller;
#[path = "../../data/mod.rs"]
mod data;
pub(crate) mod gathering;
mod hosts;
pub(crate) mod identities;
pub(crate) mod liar;
mod nic;
pub(crate) mod raw;
mod setup;
pub(crate) mod tap;
pub(crate) mod told;
mod verifier;

pub(crate) use data::{files, payload};
#[allow(unused_imports, reason = "the worlds bound it")]
pub(crate) use hosts::MEMORY_TIER_BYTES;
#[allow(unused_imports, reason = "the gateway's tests charge work")]
pub(crate) use hosts::WorkCosts;
pub(crate) use hosts::{ApplicationHost, station};
pub(crate) use identities::{gateway_node, identities, route, trust};
pub(crate) use setup::{Seeds, Setup};

use bytes::Bytes;
use caller::{Caller, Peer};
use hosts::{client, gateway};
use nic::StationNic;
use raw::RawPeer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::counters::Counter;
use stoq::datagram::user_space::UserSpace;
use stoq::nic::simulated::SimulatedLink;
use stoq::seed::Store;
use stoq::token::{EncodedPiece, Outboard, Ranges, Selection, Token, VerifiedEncoder};
use stoq::wire::Mac;
use tempfile::TempDir;

pub(crate) type Station = UserSpace<StationNic>;

/// Queues of the gateway's applications.
pub(crate) const SEED: u64 = 0;
pub(crate) const ECHO: u64 = 1;
pub(crate) const DISCARD: u64 = 2;
/// A queue of the discarding application whose payloads are not checked.
pub(crate) const UNCHECKED: u64 = 4;
/// The application whose rings the test itself holds: [`World::held`].
pub(crate) const HELD: u64 = 3;
/// A queue without an application.
pub(crate) const NOBODY: u64 = 99;

/// How long an event in real time may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most jumps of the clock in one [`World::run`].
const STEPS_MAX: usize = 400_000;

pub(crate) const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// The router of a fleet's network.
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 254];
pub(crate) const UDP_PORT: u16 = 4433;

/// A gateway, its clients, and the other stations of the switch.
pub(crate) struct World {
    pub(crate) link: SimulatedLink,
    second: Option<SimulatedLink>,
    pub(crate) now: Instant,
    pub(crate) gateway: ApplicationHost,
    /// The gateways beside the first.
    pub(crate) others: Vec<ApplicationHost>,
    pub(crate) clients: Vec<ApplicationHost>,
    pub(crate) raw: Vec<RawPeer>,
    /// The first gateway's store.
    pub(crate) store: Arc<Store>,
    /// All gateways' stores.
    pub(crate) stores: Vec<Arc<Store>>,
    directories: Vec<TempDir>,
    step: Duration,
    seeds: Seeds,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let made = || {
            let directory = TempDir::new().unwrap();
            (Arc::new(Store::open(directory.path(), setup.store).unwrap()), directory)
        };
        Self::on(&setup, (0..setup.gateways).map(|_| made()).collect())
    }

    /// A world whose gateways have these stores, each with its directory.
    pub(crate) fn on(setup: &Setup, stores: Vec<(Arc<Store>, TempDir)>) -> Self {
        let link = SimulatedLink::new(setup.link.clone());
        let now = Instant::now();
        let (stores, directories): (Vec<_>, Vec<_>) = stores.into_iter().unzip();
        let mut others: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(index, store)| gateway(&link, setup, index, store, now))
            .collect();
        let gateway = others.remove(0);
        let clients = (0..setup.clients).map(|index| client(&link, setup, index)).collect();
        let (store, raw) = (stores[0].clone(), Vec::new());
        let (step, seeds, second) = (setup.step, setup.seeds.clone(), setup.second.clone());
        Self { link, second, now, gateway, others, clients, raw, store, stores, directories, step, seeds }
    }

    /// A world of one client on a perfect link, and its connection.
    pub(crate) fn connected() -> (Self, Peer) {
        let mut world = Self::new(Setup::default());
        let peer = world.connect(0, gateway_v4());
        (world, peer)
    }

    /// Turns every host until none has work.
    fn settle(&mut self) {
        let (mut rounds, mut quiet) = (0, 0);
        while quiet < 2 {
            let mut worked = self.turn_gateways();
            for client in &mut self.clients {
                worked |= client.turn(self.now);
            }
            for raw in &mut self.raw {
                worked |= raw.turn(self.now);
            }
            quiet = if worked { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 200_000, "the workers never come to rest");
        }
    }

    /// Turns the gateways. In a world that is repeated by seeds, each waits for its store's threads: their pace decides nothing.
    fn turn_gateways(&mut self) -> bool {
        let mut worked = false;
        let gateways = [&mut self.gateway].into_iter().chain(&mut self.others);
        for (gateway, store) in gateways.zip(&self.stores) {
            worked |= gateway.turn(self.now);
            let begun = Instant::now();
            while self.seeds.are_given() && store.requests_waiting() > 0 {
                assert!(begun.elapsed() < PATIENCE, "a store's thread does not answer");
                std::thread::park_timeout(Duration::from_micros(50));
                worked |= gateway.turn(self.now);
            }
        }
        worked
    }

    /// The next due time, if there is one.
    fn next(&self) -> Option<Instant> {
        let hosts = self
            .clients
            .iter()
            .chain([&self.gateway])
            .chain(&self.others)
            .filter_map(|host| host.poll_timeout(self.now));
        let raw = self.raw.iter().filter_map(RawPeer::poll_timeout);
        let links = [Some(&self.link), self.second.as_ref()].into_iter().flatten();
        hosts.chain(raw).chain(links.filter_map(SimulatedLink::next_delivery)).min()
    }

    /// Lets the stores' threads finish what requests wait for: it takes no virtual time. A worker whose work takes virtual time looks at it later.
    #[track_caller]
    fn wait_for_stores(&mut self) {
        let begun = Instant::now();
        while self.stores.iter().any(|store| store.requests_waiting() > 0) && !self.gateway.is_busy(self.now)
        {
            assert!(begun.elapsed() < PATIENCE, "a store's thread does not answer\n{}", self.report());
            std::thread::park_timeout(Duration::from_micros(200));
            self.settle();
        }
    }

    /// Waits, in real time, until no file is being written.
    #[track_caller]
    pub(crate) fn store_at_rest(&mut self) {
        let begun = Instant::now();
        while !self.temporary().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{:?} stay", self.temporary());
            std::thread::park_timeout(Duration::from_micros(200));
            self.settle();
        }
    }

    /// Runs until `done`, for `limit` of virtual time at the most.
    #[track_caller]
    pub(crate) fn run(&mut self, limit: Duration, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until = self.now + limit;
        for steps in 0.. {
            assert!(steps < STEPS_MAX, "{what}: the clock crawls\n{}", self.report());
            self.settle();
            if done(self) {
                return;
            }
            self.wait_for_stores();
            if done(self) {
                return;
            }
            let next = self.next().unwrap_or(until);
            assert!(self.now < until, "{what}: not within {limit:?}\n{}", self.report());
            self.now = next.min(until).max(self.now + self.step);
        }
    }

    /// Lets virtual time pass.
    pub(crate) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        self.run(span + Duration::from_millis(1), "time passes", |world| world.now >= until);
    }

    /// Connects from a client's first worker.
    #[track_caller]
    pub(crate) fn connect(&mut self, client: usize, remote: SocketAddr) -> Peer {
        self.connect_from(client, 0, remote)
    }

    /// Connects from this worker of a client.
    #[track_caller]
    pub(crate) fn connect_from(&mut self, client: usize, worker: usize, remote: SocketAddr) -> Peer {
        let tag = self.clients[client].callers[worker].connect(remote);
        self.run(Duration::from_secs(20), "connect", |world| {
            let caller = &world.clients[client].callers[worker];
            caller.peer(tag).is_some() || caller.connect_failed.iter().any(|(failed, _)| *failed == tag)
        });
        let caller = &self.clients[client].callers[worker];
        let mut peer =
            caller.peer(tag).unwrap_or_else(|| panic!("not connected: {:?}", caller.connect_failed)).clone();
        peer.host = client;
        peer
    }

    /// Connects with early data if an earlier session allows it: then the handshake is not waited for.
    #[track_caller]
    pub(crate) fn connect_early(&mut self, client: usize, remote: SocketAddr) -> Peer {
        let tag = self.clients[client].callers[0].connect_early(remote);
        self.run(Duration::from_secs(20), "connect", |world| {
            world.clients[client].callers[0].peer(tag).is_some()
        });
        let mut peer = self.clients[client].callers[0].peer(tag).unwrap().clone();
        peer.host = client;
        peer
    }

    /// Replaces the first gateway by another process on another device, and waits until every peer has forgotten the old one.
    pub(crate) fn restart_gateway(&mut self) {
        let setup = Setup { device: 1, ..Setup::default() };
        self.gateway = gateway(&self.link, &setup, 0, &self.store, self.now);
        self.pass(Duration::from_secs(70));
    }

    /// Kills the first gateway's process and replaces it at once, with the same identity on the same device.
    pub(crate) fn kill_and_restart_gateway(&mut self, workers: usize) {
        self.kill_and_restart_gateway_as(&Setup { gateway_workers: workers, ..Setup::default() });
    }

    /// The same, with this part in a fleet and these workers.
    pub(crate) fn kill_and_restart_gateway_as(&mut self, setup: &Setup) {
        self.gateway = gateway(&self.link, setup, 0, &self.store, self.now);
    }

    /// Kills a gateway's process and replaces it at once by one with another store. Returns the killed one.
    #[allow(dead_code, reason = "gateways of the worlds crash")]
    pub(crate) fn replace_gateway(
        &mut self,
        setup: &Setup,
        index: usize,
        (store, directory): (Arc<Store>, TempDir),
    ) -> ApplicationHost {
        let new = gateway(&self.link, setup, index, &store, self.now);
        if index == 0 {
            self.store = store.clone();
        }
        (self.stores[index], self.directories[index]) = (store, directory);
        std::mem::replace(self.gateway(index), new)
    }

    /// The directory of a gateway's store.
    #[allow(dead_code, reason = "the worlds examine it")]
    pub(crate) fn directory(&self, index: usize) -> &Path {
        self.directories[index].path()
    }

    /// A gateway, counted from 0.
    pub(crate) fn gateway(&mut self, index: usize) -> &mut ApplicationHost {
        if index == 0 { &mut self.gateway } else { &mut self.others[index - 1] }
    }

    /// A counter of every gateway, in order.
    pub(crate) fn counts(&self, counter: Counter) -> Vec<u64> {
        [&self.gateway].into_iter().chain(&self.others).map(|gateway| gateway.count(counter)).collect()
    }

    /// Waits, in real time, until this holds: for the work of a gateway's own threads.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}\n{}", self.report());
            std::thread::park_timeout(Duration::from_micros(500));
            self.settle();
        }
    }

    /// Checks that no living gateway has a request left. Gateways drain for it: it is the last call of a test.
    #[track_caller]
    pub(crate) fn assert_free(&mut self) {
        for index in 0..self.stores.len() {
            self.gateway(index).shared.drain();
        }
        self.pass(Duration::from_secs(2));
        for index in 0..self.stores.len() {
            let gateway = self.gateway(index);
            let (dead, requests) = (gateway.dead, gateway.requests());
            assert!(dead || requests == 0, "gateway {index} has {requests} requests\n{}", self.report());
            self.wait("files stay", |world| {
                dead || world.open_in(index, "data") + world.open_in(index, "tmp") == 0
            });
        }
    }

    /// The client side of a connection.
    pub(crate) fn caller(&mut self, peer: &Peer) -> &mut Caller {
        &mut self.clients[peer.host].callers[usize::from(peer.connection.worker)]
    }

    /// The gateway's application on queue [`HELD`], on its first worker.
    pub(crate) fn held(&mut self) -> &mut Caller {
        &mut self.gateway.callers[0]
    }

    /// Puts a payload into the store and waits for its confirmation.
    #[track_caller]
    pub(crate) fn put(&mut self, peer: &Peer, payload: &[u8]) -> Token {
        let request = self.caller(peer).put(peer, SEED, payload);
        self.finish(peer, request);
        let end = self.caller(peer).request(request).end();
        let token = Token::of(payload);
        assert_eq!(end, caller::End::Done { bytes: payload.len() as u64, token: token.into() });
        token
    }

    /// Fetches ranges of a payload: every piece, in the order of its offset.
    #[track_caller]
    pub(crate) fn get(&mut self, peer: &Peer, token: Token, ranges: Ranges) -> Vec<(u64, Bytes)> {
        let request = self.caller(peer).fetch(peer, token, ranges);
        self.finish(peer, request);
        let request = self.caller(peer).request(request);
        assert_eq!(request.end(), caller::End::Complete);
        request.pieces.clone()
    }

    /// Runs until a request has ended, one way or the other.
    #[track_caller]
    pub(crate) fn finish(&mut self, peer: &Peer, request: stoq::queue::RequestId) {
        let peer = peer.clone();
        self.run(Duration::from_secs(120), "a request", |world| {
            world.caller(&peer).request(request).end.is_some()
        });
    }

    /// Sends a message to the echo application and waits for it to come back.
    #[track_caller]
    pub(crate) fn echo(&mut self, peer: &Peer, payload: &[u8]) {
        let before = self.caller(peer).messages.len();
        self.caller(peer).message(peer, ECHO, payload);
        let (peer, payload) = (peer.clone(), Bytes::copy_from_slice(payload));
        self.run(Duration::from_secs(60), "an echo", |world| world.caller(&peer).messages.len() > before);
        assert_eq!(self.caller(&peer).messages[before], (peer.connection, ECHO, payload));
    }

    /// Files of payloads that are kept, without their leases.
    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        let mut kept = files(&self.directories[0].path().join("data"));
        kept.retain(|path| path.extension().is_none_or(|kind| kind != "meta"));
        kept
    }

    /// Files of payloads that are being written.
    pub(crate) fn temporary(&self) -> Vec<PathBuf> {
        files(&self.directories[0].path().join("tmp"))
    }

    /// The number of payload files that this process has open: one for each that is being served.
    pub(crate) fn open_payloads(&self) -> usize {
        self.open_in(0, "data")
    }

    /// Waits, in real time, until no file of the gateway's payloads is open. A thread of the store may close the last one.
    #[track_caller]
    pub(crate) fn wait_for_closed_payloads(&mut self) {
        self.wait("payloads stay open", |world| world.open_payloads() == 0);
    }

    fn open_in(&self, gateway: usize, part: &str) -> usize {
        let data = self.directories[gateway].path().join(part);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(&data)))
            .count()
    }

    /// A report for a scenario that does not come to its end.
    pub(crate) fn report(&self) -> String {
        let mut text = format!("link: {:?}\n", self.link.stats());
        for (name, host) in [("gateway", &self.gateway)]
            .into_iter()
            .chain(self.others.iter().map(|other| ("other gateway", other)))
            .chain(self.clients.iter().map(|c| ("client", c)))
        {
            for status in &host.statuses {
                let counts = status.counters.snapshot().filter(|(_, value)| *value > 0);
                text += &format!("{name}: {:?}\n", counts.collect::<Vec<_>>());
            }
        }
        text
    }
}

pub(crate) fn gateway_v4() -> SocketAddr {
    gateway_address(0)
}

/// The IPv4 address of a gateway, counted from 0.
pub(crate) fn gateway_address(index: usize) -> SocketAddr {
    SocketAddr::new([10, 77, 0, index as u8 + 1].into(), UDP_PORT)
}

/// The address of all gateways of a fleet.
pub(crate) fn anycast_v4() -> SocketAddr {
    SocketAddr::new([203, 0, 113, 1].into(), UDP_PORT)
}

/// The same of IPv6.
pub(crate) fn anycast_v6() -> SocketAddr {
    SocketAddr::new("2001:db8:53::1".parse().unwrap(), UDP_PORT)
}

pub(crate) fn gateway_v6() -> SocketAddr {
    SocketAddr::new("fd77::1".parse().unwrap(), UDP_PORT)
}

/// The verified encoding of these ranges of a payload.
pub(crate) fn encoding(payload: &[u8], ranges: &Ranges) -> Vec<Bytes> {
    selected(payload, ranges.clone())
}

/// The verified encoding of a selection of a payload.
pub(crate) fn selected(payload: &[u8], selection: impl Into<Selection>) -> Vec<Bytes> {
    let (_, outboard) = Outboard::build(payload, payload.len() as u64).unwrap();
    let mut encoder = VerifiedEncoder::new(outboard, selection).unwrap();
    let (mut batch, mut encoded) = (Vec::new(), Vec::new());
    while !encoder.is_complete() {
        encoder.next_batch(1 << 20, &mut batch).unwrap();
        encoded.extend(batch.drain(..).map(|piece| match piece {
            EncodedPiece::Proof(hashes) => hashes,
            EncodedPiece::Data { offset, len } => Bytes::copy_from_slice(&payload[offset as usize..][..len]),
        }));
    }
    encoded
}

/// The bytes of pieces, which must follow each other.
#[track_caller]
pub(crate) fn joined(pieces: &[(u64, Bytes)]) -> Vec<u8> {
    let mut whole = Vec::new();
    let start = pieces.first().map_or(0, |(offset, _)| *offset);
    for (offset, bytes) in pieces {
        assert_eq!(*offset, start + whole.len() as u64, "pieces are in order, without gaps");
        whole.extend_from_slice(bytes);
    }
    whole
}

//! Whole worlds by seeds: gateways with stores on faulty disks, clients, hostile peers, and a link on which everything happens.
//!
//! A seed draws the world and its events: requests, and troubles. After each event the checks of `checks` hold. At the end the troubles
//! end, and every request must end too; then the stores are examined. Each test has a process of its own: what its allocator counts is the
//! world's (`memory`).
//!
//! The admin endpoint has no place in a world. It is of the crate `stoq-gateway`, which depends on this one, and serves TCP sockets of the
//! kernel on tokio's threads, in real time: a model of it here would test the model. `docs/security.md` names the tests of the real one.

mod checks;
mod events;
mod flights;
mod forging;
mod hostile;
mod memory;
mod observer;

use crate::disk::{Fault, FaultyDisk};
use crate::samples::samples;
use crate::seeds::{self, Mutant};
use crate::store::{Left, Promises, assert_charged, scratch};
use crate::support::caller::Peer;
use crate::support::liar::Lie;
use crate::support::{Seeds, Setup, World, gateway_address};
use bytes::Bytes;
use checks::Tally;
use hostile::{ATTACKS, Attack, Hostile};
use memory::{Baseline, JOURNAL_BYTES_MAX};
use observer::Observer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::limits::WINDOW_BYTES_MIN;
use stoq::nic::simulated::{LinkConfig, SimulatedNic};
use stoq::queue::RequestId;
use stoq::quic::transport::QuicConfig;
use stoq::seed::{Store, StoreConfig};
use stoq::shard::Lanes;
use stoq::token::Ranges;
use tempfile::TempDir;

/// Events of a world.
const EVENTS: usize = 40;
/// How long requests may take to end once the troubles are over: a connection to a dead gateway ends by its idle timeout.
const CALM: Duration = Duration::from_secs(120);
/// The sample about which a liar lies.
const LIED_ABOUT: usize = 3;

/// A request of a client that has not ended.
struct Open {
    peer: Peer,
    request: RequestId,
    /// The gateway that answers it.
    at: usize,
    asked: Asked,
    /// Pieces that were compared.
    compared: usize,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// The sample with this number.
    Sample(usize),
    /// These lanes of the set, which are put.
    Lanes(Lanes),
}

/// A world that a seed has drawn.
struct Simulation {
    seed: u64,
    memory: Baseline,
    random: StdRng,
    setup: Setup,
    world: World,
    begun: Instant,
    disks: Vec<Arc<FaultyDisk>>,
    /// What each gateway has confirmed.
    promises: Vec<Promises>,
    /// Each client's connection to each gateway: its tag, once it was asked for.
    connections: Vec<Vec<Option<u64>>>,
    open: Vec<Open>,
    /// Places at which requests may have been forwarded: those of their routes but the last.
    places: u64,
    /// Messages that each client has received and that were compared.
    messages: Vec<usize>,
    hostile: Vec<Hostile>,
    /// The attacks that were carried out.
    attacks: HashSet<Attack>,
    seen: Observer,
    /// The station of forged frames, and the number of these.
    forger: Option<SimulatedNic>,
    forged: u64,
    liar: Option<usize>,
    /// The number of crashes, and the counts of the gateways that crashed.
    crashes: usize,
    crashed: Tally,
    /// What the seed has drawn, in order.
    plan: blake3::Hasher,
    mutant: Option<Mutant>,
}

/// A store on a faulty disk.
fn open_store(
    directory: TempDir,
    seed: u64,
    config: StoreConfig,
    mutant: Option<Mutant>,
) -> (Arc<FaultyDisk>, (Arc<Store>, TempDir)) {
    let disk = FaultyDisk::new(directory.path(), seed, Fault::None, mutant.and_then(Mutant::on_disk))
        .with_journal_up_to(JOURNAL_BYTES_MAX);
    let disk = Arc::new(disk);
    let store = Store::open_on(directory.path(), config, disk.clone()).unwrap();
    (disk, (Arc::new(store), directory))
}

impl Simulation {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let gateways = random.random_range(1..=4);
        let is_ring = gateways > 2 && random.random();
        let mut setup = if is_ring { Setup::ring(gateways) } else { Setup::line(gateways) };
        let liar = (gateways > 1 && random.random_bool(0.3)).then_some(gateways - 1);
        if let Some(liar) = liar {
            let lies =
                [Lie::FlippedBit, Lie::WrongRange, Lie::Longer, Lie::Shorter, Lie::Empty, Lie::CutShort];
            let lie = lies[random.random_range(0..lies.len())];
            setup.liars = vec![(liar, lie, Bytes::from_static(&samples().payloads[LIED_ABOUT].bytes))];
        }
        setup.clients = random.random_range(1..=3);
        setup.cache = random.random();
        setup.store.capacity_bytes = random.random_bool(0.3).then_some(400_000);
        setup.window_budget_bytes = if random.random() { 64 << 20 } else { 0 };
        setup.step = Duration::from_micros(20);
        setup.link = LinkConfig { seed: random.random(), ..way(&mut random) };
        setup.seeds = Seeds::from(random.random());
        let windows_bytes = if random.random() { WINDOW_BYTES_MIN as u32 } else { 1 << 20 };
        let quic = QuicConfig {
            receive_window_bytes: windows_bytes,
            stream_receive_window_bytes: windows_bytes,
            send_window_bytes: windows_bytes,
            model_seed: Some(random.random()),
            ..QuicConfig::default()
        };
        (setup.gateway_quic, setup.client_quic) = (quic.clone(), quic);
        let opened: Vec<_> =
            (0..gateways).map(|_| open_store(scratch(), random.random(), setup.store, mutant)).collect();
        let (disks, stores) = opened.into_iter().unzip();
        let world = World::on(&setup, stores);
        let memory = Baseline::now();
        Self {
            seed,
            memory,
            begun: world.now,
            disks,
            promises: vec![Promises::new(); gateways],
            connections: vec![vec![None; gateways]; setup.clients],
            open: Vec::new(),
            places: 0,
            messages: vec![0; setup.clients],
            hostile: Vec::new(),
            attacks: HashSet::new(),
            seen: Observer::on(&world),
            forger: None,
            forged: 0,
            liar,
            crashes: 0,
            crashed: Tally::default(),
            plan: blake3::Hasher::new(),
            mutant,
            random,
            setup,
            world,
        }
    }

    /// Notes what happens now. `STOQ_TRACE=1` shows it.
    #[allow(clippy::print_stdout, reason = "a failing seed is read by its trace")]
    fn note(&self, what: impl Display) {
        if std::env::var_os("STOQ_TRACE").is_some() {
            println!("{:?} {what}", self.world.now - self.begun);
        }
    }

    /// Notes an event that the seed has drawn.
    fn draw(&mut self, what: impl Display) {
        let line = what.to_string();
        self.plan.update(line.as_bytes()).update(b"\n");
        self.note(line);
    }

    /// Lets up to this much time pass.
    fn pass(&mut self, ms_max: u64) {
        let span = Duration::from_micros(self.random.random_range(0..ms_max * 1000));
        self.world.pass(span);
    }

    /// A world from its beginning to its end; returns the digest of what the seed has drawn, and the attacks that were carried out.
    fn whole(seed: u64, mutant: Option<Mutant>) -> (blake3::Hash, HashSet<Attack>) {
        memory::warm_up();
        let before = Baseline::now();
        let over = Self::new(seed, mutant).run();
        before.assert_nothing_is_left();
        over
    }

    fn run(mut self) -> (blake3::Hash, HashSet<Attack>) {
        for number in 0..EVENTS {
            // What one event brings about changes no draw of the next.
            self.random = StdRng::seed_from_u64(self.seed ^ (number as u64) << 32);
            let ms_max = self.random.random_range(1..300);
            self.put_fault_in(number);
            self.event();
            self.pass(ms_max);
            self.look();
            self.bounds();
        }
        self.end();
        (self.plan.finalize(), self.attacks)
    }

    /// The mutants that are no fault of a disk.
    fn put_fault_in(&mut self, event: usize) {
        let caller = &mut self.world.clients[0].callers[0];
        match self.mutant {
            Some(Mutant::UncheckedGroup) => caller.unchecked = true,
            Some(Mutant::KeptDatagrams) => {
                (0..self.setup.gateways).for_each(|index| self.world.gateway(index).icmp.keep_datagrams());
            }
            Some(Mutant::LostWakeUp) if event == EVENTS / 2 => caller.deaf = true,
            _ => {}
        }
    }

    /// Ends the troubles: all requests end too, what was confirmed is served, and the stores are as they should be.
    fn end(&mut self) {
        self.note("the troubles end");
        let calm = |link: &mut LinkConfig| {
            *link = LinkConfig { mtu: link.mtu, delay: link.delay, ..LinkConfig::default() };
        };
        self.world.link.reconfigure(calm);
        self.setup.clock.set_ahead(0);
        for gateway in 0..self.setup.gateways {
            if self.disks[gateway].is_dead() {
                self.crash(gateway);
            }
        }
        self.dismiss_hostile();
        let until = self.world.now + CALM;
        while !self.is_over() {
            assert!(
                self.world.now < until,
                "requests do not end: {}\n{}",
                self.open.len(),
                self.world.report()
            );
            self.world.pass(Duration::from_millis(500));
            self.look();
        }
        self.serve();
        self.drain();
        self.world.assert_free();
        for gateway in 0..self.setup.gateways {
            assert_charged(self.world.directory(gateway), &self.world.stores[gateway]);
        }
        self.close();
        for gateway in 0..self.setup.gateways {
            self.examine(gateway);
        }
    }

    /// Gateways drain, and their own requests end.
    fn drain(&mut self) {
        let gateways = self.setup.gateways;
        for index in 0..gateways {
            self.world.gateway(index).shared.drain();
        }
        self.world.pass(Duration::from_millis(1));
        self.world.run(CALM, "the gateways' requests end", |world| {
            (0..gateways).all(|index| world.gateway(index).requests() == 0)
        });
    }

    /// Gets every payload that was confirmed.
    fn serve(&mut self) {
        for gateway in (0..self.setup.gateways).filter(|gateway| Some(*gateway) != self.liar) {
            let peer = self.world.connect(0, gateway_address(gateway));
            for sample in &samples().payloads {
                if self.promises[gateway].contains_key(&sample.token.into()) {
                    let pieces = self.world.get(&peer, sample.token, Ranges::all());
                    assert!(pieces.iter().flat_map(|(_, bytes)| bytes).eq(&sample.bytes));
                }
            }
            self.world.caller(&peer).disconnect(&peer);
        }
    }

    /// A gateway's process and its machine crash; another one begins with what is left of the disk.
    fn crash(&mut self, gateway: usize) {
        let left = self.examine(gateway);
        let (disk, opened) = open_store(left, self.random.random(), self.setup.store, self.mutant);
        let old = self.world.replace_gateway(&self.setup, gateway, opened);
        self.crashed.add(&old);
        if gateway == 0 {
            self.seen.watch(&self.world);
        }
        self.crashes += 1;
        self.disks[gateway] = disk;
    }

    /// Crashes the disk of a gateway and examines what is left; returns it.
    fn examine(&mut self, gateway: usize) -> TempDir {
        self.disks[gateway].crash();
        let directory = scratch();
        self.disks[gateway].survivors(directory.path(), self.random.random());
        let left = Left::open(directory, self.promises[gateway].clone(), 0);
        left.examine_as_it_is();
        left.close()
    }
}

/// What a link may do to frames.
fn way(random: &mut StdRng) -> LinkConfig {
    let delay = Duration::from_micros(random.random_range(50..20_000));
    let mut way = LinkConfig { delay, ..LinkConfig::default() };
    if random.random_bool(0.5) {
        way.loss = random.random_range(0.0..0.05);
    }
    if random.random_bool(0.3) {
        way.reordering = random.random_range(0.0..0.1);
        way.reordering_delay = delay;
    }
    if random.random_bool(0.3) {
        way.duplication = random.random_range(0.0..0.1);
    }
    if random.random_bool(0.3) {
        way.corruption = random.random_range(0.0..0.02);
    }
    if random.random_bool(0.2) {
        way.path_mtu = Some(random.random_range(1280..=1500));
    }
    way
}

#[test]
fn whole_worlds_keep_their_word_whatever_happens_in_them() {
    seeds::alone("whole::whole_worlds_keep_their_word_whatever_happens_in_them", || {
        let carried_out = RefCell::new(HashSet::new());
        let fixed = 1..101;
        seeds::run("worlds", fixed.clone(), |seed, mutant| {
            carried_out.borrow_mut().extend(Simulation::whole(seed, mutant).1);
        });
        let missing = ATTACKS.iter().filter(|attack| !carried_out.borrow().contains(attack));
        let missing: Vec<_> = missing.filter(|_| seeds::named().is_none()).collect();
        assert!(missing.is_empty(), "no world of {fixed:?} has these attacks: {missing:?}");
    });
}

#[test]
fn a_seed_draws_the_same_world_again() {
    seeds::alone("whole::a_seed_draws_the_same_world_again", || {
        for seed in 1..9 {
            let [first, second] = [(); 2].map(|()| Simulation::whole(seed, None).0);
            assert_eq!(first, second, "seed {seed}");
        }
    });
}

#[test]
fn the_seeds_of_the_worlds_catch_every_mutant() {
    seeds::alone("whole::the_seeds_of_the_worlds_catch_every_mutant", || {
        for mutant in Mutant::ALL {
            seeds::assert_caught(mutant, 1..61, |seed| {
                Simulation::whole(seed, Some(mutant));
            });
        }
    });
}

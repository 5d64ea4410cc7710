//! Paths drawn by chance: whatever a legal path does, no connection ends, everything arrives, and what a receiver holds stays bounded.
//!
//! `STOQ_PATHS=FROM..TO` draws the paths of these seeds instead of a few: thousands by hand, or the one that failed. Connection IDs, keys
//! and a controller's cycles are drawn anew in each run, so a seed that failed by a hair may pass the next time.

use crate::support::caller::{End, Peer};
use crate::support::{GATEWAY_MAC, HELD, SEED, Setup, World, gateway_v4, payload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::token::{Ranges, Token};
use stoq::wire::Mac;
use stoq::worker::ConnectionView;

/// The seeds of a run without `STOQ_PATHS`.
const SEEDS: Range<u64> = 1..97;
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 10];
/// How long a transfer may take in virtual time.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks at what the receivers hold.
const LOOK: Duration = Duration::from_millis(20);
/// No device sends less at once.
const BUFFER_BYTES_MIN: u64 = 30_000;

/// What befalls the path during one of its transfers.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Nothing passes for this long.
    Outage(Duration),
    /// From then on, larger packets are lost.
    Hole(u16),
}

/// A path that may exist, the ends' configuration, and what goes over it.
#[derive(Debug)]
struct Draw {
    forth: LinkConfig,
    back: LinkConfig,
    quic: QuicConfig,
    bytes: usize,
    message_bytes: usize,
    /// During which transfer, how long after its start, and what.
    trouble: Option<(usize, Duration, Trouble)>,
}

/// A number whose logarithm is as likely everywhere.
fn between(random: &mut StdRng, low: f64, high: f64) -> f64 {
    random.random_range(low.ln()..high.ln()).exp()
}

/// One way. `product_bytes` is the product of rate and round trip forth, by which the buffers of both ways are drawn.
fn way(random: &mut StdRng, bits_per_s: f64, delay: Duration, product_bytes: f64) -> LinkConfig {
    // A device sends bursts of this many packets; a buffer below them is no path that may exist.
    let buffer_bytes = (product_bytes * between(random, 0.1, 1.0)) as u64;
    let mut way = LinkConfig {
        delay,
        bandwidth_bits_per_s: Some(bits_per_s as u64),
        buffer_bytes: Some(buffer_bytes.max(BUFFER_BYTES_MIN)),
        ..LinkConfig::default()
    };
    if random.random_bool(0.5) {
        way.loss = between(random, 1e-4, 0.05);
    }
    if random.random_bool(0.3) {
        (way.burst, way.burst_len) = (between(random, 1e-5, 1e-3), random.random_range(2.0..50.0));
        // Fifty probes in a row that are lost, each after twice the time of the one before, would be an outage of hours.
        way.burst_time = Some(Duration::from_secs_f64(between(random, 1e-3, 1.0)));
    }
    if random.random_bool(0.4) {
        way.reordering = random.random_range(0.0..0.05);
        way.reordering_delay = delay.mul_f64(random.random_range(0.0..1.0));
    }
    if random.random_bool(0.1) {
        way.duplication = random.random_range(0.0..0.05);
    }
    way.mark_bytes = random.random_bool(0.2).then(|| buffer_bytes / random.random_range(2..20));
    way
}

fn quic(random: &mut StdRng, bits_per_s: f64) -> QuicConfig {
    let window = between(random, 256e3, 16e6) as u32;
    let kinds = [Congestion::Cubic, Congestion::Newreno, Congestion::Model, Congestion::Reserved];
    let congestion_control = kinds[random.random_range(0..4)];
    let mut quic = QuicConfig {
        stream_receive_window_bytes: window,
        receive_window_bytes: window,
        send_window_bytes: between(random, 256e3, 16e6) as u32,
        congestion_control,
        packet_threshold: random.random_range(3..=128),
        packets_per_ack: random.random_range(2..=64),
        mtu_discovery: random.random_bool(0.8),
        ..QuicConfig::default()
    };
    if random.random_bool(0.3) {
        // A first flight that no buffer holds.
        quic.initial_congestion_window_bytes = between(random, 100e3, 8e6) as u32;
    }
    if congestion_control == Congestion::Reserved || random.random_bool(0.1) {
        // The operator may have promised more than the path carries.
        quic.rate_bits_per_s = (bits_per_s * random.random_range(0.3..1.2)) as u64;
    }
    quic
}

fn draw(seed: u64) -> Draw {
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let bits_per_s = between(random, 1e8, 1e10);
    let delay = Duration::from_secs_f64(between(random, 50e-6, 0.1));
    let product_bytes = bits_per_s / 8.0 * (2 * delay).as_secs_f64();
    let mut forth = way(random, bits_per_s, delay, product_bytes);
    let back_share = if random.random_bool(0.5) { 1.0 } else { between(random, 0.001, 1.0) };
    let mut back = way(random, (bits_per_s * back_share).max(1e6), delay, product_bytes);
    let mut quic = quic(random, bits_per_s);
    let mtu = if random.random_bool(0.5) { 1500 } else { 9000 };
    let smaller = random.random_range(1280..=mtu);
    if random.random_bool(0.2) {
        (forth.path_mtu, back.path_mtu) = (Some(smaller), Some(smaller));
    } else if random.random_bool(0.2) {
        quic.initial_udp_payload_bytes = 0;
    }
    let trouble = random.random_bool(0.4).then(|| {
        let trouble = match random.random_bool(0.5) {
            true => Trouble::Outage(Duration::from_secs_f64(random.random_range(0.05..4.0))),
            false => Trouble::Hole(random.random_range(1280..=mtu)),
        };
        (random.random_range(0..3), delay.mul_f64(random.random_range(0.0..10.0)), trouble)
    });
    (forth.mtu, forth.seed, back.mtu) = (mtu, random.random(), mtu);
    let (bytes, message_bytes) = (between(random, 1e3, 4e6) as usize, between(random, 100.0, 64e3) as usize);
    Draw { forth, back, quic, bytes, message_bytes, trouble }
}

/// A transfer over a drawn path.
struct Passage<'a> {
    world: World,
    peer: Peer,
    draw: &'a Draw,
    transfers: usize,
    /// The most that a receiver held, bytes.
    held: u64,
}

impl<'a> Passage<'a> {
    fn new(draw: &'a Draw) -> Self {
        let link = LinkConfig { mtu: draw.forth.mtu, seed: draw.forth.seed, ..LinkConfig::default() };
        let (gateway_quic, client_quic) = (draw.quic.clone(), draw.quic.clone());
        let step = Duration::from_micros(20);
        let mut world = World::new(Setup { link, gateway_quic, client_quic, step, ..Setup::default() });
        let peer = world.connect(0, gateway_v4());
        world.link.reconfigure_from(CLIENT_MAC, |way| *way = draw.forth.clone());
        world.link.reconfigure_from(GATEWAY_MAC, |way| *way = draw.back.clone());
        Self { world, peer, draw, transfers: 0, held: 0 }
    }

    /// Runs until this holds; meanwhile the connection lives and the receivers hold no more than their windows.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut World, &Peer) -> bool) {
        let number = self.transfers;
        self.transfers += 1;
        if let Some((during, after, trouble)) = self.draw.trouble
            && during == number
        {
            self.world.pass(after);
            match trouble {
                Trouble::Outage(span) => {
                    self.world.link.set_up(false);
                    self.world.pass(span);
                    self.world.link.set_up(true);
                }
                Trouble::Hole(mtu) => self.world.link.reconfigure(|way| {
                    way.path_mtu = Some(way.path_mtu.map_or(mtu, |before| before.min(mtu)));
                }),
            }
        }
        let (peer, held) = (&self.peer, &mut self.held);
        let mut look = (self.world.now, None);
        self.world.run(PATIENCE, what, |world| {
            assert_eq!(world.caller(peer).closed(peer), None, "{what}");
            if world.now >= look.0 + LOOK {
                type Views = Vec<ConnectionView>;
                let asked: Option<[Box<dyn FnOnce() -> Views>; 2]> = look.1.take();
                let views = asked.into_iter().flatten().flat_map(|answer| answer());
                *held = views.map(|view| view.held_bytes).fold(*held, u64::max);
                let ask = |host: &crate::support::ApplicationHost| {
                    Box::new(host.inspect()) as Box<dyn FnOnce() -> Views>
                };
                look = (world.now, Some([ask(&world.gateway), ask(&world.clients[0])]));
            }
            done(world, peer)
        });
        // A packet of 1,200 bytes costs 128 more where it is held; QUIC tells of credit in parts of the window.
        let bound = u64::from(self.draw.quic.receive_window_bytes) * 3 / 2;
        assert!(self.held <= bound, "{what}: {} bytes were held, of at most {bound}", self.held);
    }

    fn request(&mut self, what: &str, request: stoq::queue::RequestId) -> End {
        self.until(what, |world, peer| world.caller(peer).request(request).end.is_some());
        self.world.caller(&self.peer).request(request).end()
    }

    fn put(&mut self, bytes: &[u8]) {
        let request = self.world.caller(&self.peer).put(&self.peer, SEED, bytes);
        let token = Token::of(bytes).into();
        assert_eq!(self.request("a PUT", request), End::Done { bytes: bytes.len() as u64, token });
    }

    fn get(&mut self, bytes: &[u8]) {
        let request = self.world.caller(&self.peer).fetch(&self.peer, Token::of(bytes), Ranges::all());
        assert_eq!(self.request("a GET", request), End::Complete);
        let got = &self.world.caller(&self.peer).request(request).pieces;
        assert!(crate::support::joined(got) == bytes, "a GET gave other bytes");
    }

    fn messages(&mut self, bytes: &[u8]) {
        let messages: Vec<&[u8]> = bytes.chunks(self.draw.message_bytes).collect();
        for message in &messages {
            self.world.caller(&self.peer).message(&self.peer, HELD, message);
        }
        self.until("messages", |world, _| world.held().messages.len() >= messages.len());
        let got = &self.world.held().messages;
        assert!(
            got.len() == messages.len() && got.iter().zip(&messages).all(|((.., got), sent)| got == sent)
        );
    }
}

fn pass(draw: &Draw) {
    let mut passage = Passage::new(draw);
    let bytes = payload(draw.bytes);
    passage.put(&bytes);
    passage.get(&bytes);
    passage.messages(&bytes[..bytes.len().min(1000 * draw.message_bytes)]);
}

/// The seeds that `STOQ_PATHS` names.
fn seeds() -> Range<u64> {
    let Ok(given) = std::env::var("STOQ_PATHS") else { return SEEDS };
    let read = || given.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    read().filter(|seeds: &Range<u64>| !seeds.is_empty()).unwrap_or_else(|| {
        panic!("STOQ_PATHS={given} names no seeds: write STOQ_PATHS=1..2001 for two thousand, 17..18 for one")
    })
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that fails shows its paths")]
fn paths_of_every_kind_end_no_connection() {
    let failed: Vec<u64> = seeds()
        .filter(|&seed| {
            let draw = draw(seed);
            let failed = catch_unwind(AssertUnwindSafe(|| pass(&draw))).is_err();
            if failed {
                println!("the panic above is of seed {seed}: {draw:?}");
            }
            failed
        })
        .collect();
    assert!(
        failed.is_empty(),
        "paths failed; repeat the first with STOQ_PATHS={}..{}: {failed:?}",
        failed[0],
        failed[0] + 1
    );
}

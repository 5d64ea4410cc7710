//! Long paths: delay, a drop-tail buffer, losses and disorder. No legal path ends a connection.

use crate::support::caller::{End, Peer};
use crate::support::{DISCARD, HELD, SEED, Setup, World, gateway_v4, joined, payload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::DELIVERY_RING_LEN;
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::token::{Ranges, Token};

/// The controller whose slow start doubles until packets are lost.
const DOUBLING: Congestion = Congestion::Newreno;
/// Enough to overflow the buffer in slow start, bytes.
const PAYLOAD_BYTES: usize = 40 << 20;
/// How long a transfer may take in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

/// A path with this one-way delay and a buffer of `products` bandwidth-delay products.
fn path(bits_per_s: u64, delay: Duration, products: f64) -> LinkConfig {
    let product_bytes = bits_per_s as f64 / 8.0 * (2 * delay).as_secs_f64();
    LinkConfig {
        delay,
        bandwidth_bits_per_s: Some(bits_per_s),
        buffer_bytes: Some((product_bytes * products) as u64),
        ..LinkConfig::default()
    }
}

/// A world whose link becomes this path once its one client is connected.
fn over(path: LinkConfig) -> (World, Peer) {
    over_with(path, QuicConfig::default().congestion_control)
}

/// The same, where both ends have this congestion control.
fn over_with(path: LinkConfig, congestion_control: Congestion) -> (World, Peer) {
    let quic = QuicConfig { congestion_control, ..QuicConfig::default() };
    let step = Duration::from_micros(10);
    let mut world =
        World::new(Setup { gateway_quic: quic.clone(), client_quic: quic, step, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.link.reconfigure(|link| *link = LinkConfig { mtu: link.mtu, ..path.clone() });
    (world, peer)
}

fn put(world: &mut World, peer: &Peer, bytes: &[u8]) -> Token {
    let request = world.caller(peer).put(peer, SEED, bytes);
    ends(world, peer, request);
    let token = Token::of(bytes);
    let end = world.caller(peer).request(request).end();
    assert_eq!(end, End::Done { bytes: bytes.len() as u64, token: token.into() });
    token
}

fn get(world: &mut World, peer: &Peer, token: Token, bytes: &[u8]) {
    let request = world.caller(peer).fetch(peer, token, Ranges::all());
    ends(world, peer, request);
    let request = world.caller(peer).request(request);
    assert_eq!(request.end(), End::Complete);
    assert!(joined(&request.pieces) == bytes, "a GET gave other bytes");
}

fn send_messages(world: &mut World, peer: &Peer, bytes: &[u8]) {
    let before = world.gateway.count(Counter::RecordsIn);
    let messages: Vec<&[u8]> = bytes.chunks(64 << 10).collect();
    for message in &messages {
        world.caller(peer).message(peer, DISCARD, message);
    }
    let all = before + messages.len() as u64;
    world.run(PATIENCE, "messages", |world| {
        assert_eq!(world.caller(peer).closed(peer), None);
        world.gateway.count(Counter::RecordsIn) >= all
    });
}

fn ends(world: &mut World, peer: &Peer, request: stoq::queue::RequestId) {
    world.run(PATIENCE, "a request", |world| {
        assert_eq!(world.caller(peer).closed(peer), None);
        world.caller(peer).request(request).end.is_some()
    });
}

#[test]
fn slow_start_that_overflows_the_buffer_ends_no_put_and_no_get() {
    let (mut world, peer) = over_with(path(1_000_000_000, Duration::from_millis(25), 1.0), DOUBLING);
    let bytes = payload(PAYLOAD_BYTES);
    let token = put(&mut world, &peer, &bytes);
    assert!(world.link.stats().tail_dropped > 1024, "{:?}", world.link.stats());
    get(&mut world, &peer, token, &bytes);
}

#[test]
fn slow_start_that_overflows_the_buffer_ends_no_messages() {
    let (mut world, peer) = over_with(path(1_000_000_000, Duration::from_millis(25), 1.0), DOUBLING);
    send_messages(&mut world, &peer, &payload(PAYLOAD_BYTES));
    assert!(world.link.stats().tail_dropped > 1024, "{:?}", world.link.stats());
}

#[test]
fn a_flight_full_of_gaps_ends_no_stream_whose_consumer_sleeps() {
    // Everything that the windows allow leaves in one flight.
    let client_quic = QuicConfig { initial_congestion_window_bytes: 64 << 20, ..QuicConfig::default() };
    let step = Duration::from_micros(10);
    let mut world = World::new(Setup { client_quic, step, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.held().deaf = true;
    let bytes = payload(PAYLOAD_BYTES);
    // The first messages fill the ring: nothing is read when the others arrive.
    let small = vec![&b"small"[..]; DELIVERY_RING_LEN];
    for message in &small {
        world.caller(&peer).message(&peer, HELD, message);
    }
    world.pass(Duration::from_secs(1));
    world.link.reconfigure(|link| (link.delay, link.loss) = (Duration::from_millis(25), 0.3));
    let messages: Vec<&[u8]> = bytes.chunks(8000).collect();
    for message in &messages {
        world.caller(&peer).message(&peer, HELD, message);
    }
    world.pass(Duration::from_secs(1));
    world.link.reconfigure(|link| link.loss = 0.0);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.caller(&peer).closed(&peer), None);
    assert!(world.link.stats().lost > 2048 && world.gateway.count(Counter::RingStalls) > 0);
    // The sender fills the connection's window, which QUIC updates in parts, and no more.
    let quic = QuicConfig::default();
    let bound = u64::from(quic.receive_window_bytes) * 9 / 8;
    let taken = world.gateway.count(Counter::RxBytes);
    assert!(taken < bound, "the gateway holds {taken} bytes, more than its window");
    world.held().deaf = false;
    let all = small.len() + messages.len();
    world.run(PATIENCE, "everything arrives", |world| world.held().messages.len() == all);
    let sent = small.iter().chain(&messages);
    assert!(world.held().messages.iter().zip(sent).all(|((_, _, got), sent)| got == sent));
}

/// How many paths a run draws.
const PATHS: u64 = 24;
const FIRST_SEED: u64 = 1;

/// A path that may exist.
fn draw(random: &mut StdRng) -> LinkConfig {
    let bits_per_s = 10_f64.powf(random.random_range(7.7..9.3)) as u64;
    let delay = Duration::from_secs_f64(10_f64.powf(random.random_range(-3.0..-1.0)));
    let mut way = path(bits_per_s, delay, 10_f64.powf(random.random_range(-1.3..0.3)));
    // A path whose buffer does not hold a burst of ten packets is not realistic.
    way.buffer_bytes = way.buffer_bytes.map(|bytes| bytes.max(30_000));
    way.seed = random.random();
    if random.random_bool(0.5) {
        way.loss = 10_f64.powf(random.random_range(-4.0..-1.3));
    }
    if random.random_bool(0.3) {
        way.burst = 10_f64.powf(random.random_range(-4.5..-3.5));
        way.burst_len = random.random_range(2.0..30.0);
    }
    if random.random_bool(0.5) {
        way.reordering = random.random_range(0.0..0.05);
        way.reordering_delay = delay.mul_f64(random.random_range(0.0..0.5));
    }
    way
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that fails shows its path")]
fn paths_of_every_kind_end_no_connection() {
    for seed in FIRST_SEED..FIRST_SEED + PATHS {
        let mut random = StdRng::seed_from_u64(seed);
        let way = draw(&mut random);
        // A failing test shows its path.
        println!("seed {seed}: {way:?}");
        let (mut world, peer) = over(way);
        let bytes = payload(random.random_range(1..6 << 20));
        let token = put(&mut world, &peer, &bytes);
        get(&mut world, &peer, token, &bytes);
        send_messages(&mut world, &peer, &bytes[..bytes.len().min(1 << 20)]);
    }
}

#[test]
fn a_path_that_is_out_for_seconds_ends_no_connection() {
    let (mut world, peer) = over(path(100_000_000, Duration::from_millis(25), 1.0));
    let bytes = payload(8 << 20);
    let request = world.caller(&peer).put(&peer, SEED, &bytes);
    world.pass(Duration::from_millis(300));
    world.link.set_up(false);
    world.pass(Duration::from_secs(3));
    world.link.set_up(true);
    ends(&mut world, &peer, request);
}

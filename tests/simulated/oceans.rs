//! Long paths: delay, a drop-tail buffer, losses and disorder. No legal path ends a connection.

use crate::support::caller::{End, Peer};
use crate::support::{DISCARD, HELD, SEED, Setup, World, gateway_v4, joined, payload};
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

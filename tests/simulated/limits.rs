//! What limits a connection: each limit is provoked on purpose, and is what its connection spends its time under.

use crate::support::caller::Peer;
use crate::support::{DISCARD, HELD, Setup, World, gateway_v4, payload};
use std::time::Duration;
use stoq::limits::{BATCHES_PER_TURN_MAX, DELIVERY_RING_LEN};
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::send_limit::{LimitTimes, SendLimit};
use stoq::worker::ConnectionView;

const MESSAGE_BYTES: usize = 64 << 10;
/// How long a limit is watched.
const SPAN: Duration = Duration::from_secs(2);

/// 100 Mbit/s with a round trip of 40 ms, and a buffer that holds as much as the path.
fn path() -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(20),
        bandwidth_bits_per_s: Some(100_000_000),
        buffer_bytes: Some(500_000),
        ..LinkConfig::default()
    }
}

fn over(link: LinkConfig, gateway_quic: QuicConfig, client_quic: QuicConfig) -> (World, Peer) {
    let step = Duration::from_micros(10);
    let mut world = World::new(Setup { link, gateway_quic, client_quic, step, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    (world, peer)
}

fn send(world: &mut World, peer: &Peer, queue: u64, bytes: usize) {
    for message in payload(bytes).chunks(MESSAGE_BYTES) {
        world.caller(peer).message(peer, queue, message);
    }
}

/// The client's connection, looked at now.
fn view(world: &mut World) -> ConnectionView {
    let told = world.clients[0].inspect();
    world.pass(Duration::from_millis(1));
    let mut seen = told();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

/// The time under each limit in [`SPAN`] from now on, and the limit at its end.
fn watched(world: &mut World) -> (LimitTimes, SendLimit) {
    let before = view(world).limited_s;
    world.pass(SPAN);
    let after = view(world);
    (after.limited_s.since(&before), after.limit)
}

/// Sends more than the path carries in the span, and checks that this limit has most of it.
#[track_caller]
fn assert_limited_by(world: &mut World, peer: &Peer, limit: SendLimit) {
    send(world, peer, DISCARD, 40 << 20);
    world.pass(Duration::from_secs(1));
    let (times, _) = watched(world);
    assert!(times.shares().first().is_some_and(|(most, share)| *most == limit && *share > 0.6), "{times:?}");
}

fn cubic() -> QuicConfig {
    QuicConfig { congestion_control: Congestion::Cubic, ..QuicConfig::default() }
}

#[test]
fn a_connection_with_nothing_to_send_is_limited_by_its_application() {
    let (mut world, peer) = over(path(), QuicConfig::default(), QuicConfig::default());
    send(&mut world, &peer, DISCARD, 1 << 20);
    world.pass(Duration::from_secs(1));
    let (times, limit) = watched(&mut world);
    assert_eq!(
        (limit, times.of(SendLimit::Application) >= SPAN),
        (SendLimit::Application, true),
        "{times:?}"
    );
}

#[test]
fn a_full_congestion_window_is_seen() {
    let (mut world, peer) = over(LinkConfig { loss: 0.01, ..path() }, cubic(), cubic());
    assert_limited_by(&mut world, &peer, SendLimit::Congestion);
}

#[test]
fn the_peers_flow_control_is_seen() {
    // 256 KiB a round trip are half of what the path carries.
    let window = 256 << 10;
    let small = QuicConfig { stream_receive_window_bytes: window, ..cubic() };
    let (mut world, peer) = over(path(), small, cubic());
    assert_limited_by(&mut world, &peer, SendLimit::Peer);
    let small = QuicConfig { receive_window_bytes: window, receive_window_max_bytes: window, ..cubic() };
    let (mut world, peer) = over(path(), small, cubic());
    assert_limited_by(&mut world, &peer, SendLimit::Peer);
}

#[test]
fn a_consumer_that_sleeps_is_the_peer() {
    let small = QuicConfig { stream_receive_window_bytes: 256 << 10, ..QuicConfig::default() };
    let (mut world, peer) = over(path(), small, QuicConfig::default());
    world.held().deaf = true;
    // The first messages fill the ring: nothing is read after them.
    for _ in 0..DELIVERY_RING_LEN {
        world.caller(&peer).message(&peer, HELD, b"small");
    }
    send(&mut world, &peer, HELD, 2 << 20);
    world.pass(Duration::from_secs(2));
    let (times, limit) = watched(&mut world);
    assert!(limit == SendLimit::Peer && times.of(SendLimit::Peer) >= SPAN, "{times:?}");
}

#[test]
fn the_send_window_is_seen() {
    let window = 256 << 10;
    let small = QuicConfig { send_window_bytes: window, send_window_max_bytes: window, ..cubic() };
    let (mut world, peer) = over(path(), cubic(), small);
    assert_limited_by(&mut world, &peer, SendLimit::Window);
}

#[test]
fn the_operators_rate_is_pacing() {
    for congestion_control in [Congestion::Reserved, Congestion::Cubic] {
        let slow = QuicConfig { congestion_control, rate_bits_per_s: 20_000_000, ..QuicConfig::default() };
        let (mut world, peer) = over(path(), QuicConfig::default(), slow);
        assert_limited_by(&mut world, &peer, SendLimit::Pacing);
    }
}

/// A client whose device takes one batch a turn.
fn slow_device() -> (World, Peer) {
    let link = LinkConfig { bandwidth_bits_per_s: None, buffer_bytes: None, ..path() };
    let quic = QuicConfig { initial_congestion_window_bytes: 16 << 20, ..cubic() };
    let (world, peer) = over(link, quic.clone(), quic);
    world.clients[0].icmp.slow_the_device();
    (world, peer)
}

#[test]
fn a_device_that_takes_no_more_is_seen() {
    let (mut world, peer) = slow_device();
    assert_limited_by(&mut world, &peer, SendLimit::Device);
}

#[test]
fn the_workers_bound_on_a_connections_batches_is_seen() {
    // After its last batch the connection waits for the other connections: for the worker, not for the device.
    let (mut world, peer) = slow_device();
    send(&mut world, &peer, DISCARD, 40 << 20);
    world.pass(Duration::from_secs(1));
    let (times, _) = watched(&mut world);
    let share = times.of(SendLimit::Worker).as_secs_f64() / SPAN.as_secs_f64();
    let once_in = BATCHES_PER_TURN_MAX as f64;
    assert!((0.9 / once_in..1.1 / once_in).contains(&share), "{times:?}");
}

#[test]
fn the_totals_of_a_worker_are_those_of_its_connections() {
    let (mut world, peer) = over(LinkConfig { loss: 0.01, ..path() }, cubic(), cubic());
    send(&mut world, &peer, DISCARD, 4 << 20);
    world.pass(Duration::from_secs(3));
    let (seen, totals) = (view(&mut world).limited_s, world.clients[0].limited());
    for limit in SendLimit::ALL {
        let (of_one, of_all) = (seen.of(limit), totals.of(limit));
        // The totals are up to a second late.
        assert!(
            of_all <= of_one && of_one - of_all < Duration::from_millis(1100),
            "{limit:?}: {seen:?}, {totals:?}"
        );
    }
}

//! Paths that carry less than their devices, from the start or from some time on.

use crate::support::caller::Peer;
use crate::support::{DISCARD, SEED, Setup, World, gateway_v4, payload};
use std::time::{Duration, Instant};
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::quic::transport::QuicConfig;
use stoq::worker::ConnectionView;

const DEVICE_MTU: u16 = 9000;
const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES: usize = 64 << 10;
/// IPv4 and UDP.
const HEADERS_BYTES: u16 = 28;

/// 100 Mbit/s with this round trip and a buffer that holds as much as the path.
fn path(rtt: Duration) -> LinkConfig {
    let bits_per_s = 100_000_000;
    LinkConfig {
        mtu: DEVICE_MTU,
        delay: rtt / 2,
        bandwidth_bits_per_s: Some(bits_per_s),
        buffer_bytes: Some((bits_per_s as f64 / 8.0 * rtt.as_secs_f64()) as u64),
        ..LinkConfig::default()
    }
}

fn world(link: LinkConfig, initial_udp_payload_bytes: u16) -> World {
    let quic = QuicConfig { initial_udp_payload_bytes, ..QuicConfig::default() };
    let step = Duration::from_micros(20);
    World::new(Setup { link, gateway_quic: quic.clone(), client_quic: quic, step, ..Setup::default() })
}

/// The client's connection, as its worker sees it.
fn view(world: &mut World) -> ConnectionView {
    let answer = world.clients[0].inspect();
    world.pass(Duration::from_millis(1));
    answer().remove(0)
}

/// Sends messages, until this holds; gives the virtual time that it took.
fn send_until(
    world: &mut World,
    peer: &Peer,
    what: &str,
    mut done: impl FnMut(&ConnectionView) -> bool,
) -> Duration {
    let begun = world.now;
    loop {
        assert!(world.now < begun + PATIENCE, "{what}: {:?}\n{}", view(world), world.report());
        send_for(world, peer, Duration::from_millis(20));
        if done(&view(world)) {
            return world.now - begun;
        }
    }
}

/// Keeps the connection busy for this span; gives the bytes that arrived.
fn send_for(world: &mut World, peer: &Peer, span: Duration) -> u64 {
    let message = payload(MESSAGE_BYTES);
    let arrived = |world: &World| world.gateway.count(Counter::RecordsIn);
    let (until, before): (Instant, u64) = (world.now + span, arrived(world));
    while world.now < until {
        // More than the path holds is always waiting.
        let waiting = world.clients[0].count(Counter::RecordsOut) - arrived(world);
        for _ in waiting..48 {
            world.caller(peer).message(peer, DISCARD, &message);
        }
        world.pass(Duration::from_millis(5));
    }
    (arrived(world) - before) * MESSAGE_BYTES as u64
}

#[test]
fn a_search_whose_probes_are_lost_is_no_congestion() {
    for initial in [1200, 0] {
        let mut world =
            world(LinkConfig { path_mtu: Some(1500), ..path(Duration::from_millis(20)) }, initial);
        let peer = world.connect(0, gateway_v4());
        world.put(&peer, &payload(100_000));
        world.pass(Duration::from_secs(3));
        let (stats, view) = (world.link.stats(), view(&mut world));
        assert!(stats.too_large >= 6, "{initial}: {stats:?}");
        assert_eq!((view.lost_packets, view.congestion_events), (0, 0), "{initial}: {view:?}");
    }
}

#[test]
fn the_search_ends_close_below_what_the_path_carries() {
    for mtu in [1500, 4000, 8000, 9000] {
        let mut world = world(LinkConfig { path_mtu: Some(mtu), ..path(Duration::from_millis(20)) }, 1200);
        let peer = world.connect(0, gateway_v4());
        world.put(&peer, &payload(1000));
        world.pass(Duration::from_secs(3));
        let found = view(&mut world).mtu_bytes;
        let most = mtu - HEADERS_BYTES;
        let step = (DEVICE_MTU - HEADERS_BYTES - 1200) / 32;
        assert!(found <= most && most - found <= step, "{found} of {most}");
    }
}

#[test]
fn the_devices_size_is_reached_within_seven_round_trips_across_an_ocean() {
    let rtt = Duration::from_millis(100);
    for (initial, rounds) in [(1200, 7), (0, 2)] {
        let mut world = world(path(rtt), initial);
        let peer = world.connect(0, gateway_v4());
        world.pass(rtt * rounds);
        assert_eq!(view(&mut world).mtu_bytes, DEVICE_MTU - HEADERS_BYTES, "{initial}");
        world.put(&peer, &payload(1000));
    }
}

#[test]
fn a_path_smaller_than_the_port_that_was_promised_is_used_within_three_seconds() {
    for rtt in [Duration::from_millis(10), Duration::from_millis(200)] {
        let mut world = world(LinkConfig { path_mtu: Some(1500), ..path(rtt) }, 0);
        let begun = world.now;
        let peer = world.connect(0, gateway_v4());
        let request = world.caller(&peer).put(&peer, SEED, &payload(1 << 20));
        world.finish(&peer, request);
        let took = world.now - begun;
        assert!(took < Duration::from_secs(3), "{took:?} at {rtt:?}");
    }
}

#[test]
fn a_black_hole_is_found_within_seconds_and_is_one_loss() {
    // Two probe timeouts, which the full buffer makes longer.
    for rtt in [20, 100, 200].map(Duration::from_millis) {
        let mut world = world(path(rtt), 1200);
        let peer = world.connect(0, gateway_v4());
        // Probes that a full buffer swallows would end the search early.
        world.pass(rtt * 8);
        // The search ends up to a step below the device's size where its last probe is lost.
        send_until(&mut world, &peer, "the device's size", |view| view.mtu_bytes >= 8972 - 243);
        let full = send_for(&mut world, &peer, Duration::from_secs(2));
        world.link.reconfigure(|link| link.path_mtu = Some(1500));
        let found = send_until(&mut world, &peer, "the hole is found", |view| view.mtu_bytes <= 1472);
        assert!(found < Duration::from_secs(2), "{found:?} at {rtt:?}");
        send_for(&mut world, &peer, Duration::from_secs(1));
        let after = send_for(&mut world, &peer, Duration::from_secs(2));
        assert!(after * 10 > full * 8, "{after} of {full} bytes in two seconds at {rtt:?}");
        // What the path carries now is searched for soon.
        send_until(&mut world, &peer, "the new size", |view| view.mtu_bytes > 1400);
        assert_eq!(world.caller(&peer).closed(&peer), None);
    }
}

//! Handshakes that end early because their packets do not arrive. A local obstacle ends them at once, ICMP only if a
//! second flight meets the same answer (RFC 9000 §21.5, RFC 8085 §5.2).

use crate::support::{GATEWAY_MAC, World, gateway_v4, gateway_v6};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use stoq::counters::Counter;
use stoq::datagram::Obstacle;
use stoq::limits::UNREACHABLE_AGREE_MS;

/// Less than the time until the first flight is sent again.
const AGREED: Duration = Duration::from_millis(UNREACHABLE_AGREE_MS);

/// A client that knows the gateway's station, and the tag of a handshake that it has begun and that the gateway cannot answer.
fn begun() -> (World, u64) {
    let (mut world, peer) = World::connected();
    world.caller(&peer).disconnect(&peer);
    world.run(Duration::from_secs(5), "it is closed", |world| world.gateway.connections() == 0);
    world.link.mute(GATEWAY_MAC);
    let tag = world.clients[0].callers[0].connect(gateway_v4());
    world.pass(Duration::from_millis(1));
    (world, tag)
}

fn tell(world: &World, destination: SocketAddr, obstacle: Obstacle) {
    world.clients[0].icmp.tell(destination, obstacle);
}

/// Why the handshake ended, if it has.
fn failure(world: &World, tag: u64) -> Option<&str> {
    let failed = world.clients[0].callers[0].connect_failed.iter().find(|(of, _)| *of == tag);
    failed.map(|(_, reason)| reason.as_str())
}

/// Lets time pass until `at`.
fn until(world: &mut World, at: Instant) {
    let span = at - world.now;
    world.pass(span);
}

#[test]
fn one_icmp_message_ends_nothing_and_the_handshake_completes_when_the_gateway_is_back() {
    let (mut world, tag) = begun();
    tell(&world, gateway_v4(), Obstacle::PortClosed);
    world.pass(Duration::from_millis(500));
    assert_eq!(failure(&world, tag), None);
    world.link.unmute(GATEWAY_MAC);
    world
        .run(Duration::from_secs(10), "it connects", |world| world.clients[0].callers[0].peer(tag).is_some());
}

#[test]
fn icmp_about_one_flight_ends_nothing_however_often_it_arrives() {
    let (mut world, tag) = begun();
    let first = world.now;
    for step in 0..10 {
        until(&mut world, first + AGREED * step / 10 + Duration::from_millis(1));
        tell(&world, gateway_v4(), Obstacle::Prohibited);
    }
    world.pass(Duration::from_millis(1));
    assert!(world.now < first + AGREED);
    assert_eq!(failure(&world, tag), None);
}

#[test]
fn the_same_answer_to_the_next_flight_ends_the_handshake_with_its_text() {
    for obstacle in [Obstacle::PortClosed, Obstacle::Prohibited, Obstacle::NoWay] {
        let (mut world, tag) = begun();
        tell(&world, gateway_v4(), obstacle.clone());
        world.pass(AGREED - Duration::from_millis(1));
        assert_eq!(failure(&world, tag), None);
        world.pass(Duration::from_millis(2));
        tell(&world, gateway_v4(), obstacle.clone());
        world.pass(Duration::from_millis(1));
        assert_eq!(failure(&world, tag), Some(&*obstacle.to_string()));
        assert_eq!(world.clients[0].count(Counter::HandshakesClientFailed), 1);
        world.run(Duration::from_secs(5), "nothing is left", |world| world.clients[0].connections() == 0);
    }
}

#[test]
fn a_local_obstacle_ends_a_handshake_at_once() {
    for obstacle in [Obstacle::NoRoute, Obstacle::Forbidden, Obstacle::Local("no buffer".into())] {
        let (mut world, tag) = begun();
        tell(&world, gateway_v4(), obstacle.clone());
        world.pass(Duration::from_millis(1));
        assert_eq!(failure(&world, tag), Some(&*obstacle.to_string()));
    }
}

#[test]
fn a_report_about_another_destination_ends_nothing() {
    let (mut world, tag) = begun();
    let mut port = gateway_v4();
    port.set_port(port.port() + 1);
    for other in [gateway_v6(), port] {
        tell(&world, other, Obstacle::NoRoute);
    }
    world.pass(Duration::from_millis(500));
    assert_eq!(failure(&world, tag), None);
}

#[test]
fn no_report_ends_an_established_connection() {
    let (mut world, peer) = World::connected();
    for obstacle in [Obstacle::PortClosed, Obstacle::NoRoute, Obstacle::Prohibited] {
        for _ in 0..3 {
            tell(&world, gateway_v4(), obstacle.clone());
            world.pass(AGREED * 2);
        }
    }
    assert_eq!(world.caller(&peer).closed(&peer), None);
    let bytes = crate::support::payload(10_000);
    world.put(&peer, &bytes);
}

//! Gateways and clients with two ports each, on two switches: packets leave by the port that the route names, and connections go on when it changes.

use crate::support::caller::{End, Peer};
use crate::support::{GATEWAY_MAC, SEED, Setup, UDP_PORT, World, gateway_v4, gateway_v6, joined, payload};
use std::net::SocketAddr;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::{LinkConfig, SimulatedLink};
use stoq::token::{Ranges, Token};

/// Numbers of workers, of the queues of the first port where they are fewer, and the family.
const WORKERS: [(usize, Option<usize>, Family); 5] = [
    (1, None, gateway_v4),
    (2, None, gateway_v6),
    (4, None, gateway_v4),
    (4, Some(2), gateway_v6),
    (8, Some(1), gateway_v4),
];

type Family = fn() -> SocketAddr;

/// The gateway's address at its second port.
fn second_v4() -> SocketAddr {
    SocketAddr::new([10, 78, 0, 1].into(), UDP_PORT)
}

fn slow() -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(2),
        bandwidth_bits_per_s: Some(200_000_000),
        ..LinkConfig::default()
    }
}

/// A world of two switches, and its links.
fn world(setup: Setup) -> (World, [SimulatedLink; 2]) {
    let second = SimulatedLink::new(slow());
    let world = World::new(Setup { link: slow(), second: Some(second.clone()), ..setup });
    let links = [world.link.clone(), second];
    (world, links)
}

fn delivered(links: &[SimulatedLink; 2]) -> [u64; 2] {
    [0, 1].map(|at: usize| links[at].stats().delivered)
}

/// Nothing was dropped at the gateway for its address or its route, and its one connection is open. A packet that is still on its way by the
/// old port when its peer retires its connection ID is lost, and sent again.
fn assert_open(world: &mut World, peer: &Peer) {
    assert_eq!(world.caller(peer).closed(peer), None);
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), 1);
    for counter in [Counter::DropForeign, Counter::DropNoRoute, Counter::DropNoBuffer] {
        assert_eq!(world.gateway.count(counter), 0, "{counter:?}: {}", world.report());
    }
    world.echo(peer, b"and on it goes");
}

/// Takes the first link down in the middle of a transfer, and up again later: `reached` tells parts of eight.
fn lose_and_mend(world: &mut World, links: &[SimulatedLink; 2], mut reached: impl FnMut(&mut World) -> u64) {
    let within = Duration::from_secs(60);
    world.run(within, "over the first port", |world| reached(world) >= 2);
    let [_, before] = delivered(links);
    assert_eq!(before, 0, "the second port is not used yet");
    links[0].set_up(false);
    world.run(within, "over the second port", |world| reached(world) >= 4);
    let [lost, _] = delivered(links);
    assert!(delivered(links)[1] > 300, "{:?}", delivered(links));
    world.run(within, "still over the second port", |world| reached(world) >= 5);
    assert_eq!(delivered(links)[0], lost, "the first link is down");
    links[0].set_up(true);
    world.run(within, "over the first port again", |world| reached(world) >= 7);
    assert!(delivered(links)[0] > lost + 200, "{:?}", delivered(links));
}

#[test]
fn a_put_goes_on_by_the_other_port_while_a_link_is_down() {
    for (workers, gateway_queues, address) in WORKERS {
        let (mut world, links) =
            world(Setup { gateway_workers: workers, gateway_queues, ..Setup::default() });
        let peer = world.connect(0, address());
        let bytes = payload(4 << 20);
        let put = world.caller(&peer).put(&peer, SEED, &bytes);
        let part = bytes.len() as u64 / 8;
        lose_and_mend(&mut world, &links, |world| world.gateway.count(Counter::VerifiedBytes) / part);
        assert!(world.caller(&peer).request(put).end.is_none(), "each change was in the middle");
        world.finish(&peer, put);
        let token = Token::of(&bytes).into();
        assert_eq!(world.caller(&peer).request(put).end(), End::Done { bytes: bytes.len() as u64, token });
        assert_open(&mut world, &peer);
    }
}

#[test]
fn a_get_goes_on_by_the_other_port_while_a_link_is_down() {
    for (workers, gateway_queues, address) in WORKERS {
        let (mut world, links) =
            world(Setup { gateway_workers: workers, gateway_queues, ..Setup::default() });
        let peer = world.connect(0, address());
        let bytes = payload(4 << 20);
        let token = world.put(&peer, &bytes);
        let get = world.caller(&peer).fetch(&peer, token, Ranges::all());
        let (part, asker) = (bytes.len() as u64 / 8, peer.clone());
        lose_and_mend(&mut world, &links, |world| world.caller(&asker).request(get).bytes() as u64 / part);
        assert!(world.caller(&peer).request(get).end.is_none(), "each change was in the middle");
        world.finish(&peer, get);
        assert_eq!(world.caller(&peer).request(get).end(), End::Complete);
        assert!(joined(&world.caller(&peer).request(get).pieces) == bytes);
        assert_open(&mut world, &peer);
    }
}

#[test]
fn each_client_is_answered_by_the_port_that_its_network_is_on() {
    let (mut world, links) = world(Setup { gateway_workers: 2, clients: 2, ..Setup::default() });
    let first = world.connect(0, gateway_v4());
    world.echo(&first, b"by the first port");
    let [at_first, at_second] = delivered(&links);
    assert!(at_first > 0 && at_second == 0, "{at_first} {at_second}");
    let second = world.connect(1, second_v4());
    world.echo(&second, b"by the second port");
    let at_second = delivered(&links)[1];
    assert!(at_second > 0);
    let token = world.put(&second, &payload(1 << 20));
    assert!(delivered(&links)[1] > at_second + 500);
    assert!(
        delivered(&links)[0] < at_first + 50,
        "keep-alive and acknowledgments alone: {:?}",
        delivered(&links)
    );
    // Both are served by one gateway, whose store is the same at each port.
    assert_eq!(joined(&world.get(&first, token, Ranges::all())), payload(1 << 20));
}

#[test]
fn a_port_whose_device_takes_nothing_does_not_hold_up_the_other() {
    let (mut world, links) = world(Setup { clients: 2, ..Setup::default() });
    let [held, free] = [world.connect(0, gateway_v4()), world.connect(1, second_v4())];
    let bytes = payload(8 << 20);
    let token = world.put(&free, &bytes);
    let get = world.caller(&held).fetch(&held, token, Ranges::all());
    world
        .run(Duration::from_secs(10), "its first part", |world| world.caller(&held).request(get).bytes() > 0);
    links[0].hold(GATEWAY_MAC);
    assert!(joined(&world.get(&free, token, Ranges::all())) == bytes);
    assert!(world.caller(&held).request(get).end.is_none(), "it waits for its port");
    assert_eq!(world.gateway.count(Counter::DropNoBuffer), 0, "nothing is sent to a port that is full");
    links[0].release(GATEWAY_MAC);
    world.finish(&held, get);
    assert_eq!(world.caller(&held).request(get).end(), End::Complete);
}

//! Clients whose port, address or family changes in the middle of a transfer, while their datagrams land on other queues.

use crate::support::caller::{End, Peer};
use crate::support::{GATEWAY_MAC, SEED, Setup, World, gateway_v4, joined, payload};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::token::{Ranges, Token};

const WORKERS: usize = 4;

/// A gateway of four workers, a client, and the queue on which the client's datagrams land.
fn world() -> (World, Peer, Arc<AtomicUsize>) {
    let link = LinkConfig {
        delay: Duration::from_millis(2),
        bandwidth_bits_per_s: Some(200_000_000),
        ..LinkConfig::default()
    };
    let mut world = World::new(Setup { link, gateway_workers: WORKERS, ..Setup::default() });
    let queue = Arc::new(AtomicUsize::new(0));
    let at = queue.clone();
    world.link.steer(GATEWAY_MAC, move |_, _| at.load(Relaxed));
    let peer = world.connect(0, gateway_v4());
    (world, peer, queue)
}

/// Where the client is seen after each of its moves: another port, another address, the other family, and back.
fn moves() -> Vec<SocketAddr> {
    ["10.77.0.10:20000", "10.77.0.77:4433", "[fd77::77]:5000", "[fd77::78]:5000", "10.77.0.10:4433"]
        .map(|address| address.parse().unwrap())
        .into()
}

/// Moves the client each time that this holds for the number of moves so far, until no move is left.
fn move_along(
    world: &mut World,
    queue: &AtomicUsize,
    what: &str,
    mut reached: impl FnMut(&mut World, usize) -> bool,
) {
    for (number, address) in moves().into_iter().enumerate() {
        world.run(Duration::from_secs(20), what, |world| reached(world, number + 1));
        queue.store((number + 1) % WORKERS, Relaxed);
        world.gateway.icmp.show([10, 77, 0, 10].into(), address);
        // The path is validated: the connection stays there.
        world.pass(Duration::from_millis(30));
        let view = world.gateway.inspect_worker(0);
        world.pass(Duration::from_millis(1));
        let view = view();
        assert_eq!(view.len(), 1);
        assert_eq!(view[0].remote, address, "{}", world.report());
    }
}

fn assert_moved(world: &mut World, peer: &Peer) {
    assert_eq!(world.caller(peer).closed(peer), None);
    assert_eq!(world.gateway.connections_of(0), 1);
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), 1);
    let gateway = &world.gateway;
    for worker in 1..WORKERS {
        assert!(gateway.count_of(worker, Counter::HandoversOut) > 0, "it landed on queue {worker}");
    }
    assert_eq!(gateway.count(Counter::HandoversIn), gateway.count(Counter::HandoversOut));
    assert_eq!(gateway.count(Counter::DropHandoverFull) + gateway.count(Counter::DropNoConnection), 0);
    world.echo(peer, b"and on it goes");
}

#[test]
fn a_put_goes_on_from_another_port_address_and_family_on_other_queues() {
    let (mut world, peer, queue) = world();
    let bytes = payload(6 << 20);
    let put = world.caller(&peer).put(&peer, SEED, &bytes);
    let part = bytes.len() as u64 / 8;
    move_along(&mut world, &queue, "the put goes on", |world, number| {
        world.gateway.count(Counter::VerifiedBytes) > part * number as u64
    });
    assert!(world.caller(&peer).request(put).end.is_none(), "each move was in the middle");
    world.finish(&peer, put);
    let token = Token::of(&bytes).into();
    assert_eq!(world.caller(&peer).request(put).end(), End::Done { bytes: bytes.len() as u64, token });
    assert_moved(&mut world, &peer);
}

#[test]
fn a_get_goes_on_to_another_port_address_and_family_on_other_queues() {
    let (mut world, peer, queue) = world();
    let bytes = payload(6 << 20);
    let token = world.put(&peer, &bytes);
    let get = world.caller(&peer).fetch(&peer, token, Ranges::all());
    let (part, asker) = (bytes.len() / 8, peer.clone());
    move_along(&mut world, &queue, "the get goes on", |world, number| {
        world.caller(&asker).request(get).bytes() > part * number
    });
    assert!(world.caller(&peer).request(get).end.is_none(), "each move was in the middle");
    world.finish(&peer, get);
    assert_eq!(world.caller(&peer).request(get).end(), End::Complete);
    assert!(joined(&world.caller(&peer).request(get).pieces) == bytes);
    assert_moved(&mut world, &peer);
}

//! More workers than the device has queues: its flows are spread in software, and each worker carries its part.

use crate::support::caller::Peer;
use crate::support::{GATEWAY_MAC, Setup, UDP_PORT, World, gateway_v4, gateway_v6, joined, payload};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::rss::{RSS_TABLE_LEN, Rss, RssKey};
use stoq::nic::simulated::LinkConfig;
use stoq::token::Ranges;
use stoq::wire::ethernet::Ethernet;
use stoq::wire::ip::{Addresses, Ip};

const WORKERS: usize = 4;
const CLIENTS: usize = 24;

fn setup(queues: usize, link: LinkConfig) -> Setup {
    let link = LinkConfig { delay: Duration::from_micros(500), ..link };
    Setup {
        link,
        gateway_workers: WORKERS,
        gateway_queues: Some(queues),
        clients: CLIENTS,
        ..Setup::default()
    }
}

/// The worker that the hash names for the datagrams of a client to an address of the gateway.
fn predicted(client: usize, gateway: SocketAddr) -> usize {
    let number = 10 + client as u8;
    let source: IpAddr = match gateway {
        SocketAddr::V4(_) => [10, 77, 0, number].into(),
        SocketAddr::V6(_) => [0xfd77, 0, 0, 0, 0, 0, 0, number.into()].into(),
    };
    let addresses = Addresses::new(source, gateway.ip()).unwrap();
    let ethernet = Ethernet {
        destination: GATEWAY_MAC,
        source: [2, 0, 0, 0, 0, number],
        vlan: None,
        protocol: addresses.ethernet_protocol(),
    };
    let ip = Ip::outgoing(addresses, 17.into());
    let (l2, l3) = (ethernet.encoded_len(), ip.encoded_len());
    let mut frame = vec![0; l2 + l3 + 8];
    ethernet.emit(&mut frame);
    ip.emit(8, &mut frame[l2..]);
    frame[l2 + l3..l2 + l3 + 2].copy_from_slice(&UDP_PORT.to_be_bytes());
    frame[l2 + l3 + 2..l2 + l3 + 4].copy_from_slice(&gateway.port().to_be_bytes());
    Rss::new(&RssKey::known(), RSS_TABLE_LEN).queue(&frame, WORKERS).unwrap()
}

fn address_of(client: usize) -> SocketAddr {
    if client.is_multiple_of(2) { gateway_v4() } else { gateway_v6() }
}

fn connected(world: &mut World) -> Vec<Peer> {
    (0..CLIENTS).map(|client| world.connect(client, address_of(client))).collect()
}

/// What the workers passed on and took adds up; each polls its queue, if it has one.
fn assert_counts(world: &World, queues: usize) {
    let gateway = &world.gateway;
    assert_eq!(gateway.count(Counter::SpreadOut), gateway.count(Counter::SpreadIn));
    assert_eq!(gateway.count(Counter::DropSpreadFull), 0);
    assert_eq!(gateway.count(Counter::SpreadSent), gateway.count(Counter::TxPackets));
    for worker in queues..WORKERS {
        let count = |counter| gateway.count_of(worker, counter);
        assert_eq!((count(Counter::SpreadOut), count(Counter::SpreadSent)), (0, 0), "worker {worker}");
        assert_eq!(count(Counter::SpreadIn), count(Counter::RxPackets), "worker {worker} has no queue");
    }
}

#[test]
fn four_workers_on_one_queue_all_carry_connections() {
    let mut world = World::new(setup(1, LinkConfig::default()));
    // All workers have the same room: the first connection stays where its datagrams arrive.
    world.connect(0, address_of(0));
    let gateway = &world.gateway;
    assert_eq!(gateway.connections_of(predicted(0, address_of(0))), 1);
    assert_eq!(
        gateway.count(Counter::HandoversOut),
        0,
        "both datagrams of its first flight reached one worker"
    );
    let peers = connected(&mut world);
    let gateway = &world.gateway;
    let seen = [0, 1, 2, 3].map(|worker| gateway.connections_of(worker));
    assert!(seen.iter().all(|&connections| connections > 0), "no worker idles: {seen:?}");

    for (client, peer) in peers.iter().enumerate() {
        let bytes = payload(50_000 + client);
        let token = world.put(peer, &bytes);
        assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
        world.echo(peer, &payload(1000));
    }
    assert_counts(&world, 1);
}

#[test]
fn two_queues_for_four_workers_keep_half_of_the_frames_where_they_arrive() {
    let mut world = World::new(setup(2, LinkConfig::default()));
    let peers = connected(&mut world);
    for (client, peer) in peers.iter().enumerate() {
        world.echo(peer, &payload(30_000 + client));
    }
    assert_counts(&world, 2);
    for (client, _) in peers.iter().enumerate() {
        let worker = predicted(client, address_of(client));
        assert!(world.gateway.connections_of(worker) > 0);
    }
    // The device chooses queue `w % 2` for the flows of worker `w`.
    for owner in 0..2 {
        let given = world.gateway.count_of(owner, Counter::SpreadOut);
        assert_eq!(given, world.gateway.count_of(owner + 2, Counter::SpreadIn));
    }
}

#[test]
fn a_lossy_link_and_a_shared_queue_lose_no_byte() {
    let link =
        LinkConfig { seed: 7, loss: 0.02, reordering: 0.05, duplication: 0.01, ..LinkConfig::default() };
    let mut world = World::new(setup(1, link));
    let peers = connected(&mut world);
    for (client, peer) in peers.iter().enumerate().take(8) {
        let bytes = payload(200_000 + client);
        let token = world.put(peer, &bytes);
        assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
    }
    assert_counts(&world, 1);
}

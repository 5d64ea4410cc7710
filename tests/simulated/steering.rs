//! Several workers: on whichever queue a datagram lands, its connection has one owner, and everything works.

use crate::support::caller::Peer;
use crate::support::{GATEWAY_MAC, Setup, World, gateway_v4, gateway_v6, joined, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::token::Ranges;

fn setup() -> Setup {
    let link = LinkConfig { delay: Duration::from_micros(500), ..LinkConfig::default() };
    Setup { link, gateway_workers: 2, client_workers: 2, ..Setup::default() }
}

/// The first byte of a frame's UDP payload, if it has one.
fn first_byte(frame: &[u8]) -> Option<u8> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(14 + 20 + 8).copied(),
        [0x86, 0xdd] => frame.get(14 + 40 + 8).copied(),
        _ => None,
    }
}

/// RFC 9000 §17.2: a long header of type Initial.
fn is_initial(frame: &[u8]) -> bool {
    first_byte(frame).is_some_and(|first| first & 0xb0 == 0x80)
}

fn use_everything(world: &mut World, peer: &Peer, len: usize) {
    let bytes = payload(len);
    let token = world.put(peer, &bytes);
    assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
    for len in [0, 100, 65_536] {
        world.echo(peer, &payload(len));
    }
}

#[test]
fn datagrams_on_the_wrong_queue_are_handed_to_the_owner() {
    // Of two connections that begin on one queue, the second would be placed at the other worker.
    for (remote, len) in [(gateway_v4(), 400_000), (gateway_v6(), 400_001)] {
        let mut world = World::new(setup());
        // The handshake begins on the first queue; everything after its first packets lands on the second.
        world.link.steer(GATEWAY_MAC, |frame, _| usize::from(!is_initial(frame)));
        let peer = world.connect(0, remote);
        use_everything(&mut world, &peer, len);
        let gateway = &world.gateway;
        assert_eq!((gateway.connections_of(0), gateway.connections_of(1)), (1, 0));
        assert_eq!(gateway.count_of(1, Counter::HandoversOut), gateway.count_of(0, Counter::HandoversIn));
        assert!(gateway.count_of(0, Counter::HandoversIn) > 250, "nearly everything came by the wrong queue");
        assert_eq!(gateway.count_of(0, Counter::HandoversOut), 0);
        assert_eq!(gateway.count(Counter::DropHandoverFull), 0);
        assert_eq!(gateway.count(Counter::ConnectionsOpened), 1);
        for caller in &gateway.callers {
            assert!(caller.peers.iter().all(|peer| peer.connection.worker == 0));
        }
    }
}

#[test]
fn a_flow_that_moves_from_queue_to_queue_keeps_its_connections() {
    let mut world = World::new(setup());
    let peers = [world.connect_from(0, 0, gateway_v4()), world.connect_from(0, 1, gateway_v4())];
    let mut count = 0;
    world.link.steer(GATEWAY_MAC, move |_, queues| {
        count += 1;
        count % queues
    });
    for (peer, len) in peers.iter().zip([300_000, 300_001]) {
        use_everything(&mut world, peer, len);
    }
    let gateway = &world.gateway;
    assert!(gateway.count(Counter::HandoversIn) > 0);
    assert_eq!(gateway.count(Counter::HandoversIn), gateway.count(Counter::HandoversOut));
    assert_eq!(gateway.count(Counter::DropHandoverFull), 0);
    assert_eq!(gateway.connections(), 2);
}

#[test]
fn a_client_of_two_workers_gets_its_answers_on_whichever_queue_they_arrive() {
    let mut world = World::new(setup());
    // Both connections of the client share one address and port: the switch cannot tell their datagrams apart.
    let peers = [world.connect_from(0, 0, gateway_v4()), world.connect_from(0, 1, gateway_v6())];
    world.link.steer([2, 0, 0, 0, 0, 10], |_, _| 1);
    for (peer, len) in peers.iter().zip([300_000, 300_001]) {
        use_everything(&mut world, peer, len);
    }
    let client = &world.clients[0];
    assert!(client.count_of(0, Counter::HandoversIn) > 0);
    assert_eq!(client.count(Counter::HandoversIn), client.count(Counter::HandoversOut));
    assert_eq!((client.connections_of(0), client.connections_of(1)), (1, 1));
}

//! A port that loses its gateway's packets, although the device takes them: the fault shows, and so does its end.

use crate::support::{GATEWAY_MAC, Setup, World, gateway_v4, gateway_v6, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{SURVEY_INTERVAL_MS, UNACKNOWLEDGED_MS};
use stoq::token::Ranges;

/// Longer than a connection without acknowledgments stays unnoticed.
const NOTICED: Duration = Duration::from_millis(UNACKNOWLEDGED_MS + 3 * SURVEY_INTERVAL_MS);

#[test]
fn a_port_that_loses_sent_packets_shows_although_its_peers_still_send() {
    let mut world = World::new(Setup { clients: 2, ..Setup::default() });
    let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v6())];
    let token = world.put(&peers[0], &payload(100_000));
    world.pass(NOTICED);
    let heard = world.gateway.count(Counter::QuicNewAcks);
    assert!(heard > 0);
    assert_eq!(world.gateway.unacknowledged(), 0, "quiet connections acknowledge all there is");

    world.link.mute(GATEWAY_MAC);
    for peer in &peers {
        world.caller(peer).fetch(peer, token, Ranges::all());
    }
    let received = world.gateway.count(Counter::RxPackets);
    world.pass(Duration::from_secs(2));
    let acks = world.gateway.count(Counter::QuicNewAcks);
    world.pass(NOTICED);
    // The peers still send requests, and repeat their last acknowledgment in each packet.
    assert!(world.gateway.count(Counter::RxPackets) > received + 4, "the peers speak");
    assert_eq!(world.gateway.unacknowledged(), 2);
    assert_eq!(world.gateway.count(Counter::QuicNewAcks), acks, "nothing new is acknowledged");

    world.link.unmute(GATEWAY_MAC);
    world.run(Duration::from_secs(20), "the peers are heard again", |world| {
        world.gateway.unacknowledged() == 0
    });
    assert!(world.gateway.count(Counter::QuicNewAcks) > acks);
    for peer in &peers {
        assert_eq!(world.caller(peer).closed(peer), None);
    }
}

#[test]
fn handshakes_that_no_peer_completes_count_as_unacknowledged() {
    let (mut world, peer) = World::connected();
    // The client knows the gateway's station from then on: no ARP is lost.
    world.caller(&peer).disconnect(&peer);
    world.run(Duration::from_secs(5), "it is closed", |world| world.gateway.connections() == 0);
    world.link.mute(GATEWAY_MAC);
    let tag = world.clients[0].callers[0].connect(gateway_v4());
    world.run(Duration::from_secs(10), "the handshake shows", |world| world.gateway.unacknowledged() == 1);
    assert!(world.clients[0].callers[0].peer(tag).is_none());
}

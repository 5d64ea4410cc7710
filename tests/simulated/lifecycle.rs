//! How connections live and end: drains, closes, idle timeouts, keep-alive, and path MTU discovery.

use crate::support::caller::{End, Peer};
use crate::support::{SEED, Setup, World, gateway_v4, gateway_v6, joined, payload};
use quinn_proto::Dir;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{ANSWER_LINGER_MS, CLOSE_MS_MAX};
use stoq::nic::simulated::LinkConfig;
use stoq::quic::transport::QuicConfig;
use stoq::record::{Descriptor, ErrorCode, Put, Record};
use stoq::token::{Ranges, Token};

/// A slow link: a GET still runs when something else happens.
fn slow() -> (World, Peer, Token, Vec<u8>) {
    let mut world = World::new(Setup::default());
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(4 << 20);
    let token = world.put(&peer, &bytes);
    world.link.reconfigure(|link| link.bandwidth_bits_per_s = Some(20_000_000));
    (world, peer, token, bytes)
}

#[test]
fn a_draining_gateway_finishes_running_requests_and_takes_no_new_ones() {
    let (mut world, peer, token, bytes) = slow();
    let running = world.caller(&peer).fetch(&peer, token, Ranges::all());
    let waiting = peer.clone();
    world.run(Duration::from_secs(5), "the get runs", |world| {
        world.caller(&waiting).request(running).bytes() > 100_000
    });
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(200));
    let have = world.caller(&peer).request(running).bytes();
    assert!(have < bytes.len(), "the get is still running: otherwise the test shows nothing");
    assert_eq!(world.gateway.requests(), 1, "the drain waits for the get");

    let refused = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, refused);
    assert_eq!(world.caller(&peer).request(refused).end(), End::Failed(ErrorCode::GoingAway));
    let tag = world.clients[0].callers[0].connect(gateway_v6());
    world.run(Duration::from_secs(15), "a new connection is refused", |world| {
        world.clients[0].callers[0].connect_failed.iter().any(|(failed, _)| *failed == tag)
    });

    world.finish(&peer, running);
    assert_eq!(joined(&world.caller(&peer).request(running).pieces), bytes);
    world.run(Duration::from_secs(2), "the drain is over", |world| world.gateway.requests() == 0);
}

#[test]
fn a_gateway_that_turns_connections_away_keeps_those_it_has_and_takes_new_ones_again() {
    let mut world = World::new(Setup::default());
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(100_000);
    let token = world.put(&peer, &bytes);
    // Routers may send new clients here for a second more.
    world.gateway.shared.set_turns_away(Some(world.now + Duration::from_secs(1)));
    world.connect(0, gateway_v6());
    world.pass(Duration::from_secs(1));
    let tag = world.clients[0].callers[0].connect(gateway_v6());
    world.run(Duration::from_secs(15), "a new connection is refused", |world| {
        world.clients[0].callers[0].connect_failed.iter().any(|(failed, _)| *failed == tag)
    });
    assert!(world.gateway.count(Counter::ConnectionsTurnedAway) >= 1);
    let again = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, again);
    assert_eq!(joined(&world.caller(&peer).request(again).pieces), bytes, "the connection goes on");
    world.gateway.shared.set_turns_away(None);
    let other = world.connect(0, gateway_v6());
    let from_it = world.caller(&other).fetch(&other, token, Ranges::all());
    world.finish(&other, from_it);
    assert_eq!(joined(&world.caller(&other).request(from_it).pieces), bytes);
}

#[test]
fn a_drain_waits_for_the_last_byte_of_an_answer_to_be_acknowledged() {
    let (mut world, peer, token, bytes) = slow();
    let running = world.caller(&peer).fetch(&peer, token, Ranges::all());
    let waiting = peer.clone();
    world.run(Duration::from_secs(5), "the get runs", |world| {
        world.caller(&waiting).request(running).bytes() > 0
    });
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(50));
    world.run(Duration::from_secs(20), "no request is in flight", |world| world.gateway.requests() == 0);
    assert_eq!(world.caller(&peer).request(running).bytes(), bytes.len());
}

#[test]
fn a_drain_waits_for_the_peers_answered_last_to_read_and_close() {
    let mut world = World::new(Setup { clients: 2, ..Setup::default() });
    let (peer, silent) = (world.connect(0, gateway_v4()), world.connect(1, gateway_v6()));
    let token = world.put(&peer, &payload(100_000));
    world.get(&silent, token, Ranges::all());
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(200));
    assert_eq!((world.gateway.requests(), world.gateway.lingering()), (0, 2), "acknowledged is not read");
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.gateway.lingering(), 1, "a peer that has closed has read");
    world.pass(Duration::from_millis(ANSWER_LINGER_MS));
    assert_eq!(
        world.gateway.lingering(),
        0,
        "the drain does not wait without end for a peer that does not close"
    );
    assert_eq!(world.caller(&silent).closed(&silent), None);
}

#[test]
fn a_drain_waits_for_no_request_of_a_connection_that_is_closed() {
    let far = LinkConfig { delay: Duration::from_millis(500), ..LinkConfig::default() };
    let mut world = World::new(Setup { link: far, ..Setup::default() });
    let raw = world.raw(gateway_v4());
    let control = world.say_settings(raw);
    let (mut put, descriptor) = (Vec::new(), Descriptor::plain(Token::of(b"later"), 5).unwrap());
    Put { queue: SEED, lease_s: 0, descriptor, lanes: None }.emit_record(&mut put);
    world.raw_mut(raw).send(Dir::Bi, &put, false);
    world.pass(Duration::from_secs(1));
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(1));
    assert_eq!(world.gateway.requests(), 1, "the put goes on");
    // SETTINGS once more.
    world.raw_mut(raw).send_on(control, &[1, 0], false);
    world.pass(Duration::from_millis(1));
    world.raw_mut(raw).withdrawn = true;
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.gateway.requests(), world.gateway.connections()),
        (0, 1),
        "QUIC repeats the close for three PTOs"
    );
}

#[test]
fn a_put_that_runs_when_a_drain_begins_is_confirmed() {
    let mut world = World::new(Setup::default());
    let peer = world.connect(0, gateway_v4());
    world.link.reconfigure(|link| link.bandwidth_bits_per_s = Some(20_000_000));
    let bytes = payload(1 << 20);
    let running = world.caller(&peer).put(&peer, SEED, &bytes);
    world
        .run(Duration::from_secs(5), "the put runs", |world| world.gateway.count(Counter::VerifiedBytes) > 0);
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(20));
    assert_eq!(world.gateway.requests(), 1);
    world.run(Duration::from_secs(20), "no request is in flight", |world| world.gateway.requests() == 0);
    let done = End::Done { bytes: bytes.len() as u64, token: Token::of(&bytes).into() };
    assert_eq!(world.caller(&peer).request(running).end, Some(done));
}

#[test]
fn a_closing_gateway_tells_its_clients() {
    let mut world = World::new(Setup { clients: 2, ..Setup::default() });
    let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v6())];
    // The handshakes are confirmed: an earlier close could not give its reason (RFC 9000 §10.2.3).
    world.pass(Duration::from_millis(100));
    world.gateway.shared.close();
    let waiting = peers.clone();
    world.run(Duration::from_secs(2), "the clients hear of it", |world| {
        waiting.iter().all(|peer| world.caller(peer).closed(peer).is_some())
    });
    for peer in &peers {
        let reason = world.caller(peer).closed(peer).unwrap();
        assert!(reason.contains("shutting down"), "{reason}");
    }
    world.run(Duration::from_secs(5), "nothing is left", |world| world.gateway.connections() == 0);
    assert_eq!(world.gateway.count(Counter::ConnectionsClosed), 2);
}

/// The virtual time until the client learns of its connection's end, and the reason.
fn until_closed(world: &mut World, peer: &Peer, limit: Duration) -> (Duration, String) {
    let (begun, waiting) = (world.now, peer.clone());
    world.run(limit, "the client hears of it", |world| world.caller(&waiting).closed(&waiting).is_some());
    (world.now - begun, world.caller(peer).closed(peer).unwrap().to_owned())
}

#[test]
fn a_close_that_is_lost_is_sent_again() {
    for (lost, repeats) in [(Duration::from_micros(1), 1), (Duration::from_millis(6), 2)] {
        let (mut world, peer) = World::connected();
        world.pass(Duration::from_secs(2));
        world.gateway.shared.close();
        world.link.reconfigure(|link| link.loss = 1.0);
        world.pass(lost);
        world.link.reconfigure(|link| link.loss = 0.0);
        let (took, reason) = until_closed(&mut world, &peer, Duration::from_secs(29));
        assert!(reason.contains("shutting down"), "{reason}");
        assert!(took < Duration::from_millis(CLOSE_MS_MAX), "{took:?}");
        assert_eq!(world.gateway.count(Counter::QuicClosesRepeated), repeats);
    }
}

#[test]
fn a_close_that_is_answered_is_not_sent_again() {
    let (mut world, peer) = World::connected();
    world.pass(Duration::from_secs(2));
    world.caller(&peer).disconnect(&peer);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.clients[0].count(Counter::QuicClosesRepeated), 0);
    assert_eq!(world.gateway.count(Counter::QuicClosesRepeated), 0);
}

#[test]
fn a_close_on_a_full_link_reaches_every_client() {
    let mut world = World::new(Setup { clients: 8, ..Setup::default() });
    let peers: Vec<_> = (0..8).map(|client| world.connect(client, gateway_v4())).collect();
    let bytes = payload(8 << 20);
    let token = world.put(&peers[0], &bytes);
    // The bytes that wait in the device take longer than a closed connection lives.
    world.link.reconfigure(|link| link.bandwidth_bits_per_s = Some(10_000_000));
    for peer in &peers {
        world.caller(peer).fetch(peer, token, Ranges::all());
    }
    world.pass(Duration::from_secs(1));
    world.gateway.shared.close();
    for peer in &peers {
        let (took, reason) = until_closed(&mut world, peer, Duration::from_secs(25));
        assert!(reason.contains("shutting down"), "{took:?}: {reason}");
    }
}

#[test]
fn a_gateway_that_was_killed_tells_its_clients_within_a_round_trip() {
    // A process with another number of workers does so as well.
    for (before, after) in [(1, 1), (2, 1), (1, 2)] {
        let mut world = World::new(Setup { gateway_workers: before, clients: 2, ..Setup::default() });
        let peers = [world.connect(0, gateway_v4()), world.connect(1, gateway_v6())];
        world.pass(Duration::from_secs(2));
        world.kill_and_restart_gateway(after);
        for peer in &peers {
            world.caller(peer).message(peer, crate::support::ECHO, b"who are you?");
            let (took, reason) = until_closed(&mut world, peer, Duration::from_secs(29));
            assert!(reason.contains("stateless reset"), "{reason}");
            // The new process first asks for the client's MAC.
            assert!(took <= Duration::from_millis(2), "two round trips: {took:?}");
        }
        assert_eq!(world.gateway.count(Counter::QuicStatelessResetsSent), 2);
        let received: u64 =
            world.clients.iter().map(|client| client.count(Counter::QuicStatelessResetsReceived)).sum();
        assert_eq!(received, 2);
        let again = world.connect(0, gateway_v4());
        world.echo(&again, b"and here we are again");
    }
}

#[test]
fn silent_clients_learn_of_a_killed_gateway_at_their_keep_alive() {
    let (mut world, peer) = World::connected();
    world.pass(Duration::from_secs(2));
    world.kill_and_restart_gateway(1);
    let (took, reason) = until_closed(&mut world, &peer, Duration::from_secs(29));
    assert!(reason.contains("stateless reset") && took < Duration::from_secs(6), "{took:?}: {reason}");
}

#[test]
fn a_client_that_disconnects_is_forgotten_at_once() {
    let (mut world, peer) = World::connected();
    world.caller(&peer).disconnect(&peer);
    world.run(Duration::from_secs(2), "both forget", |world| {
        world.gateway.connections() + world.clients[0].connections() == 0
    });
    assert_eq!(world.caller(&peer).closed.len(), 1);
    assert_eq!(world.held().closed.len(), 1);
}

#[test]
fn keep_alive_holds_an_idle_connection_for_ten_minutes() {
    let (mut world, peer) = World::connected();
    world.pass(Duration::from_secs(600));
    assert_eq!(world.caller(&peer).closed(&peer), None);
    assert_eq!(world.gateway.connections(), 1);
    world.echo(&peer, b"still here");
}

#[test]
fn without_keep_alive_an_idle_connection_ends_after_its_timeout_and_not_before() {
    let quic = QuicConfig { keep_alive_ms: 0, idle_timeout_ms: 7_000, ..QuicConfig::default() };
    let mut world = World::new(Setup { gateway_quic: quic.clone(), client_quic: quic, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    // Path MTU discovery is over.
    world.pass(Duration::from_secs(3));
    world.echo(&peer, b"the last word");
    world.pass(Duration::from_millis(6_800));
    assert_eq!(world.gateway.connections(), 1);
    world.pass(Duration::from_millis(1_000));
    assert_eq!((world.gateway.connections(), world.clients[0].connections()), (0, 0));
    assert!(world.caller(&peer).closed(&peer).is_some());
    assert_eq!(world.held().closed.len(), 1);
}

/// The average UDP payload of a large transfer's packets, bytes, for a link of this MTU and the family of `remote`.
fn datagram_bytes(mtu: u16, quic: QuicConfig, remote: std::net::SocketAddr) -> u64 {
    let link = LinkConfig { mtu, delay: Duration::from_micros(500), ..LinkConfig::default() };
    let mut world =
        World::new(Setup { link, gateway_quic: quic.clone(), client_quic: quic, ..Setup::default() });
    let peer = world.connect(0, remote);
    world.pass(Duration::from_secs(2));
    let sent = |world: &World, counter| world.clients[0].count(counter);
    let (packets, bytes) = (sent(&world, Counter::TxPackets), sent(&world, Counter::TxBytes));
    let payload = payload(4 << 20);
    let token = world.put(&peer, &payload);
    let (packets, bytes) =
        (sent(&world, Counter::TxPackets) - packets, sent(&world, Counter::TxBytes) - bytes);
    assert!(joined(&world.get(&peer, token, Ranges::all())) == payload);
    assert_eq!(world.clients[0].count(Counter::DropTooBig) + world.gateway.count(Counter::DropTooBig), 0);
    bytes / packets
}

#[test]
fn path_mtu_discovery_raises_datagrams_to_the_size_that_the_link_carries() {
    let quic = QuicConfig::default();
    // IP and UDP headers: 28 bytes with IPv4, 48 with IPv6.
    for (remote, headers) in [(gateway_v4(), 28), (gateway_v6(), 48)] {
        let average = datagram_bytes(1500, quic.clone(), remote);
        assert!((1380..=1500 - headers).contains(&average), "{average} bytes on a link of 1500");
        let average = datagram_bytes(9000, quic.clone(), remote);
        assert!((8000..=9000 - headers).contains(&average), "{average} bytes on a link of 9000");
    }
}

#[test]
fn without_discovery_datagrams_keep_the_size_they_began_with() {
    let quic = QuicConfig { mtu_discovery: false, ..QuicConfig::default() };
    let average = datagram_bytes(9000, quic.clone(), gateway_v4());
    assert!((1100..=1200).contains(&average), "{average} bytes");
    let quic = QuicConfig { initial_udp_payload_bytes: 0, ..quic };
    let average = datagram_bytes(9000, quic, gateway_v6());
    assert!((8000..=8952).contains(&average), "{average} bytes from the start");
}

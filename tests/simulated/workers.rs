//! The principal scenarios with 1, 2, 4 and 8 workers. The test predicts the queue of each flow, and so the worker on which it lands.

mod stage;

use crate::forged::frames::{Used, random_frames};
use crate::forged::{Forger, Level, OpenConfig, TakenKeys, connection_ids};
use crate::support::caller::{End, Peer};
use crate::support::identities::gateway_identity;
use crate::support::tap::replay;
use crate::support::{
    HELD, SEED, Setup, World, gateway_node, gateway_v4, gateway_v6, identities, joined, payload, trust,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use stage::{Stage, clients, on_each, predicted};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::HANDSHAKE_MS_MAX;
use stoq::nic::simulated::LinkConfig;
use stoq::node::NodeConfig;
use stoq::quic::transport::QuicConfig;
use stoq::record::ErrorCode;
use stoq::tls::{ClientAuth, ClientTls, ServerTls, client_config, server_config};
use stoq::token::{Ranges, Token};
use stoq::worker::Renewal;

fn leave(world: &mut World, peer: &Peer) {
    world.caller(peer).disconnect(peer);
    world.pass(Duration::from_secs(2));
}

#[test]
fn put_get_and_messages_both_ways_cost_one_hand_over_a_datagram_at_most() {
    on_each(clients, |stage| {
        let len = stage.workers.max(2);
        let peers: Vec<_> = (0..len)
            .map(|client| {
                stage.world.connect(client, if client % 2 == 0 { gateway_v4() } else { gateway_v6() })
            })
            .collect();
        let mut tokens = Vec::new();
        for (client, peer) in peers.iter().enumerate() {
            tokens.push(stage.world.put(peer, &payload(100_000 + client)));
        }
        for (client, peer) in peers.iter().enumerate() {
            let other = (client + 1) % len;
            assert!(joined(&stage.world.get(peer, tokens[other], Ranges::all())) == payload(100_000 + other));
            for len in [0, 100, 65_536] {
                stage.world.echo(peer, &payload(len));
            }
            let (worker, back) = stage.owner(stage.own(client)[client % 2]);
            let before = stage.world.caller(peer).messages.len();
            stage.world.gateway.callers[worker].message(&back, HELD, b"of its own accord");
            let world = &mut stage.world;
            world
                .run(Duration::from_secs(1), "a message", |world| world.caller(peer).messages.len() > before);
            assert_eq!(world.caller(peer).messages[before].2, b"of its own accord"[..]);
        }
        stage.assert_whole();
        stage.assert_one_handover_at_most();
        // The first connection stays where its datagrams land.
        let [first, _] = stage.own(0);
        assert_eq!(stage.owner(first).0, predicted(first, stage.workers));
    });
}

#[test]
fn both_datagrams_of_each_client_hello_reach_the_worker_with_room() {
    let setup = |workers: usize| Setup { clients: 2 * workers, ..clients(workers) };
    on_each(setup, |stage| {
        let last = stage.workers - 1;
        let peers: Vec<_> = (0..2 * stage.workers).map(|client| stage.connect_at(client, last)).collect();
        for peer in &peers {
            stage.world.echo(peer, b"here");
        }
        let gateway = &stage.world.gateway;
        let of_workers: Vec<_> = (0..stage.workers).map(|worker| gateway.connections_of(worker)).collect();
        assert_eq!(of_workers, vec![2; stage.workers]);
        assert_eq!(gateway.count(Counter::PlacementsOut), 2 * last as u64);
        assert_eq!(gateway.count_of(last, Counter::HandoversOut), gateway.count(Counter::HandoversOut));
        assert_eq!(gateway.count(Counter::HandshakesServerCompleted), 2 * stage.workers as u64);
        stage.assert_whole();
        stage.assert_one_handover_at_most();
    });
}

#[test]
fn a_session_of_one_worker_is_resumed_at_each_other_one_and_no_replay_at_any() {
    let setup = |workers| Setup { replay_safe: vec![HELD], ..clients(workers) };
    on_each(setup, |stage| {
        let [own, _] = stage.own(0);
        let peer = stage.connect_at(0, 0);
        stage.world.echo(&peer, b"met");
        leave(&mut stage.world, &peer);
        let taken =
            |world: &World| world.gateway.callers.iter().map(|caller| caller.messages.len()).sum::<usize>();
        for round in 1..=stage.workers {
            stage.show(0, own.ip(), round % stage.workers);
            stage.kept();
            let peer = stage.world.connect_early(0, gateway_v4());
            stage.world.caller(&peer).message(&peer, HELD, b"early");
            let world = &mut stage.world;
            world.run(Duration::from_secs(1), "the first flight arrives", |world| taken(world) == round);
            let flight = stage.kept();
            let world = &mut stage.world;
            world.run(Duration::from_secs(1), "the handshake", |world| {
                world.clients[0].count(Counter::QuicEarlyDataAccepted) == round as u64
            });
            world.echo(&peer, b"and on");
            assert_eq!(world.gateway.count(Counter::HandshakesServerEarly), round as u64);
            leave(world, &peer);
            // The session is used up: a replay is early data at no worker.
            let opened = stage.world.gateway.count(Counter::ConnectionsOpened);
            for worker in 0..stage.workers {
                stage.show(0, own.ip(), worker);
                replay(&stage.world, &flight);
                stage.world.pass(Duration::from_millis(HANDSHAKE_MS_MAX + 100));
            }
            assert_eq!(taken(&stage.world), round);
            let gateway = &stage.world.gateway;
            assert_eq!(gateway.count(Counter::ConnectionsOpened), opened, "no replay ends a handshake");
            assert_eq!(gateway.connections(), 0);
        }
    });
}

/// A link on which a transfer of [`TRANSFER_BYTES`] takes a while.
fn slow(workers: usize) -> Setup {
    let link = LinkConfig {
        delay: Duration::from_millis(2),
        bandwidth_bits_per_s: Some(100_000_000),
        ..LinkConfig::default()
    };
    Setup { link, ..clients(workers) }
}

const TRANSFER_BYTES: usize = 4 << 20;

/// Where the client is seen after each of its moves: another port, another address, the other family twice, and back.
const MOVES: [&str; 5] = ["10.77.0.10", "10.77.0.77", "fd77::77", "fd77::78", "10.77.0.10"];

/// Moves the first client each time that a transfer has come as far as `reached` tells, to the next queue each time.
fn move_along(stage: &mut Stage, mut reached: impl FnMut(&mut World, usize) -> bool) {
    for (number, ip) in MOVES.iter().enumerate() {
        let ip: IpAddr = ip.parse().unwrap();
        let within = Duration::from_secs(20);
        stage.world.run(within, "it goes on", |world| reached(world, (number + 1) * TRANSFER_BYTES / 8));
        let shown = stage.show(0, ip, (number + 1) % stage.workers);
        // The path is validated: the connection stays there.
        stage.world.pass(Duration::from_millis(30));
        let view = stage.world.gateway.inspect_worker(0);
        stage.world.pass(Duration::from_millis(1));
        let view = view();
        assert_eq!((view.len(), view[0].remote), (1, shown), "{}", stage.world.report());
    }
}

fn assert_moved(stage: &mut Stage, peer: &Peer) {
    assert_eq!(stage.world.caller(peer).closed(peer), None);
    stage.world.echo(peer, b"and on it goes");
    stage.assert_whole();
    let gateway = &stage.world.gateway;
    let opened = gateway.count(Counter::ConnectionsOpened);
    assert_eq!((gateway.connections(), opened), (1, 1));
    let landed = (0..stage.workers).filter(|&worker| gateway.count_of(worker, Counter::HandoversOut) > 0);
    assert_eq!(landed.count(), (stage.workers - 1).min(MOVES.len()), "it landed on other queues");
}

#[test]
fn a_put_goes_on_from_another_port_address_and_family_on_other_queues() {
    on_each(slow, |stage| {
        let (peer, bytes) = (stage.connect_at(0, 0), payload(TRANSFER_BYTES));
        let put = stage.world.caller(&peer).put(&peer, SEED, &bytes);
        move_along(stage, |world, bytes| world.gateway.count(Counter::VerifiedBytes) > bytes as u64);
        assert!(stage.world.caller(&peer).request(put).end.is_none(), "each move was in the middle");
        stage.world.finish(&peer, put);
        let token = Token::of(&bytes).into();
        let end = stage.world.caller(&peer).request(put).end();
        assert_eq!(end, End::Done { bytes: bytes.len() as u64, token });
        assert_moved(stage, &peer);
    });
}

#[test]
fn a_get_goes_on_to_another_port_address_and_family_on_other_queues() {
    on_each(slow, |stage| {
        let (peer, bytes) = (stage.connect_at(0, 0), payload(TRANSFER_BYTES));
        let token = stage.world.put(&peer, &bytes);
        let get = stage.world.caller(&peer).fetch(&peer, token, Ranges::all());
        move_along(stage, |world, bytes| world.caller(&peer).request(get).bytes() > bytes);
        assert!(stage.world.caller(&peer).request(get).end.is_none(), "each move was in the middle");
        stage.world.finish(&peer, get);
        assert_eq!(stage.world.caller(&peer).request(get).end(), End::Complete);
        assert!(joined(&stage.world.caller(&peer).request(get).pieces) == bytes);
        assert_moved(stage, &peer);
    });
}

#[test]
fn a_client_whose_nat_rebinds_between_messages_is_heard_on_each_queue() {
    on_each(clients, |stage| {
        let [own, _] = stage.own(0);
        let peer = stage.connect_at(0, 0);
        // A connection changes its address only once its handshake is confirmed.
        stage.world.pass(Duration::from_millis(100));
        for round in 0..2 * stage.workers {
            stage.show(0, own.ip(), round % stage.workers);
            stage.world.echo(&peer, &payload(3_000 + round));
        }
        stage.assert_whole();
        assert_eq!(stage.world.gateway.count(Counter::ConnectionsOpened), 1);
    });
}

#[test]
fn a_drain_ends_when_the_last_request_of_each_worker_has_ended() {
    on_each(clients, |stage| {
        let workers = stage.workers;
        let peers: Vec<_> = (0..workers).map(|client| stage.connect_at(client, client)).collect();
        let bytes = payload(1 << 20);
        let token = stage.world.put(&peers[0], &bytes);
        stage.world.link.reconfigure(|link| link.bandwidth_bits_per_s = Some(20_000_000));
        let gets: Vec<_> =
            peers.iter().map(|peer| stage.world.caller(peer).fetch(peer, token, Ranges::all())).collect();
        stage.world.run(Duration::from_secs(5), "all run", |world| {
            peers.iter().zip(&gets).all(|(peer, get)| world.caller(peer).request(*get).bytes() > 0)
        });
        stage.world.gateway.shared.drain();
        stage.world.pass(Duration::from_millis(20));
        assert_eq!(stage.world.gateway.requests(), workers);
        for peer in &peers {
            let refused = stage.world.caller(peer).fetch(peer, token, Ranges::all());
            stage.world.finish(peer, refused);
            let end = stage.world.caller(peer).request(refused).end();
            assert_eq!(end, End::Failed(ErrorCode::GoingAway));
        }
        let tag = stage.world.clients[0].callers[0].connect(gateway_v6());
        stage.world.run(Duration::from_secs(15), "a new connection is refused", |world| {
            world.clients[0].callers[0].connect_failed.iter().any(|(failed, _)| *failed == tag)
        });
        for (peer, get) in peers.iter().zip(gets) {
            stage.world.finish(peer, get);
            assert!(joined(&stage.world.caller(peer).request(get).pieces) == bytes);
        }
        stage.world.run(Duration::from_secs(5), "the end", |world| world.gateway.requests() == 0);
        stage.assert_whole();
    });
}

#[test]
fn a_reload_reaches_each_worker_and_leaves_its_connections() {
    let setup = |workers: usize| Setup { clients: 2 * workers, ..clients(workers) };
    on_each(setup, |stage| {
        let workers = stage.workers;
        let old: Vec<_> = (0..workers).map(|client| stage.connect_at(client, client)).collect();
        let tls = ServerTls::new(gateway_identity(1).clone(), ClientAuth::Required(trust()));
        let config = NodeConfig { server: Some(server_config(&tls).unwrap()), ..NodeConfig::default() };
        stage.world.gateway.shared.renew(Renewal { quic: config.quic(1500), rights: Arc::default() });
        let new: Vec<_> = (0..workers).map(|worker| stage.connect_at(workers + worker, worker)).collect();
        for (peers, node) in [(&old, gateway_node(0)), (&new, gateway_node(1))] {
            for peer in peers {
                assert_eq!(peer.node, Some(node));
                stage.world.echo(peer, b"here");
            }
        }
        let gateway = &stage.world.gateway;
        assert!((0..workers).all(|worker| gateway.connections_of(worker) == 2));
        assert_eq!(gateway.count(Counter::HandoversOut), 0);
        stage.assert_whole();
    });
}

#[test]
fn forged_frames_on_all_queues_harm_no_other_connection() {
    on_each(clients, |stage| {
        let honest: Vec<_> = (0..stage.workers).map(|client| stage.connect_at(client, client)).collect();
        stage.scatter([10, 77, 0, 100].into());
        let (taken, mut random) = (TakenKeys::default(), StdRng::seed_from_u64(stage.workers as u64));
        let tls = ClientTls {
            identity: Some(identities()[1].clone()),
            session_cache_len: 0,
            ..ClientTls::new(trust())
        };
        let inner = client_config(&tls).unwrap();
        let tls = Arc::new(OpenConfig { inner, taken: taken.clone() });
        let raw = stage.world.plug_in_client(gateway_v4(), &QuicConfig::default(), tls, None);
        stage.world.run(Duration::from_secs(10), "it connects", |world| world.raw[raw.0].connected);
        let peer = stage.world.raw_mut(raw);
        peer.withdrawn = true;
        let ids = connection_ids(&peer.long_header).unwrap();
        let (mut forger, mut used) = (Forger::new(Level::OneRtt, &taken, ids), Used::default());
        for packet in 0..96 {
            let now = stage.world.now;
            let frames = random_frames(&mut random, &mut used, if packet < 64 { 0 } else { 20 });
            stage.world.raw_mut(raw).forge(now, &forger.packet(&frames));
            stage.world.pass(Duration::from_micros(200));
        }
        for peer in &honest {
            let bytes = payload(50_000);
            let token = stage.world.put(peer, &bytes);
            assert!(joined(&stage.world.get(peer, token, Ranges::all())) == bytes);
            stage.world.echo(peer, b"here");
            assert_eq!(stage.world.caller(peer).closed(peer), None);
        }
        assert!(stage.world.gateway.connections() <= stage.workers + 1);
    });
}

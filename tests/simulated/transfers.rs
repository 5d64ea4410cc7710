//! Payloads and messages arrive complete: on perfect links and on bad ones, in every awkward size.

use crate::support::caller::End;
use crate::support::{ECHO, SEED, Setup, World, gateway_v4, gateway_v6, joined, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::nic::simulated::LinkConfig;
use stoq::record::ErrorCode;
use stoq::token::{Ranges, Token};

const GROUP: usize = 16 * 1024;

fn put_and_get(world: &mut World, peer: &crate::support::caller::Peer, bytes: &[u8]) {
    let token = world.put(peer, bytes);
    assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
    let held = world.store.get(&token).unwrap().expect("the store has it");
    assert_eq!(held.length(), bytes.len() as u64);
}

#[test]
fn a_payload_put_is_got_back_over_ipv4_and_ipv6() {
    let mut world = World::new(Setup::default());
    for (remote, len) in [(gateway_v4(), 300_000), (gateway_v6(), 300_001)] {
        let peer = world.connect(0, remote);
        assert_eq!((peer.node, peer.remote), (Some(crate::support::identities()[0].node_id()), remote));
        put_and_get(&mut world, &peer, &payload(len));
    }
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
    assert_eq!(world.gateway.count(Counter::BadProofs), 0);
    assert!(world.temporary().is_empty());
}

#[test]
fn payloads_of_every_awkward_size_are_put_and_got() {
    let (mut world, peer) = World::connected();
    for len in [0, 1, 1023, 1024, 1025, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 3 * GROUP + 7, (1 << 20) + 5]
    {
        put_and_get(&mut world, &peer, &payload(len));
    }
}

#[test]
fn loss_reordering_duplication_and_corruption_cost_time_and_no_byte() {
    // Without UDP checksums only QUIC refuses damaged packets.
    for (seed, remote, udp_checksum) in
        [(1, gateway_v4(), true), (2, gateway_v6(), true), (3, gateway_v4(), false)]
    {
        let link = LinkConfig { seed, delay: Duration::from_millis(1), loss: 0.02, ..LinkConfig::default() };
        let mut world = World::new(Setup { link, udp_checksum, ..Setup::default() });
        // Neighbors are learned by packets without checksums: bits are inverted only from here on.
        let peer = world.connect(0, remote);
        world.link.reconfigure(|link| {
            link.reordering = 0.05;
            link.reordering_delay = Duration::from_millis(4);
            link.duplication = 0.02;
            link.corruption = 0.02;
        });
        put_and_get(&mut world, &peer, &payload(700_000));
        for len in [0, 1, 64, 65_536] {
            world.echo(&peer, &payload(len));
        }
        let stats = world.link.stats();
        assert!(
            stats.lost > 0 && stats.reordered > 0 && stats.duplicated > 0 && stats.corrupted > 0,
            "{stats:?}"
        );
        let drops =
            [Counter::DropChecksum, Counter::DropMalformed, Counter::DropForeign, Counter::DropUnwanted];
        let dropped: u64 =
            drops.iter().map(|&drop| world.gateway.count(drop) + world.clients[0].count(drop)).sum();
        assert!(dropped > 0, "corruption was seen and counted");
        assert_eq!(world.gateway.count(Counter::BadProofs), 0, "no wrong bit reached a proof");
    }
}

#[test]
fn messages_of_every_size_come_back_from_the_echo_in_order() {
    let (mut world, peer) = World::connected();
    for len in [0, 1, 64, 65_536] {
        world.echo(&peer, &payload(len));
    }
    let before = world.caller(&peer).messages.len();
    for n in 0..500u32 {
        world.caller(&peer).message(&peer, ECHO, &n.to_be_bytes());
    }
    let waiting = peer.clone();
    world.run(Duration::from_secs(10), "echoes", |world| {
        world.caller(&waiting).messages.len() == before + 500
    });
    let back: Vec<u32> = world.caller(&peer).messages[before..]
        .iter()
        .map(|(_, _, bytes)| u32::from_be_bytes(bytes[..].try_into().unwrap()))
        .collect();
    assert_eq!(back, (0..500).collect::<Vec<u32>>());
}

#[test]
fn small_and_large_messages_keep_their_order() {
    let (mut world, peer) = World::connected();
    // Messages up to 4 KiB are copied together before QUIC gets them; larger ones are not.
    let sizes = [1, 300, 3600, 4096, 20_000, 64, 65_000];
    let sent: Vec<Vec<u8>> = (0..350).map(|n| payload(sizes[n % sizes.len()] + n)).collect();
    for message in &sent {
        world.caller(&peer).message(&peer, ECHO, message);
    }
    let waiting = peer.clone();
    world.run(Duration::from_secs(20), "echoes", |world| world.caller(&waiting).messages.len() == sent.len());
    for (n, (_, _, bytes)) in world.caller(&peer).messages.iter().enumerate() {
        assert!(bytes[..] == sent[n][..], "message {n}");
    }
}

#[test]
fn the_discarding_application_counts_the_messages_that_it_dropped() {
    let (mut world, peer) = World::connected();
    for len in [1, 1000, 65_536] {
        world.caller(&peer).message(&peer, crate::support::DISCARD, &payload(len));
    }
    world.caller(&peer).message(&peer, crate::support::DISCARD, &[]);
    let waiting = peer.clone();
    world.run(Duration::from_secs(10), "the count", |world| !world.caller(&waiting).messages.is_empty());
    let (_, queue, report) = world.caller(&peer).messages[0].clone();
    let expected = [66_537u64.to_be_bytes(), 3u64.to_be_bytes()].concat();
    assert_eq!((queue, &report[..]), (crate::support::DISCARD, &expected[..]));
}

#[test]
fn a_put_to_the_discarding_application_is_checked_unless_its_queue_is_unchecked() {
    let (mut world, peer) = World::connected();
    let bytes = payload(700_000);
    for (queue, checked) in [(crate::support::DISCARD, bytes.len() as u64), (crate::support::UNCHECKED, 0)] {
        let before = world.gateway.count(Counter::VerifiedBytes);
        let request = world.caller(&peer).put(&peer, queue, &bytes);
        world.finish(&peer, request);
        assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::NotFound));
        assert_eq!(world.gateway.count(Counter::VerifiedBytes) - before, checked);
    }
    assert!(world.kept().is_empty());
    world.echo(&peer, b"still there");
    world.assert_free();
}

#[test]
fn a_fetch_of_ranges_brings_exactly_their_groups() {
    let (mut world, peer) = World::connected();
    let bytes = payload(10 * GROUP + 100);
    let token = world.put(&peer, &bytes);
    // Bytes 40,000 to 50,000 lie in groups 2 and 3; the last ten bytes in the torn last group.
    for (asked, groups) in [
        (40_000..50_000, 2 * GROUP..4 * GROUP),
        (0..1, 0..GROUP),
        (10 * GROUP as u64 + 90..10 * GROUP as u64 + 100, 10 * GROUP..10 * GROUP + 100),
    ] {
        let pieces = world.get(&peer, token, Ranges::covering(asked).unwrap());
        assert_eq!(pieces[0].0, groups.start as u64);
        assert_eq!(joined(&pieces), bytes[groups]);
    }
    // Two runs with a gap: groups 1 and 8.
    let mut ranges = Ranges::all();
    ranges.push_run(1, 1).unwrap();
    ranges.push_run(6, 1).unwrap();
    let pieces = world.get(&peer, token, ranges);
    let got: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
    assert_eq!(got, 2 * GROUP);
    for (offset, piece) in &pieces {
        assert_eq!(piece[..], bytes[*offset as usize..][..piece.len()]);
        assert!([1, 8].contains(&(*offset as usize / GROUP)));
    }
}

#[test]
fn fetches_of_one_peer_are_answered_in_their_order() {
    let (mut world, peer) = World::connected();
    let bytes = payload(6 << 20);
    let token = world.put(&peer, &bytes);
    // An answer that waits for the disk lets later ones pass it, so the payload is brought into memory first.
    assert!(joined(&world.get(&peer, token, Ranges::all())) == bytes);
    let requests: Vec<_> = (0..8).map(|_| world.caller(&peer).fetch(&peer, token, Ranges::all())).collect();
    let (waiting, all) = (peer.clone(), requests.clone());
    world.run(Duration::from_secs(60), "the first of eight", |world| {
        all.iter().any(|&request| world.caller(&waiting).request(request).end.is_some())
    });
    let have: Vec<_> = requests.iter().map(|&request| world.caller(&peer).request(request).bytes()).collect();
    assert_eq!(have[0], bytes.len(), "the first request is finished first: {have:?}");
    assert!(have[2..].iter().sum::<usize>() < bytes.len(), "{have:?}");
    for request in requests {
        world.finish(&peer, request);
        let caller = world.caller(&peer);
        assert_eq!(caller.request(request).end(), End::Complete);
        assert!(joined(&caller.request(request).pieces) == bytes);
    }
}

#[test]
fn peers_that_fetch_at_once_get_equal_turns() {
    let mut world = World::new(Setup { clients: 3, ..Setup::default() });
    let peers: Vec<_> = (0..3).map(|client| world.connect(client, gateway_v4())).collect();
    let bytes = payload(8 << 20);
    let token = world.put(&peers[0], &bytes);
    // The first peer asks for much more than the others.
    let greedy: Vec<_> =
        (0..6).map(|_| world.caller(&peers[0]).fetch(&peers[0], token, Ranges::all())).collect();
    let others: Vec<_> =
        peers[1..].iter().map(|peer| world.caller(peer).fetch(peer, token, Ranges::all())).collect();
    for (peer, &request) in peers[1..].iter().zip(&others) {
        world.finish(peer, request);
    }
    let had: usize = greedy.iter().map(|&request| world.caller(&peers[0]).request(request).bytes()).sum();
    assert!(had <= 3 * bytes.len(), "the greedy one has {had} bytes while each other has {}", bytes.len());
}

#[test]
fn a_payload_that_is_held_already_is_confirmed_without_crossing_the_wire() {
    let (mut world, peer) = World::connected();
    let bytes = payload(2 << 20);
    let token = world.put(&peer, &bytes);
    let before = world.gateway.count(Counter::RxBytes);
    assert_eq!(world.put(&peer, &bytes), token);
    let crossed = world.gateway.count(Counter::RxBytes) - before;
    assert!(crossed < 20_000, "{crossed} bytes crossed");
    assert_eq!(world.kept().len(), 2, "one payload and its outboard");
}

#[test]
fn a_canceled_fetch_leaves_the_connection_and_the_seed_free() {
    let (mut world, peer) = World::connected();
    // More than the credit and QUIC's send window take at once.
    let bytes = payload(40 << 20);
    let token = world.put(&peer, &bytes);
    for _ in 0..5 {
        let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
        let waiting = peer.clone();
        world.run(Duration::from_secs(10), "its first bytes", |world| {
            world.caller(&waiting).request(request).bytes() > 0
        });
        world.caller(&peer).cancel(request);
        world.pass(Duration::from_millis(50));
    }
    // Nothing is read for a peer that gave it up.
    world.wait_for_closed_payloads();
    assert!(joined(&world.get(&peer, token, Ranges::all())) == bytes);
    world.gateway.shared.drain();
    world.pass(Duration::from_millis(100));
    assert_eq!(world.gateway.requests(), 0, "nothing runs on for a peer that gave it up");
}

#[test]
fn a_put_given_up_half_way_leaves_nothing() {
    let (mut world, peer) = World::connected();
    let bytes = payload(20 << 20);
    let request = world.caller(&peer).put(&peer, SEED, &bytes);
    world.run(Duration::from_secs(10), "half of it", |world| {
        world.gateway.count(Counter::VerifiedBytes) > 2 << 20 && world.temporary().len() == 2
    });
    world.caller(&peer).cancel(request);
    world.run(Duration::from_secs(2), "the store is clean", |world| {
        world.temporary().is_empty() && world.store.usage_bytes() == 0
    });
    assert!(world.kept().is_empty());
    assert!(world.store.get(&Token::of(&bytes)).unwrap().is_none());
    world.echo(&peer, b"still there");
}

#[test]
fn a_small_payload_takes_three_round_trips_and_a_half_of_a_cold_long_path() {
    // RFC 9002's first window of ten packets, doubled twice; what is paced takes a third of a round trip.
    let link = LinkConfig { delay: Duration::from_millis(50), ..LinkConfig::default() };
    let mut world = World::new(Setup { link, step: Duration::from_micros(20), ..Setup::default() });
    let putting = world.connect(0, gateway_v4());
    let token = world.put(&putting, &payload(60 << 10));
    let peer = world.connect(0, gateway_v4());
    let begun = world.now;
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), payload(60 << 10));
    let took = world.now - begun;
    assert!(took <= Duration::from_millis(350), "{took:?}");
}

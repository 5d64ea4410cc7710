//! Requests that the gateway refuses, its answers, and that nothing of them stays.

use crate::support::caller::{End, Peer};
use crate::support::{DISCARD, NOBODY, SEED, Setup, World, encoding, gateway_v4, joined, payload};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::REQUESTS_LEN_MAX;
use stoq::queue::RequestId;
use stoq::record::ErrorCode;
use stoq::seed::StoreConfig;
use stoq::token::{Ranges, Token};

fn ended(world: &mut World, peer: &Peer, request: RequestId) -> End {
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

/// Puts bytes that do not match their token.
fn put_falsely(world: &mut World, peer: &Peer) -> End {
    let bytes = payload(100_000);
    let encoded = encoding(&bytes, &Ranges::all());
    let request = world.caller(peer).put_as(peer, SEED, Token::of(b"another"), 100_000, encoded);
    ended(world, peer, request)
}

fn assert_nothing_kept(world: &mut World) {
    // The seed removes its files when it learns of the failure.
    world.pass(Duration::from_millis(10));
    assert_eq!((world.kept(), world.temporary()), (vec![], vec![]));
    assert_eq!(world.store.usage_bytes(), 0);
}

#[test]
fn a_payload_that_does_not_match_its_token_is_refused_and_not_kept() {
    let (mut world, peer) = World::connected();
    assert_eq!(put_falsely(&mut world, &peer), End::Failed(ErrorCode::BadProof));
    assert_nothing_kept(&mut world);
    assert_eq!(world.gateway.count(Counter::BadProofs), 1);
    world.echo(&peer, b"the connection lives");
    let bytes = payload(50_000);
    let token = world.put(&peer, &bytes);
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), bytes);
}

#[test]
fn one_inverted_bit_anywhere_is_refused_and_nothing_of_the_payload_kept() {
    let bytes = payload(100_000);
    let encoded = encoding(&bytes, &Ranges::all()).concat();
    for at in [0, 63, 64, 200, 40_000, encoded.len() - 1] {
        let (mut world, peer) = World::connected();
        let mut wrong = encoded.clone();
        wrong[at] ^= 0x10;
        let chunks = vec![Bytes::from(wrong)];
        let request = world.caller(&peer).put_as(&peer, SEED, Token::of(&bytes), 100_000, chunks);
        assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::BadProof), "byte {at}");
        assert_nothing_kept(&mut world);
    }
}

#[test]
fn a_wrong_length_is_refused() {
    let bytes = payload(100_000);
    for length in [99_999, 100_001, 16_384] {
        let (mut world, peer) = World::connected();
        let encoded = encoding(&bytes, &Ranges::all());
        let request = world.caller(&peer).put_as(&peer, SEED, Token::of(&bytes), length, encoded);
        let end = ended(&mut world, &peer, request);
        assert!(matches!(end, End::Failed(_)), "length {length}: {end:?}");
        assert_nothing_kept(&mut world);
    }
}

#[test]
fn an_empty_payload_under_a_false_token_is_refused() {
    let (mut world, peer) = World::connected();
    let request = world.caller(&peer).put_as(&peer, SEED, Token::of(b"not empty"), 0, vec![]);
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::BadProof));
    assert_nothing_kept(&mut world);
}

#[test]
fn a_put_that_stops_short_of_its_length_is_refused_and_not_kept() {
    let (mut world, peer) = World::connected();
    let bytes = payload(100_000);
    let mut encoded = encoding(&bytes, &Ranges::all());
    encoded.pop();
    let request = world.caller(&peer).put_as(&peer, SEED, Token::of(&bytes), 100_000, encoded);
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::Malformed));
    assert_nothing_kept(&mut world);
}

#[test]
fn the_third_false_payload_within_a_minute_closes_the_connection() {
    let (mut world, peer) = World::connected();
    let other = world.connect(0, gateway_v4());
    for _ in 0..2 {
        assert_eq!(put_falsely(&mut world, &peer), End::Failed(ErrorCode::BadProof));
        world.echo(&peer, b"not yet");
    }
    let bytes = payload(100_000);
    world.caller(&peer).put_as(&peer, SEED, Token::of(b"another"), 100_000, encoding(&bytes, &Ranges::all()));
    let waiting = peer.clone();
    world.run(Duration::from_secs(2), "the end", |world| world.caller(&waiting).closed(&waiting).is_some());
    let reason = world.caller(&peer).closed(&peer).unwrap().to_owned();
    assert!(reason.contains("token") || reason.contains("proof"), "the reason is given: {reason}");
    assert_nothing_kept(&mut world);
    world.echo(&other, b"others are not touched");
    world.run(Duration::from_secs(5), "it is forgotten", |world| world.gateway.connections() == 1);
    assert_eq!(world.gateway.count(Counter::ConnectionsClosed), 1);
}

#[test]
fn stream_errors_more_than_a_minute_apart_do_not_add_up() {
    let (mut world, peer) = World::connected();
    for _ in 0..6 {
        assert_eq!(put_falsely(&mut world, &peer), End::Failed(ErrorCode::BadProof));
        world.pass(Duration::from_secs(31));
    }
    world.echo(&peer, b"patient");
}

#[test]
fn the_refusals_of_a_full_disk_and_of_a_full_capacity_differ() {
    let (mut world, peer) = World::connected();
    let start = encoding(&payload(100_000), &Ranges::all());
    let request = world.caller(&peer).put_as(&peer, SEED, Token::of(b"longer than any disk"), 1 << 50, start);
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::Quota));
    let failure = world.caller(&peer).request(request).failure.clone().unwrap();
    assert!(failure.reason().contains("disk"), "the fix for its owner is given: {}", failure.reason());
    assert!(!failure.reason().contains('/'), "no path is told to peers: {}", failure.reason());
    assert_nothing_kept(&mut world);
}

#[test]
fn a_store_without_room_says_quota_and_goes_on() {
    let mut world = World::new(Setup {
        store: StoreConfig { capacity_bytes: Some(300_000), ..StoreConfig::default() },
        ..Setup::default()
    });
    let peer = world.connect(0, gateway_v4());
    let (small, large) = (payload(200_000), payload(250_000));
    let token = world.put(&peer, &small);
    let request = world.caller(&peer).put(&peer, SEED, &large);
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::Quota));
    let failure = world.caller(&peer).request(request).failure.clone().unwrap();
    assert!(!failure.reason().contains('/'), "no path is told to peers: {}", failure.reason());
    assert!(world.temporary().is_empty());
    // A refusal is no stream error: any number of them is allowed.
    for _ in 0..5 {
        let request = world.caller(&peer).put(&peer, SEED, &large);
        assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::Quota));
    }
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), small);
    assert!(world.store.remove(token).unwrap());
    let token = world.put(&peer, &large);
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), large);
}

#[test]
fn an_unknown_token_is_not_found_and_ranges_past_the_end_are_bad() {
    let (mut world, peer) = World::connected();
    for _ in 0..5 {
        let request = world.caller(&peer).fetch(&peer, Token::of(b"never put"), Ranges::all());
        assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::NotFound));
    }
    let token = world.put(&peer, &payload(50_000));
    let beyond = Ranges::covering(100_000..200_000).unwrap();
    let request = world.caller(&peer).fetch(&peer, token, beyond);
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::BadRange));
    world.echo(&peer, b"the connection lives");
}

#[test]
fn a_put_to_a_queue_without_an_application_is_not_found() {
    let (mut world, peer) = World::connected();
    let request = world.caller(&peer).put(&peer, NOBODY, &payload(1000));
    assert_eq!(ended(&mut world, &peer, request), End::Failed(ErrorCode::NotFound));
}

#[test]
fn a_put_to_an_application_that_keeps_nothing_is_answered() {
    let (mut world, peer) = World::connected();
    for queue in [crate::support::ECHO, DISCARD] {
        let request = world.caller(&peer).put(&peer, queue, &payload(1000));
        let end = ended(&mut world, &peer, request);
        assert!(matches!(end, End::Failed(_)), "queue {queue}: {end:?}");
    }
    world.echo(&peer, b"the connection lives");
}

#[test]
fn three_hundred_requests_at_once_are_all_answered() {
    let (mut world, peer) = World::connected();
    let bytes = payload(20_000);
    let token = world.put(&peer, &bytes);
    let requests: Vec<_> = (0..300).map(|_| world.caller(&peer).fetch(&peer, token, Ranges::all())).collect();
    let (mut complete, mut busy) = (0, 0);
    for request in requests {
        match ended(&mut world, &peer, request) {
            End::Complete => complete += 1,
            End::Failed(ErrorCode::Busy) => busy += 1,
            end => panic!("{end:?}"),
        }
        let caller = world.caller(&peer);
        if caller.request(request).end() == End::Complete {
            assert_eq!(joined(&caller.request(request).pieces), bytes);
        }
    }
    assert!(complete >= REQUESTS_LEN_MAX, "{complete} complete, {busy} busy");
    assert_eq!(complete + busy, 300);
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), bytes);
}

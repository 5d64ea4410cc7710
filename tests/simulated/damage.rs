//! Damage at rest, and clocks that jump, as peers see them.

use crate::hops::put_by;
use crate::mirror::{good, mirror};
use crate::support::caller::End;
use crate::support::{SEED, Setup, World, gateway_v4, payload};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stoq::record::ErrorCode;
use stoq::seed::{CheckResult, Urgency};
use stoq::shard::Lanes;
use stoq::token::{Ranges, Token};

/// Inverts a bit of the only payload that is kept.
fn flip(world: &World, at: usize) {
    let is_blob = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "blob");
    let path = world.kept().into_iter().find(is_blob).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Waits until a payload was set aside: checks run on a thread of their own, in real time.
#[track_caller]
fn set_aside(world: &mut World) {
    let begun = Instant::now();
    while world.store.damage().set_aside == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", world.report());
        world.pass(Duration::from_millis(1));
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_put_of_a_damaged_payload_is_accepted_anew() {
    let (mut world, peer) = World::connected();
    let data = payload(3_000_000);
    let token = world.put(&peer, &data);
    flip(&world, 2_999_999);
    world.put(&peer, &data);
    assert_eq!((world.store.checks().damaged, world.store.damage().set_aside), (1, 1));
    // It was checked just now: the next PUTs are answered at once.
    world.put(&peer, &data);
    world.put(&peer, &data);
    assert_eq!(world.store.checks().whole, 1);
    let pieces = world.get(&peer, token, Ranges::all());
    assert!(pieces.iter().flat_map(|(_, bytes)| bytes).eq(&data));
    world.assert_free();
}

#[test]
fn a_bad_proof_that_a_peer_reports_has_the_payload_checked() {
    let (mut world, peer) = World::connected();
    let data = payload(12_000_000);
    let token = world.put(&peer, &data);
    flip(&world, 4_000_000);
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::BadProof));
    set_aside(&mut world);
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::NotFound));
    world.put(&peer, &data);
    world.get(&peer, token, Ranges::all());
}

#[test]
fn a_short_payload_that_is_damaged_is_found_when_it_is_read() {
    let (mut world, peer) = World::connected();
    let data = payload(50_000);
    let token = world.put(&peer, &data);
    flip(&world, 0);
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::Internal));
    set_aside(&mut world);
    world.put(&peer, &data);
    world.get(&peer, token, Ranges::all());
}

#[test]
fn a_damaged_copy_is_mirrored_again() {
    let (mut world, peers) = good();
    let data = payload(2_500_000);
    let token = put_by(&mut world, &peers[1], &[1], &data);
    let whole = |bytes: usize| End::Done { bytes: bytes as u64, token: token.into() };
    assert_eq!(mirror(&mut world, &peers[0], token, Lanes::NONE, &[1]), whole(data.len()));
    assert_eq!(mirror(&mut world, &peers[0], token, Lanes::NONE, &[1]), whole(0));
    world.pass(Duration::from_secs(601));
    flip(&world, 1_000_000);
    let peer = world.connect(0, gateway_v4());
    assert_eq!(mirror(&mut world, &peer, token, Lanes::NONE, &[1]), whole(data.len()));
    assert_eq!(world.stores[0].damage().set_aside, 1);
}

#[test]
fn a_lease_outlives_a_jump_of_the_clock_and_ends_in_its_time() {
    let setup = Setup::default();
    let clock = setup.clock.clone();
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let request = world.caller(&peer).put(&peer, SEED, b"for a minute");
    world.finish(&peer, request);
    let token = Token::of(b"for a minute");
    for ahead_s in [400 * 86_400, -1_900_000_000] {
        clock.set_ahead(ahead_s);
        world.pass(Duration::from_secs(3));
        assert!(world.store.holding(&token.into()).is_some());
        assert!(!world.store.clock_state().believed);
    }
    clock.set_ahead(0);
    world.pass(Duration::from_secs(3));
    assert!(world.store.holding(&token.into()).is_some() && world.store.clock_state().believed);
    world.pass(Duration::from_secs(60));
    assert!(world.store.holding(&token.into()).is_none());
    assert_eq!(world.store.ended(), 1);
}

#[test]
fn a_put_under_a_dead_clock_is_kept_for_its_lease_when_the_clock_is_set_right() {
    let setup = Setup::default();
    let clock = setup.clock.clone();
    clock.set_ahead(-1_999_999_000);
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    let request = world.caller(&peer).put(&peer, SEED, b"for a minute");
    world.finish(&peer, request);
    let token = Token::of(b"for a minute");
    clock.set_ahead(0);
    world.pass(Duration::from_secs(90));
    assert!(
        world.store.holding(&token.into()).is_some(),
        "its minute is over, and the clock not believed yet"
    );
    world.pass(Duration::from_secs(3600));
    assert!(world.store.holding(&token.into()).is_none());
}

#[test]
fn hints_of_a_peer_are_few_and_cause_no_check_of_a_payload_checked_lately() {
    let (mut world, peer) = World::connected();
    let data = payload(12_000_000);
    let token = world.put(&peer, &data);
    let (send, receive) = std::sync::mpsc::channel();
    world.store.check(token, world.now, Urgency::RequestWaits, move |_, found| send.send(found).unwrap());
    assert_eq!(receive.recv_timeout(Duration::from_secs(60)).unwrap(), CheckResult::Whole);
    let checked = world.store.checks().bytes;
    // The bytes are correct; the peer reports a bad proof all the same.
    for _ in 0..20 {
        let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
        world.pass(Duration::from_millis(2));
        world.caller(&peer).stop(request, ErrorCode::BadProof);
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.store.checks().bytes, checked);
}

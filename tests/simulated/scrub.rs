//! The scrub of a gateway's store, and the repair of what it finds, as peers see them.

use crate::hops::put_by;
use crate::support::caller::{End, Peer};
use crate::support::{SEED, Setup, World, gateway_address, gateway_v4, payload};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use stoq::record::ErrorCode;
use stoq::seed::StoreConfig;
use stoq::token::{Ranges, Token};

const EVERY_S: u64 = 1600;

fn scrubbed(gateways: usize) -> World {
    let store = StoreConfig { scrub_s: EVERY_S, ..StoreConfig::default() };
    let peer_gateways = (1..gateways).map(|other| (0, other)).collect();
    World::new(Setup { gateways, peer_gateways, store, ..Setup::default() })
}

/// Inverts a bit of the first gateway's only payload.
fn flip(world: &World) {
    let is_blob = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "blob");
    let path = world.kept().into_iter().find(is_blob).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[700_000] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Lets a whole time of the scrub pass, in steps: between two of them the world waits for what the scrub reads.
fn pass(world: &mut World) {
    (0..=EVERY_S / 100).for_each(|_| world.pass(Duration::from_secs(100)));
}

#[track_caller]
fn fetch(world: &mut World, peer: &Peer, token: Token) -> End {
    let request = world.caller(peer).fetch(peer, token, Ranges::all());
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

#[test]
fn a_rotten_payload_is_fetched_from_a_peer_gateway_and_served_again() {
    let mut world = scrubbed(2);
    let peers: Vec<_> = (0..2).map(|index| world.connect(0, gateway_address(index))).collect();
    world.pass(Duration::from_secs(1));
    let data = payload(1_500_000);
    let token = put_by(&mut world, &peers[1], &[1], &data);
    put_by(&mut world, &peers[0], &[0], &data);
    flip(&world);
    pass(&mut world);
    let damage = world.store.damage();
    assert_eq!((damage.set_aside, damage.refetched, damage.lost), (1, 1, 0), "{damage:#?}");
    let peer = world.connect(0, gateway_v4());
    let pieces = world.get(&peer, token, Ranges::all());
    assert!(pieces.iter().flat_map(|(_, bytes)| bytes).eq(&data));
    assert_eq!(world.store.scrub_state().reads_beside, 0);
}

#[test]
fn a_rotten_payload_without_another_holder_is_refused_with_the_reason_until_it_is_put_again() {
    let mut world = scrubbed(1);
    let peer = world.connect(0, gateway_v4());
    let data = payload(1_500_000);
    // Its lease outlasts the pass.
    let token = put_by(&mut world, &peer, &[0], &data);
    flip(&world);
    pass(&mut world);
    let damage = world.store.damage();
    assert_eq!((damage.set_aside, damage.refetched, damage.lost), (1, 0, 1), "{damage:#?}");
    let peer = world.connect(0, gateway_v4());
    assert_eq!(fetch(&mut world, &peer, token), End::Failed(ErrorCode::NotFound));
    let request = world.caller(&peer).put(&peer, SEED, &data);
    world.finish(&peer, request);
    assert_eq!(world.store.damage().lost, 0);
    world.get(&peer, token, Ranges::all());
}

#[test]
fn a_payload_in_memory_is_served_beside_the_scrub_without_a_read_of_the_disk() {
    let mut world = scrubbed(1);
    let peer = world.connect(0, gateway_v4());
    let data = payload(1_500_000);
    let token = world.put(&peer, &data);
    world.get(&peer, token, Ranges::all());
    let read = world.store.reads();
    world.store.scrub_now();
    let begun = world.store.scrub_state().passes;
    while world.store.scrub_state().passes < begun + 2 {
        world.get(&peer, token, Ranges::all());
        world.pass(Duration::from_secs(1));
        world.store.scrub_now();
    }
    let (reads, state) = (world.store.reads(), world.store.scrub_state());
    assert_eq!(
        (reads.cached + reads.direct + reads.buffered, state.reads_beside),
        (read.cached + read.direct + read.buffered, 0)
    );
    assert!(state.bytes >= 2 * data.len() as u64);
}

//! One payload over several connections: its transfer is not bound to the core of one worker.

use crate::gather::lanes_encoded;
use crate::skew::measured_costs;
use crate::support::caller::Peer;
use crate::support::gathering::{Gathering, source};
use crate::support::{Setup, World, gateway_v4, payload};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::gather::Want;
use stoq::limits::SHARD_BYTES_MAX;
use stoq::nic::simulated::LinkConfig;
use stoq::shard::{Coding, Descriptor, Lanes};
use stoq::token::Token;

const WORKERS: usize = 4;
const PAYLOAD_BYTES: usize = 16 << 20;
/// Lanes of the set that a PUT is spread over.
const LANES: u8 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway of four workers whose work takes time, and connections of one client socket: the device's hash names one queue for all of them.
fn world_of(connections: usize) -> (World, Vec<Peer>) {
    let mut world = World::new(Setup {
        link: LinkConfig { delay: Duration::from_micros(100), ..LinkConfig::default() },
        gateway_workers: WORKERS,
        step: Duration::from_micros(2),
        ..Setup::default()
    });
    let peers = (0..connections).map(|_| world.connect(0, gateway_v4())).collect();
    let of_workers: Vec<_> = (0..WORKERS).map(|worker| world.gateway.connections_of(worker)).collect();
    assert!(of_workers.iter().all(|&of| of <= 1), "a worker with several connections: {of_workers:?}");
    (world, peers)
}

/// The virtual time of a GET over this many connections.
fn got_over(connections: usize) -> Duration {
    let (mut world, peers) = world_of(connections);
    let bytes = payload(PAYLOAD_BYTES);
    let token = world.put(&peers[0], &bytes);
    world.gateway.charge_work(measured_costs(), world.now);
    let begun = world.now;
    let sources = peers.iter().map(|peer| source(peer, None)).collect();
    world.caller(&peers[0]).gathering = Some(Gathering::new(token.into(), Want::Payload, sources));
    world.run(PATIENCE, "a gathering", |world| {
        world.caller(&peers[0]).gathering.as_ref().is_some_and(|gathering| gathering.end.is_some())
    });
    let took = world.now - begun;
    let gathering = world.caller(&peers[0]).gathering.take().unwrap();
    assert!(gathering.end == Some(Ok(())) && gathering.payload() == bytes);
    took
}

/// The same of a PUT, each connection with its lanes.
fn put_over(connections: usize) -> Duration {
    let (mut world, peers) = world_of(connections);
    let bytes = payload(PAYLOAD_BYTES);
    world.gateway.charge_work(measured_costs(), world.now);
    let begun = world.now;
    let (length, token) = (bytes.len() as u64, Token::of(&bytes));
    let coding = Coding::ReedSolomon { data_lanes: LANES, parity: None };
    let set = Descriptor::new(token, length, SHARD_BYTES_MAX, coding).unwrap();
    for (first, peer) in peers.iter().enumerate() {
        let lanes =
            (0..LANES).skip(first).step_by(connections).map(Lanes::one).fold(Lanes::NONE, Lanes::union);
        let encoded = lanes_encoded(&bytes, &[], &set, lanes);
        world.caller(peer).put_with(peer, None, 0, set, Some(lanes), 0, encoded);
    }
    // The store's disk takes no virtual time.
    world.run(PATIENCE, "all bytes", |world| world.gateway.count(Counter::VerifiedBytes) == length);
    world.now - begun
}

#[test]
fn a_payload_over_a_connection_a_worker_is_not_bound_to_one_core() {
    // Four workers would be four times as fast, but for what the one that receives everything hands over, and for the start of each connection.
    // The connections of a GET get ranges as they finish earlier ones; the lanes of a PUT are divided when it begins, so its slowest connection
    // counts.
    let times = |over: fn(usize) -> Duration| (over(1), over(WORKERS));
    let (one, four) = times(got_over);
    assert!(four * 3 < one, "GET: {one:?} over one connection, {four:?} over four");
    let (one, four) = times(put_over);
    assert!(four * 2 < one, "PUT: {one:?} over one connection, {four:?} over four");
}

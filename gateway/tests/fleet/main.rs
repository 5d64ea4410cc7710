//! Members of a fleet's directory over a model of etcd, and of Kubernetes (`kubernetes`), under virtual time.
//!
//! `STOQ_FLEET=1..201 cargo test --release -p stoq-gateway --test fleet` draws two hundred worlds by their seeds, and names those that
//! fail.

mod api;
mod cluster;
mod kubernetes;
mod schedule;
mod store;
mod world;

use rand::Rng;
use std::time::Duration;
use stoq_gateway::fleet::record::{FleetGateway, FleetRecord};
use store::{Etcd, NODES};
use world::{Mutant, World, gateway, put};

const SECOND: Duration = Duration::from_secs(1);
/// What a change takes over and above the time that members let it settle: a message's way to them.
const DELAY: Duration = Duration::from_millis(5);

/// A fleet that has begun.
fn begun(seed: u64, members: usize) -> World {
    let mut world = World::new(seed, members);
    world.run(25 * SECOND);
    assert_eq!(world.faults_at_end(), [""; 0], "seed {seed}");
    world
}

/// The gateway of this number, with another weight.
fn weighted(number: usize, weight: f64) -> (std::sync::Arc<str>, FleetRecord) {
    put(FleetGateway { weight, ..gateway(number) })
}

#[test]
fn a_change_reaches_a_thousand_members_within_a_second_and_a_quiet_fleet_writes_nothing() {
    let mut world = begun(1, 1_000);
    assert_eq!(world.lists, 1_000, "each lists once");
    let (written, revision) = (world.etcd.put_by_members, world.etcd.head.revision);
    assert_eq!(written, 1_000, "each says once that it is alive");
    world.run(60 * SECOND);
    assert_eq!((world.etcd.put_by_members, world.etcd.head.revision), (written, revision));

    world.operate((0..100).map(|number| weighted(number, 2.0)).collect());
    world.run(SECOND + DELAY);
    let revision = world.etcd.head.revision;
    assert_eq!(world.behind(revision), 0);

    // One that cannot be is refused by all, and named; then it is mended.
    let twin = FleetGateway { server_id: gateway(8).server_id, ..gateway(7) };
    world.operate(vec![put(twin)]);
    world.run(SECOND + DELAY);
    for station in &world.stations {
        let refused = station.member.status().refused.unwrap().to_string();
        assert!(refused.contains("server_id 000008 is that of"), "{refused}");
        assert_eq!(station.table.as_ref().unwrap().roster.revision, revision);
    }
    world.operate(vec![weighted(7, 3.0)]);
    world.run(SECOND + DELAY);
    assert_eq!(world.behind(world.etcd.head.revision), 0);
    assert!(world.stations.iter().all(|station| station.member.status().refused.is_none()));
    assert_eq!(world.faults_at_end(), [""; 0]);
}

#[test]
fn a_minute_without_quorum_changes_no_table_and_ends_no_lease() {
    for seed in 1..=5 {
        let mut world = begun(seed, 60);
        let written = world.etcd.put_by_members;
        world.kill(0);
        world.set_joined(1, false);
        world.run(60 * SECOND);
        for station in &world.stations {
            let (status, table) = (station.member.status(), station.table.as_ref().unwrap());
            assert!(!status.is_up && status.lost.is_some(), "{status:?}");
            assert_eq!((table.roster.gateways.len(), table.alive.len()), (60, 60));
        }
        world.set_joined(0, true);
        world.set_joined(1, true);
        world.run(25 * SECOND);
        assert_eq!(world.etcd.ended_leases, 0, "seed {seed}");
        assert_eq!((world.lists, world.etcd.put_by_members), (60, written), "they go on where they were");
        assert_eq!(world.faults_at_end(), [""; 0], "seed {seed}");
    }
}

#[test]
fn members_of_a_dead_node_go_on_at_another_within_five_seconds_and_list_nothing() {
    for seed in 1..=5 {
        let mut world = begun(seed, 60);
        world.kill(2);
        world.run(5 * SECOND);
        world.operate(vec![weighted(3, 2.0)]);
        world.run(SECOND + DELAY);
        assert_eq!((world.behind(world.etcd.head.revision), world.lists), (0, 60), "seed {seed}");
        world.run(20 * SECOND);
        assert_eq!(world.etcd.ended_leases, 0, "seed {seed}");
        assert_eq!(world.faults_at_end(), [""; 0], "seed {seed}");
    }
}

#[test]
fn a_node_that_is_cut_off_from_the_others_keeps_no_member_for_long() {
    let mut world = begun(3, 60);
    world.set_joined(1, false);
    world.run(SECOND);
    world.operate(vec![weighted(3, 2.0)]);
    // No leader is said after 4.2 s; the next endpoint is asked within one more.
    world.run(6 * SECOND);
    assert_eq!(world.behind(world.etcd.head.revision), 0);
    assert_eq!(world.etcd.ended_leases, 0);
}

/// A member that was away while the directory changed and was compacted.
fn compacted(mutant: Option<Mutant>) -> World {
    let mut world = begun(4, 30);
    world.mutant = mutant;
    (world.stations[5].cut, world.stations[6].cut) = ([true; NODES], [true; NODES]);
    world.run(30 * SECOND);
    world.operate(vec![weighted(3, 2.0)]);
    world.run(SECOND);
    world.etcd.compact();
    world.operate(vec![weighted(4, 2.0)]);
    (world.stations[5].cut, world.stations[6].cut) = ([false; NODES], [false; NODES]);
    world.run(40 * SECOND);
    world
}

#[test]
fn a_member_that_was_away_while_the_directory_was_compacted_lists_again() {
    let world = compacted(None);
    assert_eq!(
        (world.lists, world.etcd.ended_leases),
        (32, 2),
        "they were away for longer than their leases"
    );
    assert_eq!(world.faults_at_end(), [""; 0]);
}

#[test]
fn a_cluster_that_was_wiped_or_went_back_is_gone_by_only_when_it_is_adopted() {
    for (cluster, says) in
        [(0xbad, "another cluster"), (0xc0ffee, "the directory is at revision 2 and was at")]
    {
        let mut world = begun(5, 30);
        let before = world.etcd.head.revision;
        let mut anew = Etcd::new(cluster);
        anew.write(vec![weighted(0, 5.0)], &[], None);
        world.replace(anew);
        world.run(60 * SECOND);
        for station in &world.stations {
            let (status, table) = (station.member.status(), station.table.as_ref().unwrap());
            let strange = status.strange.unwrap().to_string();
            assert!(strange.contains(says) && strange.contains("stoq-gateway fleet adopt"), "{strange}");
            assert!(!status.is_up && table.roster.gateways.len() == 30 && table.roster.revision < before);
        }
        assert_eq!((world.etcd.put_by_members, world.etcd.head.revision), (0, 2), "nothing is written there");
        world.install(30);
        for at in 0..30 {
            world.stations[at].member.adopt(std::time::Instant::now());
            world.stations[at].table = None;
            world.turn(at);
        }
        world.run(25 * SECOND);
        assert_eq!(world.faults_at_end(), [""; 0]);
    }
}

#[test]
fn what_is_said_of_a_gateway_and_deleted_is_said_again_with_the_same_process() {
    let mut world = begun(6, 20);
    let keys: Vec<_> =
        world.etcd.list().into_iter().map(|entry| entry.key).filter(|key| key.contains("/alive/")).collect();
    let alive = world.stations[0].table.as_ref().unwrap().alive.clone();
    world.delete(&keys);
    world.run(2 * SECOND);
    assert!(world.stations[0].table.as_ref().unwrap().alive.len() < 20);
    world.run(15 * SECOND);
    assert_eq!(world.faults_at_end(), [""; 0]);
    assert_eq!(world.stations[0].table.as_ref().unwrap().alive, alive);
}

#[test]
fn a_member_that_leaves_is_seen_to_be_gone_at_once() {
    let mut world = begun(7, 20);
    world.stations[4].member.leave();
    world.turn(4);
    world.run(2 * SECOND);
    let (left, other) = (&world.stations[4], &world.stations[5]);
    assert!(left.member.has_left());
    assert_eq!(other.table.as_ref().unwrap().is_alive(&left.node), Some(false));
    assert_eq!(world.etcd.ended_leases, 0);
}

/// Faults drawn by the seed, and then a time in which everything heals.
fn drawn(seed: u64, mutant: Option<Mutant>) -> Vec<String> {
    let mut world = World::new(seed, 30);
    world.run(25 * SECOND);
    world.mutant = mutant;
    for _ in 0..30 {
        let (node, at) = (world.random.random_range(0..NODES), world.random.random_range(0..30));
        match world.random.random_range(0..8) {
            0 => world.kill(node),
            1 => world.set_joined(node, false),
            2 => (0..NODES).for_each(|node| world.set_joined(node, true)),
            3 => world.stations[at].cut = [true; NODES],
            4 => world.stations[at].cut = [false; NODES],
            5 if world.etcd.is_led(0) || world.etcd.is_led(1) => world.etcd.compact(),
            6 if world.etcd.is_led(0) || world.etcd.is_led(1) => {
                // Two gateways change their server IDs in one transaction: half of it would be refused, or wrong.
                let (a, b) = (gateway(at), gateway((at + 1) % 30));
                let server_ids = (b.server_id, a.server_id);
                let change = |gateway, server_id| put(FleetGateway { server_id, ..gateway });
                world.operate(vec![change(a, server_ids.0), change(b, server_ids.1)]);
            }
            _ if world.etcd.is_led(0) || world.etcd.is_led(1) => world.operate(vec![weighted(at, 2.0)]),
            _ => {}
        }
        let span = world.random.random_range(100..8_000);
        world.run(Duration::from_millis(span));
    }
    (0..NODES).for_each(|node| world.set_joined(node, true));
    (0..30).for_each(|at| world.stations[at].cut = [false; NODES]);
    world.install(30);
    world.run(60 * SECOND);
    world.faults_at_end()
}

/// The seeds to draw: those of the environment, or these.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("STOQ_FLEET") else { return default };
    let (first, end) = text.split_once("..").expect("STOQ_FLEET=1..201");
    first.parse().unwrap()..end.parse().unwrap()
}

/// The seeds that fail, with the faults.
fn drawn_seeds(seeds: std::ops::Range<u64>, drawn: impl Fn(u64) -> Vec<String>) -> Vec<(u64, Vec<String>)> {
    seeds.map(|seed| (seed, drawn(seed))).filter(|(_, faults)| !faults.is_empty()).collect()
}

#[test]
fn after_any_faults_each_table_is_one_whole_revision_and_all_come_together_again() {
    let failed = drawn_seeds(seeds(1..31), |seed| drawn(seed, None));
    assert!(failed.is_empty(), "by seed: {failed:#?}");
}

#[test]
fn the_checker_finds_each_mutant() {
    for mutant in [Mutant::SilentCompaction, Mutant::LeaseUnsaid, Mutant::WatchFromNow] {
        assert_ne!(compacted(Some(mutant)).faults_at_end(), [""; 0], "{mutant:?} is not found");
    }
    for mutant in [Mutant::TornRevision, Mutant::SilentCompaction, Mutant::WatchFromNow] {
        let found = (1..6).filter(|seed| !drawn(*seed, Some(mutant)).is_empty()).count();
        assert!(found > 0, "{mutant:?} is not found");
    }
}

//! Members of a fleet's directory over a model of Kubernetes' API, under virtual time.

use crate::cluster::{ApiMutant, ApiState, Cluster, object};
use crate::{drawn_seeds, seeds};
use rand::Rng;
use serde_json::{Value, json};

/// A fleet that has begun.
fn begun(seed: u64, members: usize) -> Cluster {
    let mut cluster = Cluster::new(seed, members);
    cluster.run(30);
    assert_eq!(cluster.faults_at_end(), [""; 0], "seed {seed}");
    cluster
}

fn alive(cluster: &Cluster, at: usize) -> usize {
    cluster.pods[at].table.as_ref().unwrap().alive.len()
}

#[test]
fn a_change_reaches_all_within_a_second_and_renewals_change_no_table() {
    let mut cluster = begun(1, 60);
    assert_eq!(cluster.lists, 60, "each lists once");
    let tables: Vec<_> = cluster.pods.iter().map(|pod| pod.tables).collect();
    let (version, calls) = (cluster.api.version, cluster.api.calls);
    cluster.run(60);
    assert_eq!(cluster.pods.iter().map(|pod| pod.tables).collect::<Vec<_>>(), tables);
    let (renewals, calls) = (cluster.api.version - version, cluster.api.calls - calls);
    assert!((60 * 11..=60 * 12).contains(&renewals), "one in five seconds: {renewals}");
    assert_eq!(calls as u64, renewals, "nothing else is asked");
    let lease = &cluster.api.all("leases")[0]["spec"];
    assert_eq!(
        (&lease["leaseDurationSeconds"], lease["holderIdentity"].as_str().unwrap().len()),
        (&json!(15), 16)
    );

    (0..30).for_each(|number| cluster.put("stoqgateways", object(number, 2.0)));
    cluster.run(1);
    assert_eq!(cluster.behind(), 0);
    assert_eq!(cluster.faults_at_end(), [""; 0]);
}

#[test]
fn a_table_that_cannot_be_is_refused_whole_and_its_object_is_named() {
    let mut cluster = begun(2, 20);
    let mut twin = object(7, 2.0);
    twin["spec"]["name"] = "g8".into();
    cluster.put("stoqgateways", twin);
    cluster.run(1);
    for pod in &cluster.pods {
        let refused = pod.member.status().refused.unwrap().to_string();
        assert!(
            refused.contains("stoqgateways/eu-000008: the name \"g8\" is that of stoqgateways/eu-000007"),
            "{refused}"
        );
        assert_eq!(pod.table.as_ref().unwrap().roster.named("g7").unwrap().weight, 1.0);
    }
    let mut wrong = object(7, 2.0);
    wrong["spec"]["serverId"] = "000008".into();
    cluster.put("stoqgateways", wrong);
    cluster.run(1);
    let refused = cluster.pods[0].member.status().refused.unwrap().to_string();
    assert!(
        refused.contains("stoqgateways/eu-000007: its value cannot be read: spec.serverId is not 000007"),
        "{refused}"
    );
    cluster.put("stoqgateways", object(7, 3.0));
    // A fleet of another name in the same namespace is none of theirs.
    let mut other = object(7, 3.0);
    other["metadata"]["name"] = "eu-west-000007".into();
    cluster.put("stoqgateways", other);
    cluster.delete("stoqgateways", "eu-west-000007");
    cluster.run(1);
    assert_eq!(cluster.behind(), 0);
    assert!(cluster.pods.iter().all(|pod| pod.member.status().refused.is_none()));
}

#[test]
fn an_api_that_is_away_for_a_minute_takes_no_gateway_away() {
    for seed in 3..=6 {
        let mut cluster = begun(seed, 40);
        cluster.pods.iter_mut().for_each(|pod| pod.fewest = usize::MAX);
        cluster.state = ApiState::Silent;
        if seed % 2 == 0 {
            cluster.reset(0..40);
        }
        cluster.run(60);
        for pod in &cluster.pods {
            let (status, table) = (pod.member.status(), pod.table.as_ref().unwrap());
            assert!(!status.is_up && status.lost.is_some(), "{status:?}");
            assert_eq!((table.roster.gateways.len(), table.alive.len()), (40, 40));
        }
        cluster.state = ApiState::Well;
        cluster.run(40);
        assert_eq!(cluster.lists, 40, "they go on where they were");
        let fewest = cluster.pods.iter().map(|pod| pod.fewest).min();
        assert!(
            fewest.is_some_and(|fewest| fewest >= 40),
            "seed {seed}: none was taken for dead: {fewest:?}"
        );
        assert_eq!(cluster.faults_at_end(), [""; 0], "seed {seed}");
    }
}

#[test]
fn a_gateway_that_dies_is_seen_to_within_its_lease_and_one_that_leaves_at_once() {
    let mut cluster = begun(7, 20);
    cluster.pods[4].is_cut = true;
    cluster.run(9);
    assert_eq!(alive(&cluster, 5), 20, "its lease is not over");
    cluster.run(13);
    assert_eq!(alive(&cluster, 5), 19);
    assert_eq!(cluster.faults_at_end(), [""; 0]);
    cluster.pods[4].is_cut = false;
    cluster.run(20);
    assert_eq!(cluster.faults_at_end(), [""; 0], "it is back");

    cluster.pods[3].member.fleet().leave();
    cluster.turn(3);
    cluster.run(2);
    assert!(cluster.pods[3].member.fleet().has_left());
    assert_eq!(alive(&cluster, 5), 19);
    assert_eq!(cluster.api.all("leases").len(), 19, "its Lease is deleted");
}

#[test]
fn a_watch_that_tells_nothing_ends_no_lease() {
    let mut cluster = begun(8, 20);
    cluster.pods.iter_mut().for_each(|pod| pod.fewest = usize::MAX);
    cluster.stalls = true;
    cluster.run(120);
    assert!(cluster.pods.iter().all(|pod| pod.member.status().is_up), "calls are answered");
    cluster.stalls = false;
    cluster.run(30);
    assert!(cluster.pods.iter().all(|pod| pod.fewest >= 20), "none was taken for dead");
    assert_eq!(cluster.faults_at_end(), [""; 0]);
}

/// Members that were away while the API forgot what changed.
fn expired(mutant: Option<ApiMutant>) -> Cluster {
    let mut cluster = begun(9, 20);
    cluster.mutant = mutant;
    (cluster.pods[5].is_cut, cluster.pods[6].is_cut) = (true, true);
    cluster.run(30);
    cluster.put("stoqgateways", object(3, 2.0));
    cluster.api.compact();
    cluster.put("stoqgateways", object(4, 2.0));
    (cluster.pods[5].is_cut, cluster.pods[6].is_cut) = (false, false);
    cluster.run(40);
    cluster
}

#[test]
fn a_watch_whose_changes_are_gone_is_listed_anew_and_one_that_ends_goes_on() {
    let mut cluster = expired(None);
    assert_eq!(cluster.lists, 22);
    assert_eq!(cluster.faults_at_end(), [""; 0]);
    // A watch that runs is told of it by its error.
    cluster.stalls = true;
    cluster.put("stoqgateways", object(5, 2.0));
    cluster.api.compact();
    cluster.stalls = false;
    cluster.put("stoqgateways", object(6, 2.0));
    cluster.run(10);
    assert_eq!(cluster.lists, 42);
    assert_eq!(cluster.faults_at_end(), [""; 0]);
    cluster.end_watches();
    cluster.put("stoqgateways", object(7, 2.0));
    cluster.run(2);
    assert_eq!((cluster.lists, cluster.behind()), (42, 0), "nothing is listed for it");
    assert!(cluster.pods.iter().all(|pod| pod.member.status().lost.is_none()));
}

#[test]
fn a_lease_that_others_change_or_delete_is_kept() {
    let mut cluster = begun(10, 5);
    let leases = cluster.api.all("leases");
    for round in 0..20 {
        let mut lease = cluster.api.all("leases")[0].clone();
        lease["metadata"]["annotations"]["note"] = json!(round);
        cluster.put("leases", lease);
        cluster.run(1);
    }
    assert_eq!(cluster.faults_at_end(), [""; 0], "each conflict is met");
    cluster.delete("leases", leases[1]["metadata"]["name"].as_str().unwrap());
    cluster.run(20);
    let again = cluster.api.get("leases", leases[1]["metadata"]["name"].as_str().unwrap()).unwrap();
    assert_eq!(again["spec"]["holderIdentity"], leases[1]["spec"]["holderIdentity"], "by the same process");
    // Another process that says it is this gateway.
    let mut twin = cluster.api.all("leases")[2].clone();
    twin["spec"]["holderIdentity"] = "twin".into();
    let said = twin["metadata"]["annotations"]["stoq-transport.example/alive"].as_str().unwrap();
    let mut said: Value = serde_json::from_str(said).unwrap();
    said["boot"] = "twin".into();
    twin["metadata"]["annotations"]["stoq-transport.example/alive"] = said.to_string().into();
    let mut is_seen = false;
    for _ in 0..5 {
        twin["metadata"]["resourceVersion"] = Value::Null;
        cluster.put("leases", twin.clone());
        cluster.run(1);
        is_seen |= cluster.pods[2].member.status().twin.as_deref() == Some("twin");
    }
    assert!(is_seen);
    cluster.run(20);
    assert_eq!(cluster.pods[2].member.status().twin, None, "the twin has gone");
    assert_eq!(cluster.faults_at_end(), [""; 0]);
}

#[test]
fn an_api_that_throttles_is_asked_when_it_says() {
    for seconds in [2, 30] {
        let mut cluster = begun(11, 10);
        cluster.pods.iter_mut().for_each(|pod| pod.fewest = usize::MAX);
        let calls = cluster.api.calls;
        cluster.state = ApiState::Throttles(seconds);
        cluster.run(60);
        let made = cluster.api.calls - calls;
        let most = 10 * (60 / seconds as usize + 3);
        assert!(made > 0 && made <= most, "{made} calls of at most {most}");
        if seconds == 30 {
            let lost = cluster.pods[0].member.status().lost.unwrap();
            assert!(lost.contains("asks for a pause of 30 s") || lost.contains("no answer"), "{lost}");
        }
        cluster.state = ApiState::Well;
        cluster.run(60);
        assert_eq!(cluster.faults_at_end(), [""; 0]);
        assert!(cluster.pods.iter().all(|pod| pod.fewest >= 10), "{:?}", cluster.pods[0].fewest);
    }
}

#[test]
fn an_account_that_may_write_no_lease_follows_all_the_same_and_says_so() {
    let mut cluster = Cluster::new(12, 5);
    cluster.api.denied = vec!["create"];
    cluster.run(30);
    for pod in &cluster.pods {
        let status = pod.member.status();
        assert!(
            status.is_up && status.denied.as_ref().unwrap().contains("leases is forbidden"),
            "{status:?}"
        );
    }
    assert_eq!(cluster.behind(), 0);
    cluster.api.denied.clear();
    cluster.run(45);
    assert_eq!(cluster.faults_at_end(), [""; 0]);
}

#[test]
fn a_fleet_that_was_made_anew_or_went_back_is_gone_by_only_when_it_is_adopted() {
    for goes_back in [false, true] {
        let mut cluster = begun(13, 10);
        let before = cluster.pods[0].table.clone().unwrap();
        match goes_back {
            true => {
                cluster.api.version = 50;
                cluster.reset(0..10);
            }
            false => cluster.remake(),
        }
        cluster.run(30);
        for pod in &cluster.pods {
            let strange = pod.member.status().strange.unwrap().to_string();
            assert!(strange.contains("stoq-gateway fleet adopt") && !pod.member.status().is_up, "{strange}");
            assert_eq!(pod.table.as_ref().unwrap().roster.gateways, before.roster.gateways);
        }
        if goes_back {
            continue;
        }
        let now = std::time::Instant::now();
        (0..10).for_each(|at| cluster.pods[at].member.adopt(now));
        (0..10).for_each(|at| cluster.turn(at));
        cluster.run(40);
        assert_eq!(cluster.faults_at_end(), [""; 0]);
    }
}

#[test]
fn a_fleet_without_its_object_says_what_makes_it() {
    let mut cluster = Cluster::new(14, 2);
    cluster.api.delete("stoqfleets", "eu");
    cluster.run(15);
    let lost = cluster.pods[0].member.status().lost.unwrap();
    assert!(
        lost.contains("no StoqFleet eu in the namespace stoq; `stoq-gateway fleet rotate-cid` makes it"),
        "{lost}"
    );
}

/// Faults drawn by the seed, and then a time in which everything heals.
fn drawn(seed: u64, mutant: Option<ApiMutant>) -> Vec<String> {
    let mut cluster = Cluster::new(seed, 15);
    cluster.run(30);
    cluster.mutant = mutant;
    for _ in 0..30 {
        let at = cluster.random.random_range(0..15);
        match cluster.random.random_range(0..10) {
            0 => cluster.state = ApiState::Silent,
            1 => cluster.state = ApiState::Throttles(cluster.random.random_range(1..20)),
            2 | 3 => cluster.state = ApiState::Well,
            4 => cluster.pods[at].is_cut = true,
            5 => (0..15).for_each(|at| cluster.pods[at].is_cut = false),
            6 => cluster.api.compact(),
            7 => cluster.end_watches(),
            8 => cluster.reset([at]),
            _ => {
                let weight = f64::from(cluster.random.random_range(1..100_u32));
                cluster.put("stoqgateways", object(at, weight));
            }
        }
        let seconds = cluster.random.random_range(1..8);
        cluster.run(seconds);
    }
    cluster.state = ApiState::Well;
    (0..15).for_each(|at| cluster.pods[at].is_cut = false);
    cluster.run(100);
    cluster.faults_at_end()
}

#[test]
fn after_any_faults_of_the_api_each_table_is_that_of_one_version_and_all_come_together() {
    let failed = drawn_seeds(seeds(1..16), |seed| drawn(seed, None));
    assert!(failed.is_empty(), "by seed: {failed:#?}");
}

#[test]
fn the_checker_finds_each_mutant_of_the_api() {
    assert_ne!(expired(Some(ApiMutant::SilentExpiry)).faults_at_end(), [""; 0]);
    for mutant in [ApiMutant::SilentExpiry, ApiMutant::LostChange] {
        let found = (1..6).filter(|seed| !drawn(*seed, Some(mutant)).is_empty()).count();
        assert!(found > 0, "{mutant:?} is not found");
    }
}

//! Neighbors are learned, kept, changed and forgotten.

use super::*;
use crate::limits::{
    NEIGHBOR_IN_USE_MS, NEIGHBOR_REPLIES_BURST, NEIGHBORS_LEN_MAX, NEIGHBORS_UNRESOLVED_LEN_MAX,
};
use crate::nic::TxKind;
use crate::wire::arp::Arp;
use crate::wire::ethernet::BROADCAST;
use std::net::Ipv4Addr;

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 2];
const OTHER: Mac = [2, 0, 0, 0, 0, 3];

struct Host {
    neighbors: Neighbors,
    counters: Counters,
    start: Instant,
}

impl Host {
    fn new() -> Self {
        let addresses = ["10.77.0.1/16", "fd00::1/64"].map(|text| text.parse().unwrap());
        let routes = IpRoutes::new(OURS, &addresses, None, None).unwrap();
        Self { neighbors: Neighbors::new(OURS, routes), counters: Counters::default(), start: Instant::now() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn lookup(&mut self, ms: u64, address: &str) -> Resolution {
        let now = self.at(ms);
        self.neighbors.lookup(now, &self.counters, ip(address))
    }

    fn mac(&mut self, ms: u64, address: &str) -> Option<Mac> {
        match self.lookup(ms, address) {
            Resolution::Known { mac, .. } => Some(mac),
            _ => None,
        }
    }

    fn claim(&mut self, ms: u64, claim: Claim) {
        let now = self.at(ms);
        self.neighbors.handle_claim(now, &self.counters, claim);
    }

    fn timeout(&mut self, ms: u64) {
        let now = self.at(ms);
        self.neighbors.handle_timeout(now, &self.counters);
    }

    fn outputs(&mut self) -> Vec<NeighborOutput> {
        std::iter::from_fn(|| self.neighbors.poll_output()).collect()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn answer(address: &str, mac: Mac) -> Claim {
    Claim { address: ip(address), mac: Some(mac), solicited: true, overrides: true, asks_us: false }
}

fn question(address: &str, mac: Mac) -> Claim {
    Claim { address: ip(address), mac: Some(mac), solicited: false, overrides: true, asks_us: true }
}

fn packet(len: usize) -> Pending {
    Pending { kind: TxKind::Plain, frame: vec![0; len], payload_len: len }
}

#[test]
fn a_neighbor_is_asked_for_once_and_its_packets_wait_for_the_answer() {
    let mut host = Host::new();
    assert_eq!(host.lookup(0, "10.77.0.2"), Resolution::Resolving);
    assert_eq!(host.lookup(1, "10.77.0.2"), Resolution::Resolving);
    host.neighbors.enqueue(&host.counters, ip("10.77.0.2"), packet(60));
    assert!(matches!(host.outputs()[..], [NeighborOutput::Arp { destination: BROADCAST, .. }]));
    host.claim(2, answer("10.77.0.2", THEIRS));
    let [NeighborOutput::Frame(sent)] = &host.outputs()[..] else { panic!("one frame") };
    assert_eq!(sent.frame[..6], THEIRS);
    assert_eq!(host.mac(3, "10.77.0.2"), Some(THEIRS));
}

#[test]
fn a_silent_neighbor_is_asked_three_times_and_then_left_alone_for_a_while() {
    let mut host = Host::new();
    host.lookup(0, "fd00::2");
    host.neighbors.enqueue(&host.counters, ip("fd00::2"), packet(60));
    for ms in [1000, 2000] {
        host.timeout(ms);
    }
    assert_eq!(host.outputs().len(), 3);
    host.timeout(3000);
    assert_eq!(host.counters.get(Counter::DropNeighborUnreachable), 1);
    assert_eq!(host.neighbors.poll_timeout(), None);
    assert_eq!(host.lookup(4000, "fd00::2"), Resolution::Unreachable);
    assert!(host.outputs().is_empty());
    assert_eq!(host.lookup(6000, "fd00::2"), Resolution::Resolving);
    assert_eq!(host.outputs().len(), 1);
}

#[test]
fn an_old_neighbor_is_used_while_it_is_asked_again() {
    let mut host = Host::new();
    host.lookup(0, "fd00::2");
    host.claim(1, answer("fd00::2", THEIRS));
    host.outputs();
    assert_eq!(host.mac(60_000, "fd00::2"), Some(THEIRS));
    assert!(host.outputs().is_empty());
    assert_eq!(host.mac(60_001, "fd00::2"), Some(THEIRS));
    let [NeighborOutput::Ndp { destination, addresses, .. }] = &host.outputs()[..] else {
        panic!("one question")
    };
    assert_eq!((*destination, addresses.destination()), (THEIRS, ip("fd00::2")));
    let before = host.neighbors.generation();
    host.claim(60_010, answer("fd00::2", THEIRS));
    assert_eq!(host.mac(120_000, "fd00::2"), Some(THEIRS));
    assert_eq!(host.neighbors.generation(), before);
    assert!(host.outputs().is_empty());
}

#[test]
fn a_neighbor_that_stops_answering_is_forgotten_and_asked_for_anew() {
    let mut host = Host::new();
    host.lookup(0, "fd00::2");
    host.claim(0, answer("fd00::2", THEIRS));
    host.lookup(60_000, "fd00::2");
    let before = host.neighbors.generation();
    for ms in [61_000, 62_000, 63_000] {
        host.timeout(ms);
    }
    assert_ne!(host.neighbors.generation(), before);
    assert_eq!(host.lookup(63_001, "fd00::2"), Resolution::Resolving);
}

/// A gratuitous announcement, as a router makes after a failover (RFC 5227 §3).
fn announcement(address: &str, mac: Mac) -> Claim {
    Claim { asks_us: false, ..question(address, mac) }
}

/// A host that sends to 10.77.0.2 at the station `THEIRS`.
fn host_with_neighbor() -> Host {
    let mut host = Host::new();
    host.lookup(0, "10.77.0.2");
    host.claim(0, answer("10.77.0.2", THEIRS));
    host.outputs();
    host
}

fn asked(outputs: &[NeighborOutput]) -> Vec<Mac> {
    let station = |output: &NeighborOutput| match output {
        NeighborOutput::Arp { destination, arp } if !arp.reply => Some(*destination),
        _ => None,
    };
    outputs.iter().filter_map(station).collect()
}

#[test]
fn a_claim_takes_no_address_from_a_station_that_answers() {
    let mut host = host_with_neighbor();
    let before = host.neighbors.generation();
    for second in 0..5 {
        for i in 0..7 {
            host.claim(second * 1000 + 1 + i, announcement("10.77.0.2", OTHER));
            host.claim(second * 1000 + 1 + i, answer("10.77.0.2", OTHER));
        }
        host.timeout(second * 1000 + 10);
        assert_eq!(asked(&host.outputs()), [THEIRS], "one question of the known station a pause");
        assert_eq!(host.mac(second * 1000 + 20, "10.77.0.2"), Some(THEIRS));
        host.claim(second * 1000 + 30, answer("10.77.0.2", THEIRS));
        host.timeout(second * 1000 + 700);
        assert_eq!(host.mac(second * 1000 + 700, "10.77.0.2"), Some(THEIRS));
    }
    assert_eq!(host.neighbors.generation(), before, "no path is built again");
    assert_eq!(host.counters.get(Counter::NeighborClaimsContested), 70);
    assert_eq!(host.counters.get(Counter::NeighborClaimsRefuted), 5);
    assert_eq!(host.counters.get(Counter::NeighborStationsChanged), 0);
}

#[test]
fn a_neighbor_that_moves_to_another_station_is_followed_once_the_old_one_is_silent() {
    let mut host = host_with_neighbor();
    let before = host.neighbors.generation();
    host.claim(1, announcement("10.77.0.2", OTHER));
    for ms in [201, 401] {
        host.timeout(ms);
        assert_eq!(host.mac(ms, "10.77.0.2"), Some(THEIRS));
    }
    assert_eq!(asked(&host.outputs()), [THEIRS; 3]);
    host.timeout(601);
    assert_eq!(host.mac(601, "10.77.0.2"), Some(OTHER));
    assert_ne!(host.neighbors.generation(), before);
    assert_eq!(asked(&host.outputs()), [OTHER], "the new station is asked in its turn");
    assert_eq!(host.counters.get(Counter::NeighborStationsChanged), 1);
}

#[test]
fn a_contest_in_the_pause_after_another_asks_at_its_end() {
    let mut host = host_with_neighbor();
    host.claim(1, announcement("10.77.0.2", OTHER));
    host.claim(2, answer("10.77.0.2", THEIRS));
    assert_eq!(asked(&host.outputs()), [THEIRS]);
    host.claim(3, announcement("10.77.0.2", OTHER));
    assert!(host.outputs().is_empty());
    for ms in [1001, 1201, 1401] {
        host.timeout(ms);
        assert_eq!(asked(&host.outputs()), [THEIRS]);
    }
    host.timeout(1601);
    assert_eq!(host.mac(1601, "10.77.0.2"), Some(OTHER));
}

#[test]
fn denials_keep_no_station_that_is_silent() {
    let mut host = host_with_neighbor();
    for ms in (1..4000).step_by(100) {
        host.claim(ms, Claim { overrides: false, solicited: false, ..answer("10.77.0.2", OTHER) });
        host.timeout(ms);
    }
    assert_eq!(host.lookup(4000, "10.77.0.2"), Resolution::Resolving, "forgotten, and all are asked");
}

#[test]
fn spoofed_addresses_cause_few_questions_and_displace_neither_routers_nor_stations_in_use() {
    let addresses = ["10.77.0.1/16"].map(|text| text.parse().unwrap());
    let routes = IpRoutes::new(OURS, &addresses, Some([10, 77, 0, 254].into()), None).unwrap();
    let mut host = Host { neighbors: Neighbors::new(OURS, routes), ..Host::new() };
    host.lookup(0, "10.77.0.2");
    host.claim(0, answer("10.77.0.2", THEIRS));
    let before = host.neighbors.generation();
    let (mut questions, mut limited) = (0, 0);
    for i in 0..6400u32 {
        let ms = 1 + u64::from(i) * 1000 / 6400;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 1, 0).to_bits() + i).to_string();
        limited += usize::from(host.lookup(ms, &address) == Resolution::Limited);
        questions += host.outputs().len();
        let unresolved = host.neighbors.entries.values().filter(|entry| entry.mac().is_none()).count();
        assert!(unresolved <= NEIGHBORS_UNRESOLVED_LEN_MAX, "{unresolved}");
    }
    assert!(questions <= (NEIGHBOR_SOLICITS_BURST + NEIGHBOR_SOLICITS_PER_S) as usize + 1, "{questions}");
    assert!(limited > 6000, "{limited}");
    assert_eq!(host.mac(1001, "10.77.0.2"), Some(THEIRS));
    assert_eq!(host.lookup(1001, "10.77.0.254"), Resolution::Resolving, "a router is asked for in any case");
    assert_eq!(host.outputs().len(), 1);
    // The unresolved ones that went were in no path.
    assert_eq!(host.neighbors.generation(), before);
}

#[test]
fn a_table_full_of_stations_in_use_keeps_them() {
    let mut host = Host::new();
    let address = |i: u32| Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 1, 0).to_bits() + i).to_string();
    for i in 0..NEIGHBORS_LEN_MAX as u32 {
        host.claim(u64::from(i), question(&address(i), OTHER));
        assert_eq!(host.mac(u64::from(i), &address(i)), Some(OTHER));
    }
    assert_eq!(host.lookup(2000, "10.77.0.2"), Resolution::Limited);
    assert_eq!(host.neighbors.entries.len(), NEIGHBORS_LEN_MAX);
    // Once they are used no more, the one written to longest ago makes room.
    let later = NEIGHBOR_IN_USE_MS + 2000;
    assert_eq!(host.lookup(later, "10.77.0.2"), Resolution::Resolving);
    assert_eq!(host.neighbors.entries.len(), NEIGHBORS_LEN_MAX);
    assert!(!host.neighbors.entries.contains_key(&ip(&address(0))));
}

#[test]
fn questions_are_answered_at_a_bounded_rate_and_those_of_neighbors_in_use_apart() {
    let mut host = host_with_neighbor();
    let now = host.at(1);
    let ask = |source: Ipv4Addr, source_mac| Arp {
        reply: false,
        source_mac,
        source,
        target_mac: [0; 6],
        target: [10, 77, 0, 1].into(),
    };
    for i in 0..5000u32 {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 1, 0).to_bits() + i);
        host.neighbors.handle_arp(now, &host.counters, &ask(source, OTHER));
    }
    let answers = host.outputs().len() as u32;
    assert_eq!(answers, NEIGHBOR_REPLIES_BURST);
    assert_eq!(host.counters.get(Counter::DropReplyLimited), u64::from(5000 - answers));
    host.neighbors.handle_arp(now, &host.counters, &ask([10, 77, 0, 2].into(), THEIRS));
    assert_eq!(host.outputs().len(), 1, "a neighbor in use is answered");
}

#[test]
fn an_advertisement_without_override_changes_nothing_but_trust() {
    let mut host = Host::new();
    host.lookup(0, "fd00::2");
    host.claim(0, answer("fd00::2", THEIRS));
    host.outputs();
    host.claim(1, Claim { overrides: false, solicited: false, ..answer("fd00::2", OTHER) });
    assert_eq!(host.mac(2, "fd00::2"), Some(THEIRS));
    assert_eq!(host.outputs().len(), 1, "asked again");
}

#[test]
fn answers_to_no_question_create_nothing() {
    let mut host = Host::new();
    host.claim(0, answer("10.77.0.2", THEIRS));
    assert_eq!(host.lookup(1, "10.77.0.2"), Resolution::Resolving);
}

#[test]
fn a_neighbor_that_asks_for_us_is_known_before_the_first_packet_to_it() {
    let mut host = Host::new();
    host.claim(0, question("10.77.0.2", THEIRS));
    assert_eq!(host.mac(1, "10.77.0.2"), Some(THEIRS));
}

#[test]
fn claims_about_own_addresses_groups_and_hosts_off_the_link_are_ignored() {
    let mut host = Host::new();
    for address in ["10.77.0.1", "fd00::1", "10.78.0.1", "224.0.0.1", "0.0.0.0", "::", "10.77.255.255"] {
        assert!(
            !host.neighbors.handle_claim(host.start, &host.counters, question(address, THEIRS)),
            "{address}"
        );
    }
    let group_mac = question("10.77.0.2", [1, 0, 0, 0, 0, 2]);
    assert!(!host.neighbors.handle_claim(host.start, &host.counters, group_mac));
}

#[test]
fn a_flood_of_questions_displaces_no_neighbor_that_we_send_to() {
    let mut host = Host::new();
    host.lookup(0, "10.77.0.2");
    host.claim(0, answer("10.77.0.2", THEIRS));
    let before = host.neighbors.generation();
    for i in 0..3000u32 {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 1, 0).to_bits() + i);
        host.claim(1, question(&address.to_string(), OTHER));
    }
    assert_eq!(host.neighbors.entries.len(), NEIGHBORS_LEN_MAX);
    assert_eq!(host.mac(2, "10.77.0.2"), Some(THEIRS));
    assert_eq!(host.neighbors.generation(), before);
}

#[test]
fn packets_past_the_bounds_of_waiting_are_dropped() {
    let mut host = Host::new();
    host.lookup(0, "10.77.0.2");
    for _ in 0..NEIGHBOR_PENDING_LEN_MAX + 2 {
        host.neighbors.enqueue(&host.counters, ip("10.77.0.2"), packet(60));
    }
    assert_eq!(host.counters.get(Counter::DropNeighborQueueFull), 2);
    host.lookup(0, "10.77.0.3");
    host.neighbors.enqueue(&host.counters, ip("10.77.0.3"), packet(NEIGHBOR_PENDING_BYTES_MAX));
    assert_eq!(host.counters.get(Counter::DropNeighborQueueFull), 3);
}

#[test]
fn a_claim_that_one_worker_hears_reaches_the_others() {
    let ports = exchange::exchange(3);
    let claim = answer("10.77.0.2", THEIRS);
    ports[0].tell(claim);
    assert_eq!(ports[0].take(), None);
    assert_eq!(ports[1].take(), Some(claim));
    assert_eq!(ports[2].take(), Some(claim));
    assert_eq!(ports[2].take(), None);
}

#[test]
fn a_station_of_the_configuration_is_never_asked_for_and_nothing_changes_it() {
    let mut host = Host::new();
    host.neighbors.fix([(ip("10.77.0.2"), THEIRS), (ip("fd00::2"), THEIRS)]).unwrap();
    for address in ["10.77.0.2", "fd00::2"] {
        assert_eq!(host.mac(0, address), Some(THEIRS));
        host.claim(1, answer(address, OTHER));
        host.claim(2, question(address, OTHER));
        host.claim(3, answer(address, THEIRS));
        assert_eq!(host.mac(4, address), Some(THEIRS));
    }
    assert_eq!(host.counters.get(Counter::NeighborClaimsRefuted), 4);
    // Long after, behind a flood that takes every place.
    for number in 0..NEIGHBORS_LEN_MAX as u32 + 100 {
        let address = Ipv4Addr::from_bits(0x0a4d_0100 + number).to_string();
        host.claim(10 * 60_000, question(&address, OTHER));
    }
    host.timeout(20 * 60_000);
    for address in ["10.77.0.2", "fd00::2"] {
        assert_eq!(host.mac(20 * 60_000, address), Some(THEIRS));
    }
    assert!(host.outputs().is_empty(), "no question, and nothing to answer");
    for address in ["10.78.0.2", "10.77.0.1", "10.77.255.255", "224.0.0.1"] {
        let refused = host.neighbors.fix([(ip(address), THEIRS)]).unwrap_err();
        assert_eq!(refused, IpRouteError::NoNeighbor(ip(address)));
    }
}

use super::*;
use std::cell::Cell;

fn peer_gateways(count: u8) -> Vec<PeerGateway> {
    let addresses = ["10.0.0.1:1", "[fd00::1]:1"].map(|text| text.parse().unwrap()).to_vec();
    (0..count)
        .map(|n| PeerGateway {
            node: NodeId([n; 32]),
            addresses: addresses.clone().into(),
            control: PeerControl::default(),
            is_standing: true,
        })
        .collect()
}

fn list(peer_gateways: Vec<PeerGateway>, connections_max: usize) -> PeerGatewayList {
    PeerGatewayList { peer_gateways, connections_max }
}

#[test]
fn a_peer_gateway_that_fails_is_dialed_later_each_time_by_its_other_address() {
    let mut now = Instant::now();
    let mut links = PeerGateways::new(list(peer_gateways(1), 8), now);
    let mut waits = Vec::new();
    let mut tried = Vec::new();
    for _ in 0..12 {
        let (index, address) = links.next(now).unwrap();
        tried.push(address.is_ipv4());
        links.dialed(index, 7);
        assert!(links.failed(index, Some(7), now));
        assert!(!links.failed(index, Some(7), now), "reported once");
        waits.push((links.poll_timeout().unwrap() - now).as_millis() as u64);
        assert_eq!(links.next(now), None);
        now = links.poll_timeout().unwrap();
    }
    assert_eq!(tried[..4], [true, false, true, false]);
    assert_eq!(waits[0], PEER_GATEWAY_BACKOFF_MS_MIN);
    assert!(waits.is_sorted() && *waits.last().unwrap() == PEER_GATEWAY_BACKOFF_MS_MAX);
}

#[test]
fn the_least_recently_used_idle_connection_makes_room() {
    let now = Instant::now();
    let mut links = PeerGateways::new(list(peer_gateways(3), 2), now);
    for slot in 0..2 {
        let (index, _) = links.next(now).unwrap();
        links.dialed(index, slot);
        links.up(index);
    }
    assert_eq!(links.next(now), None, "two are allowed");
    links.used(0);
    let third = NodeId([2; 32]);
    assert_eq!(links.reach(&third, now, |_| true)[..], [1]);
    assert_eq!(links.next(now).unwrap().0, 2);
    assert!(!links.failed(1, Some(1), now), "closed on purpose: not dialed again");
    assert!(links.reach(&NodeId([9; 32]), now, |_| true).is_empty(), "no peer gateway");
}

#[test]
fn a_request_to_a_gateway_without_a_connection_costs_few_looks_however_many_are_connected() {
    let now = Instant::now();
    let many = 4096_u32;
    let numbered = |n: u32| {
        let mut node = [0; 32];
        node[..4].copy_from_slice(&n.to_be_bytes());
        NodeId(node)
    };
    let mut all = Vec::new();
    for n in 0..2 * many {
        let [one] = peer_gateways(1).try_into().unwrap();
        all.push(PeerGateway { node: numbered(n), ..one });
    }
    let mut links = PeerGateways::new(list(all, many as usize), now);
    while let Some((index, _)) = links.next(now) {
        links.dialed(index, index as u32);
        links.up(index);
    }
    // All but the last connection have requests.
    let looks = Cell::new(0);
    let is_idle = |slot| {
        looks.set(looks.get() + 1);
        slot == many - 1
    };
    let mut closed = Vec::new();
    for n in many..2 * many {
        looks.set(0);
        closed.extend(links.reach(&numbered(n), now, is_idle));
        assert!(looks.get() <= REACH_CONNECTIONS_MAX, "{}", looks.get());
    }
    assert_eq!(closed, [many - 1], "it is found all the same");
}

#[test]
fn a_connection_that_is_made_for_a_request_is_not_closed_for_the_next_one() {
    let now = Instant::now();
    let mut links = PeerGateways::new(list(peer_gateways(4), 2), now);
    for slot in 0..2 {
        let (index, _) = links.next(now).unwrap();
        links.dialed(index, slot);
        links.up(index);
    }
    links.used(1);
    assert_eq!(links.reach(&NodeId([2; 32]), now, |_| true)[..], [0]);
    links.dialed(2, 0);
    assert_eq!(links.reach(&NodeId([3; 32]), now, |_| true)[..], [1]);
}

#[test]
fn a_change_of_peer_gateways_keeps_the_connections_of_those_that_stay() {
    let now = Instant::now();
    let mut links = PeerGateways::new(list(peer_gateways(3), 8), now);
    for slot in 10..13 {
        let (index, _) = links.next(now).unwrap();
        links.dialed(index, slot);
        links.up(index);
    }
    // The first one goes, the others change their order, a new one is added.
    let mut others: Vec<_> = peer_gateways(4).into_iter().skip(1).collect();
    others.reverse();
    assert_eq!(links.renew(list(others.clone(), 8), now), [10]);
    assert_eq!(links.place(&NodeId([0; 32])), None);
    let place = links.place(&NodeId([1; 32])).unwrap();
    assert_eq!((place, links.node(place)), (2, NodeId([1; 32])));
    let (index, _) = links.next(now).unwrap();
    assert_eq!(links.node(index), NodeId([3; 32]));
    links.dialed(index, 13);
    assert_eq!(links.next(now), None, "the others are connected");
    assert!(links.failed(place, Some(11), now), "and dialed again if they fail");
    // With one connection allowed, the first keeps it.
    assert_eq!(links.renew(list(others, 1), now), [12]);
    assert_eq!(links.next(now), None);
}
#[test]
fn one_that_is_not_standing_is_dialed_for_a_request_and_only_as_long_as_it_may_wait() {
    let mut now = Instant::now();
    let mut all = peer_gateways(3);
    all[0].is_standing = false;
    all[2].is_standing = false;
    let mut links = PeerGateways::new(list(all.clone(), 8), now);
    let (standing, _) = links.next(now).unwrap();
    links.dialed(standing, 1);
    assert_eq!((standing, links.next(now)), (1, None));
    links.up(standing);
    assert_eq!(links.states().collect::<Vec<_>>(), [(NodeId([1; 32]), true)], "the others are not missed");
    let asked = NodeId([0; 32]);
    let begun = now;
    assert!(links.reach(&asked, now, |_| true).is_empty());
    let mut tried = 0;
    while let Some(at) = links.poll_timeout() {
        now = at;
        let (index, _) = links.next(now).unwrap();
        assert!(!links.is_far(&asked, now), "{tried}");
        links.dialed(index, 5);
        links.failed(index, Some(5), now);
        tried += 1;
    }
    assert!((2..10).contains(&tried), "both addresses, and not for ever: {tried}");
    assert!(now <= begun + Duration::from_millis(RELAY_REACH_MS));
    // A request is told at once while the next attempt is far, and dials it again later, in a list of its own order too.
    for _ in 0..8 {
        now += Duration::from_millis(RELAY_REACH_MS);
        links.reach(&asked, now, |_| true);
        while let Some(at) = links.poll_timeout() {
            now = now.max(at);
            let (index, _) = links.next(now).unwrap();
            links.dialed(index, 5);
            links.failed(index, Some(5), now);
        }
    }
    assert!(links.is_far(&asked, now));
    all.reverse();
    assert!(links.renew(list(all, 8), now).is_empty());
    assert!(links.is_far(&asked, now));
    now += Duration::from_millis(PEER_GATEWAY_BACKOFF_MS_MAX);
    assert!(!links.is_far(&asked, now));
    links.reach(&asked, now, |_| true);
    let (index, _) = links.next(now).unwrap();
    links.dialed(index, 6);
    links.up(index);
    now += Duration::from_secs(60);
    assert!(links.failed(index, Some(6), now));
    let later = now + Duration::from_secs(60);
    assert_eq!(links.next(later), None, "its end is no reason to dial it");
}

//! Every rule of protocol §5, alone and in its order.

use super::*;
use crate::limits::{HOP_LIMIT_MAX, HOPS_LEN_MAX, REASON_BYTES_MAX};
use crate::record::Record;
use proptest::prelude::*;

const OWN: NodeId = NodeId([1; 32]);
const NEXT: NodeId = NodeId([2; 32]);
const LAST: NodeId = NodeId([3; 32]);
const PEER: NodeId = NodeId([9; 32]);

fn hop(route: &[NodeId]) -> Hop {
    Hop {
        cache: true,
        hop_limit: 5,
        nonce: [7; 16],
        budget_bytes: 1000,
        cursor: 0,
        route: route.iter().copied().collect(),
    }
}

fn policy(transit: Transit) -> Policy {
    Policy { own: OWN, transit, budget_bytes_max: 600 }
}

fn judged(hop: &Hop) -> Result<Decision, HopRefusal> {
    decide(hop, Some(PEER), &policy(Transit::Anyone), |node| *node == NEXT, RouteNonce::New)
}

#[test]
fn forwarding_rewrites_cursor_hop_limit_and_budget_and_nothing_else() {
    let before = hop(&[OWN, NEXT, LAST]);
    let after = Hop { cursor: 1, hop_limit: 4, budget_bytes: 600, ..before.clone() };
    assert_eq!(judged(&before), Ok(Decision::Forward { next: NEXT, hop: after.into() }));
    let small = Hop { budget_bytes: 5, ..before };
    let Ok(Decision::Forward { hop, .. }) = judged(&small) else { panic!("it is forwarded") };
    assert_eq!(hop.budget_bytes, 5);
}

#[test]
fn the_last_of_a_route_needs_no_right_of_transit() {
    let last = Hop { cursor: 2, hop_limit: 1, ..hop(&[NEXT, LAST, OWN]) };
    for previous in [None, Some(PEER)] {
        let decided = decide(&last, previous, &policy(Transit::Nobody), |_| false, RouteNonce::New);
        assert_eq!(decided, Ok(Decision::Deliver));
    }
}

#[test]
fn each_rule_refuses_with_its_code() {
    let good = hop(&[OWN, NEXT, LAST]);
    let code = |hop: &Hop| judged(hop).unwrap_err().code();
    assert_eq!(code(&Hop { cursor: 1, ..good.clone() }), ErrorCode::NotMyHop);
    assert_eq!(code(&Hop { cursor: 200, ..good.clone() }), ErrorCode::NotMyHop);
    assert_eq!(code(&hop(&[])), ErrorCode::NotMyHop);
    assert_eq!(judged(&hop(&[OWN, NEXT, LAST, NEXT])), Err(HopRefusal::Loop(NEXT)));
    assert_eq!(code(&hop(&[OWN, OWN])), ErrorCode::Loop);
    assert_eq!(code(&Hop { hop_limit: 0, ..good.clone() }), ErrorCode::HopLimit);
    assert_eq!(code(&Hop { budget_bytes: 0, ..good.clone() }), ErrorCode::Budget);
    assert_eq!(code(&hop(&[OWN, LAST])), ErrorCode::NoRoute);
    let seen = decide(&good, Some(PEER), &policy(Transit::Anyone), |_| true, RouteNonce::Seen);
    assert_eq!(seen.unwrap_err().code(), ErrorCode::Loop);
}

#[test]
fn transit_is_allowed_to_the_peers_that_the_policy_names() {
    let good = hop(&[OWN, NEXT]);
    let peer_gateways = |node: &NodeId| [NEXT, LAST].contains(node);
    let allowed = |transit: &Transit, previous| match decide(
        &good,
        previous,
        &policy(transit.clone()),
        peer_gateways,
        RouteNonce::New,
    ) {
        Ok(Decision::Forward { .. }) => true,
        Err(HopRefusal::NotAuthorized) => false,
        other => panic!("{other:?}"),
    };
    let listed = Transit::Listed([PEER].into());
    // For an anonymous peer, a peer gateway, and a listed peer.
    for (transit, expected) in [
        (Transit::Nobody, [false, false, false]),
        (Transit::Gateways, [false, true, false]),
        (listed, [false, false, true]),
        (Transit::Anyone, [true, true, true]),
    ] {
        assert_eq!(
            [None, Some(LAST), Some(PEER)].map(|peer| allowed(&transit, peer)),
            expected,
            "{transit:?}"
        );
    }
}

#[test]
fn a_repeated_request_is_refused_after_any_outcome_of_the_first() {
    let hops = Hops::new(policy(Transit::Anyone), [NEXT].into());
    let now = Instant::now();
    let (good, lost) = (hop(&[OWN, NEXT]), Hop { nonce: [8; 16], ..hop(&[OWN, LAST]) });
    assert!(hops.judge(&good, Some(PEER), now).is_ok());
    assert_eq!(hops.judge(&good, None, now), Err(HopRefusal::Seen));
    assert_eq!(hops.judge(&lost, None, now), Err(HopRefusal::NoRoute(LAST)));
    assert_eq!(hops.judge(&lost, None, now), Err(HopRefusal::Seen));
}

/// All rules broken at once, then mended one by one: the refusal is always for the first broken rule.
#[test]
fn rules_are_asked_in_the_protocols_order() {
    let mut broken = Hop { hop_limit: 0, budget_bytes: 0, cursor: 1, ..hop(&[OWN, LAST, LAST]) };
    let (mut nonce, mut transit) = (RouteNonce::Seen, Transit::Nobody);
    let mut refused = Vec::new();
    while let Err(refusal) = decide(&broken, None, &policy(transit.clone()), |node| *node == NEXT, nonce) {
        refused.push(refusal);
        match refusal {
            HopRefusal::NotMyHop { .. } => broken.cursor = 0,
            HopRefusal::Loop(_) => broken.route.truncate(2),
            HopRefusal::HopLimit => broken.hop_limit = 1,
            HopRefusal::Budget => broken.budget_bytes = 1,
            HopRefusal::Seen => nonce = RouteNonce::New,
            HopRefusal::NotAuthorized => transit = Transit::Anyone,
            HopRefusal::NoRoute(_) => broken.route[1] = NEXT,
        }
    }
    let own = OWN;
    let order = [
        HopRefusal::NotMyHop { own },
        HopRefusal::Loop(LAST),
        HopRefusal::HopLimit,
        HopRefusal::Budget,
        HopRefusal::Seen,
        HopRefusal::NotAuthorized,
        HopRefusal::NoRoute(LAST),
    ];
    assert_eq!(refused, order);
    // The asker reads every text whole.
    assert!(order.iter().all(|refusal| refusal.to_string().len() <= REASON_BYTES_MAX));
}

proptest! {
    #[test]
    fn a_route_of_distinct_nodes_is_walked_to_its_end_and_no_node_twice(
        ids in proptest::collection::btree_set(any::<[u8; 32]>(), 1..=HOPS_LEN_MAX),
        hop_limit in 0..=HOP_LIMIT_MAX,
        budgets in proptest::collection::vec(1u64..1000, HOPS_LEN_MAX),
    ) {
        let route: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
        let mut hop = Hop { hop_limit, ..hop(&route) };
        let mut visited = Vec::new();
        let (mut at, mut previous) = (route[0], PEER);
        let end = loop {
            prop_assert!(!visited.contains(&at));
            visited.push(at);
            let budget_bytes_max = budgets[visited.len() - 1];
            let policy = Policy { own: at, transit: Transit::Anyone, budget_bytes_max };
            match decide(&hop, Some(previous), &policy, |_| true, RouteNonce::New) {
                Ok(Decision::Forward { next, hop: forwarded }) => {
                    prop_assert!(forwarded.budget_bytes <= hop.budget_bytes.min(budget_bytes_max));
                    prop_assert_eq!(forwarded.route.get(usize::from(forwarded.cursor)), Some(&next));
                    (previous, at, hop) = (at, next, *forwarded);
                }
                end => break end,
            }
        };
        if usize::from(hop_limit) >= route.len() {
            prop_assert_eq!(end, Ok(Decision::Deliver));
            prop_assert_eq!(visited, route);
        } else {
            prop_assert_eq!(end, Err(HopRefusal::HopLimit));
            prop_assert_eq!(visited.len(), usize::from(hop_limit) + 1);
        }
    }

    #[test]
    fn any_hop_is_judged_and_a_forwarded_one_can_be_read(
        fields: (bool, u8, [u8; 16], u64, u8),
        route in proptest::collection::vec(0u8..6, 0..12),
        nonce_seen: bool,
    ) {
        let (cache, hop_limit, nonce, budget_bytes, cursor) = fields;
        let (hop_limit, cursor) = (hop_limit % 20, cursor % 14);
        let route = route.into_iter().map(|byte| NodeId([byte; 32])).collect();
        let hop = Hop { cache, hop_limit, nonce, budget_bytes, cursor, route };
        let decided = decide(&hop, Some(PEER), &policy(Transit::Anyone), |_| true, if nonce_seen { RouteNonce::Seen } else { RouteNonce::New });
        if let Ok(Decision::Forward { hop: forwarded, .. }) = decided {
            let mut body = Vec::new();
            forwarded.emit(&mut body);
            if hop.hop_limit <= HOP_LIMIT_MAX && hop.route.len() <= HOPS_LEN_MAX {
                prop_assert_eq!(Hop::parse(&body), Ok(*forwarded));
            }
        }
    }
}

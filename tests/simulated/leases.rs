//! LIST, STAT, REMOVE and RENEW: what is kept, for whom, and until when.

use crate::support::caller::{End, Peer};
use crate::support::{SEED, Setup, World, gateway_node, gateway_v4, identities, joined, payload, route};
use std::collections::BTreeSet;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{LISTED_LEN_MAX, NODE_LEASE_REQUESTS_LEN_MAX};
use stoq::queue::{Ask, Credit, RequestId};
use stoq::quic::transport::QuicConfig;
use stoq::record::{
    ErrorCode, LeaseHolder, LeaseScope, List, Listed, ListedEntry, ListedLease, Remove, Renew, Request, Stat,
};
use stoq::seed::{Lease, StoreBound};
use stoq::tls::NodeId;
use stoq::token::{AnyToken, Ranges, Token};

const OTHER: NodeId = NodeId([9; 32]);

fn client_node() -> NodeId {
    identities()[1].node_id()
}

fn ask(world: &mut World, peer: &Peer, request: impl Into<Request>) -> RequestId {
    world.caller(peer).ask_any(peer, Ask::new(request))
}

#[track_caller]
fn end(world: &mut World, peer: &Peer, request: impl Into<Request>) -> End {
    let request = ask(world, peer, request);
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

#[track_caller]
fn listed(world: &mut World, peer: &Peer, request: impl Into<Request>) -> Listed {
    match end(world, peer, request) {
        End::Listed(listed) => listed,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn stat(world: &mut World, peer: &Peer, token: Token, scope: LeaseScope) -> Option<ListedEntry> {
    let listed = listed(world, peer, Stat { scope, token: token.into() });
    assert!(listed.next.is_none() && listed.entries.len() < 2);
    listed.entries.into_iter().next()
}

/// Every page of a list.
#[track_caller]
fn pages(world: &mut World, peer: &Peer, list: List) -> Vec<Listed> {
    let (mut pages, mut after): (Vec<Listed>, _) = (Vec::new(), None);
    loop {
        let page = listed(world, peer, List { after, ..list });
        after = page.next;
        pages.push(page);
        if after.is_none() {
            return pages;
        }
        assert!(pages.len() < 100, "it does not end");
    }
}

fn tokens(pages: &[Listed]) -> Vec<AnyToken> {
    pages.iter().flat_map(|page| &page.entries).map(|entry| entry.token).collect()
}

fn numbered(number: usize) -> Vec<u8> {
    format!("payload {number}").into_bytes()
}

#[track_caller]
fn reads(world: &mut World, peer: &Peer, token: Token, bytes: &[u8]) {
    let pieces = world.get(peer, token, Ranges::all());
    assert!(joined(&pieces) == bytes);
}

#[test]
fn an_empty_store_has_one_empty_page_and_no_lease_of_anything() {
    let (mut world, peer) = World::connected();
    assert_eq!(listed(&mut world, &peer, List::default()), Listed::default());
    let all = List { scope: LeaseScope::All, ..List::default() };
    assert_eq!(listed(&mut world, &peer, all), Listed::default());
    let token = Token::of(b"nothing");
    assert_eq!(stat(&mut world, &peer, token, LeaseScope::All), None);
    let token = token.into();
    assert_eq!(end(&mut world, &peer, Remove { token }), End::Failed(ErrorCode::NotFound));
    assert_eq!(end(&mut world, &peer, Renew { token, lease_s: 5 }), End::Failed(ErrorCode::NotFound));
    assert_eq!(world.gateway.count(Counter::RequestsListOk), 2);
    assert_eq!(world.gateway.count(Counter::RequestsRemoveRefused), 1);
}

#[test]
fn an_owner_sees_its_own_leases_and_all_of_them_where_it_asks_for_all() {
    let (mut world, peer) = World::connected();
    let (mine, both) = (world.put(&peer, b"mine"), world.put(&peer, b"both"));
    world.store.extend(both, Lease::until(None, Some(OTHER))).unwrap();
    let own = stat(&mut world, &peer, both, LeaseScope::Own).unwrap();
    assert_eq!((own.length_bytes, own.leases), (4, 1));
    let [ListedLease { holder: LeaseHolder::Node(node), expires_s: 59..=60 }] = own.shown[..] else {
        panic!("{own:?}")
    };
    assert_eq!(node, client_node());
    let all = stat(&mut world, &peer, both, LeaseScope::All).unwrap();
    assert_eq!((all.leases, all.shown.len()), (2, 2));
    assert_eq!(all.shown[0], ListedLease { holder: LeaseHolder::Node(OTHER), expires_s: 0 });
    assert_eq!(all.shown[1], own.shown[0]);

    // One that only the other has.
    let request = world.caller(&peer).put(&peer, SEED, b"theirs");
    world.finish(&peer, request);
    let theirs = Token::of(b"theirs");
    world.store.extend(theirs, Lease::until(Some(u64::MAX), Some(OTHER))).unwrap();
    assert!(listed(&mut world, &peer, Remove { token: theirs.into() }).entries.len() == 1);
    assert_eq!(stat(&mut world, &peer, theirs, LeaseScope::Own), None);
    let sorted = |of: &[Token]| of.iter().map(|token| AnyToken::from(*token)).collect::<BTreeSet<_>>();
    let list = |scope, holder| List { scope, holder, ..List::default() };
    for (list, expected) in [
        (list(LeaseScope::Own, None), sorted(&[mine, both])),
        (list(LeaseScope::All, None), sorted(&[mine, both, theirs])),
        (list(LeaseScope::All, Some(LeaseHolder::Node(OTHER))), sorted(&[both, theirs])),
        (list(LeaseScope::All, Some(LeaseHolder::Node(client_node()))), sorted(&[mine, both])),
        (list(LeaseScope::All, Some(LeaseHolder::Anonymous)), sorted(&[])),
        (List { ends_s: 60, ..list(LeaseScope::All, None) }, sorted(&[mine])),
        (List { ends_s: 60, ..list(LeaseScope::Own, None) }, sorted(&[mine, both])),
        (List { length_min_bytes: 5, ..list(LeaseScope::All, None) }, sorted(&[theirs])),
        (List { length_max_bytes: 4, ..list(LeaseScope::All, None) }, sorted(&[mine, both])),
    ] {
        let found = tokens(&pages(&mut world, &peer, list));
        assert!(found.is_sorted(), "in the order of their tokens");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{list:?}");
    }
}

#[test]
fn pages_show_once_what_is_there_all_the_while_though_others_come_and_go() {
    let (mut world, peer) = World::connected();
    let kept = LISTED_LEN_MAX + 50;
    let put = |world: &mut World, from: usize, to: usize| {
        let requests: Vec<_> =
            (from..to).map(|number| world.caller(&peer).put(&peer, SEED, &numbered(number))).collect();
        requests.into_iter().for_each(|request| world.finish(&peer, request));
    };
    for from in (0..kept).step_by(64) {
        put(&mut world, from, (from + 64).min(kept));
    }
    let first = listed(&mut world, &peer, List::default());
    assert_eq!(first.entries.len(), LISTED_LEN_MAX);
    // Some of both pages go, and others come.
    for number in 0..40 {
        let token = Token::of(&numbered(number)).into();
        assert_eq!(listed(&mut world, &peer, Remove { token }), Listed::default());
    }
    put(&mut world, kept, kept + 40);
    let second = listed(&mut world, &peer, List { after: first.next, ..List::default() });
    assert_eq!(second.next, None);
    let all = tokens(&[first, second]);
    let found: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(found.len(), all.len(), "one is shown twice");
    for number in 40..kept {
        assert!(found.contains(&Token::of(&numbered(number)).into()), "{number} is missing");
    }
    // Small pages give the same.
    let small = pages(&mut world, &peer, List { entries_max: 7, ..List::default() });
    assert!(small.iter().all(|page| page.entries.len() <= 7));
    assert_eq!(tokens(&small).len(), kept);
}

#[test]
fn what_the_last_owner_removes_is_gone_durably_and_what_others_have_stays() {
    let (mut world, peer) = World::connected();
    let bytes = payload(40_000);
    let token = world.put(&peer, &bytes);
    world.store.extend(token, Lease::until(None, Some(OTHER))).unwrap();
    let left = listed(&mut world, &peer, Remove { token: token.into() });
    assert_eq!((left.entries[0].token, left.entries[0].leases), (token.into(), 0), "whose is not told");
    assert_eq!(world.store.owned_bytes(&client_node()), 0);
    reads(&mut world, &peer, token, &bytes);
    assert_eq!(end(&mut world, &peer, Remove { token: token.into() }), End::Failed(ErrorCode::NotFound));

    let files = |world: &World| world.kept().into_iter().collect::<BTreeSet<_>>();
    let before = files(&world);
    let own = world.put(&peer, &payload(300_000));
    assert!(files(&world).len() > before.len());
    assert_eq!(listed(&mut world, &peer, Remove { token: own.into() }), Listed::default());
    assert_eq!(files(&world), before, "its files are gone when REMOVE is answered");
    let request = world.caller(&peer).fetch(&peer, own, Ranges::all());
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Failed(ErrorCode::NotFound));
    world.restart_gateway();
    assert!(world.store.holding(&own.into()).is_none() && world.store.holding(&token.into()).is_some());
}

#[test]
fn a_reader_finishes_though_its_payload_is_removed() {
    let (mut world, peer) = World::connected();
    let bytes = payload(24 << 20);
    let token = world.put(&peer, &bytes);
    let pace = Credit::default();
    world.caller(&peer).pace = Some(pace.clone());
    let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.run(Duration::from_secs(10), "some of it arrives", |world| {
        world.caller(&peer).requests.get(&request).is_some_and(|request| request.bytes() > 0)
    });
    world.pass(Duration::from_secs(1));
    let arrived = world.caller(&peer).request(request).bytes();
    assert!(arrived < bytes.len(), "the reader waits for its credit");
    assert_eq!(listed(&mut world, &peer, Remove { token: token.into() }), Listed::default());
    assert!(world.kept().is_empty() && world.store.holding(&token.into()).is_none());
    pace.give_back(1 << 40);
    world.finish(&peer, request);
    assert_eq!(world.caller(&peer).request(request).end(), End::Complete);
    assert!(joined(&world.caller(&peer).request(request).pieces.clone()) == bytes);
}

#[test]
fn a_lease_becomes_longer_by_renew_and_no_shorter() {
    let (mut world, peer) = World::connected();
    let token = world.put(&peer, b"payload");
    for (lease_s, lasts) in [(1_000, 999..=1_000), (10, 999..=1_000), (5_000, 4_999..=5_000)] {
        let renewed = listed(&mut world, &peer, Renew { token: token.into(), lease_s });
        assert!(lasts.contains(&renewed.entries[0].shown[0].expires_s), "{renewed:?}");
    }
    world.pass(Duration::from_secs(4_000));
    assert!(world.store.holding(&token.into()).is_some());
    world.pass(Duration::from_secs(1_002));
    assert!(world.store.holding(&token.into()).is_none());
}

#[test]
fn a_peer_that_announces_no_leases_is_not_asked() {
    let mut world = World::new(Setup::default());
    let (raw, peer) = world.raw_server(0, 16);
    let token = Token::of(b"payload").into();
    // Before its SETTINGS it is not known.
    let early = ask(&mut world, &peer, List::default());
    world.pass(Duration::from_millis(500));
    assert!(world.caller(&peer).request(early).end.is_none());
    world.say_settings(raw);
    world.finish(&peer, early);
    let stat = Stat { scope: LeaseScope::Own, token };
    let asked = [stat.into(), Request::from(Remove { token }), Renew { token, lease_s: 1 }.into()];
    let asked = asked.map(|request| ask(&mut world, &peer, request));
    for request in asked.into_iter().chain([early]) {
        world.finish(&peer, request);
        let ended = world.caller(&peer).request(request);
        assert_eq!(ended.end(), End::Failed(ErrorCode::UnknownRecord));
        assert!(ended.failure.as_ref().unwrap().reason().contains("takes no LIST"));
    }
    let is_request = |id: &quinn_proto::StreamId| id.dir() == quinn_proto::Dir::Bi;
    assert!(!world.raw_mut(raw).received.keys().any(is_request), "no request has reached it");
    assert!(world.caller(&peer).closed(&peer).is_none());
}

#[test]
fn a_route_leads_to_no_leases() {
    let mut world = World::new(Setup { transit: stoq::hop::Transit::Anyone, ..Setup::line(2) });
    world.pass(Duration::from_secs(1));
    let peer = world.connect(0, gateway_v4());
    let token = Token::of(b"payload").into();
    for gateways in [&[0][..], &[0, 1]] {
        let ask = Ask::new(Remove { token }).by(Some(Box::new(route(gateways).hop())));
        let request = world.caller(&peer).ask_any(&peer, ask);
        world.finish(&peer, request);
        let ended = world.caller(&peer).request(request);
        assert_eq!(ended.end(), End::Failed(ErrorCode::NotAuthorized), "{gateways:?}");
        assert!(ended.failure.as_ref().unwrap().reason().contains("take no route"));
    }
    assert_eq!(peer.node, Some(gateway_node(0)));
}

#[test]
fn a_node_has_a_bounded_number_of_lists_waiting_also_of_those_that_it_gave_up() {
    let (mut world, peer) = World::connected();
    let lists: Vec<_> =
        (0..NODE_LEASE_REQUESTS_LEN_MAX).map(|_| ask(&mut world, &peer, List::default())).collect();
    for request in &lists {
        world.finish(&peer, *request);
    }
    let refused = lists
        .iter()
        .filter(|request| world.caller(&peer).request(**request).end() == End::Failed(ErrorCode::Busy));
    let refused = refused.count() as u64;
    assert!(refused > 0 && refused < lists.len() as u64, "{refused}");
    assert_eq!(world.store.refused(StoreBound::Leases), refused);
    listed(&mut world, &peer, List::default());
}

#[test]
fn a_record_that_cannot_be_read_and_bytes_behind_a_request_are_refused() {
    let mut world = World::new(Setup::default());
    for (bytes, code) in [
        (&[0x1d, 6, 4, 0, 0, 0, 0, 0][..], ErrorCode::Malformed),
        (&[0x1d, 5, 8, 0, 0, 0, 0], ErrorCode::UnsupportedCode),
        (&[0x1f, 1, 0], ErrorCode::Malformed),
        (&[0x23, 33, 3], ErrorCode::Malformed),
        (&[0x27, 2, 0, 0], ErrorCode::Malformed),
    ] {
        let raw = world.raw_with(gateway_v4(), QuicConfig::default());
        world.say_settings(raw);
        let stream = world.raw_mut(raw).send(quinn_proto::Dir::Bi, bytes, true);
        assert_eq!(world.error_on(raw, stream).code, code, "{bytes:x?}");
    }
    let raw = world.raw_with(gateway_v4(), QuicConfig::default());
    world.say_settings(raw);
    let list = [0x1d, 5, 0, 0, 0, 0, 0, 0x20, 0];
    let stream = world.raw_mut(raw).send(quinn_proto::Dir::Bi, &list, true);
    assert_eq!(world.error_on(raw, stream).code, ErrorCode::Malformed);
}

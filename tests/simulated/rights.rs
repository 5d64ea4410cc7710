//! The rights of peers: each is refused by its name and allowed by itself, changes with a reload, and stops at the next gateway.

use crate::hops::fetch_by;
use crate::passing::slow;
use crate::support::caller::{End, Peer};
use crate::support::{
    DISCARD, ECHO, SEED, Setup, World, gateway_address, gateway_node, gateway_v4, identities, joined,
    payload, route,
};
use std::sync::Arc;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::hop::Transit;
use stoq::queue::{Ask, RequestId};
use stoq::record::{ErrorCode, LeaseScope, List, Mirror, Remove, Renew, Request, Stat};
use stoq::rights::{Grant, MessageQueues, NamedPeers, PeerClass, Right, Rights, RightsSection, StoreTerms};
use stoq::seed::{Lease, StoreConfig};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{Ranges, Token};

/// The node ID of every client.
fn client_node() -> NodeId {
    identities()[1].node_id()
}

fn section(node: NodeId, grant: Grant) -> RightsSection {
    let peers = NamedPeers { nodes: [node].into_iter().collect(), ..NamedPeers::default() };
    RightsSection { peers, grant: Arc::new(grant) }
}

fn some(rights: impl IntoIterator<Item = Right>) -> Grant {
    Grant { section: Some("some".into()), allowed: rights.into_iter().collect(), ..Grant::default() }
}

/// Clients may do this; other gateways may do everything.
fn clients(grant: Grant) -> Rights {
    let others = NamedPeers { class: Some(PeerClass::Authenticated), ..NamedPeers::default() };
    let others = RightsSection { peers: others, grant: Arc::new(Grant::everything()) };
    Rights::new(vec![section(client_node(), grant), others])
}

/// A line of gateways whose peers may do everything until [`restrict`].
fn line(gateways: usize) -> World {
    let mut world = World::new(Setup { transit: Transit::Anyone, ..Setup::line(gateways) });
    // The gateways connect.
    world.pass(Duration::from_secs(1));
    world
}

fn restrict(world: &mut World, gateway: usize, rights: Rights) {
    world.gateway(gateway).renew_rights(rights);
    world.pass(Duration::from_millis(10));
}

#[track_caller]
fn end(world: &mut World, peer: &Peer, request: RequestId) -> End {
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

/// A request that needs this right of the first gateway, for a payload that it holds. The second gateway is its peer gateway.
fn ask(world: &mut World, peer: &Peer, right: Right, token: Token) -> RequestId {
    let caller = world.caller(peer);
    match right {
        Right::Put => caller.put(peer, SEED, b"put anew"),
        Right::Get => caller.fetch(peer, token, Ranges::all()),
        Right::Locate => caller.locate(peer, token.into()),
        Right::Mirror => {
            let mirror = Mirror {
                token: token.into(),
                lanes: Lanes::NONE,
                lease_s: 60,
                sources: vec![gateway_node(1)],
            };
            caller.mirror(peer, mirror)
        }
        Right::Transit => fetch_by(world, peer, route(&[0, 1]).hop(), token),
        Right::List => {
            let list = List { scope: LeaseScope::All, ..List::default() };
            caller.ask_any(peer, Ask::new(list))
        }
        Right::Remove => {
            // Another owner keeps it for the next request.
            for owner in [client_node(), gateway_node(1)] {
                world.store.extend(token, Lease::until(None, Some(owner))).unwrap();
            }
            world.caller(peer).ask_any(peer, Ask::new(Remove { token: token.into() }))
        }
        Right::Messages => unreachable!("a message is no request"),
    }
}

const REQUESTS: [Right; 7] =
    [Right::Put, Right::Get, Right::Locate, Right::Mirror, Right::Transit, Right::List, Right::Remove];

#[track_caller]
fn assert_refused(world: &mut World, peer: &Peer, request: RequestId, right: Right) {
    assert_eq!(end(world, peer, request), End::Failed(ErrorCode::NotAuthorized), "{right}");
    let failure = world.caller(peer).request(request).failure.clone().unwrap();
    let named = format!("right {right} is not given to this peer");
    assert!(failure.reason().starts_with(&named), "{}", failure.reason());
}

/// Two gateways that hold a payload, and a connection to the first.
fn holders() -> (World, Peer, Token) {
    let mut world = line(2);
    let peers = [world.connect(0, gateway_v4()), world.connect(0, gateway_address(1))];
    let bytes = payload(40_000);
    let [token, _] = peers.each_ref().map(|peer| world.put(peer, &bytes));
    let [first, _] = peers;
    (world, first, token)
}

#[test]
fn each_right_is_refused_by_its_name_and_allowed_by_itself() {
    for right in REQUESTS {
        let (mut world, peer, token) = holders();
        let others = || REQUESTS.into_iter().filter(move |other| *other != right);
        for grant in [some(others()), some([right])] {
            restrict(&mut world, 0, clients(grant.clone()));
            for asked in REQUESTS {
                let request = ask(&mut world, &peer, asked, token);
                if grant.allowed.contains(asked) {
                    let ended = end(&mut world, &peer, request);
                    assert!(!matches!(ended, End::Failed(_)), "{asked} of {grant:?}: {ended:?}");
                } else {
                    assert_refused(&mut world, &peer, request, asked);
                }
            }
        }
        let refused = REQUESTS.map(|right| world.gateway.count(right.refused()));
        assert_eq!(refused, [1; REQUESTS.len()], "each was refused once: {right} at first, the others then");
        // The refusals broke no rule: the connection is the first one.
        restrict(&mut world, 0, Rights::default());
        world.echo(&peer, b"still here");
    }
}

#[test]
fn a_peer_that_no_section_names_may_do_nothing() {
    let other = section(gateway_node(1), Grant::everything());
    let mut world = World::new(Setup { rights: Arc::new(Rights::new(vec![other])), ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    for right in REQUESTS.into_iter().filter(|right| *right != Right::Transit) {
        let request = ask(&mut world, &peer, right, Token::of(b""));
        assert_refused(&mut world, &peer, request, right);
    }
    assert_eq!(world.caller(&peer).closed(&peer), None, "it may stay");
}

#[test]
fn messages_reach_the_queues_that_are_allowed_and_no_others() {
    let queues = MessageQueues::Listed([DISCARD].into_iter().collect());
    let rights = clients(Grant { queues, ..some([Right::Put]) });
    let mut world = World::new(Setup { rights: Arc::new(rights), ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.caller(&peer).message(&peer, DISCARD, b"counted");
    world.caller(&peer).message(&peer, DISCARD, b"");
    let told = peer.clone();
    world.run(Duration::from_secs(5), "the count", |world| !world.caller(&told).messages.is_empty());
    world.caller(&peer).message(&peer, ECHO, b"not echoed");
    world.caller(&peer).datagram(&peer, ECHO, b"nor this");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.caller(&peer).messages.len(), 1);
    assert_eq!(world.gateway.count(Counter::RightsRefusedMessages), 2);
    assert_eq!(world.gateway.count(Counter::DropDatagramRefused), 1);
    restrict(&mut world, 0, Rights::default());
    let before = world.caller(&peer).messages.len();
    world.caller(&peer).message(&peer, ECHO, b"now");
    let told = peer.clone();
    world.run(Duration::from_secs(5), "an echo", |world| world.caller(&told).messages.len() > before);
}

#[test]
fn a_reload_changes_rights_for_the_next_request_and_ends_none_that_runs() {
    let mut world = World::new(Setup { link: slow(), ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let (old, new) = (payload(3_000_000), payload(3_100_000));
    let token = world.put(&peer, &old);
    let fetch = world.caller(&peer).fetch(&peer, token, Ranges::all());
    let put = world.caller(&peer).put(&peer, SEED, &new);
    let both = peer.clone();
    world.run(Duration::from_secs(20), "a part of both", |world| {
        let accepted = world.caller(&both).request(put).accepted.is_some();
        accepted && world.caller(&both).request(fetch).bytes() > 100_000
    });
    let all = world.caller(&peer).request(fetch).bytes();
    assert!(all < old.len(), "it runs");
    world.gateway.renew_rights(clients(some([Right::Locate])));
    world.pass(Duration::from_millis(10));
    for right in [Right::Get, Right::Put] {
        let request = ask(&mut world, &peer, right, token);
        assert_refused(&mut world, &peer, request, right);
    }
    assert_eq!(end(&mut world, &peer, fetch), End::Complete);
    assert!(joined(&world.caller(&peer).request(fetch).pieces) == old);
    let done = End::Done { bytes: new.len() as u64, token: Token::of(&new).into() };
    assert_eq!(end(&mut world, &peer, put), done);
    world.gateway.renew_rights(Rights::default());
    world.pass(Duration::from_millis(10));
    assert_eq!(joined(&world.get(&peer, Token::of(&new), Ranges::all())), new);
    assert_eq!(world.gateway.count(Counter::ConnectionsOpened), 1, "on the same connection");
}

#[test]
fn a_peer_that_may_only_transit_is_served_by_the_next_gateway_and_not_by_this_one() {
    let (mut world, peer, token) = holders();
    restrict(&mut world, 0, clients(some([Right::Transit])));
    let onward = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    assert_eq!(end(&mut world, &peer, onward), End::Complete);
    // A route that ends here is a request to this gateway.
    let here = fetch_by(&mut world, &peer, route(&[0]).hop(), token);
    assert_refused(&mut world, &peer, here, Right::Get);
    assert_eq!(world.gateway.count(Counter::HopsForwarded), 1);
}

#[test]
fn the_next_gateway_goes_by_the_rights_of_the_gateway_that_forwards() {
    let (mut world, peer, token) = holders();
    // The client may do nothing there, and the gateway between them everything.
    let rights = Rights::new(vec![
        section(client_node(), Grant::default()),
        section(gateway_node(0), Grant::everything()),
    ]);
    restrict(&mut world, 1, rights);
    let onward = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    assert_eq!(end(&mut world, &peer, onward), End::Complete);
    // The other way round: the asker's rights do not follow its request.
    let rights = Rights::new(vec![
        section(client_node(), Grant::everything()),
        section(gateway_node(0), some([Right::Locate])),
    ]);
    restrict(&mut world, 1, rights);
    let onward = fetch_by(&mut world, &peer, route(&[0, 1]).hop(), token);
    assert_refused(&mut world, &peer, onward, Right::Get);
    let counts = world.counts(Counter::RightsRefusedGet);
    assert_eq!(counts, [0, 1], "the last gateway of the route refuses it");
}

#[test]
fn a_route_is_refused_for_a_missing_right_before_it_tells_the_peer_gateways() {
    let mut world = line(2);
    let peer = world.connect(0, gateway_v4());
    restrict(&mut world, 0, clients(some([Right::Get])));
    for gateways in [[0, 1], [0, 3]] {
        let request = fetch_by(&mut world, &peer, route(&gateways).hop(), Token::of(b""));
        assert_refused(&mut world, &peer, request, Right::Transit);
    }
    assert_eq!(world.gateway.count(Counter::HopsRefused), 2);
    assert_eq!(world.gateway.count(Counter::HopsForwarded), 0);
}

#[test]
fn a_forwarded_fetch_is_answered_on_the_way_only_to_a_peer_that_may_get_there() {
    let mut world = World::new(Setup { cache: true, ..Setup::line(2) });
    world.pass(Duration::from_secs(1));
    let first = world.connect(0, gateway_v4());
    let second = world.connect(0, gateway_address(1));
    let bytes = payload(40_000);
    let token = world.put(&first, &bytes);
    world.put(&second, &bytes);
    let cached = || {
        let mut hop = route(&[0, 1]).hop();
        hop.cache = true;
        hop
    };
    for (grant, forwarded) in [(some([Right::Transit]), 1), (some([Right::Transit, Right::Get]), 0)] {
        restrict(&mut world, 0, clients(grant));
        let before = world.counts(Counter::RequestsFetchOk);
        let request = fetch_by(&mut world, &first, cached(), token);
        assert_eq!(end(&mut world, &first, request), End::Complete);
        world.pass(Duration::from_millis(50));
        let after = world.counts(Counter::RequestsFetchOk);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [1 - forwarded, forwarded]);
    }
}

#[test]
fn early_data_is_judged_by_the_node_of_the_session_that_is_resumed() {
    for (right, ends) in [(Right::Get, true), (Right::Locate, false)] {
        let mut world =
            World::new(Setup { rights: Arc::new(clients(Grant::everything())), ..Setup::default() });
        let peer = world.connect(0, gateway_v4());
        let token = world.put(&peer, b"small");
        world.echo(&peer, b"met");
        world.caller(&peer).disconnect(&peer);
        world.pass(Duration::from_secs(1));
        restrict(&mut world, 0, clients(some([right])));
        let peer = world.connect_early(0, gateway_v4());
        let request = world.caller(&peer).fetch(&peer, token, Ranges::all());
        if ends {
            assert_eq!(end(&mut world, &peer, request), End::Complete);
        } else {
            assert_refused(&mut world, &peer, request, Right::Get);
        }
        assert_eq!(world.clients[0].count(Counter::QuicEarlyDataAccepted), 1);
    }
}

#[test]
fn a_quota_and_a_lease_are_those_of_the_peers_rights() {
    let terms = StoreTerms { quota_bytes: Some(200_000), quota_entries: None, lease_default_s: Some(600) };
    let rights = clients(Grant { terms, ..Grant::everything() });
    let store = StoreConfig { quota_bytes: Some(50_000), lease_default_s: 60, ..StoreConfig::default() };
    let mut world = World::new(Setup { rights: Arc::new(rights), store, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let token = world.put(&peer, &payload(100_000));
    let request = world.caller(&peer).put(&peer, SEED, &payload(150_000));
    assert_eq!(end(&mut world, &peer, request), End::Failed(ErrorCode::Quota));
    let bytes = b"without a lease of its own";
    let request = world.caller(&peer).put_by(&peer, route(&[0]).hop(), bytes, 0);
    assert!(matches!(end(&mut world, &peer, request), End::Done { .. }));
    let lease_s = |world: &mut World, token: Token| {
        let request = world.caller(&peer).locate(&peer, token.into());
        match end(world, &peer, request) {
            End::Located(holders) => holders[0].expires_s,
            other => panic!("{other:?}"),
        }
    };
    assert!((590..=600).contains(&lease_s(&mut world, Token::of(bytes))), "the default of its rights");
    assert!((50..=60).contains(&lease_s(&mut world, token)), "the lease that it named");
    // Without these rights the store's own bounds hold.
    restrict(&mut world, 0, Rights::default());
    let request = world.caller(&peer).put(&peer, SEED, &payload(60_000));
    assert_eq!(end(&mut world, &peer, request), End::Failed(ErrorCode::Quota));
}

#[test]
fn a_peer_that_may_put_or_mirror_asks_for_its_own_leases_and_prolongs_them_without_the_right_list() {
    let (mut world, peer, token) = holders();
    let token = token.into();
    let stat = |scope| Request::from(Stat { scope, token });
    let list = |scope| Request::from(List { scope, ..List::default() });
    let (own, all) = (LeaseScope::Own, LeaseScope::All);
    let renew = || Request::from(Renew { token, lease_s: 90 });
    for (rights, allowed, refused) in [
        (
            &[Right::Put][..],
            vec![list(own), stat(own), renew()],
            vec![(list(all), Right::List), (stat(all), Right::List)],
        ),
        (&[Right::Mirror], vec![list(own), stat(own), renew()], vec![(list(all), Right::List)]),
        (&[Right::List], vec![list(own), stat(own), list(all), stat(all)], vec![(renew(), Right::Put)]),
        (
            &[Right::Get, Right::Locate],
            vec![],
            vec![(list(own), Right::List), (stat(own), Right::List), (renew(), Right::Put)],
        ),
    ] {
        restrict(&mut world, 0, clients(some(rights.iter().copied())));
        for request in allowed {
            let asked = world.caller(&peer).ask_any(&peer, Ask::new(request.clone()));
            let ended = end(&mut world, &peer, asked);
            assert!(matches!(ended, End::Listed(_)), "{rights:?} {request:?}: {ended:?}");
        }
        for (request, right) in refused {
            let asked = world.caller(&peer).ask_any(&peer, Ask::new(request));
            assert_refused(&mut world, &peer, asked, right);
        }
    }
}

//! LOCATE and MIRROR: the holders of a payload, and payloads that are fetched from other nodes.

use crate::gather::{lanes, put_lanes, set};
use crate::hops::put_by;
use crate::passing::slow;
use crate::support::caller::{End, Peer};
use crate::support::liar::Lie;
use crate::support::{Setup, World, gateway_address, gateway_node, joined, payload};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::record::{Coverage, ErrorCode, Holder, Mirror};
use stoq::seed::StoreConfig;
use stoq::shard::{Coding, Descriptor, Lanes};
use stoq::token::{AnyToken, Ranges, Token};

/// A gateway with two peer gateways, and a client of each of the three.
fn three(liars: Vec<(usize, Lie, Bytes)>, store: StoreConfig) -> (World, Vec<Peer>) {
    let peer_gateways = vec![(0, 1), (0, 2)];
    let mut world =
        World::new(Setup { gateways: 3, peer_gateways, liars, store, link: slow(), ..Setup::default() });
    let peers = (0..3).map(|index| world.connect(0, gateway_address(index))).collect();
    // The peer gateways connect.
    world.pass(Duration::from_secs(1));
    (world, peers)
}

pub(crate) fn good() -> (World, Vec<Peer>) {
    three(Vec::new(), StoreConfig::default())
}

#[track_caller]
fn locate(world: &mut World, peer: &Peer, token: impl Into<AnyToken>) -> Vec<Holder> {
    let request = world.caller(peer).locate(peer, token.into());
    world.finish(peer, request);
    match world.caller(peer).request(request).end() {
        End::Located(holders) => holders,
        other => panic!("{other:?}"),
    }
}

/// The gateways that are reported as holders, by number.
#[track_caller]
fn located(world: &mut World, peer: &Peer, token: impl Into<AnyToken>) -> Vec<usize> {
    let holders = locate(world, peer, token);
    let number = |holder: &Holder| (0..3).position(|n| gateway_node(n) == holder.node).unwrap();
    let mut numbers: Vec<_> = holders.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
pub(crate) fn mirror(
    world: &mut World,
    peer: &Peer,
    token: impl Into<AnyToken>,
    of: Lanes,
    from: &[usize],
) -> End {
    mirror_for(world, peer, token, of, from, 0)
}

#[track_caller]
fn mirror_for(
    world: &mut World,
    peer: &Peer,
    token: impl Into<AnyToken>,
    lanes: Lanes,
    from: &[usize],
    lease_s: u64,
) -> End {
    let sources = from.iter().map(|&index| gateway_node(index)).collect();
    let mirror = Mirror { token: token.into(), lanes, lease_s, sources };
    let request = world.caller(peer).mirror(peer, mirror);
    world.finish(peer, request);
    world.caller(peer).request(request).end()
}

fn done(token: impl Into<AnyToken>, bytes: usize) -> End {
    End::Done { bytes: bytes as u64, token: token.into() }
}

#[test]
fn a_holding_is_known_to_peer_gateways_until_it_is_removed() {
    let (mut world, peers) = good();
    let token = put_by(&mut world, &peers[1], &[1], b"abc");
    assert_eq!(located(&mut world, &peers[1], token), [1]);
    world.pass(Duration::from_secs(1));
    assert_eq!(located(&mut world, &peers[0], token), [1]);
    assert_eq!(located(&mut world, &peers[2], token), [0; 0], "only peer gateways are told");
    let holders = locate(&mut world, &peers[0], token);
    assert_eq!((holders[0].coverage, holders[0].expires_s), (Coverage::All, 0));
    assert!(world.stores[1].remove(token).unwrap());
    world.pass(Duration::from_secs(1));
    assert_eq!(located(&mut world, &peers[0], token), [0; 0]);
}

#[test]
fn a_lease_that_ends_is_withdrawn_everywhere() {
    let (mut world, peers) = good();
    let request = world.caller(&peers[1]).put(&peers[1], 0, b"for a minute");
    world.finish(&peers[1], request);
    let token = Token::of(b"for a minute");
    world.pass(Duration::from_secs(20));
    let left = locate(&mut world, &peers[0], token)[0].expires_s;
    assert!((35..=40).contains(&left), "{left} s of 60 are left");
    world.pass(Duration::from_secs(45));
    assert_eq!(located(&mut world, &peers[0], token), [0; 0]);
    assert_eq!(located(&mut world, &peers[1], token), [0; 0]);
    assert!(world.stores[1].holding(&token.into()).is_none());
    world.assert_free();
}

#[test]
fn a_peer_gateway_that_connects_again_announces_everything_again() {
    let (mut world, peers) = good();
    let tokens: Vec<_> =
        (0..20).map(|n| put_by(&mut world, &peers[1], &[1], format!("{n}").as_bytes())).collect();
    world.pass(Duration::from_secs(1));
    assert_eq!(located(&mut world, &peers[0], tokens[0]), [1]);
    world.gateway(1).dead = true;
    world.pass(Duration::from_secs(40));
    let here = world.connect(0, gateway_address(0));
    assert_eq!(located(&mut world, &here, tokens[0]), [0; 0], "a gateway that is gone holds nothing");
    world.gateway(1).dead = false;
    world.pass(Duration::from_secs(60));
    for token in tokens {
        assert_eq!(located(&mut world, &here, token), [1]);
    }
}

#[test]
fn hundreds_of_holdings_are_announced_at_the_allowed_rate() {
    let (mut world, peers) = good();
    let tokens: Vec<_> = (0..700u32)
        .map(|n| {
            let bytes = n.to_le_bytes();
            let lease = stoq::seed::Lease::default();
            let mut writer = world.stores[1].begin(Token::of(&bytes), 4, lease, 0).unwrap();
            let piece = stoq::token::VerifiedPiece {
                offset: 0,
                data: Bytes::copy_from_slice(&bytes),
                proofs: Vec::new(),
            };
            writer.write(&piece).unwrap();
            writer.commit().unwrap().token()
        })
        .collect();
    world.pass(Duration::from_secs(10));
    assert_eq!(located(&mut world, &peers[0], tokens[0]), [1]);
    assert_eq!(located(&mut world, &peers[0], tokens[699]), [1]);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

#[test]
fn a_mirror_fetches_the_payload_from_the_named_source_and_holds_it() {
    let (mut world, peers) = good();
    let bytes = payload(1_000_000);
    let token = put_by(&mut world, &peers[1], &[1], &bytes);
    assert_eq!(mirror(&mut world, &peers[0], token, Lanes::NONE, &[1]), done(token, bytes.len()));
    assert!(joined(&world.get(&peers[0], token, Ranges::all())) == bytes);
    world.pass(Duration::from_secs(1));
    assert_eq!(located(&mut world, &peers[0], token), [0, 1]);
    assert_eq!(located(&mut world, &peers[2], token), [0], "it is announced where it is held now");
    // A second MIRROR: the payload is held already.
    assert_eq!(mirror(&mut world, &peers[0], token, Lanes::NONE, &[1]), done(token, 0));
    world.assert_free();
}

#[test]
fn without_a_source_the_gateway_asks_the_holders_that_it_knows() {
    let (mut world, peers) = good();
    let bytes = payload(200_000);
    let token = put_by(&mut world, &peers[2], &[2], &bytes);
    world.pass(Duration::from_secs(1));
    assert_eq!(mirror(&mut world, &peers[0], token, Lanes::NONE, &[]), done(token, bytes.len()));
    let unknown = Token::of(b"held by no gateway");
    let end = mirror(&mut world, &peers[0], unknown, Lanes::NONE, &[]);
    assert_eq!(end, End::Failed(ErrorCode::NotFound));
    // A named source does not have it.
    let end = mirror(&mut world, &peers[0], unknown, Lanes::NONE, &[1]);
    assert_eq!(end, End::Failed(ErrorCode::NotFound));
    world.assert_free();
}

#[test]
fn a_source_that_is_no_peer_gateway_is_no_route() {
    let (mut world, peers) = good();
    let token = put_by(&mut world, &peers[2], &[2], b"abc");
    let end = mirror(&mut world, &peers[1], token, Lanes::NONE, &[2]);
    assert_eq!(end, End::Failed(ErrorCode::NoRoute));
    // With a source that is a peer gateway, the other one is skipped.
    let token = put_by(&mut world, &peers[0], &[0], b"abcd");
    assert_eq!(mirror(&mut world, &peers[1], token, Lanes::NONE, &[2, 0]), done(token, 4));
    world.assert_free();
}

#[test]
fn lanes_are_mirrored_from_their_holders() {
    let (mut world, peers) = good();
    let bytes = payload(1_500_000);
    let (set, parity) = set(&bytes, 65_536, (4, 2));
    put_lanes(&mut world, &peers[1], &bytes, &parity, &set, lanes(&[0, 1, 4]));
    put_lanes(&mut world, &peers[2], &bytes, &parity, &set, lanes(&[2, 3, 5]));
    world.pass(Duration::from_secs(1));
    let token = set.set_token();
    let holders = locate(&mut world, &peers[0], token);
    assert_eq!(holders.len(), 2);
    let wanted = lanes(&[1, 3, 5]);
    let end = mirror(&mut world, &peers[0], token, wanted, &[]);
    assert!(matches!(end, End::Done { bytes, .. } if bytes > 0), "{end:?}");
    let held = world.stores[0].holding(&token.into()).unwrap();
    assert_eq!(held.coverage, Coverage::Lanes(wanted));
    assert_eq!(mirror(&mut world, &peers[0], token, lanes(&[3, 5]), &[]), done(token, 0));
    // The whole set: its data lanes, and with them the payload.
    let end = mirror(&mut world, &peers[0], token, Lanes::NONE, &[1, 2]);
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    let request = world.caller(&peers[0]).fetch_by(
        &peers[0],
        None,
        token.into(),
        Some((lanes(&[0, 1, 2, 3]), set)),
        Ranges::all(),
    );
    world.finish(&peers[0], request);
    assert_eq!(world.caller(&peers[0]).request(request).end(), End::Complete);
    world.assert_free();
}

#[test]
fn lanes_that_are_put_beside_some_that_are_held_join_them() {
    let (mut world, peers) = good();
    let bytes = payload(1_500_000);
    let (set, parity) = set(&bytes, 65_536, (4, 2));
    for held in [&[0, 1][..], &[1, 2], &[0, 2, 4], &[0, 1, 2, 3, 4, 5]] {
        put_lanes(&mut world, &peers[0], &bytes, &parity, &set, lanes(held));
        let asked = Some((lanes(held), set));
        let peer = &peers[0];
        let request = world.caller(peer).fetch_by(peer, None, set.set_token().into(), asked, Ranges::all());
        world.finish(peer, request);
        assert_eq!(world.caller(peer).request(request).end(), End::Complete, "{held:?}");
    }
    assert!(world.stores[0].get(&set.content()).unwrap().is_some(), "with all data lanes it has the payload");
    world.assert_free();
}

#[test]
fn a_mirror_is_held_for_its_lease() {
    let (mut world, peers) = good();
    let token = put_by(&mut world, &peers[1], &[1], b"abc");
    assert_eq!(mirror_for(&mut world, &peers[0], token, Lanes::NONE, &[1], 30), done(token, 3));
    world.pass(Duration::from_secs(5));
    assert_eq!(located(&mut world, &peers[2], token), [0]);
    // A longer lease is asked for and granted.
    assert_eq!(mirror_for(&mut world, &peers[0], token, Lanes::NONE, &[1], 60), done(token, 0));
    world.pass(Duration::from_secs(40));
    assert_eq!(located(&mut world, &peers[2], token), [0]);
    world.pass(Duration::from_secs(25));
    assert_eq!(located(&mut world, &peers[2], token), [0; 0]);
    assert_eq!(located(&mut world, &peers[0], token), [1]);
    world.assert_free();
}

#[test]
fn a_mirror_is_bounded_by_the_quota_of_its_asker() {
    let store = StoreConfig { quota_bytes: Some(1_000_000), ..StoreConfig::default() };
    let (mut world, peers) = three(Vec::new(), store);
    let first = put_by(&mut world, &peers[1], &[1], &payload(600_000));
    let second = put_by(&mut world, &peers[2], &[2], &payload(600_001));
    assert_eq!(mirror(&mut world, &peers[0], first, Lanes::NONE, &[1]), done(first, 600_000));
    let end = mirror(&mut world, &peers[0], second, Lanes::NONE, &[2]);
    assert_eq!(end, End::Failed(ErrorCode::Quota));
    assert!(world.temporary().is_empty());
    world.assert_free();
}

#[test]
fn a_good_source_makes_up_for_a_bad_one() {
    let bytes = payload(1_000_000);
    for lie in [Lie::FlippedBit, Lie::Longer, Lie::Shorter, Lie::Empty, Lie::Endless, Lie::Silent, Lie::Half]
    {
        let liars = vec![(1, lie, Bytes::from(bytes.clone()))];
        let (mut world, peers) = three(liars, StoreConfig::default());
        let token = put_by(&mut world, &peers[2], &[2], &bytes);
        let end = mirror(&mut world, &peers[0], token, Lanes::NONE, &[1, 2]);
        assert_eq!(end, done(token, bytes.len()), "{lie:?}");
        assert!(world.stores[0].get(&token).unwrap().is_some());
        world.assert_free();
    }
}

#[test]
fn with_bad_sources_alone_nothing_is_held_and_nothing_stays() {
    let bytes = payload(300_000);
    for lie in [Lie::FlippedBit, Lie::Longer, Lie::Silent, Lie::CutShort] {
        let liars = [1, 2].map(|liar| (liar, lie, Bytes::from(bytes.clone()))).to_vec();
        let (mut world, peers) = three(liars, StoreConfig::default());
        let token = Token::of(&bytes);
        let end = mirror(&mut world, &peers[0], token, Lanes::NONE, &[1, 2]);
        assert_eq!(end, End::Failed(ErrorCode::UpstreamFailed), "{lie:?}");
        assert!(world.stores[0].get(&token).unwrap().is_none());
        assert!(world.temporary().is_empty());
        world.assert_free();
    }
}

#[test]
fn a_source_that_dies_midway_is_replaced_and_an_asker_that_leaves_ends_it() {
    let (mut world, peers) = good();
    let bytes = payload(9_000_000);
    let token = put_by(&mut world, &peers[1], &[1], &bytes);
    put_by(&mut world, &peers[2], &[2], &bytes);
    let begin = |world: &mut World| {
        let sources = vec![gateway_node(1), gateway_node(2)];
        let mirror = Mirror { token: token.into(), lanes: Lanes::NONE, lease_s: 0, sources };
        let before = world.gateway.count(Counter::VerifiedBytes);
        let request = world.caller(&peers[0]).mirror(&peers[0], mirror);
        world.run(Duration::from_secs(20), "some of it", |world| {
            world.gateway.count(Counter::VerifiedBytes) > before + 1_000_000
        });
        request
    };
    let left = begin(&mut world);
    world.caller(&peers[0]).cancel(left);
    world.pass(Duration::from_secs(2));
    world.store_at_rest();
    assert!(world.stores[0].get(&token).unwrap().is_none());
    let request = begin(&mut world);
    world.gateway(1).dead = true;
    world.finish(&peers[0], request);
    assert_eq!(world.caller(&peers[0]).request(request).end(), done(token, bytes.len()));
    world.assert_free();
}

#[test]
fn a_payload_is_mirrored_from_the_lanes_that_are_left() {
    let (mut world, peers) = good();
    let bytes = payload(1_500_000);
    let (set, parity) = set(&bytes, 65_536, (4, 2));
    // No gateway holds the data lanes 1 and 2.
    put_lanes(&mut world, &peers[1], &bytes, &parity, &set, lanes(&[0, 4]));
    put_lanes(&mut world, &peers[2], &bytes, &parity, &set, lanes(&[3, 5]));
    let end = mirror(&mut world, &peers[0], set.set_token(), Lanes::NONE, &[1, 2]);
    assert_eq!(end, done(set.set_token(), bytes.len()));
    let pieces = world.get(&peers[0], set.content(), Ranges::all());
    assert!(joined(&pieces) == bytes, "it is held, with its proofs");
    let held = world.stores[0].holding(&set.set_token().into()).unwrap();
    assert_eq!(held.coverage, Coverage::Lanes(Lanes::first(4)));
}

#[test]
fn a_set_whose_parity_is_of_another_payload_is_refused_and_remembered() {
    let (mut world, peers) = good();
    let bytes = payload(200_000);
    let (set, mut parity) = set(&bytes, 16_384, (2, 2));
    parity[100] ^= 1;
    let coding = Coding::ReedSolomon { data_lanes: 2, parity: Some((2, Token::of(&parity))) };
    let set = Descriptor::new(set.content(), set.length_bytes(), 16_384, coding).unwrap();
    put_lanes(&mut world, &peers[1], &bytes, &parity, &set, lanes(&[2, 3]));
    for _ in 0..2 {
        let end = mirror(&mut world, &peers[0], set.set_token(), Lanes::NONE, &[1]);
        assert_eq!(end, End::Failed(ErrorCode::BadDescriptor));
        assert!(world.stores[0].is_bad(&set.set_token()));
        assert!(world.stores[0].holding(&set.content().into()).is_none());
    }
    assert!(world.temporary().is_empty());
}

//! One payload or set gathered from several holders at once.

use crate::passing::slow;
use crate::support::caller::{End, Peer};
use crate::support::gathering::{Gathering, source};
use crate::support::liar::Lie;
use crate::support::{Setup, World, gateway_address, gateway_node, payload, route, selected};
use bytes::Bytes;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::gather::{GatherSource, HolderReport, HolderState, Want};
use stoq::limits::GATHER_WINDOW_BYTES;
use stoq::record::ErrorCode;
use stoq::shard::{Blob, Descriptor, Lanes, encode};
use stoq::token::{AnyToken, Ranges, Token};

const WINDOW: usize = GATHER_WINDOW_BYTES as usize;

/// Gateways without peer gateways, and a client connected to all of them.
fn holders(count: usize, liars: Vec<(usize, Lie, Bytes)>) -> (World, Vec<Peer>) {
    let mut world = World::new(Setup { gateways: count, liars, link: slow(), ..Setup::default() });
    let peers = (0..count).map(|index| world.connect(0, gateway_address(index))).collect();
    (world, peers)
}

fn put(world: &mut World, peer: &Peer, index: usize, bytes: &[u8]) {
    let request = world.caller(peer).put_by(peer, route(&[index]).hop(), bytes, 0);
    world.finish(peer, request);
    assert!(matches!(world.caller(peer).request(request).end(), End::Done { .. }));
}

fn begin(world: &mut World, peers: &[Peer], token: AnyToken, want: Want) {
    let sources = peers.iter().map(|peer| source(peer, None)).collect();
    world.caller(&peers[0]).gathering = Some(Gathering::new(token, want, sources));
}

/// Runs the gathering to its end; returns its result and each holder's part.
#[track_caller]
fn end(world: &mut World, peer: &Peer) -> (Result<(), ErrorCode>, Vec<HolderReport>) {
    world.run(Duration::from_secs(120), "a gathering", |world| gathering(world, peer).end.is_some());
    let gathering = gathering(world, peer);
    (gathering.end.unwrap(), gathering.report())
}

fn gathering<'a>(world: &'a mut World, peer: &Peer) -> &'a mut Gathering {
    world.caller(peer).gathering.as_mut().expect("it gathers")
}

#[test]
fn every_good_holder_gives_a_part() {
    let (mut world, peers) = holders(4, Vec::new());
    let bytes = payload(4 * WINDOW + 12_345);
    for (index, peer) in peers.iter().enumerate() {
        put(&mut world, peer, index, &bytes);
    }
    begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
    let (end, report) = end(&mut world, &peers[0]);
    assert_eq!(end, Ok(()));
    assert!(gathering(&mut world, &peers[0]).payload() == bytes);
    assert!(report.iter().all(|given| given.bytes > 0 && given.strikes == 0), "{report:?}");
    world.assert_free();
}

#[test]
fn payloads_of_every_length_are_gathered() {
    let (mut world, peers) = holders(2, Vec::new());
    for len in [0, 1, 16_384, 16_385, WINDOW, WINDOW + 1] {
        let bytes = payload(len);
        for (index, peer) in peers.iter().enumerate() {
            put(&mut world, peer, index, &bytes);
        }
        begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
        assert_eq!(end(&mut world, &peers[0]).0, Ok(()), "{len}");
        assert_eq!(gathering(&mut world, &peers[0]).length, Some(len as u64));
        assert!(gathering(&mut world, &peers[0]).payload() == bytes, "{len}");
    }
}

#[test]
fn a_holder_that_lies_is_detected_and_the_payload_is_gathered() {
    let bytes = payload(WINDOW + 100_000);
    for lie in [
        Lie::FlippedBit,
        Lie::WrongRange,
        Lie::Longer,
        Lie::Shorter,
        Lie::Empty,
        Lie::Endless,
        Lie::Silent,
        Lie::Half,
        Lie::CutShort,
    ] {
        // The liar is asked first.
        let (mut world, peers) = holders(2, vec![(0, lie, Bytes::from(bytes.clone()))]);
        put(&mut world, &peers[1], 1, &bytes);
        begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
        let (end, report) = end(&mut world, &peers[0]);
        assert_eq!(end, Ok(()), "{lie:?} {report:?}");
        assert!(gathering(&mut world, &peers[0]).payload() == bytes, "{lie:?}");
        assert_eq!(report[1].state, HolderState::Asked, "{lie:?}");
        assert_eq!(report[1].strikes, 0, "{lie:?}: the honest one is not charged");
        match lie {
            // Every byte that it gave was right.
            Lie::Endless => assert_eq!(report[0].strikes, 0),
            Lie::Silent | Lie::Half => assert!(report[0].bytes < bytes.len() as u64, "{report:?}"),
            // Three strikes, or its connection is closed after as many errors.
            _ => assert!(report[0].strikes > 0, "{lie:?} {report:?}"),
        }
        world.assert_free();
    }
}

#[test]
fn the_third_strike_ends_a_holders_use() {
    let bytes = payload(6 * WINDOW);
    let (mut world, peers) = holders(2, vec![(0, Lie::FlippedBit, Bytes::from(bytes.clone()))]);
    put(&mut world, &peers[1], 1, &bytes);
    begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
    let (end, report) = end(&mut world, &peers[0]);
    assert_eq!(end, Ok(()));
    assert!(gathering(&mut world, &peers[0]).payload() == bytes);
    assert_eq!(report[0].strikes, 3);
    assert!(matches!(report[0].state, HolderState::Wrong(_)), "{report:?}");
    assert!(world.clients[0].count(Counter::BadProofs) >= 3);
    world.assert_free();
}

#[test]
fn a_holder_that_dies_midway_is_replaced() {
    let (mut world, peers) = holders(3, Vec::new());
    let bytes = payload(4 * WINDOW);
    for (index, peer) in peers.iter().enumerate() {
        put(&mut world, peer, index, &bytes);
    }
    begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
    world.run(Duration::from_secs(20), "some of it", |world| {
        gathering(world, &peers[0]).report().iter().all(|given| given.bytes > 100_000)
    });
    world.gateway(1).dead = true;
    let (end, report) = end(&mut world, &peers[0]);
    assert_eq!(end, Ok(()));
    assert!(gathering(&mut world, &peers[0]).payload() == bytes);
    assert!(report[1].bytes < bytes.len() as u64 / 2);
    world.assert_free();
}

#[test]
fn if_every_holder_is_bad_the_failure_names_the_reason() {
    let bytes = payload(100_000);
    for (lie, code) in [
        (Lie::FlippedBit, ErrorCode::UpstreamFailed),
        (Lie::Longer, ErrorCode::UpstreamFailed),
        (Lie::Silent, ErrorCode::UpstreamFailed),
        (Lie::CutShort, ErrorCode::UpstreamFailed),
    ] {
        let liars = (0..2).map(|liar| (liar, lie, Bytes::from(bytes.clone()))).collect();
        let (mut world, peers) = holders(2, liars);
        begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
        assert_eq!(end(&mut world, &peers[0]).0, Err(code), "{lie:?}");
        assert_eq!(gathering(&mut world, &peers[0]).length, None, "{lie:?}: no unproven length is reported");
        world.assert_free();
    }
    let (mut world, peers) = holders(2, Vec::new());
    begin(&mut world, &peers, Token::of(&bytes).into(), Want::Payload);
    assert_eq!(end(&mut world, &peers[0]).0, Err(ErrorCode::NotFound));
    let (mut world, peers) = holders(1, vec![(0, Lie::WrongDescriptor, Bytes::from(bytes.clone()))]);
    let (set, _) = set(&bytes, 65_536, (4, 2));
    begin(&mut world, &peers, set.set_token().into(), Want::AnyLanes);
    assert_eq!(end(&mut world, &peers[0]).0, Err(ErrorCode::UpstreamFailed));
}

/// The set of a payload, and its parity.
pub(crate) fn set(bytes: &[u8], shard_bytes: u64, (k, m): (u8, u8)) -> (Descriptor, Vec<u8>) {
    let mut parity = Vec::new();
    let coded = encode(bytes, bytes.len() as u64, shard_bytes, (k, m), &mut parity).unwrap();
    (coded.descriptor, parity)
}

/// The verified encoding of these lanes of a set.
pub(crate) fn lanes_encoded(bytes: &[u8], parity: &[u8], set: &Descriptor, lanes: Lanes) -> Vec<Bytes> {
    let mut encoded = Vec::new();
    for part in set.parts(lanes, &Ranges::all()).unwrap() {
        let blob = if part.blob == Blob::Content { bytes } else { parity };
        encoded.extend(selected(blob, part.selection));
    }
    encoded
}

/// Puts lanes of a set at a gateway.
#[track_caller]
pub(crate) fn put_lanes(
    world: &mut World,
    peer: &Peer,
    bytes: &[u8],
    parity: &[u8],
    set: &Descriptor,
    lanes: Lanes,
) {
    let encoded = lanes_encoded(bytes, parity, set, lanes);
    let request = world.caller(peer).put_with(peer, None, 0, *set, Some(lanes), 0, encoded);
    world.finish(peer, request);
    let end = world.caller(peer).request(request).end();
    assert!(matches!(end, End::Done { .. }), "{end:?}");
}

pub(crate) fn lanes(of: &[u8]) -> Lanes {
    of.iter().fold(Lanes::NONE, |all, &lane| all.union(Lanes::one(lane)))
}

#[test]
fn any_k_lanes_restore_the_payload() {
    let (mut world, peers) = holders(3, Vec::new());
    for len in [0, 1, 65_536, 4 * 65_536, 4 * 65_536 + 1, 3_000_000] {
        let bytes = payload(len);
        let (set, parity) = set(&bytes, 65_536, (4, 2));
        for (peer, held) in peers.iter().zip([[0, 3], [1, 4], [2, 5]]) {
            put_lanes(&mut world, peer, &bytes, &parity, &set, lanes(&held));
        }
        // The gathering knows which holder has which lanes, or learns it.
        for known in [true, false] {
            let held = [[0, 3], [1, 4], [2, 5]].map(|held| known.then(|| lanes(&held)));
            let sources = peers.iter().zip(held).map(|(peer, held)| source(peer, held)).collect();
            let gather = Gathering::new(set.set_token().into(), Want::AnyLanes, sources);
            world.caller(&peers[0]).gathering = Some(gather);
            let (end, report) = end(&mut world, &peers[0]);
            assert_eq!(end, Ok(()), "{len} {report:?}");
            assert_eq!(gathering(&mut world, &peers[0]).descriptor, Some(set));
            assert!(gathering(&mut world, &peers[0]).restored() == bytes, "{len}");
        }
    }
    world.assert_free();
}

#[test]
fn as_many_lanes_as_there_are_parity_lanes_may_be_gone() {
    let bytes = payload(2_000_000);
    let (set, parity) = set(&bytes, 65_536, (4, 2));
    // Four gateways: two with one lane each, two with two each. Lost are one of the first two, both of them, one of the last two, or one of each.
    let spread: [&[u8]; 4] = [&[0], &[4], &[1, 2], &[3, 5]];
    for (gone, enough) in [(vec![0], true), (vec![0, 1], true), (vec![2], true), (vec![0, 2], false)] {
        let (mut world, peers) = holders(4, Vec::new());
        for (peer, held) in peers.iter().zip(spread) {
            put_lanes(&mut world, peer, &bytes, &parity, &set, lanes(held));
        }
        for &index in &gone {
            world.gateway(index).dead = true;
        }
        for known in [true, false] {
            let held = |held: &[u8]| known.then(|| lanes(held));
            let sources = peers.iter().zip(spread).map(|(peer, of)| source(peer, held(of))).collect();
            let gather = Gathering::new(set.set_token().into(), Want::AnyLanes, sources);
            world.caller(&peers[0]).gathering = Some(gather);
            let (end, report) = end(&mut world, &peers[0]);
            if enough {
                assert_eq!(end, Ok(()), "{gone:?} {report:?}");
                assert!(gathering(&mut world, &peers[0]).restored() == bytes);
            } else {
                assert_eq!(end, Err(ErrorCode::UpstreamFailed), "{gone:?} {report:?}");
            }
        }
        world.assert_free();
    }
}

#[test]
fn named_lanes_are_fetched_and_no_others() {
    let (mut world, peers) = holders(2, Vec::new());
    let bytes = payload(1_000_000);
    let (set, parity) = set(&bytes, 65_536, (4, 2));
    put_lanes(&mut world, &peers[0], &bytes, &parity, &set, lanes(&[0, 1, 4]));
    put_lanes(&mut world, &peers[1], &bytes, &parity, &set, lanes(&[2, 3, 5]));
    let before = world.clients[0].count(Counter::VerifiedBytes);
    begin(&mut world, &peers, set.set_token().into(), Want::Lanes(lanes(&[1, 5])));
    assert_eq!(end(&mut world, &peers[0]).0, Ok(()));
    let verified = world.clients[0].count(Counter::VerifiedBytes) - before;
    assert!(verified <= 2 * 65_536 * set.stripes(), "{verified} bytes of two lanes");
    // All data lanes.
    begin(&mut world, &peers, set.set_token().into(), Want::Lanes(Lanes::NONE));
    assert_eq!(end(&mut world, &peers[0]).0, Ok(()));
    assert!(gathering(&mut world, &peers[0]).restored() == bytes);
    // A lane that the set does not have.
    begin(&mut world, &peers, set.set_token().into(), Want::Lanes(lanes(&[6])));
    assert!(end(&mut world, &peers[0]).0.is_err());
    world.assert_free();
}

#[test]
fn a_holder_at_the_end_of_a_route_gives_like_any_other() {
    let setup = Setup { link: slow(), ..Setup::line(3) };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_address(0));
    let bytes = payload(5 * WINDOW);
    for way in [&[0][..], &[0, 1], &[0, 1, 2]] {
        let request = world.caller(&peer).put_by(&peer, route(way).hop(), &bytes, 0);
        world.finish(&peer, request);
    }
    let by = |way: &[usize]| GatherSource {
        node: way.last().map(|&last| gateway_node(last)),
        route: (way.len() > 1).then(|| route(way)),
        ..source(&peer, None)
    };
    let sources = vec![by(&[0]), by(&[0, 1]), by(&[0, 1, 2])];
    let gather = Gathering::new(Token::of(&bytes).into(), Want::Payload, sources);
    world.caller(&peer).gathering = Some(gather);
    let (end, report) = end(&mut world, &peer);
    assert_eq!(end, Ok(()));
    assert!(gathering(&mut world, &peer).payload() == bytes);
    assert!(report.iter().filter(|given| given.bytes > 0).count() >= 2, "{report:?}");
    world.assert_free();
}

//! Payloads by ranges: many requests of one connection at once.

use crate::support::caller::{End, Peer};
use crate::support::gathering::Gathering;
use crate::support::{Setup, World, gateway_v4, joined, payload};
use std::time::Duration;
use stoq::gather::{Gather, GatherSource, Want};
use stoq::limits::GROUP_BYTES;
use stoq::nic::simulated::LinkConfig;
use stoq::queue::RequestId;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::token::{Ranges, Token};

/// How long a transfer may take in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

/// A path of this rate and round trip, with a buffer that holds what the windows allow.
fn path(bits_per_s: u64, round_trip: Duration) -> LinkConfig {
    LinkConfig {
        delay: round_trip / 2,
        bandwidth_bits_per_s: Some(bits_per_s),
        queue_len_max: 1 << 20,
        ..LinkConfig::default()
    }
}

/// A payload that is kept at the other end of this path.
fn kept_over(path: &LinkConfig, gateway_quic: QuicConfig, bytes: &[u8]) -> (World, Peer, Token) {
    let step = Duration::from_micros(100);
    let mut world = World::new(Setup { gateway_quic, step, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let token = world.put(&peer, bytes);
    world.link.reconfigure(|link| *link = LinkConfig { mtu: link.mtu, ..path.clone() });
    // Keep-alives, each 5 s, show the new round trip; the shortest of the old path counts for 5 s.
    world.pass(Duration::from_secs(15));
    (world, peer, token)
}

/// Asks for a payload in ranges of this size, all at once.
fn ask_in_ranges(world: &mut World, peer: &Peer, token: Token, len: usize, range: usize) -> Vec<RequestId> {
    let starts = (0..len).step_by(range).map(|start| start as u64);
    let ranges = starts.map(|start| Ranges::covering(start..start + range as u64).unwrap());
    ranges.map(|ranges| world.caller(peer).fetch(peer, token, ranges)).collect()
}

#[test]
fn of_many_requests_over_a_small_send_window_none_starves() {
    const RANGE: usize = 8 * GROUP_BYTES;
    let gateway_quic = QuicConfig { send_window_bytes: 1 << 20, ..QuicConfig::default() };
    let bytes = payload(120 * RANGE);
    let (mut world, peer, token) =
        kept_over(&path(200_000_000, Duration::from_millis(50)), gateway_quic, &bytes);
    let requests = ask_in_ranges(&mut world, &peer, token, bytes.len(), RANGE);
    // Answers come in their order: the window holds eight of them.
    world.run(PATIENCE, "all answers", |world| {
        let caller = world.caller(&peer);
        let whole = |request: &RequestId| caller.request(*request).end.is_some();
        let first_open = requests.iter().position(|request| !whole(request)).unwrap_or(requests.len());
        let last_begun = requests.iter().rposition(|request| caller.request(*request).bytes() > 0);
        assert!(last_begun.is_none_or(|last| last <= first_open + 16), "{last_begun:?} before {first_open}");
        first_open == requests.len()
    });
    let mut pieces = Vec::new();
    for request in requests {
        let request = world.caller(&peer).request(request);
        assert_eq!(request.end(), End::Complete);
        pieces.extend(request.pieces.iter().cloned());
    }
    assert!(joined(&pieces) == bytes);
}

#[test]
fn a_long_answer_lets_later_ones_have_their_turn() {
    let gateway_quic = QuicConfig { send_window_bytes: 1 << 20, ..QuicConfig::default() };
    let bytes = payload(24 << 20);
    let (mut world, peer, token) =
        kept_over(&path(1_000_000_000, Duration::from_millis(5)), gateway_quic, &bytes);
    let long = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.pass(Duration::from_millis(50));
    let short = Ranges::covering(0..1 << 20).unwrap();
    let short = world.caller(&peer).fetch(&peer, token, short);
    world.finish(&peer, short);
    let come = world.caller(&peer).request(long).bytes();
    assert!(come < 16 << 20, "the short answer waited for {come} bytes of the long one");
    world.finish(&peer, long);
    assert_eq!(world.caller(&peer).request(long).end(), End::Complete);
}

/// Runs to the end, and checks that the payload came whole and filled the link but for the first round trips.
#[track_caller]
fn fills(gather: Gather, (mut world, peer): (World, Peer), bits_per_s: u64, bytes: &[u8]) {
    world.caller(&peer).gathering = Some(Gathering::of(gather));
    let begun = world.now;
    world.run(PATIENCE, "a gathering", |world| {
        world.caller(&peer).gathering.as_ref().is_some_and(|gathering| gathering.end.is_some())
    });
    let gathering = world.caller(&peer).gathering.take().unwrap();
    assert_eq!(gathering.end, Some(Ok(())));
    assert!(gathering.payload() == bytes);
    // The description and the first range take a round trip each.
    let took = world.now.duration_since(begun).saturating_sub(Duration::from_millis(300));
    let of_link = bytes.len() as f64 * 8.0 / took.as_secs_f64() / bits_per_s as f64;
    assert!(of_link >= 0.9 * PAYLOAD_OF_LINK, "{of_link} of the link in {took:?}");
}

/// What a link of MTU 1500 carries as payload of its bits on the wire, about.
const PAYLOAD_OF_LINK: f64 = 0.936;

fn source(peer: &Peer) -> GatherSource {
    GatherSource { connection: peer.connection, remote: None, node: peer.node, route: None, lanes: None }
}

/// What the path's product needs goes in one flight from the start: these tests are about what is asked for.
fn no_slow_start() -> QuicConfig {
    let congestion_control = Congestion::Model;
    QuicConfig { initial_congestion_window_bytes: 6 << 20, congestion_control, ..QuicConfig::default() }
}

#[test]
fn a_gathering_from_one_holder_fills_a_long_path() {
    const RATE: u64 = 300_000_000;
    let bytes = payload(48 << 20);
    let (world, peer, token) = kept_over(&path(RATE, Duration::from_millis(100)), no_slow_start(), &bytes);
    let gather = Gather::new(token.into(), Want::Payload, vec![source(&peer)]);
    fills(gather, (world, peer), RATE, &bytes);
}

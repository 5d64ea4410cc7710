//! Windows that fit the path: a transfer is as fast as its path, however small its first windows were.

use crate::support::caller::{End, Peer};
use crate::support::identities::gateway_identity;
use crate::support::raw::records;
use crate::support::{DISCARD, ECHO, SEED, Setup, World, gateway_v4, joined, payload};
use quinn_proto::Dir;
use std::time::{Duration, Instant};
use stoq::counters::Counter;
use stoq::limits::{MESSAGE_BYTES_MAX, WINDOW_BUDGET_BYTES_MIN, WINDOW_BYTES_MIN, WINDOW_FIRST_BYTES};
use stoq::nic::simulated::LinkConfig;
use stoq::quic::congestion::Congestion;
use stoq::quic::transport::QuicConfig;
use stoq::record::{ErrorCode, Locate, MessageHeader, Record, RecordType};
use stoq::send_limit::SendLimit;
use stoq::token::{Ranges, Token};

const FIRST_WINDOW_BYTES: u32 = 256 << 10;
const PAYLOAD_BYTES: usize = 24 << 20;
/// 200 Mbit/s over 100 ms: the first window allows a tenth of it.
const DELAY: Duration = Duration::from_millis(50);
const BITS_PER_S: u64 = 200_000_000;
/// The time that the payload takes on the wire.
const WIRE: Duration = Duration::from_millis(1_060);
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts or gets a payload, to the end.
fn transfer(world: &mut World, peer: &Peer, bytes: &[u8], is_get: bool) {
    let request = match is_get {
        false => world.caller(peer).put(peer, SEED, bytes),
        true => world.caller(peer).fetch(peer, Token::of(bytes), Ranges::all()),
    };
    world.run(PATIENCE, "a transfer", |world| world.caller(peer).request(request).end.is_some());
    let end = world.caller(peer).request(request).end();
    assert!(matches!(end, End::Done { .. } | End::Complete), "{end:?}");
}

/// Puts and gets one payload; returns the times that both took.
fn transfers(window_budget_bytes: u64) -> [Duration; 2] {
    let quic = QuicConfig {
        receive_window_bytes: FIRST_WINDOW_BYTES,
        send_window_bytes: FIRST_WINDOW_BYTES,
        // The congestion window holds the product of rate and round trip from the start on.
        initial_congestion_window_bytes: 3 << 20,
        congestion_control: Congestion::Model,
        ..QuicConfig::default()
    };
    let step = Duration::from_micros(20);
    let setup = Setup {
        gateway_quic: quic.clone(),
        client_quic: quic,
        step,
        window_budget_bytes,
        ..Setup::default()
    };
    let mut world = World::new(setup);
    let peer = world.connect(0, gateway_v4());
    world.link.reconfigure(|link| {
        *link = LinkConfig { mtu: link.mtu, delay: DELAY, ..LinkConfig::default() };
        link.bandwidth_bits_per_s = Some(BITS_PER_S);
    });
    // Keep-alives, each 5 s, show the new round trip; the shortest of the old path counts for 5 s.
    world.pass(Duration::from_secs(15));
    let bytes = payload(PAYLOAD_BYTES);
    let mut times = Vec::new();
    for is_get in [false, true] {
        let begun: Instant = world.now;
        transfer(&mut world, &peer, &bytes, is_get);
        times.push(world.now.duration_since(begun));
    }
    [times[0], times[1]]
}

#[test]
fn a_transfer_outgrows_small_windows_only_within_the_budget() {
    for time in transfers(1 << 30) {
        assert!(time < 2 * WIRE, "{time:?} for a payload that takes {WIRE:?} on the wire");
    }
    for time in transfers(0) {
        // 256 KiB a round trip.
        assert!(time > 8 * WIRE, "{time:?}: the windows grew without a budget");
    }
}

#[test]
fn windows_limit_no_start() {
    // The congestion window doubles each round trip, and the windows must be there before it: 1 Gbit/s over 100 ms.
    let quic =
        QuicConfig { receive_window_bytes: 2 << 20, send_window_bytes: 2 << 20, ..QuicConfig::default() };
    let link =
        LinkConfig { delay: DELAY, bandwidth_bits_per_s: Some(1_000_000_000), ..LinkConfig::default() };
    let mut world = World::new(Setup {
        link,
        gateway_quic: quic.clone(),
        client_quic: quic,
        step: Duration::from_micros(20),
        window_budget_bytes: 1 << 30,
        ..Setup::default()
    });
    let peer = world.connect(0, gateway_v4());
    let put = world.caller(&peer).put(&peer, SEED, &payload(40 << 20));
    let limited = |world: &mut World| {
        let told = world.clients[0].inspect();
        world.pass(Duration::from_millis(1));
        told().remove(0).limited_s
    };
    // The client waits first until the gateway has accepted the put, and allows further streams.
    world.pass(8 * DELAY);
    let before = limited(&mut world);
    world.run(PATIENCE, "a put", |world| world.caller(&peer).request(put).end.is_some());
    let times = limited(&mut world).since(&before);
    assert!(times.of(SendLimit::Pacing) > 4 * DELAY, "{times:?}");
    assert_eq!(times.of(SendLimit::Peer) + times.of(SendLimit::Window), Duration::ZERO, "{times:?}");
}

#[test]
fn a_node_with_more_than_its_share_of_memory_is_refused_and_others_are_served() {
    /// What its connections have at first, in both directions, is more than the budget.
    const CONNECTIONS: u64 = 18;
    const BUDGET_BYTES: u64 = 16 * 2 * WINDOW_FIRST_BYTES;
    let mut world = World::new(Setup { window_budget_bytes: BUDGET_BYTES, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let greedy = gateway_identity(3);
    let raws: Vec<_> =
        (0..CONNECTIONS).map(|_| world.raw_of(gateway_v4(), &QuicConfig::default(), greedy)).collect();
    for raw in &raws {
        world.say_settings(*raw);
    }
    world.pass(Duration::from_secs(3));
    let budget = world.gateway.shared.window_budget.clone();
    assert!(budget.is_short());
    let (largest, held_bytes) = budget.largest().unwrap();
    assert_eq!(largest, Some(greedy.node_id()));
    assert!(held_bytes >= CONNECTIONS * 2 * WINDOW_FIRST_BYTES, "{held_bytes}");
    let mut locate = Vec::new();
    Locate { token: Token::of(b"anything").into() }.emit_record(&mut locate);
    for raw in &raws {
        let id = world.raw_mut(*raw).send(Dir::Bi, &locate, true);
        let error = world.error_on(*raw, id);
        assert_eq!(error.code, ErrorCode::Busy);
        assert!(error.reason().contains("holds more of it than its share"), "{}", error.reason());
    }
    assert_eq!(world.gateway.count(Counter::MemoryRequestsRefused), CONNECTIONS);
    // Another node is served meanwhile.
    let bytes = payload(3 << 20);
    let token = world.put(&peer, &bytes);
    assert!(joined(&world.get(&peer, token, Ranges::all())) == bytes);
    // With fewer connections the node is served again.
    for raw in &raws[1..] {
        let now = world.now;
        world.raw_mut(*raw).quic.close(now, 0_u32.into(), bytes::Bytes::new());
    }
    world.pass(Duration::from_secs(5));
    assert!(!budget.is_short());
    let id = world.raw_mut(raws[0]).send(Dir::Bi, &locate, true);
    world.run(Duration::from_secs(2), "HOLDERS", |world| world.raw_mut(raws[0]).finished.contains(&id));
    assert_eq!(records(&world.raw_mut(raws[0]).received[&id])[0].0, RecordType::Holders);
}

/// The time from the start of a handshake until a payload is transferred, over a round trip of 50 ms and an unused link, in round trips.
fn cold_trips(payload_bytes: usize, is_get: bool) -> f64 {
    const TRIP: Duration = Duration::from_millis(50);
    let mut world = World::new(Setup { clients: 2, window_budget_bytes: 1 << 30, ..Setup::default() });
    let keeper = world.connect(0, gateway_v4());
    let bytes = payload(payload_bytes);
    if is_get {
        world.put(&keeper, &bytes);
    }
    world
        .link
        .reconfigure(|link| *link = LinkConfig { mtu: link.mtu, delay: TRIP / 2, ..LinkConfig::default() });
    let begun = world.now;
    let peer = world.connect(1, gateway_v4());
    transfer(&mut world, &peer, &bytes, is_get);
    world.now.duration_since(begun).as_secs_f64() / TRIP.as_secs_f64()
}

#[test]
fn first_windows_cost_a_cold_transfer_no_round_trip() {
    for (payload_bytes, is_get, trips_max) in
        [(60_000, true, 4.9), (60_000, false, 5.8), (1_000_000, true, 8.0), (1_000_000, false, 8.7)]
    {
        let trips = cold_trips(payload_bytes, is_get);
        assert!(trips < trips_max, "{payload_bytes} bytes take {trips:.2} round trips (get: {is_get})");
    }
}

/// A world with the smallest windows.
fn narrow() -> World {
    let least = WINDOW_BYTES_MIN as u32;
    let quic = QuicConfig {
        stream_receive_window_bytes: least,
        receive_window_bytes: least,
        receive_window_max_bytes: least,
        send_window_bytes: least,
        send_window_max_bytes: least,
        ..QuicConfig::default()
    };
    World::new(Setup {
        gateway_quic: quic.clone(),
        client_quic: quic,
        window_budget_bytes: WINDOW_BUDGET_BYTES_MIN,
        ..Setup::default()
    })
}

/// Messages of the largest size, each on a stream of its own, of which the peer sends a little in turn: none is whole before all almost are.
#[test]
fn records_that_arrive_together_leave_the_window_open_for_their_ends() {
    const PIECE_BYTES: usize = 1000;
    let mut world = narrow();
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let mut message = Vec::new();
    MessageHeader { queue: DISCARD, token: None }.emit_record_front(MESSAGE_BYTES_MAX as usize, &mut message);
    message.resize(message.len() + MESSAGE_BYTES_MAX as usize, b'm');
    let mut pieces = message.chunks(PIECE_BYTES);
    let first = pieces.next().unwrap();
    let streams: Vec<_> = (0..3).map(|_| world.raw_mut(raw).send(Dir::Uni, first, false)).collect();
    for piece in pieces {
        for id in &streams {
            world.raw_mut(raw).send_on(*id, piece, false);
            world.pass(Duration::from_millis(1));
        }
    }
    world.run(PATIENCE, "the messages", |world| world.gateway.count(Counter::RecordsIn) == 1 + 3);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

#[test]
fn messages_flow_through_the_smallest_windows() {
    const MESSAGES: usize = 40;
    let mut world = narrow();
    let peer = world.connect(0, gateway_v4());
    let begun = world.now;
    for _ in 0..MESSAGES {
        world.caller(&peer).message(&peer, ECHO, &payload(64 << 10));
    }
    world.run(PATIENCE, "the echoes", |world| world.caller(&peer).messages.len() == MESSAGES);
    let passed = world.now.duration_since(begun);
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

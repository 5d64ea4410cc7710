//! A peer with a trusted identity that sends arbitrary bytes.

use crate::support::raw::{Raw, records};
use crate::support::{ECHO, NOBODY, SEED, Setup, World, encoding, gateway_v4, joined, payload};
use proptest::prelude::*;
use quinn_proto::{Dir, StreamId};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::WINDOW_BYTES_MIN;
use stoq::quic::transport::QuicConfig;
use stoq::record::{
    Descriptor, ErrorCode, ErrorRecord, Fetch, GoAway, MessageHeader, Put, Record, RecordType, Settings,
};
use stoq::token::{Ranges, Token};

fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}

fn message(queue: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    MessageHeader { queue, token: None }.emit_record_front(payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

fn put(bytes: &[u8]) -> Vec<u8> {
    let descriptor = Descriptor::plain(Token::of(bytes), bytes.len() as u64).unwrap();
    record(&Put { queue: SEED, lease_s: 60, descriptor, lanes: None })
}

/// A gateway with an honest client, and a hostile one that has sent SETTINGS.
fn besieged() -> (World, crate::support::caller::Peer, Raw, StreamId) {
    let (mut world, peer) = World::connected();
    let raw = world.raw(gateway_v4());
    let control = world.say_settings(raw);
    world.pass(Duration::from_millis(10));
    (world, peer, raw, control)
}

/// The gateway serves its honest client as if nothing had happened.
fn assert_serves(world: &mut World, peer: &crate::support::caller::Peer) {
    world.echo(peer, b"an honest message");
    let bytes = payload(70_000);
    let token = world.put(peer, &bytes);
    assert_eq!(joined(&world.get(peer, token, Ranges::all())), bytes);
    assert_eq!(world.caller(peer).closed(peer), None);
}

#[track_caller]
fn refused_on_uni(bytes: &[u8], finish: bool, code: ErrorCode) {
    let (mut world, peer, raw, _) = besieged();
    let id = world.raw_mut(raw).send(Dir::Uni, bytes, finish);
    if finish {
        // A stream that has ended cannot be stopped; the fault is counted.
        world.run(Duration::from_secs(1), "the fault", |world| {
            world.gateway.count(Counter::ProtocolErrors) == 1
        });
    } else {
        assert_eq!(world.stop_code(raw, id), code.number());
    }
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 1);
    assert!(world.raw_mut(raw).lost.is_none(), "one error does not close the connection");
    assert_serves(&mut world, &peer);
}

#[track_caller]
fn refused_on_bi(bytes: &[u8], finish: bool, code: ErrorCode) -> ErrorRecord {
    let (mut world, peer, raw, _) = besieged();
    let id = world.raw_mut(raw).send(Dir::Bi, bytes, finish);
    let error = world.error_on(raw, id);
    assert_eq!(error.code, code, "{}", error.reason());
    assert!(world.raw_mut(raw).lost.is_none(), "one error does not close the connection");
    assert_serves(&mut world, &peer);
    assert!(world.temporary().is_empty());
    error
}

#[test]
fn garbage_at_the_start_of_a_unidirectional_stream_is_stopped() {
    refused_on_uni(b"GET / HTTP/1.1\r\n\r\n", false, ErrorCode::UnknownRecord);
}

#[test]
fn garbage_at_the_start_of_a_request_is_answered_with_an_error() {
    refused_on_bi(b"GET / HTTP/1.1\r\n\r\n", false, ErrorCode::UnknownRecord);
}

#[test]
fn an_unknown_odd_record_is_an_error_on_either_kind_of_stream() {
    refused_on_uni(&[0x21, 0x02, 1, 2], false, ErrorCode::UnknownRecord);
    refused_on_bi(&[0x21, 0x02, 1, 2], false, ErrorCode::UnknownRecord);
}

#[test]
fn records_of_the_wrong_kind_for_their_stream_are_malformed() {
    refused_on_uni(&put(b"x"), false, ErrorCode::Malformed);
    refused_on_bi(&message(ECHO, b"x"), false, ErrorCode::Malformed);
    refused_on_bi(&record(&Settings::default()), false, ErrorCode::Malformed);
    // A second CONTROL stream.
    refused_on_uni(&record(&Settings::default()), false, ErrorCode::Malformed);
}

#[test]
fn a_length_past_the_bound_is_refused_before_the_body_arrives() {
    let mut header = Vec::new();
    RecordType::Message.emit_header(1 << 40, &mut header);
    refused_on_uni(&header, false, ErrorCode::Limit);
    let mut header = Vec::new();
    RecordType::Fetch.emit_header(65 * 1024, &mut header);
    refused_on_bi(&header, false, ErrorCode::Limit);
    // Past the bound of a payload, although the record itself may be that long.
    refused_on_uni(&message(ECHO, &vec![0; 65_537]), false, ErrorCode::Limit);
}

#[test]
fn truncated_records_are_malformed() {
    let whole = message(ECHO, b"hello");
    refused_on_uni(&whole[..whole.len() - 1], true, ErrorCode::Malformed);
    let whole = put(b"hello");
    for cut in [1, 2, whole.len() - 1] {
        refused_on_bi(&whole[..cut], true, ErrorCode::Malformed);
    }
    // A body that ends inside a field.
    refused_on_bi(&[0x0d, 0x02, 0x01, 0x02], false, ErrorCode::Malformed);
}

#[test]
fn a_request_stream_that_ends_without_a_request_is_answered() {
    refused_on_bi(b"", true, ErrorCode::Malformed);
}

#[test]
fn a_put_that_ends_before_its_payload_is_malformed() {
    refused_on_bi(&put(b"hello"), true, ErrorCode::Malformed);
}

#[test]
fn unknown_even_records_are_skipped_wherever_they_stand() {
    let (mut world, peer, raw, control) = besieged();
    let skipped = [&[0x20, 0x05][..], b"skip!"].concat();
    world.raw_mut(raw).send_on(control, &skipped, false);
    let messages = [&skipped[..], &message(ECHO, b"one"), &skipped, &message(ECHO, b"two")].concat();
    world.raw_mut(raw).send(Dir::Uni, &messages, false);
    let fetch = Fetch {
        token: Token::of(b"unknown").into(),
        bytes_max: 0,
        lanes: None,
        ranges: Ranges::all(),
        describe: false,
    };
    let request = [&skipped[..], &record(&fetch)].concat();
    let id = world.raw_mut(raw).send(Dir::Bi, &request, true);
    assert_eq!(world.error_on(raw, id).code, ErrorCode::NotFound);
    // The gateway's CONTROL stream and its echoes.
    world.pass(Duration::from_millis(100));
    let echoed: Vec<_> = world.raw_mut(raw).received.values().flat_map(|bytes| records(bytes)).collect();
    let echoed: Vec<_> =
        echoed.iter().filter(|(kind, _)| *kind == RecordType::Message).map(|(_, body)| &body[2..]).collect();
    assert_eq!(echoed, [b"one", b"two"]);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
    assert_serves(&mut world, &peer);
}

#[test]
fn a_message_to_a_queue_without_an_application_is_stopped_as_not_found() {
    refused_on_uni(&message(NOBODY, b"hello?"), false, ErrorCode::NotFound);
}

#[test]
fn a_message_that_does_not_match_its_token_is_a_bad_proof() {
    let mut bytes = Vec::new();
    let header = MessageHeader { queue: ECHO, token: Some(Token::of(b"another")) };
    header.emit_record_front(5, &mut bytes);
    bytes.extend_from_slice(b"hello");
    refused_on_uni(&bytes, false, ErrorCode::BadProof);
}

#[test]
fn fetches_of_missing_payloads_and_ranges_are_answered_with_their_errors() {
    let (mut world, peer) = World::connected();
    let token = world.put(&peer, &payload(50_000));
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let mut beyond = Ranges::all();
    beyond.push_run(1000, 5).unwrap();
    for (token, ranges, bytes_max, code) in [
        (Token::of(b"unknown"), Ranges::all(), 0, ErrorCode::NotFound),
        (token, beyond, 0, ErrorCode::BadRange),
        (token, Ranges::all(), 100, ErrorCode::Limit),
    ] {
        let fetch = record(&Fetch { token: token.into(), bytes_max, lanes: None, ranges, describe: false });
        let id = world.raw_mut(raw).send(Dir::Bi, &fetch, true);
        assert_eq!(world.error_on(raw, id).code, code);
    }
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0, "asking is no offense");
    assert_serves(&mut world, &peer);
}

#[test]
fn bytes_after_a_complete_encoding_are_refused() {
    let (mut world, peer, raw, _) = besieged();
    let bytes = payload(40_000);
    let everything = [&put(&bytes)[..], &encoding(&bytes, &Ranges::all()).concat(), b"and more"].concat();
    let id = world.raw_mut(raw).send(Dir::Bi, &everything, false);
    assert!(matches!(world.stop_code(raw, id), 0x02 | 0x07));
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 1);
    world.store_at_rest();
    assert_serves(&mut world, &peer);
}

#[test]
fn a_second_settings_ends_the_connection() {
    let (mut world, peer, raw, control) = besieged();
    world.raw_mut(raw).send_on(control, &record(&Settings::default()), false);
    assert_eq!(world.close_code(raw), ErrorCode::Malformed.number());
    assert_serves(&mut world, &peer);
}

#[test]
fn closing_control_ends_the_connection() {
    let (mut world, peer, raw, control) = besieged();
    world.raw_mut(raw).send_on(control, b"", true);
    assert_eq!(world.close_code(raw), ErrorCode::Malformed.number());
    assert_serves(&mut world, &peer);
}

#[test]
fn a_request_on_control_ends_the_connection() {
    let (mut world, peer, raw, control) = besieged();
    world.raw_mut(raw).send_on(control, &put(b"x"), false);
    assert_eq!(world.close_code(raw), ErrorCode::Malformed.number());
    assert_serves(&mut world, &peer);
}

#[test]
fn goaway_from_a_client_is_taken_and_changes_nothing_for_its_requests() {
    let (mut world, _, raw, control) = besieged();
    world.raw_mut(raw).send_on(control, &record(&GoAway { retry_ms: 5 }), false);
    let fetch = Fetch {
        token: Token::of(b"unknown").into(),
        bytes_max: 0,
        lanes: None,
        ranges: Ranges::all(),
        describe: false,
    };
    let id = world.raw_mut(raw).send(Dir::Bi, &record(&fetch), true);
    assert_eq!(world.error_on(raw, id).code, ErrorCode::NotFound);
}

#[test]
fn the_third_stream_error_within_a_minute_closes_the_connection() {
    let (mut world, peer, raw, _) = besieged();
    for _ in 0..2 {
        let id = world.raw_mut(raw).send(Dir::Bi, &[0x21, 0], false);
        assert_eq!(world.error_on(raw, id).code, ErrorCode::UnknownRecord);
        assert!(world.raw_mut(raw).lost.is_none());
    }
    world.raw_mut(raw).send(Dir::Bi, &[0x21, 0], false);
    assert_eq!(world.close_code(raw), ErrorCode::UnknownRecord.number());
    assert_serves(&mut world, &peer);
}

#[test]
fn a_put_in_the_same_flight_as_the_fault_that_closes_the_connection_leaves_nothing() {
    let (mut world, peer, raw, _) = besieged();
    for _ in 0..3 {
        world.raw_mut(raw).send(Dir::Bi, &[0x21, 0], false);
    }
    for n in 0..5 {
        world.raw_mut(raw).send(Dir::Bi, &put(&payload(100_000 + n)), false);
    }
    assert_eq!(world.close_code(raw), ErrorCode::UnknownRecord.number());
    world.pass(Duration::from_secs(5));
    assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.store.usage_bytes(), 0);
    assert_serves(&mut world, &peer);
}

#[test]
fn a_peer_that_reads_no_echoes_stops_the_echo_only_while_it_is_connected() {
    let (mut world, peer, raw, _) = besieged();
    world.raw_mut(raw).deaf = true;
    let many: Vec<u8> = std::iter::repeat_n(message(ECHO, &payload(65_000)), 800).flatten().collect();
    world.raw_mut(raw).send(Dir::Uni, &many, false);
    world.pass(Duration::from_secs(1));
    // Backpressure is the application's: the echo waits for the peer that does not read, and no other application does.
    let bytes = payload(70_000);
    let token = world.put(&peer, &bytes);
    assert_eq!(joined(&world.get(&peer, token, Ranges::all())), bytes);
    // When the peer is gone, the echo no longer waits for it.
    world.raw.remove(raw.0);
    world.run(Duration::from_secs(60), "it is forgotten", |world| world.gateway.connections() == 1);
    assert_serves(&mut world, &peer);
}

/// The window of [`Crumbs`], bytes.
const WINDOW: u64 = WINDOW_BYTES_MIN;
/// Crumbs that arrive together.
const CRUMBS_LEN: u64 = 32;

/// A gateway with the smallest windows, its honest client, and a peer that sends crumbs: a few bytes in each packet, with one byte
/// missing before them.
struct Crumbs {
    world: World,
    peer: crate::support::caller::Peer,
    raw: Raw,
    streams: Vec<StreamId>,
    crumb: Vec<u8>,
    /// Crumbs sent so far.
    sent: u64,
    /// Bytes of all streams sent so far, with the missing ones.
    sent_bytes: u64,
}

impl Crumbs {
    /// The peer sends crumbs of this length on this many streams in turn.
    fn new(streams: usize, crumb_bytes: usize) -> Self {
        let window = WINDOW as u32;
        let gateway_quic = QuicConfig {
            stream_receive_window_bytes: window,
            receive_window_bytes: window,
            receive_window_max_bytes: window,
            ..QuicConfig::default()
        };
        let mut world = World::new(Setup { gateway_quic, ..Setup::default() });
        let peer = world.connect(0, gateway_v4());
        // Its own congestion control does not hold it back.
        let quic = QuicConfig {
            initial_congestion_window_bytes: 4 << 20,
            mtu_discovery: false,
            ..QuicConfig::default()
        };
        let raw = world.raw_with(gateway_v4(), quic);
        world.say_settings(raw);
        let mut front = Vec::new();
        MessageHeader { queue: ECHO, token: None }.emit_record_front(65_536, &mut front);
        // The gateway allows more streams as they are opened.
        let mut open = |_| {
            world.pass(Duration::from_millis(1));
            world.raw_mut(raw).send(Dir::Uni, &front, false)
        };
        let streams: Vec<_> = (0..streams).map(&mut open).collect();
        world.pass(Duration::from_millis(10));
        world.raw_mut(raw).withdrawn = true;
        let sent_bytes = (record(&Settings::default()).len() + streams.len() * front.len()) as u64;
        Self { world, peer, raw, streams, crumb: vec![b'c'; crumb_bytes], sent: 0, sent_bytes }
    }

    /// Sends some crumbs. Returns the memory that the gateway counts for its connections, bytes.
    #[track_caller]
    fn send(&mut self) -> u64 {
        let Self { world, raw, streams, crumb, sent, sent_bytes, .. } = self;
        for id in streams.iter().cycle().take(CRUMBS_LEN as usize) {
            let now = world.now;
            world.raw_mut(*raw).crumb(now, *id, b"?", true);
            world.raw_mut(*raw).crumb(now, *id, crumb, false);
            *sent += 1;
            *sent_bytes += 1 + crumb.len() as u64;
        }
        self.held()
    }

    fn held(&mut self) -> u64 {
        self.world.pass(Duration::from_millis(1));
        let connections = self.world.gateway.inspect();
        self.world.pass(Duration::from_micros(1));
        connections().iter().map(|connection| connection.held_bytes).sum()
    }

    fn is_ended(&self) -> bool {
        self.world.gateway.count(Counter::ProtocolErrors) > 0
    }
}

/// Crumbs are held at their true cost, and end their connection at twice its window. Others are served meanwhile.
#[track_caller]
fn crumbs_end_their_connection(streams: usize, crumb_bytes: usize) {
    let mut crumbs = Crumbs::new(streams, crumb_bytes);
    // In memory a crumb has at least its bytes, and a place with an offset, an address and a length.
    let cost_min = crumb_bytes as u64 + 24;
    let (mut held_max, mut is_served) = (0, false);
    loop {
        let held = crumbs.send();
        assert!(held <= 2 * WINDOW, "{held} bytes are held");
        if crumbs.is_ended() {
            break;
        }
        assert!(held >= crumbs.sent * cost_min, "{} crumbs cost more than {held} bytes", crumbs.sent);
        held_max = held_max.max(held);
        if held > WINDOW && !is_served {
            is_served = true;
            assert_serves(&mut crumbs.world, &crumbs.peer);
        }
    }
    assert!(is_served && held_max > WINDOW, "{held_max} bytes were held at the most");
    let Crumbs { world, peer, raw, .. } = &mut crumbs;
    world.raw_mut(*raw).withdrawn = false;
    assert_eq!(world.close_code(*raw), ErrorCode::Limit.number());
    assert_serves(world, peer);
    world.run(Duration::from_secs(60), "it is forgotten", |world| world.gateway.connections() == 1);
    assert_eq!(crumbs.held(), 0);
}

#[test]
fn single_bytes_between_gaps_end_their_connection() {
    crumbs_end_their_connection(1, 1);
}

#[test]
fn single_bytes_between_gaps_on_many_streams_end_their_connection() {
    crumbs_end_their_connection(16, 1);
}

#[test]
fn crumbs_between_gaps_earn_no_credit() {
    for streams in [1, 4] {
        let mut crumbs = Crumbs::new(streams, 90);
        while crumbs.send() < WINDOW * 3 / 2 {
            assert!(!crumbs.is_ended());
        }
        let Crumbs { mut world, raw, sent_bytes, .. } = crumbs;
        let now = world.now;
        let raw = world.raw_mut(raw);
        raw.listen(now);
        let id = raw.quic.streams().open(Dir::Uni).unwrap();
        let allowed =
            sent_bytes + raw.quic.send_stream(id).write(&[0; 2 * WINDOW as usize]).unwrap_or(0) as u64;
        // The window shrinks after a reading, and by no less than a thirty-second: the crumbs before that earn their credit.
        let earned_max = WINDOW / 32 + CRUMBS_LEN * 90;
        assert!((WINDOW..=WINDOW + earned_max).contains(&allowed), "it may send {allowed} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_on_streams_never_stop_the_gateway(
        streams in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), 0usize..4, proptest::collection::vec(any::<u8>(), 0..400)),
            1..12,
        ),
    ) {
        let (mut world, peer, raw, _) = besieged();
        for (bi, finish, start, noise) in streams {
            if world.raw_mut(raw).lost.is_some() {
                break;
            }
            // Some streams begin properly and go wrong later.
            let front = match (start, bi) {
                (0, _) => Vec::new(),
                (1, true) => put(&payload(30_000)),
                (1, false) => message(ECHO, b"fine"),
                (_, true) => vec![0x0d],
                (_, false) => vec![0x07],
            };
            let dir = if bi { Dir::Bi } else { Dir::Uni };
            world.raw_mut(raw).send(dir, &[front, noise].concat(), finish);
            world.pass(Duration::from_millis(3));
        }
        assert_serves(&mut world, &peer);
        // Everything that the peer left open ends with its connection.
        world.raw.remove(raw.0);
        world.run(Duration::from_secs(60), "it is forgotten", |world| world.gateway.connections() == 1);
        world.pass(Duration::from_millis(10));
        assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new());
    }
}

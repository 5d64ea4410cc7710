//! Halves of streams that are longer than a part, and go on in other streams (protocol §4).

use crate::support::caller::Peer;
use crate::support::raw::{Raw, records};
use crate::support::{DISCARD, HELD, SEED, Setup, World, encoding, gateway_v4, joined, payload};
use quinn_proto::{Dir, Side, StreamId};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::STREAM_PART_BYTES;
use stoq::record::{
    Continuation, Descriptor, ErrorCode, ErrorRecord, Fetch, MessageHeader, Put, Record, RecordType, Settings,
};
use stoq::token::{Ranges, Token};

const PART: usize = STREAM_PART_BYTES as usize;

/// A client and a gateway whose link loses packets and lets others overtake.
fn over_a_bad_link() -> (World, Peer) {
    let mut world = World::new(Setup { step: Duration::from_micros(10), ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    world.link.reconfigure(|link| {
        link.delay = Duration::from_millis(5);
        link.loss = 0.002;
        link.reordering = 0.01;
        link.reordering_delay = Duration::from_millis(8);
    });
    (world, peer)
}

#[test]
fn payloads_and_messages_longer_than_a_part_arrive_whole_and_in_order() {
    let (mut world, peer) = over_a_bad_link();
    let bytes = payload(4 * PART + 12_345);
    let token = world.put(&peer, &bytes);
    assert!(joined(&world.get(&peer, token, Ranges::all())) == bytes);
    for message in bytes.chunks(60_000) {
        world.caller(&peer).message(&peer, HELD, message);
    }
    let count = bytes.len().div_ceil(60_000);
    world.run(Duration::from_secs(60), "the messages", |world| world.held().messages.len() == count);
    let got: Vec<u8> = world.held().messages.iter().flat_map(|(_, _, message)| message.to_vec()).collect();
    assert!(got == bytes, "messages in another order, or others");
    world.link.reconfigure(|link| link.loss = 0.0);
    world.assert_free();
}

#[test]
fn messages_that_fill_parts_to_the_byte_arrive() {
    let (mut world, peer) = over_a_bad_link();
    // A record of 64 KiB in all: 32 of them are a part.
    let mut header = Vec::new();
    let mut len = 65_536;
    MessageHeader { queue: HELD, token: None }.emit_record_front(len, &mut header);
    len -= header.len();
    let message = vec![7; len];
    for _ in 0..65 {
        world.caller(&peer).message(&peer, HELD, &message);
    }
    world.run(Duration::from_secs(60), "the messages", |world| world.held().messages.len() == 65);
}

#[test]
fn a_request_that_is_given_up_leaves_none_of_its_streams() {
    let (mut world, peer) = over_a_bad_link();
    let bytes = payload(8 * PART);
    let token = world.put(&peer, &bytes);
    let fetch = world.caller(&peer).fetch(&peer, token, Ranges::all());
    world.run(Duration::from_secs(20), "some of it", |world| {
        world.caller(&peer).request(fetch).bytes() > 3 * PART
    });
    world.caller(&peer).cancel(fetch);
    let other = payload(8 * PART + 1);
    let put = world.caller(&peer).put(&peer, SEED, &other);
    let before = world.gateway.count(Counter::VerifiedBytes);
    world.run(Duration::from_secs(20), "some of that", |world| {
        world.gateway.count(Counter::VerifiedBytes) > before + 3 * STREAM_PART_BYTES
    });
    world.caller(&peer).cancel(put);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
    // Streams that were left open would use up what the peer may open.
    for _ in 0..4 {
        assert!(joined(&world.get(&peer, token, Ranges::all())) == bytes);
    }
    assert_eq!(world.caller(&peer).closed(&peer), None);
    world.link.reconfigure(|link| link.loss = 0.0);
    world.assert_free();
}

#[test]
fn a_holder_hears_of_a_bad_proof_in_a_part_that_has_arrived_whole() {
    let (mut world, raw) = with_settings(Some(1));
    let bytes = payload(3 * PART);
    let (request, mut encoding) = put(&bytes);
    let id = accepted(&mut world, raw, &request);
    encoding[PART / 2] ^= 1;
    let (first, rest) = encoding.split_at(PART - request.len());
    world.raw_mut(raw).send_on(id, first, true);
    world.run(Duration::from_secs(5), "the fault", |world| world.gateway.count(Counter::BadProofs) == 1);
    world.pass(Duration::from_millis(100));
    let next = [&record(&Continuation { stream: id.into() })[..], rest].concat();
    let next = world.raw_mut(raw).send(Dir::Uni, &next, false);
    assert_eq!(world.stop_code(raw, next), ErrorCode::BadProof.number());
}

fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}

fn fetch_of(token: Token) -> Fetch {
    Fetch { token: token.into(), bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false }
}

/// A gateway, and a peer of the test's own that has sent these SETTINGS.
fn with_settings(continued: Option<u64>) -> (World, Raw) {
    let (mut world, _) = World::connected();
    let raw = world.raw(gateway_v4());
    let settings = Settings { continued, ..Settings::default() };
    world.raw_mut(raw).send(Dir::Uni, &record(&settings), false);
    world.pass(Duration::from_millis(10));
    (world, raw)
}

/// A PUT, and the encoding that follows its OK.
fn put(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let descriptor = Descriptor::plain(Token::of(bytes), bytes.len() as u64).unwrap();
    let request = record(&Put { queue: SEED, lease_s: 60, descriptor, lanes: None });
    (request, encoding(bytes, &Ranges::all()).concat())
}

/// Sends a PUT. Gives its stream once it is accepted.
fn accepted(world: &mut World, raw: Raw, request: &[u8]) -> StreamId {
    let id = world.raw_mut(raw).send(Dir::Bi, request, false);
    world.run(Duration::from_secs(5), "OK", |world| {
        world.raw_mut(raw).received.get(&id).is_some_and(|bytes| !bytes.is_empty())
    });
    id
}

#[track_caller]
fn answered_well(world: &mut World, raw: Raw, id: StreamId) {
    world.pass(Duration::from_secs(1));
    // The commit takes real time, and its answer then takes virtual time.
    world.wait("the payload is kept", |world| !world.kept().is_empty() && world.temporary().is_empty());
    world.wait("an answer", |world| {
        world.pass(Duration::from_millis(1));
        world.raw_mut(raw).finished.contains(&id)
    });
    let records = records(&world.raw_mut(raw).received[&id]);
    let (kind, body) = records.last().unwrap();
    assert_eq!(*kind, RecordType::Done, "{:?}", ErrorRecord::parse(body));
}

#[test]
fn a_peer_without_the_setting_sends_and_gets_long_halves_on_one_stream() {
    let (mut world, raw) = with_settings(None);
    let bytes = payload(2 * PART);
    let (request, encoding) = put(&bytes);
    let id = accepted(&mut world, raw, &request);
    world.raw_mut(raw).send_on(id, &encoding, true);
    answered_well(&mut world, raw, id);
    let fetch = record(&fetch_of(Token::of(&bytes)));
    let id = world.raw_mut(raw).send(Dir::Bi, &fetch, true);
    world.run(Duration::from_secs(20), "an answer", |world| world.raw_mut(raw).finished.contains(&id));
    assert!(world.raw_mut(raw).received[&id].len() > 2 * PART);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

#[test]
fn a_half_that_ends_at_the_bound_of_a_part_is_over_where_the_peer_knows_no_parts() {
    let (mut world, raw) = with_settings(None);
    let mut messages = Vec::new();
    let mut header = Vec::new();
    MessageHeader { queue: DISCARD, token: None }.emit_record_front(65_536, &mut header);
    for _ in 0..32 {
        let at = messages.len();
        MessageHeader { queue: DISCARD, token: None }.emit_record_front(65_536 - header.len(), &mut messages);
        messages.resize(at + 65_536, 0);
    }
    assert_eq!(messages.len(), PART);
    world.raw_mut(raw).send(Dir::Uni, &messages, true);
    world.run(Duration::from_secs(5), "the messages", |world| world.gateway.count(Counter::RecordsIn) >= 33);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

#[test]
fn parts_that_arrive_in_reverse_are_read_in_order() {
    let (mut world, raw) = with_settings(Some(1));
    let bytes = payload(2 * PART + 1);
    let (request, encoding) = put(&bytes);
    let first = accepted(&mut world, raw, &request);
    let [second, third] = [1, 2].map(|index| StreamId::new(Side::Client, Dir::Uni, index));
    let behind = |previous: StreamId, bytes: &[u8]| {
        [&record(&Continuation { stream: previous.into() })[..], bytes].concat()
    };
    let (begun, rest) = encoding.split_at(PART - request.len());
    let parts: Vec<_> = rest.chunks(PART).collect();
    assert_eq!(parts.len(), 2);
    for id in [second, third] {
        assert_eq!(world.raw_mut(raw).quic.streams().open(Dir::Uni), Some(id));
    }
    for (id, previous, part) in [(third, second, parts[1]), (second, first, parts[0])] {
        world.raw_mut(raw).send_on(id, &behind(previous, part), true);
        world.pass(Duration::from_millis(100));
    }
    world.raw_mut(raw).send_on(first, begun, true);
    answered_well(&mut world, raw, first);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

#[test]
fn a_verify_thread_that_answers_between_two_parts_ends_nothing() {
    let (mut world, raw) = with_settings(Some(1));
    world.gateway.verify(1, Duration::from_millis(5));
    let bytes = payload(PART + 1);
    let (request, encoding) = put(&bytes);
    let first = accepted(&mut world, raw, &request);
    let (begun, rest) = encoding.split_at(PART - request.len());
    world.raw_mut(raw).send_on(first, begun, true);
    // The thread has answered for all of the first stream before the second begins.
    world.pass(Duration::from_millis(100));
    assert!(world.gateway.count(Counter::GroupChecksBytes) > PART as u64 / 2);
    let rest = [&record(&Continuation { stream: first.into() })[..], rest].concat();
    world.raw_mut(raw).send(Dir::Uni, &rest, true);
    answered_well(&mut world, raw, first);
    assert_eq!(world.gateway.count(Counter::ProtocolErrors), 0);
}

/// The gateway stops a stream that begins with CONTINUATION of this one.
#[track_caller]
fn refused(previous: impl Fn(&mut World, Raw) -> StreamId, code: ErrorCode) {
    let (mut world, raw) = with_settings(Some(1));
    let previous = previous(&mut world, raw);
    let bytes = record(&Continuation { stream: previous.into() });
    let id = world.raw_mut(raw).send(Dir::Uni, &bytes, false);
    assert_eq!(world.stop_code(raw, id), code.number());
    assert!(world.raw_mut(raw).lost.is_none());
}

#[test]
fn a_continuation_of_what_cannot_be_continued_is_stopped() {
    // Itself, one that was not opened before it, and one of the gateway's.
    refused(|_, _| StreamId::new(Side::Client, Dir::Uni, 1), ErrorCode::Malformed);
    refused(|_, _| StreamId::new(Side::Client, Dir::Uni, 9), ErrorCode::Malformed);
    refused(|_, _| StreamId::new(Side::Server, Dir::Uni, 0), ErrorCode::Malformed);
    // One that is over.
    let over = |world: &mut World, raw| {
        let request = record(&fetch_of(Token::of(b"nowhere")));
        let id = world.raw_mut(raw).send(Dir::Bi, &request, true);
        world.error_on(raw, id);
        id
    };
    refused(over, ErrorCode::NotFound);
}

#[test]
fn two_continuations_of_one_stream_are_one_too_many() {
    let (mut world, raw) = with_settings(Some(1));
    let previous = StreamId::new(Side::Client, Dir::Bi, 3);
    let bytes = record(&Continuation { stream: previous.into() });
    world.raw_mut(raw).send(Dir::Uni, &bytes, false);
    world.pass(Duration::from_millis(50));
    let second = world.raw_mut(raw).send(Dir::Uni, &bytes, false);
    assert_eq!(world.stop_code(raw, second), ErrorCode::Malformed.number());
}

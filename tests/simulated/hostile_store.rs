//! Peers that would take a store's room, entries and slots without giving it payloads.

use crate::support::identities::gateway_identity;
use crate::support::raw::{Raw, records};
use crate::support::{SEED, Setup, World, encoding, gateway_v4, joined, payload};
use quinn_proto::{Dir, StreamId};
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{ANSWERS_UNTAKEN_MS_MAX, PUT_LOOK_MS, PUT_STALL_MS, SURVEY_INTERVAL_MS};
use stoq::quic::transport::QuicConfig;
use stoq::record::{Descriptor, ErrorCode, Fetch, Put, Record, RecordType};
use stoq::seed::{Lease, StoreBound, StoreConfig};
use stoq::token::{Ranges, Token, VerifiedDecoder};

/// Sends a PUT record and none of its bytes.
fn idle_put(world: &mut World, raw: Raw, name: &[u8], length: u64) -> StreamId {
    let descriptor = Descriptor::plain(Token::of(name), length).unwrap();
    let mut record = Vec::new();
    Put { queue: SEED, lease_s: 60, descriptor, lanes: None }.emit_record(&mut record);
    let id = world.raw_mut(raw).send(Dir::Bi, &record, false);
    world.run(Duration::from_secs(2), "OK", |world| world.raw_mut(raw).received.contains_key(&id));
    let (kind, _) = records(&world.raw_mut(raw).received[&id])[0];
    assert_eq!(kind, RecordType::Ok, "it fits, and is accepted");
    id
}

#[test]
fn an_idle_put_takes_no_disk_and_no_cached_payload_and_is_refused_when_it_goes_no_further() {
    let capacity_bytes = Some(100 << 20);
    let mut world = World::new(Setup {
        store: StoreConfig { capacity_bytes, ..StoreConfig::default() },
        ..Setup::default()
    });
    let peer = world.connect(0, gateway_v4());
    let cached = payload(10 << 20);
    let token = Token::of(&cached);
    let mut writer = world.store.begin(token, cached.len() as u64, Lease::cached(None), 0).unwrap();
    let mut decoder = VerifiedDecoder::new(token, cached.len() as u64, Ranges::all()).unwrap();
    for bytes in encoding(&cached, &Ranges::all()) {
        decoder.push(&bytes).unwrap();
    }
    while let Some(piece) = decoder.poll() {
        writer.write(&piece).unwrap();
    }
    writer.commit().unwrap();
    let usage_bytes = world.store.usage_bytes();

    let raw = world.raw_of(gateway_v4(), &QuicConfig::default(), gateway_identity(3));
    world.say_settings(raw);
    let id = idle_put(&mut world, raw, b"never sent", 99 << 20);
    world.pass(Duration::from_millis(PUT_STALL_MS - PUT_LOOK_MS));
    assert_eq!(world.store.usage_bytes(), usage_bytes, "no room is taken");
    assert_eq!(world.temporary(), Vec::<std::path::PathBuf>::new(), "and no file made");
    assert!(!world.raw_mut(raw).finished.contains(&id), "its time is not over");
    // Others put into the same room meanwhile.
    let honest = payload(60 << 20);
    let kept = world.put(&peer, &honest);
    world.pass(Duration::from_millis(3 * PUT_LOOK_MS));
    let error = world.error_on(raw, id);
    assert_eq!(error.code, ErrorCode::Busy);
    assert!(error.reason().contains("no byte of it was proven"), "{}", error.reason());
    assert_eq!(world.store.refused(StoreBound::Progress), 1);
    assert!(world.store.lease(token).is_some(), "the cached payload is there");
    assert!(world.raw_mut(raw).lost.is_none(), "a refusal is no offense");
    assert_eq!(world.store.census().unfinished, 0);
    assert!(joined(&world.get(&peer, kept, Ranges::all())) == honest);
}

#[test]
fn one_node_cannot_begin_more_than_its_share_of_the_room() {
    let mut world = World::new(Setup {
        store: StoreConfig { capacity_bytes: Some(100 << 20), ..StoreConfig::default() },
        ..Setup::default()
    });
    let peer = world.connect(0, gateway_v4());
    let raw = world.raw_of(gateway_v4(), &QuicConfig::default(), gateway_identity(3));
    world.say_settings(raw);
    for number in 0..5_u8 {
        idle_put(&mut world, raw, &[number], 9 << 20);
    }
    let descriptor = Descriptor::plain(Token::of(b"one more"), 9 << 20).unwrap();
    let mut record = Vec::new();
    Put { queue: SEED, lease_s: 60, descriptor, lanes: None }.emit_record(&mut record);
    let id = world.raw_mut(raw).send(Dir::Bi, &record, false);
    let error = world.error_on(raw, id);
    assert_eq!(error.code, ErrorCode::Busy);
    assert!(error.reason().contains("finish other puts first"), "{}", error.reason());
    assert_eq!(world.store.refused(StoreBound::Unfinished), 1);
    world.put(&peer, &payload(1 << 20));
}

#[test]
fn fetches_that_are_not_read_hold_few_files_and_their_peer_is_sent_away() {
    const FETCHES: usize = 240;
    const PAYLOADS: usize = 12;
    /// The store's files: an eighth is for readers.
    const FILES: u64 = 64;
    /// Its outboard is read from its file.
    const BYTES: usize = 1_300_000;
    const WINDOW: u32 = 64 << 10;
    let store = StoreConfig { files_max: Some(FILES), ..StoreConfig::default() };
    let mut world = World::new(Setup { store, ..Setup::default() });
    let peer = world.connect(0, gateway_v4());
    let payloads: Vec<_> = (0..PAYLOADS).map(|number| payload(BYTES + number)).collect();
    let tokens: Vec<_> = payloads.iter().map(|bytes| world.put(&peer, bytes)).collect();
    // Without an end: the honest peer gets them for longer than their leases.
    tokens.iter().for_each(|token| assert!(world.store.extend(*token, Lease::default()).unwrap()));

    let quic = QuicConfig {
        receive_window_bytes: WINDOW,
        receive_window_max_bytes: WINDOW,
        stream_receive_window_bytes: WINDOW,
        ..QuicConfig::default()
    };
    let raw = world.raw_of(gateway_v4(), &quic, gateway_identity(3));
    world.say_settings(raw);
    world.raw_mut(raw).deaf = true;
    let begun = world.now;
    for number in 0..FETCHES {
        let token = tokens[number % PAYLOADS].into();
        let fetch = Fetch { token, bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false };
        let mut record = Vec::new();
        fetch.emit_record(&mut record);
        world.raw_mut(raw).send(Dir::Bi, &record, true);
        // The gateway allows more streams as they are opened.
        if number % 8 == 7 {
            world.pass(Duration::from_millis(1));
        }
    }
    let stall = Duration::from_millis(ANSWERS_UNTAKEN_MS_MAX);
    while world.raw_mut(raw).lost.is_none() {
        // An honest peer gets and puts meanwhile.
        for (bytes, token) in payloads.iter().zip(&tokens).take(3) {
            assert!(joined(&world.get(&peer, *token, Ranges::all())) == *bytes);
            assert!(world.open_payloads() as u64 <= FILES / 8, "{} files", world.open_payloads());
        }
        world.put(&peer, &payload(50_000));
        world.pass(Duration::from_secs(5));
        let passed = world.now.duration_since(begun);
        assert!(passed < stall + Duration::from_secs(10), "it is still there after {passed:?}");
    }
    assert!(world.now.duration_since(begun) >= stall - Duration::from_millis(SURVEY_INTERVAL_MS));
    assert_eq!(world.close_code(raw), ErrorCode::Limit.number());
    assert_eq!(world.gateway.count(Counter::AnswersUntaken), 1);
    assert!(world.store.files_reopened() > 0);
    world.pass(Duration::from_millis(10));
    world.wait_for_closed_payloads();
    assert_eq!(world.store.files_open(), 0);
    assert_eq!(world.caller(&peer).closed(&peer), None, "the honest peer stays");
}

#[test]
fn a_peer_that_reads_slowly_keeps_its_connection() {
    const BYTES: usize = 4 << 20;
    let mut world = World::new(Setup::default());
    let peer = world.connect(0, gateway_v4());
    let bytes = payload(BYTES);
    let token = world.put(&peer, &bytes);
    let window = 64 << 10;
    let quic = QuicConfig {
        receive_window_bytes: window,
        receive_window_max_bytes: window,
        stream_receive_window_bytes: window,
        ..QuicConfig::default()
    };
    let raw = world.raw_of(gateway_v4(), &quic, gateway_identity(3));
    world.say_settings(raw);
    let fetch =
        Fetch { token: token.into(), bytes_max: 0, lanes: None, ranges: Ranges::all(), describe: false };
    let mut record = Vec::new();
    fetch.emit_record(&mut record);
    let id = world.raw_mut(raw).send(Dir::Bi, &record, true);
    // It reads for a moment, and then nothing for most of the time that it has.
    let mut read = 0;
    for _ in 0..4 {
        let more =
            |world: &mut World| world.raw_mut(raw).received.get(&id).is_some_and(|bytes| bytes.len() > read);
        world.run(Duration::from_secs(1), "more of the answer", more);
        world.raw_mut(raw).deaf = true;
        world.pass(Duration::from_millis(ANSWERS_UNTAKEN_MS_MAX - 5 * SURVEY_INTERVAL_MS));
        read = world.raw_mut(raw).received[&id].len();
        assert!(world.raw_mut(raw).lost.is_none() && read < BYTES);
        let now = world.now;
        world.raw_mut(raw).hear(now);
    }
    world.run(Duration::from_secs(5), "the answer", |world| world.raw_mut(raw).finished.contains(&id));
    assert_eq!(world.gateway.count(Counter::AnswersUntaken), 0);
}

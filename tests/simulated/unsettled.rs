//! Peers whose SETTINGS, or the first records of whose streams, come late or never.

use crate::support::{World, gateway_v4, payload};
use quinn_proto::Dir;
use std::time::Duration;
use stoq::counters::Counter;
use stoq::limits::{ACCEPTED_SETTINGS_MS_MAX, REQUEST_BEGUN_MS_MAX, STREAM_PART_BYTES, SURVEY_INTERVAL_MS};
use stoq::record::{ErrorCode, Fetch, GoAway, Record};
use stoq::token::{Ranges, Token};

fn record(record: &impl Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.emit_record(&mut out);
    out
}

/// A request for all of a payload.
fn whole(token: Token) -> Vec<u8> {
    let ranges = Ranges::all();
    record(&Fetch { token: token.into(), bytes_max: 0, lanes: None, ranges, describe: false })
}

#[test]
fn a_peer_without_settings_is_served_for_its_time_and_then_closed() {
    let (mut world, peer) = World::connected();
    let token = world.put(&peer, &payload(8 * STREAM_PART_BYTES as usize));
    let fetch = whole(token);
    let [silent, wrong, late] = [(); 3].map(|()| world.raw(gateway_v4()));
    // A request may overtake CONTROL. Of its answer, what is longer than a part waits for SETTINGS.
    let [answer, answer_late] = [silent, late].map(|raw| world.raw_mut(raw).send(Dir::Bi, &fetch, true));
    // A first record that is none of CONTROL's.
    let other = world.raw_mut(wrong).send(Dir::Uni, &record(&GoAway { retry_ms: 5 }), false);
    assert_eq!(world.stop_code(wrong, other), ErrorCode::Malformed.number());
    world.pass(Duration::from_millis(ACCEPTED_SETTINGS_MS_MAX - 2_000));
    for (raw, id) in [(silent, answer), (late, answer_late)] {
        assert_eq!(world.raw_mut(raw).received[&id].len() as u64, STREAM_PART_BYTES);
    }
    assert_eq!(world.gateway.count(Counter::SettingsTimedOut), 0);
    assert!(world.open_payloads() > 0, "the answers wait");
    world.say_settings(late);
    for raw in [silent, wrong] {
        assert_eq!(world.close_code(raw), ErrorCode::Malformed.number());
    }
    assert_eq!(world.gateway.count(Counter::SettingsTimedOut), 2);
    // It allows no continuation, so that the rest follows on the same stream.
    world.run(Duration::from_secs(10), "the late one has its answer", |world| {
        world.raw_mut(late).finished.contains(&answer_late)
    });
    world.pass(Duration::from_millis(ACCEPTED_SETTINGS_MS_MAX));
    assert!(world.raw_mut(late).lost.is_none());
    assert_eq!(world.gateway.count(Counter::SettingsTimedOut), 2);
    world.wait_for_closed_payloads();
    world.echo(&peer, b"an honest message");
}

#[test]
fn a_record_that_does_not_become_whole_has_its_time_and_no_more() {
    let (mut world, peer) = World::connected();
    let token = world.put(&peer, &payload(100));
    let fetch = whole(token);
    let raw = world.raw(gateway_v4());
    world.say_settings(raw);
    let [silent, drips, late] = [(); 3].map(|()| world.raw_mut(raw).send(Dir::Bi, &fetch[..1], false));
    let message = world.raw_mut(raw).send(Dir::Uni, &[0x40], false);
    let mut next = 1;
    for _ in 0..REQUEST_BEGUN_MS_MAX / SURVEY_INTERVAL_MS - 2 {
        world.raw_mut(raw).send_on(drips, &fetch[next..=next], false);
        next += 1;
        world.pass(Duration::from_millis(SURVEY_INTERVAL_MS));
    }
    assert!(next < fetch.len() - 1, "it is not whole yet");
    assert_eq!(world.gateway.count(Counter::RecordsTimedOut), 0);
    world.raw_mut(raw).send_on(late, &fetch[1..], true);
    world.run(Duration::from_secs(1), "the late one has its answer", |world| {
        world.raw_mut(raw).finished.contains(&late)
    });
    world.pass(Duration::from_millis(4 * SURVEY_INTERVAL_MS));
    for id in [silent, drips] {
        let refused = world.error_on(raw, id);
        assert_eq!(refused.code, ErrorCode::Busy);
        assert!(
            refused.reason().contains("its first record was not whole after 30 s"),
            "{}",
            refused.reason()
        );
    }
    assert_eq!(world.stop_code(raw, message), ErrorCode::Busy.number());
    assert_eq!(world.gateway.count(Counter::RecordsTimedOut), 3);
    assert!(world.raw_mut(raw).lost.is_none(), "the connection goes on");
}

//! Leases under clocks that jump.

use super::{files, open, payload, put_as};
use std::fs;
use stoq::limits::{CLOCK_EARLIEST_S, CLOCK_STEADY_S};
use stoq::seed::{ClockReading, Lease, Moment, Store};
use stoq::token::Token;
use tempfile::TempDir;

const DAY: u64 = 86_400;
/// The true time when the machine booted.
const BOOT: u64 = CLOCK_EARLIEST_S + 300 * DAY;

/// The reading of a right clock.
fn right(up_s: u64) -> ClockReading {
    ClockReading { unix_s: BOOT + up_s, up_s }
}

/// The reading of a clock that was never set.
fn dead(up_s: u64) -> ClockReading {
    ClockReading { unix_s: up_s, up_s }
}

/// Puts a payload with a lease of this many hours from now.
fn put_for(hours: u64, store: &Store, len: usize, at: Moment) -> Token {
    let data = payload(len);
    let lease = Lease::until(Some(at.now_s + hours * 3600), None).in_epoch(at.epoch);
    put_as(store, &data, lease, at.over_s).unwrap();
    Token::of(&data)
}

fn put_for_an_hour(store: &Store, len: usize, at: Moment) -> Token {
    put_for(1, store, len, at)
}

/// The store as it is opened in another boot of the machine.
fn in_another_boot(dir: &TempDir) -> Store {
    let path = dir.path().join("clock");
    let text = fs::read_to_string(&path).unwrap();
    let mut saved: serde_json::Value = serde_json::from_str(&text).unwrap();
    saved["boot"] = "another".into();
    fs::write(&path, saved.to_string()).unwrap();
    open(dir)
}

/// Ends leases; returns the number of payloads removed.
fn expire(store: &Store, at: ClockReading) -> usize {
    store.expire(store.moment(at).over_s).len()
}

#[test]
fn a_lease_of_a_dead_clock_keeps_its_span_when_the_clock_is_set_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let token = put_for_an_hour(&store, 100, store.moment(dead(10)));
    // An hour has passed by the machine's uptime, but no lease ends while the clock is in doubt.
    assert_eq!(expire(&store, dead(5000)), 0);
    // The clock is set right, and runs steadily.
    let late = put_for(2, &store, 200, store.moment(dead(5_900)));
    assert_eq!(expire(&store, right(6_000)), 0);
    assert_eq!(expire(&store, right(6_000 + CLOCK_STEADY_S - 1)), 0);
    assert!(!store.clock_state().believed);
    let believed = right(6_000 + CLOCK_STEADY_S);
    assert_eq!(expire(&store, believed), 1, "the first lease, of an hour, is over");
    assert!(store.lease(token).is_none());
    let ends_s = right(5_900 + 7200).unix_s;
    assert_eq!((store.lease(late).unwrap().expires_s, store.ended()), (Some(ends_s), 1));
    // The next process has the same ends, in this boot and in another.
    drop(store);
    assert_eq!(open(&dir).lease(late).unwrap().expires_s, Some(ends_s));
    let store = in_another_boot(&dir);
    assert_eq!(store.lease(late).unwrap().expires_s, Some(ends_s));
    // The shift is not added again when the lease is written anew.
    assert!(store.extend(late, Lease::until(Some(ends_s + 1), None)).unwrap());
    drop(store);
    assert_eq!(open(&dir).lease(late).unwrap().expires_s, Some(ends_s + 1));
}

#[test]
fn a_restart_after_the_clock_was_set_right_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let token = put_for(2, &store, 100, store.moment(dead(10)));
    drop(store);
    // The machine boots again before the clock is set.
    let store = in_another_boot(&dir);
    for at in [dead(20), right(30), right(30 + CLOCK_STEADY_S)] {
        assert_eq!(expire(&store, at), 0, "{at:?}");
    }
    assert!(store.clock_state().believed);
    // Two hours after the second boot: the store does not know the time between the boots.
    let ends_s = right(20 + 7200).unix_s;
    assert_eq!(store.lease(token).unwrap().expires_s, Some(ends_s));
}

#[test]
fn an_operator_ends_the_doubt_at_once_and_leases_count_from_their_grant() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let token = put_for_an_hour(&store, 100, store.moment(dead(10)));
    Store::vouch_for_clock(dir.path(), right(20).unix_s + 3 * DAY).unwrap();
    assert_eq!(expire(&store, right(20)), 0);
    assert!(!store.clock_state().believed, "vouched for another time");
    Store::vouch_for_clock(dir.path(), right(25).unix_s).unwrap();
    assert_eq!(expire(&store, right(30)), 0);
    assert!(store.clock_state().believed && !dir.path().join("trust-clock").exists());
    assert_eq!(store.lease(token).unwrap().expires_s, Some(right(10 + 3600).unix_s));
    // The lease counts from its grant, before the clock was set.
    assert_eq!(expire(&store, right(3609)), 0);
    assert_eq!(expire(&store, right(3610)), 1);
    let error = Store::vouch_for_clock(&dir.path().join("nothing"), 7).unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn an_operators_word_for_a_clock_that_is_believed_is_taken_and_does_not_stay_for_a_later_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let word = dir.path().join("trust-clock");
    store.moment(right(10));
    assert!(store.clock_state().believed);
    Store::vouch_for_clock(dir.path(), right(10).unix_s).unwrap();
    store.moment(right(11));
    assert!(store.clock_state().believed && !word.exists());
    store.moment(dead(12));
    assert!(!store.clock_state().believed, "no word is left for this clock");
}

#[test]
fn a_lease_that_is_written_after_the_clock_was_set_is_as_long_as_it_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let at = store.moment(dead(10));
    let lease = Lease::until(Some(at.now_s + 3600), None).in_epoch(at.epoch);
    Store::vouch_for_clock(dir.path(), right(20).unix_s).unwrap();
    store.moment(right(20));
    let data = payload(100);
    put_as(&store, &data, lease, 0).unwrap();
    let ends_s = Some(right(10 + 3600).unix_s);
    assert_eq!(store.lease(Token::of(&data)).unwrap().expires_s, ends_s);
    assert!(store.extend(Token::of(&data), lease).unwrap());
    assert_eq!(store.lease(Token::of(&data)).unwrap().expires_s, ends_s, "and no longer");
}

#[test]
fn no_lease_ends_after_a_jump_forward_until_it_is_believed_or_undone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let token = put_for_an_hour(&store, 100, store.moment(right(10)));
    let ahead = |up_s: u64| ClockReading { unix_s: right(up_s).unix_s + 1000 * DAY, up_s };
    assert_eq!(expire(&store, ahead(20)), 0);
    // No room is made by it either.
    assert_eq!(store.over_s(), 0);
    assert_eq!(expire(&store, right(3609)), 0, "the clock is back");
    assert!(store.lease(token).is_some());
    assert_eq!(expire(&store, right(3610)), 1);
}

#[test]
fn a_store_with_a_time_in_the_future_keeps_its_leases() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let future = |up_s: u64| ClockReading { unix_s: right(up_s).unix_s + 1000 * DAY, up_s };
    put_for_an_hour(&store, 100, store.moment(future(10)));
    drop(store);
    let store = in_another_boot(&dir);
    assert_eq!(expire(&store, right(10)), 0);
    let token = put_for_an_hour(&store, 200, store.moment(right(20)));
    assert_eq!(expire(&store, right(10 + CLOCK_STEADY_S)), 0);
    assert!(store.clock_state().believed);
    // The lease is no shorter than was promised by the earlier clock.
    assert!(store.lease(token).unwrap().expires_s.unwrap() >= right(20 + 3600).unix_s);
}

#[test]
fn a_store_without_a_saved_time_or_with_a_broken_one_ends_no_lease_at_first() {
    let dir = tempfile::tempdir().unwrap();
    put_for_an_hour(&open(&dir), 100, Moment { now_s: BOOT - DAY, ..Moment::default() });
    assert!(!files(dir.path()).contains(&dir.path().join("clock")));
    for broken in [false, true] {
        if broken {
            fs::write(dir.path().join("clock"), b"{\"time_s\":").unwrap();
        }
        let store = open(&dir);
        assert_eq!(expire(&store, right(10)), 0);
    }
    let store = open(&dir);
    assert_eq!(expire(&store, right(20)), 0, "it waits over a restart");
    assert_eq!(expire(&store, right(20 + CLOCK_STEADY_S)), 1);
}

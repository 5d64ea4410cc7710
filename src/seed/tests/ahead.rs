//! Blocks of payloads that are read before they are asked for.

use super::{BLOCK, Host, payload, put};
use crate::limits::{READ_AHEAD_LEN, READ_AHEAD_STEP_LEN};
use crate::record::{Fetch, Request};
use crate::token::{Ranges, Token};

#[test]
fn blocks_are_read_ahead_of_a_get_within_its_bound_and_each_is_counted() {
    let mut host = Host::new(64 << 20);
    let long = payload(8 * BLOCK, 1);
    put(&host.store, &long);
    host.disk.hang(long.len() as u64);
    let request = host.fetch(1, Token::of(&long));
    let coming = READ_AHEAD_LEN + 1;
    host.run(|host| host.memory.stats().coming == coming);
    host.run(|host| host.disk.hanging() as u64 == coming);
    assert_eq!(host.memory.stats().ahead, READ_AHEAD_LEN, "a GET that waits asks for no more");
    host.disk.hang(0);
    host.end(request, &long);
    let stats = host.memory.stats();
    assert_eq!((stats.ahead, stats.ahead_hits, stats.ahead_wasted), (7, 7, 0));
    // A range of two blocks has nothing read beyond it.
    host.memory.forget(&Token::of(&long));
    let ranges = Ranges::covering(BLOCK as u64..3 * BLOCK as u64).unwrap();
    let token = Token::of(&long).into();
    let fetch = Fetch { token, bytes_max: 0, lanes: None, ranges, describe: false };
    let request = host.ask(1, Request::Fetch(fetch));
    host.run(|host| host.ended.contains_key(&request));
    assert_eq!(host.memory.stats().ahead, 8, "one more");
}

#[test]
fn blocks_are_read_ahead_in_twos() {
    let mut host = Host::new(64 << 20);
    let long = payload(11 * BLOCK, 1);
    put(&host.store, &long);
    let request = host.fetch(1, Token::of(&long));
    let mut seen = Vec::new();
    host.run(|host| {
        seen.push(host.memory.stats().ahead);
        host.ended.contains_key(&request)
    });
    seen.dedup();
    assert!(seen.iter().all(|ahead| ahead.is_multiple_of(READ_AHEAD_STEP_LEN)), "{seen:?}");
    assert_eq!(host.memory.stats().ahead, 10);
}

#[test]
fn a_tier_of_one_block_and_none_serve_many_cold_gets() {
    for memory_bytes in [0, BLOCK] {
        let mut host = Host::new(memory_bytes);
        let long = payload(2 * BLOCK + 1000, 1);
        put(&host.store, &long);
        let requests: Vec<_> = (0..40).map(|at| host.fetch(at % 8, Token::of(&long))).collect();
        for request in requests {
            host.end(request, &long);
        }
        assert_eq!(host.memory.stats().ahead, 0, "there is no room to read ahead");
    }
}

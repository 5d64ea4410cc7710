//! The nonces of requests that came before.

use crate::limits::{NONCE_TTL_S, NONCES_LEN_MAX};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

/// A HOP's nonce.
type Nonce = [u8; 16];

/// Expired nonces that one insertion forgets. More than one, so that they go faster than new ones come; few,
/// so that no request waits for a million of them.
const FORGOTTEN_A_TURN: usize = 2;

/// Remembers the nonces of HOP records: each for [`NONCE_TTL_S`], at most [`NONCES_LEN_MAX`], of which the
/// oldest goes first. Insertions forget expired ones.
///
/// Memory grows with the number of nonces, to about 70 MB at the bound. Peers choose the nonces, so they are
/// hashed with a key.
pub struct NonceCache {
    seen: HashSet<Nonce>,
    /// In order of arrival.
    order: VecDeque<(Instant, Nonce)>,
    len_max: usize,
}

impl NonceCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::bounded(NONCES_LEN_MAX)
    }

    fn bounded(len_max: usize) -> Self {
        Self { seen: HashSet::new(), order: VecDeque::new(), len_max }
    }

    /// Notes a nonce; true if it was seen before. Seeing it again does not prolong its time.
    pub fn insert(&mut self, nonce: Nonce, now: Instant) -> bool {
        for _ in 0..FORGOTTEN_A_TURN {
            let Some((came, _)) = self.order.front() else { break };
            if now.saturating_duration_since(*came) < Duration::from_secs(NONCE_TTL_S) {
                break;
            }
            self.forget_oldest();
        }
        if self.seen.contains(&nonce) {
            return true;
        }
        if self.order.len() >= self.len_max {
            self.forget_oldest();
        }
        self.seen.insert(nonce);
        self.order.push_back((now, nonce));
        false
    }

    /// Nonces held.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, nonce)) = self.order.pop_front() {
            self.seen.remove(&nonce);
        }
    }
}

impl Default for NonceCache {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for NonceCache {
    /// Shows their number, not the nonces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(NONCE_TTL_S);

    fn nonce(number: u32) -> Nonce {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        nonce
    }

    #[test]
    fn a_nonce_is_seen_until_its_time_is_over() {
        let start = Instant::now();
        let mut cache = NonceCache::new();
        assert!(!cache.insert(nonce(1), start));
        assert!(cache.insert(nonce(1), start));
        assert!(cache.insert(nonce(1), start + TTL - Duration::from_nanos(1)));
        assert!(!cache.insert(nonce(1), start + TTL));
        assert!(cache.insert(nonce(1), start + TTL));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn the_oldest_goes_when_the_cache_is_full() {
        let now = Instant::now();
        let mut cache = NonceCache::bounded(3);
        for number in 1..=4 {
            assert!(!cache.insert(nonce(number), now));
        }
        assert_eq!(cache.len(), 3);
        for number in 2..=4 {
            assert!(cache.insert(nonce(number), now), "{number}");
        }
        assert!(!cache.insert(nonce(1), now));
    }

    #[test]
    fn nonces_past_their_time_go_faster_than_new_ones_come() {
        let start = Instant::now();
        let mut cache = NonceCache::new();
        (0..100).for_each(|number| assert!(!cache.insert(nonce(number), start)));
        (100..200).for_each(|number| assert!(!cache.insert(nonce(number), start + TTL)));
        assert_eq!(cache.len(), 100);
        assert_eq!(cache.seen.len(), 100);
        assert!(!cache.insert(nonce(99), start + TTL));
    }

    #[test]
    fn memory_comes_with_use_and_debug_names_no_nonce() {
        let mut cache = NonceCache::new();
        assert_eq!((cache.seen.capacity(), cache.order.capacity()), (0, 0));
        assert!(cache.is_empty());
        cache.insert(nonce(7), Instant::now());
        assert!(cache.seen.capacity() < 100 && cache.order.capacity() < 100);
        assert_eq!(format!("{cache:?}"), "NonceCache { len: 1, .. }");
    }

    proptest! {
        /// Against a plain list: a nonce within its time and within the last `len_max` is seen; one that
        /// never came is not.
        #[test]
        fn recent_nonces_are_seen_and_strangers_are_not(
            steps in proptest::collection::vec((0u32..20, 0u64..400), 1..100), len_max in 1usize..12,
        ) {
            let mut now = Instant::now();
            let mut cache = NonceCache::bounded(len_max);
            let mut held: Vec<(Instant, u32)> = Vec::new();
            for (number, step_s) in steps {
                now += Duration::from_secs(step_s);
                let known = held.iter().rev().take(len_max).find(|(_, n)| *n == number);
                let seen = cache.insert(nonce(number), now);
                match known {
                    Some((came, _)) if now - *came < TTL => prop_assert!(seen),
                    Some(_) => {}
                    None => prop_assert!(!seen),
                }
                if !seen {
                    held.push((now, number));
                }
                prop_assert!(cache.len() <= len_max);
                prop_assert_eq!(cache.len(), cache.seen.len());
            }
        }
    }
}

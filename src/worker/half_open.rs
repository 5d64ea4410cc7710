//! The connections that peers began and whose handshakes are not complete: bounded apart from the others, in number and in time.
//!
//! Established connections need no place here and lose none. When the places are taken, one of these goes: one that has failed already, the
//! oldest whose client has not proven its address, or the oldest of the source with the most places. An attacker with few addresses
//! therefore displaces itself.

use crate::limits::{
    HALF_OPEN_LEN_MAX, HALF_OPEN_UNPROVEN_LEN_MAX, HANDSHAKE_MS_MAX, RETRIES_BURST, RETRIES_PER_S,
    UNPROVEN_HANDSHAKES_BURST, UNPROVEN_HANDSHAKES_PER_S,
};
use crate::queue::ConnectionId;
use crate::token_bucket::TokenBucket;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Between two log lines of a worker about its half-open connections.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// A site's network in IPv6 (RFC 4291 §2.5.4): its hosts count as one source.
const NETWORK_V6_BITS: u32 = 64;

/// A worker's half-open connections. Each question is answered by an index, not by a walk over them.
#[derive(Debug)]
pub(super) struct HalfOpen {
    /// By their numbers, oldest first.
    entries: BTreeMap<u64, Entry>,
    /// The number of each: this worker chose the identities.
    numbers: FxHashMap<ConnectionId, u64>,
    /// The next number.
    next: u64,
    failed: BTreeSet<u64>,
    unproven: BTreeSet<u64>,
    sources: SourceRanks,
    /// Handshakes with addresses that proved nothing; a completed one is put back.
    signatures: TokenBucket,
    retries: TokenBucket,
    lines: TokenBucket,
}

#[derive(Debug)]
struct Entry {
    id: ConnectionId,
    source: IpAddr,
    standing: Standing,
    /// When the handshake has taken too long.
    due: Instant,
}

/// The order in which entries go when the places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The handshake has failed, and QUIC still sends its end.
    Failed,
    /// The client has not proven its address.
    Unproven,
    /// The client has proven its address by a token.
    Proven,
}

/// The entries of each source, by their numbers.
#[derive(Debug, Default)]
struct SourceRanks {
    /// Peers choose their addresses: the table is hashed with a key. None is empty.
    of: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many entries each source has, and its oldest: the source of the victim is the last one.
    ranks: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
}

impl SourceRanks {
    /// Changes a source's entries by `change`, and its rank with them.
    fn change(&mut self, source: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>)) {
        let numbers = self.of.entry(source).or_default();
        let rank =
            |numbers: &BTreeSet<u64>| numbers.first().map(|&oldest| (numbers.len(), Reverse(oldest), source));
        let before = rank(numbers);
        change(numbers);
        let after = rank(numbers);
        before.map(|rank| self.ranks.remove(&rank));
        match after {
            Some(rank) => _ = self.ranks.insert(rank),
            None => _ = self.of.remove(&source),
        }
    }

    /// The oldest entry of the source with the most entries; of several such sources, the oldest.
    fn oldest_of_the_largest(&self) -> Option<u64> {
        self.ranks.last().map(|&(_, Reverse(oldest), _)| oldest)
    }
}

impl Default for HalfOpen {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            numbers: FxHashMap::default(),
            next: 0,
            failed: BTreeSet::new(),
            unproven: BTreeSet::new(),
            sources: SourceRanks::default(),
            signatures: TokenBucket::new(UNPROVEN_HANDSHAKES_PER_S, UNPROVEN_HANDSHAKES_BURST),
            retries: TokenBucket::new(RETRIES_PER_S, RETRIES_BURST),
            lines: TokenBucket::every(TELL_INTERVAL, 1),
        }
    }
}

/// An address, or the network of an IPv6 address.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(v6.to_bits() >> NETWORK_V6_BITS << NETWORK_V6_BITS)),
    }
}

impl HalfOpen {
    /// How many there are, and how many of them are of clients that have not proven their addresses.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.unproven.len())
    }

    /// Whether a client must prove its address before its handshake begins.
    pub(super) fn must_prove(&self, now: Instant) -> bool {
        self.unproven.len() >= HALF_OPEN_UNPROVEN_LEN_MAX
            || self.entries.len() >= HALF_OPEN_LEN_MAX
            || self.signatures.is_empty(now)
    }

    /// Whether a client must prove its address, and cannot be told now.
    #[inline]
    pub(super) fn is_past_retries(&self, now: Instant) -> bool {
        self.retries.is_empty(now) && self.must_prove(now)
    }

    /// Takes a Retry packet from their rate; false if none is left.
    pub(super) fn take_retry(&mut self, now: Instant) -> bool {
        self.retries.take(now)
    }

    /// The worker had a turn without work: it has time for one more Retry packet than their rate.
    #[inline]
    pub(super) fn had_time(&mut self) {
        self.retries.put_back();
    }

    /// Takes a log line from their rate.
    pub(super) fn may_tell(&mut self, now: Instant) -> bool {
        self.lines.take(now)
    }

    /// A handshake begins.
    pub(super) fn begin(&mut self, id: ConnectionId, remote: IpAddr, is_proven: bool, now: Instant) {
        let (number, source) = (self.next, source(remote));
        self.next += 1;
        let standing = if is_proven { Standing::Proven } else { Standing::Unproven };
        if !is_proven {
            self.unproven.insert(number);
            self.signatures.take(now);
        }
        let due = now + Duration::from_millis(HANDSHAKE_MS_MAX);
        self.entries.insert(number, Entry { id, source, standing, due });
        self.numbers.insert(id, number);
        self.sources.change(source, |numbers| _ = numbers.insert(number));
    }

    /// A handshake failed in its first packet.
    pub(super) fn failed_at_once(&mut self, is_proven: bool, now: Instant) {
        if !is_proven {
            self.signatures.take(now);
        }
    }

    /// A handshake was completed, or failed and holds its place until QUIC has sent its end.
    pub(super) fn settle(&mut self, id: ConnectionId, is_complete: bool) {
        if is_complete {
            if self.remove(id) == Some(Standing::Unproven) {
                self.signatures.put_back();
            }
            return;
        }
        let Some(&number) = self.numbers.get(&id) else { return };
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.standing = Standing::Failed;
            self.unproven.remove(&number);
            self.failed.insert(number);
        }
    }

    /// A connection is gone. Returns whether its client had proven its address by a token.
    pub(super) fn forget(&mut self, id: ConnectionId) -> bool {
        self.remove(id) == Some(Standing::Proven)
    }

    /// The connection that must go before another handshake begins, if the places are taken.
    pub(super) fn victim(&self) -> Option<ConnectionId> {
        if self.entries.len() < HALF_OPEN_LEN_MAX {
            return None;
        }
        let oldest = self.failed.first().or_else(|| self.unproven.first()).copied();
        let number = oldest.or_else(|| self.sources.oldest_of_the_largest())?;
        self.entries.get(&number).map(|entry| entry.id)
    }

    /// When [`HalfOpen::due`] has a connection.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(_, entry)| entry.due)
    }

    /// A connection whose handshake has taken too long, to be ended and forgotten.
    pub(super) fn due(&self, now: Instant) -> Option<ConnectionId> {
        let (_, oldest) = self.entries.first_key_value()?;
        (oldest.due <= now).then_some(oldest.id)
    }

    /// Takes an entry out.
    fn remove(&mut self, id: ConnectionId) -> Option<Standing> {
        let number = self.numbers.remove(&id)?;
        let entry = self.entries.remove(&number)?;
        match entry.standing {
            Standing::Failed => _ = self.failed.remove(&number),
            Standing::Unproven => _ = self.unproven.remove(&number),
            Standing::Proven => {}
        }
        self.sources.change(entry.source, |numbers| _ = numbers.remove(&number));
        Some(entry.standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn id(number: u32) -> ConnectionId {
        ConnectionId { worker: 0, slot: number, generation: number }
    }

    /// This many handshakes of one source, numbered from `from`.
    fn fill(half_open: &mut HalfOpen, from: u32, len: usize, remote: IpAddr, is_proven: bool, now: Instant) {
        for number in from..from + len as u32 {
            half_open.begin(id(number), remote, is_proven, now);
        }
    }

    #[test]
    fn the_failed_go_first_then_the_unproven_then_the_oldest_of_the_largest_source() {
        let (mut half_open, now) = (HalfOpen::default(), Instant::now());
        let near: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbor: IpAddr = "2001:db8::2".parse().unwrap();
        half_open.begin(id(0), FAR, true, now);
        half_open.begin(id(1), near, true, now);
        half_open.begin(id(2), FAR, false, now);
        half_open.begin(id(3), FAR, true, now);
        fill(&mut half_open, 4, HALF_OPEN_LEN_MAX - 5, neighbor, true, now);
        assert_eq!(half_open.victim(), None, "a place is free");
        half_open.begin(id(9999), FAR, true, now);
        assert!(half_open.must_prove(now));
        half_open.settle(id(3), false);
        for victim in [3, 2, 1, 4, 5] {
            assert_eq!(half_open.victim(), Some(id(victim)));
            half_open.forget(id(victim));
            half_open.begin(id(20_000 + victim), near, true, now);
        }
    }

    /// The entries as they came, and the answer to each question by a walk over them.
    #[derive(Default)]
    struct Walked(Vec<(ConnectionId, IpAddr, Standing)>);

    impl Walked {
        fn victim(&self) -> Option<ConnectionId> {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            self.0.iter().for_each(|(_, source, _)| *counts.entry(*source).or_default() += 1);
            let most = counts.values().max()?;
            let oldest = |wanted| self.0.iter().find(|(_, _, standing)| *standing == wanted);
            oldest(Standing::Failed)
                .or_else(|| oldest(Standing::Unproven))
                .or_else(|| self.0.iter().find(|(_, source, _)| counts[source] == *most))
                .map(|(id, ..)| *id)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_indices_find_what_a_walk_finds(steps in proptest::collection::vec((0u8..4, 0u32..40, 0u8..5, any::<bool>()), 1..200)) {
            let (mut half_open, mut walked, now) = (HalfOpen::default(), Walked::default(), Instant::now());
            // A victim is wanted from the start. No other entry has their sources.
            for number in 0..HALF_OPEN_LEN_MAX as u32 {
                let remote = IpAddr::V4((0x0a00_0000 + number).into());
                half_open.begin(id(1000 + number), remote, true, now);
                walked.0.push((id(1000 + number), remote, Standing::Proven));
            }
            for (what, number, host, is_proven) in steps {
                let (id, remote) = (id(number), IpAddr::V4([192, 0, 2, host].into()));
                let at = walked.0.iter().position(|(of, ..)| *of == id);
                match (what, at) {
                    (0 | 1, None) => {
                        half_open.begin(id, remote, is_proven, now);
                        let standing = if is_proven { Standing::Proven } else { Standing::Unproven };
                        walked.0.push((id, remote, standing));
                    }
                    (0, Some(at)) => {
                        half_open.settle(id, false);
                        walked.0[at].2 = Standing::Failed;
                    }
                    (1, Some(at)) => {
                        half_open.settle(id, true);
                        walked.0.remove(at);
                    }
                    (_, at) => {
                        let was_proven = at.is_some_and(|at| walked.0.remove(at).2 == Standing::Proven);
                        prop_assert_eq!(half_open.forget(id), was_proven);
                    }
                }
                prop_assert_eq!(half_open.victim(), walked.victim());
                let unproven = walked.0.iter().filter(|(.., standing)| *standing == Standing::Unproven).count();
                prop_assert_eq!(half_open.len(), (walked.0.len(), unproven));
            }
            for (id, ..) in walked.0 {
                prop_assert_eq!(half_open.due(now + Duration::from_millis(HANDSHAKE_MS_MAX)), Some(id));
                half_open.forget(id);
            }
            prop_assert!(half_open.sources.of.is_empty() && half_open.sources.ranks.is_empty());
            prop_assert!(half_open.failed.is_empty() && half_open.numbers.is_empty());
        }
    }

    #[test]
    fn a_handshake_has_its_time_and_no_more() {
        let (mut half_open, now) = (HalfOpen::default(), Instant::now());
        let span = Duration::from_millis(HANDSHAKE_MS_MAX);
        half_open.begin(id(0), FAR, false, now);
        half_open.begin(id(1), FAR, false, now + span / 2);
        half_open.settle(id(0), true);
        assert_eq!(half_open.poll_timeout(), Some(now + span * 3 / 2));
        assert_eq!(half_open.due(now + span), None);
        assert_eq!(half_open.due(now + span * 3 / 2), Some(id(1)));
        assert!(!half_open.forget(id(1)));
        assert_eq!((half_open.len(), half_open.poll_timeout()), ((0, 0), None));
    }

    #[test]
    fn completed_handshakes_make_no_client_prove_its_address() {
        let (mut half_open, now) = (HalfOpen::default(), Instant::now());
        for number in 0..10 * UNPROVEN_HANDSHAKES_BURST {
            assert!(!half_open.must_prove(now));
            half_open.begin(id(number), FAR, false, now);
            half_open.settle(id(number), true);
        }
    }

    #[test]
    fn handshakes_begun_in_vain_make_clients_prove_their_addresses() {
        let (mut half_open, now) = (HalfOpen::default(), Instant::now());
        for number in 0..UNPROVEN_HANDSHAKES_BURST {
            assert!(!half_open.must_prove(now));
            match number % 3 {
                0 => half_open.failed_at_once(false, now),
                1 => half_open.begin(id(number), FAR, false, now),
                _ => {
                    half_open.begin(id(number), FAR, false, now);
                    half_open.settle(id(number), false);
                }
            }
        }
        assert!(half_open.must_prove(now) && !half_open.is_past_retries(now));
        half_open.begin(id(99_999), FAR, true, now);
        assert!((0..RETRIES_BURST).all(|_| half_open.take_retry(now)) && !half_open.take_retry(now));
        assert!(half_open.is_past_retries(now));
        let later = now + Duration::from_secs(1);
        let begun = (0..1000).take_while(|_| {
            let may = !half_open.must_prove(later);
            half_open.failed_at_once(false, later);
            may
        });
        assert_eq!(begun.count(), UNPROVEN_HANDSHAKES_PER_S as usize);
    }
}

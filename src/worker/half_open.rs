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
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Between two log lines of a worker about its half-open connections.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// A site's network in IPv6 (RFC 4291 §2.5.4): its hosts count as one source.
const NETWORK_V6_BITS: u32 = 64;

/// A worker's half-open connections, oldest first.
#[derive(Debug)]
pub(super) struct HalfOpen {
    entries: VecDeque<Entry>,
    /// Entries whose standing is [`Standing::Unproven`].
    unproven: usize,
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

impl Default for HalfOpen {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            unproven: 0,
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
        (self.entries.len(), self.unproven)
    }

    /// Whether a client must prove its address before its handshake begins.
    pub(super) fn must_prove(&self, now: Instant) -> bool {
        self.unproven >= HALF_OPEN_UNPROVEN_LEN_MAX
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
        let standing = if is_proven { Standing::Proven } else { Standing::Unproven };
        if !is_proven {
            self.unproven += 1;
            self.signatures.take(now);
        }
        let due = now + Duration::from_millis(HANDSHAKE_MS_MAX);
        self.entries.push_back(Entry { id, source: source(remote), standing, due });
    }

    /// A handshake failed in its first packet.
    pub(super) fn failed_at_once(&mut self, is_proven: bool, now: Instant) {
        if !is_proven {
            self.signatures.take(now);
        }
    }

    /// A handshake was completed, or failed and holds its place until QUIC has sent its end.
    pub(super) fn settle(&mut self, id: ConnectionId, is_complete: bool) {
        let Some(at) = self.position(id) else { return };
        let was_unproven = self.entries[at].standing == Standing::Unproven;
        self.unproven -= usize::from(was_unproven);
        if !is_complete {
            self.entries[at].standing = Standing::Failed;
            return;
        }
        self.entries.remove(at);
        if was_unproven {
            self.signatures.put_back();
        }
    }

    /// A connection is gone. Returns whether its client had proven its address by a token.
    pub(super) fn forget(&mut self, id: ConnectionId) -> bool {
        let Some(entry) = self.position(id).and_then(|at| self.entries.remove(at)) else { return false };
        self.unproven -= usize::from(entry.standing == Standing::Unproven);
        entry.standing == Standing::Proven
    }

    /// The connection that must go before another handshake begins, if the places are taken.
    pub(super) fn victim(&self) -> Option<ConnectionId> {
        if self.entries.len() < HALF_OPEN_LEN_MAX {
            return None;
        }
        let oldest = |standing| self.entries.iter().find(|entry| entry.standing == standing);
        oldest(Standing::Failed)
            .or_else(|| oldest(Standing::Unproven))
            .or_else(|| self.oldest_of_the_largest_source())
            .map(|entry| entry.id)
    }

    fn oldest_of_the_largest_source(&self) -> Option<&Entry> {
        let mut sources: Vec<_> = self.entries.iter().map(|entry| entry.source).collect();
        sources.sort_unstable();
        let most = sources.chunk_by(PartialEq::eq).map(<[_]>::len).max()?;
        let largest: Vec<_> =
            sources.chunk_by(PartialEq::eq).filter(|of| of.len() == most).map(|of| of[0]).collect();
        self.entries.iter().find(|entry| largest.binary_search(&entry.source).is_ok())
    }

    /// When [`HalfOpen::due`] has a connection.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.due)
    }

    /// A connection whose handshake has taken too long, to be ended and forgotten.
    pub(super) fn due(&self, now: Instant) -> Option<ConnectionId> {
        self.entries.front().filter(|entry| entry.due <= now).map(|entry| entry.id)
    }

    fn position(&self, id: ConnectionId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! Gateways of the fleet whose leases are gone: whether they can be reached, and which of their connections were reset.

use crate::limits::{
    GONE_RESET_MS, GONE_RESETS_BURST, GONE_RESETS_LEN_MAX, HANDOVER_ANSWER_MS_MAX, HANDOVER_ASK_MS,
    HANDOVER_SILENT_MS, RESET_INTERVAL_US,
};
use crate::quic::routable::{RoutableCid, ServerId};
use crate::token_bucket::TokenBucket;
use rand::Rng;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// RFC 9000 §10.3: a stateless reset has at least 21 bytes; from 41 on it looks like any packet.
const RESET_BYTES_MIN: usize = 21;
const RESET_BYTES_USUAL: usize = 41;
const RESET_BYTES_LONGEST: usize = 100;

/// What a worker knows of the gateways that are gone.
#[derive(Debug)]
pub(super) struct GoneMembers {
    asked: HashMap<ServerId, Asked>,
    /// The resets sent lately. Its hash has a random key.
    resets: HashMap<RoutableCid, Instant>,
    pace: TokenBucket,
}

/// The questions to a gateway.
#[derive(Debug)]
struct Asked {
    /// The number of the last one.
    number: u64,
    at: Instant,
    /// The first one since the last answer.
    silent_since: Option<Instant>,
}

impl Default for GoneMembers {
    fn default() -> Self {
        let pace = TokenBucket::every(Duration::from_micros(RESET_INTERVAL_US), GONE_RESETS_BURST);
        Self { asked: HashMap::new(), resets: HashMap::new(), pace }
    }
}

impl GoneMembers {
    /// Forgets the gateways that are gone no longer.
    pub(super) fn keep(&mut self, is_gone: impl Fn(ServerId) -> bool) {
        self.asked.retain(|server_id, _| is_gone(*server_id));
    }

    /// Whether a gateway may be reached, and the number of a question to it if one is due. It may be until a question had no answer in its
    /// time, and again when it was not asked for long.
    pub(super) fn may_be_there(
        &mut self,
        now: Instant,
        server_id: ServerId,
        worker: u16,
    ) -> (bool, Option<u64>) {
        let ms = Duration::from_millis;
        let age = |at: Instant| now.saturating_duration_since(at);
        let known = self.asked.get(&server_id).filter(|asked| age(asked.at) < ms(HANDOVER_SILENT_MS));
        let silent_since = known.and_then(|asked| asked.silent_since);
        let is_silent = silent_since.is_some_and(|since| age(since) >= ms(HANDOVER_ANSWER_MS_MAX));
        if known.is_some_and(|asked| age(asked.at) < ms(HANDOVER_ASK_MS)) {
            return (!is_silent, None);
        }
        let number = Self::number(worker);
        let silent_since = Some(silent_since.unwrap_or(now));
        self.asked.insert(server_id, Asked { number, at: now, silent_since });
        (!is_silent, Some(number))
    }

    /// The number of a question. Its answer may arrive at any worker, so that it names the one that asks.
    pub(super) fn number(worker: u16) -> u64 {
        rand::rng().random::<u64>() << 16 | u64::from(worker)
    }

    /// The worker that asked a question.
    pub(super) fn asker(number: u64) -> u16 {
        number as u16
    }

    /// An answer has arrived. One to another question than the last, or forged, changes nothing.
    pub(super) fn answered(&mut self, number: u64) {
        if let Some(asked) = self.asked.values_mut().find(|asked| asked.number == number) {
            asked.silent_since = None;
        }
    }

    /// The length of the reset that answers a datagram of `len` bytes with this connection ID, if one is due.
    pub(super) fn reset_len(&mut self, now: Instant, cid: &RoutableCid, len: usize) -> Option<usize> {
        // RFC 9000 §10.3: shorter than what it answers, so that two that take each other's for packets come to an end.
        let longest = len.saturating_sub(1).min(RESET_BYTES_LONGEST);
        if longest < RESET_BYTES_MIN {
            return None;
        }
        let is_late =
            |at: &Instant| now.saturating_duration_since(*at) < Duration::from_millis(GONE_RESET_MS);
        if self.resets.get(cid).is_some_and(is_late) {
            return None;
        }
        if self.resets.len() >= GONE_RESETS_LEN_MAX {
            self.resets.retain(|_, at| is_late(at));
        }
        if self.resets.len() >= GONE_RESETS_LEN_MAX || !self.pace.take(now) {
            return None;
        }
        self.resets.insert(*cid, now);
        Some(rand::rng().random_range(RESET_BYTES_USUAL.min(longest)..=longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: ServerId = ServerId([0, 0, 7]);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_gateway_is_taken_for_unreachable_after_a_question_without_an_answer() {
        let (mut gone, now) = (GoneMembers::default(), Instant::now());
        let (may_be, number) = gone.may_be_there(now, MEMBER, 3);
        let number = number.unwrap();
        assert!(may_be && GoneMembers::asker(number) == 3);
        assert_eq!(gone.may_be_there(now + ms(HANDOVER_ANSWER_MS_MAX - 1), MEMBER, 3), (true, None));
        assert_eq!(gone.may_be_there(now + ms(HANDOVER_ANSWER_MS_MAX), MEMBER, 3), (false, None));
        // It is asked again, and stays unreachable until it answers the last question.
        let later = now + ms(HANDOVER_ASK_MS);
        let (may_be, again) = gone.may_be_there(later, MEMBER, 3);
        assert!(!may_be);
        gone.answered(number);
        assert!(!gone.may_be_there(later, MEMBER, 3).0, "an answer to an earlier question");
        gone.answered(again.unwrap());
        assert_eq!(gone.may_be_there(later + ms(1), MEMBER, 3), (true, None));
        // An answer does not hold forever.
        let (may_be, third) = gone.may_be_there(later + ms(HANDOVER_ASK_MS), MEMBER, 3);
        assert!(may_be && third.is_some());
        assert!(!gone.may_be_there(later + ms(HANDOVER_ASK_MS + HANDOVER_ANSWER_MS_MAX), MEMBER, 3).0);
        // Nor does silence.
        let much_later = later + ms(HANDOVER_ASK_MS + HANDOVER_SILENT_MS);
        assert!(gone.may_be_there(much_later, MEMBER, 3).0);
        gone.keep(|_| false);
        assert!(gone.asked.is_empty());
    }

    #[test]
    fn a_connection_id_is_reset_once_a_second_by_less_than_was_received() {
        let (mut gone, now) = (GoneMembers::default(), Instant::now());
        let cid: RoutableCid = [7; 17];
        assert_eq!(gone.reset_len(now, &cid, 21), None, "it would not be shorter");
        assert_eq!(gone.reset_len(now, &cid, 22), Some(21));
        assert_eq!(gone.reset_len(now + ms(GONE_RESET_MS - 1), &cid, 1200), None);
        let len = gone.reset_len(now + ms(GONE_RESET_MS), &cid, 1200).unwrap();
        assert!((RESET_BYTES_USUAL..=RESET_BYTES_LONGEST).contains(&len));
    }

    #[test]
    fn resets_are_bounded_in_rate_and_in_memory() {
        let (mut gone, now) = (GoneMembers::default(), Instant::now());
        let cid = |number: u32| -> RoutableCid {
            std::array::from_fn(|at| if at < 4 { number.to_be_bytes()[at] } else { 0 })
        };
        let at_once = (0..10_000).filter(|&number| gone.reset_len(now, &cid(number), 100).is_some()).count();
        assert_eq!(at_once, GONE_RESETS_BURST as usize);
        for number in 0..100_000 {
            gone.reset_len(now + ms(u64::from(number)), &cid(number), 100);
        }
        assert!(gone.resets.len() <= GONE_RESETS_LEN_MAX);
    }
}

//! Gateways of the fleet whose leases are gone: whether they can be reached, and which of their connections were reset.

use super::handed_flows::HandedFlow;
use crate::limits::{
    GONE_RESET_MS, GONE_RESETS_BURST, GONE_RESETS_LEN_MAX, HANDED_FLOWS_LEN_MAX, HANDOVER_ANSWER_MS_MAX,
    HANDOVER_ASK_MS, HANDOVER_SILENT_MS, HANDOVER_TELL_MS, RESET_INTERVAL_US,
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
    /// The flows whose clients are to be told unasked.
    told: Vec<(RoutableCid, HandedFlow)>,
    /// When the next of them may be told.
    tell_at: Option<Instant>,
    /// When a gateway that is silent is to be asked again, or its clients are to be told.
    overdue_at: Option<Instant>,
}

/// The questions to a gateway.
#[derive(Debug)]
struct Asked {
    /// The number of the last one.
    number: u64,
    at: Instant,
    /// The first one since the last answer.
    silent_since: Option<Instant>,
    silence: SilenceStep,
    /// When other workers were last told of a sign of life.
    passed_on_at: Option<Instant>,
    /// When a sign of life last made a silence begin anew.
    doubted_at: Option<Instant>,
}

/// What was done about a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SilenceStep {
    /// Its first question was sent.
    Begun,
    /// The gateway was asked again: one datagram may be lost.
    AskedAgain,
    /// Its clients were told.
    Told,
}

impl Asked {
    fn is_silent(&self, now: Instant) -> bool {
        let since = self.silent_since.map(|since| now.saturating_duration_since(since));
        since.is_some_and(|since| since >= Duration::from_millis(HANDOVER_ANSWER_MS_MAX))
    }

    fn overdue_at(&self) -> Option<Instant> {
        let after_ms = match self.silence {
            SilenceStep::Begun => HANDOVER_ANSWER_MS_MAX,
            SilenceStep::AskedAgain => HANDOVER_TELL_MS,
            SilenceStep::Told => return None,
        };
        Some(self.silent_since? + Duration::from_millis(after_ms))
    }
}

impl Default for GoneMembers {
    fn default() -> Self {
        let pace = TokenBucket::every(Duration::from_micros(RESET_INTERVAL_US), GONE_RESETS_BURST);
        Self {
            asked: HashMap::new(),
            resets: HashMap::new(),
            pace,
            told: Vec::new(),
            tell_at: None,
            overdue_at: None,
        }
    }
}

impl GoneMembers {
    /// Forgets the gateways that are gone no longer.
    pub(super) fn keep(&mut self, is_gone: impl Fn(ServerId) -> bool) {
        self.asked.retain(|server_id, _| is_gone(*server_id));
        self.told.retain(|(_, flow)| is_gone(flow.server_id));
        self.look();
    }

    fn look(&mut self) {
        self.overdue_at = self.asked.values().filter_map(Asked::overdue_at).min();
    }

    /// When [`GoneMembers::overdue`] and [`GoneMembers::next_told`] have something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let tell_at = self.tell_at.filter(|_| !self.told.is_empty());
        [self.overdue_at, tell_at].into_iter().flatten().min()
    }

    /// The gateways that are to be asked again, with the numbers of the questions, and those that were asked twice in vain.
    pub(super) fn overdue(&mut self, now: Instant, worker: u16) -> (Vec<(ServerId, u64)>, Vec<ServerId>) {
        let (mut again, mut silent) = (Vec::new(), Vec::new());
        for (&server_id, asked) in &mut self.asked {
            if asked.overdue_at().is_none_or(|at| at > now) {
                continue;
            }
            if asked.silence == SilenceStep::Begun {
                let number = Self::number(worker);
                (asked.number, asked.at, asked.silence) = (number, now, SilenceStep::AskedAgain);
                again.push((server_id, number));
            } else {
                asked.silence = SilenceStep::Told;
                silent.push(server_id);
            }
        }
        self.look();
        self.tell_at = Some(now + Duration::from_micros(RESET_INTERVAL_US));
        (again, silent)
    }

    /// Has the clients of these flows told.
    pub(super) fn tell(&mut self, flows: Vec<(RoutableCid, HandedFlow)>) {
        let room = HANDED_FLOWS_LEN_MAX.saturating_sub(self.told.len());
        self.told.extend(flows.into_iter().take(room));
    }

    /// A flow whose client may be told now.
    pub(super) fn next_told(&mut self, now: Instant) -> Option<(RoutableCid, HandedFlow)> {
        if self.pace.is_empty(now) {
            return None;
        }
        // Those of a gateway that has given a sign of life wait for its answer.
        let is_silent =
            |flow: &HandedFlow| self.asked.get(&flow.server_id).is_some_and(|asked| asked.is_silent(now));
        let at = self.told.iter().rposition(|(_, flow)| is_silent(flow))?;
        Some(self.told.swap_remove(at))
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
        let is_silent = known.is_some_and(|asked| asked.is_silent(now));
        if known.is_some_and(|asked| age(asked.at) < ms(HANDOVER_ASK_MS)) {
            return (!is_silent, None);
        }
        let number = Self::number(worker);
        let silence =
            known.filter(|_| silent_since.is_some()).map_or(SilenceStep::Begun, |asked| asked.silence);
        let silent_since = Some(silent_since.unwrap_or(now));
        let (passed_on_at, doubted_at) =
            known.map_or((None, None), |asked| (asked.passed_on_at, asked.doubted_at));
        self.asked
            .insert(server_id, Asked { number, at: now, silent_since, silence, passed_on_at, doubted_at });
        self.look();
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
        if let Some((&server_id, asked)) = self.asked.iter_mut().find(|(_, asked)| asked.number == number) {
            asked.silent_since = None;
            self.told.retain(|(_, flow)| flow.server_id != server_id);
            self.look();
        }
    }

    /// Whether there are any.
    #[inline]
    pub(super) fn are_there(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether a sign of life of a gateway is passed on to the other workers: it is gone, and they have not been told in the last moments.
    pub(super) fn is_news(&mut self, now: Instant, server_id: ServerId) -> bool {
        let Some(asked) = self.asked.get_mut(&server_id) else { return false };
        let lately = Duration::from_millis(HANDOVER_ANSWER_MS_MAX);
        if asked.passed_on_at.is_some_and(|at| now.saturating_duration_since(at) < lately) {
            return false;
        }
        asked.passed_on_at = Some(now);
        true
    }

    /// A question or a datagram of a gateway has arrived at a worker at this time. It may be forged, unlike an answer, so it proves nothing: a silence from
    /// before it begins anew, with a question whose number is returned. No more often than a gateway is asked, so that forged ones keep no client from being told.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        server_id: ServerId,
        at: Instant,
        worker: u16,
    ) -> Option<u64> {
        let asked = self.asked.get_mut(&server_id)?;
        let lately = Duration::from_millis(HANDOVER_ASK_MS);
        let is_after = asked.silent_since.is_some_and(|since| since <= at);
        if !is_after || asked.doubted_at.is_some_and(|at| now.saturating_duration_since(at) < lately) {
            return None;
        }
        let number = Self::number(worker);
        (asked.number, asked.at, asked.doubted_at) = (number, now, Some(now));
        (asked.silent_since, asked.silence) = (Some(now), SilenceStep::Begun);
        self.look();
        Some(number)
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
    fn a_sign_of_life_begins_a_silence_anew_once_a_second() {
        let (mut gone, now) = (GoneMembers::default(), Instant::now());
        let silent = |gone: &mut GoneMembers, at| !gone.may_be_there(now + ms(at), MEMBER, 3).0;
        assert!(!gone.is_news(now, MEMBER) && gone.heard(now, MEMBER, now, 3).is_none(), "it is not gone");
        gone.may_be_there(now + ms(1), MEMBER, 3);
        assert!(silent(&mut gone, 300));
        assert_eq!(gone.heard(now + ms(300), MEMBER, now, 3), None, "from before the silence");
        assert!(gone.is_news(now + ms(300), MEMBER) && !gone.is_news(now + ms(301), MEMBER));
        let number = gone.heard(now + ms(300), MEMBER, now + ms(300), 3).unwrap();
        assert!(!silent(&mut gone, 300) && !silent(&mut gone, 549));
        // Another one is not heeded so soon, and clients are told as after any silence.
        assert_eq!(gone.heard(now + ms(400), MEMBER, now + ms(400), 3), None);
        assert!(silent(&mut gone, 550));
        assert_eq!(gone.overdue(now + ms(550), 3).0.len(), 1);
        assert_eq!(gone.overdue(now + ms(800), 3).1, [MEMBER]);
        gone.answered(number);
        assert!(silent(&mut gone, 800), "the answer to an earlier question");
        assert!(gone.heard(now + ms(1300), MEMBER, now + ms(1300), 3).is_some());
        assert!(!silent(&mut gone, 1300));
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

    #[test]
    fn clients_are_told_after_two_questions_and_no_more_once_the_gateway_answers_or_is_alive() {
        let (mut gone, now) = (GoneMembers::default(), Instant::now());
        let remote = std::net::SocketAddr::from(([192, 0, 2, 1], 7777));
        let local_ip = [203, 0, 113, 1].into();
        let flow = HandedFlow { server_id: MEMBER, remote, local_ip, datagram_len: 60, at: now };
        gone.may_be_there(now, MEMBER, 3);
        assert_eq!(gone.poll_timeout(), Some(now + ms(HANDOVER_ANSWER_MS_MAX)));
        let (again, silent) = gone.overdue(now + ms(HANDOVER_ANSWER_MS_MAX), 3);
        let [(MEMBER, number)] = again[..] else { panic!("{again:?}") };
        assert!(silent.is_empty());
        assert_eq!(gone.poll_timeout(), Some(now + ms(HANDOVER_TELL_MS)));
        let (again, silent) = gone.overdue(now + ms(HANDOVER_TELL_MS), 3);
        assert!(again.is_empty() && silent == [MEMBER]);
        assert_eq!(gone.poll_timeout(), None);
        gone.tell(vec![([1; 17], flow), ([2; 17], flow), ([3; 17], flow)]);
        let later = now + ms(HANDOVER_TELL_MS);
        assert!(gone.poll_timeout().is_some() && gone.next_told(later).is_some());
        gone.answered(number);
        assert!(gone.next_told(later).is_none() && gone.poll_timeout().is_none());
        gone.tell(vec![([1; 17], flow)]);
        gone.keep(|_| false);
        assert!(gone.next_told(later).is_none());
        gone.tell(vec![([1; 17], flow); HANDED_FLOWS_LEN_MAX + 1]);
        assert_eq!(gone.told.len(), HANDED_FLOWS_LEN_MAX);
    }
}

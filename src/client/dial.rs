//! Connections in the making: to one address, or raced to the addresses of a name (RFC 8305).

use super::call::{Dial, DialError};
use super::error::DialFailure;
use super::rotation::Rotation;
use crate::limits::ATTEMPT_DELAY_MS;
use crate::names::ResolveError;
use crate::queue::CloseReason;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The dials of one worker. What is due is found by its time.
#[derive(Default)]
pub(super) struct Dials {
    dials: FxHashMap<u64, Dialing>,
    /// The dials with addresses that were not tried, by the times of their next attempts; `None`: at once.
    due: BTreeSet<(Option<Instant>, u64)>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// All dials: a task that goes away does not say so.
    waiting: Rotation<u64>,
    /// The dial of each attempt, and the address that it tries, by the attempt's tag.
    attempts: FxHashMap<u64, (u64, SocketAddr)>,
    tags: u64,
    /// Attempts that no dial needs any more.
    abandoned: Vec<u64>,
}

struct Dialing {
    dial: Dial,
    /// When the next address is tried; `None`: at once.
    next: Option<Instant>,
    /// Attempts without a result yet, by their tags.
    open: Vec<u64>,
    failures: Vec<DialFailure>,
}

impl Dialing {
    fn has_more(&self) -> bool {
        self.dial.remotes.as_ref().is_some_and(|remotes| !remotes.is_empty())
    }
}

/// A connection attempt for the worker to make.
pub(super) struct Attempt {
    pub(super) tag: u64,
    pub(super) remote: SocketAddr,
    pub(super) early: bool,
}

impl Dials {
    pub(super) fn begin(&mut self, dial: Dial) {
        let id = dial.id;
        self.deadlines.insert((dial.deadline, id));
        self.waiting.push(id);
        self.dials.insert(id, Dialing { next: None, open: Vec::new(), failures: Vec::new(), dial });
        self.reschedule(id, None);
    }

    /// Takes the resolver's answer.
    pub(super) fn resolved(&mut self, id: u64, found: Result<Vec<SocketAddr>, ResolveError>) {
        let Some(dialing) = self.dials.get_mut(&id) else { return };
        match found {
            Ok(remotes) => {
                dialing.dial.remotes = Some(remotes.into());
                let next = dialing.next;
                self.reschedule(id, next);
            }
            Err(error) => self.end(id, DialError::Resolve(error)),
        }
    }

    /// The next attempt that is due.
    pub(super) fn next_attempt(&mut self, now: Instant) -> Option<Attempt> {
        let &(at, id) = self.due.first()?;
        if at.is_some_and(|at| at > now) {
            return None;
        }
        let dialing = self.dials.get_mut(&id)?;
        let remote = dialing.dial.remotes.as_mut()?.pop_front()?;
        self.tags += 1;
        dialing.open.push(self.tags);
        let early = dialing.dial.early;
        self.reschedule(id, Some(now + Duration::from_millis(ATTEMPT_DELAY_MS)));
        self.attempts.insert(self.tags, (id, remote));
        Some(Attempt { tag: self.tags, remote, early })
    }

    /// Notes a failed attempt: the next address is tried at once (RFC 8305 §5).
    pub(super) fn failed(&mut self, tag: u64, reason: CloseReason) {
        let Some((id, address)) = self.attempts.remove(&tag) else { return };
        let Some(dialing) = self.dials.get_mut(&id) else { return };
        dialing.open.retain(|open| *open != tag);
        dialing.failures.push(DialFailure { address, reason });
        if dialing.open.is_empty() && !dialing.has_more() {
            let failures = std::mem::take(&mut dialing.failures);
            return self.end(id, DialError::Failed(failures));
        }
        self.reschedule(id, None);
    }

    /// Notes that an attempt came up. Returns its dial if it is the first, and abandons the others.
    pub(super) fn connected(&mut self, tag: u64) -> Option<Dial> {
        let (id, _) = self.attempts.remove(&tag)?;
        let mut dialing = self.forget(id)?;
        dialing.open.retain(|open| *open != tag);
        self.abandon(dialing.open);
        Some(dialing.dial)
    }

    /// The next attempt to abandon. Its end is not reported.
    pub(super) fn next_abandoned(&mut self) -> Option<u64> {
        self.abandoned.pop()
    }

    /// Ends dials that are past their deadline, and, of a few, those whose task has gone away. Returns whether dials are left to look at.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.give_up(id);
        }
        let (mut gone, dials) = (Vec::new(), &self.dials);
        let goes_on = self.waiting.look(|id| {
            let Some(dialing) = dials.get(id) else { return false };
            if dialing.dial.reply.is_closed() {
                gone.push(*id);
            }
            !dialing.dial.reply.is_closed()
        });
        gone.into_iter().for_each(|id| self.give_up(id));
        goes_on
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.due.first().and_then(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        next.into_iter().chain(deadline).min()
    }

    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.waiting.looks
    }

    fn give_up(&mut self, id: u64) {
        let named = self.dials.get(&id).is_some_and(|dialing| dialing.dial.remotes.is_none());
        self.end(id, if named { DialError::Unresolved } else { DialError::Timeout });
    }

    fn end(&mut self, id: u64, error: DialError) {
        if let Some(dialing) = self.forget(id) {
            let _ = dialing.dial.reply.send(Err(error));
            self.abandon(dialing.open);
        }
    }

    fn abandon(&mut self, attempts: Vec<u64>) {
        for tag in &attempts {
            self.attempts.remove(tag);
        }
        self.abandoned.extend(attempts);
    }

    /// Notes when the dial's next address is to be tried, if it has one left.
    fn reschedule(&mut self, id: u64, next: Option<Instant>) {
        let Some(dialing) = self.dials.get_mut(&id) else { return };
        self.due.remove(&(dialing.next, id));
        dialing.next = next;
        if dialing.has_more() {
            self.due.insert((next, id));
        }
    }

    /// Takes a dial out of every list but `waiting`, which finds out by itself.
    fn forget(&mut self, id: u64) -> Option<Dialing> {
        let dialing = self.dials.remove(&id)?;
        self.due.remove(&(dialing.next, id));
        self.deadlines.remove(&(dialing.dial.deadline, id));
        Some(dialing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::call::ConnectionUp;
    use crate::limits::CLIENT_LOOKS_LEN_PER_TURN_MAX;
    use tokio::sync::oneshot;

    type Answer = oneshot::Receiver<Result<ConnectionUp, DialError>>;

    fn dial(id: u64, remotes: Option<u8>, now: Instant) -> (Dial, Answer) {
        let (reply, answer) = oneshot::channel();
        let remotes = remotes.map(|count| (1..=count).map(at).collect());
        (Dial { id, remotes, early: false, deadline: now + Duration::from_secs(10), reply }, answer)
    }

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 4433))
    }

    fn failure(answer: &mut Answer) -> DialError {
        answer.try_recv().unwrap().unwrap_err()
    }

    #[test]
    fn addresses_are_tried_a_quarter_of_a_second_apart_and_the_first_that_is_up_wins() {
        let mut now = Instant::now();
        let mut dials = Dials::default();
        let (dial, _answer) = dial(7, Some(3), now);
        dials.begin(dial);
        let first = dials.next_attempt(now).unwrap();
        assert_eq!(first.remote, at(1));
        assert!(dials.next_attempt(now).is_none(), "the second waits");
        now = dials.poll_timeout().unwrap();
        let second = dials.next_attempt(now).unwrap();
        assert_eq!(second.remote, at(2));
        assert!(dials.connected(second.tag).is_some());
        assert_eq!(dials.next_abandoned(), Some(first.tag));
        assert!(dials.next_abandoned().is_none() && dials.connected(first.tag).is_none());
        assert!(dials.poll_timeout().is_none());
    }

    #[test]
    fn the_next_address_does_not_wait_for_one_that_has_failed() {
        let now = Instant::now();
        let mut dials = Dials::default();
        let (dial, mut answer) = dial(7, Some(2), now);
        dials.begin(dial);
        let first = dials.next_attempt(now).unwrap();
        dials.failed(first.tag, CloseReason::TimedOut);
        let second = dials.next_attempt(now).unwrap();
        dials.failed(second.tag, CloseReason::Version);
        let DialError::Failed(failures) = failure(&mut answer) else { panic!("both failed") };
        let told: Vec<_> = failures.into_iter().map(|failure| (failure.address, failure.reason)).collect();
        assert_eq!(told, [(at(1), CloseReason::TimedOut), (at(2), CloseReason::Version)]);
    }

    #[test]
    fn a_resolver_that_is_late_or_has_no_answer_ends_the_dial() {
        let now = Instant::now();
        let mut dials = Dials::default();
        let (late, mut late_answer) = dial(1, None, now);
        let (unknown, mut unknown_answer) = dial(2, None, now);
        dials.begin(late);
        dials.begin(unknown);
        assert!(dials.next_attempt(now).is_none(), "nothing is known yet");
        dials.resolved(2, Err(ResolveError::Interface("eth9".into())));
        assert!(
            matches!(failure(&mut unknown_answer), DialError::Resolve(ResolveError::Interface(name)) if name == "eth9")
        );
        dials.expire(dials.poll_timeout().unwrap());
        assert!(matches!(failure(&mut late_answer), DialError::Unresolved));
        dials.resolved(1, Ok(vec![at(1)]));
        assert!(dials.next_attempt(now).is_none(), "it is over");
    }

    #[test]
    fn an_attempt_without_an_answer_is_a_timeout_and_is_abandoned() {
        let now = Instant::now();
        let mut dials = Dials::default();
        let (begun, mut answer) = dial(1, Some(1), now);
        dials.begin(begun);
        let attempt = dials.next_attempt(now).unwrap();
        dials.expire(now);
        assert!(answer.try_recv().is_err());
        dials.expire(dials.poll_timeout().unwrap());
        assert!(matches!(failure(&mut answer), DialError::Timeout));
        assert_eq!(dials.next_abandoned(), Some(attempt.tag));
        // A dial whose task has gone away ends at once.
        let (begun, answer) = dial(2, Some(1), now);
        dials.begin(begun);
        let attempt = dials.next_attempt(now).unwrap();
        drop(answer);
        dials.expire(now);
        assert_eq!(dials.next_abandoned(), Some(attempt.tag));
    }
    #[test]
    fn a_turn_looks_at_few_of_many_dials_and_finds_each_that_is_due_or_over() {
        const DIALS: u64 = 1000;
        let begun = Instant::now();
        let mut dials = Dials::default();
        let mut answers: Vec<_> = (0..DIALS)
            .map(|id| {
                let (mut dial, answer) = dial(id, Some(2), begun);
                dial.deadline += Duration::from_millis(id);
                dials.begin(dial);
                answer
            })
            .collect();
        let turn = |dials: &mut Dials, now| {
            let before = dials.looks();
            let goes_on = dials.expire(now);
            assert!(dials.looks() - before <= CLIENT_LOOKS_LEN_PER_TURN_MAX);
            goes_on
        };
        while turn(&mut dials, begun) {}
        let tags: Vec<_> =
            std::iter::from_fn(|| dials.next_attempt(begun)).map(|attempt| attempt.tag).collect();
        assert_eq!(tags.len() as u64, DIALS, "each has tried its first address");
        // The task of the last one goes away, and the one before ends at its deadline.
        drop(answers.pop());
        while turn(&mut dials, begun) {}
        assert_eq!(dials.next_abandoned(), tags.last().copied());
        let second = dials.poll_timeout().unwrap();
        assert_eq!(second, begun + Duration::from_millis(ATTEMPT_DELAY_MS));
        assert_eq!(std::iter::from_fn(|| dials.next_attempt(second)).count() as u64, DIALS - 1);
        assert_eq!(dials.poll_timeout(), Some(begun + Duration::from_secs(10)), "no address is left");
        turn(&mut dials, begun + Duration::from_secs(10));
        assert!(matches!(failure(&mut answers[0]), DialError::Timeout));
        assert!(answers[1].try_recv().is_err(), "its deadline is later");
    }
}

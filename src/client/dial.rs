//! Connections in the making: to one address, or raced to the addresses of a name (RFC 8305).

use super::call::{Dial, DialError};
use super::error::DialFailure;
use crate::limits::ATTEMPT_DELAY_MS;
use crate::names::ResolveError;
use crate::queue::CloseReason;
use rustc_hash::FxHashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The dials of one worker.
#[derive(Default)]
pub(super) struct Dials {
    dials: FxHashMap<u64, Dialing>,
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
    /// Attempts without a result yet.
    open: usize,
    failures: Vec<DialFailure>,
}

/// A connection attempt for the worker to make.
pub(super) struct Attempt {
    pub(super) tag: u64,
    pub(super) remote: SocketAddr,
    pub(super) early: bool,
}

impl Dials {
    pub(super) fn begin(&mut self, dial: Dial) {
        let dialing = Dialing { next: None, open: 0, failures: Vec::new(), dial };
        self.dials.insert(dialing.dial.id, dialing);
    }

    /// Takes the resolver's answer.
    pub(super) fn resolved(&mut self, id: u64, found: Result<Vec<SocketAddr>, ResolveError>) {
        let Some(dialing) = self.dials.get_mut(&id) else { return };
        match found {
            Ok(remotes) => dialing.dial.remotes = Some(remotes.into()),
            Err(error) => self.end(id, DialError::Resolve(error)),
        }
    }

    /// The next attempt that is due.
    pub(super) fn next_attempt(&mut self, now: Instant) -> Option<Attempt> {
        let due = |dialing: &&mut Dialing| {
            dialing.dial.remotes.as_ref().is_some_and(|remotes| !remotes.is_empty())
                && dialing.next.is_none_or(|at| at <= now)
        };
        let dialing = self.dials.values_mut().find(due)?;
        let remote = dialing.dial.remotes.as_mut()?.pop_front()?;
        dialing.next = Some(now + Duration::from_millis(ATTEMPT_DELAY_MS));
        dialing.open += 1;
        self.tags += 1;
        self.attempts.insert(self.tags, (dialing.dial.id, remote));
        Some(Attempt { tag: self.tags, remote, early: dialing.dial.early })
    }

    /// Notes a failed attempt: the next address is tried at once (RFC 8305 §5).
    pub(super) fn failed(&mut self, tag: u64, reason: CloseReason) {
        let Some((id, address)) = self.attempts.remove(&tag) else { return };
        let Some(dialing) = self.dials.get_mut(&id) else { return };
        dialing.open -= 1;
        dialing.next = None;
        dialing.failures.push(DialFailure { address, reason });
        let more = dialing.dial.remotes.as_ref().is_some_and(|remotes| !remotes.is_empty());
        if dialing.open > 0 || more {
            return;
        }
        let failures = std::mem::take(&mut dialing.failures);
        self.end(id, DialError::Failed(failures));
    }

    /// Notes that an attempt came up. Returns its dial if it is the first, and abandons the others.
    pub(super) fn connected(&mut self, tag: u64) -> Option<Dial> {
        let (id, _) = self.attempts.remove(&tag)?;
        let dialing = self.dials.remove(&id)?;
        self.abandon(id);
        Some(dialing.dial)
    }

    /// The next attempt to abandon. Its end is not reported.
    pub(super) fn next_abandoned(&mut self) -> Option<u64> {
        self.abandoned.pop()
    }

    /// Ends dials that are past their deadline, or whose task has gone away.
    pub(super) fn expire(&mut self, now: Instant) {
        let over = |dialing: &Dialing| dialing.dial.deadline <= now || dialing.dial.reply.is_closed();
        while let Some(id) = self.dials.iter().find(|(_, dialing)| over(dialing)).map(|(&id, _)| id) {
            let named = self.dials.get(&id).is_some_and(|dialing| dialing.dial.remotes.is_none());
            self.end(id, if named { DialError::Unresolved } else { DialError::Timeout });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = |dialing: &Dialing| {
            let more = dialing.dial.remotes.as_ref().is_some_and(|remotes| !remotes.is_empty());
            dialing.next.filter(|_| more).map_or(dialing.dial.deadline, |at| at.min(dialing.dial.deadline))
        };
        self.dials.values().map(next).min()
    }

    fn end(&mut self, id: u64, error: DialError) {
        if let Some(dialing) = self.dials.remove(&id) {
            let _ = dialing.dial.reply.send(Err(error));
            self.abandon(id);
        }
    }

    fn abandon(&mut self, id: u64) {
        let gone = self.attempts.extract_if(|_, (dial, _)| *dial == id).map(|(tag, _)| tag);
        self.abandoned.extend(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::call::ConnectionUp;
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
}

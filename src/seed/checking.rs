//! Requests that wait for a check of their payload, and peers that report a bad proof.

use super::app::Seed;
use super::checks::Urgency;
use super::scrub::OnScrubbed;
use super::{CheckResult, Store, StoreError};
use crate::limits::{HINT_INTERVAL_S, HINTS_BURST, SERVED_LEN_MAX};
use crate::queue::{AppPort, ConnectionId, Delivery, RequestId, Waker};
use crate::record::{Put, Request};
use crate::tls::NodeId;
use crate::token::AnyToken;
use crate::token_bucket::TokenBucket;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// The most peers whose hints are counted separately.
const HINTERS_LEN_MAX: usize = 1024;

/// What was checked and found, and what counts the request that waits for it.
type CheckEnd = (AnyToken, CheckResult, Option<Arc<()>>);

/// The checks that one seed instance asked for.
pub(super) struct Checking {
    done: Sender<CheckEnd>,
    results: Receiver<CheckEnd>,
    waiting: Vec<(AnyToken, RequestId, Delivery)>,
    /// The node at the other end of each connection.
    nodes: HashMap<ConnectionId, NodeId>,
    /// Answers that have ended, the newest last.
    served: VecDeque<(RequestId, AnyToken)>,
    /// The hints that each peer may still give. All peers without a certificate share one entry.
    hints: HashMap<Option<NodeId>, TokenBucket>,
}

impl Default for Checking {
    fn default() -> Self {
        let (done, results) = channel();
        Self {
            done,
            results,
            waiting: Vec::new(),
            nodes: HashMap::default(),
            served: VecDeque::new(),
            hints: HashMap::default(),
        }
    }
}

impl Checking {
    pub(super) fn connected(&mut self, connection: ConnectionId, node: NodeId) {
        self.nodes.insert(connection, node);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.nodes.remove(&connection);
        self.waiting.retain(|(_, request, _)| request.connection != connection);
        self.served.retain(|(request, _)| request.connection != connection);
    }

    /// Checks `token`, and holds the request back until then.
    pub(super) fn wait(
        &mut self,
        store: &Store,
        now: Instant,
        waker: Waker,
        token: AnyToken,
        (request, delivery): (RequestId, Delivery),
    ) {
        let is_asked = self.waiting.iter().any(|(asked, ..)| *asked == token);
        self.waiting.push((token, request, delivery));
        if !is_asked {
            self.check(store, now, waker, token, Urgency::RequestWaits);
        }
    }

    /// Checks `token` when there is time.
    pub(super) fn look_into(&self, store: &Store, now: Instant, waker: Waker, token: AnyToken) {
        if !store.is_fresh(token, now) {
            self.check(store, now, waker, token, Urgency::Background);
        }
    }

    fn check(&self, store: &Store, now: Instant, waker: Waker, token: AnyToken, urgency: Urgency) {
        let done = self.done.clone();
        let waits = (urgency == Urgency::RequestWaits).then(|| store.wait());
        store.check(token, now, urgency, move |token, found| {
            // Sending fails only if this instance has ended.
            let _ = done.send((token, found, waits));
            waker.wake();
        });
    }

    /// Takes what the scrub finds damaged, as if a check of it had been asked for.
    pub(super) fn on_scrubbed(&self, waker: Waker) -> OnScrubbed {
        let done = self.done.clone();
        Box::new(move |token, found| {
            // Sending fails only if this instance has ended.
            let _ = done.send((token, found, None));
            waker.wake();
        })
    }

    /// Remembers an answer that was sent completely.
    pub(super) fn served(&mut self, request: RequestId, token: AnyToken) {
        if self.served.len() == SERVED_LEN_MAX {
            self.served.pop_front();
        }
        self.served.push_back((request, token));
    }

    /// The token of an answer that has ended.
    pub(super) fn token_of(&self, request: RequestId) -> Option<AnyToken> {
        self.served.iter().rev().find(|(served, _)| *served == request).map(|(_, token)| *token)
    }

    /// Whether this peer may cause another check by reporting a bad proof. A peer that lies can cause only a few checks, and none of a
    /// payload that was checked lately.
    pub(super) fn takes_hint(&mut self, now: Instant, request: RequestId) -> bool {
        let peer = self.nodes.get(&request.connection).copied();
        if self.hints.len() >= HINTERS_LEN_MAX && !self.hints.contains_key(&peer) {
            self.hints.clear();
        }
        let each = Duration::from_secs(HINT_INTERVAL_S.into());
        self.hints.entry(peer).or_insert_with(|| TokenBucket::every(each, HINTS_BURST)).take(now)
    }

    /// The requests that wait for a check.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().map(|(_, request, _)| *request)
    }

    /// Forgets a request that was given up.
    pub(super) fn abandon(&mut self, request: RequestId) {
        self.waiting.retain(|(_, waiting, _)| *waiting != request);
    }

    /// The next finished check, with the requests that waited for it.
    pub(super) fn poll(&mut self) -> Option<(AnyToken, CheckResult, Vec<Delivery>)> {
        let (token, found, _waits) = self.results.try_recv().ok()?;
        let waited = self.waiting.extract_if(.., |(asked, ..)| *asked == token);
        Some((token, found, waited.map(|(.., delivery)| delivery).collect()))
    }
}

fn is_fetch(delivery: &Delivery) -> bool {
    matches!(delivery, Delivery::Asked(_, asked) if matches!(asked.request, Request::Fetch(_)))
}

/// The first token that the request would have kept, is held already, and was not checked lately.
pub(super) fn unchecked(store: &Store, now: Instant, request: &Request) -> Option<AnyToken> {
    let tokens = match request {
        Request::Put(Put { descriptor, lanes: None, .. }) => vec![AnyToken::from(descriptor.content())],
        Request::Put(Put { descriptor, .. }) => {
            let blobs = [Some(descriptor.content()), descriptor.parity_token()];
            let blobs = blobs.into_iter().flatten().map(AnyToken::from);
            std::iter::once(descriptor.set_token().into()).chain(blobs).collect()
        }
        Request::Mirror(mirror) => vec![mirror.token],
        _ => return None,
    };
    let is_unchecked = |token: &AnyToken| store.holding(token).is_some() && !store.is_fresh(*token, now);
    tokens.into_iter().find(is_unchecked)
}

impl Seed {
    /// Notes that a peer reports a bad proof in an answer.
    pub(super) fn hinted(&mut self, now: Instant, port: &AppPort, request: RequestId) {
        let token = self.servings.token_of(request).or_else(|| self.checking.token_of(request));
        if let Some(token) = token
            && self.checking.takes_hint(now, request)
        {
            tracing::warn!(%token, "a peer reports a bad proof in an answer of this store");
            self.checking.look_into(&self.parts.store, now, port.waker(), token);
        }
    }

    /// Continues requests whose checks have ended.
    pub(super) fn take_checks(&mut self, now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some((token, found, deliveries)) = self.checking.poll() {
            worked = true;
            if let AnyToken::Content(token) = token {
                // The blocks in memory may differ from the disk.
                self.parts.memory.forget(&token);
            }
            if found == CheckResult::Damaged {
                self.repairs.hurry();
            }
            let (fetches, others): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_fetch);
            match found {
                // The check is fresh from now on, however long it took.
                CheckResult::Whole if !(fetches.is_empty() && others.is_empty()) => {
                    self.parts.store.note_whole(token, now);
                }
                CheckResult::Unreadable if !others.is_empty() => {
                    self.parts.store.give_up(&token, "it cannot be read, and was put again");
                }
                _ => {}
            }
            for delivery in fetches {
                match (found, delivery) {
                    (CheckResult::Unreadable, Delivery::Asked(request, _)) => {
                        self.refuse_store(port, request, &StoreError::Damaged(token));
                    }
                    (_, delivery) => self.deliver(now, port, delivery),
                }
            }
            others.into_iter().for_each(|delivery| self.deliver(now, port, delivery));
        }
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_few_hints_and_then_one_an_interval_on_all_its_connections_together() {
        let connection = |slot| ConnectionId { worker: 0, slot, generation: 1 };
        let request = |slot| RequestId::peer(connection(slot), 4);
        let (mut checking, now) = (Checking::default(), Instant::now());
        for (slot, node) in [(1, 1), (2, 1), (3, 2)] {
            checking.connected(connection(slot), NodeId([node; 32]));
        }
        let taken = (0..100).filter(|number| checking.takes_hint(now, request(1 + number % 2))).count();
        assert_eq!(taken, HINTS_BURST as usize);
        assert!(checking.takes_hint(now, request(3)), "others have their own");
        let later = now + Duration::from_secs(HINT_INTERVAL_S.into());
        assert_eq!((0..100).filter(|_| checking.takes_hint(later, request(1))).count(), 1);
        // Peers without a certificate share one count.
        let taken = (10..100).filter(|slot| checking.takes_hint(now, request(*slot))).count();
        assert_eq!(taken, HINTS_BURST as usize);
    }

    #[test]
    fn answers_that_are_over_are_remembered_up_to_a_bound() {
        let request = |number| RequestId::peer(ConnectionId { worker: 0, slot: 1, generation: 1 }, number);
        let token = |number: u64| AnyToken::from(crate::token::Token::of(&number.to_le_bytes()));
        let mut checking = Checking::default();
        for number in 0..=SERVED_LEN_MAX as u64 {
            checking.served(request(number), token(number));
        }
        assert_eq!(checking.token_of(request(0)), None);
        assert_eq!(checking.token_of(request(7)), Some(token(7)));
        checking.closed(request(7).connection);
        assert_eq!(checking.token_of(request(7)), None);
    }
}

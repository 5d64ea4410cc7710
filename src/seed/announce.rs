//! Announces the store's holdings to peer gateways (protocol §6): all of them once, then each change.

use super::{Holding, HoldingChange, Store};
use crate::limits::{
    ANNOUNCE_INTERVAL_MS, ANNOUNCE_PAGE_LEN, DIRECTORY_LEN_MAX, HAVE_BURST, HAVE_RATE_PER_S,
};
use crate::queue::{AppPort, Command, ConnectionCommand, ConnectionId};
use crate::record::{Coverage, Have};
use crate::token::AnyToken;
use crate::token_bucket::TokenBucket;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The announcements of one store to its peer gateways.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    listeners: Vec<Listener>,
    due: Option<Instant>,
}

/// One peer gateway that gets the announcements: the newest holding first, and at most [`DIRECTORY_LEN_MAX`] holdings, which is all that it
/// notes. For a newer one beyond them the oldest is withdrawn.
#[derive(Debug)]
struct Listener {
    connection: ConnectionId,
    /// The sequence number of the last change that it was told; `None`: it was told nothing yet.
    told: Option<u64>,
    waiting: Newest,
    /// The use before which older holdings are still to be read from the store.
    older: Option<u64>,
    /// The holdings that it was told of.
    said: Newest,
    rate: TokenBucket,
}

/// Tokens, each once, in the order of their last change.
#[derive(Debug)]
struct Newest {
    by_age: BTreeMap<u64, AnyToken>,
    /// Keyed hashing: peers choose tokens.
    ages: HashMap<AnyToken, u64>,
    /// The ages of the newest and of the oldest that was ever there.
    next: u64,
    first: u64,
}

impl Default for Newest {
    fn default() -> Self {
        Self { by_age: BTreeMap::new(), ages: HashMap::default(), next: 1 << 63, first: 1 << 63 }
    }
}

impl Newest {
    fn push(&mut self, token: AnyToken) {
        self.next += 1;
        self.insert(self.next, token);
    }

    /// Adds one that is older than all that were ever there.
    fn push_older(&mut self, token: AnyToken) {
        self.first -= 1;
        self.insert(self.first, token);
    }

    fn insert(&mut self, age: u64, token: AnyToken) {
        self.remove(&token);
        self.by_age.insert(age, token);
        self.ages.insert(token, age);
    }

    fn remove(&mut self, token: &AnyToken) -> bool {
        let age = self.ages.remove(token);
        age.is_some_and(|age| self.by_age.remove(&age).is_some())
    }

    fn oldest(&self) -> Option<(u64, AnyToken)> {
        self.by_age.first_key_value().map(|(age, token)| (*age, *token))
    }

    fn pop_newest(&mut self) {
        if let Some((_, token)) = self.by_age.pop_last() {
            self.ages.remove(&token);
        }
    }
}

impl Announcer {
    pub(super) fn connected(&mut self, connection: ConnectionId, now: Instant) {
        // Half of the rate that a peer allows: a clock that runs a little fast never exceeds it.
        let rate = TokenBucket::new(HAVE_RATE_PER_S / 2, HAVE_BURST / 2);
        self.listeners.push(Listener {
            connection,
            told: None,
            waiting: Newest::default(),
            older: None,
            said: Newest::default(),
            rate,
        });
        self.due = Some(now);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.listeners.retain(|listener| listener.connection != connection);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.filter(|_| !self.listeners.is_empty())
    }

    /// Whether it is time to look for changes.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.listeners.is_empty() && self.due.is_some_and(|due| due <= now)
    }

    /// Announces the changes. Returns whether any HAVE was sent.
    pub(super) fn poll(&mut self, now: Instant, now_s: u64, store: &Store, port: &mut AppPort) -> bool {
        if !self.is_due(now) {
            return false;
        }
        self.due = Some(now + Duration::from_millis(ANNOUNCE_INTERVAL_MS));
        let mut said = false;
        for listener in &mut self.listeners {
            listener.look(store);
            while port.room() > 0
                && !listener.waiting.by_age.is_empty()
                && listener.rate.take(now)
                && let Some(have) = listener.next(store, now_s)
            {
                said = true;
                let connection = listener.connection;
                // The ring has room, and only this application pushes to it.
                let _ = port.send(Command::On(connection, ConnectionCommand::Have(Box::new(have))));
            }
        }
        said
    }
}

impl Listener {
    /// Takes the changes of the store. The work is that of the changes, however many tokens wait.
    fn look(&mut self, store: &Store) {
        let changes = self.told.map(|told| store.changes_after(told)).filter(|changes| changes.complete);
        match changes {
            Some(changes) => {
                self.told = Some(changes.newest);
                for change in changes.changes {
                    match change {
                        HoldingChange::Holds(holding) => self.waiting.push(holding.token),
                        HoldingChange::Gone(token) if self.said.ages.contains_key(&token) => {
                            self.waiting.push(token);
                        }
                        HoldingChange::Gone(token) => drop(self.waiting.remove(&token)),
                    }
                }
            }
            None => {
                self.told = Some(store.newest_change());
                self.older = Some(u64::MAX);
                // What was told and is gone is withdrawn.
                let told = self.said.by_age.values().copied().collect::<Vec<_>>();
                told.into_iter().for_each(|token| self.waiting.push(token));
            }
        }
        self.look_back(store);
    }

    /// Reads the next page of older holdings, once most of the last one were told. A peer notes no more than a bound of them.
    fn look_back(&mut self, store: &Store) {
        if self.said.by_age.len() >= DIRECTORY_LEN_MAX {
            self.older = None;
        }
        let Some(before) = self.older.filter(|_| self.waiting.by_age.len() < ANNOUNCE_PAGE_LEN) else {
            return;
        };
        let page = store.latest_before(before, ANNOUNCE_PAGE_LEN);
        self.older = page.last().map(|(used, _)| *used);
        for (_, token) in page {
            if !self.said.ages.contains_key(&token) && !self.waiting.ages.contains_key(&token) {
                self.waiting.push_older(token);
            }
        }
    }

    /// The next announcement: of the token that changed last, as it is held now.
    fn next(&mut self, store: &Store, now_s: u64) -> Option<Have> {
        loop {
            let (&age, &token) = self.waiting.by_age.last_key_value()?;
            let holding = store.holding(&token);
            let gone = |token| Have { token, coverage: Coverage::None, lease_s: 0 };
            let Some(holding) = holding else {
                self.waiting.pop_newest();
                if self.said.remove(&token) {
                    return Some(gone(token));
                }
                continue;
            };
            if self.said.by_age.len() >= DIRECTORY_LEN_MAX && !self.said.ages.contains_key(&token) {
                let (oldest_age, oldest) = self.said.oldest()?;
                if age < oldest_age {
                    // All that fit are newer.
                    self.waiting.pop_newest();
                    continue;
                }
                self.said.remove(&oldest);
                return Some(gone(oldest));
            }
            self.waiting.pop_newest();
            self.said.insert(age, token);
            return Some(have(&holding, now_s));
        }
    }
}

fn have(holding: &Holding, now_s: u64) -> Have {
    let lease_s = holding.expires_s.map_or(0, |at| at.saturating_sub(now_s).max(1));
    Have { token: holding.token, coverage: holding.coverage, lease_s }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Lease, Store, StoreConfig};
    use crate::token::Token;

    fn put(store: &Store, number: u32) -> AnyToken {
        let data = number.to_le_bytes();
        let token = Token::of(&data);
        let mut writer = store.begin(token, 4, Lease::default(), 0).unwrap();
        let piece = crate::token::VerifiedPiece { offset: 0, data: data.to_vec().into(), proofs: Vec::new() };
        writer.write(&piece).unwrap();
        writer.commit().unwrap();
        token.into()
    }

    fn listener() -> Listener {
        let connection = ConnectionId { worker: 0, slot: 1, generation: 1 };
        let rate = TokenBucket::new(1, 1);
        Listener {
            connection,
            told: None,
            waiting: Newest::default(),
            older: None,
            said: Newest::default(),
            rate,
        }
    }

    fn all(listener: &mut Listener, store: &Store) -> Vec<(AnyToken, bool)> {
        listener.look(store);
        let told = std::iter::from_fn(|| listener.next(store, 0));
        told.map(|have| (have.token, have.coverage != Coverage::None)).collect()
    }

    #[test]
    fn the_newest_holding_is_announced_first_and_each_change_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let mut tokens: Vec<_> = (0..5).map(|number| put(&store, number)).collect();
        let mut listener = listener();
        tokens.reverse();
        assert_eq!(all(&mut listener, &store), tokens.iter().map(|token| (*token, true)).collect::<Vec<_>>());
        assert_eq!(all(&mut listener, &store), []);
        // A later one does not wait for those before it.
        let waiting: Vec<_> = (10..20).map(|number| put(&store, number)).collect();
        listener.look(&store);
        let latest = put(&store, 20);
        listener.look(&store);
        assert_eq!(listener.next(&store, 0).unwrap().token, latest);
        // One that went before it was told is not told.
        store.remove(waiting[9]).unwrap();
        store.remove(tokens[0]).unwrap();
        let told = all(&mut listener, &store);
        assert_eq!((told.len(), told[0]), (10, (tokens[0], false)));
        assert!(!told.iter().any(|(token, _)| *token == waiting[9]));
    }

    #[test]
    fn no_more_is_announced_than_a_peer_gateway_notes_and_the_oldest_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let oldest = put(&store, 0);
        let old = put(&store, 1);
        let mut listener = listener();
        all(&mut listener, &store);
        // As if as many had been told as fit.
        for number in 0..DIRECTORY_LEN_MAX as u64 - 2 {
            listener.waiting.push(Token::of(&number.to_le_bytes()).into());
            let (&age, &token) = listener.waiting.by_age.last_key_value().unwrap();
            listener.waiting.pop_newest();
            listener.said.insert(age, token);
        }
        let new = put(&store, 2);
        assert_eq!(all(&mut listener, &store), [(oldest, false), (new, true)]);
        assert_eq!(listener.said.by_age.len(), DIRECTORY_LEN_MAX);
        // One that is older than all of them is not told at all.
        listener.waiting.insert(0, oldest);
        assert_eq!(listener.next(&store, 0), None);
        assert!(listener.said.ages.contains_key(&old));
    }
}

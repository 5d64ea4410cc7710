//! Announces the store's holdings to peer gateways (protocol §6): all of them once, then each change.

use super::{Holding, HoldingChange, Store};
use crate::limits::{ANNOUNCE_INTERVAL_MS, HAVE_BURST, HAVE_RATE_PER_S};
use crate::queue::{AppPort, Command, ConnectionCommand, ConnectionId};
use crate::record::{Coverage, Have};
use crate::token_bucket::TokenBucket;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The announcements of one store to its peer gateways.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    listeners: Vec<Listener>,
    due: Option<Instant>,
}

/// One peer gateway that gets the announcements.
#[derive(Debug)]
struct Listener {
    connection: ConnectionId,
    /// The sequence number of the last change that it was told; `None`: it was told nothing yet.
    told: Option<u64>,
    waiting: VecDeque<Have>,
    rate: TokenBucket,
}

impl Announcer {
    pub(super) fn connected(&mut self, connection: ConnectionId, now: Instant) {
        // Half of the rate that a peer allows: a clock that runs a little fast never exceeds it.
        let rate = TokenBucket::new(HAVE_RATE_PER_S / 2, HAVE_BURST / 2);
        self.listeners.push(Listener { connection, told: None, waiting: VecDeque::new(), rate });
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
            listener.look(store, now_s);
            while !listener.waiting.is_empty()
                && port.room() > 0
                && listener.rate.take(now)
                && let Some(have) = listener.waiting.pop_front()
            {
                said = true;
                let connection = listener.connection;
                // The ring has room, and only this application pushes to it.
                let _ = port.send(Command::On(connection, ConnectionCommand::Have(have)));
            }
        }
        said
    }
}

impl Listener {
    fn look(&mut self, store: &Store, now_s: u64) {
        let changes = self.told.map(|told| store.changes_after(told)).filter(|changes| changes.complete);
        match changes {
            Some(changes) => {
                self.told = Some(changes.newest);
                for change in changes.changes {
                    let have = match change {
                        HoldingChange::Holds(holding) => have(&holding, now_s),
                        HoldingChange::Gone(token) => Have { token, coverage: Coverage::None, lease_s: 0 },
                    };
                    // A HAVE of the same token that still waits is out of date.
                    self.waiting.retain(|waiting| waiting.token != have.token);
                    self.waiting.push_back(have);
                }
            }
            None => {
                let (sequence, holdings) = store.holdings();
                self.told = Some(sequence);
                self.waiting = holdings.iter().map(|holding| have(holding, now_s)).collect();
            }
        }
    }
}

fn have(holding: &Holding, now_s: u64) -> Have {
    let lease_s = holding.expires_s.map_or(0, |at| at.saturating_sub(now_s).max(1));
    Have { token: holding.token, coverage: holding.coverage, lease_s }
}

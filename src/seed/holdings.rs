//! The holdings of a store as others learn of them: one, in pages, and their changes.

use super::database::StoreTable;
use super::entry::{self, EntryBody, IndexEntry};
use super::index::Index;
use super::store::Store;
use crate::limits::STORE_BATCH_LEN;
use crate::record::Coverage;
use crate::token::{AnyToken, TOKEN_BYTES, Token};
use std::collections::HashSet;

/// A payload or set that a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// Its token.
    pub token: AnyToken,
    /// How much of it is held.
    pub coverage: Coverage,
    /// When its lease ends, seconds since the Unix epoch; `None`: never.
    pub expires_s: Option<u64>,
}

/// A change of a store's holdings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldingChange {
    /// It is held, this much of it.
    Holds(Holding),
    /// It is no longer held.
    Gone(AnyToken),
}

/// The changes since a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldingChanges {
    /// The sequence number of the newest change, for the next call.
    pub newest: u64,
    /// Each changed payload or set, once, in its present state.
    pub changes: Vec<HoldingChange>,
    /// False if the sequence number is too old: begin anew with [`super::Store::holdings`].
    pub complete: bool,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// Payloads and sets.
    pub entries: u64,
    /// Leases that end.
    pub leases: u64,
    /// Entries that are only cached.
    pub cached: u64,
    /// Bytes of the cached entries.
    pub cached_bytes: u64,
    /// Bytes of disk that all entries take, and those taken for entries that are being written.
    pub usage_bytes: u64,
    /// Payloads and blobs that are being written.
    pub unfinished: u64,
}

impl Index {
    pub(super) fn census(&self) -> Census {
        Census {
            entries: self.sums.entries,
            leases: self.sums.ends,
            cached: self.sums.cached,
            cached_bytes: self.sums.cached_bytes,
            usage_bytes: self.accounts.usage_bytes(),
            unfinished: self.accounts.unfinished(),
        }
    }

    /// The number of the newest change.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Holdings in the order of their tokens, those after `after`, at most `len`.
    pub(super) fn holdings_after(&self, after: Option<&AnyToken>, len: usize) -> Vec<(Holding, EntryBody)> {
        let mut found = Vec::new();
        // Behind the token come its leases: no account begins with 0xff.
        let mut from = after.map_or(Vec::new(), |token| [&token.to_bytes()[..], &[0xff]].concat());
        while found.len() < len
            && let Some((key, value)) = self.rows.next(StoreTable::Holdings, &from)
        {
            if key.len() == TOKEN_BYTES
                && let (Ok(token), Some(entry)) = (AnyToken::from_slice(&key), IndexEntry::parse(&value))
            {
                let entry = IndexEntry { lease: self.of_now(entry.lease), ..entry };
                found.push((self.holding(token, &entry), entry.body));
            }
            from = key;
            from.push(0xff);
        }
        found
    }

    /// The holdings that were put or used last before the use with the number `before`, the latest first, at most `len`, with the numbers of
    /// their uses.
    pub(super) fn latest_before(&self, before: u64, len: usize) -> Vec<(u64, AnyToken)> {
        let next = |cached: bool, before: u64| {
            let (key, token) = self.rows.previous(StoreTable::Ages, &entry::age_key(cached, before))?;
            Some((entry::parse_age(&key, cached)?, AnyToken::from_slice(&token).ok()?))
        };
        let mut found = Vec::new();
        let (mut kept, mut cached) = (next(false, before), next(true, before));
        while found.len() < len {
            let latest = if kept.map(|(used, _)| used) >= cached.map(|(used, _)| used) {
                kept.inspect(|(used, _)| kept = next(false, *used))
            } else {
                cached.inspect(|(used, _)| cached = next(true, *used))
            };
            let Some(latest) = latest else { break };
            found.push(latest);
        }
        found
    }

    pub(super) fn holding_of(&self, token: &AnyToken) -> Option<Holding> {
        self.get(token).map(|entry| self.holding(*token, &entry))
    }

    pub(super) fn holding(&self, token: AnyToken, entry: &IndexEntry) -> Holding {
        let coverage = match entry.body {
            EntryBody::Payload { .. } => Coverage::All,
            EntryBody::Set(set) => match self.lanes(&set.descriptor, set.own) {
                lanes if lanes == set.descriptor.lanes() => Coverage::All,
                lanes => Coverage::Lanes(lanes),
            },
        };
        Holding { token, coverage, expires_s: entry.lease.expires_s }
    }

    pub(super) fn changes_after(&self, sequence: u64) -> HoldingChanges {
        let newest = self.sequence;
        let count = newest.checked_sub(sequence).filter(|&count| count <= self.journal.len() as u64);
        let Some(count) = count else {
            return HoldingChanges { newest, changes: Vec::new(), complete: false };
        };
        let mut seen = HashSet::new();
        let changed = self.journal.iter().skip(self.journal.len() - count as usize);
        let changes = changed.filter(|token| seen.insert(**token)).map(|token| {
            let entry = self.get(token);
            entry.map_or(HoldingChange::Gone(*token), |entry| {
                HoldingChange::Holds(self.holding(*token, &entry))
            })
        });
        HoldingChanges { newest, changes: changes.collect(), complete: true }
    }
}

impl Store {
    /// Every payload held whole, with its length in bytes. It takes memory for each.
    pub fn list(&self) -> Vec<(Token, u64)> {
        let mut payloads = Vec::new();
        self.each(|holding, body| {
            if let (AnyToken::Content(token), EntryBody::Payload { length, .. }) = (holding.token, body) {
                payloads.push((token, length));
            }
        });
        payloads
    }

    /// All holdings, and the sequence number for [`Store::changes_after`]. It takes memory for each: [`Store::holdings_after`] gives pages.
    pub fn holdings(&self) -> (u64, Vec<Holding>) {
        let sequence = self.newest_change();
        let mut holdings = Vec::new();
        self.each(|holding, _| holdings.push(holding));
        (sequence, holdings)
    }

    fn each(&self, mut take: impl FnMut(Holding, EntryBody)) {
        let mut last = None;
        loop {
            let page = self.inner.index().holdings_after(last.as_ref(), STORE_BATCH_LEN);
            let Some((holding, _)) = page.last() else { return };
            last = Some(holding.token);
            page.into_iter().for_each(|(holding, body)| take(holding, body));
        }
    }

    /// At most `len` holdings after `after`, or from the first on, in the order of their tokens.
    pub fn holdings_after(&self, after: Option<&AnyToken>, len: usize) -> Vec<Holding> {
        let page = self.inner.index().holdings_after(after, len);
        page.into_iter().map(|(holding, _)| holding).collect()
    }

    /// At most `len` holdings that were put or used last before the use with the number `before`, the latest first, with the numbers of their
    /// uses: [`u64::MAX`] begins with the latest of all.
    pub(super) fn latest_before(&self, before: u64, len: usize) -> Vec<(u64, AnyToken)> {
        self.inner.index().latest_before(before, len)
    }

    /// The sequence number of the newest change, for [`Store::changes_after`].
    pub(super) fn newest_change(&self) -> u64 {
        self.inner.index().sequence()
    }
}

//! The index of a store's holdings, in memory: their owners, their leases, and the changes.

use super::accounts::{Accounts, Need, Shortage, StoreAccount};
use super::blocks::Blocks;
use super::config::StoreConfig;
use super::lease::Lease;
use crate::limits::{BAD_SETS_LEN_MAX, STORE_CHANGES_LEN_MAX};
use crate::record::Coverage;
use crate::shard::{Descriptor, Lanes};
use crate::token::{AnyToken, SetToken, Token};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

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
    /// Entries whose lease ends.
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

/// An entry's kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryBody {
    /// A whole payload.
    Payload { length: u64 },
    /// Lanes of a set.
    Set(SetBody),
}

/// The part of an entry that only sets have.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetBody {
    pub(super) descriptor: Descriptor,
    /// Lanes in the set's own files. The set also holds the lanes of those of its blobs that are held whole.
    pub(super) own: Lanes,
    /// A number that changes each time the files change, never 0.
    pub(super) generation: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct IndexEntry {
    pub(super) lease: Lease,
    /// Its share of the capacity, bytes.
    pub(super) bytes: u64,
    pub(super) body: EntryBody,
    used: u64,
}

/// See the module. It never touches the disk.
#[derive(Debug)]
pub(super) struct Index {
    config: StoreConfig,
    entries: HashMap<AnyToken, IndexEntry>,
    /// The size of what entries take on the disk.
    pub(super) blocks: Blocks,
    /// What the entries take, and the entries that are being written.
    accounts: Accounts,
    cached_bytes: u64,
    expiries: BTreeSet<(u64, AnyToken)>,
    /// Cached entries, by the time of their last use.
    uses: BTreeMap<u64, AnyToken>,
    clock: u64,
    /// The sets of which this payload is a blob.
    sets_of: HashMap<Token, BTreeSet<SetToken>>,
    /// The latest changes; the newest has the number `sequence`.
    journal: VecDeque<AnyToken>,
    sequence: u64,
    bad: HashSet<SetToken>,
    bad_order: VecDeque<SetToken>,
}

impl Index {
    pub(super) fn new(config: StoreConfig, blocks: Blocks) -> Self {
        Self {
            config,
            entries: HashMap::default(),
            blocks,
            accounts: Accounts::default(),
            cached_bytes: 0,
            expiries: BTreeSet::new(),
            uses: BTreeMap::new(),
            clock: 0,
            sets_of: HashMap::default(),
            journal: VecDeque::new(),
            // Entries found at the start are not in the journal: a reader that asks for changes after 0 must begin anew.
            sequence: 1,
            bad: HashSet::default(),
            bad_order: VecDeque::new(),
        }
    }

    pub(super) fn census(&self) -> Census {
        Census {
            entries: self.entries.len() as u64,
            leases: self.expiries.len() as u64,
            cached: self.uses.len() as u64,
            cached_bytes: self.cached_bytes,
            usage_bytes: self.accounts.usage_bytes(),
            unfinished: self.accounts.unfinished(),
        }
    }

    pub(super) fn config(&self) -> &StoreConfig {
        &self.config
    }

    pub(super) fn configure(&mut self, config: StoreConfig) {
        self.config = config;
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    pub(super) fn accounts_mut(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    pub(super) fn get(&self, token: &AnyToken) -> Option<&IndexEntry> {
        self.entries.get(token)
    }

    pub(super) fn set(&self, token: &SetToken) -> Option<SetBody> {
        match self.entries.get(&AnyToken::Set(*token))?.body {
            EntryBody::Set(set) => Some(set),
            EntryBody::Payload { .. } => None,
        }
    }

    /// Whether the payload is held whole.
    pub(super) fn has_payload(&self, token: &Token, length: u64) -> bool {
        let entry = self.entries.get(&AnyToken::Content(*token));
        entry.is_some_and(|entry| matches!(entry.body, EntryBody::Payload { length: held } if held == length))
    }

    pub(super) fn payloads(&self) -> impl Iterator<Item = (Token, u64)> + '_ {
        self.entries.iter().filter_map(|(token, entry)| match (token, entry.body) {
            (AnyToken::Content(token), EntryBody::Payload { length }) => Some((*token, length)),
            _ => None,
        })
    }

    /// The payloads held whole that are blobs of this set.
    pub(super) fn whole_blobs(&self, descriptor: &Descriptor) -> impl Iterator<Item = (Token, Lanes)> + '_ {
        let data = Lanes::first(descriptor.k().into());
        let content = (descriptor.content(), descriptor.length_bytes(), data);
        let (length, lanes) = (descriptor.parity_length(), descriptor.lanes().without(data));
        let parity = descriptor.parity_token().map(|token| (token, length, lanes));
        [Some(content), parity]
            .into_iter()
            .flatten()
            .filter(|(token, length, _)| self.has_payload(token, *length))
            .map(|(token, _, lanes)| (token, lanes))
    }

    /// The lanes held of a set whose own files have `own`.
    pub(super) fn lanes(&self, descriptor: &Descriptor, own: Lanes) -> Lanes {
        self.whole_blobs(descriptor).fold(own, |lanes, (_, more)| lanes.union(more))
    }

    /// The sets that hold nothing but blobs of this payload: they are removed with it.
    pub(super) fn emptied_sets(&self, token: &Token) -> Vec<SetToken> {
        let sets = self.sets_of.get(token).into_iter().flatten();
        let empty = |token: &&SetToken| {
            self.set(token).is_some_and(|set| self.lanes(&set.descriptor, set.own).is_empty())
        };
        sets.filter(empty).copied().collect()
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Inserts an entry, replacing an earlier one of the same token.
    pub(super) fn insert(&mut self, token: AnyToken, lease: Lease, bytes: u64, body: EntryBody) {
        let is_new = self.take_out(&token).is_none();
        self.clock += 1;
        let entry = IndexEntry { lease, bytes, body, used: self.clock };
        self.accounts.keep(StoreAccount::of(&lease), bytes);
        if lease.cached {
            self.cached_bytes = self.cached_bytes.saturating_add(bytes);
            self.uses.insert(entry.used, token);
        }
        if let Some(expires_s) = lease.expires_s {
            self.expiries.insert((expires_s, token));
        }
        if let (AnyToken::Set(set), EntryBody::Set(body)) = (token, body) {
            for blob in blobs(&body.descriptor) {
                self.sets_of.entry(blob).or_default().insert(set);
            }
        }
        self.entries.insert(token, entry);
        self.push_change(token);
        if is_new {
            self.note_sets_of(token);
        }
    }

    /// Removes an entry. Sets that lose lanes by it are noted as changed. The caller removes those in [`Index::emptied_sets`].
    pub(super) fn remove(&mut self, token: &AnyToken) -> Option<IndexEntry> {
        let entry = self.take_out(token)?;
        self.push_change(*token);
        self.note_sets_of(*token);
        Some(entry)
    }

    /// Changes an entry's lease.
    pub(super) fn set_lease(&mut self, token: &AnyToken, lease: Lease) {
        if let Some(IndexEntry { bytes, body, .. }) = self.entries.get(token).copied() {
            self.insert(*token, lease, bytes, body);
        }
    }

    /// Shifts the ends of leases of this epoch by this many seconds.
    pub(super) fn shift(&mut self, epoch: u32, by_s: u64) {
        let of_epoch = |(_, token): &&(u64, AnyToken)| {
            self.entries.get(token).is_some_and(|entry| entry.lease.clock == epoch)
        };
        let shifted: Vec<_> = self.expiries.iter().filter(of_epoch).copied().collect();
        for (expires_s, token) in shifted {
            let later_s = expires_s.saturating_add(by_s);
            if let Some(entry) = self.entries.get_mut(&token) {
                entry.lease.expires_s = Some(later_s);
                self.expiries.remove(&(expires_s, token));
                self.expiries.insert((later_s, token));
            }
        }
    }

    fn take_out(&mut self, token: &AnyToken) -> Option<IndexEntry> {
        let entry = self.entries.remove(token)?;
        self.accounts.give_up(&StoreAccount::of(&entry.lease), entry.bytes);
        if entry.lease.cached {
            self.cached_bytes = self.cached_bytes.saturating_sub(entry.bytes);
            self.uses.remove(&entry.used);
        }
        if let Some(expires_s) = entry.lease.expires_s {
            self.expiries.remove(&(expires_s, *token));
        }
        if let (AnyToken::Set(set), EntryBody::Set(body)) = (token, entry.body) {
            for blob in blobs(&body.descriptor) {
                if let Some(sets) = self.sets_of.get_mut(&blob) {
                    sets.remove(set);
                    if sets.is_empty() {
                        self.sets_of.remove(&blob);
                    }
                }
            }
        }
        Some(entry)
    }

    /// Notes that an entry was used.
    pub(super) fn touch(&mut self, token: &AnyToken) {
        let Some(entry) = self.entries.get_mut(token) else { return };
        self.clock += 1;
        if entry.lease.cached {
            self.uses.remove(&entry.used);
            self.uses.insert(self.clock, *token);
        }
        entry.used = self.clock;
    }

    /// Promises room to an entry that is to be written, if it would have it now: what may be removed at `now_s` counts as free.
    pub(super) fn promise(
        &mut self,
        need: Need,
        account: StoreAccount,
        disk_bytes: u64,
        now_s: u64,
    ) -> Result<(), Shortage> {
        let (config, cached) = (self.config, self.uses.len() as u64);
        let evictable = || {
            let kept = self.expired_until(now_s).filter(|(_, entry)| !entry.lease.cached).count() as u64;
            (self.evictable_bytes(now_s), cached + kept)
        };
        self.accounts.check_promise(need, account, &config, disk_bytes, evictable)?;
        self.accounts.promise(need, account);
        Ok(())
    }

    /// Takes bytes and entries of a promise.
    pub(super) fn take(&mut self, part: Need, account: StoreAccount) -> Result<(), Shortage> {
        self.accounts.take(part, account, &self.config)
    }

    /// Ends a promise, of which `taken` was taken.
    pub(super) fn release(&mut self, promised: Need, taken: Need, account: StoreAccount) {
        self.accounts.release(promised, taken, account);
    }

    /// Checks whether an account's quota has room for more.
    pub(super) fn check_quota(&self, need: Need, account: StoreAccount) -> Result<(), Shortage> {
        self.accounts.check_quota(need, account, &self.config)
    }

    /// The entry whose lease ended first, if one has ended; only of one account if given.
    pub(super) fn first_expired(&self, now_s: u64, of: Option<StoreAccount>) -> Option<AnyToken> {
        let mut expired = self.expired_until(now_s);
        let is_of = |entry: &IndexEntry| of.is_none_or(|account| StoreAccount::of(&entry.lease) == account);
        expired.find(|(_, entry)| is_of(entry)).map(|(token, _)| token)
    }

    /// The entries whose leases have ended, in the order of their ends.
    pub(super) fn expired(&self, now_s: u64) -> Vec<AnyToken> {
        self.expired_until(now_s).map(|(token, _)| token).collect()
    }

    fn expired_until(&self, now_s: u64) -> impl Iterator<Item = (AnyToken, &IndexEntry)> {
        let expired = self.expiries.iter().take_while(move |(expires_s, _)| *expires_s <= now_s);
        expired.filter_map(|(_, token)| Some((*token, self.entries.get(token)?)))
    }

    /// The cached entry whose last use is the oldest, of those that take room.
    pub(super) fn first_cached(&self) -> Option<AnyToken> {
        let takes_room = |token: &&AnyToken| self.entries.get(token).is_some_and(|entry| entry.bytes > 0);
        self.uses.values().find(takes_room).copied()
    }

    /// Bytes of the entries that may be removed at `now_s`: cached ones, and those whose leases have ended.
    pub(super) fn evictable_bytes(&self, now_s: u64) -> u64 {
        let kept = self.expired_until(now_s).filter(|(_, entry)| !entry.lease.cached);
        kept.fold(self.cached_bytes, |bytes, (_, entry)| bytes.saturating_add(entry.bytes))
    }

    pub(super) fn holdings(&self) -> (u64, Vec<Holding>) {
        let holdings = self.entries.iter().map(|(token, entry)| self.holding(*token, entry));
        (self.sequence, holdings.collect())
    }

    /// The tokens of all holdings, the one used last at the end.
    pub(super) fn holdings_by_age(&self) -> (u64, Vec<AnyToken>) {
        let mut tokens: Vec<_> = self.entries.iter().map(|(token, entry)| (entry.used, *token)).collect();
        tokens.sort_unstable();
        (self.sequence, tokens.into_iter().map(|(_, token)| token).collect())
    }

    pub(super) fn holding_of(&self, token: &AnyToken) -> Option<Holding> {
        self.entries.get(token).map(|entry| self.holding(*token, entry))
    }

    fn holding(&self, token: AnyToken, entry: &IndexEntry) -> Holding {
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
            let entry = self.entries.get(token);
            entry.map_or(HoldingChange::Gone(*token), |entry| {
                HoldingChange::Holds(self.holding(*token, entry))
            })
        });
        HoldingChanges { newest, changes: changes.collect(), complete: true }
    }

    /// Notes a change of the sets of which this payload is a blob: it came or went. There may be many, and a lease of the payload changes none.
    fn note_sets_of(&mut self, token: AnyToken) {
        if let AnyToken::Content(payload) = token {
            for set in self.sets_of.get(&payload).cloned().unwrap_or_default() {
                self.push_change(set.into());
            }
        }
    }

    fn push_change(&mut self, token: AnyToken) {
        if self.journal.len() == STORE_CHANGES_LEN_MAX {
            self.journal.pop_front();
        }
        self.journal.push_back(token);
        self.sequence += 1;
    }

    /// Clears the journal.
    pub(super) fn forget_changes(&mut self) {
        self.journal.clear();
    }

    pub(super) fn mark_bad(&mut self, token: SetToken) {
        if !self.bad.insert(token) {
            return;
        }
        self.bad_order.push_back(token);
        if self.bad_order.len() > BAD_SETS_LEN_MAX
            && let Some(oldest) = self.bad_order.pop_front()
        {
            self.bad.remove(&oldest);
        }
    }

    pub(super) fn is_bad(&self, token: &SetToken) -> bool {
        self.bad.contains(token)
    }
}

/// The tokens of a set's blobs.
fn blobs(descriptor: &Descriptor) -> impl Iterator<Item = Token> {
    // A payload that is its own parity is one blob.
    let parity = descriptor.parity_token().filter(|&parity| parity != descriptor.content());
    std::iter::once(descriptor.content()).chain(parity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_older_than_the_journal_are_forgotten() {
        let mut index = Index::new(StoreConfig::default(), Blocks::default());
        let token = AnyToken::from(Token::of(b"payload"));
        index.insert(token, Lease::until(Some(1), None), 7, EntryBody::Payload { length: 7 });
        let (start, _) = index.holdings();
        for second in 0..STORE_CHANGES_LEN_MAX as u64 {
            index.set_lease(&token, Lease::until(Some(2 + second), None));
        }
        let changes = index.changes_after(start);
        assert_eq!((changes.complete, changes.changes.len()), (true, 1));
        index.set_lease(&token, Lease::default());
        assert!(!index.changes_after(start).complete);
        assert!(index.changes_after(start + 1).complete);
        assert_eq!((index.accounts().usage_bytes(), index.evictable_bytes(u64::MAX)), (7, 0));
    }
}

//! The index of a store's holdings: their owners, their leases, and the changes. It lies in the rows of the store's database, and keeps in
//! memory only what is not committed yet.

use super::accounts::{Accounts, Need, StoreAccount};
use super::blocks::Blocks;
use super::config::StoreConfig;
use super::database::{Commit, Rows, SUMS_ROW, StoreTable, TAKEN_OVER_ROW};
use super::entry::{self, EntryBody, IndexEntry, PayloadPlace, SetBody, Sums};
use super::error::StoreError;
use super::lease::Lease;
use crate::limits::{BAD_SETS_LEN_MAX, STORE_CHANGES_LEN_MAX, TOUCHED_LEN_MAX};
use crate::shard::{Descriptor, Lanes};
use crate::tls::NodeId;
use crate::token::{AnyToken, SetToken, Token};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// See the module.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) config: StoreConfig,
    pub(super) rows: Rows,
    /// The size of what entries take on the disk.
    pub(super) blocks: Blocks,
    /// What the entries take, and the entries that are being written.
    pub(super) accounts: Accounts,
    pub(super) sums: Sums,
    /// The seconds by which the leases of an epoch end later than their rows say.
    shifts: BTreeMap<u32, u64>,
    /// Cached entries that were used since their rows were written, and when: at most [`TOUCHED_LEN_MAX`].
    pub(super) touched: HashMap<AnyToken, u64>,
    /// Files to be removed once the changes so far are committed.
    gone: Vec<String>,
    /// The latest changes; the newest has the number `sequence`.
    pub(super) journal: VecDeque<AnyToken>,
    pub(super) sequence: u64,
    bad: HashSet<SetToken>,
    bad_order: VecDeque<SetToken>,
}

impl Index {
    pub(super) fn new(config: StoreConfig, blocks: Blocks, rows: Rows, shifts: BTreeMap<u32, u64>) -> Self {
        let mut index = Self {
            config,
            rows,
            blocks,
            accounts: Accounts::default(),
            sums: Sums::default(),
            shifts,
            touched: HashMap::default(),
            gone: Vec::new(),
            journal: VecDeque::new(),
            // Entries found at the start are not in the journal: a reader that asks for changes after 0 must begin anew.
            sequence: 1,
            bad: HashSet::default(),
            bad_order: VecDeque::new(),
        };
        index.read_sums();
        index
    }

    fn read_sums(&mut self) {
        let sums = self.rows.get(StoreTable::Notes, SUMS_ROW).and_then(|row| Sums::parse(&row));
        self.set_sums(sums.unwrap_or_default());
    }

    pub(super) fn set_sums(&mut self, sums: Sums) {
        self.sums = sums;
        self.accounts.kept = Need { bytes: sums.bytes, entries: sums.leases, writes: 0 };
    }

    /// Begins a commit of all changes so far, and gives the files that may be removed after it; `None` if there is nothing to commit.
    pub(super) fn begin_commit(&mut self) -> Result<Option<(Commit, Vec<String>)>, StoreError> {
        if self.rows.is_changed() {
            self.rows.set(StoreTable::Notes, SUMS_ROW.to_vec(), self.sums.emit());
        }
        match self.rows.begin_commit() {
            Ok(commit) => Ok(commit.map(|commit| (commit, std::mem::take(&mut self.gone)))),
            Err(error) => {
                // What is not committed was lost, if a row could not be read.
                self.read_sums();
                Err(error)
            }
        }
    }

    /// Whether the files of a version without a database were taken over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.rows.get(StoreTable::Notes, TAKEN_OVER_ROW).is_some()
    }

    pub(super) fn note_taken_over(&mut self) {
        self.rows.set(StoreTable::Notes, TAKEN_OVER_ROW.to_vec(), Vec::new());
    }

    /// Notes files, by their paths in the store's directory, that are to be removed after the next commit, if no entry claims them then.
    pub(super) fn forget_files(&mut self, paths: impl IntoIterator<Item = String>) {
        for path in paths {
            self.rows.set(StoreTable::Gone, path.clone().into_bytes(), Vec::new());
            self.gone.push(path);
        }
    }

    /// Notes that a file of [`Index::forget_files`] was removed, or is claimed again.
    pub(super) fn note_removed(&mut self, path: &str) {
        self.rows.delete(StoreTable::Gone, path.as_bytes().to_vec());
    }

    /// A page of the files that are to be removed.
    pub(super) fn gone_after(&self, after: &str, len: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = after.as_bytes().to_vec();
        while found.len() < len
            && let Some((path, _)) = self.rows.next(StoreTable::Gone, &from)
        {
            from = [&path[..], &[0]].concat();
            found.extend(String::from_utf8(path));
        }
        found
    }

    /// Whether a file is to be removed.
    pub(super) fn is_gone(&self, path: &str) -> bool {
        self.rows.get(StoreTable::Gone, path.as_bytes()).is_some()
    }

    /// Whether files are to be removed after the next commit.
    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
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

    /// Bytes that are kept for `owner`, and those promised to its unfinished PUTs.
    pub(super) fn owned_bytes(&self, owner: &NodeId) -> u64 {
        let kept = self.kept(&StoreAccount::Node(*owner));
        kept.bytes.saturating_add(self.accounts.promised_bytes(owner))
    }

    pub(super) fn kept(&self, account: &StoreAccount) -> Need {
        let row = self.rows.get(StoreTable::Accounts, &entry::account_key(account));
        row.and_then(|row| entry::parse_need(&row)).unwrap_or_default()
    }

    pub(super) fn shift_s(&self, epoch: u32) -> u64 {
        self.shifts.get(&epoch).copied().unwrap_or_default()
    }

    /// A lease as its row has it, by the clock of now.
    pub(super) fn of_now(&self, row: Lease) -> Lease {
        let shift_s = self.shift_s(row.clock);
        Lease { expires_s: row.expires_s.map(|at| at.saturating_add(shift_s)), ..row }
    }

    /// The reverse.
    pub(super) fn as_row(&self, lease: Lease) -> Lease {
        let shift_s = self.shift_s(lease.clock);
        Lease { expires_s: lease.expires_s.map(|at| at.saturating_sub(shift_s)), ..lease }
    }

    pub(super) fn get(&self, token: &AnyToken) -> Option<IndexEntry> {
        let row = self.rows.get(StoreTable::Holdings, &token.to_bytes())?;
        let entry = IndexEntry::parse(&row)?;
        Some(IndexEntry { lease: self.of_now(entry.lease), ..entry })
    }

    /// The leases of an entry, the longest first.
    pub(super) fn leases(&self, token: &AnyToken) -> Vec<Lease> {
        let Some(entry) = self.get(token) else { return Vec::new() };
        let mut leases = vec![entry.lease];
        // Accounts are behind the token itself.
        let mut from = [&token.to_bytes()[..], &[0]].concat();
        for _ in 0..entry.others {
            let Some(row) = self.rows.next(StoreTable::Holdings, &from) else { break };
            let Some(lease) = entry::parse_lease(token, &row) else { break };
            leases.push(self.of_now(lease));
            from = row.0;
            from.push(0);
        }
        leases
    }

    pub(super) fn set(&self, token: &SetToken) -> Option<SetBody> {
        match self.get(&AnyToken::Set(*token))?.body {
            EntryBody::Set(set) => Some(set),
            EntryBody::Payload { .. } => None,
        }
    }

    /// Whether the payload is held whole.
    pub(super) fn has_payload(&self, token: &Token, length: u64) -> bool {
        let entry = self.get(&AnyToken::Content(*token));
        entry.is_some_and(|entry| matches!(entry.body, EntryBody::Payload { length: of, .. } if of == length))
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

    /// The sets of which a payload is a blob.
    fn sets_of(&self, blob: &Token) -> Vec<SetToken> {
        let mut sets = Vec::new();
        let mut from = blob.root().to_vec();
        while let Some((key, _)) = self.rows.next(StoreTable::Sets, &from)
            && let Some(set) = entry::parse_blob(blob, &key)
        {
            sets.push(set);
            from = key;
            from.push(0);
        }
        sets
    }

    /// The sets that hold nothing but blobs of this payload: they are removed with it.
    pub(super) fn emptied_sets(&self, token: &Token) -> Vec<SetToken> {
        let empty = |token: &SetToken| {
            self.set(token).is_some_and(|set| self.lanes(&set.descriptor, set.own).is_empty())
        };
        self.sets_of(token).into_iter().filter(empty).collect()
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.sums.stamp += 1;
        self.sums.stamp
    }

    /// Inserts an entry, or changes what it holds. The lease replaces that of the same account.
    pub(super) fn insert(&mut self, token: AnyToken, lease: Lease, bytes: u64, body: EntryBody) {
        let Some((before, mut leases)) = self.take_out(&token) else {
            return self.insert_new(token, lease, bytes, body);
        };
        self.leave_place(&token, &before.body, &body);
        place(&mut leases, lease);
        self.put_in(token, leases, bytes, body);
        self.push_change(token);
    }

    /// Inserts an entry that is not there.
    pub(super) fn insert_new(&mut self, token: AnyToken, lease: Lease, bytes: u64, body: EntryBody) {
        self.put_in(token, vec![lease], bytes, body);
        self.push_change(token);
        self.note_sets_of(token);
    }

    /// Makes an entry count as used at this number.
    pub(super) fn restamp(&mut self, token: &AnyToken, mut used: u64) {
        let Some(entry) = self.get(token) else { return };
        let cached = entry.lease.cached;
        self.rows.delete(StoreTable::Ages, entry::age_key(cached, entry.used));
        while self.rows.get(StoreTable::Ages, &entry::age_key(cached, used)).is_some() {
            used += 1;
        }
        let row = IndexEntry { lease: self.as_row(entry.lease), used, ..entry };
        self.rows.set(StoreTable::Holdings, token.to_bytes().to_vec(), row.emit());
        self.rows.set(StoreTable::Ages, entry::age_key(cached, used), token.to_bytes().to_vec());
        self.sums.stamp = self.sums.stamp.max(used);
    }

    /// Removes an entry. Sets that lose lanes by it are noted as changed. The caller removes those in [`Index::emptied_sets`].
    pub(super) fn remove(&mut self, token: &AnyToken) -> Option<IndexEntry> {
        let (entry, _) = self.take_out(token)?;
        if let EntryBody::Payload { place: PayloadPlace::Row(number) | PayloadPlace::Pairs(number), .. } =
            entry.body
        {
            self.rows.delete_bytes(number);
        }
        self.push_change(*token);
        self.note_sets_of(*token);
        Some(entry)
    }

    /// Changes the lease of one account.
    pub(super) fn set_lease(&mut self, token: &AnyToken, lease: Lease) {
        if let Some(IndexEntry { bytes, body, .. }) = self.get(token) {
            self.insert(*token, lease, bytes, body);
        }
    }

    /// Ends the leases of an entry that are over at `now_s`. Returns whether it has others: if not, it is to be removed.
    pub(super) fn end_leases(&mut self, token: &AnyToken, now_s: u64) -> bool {
        let left: Vec<_> = self.leases(token).into_iter().filter(|lease| !lease.is_expired(now_s)).collect();
        if left.is_empty() {
            return false;
        }
        if let Some((entry, leases)) = self.take_out(token) {
            let ended = leases.len() > left.len();
            self.put_in(*token, left, entry.bytes, entry.body);
            if ended {
                self.push_change(*token);
            }
        }
        true
    }

    /// Shifts the ends of leases of this epoch by this many seconds.
    pub(super) fn shift(&mut self, epoch: u32, by_s: u64) {
        *self.shifts.entry(epoch).or_default() += by_s;
    }

    /// Writes the rows of an entry that is used now.
    pub(super) fn put_in(&mut self, token: AnyToken, leases: Vec<Lease>, bytes: u64, body: EntryBody) {
        let used = self.next_generation();
        self.put_used(token, leases, (bytes, used), body);
    }

    /// Writes the rows of an entry that was used at this number.
    pub(super) fn put_used(
        &mut self,
        token: AnyToken,
        mut leases: Vec<Lease>,
        (bytes, used): (u64, u64),
        body: EntryBody,
    ) {
        leases.sort_by_key(|lease| std::cmp::Reverse(lease.expires_s.unwrap_or(u64::MAX)));
        let mut cached = false;
        for (number, lease) in leases.iter().enumerate() {
            let (account, row) = (StoreAccount::of(lease), self.as_row(*lease));
            self.count(&account, |kept| kept.plus(Need { bytes, entries: 1, writes: 0 }));
            self.sums.leases += 1;
            cached = lease.cached;
            self.rows.set(StoreTable::Owners, entry::owner_key(&account, &token), Vec::new());
            if let Some(expires_s) = row.expires_s {
                self.sums.ends += 1;
                self.rows.set(
                    StoreTable::Ends,
                    entry::end_key(row.clock, expires_s, &token, &account),
                    Vec::new(),
                );
            }
            if number > 0 {
                let mut value = Vec::new();
                entry::emit_lease(&row, &mut value);
                self.rows.set(StoreTable::Holdings, entry::lease_key(&token, &account), value);
            }
        }
        let Some(longest) = leases.first() else { return };
        let (lease, others) = (self.as_row(*longest), leases.len() as u32 - 1);
        let entry = IndexEntry { lease, others, bytes, used, body };
        self.rows.set(StoreTable::Holdings, token.to_bytes().to_vec(), entry.emit());
        self.rows.set(StoreTable::Ages, entry::age_key(cached, used), token.to_bytes().to_vec());
        self.sums.entries += 1;
        self.sums.bytes = self.sums.bytes.saturating_add(bytes);
        if cached {
            self.sums.cached += 1;
            self.sums.cached_bytes = self.sums.cached_bytes.saturating_add(bytes);
        }
        if let (AnyToken::Set(set), EntryBody::Set(body)) = (token, body) {
            for blob in blobs(&body.descriptor) {
                self.rows.set(StoreTable::Sets, entry::blob_key(&blob, &set), Vec::new());
            }
        }
        self.set_sums(self.sums);
    }

    /// Removes the rows of an entry; returns it and its leases.
    pub(super) fn take_out(&mut self, token: &AnyToken) -> Option<(IndexEntry, Vec<Lease>)> {
        let entry = self.get(token)?;
        let leases = self.leases(token);
        let bytes = entry.bytes;
        for (number, lease) in leases.iter().enumerate() {
            let (account, row) = (StoreAccount::of(lease), self.as_row(*lease));
            self.count(&account, |kept| kept.minus(Need { bytes, entries: 1, writes: 0 }));
            self.sums.leases = self.sums.leases.saturating_sub(1);
            self.rows.delete(StoreTable::Owners, entry::owner_key(&account, token));
            if let Some(expires_s) = row.expires_s {
                self.sums.ends = self.sums.ends.saturating_sub(1);
                self.rows.delete(StoreTable::Ends, entry::end_key(row.clock, expires_s, token, &account));
            }
            if number > 0 {
                self.rows.delete(StoreTable::Holdings, entry::lease_key(token, &account));
            }
        }
        self.rows.delete(StoreTable::Holdings, token.to_bytes().to_vec());
        self.rows.delete(StoreTable::Ages, entry::age_key(entry.lease.cached, entry.used));
        self.touched.remove(token);
        self.sums.entries = self.sums.entries.saturating_sub(1);
        self.sums.bytes = self.sums.bytes.saturating_sub(bytes);
        if entry.lease.cached {
            self.sums.cached = self.sums.cached.saturating_sub(1);
            self.sums.cached_bytes = self.sums.cached_bytes.saturating_sub(bytes);
        }
        if let (AnyToken::Set(set), EntryBody::Set(body)) = (token, entry.body) {
            for blob in blobs(&body.descriptor) {
                self.rows.delete(StoreTable::Sets, entry::blob_key(&blob, set));
            }
        }
        self.set_sums(self.sums);
        Some((entry, leases))
    }

    /// Changes what is kept for an account.
    fn count(&mut self, account: &StoreAccount, change: impl Fn(Need) -> Need) {
        let (key, kept) = (entry::account_key(account), change(self.kept(account)));
        if kept == Need::default() {
            self.rows.delete(StoreTable::Accounts, key);
        } else {
            self.rows.set(StoreTable::Accounts, key, entry::emit_need(kept));
        }
    }

    /// Notes that an entry was used. Only cached entries go by their use.
    pub(super) fn touch(&mut self, token: &AnyToken) {
        if self.get(token).is_some_and(|entry| entry.lease.cached) {
            if self.touched.len() >= TOUCHED_LEN_MAX {
                self.touched.clear();
            }
            let used = self.next_generation();
            self.touched.insert(*token, used);
        }
    }

    /// Notes a change of the sets of which this payload is a blob: it came or went. There may be many, and a lease of the payload changes none.
    fn note_sets_of(&mut self, token: AnyToken) {
        if let AnyToken::Content(payload) = token {
            for set in self.sets_of(&payload) {
                self.push_change(set.into());
            }
        }
    }

    pub(super) fn push_change(&mut self, token: AnyToken) {
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

/// Adds a lease to those of an entry, or replaces that of the same account. A cached entry is kept from its first other lease on.
fn place(leases: &mut Vec<Lease>, lease: Lease) {
    if lease.cached && leases.iter().any(|held| !held.cached) {
        return;
    }
    leases.retain(|held| !held.cached && StoreAccount::of(held) != StoreAccount::of(&lease));
    leases.push(lease);
}

/// The tokens of a set's blobs.
fn blobs(descriptor: &Descriptor) -> impl Iterator<Item = Token> {
    // A payload that is its own parity is one blob.
    let parity = descriptor.parity_token().filter(|&parity| parity != descriptor.content());
    std::iter::once(descriptor.content()).chain(parity)
}

#[cfg(test)]
mod tests;

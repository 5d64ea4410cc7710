//! Lists of a store's holdings and of their leases, and changes of one owner's lease.

use super::accounts::{Need, StoreAccount};
use super::database::StoreTable;
use super::entry::{self, EntryBody, IndexEntry};
use super::error::StoreError;
use super::index::Index;
use super::inner::{Changing, Inner};
use super::lease::Lease;
use super::store::Store;
use crate::limits::{
    LIST_BATCH_LEN, LIST_LEASES_LEN_MAX, LIST_LOOKS_LEN_MAX, LIST_PAGE_BYTES, LISTED_LEASES_LEN_MAX,
    LISTED_LEN_MAX,
};
use crate::record::{LeaseHolder, LeaseScope, List, Listed, ListedEntry, ListedLease};
use crate::token::{AnyToken, TOKEN_BYTES};

/// What is kept for one holder of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFor {
    /// The holder.
    pub holder: LeaseHolder,
    /// Bytes of disk; what is kept for several holders counts for each.
    pub bytes: u64,
    /// Payloads and sets.
    pub entries: u64,
}

/// What became of a lease that its owner gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// There was none.
    NoLease,
    /// Others have leases: it is kept.
    Kept,
    /// It was the last one, or that of a holding that was lost to damage. These are gone: the holding, and sets that hold nothing without it.
    Gone(Vec<AnyToken>),
}

impl From<LeaseHolder> for StoreAccount {
    fn from(holder: LeaseHolder) -> Self {
        match holder {
            LeaseHolder::Anonymous => Self::Anonymous,
            LeaseHolder::Node(node) => Self::Node(node),
            LeaseHolder::Cache => Self::Cache,
        }
    }
}

impl From<StoreAccount> for LeaseHolder {
    fn from(account: StoreAccount) -> Self {
        match account {
            StoreAccount::Anonymous => Self::Anonymous,
            StoreAccount::Node(node) => Self::Node(node),
            StoreAccount::Cache => Self::Cache,
        }
    }
}

/// The leases of an entry that an answer shows.
#[derive(Clone, Copy)]
struct ShownLeases {
    /// Only an entry with a lease of this account, and only that lease.
    only: Option<StoreAccount>,
    /// Only entries with a lease of this account, and every lease.
    with: Option<StoreAccount>,
    len_max: usize,
}

impl ShownLeases {
    fn of(scope: LeaseScope, own: LeaseHolder, with: Option<LeaseHolder>, len_max: usize) -> Self {
        let only = (scope == LeaseScope::Own).then(|| own.into());
        Self { only, with: with.map(StoreAccount::from), len_max }
    }
}

impl Index {
    /// The lease that an account has of an entry.
    pub(super) fn lease_of(
        &self,
        token: &AnyToken,
        entry: &IndexEntry,
        account: StoreAccount,
    ) -> Option<Lease> {
        if StoreAccount::of(&entry.lease) == account {
            return Some(entry.lease);
        }
        if entry.others == 0 {
            return None;
        }
        let key = entry::lease_key(token, &account);
        let row = (key.clone(), self.rows.get(StoreTable::Holdings, &key)?);
        entry::parse_lease(token, &row).map(|lease| self.of_now(lease))
    }

    /// The first leases of an entry, the longest first, and the others in the order of their accounts.
    fn first_leases(&self, token: &AnyToken, entry: &IndexEntry, len: usize) -> Vec<Lease> {
        let mut leases = vec![entry.lease];
        let mut from = [&token.to_bytes()[..], &[0]].concat();
        while leases.len() < len
            && leases.len() <= entry.others as usize
            && let Some(row) = self.rows.next(StoreTable::Holdings, &from)
            && let Some(lease) = entry::parse_lease(token, &row)
        {
            leases.push(self.of_now(lease));
            from = row.0;
            from.push(0);
        }
        leases
    }

    /// An entry as an answer shows it, and the lease by which its end is judged; `None` if the asker may not know of it, or did not ask for it.
    fn listed(
        &self,
        token: AnyToken,
        entry: &IndexEntry,
        shown: ShownLeases,
        now_s: u64,
    ) -> Option<(ListedEntry, Lease)> {
        let by = shown.only.or(shown.with);
        let judged = by.map_or(Some(entry.lease), |account| self.lease_of(&token, entry, account))?;
        let (leases, first) = match shown.only {
            Some(_) => (1, vec![judged]),
            None => (u64::from(entry.others) + 1, self.first_leases(&token, entry, shown.len_max)),
        };
        let length_bytes = match &entry.body {
            EntryBody::Payload { length, .. } => *length,
            EntryBody::Set(set) => set.descriptor.length_bytes(),
        };
        let lease = |lease: &Lease| ListedLease {
            holder: StoreAccount::of(lease).into(),
            expires_s: lease.expires_s.map_or(0, |at| at.saturating_sub(now_s).max(1)),
        };
        let listed = ListedEntry {
            token,
            coverage: self.holding(token, entry).coverage,
            length_bytes,
            stored_bytes: entry.bytes,
            leases,
            shown: first.iter().map(lease).collect(),
        };
        Some((listed, judged))
    }

    /// Entries in the order of their tokens, those after `after`, at most `len`.
    fn entries_after(&self, after: Option<&AnyToken>, len: usize) -> Vec<(AnyToken, IndexEntry)> {
        let mut found = Vec::new();
        // Behind the token come its leases: no account begins with 0xff.
        let mut from = after.map_or(Vec::new(), |token| [&token.to_bytes()[..], &[0xff]].concat());
        while found.len() < len
            && let Some((key, value)) = self.rows.next(StoreTable::Holdings, &from)
        {
            if key.len() == TOKEN_BYTES
                && let (Ok(token), Some(entry)) = (AnyToken::from_slice(&key), IndexEntry::parse(&value))
            {
                found.push((token, IndexEntry { lease: self.of_now(entry.lease), ..entry }));
            }
            from = key;
            from.push(0xff);
        }
        found
    }

    /// The same, of those of which an account has a lease.
    fn owned_after(
        &self,
        account: StoreAccount,
        after: Option<&AnyToken>,
        len: usize,
    ) -> Vec<(AnyToken, IndexEntry)> {
        let mut found = Vec::new();
        let mut from = match after {
            Some(token) => [&entry::owner_key(&account, token)[..], &[0]].concat(),
            None => entry::account_key(&account),
        };
        while found.len() < len
            && let Some((key, _)) = self.rows.next(StoreTable::Owners, &from)
            && let Some(token) = entry::parse_owned(&account, &key)
        {
            found.extend(self.get(&token).map(|entry| (token, entry)));
            from = key;
            from.push(0);
        }
        found
    }

    /// Ends the lease of one account. The caller removes an entry that has no other.
    fn end_lease_of(&mut self, token: &AnyToken, account: StoreAccount) -> GivenUp {
        let mut left = self.leases(token);
        let all = left.len();
        left.retain(|lease| StoreAccount::of(lease) != account);
        if left.len() == all {
            return GivenUp::NoLease;
        }
        if left.is_empty() {
            return GivenUp::Gone(Vec::new());
        }
        if let Some((entry, _)) = self.take_out(token) {
            self.put_in(*token, left, entry.bytes, entry.body);
            self.push_change(*token);
        }
        GivenUp::Kept
    }

    /// What is kept for each holder after `after`, at most `len` of them.
    fn kept_after(&self, after: Option<LeaseHolder>, len: usize) -> Vec<KeptFor> {
        let mut from = after.map_or(Vec::new(), |holder| {
            let mut key = entry::account_key(&holder.into());
            key.push(0);
            key
        });
        let mut found = Vec::new();
        while found.len() < len
            && let Some((key, value)) = self.rows.next(StoreTable::Accounts, &from)
        {
            if let (Some(account), Some(Need { bytes, entries, .. })) =
                (entry::account(&key), entry::parse_need(&value))
            {
                found.push(KeptFor { holder: account.into(), bytes, entries });
            }
            from = key;
            from.push(0);
        }
        found
    }
}

impl Inner {
    fn end_lease_of(&self, one: &Changing<'_>, token: &AnyToken, account: StoreAccount) -> GivenUp {
        let (given_up, was_lost) = {
            let mut index = self.index();
            (index.end_lease_of(token, account), index.end_lost_lease(token, account))
        };
        match given_up {
            GivenUp::NoLease if was_lost => GivenUp::Gone(Vec::new()),
            GivenUp::Gone(_) => {
                let gone = self.remove(one, token);
                for token in &gone {
                    tracing::info!(%token, "removed: its last lease was given up");
                }
                GivenUp::Gone(gone)
            }
            other => other,
        }
    }
}

impl Store {
    /// A page of the holdings, in the order of their tokens. `own` is the asker. A page looks at no more than [`LIST_LOOKS_LEN_MAX`] entries, of
    /// which the asker or the holder that is asked for has a lease, and
    /// holds the store's lock for [`LIST_BATCH_LEN`] of them at a time. An entry that is held all the while is in exactly one page.
    pub fn list_page(&self, list: &List, own: LeaseHolder, now_s: u64) -> Listed {
        let shown = ShownLeases::of(list.scope, own, list.holder, LIST_LEASES_LEN_MAX);
        let len_max = match usize::try_from(list.entries_max).unwrap_or(usize::MAX) {
            0 => LISTED_LEN_MAX,
            len => len.min(LISTED_LEN_MAX),
        };
        let fits = |entry: &ListedEntry, lease: &Lease| {
            let longest = if list.length_max_bytes == 0 { u64::MAX } else { list.length_max_bytes };
            let ends =
                list.ends_s == 0 || lease.expires_s.is_some_and(|at| at <= now_s.saturating_add(list.ends_s));
            (list.length_min_bytes..=longest).contains(&entry.length_bytes) && ends
        };
        let mut page = Listed::default();
        let (mut bytes, mut looks, mut after) = (0, 0, list.after);
        loop {
            let index = self.inner.index();
            let batch = match shown.only.or(shown.with) {
                Some(account) => index.owned_after(account, after.as_ref(), LIST_BATCH_LEN),
                None => index.entries_after(after.as_ref(), LIST_BATCH_LEN),
            };
            if batch.is_empty() {
                return page;
            }
            for (token, entry) in batch {
                after = Some(token);
                looks += 1;
                if let Some((entry, lease)) = index.listed(token, &entry, shown, now_s)
                    && fits(&entry, &lease)
                {
                    bytes += entry.encoded_len();
                    page.entries.push(entry);
                }
                if page.entries.len() >= len_max || bytes >= LIST_PAGE_BYTES || looks >= LIST_LOOKS_LEN_MAX {
                    page.next = after;
                    return page;
                }
            }
        }
    }

    /// What is held of a token, and its leases: that of `own`, or all of them. `None`: nothing, or no lease of `own`.
    pub fn stat(
        &self,
        token: impl Into<AnyToken>,
        scope: LeaseScope,
        own: LeaseHolder,
        now_s: u64,
    ) -> Option<ListedEntry> {
        let (token, index) = (token.into(), self.inner.index());
        let entry = index.get(&token)?;
        let shown = ShownLeases::of(scope, own, None, LISTED_LEASES_LEN_MAX);
        index.listed(token, &entry, shown, now_s).map(|(listed, _)| listed)
    }

    /// Ends the lease that a holder has of a token, and removes the holding if it has no other. [`Store::sync_removals`] makes that durable, and
    /// removes its files; a reader that has it open can go on reading.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store cannot be written.
    pub fn end_lease_of(
        &self,
        token: impl Into<AnyToken>,
        holder: LeaseHolder,
    ) -> Result<GivenUp, StoreError> {
        self.inner.check_writable()?;
        let one = self.inner.change();
        Ok(self.inner.end_lease_of(&one, &token.into(), holder.into()))
    }

    /// Extends the lease that the owner of `lease` has, as [`Store::extend`] does, where there is one. [`Store::sync_removals`] makes that durable.
    /// Returns whether there is one.
    pub(super) fn renew(&self, token: AnyToken, lease: Lease) -> Result<bool, StoreError> {
        let one = self.inner.change();
        let account = StoreAccount::of(&lease);
        let has_lease = {
            let index = self.inner.index();
            index.get(&token).is_some_and(|entry| index.lease_of(&token, &entry, account).is_some())
        };
        Ok(has_lease && self.inner.extend_with_blobs(&one, &token, lease)?)
    }

    /// What is kept for each holder of leases after `after`, at most `len` of them.
    pub fn kept_for(&self, after: Option<LeaseHolder>, len: usize) -> Vec<KeptFor> {
        self.inner.index().kept_after(after, len)
    }
}

//! Room in the index: what an entry may take, and which entries go for it.

use super::accounts::{Need, Shortage, StoreAccount};
use super::database::StoreTable;
use super::entry::{self, IndexEntry};
use super::index::Index;
use crate::token::AnyToken;

impl Index {
    /// Promises room to an entry that is to be written, if it would have it now: what may be removed at `now_s` counts as free.
    pub(super) fn promise(
        &mut self,
        need: Need,
        account: StoreAccount,
        disk_bytes: u64,
        now_s: u64,
    ) -> Result<(), Shortage> {
        let evictable = || {
            let kept = self.over(now_s).count() as u64;
            (self.evictable_bytes(now_s), self.sums.cached + kept)
        };
        let of = (account, self.kept(&account));
        self.accounts.check_promise(need, of, &self.config, disk_bytes, evictable)?;
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
        self.accounts.check_quota(need, (account, self.kept(&account)), &self.config)
    }

    /// The entry whose lease ended first, if one has ended; only of one account if given.
    pub(super) fn first_expired(&self, now_s: u64, of: Option<StoreAccount>) -> Option<AnyToken> {
        match of {
            Some(account) => {
                let mut ended = self.ended(now_s).filter(|of| self.has_ended(of, now_s));
                ended.find(|(_, of)| *of == account).map(|(token, _)| token)
            }
            None => self.over(now_s).next().map(|(token, _)| token),
        }
    }

    /// Entries of which a lease has ended, at most `len`, in the order of the ends.
    pub(super) fn expired(&self, now_s: u64, len: usize) -> Vec<AnyToken> {
        self.ended(now_s).filter(|of| self.has_ended(of, now_s)).take(len).map(|(token, _)| token).collect()
    }

    /// Whether an entry has the ended lease that a row tells of: the entry's own row may have been rotten.
    fn has_ended(&self, (token, account): &(AnyToken, StoreAccount), now_s: u64) -> bool {
        let lease = self.get(token).and_then(|entry| self.lease_of(token, &entry, *account));
        lease.is_some_and(|lease| lease.is_expired(now_s))
    }

    /// The leases that have ended, with their accounts: for each epoch in the order of their ends.
    fn ended(&self, now_s: u64) -> impl Iterator<Item = (AnyToken, StoreAccount)> + '_ {
        let mut from = Vec::new();
        std::iter::from_fn(move || {
            loop {
                let (key, _) = self.rows.next(StoreTable::Ends, &from)?;
                let (epoch, end_s, token, account) = entry::parse_end(&key)?;
                if end_s.saturating_add(self.shift_s(epoch)) <= now_s {
                    from = key;
                    from.push(0);
                    return Some((token, account));
                }
                from = epoch.checked_add(1)?.to_be_bytes().to_vec();
            }
        })
    }

    /// The entries all of whose leases have ended, without the cached ones.
    fn over(&self, now_s: u64) -> impl Iterator<Item = (AnyToken, IndexEntry)> + '_ {
        self.ended(now_s).filter_map(move |(token, account)| {
            let entry = self.get(&token)?;
            // Each once, by its longest lease.
            let is_over = entry.lease.is_expired(now_s) && StoreAccount::of(&entry.lease) == account;
            (is_over && !entry.lease.cached).then_some((token, entry))
        })
    }

    /// The cached entry whose last use is the oldest, of those that take room.
    pub(super) fn first_cached(&mut self) -> Option<AnyToken> {
        let mut from = entry::age_key(true, 0);
        loop {
            let (key, token) = self.rows.next(StoreTable::Ages, &from)?;
            let used = entry::parse_age(&key, true)?;
            let token = AnyToken::from_slice(&token).ok()?;
            let entry = self.get(&token);
            match (self.touched.remove(&token).filter(|later| *later > used), entry) {
                (Some(used), Some(_)) => self.restamp(&token, used),
                (None, Some(entry)) if entry.bytes > 0 => return Some(token),
                _ => {}
            }
            from = key;
            from.push(0);
        }
    }

    /// Bytes of the entries that may be removed at `now_s`: cached ones, and those whose leases have ended.
    pub(super) fn evictable_bytes(&self, now_s: u64) -> u64 {
        let over = self.over(now_s);
        over.fold(self.sums.cached_bytes, |bytes, (_, entry)| bytes.saturating_add(entry.bytes))
    }
}

//! Holdings that were lost to damage. Each has a row until it is held again, or its leases are over: a restart forgets none.

use super::accounts::StoreAccount;
use super::database::StoreTable;
use super::entry;
use super::index::Index;
use super::lease::Lease;
use super::store::Store;
use crate::shard::Lanes;
use crate::token::AnyToken;

/// Each row's key begins with this, before the token.
const LOST: &[u8] = b"lost:";
/// The row of their number.
const COUNT: &[u8] = b"lost count";

/// A payload that is no longer held, or lanes of a set, because its bytes were damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostHolding {
    /// The leases that it had, the longest first.
    pub(super) leases: Vec<Lease>,
    /// The lost lanes of a set's own files; none: all that was held.
    pub(super) lanes: Lanes,
}

fn key(token: &AnyToken) -> Vec<u8> {
    [LOST, &token.to_bytes()].concat()
}

impl Index {
    /// Notes a holding that is lost. What is only cached is not missed.
    pub(super) fn note_lost(&mut self, token: &AnyToken, leases: Vec<Lease>, lanes: Lanes) {
        let leases: Vec<_> = leases.into_iter().filter(|lease| !lease.cached).collect();
        if leases.is_empty() {
            return;
        }
        let earlier = self.lost(token).map(|lost| lost.lanes);
        if earlier.is_none() {
            self.count_lost(1);
        }
        let mut row = Vec::new();
        lanes.union(earlier.unwrap_or(Lanes::NONE)).emit(&mut row);
        for lease in leases {
            let account = entry::account_key(&StoreAccount::of(&lease));
            row.push(account.len() as u8);
            row.extend_from_slice(&account);
            entry::emit_lease(&self.as_row(lease), &mut row);
        }
        self.rows.set(StoreTable::Notes, key(token), row);
    }

    /// The lost holding of this token, if there is one.
    pub(super) fn lost(&self, token: &AnyToken) -> Option<LostHolding> {
        self.parse_lost(&self.rows.get(StoreTable::Notes, &key(token))?)
    }

    fn parse_lost(&self, mut row: &[u8]) -> Option<LostHolding> {
        let row = &mut row;
        let lanes = Lanes::take(row)?;
        let mut leases = Vec::new();
        while !row.is_empty() {
            leases.push(self.of_now(entry::take_owned_lease(row)?));
        }
        Some(LostHolding { leases, lanes })
    }

    /// Forgets a lost holding: it is held again, or no owner misses it. Returns whether it was one.
    pub(super) fn forget_lost(&mut self, token: &AnyToken) -> bool {
        let was_lost = self.lost(token).is_some();
        if was_lost {
            self.rows.delete(StoreTable::Notes, key(token));
            self.count_lost(-1);
        }
        was_lost
    }

    /// Forgets the lost lanes of a set that are held again.
    pub(super) fn forget_lost_lanes(&mut self, token: &AnyToken, held: Lanes) {
        if let Some(LostHolding { leases, lanes }) = self.lost(token) {
            self.forget_lost(token);
            let left = lanes.without(held);
            if !left.is_empty() {
                self.note_lost(token, leases, left);
            }
        }
    }

    /// Ends the lease that an account had of a lost holding, which is not fetched again for it. Returns whether there was one.
    pub(super) fn end_lost_lease(&mut self, token: &AnyToken, account: StoreAccount) -> bool {
        let Some(LostHolding { leases, lanes }) = self.lost(token) else { return false };
        let all = leases.len();
        let left: Vec<_> = leases.into_iter().filter(|lease| StoreAccount::of(lease) != account).collect();
        let ends = left.len() < all;
        if ends {
            self.forget_lost(token);
            self.note_lost(token, left, lanes);
        }
        ends
    }

    /// The first lost holding after this token.
    pub(super) fn lost_after(&self, after: Option<&AnyToken>) -> Option<(AnyToken, LostHolding)> {
        let mut from = after.map_or_else(|| LOST.to_vec(), key);
        from.push(0);
        let (key, row) = self.rows.next(StoreTable::Notes, &from)?;
        let token = AnyToken::from_slice(key.strip_prefix(LOST)?).ok()?;
        Some((token, self.parse_lost(&row)?))
    }

    /// The number of lost holdings.
    pub(super) fn lost_len(&self) -> u64 {
        let row = self.rows.get(StoreTable::Notes, COUNT);
        row.and_then(|row| row.try_into().ok()).map_or(0, u64::from_be_bytes)
    }

    fn count_lost(&mut self, by: i64) {
        let len = self.lost_len().saturating_add_signed(by);
        self.rows.set(StoreTable::Notes, COUNT.to_vec(), len.to_be_bytes().to_vec());
    }
}

impl Store {
    /// Whether this was held, and is not because its bytes were damaged.
    pub fn is_lost(&self, token: impl Into<AnyToken>) -> bool {
        self.inner.index().lost(&token.into()).is_some()
    }

    /// The first lost holding after this token. Those whose leases are over at `over_s` are forgotten on the way.
    pub(super) fn lost_after(
        &self,
        mut after: Option<AnyToken>,
        over_s: u64,
    ) -> Option<(AnyToken, LostHolding)> {
        let mut index = self.inner.index();
        while let Some((token, lost)) = index.lost_after(after.as_ref()) {
            if lost.leases.iter().any(|lease| !lease.is_expired(over_s)) {
                return Some((token, lost));
            }
            index.forget_lost(&token);
            after = Some(token);
        }
        None
    }
}

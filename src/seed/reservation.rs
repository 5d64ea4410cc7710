//! Reserves room for payloads and lanes to be written, and removes others to make it.

use super::disk::available_bytes;
use super::error::StoreError;
use super::index::{Index, Shortage};
use super::inner::{Changing, Inner};
use super::lease::Lease;
use crate::tls::NodeId;
use crate::token::AnyToken;
use std::sync::Arc;

/// Room in the store. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Reservation {
    store: Arc<Inner>,
    bytes: u64,
    payer: Option<NodeId>,
}

impl Reservation {
    /// Gives the room back at the moment when an entry takes it.
    pub(super) fn settle(&mut self, index: &mut Index) {
        index.release(std::mem::take(&mut self.bytes), self.payer.take());
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.index().release(self.bytes, self.payer);
        }
    }
}

impl Inner {
    /// Reserves `needed_bytes` of the capacity and of the payer's quota, and checks that the disk has them free. Removes cached
    /// payloads and those with ended leases, if that makes enough room.
    pub(super) fn reserve(
        self: &Arc<Self>,
        needed_bytes: u64,
        lease: &Lease,
        now_s: u64,
    ) -> Result<Reservation, StoreError> {
        self.find_disk(needed_bytes, now_s)?;
        let payer = lease.payer();
        loop {
            let Err(shortage) = self.index().reserve(needed_bytes, payer) else {
                return Ok(Reservation { store: self.clone(), bytes: needed_bytes, payer });
            };
            let one = self.change();
            let goes = match shortage {
                Shortage::Quota { owner, .. } => self.index().first_expired(now_s, Some(owner)),
                Shortage::Capacity { usage_bytes, capacity_bytes } => {
                    let short = usage_bytes.saturating_add(needed_bytes).saturating_sub(capacity_bytes);
                    self.first_evictable(short, now_s)
                }
            };
            let Some(token) = goes else { return Err(self.no_room(needed_bytes, shortage)) };
            self.make_room(&one, &token, now_s)?;
        }
    }

    /// Checks that the disk has `needed_bytes` free. If not, removes holdings that may go, if they are enough.
    fn find_disk(&self, needed_bytes: u64, now_s: u64) -> Result<(), StoreError> {
        let available =
            || available_bytes(&self.dir).map_err(|e| StoreError::io("look for room in", &self.dir, e));
        let mut short_bytes = needed_bytes.saturating_sub(available()?);
        if short_bytes > 0 {
            let one = self.change();
            while short_bytes > 0
                && let Some(token) = self.first_evictable(short_bytes, now_s)
            {
                let bytes = self.index().get(&token).map_or(0, |entry| entry.bytes);
                self.make_room(&one, &token, now_s)?;
                short_bytes = short_bytes.saturating_sub(bytes);
            }
        }
        let available_bytes = available()?;
        if needed_bytes <= available_bytes {
            return Ok(());
        }
        Err(StoreError::DiskFull { path: self.dir.clone(), needed_bytes, available_bytes })
    }

    fn make_room(&self, one: &Changing<'_>, token: &AnyToken, now_s: u64) -> Result<(), StoreError> {
        let is_over = self.index().get(token).is_some_and(|entry| entry.lease.is_expired(now_s));
        let went = if is_over { self.end_lease(one, token) } else { self.remove(one, token) };
        went.map(drop)
    }

    /// The first holding to remove, if all removable ones together take at least `short_bytes`.
    fn first_evictable(&self, short_bytes: u64, now_s: u64) -> Option<AnyToken> {
        let index = self.index();
        if index.evictable_bytes(now_s) < short_bytes {
            return None;
        }
        index.first_expired(now_s, None).or_else(|| index.first_cached())
    }

    fn no_room(&self, needed_bytes: u64, shortage: Shortage) -> StoreError {
        match shortage {
            Shortage::Capacity { usage_bytes, capacity_bytes } => {
                StoreError::Capacity { path: self.dir.clone(), needed_bytes, usage_bytes, capacity_bytes }
            }
            Shortage::Quota { owner, used_bytes, quota_bytes } => {
                StoreError::PeerQuota { owner, needed_bytes, used_bytes, quota_bytes }
            }
        }
    }

    /// Checks the quota of the node that asks for this lease.
    pub(super) fn check_extension(&self, token: &AnyToken, asked: Lease) -> Result<(), StoreError> {
        let index = self.index();
        let Some(entry) = index.get(token) else { return Ok(()) };
        let payer = entry.lease.extended_by(asked).payer();
        if payer == entry.lease.payer() {
            return Ok(());
        }
        index.check_quota(entry.bytes, payer).map_err(|shortage| self.no_room(entry.bytes, shortage))
    }
}

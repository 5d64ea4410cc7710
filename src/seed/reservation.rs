//! Room for payloads and lanes that are being written: promised at the begin, taken as their bytes are proven. Other holdings are removed
//! for it only then.

use super::accounts::{Need, Shortage, StoreAccount};
use super::error::StoreError;
use super::index::Index;
use super::inner::{Changing, Inner};
use super::lease::Lease;
use crate::limits::{GROUP_BYTES, ROOM_STEP_BYTES, STORE_BLOCK_BYTES_MAX};
use crate::token::{AnyToken, PAIR_BYTES};
use std::sync::Arc;

/// Room in the store. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Reservation {
    store: Arc<Inner>,
    account: StoreAccount,
    promised: Need,
    taken: Need,
    /// When it was promised: leases that were over then make room for it.
    now_s: u64,
}

impl Reservation {
    /// Takes room for this many written bytes of the payload or blob, in steps. Removes cached holdings and those whose leases are over, if
    /// that makes enough room.
    pub(super) fn cover(&mut self, written_bytes: u64) -> Result<(), StoreError> {
        let pairs_bytes = written_bytes / GROUP_BYTES as u64 * PAIR_BYTES as u64;
        let bytes = written_bytes.saturating_add(pairs_bytes).saturating_add(4 * STORE_BLOCK_BYTES_MAX);
        if bytes.min(self.promised.bytes) <= self.taken.bytes && self.taken.entries == self.promised.entries {
            return Ok(());
        }
        let bytes = bytes.checked_next_multiple_of(ROOM_STEP_BYTES).unwrap_or(u64::MAX);
        self.take(bytes.min(self.promised.bytes))
    }

    /// Takes all room that was promised.
    pub(super) fn cover_all(&mut self) -> Result<(), StoreError> {
        self.take(self.promised.bytes)
    }

    fn take(&mut self, bytes: u64) -> Result<(), StoreError> {
        let target = Need { bytes, ..self.promised };
        let part = Need { writes: 0, ..target.minus(self.taken) };
        if part != Need::default() {
            self.store.take(part, self.account, self.now_s)?;
            self.taken = self.taken.plus(part);
        }
        Ok(())
    }

    /// A part of this room as a reservation of its own. Nothing of it is taken yet.
    pub(super) fn split(&mut self, part: Need) -> Self {
        self.promised = self.promised.minus(part);
        Self { store: self.store.clone(), promised: part, taken: Need::default(), ..*self }
    }

    /// Gives the room back at the moment when an entry takes it.
    pub(super) fn settle(&mut self, index: &mut Index) {
        index.release(std::mem::take(&mut self.promised), std::mem::take(&mut self.taken), self.account);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.promised != Need::default() {
            self.store.index().release(self.promised, self.taken, self.account);
        }
    }
}

impl Inner {
    /// Promises what an entry needs: of the capacity, of its node's quota and of the disk. Removes holdings of that node whose leases are
    /// over, if its quota is short.
    pub(super) fn promise(
        self: &Arc<Self>,
        need: Need,
        lease: &Lease,
        now_s: u64,
    ) -> Result<Reservation, StoreError> {
        let account = StoreAccount::of(lease);
        loop {
            let disk_bytes = self.available(need, now_s)?;
            let Err(shortage) = self.index().promise(need, account, disk_bytes, now_s) else {
                let store = self.clone();
                return Ok(Reservation { store, account, promised: need, taken: Need::default(), now_s });
            };
            let (Shortage::Quota { .. } | Shortage::NodeEntries { .. }) = shortage else {
                return Err(self.no_room(need, shortage));
            };
            let one = self.change();
            let over = self.index().first_expired(now_s, Some(account));
            let Some(token) = over else { return Err(self.no_room(need, shortage)) };
            self.make_room(&one, &token, now_s);
        }
    }

    /// Takes a part of what was promised.
    fn take(&self, part: Need, account: StoreAccount, now_s: u64) -> Result<(), StoreError> {
        self.find_disk(part, now_s)?;
        loop {
            let Err(shortage) = self.index().take(part, account) else { return Ok(()) };
            let one = self.change();
            let short = match shortage {
                Shortage::Capacity { usage_bytes, capacity_bytes } => {
                    usage_bytes.saturating_add(part.bytes).saturating_sub(capacity_bytes)
                }
                // Any holding is an entry.
                _ => 1,
            };
            let goes = self.first_evictable(short, now_s);
            let Some(token) = goes else { return Err(self.no_room(part, shortage)) };
            self.make_room(&one, &token, now_s);
        }
    }

    /// Bytes that the disk has free for a need.
    fn available(&self, need: Need, now_s: u64) -> Result<u64, StoreError> {
        let look = || self.disk.0.available_bytes(&self.dir);
        self.disk_room
            .available(need.bytes, now_s, look)
            .map_err(|e| StoreError::io("look for room in", &self.dir, e))
    }

    /// Checks that the disk has this room. If not, removes holdings that may go, if they are enough.
    fn find_disk(&self, part: Need, now_s: u64) -> Result<(), StoreError> {
        let mut short_bytes = part.bytes.saturating_sub(self.available(part, now_s)?);
        if short_bytes == 0 {
            return Ok(());
        }
        let one = self.change();
        while short_bytes > 0
            && let Some(token) = self.first_evictable(short_bytes, now_s)
        {
            let bytes = self.index().get(&token).map_or(0, |entry| entry.bytes);
            self.make_room(&one, &token, now_s);
            short_bytes = short_bytes.saturating_sub(bytes);
        }
        drop(one);
        if self.has_removals() {
            // The disk has the room once the files are gone.
            self.sync_removals()?;
        }
        let available_bytes = self.available(part, now_s)?;
        if part.bytes <= available_bytes {
            return Ok(());
        }
        Err(self.no_room(part, Shortage::Disk { available_bytes }))
    }

    /// Removes a holding, or the leases of it that are over. Its files go with the next commit.
    fn make_room(&self, one: &Changing<'_>, token: &AnyToken, now_s: u64) {
        let is_over = self.index().leases(token).iter().any(|lease| lease.is_expired(now_s));
        if is_over {
            self.end_lease(one, token, now_s);
        } else {
            self.remove(one, token);
        }
    }

    /// The first holding to remove, if all removable ones together take at least `short_bytes`.
    fn first_evictable(&self, short_bytes: u64, now_s: u64) -> Option<AnyToken> {
        let mut index = self.index();
        if index.evictable_bytes(now_s) < short_bytes {
            return None;
        }
        index.first_expired(now_s, None).or_else(|| index.first_cached())
    }

    fn no_room(&self, need: Need, shortage: Shortage) -> StoreError {
        let (path, needed_bytes) = (self.dir.clone(), need.bytes);
        match shortage {
            Shortage::Capacity { usage_bytes, capacity_bytes } => {
                StoreError::Capacity { path, needed_bytes, usage_bytes, capacity_bytes }
            }
            Shortage::Disk { available_bytes } => {
                StoreError::DiskFull { path, needed_bytes, available_bytes }
            }
            Shortage::Quota { owner, used_bytes, quota_bytes } => {
                StoreError::PeerQuota { owner, needed_bytes, used_bytes, quota_bytes }
            }
            Shortage::Entries { entries, entries_max } => StoreError::Entries { path, entries, entries_max },
            Shortage::NodeEntries { owner, entries, entries_max } => {
                StoreError::PeerEntries { owner, entries, entries_max }
            }
            Shortage::Unfinished { count, count_max } => StoreError::Unfinished { count, count_max },
            Shortage::Share { promised_bytes, share_bytes } => {
                StoreError::UnfinishedShare { needed_bytes, promised_bytes, share_bytes }
            }
        }
    }

    /// Checks the quota of the node that asks for this lease, if it has none of the token yet.
    pub(super) fn check_extension(&self, token: &AnyToken, asked: Lease) -> Result<(), StoreError> {
        let index = self.index();
        let Some(entry) = index.get(token) else { return Ok(()) };
        let account = StoreAccount::of(&asked);
        if asked.cached || index.leases(token).iter().any(|lease| StoreAccount::of(lease) == account) {
            return Ok(());
        }
        let need = Need { bytes: entry.bytes, entries: 1, writes: 0 };
        index.check_quota(need, account).map_err(|shortage| self.no_room(need, shortage))
    }
}

//! What each node's holdings and unfinished PUTs take of a store, and the bounds of both.
//!
//! A PUT is promised room at its begin: what it needs must fit beside the holdings that are kept, beside what unfinished PUTs have taken, and
//! beside what its own node was promised. It takes room only as its bytes are proven. A promise to one node therefore takes no room from
//! another, and two PUTs of two nodes may be promised the same room: the later one is refused once there is none.

use super::config::StoreConfig;
use super::lease::Lease;
use crate::limits::{NODE_ENTRIES_LEN, QUOTAS_LEN_MIN, STORE_ENTRIES_LEN, UNFINISHED_SHARE_DIVISOR_LEN};
use crate::tls::NodeId;
use std::collections::HashMap;

/// For whom something is kept or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum StoreAccount {
    /// A node that showed a certificate. Its quota pays.
    Node(NodeId),
    /// All nodes without one.
    Anonymous,
    /// Payloads that pass through.
    Cache,
}

impl StoreAccount {
    pub(super) fn of(lease: &Lease) -> Self {
        match lease.owner {
            _ if lease.cached => Self::Cache,
            Some(owner) => Self::Node(owner),
            None => Self::Anonymous,
        }
    }
}

/// What an entry needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes of disk.
    pub(super) bytes: u64,
    /// Entries of the index.
    pub(super) entries: u64,
    /// Payloads and blobs that are written.
    pub(super) writes: u64,
}

impl Need {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            entries: self.entries + other.entries,
            writes: self.writes + other.writes,
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            entries: self.entries.saturating_sub(other.entries),
            writes: self.writes.saturating_sub(other.writes),
        }
    }
}

/// A bound of what is kept for one node, in place of the configuration's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeQuota {
    pub(super) bytes: Option<u64>,
    pub(super) entries: Option<u64>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    Capacity { usage_bytes: u64, capacity_bytes: u64 },
    Disk { available_bytes: u64 },
    Quota { owner: NodeId, used_bytes: u64, quota_bytes: u64 },
    Entries { entries: u64, entries_max: u64 },
    NodeEntries { owner: NodeId, entries: u64, entries_max: u64 },
    Unfinished { count: u64, count_max: u64 },
    Share { promised_bytes: u64, share_bytes: u64 },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Balance {
    /// What unfinished PUTs were promised, the part that they have taken included.
    promised: Need,
    taken: Need,
}

impl Balance {
    fn untaken(&self) -> Need {
        self.promised.minus(self.taken)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Those with unfinished PUTs. By a keyed hash: peers choose their keys, and so their node IDs.
    balances: HashMap<StoreAccount, Balance>,
    /// The quotas that nodes' rights give them. Each is noted with each request of its node, so those of nodes without unfinished PUTs may go.
    quotas: HashMap<NodeId, NodeQuota>,
    /// The number of quotas at which these go.
    quotas_len_max: usize,
    /// All that is kept: the bytes of the entries, and the number of their leases.
    pub(super) kept: Need,
    taken: Need,
    unfinished: u64,
}

impl Accounts {
    /// Bytes that entries and unfinished PUTs take.
    pub(super) fn usage_bytes(&self) -> u64 {
        self.kept.bytes.saturating_add(self.taken.bytes)
    }

    /// Payloads and blobs that are being written.
    pub(super) fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Bytes that are promised to the unfinished PUTs of `owner`.
    pub(super) fn promised_bytes(&self, owner: &NodeId) -> u64 {
        self.balance(StoreAccount::Node(*owner)).promised.bytes
    }

    fn balance(&self, account: StoreAccount) -> Balance {
        self.balances.get(&account).copied().unwrap_or_default()
    }

    fn change(&mut self, account: StoreAccount, change: impl Fn(&mut Balance)) {
        let balance = self.balances.entry(account).or_default();
        change(balance);
        if *balance == Balance::default() {
            self.balances.remove(&account);
        }
    }

    /// Notes the quota of a node.
    pub(super) fn set_quota(&mut self, owner: NodeId, quota: NodeQuota) {
        if quota == NodeQuota::default() {
            self.quotas.remove(&owner);
            return;
        }
        if self.quotas.len() >= self.quotas_len_max {
            self.quotas.retain(|owner, _| self.balances.contains_key(&StoreAccount::Node(*owner)));
            // The next look is at twice as many: each quota is looked at about once.
            self.quotas_len_max = (2 * self.quotas.len()).max(QUOTAS_LEN_MIN);
        }
        self.quotas.insert(owner, quota);
    }

    /// Checks every bound for an entry that is to be written. `kept` is kept for the account, and the disk has `disk_bytes` free. Called only if room is short, `evictable`
    /// returns the bytes and the entries that may be removed.
    pub(super) fn check_promise(
        &self,
        need: Need,
        (account, kept): (StoreAccount, Need),
        config: &StoreConfig,
        disk_bytes: u64,
        evictable: impl Fn() -> (u64, u64),
    ) -> Result<(), Shortage> {
        self.check_quota(need, (account, kept), config)?;
        let balance = self.balance(account);
        let wanted = balance.untaken().plus(need);
        let entries_max = config.capacity_entries.unwrap_or(STORE_ENTRIES_LEN);
        let entries = self.kept.entries + self.taken.entries;
        if need.entries > 0
            && entries + wanted.entries > entries_max
            && entries + wanted.entries > entries_max.saturating_add(evictable().1)
        {
            return Err(Shortage::Entries { entries: entries + balance.untaken().entries, entries_max });
        }
        let capacity_bytes = config.capacity_bytes.unwrap_or(u64::MAX);
        let usage_bytes = self.usage_bytes();
        let fits =
            |bytes: u64, in_bytes: u64| bytes <= in_bytes || bytes.saturating_sub(evictable().0) <= in_bytes;
        if !fits(usage_bytes.saturating_add(wanted.bytes), capacity_bytes) {
            let usage_bytes = usage_bytes.saturating_add(balance.untaken().bytes);
            return Err(Shortage::Capacity { usage_bytes, capacity_bytes });
        }
        if !fits(wanted.bytes, disk_bytes) {
            let available_bytes = disk_bytes.saturating_sub(balance.untaken().bytes);
            return Err(Shortage::Disk { available_bytes });
        }
        if need.writes == 0 {
            return Ok(());
        }
        let files = config.files();
        let of_node = (balance.promised.writes, files.node_unfinished);
        for (count, count_max) in [of_node, (self.unfinished, files.unfinished)] {
            if count + need.writes > count_max {
                return Err(Shortage::Unfinished { count, count_max });
            }
        }
        let room_bytes = capacity_bytes.min(usage_bytes.saturating_add(disk_bytes));
        let (promised_bytes, share_bytes) =
            (balance.promised.bytes, room_bytes / UNFINISHED_SHARE_DIVISOR_LEN);
        if balance.promised.writes > 0 && promised_bytes.saturating_add(need.bytes) > share_bytes {
            return Err(Shortage::Share { promised_bytes, share_bytes });
        }
        Ok(())
    }

    /// Checks the quota of a node, for which `kept` is kept.
    pub(super) fn check_quota(
        &self,
        need: Need,
        (account, kept): (StoreAccount, Need),
        config: &StoreConfig,
    ) -> Result<(), Shortage> {
        let StoreAccount::Node(owner) = account else { return Ok(()) };
        let balance = self.balance(account);
        let used = kept.plus(balance.promised);
        let quota = self.quotas.get(&owner).copied().unwrap_or_default();
        let quota_bytes = quota.bytes.or(config.quota_bytes).unwrap_or(u64::MAX);
        let used_bytes = used.bytes;
        if used_bytes.checked_add(need.bytes).is_none_or(|bytes| bytes > quota_bytes) {
            return Err(Shortage::Quota { owner, used_bytes, quota_bytes });
        }
        let entries_max = quota.entries.or(config.quota_entries).unwrap_or(NODE_ENTRIES_LEN);
        let entries = used.entries;
        if need.entries > 0 && entries + need.entries > entries_max {
            return Err(Shortage::NodeEntries { owner, entries, entries_max });
        }
        Ok(())
    }

    pub(super) fn promise(&mut self, need: Need, account: StoreAccount) {
        self.unfinished += need.writes;
        self.change(account, |balance| balance.promised = balance.promised.plus(need));
    }

    /// Takes a part of a promise, if there is room.
    pub(super) fn take(
        &mut self,
        part: Need,
        account: StoreAccount,
        config: &StoreConfig,
    ) -> Result<(), Shortage> {
        let (usage_bytes, capacity_bytes) = (self.usage_bytes(), config.capacity_bytes.unwrap_or(u64::MAX));
        if usage_bytes.checked_add(part.bytes).is_none_or(|bytes| bytes > capacity_bytes) {
            return Err(Shortage::Capacity { usage_bytes, capacity_bytes });
        }
        let entries = self.kept.entries + self.taken.entries;
        let entries_max = config.capacity_entries.unwrap_or(STORE_ENTRIES_LEN);
        if part.entries > 0 && entries + part.entries > entries_max {
            return Err(Shortage::Entries { entries, entries_max });
        }
        self.taken = self.taken.plus(part);
        self.change(account, |balance| balance.taken = balance.taken.plus(part));
        Ok(())
    }

    /// Ends a promise, of which `taken` was taken.
    pub(super) fn release(&mut self, promised: Need, taken: Need, account: StoreAccount) {
        self.unfinished = self.unfinished.saturating_sub(promised.writes);
        self.taken = self.taken.minus(taken);
        self.change(account, |balance| {
            balance.promised = balance.promised.minus(promised);
            balance.taken = balance.taken.minus(taken);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(entries: u64) -> Need {
        Need { bytes: 100 * entries, entries, writes: 0 }
    }

    #[test]
    fn a_nodes_own_quota_stands_in_place_of_the_configured_one_and_more_or_less_is_allowed() {
        let config = StoreConfig { quota_bytes: Some(200), quota_entries: Some(2), ..StoreConfig::default() };
        let mut accounts = Accounts::default();
        let [wide, narrow, other] = [1, 2, 3].map(|id| NodeId([id; 32]));
        accounts.set_quota(wide, NodeQuota { bytes: Some(500), entries: Some(5) });
        accounts.set_quota(narrow, NodeQuota { bytes: None, entries: Some(1) });
        for (owner, allowed) in [(wide, 5), (narrow, 1), (other, 2)] {
            let account = StoreAccount::Node(owner);
            assert_eq!(accounts.check_quota(entries(allowed), (account, Need::default()), &config), Ok(()));
            assert!(
                accounts.check_quota(entries(allowed + 1), (account, Need::default()), &config).is_err(),
                "{owner}"
            );
        }
        accounts.set_quota(wide, NodeQuota::default());
        assert!(
            accounts.check_quota(entries(3), (StoreAccount::Node(wide), Need::default()), &config).is_err()
        );
    }

    #[test]
    fn quotas_of_nodes_without_puts_do_not_pile_up() {
        let mut accounts = Accounts::default();
        let node = |number: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        accounts.promise(Need { writes: 1, ..entries(1) }, StoreAccount::Node(node(0)));
        let quota = NodeQuota { bytes: Some(100), entries: None };
        for number in 0..100_000 {
            accounts.set_quota(node(number), quota);
            assert!(accounts.quotas.len() <= QUOTAS_LEN_MIN);
        }
        assert_eq!(accounts.quotas.get(&node(0)), Some(&quota), "its node puts");
    }
}

//! The terms on which a peer's payloads are kept.

use super::accounts::NodeQuota;
use super::{Store, StoreConfig};
use crate::rights::StoreTerms;
use crate::tls::NodeId;

impl Store {
    /// Notes the terms of a node: they hold for what it asks to be kept from now on.
    pub fn note_terms(&self, node: NodeId, terms: StoreTerms) {
        let quota = NodeQuota { bytes: terms.quota_bytes, entries: terms.quota_entries };
        self.inner.index().accounts_mut().set_quota(node, quota);
    }
}

impl StoreConfig {
    /// The end of a lease of `lease_s` seconds that a peer with these terms asks for, as by [`StoreConfig::expiry`].
    pub(super) fn expiry_on(&self, terms: StoreTerms, lease_s: u64, now_s: u64) -> Option<u64> {
        let lease_default_s = terms.lease_default_s.unwrap_or(self.lease_default_s);
        Self { lease_default_s, ..*self }.expiry(lease_s, now_s)
    }
}

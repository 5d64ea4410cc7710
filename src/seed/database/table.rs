//! The tables of a store's database, and changes of their rows.

use redb::TableDefinition;
use std::collections::BTreeMap;

/// The row of the layout's version.
pub(super) const LAYOUT_ROW: &[u8] = b"layout";

/// A table of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::seed) enum StoreTable {
    /// Token: the holding. Behind it, token and account: a lease.
    Holdings,
    /// Epoch, end, token and account: leases that end.
    Ends,
    /// Whether it is cached, and when it was used: the token.
    Ages,
    /// The token of a payload and of a set of which it is a blob.
    Sets,
    /// Account: what is kept for it.
    Accounts,
    /// Path of a file that is to be removed.
    Gone,
    /// Number: the bytes of a short payload.
    Bytes,
    /// What a store knows of itself.
    Notes,
    /// Account and token: that it has a lease of it. The last of all: a journal names tables by their numbers.
    Owners,
}

impl StoreTable {
    pub(in crate::seed) const ALL: [Self; 9] = [
        Self::Holdings,
        Self::Ends,
        Self::Ages,
        Self::Sets,
        Self::Accounts,
        Self::Gone,
        Self::Bytes,
        Self::Notes,
        Self::Owners,
    ];

    pub(in crate::seed) const fn name(self) -> &'static str {
        match self {
            Self::Holdings => "holdings",
            Self::Ends => "ends",
            Self::Ages => "ages",
            Self::Sets => "sets",
            Self::Accounts => "accounts",
            Self::Gone => "gone",
            Self::Bytes => "bytes",
            Self::Notes => "notes",
            Self::Owners => "owners",
        }
    }
}

/// A table as the database has it.
pub(super) fn definition(table: StoreTable) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Changes of rows: new values, and `None` for a row that is removed.
#[derive(Debug, Default)]
pub(in crate::seed) struct Changes(pub(super) [BTreeMap<Vec<u8>, Option<Vec<u8>>>; StoreTable::ALL.len()]);

impl Changes {
    pub(super) fn of(&self, table: StoreTable) -> &BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        &self.0[table as usize]
    }

    /// What a row is changed to, if it is.
    pub(super) fn get(&self, table: StoreTable, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.of(table).get(key)
    }

    pub(super) fn cloned(&self) -> Self {
        Self(self.0.clone())
    }

    /// Takes newer changes over these.
    pub(super) fn absorb(&mut self, newer: Self) {
        for (changed, newer) in self.0.iter_mut().zip(newer.0) {
            if changed.is_empty() {
                *changed = newer;
            } else {
                changed.extend(newer);
            }
        }
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }
}

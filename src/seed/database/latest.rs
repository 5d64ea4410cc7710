//! What is durable: the rows of the database at its last commit, and over them those that a journal alone has.

use super::snapshot::{Snapshot, copy_part};
use super::table::{Changes, StoreTable};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The durable rows, for readers that outlive a commit and take no lock of the index. Once the database is closed there are none.
#[derive(Debug, Default)]
pub(in crate::seed) struct LatestRows(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    snapshot: Option<Arc<Snapshot>>,
    /// What the database is taking over from a journal, or failed to.
    taking: Option<Arc<Changes>>,
    /// What was written to a journal since.
    journaled: Changes,
    /// What the database has taken over. It is to be dropped without a lock: it is large.
    spent: Vec<Arc<Changes>>,
}

impl State {
    fn journaled(&self, table: StoreTable, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        let taking = || self.taking.as_ref()?.get(table, key);
        self.journaled.get(table, key).or_else(taking)
    }
}

impl LatestRows {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of the database's last commit.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.state().snapshot.clone()
    }

    pub(super) fn set(&self, snapshot: Snapshot) {
        self.state().snapshot = Some(Arc::new(snapshot));
    }

    pub(super) fn close(&self) {
        *self.state() = State::default();
    }

    /// What a row is changed to in a journal that the database has not taken over.
    pub(super) fn journaled(&self, table: StoreTable, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.state().journaled(table, key).cloned()
    }

    /// Calls `look` with the changes of the journals, the older ones first.
    pub(super) fn each_journaled(&self, mut look: impl FnMut(&Changes)) {
        let state = self.state();
        state.taking.as_deref().into_iter().chain([&state.journaled]).for_each(&mut look);
    }

    /// Whether journals have changes that the database has not.
    pub(super) fn is_journaled(&self) -> bool {
        let state = self.state();
        state.taking.is_some() || !state.journaled.is_empty()
    }

    /// The rows that were written to a journal since the database began to take it over.
    pub(super) fn journaled_len(&self) -> usize {
        self.state().journaled.len()
    }

    /// Whether the database is taking changes over, or failed to.
    pub(super) fn is_taking(&self) -> bool {
        self.state().taking.is_some()
    }

    /// Notes changes that are durable in a journal.
    pub(super) fn add(&self, changes: Changes) {
        self.state().journaled.absorb(changes);
    }

    /// All changes of the journals, for the database to take them over.
    pub(super) fn freeze(&self) -> Arc<Changes> {
        let mut state = self.state();
        let newer = std::mem::take(&mut state.journaled);
        let taking = match state.taking.take() {
            None => newer,
            Some(older) => {
                let mut older = Arc::try_unwrap(older).unwrap_or_else(|shared| shared.cloned());
                older.absorb(newer);
                older
            }
        };
        state.taking.insert(Arc::new(taking)).clone()
    }

    /// Notes that the database has what [`LatestRows::freeze`] gave, and this snapshot shows it.
    pub(super) fn taken(&self, snapshot: Snapshot) {
        let mut state = self.state();
        state.snapshot = Some(Arc::new(snapshot));
        let taken = state.taking.take();
        state.spent.extend(taken);
    }

    /// What the database took over since the last call.
    pub(super) fn take_spent(&self) -> Vec<Arc<Changes>> {
        std::mem::take(&mut self.state().spent)
    }

    /// Fills `out` from `offset` on with the bytes of a short payload or of hash pairs, if they are there and there are enough of them.
    pub(super) fn read_bytes(
        &self,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Result<(), io::ErrorKind>, redb::Error> {
        let snapshot = {
            let state = self.state();
            if let Some(changed) = state.journaled(StoreTable::Bytes, key) {
                return Ok(changed
                    .as_deref()
                    .map_or(Err(io::ErrorKind::NotFound), |row| copy_part(row, offset, out)));
            }
            state.snapshot.clone()
        };
        match snapshot {
            Some(snapshot) => snapshot.read_bytes(key, offset, out),
            None => Ok(Err(io::ErrorKind::NotFound)),
        }
    }
}

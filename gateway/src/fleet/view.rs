//! What a gateway shows of its fleet: to the admin endpoint, from the directory.

use super::table::FleetTable;
use std::sync::{Arc, Mutex, PoisonError};

/// The table that a gateway goes by, shared by all that show it.
#[derive(Debug, Default)]
pub struct FleetView(Mutex<Option<Arc<FleetTable>>>);

impl FleetView {
    /// The table, if the gateway has a directory.
    pub fn table(&self) -> Option<Arc<FleetTable>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows this table from now on.
    pub fn show(&self, table: Option<Arc<FleetTable>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }
}

//! What a gateway shows of its fleet: to the admin endpoint, from the directory.

use super::exchange::MemberStatus;
use super::table::FleetTable;
use std::sync::{Arc, Mutex, PoisonError};

/// The table that a gateway goes by and the state of its directory, shared by all that show them.
#[derive(Debug, Default)]
pub struct FleetView {
    table: Mutex<Option<Arc<FleetTable>>>,
    status: Mutex<Option<MemberStatus>>,
}

impl FleetView {
    /// The table, if the gateway has a directory.
    pub fn table(&self) -> Option<Arc<FleetTable>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows this table from now on.
    pub fn show(&self, table: Option<Arc<FleetTable>>) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// The state of the member, if the gateway follows a directory.
    pub fn status(&self) -> Option<MemberStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows this state from now on.
    pub fn set_status(&self, status: MemberStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

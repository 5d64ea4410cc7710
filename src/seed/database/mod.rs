//! The database of a store: the file `store.redb`, the rows in it, its journal, and changes that are not committed yet.

mod backend;
mod batch;
mod bytes;
mod checked;
mod commit;
mod committing;
mod guard;
mod journal;
mod latest;
mod opened;
mod packs;
mod rebuild;
mod rows;
mod rows_journal;
mod salvage;
mod snapshot;
mod table;
mod take_over;
mod walk;

pub(super) use bytes::RowBytes;
pub(super) use checked::RottenRow;
pub(super) use commit::Commit;
pub(super) use committing::CommitEnd;
pub use guard::catches_panics;
pub(super) use opened::DATABASE;
pub(super) use rebuild::{RebuildNote, SUMS_ROW, TAKEN_OVER_ROW};
pub(super) use rows::Rows;
pub use salvage::SalvagedRows;
pub(super) use salvage::{put_in_place, salvage};
pub(super) use snapshot::Row;
pub(super) use table::StoreTable;
pub(super) use walk::{RowsWalk, Walked};

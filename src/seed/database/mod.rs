//! The database of a store: the file `store.redb`, the rows in it, and changes that are not committed yet.

mod backend;
mod bytes;
mod guard;
mod opened;
mod rows;
mod table;

pub(super) use bytes::RowBytes;
pub use guard::catches_panics;
pub(super) use opened::DATABASE;
pub(super) use rows::{Commit, Rows};
pub(super) use table::StoreTable;

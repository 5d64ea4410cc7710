//! The salvage of a store's database, while no process has the store open.

use super::damage::{DAMAGED, free_name};
use super::database::{self, DATABASE, SalvagedRows};
use super::disk::{MachineDisk, StoreDisk};
use super::error::StoreError;
use super::lock::prepare;
use super::store::Store;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A database that was salvaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// What was copied, and what was not.
    pub rows: SalvagedRows,
    /// The damaged file: the salvage removes nothing.
    pub damaged: PathBuf,
}

impl Store {
    /// Copies all rows of a damaged database that can be read into a new one, and puts it in the place of the damaged one. The store in `dir` must not be
    /// open. Both files take room meanwhile, and afterwards until an operator removes the damaged one. `told` is called now and then. The next
    /// [`Store::open`] makes anew what is derived from the rows, and keeps payloads whose files it finds without a row without end and without an owner.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a process has the store open, [`StoreError::Database`] if the database cannot be opened at all or is of another layout,
    /// [`StoreError::Io`] or [`StoreError::DiskFull`] if the disk does not take the copy. The database then stays as it is.
    pub fn salvage(dir: &Path, told: impl FnMut(SalvagedRows)) -> Result<Salvaged, StoreError> {
        let path = dir.join(DATABASE);
        if !path.exists() {
            return Err(StoreError::io("open", &path, io::ErrorKind::NotFound.into()));
        }
        let disk = StoreDisk::new(Arc::new(MachineDisk));
        let _lock = prepare(dir, &disk)?;
        let directory = dir.join(DAMAGED);
        disk.make_directory(&directory)?;
        let (copy, damaged) = (path.with_added_extension("new"), free_name(&directory.join(DATABASE)));
        disk.remove_if_there(&copy)?;
        drop(disk.create(&copy)?);
        let rows = database::salvage(dir, &copy, &disk, told);
        let placed =
            rows.and_then(|rows| database::put_in_place(dir, (&copy, &damaged), &disk).map(|()| rows));
        match placed {
            Ok(rows) => Ok(Salvaged { rows, damaged }),
            Err(error) => {
                disk.remove_if_there(&copy)?;
                Err(error)
            }
        }
    }
}

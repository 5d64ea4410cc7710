//! Removes what a crash left of a store's files, when it is opened. Only names in `tmp` and rows of files that are to be removed are looked at,
//! however much is held: a file is placed while `tmp` has a name with its token, and removed while the database has a row of it.

use super::damage::Damage;
use super::disk::{StoreDisk, parent};
use super::entry::EntryBody;
use super::error::StoreError;
use super::inner::Inner;
use super::layout;
use crate::limits::STORE_BATCH_LEN;
use crate::token::{AnyToken, SetToken, Token};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

/// The tokens, in hexadecimal digits, that were being changed when the last process ended: `tmp` has names of them.
pub(super) fn in_flight(dir: &Path) -> Result<HashSet<String>, StoreError> {
    let tmp = dir.join("tmp");
    let mut in_flight = HashSet::default();
    for entry in fs::read_dir(&tmp).map_err(|e| StoreError::io("read", &tmp, e))? {
        let name = entry.map_err(|e| StoreError::io("read", &tmp, e))?.file_name();
        if let Some((hex, _)) = name.to_str().and_then(|name| name.split_once('.')) {
            in_flight.insert(hex.to_owned());
        }
    }
    Ok(in_flight)
}

/// Empties `tmp`, once nothing is left of what its names explain.
fn empty_temporary(dir: &Path, disk: &StoreDisk, damage: &mut Damage) -> Result<(), StoreError> {
    let tmp = dir.join("tmp");
    for entry in fs::read_dir(&tmp).map_err(|e| StoreError::io("read", &tmp, e))? {
        let entry = entry.map_err(|e| StoreError::io("read", &tmp, e))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            damage.set_aside(path.display(), "a directory in tmp is not the store's", [path.as_path()]);
        } else {
            disk.remove_if_there(&path)?;
        }
    }
    Ok(())
}

impl Inner {
    /// Removes what a crash left.
    pub(super) fn clean(&self, in_flight: &HashSet<String>) -> Result<(), StoreError> {
        let mut removed_in = BTreeSet::new();
        for hex in in_flight {
            let content = format!("b3:{hex}").parse::<Token>().ok().map(AnyToken::from);
            let set = format!("set:{hex}").parse::<SetToken>().ok().map(AnyToken::from);
            for token in content.into_iter().chain(set) {
                for path in layout::kinds(&token).iter().map(|kind| layout::path(&token, kind)) {
                    let file = self.dir.join(&path);
                    if !self.is_claimed(&path) && file.exists() {
                        self.disk.remove_if_there(&file)?;
                        removed_in.insert(parent(&file).to_owned());
                    }
                }
                self.charge_again(&token);
            }
        }
        // Durable, before `tmp` is emptied: a second crash must not bring back what only its names explain.
        removed_in.iter().try_for_each(|directory| self.disk.sync_directory(directory))?;
        let mut after = String::new();
        loop {
            let page = self.index().gone_after(&after, STORE_BATCH_LEN);
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            after.push('\0');
            self.remove_gone(&page)?;
        }
        // What `tmp` told is known by rows from now on.
        self.commit()?;
        empty_temporary(&self.dir, &self.disk, &mut self.damage())
    }

    /// Charges a set for blocks that a write left in its files when a crash ended it.
    fn charge_again(&self, token: &AnyToken) {
        let held = self.index().get(token);
        if let Some(held) = held
            && let EntryBody::Set(set) = held.body
        {
            let bytes = self.set_bytes(&set.descriptor, set.own);
            if bytes != held.bytes {
                self.index().insert(*token, held.lease, bytes, held.body);
            }
        }
    }
}

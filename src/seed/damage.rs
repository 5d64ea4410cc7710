//! What is found damaged on the disk: made whole again or set aside, never deleted, and told.
//!
//! What is set aside lies in the store's directory `damaged`, under the name that it had; a second one of that name gets a number.

use super::error::StoreError;
use super::lease::Lease;
use crate::limits::{CHECKS_FRESH_LEN_MAX, DAMAGE_LEN_MAX};
use crate::token::AnyToken;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of what is set aside.
pub(super) const DAMAGED: &str = "damaged";

/// What became of something that was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageOutcome {
    /// It was made whole again from what there was.
    Mended,
    /// Its files were moved to `damaged`; it is no longer held.
    SetAside,
    /// It stays where it is: it could not be moved, or it can be used once its rights are mended.
    Left,
}

impl DamageOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mended, Self::SetAside, Self::Left];

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::SetAside => "set_aside",
            Self::Left => "left",
        }
    }
}

/// One thing that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its token, or the name of a file that has none.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// What became of it.
    pub outcome: DamageOutcome,
}

/// The damage that a store knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DamageState {
    /// Files in the store's directory `damaged`, those of earlier runs among them.
    pub files_set_aside: u64,
    /// Things found damaged since the start: made whole again.
    pub mended: u64,
    /// Set aside.
    pub set_aside: u64,
    /// Left where they are.
    pub left: u64,
    /// The latest of them, at most [`DAMAGE_LEN_MAX`], the newest last.
    pub latest: VecDeque<Damaged>,
}

impl DamageState {
    /// How many things came to this end since the start.
    pub fn count(&self, outcome: DamageOutcome) -> u64 {
        match outcome {
            DamageOutcome::Mended => self.mended,
            DamageOutcome::SetAside => self.set_aside,
            DamageOutcome::Left => self.left,
        }
    }
}

/// A store's damage, and the moving of files.
#[derive(Debug)]
pub(super) struct Damage {
    dir: PathBuf,
    writable: bool,
    state: DamageState,
    /// The leases of payloads that are not held for their damage: they hold again when the payloads come again.
    leases: FxHashMap<AnyToken, Lease>,
}

impl Damage {
    /// Of the store in `dir`.
    pub(super) fn of(dir: &Path, writable: bool) -> Self {
        let aside = fs::read_dir(dir.join(DAMAGED)).map_or(0, |entries| entries.flatten().count());
        let state = DamageState { files_set_aside: aside as u64, ..DamageState::default() };
        if aside > 0 {
            let path = dir.join(DAMAGED);
            tracing::warn!(files = aside, path = %path.display(), "damaged files of earlier lie here: look at them, then remove them");
        }
        Self { dir: dir.to_owned(), writable, state, leases: FxHashMap::default() }
    }

    pub(super) fn state(&self) -> DamageState {
        self.state.clone()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Tells of something.
    pub(super) fn note(&mut self, name: impl ToString, reason: impl Into<String>, outcome: DamageOutcome) {
        let damaged = Damaged { name: name.to_string(), reason: reason.into(), outcome };
        let Damaged { name, reason, .. } = &damaged;
        match outcome {
            DamageOutcome::Mended => tracing::warn!(%name, %reason, "damage in the store, made whole again"),
            DamageOutcome::SetAside => {
                let path = self.dir.join(DAMAGED);
                tracing::error!(%name, %reason, path = %path.display(), "damage in the store, set aside: put it again");
            }
            DamageOutcome::Left => tracing::error!(%name, %reason, "damage in the store, left where it is"),
        }
        match outcome {
            DamageOutcome::Mended => self.state.mended += 1,
            DamageOutcome::SetAside => self.state.set_aside += 1,
            DamageOutcome::Left => self.state.left += 1,
        }
        if self.state.latest.len() == DAMAGE_LEN_MAX {
            self.state.latest.pop_front();
        }
        self.state.latest.push_back(damaged);
    }

    /// Moves these files to `damaged` and tells of it as one thing. Files that are not there are passed over.
    pub(super) fn set_aside<'a>(
        &mut self,
        name: impl ToString,
        reason: impl Into<String>,
        paths: impl IntoIterator<Item = &'a Path>,
    ) {
        let mut reason = reason.into();
        if !self.writable {
            return self.note(name, reason + "; the store cannot be written", DamageOutcome::Left);
        }
        let mut outcome = DamageOutcome::SetAside;
        for path in paths {
            if let Err(error) = self.move_file(path) {
                outcome = DamageOutcome::Left;
                reason = format!("{reason}; {error}");
            }
        }
        self.note(name, reason, outcome);
    }

    fn move_file(&mut self, path: &Path) -> Result<(), StoreError> {
        match fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("look at", path, error)),
        }
        let directory = self.dir.join(DAMAGED);
        fs::create_dir_all(&directory).map_err(|e| StoreError::io("make the directory", &directory, e))?;
        let name = directory.join(path.file_name().unwrap_or_default());
        let mut free = name.clone();
        for number in 2_u64.. {
            if fs::symlink_metadata(&free).is_err() {
                break;
            }
            free = name.with_added_extension(number.to_string());
        }
        fs::rename(path, &free).map_err(|e| StoreError::io("set aside", path, e))?;
        self.state.files_set_aside += 1;
        Ok(())
    }

    /// Remembers the lease of a payload that is not held for its damage.
    pub(super) fn remember(&mut self, token: AnyToken, lease: Lease) {
        if self.leases.len() < CHECKS_FRESH_LEN_MAX {
            self.leases.insert(token, lease);
        }
    }

    /// The lease that a payload had before it was found damaged.
    pub(super) fn lease_of(&self, token: &AnyToken) -> Option<Lease> {
        self.leases.get(token).copied()
    }

    /// The payload has come again, or its lease is over.
    pub(super) fn forget(&mut self, token: &AnyToken) {
        self.leases.remove(token);
    }
}

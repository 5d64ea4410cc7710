//! Damage found on the disk: it is mended or set aside, never deleted, and reported.
//!
//! A file set aside lies in the store's directory `damaged` under its own name; if the name is taken, a number is added.

use super::disk::StoreDisk;
use super::error::StoreError;
use crate::limits::DAMAGE_LEN_MAX;
use serde::Serialize;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of files set aside.
pub(super) const DAMAGED: &str = "damaged";

/// The outcome of a find of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageOutcome {
    /// It was mended from the bytes that were there.
    Mended,
    /// Its files were moved to `damaged`; it is no longer held.
    SetAside,
    /// It was set aside earlier, and has been fetched again from another holder.
    Refetched,
    /// It stays where it is: it could not be moved, or it can be used once its rights are corrected.
    Left,
}

impl DamageOutcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::Mended, Self::SetAside, Self::Refetched, Self::Left];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::SetAside => "set_aside",
            Self::Refetched => "refetched",
            Self::Left => "left",
        }
    }
}

/// One damaged payload, set or file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its token, or the name of a file that has none.
    pub name: String,
    /// The damage.
    pub reason: String,
    /// The outcome.
    pub outcome: DamageOutcome,
}

/// The damage that a store knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DamageState {
    /// Files in the store's directory `damaged`, those of earlier runs among them.
    pub files_set_aside: u64,
    /// Damage mended since the start.
    pub mended: u64,
    /// Damage set aside since the start.
    pub set_aside: u64,
    /// Payloads and sets fetched again since the start, after they were set aside.
    pub refetched: u64,
    /// Damage left in place since the start.
    pub left: u64,
    /// Payloads and sets that are not held because of damage, though a lease of them is not over: they are fetched again from a holder
    /// that is known, or wait until they are put again.
    pub lost: u64,
    /// The latest finds, at most [`DAMAGE_LEN_MAX`], the newest last.
    pub latest: VecDeque<Damaged>,
}

impl DamageState {
    /// The number of finds with this outcome since the start.
    pub fn count(&self, outcome: DamageOutcome) -> u64 {
        match outcome {
            DamageOutcome::Mended => self.mended,
            DamageOutcome::SetAside => self.set_aside,
            DamageOutcome::Refetched => self.refetched,
            DamageOutcome::Left => self.left,
        }
    }
}

/// A store's damage. Moves damaged files.
#[derive(Debug)]
pub(super) struct Damage {
    dir: PathBuf,
    disk: StoreDisk,
    writable: bool,
    state: DamageState,
}

/// This name if no file has it, or the first that none has with a number behind it.
pub(super) fn free_name(name: &Path) -> PathBuf {
    let mut free = name.to_owned();
    for number in 2_u64.. {
        if fs::symlink_metadata(&free).is_err() {
            break;
        }
        free = name.with_added_extension(number.to_string());
    }
    free
}

impl Damage {
    /// The damage of the store in `dir`, as far as its directory shows.
    pub(super) fn of(dir: &Path, disk: &StoreDisk, writable: bool) -> Self {
        let aside = fs::read_dir(dir.join(DAMAGED)).map_or(0, |entries| entries.flatten().count());
        let state = DamageState { files_set_aside: aside as u64, ..DamageState::default() };
        if aside > 0 {
            let path = dir.join(DAMAGED);
            tracing::warn!(files = aside, path = %path.display(), "damaged files of earlier runs are here: examine them, then remove them");
        }
        Self { dir: dir.to_owned(), disk: disk.clone(), writable, state }
    }

    pub(super) fn state(&self) -> DamageState {
        self.state.clone()
    }

    /// Logs and counts a find.
    pub(super) fn note(&mut self, name: impl ToString, reason: impl Into<String>, outcome: DamageOutcome) {
        let damaged = Damaged { name: name.to_string(), reason: reason.into(), outcome };
        let Damaged { name, reason, .. } = &damaged;
        match outcome {
            DamageOutcome::Mended => tracing::warn!(%name, %reason, "damage in the store, made whole again"),
            DamageOutcome::SetAside => {
                let path = self.dir.join(DAMAGED);
                tracing::error!(%name, %reason, path = %path.display(), "damage in the store, set aside: it is fetched from another holder, if one is known; otherwise put it again");
            }
            DamageOutcome::Refetched => tracing::info!(%name, %reason, "damage in the store, fetched again"),
            DamageOutcome::Left => tracing::error!(%name, %reason, "damage in the store, left where it is"),
        }
        match outcome {
            DamageOutcome::Mended => self.state.mended += 1,
            DamageOutcome::SetAside => self.state.set_aside += 1,
            DamageOutcome::Refetched => self.state.refetched += 1,
            DamageOutcome::Left => self.state.left += 1,
        }
        if self.state.latest.len() == DAMAGE_LEN_MAX {
            self.state.latest.pop_front();
        }
        self.state.latest.push_back(damaged);
    }

    /// Moves these files to `damaged` and reports them as one find. Missing files are skipped.
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
        self.disk.make_directory(&directory)?;
        let free = free_name(&directory.join(path.file_name().unwrap_or_default()));
        self.disk.0.rename(path, &free).map_err(|e| StoreError::io("set aside", path, e))?;
        self.state.files_set_aside += 1;
        Ok(())
    }
}

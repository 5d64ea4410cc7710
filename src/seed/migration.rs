//! Takes over the layout of versions before the database: payloads and sets as files, each with a file of its lease, and sets with one of their
//! descriptor. A crash loses nothing of it: a file of a lease goes after the row that replaces it is durable, and the next start goes on.
//!
//! So are payloads taken over whose database was moved away: without files of leases they are kept without end and without an owner.

use super::blocks::Blocks;
use super::damage::DamageOutcome;
use super::disk::parent;
use super::entry::{EntryBody, PayloadPlace, SetBody};
use super::error::StoreError;
use super::inner::Inner;
use super::layout::{self, BLOB, DATA, META, SET, SETS};
use super::lease::{Lease, LeaseFile};
use crate::limits::{PAYLOAD_BYTES_MAX, STORE_BATCH_LEN};
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, Token, outboard_bytes};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The directories after which a line of the log tells how far it has come.
const TOLD_DIRECTORIES_LEN: usize = 16;

/// The files of one token.
#[derive(Debug, Default)]
struct Found {
    files: Vec<File>,
    /// Directories and special files under the names of files.
    odd: Vec<PathBuf>,
}

#[derive(Debug)]
struct File {
    kind: String,
    path: PathBuf,
    length: u64,
    /// The bytes of disk that it takes.
    taken_bytes: u64,
    /// The inode: two names of one file have the same.
    inode: u64,
    modified: SystemTime,
}

impl File {
    /// When it was used last, as far as the file tells: the one written last counts as used last.
    fn used(&self) -> u64 {
        let since = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or_default()
    }
}

impl Found {
    fn file(&self, kind: &str) -> Option<&File> {
        self.files.iter().find(|file| file.kind == kind)
    }

    fn is_there(&self, kind: &str, length: u64) -> bool {
        self.file(kind).is_some_and(|file| file.length == length)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }
}

/// The search of a store's files.
pub(super) struct Migration<'a> {
    store: &'a Inner,
    in_flight: &'a HashSet<String>,
    /// The directories in which files were removed.
    removed_in: BTreeSet<PathBuf>,
    /// Files that are no longer needed once the rows so far are durable.
    replaced: Vec<PathBuf>,
    taken: u64,
}

impl<'a> Migration<'a> {
    /// Takes over all files. `in_flight` has the tokens that were being changed when the last process ended.
    pub(super) fn run(store: &'a Inner, in_flight: &'a HashSet<String>) -> Result<(), StoreError> {
        let (removed_in, replaced) = (BTreeSet::new(), Vec::new());
        let mut migration = Self { store, in_flight, removed_in, replaced, taken: 0 };
        // The blobs of sets first.
        for directory in [DATA, SETS] {
            migration.directory(directory)?;
        }
        // Durable, before `tmp` is emptied: a second crash must not bring back what only its names explain.
        migration.sync_removed()?;
        store.index().note_taken_over();
        store.commit()?;
        if migration.taken > 0 {
            tracing::info!(
                payloads_and_sets = migration.taken,
                "the store's earlier layout was taken over into its database"
            );
        }
        Ok(())
    }

    fn directory(&mut self, directory: &str) -> Result<(), StoreError> {
        let below = self.below(directory)?;
        for (number, path) in below.iter().enumerate() {
            let found = find(directory, path)?;
            for (token, found) in found {
                self.set_odd_aside(&token, &found);
                match token {
                    AnyToken::Content(payload) => self.payload(payload, &found)?,
                    AnyToken::Set(_) => self.set(&token, &found)?,
                }
                if self.replaced.len() >= STORE_BATCH_LEN {
                    self.flush()?;
                }
            }
            self.flush()?;
            if self.taken > 0 && (number + 1).is_multiple_of(TOLD_DIRECTORIES_LEN) {
                let (done, of, taken) = (number + 1, below.len(), self.taken);
                tracing::info!(
                    directory,
                    done,
                    of,
                    taken,
                    "taking over the store's earlier layout into its database"
                );
            }
        }
        Ok(())
    }

    /// Makes the rows so far durable, and removes the files that they replace.
    fn flush(&mut self) -> Result<(), StoreError> {
        self.store.commit()?;
        for path in std::mem::take(&mut self.replaced) {
            if self.is_writable() {
                self.store.disk.remove_if_there(&path)?;
                self.removed_in.insert(parent(&path).to_owned());
            }
        }
        self.sync_removed()
    }

    fn sync_removed(&mut self) -> Result<(), StoreError> {
        let removed_in = std::mem::take(&mut self.removed_in);
        removed_in.iter().try_for_each(|directory| self.store.disk.sync_directory(directory))
    }

    fn is_writable(&self) -> bool {
        self.store.read_only.is_none()
    }

    fn is_in_flight(&self, token: &AnyToken) -> bool {
        self.in_flight.contains(&layout::place(token).1)
    }

    /// Removes what a crash left.
    fn remove<'p>(&mut self, mut paths: impl Iterator<Item = &'p Path>) -> Result<(), StoreError> {
        paths.try_for_each(|path| {
            self.removed_in.insert(parent(path).to_owned());
            self.store.disk.remove_if_there(path)
        })
    }

    fn set_odd_aside(&self, token: &AnyToken, found: &Found) {
        if !found.odd.is_empty() {
            let reason = "a directory or special file has the name of a file";
            self.store.damage().set_aside(token, reason, found.odd.iter().map(PathBuf::as_path));
        }
    }

    /// The files of leases and descriptors, which rows replace.
    fn replace(&mut self, found: &Found) {
        let replaced = found.files.iter().filter(|file| file.kind == SET || file.kind == META);
        self.replaced.extend(replaced.map(|file| file.path.clone()));
    }

    fn payload(&mut self, payload: Token, found: &Found) -> Result<(), StoreError> {
        let token = AnyToken::from(payload);
        if self.store.index().get(&token).is_some() {
            self.replace(found);
            return Ok(());
        }
        let Some(blob) = found.file(BLOB) else {
            return self.without_its_first(&token, found, "its payload's file is missing");
        };
        let (lease, length) = self.lease(&token, found);
        if let Some(reason) = wrong(&payload, blob, length) {
            self.store.index().note_lost(&token, vec![lease], Lanes::NONE);
            self.store.damage().set_aside(token, reason, found.paths());
            return Ok(());
        }
        let mut index = self.store.index();
        let (length, place) = (blob.length, PayloadPlace::Files);
        let bytes = index.blocks.payload(length, place);
        index.insert(token, lease, bytes, EntryBody::Payload { length, place });
        index.restamp(&token, blob.used());
        drop(index);
        self.taken += 1;
        self.replace(found);
        Ok(())
    }

    /// Handles a token without the file that makes it held: it was being written or removed, or the file was lost.
    fn without_its_first(&mut self, token: &AnyToken, found: &Found, reason: &str) -> Result<(), StoreError> {
        if found.files.is_empty() {
            return Ok(());
        }
        if self.is_in_flight(token) {
            return if self.is_writable() { self.remove(found.paths()) } else { Ok(()) };
        }
        self.store.damage().set_aside(token, reason, found.paths());
        Ok(())
    }

    /// The lease, and the payload's length in its file. With a lease that cannot be read, the payload is kept without end, since removing
    /// it would be worse.
    fn lease(&self, token: &AnyToken, found: &Found) -> (Lease, Option<u64>) {
        let Some(file) = found.file(META) else { return (Lease::default(), None) };
        match LeaseFile::read(&file.path) {
            Ok(LeaseFile { lease, length }) => {
                let shift_s = self.store.clock().shift_s(lease.clock);
                (Lease { expires_s: lease.expires_s.map(|at| at.saturating_add(shift_s)), ..lease }, length)
            }
            Err(error) => {
                let reason =
                    format!("its lease cannot be read: {error}; it is kept without end and without an owner");
                if error.kind() == io::ErrorKind::InvalidData {
                    self.store.damage().set_aside(token, reason, [file.path.as_path()]);
                } else {
                    self.store.damage().note(token, reason, DamageOutcome::Left);
                }
                (Lease::default(), None)
            }
        }
    }

    /// Takes over a set, if lanes of it are held.
    fn set(&mut self, token: &AnyToken, found: &Found) -> Result<(), StoreError> {
        if self.store.index().get(token).is_some() {
            self.replace(found);
            // An interrupted start may have removed files of lanes that the set does not claim, and not durably.
            let is_left = |file: &&File| !self.store.is_claimed(&layout::path(token, &file.kind));
            self.replaced.extend(found.files.iter().filter(is_left).map(|file| file.path.clone()));
            return Ok(());
        }
        let (AnyToken::Set(set), Some(file)) = (token, found.file(SET)) else {
            return self.without_its_first(token, found, "its descriptor's file is missing");
        };
        let bytes = match fs::read(&file.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("its descriptor cannot be read: {error}");
                self.store.damage().note(token, reason, DamageOutcome::Left);
                return Ok(());
            }
        };
        let Some((descriptor, claimed)) = layout::parse_set(set, &bytes) else {
            let reason = "its descriptor does not match the set token";
            self.store.damage().set_aside(token, reason, found.paths());
            return Ok(());
        };
        let own = self.lanes(token, found, (&descriptor, claimed))?;
        let (lease, _) = self.lease(token, found);
        let mut index = self.store.index();
        if index.lanes(&descriptor, own).is_empty() {
            drop(index);
            let blobs =
                [Blob::Content, Blob::Parity].into_iter().filter_map(|blob| layout::blob(&descriptor, blob));
            let mut blobs = blobs.map(|(blob, _)| blob.hex());
            if self.is_in_flight(token) || blobs.any(|blob| self.in_flight.contains(&blob)) {
                return if self.is_writable() { self.remove(found.paths()) } else { Ok(()) };
            }
            let left = found.files.iter().filter(|file| file.kind == SET || file.kind == META);
            let paths = left.map(|file| file.path.as_path());
            self.store.damage().set_aside(token, "none of its lanes are held any more", paths);
            return Ok(());
        }
        let kept = layout::kinds_of_set(&descriptor, own).filter_map(|kind| found.file(kind));
        let taken_bytes = kept.map(|file| file.taken_bytes).sum();
        let bytes = index.blocks.set_that_takes(&descriptor, own, taken_bytes);
        let generation = index.next_generation();
        index.insert(*token, lease, bytes, EntryBody::Set(SetBody { descriptor, own, generation }));
        index.restamp(token, file.used());
        drop(index);
        self.taken += 1;
        self.replace(found);
        Ok(())
    }

    /// The inode of the file of a payload that is held.
    fn inode(&self, payload: &Token) -> Option<u64> {
        let token = AnyToken::from(*payload);
        let is_held = self.store.index().get(&token).is_some();
        let file = is_held.then(|| fs::metadata(self.store.file(&token, BLOB)).ok())??;
        Some(file.ino())
    }

    /// The lanes that a set claims in its own files and whose files are there. Files of other lanes are removed or set aside.
    fn lanes(
        &mut self,
        token: &AnyToken,
        found: &Found,
        (descriptor, claimed): (&Descriptor, Lanes),
    ) -> Result<Lanes, StoreError> {
        let mut own = claimed;
        let is_in_flight = self.is_in_flight(token);
        let parts = layout::parts_of(descriptor, claimed);
        for blob in [Blob::Content, Blob::Parity] {
            let (kind, outboard_kind) = layout::lane_kinds(blob);
            let files = || [kind, outboard_kind].into_iter().filter_map(|kind| found.file(kind));
            let whole = layout::blob(descriptor, blob)
                .is_some_and(|(payload, length)| self.store.index().has_payload(&payload, length));
            let Some(part) = parts.iter().find(|part| part.blob == blob) else {
                // A crash came before or after the set claimed them, or the set has lost these lanes.
                if whole || is_in_flight {
                    if self.is_writable() {
                        self.remove(files().map(|file| file.path.as_path()))?;
                    }
                } else if files().next().is_some() {
                    let paths = files().map(|file| file.path.as_path());
                    self.store.damage().set_aside(
                        token,
                        "lanes that its descriptor's file does not name",
                        paths,
                    );
                }
                continue;
            };
            let lanes = layout::lanes_of(descriptor, blob).intersection(claimed);
            let inode = found.file(kind).map(|file| file.inode);
            // The set's files became a payload, and a crash came meanwhile: the payload is enough. The files are gone since an earlier start, if
            // there was one.
            let payload = self.inode(&part.token);
            if payload.is_some() && (inode.is_none() || inode == payload) {
                own = own.without(lanes);
                if self.is_writable() {
                    self.remove(files().map(|file| file.path.as_path()))?;
                }
                continue;
            }
            let pairs = outboard_bytes(part.length);
            if !found.is_there(kind, part.length) || !(pairs == 0 || found.is_there(outboard_kind, pairs)) {
                own = own.without(lanes);
                let reason =
                    format!("lanes {lanes}: a file is missing or has the wrong size; put them again");
                self.store.damage().set_aside(token, reason, files().map(|file| file.path.as_path()));
            }
        }
        Ok(own)
    }

    /// The directories one level below `directory`.
    fn below(&self, directory: &str) -> Result<Vec<PathBuf>, StoreError> {
        let top = self.store.dir.join(directory);
        let level = match fs::read_dir(&top) {
            Ok(level) => level,
            // A store of a version without sets, on a disk that cannot be written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &top, error)),
        };
        let mut found = Vec::new();
        for below in level {
            let below = below.map_err(|e| StoreError::io("read", &top, e))?.path();
            if below.is_dir() {
                found.push(below);
            } else if is_prefix(&below) {
                let reason = "a file where a directory should be";
                self.store.damage().set_aside(below.display(), reason, [below.as_path()]);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The files of every token in a directory. Files with other names do not belong to the store, and are neither counted nor touched.
fn find(directory: &str, below: &Path) -> Result<HashMap<AnyToken, Found>, StoreError> {
    let mut found: HashMap<AnyToken, Found> = HashMap::default();
    for entry in fs::read_dir(below).map_err(|e| StoreError::io("read", below, e))? {
        let entry = entry.map_err(|e| StoreError::io("read", below, e))?;
        let path = entry.path();
        let Some((token, kind)) = layout::named(directory, &path) else { continue };
        let kind = kind.to_owned();
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let (length, inode) = (metadata.len(), metadata.ino());
                let taken_bytes = Blocks::taken_by(&metadata);
                let file = File { kind, path, length, taken_bytes, inode, modified };
                found.entry(token).or_default().files.push(file);
            }
            Ok(_) => found.entry(token).or_default().odd.push(path),
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("read", &path, error)),
        }
    }
    Ok(found)
}

/// The fault of a payload's file, as far as its size shows it. A missing outboard is made again when it is needed.
fn wrong(token: &Token, blob: &File, length: Option<u64>) -> Option<String> {
    let is = blob.length;
    if let Some(length) = length.filter(|length| *length != is) {
        return Some(format!("its file has {is} bytes, and {length} were put"));
    }
    if is > PAYLOAD_BYTES_MAX {
        return Some(format!("its file has {is} bytes, more than a payload may have"));
    }
    (is == 0 && *token != Token::of(b"")).then(|| "its file is empty".into())
}

/// Whether a path is that of one of the store's directories.
fn is_prefix(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

//! Finds a store's holdings when it is opened, removes the leftovers of a crash, and sets damaged files aside.
//!
//! A crash leaves files that were being changed, and with them a file under `tmp` whose name begins with the same token. Without such a
//! file under `tmp`, incomplete files do not come from a crash. A file is never deleted for being damaged.

use super::blocks::Blocks;
use super::check::Suspect;
use super::clock::Clock;
use super::damage::{Damage, DamageOutcome};
use super::disk::{StoreDisk, parent};
use super::error::StoreError;
use super::index::{EntryBody, Index, SetBody};
use super::layout::{self, BLOB, DATA, META, OUTBOARD, SET, SETS};
use super::lease::{Lease, LeaseFile};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{AnyToken, Token, outboard_bytes};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// An entry of the index to be. Entries are inserted once all are known.
struct Entry {
    used: SystemTime,
    token: AnyToken,
    lease: Lease,
    bytes: u64,
    body: EntryBody,
}

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
pub(super) fn empty_temporary(dir: &Path, disk: &StoreDisk, damage: &mut Damage) -> Result<(), StoreError> {
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

/// The search of a store's files.
pub(super) struct Recovery<'a> {
    pub(super) dir: &'a Path,
    pub(super) disk: &'a StoreDisk,
    pub(super) index: &'a mut Index,
    pub(super) damage: &'a mut Damage,
    pub(super) clock: &'a Clock,
    pub(super) in_flight: HashSet<String>,
    /// The directories in which files were removed.
    pub(super) removed_in: BTreeSet<PathBuf>,
}

impl Recovery<'_> {
    /// Inserts the holdings into the index; the file written last counts as used last. Returns the payloads whose outboards must be
    /// made anew before they are held.
    pub(super) fn fill(mut self) -> Result<Vec<Suspect>, StoreError> {
        let mut entries = Vec::new();
        let mut inodes = HashMap::default();
        let mut suspects = HashMap::default();
        for (token, found) in self.find(DATA)? {
            self.set_odd_aside(&token, &found);
            let AnyToken::Content(payload) = token else { continue };
            let Some(blob) = found.file(BLOB) else {
                self.without_its_first(&token, &found, "its payload's file is missing")?;
                continue;
            };
            let (lease, length) = self.lease(&token, &found);
            inodes.insert(token, blob.inode);
            if let Some(reason) = wrong(&payload, blob, &found, length) {
                suspects.insert(
                    payload,
                    Suspect { token: payload, length: blob.length, lease, reason, sets: Vec::new() },
                );
                continue;
            }
            let bytes = self.index.blocks.payload(blob.length);
            let body = EntryBody::Payload { length: blob.length };
            entries.push(Entry { used: blob.modified, token, lease, bytes, body });
        }
        insert(self.index, entries);
        let mut entries = Vec::new();
        for (token, found) in self.find(SETS)? {
            self.set_odd_aside(&token, &found);
            if let Some(entry) = self.set(&inodes, &mut suspects, &token, &found)? {
                entries.push(entry);
            }
        }
        insert(self.index, entries);
        // Durable, before `tmp` is emptied: a second crash must not bring back what only its names explain.
        self.removed_in.iter().try_for_each(|directory| self.disk.sync_directory(directory))?;
        Ok(self.suspects(suspects))
    }

    /// Removes what a crash left.
    fn remove<'p>(&mut self, mut paths: impl Iterator<Item = &'p Path>) -> Result<(), StoreError> {
        paths.try_for_each(|path| {
            self.removed_in.insert(parent(path).to_owned());
            self.disk.remove_if_there(path)
        })
    }

    /// The suspects to check; none in a store that cannot be written: they are reported instead.
    fn suspects(&mut self, suspects: HashMap<Token, Suspect>) -> Vec<Suspect> {
        if self.damage.is_writable() {
            return suspects.into_values().collect();
        }
        for suspect in suspects.into_values() {
            let reason = suspect.reason + "; the store cannot be written";
            self.damage.note(suspect.token, reason, DamageOutcome::Left);
        }
        Vec::new()
    }

    fn set_odd_aside(&mut self, token: &AnyToken, found: &Found) {
        if !found.odd.is_empty() {
            let reason = "a directory or special file has the name of a file";
            self.damage.set_aside(token, reason, found.odd.iter().map(PathBuf::as_path));
        }
    }

    /// Handles a token without the file that makes it held: it was being written or removed, or the file was lost.
    fn without_its_first(&mut self, token: &AnyToken, found: &Found, reason: &str) -> Result<(), StoreError> {
        if found.files.is_empty() {
            return Ok(());
        }
        if self.in_flight.contains(&layout::place(token).1) {
            return self.remove(found.paths());
        }
        self.damage.set_aside(token, reason, found.paths());
        Ok(())
    }

    /// The lease, and the payload's length in its file. With a lease that cannot be read, the payload is kept without end, since removing
    /// it would be worse.
    fn lease(&mut self, token: &AnyToken, found: &Found) -> (Lease, Option<u64>) {
        let Some(file) = found.file(META) else { return (Lease::default(), None) };
        match LeaseFile::read(&file.path) {
            Ok(LeaseFile { lease, length }) => {
                let shift_s = self.clock.shift_s(lease.clock);
                (Lease { expires_s: lease.expires_s.map(|at| at.saturating_add(shift_s)), ..lease }, length)
            }
            Err(error) => {
                let reason =
                    format!("its lease cannot be read: {error}; it is kept without end and without an owner");
                if error.kind() == io::ErrorKind::InvalidData {
                    self.damage.set_aside(token, reason, [file.path.as_path()]);
                } else {
                    self.damage.note(token, reason, DamageOutcome::Left);
                }
                (Lease::default(), None)
            }
        }
    }

    /// Reads the files of a set; `None` if none of its lanes are held, or not yet.
    fn set(
        &mut self,
        inodes: &HashMap<AnyToken, u64>,
        suspects: &mut HashMap<Token, Suspect>,
        token: &AnyToken,
        found: &Found,
    ) -> Result<Option<Entry>, StoreError> {
        let (AnyToken::Set(set), Some(file)) = (token, found.file(SET)) else {
            self.without_its_first(token, found, "its descriptor's file is missing")?;
            return Ok(None);
        };
        let bytes = match fs::read(&file.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.damage.note(
                    token,
                    format!("its descriptor cannot be read: {error}"),
                    DamageOutcome::Left,
                );
                return Ok(None);
            }
        };
        let Some((descriptor, claimed)) = layout::parse_set(set, &bytes) else {
            self.damage.set_aside(token, "its descriptor does not match the set token", found.paths());
            return Ok(None);
        };
        let mut body = SetBody { descriptor, own: claimed, generation: self.index.next_generation() };
        body.own = self.lanes(inodes, token, found, (&descriptor, claimed))?;
        if body.own != claimed && self.damage.is_writable() {
            self.claim(token, &file.path, &layout::emit_set(&descriptor, body.own));
        }
        let is_in_flight = self.in_flight.contains(&layout::place(token).1);
        let (lease, _) = self.lease(token, found);
        let kept = layout::kinds_of_set(&descriptor, body.own).filter_map(|kind| found.file(kind));
        let taken_bytes = kept.map(|file| file.taken_bytes).sum();
        let bytes = self.index.blocks.set_that_takes(&descriptor, body.own, taken_bytes);
        if self.index.lanes(&descriptor, body.own) != Lanes::NONE {
            return Ok(Some(Entry {
                used: file.modified,
                token: *token,
                lease,
                bytes,
                body: EntryBody::Set(body),
            }));
        }
        // The set may be held once its payload has an outboard again.
        let blobs =
            [Blob::Content, Blob::Parity].into_iter().filter_map(|blob| layout::blob(&descriptor, blob));
        let blobs: Vec<_> = blobs.map(|(blob, _)| blob).collect();
        let suspect = blobs.iter().find(|blob| suspects.contains_key(blob));
        if let Some(suspect) = suspect.and_then(|blob| suspects.get_mut(blob)) {
            suspect.sets.push((*token, lease, bytes, body));
        } else if is_in_flight || blobs.iter().any(|blob| self.in_flight.contains(&blob.hex())) {
            self.remove(found.paths())?;
        } else {
            let left = found.files.iter().filter(|file| file.kind == SET || file.kind == META);
            let paths = left.map(|file| file.path.as_path());
            self.damage.set_aside(token, "none of its lanes are held any more", paths);
        }
        Ok(None)
    }

    /// Rewrites the file by which a set claims lanes. If the disk takes no file, the next start finds the same as this one.
    fn claim(&self, token: &AnyToken, path: &Path, bytes: &[u8]) {
        let temporary = self.dir.join("tmp").join(layout::place(token).1).with_added_extension(SET);
        let written = self.disk.replace(path, &temporary, bytes);
        if let Err(error) = written.and_then(|()| self.disk.sync_directory(parent(path))) {
            tracing::warn!(%token, %error, "the lanes of a set cannot be written down; the next start looks at its files again");
        }
    }

    /// The lanes that a set claims in its own files and whose files are there. Files of other lanes are removed or set aside.
    fn lanes(
        &mut self,
        inodes: &HashMap<AnyToken, u64>,
        token: &AnyToken,
        found: &Found,
        (descriptor, claimed): (&Descriptor, Lanes),
    ) -> Result<Lanes, StoreError> {
        let mut own = claimed;
        let is_in_flight = self.in_flight.contains(&layout::place(token).1);
        let parts = layout::parts_of(descriptor, claimed);
        for blob in [Blob::Content, Blob::Parity] {
            let (kind, outboard_kind) = layout::lane_kinds(blob);
            let files = || [kind, outboard_kind].into_iter().filter_map(|kind| found.file(kind));
            let whole = layout::blob(descriptor, blob)
                .is_some_and(|(payload, length)| self.index.has_payload(&payload, length));
            let Some(part) = parts.iter().find(|part| part.blob == blob) else {
                // A crash came before or after the set claimed them, or the set has lost these lanes.
                if whole || is_in_flight {
                    if self.damage.is_writable() {
                        self.remove(files().map(|file| file.path.as_path()))?;
                    }
                } else if files().next().is_some() {
                    let paths = files().map(|file| file.path.as_path());
                    self.damage.set_aside(token, "lanes that its descriptor's file does not name", paths);
                }
                continue;
            };
            let lanes = layout::lanes_of(descriptor, blob).intersection(claimed);
            let inode = found.file(kind).map(|file| file.inode);
            // The set's files became a payload, and a crash came meanwhile: the payload is enough. The files are gone since an earlier start, if
            // there was one.
            let payload = inodes.get(&AnyToken::from(part.token)).copied();
            if payload.is_some() && (inode.is_none() || inode == payload) {
                own = own.without(lanes);
                if self.damage.is_writable() {
                    self.remove(files().map(|file| file.path.as_path()))?;
                }
                continue;
            }
            let pairs = outboard_bytes(part.length);
            if !found.is_there(kind, part.length) || !(pairs == 0 || found.is_there(outboard_kind, pairs)) {
                own = own.without(lanes);
                let reason =
                    format!("lanes {lanes}: a file is missing or has the wrong size; put them again");
                self.damage.set_aside(token, reason, files().map(|file| file.path.as_path()));
            }
        }
        Ok(own)
    }

    /// The files of every token two levels below `dir/directory`. Files with other names do not belong to the store, and are
    /// neither counted nor touched.
    fn find(&mut self, directory: &str) -> Result<HashMap<AnyToken, Found>, StoreError> {
        let mut found: HashMap<AnyToken, Found> = HashMap::default();
        let top = self.dir.join(directory);
        let level = match fs::read_dir(&top) {
            Ok(level) => level,
            // A store of a version without sets, on a disk that cannot be written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(StoreError::io("read", &top, error)),
        };
        for below in level {
            let below = below.map_err(|e| StoreError::io("read", &top, e))?.path();
            if !below.is_dir() {
                if is_prefix(&below) {
                    self.damage.set_aside(
                        below.display(),
                        "a file where a directory should be",
                        [below.as_path()],
                    );
                }
                continue;
            }
            for entry in fs::read_dir(&below).map_err(|e| StoreError::io("read", &below, e))? {
                let entry = entry.map_err(|e| StoreError::io("read", &below, e))?;
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
        }
        Ok(found)
    }
}

/// The fault of a payload's files, as far as their sizes show it.
fn wrong(token: &Token, blob: &File, found: &Found, length: Option<u64>) -> Option<String> {
    let is = blob.length;
    if let Some(length) = length.filter(|length| *length != is) {
        return Some(format!("its file has {is} bytes, and {length} were put"));
    }
    if is > PAYLOAD_BYTES_MAX {
        return Some(format!("its file has {is} bytes, more than a payload may have"));
    }
    if is == 0 && *token != Token::of(b"") {
        return Some("its file is empty".into());
    }
    let pairs = outboard_bytes(is);
    if pairs == 0 || found.is_there(OUTBOARD, pairs) {
        return None;
    }
    let has = found.file(OUTBOARD).map_or(0, |file| file.length);
    Some(format!("its outboard has {has} of {pairs} bytes"))
}

/// Whether a path is that of one of the store's directories.
fn is_prefix(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn insert(index: &mut Index, mut entries: Vec<Entry>) {
    entries.sort_by_key(|entry| entry.used);
    entries.into_iter().for_each(|entry| index.insert(entry.token, entry.lease, entry.bytes, entry.body));
}

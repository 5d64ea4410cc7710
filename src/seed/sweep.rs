//! Finds what a store holds when it is opened, and removes what a crash left.

use super::disk::remove_if_there;
use super::error::StoreError;
use super::index::{Body, Index, SetBody};
use super::keep::Keep;
use super::layout::{self, BLOB, DATA, META, OUTBOARD, SET, SETS};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard::{Blob, Lanes};
use crate::token::{AnyToken, outboard_bytes};
use rustc_hash::FxHashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The files of one token.
#[derive(Debug, Default)]
struct Found {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    kind: String,
    path: PathBuf,
    length: u64,
    /// Two names of one file have the same.
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

    fn keep(&self) -> Result<Keep, StoreError> {
        self.file(META).map_or(Ok(Keep::default()), |file| Keep::from_file(&file.path))
    }

    /// Removes those of which `is_left` is true.
    fn remove(&self, mut is_left: impl FnMut(&File) -> bool) -> Result<(), StoreError> {
        self.files.iter().filter(|file| is_left(file)).try_for_each(|file| remove_if_there(&file.path))
    }
}

/// What is put into the index once all is known.
struct Entry {
    used: SystemTime,
    token: AnyToken,
    keep: Keep,
    bytes: u64,
    body: Body,
}

/// Puts what is held in `dir` into the index; what was written last counts as used last. Removes, where it may, files that
/// a crash left without the one that makes them held.
pub(super) fn fill(index: &mut Index, dir: &Path, may_remove: bool) -> Result<(), StoreError> {
    let mut entries = Vec::new();
    let mut inodes = FxHashMap::default();
    for (token, found) in find(dir, DATA)? {
        let blob = found.file(BLOB).filter(|blob| {
            let pairs = if blob.length <= PAYLOAD_BYTES_MAX { outboard_bytes(blob.length) } else { u64::MAX };
            pairs == 0 || found.is_there(OUTBOARD, pairs)
        });
        match blob {
            Some(blob) => {
                inodes.insert(token, blob.inode);
                entries.push(Entry {
                    used: blob.modified,
                    token,
                    keep: found.keep()?,
                    bytes: blob.length + outboard_bytes(blob.length),
                    body: Body::Payload { length: blob.length },
                });
            }
            None if may_remove => found.remove(|_| true)?,
            None => {}
        }
    }
    insert(index, entries);
    let mut entries = Vec::new();
    for (token, found) in find(dir, SETS)? {
        match read_set(index, &inodes, &token, &found)? {
            Some((used, set)) => {
                let claimed = layout::parts_of(&set.descriptor, set.own);
                let is_left = |file: &File| {
                    [Blob::Content, Blob::Parity].into_iter().any(|blob| {
                        let (kind, outboard_kind) = layout::lane_kinds(blob);
                        (file.kind == kind || file.kind == outboard_kind)
                            && !claimed.iter().any(|part| part.blob == blob)
                    })
                };
                if may_remove {
                    found.remove(is_left)?;
                }
                let bytes = layout::set_bytes(&set.descriptor, set.own);
                entries.push(Entry { used, token, keep: found.keep()?, bytes, body: Body::Set(set) });
            }
            None if may_remove => found.remove(|_| true)?,
            None => {}
        }
    }
    insert(index, entries);
    index.forget_changes();
    Ok(())
}

/// Reads a `.set` file; `None` if it is no set's or nothing of the set is held. Lanes count whose files are there.
fn read_set(
    index: &mut Index,
    inodes: &FxHashMap<AnyToken, u64>,
    token: &AnyToken,
    found: &Found,
) -> Result<Option<(SystemTime, SetBody)>, StoreError> {
    let (AnyToken::Set(set), Some(file)) = (token, found.file(SET)) else { return Ok(None) };
    let bytes = fs::read(&file.path).map_err(|e| StoreError::io("read", &file.path, e))?;
    let Some((descriptor, mut own)) = layout::parse_set(set, &bytes) else { return Ok(None) };
    for part in layout::parts_of(&descriptor, own) {
        let (kind, outboard_kind) = layout::lane_kinds(part.blob);
        let pairs = outboard_bytes(part.length);
        // A crash while the set's files became a payload: the payload is enough.
        let payload = inodes.get(&AnyToken::from(part.token));
        let is_payload =
            payload.is_some_and(|inode| found.file(kind).is_some_and(|file| file.inode == *inode));
        if is_payload
            || !found.is_there(kind, part.length)
            || !(pairs == 0 || found.is_there(outboard_kind, pairs))
        {
            own = own.without(layout::lanes_of(&descriptor, part.blob));
        }
    }
    if index.lanes(&descriptor, own) == Lanes::NONE {
        return Ok(None);
    }
    let body = SetBody { descriptor, own, generation: index.next_generation() };
    Ok(Some((file.modified, body)))
}

fn insert(index: &mut Index, mut entries: Vec<Entry>) {
    entries.sort_by_key(|entry| entry.used);
    entries.into_iter().for_each(|entry| index.insert(entry.token, entry.keep, entry.bytes, entry.body));
}

/// The files of every token two levels below `dir/directory`. What has another name is not ours: neither counted nor
/// touched.
fn find(dir: &Path, directory: &str) -> Result<FxHashMap<AnyToken, Found>, StoreError> {
    let mut found: FxHashMap<AnyToken, Found> = FxHashMap::default();
    let top = dir.join(directory);
    let level = match fs::read_dir(&top) {
        Ok(level) => level,
        // A store from before there were sets, on a disk that cannot be written.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(StoreError::io("read", &top, error)),
    };
    for below in level {
        let below = below.map_err(|e| StoreError::io("read", &top, e))?.path();
        if !below.is_dir() {
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
                    let file = File { kind, path, length, inode, modified };
                    found.entry(token).or_default().files.push(file);
                }
                Ok(_) => {}
                // Forgotten meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
        }
    }
    Ok(found)
}

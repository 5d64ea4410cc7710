//! The write of lanes of a set into the store.

use super::files::NewFiles;
use super::payload::PayloadWriter;
use crate::limits::GROUP_BYTES;
use crate::seed::accounts::Need;
use crate::seed::disk::{StoreDisk, parent, write_error};
use crate::seed::entry::{EntryBody, PayloadPlace, SetBody};
use crate::seed::error::StoreError;
use crate::seed::inner::{Changing, Inner, Mark};
use crate::seed::layout::{self, BLOB, OUTBOARD};
use crate::seed::lease::Lease;
use crate::seed::open_payload::OpenSet;
use crate::seed::reservation::Reservation;
use crate::shard::{Blob, Descriptor, Lanes, Part};
use crate::token::{AnyToken, PAIR_BYTES, SetToken, VerifiedPiece, outboard_bytes};
use smallvec::SmallVec;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes that are copied at a time from new files into those of a held set.
const COPY_BYTES: usize = 64 * GROUP_BYTES;
/// How often a set may change while lanes are added to its files.
const COMMIT_TRIES_MAX: usize = 8;

/// Takes the verified pieces of some lanes of a set in any order and keeps the lanes once all pieces are there. Dropped before
/// [`SetWriter::commit`], it leaves nothing. It may move to another thread; every call blocks on the disk.
///
/// If all lanes of a blob are asked for and none is held, the blob is written and held as a payload. Other lanes go into files of
/// the set's own. When these files have come to hold a whole blob, it becomes a payload as well.
#[derive(Debug)]
pub struct SetWriter {
    store: Arc<Inner>,
    token: SetToken,
    descriptor: Descriptor,
    /// The lanes asked for.
    lanes: Lanes,
    /// Those of them that go into the set's own files.
    own: Lanes,
    lease: Lease,
    parts: SmallVec<[NewPart; 2]>,
    /// The room for the set's small files.
    reserved: Reservation,
}

#[derive(Debug)]
struct NewPart {
    part: Part,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Payload(PayloadWriter),
    Lanes(NewFiles, Reservation),
}

impl SetWriter {
    pub(in crate::seed) fn begin(
        store: Arc<Inner>,
        descriptor: Descriptor,
        lanes: Lanes,
        lease: Lease,
        now_s: u64,
    ) -> Result<Self, StoreError> {
        store.check_writable()?;
        let token = descriptor.set_token();
        if !descriptor.lanes().contains_all(lanes) || lanes.is_empty() {
            return Err(StoreError::NoSuchLanes { lanes, count: descriptor.lanes().len() });
        }
        let (set, held, blobs) = {
            let index = store.index();
            if index.is_bad(&token) {
                return Err(StoreError::BadDescriptor(token));
            }
            let set = index.set(&token);
            let held = index.lanes(&descriptor, set.map_or(Lanes::NONE, |set| set.own));
            let blobs: SmallVec<[_; 2]> = index.whole_blobs(&descriptor).map(|(blob, _)| blob).collect();
            (set, held, blobs)
        };
        // The blobs held already get this lease as well.
        blobs.iter().try_for_each(|blob| store.check_extension(&AnyToken::from(*blob), lease))?;
        store.check_extension(&token.into(), lease)?;
        let missing = lanes.without(held);
        let blocks = store.index().blocks;
        let mut own = missing;
        let planned: SmallVec<[_; 2]> = layout::parts_of(&descriptor, missing)
            .into_iter()
            .map(|part| {
                let all = layout::lanes_of(&descriptor, part.blob);
                let is_whole = part.bytes == part.length;
                let need = if is_whole {
                    own = own.without(all);
                    PayloadWriter::need(&store, part.length)
                } else {
                    let bytes = blocks.lanes(&descriptor, missing.intersection(all));
                    Need { bytes, entries: 0, writes: 1 }
                };
                (part, is_whole, need)
            })
            .collect();
        let small = match set {
            None => Need { bytes: blocks.set(&descriptor, Lanes::NONE), entries: 1, writes: 0 },
            Some(_) => Need::default(),
        };
        // All or nothing of it is promised.
        let need = planned.iter().fold(small, |sum, (_, _, need)| sum.plus(*need));
        let mut reserved = store.promise(need, &lease, now_s)?;
        let mut parts = SmallVec::new();
        for (part, is_whole, need) in planned {
            let room = reserved.split(need);
            let target = if is_whole {
                Target::Payload(PayloadWriter::within(store.clone(), part.token, part.length, lease, room))
            } else {
                let temporary = store.temporary(&token.hex());
                let (length, selection) = (part.length, part.selection.clone());
                let files = NewFiles::new(&store.disk, &temporary, length, selection, part.bytes);
                Target::Lanes(files, room)
            };
            parts.push(NewPart { part, target });
        }
        Ok(Self { store, token, descriptor, lanes, own, lease, parts, reserved })
    }

    /// The set's token.
    pub fn token(&self) -> SetToken {
        self.token
    }

    /// The parts to write: those of the lanes asked for that were not held. None if all were.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().map(|new| &new.part)
    }

    /// Bytes of shards written so far.
    pub fn written_bytes(&self) -> u64 {
        let written = |new: &NewPart| match &new.target {
            Target::Payload(writer) => writer.written_bytes(),
            Target::Lanes(files, _) => files.written_bytes(),
        };
        self.parts.iter().map(written).sum()
    }

    /// Writes a piece of one of the parts, and its hash pairs.
    ///
    /// # Errors
    /// Those of [`PayloadWriter::write`]; [`StoreError::Foreign`] if the piece or a pair lies outside [`SetWriter::parts`].
    pub fn write(&mut self, blob: Blob, piece: &VerifiedPiece) -> Result<(), StoreError> {
        let Some(new) = self.parts.iter_mut().find(|new| new.part.blob == blob) else {
            return Err(StoreError::Foreign { offset: piece.offset, length: 0 });
        };
        match &mut new.target {
            Target::Payload(writer) => writer.write(piece),
            Target::Lanes(files, room) => {
                room.cover(files.written_bytes() + piece.data.len() as u64)?;
                files.write(piece, None)
            }
        }
    }

    /// Makes the lanes durable: once this returns, a crash does not lose them. Lanes that were held before stay held meanwhile. The owner keeps the
    /// longer of its lease of the set and this one.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if bytes are missing, [`StoreError::LanesWent`] if lanes that were held at the beginning
    /// no longer are, [`StoreError::DiskFull`] or [`StoreError::Io`] if the disk fails. No lanes are added then, unless the disk failed last; a blob
    /// that was written whole may be held as a payload.
    pub fn commit(mut self) -> Result<OpenSet, StoreError> {
        self.store.catch_up()?;
        self.reserved.cover_all()?;
        for new in &mut self.parts {
            match &mut new.target {
                Target::Payload(writer) => writer.check_complete()?,
                Target::Lanes(files, room) => {
                    files.check_complete()?;
                    room.cover_all()?;
                    files.sync()?;
                }
            }
        }
        self.store.sync_temporary()?;
        let mut new_lanes: SmallVec<[(Part, NewFiles, Reservation); 2]> = SmallVec::new();
        for NewPart { part, target } in std::mem::take(&mut self.parts) {
            match target {
                Target::Payload(writer) => drop(writer.commit()?),
                Target::Lanes(files, reserved) => new_lanes.push((part, files, reserved)),
            }
        }
        let mut marks = Vec::new();
        let added = self.add(&mut new_lanes, &mut marks);
        if added.is_err() {
            self.charge();
        }
        let committed = match (&added, marks.is_empty()) {
            (Ok(_), true) => self.store.commit(),
            _ => self.store.sync_removals(),
        };
        if let Err(error) = committed {
            // Until the rows are durable the names in `tmp` tell of the files.
            new_lanes.iter_mut().for_each(|(_, files, _)| self.store.leave_names(files));
            marks.into_iter().for_each(|mark| self.store.leave_mark(mark));
            return added.and(Err(error));
        }
        added
    }

    /// Adds the written lanes to the set.
    fn add(
        &mut self,
        new_lanes: &mut [(Part, NewFiles, Reservation)],
        marks: &mut Vec<Mark>,
    ) -> Result<OpenSet, StoreError> {
        let store = self.store.clone();
        let any = AnyToken::from(self.token);
        for _ in 0..COMMIT_TRIES_MAX {
            store.settle(&any)?;
            let before = store.index().set(&self.token);
            // Without the lock: written bytes that no set claims do no harm, even if the set is removed meanwhile.
            for (part, files, _) in new_lanes.iter() {
                if claims(before.as_ref(), part.blob) {
                    self.copy_into_set(part, files)?;
                }
            }
            let one = store.change();
            let now = store.index().set(&self.token);
            if now.map(|set| set.generation) != before.map(|set| set.generation) {
                continue;
            }
            if let Err(error) = self.place(&one, before, new_lanes, marks) {
                // Files that the set does not claim go with the next commit.
                new_lanes.iter_mut().for_each(|(_, files, _)| store.give_up_files(&any, files));
                marks.drain(..).for_each(|mark| store.leave_mark(mark));
                return Err(error);
            }
            // While the lock is held: no other thread can remove them before they are opened.
            let held = store.get_set(&self.token)?.ok_or_else(|| self.went(Lanes::NONE));
            drop(one);
            return held;
        }
        Err(self.went(Lanes::NONE))
    }

    /// Charges the set for the blocks that a failed [`SetWriter::add`] left in its files: lanes written later may use them.
    fn charge(&self) {
        let _one = self.store.change();
        let any = AnyToken::from(self.token);
        let Some(set) = self.store.index().set(&self.token) else { return };
        let bytes = self.store.set_bytes(&set.descriptor, set.own);
        let mut index = self.store.index();
        if let Some(entry) = index.get(&any) {
            index.insert(any, entry.lease, bytes, entry.body);
        }
    }

    fn went(&self, held: Lanes) -> StoreError {
        StoreError::LanesWent { token: self.token, missing: self.lanes.without(held) }
    }

    /// Copies the written bytes into the set's own files, which stay in place.
    fn copy_into_set(&self, part: &Part, files: &NewFiles) -> Result<(), StoreError> {
        let any = AnyToken::from(self.token);
        let (kind, outboard_kind) = layout::lane_kinds(part.blob);
        let path = self.store.file(&any, kind);
        let Some(to) = self.open_to_add(&path)? else { return Ok(()) };
        let Some(from) = &files.blob else { return Ok(()) };
        let disk = &self.store.disk;
        copy_lanes(disk, &self.descriptor, part, self.own, from, &to)
            .and_then(|()| disk.0.sync(&to))
            .map_err(|e| write_error(&path, part.bytes, e))?;
        let path = self.store.file(&any, outboard_kind);
        let (Some(from), Some(to)) = (&files.outboard, self.open_to_add(&path)?) else { return Ok(()) };
        copy_pairs(disk, from, &to, outboard_bytes(part.length))
            .and_then(|()| disk.0.sync(&to))
            .map_err(|e| write_error(&path, outboard_bytes(part.length), e))
    }

    /// The new lanes that [`SetWriter::copy_into_set`] copied. They take blocks of the set's files, whether a payload gives them too or not.
    fn copied(&self, before: Option<&SetBody>) -> Lanes {
        let copied = [Blob::Content, Blob::Parity].into_iter().filter(|blob| claims(before, *blob));
        let of_files =
            copied.fold(Lanes::NONE, |lanes, blob| lanes.union(layout::lanes_of(&self.descriptor, blob)));
        self.own.intersection(of_files)
    }

    /// Opens a file to add to it; `None` if it was removed meanwhile.
    fn open_to_add(&self, path: &Path) -> Result<Option<File>, StoreError> {
        match self.store.disk.0.open_to_write(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(write_error(path, 0, error)),
        }
    }

    /// Claims the lanes.
    fn place(
        &mut self,
        one: &Changing<'_>,
        before: Option<SetBody>,
        new_lanes: &mut [(Part, NewFiles, Reservation)],
        marks: &mut Vec<Mark>,
    ) -> Result<(), StoreError> {
        let any = AnyToken::from(self.token);
        let (whole, whole_blobs) = {
            let index = self.store.index();
            let blobs: SmallVec<[_; 2]> = index.whole_blobs(&self.descriptor).collect();
            (index.lanes(&self.descriptor, Lanes::NONE), blobs)
        };
        let new = self.own.without(whole).union(self.copied(before.as_ref()));
        let mut own = before.map_or(Lanes::NONE, |set| set.own).union(new);
        if !own.union(whole).contains_all(self.lanes) {
            return Err(self.went(own.union(whole)));
        }
        let asked = self.store.granted(self.lease);
        // The set relies on its blobs: they have all leases that it has.
        let mut leases = self.store.index().lost(&any).map_or(Vec::new(), |lost| lost.leases);
        leases.extend(self.store.index().leases(&any));
        leases.push(self.store.to_grant(&any, asked));
        for (blob, _) in whole_blobs {
            leases.iter().try_for_each(|lease| self.store.join(one, &blob.into(), *lease))?;
        }
        let claimed = layout::parts_of(&self.descriptor, own);
        self.place_files(before.as_ref(), &claimed, new_lanes)?;
        let mut promoted = SmallVec::<[Part; 2]>::new();
        for part in claimed {
            if part.bytes == part.length && !self.store.index().has_payload(&part.token, part.length) {
                own = own.without(layout::lanes_of(&self.descriptor, part.blob));
                promoted.push(part);
                if let Err(error) = self.promote(promoted.last().expect("one was added"), marks) {
                    // No payload claims the names, those of an earlier part among them: they go with the next commit.
                    let paths = promoted
                        .iter()
                        .flat_map(|part| [BLOB, OUTBOARD].map(|kind| layout::path(&part.token.into(), kind)));
                    self.store.index().forget_files(paths);
                    return Err(error);
                }
            }
        }
        let bytes = self.store.set_bytes(&self.descriptor, own);
        let mut index = self.store.index();
        self.reserved.settle(&mut index);
        new_lanes.iter_mut().for_each(|(_, _, reserved)| reserved.settle(&mut index));
        let body = SetBody { descriptor: self.descriptor, own, generation: index.next_generation() };
        for part in &promoted {
            let (length, place) = (part.length, PayloadPlace::Files);
            let bytes = index.blocks.payload(length, place);
            for lease in &leases {
                index.insert(part.token.into(), *lease, bytes, EntryBody::Payload { length, place });
            }
            // The names that the files had before they became a payload.
            let (kind, outboard_kind) = layout::lane_kinds(part.blob);
            index.forget_files([kind, outboard_kind].map(|kind| layout::path(&any, kind)));
        }
        for lease in leases {
            index.insert(any, lease, bytes, EntryBody::Set(body));
        }
        index.forget_lost_lanes(&any, own.union(whole));
        for part in &promoted {
            index.forget_lost(&part.token.into());
        }
        drop(index);
        Ok(())
    }

    /// Gives the files of lanes their names, where the set has no such files yet.
    fn place_files(
        &self,
        before: Option<&SetBody>,
        claimed: &[Part],
        new_lanes: &[(Part, NewFiles, Reservation)],
    ) -> Result<(), StoreError> {
        let any = AnyToken::from(self.token);
        let mut directory = None;
        for (part, files, _) in new_lanes {
            let (kind, outboard_kind) = layout::lane_kinds(part.blob);
            if !claims(before, part.blob) && claimed.iter().any(|claim| claim.blob == part.blob) {
                let path = self.store.file(&any, kind);
                self.store.disk.make_directory(parent(&path))?;
                if files.outboard.is_some() {
                    self.store.place_file(&files.outboard_path, &self.store.file(&any, outboard_kind))?;
                }
                self.store.place_file(&files.blob_path, &path)?;
                directory = Some(parent(&path).to_owned());
            }
        }
        directory.map_or(Ok(()), |directory| self.store.disk.sync_directory(&directory))
    }

    /// Gives the set's files of a complete blob a second name, as a payload. They keep the first name until the set
    /// no longer claims them. `marks` gets what tells of the second until the next commit.
    fn promote(&self, part: &Part, marks: &mut Vec<Mark>) -> Result<(), StoreError> {
        let (set, payload) = (AnyToken::from(self.token), AnyToken::from(part.token));
        let (kind, outboard_kind) = layout::lane_kinds(part.blob);
        let blob = self.store.file(&payload, BLOB);
        marks.push(self.store.mark(&payload)?);
        let disk = &self.store.disk;
        disk.make_directory(parent(&blob))?;
        if outboard_bytes(part.length) > 0 {
            disk.link(&self.store.file(&set, outboard_kind), &self.store.file(&payload, OUTBOARD))?;
        }
        disk.link(&self.store.file(&set, kind), &blob)?;
        disk.sync_directory(parent(&blob))
    }
}

/// Whether the set has own files of this blob.
fn claims(set: Option<&SetBody>, blob: Blob) -> bool {
    set.is_some_and(|set| layout::parts_of(&set.descriptor, set.own).iter().any(|part| part.blob == blob))
}

/// Copies the shards of `lanes` of one blob to the same offsets.
fn copy_lanes(
    disk: &StoreDisk,
    descriptor: &Descriptor,
    part: &Part,
    lanes: Lanes,
    from: &File,
    to: &File,
) -> io::Result<()> {
    let shard_bytes = descriptor.shard_bytes();
    let width = layout::lanes_of(descriptor, part.blob).len();
    let mut buffer = vec![0; COPY_BYTES];
    for stripe in 0..descriptor.stripes() {
        for (first, count) in layout::lane_runs(descriptor, part.blob, lanes) {
            let start = (stripe * u64::from(width) + first) * shard_bytes;
            let end = (start + count * shard_bytes).min(part.length);
            copy_range(disk, from, to, start, end, &mut buffer)?;
        }
    }
    Ok(())
}

fn copy_range(
    disk: &StoreDisk,
    from: &File,
    to: &File,
    mut start: u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    while start < end {
        let len = (end - start).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..len], start)?;
        disk.0.write(to, &buffer[..len], start)?;
        start += len as u64;
    }
    Ok(())
}

/// Copies the hash pairs that are not holes. A pair of zeros is a hole: no hash is zero.
fn copy_pairs(disk: &StoreDisk, from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut start = 0;
    while start < length {
        let len = (length - start).min(COPY_BYTES as u64) as usize;
        from.read_exact_at(&mut buffer[..len], start)?;
        let (pairs, _) = buffer[..len].as_chunks::<PAIR_BYTES>();
        let mut at = start;
        for run in pairs.chunk_by(|a, b| is_hole(a) == is_hole(b)) {
            if !run.first().is_none_or(is_hole) {
                disk.0.write(to, run.as_flattened(), at)?;
            }
            at += run.as_flattened().len() as u64;
        }
        start += len as u64;
    }
    Ok(())
}

fn is_hole(pair: &[u8; PAIR_BYTES]) -> bool {
    *pair == [0; PAIR_BYTES]
}

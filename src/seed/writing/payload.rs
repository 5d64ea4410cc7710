//! The write of one payload into the store.

use super::files::NewFiles;
use super::row::NewRow;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::seed::accounts::{Need, StoreAccount};
use crate::seed::disk::parent;
use crate::seed::entry::{EntryBody, PayloadPlace};
use crate::seed::error::StoreError;
use crate::seed::inner::Inner;
use crate::seed::layout::{BLOB, OUTBOARD};
use crate::seed::lease::Lease;
use crate::seed::open_payload::OpenPayload;
use crate::seed::reservation::Reservation;
use crate::seed::short::{has_short_pairs, is_short};
use crate::seed::written::Later;
use crate::token::{AnyToken, Ranges, Token, VerifiedPiece};
use std::sync::Arc;

/// Takes a payload's verified pieces in any order and keeps the payload once all are there. Dropped before
/// [`PayloadWriter::commit`], it leaves nothing. It may move to another thread; every call blocks on the disk.
#[derive(Debug)]
pub struct PayloadWriter {
    store: Arc<Inner>,
    token: Token,
    lease: Lease,
    length: u64,
    new: NewPayload,
    /// The room for it, until it is kept.
    reserved: Reservation,
}

#[derive(Debug)]
enum NewPayload {
    Files(Box<NewFiles>),
    Row(NewRow),
}

impl PayloadWriter {
    pub(in crate::seed) fn begin(
        store: Arc<Inner>,
        token: Token,
        length: u64,
        lease: Lease,
        now_s: u64,
    ) -> Result<Self, StoreError> {
        store.check_writable()?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(StoreError::TooLong(length));
        }
        let need = Self::need(&store, length);
        let reserved = store.promise(need, &lease, now_s)?;
        Ok(Self::within(store, token, length, lease, reserved))
    }

    /// Whether its bytes become a row.
    pub(super) fn is_row(&self) -> bool {
        matches!(self.new, NewPayload::Row(_))
    }

    /// What a payload of this length needs.
    pub(super) fn need(store: &Inner, length: u64) -> Need {
        Need { bytes: store.index().blocks.new_payload(length), entries: 1, writes: 1 }
    }

    /// A writer within this room.
    pub(super) fn within(
        store: Arc<Inner>,
        token: Token,
        length: u64,
        lease: Lease,
        reserved: Reservation,
    ) -> Self {
        let new = if is_short(length) {
            NewPayload::Row(NewRow::new(length))
        } else {
            let temporary = store.temporary(&token.hex());
            let files = NewFiles::new(&store.disk, &temporary, length, Ranges::all().into(), length);
            NewPayload::Files(Box::new(if has_short_pairs(length) {
                files.with_pairs_in_memory()
            } else {
                files
            }))
        };
        Self { store, token, lease, length, new, reserved }
    }

    /// The payload's token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Payload bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        match &self.new {
            NewPayload::Files(files) => files.written_bytes(),
            NewPayload::Row(row) => row.written_bytes(),
        }
    }

    /// Writes a piece and its hash pairs.
    ///
    /// # Errors
    /// [`StoreError::Capacity`], [`StoreError::Entries`] or [`StoreError::DiskFull`] if others have taken the room, [`StoreError::Io`] if the
    /// disk fails, [`StoreError::Foreign`] if the piece or a pair lies outside the payload.
    pub fn write(&mut self, piece: &VerifiedPiece) -> Result<(), StoreError> {
        self.write_or_begin(piece, None)
    }

    /// The same, or begins to, and takes what is told after that.
    pub(super) fn write_or_begin(
        &mut self,
        piece: &VerifiedPiece,
        later: Option<&mut Later<'_>>,
    ) -> Result<(), StoreError> {
        self.reserved.cover(self.written_bytes() + piece.data.len() as u64)?;
        match &mut self.new {
            NewPayload::Files(files) => files.write(piece, later),
            NewPayload::Row(row) => row.write(piece),
        }
    }

    /// Begins to write the pieces that wait for others.
    pub(super) fn flush(&mut self) {
        if let NewPayload::Files(files) = &mut self.new {
            files.flush();
        }
    }

    pub(in crate::seed) fn check_complete(&self) -> Result<(), StoreError> {
        match &self.new {
            NewPayload::Files(files) => files.check_complete(),
            NewPayload::Row(row) => row.check_complete(),
        }
    }

    /// Makes the payload durable: once this returns, a crash does not lose it. If it was held already, its owner keeps the longer of both leases.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if bytes are missing, [`StoreError::Foreign`] for an empty payload with another token than that of no
    /// bytes, [`StoreError::DiskFull`] or [`StoreError::Io`] if the disk fails. The payload may be held nevertheless, if the disk failed last.
    pub fn commit(self) -> Result<OpenPayload, StoreError> {
        self.place()?.finish()
    }

    /// Gives the files their names and the payload its rows. It is held from now on, and durable once [`PlacedPayload::finish`] returns: several
    /// are made so by one commit.
    pub(in crate::seed) fn place(mut self) -> Result<PlacedPayload, StoreError> {
        let length = self.length;
        if length == 0 && self.token != Token::of(b"") {
            // No piece arrived that could have been checked.
            return Err(StoreError::Foreign { offset: 0, length });
        }
        self.check_complete()?;
        self.store.catch_up()?;
        self.reserved.cover_all()?;
        let store = self.store.clone();
        if let NewPayload::Files(files) = &mut self.new {
            files.sync()?;
            store.sync_temporary()?;
        }
        let one = store.change();
        let place = match &mut self.new {
            NewPayload::Files(files) => {
                if let Err(error) = store.place_payload(&self.token, files) {
                    // Some may have their names. They go with the next commit, if nothing else claims them by then.
                    store.give_up_files(&self.token.into(), files);
                    return Err(error);
                }
                match files.take_pairs() {
                    Some(pairs) => PayloadPlace::Pairs(store.index().keep_bytes(pairs)),
                    None => PayloadPlace::Files,
                }
            }
            NewPayload::Row(row) => PayloadPlace::Row(store.index().keep_bytes(row.take())),
        };
        self.grant(length, place);
        let held = match place {
            PayloadPlace::Row(number) => {
                // They can be read once they are durable.
                let bytes = store.index().rows.stored_bytes(number);
                OpenPayload::of_row(&store.disk, (self.token, length), number, bytes).map(Some)
            }
            // While the lock is held: no other thread can remove it before it is opened.
            PayloadPlace::Files | PayloadPlace::Pairs(_) => store.get(&self.token),
        };
        drop(one);
        let files = match self.new {
            NewPayload::Files(files) => Some(files),
            NewPayload::Row(_) => None,
        };
        Ok(PlacedPayload { store, token: self.token, held, files })
    }

    /// Inserts the payload with its lease, and with those that it had before it was damaged.
    fn grant(&mut self, length: u64, place: PayloadPlace) {
        let any = AnyToken::from(self.token);
        let asked = self.store.granted(self.lease);
        let earlier = {
            let mut index = self.store.index();
            match index.lost(&any) {
                Some(lost) => lost.leases,
                None if index.get(&any).is_some() => Vec::new(),
                None => {
                    self.reserved.settle(&mut index);
                    let bytes = index.blocks.payload(length, place);
                    return index.insert_new(any, asked, bytes, EntryBody::Payload { length, place });
                }
            }
        };
        let same = earlier.iter().find(|held| StoreAccount::of(held) == StoreAccount::of(&asked));
        let lease = match same {
            Some(held) if self.store.index().get(&any).is_none() => self.store.joined(*held, asked),
            _ => self.store.to_grant(&any, asked),
        };
        {
            let mut index = self.store.index();
            self.reserved.settle(&mut index);
            let bytes = index.blocks.payload(length, place);
            let leases = earlier.into_iter().chain([lease]);
            leases.for_each(|lease| index.insert(any, lease, bytes, EntryBody::Payload { length, place }));
            index.forget_lost(&any);
        }
    }
}

/// A payload that is held and may not be durable yet.
#[derive(Debug)]
pub(in crate::seed) struct PlacedPayload {
    store: Arc<Inner>,
    token: Token,
    held: Result<Option<OpenPayload>, StoreError>,
    /// Their first names go when this is dropped.
    files: Option<Box<NewFiles>>,
}

impl PlacedPayload {
    pub(in crate::seed) fn finish(mut self) -> Result<OpenPayload, StoreError> {
        if let Err(error) = self.store.commit() {
            self.files.iter_mut().for_each(|files| self.store.leave_names(files));
            return Err(error);
        }
        self.held?.ok_or_else(|| StoreError::Went(self.token.into()))
    }
}

impl Inner {
    /// Gives the files of a payload their names. One sync makes these durable. What a crash leaves of them without a row has a name in `tmp`.
    fn place_payload(&self, token: &Token, files: &NewFiles) -> Result<(), StoreError> {
        let any = AnyToken::from(*token);
        let blob = self.file(&any, BLOB);
        self.disk.make_directory(parent(&blob))?;
        if files.outboard.is_some() {
            self.place_file(&files.outboard_path, &self.file(&any, OUTBOARD))?;
        }
        self.place_file(&files.blob_path, &blob)?;
        self.disk.sync_directory(parent(&blob))
    }

    /// Leaves files that were placed to the next commit: it removes those that nothing claims.
    pub(super) fn give_up_files(&self, token: &AnyToken, files: &mut NewFiles) {
        self.index().forget_files_of(token);
        self.leave_names(files);
    }

    /// Leaves the first names of files to the next commit: until then they tell of the files.
    pub(super) fn leave_names(&self, files: &mut NewFiles) {
        let names = files.leave();
        let names = names.iter().filter_map(|path| path.strip_prefix(&self.dir).ok()?.to_str());
        self.index().forget_files(names.map(str::to_owned));
    }
}

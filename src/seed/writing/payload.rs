//! The write of one payload into the store.

use super::files::NewFiles;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::seed::accounts::Need;
use crate::seed::disk::parent;
use crate::seed::error::StoreError;
use crate::seed::index::EntryBody;
use crate::seed::inner::Inner;
use crate::seed::layout::{BLOB, OUTBOARD};
use crate::seed::lease::Lease;
use crate::seed::open_payload::OpenPayload;
use crate::seed::reservation::Reservation;
use crate::token::{AnyToken, Ranges, Token, VerifiedPiece};
use std::io;
use std::sync::Arc;

/// Takes a payload's verified pieces in any order and keeps the payload once all are there. Dropped before
/// [`PayloadWriter::commit`], it leaves nothing. It may move to another thread; every call blocks on the disk.
#[derive(Debug)]
pub struct PayloadWriter {
    store: Arc<Inner>,
    token: Token,
    lease: Lease,
    files: NewFiles,
    /// The room for the files, until they are kept.
    reserved: Reservation,
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

    /// What a payload of this length needs.
    pub(super) fn need(store: &Inner, length: u64) -> Need {
        Need { bytes: store.index().blocks.payload(length), entries: 1, writes: 1 }
    }

    /// A writer within this room.
    pub(super) fn within(
        store: Arc<Inner>,
        token: Token,
        length: u64,
        lease: Lease,
        reserved: Reservation,
    ) -> Self {
        let temporary = store.temporary(&token.hex());
        let files = NewFiles::new(&store.disk, &temporary, length, Ranges::all().into(), length);
        Self { store, token, lease, files, reserved }
    }

    /// The payload's token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Payload bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.files.written_bytes()
    }

    /// Writes a piece and its hash pairs.
    ///
    /// # Errors
    /// [`StoreError::Capacity`], [`StoreError::Entries`] or [`StoreError::DiskFull`] if others have taken the room, [`StoreError::Io`] if the
    /// disk fails, [`StoreError::Foreign`] if the piece or a pair lies outside the payload.
    pub fn write(&mut self, piece: &VerifiedPiece) -> Result<(), StoreError> {
        self.reserved.cover(self.files.written_bytes() + piece.data.len() as u64)?;
        self.files.write(piece)
    }

    pub(in crate::seed) fn check_complete(&self) -> Result<(), StoreError> {
        self.files.check_complete()
    }

    /// Makes the payload durable, then visible: once this returns, a crash does not lose it. If it was held already,
    /// it keeps the longer of the two leases.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if bytes are missing, [`StoreError::Foreign`] for an empty payload with another token than that of no
    /// bytes, [`StoreError::DiskFull`] or [`StoreError::Io`] if the disk fails. The payload is then not kept, unless it was held before.
    pub fn commit(mut self) -> Result<OpenPayload, StoreError> {
        let length = self.files.length();
        if length == 0 && self.token != Token::of(b"") {
            // No piece arrived that could have been checked.
            return Err(StoreError::Foreign { offset: 0, length });
        }
        self.files.check_complete()?;
        self.reserved.cover_all()?;
        self.files.sync()?;
        let any = AnyToken::from(self.token);
        let one = self.store.change();
        let before = self.store.index().get(&any).copied();
        // A payload that was set aside for its damage gets its earlier lease back.
        let lease = before.map(|entry| entry.lease).or_else(|| self.store.damage().lease_of(&any));
        let asked = self.store.granted(self.lease);
        let lease = lease.map_or(asked, |lease| self.store.joined(lease, asked));
        if let Err(error) = self.place(lease) {
            if before.is_none() {
                self.store.discard(&self.token)?;
            }
            return Err(error);
        }
        {
            let mut index = self.store.index();
            self.reserved.settle(&mut index);
            let bytes = index.blocks.payload(length);
            index.insert(any, lease, bytes, EntryBody::Payload { length });
        }
        self.store.pending().remove(&self.token);
        self.store.damage().forget(&any);
        // While the lock is held: no other thread can remove it before it is opened.
        let missing = || StoreError::io("open", &self.store.file(&any, BLOB), io::ErrorKind::NotFound.into());
        let held = self.store.get(&self.token)?.ok_or_else(missing);
        drop(one);
        held
    }

    /// Gives the files their names: first the lease, last the payload. One sync makes them all durable: what a crash leaves of them without
    /// the payload has a file in `tmp` beside it, and is known as a leftover.
    fn place(&self, lease: Lease) -> Result<(), StoreError> {
        let any = AnyToken::from(self.token);
        let (disk, blob) = (&self.store.disk, self.store.file(&any, BLOB));
        disk.make_directory(parent(&blob))?;
        self.store.place_lease(&any, lease, Some(self.files.length()))?;
        if self.files.outboard.is_some() {
            disk.rename(&self.files.outboard_path, &self.store.file(&any, OUTBOARD))?;
        }
        // The commit point.
        disk.rename(&self.files.blob_path, &blob)?;
        disk.sync_directory(parent(&blob))
    }
}

//! What is held, open for reading.

use super::error::StoreError;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{Outboard, OutboardError, Token, outboard_bytes};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// Outboards up to this size are read whole when a payload is opened, bytes.
const OUTBOARD_IN_MEMORY_BYTES_MAX: u64 = 1 << 20;

/// A payload, or a blob of a set, open for reading. Cheap to clone; stays readable when the store forgets it.
///
/// Of a set's blob that is not held whole only the shards of the lanes held are there, with the hash pairs above them: an
/// encoder may be asked for those and no others.
#[derive(Clone, Debug)]
pub struct OpenPayload {
    token: Token,
    length: u64,
    /// Of the set's files, which grow; else the inode of the payload's file, which another may replace.
    generation: u64,
    whole: bool,
    blob: Arc<File>,
    outboard: Outboard,
}

impl OpenPayload {
    /// Opens a blob and its outboard; `None` if one is missing or is not what it should be. The `generation` of a whole payload is 0.
    pub(super) fn open(
        token: Token,
        generation: u64,
        blob_path: &Path,
        outboard_path: &Path,
    ) -> Result<Option<Self>, StoreError> {
        let blob = match File::open(blob_path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", blob_path, error)),
        };
        let metadata = blob.metadata().map_err(|e| StoreError::io("read", blob_path, e))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let (length, whole) = (metadata.len(), generation == 0);
        let generation = if whole { metadata.ino() } else { generation };
        let outboard = match open_outboard(outboard_path, length) {
            Ok(outboard) => outboard,
            // Two renames that a crash tore apart: the payload is not held.
            Err(OutboardError::Size { .. } | OutboardError::TooLong(_)) => return Ok(None),
            Err(OutboardError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", outboard_path, io::Error::other(error))),
        };
        Ok(Some(Self { token, length, generation, whole, blob: Arc::new(blob), outboard }))
    }

    /// Its token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Its length, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its hash pairs.
    pub fn outboard(&self) -> &Outboard {
        &self.outboard
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Tells what was read from what is read of another file in its place, or after more lanes have come.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Fills `out` with the payload bytes from `offset` on.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::UnexpectedEof`] past the payload's end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.blob.read_exact_at(out, offset)
    }
}

/// Lanes of a set, open for reading.
#[derive(Clone, Debug)]
pub struct OpenSet {
    /// How its payload is cut.
    pub descriptor: Descriptor,
    /// The lanes that are held.
    pub lanes: Lanes,
    /// The payload, as far as `lanes` go; `None` if none of its bytes are held.
    pub content: Option<OpenPayload>,
    /// The parity blob, as far as `lanes` go; `None` if none of its bytes are held.
    pub parity: Option<OpenPayload>,
}

impl OpenSet {
    /// One of the two blobs.
    pub fn blob(&self, blob: Blob) -> Option<&OpenPayload> {
        match blob {
            Blob::Content => self.content.as_ref(),
            Blob::Parity => self.parity.as_ref(),
        }
    }
}

fn open_outboard(path: &Path, length: u64) -> Result<Outboard, OutboardError> {
    match outboard_bytes(length.min(PAYLOAD_BYTES_MAX)) {
        0 => Outboard::from_bytes(length, bytes::Bytes::new()),
        1..=OUTBOARD_IN_MEMORY_BYTES_MAX => Outboard::from_bytes(length, fs::read(path)?.into()),
        _ => Outboard::from_file(length, File::open(path)?),
    }
}

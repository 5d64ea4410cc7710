//! A payload to be put, hashed, with its tree, and its verified encoding as it is sent.

use super::ClientError;
use super::input::FileStamp;
use crate::record::{Put, RecordError};
use crate::shard::{Blob, Descriptor};
use crate::token::{EncodedPiece, Outboard, Ranges, Selection, Token, VerifiedDecoder, VerifiedEncoder};
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use std::fs::File;
use std::io;
use std::ops::Deref;

/// Bytes of a file that are read at a time if the reads follow each other.
const READ_BYTES: usize = 1 << 20;
/// Bytes of an encoding that are sent as one batch.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// A payload that is hashed and ready to be put.
///
/// ```
/// use stoq::client::Prepared;
///
/// let payload = Prepared::bytes("hello");
/// assert_eq!(payload.length, 5);
// The hash that b3sum prints.
/// assert!(payload.token.to_string().starts_with("b3:ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"));
/// ```
#[derive(Debug)]
pub struct Prepared {
    pub(super) content: Stored,
    /// The parity and the descriptor, if the payload is sharded. The parity is `None` if it was not kept.
    pub(super) coded: Option<(Option<Stored>, Descriptor)>,
    /// Its token.
    pub token: Token,
    /// Its length, bytes.
    pub length: u64,
}

/// One blob: its bytes, and the hashes above them.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) data: Data,
    pub(super) outboard: Outboard,
}

#[derive(Debug)]
pub(super) enum Data {
    Memory(Bytes),
    /// A file, and the means to see that it was written to. A temporary file without a name needs none: no other program can open it.
    File {
        file: File,
        path: String,
        watch: Option<FileStamp>,
    },
}

impl Prepared {
    /// Hashes bytes that are in memory.
    pub fn bytes(payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        let length = payload.len() as u64;
        let (token, outboard) = Outboard::build(&payload[..], length)
            .expect("memory is read whole, and is shorter than 2^50 bytes");
        Self { content: Stored { data: Data::Memory(payload), outboard }, coded: None, token, length }
    }

    /// The descriptor that a PUT sends: the payload's own if it is sharded, otherwise one lane and no code.
    ///
    /// # Errors
    /// [`ClientError::Record`] if the payload is longer than the protocol allows.
    pub fn descriptor(&self) -> Result<Descriptor, ClientError> {
        match &self.coded {
            Some((_, descriptor)) => Ok(*descriptor),
            None => Ok(Descriptor::plain(self.token, self.length).map_err(RecordError::from)?),
        }
    }

    fn stored(&self, blob: Blob) -> Option<&Stored> {
        match blob {
            Blob::Content => Some(&self.content),
            Blob::Parity => self.coded.as_ref().and_then(|(parity, _)| parity.as_ref()),
        }
    }

    /// The payload's name in messages.
    pub(super) fn name(&self) -> String {
        self.content.data.name()
    }

    /// Whether the file was written to since it was hashed, as far as its size and its time show.
    pub(super) fn has_changed(&self) -> Result<bool, ClientError> {
        self.content.data.has_changed()
    }

    /// Whether the payload's bytes still have its token: hashes the whole file once more. Blocks on the disk.
    pub(super) fn is_still_true(&self) -> Result<bool, ClientError> {
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < self.length {
            let len = (self.length - at).min(READ_BYTES as u64) as usize;
            match self.content.data.read(at, len, len) {
                Ok(bytes) => hasher.update(&bytes[..len]),
                Err(ClientError::Changed { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            at += len as u64;
        }
        Ok(Token::from_root(*hasher.finalize().as_bytes()) == self.token)
    }

    /// The bytes of a blob that this payload has.
    fn data(&self, blob: Blob) -> &Data {
        &self.stored(blob).unwrap_or(&self.content).data
    }
}

/// The verified encodings of parts of a payload's blobs, one after the other, read as they are sent: the data of a PUT.
pub struct PutSource<P> {
    payload: P,
    parts: Vec<EncodedPart>,
    /// The part that is read now.
    at: usize,
    pieces: Vec<EncodedPiece>,
    window: Bytes,
    window_offset: u64,
    /// Payload bytes given out.
    pub(super) given: u64,
}

struct EncodedPart {
    blob: Blob,
    encoder: VerifiedEncoder,
    /// Checks the bytes of a file whose changes may go unseen, before they are sent.
    check: Option<VerifiedDecoder>,
    /// Whether the next read follows the last one: then more is read at a time.
    sequential: bool,
}

impl<P: Deref<Target = Prepared>> PutSource<P> {
    /// Encodes the bytes that follow `put`: the whole payload, or lanes of the set that its descriptor describes.
    ///
    /// # Errors
    /// [`ClientError::OtherDescriptor`] if the descriptor is another payload's; [`ClientError::NoParity`] for lanes of parity that was not
    /// computed; [`ClientError::Ranges`] for lanes that the set does not have; [`ClientError::Record`] for a selection that cannot be
    /// encoded; [`ClientError::Changed`] for a file that no longer fits its token.
    pub fn new(payload: P, put: &Put) -> Result<Self, ClientError> {
        let Put { descriptor, lanes, .. } = put;
        if descriptor.content() != payload.token || descriptor.length_bytes() != payload.length {
            return Err(ClientError::OtherDescriptor { described: descriptor.content(), put: payload.token });
        }
        let selected: Vec<(Blob, Selection)> = match lanes {
            None => vec![(Blob::Content, Ranges::all().into())],
            Some(lanes) => {
                let parts = descriptor.parts(*lanes, &Ranges::all())?;
                parts.into_iter().map(|part| (part.blob, part.selection)).collect()
            }
        };
        let mut parts = Vec::with_capacity(selected.len());
        for (blob, selection) in selected {
            let stored = payload.stored(blob).ok_or(ClientError::NoParity)?;
            let sequential = matches!(selection, Selection::Ranges(_));
            let check = match &stored.data {
                // Parity is in a temporary file of our own: only the content can be blind.
                data if data.is_blind() => {
                    Some(VerifiedDecoder::new(payload.token, payload.length, selection.clone()))
                }
                _ => None,
            };
            let check = check.transpose().map_err(|_| stored.data.changed())?;
            let encoder =
                VerifiedEncoder::new(stored.outboard.clone(), selection).map_err(RecordError::from)?;
            parts.push(EncodedPart { blob, encoder, check, sequential });
        }
        Ok(Self {
            payload,
            parts,
            at: 0,
            pieces: Vec::new(),
            window: Bytes::new(),
            window_offset: 0,
            given: 0,
        })
    }

    /// The next bytes, about 256 KiB of them; `None` after the last.
    ///
    /// # Errors
    /// [`ClientError::File`] if the file cannot be read; [`ClientError::Changed`] if it was changed since it was prepared.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Bytes>>, ClientError> {
        while let Some(part) = self.parts.get_mut(self.at) {
            part.encoder
                .next_batch(BATCH_BYTES, &mut self.pieces)
                .map_err(|source| self.payload.data(part.blob).failed(source))?;
            if self.pieces.is_empty() {
                self.at += 1;
                self.window = Bytes::new();
                continue;
            }
            let pieces = std::mem::take(&mut self.pieces);
            let mut batch = Vec::with_capacity(pieces.len());
            for piece in &pieces {
                batch.push(match piece {
                    EncodedPiece::Proof(hashes) => hashes.clone(),
                    EncodedPiece::Data { offset, len } => self.read(*offset, *len)?,
                });
            }
            self.pieces = pieces;
            self.pieces.clear();
            self.check(&batch)?;
            return Ok(Some(batch));
        }
        Ok(None)
    }

    fn check(&mut self, batch: &[Bytes]) -> Result<(), ClientError> {
        let part = &mut self.parts[self.at];
        let Some(check) = &mut part.check else { return Ok(()) };
        for bytes in batch {
            check.push(bytes).map_err(|_| self.payload.data(part.blob).changed())?;
            while check.poll().is_some() {}
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, ClientError> {
        let EncodedPart { blob, sequential, .. } = &self.parts[self.at];
        let data = self.payload.data(*blob);
        self.given += len as u64;
        if let Data::Memory(bytes) = data {
            return Ok(bytes.slice(offset as usize..offset as usize + len));
        }
        let end = offset + len as u64;
        if offset < self.window_offset || end > self.window_offset + self.window.len() as u64 {
            let wanted = if *sequential { READ_BYTES.max(len) } else { len };
            (self.window, self.window_offset) = (data.read(offset, len, wanted)?, offset);
            // Checked after the read: the kernel notes a write before its bytes can be read. A peer thus never gets bytes of another token.
            if data.has_changed()? {
                return Err(data.changed());
            }
        }
        let start = (offset - self.window_offset) as usize;
        Ok(self.window.slice(start..start + len))
    }
}

impl Data {
    fn name(&self) -> String {
        match self {
            Self::Memory(_) => "a payload in memory".into(),
            Self::File { path, .. } => path.clone(),
        }
    }

    fn failed(&self, source: io::Error) -> ClientError {
        ClientError::File { path: self.name(), source }
    }

    fn changed(&self) -> ClientError {
        ClientError::Changed { path: self.name() }
    }

    fn has_changed(&self) -> Result<bool, ClientError> {
        match self {
            Self::File { file, watch: Some(watch), .. } => {
                watch.has_changed(file).map_err(|error| self.failed(error))
            }
            _ => Ok(false),
        }
    }

    /// Whether the bytes may change unseen.
    fn is_blind(&self) -> bool {
        matches!(self, Self::File { watch: Some(watch), .. } if watch.is_blind())
    }

    /// Reads up to `wanted` bytes at `offset`, and at least `needed`.
    fn read(&self, offset: u64, needed: usize, wanted: usize) -> Result<Bytes, ClientError> {
        let file = match self {
            Self::Memory(bytes) => return Ok(bytes.slice(offset as usize..offset as usize + needed)),
            Self::File { file, .. } => file,
        };
        let mut buffer = Vec::with_capacity(wanted);
        while buffer.len() < needed {
            let at = offset + buffer.len() as u64;
            match rustix::io::pread(file, spare_capacity(&mut buffer), at) {
                Ok(0) => return Err(self.changed()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.failed(error.into())),
            }
        }
        Ok(buffer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Coding, Lanes};
    use crate::token::VerifiedDecoder;
    use std::io::Write;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"payload").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn put(descriptor: &Descriptor, lanes: Option<Lanes>) -> Put {
        Put { queue: 0, lease_s: 0, descriptor: *descriptor, lanes }
    }

    fn encoding(mut source: PutSource<&Prepared>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(batch) = source.next_batch().unwrap() {
            assert!(!batch.is_empty());
            batch.iter().for_each(|bytes| all.extend_from_slice(bytes));
        }
        assert!(source.next_batch().unwrap().is_none());
        all
    }

    #[test]
    fn file_and_memory_encode_alike_and_prove_their_token() {
        for len in [0, 1, 16_384, 16_385, 3_000_000] {
            let bytes = noise(len);
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let (on_disk, in_memory) = (Prepared::file(file.path()).unwrap(), Prepared::bytes(bytes.clone()));
            assert_eq!((on_disk.token, on_disk.length), (in_memory.token, in_memory.length));
            let descriptor = on_disk.descriptor().unwrap();
            let encoded = encoding(PutSource::new(&on_disk, &put(&descriptor, None)).unwrap());
            assert!(encoded == encoding(PutSource::new(&in_memory, &put(&descriptor, None)).unwrap()));
            let mut decoder = VerifiedDecoder::new(on_disk.token, len as u64, Ranges::all()).unwrap();
            decoder.push(&encoded).unwrap();
            assert!(decoder.is_complete());
            let got: Vec<u8> =
                std::iter::from_fn(|| decoder.poll()).flat_map(|piece| piece.data.to_vec()).collect();
            assert!(got == bytes);
        }
    }

    #[test]
    fn lanes_encode_their_shards_alone() {
        let bytes = noise(700_000);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let payload = Prepared::file(file.path()).unwrap();
        let coding = Coding::ReedSolomon { data_lanes: 4, parity: None };
        let set = Descriptor::new(payload.token, payload.length, 65_536, coding).unwrap();
        let lanes: Lanes = [0, 2].into_iter().collect();
        let encoded = encoding(PutSource::new(&payload, &put(&set, Some(lanes))).unwrap());
        let part = set.parts(lanes, &Ranges::all()).unwrap().remove(0);
        let mut decoder = VerifiedDecoder::new(part.token, part.length, part.selection).unwrap();
        decoder.push(&encoded).unwrap();
        assert!(decoder.is_complete());
        while let Some(piece) = decoder.poll() {
            let at = piece.offset as usize;
            assert!(bytes[at..at + piece.data.len()] == piece.data);
        }
    }

    #[test]
    fn a_descriptor_of_another_payload_and_lanes_that_it_lacks_are_refused() {
        let payload = Prepared::bytes(noise(100_000));
        let other = Descriptor::plain(Token::of(b"other"), 100_000).unwrap();
        assert!(matches!(
            PutSource::new(&payload, &put(&other, None)),
            Err(ClientError::OtherDescriptor { .. })
        ));
        let coding = Coding::ReedSolomon { data_lanes: 2, parity: Some((1, Token::of(b"parity"))) };
        let set = Descriptor::new(payload.token, payload.length, 16_384, coding).unwrap();
        assert!(PutSource::new(&payload, &put(&set, Some(Lanes::one(1)))).is_ok());
        let parity = PutSource::new(&payload, &put(&set, Some(Lanes::one(2))));
        assert!(matches!(parity, Err(ClientError::NoParity)));
        assert!(matches!(
            PutSource::new(&payload, &put(&set, Some(Lanes::one(3)))),
            Err(ClientError::Ranges(_))
        ));
    }

    #[test]
    fn a_file_that_got_shorter_is_noticed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&noise(200_000)).unwrap();
        let payload = Prepared::file(file.path()).unwrap();
        file.as_file().set_len(100_000).unwrap();
        let mut source = PutSource::new(&payload, &put(&payload.descriptor().unwrap(), None)).unwrap();
        assert!(matches!(source.next_batch(), Err(ClientError::Changed { .. })));
    }
}

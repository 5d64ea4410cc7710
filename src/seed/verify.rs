//! Reads a held payload or set and compares it with its token, a piece at a time.

use super::disk::StoreDisk;
use super::open_payload::OpenPayload;
use crate::token::{
    EncodedPiece, Outboard, OutboardHasher, Selection, Token, VerifiedDecoder, VerifiedEncoder, VerifyError,
};
use std::fs::File;
use std::io;

/// The result of reading one piece.
#[derive(Debug)]
pub(super) enum Read<T> {
    /// There is more to read; this many bytes were read.
    More(usize),
    /// Everything was read.
    End(T),
}

/// Checks a blob, or the groups of it that are held, against its outboard.
#[derive(Debug)]
pub(super) struct Verify {
    held: OpenPayload,
    encoder: VerifiedEncoder,
    decoder: VerifiedDecoder,
    batch: Vec<EncodedPiece>,
    buffer: Vec<u8>,
    past_cache: bool,
}

impl Verify {
    /// Checks the selected groups of a blob.
    pub(super) fn new(held: OpenPayload, selection: impl Into<Selection>) -> Result<Self, VerifyError> {
        let selection = selection.into();
        let decoder = VerifiedDecoder::new(held.token(), held.length(), selection.clone())?;
        let encoder =
            VerifiedEncoder::new(held.outboard().clone(), selection).map_err(VerifyError::Ranges)?;
        Ok(Self { held, encoder, decoder, batch: Vec::new(), buffer: Vec::new(), past_cache: false })
    }

    /// Has the kernel forget what was read: it is not read again soon.
    pub(super) fn past_cache(self) -> Self {
        Self { past_cache: true, ..self }
    }

    /// Reads about `bytes_max` more. At the end returns whether all of it matches the token.
    ///
    /// # Errors
    /// An error of the disk.
    pub(super) fn read(&mut self, bytes_max: usize) -> io::Result<Read<bool>> {
        let read = match self.encoder.next_batch(bytes_max, &mut self.batch) {
            Ok(read) => read,
            // The file was cut after it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Read::End(false)),
            Err(error) => return Err(error),
        };
        for piece in self.batch.drain(..) {
            let pushed = match piece {
                EncodedPiece::Proof(pairs) => self.decoder.push(&pairs),
                EncodedPiece::Data { offset, len } => {
                    self.buffer.resize(len, 0);
                    match self.held.read(offset, &mut self.buffer) {
                        Ok(()) => {
                            if self.past_cache {
                                self.held.forget_cached(offset, len);
                            }
                            self.decoder.push(&self.buffer)
                        }
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            return Ok(Read::End(false));
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            if pushed.is_err() {
                return Ok(Read::End(false));
            }
            while self.decoder.poll().is_some() {}
        }
        Ok(if read > 0 { Read::More(read) } else { Read::End(self.decoder.is_complete()) })
    }
}

/// Hashes a payload's file to make its outboard.
#[derive(Debug)]
pub(super) struct Rehash {
    token: Token,
    disk: StoreDisk,
    file: File,
    length: u64,
    offset: u64,
    hasher: OutboardHasher,
    buffer: Vec<u8>,
}

impl Rehash {
    /// Hashes a file of `length` bytes.
    pub(super) fn new(token: Token, disk: StoreDisk, file: File, length: u64) -> io::Result<Self> {
        let hasher = OutboardHasher::new(length).map_err(io::Error::other)?;
        Ok(Self { token, disk, file, length, offset: 0, hasher, buffer: Vec::new() })
    }

    /// Reads about `bytes_max` more. At the end returns the outboard, if the file matches the token.
    ///
    /// # Errors
    /// An error of the disk.
    pub(super) fn read(mut self, bytes_max: usize) -> io::Result<(Option<Self>, Read<Option<Outboard>>)> {
        let len = (self.length - self.offset).min(bytes_max as u64) as usize;
        if len == 0 {
            let (token, outboard) = self.hasher.finish().map_err(io::Error::other)?;
            return Ok((None, Read::End((token == self.token).then_some(outboard))));
        }
        self.buffer.resize(len, 0);
        match self.disk.0.read(&self.file, &mut self.buffer, self.offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((None, Read::End(None))),
            Err(error) => return Err(error),
        }
        self.hasher.update(&self.buffer).map_err(io::Error::other)?;
        self.offset += len as u64;
        Ok((Some(self), Read::More(len)))
    }
}

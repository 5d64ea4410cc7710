//! A payload that repeats a block, so that a long one takes little memory, and its verified encoding.

use anyhow::Context;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use stoq::token::{EncodedPiece, Outboard, Ranges, TOKEN_BYTES, Token, VerifiedEncoder};

const BLOCK_BYTES: usize = 16 << 20;
/// Bytes that are encoded at a time, as the seed does.
const BATCH_BYTES: usize = 256 << 10;

/// A payload and its tree.
#[derive(Clone)]
pub(super) struct Content {
    block: Bytes,
    pub(super) length: u64,
    pub(super) token: Token,
    outboard: Outboard,
}

/// The block, again and again.
struct Repeat<'a> {
    block: &'a [u8],
    at: usize,
}

impl Read for Repeat<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.block[self.at..];
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        self.at = (self.at + len) % self.block.len();
        Ok(len)
    }
}

impl Content {
    /// Of this length. Its tree is kept below `target`: hashing takes seconds.
    pub(super) fn of(length: u64) -> anyhow::Result<Self> {
        let mut block = vec![0; BLOCK_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut block);
        let block = Bytes::from(block);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let kept = directory.join(format!("wan-{length}.tree"));
        if let Some((token, outboard)) = fs::read(&kept).ok().and_then(|bytes| parse(length, bytes.into())) {
            return Ok(Self { block, length, token, outboard });
        }
        let (token, outboard) = Outboard::build(Repeat { block: &block, at: 0 }, length)?;
        let pairs = outboard.as_bytes().context("a tree that was built in memory")?;
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&token.to_bytes())?;
        file.write_all(pairs)?;
        file.persist(&kept)?;
        Ok(Self { block, length, token, outboard })
    }

    /// Bytes from there, as many as lie side by side.
    fn slice(&self, offset: u64, len: usize) -> Bytes {
        let at = (offset % self.block.len() as u64) as usize;
        self.block.slice(at..(at + len).min(self.block.len()))
    }
}

fn parse(length: u64, bytes: Bytes) -> Option<(Token, Outboard)> {
    let token = Token::from_slice(bytes.get(..TOKEN_BYTES)?).ok()?;
    Some((token, Outboard::from_bytes(length, bytes.slice(TOKEN_BYTES..)).ok()?))
}

/// The verified encoding of some of a payload, in pieces as the seed and the client send them.
pub(super) struct Encoded {
    content: Content,
    encoder: VerifiedEncoder,
    batch: Vec<EncodedPiece>,
    pieces: VecDeque<EncodedPiece>,
    unsent: Option<Bytes>,
}

impl Encoded {
    pub(super) fn new(content: Content, ranges: Ranges) -> anyhow::Result<Self> {
        let encoder = VerifiedEncoder::new(content.outboard.clone(), ranges)?;
        Ok(Self { content, encoder, batch: Vec::new(), pieces: VecDeque::new(), unsent: None })
    }

    /// The next bytes; none at the end.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.unsent.take() {
            return Some(bytes);
        }
        if self.pieces.is_empty() {
            // Its tree lies in memory: reading it does not fail.
            self.encoder.next_batch(BATCH_BYTES, &mut self.batch).ok()?;
            self.pieces.extend(self.batch.drain(..));
        }
        match self.pieces.pop_front()? {
            EncodedPiece::Proof(hashes) => Some(hashes),
            EncodedPiece::Data { offset, len } => {
                let bytes = self.content.slice(offset, len);
                if bytes.len() < len {
                    let offset = offset + bytes.len() as u64;
                    self.pieces.push_front(EncodedPiece::Data { offset, len: len - bytes.len() });
                }
                Some(bytes)
            }
        }
    }

    /// Takes back what could not be sent.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.unsent = Some(bytes);
    }
}

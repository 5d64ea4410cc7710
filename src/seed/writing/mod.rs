//! Writes of the store: a payload, lanes of a set, or a payload that is restored from shards.

mod direct;
mod files;
mod payload;
mod row;
mod set;

pub use payload::PayloadWriter;
pub(in crate::seed) use payload::PlacedPayload;
pub use set::SetWriter;

use super::{Lease, Store, StoreError};
use crate::seed::written::{Committed, Later};
use crate::shard::{AssembleError, Assembler, Blob, Coding, Descriptor, Lanes};
use crate::token::{AnyToken, GROUP_BYTES_U64, Outboard, PAIR_BYTES, Proof, VerifiedPiece};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that are copied at a time from a restored payload's file to the store. Whole groups.
const COPY_BYTES: u64 = 1 << 20;

/// A payload or set that is being written into the store.
pub(in crate::seed) enum Writing {
    Payload(PayloadWriter),
    Set(Box<SetWriter>),
    /// A payload, and with it the data lanes of the set that it was put as.
    Coded(PayloadWriter, Box<Descriptor>, Lease),
    /// A payload that is restored from the shards of any k lanes, in a file of its own, before it is copied into the store.
    Assembled {
        assembler: Box<Assembler>,
        writer: PayloadWriter,
        descriptor: Box<Descriptor>,
        lease: Lease,
    },
    /// A holding that exists already: only its lease is extended.
    Held(AnyToken, u64, Option<Box<Descriptor>>, Lease),
}

impl Writing {
    /// Begins a payload that arrives as shards of any lanes. Until it is committed it takes its room twice.
    pub(in crate::seed) fn assembled(
        store: &Store,
        descriptor: Descriptor,
        lease: Lease,
        now_s: u64,
    ) -> Result<Self, StoreError> {
        if store.is_bad(&descriptor.set_token()) {
            return Err(StoreError::BadDescriptor(descriptor.set_token()));
        }
        let writer = store.begin(descriptor.content(), descriptor.length_bytes(), lease, now_s)?;
        let assembler = Assembler::new(descriptor, store.scratch()?);
        let assembler = Box::new(assembler.map_err(|error| assembling(&descriptor, error))?);
        Ok(Self::Assembled { assembler, writer, descriptor: Box::new(descriptor), lease })
    }

    pub(in crate::seed) fn set(writer: SetWriter) -> Self {
        Self::Set(Box::new(writer))
    }

    /// Whether it is a payload whose bytes become a row, in memory until it is committed.
    pub(in crate::seed) fn is_row(&self) -> bool {
        matches!(self, Self::Payload(writer) | Self::Coded(writer, ..) if writer.is_row())
    }

    /// Writes a piece; or begins to, and takes what is told after that.
    pub(in crate::seed) fn piece(
        &mut self,
        piece: &VerifiedPiece,
        later: &mut Later<'_>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Payload(writer) | Self::Coded(writer, ..) => writer.write_or_begin(piece, Some(later)),
            Self::Set(writer) => writer.write(Blob::Content, piece),
            Self::Assembled { .. } | Self::Held(..) => Ok(()),
        }
    }

    /// Begins to write the pieces that wait for others.
    pub(in crate::seed) fn flush(&mut self) {
        if let Self::Payload(writer) | Self::Coded(writer, ..) = self {
            writer.flush();
        }
    }

    pub(in crate::seed) fn shard(&mut self, blob: Blob, piece: &VerifiedPiece) -> Result<(), StoreError> {
        match self {
            Self::Set(writer) => {
                let group = piece.offset / GROUP_BYTES_U64;
                let Some(part) = writer.parts().find(|part| part.blob == blob) else { return Ok(()) };
                // A piece lies within one shard. Lanes that are held already arrive with the others; they may bring hash
                // pairs that the others need.
                if part.selection.intersects(group..group + 1) {
                    return writer.write(blob, piece);
                }
                let (offset, proofs) = (piece.offset, piece.proofs.clone());
                writer.write(blob, &VerifiedPiece { offset, data: Bytes::new(), proofs })
            }
            Self::Assembled { assembler, descriptor, .. } => {
                let shard = descriptor.shard_at(blob, piece.offset);
                assembler.shard(shard, blob, piece).map_err(|error| assembling(descriptor, error))
            }
            Self::Payload(_) | Self::Coded(..) | Self::Held(..) => Ok(()),
        }
    }

    /// Notes that these lanes of these stripes are complete.
    pub(in crate::seed) fn stripes(
        &mut self,
        start: u64,
        count: u64,
        lanes: Lanes,
    ) -> Result<(), StoreError> {
        match self {
            Self::Assembled { assembler, descriptor, .. } => {
                assembler.stripes(start, count, lanes).map_err(|error| assembling(descriptor, error))
            }
            _ => Ok(()),
        }
    }

    /// Begins to make it durable: payloads that are placed one after the other become so by one commit.
    pub(in crate::seed) fn place(self, store: &Store, now_s: u64) -> Placed {
        match self {
            Self::Payload(writer) => match writer.place() {
                Ok(placed) => Placed::Payload(Box::new(placed)),
                Err(error) => Placed::Over(Err(error)),
            },
            Self::Held(token, bytes, descriptor, lease) if !is_coded(descriptor.as_deref()) => {
                match store.begin_extension(&token, lease) {
                    Ok(true) => Placed::Extended(store.clone(), token, bytes),
                    // It was removed before its lease was extended.
                    Ok(false) => Placed::Over(Err(StoreError::Went(token))),
                    Err(error) => Placed::Over(Err(error)),
                }
            }
            writing => Placed::Over(writing.commit(store, now_s)),
        }
    }

    /// Makes it durable. Returns the token that is then held, and its payload bytes.
    pub(in crate::seed) fn commit(self, store: &Store, now_s: u64) -> Committed {
        match self {
            Self::Payload(writer) => {
                let held = writer.commit()?;
                Ok((held.token().into(), held.length()))
            }
            Self::Set(writer) => {
                let bytes = writer.parts().map(|part| part.bytes).sum();
                Ok((writer.commit()?.descriptor.set_token().into(), bytes))
            }
            Self::Coded(writer, descriptor, lease) => {
                let held = writer.commit()?;
                note_set(store, &descriptor, lease, now_s)?;
                Ok((held.token().into(), held.length()))
            }
            Self::Assembled { assembler, writer, descriptor, lease } => {
                let finished = assembler.finish().map_err(|error| assembling(&descriptor, error));
                if let Err(StoreError::BadDescriptor(set)) = &finished {
                    store.mark_bad(*set);
                }
                keep_file(finished?, &descriptor, writer)?;
                note_set(store, &descriptor, lease, now_s)?;
                Ok((descriptor.set_token().into(), descriptor.length_bytes()))
            }
            Self::Held(token, bytes, descriptor, lease) => {
                if !store.extend(token, lease)? {
                    // It was removed before its lease was extended.
                    return Err(StoreError::Went(token));
                }
                if let Some(descriptor) = descriptor {
                    note_set(store, &descriptor, lease, now_s)?;
                }
                Ok((token, bytes))
            }
        }
    }
}

/// A write whose commit has begun.
pub(in crate::seed) enum Placed {
    Payload(Box<PlacedPayload>),
    /// A holding whose lease was extended.
    Extended(Store, AnyToken, u64),
    Over(Committed),
}

impl Placed {
    pub(in crate::seed) fn finish(self) -> Committed {
        match self {
            Self::Payload(placed) => placed.finish().map(|held| (held.token().into(), held.length())),
            Self::Extended(store, token, bytes) => match store.finish_extension(&token)? {
                true => Ok((token, bytes)),
                false => Err(StoreError::Went(token)),
            },
            Self::Over(committed) => committed,
        }
    }
}

/// Whether a payload is put as a set.
fn is_coded(descriptor: Option<&Descriptor>) -> bool {
    descriptor.is_some_and(|descriptor| descriptor.coding() != Coding::None)
}

/// Notes that a held payload is also the data lanes of a set.
fn note_set(store: &Store, descriptor: &Descriptor, lease: Lease, now_s: u64) -> Result<(), StoreError> {
    if is_coded(Some(descriptor)) {
        store.begin_set(*descriptor, Lanes::first(descriptor.k().into()), lease, now_s)?.commit()?;
    }
    Ok(())
}

/// Copies the restored payload's file into the store, with its hash pairs.
fn keep_file(mut file: File, descriptor: &Descriptor, mut writer: PayloadWriter) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("read", Path::new("a restored payload"), error);
    let length = descriptor.length_bytes();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let built = Outboard::build(&mut file, length).map_err(|error| failed(io::Error::other(error)))?;
    let pairs = built.1.as_bytes().cloned().unwrap_or_default();
    let pair = |(index, pair): (usize, &[u8])| {
        let mut proof = Proof { index: index as u64, pair: [0; PAIR_BYTES] };
        proof.pair.copy_from_slice(pair);
        proof
    };
    let mut proofs: Vec<_> = pairs.chunks_exact(PAIR_BYTES).enumerate().map(pair).collect();
    let mut offset = 0;
    while offset < length || !proofs.is_empty() {
        let mut data = vec![0; (length - offset).min(COPY_BYTES) as usize];
        file.read_exact_at(&mut data, offset).map_err(failed)?;
        let piece = VerifiedPiece { offset, data: data.into(), proofs: std::mem::take(&mut proofs) };
        offset += piece.data.len() as u64;
        writer.write(&piece)?;
    }
    writer.commit().map(drop)
}

fn assembling(descriptor: &Descriptor, error: AssembleError) -> StoreError {
    match error {
        AssembleError::BadDescriptor => StoreError::BadDescriptor(descriptor.set_token()),
        AssembleError::File(error) => StoreError::io("restore", Path::new("a payload"), error),
        AssembleError::Coder(error) => {
            StoreError::io("restore", Path::new("a payload"), io::Error::other(error))
        }
    }
}

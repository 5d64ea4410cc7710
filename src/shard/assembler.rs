//! Restores a payload in a file from the shards of any k lanes.

use super::{Blob, CoderError, Descriptor, Lanes, ShardIndex, StripeDecoder};
use crate::token::{Outboard, OutboardError, SetToken, VerifiedPiece};
use rustc_hash::FxHashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Why a payload cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The file cannot be written or read.
    #[error("cannot write or read the fetched shards: {0}")]
    File(io::Error),
    /// Shards are missing, or are not the set's.
    #[error(transparent)]
    Coder(#[from] CoderError),
    /// The decoded bytes are not the payload, though every shard matched its token: the set's parity belongs
    /// to other data.
    #[error(
        "the set's shards do not give its payload: its parity was not made from the payload; use another set of this payload"
    )]
    BadDescriptor,
}

impl From<io::Error> for AssembleError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<OutboardError> for AssembleError {
    fn from(error: OutboardError) -> Self {
        match error {
            OutboardError::Io(error) => Self::File(error),
            other => Self::File(io::Error::other(other)),
        }
    }
}

/// Takes the checked shards of a set in any order, and writes data shards to their places. Decodes missing data shards from the
/// others. Holds the parity of stripes that are not decoded yet, and one stripe.
#[derive(Debug)]
pub struct Assembler {
    descriptor: Descriptor,
    file: File,
    /// Parity shards, by stripe and lane.
    parity: FxHashMap<u64, FxHashMap<u8, Vec<u8>>>,
    decoder: StripeDecoder,
    /// One stripe's data shards.
    stripe: Vec<u8>,
    decoded: bool,
}

impl Assembler {
    /// An assembler into `file`, which must be open for reading and writing.
    ///
    /// # Errors
    /// [`AssembleError::File`] if the file cannot be made as long as the payload.
    pub fn new(descriptor: Descriptor, file: File) -> Result<Self, AssembleError> {
        file.set_len(descriptor.length_bytes())?;
        let decoder = StripeDecoder::new(&descriptor);
        let (parity, stripe) = (FxHashMap::default(), Vec::new());
        Ok(Self { descriptor, file, parity, decoder, stripe, decoded: false })
    }

    /// Takes a checked part of a shard.
    ///
    /// # Errors
    /// [`AssembleError::File`] if the file cannot be written.
    pub fn shard(
        &mut self,
        shard: ShardIndex,
        blob: Blob,
        piece: &VerifiedPiece,
    ) -> Result<(), AssembleError> {
        if blob == Blob::Content {
            return Ok(self.file.write_all_at(&piece.data, piece.offset)?);
        }
        let shard_bytes = self.descriptor.shard_bytes() as usize;
        let start = (piece.offset % self.descriptor.shard_bytes()) as usize;
        let of_stripe = self.parity.entry(shard.stripe).or_default();
        let whole = of_stripe.entry(shard.lane).or_insert_with(|| vec![0; shard_bytes]);
        if let Some(place) = whole.get_mut(start..start + piece.data.len()) {
            place.copy_from_slice(&piece.data);
        }
        Ok(())
    }

    /// Notes that of `count` stripes from `start` on exactly these lanes are complete, and decodes their missing data
    /// shards.
    ///
    /// # Errors
    /// [`AssembleError::Coder`] if the lanes are too few, [`AssembleError::File`] if the file cannot be read or written.
    pub fn stripes(&mut self, start: u64, count: u64, lanes: Lanes) -> Result<(), AssembleError> {
        let data = Lanes::first(self.descriptor.k().into());
        for stripe in start..start.saturating_add(count) {
            let parity = self.parity.remove(&stripe).unwrap_or_default();
            if !lanes.contains_all(data) {
                self.decode(stripe, lanes.intersection(data), &parity)?;
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        stripe: u64,
        data: Lanes,
        parity: &FxHashMap<u8, Vec<u8>>,
    ) -> Result<(), AssembleError> {
        let set = self.descriptor;
        let (shard_bytes, offset) = (set.shard_bytes() as usize, stripe * set.stripe_bytes());
        self.stripe.resize(set.stripe_bytes() as usize, 0);
        let mut there: Vec<(u8, &[u8])> = Vec::new();
        let mut places = self.stripe.chunks_mut(shard_bytes);
        for lane in 0..set.k() {
            let Some(place) = places.next() else { break };
            let len = set.shard_len(lane, stripe) as usize;
            if data.contains(lane) && len > 0 {
                let place = &mut place[..len];
                self.file.read_exact_at(place, offset + u64::from(lane) * set.shard_bytes())?;
                there.push((lane, place));
            }
        }
        there.extend(parity.iter().map(|(lane, shard)| (*lane, shard.as_slice())));
        let (file, mut written) = (&self.file, Ok(()));
        self.decoder.restore(stripe, there, |lane, shard| {
            if written.is_ok() {
                written = file.write_all_at(shard, offset + u64::from(lane) * set.shard_bytes());
            }
        })?;
        self.decoded = true;
        Ok(written?)
    }

    /// Ends after the last stripe. If bytes were decoded, checks the payload against the content token by hashing the file once more.
    ///
    /// # Errors
    /// [`AssembleError::BadDescriptor`] if it does not match, [`AssembleError::File`] if the file cannot be read.
    pub fn finish(mut self) -> Result<File, AssembleError> {
        if self.decoded {
            self.file.seek(SeekFrom::Start(0))?;
            let (token, _) = Outboard::build(&mut self.file, self.descriptor.length_bytes())?;
            if token != self.descriptor.content() {
                return Err(AssembleError::BadDescriptor);
            }
        }
        Ok(self.file)
    }

    /// The set's token.
    pub fn set_token(&self) -> SetToken {
        self.descriptor.set_token()
    }

    /// Whether any shard was decoded.
    pub fn decoded(&self) -> bool {
        self.decoded
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use crate::token::{Ranges, Token};
    use bytes::Bytes;
    use proptest::prelude::*;

    const SHARD: u64 = 16 * 1024;

    /// Fills an assembler with these lanes of a payload, as if they had arrived.
    fn assemble(
        set: Descriptor,
        payload: &[u8],
        parity: &[u8],
        lanes: Lanes,
    ) -> Result<Vec<u8>, AssembleError> {
        let mut assembler = Assembler::new(set, tempfile::tempfile().unwrap()).unwrap();
        for stripe in 0..set.stripes() {
            for lane in lanes.iter() {
                let len = set.shard_len(lane, stripe) as usize;
                let (blob, bytes, offset) = if lane < set.k() {
                    (Blob::Content, payload, stripe * set.stripe_bytes() + u64::from(lane) * SHARD)
                } else {
                    let at = stripe * u64::from(set.m()) + u64::from(lane - set.k());
                    (Blob::Parity, parity, at * SHARD)
                };
                if len > 0 {
                    let data = Bytes::copy_from_slice(&bytes[offset as usize..][..len]);
                    let piece = VerifiedPiece { offset, data, proofs: Vec::new() };
                    assembler.shard(ShardIndex { lane, stripe }, blob, &piece)?;
                }
            }
        }
        assembler.stripes(0, set.stripes(), lanes)?;
        let mut file = assembler.finish()?;
        let mut whole = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        io::Read::read_to_end(&mut file, &mut whole)?;
        Ok(whole)
    }

    fn coded(len: usize, k: u8, m: u8) -> (Descriptor, Vec<u8>, Vec<u8>) {
        let mut payload = vec![0; len];
        blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut payload);
        let mut parity = Vec::new();
        let coded = encode(&payload[..], len as u64, SHARD, (k, m), &mut parity).unwrap();
        (coded.descriptor, payload, parity)
    }

    #[test]
    fn a_set_whose_parity_is_of_another_payload_is_a_bad_descriptor() {
        let (set, payload, mut parity) = coded(300_000, 2, 2);
        parity[100] ^= 1;
        // The descriptor's maker named this parity: every shard matches its token.
        let false_set = Descriptor::new(
            set.content(),
            set.length_bytes(),
            SHARD,
            super::super::Coding::ReedSolomon { data_lanes: 2, parity: Some((2, Token::of(&parity))) },
        )
        .unwrap();
        let without_data = Lanes::first(4).without(Lanes::first(2));
        let found = assemble(false_set, &payload, &parity, without_data);
        assert!(matches!(found, Err(AssembleError::BadDescriptor)), "{found:?}");
        assert!(assemble(false_set, &payload, &parity, Lanes::first(2)).is_ok(), "nothing is decoded");
        assert!(set.parts(without_data, &Ranges::all()).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_k_lanes_give_the_payload(
            len in 0usize..600_000,
            k in 1u8..6,
            m in 1u8..6,
            order in Just((0u8..12).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let (set, payload, parity) = coded(len, k, m);
            let lanes: Lanes = order.iter().copied().filter(|&lane| lane < k + m).take(k.into()).collect();
            prop_assert!(assemble(set, &payload, &parity, lanes).unwrap() == payload);
            let too_few = lanes.without(Lanes::one(lanes.lowest().unwrap()));
            // Lanes past the end of a short payload are known to be empty.
            let known: Lanes = (0..k).filter(|&lane| set.shard_len(lane, 0) == 0).collect();
            if set.stripes() > 0 && too_few.union(known).len() < u32::from(k) {
                prop_assert!(assemble(set, &payload, &parity, too_few).is_err());
            }
        }
    }
}

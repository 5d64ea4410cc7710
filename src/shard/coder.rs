//! Parity: made in one pass over a payload, and decoded to data shards, one stripe at a time.

use super::{Coding, Descriptor, DescriptorError, Lanes};
use crate::token::{Outboard, OutboardError, OutboardHasher, Token};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use std::io::{self, Read, Write};

/// Why coding failed.
#[derive(Debug, thiserror::Error)]
pub enum CoderError {
    /// A length, k, m or shard length that no descriptor can carry.
    #[error(transparent)]
    Shape(#[from] DescriptorError),
    /// The payload could not be read completely, or is too long.
    #[error(transparent)]
    Payload(#[from] OutboardError),
    /// Parity could not be written.
    #[error("the parity cannot be written: {0}")]
    Write(io::Error),
    /// A stripe past the set's last.
    #[error("stripe {stripe} of a set that has {stripes}")]
    Stripe {
        /// The stripe asked for.
        stripe: u64,
        /// The number of the set's stripes.
        stripes: u64,
    },
    /// A lane that the set does not have, or that was given twice.
    #[error("lane {0} is none of the set's, or was given twice")]
    Lane(u8),
    /// A shard of the wrong length.
    #[error("the shard of lane {lane} has {found} bytes; it must have {expected}")]
    ShardLength {
        /// The shard's lane.
        lane: u8,
        /// The right length, bytes.
        expected: u64,
        /// The given length, bytes.
        found: u64,
    },
    /// Fewer shards than the stripe needs.
    #[error("{found} shards of a stripe; restoring it needs {needed}")]
    TooFew {
        /// Shards given.
        found: u32,
        /// Shards that restoring needs.
        needed: u32,
    },
    /// The engine's error.
    #[error("the erasure code does not restore the shards: {0}")]
    Engine(reed_solomon_simd::Error),
}

impl From<reed_solomon_simd::Error> for CoderError {
    fn from(error: reed_solomon_simd::Error) -> Self {
        Self::Engine(error)
    }
}

/// A payload with its parity, described.
#[derive(Clone, Debug)]
pub struct Coded {
    /// Names the payload and, if there is parity, the parity blob.
    pub descriptor: Descriptor,
    /// The payload's hash pairs.
    pub content: Outboard,
    /// The parity blob's hash pairs, if there is parity.
    pub parity: Option<Outboard>,
}

/// Reads `length` bytes once, cuts them into stripes of `k` shards of `shard_bytes` bytes, and writes the
/// parity blob, `m` shards for each stripe, to `parity_out`, in order.
///
/// Memory in addition to the reader's and the writer's: one shard; the engine's shards, the larger of `k` and
/// `m` rounded up (64 MiB at most, 1 MiB at 16+4 with shards of 64 KiB); 9 MiB of the engine's tables; and
/// the hash pairs, 64 bytes for every 16 KiB of payload and of parity. For 20 GiB that is 111 MiB at 16+4
/// with shards of 64 KiB (80 and 20 MiB of them hash pairs), and 234 MiB at 64+64 with shards of 1 MiB, the
/// largest case with no more parity than payload.
///
/// # Errors
/// [`CoderError::Shape`] if no descriptor can carry the shape; the reader's and the writer's errors.
pub fn encode(
    mut reader: impl Read,
    length: u64,
    shard_bytes: u64,
    (k, m): (u8, u8),
    mut parity_out: impl Write,
) -> Result<Coded, CoderError> {
    // Bounds first, with a placeholder for tokens that are not known yet.
    let nothing = Token::of(b"");
    let shape = Descriptor::new(nothing, length, shard_bytes, coding(k, m, nothing))?;
    let mut content = OutboardHasher::new(length)?;
    let mut parity = OutboardHasher::new(shape.parity_length())?;
    let mut engine = match m {
        0 => None,
        _ => Some(ReedSolomonEncoder::new(k.into(), m.into(), shard_bytes as usize)?),
    };
    let mut shard = vec![0; shard_bytes as usize];
    let mut left = length;
    for _ in 0..shape.stripes() {
        for _ in 0..k {
            let (data, padding) = shard.split_at_mut(left.min(shard_bytes) as usize);
            reader.read_exact(data).map_err(OutboardError::from)?;
            content.update(data)?;
            left -= data.len() as u64;
            if let Some(engine) = &mut engine {
                padding.fill(0);
                engine.add_original_shard(&shard)?;
            }
        }
        if let Some(engine) = &mut engine {
            for shard in engine.encode()?.recovery_iter() {
                parity.update(shard)?;
                parity_out.write_all(shard).map_err(CoderError::Write)?;
            }
        }
    }
    let (token, content) = content.finish()?;
    let (parity_token, parity) = parity.finish()?;
    let descriptor = Descriptor::new(token, length, shard_bytes, coding(k, m, parity_token))?;
    Ok(Coded { descriptor, content, parity: (m > 0).then_some(parity) })
}

/// The coding of `k` and `m`: one lane without parity has code 0.
fn coding(k: u8, m: u8, parity: Token) -> Coding {
    match (k, m) {
        (1, 0) => Coding::None,
        _ => Coding::ReedSolomon { data_lanes: k, parity: (m > 0).then_some((m, parity)) },
    }
}

/// Decodes any k shards of a stripe to its data shards. Serves one stripe after another with the same memory,
/// allocated when parity is first needed: k plus m shards, each number rounded up to a power of two (at most
/// 128 MiB; 2 MiB at 16+4 with shards of 64 KiB), and 9 MiB of the engine's tables.
pub struct StripeDecoder {
    descriptor: Descriptor,
    engine: Option<ReedSolomonDecoder>,
    /// One shard, for short shards that need padding.
    padded: Vec<u8>,
}

impl StripeDecoder {
    /// A decoder for the stripes of this set.
    pub fn new(descriptor: &Descriptor) -> Self {
        Self { descriptor: *descriptor, engine: None, padded: Vec::new() }
    }

    /// Gives the missing data shards of `stripe` to `restored`, lane by lane, from the available shards: any
    /// k of the k + m, each with its lane. Data shards past the payload's end count as available. The last
    /// data shard is as short as it is stored. Shards must have been checked against their tokens: a false
    /// shard silently yields false ones.
    ///
    /// # Errors
    /// [`CoderError::TooFew`] if more shards are needed; [`CoderError::Stripe`],
    /// [`CoderError::Lane`] and [`CoderError::ShardLength`] for shards that are not the set's.
    pub fn restore<'a>(
        &mut self,
        stripe: u64,
        shards: impl IntoIterator<Item = (u8, &'a [u8])>,
        mut restored: impl FnMut(u8, &[u8]),
    ) -> Result<(), CoderError> {
        let set = self.descriptor;
        let (k, m) = (set.k(), set.m());
        if stripe >= set.stripes() {
            return Err(CoderError::Stripe { stripe, stripes: set.stripes() });
        }
        let mut there: Vec<(u8, &[u8])> = Vec::with_capacity(set.lanes().len() as usize);
        let mut lanes = Lanes::NONE;
        for (lane, shard) in shards {
            let expected = set.shard_len(lane, stripe);
            if !set.lanes().contains(lane) || lanes.contains(lane) {
                return Err(CoderError::Lane(lane));
            }
            if shard.len() as u64 != expected {
                return Err(CoderError::ShardLength { lane, expected, found: shard.len() as u64 });
            }
            lanes = lanes.union(Lanes::one(lane));
            there.push((lane, shard));
        }
        let past_end: Lanes = (0..k).filter(|&lane| set.shard_len(lane, stripe) == 0).collect();
        let missing = Lanes::first(k.into()).without(lanes).without(past_end);
        if missing.is_empty() {
            return Ok(());
        }
        let found = lanes.union(past_end).len();
        if found < k.into() {
            return Err(CoderError::TooFew { found, needed: k.into() });
        }
        let shard_bytes = set.shard_bytes() as usize;
        let engine = match &mut self.engine {
            Some(engine) => {
                engine.reset(k.into(), m.into(), shard_bytes)?;
                engine
            }
            none => none.insert(ReedSolomonDecoder::new(k.into(), m.into(), shard_bytes)?),
        };
        for (lane, shard) in there {
            if lane >= k {
                engine.add_recovery_shard((lane - k).into(), shard)?;
            } else if shard.len() == shard_bytes {
                engine.add_original_shard(lane.into(), shard)?;
            } else if !shard.is_empty() {
                self.padded.clear();
                self.padded.extend_from_slice(shard);
                self.padded.resize(shard_bytes, 0);
                engine.add_original_shard(lane.into(), &self.padded)?;
            }
        }
        if !past_end.is_empty() {
            self.padded.clear();
            self.padded.resize(shard_bytes, 0);
            for lane in past_end.iter() {
                engine.add_original_shard(lane.into(), &self.padded)?;
            }
        }
        let result = engine.decode()?;
        for (lane, shard) in result.restored_original_iter() {
            let lane = lane as u8;
            restored(lane, &shard[..set.shard_len(lane, stripe) as usize]);
        }
        Ok(())
    }
}

impl std::fmt::Debug for StripeDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeDecoder").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

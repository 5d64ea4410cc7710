//! Verified encodings as they arrive: one for a payload; for lanes of a set up to two, one after the other.

use super::fault::Fault;
use super::reading::Reading;
use crate::counters::Counter;
use crate::queue::{Credit, Delivery, RequestId};
use crate::shard::{Blob, Descriptor, Lanes, ShardIndex};
use crate::token::{Ranges, Token, VerifiedDecoder, VerifiedPiece, VerifyError};
use std::collections::VecDeque;

/// The bytes after PUT's or FETCH's OK on a stream.
#[derive(Debug)]
pub(super) struct Body {
    /// The current part and those after it. The last one stays when it is complete.
    parts: VecDeque<(Blob, VerifiedDecoder)>,
    /// The descriptor, for lanes: it gives each shard's place.
    sharded: Option<Box<Descriptor>>,
    /// Pieces of parts that are complete.
    ready: VecDeque<(Blob, VerifiedPiece)>,
    complete_told: bool,
}

/// A checked piece, and its shard, if lanes were requested.
struct Checked {
    shard: Option<(ShardIndex, Blob)>,
    piece: VerifiedPiece,
}

impl Body {
    /// The encoding of ranges of a payload.
    pub(super) fn payload(token: Token, length: u64, ranges: &Ranges) -> Result<Self, Fault> {
        let decoder = VerifiedDecoder::new(token, length, ranges.clone())?;
        Ok(Self::of([(Blob::Content, decoder)].into(), None))
    }

    /// The encodings of stripes of lanes.
    pub(super) fn lanes(descriptor: Box<Descriptor>, lanes: Lanes, stripes: &Ranges) -> Result<Self, Fault> {
        let mut parts = VecDeque::new();
        for part in descriptor.parts(lanes, stripes).map_err(VerifyError::from)? {
            let decoder = VerifiedDecoder::new(part.token, part.length, part.selection)?;
            parts.push_back((part.blob, decoder.with_cut(descriptor.shard_bytes())));
        }
        Ok(Self::of(parts, Some(descriptor)))
    }

    fn of(parts: VecDeque<(Blob, VerifiedDecoder)>, sharded: Option<Box<Descriptor>>) -> Self {
        Self { parts, sharded, ready: VecDeque::new(), complete_told: false }
    }

    /// Checks the next bytes of the stream.
    pub(super) fn push(&mut self, mut chunk: &[u8]) -> Result<(), Fault> {
        while !chunk.is_empty() {
            self.drop_complete();
            let Some((_, decoder)) = self.parts.front_mut() else {
                return Err(VerifyError::Excess(chunk.len()).into());
            };
            decoder.feed(&mut chunk)?;
            if decoder.is_complete() && self.parts.len() == 1 && !chunk.is_empty() {
                return Err(VerifyError::Excess(chunk.len()).into());
            }
        }
        self.drop_complete();
        Ok(())
    }

    /// Keeps a complete part's checked pieces, and begins the next part.
    fn drop_complete(&mut self) {
        while self.parts.len() > 1
            && let Some((blob, decoder)) = self.parts.front_mut()
            && decoder.is_complete()
        {
            let blob = *blob;
            self.ready.extend(std::iter::from_fn(|| decoder.poll()).map(|piece| (blob, piece)));
            self.parts.pop_front();
        }
    }

    /// Whether every byte was checked. Pieces may still wait to be polled.
    pub(super) fn is_complete(&self) -> bool {
        self.parts.iter().all(|(_, decoder)| decoder.is_complete())
    }

    /// Whether every byte was checked; true only once, for one delivery.
    pub(super) fn becomes_complete(&mut self) -> bool {
        self.is_complete() && !std::mem::replace(&mut self.complete_told, true)
    }

    /// Delivers checked pieces, and takes `pace` for their bytes if there is one.
    pub(super) fn deliver(
        &mut self,
        app: usize,
        request: RequestId,
        pace: Option<&Credit>,
        cx: &mut Reading<'_, '_>,
    ) {
        while let Some(Checked { shard, piece }) = self.poll() {
            cx.cx.counters.add(Counter::VerifiedBytes, piece.data.len() as u64);
            if let Some(pace) = pace {
                pace.take(piece.data.len());
            }
            cx.deliver(app, Delivery::Piece { request, shard, piece });
        }
    }

    /// The next checked piece.
    fn poll(&mut self) -> Option<Checked> {
        let (blob, piece) = match self.ready.pop_front() {
            Some(ready) => ready,
            None => self.parts.front_mut().and_then(|(blob, decoder)| decoder.poll().map(|p| (*blob, p)))?,
        };
        let shard = self.sharded.as_ref().map(|set| (set.shard_at(blob, piece.offset), blob));
        Some(Checked { shard, piece })
    }
}

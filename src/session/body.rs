//! Verified encodings as they arrive: one for a payload; for lanes of a set up to two, one after the other.

use super::fault::Fault;
use super::reading::Reading;
use crate::counters::Counter;
use crate::queue::{Charge, Credit, Delivery, GroupsFound, RequestId};
use crate::shard::{Blob, Descriptor, Lanes};
use crate::token::{Ranges, Token, UncheckedPiece, VerifiedDecoder, VerifiedPiece, VerifyError};
use std::collections::VecDeque;
use std::sync::Arc;

/// The bytes after PUT's or FETCH's OK on a stream.
#[derive(Debug)]
pub(super) struct Body {
    /// The current part and those after it. The last one stays when it is complete.
    parts: VecDeque<(Blob, VerifiedDecoder)>,
    /// The descriptor, for lanes: it gives each shard's place.
    sharded: Option<Box<Descriptor>>,
    /// Pieces of parts that are complete.
    ready: VecDeque<(Blob, UncheckedPiece)>,
    /// Pieces from the first one on that a verify thread checks, in their order. Their credit is taken.
    checking: VecDeque<CheckingPiece>,
    /// Their bytes.
    checking_bytes: usize,
    /// Whether verify threads may check its groups.
    defers: bool,
    complete_told: bool,
}

/// A piece that waits for its check, or for that of a piece before it.
#[derive(Debug)]
struct CheckingPiece {
    blob: Blob,
    piece: Arc<UncheckedPiece>,
    /// The number of its check; `None` once it is checked.
    check: Option<u64>,
    charge: Charge,
}

/// Where the pieces of a body go.
pub(super) struct Taker<'a> {
    pub(super) app: usize,
    pub(super) request: RequestId,
    /// The credit that is taken for their bytes, if there is one.
    pub(super) pace: Option<BodyPace<'a>>,
}

/// The credit of a body, by what gives it back.
#[derive(Clone, Copy)]
pub(super) enum BodyPace<'a> {
    /// The application, by its own account.
    Account(&'a Credit),
    /// The delivery, once it is dropped.
    Delivery(&'a Credit),
}

impl BodyPace<'_> {
    fn take(self, bytes: usize) -> Charge {
        let (Self::Account(credit) | Self::Delivery(credit)) = self;
        Charge::take(credit, bytes)
    }
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
        let (ready, checking) = (VecDeque::new(), VecDeque::new());
        Self { parts, sharded, ready, checking, checking_bytes: 0, defers: false, complete_told: false }
    }

    /// Has verify threads check its groups, where the worker has any. Called before the first byte.
    pub(super) fn checked_by(mut self, cx: &Reading<'_, '_>) -> Self {
        if cx.cx.checks.is_some() {
            self.defers = true;
            let parts = std::mem::take(&mut self.parts);
            self.parts = parts.into_iter().map(|(blob, decoder)| (blob, decoder.deferring(true))).collect();
        }
        self
    }

    /// Checks the next bytes of the stream. Returns whether its pieces must be delivered now: verify threads must have them before the end of the
    /// stream is read.
    pub(super) fn push(&mut self, mut chunk: &[u8]) -> Result<bool, Fault> {
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
        Ok(self.defers && self.has_arrived())
    }

    /// Keeps a complete part's checked pieces, and begins the next part.
    fn drop_complete(&mut self) {
        while self.parts.len() > 1
            && let Some((blob, decoder)) = self.parts.front_mut()
            && decoder.is_complete()
        {
            let blob = *blob;
            self.ready.extend(std::iter::from_fn(|| decoder.poll_unchecked()).map(|piece| (blob, piece)));
            self.parts.pop_front();
        }
    }

    /// Whether every byte has arrived: a verify thread may still check some of them.
    pub(super) fn has_arrived(&self) -> bool {
        self.parts.iter().all(|(_, decoder)| decoder.is_complete())
    }

    /// Whether every byte was checked. Pieces may still wait to be polled.
    pub(super) fn is_complete(&self) -> bool {
        self.checking.is_empty() && self.has_arrived()
    }

    /// Whether only verify threads must go on.
    #[inline]
    pub(super) fn awaits_checks(&self) -> bool {
        !self.checking.is_empty() && self.has_arrived()
    }

    /// The bytes that verify threads check, and those behind them.
    pub(super) fn checking_bytes(&self) -> usize {
        self.checking_bytes
    }

    /// Whether every byte was checked; true only once, for one delivery.
    pub(super) fn becomes_complete(&mut self) -> bool {
        self.is_complete() && !std::mem::replace(&mut self.complete_told, true)
    }

    /// Its request has ended: pieces that are not delivered never are.
    pub(super) fn abandon(&mut self) {
        self.complete_told = true;
        self.checking.clear();
        self.checking_bytes = 0;
    }

    /// Delivers checked pieces, and gives unchecked ones to verify threads.
    ///
    /// # Errors
    /// A piece that this worker checked itself does not match.
    pub(super) fn deliver(&mut self, to: &Taker<'_>, cx: &mut Reading<'_, '_>) -> Result<(), Fault> {
        if self.complete_told {
            return Ok(());
        }
        while let Some((blob, piece)) = self.poll() {
            let charge = to.pace.map_or_else(Charge::default, |pace| pace.take(piece.len_bytes()));
            if self.checking.is_empty() && piece.is_checked() {
                self.hand_on((blob, piece.into_checked(), charge), to, cx);
            } else {
                self.check((blob, piece, charge), cx)?;
            }
        }
        self.deliver_checked(to, cx);
        Ok(())
    }

    /// Has a piece checked, by this worker where no verify thread has room. It is delivered after those before it.
    fn check(
        &mut self,
        (blob, piece, charge): (Blob, UncheckedPiece, Charge),
        cx: &mut Reading<'_, '_>,
    ) -> Result<(), Fault> {
        let bytes = piece.len_bytes();
        let mut next = CheckingPiece { blob, piece: Arc::new(piece), check: None, charge };
        if !next.piece.is_checked() {
            let (now, counters, of) = (cx.cx.now, cx.cx.counters, (cx.connection, cx.stream));
            let checks = cx.cx.checks.as_deref_mut();
            next.check = checks.and_then(|checks| checks.submit(now, of, &next.piece, counters));
            if next.check.is_none()
                && let Err(wrong) = next.piece.check()
            {
                // Without this piece, the rest would look complete.
                self.abandon();
                return Err(wrong.into());
            }
        }
        self.checking.push_back(next);
        self.checking_bytes += bytes;
        Ok(())
    }

    /// Takes what came of a check. Returns false if nothing waits for it.
    ///
    /// # Errors
    /// The piece does not match.
    pub(super) fn take_found(&mut self, found: &GroupsFound) -> Result<bool, Fault> {
        let Some(piece) = self.checking.iter_mut().find(|piece| piece.check == Some(found.number)) else {
            return Ok(false);
        };
        found.found.unwrap_or_else(|| piece.piece.check())?;
        piece.check = None;
        Ok(true)
    }

    /// Delivers the pieces whose checks, and those of all pieces before them, have found them right.
    fn deliver_checked(&mut self, to: &Taker<'_>, cx: &mut Reading<'_, '_>) {
        while let Some(CheckingPiece { blob, piece, charge, .. }) =
            self.checking.pop_front_if(|piece| piece.check.is_none())
        {
            self.checking_bytes -= piece.len_bytes();
            self.hand_on((blob, Arc::unwrap_or_clone(piece).into_checked(), charge), to, cx);
        }
    }

    fn hand_on(
        &self,
        (blob, piece, mut charge): (Blob, VerifiedPiece, Charge),
        to: &Taker<'_>,
        cx: &mut Reading<'_, '_>,
    ) {
        if let Some(BodyPace::Account(_)) = to.pace {
            std::mem::take(&mut charge).leave();
        }
        cx.cx.counters.add(Counter::VerifiedBytes, piece.data.len() as u64);
        let shard = self.sharded.as_ref().map(|set| (set.shard_at(blob, piece.offset), blob));
        cx.deliver(to.app, Delivery::Piece { request: to.request, shard, piece, charge });
    }

    /// The next piece that has arrived.
    fn poll(&mut self) -> Option<(Blob, UncheckedPiece)> {
        let next = |(blob, decoder): &mut (Blob, VerifiedDecoder)| {
            decoder.poll_unchecked().map(|piece| (*blob, piece))
        };
        self.ready.pop_front().or_else(|| self.parts.front_mut().and_then(next))
    }
}

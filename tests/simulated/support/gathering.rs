//! A gathering that the test's own application hosts, and its result.

use super::caller::Peer;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Instant;
use stoq::application::Asker;
use stoq::gather::{Gather, GatherEvent, GatherSource, HolderReport, Want};
use stoq::queue::{CloseReason, ConnectionId, Delivery};
use stoq::record::ErrorCode;
use stoq::shard::{Blob, Descriptor, Lanes, StripeDecoder};
use stoq::token::AnyToken;

/// A holder without a route.
pub(crate) fn source(peer: &Peer, lanes: Option<Lanes>) -> GatherSource {
    GatherSource { connection: peer.connection, remote: None, node: peer.node, route: None, lanes }
}

/// One gathering.
pub(crate) struct Gathering {
    gather: Gather,
    pub(crate) length: Option<u64>,
    pub(crate) descriptor: Option<Descriptor>,
    /// Checked bytes of both blobs, by offset.
    content: BTreeMap<u64, Bytes>,
    parity: BTreeMap<u64, Bytes>,
    /// Lanes that are reported as complete, by stripe.
    stripes: BTreeMap<u64, Lanes>,
    pub(crate) end: Option<Result<(), ErrorCode>>,
}

impl Gathering {
    pub(crate) fn new(token: AnyToken, want: Want, sources: Vec<GatherSource>) -> Self {
        Self::of(Gather::new(token, want, sources))
    }

    pub(crate) fn of(gather: Gather) -> Self {
        Self {
            gather,
            length: None,
            descriptor: None,
            content: BTreeMap::new(),
            parity: BTreeMap::new(),
            stripes: BTreeMap::new(),
            end: None,
        }
    }

    pub(crate) fn report(&self) -> Vec<HolderReport> {
        self.gather.report()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.gather.poll_timeout()
    }

    pub(crate) fn handle(&mut self, now: Instant, delivery: Delivery) {
        self.gather.handle(now, delivery);
    }

    pub(crate) fn closed(&mut self, connection: ConnectionId, reason: &CloseReason) {
        self.gather.closed(connection, reason);
    }

    pub(crate) fn poll<T: Clone>(&mut self, now: Instant, asker: &mut Asker<'_, T>) -> bool {
        let mut worked = self.gather.poll(now, asker);
        while let Some(event) = self.gather.poll_event() {
            worked = true;
            assert!(self.end.is_none(), "{event:?} after the end");
            match event {
                GatherEvent::Described { length, descriptor } => {
                    assert_eq!(self.length.replace(length), None, "described twice");
                    self.descriptor = descriptor.map(|descriptor| *descriptor);
                }
                GatherEvent::Piece(piece) => drop(self.content.insert(piece.offset, piece.data)),
                GatherEvent::Shard { blob: Blob::Content, piece, .. } => {
                    self.content.insert(piece.offset, piece.data);
                }
                GatherEvent::Shard { blob: Blob::Parity, piece, .. } => {
                    self.parity.insert(piece.offset, piece.data);
                }
                GatherEvent::Stripes { start, count, lanes } => {
                    for stripe in start..start + count {
                        assert_eq!(self.stripes.insert(stripe, lanes), None, "stripe {stripe} came twice");
                    }
                }
                GatherEvent::Done => self.end = Some(Ok(())),
                GatherEvent::Failed(failure) => self.end = Some(Err(failure.code)),
            }
            if self.length.is_none() {
                assert!(self.content.is_empty(), "bytes arrive before the description");
            }
        }
        worked
    }

    /// The payload, if all of it has arrived.
    #[track_caller]
    pub(crate) fn payload(&self) -> Vec<u8> {
        let length = self.length.expect("a description") as usize;
        let whole = filled(&self.content, 0, length);
        assert!(self.content.keys().all(|&offset| offset as usize <= length));
        whole.expect("no gaps")
    }

    /// The payload, restored stripe by stripe from the lanes that arrived.
    #[track_caller]
    pub(crate) fn restored(&self) -> Vec<u8> {
        let set = self.descriptor.expect("a set");
        let mut decoder = StripeDecoder::new(&set);
        let mut payload = vec![0; set.length_bytes() as usize];
        let (k, shard_bytes) = (u64::from(set.k()), set.shard_bytes());
        assert_eq!(self.stripes.len() as u64, set.stripes());
        for (&stripe, lanes) in &self.stripes {
            let mut shards = Vec::new();
            for lane in lanes.iter() {
                let len = set.shard_len(lane, stripe) as usize;
                let (blob, offset) = match u64::from(lane).checked_sub(k) {
                    None => (&self.content, (stripe * k + u64::from(lane)) * shard_bytes),
                    Some(parity) => (&self.parity, (stripe * u64::from(set.m()) + parity) * shard_bytes),
                };
                shards.push((lane, filled(blob, offset, len).expect("a lane that is reported as complete")));
            }
            // Lanes past the end of the payload have no bytes.
            let mut put = |lane: u8, shard: &[u8]| {
                if shard.is_empty() {
                    return;
                }
                let start = ((stripe * k + u64::from(lane)) * shard_bytes) as usize;
                payload[start..start + shard.len()].copy_from_slice(shard);
            };
            for (lane, shard) in shards.iter().filter(|(lane, _)| u64::from(*lane) < k) {
                put(*lane, shard);
            }
            let shards = shards.iter().map(|(lane, shard)| (*lane, shard.as_slice()));
            decoder.restore(stripe, shards, put).unwrap();
        }
        payload
    }
}

/// `len` bytes from `start`, if they are all there.
fn filled(pieces: &BTreeMap<u64, Bytes>, start: u64, len: usize) -> Option<Vec<u8>> {
    let (mut whole, mut at) = (vec![0; len], start);
    let end = start + len as u64;
    let first = pieces.range(..=start).next_back().map_or(start, |(offset, _)| *offset);
    for (&offset, bytes) in pieces.range(first..) {
        let piece_end = offset + bytes.len() as u64;
        if at >= end {
            break;
        }
        if piece_end <= at {
            continue;
        }
        if offset > at {
            return None;
        }
        let until = piece_end.min(end);
        let (from, to) = ((at - start) as usize, (until - start) as usize);
        whole[from..to].copy_from_slice(&bytes[(at - offset) as usize..(until - offset) as usize]);
        at = until;
    }
    (at >= end).then_some(whole)
}

//! The payloads and the set that the runs put, and the checks of a receiver.

use crate::support::payload;
use std::sync::OnceLock;
use stoq::seed::OpenPayload;
use stoq::shard::{Blob, Coding, Descriptor};
use stoq::token::{
    EncodedPiece, Outboard, Ranges, Selection, Token, VerifiedDecoder, VerifiedEncoder, VerifiedPiece,
};

const SHARD: usize = 16 * 1024;

/// A payload, and the pieces in which a receiver gives it to the store.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) token: Token,
    pub(crate) pieces: Vec<VerifiedPiece>,
}

/// What the runs put: payloads, and a set of four data lanes and two of parity, whose blobs may be payloads too.
pub(crate) struct Samples {
    pub(crate) payloads: Vec<Sample>,
    pub(crate) descriptor: Descriptor,
}

/// The payload that is the set's content, and the one that is its parity.
pub(crate) const CONTENT: usize = 4;
pub(crate) const PARITY: usize = 5;

pub(crate) fn samples() -> &'static Samples {
    static MADE: OnceLock<Samples> = OnceLock::new();
    MADE.get_or_init(|| {
        let lengths = [0, 1, 16_385, 50_000, 6 * SHARD + 5000, 4 * SHARD, 9_000];
        let payloads: Vec<_> = lengths
            .into_iter()
            .map(|length| {
                let bytes = payload(length);
                let pieces = pieces(&bytes, &Ranges::all().into());
                Sample { token: Token::of(&bytes), bytes, pieces }
            })
            .collect();
        let (content, parity) = (&payloads[CONTENT], &payloads[PARITY]);
        // The store does not examine parity: any bytes are good.
        let coding = Coding::ReedSolomon { data_lanes: 4, parity: Some((2, parity.token)) };
        let descriptor =
            Descriptor::new(content.token, content.bytes.len() as u64, SHARD as u64, coding).unwrap();
        Samples { payloads, descriptor }
    })
}

/// The verified pieces of a selection of a payload.
pub(crate) fn pieces(data: &[u8], selection: &Selection) -> Vec<VerifiedPiece> {
    let (token, outboard) = Outboard::build(data, data.len() as u64).unwrap();
    let mut decoder = VerifiedDecoder::new(token, data.len() as u64, selection).unwrap();
    encode(
        &outboard,
        selection,
        |bytes| decoder.push(bytes).is_ok(),
        |offset, out| {
            out.copy_from_slice(&data[offset as usize..][..out.len()]);
            true
        },
    );
    assert!(decoder.is_complete());
    std::iter::from_fn(|| decoder.poll()).collect()
}

/// Gives the encoding of a selection to `push`; false if that, or `read`, fails.
fn encode(
    outboard: &Outboard,
    selection: &Selection,
    mut push: impl FnMut(&[u8]) -> bool,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> bool {
    let mut encoder = VerifiedEncoder::new(outboard.clone(), selection).unwrap();
    let mut batch = Vec::new();
    while encoder.next_batch(1 << 20, &mut batch).is_ok_and(|encoded| encoded > 0) {
        for piece in batch.drain(..) {
            let pushed = match piece {
                EncodedPiece::Proof(pairs) => push(&pairs),
                EncodedPiece::Data { offset, len } => {
                    let mut bytes = vec![0; len];
                    read(offset, &mut bytes) && push(&bytes)
                }
            };
            if !pushed {
                return false;
            }
        }
    }
    true
}

/// Whether what the store serves of a selection passes a receiver's checks.
pub(crate) fn serves(held: &OpenPayload, selection: &Selection) -> bool {
    let mut decoder = VerifiedDecoder::new(held.token(), held.length(), selection).unwrap();
    let mut pieces = 0;
    let pushed = encode(
        held.outboard(),
        selection,
        |bytes| {
            let pushed = decoder.push(bytes).is_ok();
            while decoder.poll().is_some() {
                pieces += 1;
            }
            pushed
        },
        |offset, out| held.read(offset, out).is_ok(),
    );
    pushed && decoder.is_complete()
}

/// The bytes of a blob of the set.
pub(crate) fn blob(blob: Blob) -> &'static [u8] {
    &samples().payloads[if blob == Blob::Content { CONTENT } else { PARITY }].bytes
}

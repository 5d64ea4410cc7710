//! A verified encoding at its receiver.
//!
//! Input: mode, cut length, one byte that both bounds the runs and counts the changes, the true length (3 bytes), a change
//! of the claimed length (3 bytes), then the runs (gap and length, a byte each) of groups. With bit 2 of the mode they are
//! runs of stripes, and two bytes follow: shards a stripe and groups a shard, and lanes. Then what the mode wants:
//! - bit 0 clear, "true": changes to the true encoding, 4 bytes each: where (3 bytes), and what is added there; and bit 1
//!   set: the encoding ends where the last change stands;
//! - bit 0 set, "arbitrary": the encoding itself; and bit 1 set: its first 40 bytes are the token's root and the length.
//!
//! Bit 3 of the mode ends pieces at multiples of 32 KiB.
//!
//! Held: what is delivered is what stands at that place in the payload; an encoding that is true, whole and honestly
//! described is delivered whole.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use stoq::token::{
    EncodedPiece, LaneGroups, Outboard, Ranges, Selection, Token, VerifiedDecoder, VerifiedEncoder,
};

/// Five groups and a little: a tree of three levels that is not even.
const PAYLOAD_BYTES_MAX: usize = 5 * 16_384 + 1_000;
const CUT_BYTES: u64 = 32_768;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn three_bytes(&mut self) -> usize {
        (0..3).fold(0, |value, _| value << 8 | usize::from(self.byte()))
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 14) as u8).collect()
}

fn encoded(payload: &[u8], outboard: Outboard, selection: &Selection) -> Option<Vec<u8>> {
    let mut encoder = VerifiedEncoder::new(outboard, selection).ok()?;
    let (mut out, mut pieces) = (Vec::new(), Vec::new());
    while encoder.next_batch(usize::MAX, &mut pieces).expect("the outboard is in memory") > 0 {
        for piece in pieces.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => out.extend_from_slice(&pairs),
                EncodedPiece::Data { offset, len } => {
                    out.extend_from_slice(&payload[offset as usize..][..len])
                }
            }
        }
    }
    Some(out)
}

/// Feeds a decoder; checks each piece against the payload, if there is one, and gives the bytes delivered and whether the
/// decoder says that it is complete.
fn deliver(
    mut decoder: VerifiedDecoder,
    encoding: &[u8],
    cut_len: usize,
    cut_pieces: bool,
    payload: Option<&[u8]>,
) -> (usize, bool) {
    if cut_pieces {
        decoder = decoder.with_cut(CUT_BYTES);
    }
    let mut delivered = 0;
    let mut poll = |decoder: &mut VerifiedDecoder| {
        while let Some(piece) = decoder.poll() {
            delivered += piece.data.len();
            assert!(!cut_pieces || piece.offset % CUT_BYTES + piece.data.len() as u64 <= CUT_BYTES);
            if let Some(payload) = payload {
                let there =
                    payload.get(piece.offset as usize..).and_then(|rest| rest.get(..piece.data.len()));
                assert_eq!(there, Some(&piece.data[..]), "at {}", piece.offset);
            }
        }
    };
    for (turn, chunk) in encoding.chunks(cut_len).enumerate() {
        let pushed = decoder.push(chunk);
        if turn % 3 == 0 || pushed.is_err() {
            poll(&mut decoder);
        }
        if let Err(error) = pushed {
            assert!(!decoder.is_complete());
            assert_eq!(decoder.push(chunk), Err(error), "nothing is taken after an error");
            break;
        }
    }
    poll(&mut decoder);
    (delivered, decoder.is_complete())
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mode = input.byte();
    // Short cuts find the borders; long ones keep the pace.
    let cut_len = match input.byte() {
        0 => usize::MAX,
        cut @ 1..=128 => usize::from(cut),
        cut => usize::from(cut) * 100,
    };
    let counts = input.byte();
    let length = input.three_bytes() % (PAYLOAD_BYTES_MAX + 1);
    let claimed = length as u64 ^ input.three_bytes() as u64;
    let mut ranges = Ranges::all();
    for _ in 0..counts % 4 {
        let _ = ranges.push_run(input.byte().into(), input.byte().into());
    }
    let selection = if mode & 4 == 4 {
        let (shape, lanes) = (input.byte(), input.byte());
        // Now and then out of bounds.
        match LaneGroups::new(shape & 7, lanes.into(), u64::from(shape >> 3 & 3), ranges) {
            Ok(groups) => groups.into(),
            Err(_) => return,
        }
    } else {
        Selection::from(ranges)
    };

    if mode & 3 == 3 {
        let Some((&root, rest)) = input.0.split_first_chunk::<32>() else { return };
        let Some((&length, encoding)) = rest.split_first_chunk::<8>() else { return };
        if let Ok(decoder) =
            VerifiedDecoder::new(Token::from_root(root), u64::from_be_bytes(length), &selection)
        {
            deliver(decoder, encoding, cut_len, mode & 8 == 8, None);
        }
        return;
    }

    let payload = payload(length);
    let (token, outboard) = Outboard::build(&payload[..], length as u64).expect("it has this length");
    let Some(mut encoding) = encoded(&payload, outboard, &selection) else { return };
    let Ok(decoder) = VerifiedDecoder::new(token, claimed, &selection) else { return };
    let mut honest = claimed == length as u64;
    if mode & 1 == 1 {
        honest &= input.0 == encoding;
        encoding = Bytes::copy_from_slice(input.0).into();
    } else {
        let mut last = encoding.len();
        for _ in 0..(counts >> 2) % 8 {
            let (at, change) = (input.three_bytes(), input.byte());
            if let Some(byte) = encoding.get_mut(at) {
                *byte = byte.wrapping_add(change);
                honest &= change == 0;
                last = at;
            }
        }
        if mode & 2 == 2 {
            honest &= last == encoding.len();
            encoding.truncate(last);
        }
    }
    let selected = selection.selected_bytes(claimed).expect("the decoder took them");
    let (delivered, complete) = deliver(decoder, &encoding, cut_len, mode & 8 == 8, Some(&payload));
    assert!(delivered as u64 <= selected);
    assert!(!complete || delivered as u64 == selected);
    // The changes may undo each other, so that one that is not known to be honest may still be complete.
    assert!(!honest || complete);
});

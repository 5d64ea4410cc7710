//! Tokens on one core: hash a payload into an outboard, encode it, decode it in chunks of 1,400 bytes.
//!
//! `cargo bench --bench tokens` prints GB/s (10^9 bytes of payload a second), the best of five runs over 256 MiB in memory.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use std::hint::black_box;
use std::time::Instant;
use stoq::token::{EncodedPiece, Outboard, Ranges, Token, VerifiedDecoder, VerifiedEncoder};

const PAYLOAD_BYTES: usize = 256 << 20;
const CHUNK_BYTES: usize = 1400;
const BURST_CHUNKS: usize = 64;

fn measure(name: &str, mut run: impl FnMut()) {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!("{name:<28} {:6.2} GB/s", PAYLOAD_BYTES as f64 / best.as_secs_f64() / 1e9);
}

fn encode(data: &[u8], outboard: &Outboard, mut write: impl FnMut(&[u8])) {
    let Ok(mut encoder) = VerifiedEncoder::new(outboard.clone(), Ranges::all()) else { return };
    let mut pieces = Vec::new();
    while let Ok(1..) = encoder.next_batch(256 << 10, &mut pieces) {
        for piece in pieces.drain(..) {
            match piece {
                EncodedPiece::Proof(pairs) => write(&pairs),
                EncodedPiece::Data { offset, len } => write(&data[offset as usize..][..len]),
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut data = vec![0; PAYLOAD_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    let (token, outboard) = Outboard::build(&data[..], PAYLOAD_BYTES as u64)?;
    let mut encoded = Vec::new();
    encode(&data, &outboard, |bytes| encoded.extend_from_slice(bytes));

    measure("blake3::hash (the ceiling)", || {
        black_box(Token::of(&data));
    });
    measure("Outboard::build", || {
        black_box(Outboard::build(&data[..], PAYLOAD_BYTES as u64).ok());
    });
    measure("encode, pieces only", || {
        encode(&data, &outboard, |bytes| {
            black_box(bytes);
        });
    });
    measure("decode, 1,400-byte chunks", || {
        let Ok(mut decoder) = VerifiedDecoder::new(token, PAYLOAD_BYTES as u64, Ranges::all()) else {
            return;
        };
        for burst in encoded.chunks(CHUNK_BYTES * BURST_CHUNKS) {
            for chunk in burst.chunks(CHUNK_BYTES) {
                assert!(decoder.push(chunk).is_ok());
            }
            while let Some(piece) = decoder.poll() {
                black_box(piece);
            }
        }
        assert!(decoder.is_complete());
    });
    Ok(())
}

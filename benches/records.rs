//! The record reader on one core: a stream of MESSAGE records of 64 KiB that arrives in chunks of 1,400 bytes.
//!
//! `cargo bench --bench records` prints nanoseconds a chunk, the best of five runs over 256 MiB in memory; chunks are
//! slices of one buffer, so the figure does not contain their allocation.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use bytes::Bytes;
use std::hint::black_box;
use std::time::{Duration, Instant};
use stoq::record::{MessageHeader, RecordReader};

const STREAM_BYTES: usize = 256 << 20;
const MESSAGE_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 1400;

fn read(chunks: Vec<Bytes>) -> (Duration, usize) {
    let mut reader = RecordReader::new();
    let mut messages = 0;
    let start = Instant::now();
    for chunk in chunks {
        reader.push(chunk);
        while let Ok(Some(_)) = reader.next_header()
            && let Some(mut body) = reader.take_body()
        {
            messages += usize::from(MessageHeader::take_from(&mut body).is_ok());
            black_box(body);
        }
    }
    (start.elapsed(), messages)
}

fn main() {
    let mut stream = Vec::with_capacity(STREAM_BYTES + MESSAGE_BYTES);
    while stream.len() < STREAM_BYTES {
        MessageHeader { queue: 1, token: None }.emit_record_front(MESSAGE_BYTES, &mut stream);
        stream.resize(stream.len() + MESSAGE_BYTES, 0);
    }
    let stream = Bytes::from(stream);
    let chunks: Vec<Bytes> = (0..stream.len())
        .step_by(CHUNK_BYTES)
        .map(|at| stream.slice(at..(at + CHUNK_BYTES).min(stream.len())))
        .collect();
    let best = (0..5).map(|_| read(chunks.clone())).min().unwrap_or_default();
    let (elapsed, messages) = best;
    assert_eq!(messages, STREAM_BYTES.div_ceil(MESSAGE_BYTES + 7));
    println!(
        "record reader {:6.1} ns a chunk of {CHUNK_BYTES} bytes",
        elapsed.as_nanos() as f64 / chunks.len() as f64
    );
}

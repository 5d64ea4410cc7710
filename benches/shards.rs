//! Erasure coding on one core: make parity of a payload, and turn stripes with lost data shards back.
//!
//! `cargo bench --bench shards` prints GB/s (10^9 bytes of payload a second), the best of five runs over 256 MiB in memory
//! with shards of 64 KiB. "encode" is parity alone; "encode and hash" is the work of `put`, with both tokens and outboards.
//! "decode" restores as many data shards of every stripe as there is parity for, "decode 1" a single one. The first line
//! is one run over 4 GiB from a generator and the most memory that the process had by then.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use reed_solomon_simd::ReedSolomonEncoder;
use std::hint::black_box;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use stoq::shard::{StripeDecoder, encode};

const PAYLOAD_BYTES: usize = 256 << 20;
const LARGE_BYTES: u64 = 4 << 30;
const SHARD_BYTES: usize = 64 << 10;

fn report(name: &str, bytes: u64, time: Duration) {
    println!("{name:<36} {:6.2} GB/s", bytes as f64 / time.as_secs_f64() / 1e9);
}

fn measure(name: &str, mut run: impl FnMut()) {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    report(name, PAYLOAD_BYTES as u64, best);
}

/// An endless stream of a counter's bytes.
struct Generator(u64);

impl Read for Generator {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        for word in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
        Ok(out.len())
    }
}

/// The peak memory of this process, MiB.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn run(data: &[u8], k: u8, m: u8) -> anyhow::Result<()> {
    let mut parity = Vec::with_capacity(data.len() / usize::from(k) * usize::from(m));
    let coded = encode(data, data.len() as u64, SHARD_BYTES as u64, (k, m), &mut parity)?;
    let mut engine = ReedSolomonEncoder::new(k.into(), m.into(), SHARD_BYTES)?;
    measure(&format!("{k}+{m} encode"), || {
        for stripe in data.chunks(usize::from(k) * SHARD_BYTES) {
            for shard in stripe.chunks(SHARD_BYTES) {
                assert!(engine.add_original_shard(shard).is_ok());
            }
            assert!(engine.encode().is_ok_and(|result| black_box(result.recovery(0)).is_some()));
        }
    });
    measure(&format!("{k}+{m} encode and hash"), || {
        let coded = encode(data, data.len() as u64, SHARD_BYTES as u64, (k, m), io::sink());
        assert!(black_box(coded).is_ok());
    });
    for lost in [1, m] {
        let mut decoder = StripeDecoder::new(&coded.descriptor);
        measure(&format!("{k}+{m} decode {lost}"), || {
            for stripe in 0..coded.descriptor.stripes() {
                let shard = |lane: u8| {
                    let (blob, width, at) =
                        if lane < k { (data, k, lane) } else { (&parity[..], m, lane - k) };
                    let start = (stripe as usize * usize::from(width) + usize::from(at)) * SHARD_BYTES;
                    (lane, &blob[start..start + SHARD_BYTES])
                };
                let mut restored = 0;
                let result = decoder.restore(stripe, (lost..k + lost).map(shard), |_, bytes| {
                    black_box(bytes);
                    restored += 1;
                });
                assert!(result.is_ok() && restored == lost);
            }
        });
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let start = Instant::now();
    black_box(encode(Generator(0), LARGE_BYTES, SHARD_BYTES as u64, (16, 4), io::sink())?);
    report("16+4 encode and hash, 4 GiB", LARGE_BYTES, start.elapsed());
    if let Some(peak) = peak_mib() {
        println!("{:<36} {peak:6} MiB", "    the most memory");
    }
    let mut data = vec![0; PAYLOAD_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    run(&data, 16, 4)?;
    run(&data, 32, 8)
}

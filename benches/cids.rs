//! The worker of a datagram, by its connection ID: 8 bytes under SipHash, as outside a fleet, and 17 bytes under AES-128, as in one.
//!
//! `cargo bench --bench cids` prints nanoseconds a datagram, the best of nine runs over datagrams that fit into the first cache. Each
//! datagram is looked at once the worker of the one before is known, so the figure is the time that one takes, and not a part of several.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use quinn_proto::ConnectionIdGenerator as _;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Instant;
use stoq::quic::cid::{CidKey, NodeCids, WorkerCids};
use stoq::quic::fleet::FleetRing;
use stoq::quic::fleet_settings::{CidRotation, FleetSecret, FleetSettings, RotationSalt, RotationState};
use stoq::quic::routable::ServerId;

const DATAGRAMS_LEN: usize = 256;
const ROUNDS: usize = 20_000;
const WORKERS: u16 = 16;

fn measure(name: &str, cids: &NodeCids) {
    let datagrams: Vec<[u8; 40]> = (0..DATAGRAMS_LEN as u16)
        .map(|number| {
            let id = WorkerCids::new(cids.clone(), Arc::new(AtomicU16::new(number % WORKERS))).generate_cid();
            let mut datagram = [0x40; 40];
            datagram[1..=id.len()].copy_from_slice(&id);
            datagram
        })
        .collect();
    let mut reader = cids.reader();
    let best = (0..9)
        .map(|_| {
            let (start, mut at) = (Instant::now(), 0);
            for _ in 0..ROUNDS * DATAGRAMS_LEN {
                let worker = reader.owner(black_box(&datagrams[at]), WORKERS.into());
                at = (at + 1 + usize::from(worker.unwrap_or(0) >= WORKERS)) % DATAGRAMS_LEN;
            }
            assert!(at < DATAGRAMS_LEN);
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!("{name:<34} {:6.1} ns", best.as_nanos() as f64 / (ROUNDS * DATAGRAMS_LEN) as f64);
}

fn main() -> anyhow::Result<()> {
    measure("8 bytes, SipHash-1-3", &NodeCids::Masked(CidKey::random()));
    let rotation = |number| CidRotation {
        number,
        salt: RotationSalt::random(),
        state: if number == 0 { RotationState::Issue } else { RotationState::Accept },
    };
    let settings =
        FleetSettings::new(FleetSecret::random(), ServerId([0, 4, 0xd2]), (0..2).map(rotation).collect())?;
    measure("17 bytes, AES-128, of two rotations", &NodeCids::Routable(FleetRing::new(&settings)));
    Ok(())
}

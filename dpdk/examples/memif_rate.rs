//! How many frames a second one core sends and another receives over memif, through this crate.
//!
//! `cargo run --release -p dpdk --example memif_rate [seconds]` pins the sender to core 0 and the receiver to
//! core 1. The receiver reads the first bytes of each frame; the sender writes each frame whole. Before that,
//! one core moves frames from and to a device without a wire: this shows the cost of this crate and of DPDK's
//! buffer pools.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use std::{
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use core_affinity::{CoreId, set_for_current};
use dpdk::{Eal, EalConfig, Port, PortConfig, QueuePair, TxOffload};

const BURST: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: u64 = env::args().nth(1).map_or(Ok(3), |arg| arg.parse())?;
    let eal = Arc::new(Eal::init(&EalConfig { memory_mib: 256, ..EalConfig::default() })?);
    println!(
        "no wire (net_null), core 0, 64 bytes: {:.1} ns to receive one frame and send another",
        no_wire(&eal)?
    );
    println!(
        "memif in one process, sender on core 0, receiver on core 1, bursts of {BURST}, {:?} pages",
        eal.pages()
    );
    for frame_bytes in [64, 1514] {
        let socket = env::temp_dir().join(format!("memif-rate-{}-{frame_bytes}.sock", std::process::id()));
        let open = |name, role| {
            let device =
                format!("{name},role={role},id=0,socket={},socket-abstract=no,rsize=11", socket.display());
            Port::open(&eal, &PortConfig { device, ..PortConfig::default() })
        };
        let (server, mut server_pairs) = open("net_memif0", "server")?;
        let (client, mut client_pairs) = open("net_memif1", "client")?;
        while !(server.link_up() && client.link_up()) {
            thread::yield_now();
        }
        let stop = AtomicBool::new(false);
        let received = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| send(&eal, &mut client_pairs[0], frame_bytes, &stop));
            scope.spawn(|| receive(&eal, &mut server_pairs[0], &received, &stop));
            // Past the start.
            thread::sleep(Duration::from_millis(300));
            let (from, start) = (received.load(Relaxed), Instant::now());
            thread::sleep(Duration::from_secs(seconds));
            let (frames, elapsed) = ((received.load(Relaxed) - from) as f64, start.elapsed().as_secs_f64());
            println!(
                "{frame_bytes:5} bytes: {:6.2} Mpps {:6.1} ns a frame {:6.2} Gbit/s",
                frames / elapsed / 1e6,
                elapsed / frames * 1e9,
                frames * frame_bytes as f64 * 8.0 / elapsed / 1e9
            );
            stop.store(true, Relaxed);
        });
    }
    Ok(())
}

/// Nanoseconds a frame received and a frame sent; the best of many short runs, since others may use the core.
fn no_wire(eal: &Arc<Eal>) -> Result<f64, Box<dyn Error>> {
    const FRAMES: usize = 20_000;
    let config = PortConfig { device: "net_null0,size=64".into(), ..PortConfig::default() };
    let (_port, mut pairs) = Port::open(eal, &config)?;
    let pair = &mut pairs[0];
    thread::scope(|scope| {
        let run = scope.spawn(move || {
            set_for_current(CoreId { id: 0 });
            let _registered = eal.register_thread();
            let mut best = f64::MAX;
            for _ in 0..200 {
                let (start, mut frames) = (Instant::now(), 0);
                while frames < FRAMES {
                    let batch = pair.rx.rx_burst(BURST);
                    frames += batch.len();
                    batch.for_each(|frame| {
                        pair.tx.frame(TxOffload::None, frame.data.len(), |to| to.copy_from_slice(frame.data));
                    });
                    pair.tx.flush();
                }
                best = best.min(start.elapsed().as_secs_f64() * 1e9 / frames as f64);
            }
            best
        });
        Ok(run.join().map_err(|_| "the measuring thread panicked")?)
    })
}

fn send(eal: &Arc<Eal>, pair: &mut QueuePair, frame_bytes: usize, stop: &AtomicBool) {
    set_for_current(CoreId { id: 0 });
    let _registered = eal.register_thread();
    let payload = vec![0x5a; frame_bytes];
    while !stop.load(Relaxed) {
        for _ in 0..BURST.min(pair.tx.room()) {
            pair.tx.frame(TxOffload::None, frame_bytes, |frame| frame.copy_from_slice(&payload));
        }
        pair.tx.flush();
    }
}

fn receive(eal: &Arc<Eal>, pair: &mut QueuePair, received: &AtomicU64, stop: &AtomicBool) {
    set_for_current(CoreId { id: 1 });
    let _registered = eal.register_thread();
    let (mut frames, mut sum) = (0u64, 0u64);
    while !stop.load(Relaxed) {
        pair.rx.rx_burst(BURST).for_each(|frame| {
            sum += u64::from(frame.data[0]) + u64::from(frame.data[42]);
            frames += 1;
        });
        received.store(frames, Relaxed);
    }
    assert_eq!(sum, frames * 2 * 0x5a);
}

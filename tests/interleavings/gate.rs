//! The gate between a memif queue and the interrupt thread: `dpdk/sys/gate.h` and `bar` in `dpdk/sys/memif.c`, written in Rust.
//!
//! The C code cannot be compiled against loom. Each step of the model quotes its line, and the test fails where that line is no longer in the
//! file. membarrier(2) puts a fence into the other thread wherever that is: in the model that thread has its own at the place that matters,
//! between its store and its load, where the C code keeps the compiler from reordering.

use crate::{every_order, some_order_fails};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use loom::thread;

const GATE: &str = include_str!("../../dpdk/sys/gate.h");
const MEMIF: &str = include_str!("../../dpdk/sys/memif.c");

fn quote(text: &str, line: &str) {
    assert!(text.contains(line), "the C code no longer has the line that the model is of: {line}");
}

struct Gate {
    inside: AtomicU32,
    barred: AtomicU32,
    /// Whether the memory is mapped that a burst reads.
    is_mapped: AtomicBool,
}

fn enter(gate: &Gate, has_fence: bool) -> bool {
    quote(GATE, "__atomic_store_n(&gate->inside, 1, __ATOMIC_RELAXED);");
    gate.inside.store(1, Ordering::Relaxed);
    quote(GATE, "__atomic_signal_fence(__ATOMIC_SEQ_CST);");
    if has_fence {
        fence(Ordering::SeqCst);
    }
    quote(GATE, "__atomic_load_n(&gate->barred, __ATOMIC_ACQUIRE) == 0");
    if gate.barred.load(Ordering::Acquire) == 0 {
        return true;
    }
    gate.inside.store(0, Ordering::Relaxed);
    false
}

fn leave(gate: &Gate) {
    quote(GATE, "__atomic_store_n(&gate->inside, 0, __ATOMIC_RELEASE);");
    gate.inside.store(0, Ordering::Release);
}

fn bar(gate: &Gate) {
    quote(MEMIF, "__atomic_fetch_or(&gate->barred, BARRED_BY_CALLBACK, __ATOMIC_RELAXED);");
    gate.barred.fetch_or(1, Ordering::Relaxed);
    quote(MEMIF, "syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0)");
    fence(Ordering::SeqCst);
    quote(MEMIF, "while (__atomic_load_n(&gate->inside, __ATOMIC_ACQUIRE) != 0)");
    while gate.inside.load(Ordering::Acquire) != 0 {
        thread::yield_now();
    }
}

fn unbar(gate: &Gate) {
    quote(MEMIF, "__atomic_fetch_and(&gate->barred, ~BARRED_BY_CALLBACK, __ATOMIC_RELEASE);");
    gate.barred.fetch_and(!1, Ordering::Release);
}

/// Whether a burst into the first ring may begin, which queues share.
fn share(taken: &AtomicU32) -> bool {
    quote(MEMIF, "__atomic_exchange_n(&first_rings[gate->port].taken, 1, __ATOMIC_ACQUIRE) == 0");
    taken.swap(1, Ordering::Acquire) == 0
}

fn unshare(taken: &AtomicU32) {
    quote(MEMIF, "__atomic_store_n(&first_rings[gate->port].taken, 0, __ATOMIC_RELEASE);");
    taken.store(0, Ordering::Release);
}

/// Two queues send by one ring, whose head each of them moves.
#[test]
fn queues_that_share_a_ring_are_in_it_one_at_a_time_and_wait_for_none() {
    let orders = every_order(|| {
        let (taken, head) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let send = |taken: &AtomicU32, head: &AtomicU32| {
            if !share(taken) {
                return 0;
            }
            let slot = head.load(Ordering::Relaxed);
            head.store(slot + 1, Ordering::Relaxed);
            unshare(taken);
            1
        };
        let (others, heads) = (taken.clone(), head.clone());
        let other = thread::spawn(move || send(&others, &heads) + send(&others, &heads));
        let sent = send(&taken, &head) + send(&taken, &head);
        let sent = sent + other.join().unwrap();
        assert_eq!(head.load(Ordering::Relaxed), sent, "each frame that was sent has a slot");
        assert!(sent > 0, "one of them finds the ring free");
    });
    assert!(orders > 4, "orders were tried");
}

/// A queue's thread makes bursts, while the interrupt thread unmaps the rings and maps others.
fn bursts_beside_a_callback(has_fence: bool) -> usize {
    every_order(move || {
        let (inside, barred) = (AtomicU32::new(0), AtomicU32::new(0));
        let gate = Arc::new(Gate { inside, barred, is_mapped: AtomicBool::new(true) });
        let other = gate.clone();
        let interrupts = thread::spawn(move || {
            bar(&other);
            other.is_mapped.store(false, Ordering::Relaxed);
            other.is_mapped.store(true, Ordering::Relaxed);
            unbar(&other);
        });
        for _ in 0..2 {
            if enter(&gate, has_fence) {
                assert!(gate.is_mapped.load(Ordering::Relaxed), "the burst reads what is unmapped");
                leave(&gate);
            }
        }
        interrupts.join().unwrap();
    })
}

#[test]
fn no_burst_of_a_memif_queue_is_inside_while_the_driver_unmaps_its_rings() {
    assert!(bursts_beside_a_callback(true) > 10, "orders were tried");
}

#[test]
fn without_a_barrier_a_burst_could_be_inside() {
    let test = "gate::without_a_barrier_a_burst_could_be_inside";
    some_order_fails(test, "the burst reads what is unmapped", || {
        bursts_beside_a_callback(false);
    });
}

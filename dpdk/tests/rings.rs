//! Workers that share one queue: frames change threads without a copy, and every buffer comes back.

mod common;

use std::{sync::atomic::AtomicBool, sync::atomic::Ordering::Relaxed, thread};

use common::{Link, cross, eal, in_own_process, pattern, send, wait_for};
use dpdk::{PortConfig, RING_LEN, TxOffload};

/// One queue for two workers.
fn shared() -> PortConfig {
    PortConfig { workers: 2, ..PortConfig::default() }
}

#[test]
fn a_worker_without_a_queue_receives_and_sends_by_that_of_another() {
    in_own_process("a_worker_without_a_queue_receives_and_sends_by_that_of_another", || {
        const FRAMES: usize = 20_000;
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let mut link = Link::open(&eal, folder.path(), "", &shared());
        let (mut owner, mut client) = (link.server.1.remove(0), link.client.1.remove(0));
        let buffers = owner.buffers_available();
        let (for_guest, mut inlet) = owner.rx_ring();
        let (of_guest, mut feeder) = owner.tx_ring();
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            // It sends back every frame that it is given.
            let guest = threads.spawn(|| {
                let _registered = eal.register_thread().unwrap();
                let mut echoed = 0;
                while !done.load(Relaxed) {
                    if feeder.room() < 64 {
                        thread::yield_now();
                        continue;
                    }
                    inlet.rx_burst(64).for_each(|frame| {
                        let len = frame.data.len();
                        assert!(feeder.frame(TxOffload::None, len, |to| to.copy_from_slice(frame.data)));
                        echoed += 1;
                    });
                }
                echoed
            });
            let (mut sent, mut kept, mut back) = (0, 0, 0);
            wait_for("every frame", || {
                // No more on the way than the rings hold.
                while sent < FRAMES && sent < kept + back + RING_LEN && send(&mut client, &frame(sent)) {
                    sent += 1;
                }
                client.tx.flush();
                let mut batch = owner.rx.rx_burst(64);
                for index in 0..batch.len() {
                    let received = batch.frame(index).data;
                    if received[0] % 2 == 0 {
                        assert_eq!(received, frame(2 * kept));
                        kept += 1;
                    } else {
                        assert!(batch.give(index, &for_guest), "there is room");
                        assert!(batch.frame(index).data.is_empty() && !batch.give(index, &for_guest));
                    }
                }
                drop(batch);
                owner.tx.carry(&of_guest, 32);
                owner.tx.flush();
                client.rx.rx_burst(64).for_each(|received| {
                    assert_eq!(received.data, frame(2 * back + 1));
                    back += 1;
                });
                kept + back == FRAMES
            });
            done.store(true, Relaxed);
            assert_eq!(guest.join().unwrap(), FRAMES / 2);
        });
        drop((feeder, inlet));
        let (rx, tx) = owner.buffers_available();
        // The driver has received its descriptors anew; the owner keeps a stash.
        assert!(rx == buffers.0 && tx + 64 >= buffers.1, "{rx} {tx} of {buffers:?}");
    });
}

/// A frame whose first byte tells even numbers from odd ones.
fn frame(number: usize) -> Vec<u8> {
    let mut frame = pattern(number, 64 + number % 1400);
    frame[0] = number as u8;
    frame
}

#[test]
fn full_rings_refuse_frames_and_free_them_at_their_end() {
    in_own_process("full_rings_refuse_frames_and_free_them_at_their_end", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let mut link = Link::open(&eal, folder.path(), "", &shared());
        let (mut owner, mut client) = (link.server.1.remove(0), link.client.1.remove(0));
        let buffers = owner.buffers_available();
        let (ring, inlet) = owner.rx_ring();
        let (mut given, mut refused) = (0, 0);
        wait_for("a full ring", || {
            send(&mut client, &pattern(1, 60));
            client.tx.flush();
            let mut batch = owner.rx.rx_burst(64);
            for index in 0..batch.len() {
                if batch.give(index, &ring) { given += 1 } else { refused += 1 }
            }
            refused == 10
        });
        assert_eq!(given, RING_LEN);

        let (of_guest, mut feeder) = owner.tx_ring();
        while feeder.frame(TxOffload::None, 60, |to| to.fill(7)) {}
        assert_eq!((feeder.pending(), feeder.room()), (RING_LEN, 0));
        assert_eq!(owner.tx.carry(&of_guest, 5), 5);
        assert_eq!((feeder.room(), owner.tx.pending()), (5, 5));
        assert!(!feeder.frame(TxOffload::None, 1519, |_| unreachable!("larger than the device takes")));
        assert_eq!(feeder.drop_pending(), RING_LEN - 5);
        assert_eq!(cross(&mut owner, &mut client, 5), vec![vec![7; 60]; 5]);

        // Frames that are left in rings go back to their pools.
        assert!(feeder.frame(TxOffload::None, 60, |to| to.fill(8)));
        drop((ring, inlet, of_guest, feeder));
        wait_for("the buffers", || {
            owner.rx.rx_burst(64);
            let (rx, tx) = owner.buffers_available();
            rx == buffers.0 && tx + 64 >= buffers.1
        });
    });
}

#[test]
#[should_panic(expected = "frames of another port do not fit this ring")]
fn a_ring_of_another_port_takes_no_frame() {
    let name = "a_ring_of_another_port_takes_no_frame";
    if std::env::var_os("DPDK_TEST_CHILD").is_none() {
        in_own_process(name, || unreachable!("the scenario runs in the child"));
        panic!("frames of another port do not fit this ring");
    }
    let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
    let mut link = Link::open(&eal, folder.path(), "", &shared());
    let (owner, client) = (&mut link.server.1[0], &mut link.client.1[0]);
    let (ring, _inlet) = client.rx_ring();
    wait_for("a frame", || {
        send(client, &pattern(1, 60));
        client.tx.flush();
        let mut batch = owner.rx.rx_burst(64);
        !batch.is_empty() && batch.give(0, &ring)
    });
}

#[test]
fn a_device_with_fewer_queues_gives_those_that_it_has() {
    in_own_process("a_device_with_fewer_queues_gives_those_that_it_has", || {
        let eal = eal();
        let config = PortConfig {
            device: "net_ring0".into(),
            queues: 20,
            fewer_queues: true,
            rx_descriptors: 64,
            tx_descriptors: 64,
            tx_pending_len_max: 64,
            ..PortConfig::default()
        };
        let (port, pairs) = dpdk::Port::open(&eal, &config).unwrap();
        assert_eq!((pairs.len(), port.info().queues), (16, 16), "net_ring has no more");
    });
}

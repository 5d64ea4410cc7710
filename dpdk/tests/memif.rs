//! Frames over real DPDK ports: both ends of a memif.

mod common;

use std::{process, thread};

use common::{Link, cross, eal, in_own_process, memif, pattern, receive, send, wait_for};
use dpdk::{Checksum, Port, PortConfig, TxOffload};

#[test]
fn frames_of_60_to_1500_bytes_cross_both_ways() {
    in_own_process("frames_of_60_to_1500_bytes_cross_both_ways", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let mut link = Link::open(&eal, folder.path(), "", &PortConfig::default());
        assert_eq!(link.server.0.info().driver, "net_memif");
        assert_ne!(link.server.0.info().mac, link.client.0.info().mac);
        link.both_ways(|from, to| {
            for chunk in (60..=1500).collect::<Vec<usize>>().chunks(100) {
                for &len in chunk {
                    assert!(send(from, &pattern(len, len)));
                }
                for (&len, got) in chunk.iter().zip(cross(from, to, chunk.len())) {
                    assert_eq!(got, pattern(len, len));
                }
            }
        });
        let stats = link.server.0.stats();
        assert_eq!((stats.ipackets, stats.opackets), (1441, 1441));
    });
}

#[test]
fn jumbo_frames_cross() {
    in_own_process("jumbo_frames_cross", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let config = PortConfig { mtu: 9000, ..PortConfig::default() };
        let mut link = Link::open(&eal, folder.path(), ",rsize=8", &config);
        assert_eq!(link.server.0.info().mtu, 9000);
        link.both_ways(|from, to| {
            assert_eq!(from.tx.frame_bytes_max(), 9018);
            assert!(!send(from, &[0; 9019]), "larger than the device takes");
            for len in [9000, 9014, 9018, 60] {
                assert!(send(from, &pattern(len, len)));
            }
            let got = cross(from, to, 4);
            assert_eq!(got, [9000, 9014, 9018, 60].map(|len| pattern(len, len)));
        });
    });
}

#[test]
fn a_frame_in_several_buffers_arrives_in_one_piece() {
    in_own_process("a_frame_in_several_buffers_arrives_in_one_piece", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        // Buffers of 1 KiB in the shared memory: the driver cuts the frame, and chains the received parts.
        let mut link = Link::open(&eal, folder.path(), ",bsize=1024", &PortConfig::default());
        link.both_ways(|from, to| {
            for len in [60, 1024, 1025, 1514] {
                assert!(send(from, &pattern(len, len)));
            }
            assert_eq!(cross(from, to, 4), [60, 1024, 1025, 1514].map(|len| pattern(len, len)));
        });
    });
}

#[test]
fn a_full_ring_keeps_order_and_loses_nothing() {
    in_own_process("a_full_ring_keeps_order_and_loses_nothing", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let config = PortConfig { tx_pending_len_max: 300, ..PortConfig::default() };
        let mut link = Link::open(&eal, folder.path(), ",rsize=7", &config);
        let (server, client) = (&mut link.server.1[0], &mut link.client.1[0]);
        let buffers = client.buffers_available();

        // The peer does not receive: the ring of 128 fills, then the queue of 300.
        let mut sent = 0;
        wait_for("the ring to fill", || {
            while send(client, &pattern(sent, 64 + sent % 1400)) {
                sent += 1;
            }
            client.tx.flush();
            client.tx.room() == 0
        });
        assert_eq!(client.tx.pending(), 300);
        assert!(sent > 300 && sent <= 300 + 128, "{sent}");

        let mut got = 0;
        let total = 20_000;
        wait_for("every frame", || {
            while sent < total && send(client, &pattern(sent, 64 + sent % 1400)) {
                sent += 1;
            }
            client.tx.flush();
            server.rx.rx_burst(17).for_each(|frame| {
                assert_eq!(frame.data, pattern(got, 64 + got % 1400));
                assert_eq!(frame.checksum, Checksum::Unknown);
                got += 1;
            });
            got == total
        });
        assert_eq!((client.tx.pending(), client.tx.room()), (0, 300));
        // All but the stash is back in the pool: no buffer was lost on the way.
        let (rx, tx) = client.buffers_available();
        assert!(rx == buffers.0 && tx + 64 >= buffers.1, "{rx} {tx} of {buffers:?}");
    });
}

#[test]
fn frames_that_the_peer_does_not_take_can_be_dropped() {
    in_own_process("frames_that_the_peer_does_not_take_can_be_dropped", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let device = memif(folder.path(), "server", "");
        let (port, mut pairs) = Port::open(&eal, &PortConfig { device, ..PortConfig::default() }).unwrap();
        assert!(!port.link_up() && !pairs[0].link_up(), "no client is connected");
        let buffers = pairs[0].buffers_available();
        for round in 0..5 {
            while send(&mut pairs[0], &pattern(round, 100)) {}
            assert_eq!(pairs[0].tx.flush(), 1024);
            assert_eq!(pairs[0].tx.drop_pending(), 1024);
            assert_eq!(pairs[0].tx.pending(), 0);
        }
        assert!(pairs[0].buffers_available().1 + 64 >= buffers.1);
        assert!(!pairs[0].tx.frame(TxOffload::None, 0, |_| unreachable!("an empty frame is none")));
    });
}

#[test]
fn a_fill_that_panics_loses_no_buffer() {
    in_own_process("a_fill_that_panics_loses_no_buffer", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let mut link = Link::open(&eal, folder.path(), "", &PortConfig::default());
        let (server, client) = (&mut link.server.1[0], &mut link.client.1[0]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            client.tx.frame(TxOffload::None, 60, |_| panic!("on purpose"));
        }));
        assert!(panicked.is_err() && client.tx.pending() == 0);
        assert!(send(client, &pattern(1, 60)));
        assert_eq!(cross(client, server, 1), [pattern(1, 60)]);
    });
}

#[test]
fn two_queues_work_from_two_threads() {
    in_own_process("two_queues_work_from_two_threads", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let config = PortConfig { queues: 2, ..PortConfig::default() };
        let mut link = Link::open(&eal, folder.path(), "", &config);
        assert!(link.server.0.info().rss.is_none(), "memif has none");
        let (mut servers, mut clients) = (link.server.1.drain(..), link.client.1.drain(..));
        let workers: Vec<_> = (0..2usize)
            .map(|queue| {
                let (mut server, mut client) = (servers.next().unwrap(), clients.next().unwrap());
                let eal = eal.clone();
                thread::spawn(move || {
                    let _registered = eal.register_thread().unwrap();
                    let _again = eal.register_thread().unwrap();
                    let (mut sent, mut got) = (0, 0);
                    wait_for("every frame of this queue", || {
                        while sent < 5000 && send(&mut client, &pattern(2 * sent + queue, 200)) {
                            sent += 1;
                        }
                        client.tx.flush();
                        server.rx.rx_burst(64).for_each(|frame| {
                            assert_eq!(frame.data, pattern(2 * got + queue, 200));
                            got += 1;
                        });
                        got == 5000
                    });
                })
            })
            .collect();
        // The port closes with the last queue, on any thread.
        drop((servers, clients));
        drop(link);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn frames_cross_between_two_processes() {
    const SOCKET: &str = "DPDK_TEST_FOLDER";
    let name = "frames_cross_between_two_processes";
    let config = |device| PortConfig { device, ..PortConfig::default() };
    // The client is a grandchild: the same test, with the server's folder in a variable.
    if let Some(folder) = std::env::var_os(SOCKET) {
        let device = memif(folder.as_ref(), "client", "");
        let (port, mut pairs) = Port::open(&eal(), &config(device)).unwrap();
        wait_for("the link", || port.link_up());
        for frame in receive(&mut pairs[0], 100) {
            assert!(send(&mut pairs[0], &frame));
        }
        wait_for("the echo to leave", || pairs[0].tx.flush() == 0);
        // The server closes when it has seen the echo.
        wait_for("the server", || !port.link_up());
        return;
    }
    in_own_process(name, || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let (port, mut pairs) = Port::open(&eal, &config(memif(folder.path(), "server", ""))).unwrap();
        let mut client = process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(SOCKET, folder.path())
            .spawn()
            .unwrap();
        wait_for("the link", || port.link_up());
        let frames: Vec<_> = (0..100).map(|i| pattern(i, 60 + i)).collect();
        for frame in &frames {
            assert!(send(&mut pairs[0], frame));
        }
        wait_for("frames to leave", || pairs[0].tx.flush() == 0);
        assert_eq!(receive(&mut pairs[0], 100), frames);
        drop((port, pairs));
        assert!(client.wait().unwrap().success());
    });
}

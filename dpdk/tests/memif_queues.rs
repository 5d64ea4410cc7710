//! A memif whose two sides have different numbers of queues: DPDK's driver would use the first ring twice.

mod common;

use std::{path::Path, sync::Arc, thread};

use common::{eal, in_own_process, memif, pattern, send, wait_for};
use dpdk::{Eal, Port, PortConfig, QueueMismatch, QueuePair};

const FRAMES: usize = 3000;
const FRAME_BYTES: usize = 200;

fn open(eal: &Arc<Eal>, folder: &Path, role: &str, queues: u16) -> (Port, Vec<QueuePair>) {
    let device = memif(folder, role, ",rsize=7");
    Port::open(eal, &PortConfig { device, queues, ..PortConfig::default() }).unwrap()
}

/// The frame `number` of a sender.
fn frame(sender: usize, number: usize) -> Vec<u8> {
    let mut frame = pattern(number, FRAME_BYTES);
    frame[0] = sender as u8;
    frame
}

/// Sends from a thread for each queue of `from` at once, and receives on all queues of `to`. Returns the frames that each of these received, by
/// their sender; those of a sender arrive in order.
fn crossed(from: &mut [QueuePair], to: &mut [QueuePair]) -> Vec<Vec<usize>> {
    let senders = from.len();
    let mut got = vec![vec![0; senders]; to.len()];
    thread::scope(|scope| {
        for (sender, pair) in from.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut sent = 0;
                wait_for("room", || {
                    while sent < FRAMES && send(pair, &frame(sender, sent)) {
                        sent += 1;
                    }
                    pair.tx.flush() == 0 && sent == FRAMES
                });
            });
        }
        let mut of_sender = vec![0; senders];
        wait_for("every frame", || {
            for (pair, got) in to.iter_mut().zip(&mut got) {
                pair.rx.rx_burst(64).for_each(|received| {
                    let sender = usize::from(received.data[0]);
                    assert_eq!(
                        received.data,
                        frame(sender, of_sender[sender]),
                        "frames are whole and in order"
                    );
                    of_sender[sender] += 1;
                    got[sender] += 1;
                });
            }
            of_sender.iter().all(|&frames| frames == FRAMES)
        });
    });
    got
}

#[test]
fn queues_that_the_client_lacks_send_by_the_first_ring_and_receive_nothing() {
    in_own_process("queues_that_the_client_lacks_send_by_the_first_ring_and_receive_nothing", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let (server, mut servers) = open(&eal, folder.path(), "server", 3);
        assert_eq!(server.queue_mismatch(), None, "no client is there");
        // Clients of one queue, of all, and of two: each connection has rings of its own.
        for queues in [1, 3, 2] {
            let (client, mut clients) = open(&eal, folder.path(), "client", queues);
            wait_for("the link", || server.link_up() && client.link_up());
            let fewer = (queues < 3).then_some(QueueMismatch::Fewer { shared: queues, own: 3 });
            assert_eq!((server.queue_mismatch(), client.queue_mismatch()), (fewer, None));
            let of_clients = crossed(&mut clients, &mut servers);
            for (queue, got) in of_clients.iter().enumerate() {
                for (sender, &frames) in got.iter().enumerate() {
                    assert_eq!(frames, if sender == queue { FRAMES } else { 0 }, "queue {queue} of {queues}");
                }
            }
            let of_servers = crossed(&mut servers, &mut clients);
            // A queue that the client lacks sends by the first.
            let by = |sender| if sender < usize::from(queues) { sender } else { 0 };
            for (sender, by) in (0..3).map(|sender| (sender, by(sender))) {
                assert_eq!(
                    of_servers[by][sender], FRAMES,
                    "queue {sender} of three, of {queues} at the client"
                );
            }
            drop((client, clients));
            wait_for("the server to notice", || !server.link_up());
        }
    });
}

#[test]
fn a_client_with_more_queues_than_its_server_learns_that_it_is_refused() {
    in_own_process("a_client_with_more_queues_than_its_server_learns_that_it_is_refused", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let (server, _servers) = open(&eal, folder.path(), "server", 1);
        let (client, clients) = open(&eal, folder.path(), "client", 2);
        wait_for("a refusal", || {
            assert!(!client.link_up());
            client.queue_mismatch() == Some(QueueMismatch::Refused { own: 2 })
        });
        drop((client, clients));
        let (client, _clients) = open(&eal, folder.path(), "client", 1);
        wait_for("the link", || server.link_up() && client.link_up());
        assert_eq!((server.queue_mismatch(), client.queue_mismatch()), (None, None));
    });
}

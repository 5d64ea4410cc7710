use super::*;
use crate::limits::{RX_BURST_LEN, SPREAD_RING_LEN, TX_STALL_MS_MAX};
use crate::nic::rss::{RSS_TABLE_LEN, RssKey};
use crate::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use crate::wire::ethernet::Ethernet;
use crate::wire::ip::{Addresses, Ip};
use smoltcp::wire::IpProtocol;
use std::time::Duration;

const SHARED: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn rss() -> Rss {
    Rss::new(&RssKey::known(), RSS_TABLE_LEN)
}

/// A device of `queues` queues that `workers` share, and its peer.
fn shared(queues: usize, workers: usize) -> (Vec<SpreadNic<SimulatedNic>>, SimulatedNic) {
    let link = SimulatedLink::new(LinkConfig::default());
    let device = link.add_station(SHARED, queues);
    (spread(device, workers, rss()), link.add_station(PEER, 1).remove(0))
}

/// A datagram of the flow from this port, with a number in its last byte.
fn datagram(port: u16, number: u8) -> Vec<u8> {
    let addresses = Addresses::new([10, 0, 0, 2].into(), [10, 0, 0, 1].into()).unwrap();
    let ethernet =
        Ethernet { destination: SHARED, source: PEER, vlan: None, protocol: addresses.ethernet_protocol() };
    let ip = Ip { hop_limit: 64, ..Ip::outgoing(addresses, IpProtocol::Udp) };
    let (l2, l3) = (ethernet.encoded_len(), ip.encoded_len());
    let mut frame = vec![0; l2 + l3 + 9];
    ethernet.emit(&mut frame);
    ip.emit(9, &mut frame[l2..]);
    frame[l2 + l3..l2 + l3 + 2].copy_from_slice(&port.to_be_bytes());
    frame[l2 + l3 + 8] = number;
    frame
}

fn send(nic: &mut impl Nic, frame: &[u8], now: Instant) {
    assert!(nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(frame)));
    nic.tx_flush(now);
}

fn receive(nic: &mut impl Nic, now: Instant) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    nic.rx_burst(now, |frame, _| got.push(frame.to_vec()));
    got
}

#[test]
fn each_flow_reaches_the_worker_of_its_hash_in_order() {
    for (queues, workers) in [(1, 4), (2, 4), (4, 4), (2, 3), (1, 1)] {
        let (mut workers_nics, mut peer) = shared(queues, workers);
        let now = Instant::now();
        let flows: Vec<u16> = (5000..5040).collect();
        for number in 0..3 {
            flows.iter().for_each(|&port| send(&mut peer, &datagram(port, number), now));
        }
        let mut got = vec![Vec::new(); workers];
        for _ in 0..10 {
            for (nic, got) in workers_nics.iter_mut().zip(&mut got) {
                got.extend(receive(nic, now));
            }
        }
        let counts: Vec<_> = workers_nics.iter_mut().map(Nic::take_spread).collect();
        let sum = |of: fn(&SpreadCounts) -> u64| counts.iter().map(of).sum::<u64>();
        assert_eq!((sum(|c| c.given), sum(|c| c.refused)), (sum(|c| c.taken), 0));
        for (worker, got) in got.iter().enumerate() {
            let of_worker = |port: &&u16| rss().queue(&datagram(**port, 0), workers) == Some(worker);
            for &port in flows.iter().filter(of_worker) {
                let expected: Vec<_> = (0..3).map(|number| datagram(port, number)).collect();
                let flow = got.iter().filter(|frame| frame[34..36] == port.to_be_bytes());
                assert!(flow.eq(&expected), "{queues} queues, {workers} workers, port {port}");
            }
        }
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 120);
        assert!(got.iter().all(|got| !got.is_empty()), "no worker idles");
        // The device's hash is the same: frames stay where their queue is a worker's own.
        if queues == workers {
            assert_eq!(sum(|c| c.given), 0);
        }
    }
}

#[test]
fn frames_without_a_flow_stay_where_they_arrive() {
    let (mut workers, mut peer) = shared(1, 3);
    let now = Instant::now();
    let mut arp = datagram(5000, 0);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    (0..50).for_each(|_| send(&mut peer, &arp, now));
    assert_eq!(workers[0].rx_burst(now, |_, _| ()), 50);
    assert_eq!(workers[0].take_spread(), SpreadCounts::default());
}

#[test]
fn a_worker_that_takes_nothing_loses_its_own_frames_alone() {
    let (mut workers, mut peer) = shared(1, 2);
    let now = Instant::now();
    let port_of = |worker| (5000..).find(|&port| rss().queue(&datagram(port, 0), 2) == Some(worker)).unwrap();
    let (of_first, of_second) = (port_of(0), port_of(1));
    let mut kept = 0;
    for _ in 0..SPREAD_RING_LEN + 10 {
        send(&mut peer, &datagram(of_second, 0), now);
        send(&mut peer, &datagram(of_first, 0), now);
        kept += receive(&mut workers[0], now).len();
    }
    assert_eq!(kept, SPREAD_RING_LEN + 10);
    let counts = workers[0].take_spread();
    assert_eq!((counts.given, counts.refused, counts.taken), (SPREAD_RING_LEN as u64, 10, 0));
    assert_eq!(receive(&mut workers[1], now).len(), RX_BURST_LEN, "bursts are bounded");
}

#[test]
fn workers_take_turns_at_a_queue_and_none_is_kept_out() {
    let (mut workers, mut peer) = shared(1, 3);
    let now = Instant::now();
    // The first polls the queue, and has more to send than the others.
    for (nic, frames) in workers.iter_mut().zip([600, 40, 40]) {
        for _ in 0..frames {
            let mut frame = datagram(5000, nic.worker as u8);
            frame[..6].copy_from_slice(&PEER);
            assert!(nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(&frame)));
        }
        assert_eq!(nic.tx_room(), SPREAD_RING_LEN - frames);
    }
    assert_eq!(workers[1].tx_flush(now), 40, "nothing has taken them yet");
    assert_eq!(workers[0].tx_flush(now), 0);
    assert_eq!(workers[1].tx_flush(now), 0);
    let order: Vec<_> = std::iter::from_fn(|| Some(receive(&mut peer, now)).filter(|got| !got.is_empty()))
        .flatten()
        .map(|frame| frame[42])
        .collect();
    assert_eq!(order.len(), 680);
    let last_of_others = order.iter().rposition(|&worker| worker != 0).unwrap();
    assert!(last_of_others < 3 * 48, "{last_of_others}: three turns of 16 frames each");
    assert_eq!(workers[0].take_spread().carried, 680);
}

#[test]
fn frames_that_no_queue_takes_are_dropped_and_counted() {
    let (mut workers, _peer) = shared(1, 2);
    let start = Instant::now();
    let guest = &mut workers[1];
    (0..5).for_each(|_| assert!(guest.tx_frame(TxKind::Plain, 60, |out| out.fill(0))));
    assert_eq!((guest.tx_flush(start), guest.take_drops()), (5, 0));
    let bound = Duration::from_millis(TX_STALL_MS_MAX);
    assert_eq!((guest.tx_flush(start + bound), guest.take_drops()), (0, 5));
    assert_eq!(guest.tx_room(), SPREAD_RING_LEN);
}

#[test]
fn a_queue_whose_worker_has_ended_is_taken_over() {
    let (mut workers, mut peer) = shared(2, 4);
    let now = Instant::now();
    let port = (5000..).find(|&port| rss().queue(&datagram(port, 0), 4) == Some(2)).unwrap();
    // Worker 2 sends and receives by the queue of worker 0.
    drop(workers.remove(0));
    let worker = &mut workers[1];
    assert_eq!((worker.worker, worker.link_up()), (2, true));
    let mut frame = datagram(5000, 7);
    frame[..6].copy_from_slice(&PEER);
    send(worker, &frame, now);
    assert_eq!(receive(&mut peer, now), [frame]);
    send(&mut peer, &datagram(port, 9), now);
    assert_eq!(receive(&mut workers[1], now), [datagram(port, 9)]);
    // What is of a worker that has ended is lost under a counter once its ring is full.
    let gone = (5000..).find(|&port| rss().queue(&datagram(port, 0), 4) == Some(0)).unwrap();
    for _ in 0..SPREAD_RING_LEN + 3 {
        send(&mut peer, &datagram(gone, 0), now);
        assert!(receive(&mut workers[1], now).is_empty());
    }
    assert_eq!(workers[1].take_spread().refused, 3);
}

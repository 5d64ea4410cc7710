//! The cost of the checksum, of building a datagram and of parsing one, in nanoseconds, on a device that does nothing.
//!
//! `cargo run --release -p stoq --example wire_cost`. Payloads of 1472 bytes, batches of 64, 256 packet buffers. One core; a
//! median of 31 rounds. Compare within one run only.

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use quinn_proto::{EcnCodepoint, Transmit};
use std::hint::black_box;
use std::time::Instant;
use stoq::counters::Counters;
use stoq::datagram::user_space::{InterfaceConfig, UserSpace};
use stoq::datagram::{Network, NetworkKind};
use stoq::nic::{Nic, NicInfo, RxChecksum, TxKind};
use stoq::wire::ChecksumBy;
use stoq::wire::arp::Arp;
use stoq::wire::checksum::Sum;
use stoq::wire::ethernet::{BROADCAST, Ethernet};
use stoq::wire::ip::Addresses;
use stoq::wire::udp::{Udp, UdpTemplate};

const PAYLOAD_BYTES: usize = 1472;
const BATCH_LEN: usize = 64;
const BUFFERS_LEN: usize = 256;
const ROUNDS: usize = 31;
const BATCHES_A_ROUND: usize = 500;
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A device that takes every frame, and receives the same frames again and again.
struct NullNic {
    info: NicInfo,
    buffers: Vec<[u8; 2048]>,
    next: usize,
    rx: Vec<Vec<u8>>,
    rx_checksum: RxChecksum,
}

impl NullNic {
    fn new(tx_checksum: bool, rx: Vec<Vec<u8>>, rx_checksum: RxChecksum) -> Self {
        let info = NicInfo {
            device: "null".to_owned(),
            driver: "null".to_owned(),
            mtu: 1500,
            mac: OURS,
            tx_checksum,
            rx_checksum: rx_checksum == RxChecksum::Good,
        };
        Self { info, buffers: vec![[0; 2048]; BUFFERS_LEN], next: 0, rx, rx_checksum }
    }
}

impl Nic for NullNic {
    fn rx_burst(&mut self, _now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let count = self.rx.len().min(BATCH_LEN);
        for i in 0..count {
            frame(&self.rx[(self.next + i) % self.rx.len()], self.rx_checksum);
        }
        self.next = (self.next + count) % self.rx.len().max(1);
        count
    }

    fn tx_room(&self) -> usize {
        1024
    }

    fn tx_frame(&mut self, kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        self.next = (self.next + 1) % BUFFERS_LEN;
        fill(&mut self.buffers[self.next][..len]);
        black_box(kind);
        true
    }

    fn tx_flush(&mut self, _now: Instant) -> usize {
        0
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        true
    }
}

fn median(mut round: impl FnMut() -> u64) -> f64 {
    let mut figures: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let operations = round();
            start.elapsed().as_nanos() as f64 / operations as f64
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    figures[ROUNDS / 2]
}

fn network(nic: NullNic) -> UserSpace<NullNic> {
    let config = InterfaceConfig {
        addresses: vec!["10.77.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        next_hop_v4: None,
        next_hop_v6: None,
        vlan: None,
        udp_port: 4433,
        udp_checksum: true,
    };
    UserSpace::new(nic, &config, NetworkKind::Simulated).unwrap()
}

fn arp_reply() -> Vec<u8> {
    let arp = Arp {
        reply: true,
        source_mac: THEIRS,
        source: [10, 77, 0, 2].into(),
        target_mac: OURS,
        target: [10, 77, 0, 1].into(),
    };
    let ethernet = Ethernet {
        destination: BROADCAST,
        source: THEIRS,
        vlan: None,
        protocol: smoltcp::wire::EthernetProtocol::Arp,
    };
    let mut frame = vec![0; 60];
    ethernet.emit(&mut frame);
    arp.emit(&mut frame[14..]);
    frame
}

fn send_cost(tx_checksum: bool, peers: u16) -> f64 {
    let counters = Counters::default();
    let now = Instant::now();
    let mut network = network(NullNic::new(tx_checksum, vec![arp_reply()], RxChecksum::Unknown));
    let contents = vec![0x5a; PAYLOAD_BYTES * BATCH_LEN];
    let transmit = |peer: u16| Transmit {
        destination: format!("10.77.0.2:{}", 4433 + peer).parse().unwrap(),
        ecn: Some(EcnCodepoint::Ect0),
        size: contents.len(),
        segment_size: Some(PAYLOAD_BYTES),
        src_ip: None,
    };
    let transmits: Vec<_> = (0..peers).map(transmit).collect();
    network.send(now, &counters, &transmits[0], &contents);
    network.receive(now, &counters, |_| {});
    // With many peers, each batch is one datagram: every packet pays for the look-up.
    let batch = if peers == 1 { &contents[..] } else { &contents[..PAYLOAD_BYTES] };
    median(|| {
        for i in 0..BATCHES_A_ROUND * BATCH_LEN * PAYLOAD_BYTES / batch.len() {
            network.send(now, &counters, &transmits[i % transmits.len()], black_box(batch));
        }
        (BATCHES_A_ROUND * BATCH_LEN) as u64
    })
}

fn receive_cost(rx_checksum: RxChecksum, v6: bool) -> f64 {
    let addresses = if v6 {
        Addresses::V6 { source: "fd00::2".parse().unwrap(), destination: "fd00::1".parse().unwrap() }
    } else {
        Addresses::V4 { source: [10, 77, 0, 2].into(), destination: [10, 77, 0, 1].into() }
    };
    let ports = Udp { source_port: 9, destination_port: 4433 };
    let template = UdpTemplate::new(THEIRS, OURS, None, addresses, ports);
    let mut frame = vec![0; template.header_len() + PAYLOAD_BYTES];
    template.emit(2, &[0x5a; PAYLOAD_BYTES], ChecksumBy::Software, &mut frame);
    let counters = Counters::default();
    let now = Instant::now();
    let mut network = network(NullNic::new(false, vec![frame; BUFFERS_LEN], rx_checksum));
    median(|| {
        let mut taken = 0;
        for _ in 0..BATCHES_A_ROUND {
            let count = network.receive(now, &counters, |datagram| {
                black_box(datagram);
            });
            taken += count as u64;
        }
        taken
    })
}

fn main() {
    let payload = vec![0x5a; PAYLOAD_BYTES];
    let mut copy = vec![0; PAYLOAD_BYTES];
    let rounds = (BATCHES_A_ROUND * BATCH_LEN) as u64;
    let checksum = median(|| {
        for _ in 0..rounds {
            black_box(Sum::default().bytes(black_box(&payload)).fold());
        }
        rounds
    });
    let copying = median(|| {
        for _ in 0..rounds {
            black_box(&mut copy).copy_from_slice(black_box(&payload));
        }
        rounds
    });
    println!("checksum of {PAYLOAD_BYTES} bytes, warm        {checksum:6.1} ns");
    println!("memcpy of {PAYLOAD_BYTES} bytes, warm          {copying:6.1} ns");
    println!("send, checksums by the device         {:6.1} ns a packet", send_cost(true, 1));
    println!("send, checksums in software           {:6.1} ns a packet", send_cost(false, 1));
    println!("send to 1000 peers in turn, by device {:6.1} ns a packet", send_cost(true, 1000));
    println!(
        "receive IPv4, checked by the device   {:6.1} ns a packet",
        receive_cost(RxChecksum::Good, false)
    );
    println!(
        "receive IPv4, checked in software     {:6.1} ns a packet",
        receive_cost(RxChecksum::Unknown, false)
    );
    println!(
        "receive IPv6, checked by the device   {:6.1} ns a packet",
        receive_cost(RxChecksum::Good, true)
    );
    println!(
        "receive IPv6, checked in software     {:6.1} ns a packet",
        receive_cost(RxChecksum::Unknown, true)
    );
}
